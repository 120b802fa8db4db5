//! Developer tasks, run as `cargo xtask TASK`.
#![forbid(unsafe_code)]

mod bench;
mod counts;
mod error;
mod limits;
mod machines;
mod packages;
mod process;
mod python;
mod report;
mod skips;
mod spec;
mod test;
mod tools;
mod workspace;

use std::process::ExitCode;

use error::TaskError;
use workspace::Workspace;

const USAGE: &str = "\
Developer tasks of CellOS.

Usage: cargo xtask TASK

Tasks:
  test    Install what is missing, then format, lint, licence, unit, contract, whole-program,
          doc and rootless checks, and a summary
  bench   Compare `cellos run` with bubblewrap, crun and a plain process in one run
            --rounds N      measured rounds for each program     [default: 200]
            --warm-up N     rounds before them that do not count [default: 20]
            --cellos PATH   measure this binary, build nothing
            --document FILE also measure `cellos run FILE`
            --write         put the tables into BENCHMARKS.md
  spec    Check that every test named in SPECIFICATION.md exists, and that every bound in
          docs/limits.md has the value that the source has
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<ExitCode, TaskError> {
    let Some((task, rest)) = arguments.split_first() else {
        eprint!("{USAGE}");
        return Ok(ExitCode::from(2));
    };
    match task.as_str() {
        "test" => test::run(&Workspace::locate()?, rest),
        "bench" => bench::run(&Workspace::locate()?, rest),
        "spec" => spec::run(&Workspace::locate()?, rest),
        // Started by `bench` itself; see the module for what it speaks.
        bench::runner::TASK => bench::runner::serve(),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        unknown => Err(TaskError::usage(format!(
            "no task `{unknown}`; there are test, bench and spec"
        ))),
    }
}
