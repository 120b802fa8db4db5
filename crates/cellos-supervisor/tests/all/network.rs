//! The network of a cell: who gives it, when it opens and closes, and what is left of it on record.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use cellos_core::{
    CellosError, ExecutionCellDocument, ExecutionCellSpec,
    event::{
        EgressRecord, EndedBy, FlowDirection, FlowReason, NETWORK_SCHEMA_VERSION,
        NetworkFlowDecision, NetworkMode, NetworkVerdict,
    },
    ports::network::{
        CellNetwork, NetworkGateway, NetworkNeeds, NetworkReport, NetworkReports, OpenGateway,
    },
};
use cellos_supervisor::{NetworkError, RunError, RunOutcome, StopRequests};
use serde_json::json;

use crate::{
    doubles::{Call, Fault, Pretended, Recorder, Script, document_with, shared},
    run::{request, supervisor},
};

/// A gateway whose cell makes flows: some at once, some every millisecond, one when it is closed.
#[derive(Default)]
struct Busy {
    at_once: usize,
    later: bool,
    open_fails: bool,
    close_hangs: bool,
    close_fails: bool,
    mode: NetworkMode,
    /// What came of the reports that were refused.
    refused: Arc<Mutex<Option<CellosError>>>,
    /// Whether the open gateway still exists.
    alive: Arc<()>,
}

struct BusyCell {
    close_hangs: bool,
    close_fails: bool,
    reports: Arc<dyn NetworkReports>,
    flows: tokio::task::JoinHandle<()>,
    _alive: Arc<()>,
}

impl Drop for BusyCell {
    fn drop(&mut self) {
        self.flows.abort();
    }
}

fn flow(id: String) -> NetworkReport {
    NetworkReport::Flow(Box::new(NetworkFlowDecision {
        schema_version: NETWORK_SCHEMA_VERSION.into(),
        decision_id: id,
        direction: FlowDirection::Egress,
        decision: NetworkVerdict::Allow,
        reason_code: FlowReason::EgressRuleMatch,
        nft_rule_ref: None,
        dst_addr: None,
        dst_port: None,
        protocol: None,
        byte_count: None,
        observed_at: "2026-01-01T00:00:00Z".into(),
        requested_name: None,
        presented_name: None,
        bytes_out: None,
        bytes_in: None,
        duration_ms: None,
        ended_by: None,
        upstream_resolver_id: None,
        detail: None,
        count: None,
    }))
}

#[async_trait]
impl NetworkGateway for Busy {
    fn mode(&self) -> NetworkMode {
        self.mode
    }

    fn needs(&self, spec: &ExecutionCellSpec) -> Result<Option<NetworkNeeds>, CellosError> {
        let rules = spec.authority.egress_rules.iter().flatten();
        let tcp_ports: std::collections::BTreeSet<_> = rules.map(|rule| rule.port).collect();
        Ok((!tcp_ports.is_empty()).then(|| NetworkNeeds {
            tcp_ports,
            ..NetworkNeeds::default()
        }))
    }

    async fn open(
        &self,
        _spec: &ExecutionCellSpec,
        _network: CellNetwork,
        reports: Arc<dyn NetworkReports>,
    ) -> Result<Box<dyn OpenGateway>, CellosError> {
        if self.open_fails {
            return Err(CellosError::Host("no gateway today".into()));
        }
        let (at_once, later) = (self.at_once, self.later);
        let (refused, to) = (Arc::clone(&self.refused), Arc::clone(&reports));
        let flows = tokio::spawn(async move {
            for number in 0.. {
                if number >= at_once {
                    if !later {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                if let Err(error) = to.report(flow(format!("flow-{number}"))).await {
                    *refused.lock().unwrap() = Some(error);
                    break;
                }
            }
        });
        Ok(Box::new(BusyCell {
            close_hangs: self.close_hangs,
            close_fails: self.close_fails,
            reports,
            flows,
            _alive: Arc::clone(&self.alive),
        }))
    }
}

#[async_trait]
impl OpenGateway for BusyCell {
    async fn close(mut self: Box<Self>) -> Result<EgressRecord, CellosError> {
        if self.close_fails {
            return Err(CellosError::EventSink(
                "no room for the ends of flows".into(),
            ));
        }
        if self.close_hangs {
            std::future::pending::<()>().await;
        }
        let _ = (&mut self.flows).await;
        let _ = self.reports.report(flow("last".into())).await;
        Ok(EgressRecord {
            declared_rules: 2,
            exercised_rules: vec![0],
            flows_allowed: 1,
            ..EgressRecord::default()
        })
    }
}

fn networked() -> ExecutionCellDocument {
    document_with(json!({
        "run": {"argv": ["a"]},
        "authority": {"egressRules": [
            {"host": "a.example", "port": 443}, {"host": "b.example", "port": 80}]},
    }))
}

async fn run(
    backend: &Arc<Pretended>,
    events: &Arc<Recorder>,
    gateway: &Arc<Busy>,
    document: ExecutionCellDocument,
) -> RunOutcome {
    supervisor(backend, events)
        .gateway(gateway.clone())
        .run(request(document), StopRequests::none())
        .await
}

fn nobody_serves(gateway: &Busy) -> bool {
    Arc::strong_count(&gateway.alive) == 1
}

#[tokio::test(start_paused = true)]
async fn sockets_come_before_the_cell_and_flows_between_start_and_completed() {
    let (backend, events) = (shared(Pretended::default()), shared(Recorder::default()));
    let gateway = shared(Busy {
        at_once: 3,
        ..Busy::default()
    });
    let outcome = run(&backend, &events, &gateway, networked()).await;
    assert!(outcome.succeeded(), "{:?}", outcome.first_error);
    assert_eq!(
        backend.calls()[..5],
        [
            "PrepareNetwork {80, 443}",
            "Create",
            "Network",
            "Posture",
            "Release"
        ]
    );
    let flow = "observability.v1.network_flow_decision";
    assert_eq!(
        events.kinds(),
        [
            "observability.v1.network_scope",
            "lifecycle.v1.started",
            "observability.v1.container_security",
            "observability.v1.process_spawned",
            flow,
            flow,
            flow,
            flow,
            "observability.v1.network_enforcement",
            "command.v1.completed",
            "compliance.v1.summary",
            "authority.v1.homeostasis",
            "lifecycle.v1.destroyed",
        ]
    );
    let ids: Vec<_> = events
        .events()
        .iter()
        .filter(|event| event.ty.ends_with("flow_decision"))
        .map(|event| event.data.as_ref().unwrap()["decisionId"].clone())
        .collect();
    assert_eq!(ids, ["flow-0", "flow-1", "flow-2", "last"]);
    assert_eq!(events.data("started")["declared"]["networkMode"], "enforce");
    let enforcement = events.data("network_enforcement");
    assert_eq!(enforcement["nftRulesApplied"], false);
    assert_eq!(enforcement["supplementaryEgressFilterActive"], true);
    assert_eq!(enforcement["commandExitCode"], 0);
    assert_eq!(events.data("homeostasis")["authorityEfficiency"], 0.5);
    assert_eq!(
        events.data("destroyed")["egress"]["exercisedRules"],
        json!([0])
    );
    assert_eq!(outcome.egress.unwrap().flows_allowed, 1);
    assert!(nobody_serves(&gateway));
}

#[tokio::test(start_paused = true)]
async fn a_document_without_rules_has_no_network() {
    let (backend, events) = (shared(Pretended::default()), shared(Recorder::default()));
    let gateway = shared(Busy::default());
    let document = document_with(json!({"run": {"argv": ["a"]}}));
    let outcome = run(&backend, &events, &gateway, document).await;
    assert!(outcome.succeeded());
    assert_eq!(backend.calls()[..2], ["Create", "Posture"]);
    assert_eq!(events.data("started")["declared"].get("networkMode"), None);
    assert_eq!(events.data("destroyed").get("egress"), None);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_learns_says_so_from_its_start() {
    let (backend, events) = (shared(Pretended::default()), shared(Recorder::default()));
    let gateway = shared(Busy {
        mode: NetworkMode::Learn,
        ..Busy::default()
    });
    run(&backend, &events, &gateway, networked()).await;
    assert_eq!(events.data("started")["declared"]["networkMode"], "learn");
    let enforcement = events.data("network_enforcement");
    assert_eq!(enforcement["supplementaryEgressFilterActive"], false);
    assert_eq!(enforcement["networkMode"], "learn");
}

#[tokio::test(start_paused = true)]
async fn rules_that_nobody_enforces_make_no_cell() {
    let (backend, events) = (shared(Pretended::default()), shared(Recorder::default()));
    let outcome = supervisor(&backend, &events)
        .run(request(networked()), StopRequests::none())
        .await;
    assert_eq!(
        outcome.first_error,
        Some(RunError::Network(NetworkError::NobodyEnforces {
            backend: "unnamed".into()
        }))
    );
    assert_eq!(backend.calls(), <[String; 0]>::default());
    assert_eq!(events.kinds(), ["lifecycle.v1.failed"]);
    let reason = events.data("failed")["reason"].clone();
    assert!(
        reason
            .as_str()
            .unwrap()
            .contains("spec.authority.egressRules: backend `unnamed`"),
        "{reason}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_network_that_cannot_be_had_runs_nothing() {
    for (fault, open_fails, text) in [
        (Some(Call::PrepareNetwork), false, "no sockets from backend"),
        (Some(Call::Network), false, "no sockets from backend"),
        (
            None,
            true,
            "open the egress gateway: host backend: no gateway today",
        ),
    ] {
        for kind in [Fault::Fails, Fault::Hangs] {
            let backend = shared(match fault {
                Some(call) => Pretended::with_fault(call, kind),
                None => Pretended::default(),
            });
            let events = shared(Recorder::default());
            let gateway = shared(Busy {
                open_fails,
                ..Busy::default()
            });
            let outcome = run(&backend, &events, &gateway, networked()).await;
            let error = outcome.first_error.unwrap();
            assert!(matches!(error, RunError::Network(_)), "{error}");
            assert!(error.to_string().contains(text), "{error}");
            let calls = backend.calls();
            assert!(!calls.contains(&"Release".into()), "{calls:?}");
            assert_eq!(
                calls.contains(&"Create".into()),
                calls.contains(&"Destroy".into())
            );
            assert!(nobody_serves(&gateway));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_report_that_cannot_be_written_ends_the_workload() {
    let backend = shared(Pretended::scripted(Script {
        ends_after: None,
        ..Script::default()
    }));
    // Four events come before the first flow.
    let events = shared(Recorder {
        fails_only_at: Some(10),
        ..Recorder::default()
    });
    let gateway = shared(Busy {
        later: true,
        ..Busy::default()
    });
    let outcome = run(&backend, &events, &gateway, networked()).await;
    assert_eq!(outcome.ended_by, EndedBy::EvidenceUnwritable);
    let error = outcome.first_error.unwrap().to_string();
    assert!(error.contains("network_flow_decision"), "{error}");
    assert!(matches!(
        *gateway.refused.lock().unwrap(),
        Some(CellosError::EventSink(_))
    ));
    assert!(backend.calls().contains(&"Stop Kill".into()));
    assert!(!backend.calls().contains(&"Stop Terminate".into()));
    assert_eq!(events.kinds().last().unwrap(), "lifecycle.v1.destroyed");
    assert_eq!(events.data("destroyed")["outcome"], "failed");
}

#[tokio::test(start_paused = true)]
async fn more_reports_than_wait_are_written_all_in_order() {
    let (backend, events) = (shared(Pretended::default()), shared(Recorder::default()));
    let gateway = shared(Busy {
        at_once: 3000,
        ..Busy::default()
    });
    let outcome = run(&backend, &events, &gateway, networked()).await;
    assert!(outcome.succeeded());
    let flows: Vec<_> = events
        .events()
        .into_iter()
        .filter(|event| event.ty.ends_with("flow_decision"))
        .map(|event| event.data.unwrap()["decisionId"].clone())
        .collect();
    assert_eq!(flows.len(), 3001);
    assert_eq!(flows[2999], "flow-2999");
    assert_eq!(events.kinds().last().unwrap(), "lifecycle.v1.destroyed");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_does_not_close_is_dropped_and_nothing_follows_the_end() {
    let (backend, events) = (shared(Pretended::default()), shared(Recorder::default()));
    let gateway = shared(Busy {
        later: true,
        close_hangs: true,
        ..Busy::default()
    });
    let outcome = run(&backend, &events, &gateway, networked()).await;
    assert!(matches!(
        outcome.first_error,
        Some(RunError::Network(NetworkError::NotClosed(_)))
    ));
    assert_eq!(events.data("destroyed").get("egress"), None);
    assert!(nobody_serves(&gateway));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(events.kinds().last().unwrap(), "lifecycle.v1.destroyed");
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_flows_could_not_all_be_reported_fails() {
    let (backend, events) = (shared(Pretended::default()), shared(Recorder::default()));
    let gateway = shared(Busy {
        close_fails: true,
        ..Busy::default()
    });
    let outcome = run(&backend, &events, &gateway, networked()).await;
    assert!(!outcome.succeeded());
    assert!(matches!(
        outcome.first_error,
        Some(RunError::Network(NetworkError::NotClosed(said))) if said.contains("no room")
    ));
    assert_eq!(events.data("destroyed").get("egress"), None);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_and_a_workload_that_does_not_start_close_the_gateway_too() {
    let never = Script {
        ends_after: None,
        ..Script::default()
    };
    for (backend, ended_by) in [
        (Pretended::scripted(never), EndedBy::DeadlineTtl),
        (
            Pretended::with_fault(Call::Release, Fault::Fails),
            EndedBy::NotStarted,
        ),
        (
            Pretended::with_fault(Call::Posture, Fault::Fails),
            EndedBy::NotStarted,
        ),
        (
            Pretended::with_fault(Call::Wait, Fault::Fails),
            EndedBy::Lost,
        ),
    ] {
        let (backend, events) = (shared(backend), shared(Recorder::default()));
        let gateway = shared(Busy {
            at_once: 1,
            ..Busy::default()
        });
        let outcome = run(&backend, &events, &gateway, networked()).await;
        assert_eq!(outcome.ended_by, ended_by);
        assert_eq!(events.data("destroyed")["egress"]["flowsAllowed"], 1);
        assert!(nobody_serves(&gateway));
        assert!(
            events
                .kinds()
                .contains(&"observability.v1.network_flow_decision".to_owned())
        );
    }
}
