//! Making attestations.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use cellos_core::{signing::Signer, source::UnknownFields};
use cellos_evidence::attest::{
    Attester, default_builder,
    dsse::{Envelope, SignError},
    provenance::{AttestError, AttestedDocument, provenance},
    run::RunEvidence,
    runtime_trace::runtime_trace,
    statement::Statement,
};
use cellos_evidence::{
    finding::{Finding, FindingKind},
    keyset::{Keyset, KeysetKey},
};
use serde_json::Value;

use super::AttestArgs;
use crate::{
    commands::run::document_value, document_file::DocumentSource, exit::Exit, failure::Failure,
    intake::Intake, keys, runs::find, say, state_dir,
};

/// Longest builder id, in bytes.
const MAX_BUILDER_BYTES: usize = 2048;

/// What is attested of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Predicates {
    /// SLSA provenance: what was run with what, and what came of it
    Provenance,
    /// The in-toto runtime trace: what was seen of the run
    RuntimeTrace,
    /// Both, a line each
    All,
}

/// What happens to a run whose part of the log is not in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Findings {
    /// It is not attested.
    Refuse,
    /// It is attested, and what is wrong is said.
    Allow,
}

/// A document and the SHA-256 of its bytes, in lower-case hexadecimal.
pub(crate) struct Document {
    value: Value,
    sha256: String,
}

/// Who attests, and what.
pub(crate) struct Attestor {
    pub(crate) signer: Arc<dyn Signer>,
    /// Who may have signed the lines of the run. Where there are none, the log must not be signed.
    pub(crate) keys: Option<Keyset>,
    pub(crate) builder_id: Option<String>,
    pub(crate) predicates: Predicates,
    pub(crate) findings: Findings,
}

/// Why a run is not attested.
#[derive(Debug, thiserror::Error)]
enum RefusedError {
    #[error("an attestation has to be signed, and there is no key")]
    NoKey,
    #[error(
        "run {run_id} is not attested, because its part of the log is not in order: {findings}"
    )]
    Findings { run_id: String, findings: String },
    #[error(transparent)]
    Attest(#[from] AttestError),
    #[error("the attestation cannot be signed")]
    Sign(#[from] SignError),
    #[error("the attestations cannot be written to {}", path.display())]
    Output { path: PathBuf, source: io::Error },
}

impl Document {
    /// The document of an intake as it was given, before its paths were resolved.
    pub(crate) fn of(intake: &Intake) -> Result<Self, Failure> {
        Ok(Self {
            value: document_value(intake.as_given())?,
            sha256: intake.sha256()?,
        })
    }
}

impl Attestor {
    /// The attestations of a run, a line each.
    pub(crate) fn attest(
        &self,
        log: &Path,
        from: u64,
        run_id: &str,
        document: Option<&Document>,
    ) -> Result<String, Failure> {
        let run =
            RunEvidence::read(log, run_id, from, self.keys.as_ref()).map_err(Failure::call)?;
        self.hold_findings(&run)?;
        let statements = self.statements(&run, document).map_err(Failure::call)?;
        let mut lines = String::new();
        for statement in &statements {
            let envelope = Envelope::sign(statement, self.signer.as_ref())
                .map_err(|error| Failure::call(RefusedError::Sign(error)))?;
            lines.push_str(&envelope.to_line().map_err(Failure::program)?);
            lines.push('\n');
        }
        Ok(lines)
    }

    fn hold_findings(&self, run: &RunEvidence) -> Result<(), Failure> {
        if run.findings.is_empty() {
            return Ok(());
        }
        let mut all = String::new();
        for finding in &run.findings {
            let separator = if all.is_empty() { "" } else { "; " };
            let _ = write!(
                all,
                "{separator}{}: {}: {}",
                finding.place, finding.kind, finding.detail
            );
        }
        match self.findings {
            Findings::Allow => {
                say::warning(&format!("the run's part of the log is not in order: {all}"));
                Ok(())
            }
            Findings::Refuse => Err(Failure::call(RefusedError::Findings {
                run_id: run.key.run_id.clone(),
                findings: all,
            })
            .hint(mend(&run.findings))),
        }
    }

    fn statements(
        &self,
        run: &RunEvidence,
        document: Option<&Document>,
    ) -> Result<Vec<Statement>, AttestError> {
        let attester = Attester {
            builder_id: self.builder(run),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now: jiff::Timestamp::now(),
        };
        // Also where only the trace is asked for: a wrong document is a mistake of the caller.
        let document = document
            .map(|document| AttestedDocument::of(run, &document.value, &document.sha256))
            .transpose()?;
        let with = |one| self.predicates == one || self.predicates == Predicates::All;
        let mut statements = Vec::new();
        if with(Predicates::Provenance) {
            statements.push(provenance(run, document, &attester)?);
        }
        if with(Predicates::RuntimeTrace) {
            statements.push(runtime_trace(run, &attester)?);
        }
        Ok(statements)
    }

    fn builder(&self, run: &RunEvidence) -> String {
        self.builder_id.clone().unwrap_or_else(|| {
            let backend = run
                .events
                .iter()
                .find_map(|event| event.data.get("backend")?.as_str());
            default_builder(backend.unwrap_or("unknown"))
        })
    }
}

/// What can be done about findings.
fn mend(findings: &[Finding]) -> &'static str {
    match findings {
        [only] if only.kind == FindingKind::SignaturesUnchecked => {
            "name the keys that signed the log with --keys"
        }
        _ => "cellos verify says more; --allow-findings attests it all the same",
    }
}

/// Reads a builder id: a URI with a scheme.
pub(super) fn builder_uri(text: &str) -> Result<String, String> {
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    match is_scheme && is_plain && text.len() <= MAX_BUILDER_BYTES {
        true => Ok(text.to_owned()),
        false => Err("is no URI, such as https://example.com/builders/1".to_owned()),
    }
}

/// The key that attestations are signed with. There has to be one.
pub(crate) fn signer(signer: Option<Arc<dyn Signer>>) -> Result<Arc<dyn Signer>, Failure> {
    signer.ok_or_else(|| Failure::call(RefusedError::NoKey).hint("cellos keys generate makes one"))
}

/// The public half of a signer, for what it signed itself.
pub(crate) fn keys_of(signer: &dyn Signer) -> Keyset {
    let key = KeysetKey::new(signer.verifying_key());
    [(signer.kid().to_owned(), key)].into_iter().collect()
}

/// `cellos attest RUN`.
pub(super) fn run(args: &AttestArgs, run: &str) -> Result<Exit, Failure> {
    let signer = signer(keys::configured(&args.signing)?)?;
    let keys = match &args.keys {
        Some(path) => Some(super::check::keyset(path)?),
        // A key that is not published vouches for what it signed itself, and nothing else is believed.
        None => Some(
            keys::published_with(&args.signing, signer.as_ref())?
                .unwrap_or_else(|| keys_of(signer.as_ref())),
        ),
    };
    let attestor = Attestor {
        signer,
        keys,
        builder_id: args.builder_id.clone(),
        predicates: args.predicate,
        findings: match args.allow_findings {
            true => Findings::Allow,
            false => Findings::Refuse,
        },
    };
    let log = match &args.log {
        Some(log) => log.clone(),
        None => state_dir::event_log(&state_dir::open(args.state_dir.as_deref())?)?,
    };
    let document = match &args.document {
        Some(path) => {
            let source = DocumentSource::from_argument(path);
            let intake = Intake::read(&source, None, UnknownFields::Refuse)?;
            Some(Document::of(&intake)?)
        }
        None => None,
    };
    let run_id = find::find(&log, run)?.key.run_id;
    let lines = attestor.attest(&log, 0, &run_id, document.as_ref())?;
    match &args.output {
        Some(path) => write(path, &lines).map_err(|source| {
            Failure::call(RefusedError::Output {
                path: path.clone(),
                source,
            })
        })?,
        None => io::stdout().lock().write_all(lines.as_bytes())?,
    }
    Ok(Exit::Success)
}

/// Replaces the file's content.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    match file.metadata()?.is_file() {
        true => file.sync_all(),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_builder_is_a_uri() {
        for (text, holds) in [
            ("https://example.com/b", true),
            ("urn:x:y", true),
            ("example", false),
            ("1http://x", false),
            (":x", false),
            ("https://a b", false),
            ("https://a\u{1b}", false),
        ] {
            assert_eq!(builder_uri(text).is_ok(), holds, "{text}");
        }
    }
}
