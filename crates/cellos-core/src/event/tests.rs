//! The payloads against events that were recorded from the published implementation.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::{
    document::{Correlation, ExecutionCellSpec},
    ports::{ExportReceipt, ExportReceiptTargetKind, workload::Posture},
};

/// Fields of ours; everything else must be as recorded.
const OURS: &[&str] = &[
    "accessedMountPathsObserved",
    "backend",
    "cgroups",
    "endedBy",
    "exitCode",
    "hostUid",
    "laterErrors",
    "landlockAbi",
    "limitsHit",
    "namespaces",
    "noNewPrivs",
    "observed",
    "pid",
    "privateNamespaces",
    "reasonDetail",
    "residue",
    "seccompFilters",
    "seccompMode",
    "signal",
    "usage",
];

fn stamp() -> Stamp {
    Stamp {
        id: "00000000-0000-4000-8000-000000000000".into(),
        time: "2026-11-24T02:08:24.368181455Z".into(),
    }
}

fn subject(cell: &str, run: &str) -> Subject {
    Subject {
        cell_id: cell.into(),
        spec_id: cell.into(),
        run_id: Some(run.into()),
        correlation: None,
        document_digest: None,
    }
}

fn acme() -> Subject {
    Subject {
        correlation: Some(Correlation {
            tenant_id: Some("acme".into()),
            correlation_id: Some("c-1".into()),
            ..Correlation::default()
        }),
        ..subject("ev-demo", "r-1")
    }
}

/// `exitCode` is ours in `destroyed` and published in `command.completed`.
fn without_ours(event: &CloudEventV1) -> Value {
    let mut data = event.data.clone().unwrap();
    for field in OURS {
        if *field == "exitCode" && event.ty == EventKind::CommandCompleted.as_str() {
            continue;
        }
        data.as_object_mut().unwrap().remove(*field);
    }
    data
}

fn demo_spec() -> ExecutionCellSpec {
    serde_json::from_value(json!({
        "id": "ev-demo",
        "correlation": {"tenantId": "acme", "correlationId": "c-1"},
        "placement": {"poolId": "p1"},
        "run": {"argv": ["/bin/sh", "-c", "echo hi"]},
        "authority": {"egressRules": [{"host": "1.2.3.4", "port": 443, "protocol": "tcp"}]},
        "lifetime": {"ttlSeconds": 30}
    }))
    .unwrap()
}

fn no_end(outcome: Outcome, ttl_seconds: u64, ended_by: EndedBy) -> Destroyed {
    Destroyed {
        ttl_seconds,
        outcome,
        reason: None,
        terminal_state: None,
        evidence_bundle_ref: None,
        residue_class: None,
        tenant_id: None,
        reason_detail: None,
        later_errors: vec![],
        ended_by,
        exit_code: None,
        signal: None,
        usage: None,
        limits_hit: vec![],
        output: None,
        residue: None,
        egress: None,
    }
}

#[test]
fn envelope_has_the_recorded_keys_in_order_with_explicit_nulls() {
    let event = event(
        stamp(),
        &subject("ev-fail", "r-1"),
        &NetworkScope {
            egress_rule_count: 0,
            has_opaque_network_authority: false,
        },
    )
    .unwrap();
    assert_eq!(
        serde_json::to_string(&event).unwrap(),
        concat!(
            r#"{"specversion":"1.0","id":"00000000-0000-4000-8000-000000000000","#,
            r#""source":"cellos-supervisor","#,
            r#""type":"dev.cellos.events.cell.observability.v1.network_scope","#,
            r#""datacontenttype":"application/json","#,
            r#""data":{"cellId":"ev-fail","egressRuleCount":0,"#,
            r#""hasOpaqueNetworkAuthority":false,"runId":"r-1","specId":"ev-fail"},"#,
            r#""time":"2026-11-24T02:08:24.368181455Z","traceparent":null}"#
        )
    );
}

#[test]
fn started_carries_placement_tenant_and_session_as_recorded() {
    let spec = demo_spec();
    let event = started(
        stamp(),
        &acme(),
        "01M85MW6J6D18HZHQT9TNRKK02",
        &Started {
            ttl_seconds: 30,
            spec_hash: Some("e1ad".into()),
            placement: placement(&spec),
            tenant_id: acme().tenant_id().map(str::to_owned),
            ..Started::default()
        },
    )
    .unwrap();
    assert_eq!(
        event.data.clone().unwrap(),
        json!({"cellId":"ev-demo","correlation":{"correlationId":"c-1","externalJobId":null,
            "externalRunId":null,"labels":null,"platform":null,"tenantId":"acme"},
            "placement":{"poolId":"p1"},"runId":"r-1","specHash":"e1ad","specId":"ev-demo",
            "tenantId":"acme","ttlSeconds":30})
    );
    assert_eq!(event.cexauthorityclass.as_deref(), Some("mutate"));
    assert_eq!(event.cextrustceiling.as_deref(), Some("inferred"));
    assert_eq!(
        event.cexsessionid.as_deref(),
        Some("01M85MW6J6D18HZHQT9TNRKK02")
    );
    assert_eq!(event.cexparenttrace, None);
}

#[test]
fn destroyed_points_at_started_and_leaves_unset_fields_out() {
    let lineage = Lineage {
        session_id: "01M85NAGYGW2TS42RR062A0DJ5".into(),
        started_event_id: Some("f78603ea".into()),
    };
    let event = destroyed(
        stamp(),
        &subject("ev-exp", "r"),
        &lineage,
        &no_end(Outcome::Succeeded, 5, EndedBy::Exited),
    )
    .unwrap();
    assert_eq!(
        without_ours(&event),
        json!({"cellId":"ev-exp","outcome":"succeeded","runId":"r","specId":"ev-exp",
            "ttlSeconds":5})
    );
    assert_eq!(event.data.unwrap()["endedBy"], "exited");
    assert_eq!(event.cexauthorityclass.as_deref(), Some("destroy"));
    assert_eq!(event.cexparenttrace.as_deref(), Some("f78603ea"));
}

#[test]
fn command_completed_matches_the_recorded_deadline() {
    let event = event(
        stamp(),
        &subject("ev-ttl", "r"),
        &CommandCompleted {
            argv: vec!["/bin/sleep".into(), "5".into()],
            exit_code: -1,
            duration_ms: 1001,
            spawn_error: Some("cell killed by TTL watchdog after 1000 ms (ttl_seconds=1)".into()),
            ended_by: EndedBy::DeadlineTtl,
            signal: None,
            usage: None,
            limits_hit: vec![],
            declared: None,
        },
    )
    .unwrap();
    assert_eq!(
        without_ours(&event),
        json!({"argv":["/bin/sleep","5"],"cellId":"ev-ttl","durationMs":1001,"exitCode":-1,
            "runId":"r","spawnError":"cell killed by TTL watchdog after 1000 ms (ttl_seconds=1)",
            "specId":"ev-ttl"})
    );
    assert_eq!(event.data.unwrap()["endedBy"], "deadline-ttl");
}

#[test]
fn container_security_is_scoped_to_cell_and_run_and_says_what_is_private() {
    let posture = Posture {
        machine: None,
        cap_eff: "0000001fffffffff".into(),
        namespaces: [("pid".to_owned(), 2), ("net".to_owned(), 7)].into(),
        host_namespaces: [("pid".to_owned(), 1), ("net".to_owned(), 7)].into(),
        ..Posture::default()
    };
    let event = event(stamp(), &acme(), &ContainerSecurity::from(&posture)).unwrap();
    let published: BTreeSet<String> = without_ours(&event)
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    assert_eq!(
        published,
        [
            "capAmb",
            "capBnd",
            "capEff",
            "capInh",
            "capPrm",
            "cellId",
            "correlation",
            "privileged",
            "runId"
        ]
        .map(str::to_owned)
        .into()
    );
    let data = event.data.unwrap();
    assert_eq!(data["privileged"], true);
    assert_eq!(data["observed"], true);
    assert_eq!(data["privateNamespaces"], json!(["pid"]));
}

#[test]
fn export_events_match_the_recorded_ones() {
    let provenance = Some(Provenance::started("f5808ea0"));
    let touch = event(
        stamp(),
        &subject("ev-exp", "r"),
        &FsTouch {
            purpose: "export".into(),
            source_path: "/srv/job/out.txt".into(),
            artifact_name: "out".into(),
        },
    )
    .unwrap();
    assert_eq!(
        touch.data.unwrap(),
        json!({"artifactName":"out","cellId":"ev-exp","purpose":"export","runId":"r",
            "sourcePath":"/srv/job/out.txt","specId":"ev-exp"})
    );
    let completed = event(
        stamp(),
        &subject("ev-exp", "r"),
        &ExportCompleted {
            artifact_name: "out".into(),
            receipt: ExportReceipt {
                target_kind: ExportReceiptTargetKind::Local,
                target_name: None,
                destination: "ev-exp/out".into(),
                bytes_written: 2,
            },
            sha256: None,
            declared: None,
            provenance,
        },
    )
    .unwrap();
    assert_eq!(
        completed.data.unwrap(),
        json!({"artifactName":"out","cellId":"ev-exp","provenance":{"parent":"f5808ea0",
            "parentType":"dev.cellos.events.cell.lifecycle.v1.started"},
            "receipt":{"bytesWritten":2,"destination":"ev-exp/out","targetKind":"local",
            "targetName":null},"runId":"r","specId":"ev-exp"})
    );
}

#[test]
fn summaries_match_the_recorded_ones() {
    let spec = demo_spec();
    let compliance = event(stamp(), &acme(), &ComplianceSummary::of(&spec, Some(0))).unwrap();
    assert_eq!(
        compliance.data.unwrap(),
        json!({"cellId":"ev-demo","commandExitCode":0,"correlation":{"correlationId":"c-1",
            "externalJobId":null,"externalRunId":null,"labels":null,"platform":null,
            "tenantId":"acme"},"egressRuleCount":1,"exportTargetCount":0,
            "lifetimeTtlSeconds":30,"placement":{"poolId":"p1"},"resourceLimitsPresent":false,
            "runId":"r-1","secretDeliveryMode":"runtimeLeasedBroker","specId":"ev-demo"})
    );
    let homeostasis = event(
        stamp(),
        &acme(),
        &Homeostasis::uncounted(&spec, "sha256:0433".into()),
    )
    .unwrap();
    assert_eq!(
        without_ours(&homeostasis),
        json!({"accessedMountPaths":0,"authorityEfficiency":1.0,"cellId":"ev-demo",
            "correlation":{"correlationId":"c-1","externalJobId":null,"externalRunId":null,
            "labels":null,"platform":null,"tenantId":"acme"},"declaredEgressRules":1,
            "declaredMountPaths":0,"declaredSecretCount":0,"exercisedEgressConnections":null,
            "exercisedEgressReason":"telemetry_pending_L2-04","recommendedRemovals":[],
            "runId":"r-1","specHash":"sha256:0433","specId":"ev-demo"})
    );
}

#[test]
fn policy_rejection_names_no_cell_and_no_run() {
    let event = event(
        stamp(),
        &acme(),
        &PolicyRejected::new(vec![PolicyViolation {
            rule: "maxLifetimeTtlSeconds".into(),
            message: "spec.lifetime.ttlSeconds 30 exceeds policy maximum 1".into(),
        }]),
    )
    .unwrap();
    assert_eq!(
        event.data.unwrap(),
        json!({"correlation":{"correlationId":"c-1","externalJobId":null,"externalRunId":null,
            "labels":null,"platform":null,"tenantId":"acme"},"specId":"ev-demo",
            "violationCount":1,"violations":[{
            "message":"spec.lifetime.ttlSeconds 30 exceeds policy maximum 1",
            "rule":"maxLifetimeTtlSeconds"}]})
    );
}

#[test]
fn authorization_rejection_has_the_published_fields() {
    let event = event(
        stamp(),
        &subject("ev-demo", "r-1"),
        &AuthzRejected {
            reason: AuthzReason::PoolNotAllowed,
            message: "no".into(),
            tenant_id: Some("acme".into()),
            subject: Some("acme".into()),
            denied_pool_id: Some("p1".into()),
            denied_policy_pack_id: None,
        },
    )
    .unwrap();
    assert_eq!(event.ty, "dev.cellos.events.cell.authz.v1.rejected");
    assert_eq!(
        event.data.unwrap(),
        json!({"deniedPoolId":"p1","message":"no","reason":"pool_not_allowed","specId":"ev-demo",
            "subject":"acme","tenantId":"acme"})
    );
}

#[test]
fn every_event_names_the_document_by_its_bytes() {
    let subject = acme().with_document("ab12");
    let rejected = PolicyRejected::new(Vec::new());
    let admitted = AdmissionAllowed(AdmissionFacts::by_backend("linux", Vec::new(), "ab12"));
    for event in [
        event(stamp(), &subject, &NetworkScope::of(&demo_spec())).unwrap(),
        event(
            stamp(),
            &subject,
            &ContainerSecurity::from(&Posture::default()),
        )
        .unwrap(),
        event(stamp(), &subject, &rejected).unwrap(),
        event(stamp(), &subject, &admitted).unwrap(),
    ] {
        let data = event.data.unwrap();
        assert_eq!(data["documentDigest"], "sha256:ab12", "{}", event.ty);
        assert_eq!(data["correlation"]["tenantId"], "acme", "{}", event.ty);
    }
}

#[test]
fn admission_has_the_published_fields_and_names_a_run_but_no_cell() {
    let refused = AdmissionFacts::by_backend("linux", vec!["spec.x: no".into()], "ab12");
    let event = event(
        stamp(),
        &subject("ev-demo", "r-1"),
        &AdmissionRejected(refused),
    )
    .unwrap();
    assert_eq!(event.ty, "dev.cellos.events.cell.admission.v1.rejected");
    assert_eq!(
        event.data.unwrap(),
        json!({"admitted": false, "reason": "document_refused",
            "predicate": "backend.enforces(spec)", "specHash": "ab12",
            "enforcementBinding": "declared-audit",
            "providerIdentity": {"name": "dalek", "fipsMode": false, "moduleCert": null},
            "backend": "linux", "problems": ["spec.x: no"],
            "specId": "ev-demo", "runId": "r-1"})
    );
    let by_ceiling = AdmissionFacts::by_ceiling(
        true,
        crate::authority::AdmissionReason::AdmittedWithinCeiling,
        crate::authority::EnforcementBinding::DeclaredAudit,
        "ab12",
    );
    assert_eq!(
        serde_json::to_value(by_ceiling).unwrap()["reason"],
        "admitted_within_ceiling"
    );
}

#[test]
fn a_network_of_the_cells_own_is_only_said_where_it_was_seen() {
    let mut posture = Posture {
        namespaces: [("net".to_owned(), 7)].into(),
        host_namespaces: [("net".to_owned(), 1)].into(),
        ..Posture::default()
    };
    let policy = NetworkPolicy::observed(&demo_spec(), &posture).unwrap();
    assert_eq!(policy.declared_egress_count, 1);
    assert_eq!(policy.declared_egress[0].host, "1.2.3.4");
    posture.host_namespaces = posture.namespaces.clone();
    assert_eq!(NetworkPolicy::observed(&demo_spec(), &posture), None);
}
