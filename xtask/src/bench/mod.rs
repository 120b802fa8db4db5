//! `cargo xtask bench`: what a cell costs, beside what a user would take instead, in one run.

mod bundle;
mod conditions;
mod contenders;
mod document;
mod in_process;
mod options;
pub(crate) mod runner;
mod statistics;
mod table;

use std::process::ExitCode;
use std::time::Duration;

use contenders::{Contender, Workload};
use options::Options;
use runner::Runner;
use statistics::Distribution;

use crate::error::TaskError;
use crate::workspace::{ScratchFolder, Workspace};

/// What one contender needed for one workload, or why it could not be measured.
pub(crate) struct Measured {
    name: &'static str,
    result: Result<Distribution, String>,
}

pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<ExitCode, TaskError> {
    let options = Options::parse(arguments)?;
    let cellos = match &options.cellos {
        Some(path) => path.clone(),
        None => workspace.release_program("cellos")?,
    };
    let scratch = ScratchFolder::create("cellos-bench")?;
    let mut text = conditions::describe(&options);
    let mut reference = None;
    let mut unmeasured = Vec::new();
    for workload in Workload::ALL {
        let contenders = contenders::all(workload, &cellos, &options, &scratch)?;
        let measured = measure(contenders, &options)?;
        if workload == Workload::True {
            reference = contenders::reference(&measured).map(|distribution| distribution.p50);
        }
        text.push_str(&table::whole_process(workload, &measured));
        // Others may be missing on a machine; what this is about may not.
        unmeasured.extend(measured.into_iter().filter_map(|entry| {
            let why = entry.result.err()?;
            let ours = entry.name.starts_with(contenders::OURS);
            ours.then(|| format!("{} could not be measured: {why}", entry.name))
        }));
    }
    text.push_str(&in_process::measure(workspace, reference)?);
    text.push_str(&in_process::measure_evidence(workspace)?);
    text.push_str(&in_process::measure_egress(workspace, &cellos)?);
    text.push_str(&in_process::measure_machines(workspace)?);
    println!("{text}");
    if !unmeasured.is_empty() {
        return Err(TaskError::Broken(unmeasured));
    }
    if options.write {
        document::replace(workspace, &text)?;
        eprintln!("written to {}", document::FILE);
    }
    Ok(ExitCode::SUCCESS)
}

/// One round runs every contender once, so that whatever else the machine does hits all alike.
fn measure(contenders: Vec<Contender>, options: &Options) -> Result<Vec<Measured>, TaskError> {
    let mut lanes: Vec<(&'static str, Result<Lane, String>)> = contenders
        .into_iter()
        .map(|contender| (contender.name, Lane::open(contender)))
        .collect();
    let count = lanes.len();
    for round in 0..options.warm_up + options.rounds {
        for position in 0..count {
            // Each round begins with another contender, so that none always follows the same one.
            let Some((name, lane)) = lanes.get_mut((round + position) % count) else {
                continue;
            };
            let Ok(open) = lane else { continue };
            match open.runner.measure(&open.argv)? {
                Ok(took) if round >= options.warm_up => open.samples.push(took),
                Ok(_) => {}
                Err(why) => {
                    eprintln!("{name}: round {round}: {why}");
                    *lane = Err(format!("failed in round {round}: {why}"));
                }
            }
        }
    }
    Ok(lanes
        .into_iter()
        .map(|(name, lane)| Measured {
            name,
            result: lane.and_then(|lane| {
                Distribution::of(lane.samples).ok_or_else(|| "no rounds".to_owned())
            }),
        })
        .collect())
}

/// A contender that works here, and what it has needed so far.
struct Lane {
    runner: Runner,
    argv: Vec<String>,
    samples: Vec<Duration>,
}

impl Lane {
    /// Tries the contender once, with its complaints kept.
    fn open(contender: Contender) -> Result<Self, String> {
        let argv = contender.argv?;
        contenders::try_once(&argv, contender.place)?;
        let runner = Runner::start(contender.place).map_err(|error| error.to_string())?;
        Ok(Self {
            runner,
            argv,
            samples: Vec::new(),
        })
    }
}
