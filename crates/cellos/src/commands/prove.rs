//! `cellos prove`: proofs of single events, made and checked.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use cellos_evidence::{
    facts::Facts,
    keyset::{Keyset, Trust},
    log::EventLog,
    prove::{self, MAX_PROOF_BYTES, Proof, ProveError, Proven, Wanted},
};
use serde_json::json;

use crate::{
    exit::Exit,
    failure::Failure,
    keys::{self, SigningOptions},
    say, state_dir,
};

/// Proves one event without handing over the rest of the log, or checks such a proof
///
/// A proof holds the event's line, its way to the root of its segment, and the segment's signed
/// seal. Whoever has the public key needs nothing else.
///
///   cellos prove 01KB... -o proof.json
///   cellos prove --check proof.json --keys keys.json
///
/// Only events of sealed files can be proved; --seal seals the file that is being written first.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct ProveArgs {
    /// Id of the event, or the number of its line
    #[arg(
        value_name = "EVENT",
        required_unless_present = "check",
        conflicts_with = "check"
    )]
    event: Option<String>,
    /// Log of the event [default: the log in the state folder]
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    log: Option<PathBuf>,
    /// State folder [default: /var/lib/cellos for root, $XDG_STATE_HOME/cellos for others]
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    state_dir: Option<PathBuf>,
    /// Where the event is not sealed yet, seal the log's file first and begin another one
    #[arg(long, conflicts_with = "check")]
    seal: bool,
    /// Write to this file instead of standard output
    #[arg(long, short, value_name = "FILE", conflicts_with = "check")]
    output: Option<PathBuf>,

    /// Check the proof in this file
    #[arg(long, value_name = "PROOF", requires = "keys")]
    check: Option<PathBuf>,
    /// Keys whose seals are believed
    #[arg(long, value_name = "KEYSET", requires = "check")]
    keys: Option<PathBuf>,
    /// Say what was proved as JSON
    #[arg(long, requires = "check")]
    json: bool,

    #[command(flatten)]
    signing: SigningOptions,
}

/// A file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: cannot be {done}", path.display())]
struct FileError {
    what: &'static str,
    path: PathBuf,
    done: &'static str,
    source: io::Error,
}

/// Makes or checks.
pub(crate) fn run(args: &ProveArgs) -> Result<Exit, Failure> {
    match (&args.check, &args.keys, &args.event) {
        (Some(file), Some(keys), _) => check(args, file, keys),
        (_, _, Some(event)) => make(args, event),
        // clap lets no other combination through.
        _ => Ok(Exit::Failure),
    }
}

fn make(args: &ProveArgs, event: &str) -> Result<Exit, Failure> {
    let log = match &args.log {
        Some(log) => log.clone(),
        None => state_dir::event_log(&state_dir::open(args.state_dir.as_deref())?)?,
    };
    let wanted = Wanted::parse(event);
    let proof = match prove::prove(&log, &wanted) {
        Err(ProveError::NotSealed { .. }) if args.seal => {
            seal(args, &log)?;
            prove::prove(&log, &wanted)
        }
        result => result,
    };
    let proof = proof.map_err(|error| {
        let hint = match &error {
            ProveError::NotSealed { .. } => Some("--seal seals the file that it stands in first"),
            _ => None,
        };
        let failure = Failure::call(error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })?;
    write(args, &proof)?;
    Ok(Exit::Success)
}

fn seal(args: &ProveArgs, log: &Path) -> Result<(), Failure> {
    let config = keys::signed(log, keys::signing(&args.signing)?);
    let log = EventLog::open(config).map_err(Failure::call)?;
    log.rotate().map_err(Failure::call)?;
    log.sync().map_err(Failure::call)
}

fn write(args: &ProveArgs, proof: &Proof) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(proof).map_err(Failure::program)?;
    text.push('\n');
    match &args.output {
        None => Ok(io::stdout().lock().write_all(text.as_bytes())?),
        Some(path) => std::fs::write(path, text).map_err(|source| {
            Failure::call(FileError {
                what: "proof",
                path: path.clone(),
                done: "written",
                source,
            })
        }),
    }
}

fn check(args: &ProveArgs, file: &Path, keys: &Path) -> Result<Exit, Failure> {
    let keys =
        Keyset::read(keys, &Trust::SelfContained, jiff::Timestamp::now()).map_err(Failure::call)?;
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|file| {
            file.take(MAX_PROOF_BYTES as u64 + 1)
                .read_to_end(&mut bytes)
        })
        .map_err(|source| {
            Failure::call(FileError {
                what: "proof",
                path: file.to_owned(),
                done: "read",
                source,
            })
        })?;
    let proven = prove::check(&bytes, &keys).map_err(Failure::call)?;
    let facts = serde_json::from_str::<Facts<'_>>(&proven.event).map_err(Failure::call)?;
    if args.json {
        let report = report(&proven)?;
        writeln!(io::stdout().lock(), "{report}")?;
    } else {
        let body = &proven.seal.body;
        writeln!(
            io::stdout().lock(),
            "proved: event {} of type {}\n  line {} of log {}, sealed {} by key {}",
            say::harmless(&facts.id),
            say::harmless(&facts.ty),
            proven.seq,
            say::harmless(&body.log_id),
            body.time,
            say::harmless(&proven.kid),
        )?;
    }
    Ok(Exit::Success)
}

fn report(proven: &Proven) -> Result<serde_json::Value, Failure> {
    let event: serde_json::Value = serde_json::from_str(&proven.event).map_err(Failure::call)?;
    let body = &proven.seal.body;
    Ok(json!({
        "format": "cellos.proved/1",
        "event": event,
        "seq": proven.seq,
        "log": body.log_id,
        "sealedAt": body.time.to_string(),
        "kid": proven.kid,
    }))
}
