//! `cargo xtask test`: everything that must hold before a change is accepted.

mod advisories;
mod rootless;

use std::path::Path;
use std::process::{Command, ExitCode};

use crate::counts::{self, TestCounts};
use crate::error::TaskError;
use crate::machines::{self, Machines};
use crate::python::{self, Python};
use crate::report::{Outcome, Report};
use crate::workspace::Workspace;
use crate::{limits, packages, process, skips, spec, tools};

/// The nextest profile of the gate, in `.config/nextest.toml`.
const PROFILE: &str = "full";

/// How many promises without a test the summary names; `cargo xtask spec` names them all.
const UNGUARDED_SHOWN: usize = 5;

/// `cargo xtask test`. Steps that need what a broken step makes are not tried; all others are, so
/// that one run tells everything.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<ExitCode, TaskError> {
    if let Some(argument) = arguments.first() {
        return Err(TaskError::usage(format!(
            "test takes no `{argument}`; to run a few tests: cargo nextest run {argument}"
        )));
    }
    let mut report = Report::default();

    report.step("debian packages", || packages::ensure().map(Outcome::Held));
    let tools = report.step("cargo tools", || {
        tools::ensure(workspace).map(Outcome::Held)
    });
    report.step("format", || {
        holds(&mut workspace.cargo(&["fmt", "--all", "--check"]))
    });
    if tools {
        report.step("dependencies", || {
            holds(
                &mut workspace.cargo(&["deny", "--locked", "check", "bans", "licenses", "sources"]),
            )
        });
        report.step("advisories", || advisories::check(workspace));
    } else {
        report.not_tried("dependencies", "cargo-deny is missing");
        report.not_tried("advisories", "cargo-deny is missing");
    }
    report.step("limits page", || {
        limits::check(workspace).map(Outcome::Held)
    });
    report.step("lint", || {
        holds(&mut workspace.cargo(&[
            "clippy",
            "--locked",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))
    });
    let machines = Machines::of(workspace);
    report.step("machines", || machines.prepare(workspace));
    let python = Python::of(workspace);
    report.step("python packages", || python.prepare());
    if tools {
        report.step("tests", || tests(workspace, &machines, &python));
        report.step("doc tests", || doc_tests(workspace));
        report.step("specification", || {
            spec::check(workspace, UNGUARDED_SHOWN).map(Outcome::Held)
        });
        report.step("rootless tests", || {
            rootless::run(workspace, &machines, &python)
        });
    } else {
        for name in ["tests", "specification", "rootless tests"] {
            report.not_tried(name, "cargo-nextest is missing");
        }
        report.step("doc tests", || doc_tests(workspace));
    }
    report.step("documentation", || {
        holds(
            workspace
                .cargo(&["doc", "--locked", "--workspace", "--no-deps", "--quiet"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
    });

    let held = report.held();
    if !held {
        eprintln!("\nthe gate is not passed: see the lines marked FAIL");
    }
    print!("{}", report.summary());
    Ok(if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A command whose success is the whole result.
fn holds(command: &mut Command) -> Result<Outcome, TaskError> {
    process::run(command)?;
    Ok(Outcome::Held("holds".to_owned()))
}

/// Unit, contract and whole-program tests, as whoever runs this.
fn tests(
    workspace: &Workspace,
    machines: &Machines,
    python: &Python,
) -> Result<Outcome, TaskError> {
    let mut command = workspace.cargo(&[
        "nextest",
        "run",
        "--locked",
        "--workspace",
        "--profile",
        PROFILE,
    ]);
    command
        .envs(machines.bundle().map(|bundle| (machines::VARIABLE, bundle)))
        .envs(python.folder().map(|folder| (python::VARIABLE, folder)));
    judge_nextest(&mut command, &workspace.root, OtherTests::AreSkipped)
}

/// What nextest's own number of skipped tests means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OtherTests {
    /// Tests that are marked as ignored: skipped, and counted so.
    AreSkipped,
    /// Tests outside the filter, which ran in another step.
    RanElsewhere,
}

/// Where nextest keeps its reports, wherever the build products are.
const REPORTS: &str = "target/nextest";

/// Runs nextest over the checkout at `root`, and counts.
fn judge_nextest(
    command: &mut Command,
    root: &Path,
    others: OtherTests,
) -> Result<Outcome, TaskError> {
    let report = root.join(REPORTS).join(PROFILE).join("junit.xml");
    // One of an earlier run must not be taken for this one's.
    if report.exists() {
        std::fs::remove_file(&report).map_err(TaskError::file("remove", &report))?;
    }
    let captured = process::tee(command)?;
    let Some(mut counts) = counts::nextest(&captured.text) else {
        process::succeeded(command, captured.status)?;
        return Err(TaskError::unreadable(
            "cargo nextest",
            "it printed no summary",
        ));
    };
    if others == OtherTests::RanElsewhere {
        counts.skipped = 0;
    }
    agree(command, captured.status, counts)?;
    let skips = skips::read(&report)?;
    skips::apply(&mut counts, &skips);
    Ok(Outcome::Tests(counts, skips))
}

fn doc_tests(workspace: &Workspace) -> Result<Outcome, TaskError> {
    let mut command = workspace.cargo(&[
        "test",
        "--doc",
        "--locked",
        "--workspace",
        "--no-fail-fast",
        "--quiet",
    ]);
    let captured = process::tee(&mut command)?;
    let Some(counts) = counts::libtest(&captured.text) else {
        process::succeeded(&command, captured.status)?;
        return Ok(Outcome::Tests(TestCounts::default(), Vec::new()));
    };
    agree(&command, captured.status, counts)?;
    Ok(Outcome::Tests(counts, Vec::new()))
}

/// A runner that failed without a failed test (or the other way round) is not to be trusted.
fn agree(
    command: &Command,
    status: std::process::ExitStatus,
    counts: TestCounts,
) -> Result<(), TaskError> {
    if counts.failed == 0 {
        return process::succeeded(command, status);
    }
    if status.success() {
        return Err(TaskError::unreadable(
            process::display(command),
            "it counted failed tests and ended with success",
        ));
    }
    Ok(())
}
