use cellos_core::{
    ExecutionCellSpec,
    policy::{
        AuthorizationPolicyError, AuthorizationReason, AuthorizationRejection,
        evaluate_authorization, parse_authorization_policy,
    },
};
use serde_json::{Value, json};

use super::fixtures::{EX6, agent};

fn policy(
    spec: &Value,
) -> Result<cellos_core::policy::AuthorizationPolicySpec, AuthorizationPolicyError> {
    let text = json!({"apiVersion": "cellos.io/v1", "kind": "AuthorizationPolicy", "spec": spec});
    parse_authorization_policy(text.to_string().as_bytes()).map(|document| document.spec)
}

fn rejection(change: impl FnOnce(&mut ExecutionCellSpec)) -> AuthorizationRejection {
    let policy = policy(&json!({
        "subjects": ["team-blue"], "allowedPools": ["linux-kvm-a"],
        "allowedPolicyPacks": ["team-default"],
    }))
    .unwrap();
    let mut spec = agent();
    change(&mut spec);
    evaluate_authorization(&policy, &spec).unwrap_err()
}

#[test]
fn the_published_policy_is_refused_for_its_rate_and_admits_without_it() {
    let error = parse_authorization_policy(EX6.as_bytes()).unwrap_err();
    assert!(matches!(
        error,
        AuthorizationPolicyError::RateNotEnforceable { rate: 120 }
    ));
    let mut text: Value = serde_json::from_str(EX6).unwrap();
    text["spec"]
        .as_object_mut()
        .unwrap()
        .remove("maxCellsPerHour");
    let policy = parse_authorization_policy(text.to_string().as_bytes()).unwrap();
    evaluate_authorization(&policy.spec, &agent()).unwrap();
}

#[test]
fn subject_pool_and_pack_are_checked_in_this_order() {
    let other = |name: &str| Some(name.to_owned());
    let subject = rejection(|spec| {
        spec.correlation.as_mut().unwrap().tenant_id = other("team-red");
        spec.placement = None;
    });
    assert_eq!(subject.reason, AuthorizationReason::SubjectNotAuthorized);
    assert_eq!(subject.subject.as_deref(), Some("team-red"));

    let pool = rejection(|spec| {
        spec.placement.as_mut().unwrap().pool_id = other("pool-z");
        spec.policy = None;
    });
    assert_eq!(pool.reason, AuthorizationReason::PoolNotAllowed);
    assert_eq!(pool.denied_pool_id.as_deref(), Some("pool-z"));

    let pack = rejection(|spec| spec.policy.as_mut().unwrap().pack_id = other("lax"));
    assert_eq!(pack.reason, AuthorizationReason::PolicyPackNotAllowed);
    assert_eq!(pack.denied_policy_pack_id.as_deref(), Some("lax"));
    assert!(
        pack.to_string().starts_with("policy_pack_not_allowed"),
        "{pack}"
    );
}

#[test]
fn what_is_absent_is_not_allowed_where_a_list_exists() {
    assert_eq!(
        rejection(|spec| spec.correlation = None).reason,
        AuthorizationReason::SubjectNotAuthorized
    );
    assert_eq!(
        rejection(|spec| spec.placement = None).reason,
        AuthorizationReason::PoolNotAllowed
    );
    assert_eq!(
        rejection(|spec| spec.policy = None).reason,
        AuthorizationReason::PolicyPackNotAllowed
    );
    let open = policy(&json!({"subjects": ["team-blue"]})).unwrap();
    let mut spec = agent();
    spec.placement = None;
    spec.policy = None;
    evaluate_authorization(&open, &spec).unwrap();
}

#[test]
fn subjects_compare_exactly() {
    for subject in ["TEAM-BLUE", "team-blue ", "team-*", "*"] {
        let policy = policy(&json!({"subjects": [subject]})).unwrap();
        assert!(
            evaluate_authorization(&policy, &agent()).is_err(),
            "{subject}"
        );
    }
}

#[test]
fn policies_that_say_nothing_or_too_much_are_refused() {
    let bad = [
        json!({"subjects": []}),
        json!({"subjects": ["a", " "]}),
        json!({"subjects": ["a"], "allowedPools": [""]}),
        json!({"subjects": ["a"], "allowedPolicyPacks": ["\t"]}),
        json!({"subjects": ["a"], "maxCellsPerHour": 0}),
        json!({"subjects": ["a"], "maxCellsPerHour": 1}),
        json!({"subjects": ["a"], "allowedpools": ["x"]}),
        json!({}),
    ];
    for spec in bad {
        assert!(policy(&spec).is_err(), "{spec}");
    }
    for (from, to) in [
        ("cellos.io/v1", "cellos.io/v2"),
        ("AuthorizationPolicy", "Policy"),
    ] {
        assert!(parse_authorization_policy(EX6.replace(from, to).as_bytes()).is_err());
    }
}
