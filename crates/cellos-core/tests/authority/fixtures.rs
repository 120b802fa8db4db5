//! What several modules need: vectors, keys and documents.

use cellos_core::{
    CloudEventV1, ExecutionCellDocument, ExecutionCellSpec,
    policy::{DowngradePolicy, PolicyContext, PolicyPackSpec, PolicyViolation, parse_policy_pack},
    signing::{RoleKeys, SoftwareSigner, TrustVerifyKeys},
};
use serde_json::{Value, json};

/// Key id in the published samples.
pub(crate) const SAMPLE_KID: &str = "k1";
/// Public key of the published seed, 32 bytes of 7.
pub(crate) const PUBLIC_KEY: &str = "6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw";

/// The canonical bytes of the published event.
pub(crate) const EVENT_TEXT: &str = r#"{"data":{"cellId":"c1","specId":"s1","ttlSeconds":30},"datacontenttype":"application/json","id":"ev-001","source":"cellos-supervisor","specversion":"1.0","time":"2026-01-02T03:04:05Z","traceparent":null,"type":"dev.cellos.events.cell.lifecycle.v1.started"}"#;

pub(crate) const EX2: &str = include_str!("../vectors-authority/ex2-networked-agent.json");
pub(crate) const EX4: &str =
    include_str!("../vectors-authority/ex4-aws-role-signed-derivation.json");
pub(crate) const EX5: &str = include_str!("../vectors-authority/ex5-policy-pack.json");
pub(crate) const EX6: &str = include_str!("../vectors-authority/ex6-authorization-policy.json");
pub(crate) const EX7: &str = include_str!("../vectors-authority/ex7-signed-ceiling-envelope.json");

pub(crate) fn spec(document: &str) -> ExecutionCellSpec {
    serde_json::from_str::<ExecutionCellDocument>(document)
        .unwrap()
        .spec
}

/// The networked agent, without the opaque file system that this implementation refuses.
pub(crate) fn agent() -> ExecutionCellSpec {
    let mut document: Value = serde_json::from_str(EX2).unwrap();
    document["spec"]["authority"]["filesystem"] = Value::Null;
    spec(&document.to_string())
}

/// A small document with the given fields on top.
pub(crate) fn small(fields: &Value) -> ExecutionCellSpec {
    let mut text = json!({"id": "x", "authority": {}, "lifetime": {"ttlSeconds": 60}});
    for (key, value) in fields.as_object().unwrap() {
        text[key] = value.clone();
    }
    serde_json::from_value(text).unwrap()
}

pub(crate) fn signer(kid: &str, byte: u8) -> SoftwareSigner {
    SoftwareSigner::from_seed(kid, [byte; 32])
}

pub(crate) fn role_keys() -> RoleKeys {
    RoleKeys::parse(include_bytes!("../vectors-authority/role-keys.json")).unwrap()
}

pub(crate) fn trust_keys() -> TrustVerifyKeys {
    TrustVerifyKeys::parse(include_bytes!(
        "../vectors-authority/trust-verify-keys.json"
    ))
    .unwrap()
}

pub(crate) fn event() -> CloudEventV1 {
    serde_json::from_str(EVENT_TEXT).unwrap()
}

/// A pack with the given rules.
pub(crate) fn pack(rules: &Value) -> PolicyPackSpec {
    pack_with(&json!({"id": "p", "rules": rules})).unwrap()
}

/// A pack with the given `spec`, or the message it is refused with.
pub(crate) fn pack_with(spec: &Value) -> Result<PolicyPackSpec, String> {
    let text = json!({"apiVersion": "cellos.io/v1", "kind": "PolicyPack", "spec": spec});
    parse_policy_pack(text.to_string().as_bytes(), DowngradePolicy::Refuse)
        .map(|document| document.spec)
        .map_err(|error| error.to_string())
}

/// Nothing is known but that the caller is the default one.
pub(crate) const NOWHERE: PolicyContext<'static> = PolicyContext {
    host_placement: None,
    caller: cellos_core::policy::DEFAULT_CALLER,
};

pub(crate) fn rule_names(violations: &[PolicyViolation]) -> Vec<&'static str> {
    violations
        .iter()
        .map(|violation| violation.rule.as_str())
        .collect()
}
