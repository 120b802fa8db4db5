//! What a run did with its network, in lines.

use std::collections::BTreeMap;

use cellos_evidence::projection::{FlowLayer, FlowView, RunView};

use crate::runs::show;

/// Most connections, and most kinds of refusals, that are shown.
const MAX_SHOWN: usize = 32;

/// The lines; none where nothing is known.
pub(super) fn of(run: &RunView) -> Vec<String> {
    let totals = &run.network;
    let mut lines = Vec::new();
    if totals.learning {
        lines.push("Permissive, to learn what it needs: nothing was held to the document.".into());
    }
    let record = run.end.as_ref().and_then(|end| end.egress.as_ref());
    for (index, rule) in run
        .declared
        .iter()
        .flat_map(|declared| declared.egress_rules.iter().enumerate())
        .filter(|_| record.is_some() || run.flows.total > 0)
    {
        let is_exercised = u64::try_from(index).is_ok_and(|index| totals.rules.contains(&index));
        let protocol = rule.protocol.as_deref().unwrap_or("TLS or HTTP");
        lines.push(format!(
            "rule {index}: {} port {} ({protocol}): {}",
            rule.host,
            rule.port,
            if is_exercised {
                "exercised"
            } else {
                "not exercised"
            }
        ));
    }
    let flows = |allowed: bool| {
        let kept = run.flows.items.iter();
        kept.filter(move |flow| flow.is_allowed() == allowed && flow.layer != FlowLayer::Query)
    };
    lines.extend(flows(true).take(MAX_SHOWN).map(allowed));
    let mut refused: BTreeMap<String, u64> = BTreeMap::new();
    let queries = run.flows.items.iter();
    let queries = queries.filter(|flow| flow.layer == FlowLayer::Query && !flow.is_allowed());
    for flow in flows(false).chain(queries) {
        let times = refused.entry(kind(flow)).or_default();
        *times = times.saturating_add(flow.times());
    }
    let more = refused.len().saturating_sub(MAX_SHOWN);
    for (kind, times) in refused.into_iter().take(MAX_SHOWN) {
        lines.push(match times {
            1 => format!("refused {kind}"),
            times => format!("refused {kind}, {times} times"),
        });
    }
    if more > 0 || !run.flows.is_complete() || flows(true).count() > MAX_SHOWN {
        lines.push(format!(
            "Not all is shown. In all {} connections let through, {} refused, {} names refused.",
            totals.allowed, totals.refused, totals.queries_refused
        ));
    }
    lines
}

fn place(flow: &FlowView) -> String {
    let host = flow.requested_name.as_deref().or(flow.host.as_deref());
    let port = flow
        .port
        .map_or_else(String::new, |port| format!(" port {port}"));
    format!("{}{port}", host.unwrap_or("an unknown host"))
}

fn allowed(flow: &FlowView) -> String {
    let mut line = format!("allowed {}", place(flow));
    if let (Some(_), Some(address)) = (&flow.requested_name, &flow.host) {
        line.push_str(&format!(" at {address}"));
    }
    if let (Some(out), Some(into)) = (flow.bytes_out, flow.bytes_in) {
        let (out, into) = (show::bytes(out), show::bytes(into));
        line.push_str(&format!(", {out} out, {into} in"));
    }
    if let Some(millis) = flow.duration_ms {
        let lasted = show::unsigned_micros(millis.saturating_mul(1000));
        line.push_str(&format!(", {lasted}"));
    }
    if let Some(end) = &flow.ended_by {
        line.push_str(&format!(", {end}"));
    }
    line
}

fn kind(flow: &FlowView) -> String {
    let what = match flow.layer {
        FlowLayer::Query => "name ",
        _ => "",
    };
    let reason = flow.reason_code.as_deref().unwrap_or("no reason given");
    format!("{what}{}: {reason}", place(flow))
}
