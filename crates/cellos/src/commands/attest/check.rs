//! Checking attestations.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
};

use cellos_evidence::{
    attest::verify::{MAX_ENVELOPE_BYTES, Verified, VerifyError, verify},
    keyset::{Keyset, KeysetError, Trust},
};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::{exit::Exit, failure::Failure, say};

/// Most lines of one file that are looked at.
const MAX_LINES: usize = 1000;
/// Bytes of an artifact that are hashed at a time.
const BUFFER_BYTES: usize = 256 * 1024;

/// Why nothing was checked.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("{what} {}: cannot be read", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("keyset {}: {source}", path.display())]
    Keys { path: PathBuf, source: KeysetError },
    #[error("{}: more than {MAX_LINES} lines, the most that are looked at", path.display())]
    TooManyLines { path: PathBuf },
}

impl CheckError {
    fn io(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Failure {
        let path = path.to_owned();
        move |source| {
            Failure::call(Self::Io {
                what,
                path: path.clone(),
                source,
            })
        }
    }
}

/// How the result is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl From<bool> for Form {
    fn from(json: bool) -> Self {
        match json {
            true => Self::Json,
            false => Self::Text,
        }
    }
}

/// One line of the file.
struct Checked {
    line: usize,
    result: Result<Verified, VerifyError>,
}

/// A file that should be a subject.
struct Artifact<'a> {
    path: &'a Path,
    sha256: String,
    /// The lines whose attestations are about it.
    lines: Vec<usize>,
}

/// `cellos attest --check`.
pub(super) fn run(
    file: &Path,
    keys: &Path,
    artifacts: &[PathBuf],
    form: Form,
) -> Result<Exit, Failure> {
    let keys = keyset(keys)?;
    let checked = check(file, &keys)?;
    let artifacts = artifacts
        .iter()
        .map(|path| find(path, &checked))
        .collect::<Result<Vec<_>, _>>()?;
    match form {
        Form::Text => print(&checked, &artifacts)?,
        Form::Json => writeln!(io::stdout().lock(), "{}", as_json(&checked, &artifacts))?,
    }
    let sound = !checked.is_empty()
        && checked.iter().all(|one| one.result.is_ok())
        && artifacts.iter().all(|one| !one.lines.is_empty());
    if checked.is_empty() {
        say::error(&format!("{}: no attestation in it", file.display()));
    }
    Ok(match sound {
        true => Exit::Success,
        false => Exit::Failure,
    })
}

/// The keys of a file, which is believed as it is: whoever names it vouches for it.
pub(super) fn keyset(path: &Path) -> Result<Keyset, Failure> {
    Keyset::read(path, &Trust::SelfContained, jiff::Timestamp::now()).map_err(|source| {
        Failure::call(CheckError::Keys {
            path: path.to_owned(),
            source,
        })
    })
}

fn check(path: &Path, keys: &Keyset) -> Result<Vec<Checked>, Failure> {
    let failed = CheckError::io("attestations", path);
    let mut input = BufReader::new(File::open(path).map_err(&failed)?);
    let mut checked = Vec::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let read = input
            .by_ref()
            .take(MAX_ENVELOPE_BYTES as u64 + 1)
            .read_until(b'\n', &mut bytes)
            .map_err(&failed)?;
        if read == 0 {
            break;
        }
        if line > MAX_LINES {
            return Err(Failure::call(CheckError::TooManyLines {
                path: path.to_owned(),
            }));
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        } else if bytes.len() > MAX_ENVELOPE_BYTES {
            input.skip_until(b'\n').map_err(&failed)?;
        }
        if !bytes.trim_ascii().is_empty() {
            checked.push(Checked {
                line,
                result: verify(&bytes, keys),
            });
        }
    }
    Ok(checked)
}

/// The attestations that are about a file, by its SHA-256.
fn find<'a>(path: &'a Path, checked: &[Checked]) -> Result<Artifact<'a>, Failure> {
    let failed = CheckError::io("artifact", path);
    let mut file = File::open(path).map_err(&failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => hash.update(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let mut sha256 = String::new();
    for byte in hash.finalize() {
        let _ = write!(sha256, "{byte:02x}");
    }
    let is_subject = |verified: &Verified| {
        verified
            .statement
            .subject
            .iter()
            .any(|subject| subject.digest.get("sha256") == Some(&sha256))
    };
    let lines = checked
        .iter()
        .filter(|one| one.result.as_ref().is_ok_and(is_subject))
        .map(|one| one.line)
        .collect();
    Ok(Artifact {
        path,
        sha256,
        lines,
    })
}

fn print(checked: &[Checked], artifacts: &[Artifact<'_>]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for one in checked {
        match &one.result {
            Ok(verified) => {
                let statement = &verified.statement;
                let line = format!(
                    "line {}: good: {}, signed by {}",
                    one.line,
                    statement.predicate_type,
                    verified.kids.join(", ")
                );
                writeln!(out, "{}", say::harmless(&line))?;
                for subject in &statement.subject {
                    let name = subject.name.as_deref().unwrap_or("without a name");
                    let digest = subject.digest.get("sha256").map_or("", String::as_str);
                    writeln!(out, "  {}", say::harmless(&format!("{name} {digest}")))?;
                }
            }
            Err(error) => writeln!(
                out,
                "line {}: not to be believed: {}",
                one.line,
                say::harmless(&error.to_string())
            )?,
        }
    }
    for artifact in artifacts {
        let path = say::harmless(&artifact.path.display().to_string());
        match artifact.lines.as_slice() {
            [] => writeln!(
                out,
                "{path}: no attestation is about it ({})",
                artifact.sha256
            )?,
            lines => {
                let lines: Vec<_> = lines.iter().map(ToString::to_string).collect();
                writeln!(out, "{path}: attested by line {}", lines.join(", "))?;
            }
        }
    }
    Ok(())
}

fn as_json(checked: &[Checked], artifacts: &[Artifact<'_>]) -> serde_json::Value {
    json!({
        "format": "cellos.attest-check/1",
        "attestations": checked.iter().map(|one| match &one.result {
            Ok(verified) => json!({
                "line": one.line,
                "verified": true,
                "kids": verified.kids,
                "predicateType": verified.statement.predicate_type,
                "attestedOn": verified.attested_on.map(|at| at.to_string()),
                "subjects": verified.statement.subject,
            }),
            Err(error) => json!({
                "line": one.line,
                "verified": false,
                "error": error.to_string(),
            }),
        }).collect::<Vec<_>>(),
        "artifacts": artifacts.iter().map(|artifact| json!({
            "path": artifact.path.to_string_lossy(),
            "sha256": artifact.sha256,
            "lines": artifact.lines,
        })).collect::<Vec<_>>(),
    })
}
