//! `cellos version`.

use std::io::Write as _;

use crate::{compose, exit::Exit, failure::Failure};

/// Prints the version of the program, of the documents it reads and the backends it has.
#[derive(Debug, clap::Args)]
pub(crate) struct VersionArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// The version of the program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prints it.
pub(crate) fn run(args: &VersionArgs) -> Result<Exit, Failure> {
    let mut out = std::io::stdout().lock();
    let backends: Vec<&str> = compose::backend_names().collect();
    let api = cellos_core::document::API_VERSION;
    if args.json {
        let value = serde_json::json!({
            "version": VERSION,
            "documents": [{"apiVersion": api, "kind": cellos_core::document::KIND_EXECUTION_CELL}],
            "backends": backends,
        });
        writeln!(out, "{value}")?;
    } else {
        writeln!(out, "cellos {VERSION}")?;
        writeln!(out, "documents  {api}")?;
        writeln!(out, "backends   {}", backends.join(", "))?;
    }
    Ok(Exit::Success)
}
