//! The command line of `cellos`: its commands, and the way from arguments to work.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand, error::ErrorKind};

use crate::{
    commands::{
        attest, completions, doctor, explain, forward, inspect, keys, man, prove, ps, reap, run,
        schema, validate, verify, version, vm, why,
    },
    compose::PreparedBackend,
    exit::Exit,
    failure::Failure,
    logging, say,
};

/// Runs commands nobody should trust inside execution cells, and writes down what happened.
///
/// A cell reaches exactly what its document grants, lives no longer than it allows, and leaves a
/// log of what it was allowed, what it did, and that nothing of it is left.
#[derive(Debug, Parser)]
#[command(
    name = "cellos",
    version,
    disable_help_subcommand = true,
    propagate_version = false
)]
#[command(max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The commands; what each says about itself stands with its arguments.
#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::RunArgs>),
    Validate(validate::ValidateArgs),
    Doctor(doctor::DoctorArgs),
    Schema(schema::SchemaArgs),
    Attest(Box<attest::AttestArgs>),
    Ps(ps::PsArgs),
    Inspect(inspect::InspectArgs),
    Explain(explain::ExplainArgs),
    Why(why::WhyArgs),
    Verify(Box<verify::VerifyArgs>),
    Prove(Box<prove::ProveArgs>),
    Reap(reap::ReapArgs),
    Keys(keys::KeysArgs),
    Forward(forward::ForwardArgs),
    Vm(vm::VmArgs),
    Version(version::VersionArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

/// The whole program from here on.
pub(crate) fn main(begun: Option<PreparedBackend>) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error).into(),
    };
    match dispatch(cli.command, begun) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.report();
            failure.exit().into()
        }
    }
}

fn dispatch(command: Command, begun: Option<PreparedBackend>) -> Result<Exit, Failure> {
    let verbosity = match &command {
        Command::Run(args) => args.verbosity(),
        _ => 0,
    };
    logging::start(verbosity).map_err(Failure::call)?;
    match command {
        Command::Run(args) => run::run(*args, begun),
        Command::Validate(args) => validate::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Attest(args) => attest::run(&args),
        Command::Ps(args) => ps::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Why(args) => why::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Prove(args) => prove::run(&args),
        Command::Reap(args) => reap::run(&args),
        Command::Keys(args) => keys::run(&args),
        Command::Forward(args) => forward::run(&args),
        Command::Vm(args) => vm::run(&args),
        Command::Version(args) => version::run(&args),
        Command::Completions(args) => completions::run(&args, &mut Cli::command()),
        Command::Man(args) => man::run(&args, Cli::command()),
    }
}

/// Prints what clap has to say. Wrong usage is 125 and not clap's own 2: `cellos run` passes the
/// workload's code on, and nobody could tell whose 2 it is.
fn usage(error: &clap::Error) -> Exit {
    if error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        say::write(format_args!("cellos: "));
    }
    // Where standard error is gone there is nobody to tell.
    let _ = error.print();
    if error.use_stderr() {
        Exit::Failure
    } else {
        Exit::Success
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
