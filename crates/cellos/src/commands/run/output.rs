//! What a run says: the result record, the document, the end and the timings.

use std::{
    fs::File,
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use cellos_core::{
    CellosError, ExecutionCellDocument, document::SecretDeliveryMode, ports::workload::LimitHit,
};
use cellos_supervisor::{RESULT_FORMAT_VERSION, RunError, RunOutcome, describe_limit};
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};

use crate::{exit::Exit, failure::Failure, say};

/// Where the result record, or the attestations, go.
#[derive(Debug)]
pub(super) enum RecordTarget {
    StandardOutput,
    /// Open from before the cell runs: a workload that can write where the file lies could put a
    /// link or a FIFO in its place.
    File {
        what: &'static str,
        path: PathBuf,
        file: File,
    },
}

#[derive(Debug, thiserror::Error)]
#[error("the {what} cannot be written to {}", path.display())]
struct RecordError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl RecordTarget {
    /// `-` is standard output; a file is made, and opened, right away.
    pub(super) fn open(what: &'static str, argument: &Path) -> Result<Self, Failure> {
        if argument.as_os_str() == "-" {
            return Ok(Self::StandardOutput);
        }
        match open_record(argument) {
            Ok(file) => Ok(Self::File {
                what,
                path: argument.to_path_buf(),
                file,
            }),
            Err(source) => Err(unwritable(what, argument, source)),
        }
    }

    /// Writes the record as one line.
    pub(super) fn write(&self, record: &Value) -> Result<(), Failure> {
        self.write_text(&format!("{record}\n"))
    }

    /// Writes a text as it is.
    pub(super) fn write_text(&self, text: &str) -> Result<(), Failure> {
        match self {
            Self::StandardOutput => io::stdout().lock().write_all(text.as_bytes())?,
            Self::File { what, path, file } => {
                replace_content(file, text).map_err(|source| unwritable(what, path, source))?;
            }
        }
        Ok(())
    }
}

fn unwritable(what: &'static str, path: &Path, source: io::Error) -> Failure {
    Failure::call(RecordError {
        what,
        path: path.to_path_buf(),
        source,
    })
}

/// Opens without waiting for a FIFO's other end. A link may be an earlier workload's, so none is
/// followed except those that the system itself makes, `/dev/stderr` and `/dev/fd/N`.
fn open_record(path: &Path) -> io::Result<File> {
    let mut flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY;
    flags |= OFlags::NONBLOCK;
    if !path.starts_with("/dev") {
        flags |= OFlags::NOFOLLOW;
    }
    let file = File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o666))?);
    rustix::io::ioctl_fionbio(&file, false)?;
    Ok(file)
}

fn replace_content(mut file: &File, content: &str) -> io::Result<()> {
    let metadata = file.metadata()?;
    if metadata.is_file() {
        if metadata.nlink() == 0 {
            return Err(io::Error::other("it was deleted while the cell ran"));
        }
        file.set_len(0)?;
    }
    file.write_all(content.as_bytes())
}

/// The record of a run.
pub(super) fn record(outcome: &RunOutcome, events: &Path) -> Result<Value, Failure> {
    let mut record = serde_json::to_value(outcome.record()).map_err(Failure::program)?;
    if let Value::Object(fields) = &mut record {
        fields.insert("eventsFile".into(), json!(events.to_string_lossy()));
        fields.insert("shellExitCode".into(), json!(exit(outcome).code()));
    }
    Ok(record)
}

/// The record of a run that never began.
pub(super) fn failure_record(run_id: &str, failure: &Failure) -> Value {
    json!({
        "formatVersion": RESULT_FORMAT_VERSION,
        "runId": run_id,
        "succeeded": false,
        "endedBy": "notStarted",
        "shellExitCode": failure.exit().code(),
        "error": failure.message(),
        "problems": failure.problems(),
    })
}

/// The exit code of a run.
pub(super) fn exit(outcome: &RunOutcome) -> Exit {
    match &outcome.first_error {
        // The document asks for what this host does not have, which only building the cell found.
        Some(RunError::Create(CellosError::InvalidSpec(_) | CellosError::ArgvTooLarge { .. })) => {
            Exit::Refused
        }
        _ => Exit::from_shell_code(outcome.shell_exit_code()),
    }
}

/// Says how a run ended, unless the command simply returned a code: that is its caller's business.
pub(super) fn say_how_it_ended(outcome: &RunOutcome) {
    match &outcome.first_error {
        None | Some(RunError::Exited { .. }) => {}
        // Without the prefix that the published events put before it: nothing failed to spawn.
        Some(RunError::Deadline(deadline)) => say::error(&deadline.to_string()),
        Some(RunError::Release(refusal)) => say::error(&refusal.to_string()),
        Some(RunError::Create(CellosError::InvalidSpec(problem))) => say::error(problem),
        Some(error) => say::error(&error.to_string()),
    }
    for error in &outcome.later_errors {
        say::warning(&format!("afterwards: {error}"));
    }
    // A command seldom says why it failed when a limit was the reason, and may even hide it.
    let hits = outcome.exit_report.iter().flat_map(|end| &end.limits_hit);
    for hit in hits.filter(|hit| !is_the_end(outcome, **hit)) {
        say::warning(&format!("limit: {}", describe_limit(*hit)));
    }
}

/// Whether a limit is what ended the command, and has been said.
fn is_the_end(outcome: &RunOutcome, hit: LimitHit) -> bool {
    outcome.first_error == Some(RunError::Limit { hit })
}

/// Says how long each phase took.
pub(super) fn say_timings(outcome: &RunOutcome) {
    let mut total = 0;
    for timing in &outcome.timings {
        total += timing.micros;
        say::note(&format!(
            "{:8} {:>9} µs",
            timing.phase.to_string(),
            timing.micros
        ));
    }
    say::note(&format!("{:8} {total:>9} µs", "total"));
}

/// How a document is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum DocumentFormat {
    Yaml,
    Json,
}

/// Prints a document without the fields that are unset.
pub(super) fn print_document(
    document: &ExecutionCellDocument,
    format: DocumentFormat,
) -> Result<(), Failure> {
    let text = document_text(document, format)?;
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// A document as a person would write it, with a line break at its end.
pub(super) fn document_text(
    document: &ExecutionCellDocument,
    format: DocumentFormat,
) -> Result<String, Failure> {
    let value = document_value(document)?;
    let text = match format {
        DocumentFormat::Yaml => serde_saphyr::to_string(&value).map_err(Failure::program)?,
        DocumentFormat::Json => serde_json::to_string_pretty(&value).map_err(Failure::program)?,
    };
    Ok(format!("{}\n", text.trim_end()))
}

/// The document as a person would write it: without the fields that are unset.
pub(crate) fn document_value(document: &ExecutionCellDocument) -> Result<Value, Failure> {
    let mut value = serde_json::to_value(document).map_err(Failure::program)?;
    drop_unset(&mut value);
    drop_default_delivery(&mut value);
    Ok(value)
}

/// Unlike the others this field is written when it is unset, which says nothing to a person.
fn drop_default_delivery(document: &mut Value) {
    let default = serde_json::to_value(SecretDeliveryMode::default()).ok();
    if let Some(Value::Object(run)) = document.pointer_mut("/spec/run")
        && run.get("secretDelivery") == default.as_ref()
    {
        run.remove("secretDelivery");
    }
}

fn drop_unset(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_unset);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_unset),
        _ => {}
    }
}
