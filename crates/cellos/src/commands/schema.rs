//! `cellos schema`: the JSON Schema of a document.

use std::io::Write as _;

use crate::{exit::Exit, failure::Failure};

/// Prints the JSON Schema (draft 2020-12) of a document, for editors and other programs.
#[derive(Debug, clap::Args)]
pub(crate) struct SchemaArgs {
    /// The kind of document
    #[arg(value_enum, default_value_t)]
    kind: SchemaKind,
}

/// The documents that there are.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum SchemaKind {
    /// One execution cell
    #[default]
    ExecutionCell,
}

/// Prints it.
pub(crate) fn run(args: &SchemaArgs) -> Result<Exit, Failure> {
    let schema = match args.kind {
        SchemaKind::ExecutionCell => cellos_core::schema::execution_cell(),
    };
    let text = serde_json::to_string_pretty(&schema).map_err(Failure::program)?;
    writeln!(std::io::stdout().lock(), "{text}")?;
    Ok(Exit::Success)
}
