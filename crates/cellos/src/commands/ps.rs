//! `cellos ps`: the cells there are, and the ones there were.

use std::{
    collections::{HashMap, VecDeque},
    io::Write as _,
};

use cellos_evidence::projection::{EndKind, RunView, Snapshot};
use cellos_supervisor::state::{KnownRun, Supervised};
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    exit::Exit,
    failure::Failure,
    runs::{self, LogArgs, show},
    say,
};

/// Most past cells that are listed: the last ones.
const MAX_PAST: usize = 100_000;
/// Widest column of ids, in characters, unless asked for whole ones.
const MAX_ID_WIDTH: usize = 36;

/// Lists the cells that there are; with -a also those there were.
///
/// Current cells are those with a record in the state folder, and runs of the log without an end.
#[derive(Debug, clap::Args)]
pub(crate) struct PsArgs {
    /// Also past cells
    #[arg(short, long)]
    all: bool,
    /// Ids in full
    #[arg(long)]
    no_trunc: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    log: LogArgs,
}

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum State {
    /// Its supervisor lives, and there is no event of a start.
    Starting,
    /// Its supervisor lives.
    Running,
    /// Its supervisor is gone; `cellos reap` finishes it.
    Left,
    /// The log has no end of it, and the state folder no record.
    Unfinished,
    Succeeded,
    Failed,
    /// The cell was never made.
    NotCreated,
    /// The document was refused.
    Refused,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Left => "left",
            Self::Unfinished => "unfinished",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::NotCreated => "not created",
            Self::Refused => "refused",
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    state: State,
    run_id: String,
    cell_id: String,
    backend: Option<String>,
    started_at: Option<Timestamp>,
    duration_micros: Option<i64>,
    end: String,
    /// What the log says, where it says anything.
    snapshot: Option<Snapshot>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listing<'a> {
    /// Version of this form.
    format: &'static str,
    cells: &'a VecDeque<Row>,
    /// Past cells that are not listed, because there are more than are.
    earlier: u64,
}

/// Lists.
pub(crate) fn run(args: &PsArgs) -> Result<Exit, Failure> {
    let (log, state) = args.log.open()?;
    let known = match &state {
        Some(state) => state.known_runs().map_err(Failure::call)?,
        None => Vec::new(),
    };
    let mut records: HashMap<_, _> = known
        .into_iter()
        .map(|run| ((run.cell_id.clone(), run.run_id.clone()), run))
        .collect();
    let mut logs = vec![log];
    for run in records.values() {
        if let Some(file) = run.events_file.as_ref().filter(|file| !logs.contains(file)) {
            logs.push(file.clone());
        }
    }
    let (mut past, mut current, mut earlier) = (VecDeque::new(), Vec::new(), 0);
    for (index, log) in logs.iter().enumerate() {
        let read = runs::read(log, |run| {
            let ids = (run.key.cell_id.clone(), run.key.run_id.clone());
            match (&run.end, index) {
                (None, 0) => current.push(row(&run, records.remove(&ids))),
                (None, _) => current.extend(records.remove(&ids).map(|r| row(&run, Some(r)))),
                (Some(_), 0) if args.all => {
                    past.push_back(row(&run, None));
                    if past.len() > MAX_PAST {
                        past.pop_front();
                        earlier += 1;
                    }
                }
                (Some(_), _) => {}
            }
        })?;
        read.warn(log);
    }
    current.extend(records.into_values().map(without_events));
    current.sort_by(|a, b| (a.started_at, &a.run_id).cmp(&(b.started_at, &b.run_id)));
    past.extend(current);
    print(args, &past, earlier)?;
    Ok(Exit::Success)
}

fn row(run: &RunView, record: Option<KnownRun>) -> Row {
    let state = match (&run.end, record.map(|record| record.supervised)) {
        (Some(end), _) if end.how == EndKind::NotCreated => State::NotCreated,
        (Some(end), _) if end.how == EndKind::Refused => State::Refused,
        (Some(end), _) if end.outcome.as_deref() == Some("succeeded") => State::Succeeded,
        (Some(_), _) => State::Failed,
        (None, Some(Supervised::Left)) => State::Left,
        (None, Some(Supervised::Alive)) if run.started.is_none() => State::Starting,
        (None, Some(Supervised::Alive)) => State::Running,
        (None, None) => State::Unfinished,
    };
    Row {
        state,
        run_id: run.key.run_id.clone(),
        cell_id: run.key.cell_id.clone(),
        backend: run.backend.clone(),
        started_at: run.began(),
        duration_micros: run.lasted_micros(),
        end: end(run),
        snapshot: Some(Snapshot::of(run)),
    }
}

fn without_events(record: KnownRun) -> Row {
    Row {
        state: match record.supervised {
            Supervised::Alive => State::Starting,
            Supervised::Left => State::Left,
        },
        run_id: record.run_id,
        cell_id: record.cell_id,
        backend: Some(record.backend),
        started_at: record.created_at.parse().ok(),
        duration_micros: None,
        end: String::new(),
        snapshot: None,
    }
}

/// How it ended, in a word or two.
fn end(run: &RunView) -> String {
    let Some(end) = &run.end else {
        return String::new();
    };
    let command = run.command.as_ref();
    let by = end
        .ended_by
        .as_deref()
        .or_else(|| command.and_then(|command| command.ended_by.as_deref()));
    let code = end
        .exit_code
        .or_else(|| command.and_then(|command| command.exit_code));
    match (by, end.signal, code, end.reason.as_deref()) {
        (Some("exited") | None, None, Some(code), _) if code >= 0 => format!("exit {code}"),
        (Some("signalled"), Some(signal), ..) => format!("signal {signal}"),
        (Some("exited") | None, _, _, Some(reason)) => reason.to_owned(),
        (Some(by), ..) => by.to_owned(),
        (None, ..) => String::new(),
    }
}

fn print(args: &PsArgs, rows: &VecDeque<Row>, earlier: u64) -> Result<(), Failure> {
    if args.json {
        let listing = Listing {
            format: "cellos.ps/1",
            cells: rows,
            earlier,
        };
        let text = serde_json::to_string_pretty(&listing).map_err(Failure::program)?;
        writeln!(std::io::stdout().lock(), "{}", say::harmless_json(&text))?;
        return Ok(());
    }
    if earlier > 0 {
        say::note(&format!("{earlier} earlier cells are not listed"));
    }
    let head = [
        "RUN", "CELL", "BACKEND", "STATE", "STARTED", "DURATION", "END",
    ];
    let lines: Vec<[String; 7]> = std::iter::once(head.map(str::to_owned))
        .chain(rows.iter().map(|row| line(row, args.no_trunc)))
        .collect();
    let mut widths = [0; 7];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in &lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(widths) {
            text.push_str(&format!("{cell:<width$}  "));
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    out.flush()?;
    Ok(())
}

fn line(row: &Row, whole: bool) -> [String; 7] {
    let id = |text: &str| short(text, if whole { usize::MAX } else { MAX_ID_WIDTH });
    [
        id(&row.run_id),
        id(match row.cell_id.as_str() {
            "" => "-",
            cell_id => cell_id,
        }),
        id(row.backend.as_deref().unwrap_or("-")),
        row.state.as_str().to_owned(),
        row.started_at.map_or_else(|| "-".into(), show::time),
        row.duration_micros.map_or_else(|| "-".into(), show::micros),
        id(&row.end),
    ]
}

/// A text in one line that a terminal only shows, cut to a width.
fn short(text: &str, width: usize) -> String {
    let text = say::one_line(text);
    if text.chars().count() <= width {
        return text;
    }
    let kept: String = text.chars().take(width - 1).collect();
    format!("{kept}…")
}
