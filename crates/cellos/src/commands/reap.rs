//! `cellos reap`: finishes what killed runs left.

use std::{io::Write as _, path::PathBuf};

use cellos_supervisor::{
    SystemClock,
    state::{FinalEvent, ReapReport, reap},
};

use crate::{
    compose::EveryCleaner,
    exit::Exit,
    failure::Failure,
    keys::{self, SigningOptions},
    run_logs::EveryLog,
    say, state_dir,
};

/// Finishes runs that were killed: removes what is left of their cells, completes their logs.
///
/// What is completed is the final event, where it is missing. Runs that are alive are left alone; running it twice is harmless.
#[derive(Debug, clap::Args)]
pub(crate) struct ReapArgs {
    /// State folder [default: /var/lib/cellos for root, $XDG_STATE_HOME/cellos for others]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    signing: SigningOptions,
}

/// Reaps.
pub(crate) fn run(args: &ReapArgs) -> Result<Exit, Failure> {
    let state = state_dir::open(args.state_dir.as_deref())?;
    let logs = EveryLog {
        signing: keys::signing(&args.signing)?,
    };
    let report = reap(&state, &EveryCleaner, &logs, &SystemClock).map_err(Failure::call)?;
    if args.json {
        writeln!(std::io::stdout().lock(), "{}", as_json(&report))?;
    } else {
        print(&report)?;
    }
    for problem in &report.problems {
        say::error(&format!(
            "run {}: {}",
            problem.run.to_string_lossy(),
            problem.message
        ));
    }
    Ok(if report.problems.is_empty() {
        Exit::Success
    } else {
        Exit::Failure
    })
}

fn print(report: &ReapReport) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for run in &report.reaped {
        let event = final_event(run.final_event).1;
        writeln!(
            out,
            "finished run {} of cell {}: {event}",
            run.run_id, run.cell_id
        )?;
        for removed in &run.removed {
            writeln!(out, "  removed {removed}")?;
        }
    }
    writeln!(
        out,
        "{} finished, {} alive, {} not finished",
        report.reaped.len(),
        report.alive.len(),
        report.problems.len()
    )
}

fn final_event(event: FinalEvent) -> (&'static str, &'static str) {
    match event {
        FinalEvent::Written => ("written", "its final event was missing and is written"),
        FinalEvent::AlreadyThere => ("alreadyThere", "its final event was there"),
        FinalEvent::NoFile => ("noFile", "it has no event log of its own"),
    }
}

fn as_json(report: &ReapReport) -> serde_json::Value {
    serde_json::json!({
        "format": "cellos.reap/1",
        "reaped": report.reaped.iter().map(|run| serde_json::json!({
            "runId": run.run_id,
            "cellId": run.cell_id,
            "removed": run.removed,
            "finalEvent": final_event(run.final_event).0,
        })).collect::<Vec<_>>(),
        "alive": report.alive.iter().map(|run| run.to_string_lossy()).collect::<Vec<_>>(),
        "problems": report.problems.iter().map(|problem| serde_json::json!({
            "run": problem.run.to_string_lossy(),
            "message": problem.message,
        })).collect::<Vec<_>>(),
    })
}
