use cellos_core::CellosError;
use proptest::prelude::*;
use tokio::sync::Semaphore;

use super::*;
use crate::gateway::tests::{Recorded, refusal};

fn scan(reporter: &Reporter, runtime: &tokio::runtime::Runtime, count: u32) {
    runtime.block_on(async {
        for _ in 0..count {
            reporter.flow(refusal(FlowReason::NoRule)).await.unwrap();
        }
    });
}

#[test]
fn a_scan_is_summed_up_and_none_of_it_is_lost() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let recorded = Arc::new(Recorded::default());
    let reporter = Reporter::new(recorded.clone());
    scan(&reporter, &runtime, 10_000);
    assert_eq!(recorded.flows().len(), OWN_EVENTS as usize);
    runtime.block_on(reporter.flush()).unwrap();
    runtime.block_on(reporter.flush()).unwrap();

    let flows = recorded.flows();
    assert_eq!(flows.len(), OWN_EVENTS as usize + 1);
    let told: u64 = flows.iter().map(|flow| flow.count.unwrap_or(1)).sum();
    assert_eq!(told, 10_000);
    let last = flows.last().unwrap();
    assert_eq!(last.count, Some(10_000 - u64::from(OWN_EVENTS)));
    assert!(last.detail.as_ref().unwrap().contains("9936 refusals"));
    let record = reporter.record();
    assert_eq!(record.flows_refused, 10_000);
    assert_eq!(record.summed_up, 10_000 - u64::from(OWN_EVENTS));
}

#[tokio::test]
async fn one_kind_of_refusal_does_not_hide_another() {
    let recorded = Arc::new(Recorded::default());
    let reporter = Reporter::new(recorded.clone());
    for _ in 0..1000 {
        reporter.flow(refusal(FlowReason::NoRule)).await.unwrap();
    }
    reporter
        .flow(refusal(FlowReason::L7SniAllowlistMiss))
        .await
        .unwrap();
    let flows = recorded.flows();
    let last = flows.last().unwrap();
    assert_eq!(last.reason_code, FlowReason::L7SniAllowlistMiss);
    assert_eq!(last.count, None);
}

#[test]
fn a_budget_fills_up_again_with_time() {
    let mut budget = Budget::default();
    let start = Instant::now();
    for _ in 0..OWN_EVENTS {
        assert_eq!(budget.take((), 'a', 1, start), Turn::Own('a'));
    }
    assert_eq!(budget.take((), 'b', 1, start), Turn::SummedUp);
    assert_eq!(
        budget.take((), 'c', 2, start + OWN_EVENT_AGAIN / 2),
        Turn::SummedUp
    );
    let later = start + OWN_EVENT_AGAIN;
    assert_eq!(budget.take((), 'd', 1, later), Turn::Own('d'));
    assert_eq!(budget.take((), 'e', 1, later), Turn::SummedUp);
    assert_eq!(budget.drain(), [('e', 4)]);
    assert_eq!(budget.drain(), []);
}

/// Takes one report at each permit.
struct Slow(Semaphore);

#[async_trait::async_trait]
impl NetworkReports for Slow {
    async fn report(&self, _report: NetworkReport) -> Result<(), CellosError> {
        let permit = self
            .0
            .acquire()
            .await
            .map_err(|_| CellosError::EventSink("full".into()))?;
        permit.forget();
        Ok(())
    }
}

#[tokio::test]
async fn who_has_something_to_tell_waits_for_room_and_is_let_down_when_there_will_be_none() {
    let slow = Arc::new(Slow(Semaphore::new(0)));
    let reporter = Arc::new(Reporter::new(slow.clone()));
    let telling = tokio::spawn({
        let reporter = Arc::clone(&reporter);
        async move { reporter.flow(refusal(FlowReason::NoRule)).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!telling.is_finished());
    slow.0.add_permits(1);
    assert_eq!(telling.await.unwrap(), Ok(()));

    assert!(!reporter.is_halted());
    slow.0.close();
    assert_eq!(
        reporter.flow(refusal(FlowReason::NoRule)).await,
        Err(Unrecorded)
    );
    reporter.halted().await;
    assert!(reporter.is_halted());
}

#[test]
fn a_reference_of_a_rule_is_read_back() {
    assert_eq!(rule_index("authority.egressRules[17]"), Some(17));
    assert_eq!(rule_index("authority.egressRules[x]"), None);
    assert_eq!(rule_index("publish"), None);
}

/// What the verifier of a log adds up from its events.
fn added_up(reports: &[NetworkReport]) -> EgressRecord {
    let mut sums = EgressRecord::default();
    let mut exercised = BTreeSet::new();
    for report in reports {
        match report {
            NetworkReport::Flow(flow) if flow.decision == NetworkVerdict::Allow => {
                sums.flows_allowed += flow.count.unwrap_or(1);
                sums.bytes_out += flow.bytes_out.unwrap_or(0);
                sums.bytes_in += flow.bytes_in.unwrap_or(0);
                exercised.extend(flow.nft_rule_ref.as_deref().and_then(rule_index));
            }
            NetworkReport::Flow(flow) => sums.flows_refused += flow.count.unwrap_or(1),
            NetworkReport::Query(query) if query.decision == NetworkVerdict::Deny => {
                sums.queries_refused += query.count.unwrap_or(1);
            }
            _ => {}
        }
    }
    sums.exercised_rules = exercised.into_iter().collect();
    sums
}

#[derive(Debug, Clone)]
enum Happening {
    Carried {
        rule: Option<usize>,
        direction: FlowDirection,
        out: u64,
        back: u64,
    },
    Refused(FlowReason, Option<u64>),
    Asked(QueryReason, Option<u64>),
    Flush,
}

fn happening() -> impl Strategy<Value = Happening> {
    let count = || proptest::option::of(1u64..1000);
    let direction = prop_oneof![Just(FlowDirection::Egress), Just(FlowDirection::Ingress)];
    let reasons = prop_oneof![
        Just(FlowReason::NoRule),
        Just(FlowReason::UndeclaredPort),
        Just(FlowReason::PublishedPort)
    ];
    let queries = prop_oneof![
        Just(QueryReason::AllowedByAllowlist),
        Just(QueryReason::DeniedNotInAllowlist),
        Just(QueryReason::MalformedQuery)
    ];
    prop_oneof![
        4 => (proptest::option::of(0usize..5), direction, 0u64..1 << 40, 0u64..1 << 40).prop_map(
            |(rule, direction, out, back)| Happening::Carried { rule, direction, out, back }
        ),
        8 => (reasons, count()).prop_map(|(reason, count)| Happening::Refused(reason, count)),
        8 => (queries, count()).prop_map(|(reason, count)| Happening::Asked(reason, count)),
        1 => Just(Happening::Flush),
    ]
}

fn query(reason: QueryReason, count: Option<u64>) -> DnsQuery {
    DnsQuery {
        schema_version: "1.0.0".to_owned(),
        query_id: "1".to_owned(),
        query_name: "a.example".to_owned(),
        query_type: "A".to_owned(),
        decision: match reason {
            QueryReason::AllowedByAllowlist => NetworkVerdict::Allow,
            _ => NetworkVerdict::Deny,
        },
        reason_code: reason,
        response_rcode: None,
        upstream_resolver_id: None,
        upstream_latency_ms: None,
        response_target_count: None,
        observed_at: "2026-01-01T00:00:00Z".to_owned(),
        count,
    }
}

proptest! {
    #[test]
    fn the_record_is_what_its_events_add_up_to(
        happenings in proptest::collection::vec(happening(), 0..600),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let recorded = Arc::new(Recorded::default());
        let reporter = Reporter::new(recorded.clone());
        runtime.block_on(async {
            for happening in happenings {
                let told = match happening {
                    Happening::Carried { rule, direction, out, back } => {
                        let flow = NetworkFlowDecision {
                            decision: NetworkVerdict::Allow,
                            direction,
                            nft_rule_ref: rule.map(|it| format!("authority.egressRules[{it}]")),
                            bytes_out: Some(out),
                            bytes_in: Some(back),
                            ..refusal(FlowReason::EgressRuleMatch)
                        };
                        reporter.flow(flow).await
                    }
                    Happening::Refused(reason, count) => {
                        let flow = NetworkFlowDecision { count, ..refusal(reason) };
                        reporter.flow(flow).await
                    }
                    Happening::Asked(reason, count) => reporter.query(query(reason, count)).await,
                    Happening::Flush => reporter.flush().await,
                };
                told.unwrap();
            }
            reporter.flush().await.unwrap();
        });
        let record = EgressRecord { summed_up: 0, ..reporter.record() };
        prop_assert_eq!(record, added_up(&recorded.reports.lock().unwrap()));
    }
}
