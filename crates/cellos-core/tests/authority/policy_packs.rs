use std::collections::BTreeSet;

use cellos_core::{
    ExecutionCellSpec,
    policy::{
        CappedField, DowngradePolicy, PolicyContext, PolicyPackError, PolicyRule,
        admit_under_packs, parse_policy_pack, validate_secret_refs_against_allowlist,
        validate_spec_against_policy,
    },
};
use serde_json::{Value, json};

use super::fixtures::{EX5, NOWHERE, agent, pack, pack_with, rule_names, small};

fn ex5() -> cellos_core::policy::PolicyPackSpec {
    parse_policy_pack(EX5.as_bytes(), DowngradePolicy::Refuse)
        .unwrap()
        .spec
}

/// A document that runs something, with these egress rules.
fn running(egress: Value) -> ExecutionCellSpec {
    small(&json!({"run": {"argv": ["/bin/true"]}, "authority": {"egressRules": egress}}))
}

/// One rejecting and one admitted document for each rule. A rule without an example would be one
/// that may be read and not enforced.
fn examples() -> Vec<(PolicyRule, Value, ExecutionCellSpec, ExecutionCellSpec)> {
    let dns = |fields: Value| {
        let mut rule = json!({"host": "1.1.1.1", "port": 53});
        rule.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        running(json!([rule]))
    };
    let with_run = |run: Value| small(&json!({"run": run, "authority": {"secretRefs": ["K"]}}));
    let one_rule = || running(json!([{"host": "API.a.example", "port": 443}]));
    vec![
        (
            PolicyRule::MaxLifetimeTtlSeconds,
            json!({"maxLifetimeTtlSeconds": 60}),
            small(&json!({"lifetime": {"ttlSeconds": 61}})),
            small(&json!({})),
        ),
        (
            PolicyRule::MaxMemoryMaxBytes,
            json!({"maxMemoryMaxBytes": 1024}),
            with_run(json!({"argv": ["x"], "limits": {"memoryMaxBytes": 1025}})),
            with_run(json!({"argv": ["x"], "limits": {"memoryMaxBytes": 1024}})),
        ),
        (
            PolicyRule::MaxRunTimeoutMs,
            json!({"maxRunTimeoutMs": 100}),
            with_run(json!({"argv": ["x"], "timeoutMs": 101})),
            with_run(json!({"argv": ["x"], "timeoutMs": 100})),
        ),
        (
            PolicyRule::RequireEgressDeclared,
            json!({"requireEgressDeclared": true}),
            running(json!([])),
            one_rule(),
        ),
        (
            PolicyRule::ForbidOutboundEgressRules,
            json!({"forbidOutboundEgressRules": true}),
            one_rule(),
            small(&json!({})),
        ),
        (
            PolicyRule::AllowedEgressHosts,
            json!({"allowedEgressHosts": ["*.a.example"]}),
            running(json!([{"host": "a.example", "port": 443}])),
            one_rule(),
        ),
        (
            PolicyRule::RequireRuntimeSecretDelivery,
            json!({"requireRuntimeSecretDelivery": true}),
            with_run(json!({"argv": ["x"], "secretDelivery": "env"})),
            with_run(json!({"argv": ["x"], "secretDelivery": "runtimeBroker"})),
        ),
        (
            PolicyRule::RequireResourceLimits,
            json!({"requireResourceLimits": true}),
            with_run(json!({"argv": ["x"], "limits": {"memoryMaxBytes": 1}})),
            with_run(json!({"argv": ["x"],
                "limits": {"memoryMaxBytes": 1, "cpuMax": {"quotaMicros": 1000}}})),
        ),
        (
            PolicyRule::FlagDnsEgressWithoutAcknowledgment,
            json!({"flagDnsEgressWithoutAcknowledgment": true}),
            dns(json!({"protocol": "udp"})),
            dns(json!({"protocol": "DNS-Acknowledged"})),
        ),
        (
            PolicyRule::RequireDnsEgressJustification,
            json!({"requireDnsEgressJustification": true}),
            dns(json!({"protocol": "dns-acknowledged", "dnsEgressJustification": " "})),
            dns(json!({"protocol": "dns-acknowledged", "dnsEgressJustification": "vendor"})),
        ),
        (
            PolicyRule::SecretRefAllowlist,
            json!({"secretRefAllowlist": {"default": ["K"]}}),
            small(&json!({"authority": {"secretRefs": ["K", "ROOT"]}})),
            small(&json!({"authority": {"secretRefs": ["K"]}})),
        ),
    ]
}

#[test]
fn every_rule_rejects_its_counterexample_and_admits_its_example() {
    let mut covered = BTreeSet::new();
    for (rule, rules, rejected, admitted) in examples() {
        let pack = pack(&rules);
        let violations = validate_spec_against_policy(&rejected, &pack, &NOWHERE);
        assert_eq!(rule_names(&violations), [rule.as_str()]);
        assert!(violations[0].to_string().starts_with(&format!("[{rule}] ")));
        assert_eq!(validate_spec_against_policy(&admitted, &pack, &NOWHERE), []);
        covered.insert(rule);
    }
    assert_eq!(covered, PolicyRule::ALL.into_iter().collect());
}

#[test]
fn a_violation_is_written_as_rule_and_message() {
    let pack = pack(&json!({"maxLifetimeTtlSeconds": 1}));
    let violations = validate_spec_against_policy(&small(&json!({})), &pack, &NOWHERE);
    assert_eq!(
        serde_json::to_value(&violations).unwrap(),
        json!([{
            "rule": "maxLifetimeTtlSeconds",
            "message": "lifetime.ttlSeconds is 60, the most allowed is 1",
        }])
    );
}

#[test]
fn rule_names_are_those_of_the_document() {
    let written = serde_json::to_value(&ex5().rules).unwrap();
    let names: BTreeSet<_> = written
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        names,
        PolicyRule::ALL.iter().map(|rule| rule.as_str()).collect()
    );
}

#[test]
fn the_published_pack_admits_the_published_document() {
    let pack = ex5();
    let admission = admit_under_packs(&agent(), &[&pack], &NOWHERE).unwrap();
    assert_eq!(admission.applied_packs, ["team-default"]);
    assert_eq!(admission.effective, agent());
    assert_eq!(admission.caps, []);
}

#[test]
fn all_violations_of_all_packs_are_reported() {
    let mut spec = agent();
    spec.lifetime.ttl_seconds = 7200;
    spec.authority.egress_rules.as_mut().unwrap()[0].host = "10.0.0.1".to_owned();
    spec.authority.egress_rules.as_mut().unwrap()[1].host = "evil.example".to_owned();
    let first = ex5();
    let second = pack(&json!({"forbidOutboundEgressRules": true}));
    let violations = admit_under_packs(&spec, &[&first, &second], &NOWHERE).unwrap_err();
    assert_eq!(
        rule_names(&violations),
        [
            "maxLifetimeTtlSeconds",
            "allowedEgressHosts",
            "allowedEgressHosts",
            "forbidOutboundEgressRules"
        ]
    );
}

#[test]
fn the_lowest_cap_becomes_the_limit_of_a_document_without_one() {
    let low = pack(&json!({"maxMemoryMaxBytes": 1000, "maxRunTimeoutMs": 5000}));
    let high = pack(&json!({"maxMemoryMaxBytes": 2000, "maxRunTimeoutMs": 4000}));
    let spec = small(&json!({"run": {"argv": ["x"]}}));
    let admission = admit_under_packs(&spec, &[&low, &high], &NOWHERE).unwrap();
    let run = admission.effective.run.unwrap();
    assert_eq!(run.limits.unwrap().memory_max_bytes, Some(1000));
    assert_eq!(run.timeout_ms, Some(4000));
    let caps: Vec<_> = admission
        .caps
        .iter()
        .map(|cap| (cap.field, cap.value))
        .collect();
    assert_eq!(
        caps,
        [
            (CappedField::MemoryMaxBytes, 1000),
            (CappedField::TimeoutMs, 4000)
        ]
    );
}

#[test]
fn a_cap_changes_neither_a_set_limit_nor_a_lifetime_that_is_shorter() {
    let pack = pack(&json!({"maxMemoryMaxBytes": 1000, "maxRunTimeoutMs": 60_000}));
    let spec = small(&json!({"run": {"argv": ["x"], "limits": {"memoryMaxBytes": 10}}}));
    let admission = admit_under_packs(&spec, &[&pack], &NOWHERE).unwrap();
    assert_eq!(admission.effective, spec);
    assert_eq!(admission.caps, []);
    let nothing = small(&json!({}));
    assert_eq!(
        admit_under_packs(&nothing, &[&pack], &NOWHERE)
            .unwrap()
            .effective,
        nothing
    );
}

#[test]
fn packs_that_could_not_be_enforced_are_refused_with_every_reason() {
    let text = json!({
        "apiVersion": "cellos.io/v2", "kind": "Pack",
        "spec": {"id": "..", "version": "1", "placement": {"poolId": ""}, "rules": {
            "maxLifetimeTtlSeconds": 0, "maxMemoryMaxBytes": 0, "maxRunTimeoutMs": 0,
            "requireEgressDeclared": true, "forbidOutboundEgressRules": true,
            "allowedEgressHosts": ["ok.example", ""],
            "secretRefAllowlist": {"": [], "c": ["a b"]},
        }},
    });
    let error =
        parse_policy_pack(text.to_string().as_bytes(), DowngradePolicy::Refuse).unwrap_err();
    let PolicyPackError::Invalid(problems) = &error else {
        panic!("{error}");
    };
    assert_eq!(problems.len(), 12, "{error}");
    for field in [
        "apiVersion",
        "kind",
        "spec.id",
        "spec.version",
        "spec.placement.poolId",
        "spec.rules.maxLifetimeTtlSeconds",
        "spec.rules.maxMemoryMaxBytes",
        "spec.rules.maxRunTimeoutMs",
        "requireEgressDeclared",
        "allowedEgressHosts[1]",
        "caller",
        "secretRefAllowlist.c[0]",
    ] {
        assert!(error.to_string().contains(field), "{field} in {error}");
    }
}

#[test]
fn packs_with_wrong_types_are_refused() {
    for rules in [
        json!({"maxLifetimeTtlSeconds": 60.0}),
        json!({"maxLifetimeTtlSeconds": -1}),
        json!({"requireEgressDeclared": null}),
        json!({"allowedEgressHosts": "a.example"}),
    ] {
        assert!(
            pack_with(&json!({"id": "p", "rules": rules})).is_err(),
            "{rules}"
        );
    }
    assert!(
        pack_with(&json!({"id": "p"}))
            .unwrap_err()
            .contains("rules")
    );
}

#[test]
fn secrets_are_compared_with_the_callers_own_list() {
    let rules = ex5().rules;
    let spec = small(&json!({"authority": {"secretRefs": ["UPLOAD_TOKEN"]}}));
    validate_secret_refs_against_allowlist(&spec, &rules, "ci-release").unwrap();
    let check = |caller: &str| {
        validate_secret_refs_against_allowlist(&spec, &rules, caller)
            .unwrap_err()
            .to_string()
    };
    let denied = check("default");
    assert!(
        denied.contains("secret_ref_denied") && denied.contains("UPLOAD_TOKEN"),
        "{denied}"
    );
    assert!(check("nobody").contains("caller_unmapped"));
    let context = PolicyContext {
        caller: "nobody",
        ..NOWHERE
    };
    let violations =
        validate_spec_against_policy(&spec, &pack(&json!({"secretRefAllowlist": {}})), &context);
    assert_eq!(rule_names(&violations), ["secretRefAllowlist"]);
}
