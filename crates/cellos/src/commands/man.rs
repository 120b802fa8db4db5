//! `cellos man`: manual pages, one per command.

use std::{io, path::PathBuf};

use crate::{exit::Exit, failure::Failure};

/// Writes the manual pages of cellos and its commands into a folder.
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// The folder, such as /usr/local/share/man/man1
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

#[derive(Debug, thiserror::Error)]
#[error("manual pages cannot be written to {}", folder.display())]
struct ManError {
    folder: PathBuf,
    source: io::Error,
}

/// Writes them.
pub(crate) fn run(args: &ManArgs, command: clap::Command) -> Result<Exit, Failure> {
    std::fs::create_dir_all(&args.folder)
        .and_then(|()| clap_mangen::generate_to(command, &args.folder))
        .map_err(|source| {
            Failure::call(ManError {
                folder: args.folder.clone(),
                source,
            })
        })?;
    Ok(Exit::Success)
}
