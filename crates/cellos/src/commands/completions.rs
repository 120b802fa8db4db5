//! `cellos completions`: completions for a shell, on standard output.

use clap_complete::Shell;

use crate::{exit::Exit, failure::Failure};

/// Prints completions for a shell.
///
/// For bash: cellos completions bash > ~/.local/share/bash-completion/completions/cellos
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Prints them.
pub(crate) fn run(args: &CompletionsArgs, command: &mut clap::Command) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, command, "cellos", &mut text);
    std::io::Write::write_all(&mut std::io::stdout().lock(), &text)?;
    Ok(Exit::Success)
}
