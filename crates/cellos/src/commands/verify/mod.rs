//! `cellos verify`: whether a log is what was written, and whether what it tells is in order.

mod output;
mod progress;

use std::path::{Path, PathBuf};

use cellos_core::{
    signing::{HmacVerifyKeys, KeyFileError, TrustVerifyKeys},
    source::Format,
};
use cellos_evidence::{
    keyset::{Keyset, KeysetError, Trust},
    verify::{
        self, Beginning, Checks, End, PolicyError, PublishedHead, Signatures, VerificationPolicy,
        VerifyError,
    },
};

use crate::{
    document_file::{self, DocumentFileError, DocumentSource},
    exit::Exit,
    failure::Failure,
};
use output::Report;

/// Checks a log from its first line to its last: that nothing was changed, removed, reordered or cut off, and that every cell in it kept to its document.
///
/// Needs the log and the public keys, and nothing of the machine that wrote it. Ends in 0 when all is well, 1 when not, 125 when the log could not be checked.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// The log: a file, with the sealed segments beside it, or the folder that it is in
    #[arg(value_name = "LOG")]
    log: PathBuf,
    /// The public keys that may have signed it: a keyset or a keyring
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Believe the keyset only as far as a key of this keyring signed it
    #[arg(long, value_name = "FILE", requires = "keys")]
    trust: Option<PathBuf>,
    /// Shared keys of events that were signed with hmac-sha256
    #[arg(long, value_name = "FILE")]
    hmac_keys: Option<PathBuf>,
    /// What is demanded of the log and its runs besides
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// A line that was published elsewhere, its number and hash, as this command prints them
    #[arg(long, value_name = "SEQ:HASH")]
    head: Option<PublishedHead>,
    /// Check no signatures: whoever can write the log could have written it anew
    #[arg(long, conflicts_with_all = ["keys", "hmac_keys"])]
    chain_only: bool,
    /// Take a signed log without its head: that lines were cut off at its end would go unnoticed
    #[arg(long)]
    open_end: bool,
    /// Take a log whose first segments were removed, where a seal vouches for what is left
    #[arg(long)]
    pruned: bool,
    /// List the runs with which all is well too
    #[arg(long, short)]
    all: bool,
    /// As JSON: one object a line for each finding and each run, then a summary
    #[arg(long)]
    json: bool,
}

/// A file that the check needs and that cannot be used.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("the keys cannot be used: {}", path.display())]
    Keys { path: PathBuf, source: KeysetError },
    #[error("the trusted keys cannot be used: {}", path.display())]
    Trust { path: PathBuf, source: KeyFileError },
    #[error("the shared keys cannot be used: {}", path.display())]
    Hmac { path: PathBuf, source: KeyFileError },
    #[error("the verification policy cannot be used: {}", path.display())]
    Policy { path: PathBuf, source: PolicyError },
    #[error(transparent)]
    Unreadable(#[from] DocumentFileError),
}

/// Checks it.
pub(crate) fn run(args: &VerifyArgs) -> Result<Exit, Failure> {
    let files = Files::read(args).map_err(Failure::call)?;
    let checks = Checks {
        keys: files.keys.as_ref(),
        hmac: files.hmac.as_ref(),
        signatures: match args.chain_only {
            true => Signatures::ChainOnly,
            false => Signatures::Demanded,
        },
        end: match args.open_end {
            true => End::Open,
            false => End::Demanded,
        },
        beginning: match args.pruned {
            true => Beginning::Pruned,
            false => Beginning::Demanded,
        },
        head: args.head.clone(),
        policy: files.policy.as_ref(),
    };
    let total = verify::total_bytes(&args.log).map_err(cannot)?;
    let mut report = Report::new(args.json, args.all, total);
    let summary = verify::verify(&args.log, &checks, &mut report).map_err(cannot)?;
    report.finish(&summary)?;
    Ok(if summary.is_well() {
        Exit::Success
    } else {
        Exit::NotWell
    })
}

/// What is read before the log.
struct Files {
    keys: Option<Keyset>,
    hmac: Option<HmacVerifyKeys>,
    policy: Option<VerificationPolicy>,
}

impl Files {
    fn read(args: &VerifyArgs) -> Result<Self, FileError> {
        Ok(Self {
            keys: args
                .keys
                .as_deref()
                .map(|path| keys(path, args.trust.as_deref()))
                .transpose()?,
            hmac: args.hmac_keys.as_deref().map(hmac).transpose()?,
            policy: args.policy.as_deref().map(policy).transpose()?,
        })
    }
}

fn keys(path: &Path, trust: Option<&Path>) -> Result<Keyset, FileError> {
    let trust = match trust {
        None => Trust::SelfContained,
        Some(path) => Trust::Anchored(TrustVerifyKeys::parse(text(path)?.as_bytes()).map_err(
            |source| FileError::Trust {
                path: path.to_owned(),
                source,
            },
        )?),
    };
    Keyset::read(path, &trust, jiff::Timestamp::now()).map_err(|source| FileError::Keys {
        path: path.to_owned(),
        source,
    })
}

fn hmac(path: &Path) -> Result<HmacVerifyKeys, FileError> {
    HmacVerifyKeys::parse(text(path)?.as_bytes()).map_err(|source| FileError::Hmac {
        path: path.to_owned(),
        source,
    })
}

fn policy(path: &Path) -> Result<VerificationPolicy, FileError> {
    let text = text(path)?;
    let name = path.file_name().and_then(|name| name.to_str());
    let format = Format::guess(name, text.as_bytes());
    VerificationPolicy::parse(&text, format).map_err(|source| FileError::Policy {
        path: path.to_owned(),
        source,
    })
}

fn text(path: &Path) -> Result<String, DocumentFileError> {
    document_file::read(&DocumentSource::File(path.to_owned()))
}

fn cannot(error: VerifyError) -> Failure {
    Failure::call(error)
}
