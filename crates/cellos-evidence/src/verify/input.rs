//! Which files are a log, and what form each of them has.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use super::{VerifyError, report::LogFormat};
use crate::log::{Segments, SegmentsError};

/// How much of the beginning of a file tells its form, in bytes.
const LOOK_BYTES: usize = 256 * 1024;
/// Name of a log in its folder.
const LOG_NAME: &str = "events.jsonl";
/// Name of the rows of a published chain in its folder.
pub(super) const AUDIT_NAME: &str = "audit-trail.jsonl";

/// A file that is opened, and what it is.
pub(super) struct Input {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) format: LogFormat,
}

/// The log at a path, and its files in order. A folder is searched for the log in it, and a log
/// for the sealed segments beside it, as every reader finds them. Of links only the one that is
/// named is followed.
pub(super) fn files(path: &Path) -> Result<(PathBuf, Vec<PathBuf>), VerifyError> {
    let failed = |source| VerifyError::Io {
        path: path.to_owned(),
        operation: "open it",
        source,
    };
    if path.is_dir() {
        for name in [LOG_NAME, AUDIT_NAME] {
            let log = path.join(name);
            let files = beside(&log)?;
            if !files.is_empty() {
                return Ok((log, files));
            }
        }
        return Err(VerifyError::NothingThere {
            path: path.to_owned(),
        });
    }
    let log = match path.is_symlink() {
        true => path.canonicalize().map_err(failed)?,
        false => path.to_owned(),
    };
    let files = beside(&log)?;
    match files.is_empty() {
        true => Err(failed(io::ErrorKind::NotFound.into())),
        false => Ok((log, files)),
    }
}

/// The files of the log at a path.
fn beside(log: &Path) -> Result<Vec<PathBuf>, VerifyError> {
    match Segments::of(log) {
        Ok(segments) => Ok(segments.files().map(Path::to_owned).collect()),
        // A name that is no text can have no segments.
        Err(SegmentsError::NoName { .. }) if log.exists() => Ok(vec![log.to_owned()]),
        Err(SegmentsError::NotAFile { path }) => Err(VerifyError::NotAFile { path }),
        Err(SegmentsError::Io { path, source }) => Err(VerifyError::Io {
            path,
            operation: "look for its files",
            source,
        }),
        Err(error) => Err(error.into()),
    }
}

/// Opens a regular file and looks what it is.
pub(super) fn open(path: &Path) -> Result<Input, VerifyError> {
    let failed = |operation| {
        move |source| VerifyError::Io {
            path: path.to_owned(),
            operation,
            source,
        }
    };
    // NONBLOCK: opening a FIFO without a writer would wait for one.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file: File = rustix::fs::open(path, flags, Mode::empty())
        .map_err(io::Error::from)
        .map_err(failed("open it"))?
        .into();
    if !file.metadata().map_err(failed("look at it"))?.is_file() {
        return Err(VerifyError::NotAFile {
            path: path.to_owned(),
        });
    }
    let mut start = vec![0; LOOK_BYTES];
    let mut read = 0;
    while read < start.len() {
        match file.read_at(&mut start[read..], read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(failed("read it")(source)),
        }
    }
    start.truncate(read);
    if start.iter().all(u8::is_ascii_whitespace) {
        return Err(VerifyError::NothingThere {
            path: path.to_owned(),
        });
    }
    Ok(Input {
        path: path.to_owned(),
        file,
        format: format(&start),
    })
}

/// The form that most of the first lines look like; a damaged line does not hide it. What looks
/// like nothing is read as a chained log, which it then is not.
fn format(start: &[u8]) -> LogFormat {
    let has = |line: &[u8], part: &[u8]| line.windows(part.len()).any(|window| window == part);
    let mut counts = [0_usize; 3];
    for line in start.split(|byte| *byte == b'\n') {
        if line.starts_with(b"{\"entry\"") || has(line, b"\"prev\":\"") && has(line, b"\"seq\":") {
            counts[0] += 1;
        } else if has(line, b"axiom.audit.v1") && has(line, b"\"body\"") {
            counts[1] += 1;
        } else if has(line, b"\"specversion\"") && has(line, b"\"source\"") {
            counts[2] += 1;
        }
    }
    let opening = start.trim_ascii_start();
    let is_document = opening.starts_with(b"{\n") || opening.starts_with(b"{\r\n");
    if has(&start[..start.len().min(4096)], b"\"manifest\"")
        && (is_document || opening.starts_with(b"{\"manifest\""))
    {
        return LogFormat::AuditBundle;
    }
    let formats = [LogFormat::Chained, LogFormat::AuditChain, LogFormat::Events];
    counts
        .into_iter()
        .zip(formats)
        // The first of equals: a chained log unless more speaks for another form.
        .rev()
        .max_by_key(|(count, _)| *count)
        .map_or(LogFormat::Chained, |(_, format)| format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_told_by_most_lines_and_not_by_a_damaged_one() {
        let chained = "{\"entry\":{\"event\":{\"specversion\":\"1.0\",\"source\":\"s\"}}}\n";
        let event = "{\"specversion\":\"1.0\",\"source\":\"s\"}\n";
        let row = "{\"schema\":\"axiom.audit.v1\",\"body\":{\"specversion\":\"1.0\"}}\n";
        for (text, expected) in [
            (chained.to_owned(), LogFormat::Chained),
            (format!("garbage\n{chained}"), LogFormat::Chained),
            (event.to_owned(), LogFormat::Events),
            (format!("\0\0\n{event}{event}"), LogFormat::Events),
            (row.to_owned(), LogFormat::AuditChain),
            ("{\n  \"manifest\": {}}".to_owned(), LogFormat::AuditBundle),
            (
                "{\"manifest\":{},\"rows\":[]}".to_owned(),
                LogFormat::AuditBundle,
            ),
            ("garbage".to_owned(), LogFormat::Chained),
        ] {
            assert_eq!(format(text.as_bytes()), expected, "{text}");
        }
    }
}
