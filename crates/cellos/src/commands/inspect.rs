//! `cellos inspect`: all that a log says about one run.

use std::io::Write as _;

use cellos_evidence::projection::{RunView, Snapshot};
use serde::Serialize;

use crate::{
    exit::Exit,
    failure::Failure,
    runs::{LogArgs, find::find},
    say,
};

/// Prints all that the log says about one run, as JSON.
///
/// What a cell was granted, what it used, how it ended, what was left, and what is wrong with its events. Signatures are
/// not checked: `cellos verify` does that.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// Run id, cell id (its latest run), CELL/RUN, the beginning of an id, or `latest`
    #[arg(value_name = "RUN")]
    run: String,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Inspection<'a> {
    /// Version of this form.
    format: &'static str,
    run_id: &'a str,
    cell_id: &'a str,
    /// The state in the published words.
    snapshot: Snapshot,
    run: &'a RunView,
}

/// Looks.
pub(crate) fn run(args: &InspectArgs) -> Result<Exit, Failure> {
    let (log, _) = args.log.open()?;
    let run = find(&log, &args.run)?;
    let inspection = Inspection {
        format: "cellos.inspect/1",
        run_id: &run.key.run_id,
        cell_id: &run.key.cell_id,
        snapshot: Snapshot::of(&run),
        run: &run,
    };
    let text = serde_json::to_string_pretty(&inspection).map_err(Failure::program)?;
    writeln!(std::io::stdout().lock(), "{}", say::harmless_json(&text))?;
    Ok(Exit::Success)
}
