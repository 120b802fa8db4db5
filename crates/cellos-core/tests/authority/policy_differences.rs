use std::collections::BTreeSet;

use cellos_core::{
    document::PlacementSpec,
    policy::{
        DowngradePolicy, POLICY_DIFFERENCES, PolicyContext, admit_under_packs,
        parse_authorization_policy, parse_policy_pack, validate_spec_against_policy,
    },
};
use serde_json::{Value, json};

use super::fixtures::{EX6, NOWHERE, pack, pack_with, rule_names, small};

fn violations(rules: Value, spec: Value) -> Vec<&'static str> {
    rule_names(&validate_spec_against_policy(
        &small(&spec),
        &pack(&rules),
        &NOWHERE,
    ))
}

fn host_allowed(pattern: &str, host: &str) -> bool {
    violations(
        json!({"allowedEgressHosts": [pattern]}),
        json!({"authority": {"egressRules": [{"host": host, "port": 443}]}}),
    )
    .is_empty()
}

fn refused(rules: Value) -> bool {
    pack_with(&json!({"id": "p", "rules": rules})).is_err()
}

fn raw(text: &str, downgrade: DowngradePolicy) -> Result<(), String> {
    parse_policy_pack(text.as_bytes(), downgrade)
        .map(|_| ())
        .map_err(|error| error.to_string())
}

fn scoped_pack_applies(document: Value, host: Option<&str>) -> bool {
    let pack = pack_with(&json!({"id": "p", "placement": {"poolId": "a"},
        "rules": {"maxLifetimeTtlSeconds": 1}}))
    .unwrap();
    let host = host.map(|pool| PlacementSpec {
        pool_id: Some(pool.to_owned()),
        ..PlacementSpec::default()
    });
    let context = PolicyContext {
        host_placement: host.as_ref(),
        ..NOWHERE
    };
    !validate_spec_against_policy(&small(&document), &pack, &context).is_empty()
}

/// Shows the behaviour that the table promises for one topic.
fn shown(topic: &str) -> bool {
    let head = r#"{"apiVersion":"cellos.io/v1","kind":"PolicyPack","spec":{"id":"p","#;
    match topic {
        "unknown rule" => refused(json!({"maxLifetimeTTLSeconds": 60})),
        "doubled name" => raw(
            &format!(r#"{head}"rules":{{"secretRefAllowlist":{{"c":["A"],"c":["B"]}}}}}}}}"#),
            DowngradePolicy::Refuse,
        )
        .is_err_and(|error| error.contains("duplicate key `c`")),
        "positional array" => raw(
            &format!(r#"{head}"placement":["a",null,null],"rules":{{}}}}}}"#),
            DowngradePolicy::Refuse,
        )
        .is_err_and(|error| error.contains("/spec/placement must be an object")),
        "secretRefAllowlist" => {
            let rules = json!({"secretRefAllowlist": {"other": ["K"]}});
            violations(rules.clone(), json!({"authority": {"secretRefs": ["K"]}}))
                == ["secretRefAllowlist"]
                && violations(rules, json!({"authority": {"secretRefs": []}})).is_empty()
        }
        "maxCellsPerHour" => parse_authorization_policy(EX6.as_bytes())
            .is_err_and(|error| error.to_string().contains("cannot be enforced")),
        "pack scope without placement" => {
            scoped_pack_applies(json!({}), None) && !scoped_pack_applies(json!({}), Some("b"))
        }
        "pack scope and host" => {
            scoped_pack_applies(json!({"placement": {"poolId": "b"}}), Some("a"))
        }
        "several packs" => {
            let first = pack(&json!({}));
            let second = pack(&json!({"maxLifetimeTtlSeconds": 1}));
            admit_under_packs(&small(&json!({})), &[&first, &second], &NOWHERE).is_err()
        }
        "caps without a limit" => {
            let pack = pack(&json!({"maxMemoryMaxBytes": 7}));
            let spec = small(&json!({"run": {"argv": ["x"]}}));
            admit_under_packs(&spec, &[&pack], &NOWHERE)
                .is_ok_and(|admission| admission.caps.len() == 1)
        }
        "requireResourceLimits" => {
            let rules = json!({"requireResourceLimits": true});
            let cpu = json!({"cpuMax": {"quotaMicros": 1000}});
            violations(rules.clone(), json!({"run": {"argv": ["x"], "limits": {}}})).len() == 2
                && violations(rules, json!({})).is_empty()
                && violations(
                    json!({"requireResourceLimits": true, "maxMemoryMaxBytes": 1}),
                    json!({"run": {"argv": ["x"], "limits": cpu}}),
                )
                .is_empty()
        }
        "requireRuntimeSecretDelivery" => {
            let rules = json!({"requireRuntimeSecretDelivery": true});
            let secrets = json!({"secretRefs": ["K"]});
            let run = json!({"argv": ["x"], "secretDelivery": "env"});
            violations(rules.clone(), json!({"authority": secrets})).is_empty()
                && violations(rules.clone(), json!({"run": run})).is_empty()
                && violations(rules, json!({"run": run, "authority": secrets})).len() == 1
        }
        "host case" => host_allowed("API.example", "api.EXAMPLE"),
        "host wildcard" => {
            host_allowed("*.internal", "a.b.internal")
                && host_allowed("*.internal", "*.internal")
                && host_allowed("*.internal", "*.a.internal")
                && !host_allowed("*.internal", ".internal")
                && !host_allowed("*.internal", "internal")
        }
        "host addresses" => {
            host_allowed("10.0.0.0/8", "10.1.2.3")
                && host_allowed("::1", "[0:0:0:0:0:0:0:1]")
                && !host_allowed("10.0.0.0/8", "10.0.0.0/7")
        }
        "unusable host pattern" => refused(json!({"allowedEgressHosts": ["a,b"]})),
        "unusable scope or secret name" => {
            refused(json!({"secretRefAllowlist": {"c": ["not a name"]}}))
                && pack_with(&json!({"id": "p", "placement": {"poolId": " "}, "rules": {}}))
                    .is_err()
        }
        "downgrade" => {
            let old = |rules: &str| {
                raw(
                    &format!(r#"{head}"version":"0.1.0","rules":{rules}}}}}"#),
                    DowngradePolicy::Allow,
                )
            };
            old("{}").is_ok() && old(r#"{"maxRunTimeoutMs":0}"#).is_err()
        }
        other => panic!("{other:?} has no demonstration"),
    }
}

#[test]
fn every_listed_difference_is_as_the_table_says() {
    let mut topics = BTreeSet::new();
    for difference in POLICY_DIFFERENCES {
        assert!(
            topics.insert(difference.topic),
            "{} is listed twice",
            difference.topic
        );
        assert!(
            shown(difference.topic),
            "{}: {}",
            difference.topic,
            difference.here
        );
    }
}
