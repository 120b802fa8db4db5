//! `cellos attest`: attestations of runs, made and checked.

mod check;
mod make;

use std::path::PathBuf;

pub(crate) use make::{Attestor, Document, Findings, Predicates, keys_of, signer};

use crate::{exit::Exit, failure::Failure, keys::SigningOptions};

/// Attests what the log says of a run, or checks attestations
///
/// What comes out are in-toto statements in signed DSSE envelopes, one a line: where the run's
/// artifacts come from (SLSA provenance), and what was seen of it (runtime trace).
///
///   cellos attest 01KB... -o app.intoto.jsonl
///   cellos attest --check app.intoto.jsonl --keys keyset.json --artifact app.tar
///
/// A run whose part of the log is not in order is not attested; of a signed log, every line of the
/// run has to be signed by a key of the keyset. `--check` ends in 0 when every line is an
/// attestation by a key of the keyset, and every artifact is a subject of one.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct AttestArgs {
    /// Run id, cell id (its latest run), CELL/RUN, the beginning of an id, or `latest`
    #[arg(
        value_name = "RUN",
        required_unless_present = "check",
        conflicts_with = "check"
    )]
    run: Option<String>,
    /// Log of the run [default: the log in the state folder]
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    log: Option<PathBuf>,
    /// State folder [default: /var/lib/cellos for root, $XDG_STATE_HOME/cellos for others]
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    state_dir: Option<PathBuf>,
    /// Document of the run, to be in the attestation as a whole; without it only its digest is
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    document: Option<PathBuf>,
    /// What to attest
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Predicates::All, conflicts_with = "check")]
    predicate: Predicates,
    #[command(flatten)]
    signing: SigningOptions,
    /// URI of this host or service, by which verifiers know who ran it
    #[arg(long, value_name = "URI", value_parser = make::builder_uri, conflicts_with = "check")]
    builder_id: Option<String>,
    /// Attest although the run's part of the log is not in order; say on standard error what is wrong
    #[arg(long, conflicts_with = "check")]
    allow_findings: bool,
    /// Write to this file instead of standard output
    #[arg(long, short, value_name = "FILE", conflicts_with = "check")]
    output: Option<PathBuf>,

    /// Check the attestations in this file, one a line
    #[arg(long, value_name = "FILE", requires = "keys")]
    check: Option<PathBuf>,
    /// Keys whose log, or with --check whose attestations, are believed [default for a log: the
    /// keyset that publishes the signing key]
    #[arg(long, value_name = "KEYSET")]
    keys: Option<PathBuf>,
    /// A file that must be a subject of one of the attestations; may be repeated
    #[arg(long, value_name = "FILE", requires = "check")]
    artifact: Vec<PathBuf>,
    /// Say what was checked as JSON
    #[arg(long, requires = "check")]
    json: bool,
}

/// Makes or checks.
pub(crate) fn run(args: &AttestArgs) -> Result<Exit, Failure> {
    match (&args.check, &args.keys, &args.run) {
        (Some(file), Some(keys), _) => check::run(file, keys, &args.artifact, args.json.into()),
        (_, _, Some(run_id)) => make::run(args, run_id),
        // clap lets no other combination through.
        _ => Ok(Exit::Failure),
    }
}
