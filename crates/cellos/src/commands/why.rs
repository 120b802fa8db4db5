//! `cellos why`: which rule decided about a connection or a name query, and why.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    io::Write as _,
    path::PathBuf,
};

use cellos_core::event::{FlowReason, QueryReason};
use cellos_evidence::{
    facts::Facts,
    finding::{Place, RunKey},
    projection::{EgressRule, FlowLayer, FlowView, RunView},
};
use serde::{Deserialize as _, Serialize, de::value::StrDeserializer};

use crate::{
    exit::Exit,
    failure::Failure,
    runs::{
        LogArgs, read_events,
        reasons::{Mend, of_flow, of_query},
    },
    say,
};

/// Most decisions that are told at once.
const MAX_TOLD: usize = 16;
/// Most ids that are named where the beginning of one is that of several.
const MAX_CANDIDATES: usize = 8;

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
    #[error("{flow:?} is the beginning of several ids: {candidates}")]
    Ambiguous { flow: String, candidates: String },
}

/// Decisions that are meant, as many as are told, with the runs that they belong to.
#[derive(Debug, Default)]
struct Meant {
    flows: Vec<(RunKey, FlowView)>,
    /// Whether there are more.
    more: bool,
}

impl Meant {
    fn add(&mut self, run: RunKey, flow: FlowView) {
        match self.flows.len() < MAX_TOLD {
            true => self.flows.push((run, flow)),
            false => self.more = true,
        }
    }
}

/// What in a log may be meant, apart by how sure that is.
#[derive(Debug, Default)]
struct Search {
    by_id: Meant,
    by_host: Meant,
    by_beginning: Meant,
    /// The rules of the runs that the decisions belong to.
    rules: HashMap<RunKey, Vec<EgressRule>>,
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
    let search = RefCell::new(Search::default());
    read_events(
        &log,
        |facts, place| search.borrow_mut().look(facts, place, &args.flow),
        |run| search.borrow_mut().keep_rules(run),
    )?
    .warn(&log);
    let answer = search.into_inner().answer(&args.flow)?;
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
            "There are more; the id of one, or HOST:PORT, tells them apart."
        )?;
    }
    Ok(Exit::Success)
}

impl Search {
    /// Looks whether an event tells of a decision that is meant.
    fn look(&mut self, facts: &Facts<'_>, place: &Place, asked: &str) {
        let Some(flow) = FlowView::of(facts, place) else {
            return;
        };
        let id = flow.id.as_deref().unwrap_or_default();
        let meant = match () {
            () if id == asked => &mut self.by_id,
            () if is_host(&flow, asked) => &mut self.by_host,
            () if id.starts_with(asked) => &mut self.by_beginning,
            () => return,
        };
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let data = facts.data.as_deref();
        let run = RunKey {
            cell_id: text(data.and_then(|data| data.cell_id.as_deref())),
            run_id: text(data.and_then(|data| data.run_id.as_deref())),
        };
        meant.add(run, flow);
    }

    /// Keeps the rules of a run that a decision belongs to.
    fn keep_rules(&mut self, run: RunView) {
        let all = [&self.by_id, &self.by_host, &self.by_beginning];
        let mut runs = all.iter().flat_map(|meant| &meant.flows);
        if runs.any(|(key, _)| *key == run.key)
            && let Some(declared) = run.declared
        {
            self.rules.insert(run.key, declared.egress_rules);
        }
    }

    /// What is surest: an id, else a host, else the one id that begins so.
    fn answer(self, asked: &str) -> Result<Answer, Failure> {
        let all = [self.by_id, self.by_host];
        let meant = match all.into_iter().find(|meant| !meant.flows.is_empty()) {
            Some(meant) => meant,
            None => only(self.by_beginning, asked)?,
        };
        let told = |(run, flow): (RunKey, FlowView)| {
            let rules = self.rules.get(&run).map(Vec::as_slice);
            told(run.run_id, flow, rules.unwrap_or_default())
        };
        Ok(Answer {
            format: "cellos.why/1",
            decisions: meant.flows.into_iter().map(told).collect(),
            more: meant.more,
        })
    }
}

/// Refuses the beginning of more than one id.
fn only(meant: Meant, asked: &str) -> Result<Meant, Failure> {
    let ids: BTreeSet<&str> = meant
        .flows
        .iter()
        .filter_map(|(_, flow)| flow.id.as_deref())
        .collect();
    if ids.len() < 2 {
        return Ok(meant);
    }
    let mut candidates: Vec<&str> = ids.iter().copied().take(MAX_CANDIDATES).collect();
    if meant.more || ids.len() > MAX_CANDIDATES {
        candidates.push("and more");
    }
    Err(Failure::call(WhyError::Ambiguous {
        flow: asked.to_owned(),
        candidates: say::one_line(&candidates.join(", ")),
    })
    .hint("write more of the id"))
}

fn is_host(flow: &FlowView, asked: &str) -> bool {
    let names = [&flow.requested_name, &flow.host, &flow.presented_name];
    let is_named = |host: &str| {
        let mut names = names.iter().filter_map(|name| name.as_deref());
        names.any(|name| name.eq_ignore_ascii_case(host))
    };
    let with_port = asked
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse::<u64>().ok()?)));
    is_named(asked)
        || with_port.is_some_and(|(host, port)| {
            flow.port == Some(port) && is_named(host.trim_matches(['[', ']']))
        })
}

fn told(run_id: String, flow: FlowView, rules: &[EgressRule]) -> Told {
    let code = flow.reason_code.as_deref().unwrap_or_default();
    let known = match flow.layer {
        FlowLayer::Query => QueryReason::deserialize(word(code)).map(of_query).ok(),
        _ => FlowReason::deserialize(word(code)).map(of_flow).ok(),
    };
    let (why, mend) = known.unwrap_or((
        "The log gives a reason of another implementation.",
        Mend::None,
    ));
    let rule = flow
        .rule_index()
        .and_then(|index| rules.get(usize::try_from(index).ok()?))
        .map(|rule| line_of(&rule.host, Some(rule.port), rule.protocol.as_deref()));
    Told {
        run_id,
        rule,
        why: why.to_owned(),
        mend: mending(&flow, mend),
        flow,
    }
}

fn word(code: &str) -> StrDeserializer<'_, serde::de::value::Error> {
    StrDeserializer::new(code)
}

fn line_of(host: &str, port: Option<u64>, protocol: Option<&str>) -> String {
    // A name query says nothing of the port.
    let port = port.map_or_else(|| "…".into(), |port| port.to_string());
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
        // An address by itself has no name that it could be allowed for.
        Mend::AllowAddress if flow.requested_name.is_none() => format!(
            "add to authority.egressRules: {}",
            line_of(host, flow.port, udp)
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
