//! `cellos vm`: what the microVM backend boots.

mod keys;
mod make;
mod verify;

use crate::{exit::Exit, failure::Failure};

/// Makes and checks what the microVM backend boots: a kernel, our init, a read-only root.
#[derive(Debug, clap::Args)]
pub(crate) struct VmArgs {
    #[command(subcommand)]
    command: VmCommand,
}

#[derive(Debug, clap::Subcommand)]
enum VmCommand {
    Prepare(make::PrepareArgs),
    Build(make::BuildArgs),
    Verify(verify::VerifyArgs),
}

/// Does what the subcommand says.
pub(crate) fn run(args: &VmArgs) -> Result<Exit, Failure> {
    match &args.command {
        VmCommand::Prepare(args) => make::prepare(args),
        VmCommand::Build(args) => make::build(args),
        VmCommand::Verify(args) => verify::run(args),
    }
}
