//! `spec.identity`.

use super::{declared_secret, grammar, portable_id, report::Report};
use crate::{
    document::{ExecutionCellSpec, WorkloadIdentityKind},
    source::ProblemCode,
};

pub(super) fn check(spec: &ExecutionCellSpec, report: &mut Report) {
    let Some(identity) = &spec.identity else {
        return;
    };
    portable_id("spec.identity.secretRef", &identity.secret_ref, report);
    let cloud = match &identity.kind {
        WorkloadIdentityKind::FederatedOidc => None,
        WorkloadIdentityKind::AwsAssumeRole { role_arn, .. } => {
            Some(("awsAssumeRole", "role_arn", role_arn))
        }
        WorkloadIdentityKind::AzureManagedIdentity { resource_id } => {
            Some(("azureManagedIdentity", "resource_id", resource_id))
        }
    };
    if let Some((kind, key, subject)) = cloud {
        for (field, value) in [
            ("provider", identity.provider.as_str()),
            ("audience", identity.audience.as_str()),
            ("subject", identity.subject.as_deref().unwrap_or_default()),
        ] {
            if !value.is_empty() {
                report.refuse_with(
                    ProblemCode::IdentityFieldIrrelevantForKind,
                    format!("spec.identity.{field}"),
                    format!("has no meaning for {kind}"),
                    "leave it empty",
                );
            }
        }
        if subject.is_empty() {
            let path = format!("spec.identity.kind.{kind}.{key}");
            report.refuse(ProblemCode::Empty, path, "is empty");
        }
    }
    if let Some(ttl) = identity.ttl_seconds {
        let path = "spec.identity.ttlSeconds";
        let life = spec.lifetime.ttl_seconds;
        if ttl > life {
            let message = format!("{ttl} s is longer than spec.lifetime.ttlSeconds, {life} s");
            report.refuse(ProblemCode::ExceedsLifetime, path, message);
        }
        if ttl == 0 {
            report.refuse(
                ProblemCode::OutOfRange,
                path,
                "0 is a credential that is never valid",
            );
        }
    }
    if grammar::is_portable_id(&identity.secret_ref) {
        let declared = spec.authority.secret_refs.as_ref();
        declared_secret(
            "spec.identity.secretRef",
            &identity.secret_ref,
            declared,
            report,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use serde_json::{Value, json};

    fn with(kind: Value, changes: Value) -> Value {
        let mut identity = json!({"kind": kind, "provider": "", "audience": "", "secretRef": "S"});
        for (name, value) in changes.as_object().expect("an object") {
            identity[name] = value.clone();
        }
        json!({"authority": {"secretRefs": ["S"]}, "identity": identity})
    }

    #[test]
    fn every_kind_is_admitted() {
        for kind in [
            json!("federatedOidc"),
            json!({"awsAssumeRole": {"role_arn": "arn:x"}}),
            json!({"awsAssumeRole": {"roleArn": "arn:x"}}),
            json!({"azureManagedIdentity": {"resource_id": "/x"}}),
        ] {
            admitted(with(kind.clone(), json!({})));
            admitted(with(kind.clone(), json!({"subject": "", "ttlSeconds": 60})));
        }
        admitted(with(
            json!("federatedOidc"),
            json!({"provider": "p", "audience": "a", "subject": "s"}),
        ));
    }

    #[test]
    fn cloud_kinds_have_a_subject_of_their_own() {
        let aws = json!({"awsAssumeRole": {"role_arn": "arn:x"}});
        for field in ["provider", "audience", "subject"] {
            refused(
                with(aws.clone(), json!({field: "x"})),
                &format!("spec.identity.{field}"),
                ProblemCode::IdentityFieldIrrelevantForKind,
            );
        }
        refused(
            with(json!({"awsAssumeRole": {"role_arn": ""}}), json!({})),
            "spec.identity.kind.awsAssumeRole.role_arn",
            ProblemCode::Empty,
        );
        refused(
            with(
                json!({"azureManagedIdentity": {"resource_id": ""}}),
                json!({}),
            ),
            "spec.identity.kind.azureManagedIdentity.resource_id",
            ProblemCode::Empty,
        );
    }

    #[test]
    fn life_and_secret() {
        let oidc = || json!("federatedOidc");
        let ttl = "spec.identity.ttlSeconds";
        refused(
            with(oidc(), json!({"ttlSeconds": 61})),
            ttl,
            ProblemCode::ExceedsLifetime,
        );
        refused(
            with(oidc(), json!({"ttlSeconds": 0})),
            ttl,
            ProblemCode::OutOfRange,
        );
        let secret = "spec.identity.secretRef";
        refused(
            with(oidc(), json!({"secretRef": "T"})),
            secret,
            ProblemCode::SecretNotDeclared,
        );
        refused(
            with(oidc(), json!({"secretRef": "a/b"})),
            secret,
            ProblemCode::InvalidName,
        );
    }
}
