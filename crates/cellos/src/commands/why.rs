//! `cellos why`: which rule decided about a connection or a name query, and why.

use std::{io::Write as _, path::PathBuf};

use cellos_core::event::{FlowReason, QueryReason};
use cellos_evidence::projection::{FlowLayer, FlowView, RunView};
use serde::{Deserialize as _, Serialize, de::value::StrDeserializer};

use crate::{
    exit::Exit,
    failure::Failure,
    runs::{
        LogArgs, read,
        reasons::{Mend, of_flow, of_query},
    },
    say,
};

/// Most decisions that are told at once.
const MAX_TOLD: usize = 16;

/// Tells which rule decided about a connection or a name query, why, and what would change that.
#[derive(Debug, clap::Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct WhyArgs {
    /// Event log, where --log does not name it
    #[arg(value_name = "LOG", conflicts_with = "log")]
    file: Option<PathBuf>,
    /// Id of a decision or its beginning, or HOST or HOST:PORT
    #[arg(value_name = "FLOW")]
    flow: String,
    /// Writes JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    log: LogArgs,
}

/// Why nothing can be told.
#[derive(Debug, thiserror::Error)]
enum WhyError {
    #[error("{log} tells of no connection or query {flow:?}")]
    None { flow: String, log: String },
}

#[derive(Debug, Serialize)]
struct Answer {
    format: &'static str,
    decisions: Vec<Told>,
    /// Whether there are more than are told.
    more: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    run_id: String,
    flow: FlowView,
    rule: Option<String>,
    why: String,
    mend: Option<String>,
}

/// Tells.
pub(crate) fn run(args: &WhyArgs) -> Result<Exit, Failure> {
    let log = match &args.file {
        Some(file) => file.clone(),
        None => args.log.open()?.0,
    };
    let mut answer = Answer {
        format: "cellos.why/1",
        decisions: Vec::new(),
        more: false,
    };
    read(&log, |run| {
        for flow in run
            .flows
            .items
            .iter()
            .filter(|flow| is_meant(flow, &args.flow))
        {
            if answer.decisions.len() < MAX_TOLD {
                answer.decisions.push(told(&run, flow));
            } else {
                answer.more = true;
            }
        }
        answer.more |= !run.flows.is_complete();
    })?
    .warn(&log);
    if answer.decisions.is_empty() {
        let none = WhyError::None {
            flow: args.flow.clone(),
            log: log.display().to_string(),
        };
        return Err(Failure::call(none).hint("`cellos explain RUN` shows what a run did"));
    }
    if args.json {
        let text = serde_json::to_string_pretty(&answer).map_err(Failure::program)?;
        writeln!(std::io::stdout().lock(), "{}", say::harmless_json(&text))?;
        return Ok(Exit::Success);
    }
    let mut out = anstream::stdout().lock();
    for told in &answer.decisions {
        for line in lines(told) {
            writeln!(out, "{}", say::one_line(&line))?;
        }
        writeln!(out)?;
    }
    if answer.more {
        writeln!(
            out,
            "There may be more: not all decisions are kept or told."
        )?;
    }
    Ok(Exit::Success)
}

fn is_meant(flow: &FlowView, asked: &str) -> bool {
    let names = [&flow.requested_name, &flow.host, &flow.presented_name];
    let is_host = |host: &str| {
        let mut names = names.iter().filter_map(|name| name.as_deref());
        names.any(|name| name.eq_ignore_ascii_case(host))
    };
    let with_port = asked
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse::<u64>().ok()?)));
    flow.id.as_deref().is_some_and(|id| id.starts_with(asked))
        || is_host(asked)
        || with_port.is_some_and(|(host, port)| {
            flow.port == Some(port) && is_host(host.trim_matches(['[', ']']))
        })
}

fn told(run: &RunView, flow: &FlowView) -> Told {
    let code = flow.reason_code.as_deref().unwrap_or_default();
    let known = match flow.layer {
        FlowLayer::Query => QueryReason::deserialize(word(code)).map(of_query).ok(),
        _ => FlowReason::deserialize(word(code)).map(of_flow).ok(),
    };
    let (why, mend) = known.unwrap_or((
        "The log gives a reason of another implementation.",
        Mend::None,
    ));
    let index = flow
        .rule_index()
        .and_then(|index| usize::try_from(index).ok());
    let rule = index
        .zip(run.declared.as_ref())
        .and_then(|(index, declared)| declared.egress_rules.get(index))
        .map(|rule| line_of(&rule.host, Some(rule.port), rule.protocol.as_deref()));
    Told {
        run_id: run.key.run_id.clone(),
        flow: flow.clone(),
        rule,
        why: why.to_owned(),
        mend: mending(flow, mend),
    }
}

fn word(code: &str) -> StrDeserializer<'_, serde::de::value::Error> {
    StrDeserializer::new(code)
}

fn line_of(host: &str, port: Option<u64>, protocol: Option<&str>) -> String {
    let port = port.map_or_else(|| "443".into(), |port| port.to_string());
    let protocol = protocol.map_or_else(String::new, |protocol| format!(", protocol: {protocol}"));
    format!("- {{host: {host:?}, port: {port}{protocol}}}")
}

fn mending(flow: &FlowView, mend: Mend) -> Option<String> {
    let host = flow.requested_name.as_deref().or(flow.host.as_deref());
    let host = host.unwrap_or("HOST");
    let udp = flow
        .protocol
        .as_deref()
        .filter(|protocol| *protocol == "udp");
    Some(match mend {
        Mend::None => return None,
        Mend::AddRule => {
            // Another host behind the same address is what the cell wants.
            let host = flow.presented_name.as_deref().unwrap_or(host);
            format!(
                "add to authority.egressRules: {}",
                line_of(host, flow.port, udp)
            )
        }
        Mend::DeclareTcp => format!(
            "if it may carry anything: {}",
            line_of(host, flow.port, Some("tcp"))
        ),
        Mend::AllowAddress => format!(
            "add to dnsAuthority.rebindingPolicy.responseIpAllowlist: \"{host}:{}\"",
            flow.host.as_deref().unwrap_or("ADDRESS")
        ),
        Mend::AcceptFronting => format!(
            "set acceptFronting at the provider of cdnAuthority whose hostnamePattern matches \
             {host}, or declare {}",
            line_of(host, flow.port, Some("tcp"))
        ),
        Mend::AllowQueryType => format!(
            "add to dnsAuthority.allowedQueryTypes: {}",
            flow.query_type.as_deref().unwrap_or("TYPE")
        ),
        Mend::Other(words) => words.to_owned(),
    })
}

fn lines(told: &Told) -> Vec<String> {
    let flow = &told.flow;
    let verdict = if flow.is_allowed() {
        "allowed"
    } else {
        "refused"
    };
    let asked = flow.requested_name.as_deref().or(flow.host.as_deref());
    let port = flow
        .port
        .map_or_else(String::new, |port| format!(" port {port}"));
    let times = match flow.times() {
        1 => String::new(),
        times => format!(", {times} times"),
    };
    let mut lines = vec![format!(
        "{verdict}: {}{port}{times} (run {})",
        asked.unwrap_or("an unknown host"),
        told.run_id
    )];
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push(format!("  {name:10} {value}"));
        }
    };
    let rule = flow.rule.clone();
    let named = told.rule.clone();
    add(
        "rule",
        rule.map(|rule| {
            [Some(rule), named]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(": ")
        }),
    );
    add("presented", flow.presented_name.clone());
    let address = flow.host.clone().filter(|_| flow.requested_name.is_some());
    add("address", address);
    add("query type", flow.query_type.clone());
    add(
        "reason",
        flow.reason_code
            .as_ref()
            .map(|code| format!("{code}: {}", told.why)),
    );
    add("detail", flow.detail.clone());
    let bytes = flow.bytes_out.zip(flow.bytes_in);
    add(
        "bytes",
        bytes.map(|(out, into)| format!("{out} out, {into} in")),
    );
    add("ended by", flow.ended_by.clone());
    add("mend", told.mend.clone());
    add(
        "event",
        flow.id.as_ref().map(|id| format!("{id} at {}", flow.place)),
    );
    lines
}
