use base64::{Engine as _, engine::general_purpose::STANDARD};
use cellos_core::{
    authority::{
        AuthorityValidationResult, DerivationError, DerivationScope, LeafBinding, ParentRunPolicy,
        check_derivation_structure, derivation_signing_payload, enforce_derivation_scope_policy,
        validate_authority_derivation, verify_authority_derivation,
    },
    document::{AuthorityBundle, AuthorityDerivationToken, EgressRule},
    signing::Signer as _,
};
use serde_json::{Value, json};

use super::fixtures::{EX4, role_keys, signer, spec};

fn ex4() -> AuthorityBundle {
    spec(EX4).authority
}

fn token(authority: &AuthorityBundle) -> &AuthorityDerivationToken {
    authority.authority_derivation.as_ref().unwrap()
}

fn verify(authority: &AuthorityBundle, binding: LeafBinding) -> Result<(), DerivationError> {
    verify_authority_derivation(authority, token(authority), &role_keys(), binding).map(|_| ())
}

/// Changes the token and signs it again with the role's key.
fn resigned(change: impl FnOnce(&mut AuthorityBundle)) -> AuthorityBundle {
    let mut authority = ex4();
    change(&mut authority);
    let token = authority.authority_derivation.as_mut().unwrap();
    let payload = derivation_signing_payload(token).unwrap();
    token.grantor_signature.bytes = STANDARD.encode(signer("role-a", 7).sign(&payload).unwrap());
    authority
}

fn rule(host: &str) -> EgressRule {
    EgressRule {
        host: host.to_owned(),
        port: 443,
        protocol: Some("https".to_owned()),
        dns_egress_justification: None,
    }
}

#[test]
fn the_published_signature_vectors_verify() {
    let cases = [
        (
            r#"{"leafCapability":{"egressRules":[{"host":"api.example.com","port":443,"protocol":"https"}],"secretRefs":["K"]},"parentRunId":"run-1","roleRoot":"role-a"}"#,
            "uxwqLhUJHbG+hKDVT4zoAZe4vILlrU81wzWT4jpGg41Ng5tkLLAqhT464D/cNhCwoPpGX9NgY0TCtztL93OwAQ==",
        ),
        (
            r#"{"leafCapability":{"egressRules":[{"dnsEgressJustification":"vendor DNS","host":"1.1.1.1","port":53,"protocol":null}],"secretRefs":[]},"parentRunId":null,"roleRoot":"role-a"}"#,
            "BAcNKWsuQOls01UFg5dDh2ulrVpSaHQpd2nK26sZm4CUMH1ftJhmbMj3ORE56UXAjD3k3ASysqQ0+gUENxu8BQ==",
        ),
    ];
    for (payload, signature) in cases {
        let signed: Value = serde_json::from_str(payload).unwrap();
        let mut authority = signed["leafCapability"].clone();
        authority["authorityDerivation"] = json!({
            "roleRoot": signed["roleRoot"],
            "parentRunId": signed["parentRunId"],
            "leafCapability": signed["leafCapability"],
            "grantorSignature": {"algorithm": "ed25519", "bytes": signature},
        });
        let authority: AuthorityBundle = serde_json::from_value(authority).unwrap();
        assert_eq!(
            derivation_signing_payload(token(&authority)).unwrap(),
            payload.as_bytes()
        );
        verify(&authority, LeafBinding::Exact).unwrap();
    }
}

#[test]
fn the_published_document_verifies_with_its_role_key() {
    let authority = ex4();
    let verified = verify_authority_derivation(
        &authority,
        token(&authority),
        &role_keys(),
        LeafBinding::Exact,
    )
    .unwrap();
    assert_eq!(verified.role_root, "role-a");
    assert_eq!(verified.parent_run_id.as_deref(), Some("run-parent-3"));
    assert_eq!(verified.leaf.secret_refs, ["AWS_ROLE"]);
}

#[test]
fn a_document_that_claims_more_than_the_leaf_is_refused_unless_asked_for() {
    let mut authority = ex4();
    authority
        .egress_rules
        .as_mut()
        .unwrap()
        .push(rule("evil.example"));
    let error = verify(&authority, LeafBinding::Exact).unwrap_err();
    assert!(
        matches!(error, DerivationError::SpecExceedsLeaf { .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("evil.example:443/https"),
        "{error}"
    );
    verify(&authority, LeafBinding::LeafWithinSpec).unwrap();

    let empty_leaf = resigned(|authority| {
        let token = authority.authority_derivation.as_mut().unwrap();
        token.leaf_capability.egress_rules.clear();
        token.leaf_capability.secret_refs.clear();
    });
    assert!(matches!(
        verify(&empty_leaf, LeafBinding::Exact),
        Err(DerivationError::SpecExceedsLeaf { .. })
    ));
}

#[test]
fn a_leaf_that_grants_more_than_the_document_claims_is_refused_in_both_modes() {
    for binding in [LeafBinding::Exact, LeafBinding::LeafWithinSpec] {
        let mut authority = ex4();
        authority.egress_rules = None;
        let error = verify(&authority, binding).unwrap_err();
        assert!(matches!(
            error,
            DerivationError::LeafExceedsEgress {
                declared: 0,
                claimed: 1,
                ..
            }
        ));
        assert!(error.to_string().contains("leafCapability"), "{error}");

        let mut authority = ex4();
        authority.secret_refs = Some(Vec::new());
        assert!(matches!(
            verify(&authority, binding),
            Err(DerivationError::LeafExceedsSecrets {
                declared: 0,
                claimed: 1,
                ..
            })
        ));
    }
}

#[test]
fn only_ed25519_is_an_algorithm() {
    for algorithm in ["rsa", "ED25519", ""] {
        let mut authority = ex4();
        authority
            .authority_derivation
            .as_mut()
            .unwrap()
            .grantor_signature
            .algorithm = algorithm.to_owned();
        assert!(matches!(
            check_derivation_structure(&authority, token(&authority), LeafBinding::Exact),
            Err(DerivationError::Algorithm { .. })
        ));
    }
}

#[test]
fn steps_that_widen_are_refused() {
    let widened = |change: fn(&mut AuthorityDerivationToken)| {
        let authority =
            resigned(|authority| change(authority.authority_derivation.as_mut().unwrap()));
        verify(&authority, LeafBinding::Exact)
    };
    assert!(matches!(
        widened(|token| token.derivation_steps[0]
            .to_capability
            .egress_rules
            .push(rule("new.example"))),
        Err(DerivationError::StepWidens {
            index: 0,
            field: "toCapability",
            ..
        })
    ));
    assert!(matches!(
        widened(|token| {
            let mut second = token.derivation_steps[0].clone();
            second.from_capability.secret_refs.push("OTHER".to_owned());
            token.derivation_steps.push(second);
        }),
        Err(DerivationError::StepWidens {
            index: 1,
            field: "fromCapability",
            ..
        })
    ));
    assert!(matches!(
        widened(|token| token.derivation_steps[0].to_capability.secret_refs.clear()),
        Err(DerivationError::LeafExceedsSteps { .. })
    ));
    widened(|token| token.derivation_steps.clear()).unwrap();
}

#[test]
fn signatures_that_do_not_fit_are_told_apart() {
    let with_signature = |bytes: &str| {
        let mut authority = ex4();
        authority
            .authority_derivation
            .as_mut()
            .unwrap()
            .grantor_signature
            .bytes = bytes.to_owned();
        verify(&authority, LeafBinding::Exact).unwrap_err()
    };
    let good = token(&ex4()).grantor_signature.bytes.clone();
    assert!(matches!(
        with_signature(good.trim_end_matches('=')),
        DerivationError::SignatureEncoding(_)
    ));
    let short = with_signature("AAAA");
    assert!(short.to_string().contains("must be 64 bytes"), "{short}");
    let wrong = with_signature(&STANDARD.encode([0; 64]));
    assert!(
        wrong
            .to_string()
            .contains("authority derivation signature invalid"),
        "{wrong}"
    );

    let mut authority = ex4();
    authority.authority_derivation.as_mut().unwrap().role_root = "role-b".to_owned();
    let unknown = verify(&authority, LeafBinding::Exact).unwrap_err();
    assert!(
        unknown.to_string().contains("unknown role: role-b"),
        "{unknown}"
    );
    authority.authority_derivation.as_mut().unwrap().role_root = "role-a".to_owned();
    authority
        .authority_derivation
        .as_mut()
        .unwrap()
        .parent_run_id = Some("other".to_owned());
    assert!(matches!(
        verify(&authority, LeafBinding::Exact),
        Err(DerivationError::SignatureInvalid { .. })
    ));
}

#[test]
fn a_token_without_a_parent_run_needs_permission() {
    let mut token = ex4().authority_derivation.unwrap();
    assert_eq!(
        enforce_derivation_scope_policy(&token, ParentRunPolicy::Required),
        Ok(DerivationScope::ParentRun("run-parent-3"))
    );
    for blank in [None, Some(""), Some(" \t")] {
        token.parent_run_id = blank.map(str::to_owned);
        let error = enforce_derivation_scope_policy(&token, ParentRunPolicy::Required).unwrap_err();
        assert!(error.to_string().contains("parentRunId: null"), "{error}");
        assert_eq!(
            enforce_derivation_scope_policy(&token, ParentRunPolicy::AllowUniversal),
            Ok(DerivationScope::Universal)
        );
    }
}

#[test]
fn outcomes_fall_into_the_published_categories() {
    let validate = |authority: &AuthorityBundle| {
        validate_authority_derivation(authority, &role_keys(), LeafBinding::Exact)
    };
    assert_eq!(validate(&ex4()), AuthorityValidationResult::Valid);
    assert_eq!(
        validate(&AuthorityBundle::default()),
        AuthorityValidationResult::MissingDerivationToken
    );
    let mut wider = ex4();
    wider.secret_refs.as_mut().unwrap().push("B".to_owned());
    assert_eq!(
        validate(&wider),
        AuthorityValidationResult::ExceedsGrantorSecrets {
            declared: 2,
            claimed: 1
        }
    );
    wider.egress_rules.as_mut().unwrap().push(rule("b.example"));
    assert_eq!(
        validate(&wider),
        AuthorityValidationResult::ExceedsGrantorEgress {
            declared: 2,
            claimed: 1
        }
    );
    let mut forged = ex4();
    forged.authority_derivation.as_mut().unwrap().role_root = "nobody".to_owned();
    assert!(matches!(
        validate(&forged),
        AuthorityValidationResult::InvalidSignature { reason } if reason.contains("unknown role")
    ));
}
