//! What a document asks of a backend, compared with what backends enforce.

use crate::{
    descriptor::{BackendDescriptor, Feature, Support},
    document::{ExecutionCellDocument, SecretDeliveryMode},
    source::{Problem, ProblemCode},
};

/// Something that a document asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// What has to be enforced.
    pub feature: Feature,
    /// The field that asks for it.
    pub path: String,
}

/// Everything a document asks for, in the document's order.
#[must_use]
pub fn requirements(document: &ExecutionCellDocument) -> Vec<Requirement> {
    let spec = &document.spec;
    let authority = &spec.authority;
    let run = spec.run.as_ref();
    let limits = run.and_then(|run| run.limits.as_ref());
    let export = spec.export.as_ref();
    let ingress = spec.ingress.as_ref();
    let mounts = authority
        .filesystem
        .as_ref()
        .is_some_and(|it| !it.mounts.is_empty());
    let rules = authority
        .egress_rules
        .as_ref()
        .is_some_and(|it| !it.is_empty());
    let secrets = authority
        .secret_refs
        .as_ref()
        .is_some_and(|it| !it.is_empty());
    let delivery = match run.map(|run| run.secret_delivery) {
        Some(SecretDeliveryMode::Env) => Feature::SecretsInEnvironment,
        _ => Feature::SecretsAtRuntime,
    };
    [
        (
            ingress.is_some_and(|it| it.git.is_some()),
            Feature::Ingress,
            "spec.ingress.git",
        ),
        (
            ingress.is_some_and(|it| it.oci_image.is_some()),
            Feature::Ingress,
            "spec.ingress.ociImage",
        ),
        (
            spec.environment.is_some(),
            Feature::Image,
            "spec.environment",
        ),
        (spec.identity.is_some(), Feature::Identity, "spec.identity"),
        (
            limits.is_some_and(|it| it.memory_max_bytes.is_some()),
            Feature::Memory,
            "spec.run.limits.memoryMaxBytes",
        ),
        (
            limits.is_some_and(|it| it.cpu_max.is_some()),
            Feature::Cpu,
            "spec.run.limits.cpuMax",
        ),
        (
            limits.is_some_and(|it| it.pids_max.is_some()),
            Feature::Pids,
            "spec.run.limits.pidsMax",
        ),
        // A cell that runs nothing hands nothing over.
        (
            run.is_some() && secrets,
            delivery,
            "spec.run.secretDelivery",
        ),
        (
            run.is_some_and(|run| run.user.is_some()),
            Feature::User,
            "spec.run.user",
        ),
        (mounts, Feature::Mounts, "spec.authority.filesystem.mounts"),
        (rules, Feature::Egress, "spec.authority.egressRules"),
        (
            authority.dns_authority.is_some(),
            Feature::Egress,
            "spec.authority.dnsAuthority",
        ),
        (
            authority.cdn_authority.is_some(),
            Feature::Egress,
            "spec.authority.cdnAuthority",
        ),
        (
            export
                .and_then(|it| it.artifacts.as_ref())
                .is_some_and(|it| !it.is_empty()),
            Feature::Artifacts,
            "spec.export.artifacts",
        ),
        (
            export
                .and_then(|it| it.targets.as_ref())
                .is_some_and(|it| !it.is_empty()),
            Feature::ExportTargets,
            "spec.export.targets",
        ),
        (
            spec.telemetry.is_some(),
            Feature::Telemetry,
            "spec.telemetry",
        ),
    ]
    .into_iter()
    .filter(|(asked, _, _)| *asked)
    .map(|(_, feature, path)| Requirement {
        feature,
        path: path.to_owned(),
    })
    .collect()
}

/// Everything a document asks for that the chosen backend does not enforce, each with what is missing
/// and which other backend of `all` could.
#[must_use]
pub fn check_backend(
    document: &ExecutionCellDocument,
    chosen: &BackendDescriptor,
    all: &[BackendDescriptor],
) -> Vec<Problem> {
    requirements(document)
        .into_iter()
        .filter(|requirement| !chosen.has(requirement.feature))
        .map(|Requirement { feature, path }| {
            let others: Vec<&str> = all
                .iter()
                .filter(|other| other.name != chosen.name && other.has(feature))
                .map(|other| other.name.as_ref())
                .collect();
            let other = if others.is_empty() {
                "no backend of this build can on this host".to_owned()
            } else {
                format!("a backend that can: {}", others.join(", "))
            };
            let (message, hint) = match chosen.features.get(&feature) {
                Some(Support::Unavailable { why, mend }) => (
                    format!(
                        "backend `{}` cannot give {feature} on this host: {why}",
                        chosen.name
                    ),
                    format!("{mend}; {other}"),
                ),
                _ => (
                    format!("backend `{}` does not enforce {feature}", chosen.name),
                    other,
                ),
            };
            Problem::error(ProblemCode::BackendLacksFeature, path, message, Some(hint))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::testing::document, *};
    use serde_json::{Value, json};

    fn asked(spec: Value) -> Vec<(Feature, String)> {
        requirements(&document(spec))
            .into_iter()
            .map(|it| (it.feature, it.path))
            .collect()
    }

    #[test]
    fn each_field_asks_for_its_feature() {
        let run = |changes: Value| {
            let mut run = json!({"argv": ["a"]});
            for (name, value) in changes.as_object().expect("an object") {
                run[name] = value.clone();
            }
            run
        };
        for (spec, feature, path) in [
            (
                json!({"ingress": {"git": {}}}),
                Feature::Ingress,
                "spec.ingress.git",
            ),
            (
                json!({"ingress": {"ociImage": {"reference": "r"}}}),
                Feature::Ingress,
                "spec.ingress.ociImage",
            ),
            (
                json!({"environment": {"imageReference": "r"}}),
                Feature::Image,
                "spec.environment",
            ),
            (
                json!({"identity": {"kind": "federatedOidc", "provider": "", "audience": "", "secretRef": "S"}}),
                Feature::Identity,
                "spec.identity",
            ),
            (
                json!({"run": run(json!({"limits": {"memoryMaxBytes": 1}}))}),
                Feature::Memory,
                "spec.run.limits.memoryMaxBytes",
            ),
            (
                json!({"run": run(json!({"limits": {"cpuMax": {"quotaMicros": 1}}}))}),
                Feature::Cpu,
                "spec.run.limits.cpuMax",
            ),
            (
                json!({"run": run(json!({"limits": {"pidsMax": 1}}))}),
                Feature::Pids,
                "spec.run.limits.pidsMax",
            ),
            (
                json!({"run": run(json!({"user": {"uid": 1, "gid": 1}}))}),
                Feature::User,
                "spec.run.user",
            ),
            (
                json!({"authority": {"filesystem": {"mounts": [{"source": "/a", "target": "/b", "access": "ro"}]}}}),
                Feature::Mounts,
                "spec.authority.filesystem.mounts",
            ),
            (
                json!({"authority": {"egressRules": [{"host": "a", "port": 1}]}}),
                Feature::Egress,
                "spec.authority.egressRules",
            ),
            (
                json!({"authority": {"dnsAuthority": {}}}),
                Feature::Egress,
                "spec.authority.dnsAuthority",
            ),
            (
                json!({"authority": {"cdnAuthority": {}}}),
                Feature::Egress,
                "spec.authority.cdnAuthority",
            ),
            (
                json!({"export": {"artifacts": [{"name": "a", "path": "a"}]}}),
                Feature::Artifacts,
                "spec.export.artifacts",
            ),
            (
                json!({"export": {"targets": [{"kind": "s3", "name": "a", "bucket": "b"}]}}),
                Feature::ExportTargets,
                "spec.export.targets",
            ),
            (
                json!({"telemetry": {"channel": "vsock-cbor", "events": ["a"], "agentVersion": "1.0.0"}}),
                Feature::Telemetry,
                "spec.telemetry",
            ),
        ] {
            assert_eq!(asked(spec), [(feature, path.to_owned())]);
        }
    }

    #[test]
    fn empty_lists_ask_for_nothing() {
        assert_eq!(
            asked(
                json!({"authority": {"egressRules": [], "secretRefs": [], "filesystem": {}},
                "export": {"artifacts": [], "targets": []}, "run": {"argv": ["a"], "limits": {}}})
            ),
            []
        );
    }

    #[test]
    fn secrets_ask_by_their_delivery_and_only_when_something_runs() {
        let spec = |run: Value| json!({"authority": {"secretRefs": ["S"]}, "run": run});
        let path = "spec.run.secretDelivery".to_owned();
        assert_eq!(asked(spec(json!(null))), []);
        assert_eq!(
            asked(spec(json!({"argv": ["a"], "secretDelivery": "env"}))),
            [(Feature::SecretsInEnvironment, path.clone())]
        );
        assert_eq!(
            asked(spec(json!({"argv": ["a"]}))),
            [(Feature::SecretsAtRuntime, path)]
        );
    }

    #[test]
    fn a_refusal_names_field_backend_reason_mend_and_another_backend() {
        let document = document(
            json!({"run": {"argv": ["a"], "limits": {"memoryMaxBytes": 1_048_576, "pidsMax": 1}}}),
        );
        let stub = BackendDescriptor::nothing("stub", "nothing");
        let poor = BackendDescriptor::nothing("linux", "namespaces")
            .enforces(Feature::Pids, "cgroup v2 pids")
            .lacks(Feature::Memory, "no memory controller", "enable delegation");
        let vm =
            BackendDescriptor::nothing("microvm", "guests").enforces(Feature::Memory, "guest RAM");
        let texts = |chosen: &BackendDescriptor, all: &[BackendDescriptor]| -> Vec<String> {
            check_backend(&document, chosen, all)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(
            texts(&poor, &[stub.clone(), poor.clone(), vm]),
            [
                "spec.run.limits.memoryMaxBytes: backend `linux` cannot give memory limits on this host: \
              no memory controller (enable delegation; a backend that can: microvm)"
            ]
        );
        assert_eq!(
            texts(&stub, &[stub.clone(), poor]),
            [
                "spec.run.limits.memoryMaxBytes: backend `stub` does not enforce memory limits \
                 (no backend of this build can on this host)",
                "spec.run.limits.pidsMax: backend `stub` does not enforce process limits \
                 (a backend that can: linux)",
            ]
        );
    }
}
