//! `spec.export`.

use std::collections::HashSet;

use url::{Host, Url};

use super::{EgressHost, declared_secret, filesystem, portable_id, report::Report, shown};
use crate::{
    document::{ExecutionCellSpec, ExportArtifact, ExportTarget},
    source::ProblemCode,
};

pub(super) fn check(spec: &ExecutionCellSpec, report: &mut Report) {
    let Some(export) = &spec.export else { return };
    let targets = export.targets.as_deref().unwrap_or_default();
    let mut names = HashSet::new();
    for (index, target) in targets.iter().enumerate() {
        let path = format!("spec.export.targets[{index}]");
        let (ExportTarget::Http {
            name, secret_ref, ..
        }
        | ExportTarget::S3 {
            name, secret_ref, ..
        }) = target;
        portable_id(&format!("{path}.name"), name, report);
        if !names.insert(name.as_str()) {
            let message = format!("duplicates value `{}`", shown(name));
            report.refuse(ProblemCode::Duplicate, format!("{path}.name"), message);
        }
        if let Some(secret) = secret_ref {
            let declared = spec.authority.secret_refs.as_ref();
            declared_secret(&format!("{path}.secretRef"), secret, declared, report);
        }
        match target {
            ExportTarget::Http { base_url, .. } => {
                check_base_url(spec, &format!("{path}.baseUrl"), base_url, report);
            }
            ExportTarget::S3 { bucket, .. } if bucket.is_empty() => {
                report.refuse(ProblemCode::Empty, format!("{path}.bucket"), "is empty");
            }
            ExportTarget::S3 { .. } => {}
        }
    }
    let mut artifacts = HashSet::new();
    for (index, artifact) in export.artifacts.iter().flatten().enumerate() {
        let path = format!("spec.export.artifacts[{index}]");
        check_artifact(&path, artifact, &names, targets.len(), report);
        if !artifacts.insert(artifact.name.as_str()) {
            report.refuse_with(
                ProblemCode::Duplicate,
                format!("{path}.name"),
                format!("duplicates value `{}`", shown(&artifact.name)),
                "the second would overwrite the first at the sink",
            );
        }
    }
}

fn check_artifact(
    path: &str,
    artifact: &ExportArtifact,
    names: &HashSet<&str>,
    targets: usize,
    report: &mut Report,
) {
    portable_id(&format!("{path}.name"), &artifact.name, report);
    let fault = if artifact.path.is_empty() {
        Some("is empty")
    } else {
        filesystem::path_fault(&artifact.path)
    };
    if let Some(fault) = fault {
        let mend = "write a path beneath the working folder, or an absolute one inside the cell";
        report.refuse_with(
            ProblemCode::InvalidPath,
            format!("{path}.path"),
            fault,
            mend,
        );
    }
    match artifact.target.as_deref() {
        Some(target) if !super::is_portable_id(target) => {
            portable_id(&format!("{path}.target"), target, report);
        }
        Some(target) if !names.contains(target) => {
            let message = format!("`{}` is not a declared target", shown(target));
            let mend = "declare it in spec.export.targets";
            report.refuse_with(
                ProblemCode::TargetNotDeclared,
                format!("{path}.target"),
                message,
                mend,
            );
        }
        None if targets > 1 => {
            let message = "is needed, since there is more than one target";
            report.refuse(
                ProblemCode::TargetNotDeclared,
                format!("{path}.target"),
                message,
            );
        }
        _ => {}
    }
}

/// An absolute `http` or `https` address that egress rules, where there are any, allow.
fn check_base_url(spec: &ExecutionCellSpec, path: &str, text: &str, report: &mut Report) {
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => url,
        _ => {
            let message = "is not an absolute http or https address";
            report.refuse(ProblemCode::InvalidUrl, path, message);
            return;
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        report.refuse_with(
            ProblemCode::CredentialsInUrl,
            path,
            "carries credentials, which would end up in events",
            "name a secret in secretRef",
        );
    }
    for (part, present) in [
        ("a query", url.query().is_some()),
        ("a fragment", url.fragment().is_some()),
    ] {
        if present {
            let message = format!("has {part}, which the artifact's name would be put behind");
            report.refuse(ProblemCode::InvalidUrl, path, message);
        }
    }
    let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
        report.refuse(ProblemCode::InvalidUrl, path, "names no host");
        return;
    };
    let rules = spec.authority.egress_rules.as_deref().unwrap_or_default();
    let host = match host {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    };
    let allowed = rules.iter().any(|rule| {
        rule.port == port
            && rule
                .host
                .parse::<EgressHost>()
                .is_ok_and(|rule| rule.matches(&host))
    });
    if !rules.is_empty() && !allowed {
        report.refuse_with(
            ProblemCode::EgressNotDeclared,
            path,
            format!("no egress rule allows `{}` port {port}", shown(&host)),
            "add the rule to spec.authority.egressRules",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use serde_json::{Value, json};

    fn http(url: &str, authority: Value) -> Value {
        json!({"authority": authority, "export": {"targets": [{"kind": "http", "name": "h", "baseUrl": url}]}})
    }

    fn artifacts(artifacts: Value) -> Value {
        json!({"export": {"artifacts": artifacts}})
    }

    #[test]
    fn base_urls() {
        for good in [
            "https://e.com/x",
            "http://e.com",
            "https://[::1]:8080/",
            "http://10.0.0.1/",
        ] {
            admitted(http(good, json!({})));
            admitted(http(good, json!({"egressRules": []})));
        }
        let path = "spec.export.targets[0].baseUrl";
        for bad in [
            "",
            "/x",
            "e.com",
            "ftp://e.com/",
            "https://",
            "https://e.com/?",
            "https://e.com/?q=1",
            "https://e.com/#f",
        ] {
            refused(http(bad, json!({})), path, ProblemCode::InvalidUrl);
        }
        for bad in ["https://u:p@e.com/", "https://u@e.com/"] {
            refused(http(bad, json!({})), path, ProblemCode::CredentialsInUrl);
        }
    }

    #[test]
    fn egress_rules_bind_targets_when_there_are_any() {
        let rule = |host: &str, port: u16| json!({"egressRules": [{"host": host, "port": port}]});
        for (url, host, port) in [
            ("https://e.com/x", "E.com", 443),
            ("http://e.com/x", "e.com", 80),
            ("https://a.e.com/x", "*.e.com", 443),
            ("http://[::1]:8080/", "[::1]", 8080),
            ("http://[::1]:8080/", "::1", 8080),
            ("http://10.1.2.3/", "10.0.0.0/8", 80),
            ("https://e.com/x", "*", 443),
        ] {
            admitted(http(url, rule(host, port)));
        }
        let path = "spec.export.targets[0].baseUrl";
        for (url, host, port) in [
            ("https://e.com/x", "o.com", 443),
            ("https://e.com/x", "e.com", 80),
            ("https://e.com/x", "*.e.com", 443),
        ] {
            refused(
                http(url, rule(host, port)),
                path,
                ProblemCode::EgressNotDeclared,
            );
        }
    }

    #[test]
    fn targets() {
        let s3 = |name: &str, bucket: &str, secret: Value| json!({"kind": "s3", "name": name, "bucket": bucket, "secretRef": secret});
        let spec = |targets: Value| json!({"authority": {"secretRefs": ["S"]}, "export": {"targets": targets}});
        admitted(spec(json!([
            s3("a", "b", json!("S")),
            s3("b", "b", json!(null))
        ])));
        for (targets, path, code) in [
            (
                json!([s3("a", "", json!(null))]),
                "spec.export.targets[0].bucket",
                ProblemCode::Empty,
            ),
            (
                json!([s3("", "b", json!(null))]),
                "spec.export.targets[0].name",
                ProblemCode::InvalidName,
            ),
            (
                json!([s3("a", "b", json!(null)), s3("a", "b", json!(null))]),
                "spec.export.targets[1].name",
                ProblemCode::Duplicate,
            ),
            (
                json!([s3("a", "b", json!("T"))]),
                "spec.export.targets[0].secretRef",
                ProblemCode::SecretNotDeclared,
            ),
        ] {
            refused(spec(targets), path, code);
        }
    }

    #[test]
    fn artifacts_stay_inside_and_are_named_once() {
        for good in ["a", "/job/x", "a/b", "..a"] {
            admitted(artifacts(json!([{"name": "n", "path": good}])));
        }
        for bad in ["", "..", "../../etc/passwd", "/a/../b", "a/..", "a\0"] {
            let path = "spec.export.artifacts[0].path";
            refused(
                artifacts(json!([{"name": "n", "path": bad}])),
                path,
                ProblemCode::InvalidPath,
            );
        }
        refused(
            artifacts(json!([{"name": "n", "path": "a"}, {"name": "n", "path": "b"}])),
            "spec.export.artifacts[1].name",
            ProblemCode::Duplicate,
        );
        let path = "spec.export.artifacts[0].name";
        refused(
            artifacts(json!([{"name": "", "path": "a"}])),
            path,
            ProblemCode::InvalidName,
        );
    }

    #[test]
    fn artifacts_choose_among_targets() {
        let target = |name: &str| json!({"kind": "s3", "name": name, "bucket": "b"});
        let spec = |targets: Value, chosen: Value| json!({"export": {"targets": targets, "artifacts": [{"name": "n", "path": "a", "target": chosen}]}});
        admitted(spec(json!([target("a")]), json!(null)));
        admitted(spec(json!([]), json!(null)));
        admitted(spec(json!([target("a"), target("b")]), json!("b")));
        let path = "spec.export.artifacts[0].target";
        for chosen in [json!(null), json!("c")] {
            let spec = spec(json!([target("a"), target("b")]), chosen);
            refused(spec, path, ProblemCode::TargetNotDeclared);
        }
        refused(
            spec(json!([target("a")]), json!("c/")),
            path,
            ProblemCode::InvalidName,
        );
    }
}
