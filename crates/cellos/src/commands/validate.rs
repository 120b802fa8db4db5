//! `cellos validate`: whether documents would be admitted.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use cellos_core::{
    descriptor::BackendDescriptor,
    source::{Problem, UnknownFields},
};
use serde::Serialize;

use crate::{
    compose,
    document_file::DocumentSource,
    exit::Exit,
    failure::Failure,
    intake::{Intake, IntakeError},
    say::{self, GOOD},
};

/// Says whether documents would be admitted, and everything that is wrong with them.
///
/// Nothing is run. Ends in 0 when all would be admitted, 126 when one is refused, 125 when one cannot be read.
#[derive(Debug, clap::Args)]
pub(crate) struct ValidateArgs {
    /// Documents, YAML or JSON; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Also check that this backend enforces on this host what they ask for
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Write the findings as JSON to standard output
    #[arg(long)]
    json: bool,
    /// Say nothing about documents that are in order
    #[arg(long, short)]
    quiet: bool,
}

/// What was found about one document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    file: String,
    verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    problems: Vec<Problem>,
}

/// What would become of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Verdict {
    Admitted,
    Refused,
    Unreadable,
}

/// The findings as JSON.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// Version of this form.
    format: &'static str,
    documents: &'a [Finding],
}

/// Checks them.
pub(crate) fn run(args: &ValidateArgs) -> Result<Exit, Failure> {
    let backend = match &args.backend {
        // A run may well name a folder for artifacts.
        Some(name) => Some(compose::with_exports(
            compose::descriptor(name)?,
            Some(Path::new(".")),
        )),
        None => None,
    };
    let mut findings = Vec::new();
    for file in &args.files {
        let finding = check(&DocumentSource::from_argument(file), backend.as_ref(), args);
        if !args.json && !args.quiet && finding.verdict == Verdict::Admitted {
            anstream::println!("{}: {GOOD}ok{GOOD:#}", finding.file);
        }
        findings.push(finding);
    }
    if args.json {
        let report = Report {
            format: "cellos.validate/1",
            documents: &findings,
        };
        let text = serde_json::to_string_pretty(&report).map_err(Failure::program)?;
        writeln!(std::io::stdout().lock(), "{}", say::harmless_json(&text))?;
    }
    let has = |verdict| findings.iter().any(|finding| finding.verdict == verdict);
    Ok(if has(Verdict::Unreadable) {
        Exit::Failure
    } else if has(Verdict::Refused) {
        Exit::Refused
    } else {
        Exit::Success
    })
}

fn check(
    source: &DocumentSource,
    backend: Option<&BackendDescriptor>,
    args: &ValidateArgs,
) -> Finding {
    let file = source.to_string();
    match admit(source, backend) {
        Ok(()) => Finding {
            file,
            verdict: Verdict::Admitted,
            error: None,
            problems: Vec::new(),
        },
        Err(IntakeError::Unreadable(error)) => {
            let failure = Failure::call(error);
            if !args.json {
                failure.report();
            }
            Finding {
                file,
                verdict: Verdict::Unreadable,
                error: Some(failure.message()),
                problems: Vec::new(),
            }
        }
        Err(IntakeError::Refused(refusal)) => {
            if !args.json {
                refusal.report();
            }
            Finding {
                file,
                verdict: Verdict::Refused,
                error: None,
                problems: refusal.problems,
            }
        }
    }
}

fn admit(source: &DocumentSource, backend: Option<&BackendDescriptor>) -> Result<(), IntakeError> {
    let mut intake = Intake::read(source, None, UnknownFields::Refuse)?;
    intake.anchor_mounts(source)?;
    intake
        .admit(backend, || {
            backend.map_or_else(Vec::new, |chosen| compose::other_descriptors(&chosen.name))
        })
        .map(drop)
        .map_err(IntakeError::Refused)
}
