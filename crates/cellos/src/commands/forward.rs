//! `cellos forward`: delivers the log to remote sinks.

use std::{io::Write as _, path::PathBuf, time::Duration};

use cellos_sinks::{forward::Until, remote::Reach};
use serde_json::{Value, json};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    exit::Exit,
    failure::Failure,
    say,
    sinks::{self, Ended, Report, Which},
    state_dir,
};

/// Delivers the events of the log to the sinks of a file, from where each of them has got to.
///
/// Ends when nothing is left or nobody takes it. An event may arrive twice after a failure, and is never left out; its id tells. Exit code 125 says that something is left.
#[derive(Debug, clap::Args)]
pub(crate) struct ForwardArgs {
    /// The sinks: a YAML file of kind `EventSinks`
    #[arg(long, value_name = "FILE", env = "CELLOS_SINKS")]
    sinks: Option<PathBuf>,
    /// The log [default: the log in the state folder]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// State folder [default: /var/lib/cellos for root, $XDG_STATE_HOME/cellos for others]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Deliver what is there and end; the default
    #[arg(long, conflicts_with = "follow")]
    once: bool,
    /// Go on with what comes, until a signal ends it
    #[arg(long)]
    follow: bool,
    /// Report as JSON
    #[arg(long)]
    json: bool,
}

/// How long what is under way may go on when a signal ends a follower. Nothing is lost without it:
/// the next one begins where this one ends.
const END_WITHIN: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("no sinks are named")]
    NoSinks,
    #[error("standard output cannot hold both a report as JSON and the events of sink {name}")]
    OutputTaken { name: String },
    #[error("signal handlers cannot be installed")]
    Signals(#[source] std::io::Error),
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
}

/// Forwards.
pub(crate) fn run(args: &ForwardArgs) -> Result<Exit, Failure> {
    let Some(settings) = sinks::configured(args.sinks.as_deref())? else {
        return Err(Failure::call(CallError::NoSinks)
            .hint("name a file with --sinks, or in the variable CELLOS_SINKS"));
    };
    let on_our_output = settings
        .sinks
        .iter()
        .find(|sink| sink.config.reach() == Reach::OwnOutput)
        .map(|sink| sink.name.clone());
    if let (true, Some(name)) = (args.json, &on_our_output) {
        let name = name.clone();
        return Err(Failure::call(CallError::OutputTaken { name }));
    }
    let log = match &args.log {
        Some(log) => log.clone(),
        None => state_dir::event_log(&state_dir::open(args.state_dir.as_deref())?)?,
    };
    let within = args.follow.then(|| settings.deliver_within.min(END_WITHIN));
    let (told, until) = watch::channel(match args.follow {
        true => Until::Told,
        false => Until::Empty,
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::call(CallError::Runtime(error)))?;
    let reports = runtime.block_on(async {
        if args.follow {
            end_at_a_signal(told).map_err(|error| Failure::call(CallError::Signals(error)))?;
        }
        Ok::<_, Failure>(sinks::deliver(settings, log.clone(), Which::All, until, within).await)
    })?;
    // A name that is being looked up is not waited for.
    runtime.shutdown_background();
    if args.json {
        let report = json!({
            "format": "cellos.forward/1",
            "log": log.display().to_string(),
            "sinks": reports.iter().map(as_json).collect::<Vec<_>>(),
        });
        writeln!(std::io::stdout().lock(), "{report}")?;
    } else {
        for report in &reports {
            let line = say::harmless(&as_line(report));
            match on_our_output {
                Some(_) => say::note(&line),
                None => writeln!(std::io::stdout().lock(), "{line}")?,
            }
        }
    }
    Ok(match reports.iter().all(Report::is_complete) {
        true => Exit::Success,
        false => Exit::Failure,
    })
}

fn end_at_a_signal(told: watch::Sender<Until>) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        // Where nobody listens everything has ended.
        let _ = told.send(Until::Empty);
    });
    Ok(())
}

fn as_line(report: &Report) -> String {
    let left = match report.left {
        Some(left) => format!("{left} left"),
        None => "what is left cannot be told".to_owned(),
    };
    let reason = report.reason().map(|reason| format!(": {reason}"));
    format!(
        "{} ({}): {} delivered, {left}{}",
        report.name,
        report.kind,
        report.delivered,
        reason.unwrap_or_default()
    )
}

fn as_json(report: &Report) -> Value {
    json!({
        "name": report.name,
        "kind": report.kind,
        "delivered": report.delivered,
        "left": report.left,
        "end": match report.end {
            Ended::Complete => "complete",
            Ended::Away(_) => "away",
            Ended::Refused(_) => "refused",
            Ended::Failed(_) => "failed",
            Ended::OutOfTime(_) => "outOfTime",
        },
        "reason": report.reason(),
    })
}
