//! `cellos doctor`: what this host offers.

use std::io::Write as _;

use cellos_core::descriptor::{BackendDescriptor, Support};
use serde::Serialize;

use crate::{
    compose,
    doctor::{self, Check, State, machines::Boot},
    exit::Exit,
    failure::Failure,
    say::{ASIDE, ERROR, GOOD, STRONG, WARNING},
};

/// Says what this host offers to cells, what it means, and how to mend what is missing.
///
/// Ends in 0 when the default backend works here, in 125 when it does not.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Boot a virtual machine as well, which takes seconds, and say whether KVM runs it
    #[arg(long)]
    machine: bool,
}

/// Whether cells can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Verdict {
    Works,
    Broken,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    /// Version of this form.
    format: &'static str,
    default_backend: &'static str,
    verdict: Verdict,
    checks: &'a [Check],
    /// What the default backend enforces here.
    backend: &'a BackendDescriptor,
    /// Why a trial cell could not be made and taken apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    trial_error: Option<String>,
}

/// Looks, and says so.
pub(crate) fn run(args: &DoctorArgs) -> Result<Exit, Failure> {
    // The trial first: it forks a launcher, which needs this process to have one thread.
    let trial = doctor::trial_cell();
    let backend = compose::descriptor(compose::DEFAULT_BACKEND)?;
    let checks = doctor::look(if args.machine { Boot::Try } else { Boot::No });
    let verdict = match trial {
        Ok(()) => Verdict::Works,
        Err(_) => Verdict::Broken,
    };
    if args.json {
        let report = Report {
            format: "cellos.doctor/1",
            default_backend: compose::DEFAULT_BACKEND,
            verdict,
            checks: &checks,
            backend: &backend,
            trial_error: trial.as_ref().err().map(Failure::message),
        };
        let text = serde_json::to_string_pretty(&report).map_err(Failure::program)?;
        writeln!(std::io::stdout().lock(), "{text}")?;
    } else {
        print_checks(&checks);
        print_backend(&backend);
        if let Err(failure) = &trial {
            anstream::println!(
                "\n{ERROR}A trial cell failed:{ERROR:#} {}",
                failure.message()
            );
        }
        print_verdict(verdict);
    }
    Ok(match verdict {
        Verdict::Works => Exit::Success,
        Verdict::Broken => Exit::Failure,
    })
}

/// Width of the column of names.
const NAME_WIDTH: usize = 24;

fn print_checks(checks: &[Check]) {
    let mut area = None;
    for check in checks {
        if area != Some(check.area) {
            area = Some(check.area);
            anstream::println!("{STRONG}{}{STRONG:#}", check.area);
        }
        let (style, mark) = match check.state {
            State::Works => (GOOD, "ok"),
            State::Missing => (WARNING, "--"),
            State::Blocking => (ERROR, "!!"),
            State::Info => (ASIDE, "  "),
        };
        anstream::println!(
            "  {style}{mark}{style:#} {:NAME_WIDTH$} {}; {}",
            check.name,
            check.found,
            check.meaning
        );
        if let Some(mend) = &check.mend {
            anstream::println!("     {:NAME_WIDTH$} {ASIDE}mend:{ASIDE:#} {mend}", "");
        }
    }
}

fn print_backend(descriptor: &BackendDescriptor) {
    anstream::println!("{STRONG}backend {}{STRONG:#}", descriptor.name);
    for (feature, support) in &descriptor.features {
        let feature = feature.to_string();
        match support {
            Support::Enforced { mechanism } => {
                anstream::println!("  {GOOD}ok{GOOD:#} {feature:NAME_WIDTH$} {mechanism}")
            }
            Support::Unavailable { why, mend } => {
                anstream::println!("  {WARNING}--{WARNING:#} {feature:NAME_WIDTH$} {why}");
                anstream::println!("     {:NAME_WIDTH$} {ASIDE}mend:{ASIDE:#} {mend}", "");
            }
        }
    }
}

fn print_verdict(verdict: Verdict) {
    match verdict {
        Verdict::Works => {
            anstream::println!("\n{GOOD}Cells can run here: one was made and taken apart.{GOOD:#}")
        }
        Verdict::Broken => anstream::println!(
            "\n{ERROR}Cells cannot run here.{ERROR:#} What is marked !! says why, where anything is."
        ),
    }
}
