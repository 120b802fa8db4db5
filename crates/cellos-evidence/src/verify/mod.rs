//! Checking a log: whether it is what was written, and whether what it tells is in order.
//!
//! A check goes through the files once, from beginning to end, and keeps no more of them than one
//! batch of signatures and the runs that have not ended. Nothing that it finds stops it.

pub mod batch;
pub mod canonical;
mod chain;
mod heads;
mod input;
mod policy;
mod published;
mod report;
mod row_seal;
mod rows;
mod seals;
mod session;
mod signatures;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use cellos_core::signing::HmacVerifyKeys;

pub use policy::{PolicyError, VerificationPolicy};
pub use report::{
    Lines, LogFormat, MAX_FINDINGS_PER_KIND, NotAHead, Observer, PublishedHead, Silent, Summary,
    Unchecked, Verdict,
};
pub use session::{
    CLOCK_TOLERANCE, ID_WINDOW, MAX_BROKEN_RUNS, MAX_DETAIL_BYTES, MAX_WAITING_RUNS,
};
pub use signatures::BATCH_SIGNATURES;

use crate::{
    keyset::Keyset,
    log::{LineReader, RawLine, SegmentsError},
};
use chain::Chain;
use input::Input;
use published::{Envelopes, Events};
use rows::Rows;
use session::Session;

/// Largest bundle of published rows, in bytes. It is one document, which has to be read at once.
pub const MAX_BUNDLE_BYTES: u64 = 64 * 1024 * 1024;
/// Largest head file of a published chain, in bytes: 64 digits and white space.
const MAX_AUDIT_HEAD_BYTES: u64 = 256;
/// How often progress is told, in bytes read.
const PROGRESS_BYTES: u64 = 1024 * 1024;

/// What a log is checked with.
#[derive(Debug, Clone, Default)]
pub struct Checks<'a> {
    /// The keys that may have signed it. Where there are keys every line has to be signed.
    pub keys: Option<&'a Keyset>,
    /// Shared keys of published signed envelopes.
    pub hmac: Option<&'a HmacVerifyKeys>,
    /// What becomes of signatures when there are no keys.
    pub signatures: Signatures,
    /// Whether something has to state where the log ends.
    pub end: End,
    /// Whether the log has to begin with its first line.
    pub beginning: Beginning,
    /// A head that was published somewhere else.
    pub head: Option<PublishedHead>,
    /// What is demanded besides.
    pub policy: Option<&'a VerificationPolicy>,
}

/// What becomes of signatures when there are no keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Signatures {
    /// That they are not checked is an error.
    #[default]
    Demanded,
    /// They are left alone, as somebody wants who has no keys and knows it.
    ChainOnly,
}

/// Whether something has to state where a log ends. Only a signed statement counts where there are
/// keys, and only then it is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum End {
    /// A head, beside the log or published elsewhere.
    #[default]
    Demanded,
    /// Nothing, as somebody wants who was handed the lines alone.
    Open,
}

/// Whether a log has to begin with its first line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Beginning {
    /// It has.
    #[default]
    Demanded,
    /// Earlier segments may be gone, where a seal vouches for the first that is there.
    Pruned,
}

impl Checks<'_> {
    /// Whether a line that nobody signed is none that counts: where there are keys of any kind, and
    /// where a policy says so.
    fn demand_signatures(&self) -> bool {
        self.keys.is_some() || self.hmac.is_some() || self.requires_signatures()
    }

    fn requires_signatures(&self) -> bool {
        self.policy
            .is_some_and(VerificationPolicy::requires_signatures)
    }
}

/// Why a log could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The kernel refuses.
    #[error("log {path:?}: cannot {operation}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// There are no lines, so nothing can be said; least of all that all is well.
    #[error("log {path:?}: there is no line in it: name the log, or the folder that it is in")]
    NothingThere {
        /// The file or folder.
        path: PathBuf,
    },
    /// It is no regular file.
    #[error("log {path:?}: not a regular file and not a folder")]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// Its files cannot be found.
    #[error(transparent)]
    Segments(#[from] SegmentsError),
    /// It is too large to be read at once.
    #[error("bundle {path:?}: larger than {MAX_BUNDLE_BYTES} bytes: check the chain itself")]
    BundleTooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The files of a log are of different forms.
    #[error("log {path:?}: {found}, and the files before it are {expected}: check them one by one")]
    MixedFormats {
        /// The file that differs.
        path: PathBuf,
        /// Its form.
        found: LogFormat,
        /// The form of those before.
        expected: LogFormat,
    },
}

/// Size of all files of a log, in bytes, for showing progress.
///
/// # Errors
/// [`VerifyError`].
pub fn total_bytes(log: &Path) -> Result<u64, VerifyError> {
    let (_, files) = input::files(log)?;
    Ok(files
        .iter()
        .filter_map(|file| std::fs::metadata(file).ok())
        .map(|metadata| metadata.len())
        .sum())
}

/// Checks the log at a path: a file with the sealed segments beside it, or a folder with a log.
///
/// # Errors
/// [`VerifyError`], when nothing can be said. What is wrong with the log is no error but findings.
pub fn verify(
    log: &Path,
    checks: &Checks<'_>,
    observer: &mut dyn Observer,
) -> Result<Summary, VerifyError> {
    let (live, files) = input::files(log)?;
    let mut session = Session::new(checks, observer);
    let mut reader: Option<Reader<'_>> = None;
    let mut last = Arc::new(log.to_owned());
    let several = files.len() > 1;
    for path in files {
        // A live file that has just been rotated is empty.
        let input = match input::open(&path) {
            Err(VerifyError::NothingThere { .. }) if several => continue,
            other => other?,
        };
        let path = Arc::new(path);
        session.begin_file(&path);
        session
            .summary
            .files
            .push((input.path.clone(), input.format));
        let reader = match &mut reader {
            Some(reader) => reader,
            None => reader.insert(Reader::new(&input, checks)?),
        };
        reader.file(&mut session, input, &path, &live)?;
        last = path;
    }
    match reader {
        Some(reader) => reader.finish(&mut session, &last),
        None => {
            return Err(VerifyError::NothingThere {
                path: log.to_owned(),
            });
        }
    }
    Ok(session.finish())
}

/// Checks lines of one form.
enum Reader<'k> {
    Chained(Box<Chain<'k>>),
    Events(Box<Events>),
    AuditChain(Box<Rows>),
    AuditBundle(Option<Box<Rows>>),
}

impl<'k> Reader<'k> {
    fn new(input: &Input, checks: &Checks<'k>) -> Result<Self, VerifyError> {
        let envelopes = || Envelopes::new(checks.keys, checks.hmac);
        Ok(match input.format {
            LogFormat::Chained => {
                let mut chain = Chain::new(checks.keys.map(signatures::Signatures::new));
                if let Some(head) = &checks.head {
                    chain.published_head(head.clone());
                }
                Self::Chained(Box::new(chain))
            }
            LogFormat::Events => Self::Events(Box::new(Events::new(checks.keys, checks.hmac))),
            LogFormat::AuditChain => {
                let head = audit_head(&input.path)?;
                Self::AuditChain(Box::new(Rows::new(envelopes(), head)))
            }
            LogFormat::AuditBundle => {
                Self::AuditBundle(Some(Box::new(Rows::new(envelopes(), None))))
            }
        })
    }

    const fn format(&self) -> LogFormat {
        match self {
            Self::Chained(_) => LogFormat::Chained,
            Self::Events(_) => LogFormat::Events,
            Self::AuditChain(_) => LogFormat::AuditChain,
            Self::AuditBundle(_) => LogFormat::AuditBundle,
        }
    }

    /// Checks one file.
    fn file(
        &mut self,
        session: &mut Session<'_>,
        input: Input,
        path: &Arc<PathBuf>,
        log: &Path,
    ) -> Result<(), VerifyError> {
        if input.format != self.format() {
            return Err(VerifyError::MixedFormats {
                path: input.path,
                found: input.format,
                expected: self.format(),
            });
        }
        match self {
            Self::Chained(chain) => {
                if session.summary.files.len() == 1 {
                    chain.begin_log(session, log);
                }
                chain.begin_file(session, path);
                lines(session, input, |session, raw| chain.line(session, raw))?;
                chain.end_file(session);
                Ok(())
            }
            Self::Events(events) => lines(session, input, |session, raw| events.line(session, raw)),
            Self::AuditChain(rows) => {
                rows.begin(session, path);
                lines(session, input, |session, raw| rows.line(session, raw))
            }
            Self::AuditBundle(rows) => {
                let bytes = bundle(input)?;
                session.summary.bytes += bytes.len() as u64;
                if let Some(rows) = rows.take() {
                    rows.bundle(session, &bytes, path);
                }
                Ok(())
            }
        }
    }

    fn finish(self, session: &mut Session<'_>, path: &Arc<PathBuf>) {
        match self {
            Self::Chained(chain) => chain.finish(session, path),
            Self::Events(events) => events.finish(session),
            Self::AuditChain(rows) => rows.finish(session, path),
            // All was said when the document had been read.
            Self::AuditBundle(_) => {}
        }
    }
}

fn lines(
    session: &mut Session<'_>,
    input: Input,
    mut take: impl FnMut(&mut Session<'_>, &RawLine<'_>),
) -> Result<(), VerifyError> {
    let before = session.summary.bytes;
    let mut told = 0;
    let mut reader = LineReader::new(input.file);
    loop {
        let line = reader.next_line().map_err(|source| VerifyError::Io {
            path: input.path.clone(),
            operation: "read it",
            source,
        })?;
        let Some(raw) = line else {
            break;
        };
        session.summary.lines += 1;
        take(session, &raw);
        let read = raw.offset + raw.bytes.len() as u64 + 1;
        session.summary.bytes = before + read;
        if read - told >= PROGRESS_BYTES {
            told = read;
            session.progress(before + read);
        }
    }
    Ok(())
}

fn bundle(input: Input) -> Result<Vec<u8>, VerifyError> {
    let mut bytes = Vec::new();
    input
        .file
        .take(MAX_BUNDLE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| VerifyError::Io {
            path: input.path.clone(),
            operation: "read it",
            source,
        })?;
    if bytes.len() as u64 > MAX_BUNDLE_BYTES {
        return Err(VerifyError::BundleTooLarge { path: input.path });
    }
    Ok(bytes)
}

/// What the head file beside published rows says, where there is one.
fn audit_head(rows: &Path) -> Result<Option<String>, VerifyError> {
    if rows
        .file_name()
        .is_none_or(|name| name != input::AUDIT_NAME)
    {
        return Ok(None);
    }
    let path = rows.with_extension("head");
    let mut text = String::new();
    let read = File::open(&path)
        .and_then(|file| file.take(MAX_AUDIT_HEAD_BYTES).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(VerifyError::Io {
            path,
            operation: "read it",
            source,
        }),
    }
}
