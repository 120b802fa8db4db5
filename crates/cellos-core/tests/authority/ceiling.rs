use std::num::NonZeroU32;

use cellos_core::{
    authority::{
        AdmissionReason, AdmissionVerdict, CeilingDecision, CeilingGate, EnforcementBinding,
        UncomparableAuthority, UncomparableDimension, admit_under_ceiling,
    },
    document::AuthorityBundle,
    signing::{
        EpochAnchor, RevokedKids, SignedTrustKeysetEnvelope, TrustPayloadType, TrustVerification,
        parse_trust_envelope,
    },
};
use serde_json::{Value, json};

use super::{
    fixtures::{EX4, EX7, spec, trust_keys},
    trust_envelopes::envelope,
};

fn decide_with(
    authority: &AuthorityBundle,
    envelope: &SignedTrustKeysetEnvelope,
    anchor: &str,
    uncomparable: UncomparableAuthority,
) -> CeilingDecision {
    admit_under_ceiling(
        authority,
        &CeilingGate {
            envelope,
            verification: TrustVerification {
                keys: &trust_keys(),
                revoked: &RevokedKids::default(),
                now: "2026-11-24T00:00:00Z".parse().unwrap(),
                minimum_signers: NonZeroU32::MIN,
            },
            anchor: EpochAnchor::parse(anchor).unwrap(),
            uncomparable,
            binding: EnforcementBinding::DeclaredAudit,
        },
    )
}

fn decide(authority: &AuthorityBundle, envelope: &SignedTrustKeysetEnvelope) -> CeilingDecision {
    decide_with(authority, envelope, "", UncomparableAuthority::Refuse)
}

fn ex7() -> SignedTrustKeysetEnvelope {
    parse_trust_envelope(EX7.as_bytes()).unwrap()
}

fn manifest(change: Value) -> SignedTrustKeysetEnvelope {
    let mut manifest = json!({
        "schemaVersion": "1.0.0", "ceilingId": "c", "ceilingEpoch": 1, "ceilings": [],
    });
    for (key, value) in change.as_object().unwrap() {
        manifest[key] = value.clone();
    }
    let text = manifest.to_string();
    envelope(
        TrustPayloadType::AuthorityCeiling,
        text.as_bytes(),
        &[("org-root-1", 7)],
    )
}

fn authority(text: Value) -> AuthorityBundle {
    serde_json::from_value(text).unwrap()
}

#[test]
fn the_published_ceiling_admits_the_published_document() {
    let decision = decide(&spec(EX4).authority, &ex7());
    assert!(decision.verdict.admitted, "{:?}", decision.detail);
    assert_eq!(
        serde_json::to_value(&decision.verdict).unwrap(),
        json!({
            "admitted": true,
            "reason": "admitted_within_ceiling",
            "exceeded": {"egressRules": [], "secretRefs": []},
            "ceilingId": "org-2027-01",
            "manifestDigest":
                "sha256:dbae48cfdf0868f886a1d163db52067d1f8fdd7aa444a037ecd282743c328369",
            "enforcementBinding": "declared-audit",
        })
    );
    assert_eq!(decision.anchor.highest(), Some(3));
}

#[test]
fn a_document_wider_than_the_ceiling_is_refused_and_the_excess_named() {
    let mut wider = spec(EX4).authority;
    let mut rule = wider.egress_rules.as_ref().unwrap()[0].clone();
    rule.host = "203.0.113.99".to_owned();
    wider.egress_rules.as_mut().unwrap().push(rule.clone());
    let verdict = decide(&wider, &ex7()).verdict;
    assert!(!verdict.admitted);
    assert_eq!(verdict.reason, AdmissionReason::AuthorityExceedsCeiling);
    assert_eq!(verdict.exceeded.egress_rules, [rule]);
}

#[test]
fn no_ceiling_admits_nothing_and_an_empty_one_admits_no_claim() {
    let nothing = AuthorityBundle::default();
    let something = authority(json!({"secretRefs": ["A"]}));
    let none = manifest(json!({}));
    let empty = manifest(json!({"ceilings": [{"name": "n", "ceiling": {}}]}));
    assert!(!decide(&nothing, &none).verdict.admitted);
    assert!(decide(&nothing, &empty).verdict.admitted);
    assert!(!decide(&something, &empty).verdict.admitted);
}

#[test]
fn parts_of_two_ceilings_do_not_add_up() {
    let two = manifest(json!({"ceilings": [
        {"name": "a", "ceiling": {"secretRefs": ["A"]}},
        {"name": "b", "ceiling": {"secretRefs": ["B"]}},
    ]}));
    assert!(
        decide(&authority(json!({"secretRefs": ["A"]})), &two)
            .verdict
            .admitted
    );
    assert!(
        decide(&authority(json!({"secretRefs": ["B"]})), &two)
            .verdict
            .admitted
    );
    assert!(
        !decide(&authority(json!({"secretRefs": ["A", "B"]})), &two)
            .verdict
            .admitted
    );
}

#[test]
fn manifests_that_do_not_hold_refuse_every_document() {
    let open = json!([{"name": "n", "ceiling": {}}]);
    let mut unsigned = ex7();
    unsigned.signatures[0].signer_kid = "stranger".to_owned();
    let mut wrong_type = ex7();
    wrong_type.payload_type = TrustPayloadType::Keyset;
    let cases = [
        (unsigned, AdmissionReason::CeilingManifestUnverified),
        (wrong_type, AdmissionReason::CeilingManifestWrongPayloadType),
        (
            manifest(json!({"ceilings": open, "surprise": 1})),
            AdmissionReason::CeilingManifestUnparseable,
        ),
        (
            manifest(json!({"ceilings": open, "schemaVersion": "9"})),
            AdmissionReason::CeilingManifestUnparseable,
        ),
        (
            manifest(json!({"ceilings": open, "notAfter": "soon"})),
            AdmissionReason::CeilingManifestUnparseable,
        ),
        (
            manifest(json!({"ceilings": open, "notAfter": "2026-11-23T00:00:00Z"})),
            AdmissionReason::CeilingManifestUnverified,
        ),
        (
            manifest(json!({"ceilings": open, "notBefore": "2026-11-25T00:00:00Z"})),
            AdmissionReason::CeilingManifestUnverified,
        ),
    ];
    for (envelope, reason) in cases {
        let decision = decide_with(
            &AuthorityBundle::default(),
            &envelope,
            "1",
            UncomparableAuthority::Refuse,
        );
        assert!(!decision.verdict.admitted, "{reason:?}");
        assert_eq!(decision.verdict.reason, reason, "{:?}", decision.detail);
        assert!(decision.detail.is_some());
        assert_eq!(
            decision.anchor.highest(),
            Some(1),
            "a refused manifest moves no anchor"
        );
    }
}

#[test]
fn an_older_epoch_is_stale() {
    let decide = |anchor| {
        decide_with(
            &spec(EX4).authority,
            &ex7(),
            anchor,
            UncomparableAuthority::Refuse,
        )
    };
    let stale = decide("4");
    assert_eq!(stale.verdict.reason, AdmissionReason::CeilingEpochStale);
    assert_eq!(stale.anchor.highest(), Some(4));
    assert!(decide("3").verdict.admitted);
    assert_eq!(decide("2").anchor.highest(), Some(3));
}

#[test]
fn authority_that_no_ceiling_can_express_is_refused_or_named() {
    let open = manifest(json!({"ceilings": [{"name": "n", "ceiling": {}}]}));
    let cases = [
        (
            json!({"filesystem": {"mounts": [{"source": "/a", "target": "/b", "access": "ro"}]}}),
            UncomparableDimension::Filesystem,
        ),
        (json!({"network": {}}), UncomparableDimension::Network),
        (
            json!({"dnsAuthority": {"hostnameAllowlist": ["a.example"]}}),
            UncomparableDimension::DnsAuthority,
        ),
        (
            json!({"cdnAuthority": {"providers": [
                {"providerId": "p", "hostnamePattern": "*.cdn.example"}]}}),
            UncomparableDimension::CdnAuthority,
        ),
    ];
    for (text, dimension) in cases {
        let authority = authority(text);
        let refused = decide(&authority, &open);
        assert!(!refused.verdict.admitted);
        assert_eq!(
            refused.verdict.reason,
            AdmissionReason::CeilingDimensionUncomparable
        );
        let warned = decide_with(&authority, &open, "", UncomparableAuthority::Warn);
        assert!(warned.verdict.admitted);
        assert_eq!(warned.uncomparable, [dimension], "{}", dimension.path());
    }
    let empty = authority(json!({
        "filesystem": {"mounts": []}, "dnsAuthority": {}, "cdnAuthority": {},
    }));
    assert!(decide(&empty, &open).verdict.admitted);
}

#[test]
fn verdicts_without_a_manifest_say_so() {
    let binding = EnforcementBinding::LinuxNftables;
    let unconfigured = AdmissionVerdict::unconfigured(binding);
    assert!(unconfigured.admitted);
    let text = serde_json::to_value(unconfigured).unwrap();
    assert_eq!(text["reason"], "ceiling_degraded_unconfigured");
    assert_eq!(text["enforcementBinding"], "linux-nftables");

    let parent = cellos_core::document::AuthorityCapability::from_bundle(&spec(EX4).authority);
    let child = cellos_core::document::AuthorityCapability::default();
    assert!(AdmissionVerdict::formation_edge(&parent, &child, binding).admitted);
    let widening = AdmissionVerdict::formation_edge(&child, &parent, binding);
    assert!(!widening.admitted);
    assert_eq!(widening.reason, AdmissionReason::FormationEdgeNotNarrowing);
    assert_eq!(widening.exceeded, parent);
}
