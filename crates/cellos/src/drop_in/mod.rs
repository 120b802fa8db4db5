//! `cellos-supervisor`: one JSON document in, one cell, 0 or 1 out. Everything else comes from
//! variables. Made for deployments of the published supervisor, so its forms and codes are those.

mod config;
mod gates;
mod summary;
pub(crate) mod variables;

use std::{
    ffi::{OsStr, OsString},
    io::Write as _,
    path::Path,
    process::ExitCode,
};

use cellos_core::{
    event::{Stamp, Subject},
    signing::{HmacKey, SoftwareSigner},
    source::{Format, UnknownFields},
};
use cellos_egress::GatewayConfig;
use cellos_sinks::Durability;
use cellos_supervisor::{EventsLog, RunRequest, state::LogFormat};

use self::{
    config::{Config, Environment, SigningAlgorithm, SigningKey},
    gates::{Gates, Rejection},
    summary::Summary,
};
use crate::{
    commands::{run as run_command, version::VERSION},
    compose::{self, BackendOptions, RunPorts},
    document_file::DocumentSource,
    evidence_guard,
    failure::Failure,
    intake::Intake,
    logging, say,
    signing::EventSigning,
    state_dir,
};

const HELP: &str = "\
Runs one execution cell, described by a JSON document.

Usage: cellos-supervisor SPEC              run a document; - is standard input
       cellos-supervisor --validate SPEC   check it, print a summary as JSON, run nothing
       cellos-supervisor --version
       cellos-supervisor --help

Everything else is configured by environment variables, which are listed in
docs/supervisor-variables.md. The exit code is 0 when the whole lifecycle succeeded and 1
otherwise. `cellos run` does the same with flags and passes the command's exit code on.
";

/// A way to call the program.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Help,
    Version,
    Validate(OsString),
    Run(OsString),
}

/// A call that is none of the forms.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum UsageError {
    #[error("a document is missing")]
    NoDocument,
    #[error("{0:?} is no option")]
    UnknownOption(OsString),
    #[error("{0:?} is one argument too many")]
    TooMany(OsString),
    #[error("there is no secret socket: documents with secrets are refused until brokers exist")]
    Secret,
}

impl Call {
    fn parse(arguments: &[OsString]) -> Result<Self, UsageError> {
        let (first, rest) = arguments.split_first().ok_or(UsageError::NoDocument)?;
        let (call, rest) = match first.to_str() {
            Some("--help" | "-h") => (Self::Help, rest),
            Some("--version" | "-V") => (Self::Version, rest),
            Some("secret") => return Err(UsageError::Secret),
            Some("--validate") => {
                let (document, rest) = rest.split_first().ok_or(UsageError::NoDocument)?;
                (Self::Validate(document.clone()), rest)
            }
            _ if looks_like_an_option(first) => {
                return Err(UsageError::UnknownOption(first.clone()));
            }
            _ => (Self::Run(first.clone()), rest),
        };
        match rest.first() {
            None => Ok(call),
            Some(extra) => Err(UsageError::TooMany(extra.clone())),
        }
    }
}

fn looks_like_an_option(argument: &OsStr) -> bool {
    argument != "-" && argument.as_encoded_bytes().starts_with(b"-")
}

/// The program.
pub(crate) fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let result = Call::parse(&arguments)
        .map_err(|error| Failure::call(error).hint("cellos-supervisor --help"))
        .and_then(perform);
    match result {
        Ok(Success::Yes) => ExitCode::SUCCESS,
        Ok(Success::No) => ExitCode::FAILURE,
        Err(failure) => {
            failure.report();
            ExitCode::FAILURE
        }
    }
}

/// Whether the whole lifecycle succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Success {
    Yes,
    No,
}

fn perform(call: Call) -> Result<Success, Failure> {
    match call {
        Call::Help => write!(std::io::stdout().lock(), "{HELP}")?,
        Call::Version => writeln!(std::io::stdout().lock(), "cellos-supervisor {VERSION}")?,
        Call::Validate(document) => return validate(&document),
        Call::Run(document) => return run(&document),
    }
    Ok(Success::Yes)
}

fn configure() -> Result<Config, Failure> {
    logging::start(0).map_err(Failure::call)?;
    let config = Config::from_environment(&Environment::of_process()).map_err(Failure::call)?;
    for warning in &config.warnings {
        say::warning(warning);
    }
    say::note(&format!("deployment profile: {}", config.profile.banner()));
    Ok(config)
}

fn read(source: &DocumentSource) -> Result<Intake, Failure> {
    let intake = Intake::read(source, Some(Format::Json), UnknownFields::Ignore)?;
    intake.report_warnings();
    Ok(intake)
}

fn validate(document: &OsStr) -> Result<Success, Failure> {
    let config = configure()?;
    compose::check_name(&config.backend)?;
    let source = DocumentSource::from_argument(Path::new(document));
    let intake = read(&source)?;
    let sha256 = intake.sha256()?;
    let admitted = intake.admit(None, Vec::new).map_err(Failure::refused)?;
    gates::check_demands(admitted.document(), &config).map_err(Failure::document)?;
    let path = document.to_string_lossy();
    let summary = Summary::new(&config, &path, &admitted.document().spec.id, &sha256);
    let text = serde_json::to_string_pretty(&summary).map_err(Failure::program)?;
    writeln!(std::io::stdout().lock(), "{text}")?;
    Ok(Success::Yes)
}

fn run(document: &OsStr) -> Result<Success, Failure> {
    let config = configure()?;
    let source = DocumentSource::from_argument(Path::new(document));
    let intake = read(&source)?;
    let raw_spec_sha256 = intake.sha256()?;
    let name = source.to_string();
    let admitted = intake.admit(None, Vec::new).map_err(Failure::refused)?;
    gates::check_demands(admitted.document(), &config).map_err(Failure::document)?;

    // While there is one thread: the backend may fork a launcher.
    let backend = compose::prepare(
        &config.backend,
        &BackendOptions {
            cgroup_parent: config.cgroup_parent.clone(),
            monitor: config.monitor,
        },
    )?;
    if config.backend == compose::UNISOLATED_BACKEND {
        say::warning("the stub backend isolates NOTHING: the command runs on this host, as you");
    }

    let run_id = config.run_id.clone().unwrap_or_else(compose::fresh_run_id);
    let state = state_dir::open(config.state_dir.as_deref())?;
    let events_file = match &config.events {
        Some(file) => file.clone(),
        None => state_dir::events_file(&state, &run_id)?,
    };
    let signing = config.signing.as_ref().map(signing).transpose()?;
    let events = compose::event_sink(
        &events_file,
        Durability::default(),
        config.redact.as_deref(),
        signing,
    )?;

    let gates = Gates::load(&config).map_err(Failure::call)?;
    let passed = match gates.admit(admitted.document()) {
        Ok(passed) => passed,
        Err(rejection) => {
            let subject =
                Subject::of(&admitted.document().spec, &run_id).with_document(&raw_spec_sha256);
            record(&rejection, &subject, &raw_spec_sha256, &*events)?;
            return Err(Failure::document(rejection));
        }
    };
    for warning in &passed.warnings {
        say::warning(warning);
    }
    let outcome = run_command::block_on(async {
        let backend = backend.start()?;
        let descriptor = compose::with_gateway(backend.descriptor());
        let descriptor = compose::with_exports(descriptor, config.export_dir.as_deref());
        // A pack's caps ask for more of the backend, so the comparison comes after them.
        let admitted = Intake::effective(name, passed.document.clone())
            .admit(Some(&descriptor), || {
                compose::other_descriptors(&config.backend)
            })
            .map_err(Failure::refused)?;
        evidence_guard::check(admitted.document(), &events_file, state.root())
            .map_err(Failure::document)?;
        passed.keep_anchor(&config).map_err(Failure::call)?;
        let exports =
            compose::export_sink(config.export_dir.as_deref(), &admitted.document().spec.id)?;
        let request = RunRequest {
            document: admitted.into_document(),
            admission: passed.admission(&raw_spec_sha256),
            universal_token: passed.universal_token(&raw_spec_sha256),
            raw_spec_sha256,
            run_id,
            streams: run_command::streams_for(&source)?,
            operator_timeout: config.run_timeout_ms.map(std::time::Duration::from_millis),
            derivation: passed.derivation.clone(),
            events_log: Some(EventsLog {
                file: events_file,
                format: LogFormat::Plain,
            }),
        };
        let ports = RunPorts {
            backend,
            events,
            exports,
            gateway: compose::gateway(GatewayConfig {
                upstream: config.upstream.clone(),
                ..GatewayConfig::default()
            }),
            state,
        };
        run_command::supervise(ports, request).await
    })??;
    if let Some(error) = &outcome.first_error {
        say::error(&error.to_string());
    }
    for error in &outcome.later_errors {
        say::warning(&format!("afterwards: {error}"));
    }
    Ok(if outcome.succeeded() {
        Success::Yes
    } else {
        Success::No
    })
}

#[derive(Debug, thiserror::Error)]
enum SigningKeyError {
    #[error("CELLOS_EVENT_SIGNING_KEY_BASE64: {0}")]
    Seed(#[from] cellos_core::signing::SeedError),
    #[error("CELLOS_EVENT_SIGNING_KEY_BASE64 is not base64url")]
    Encoding,
    #[error("CELLOS_EVENT_SIGNING_KEY_BASE64 is empty")]
    Empty,
}

fn signing(key: &SigningKey) -> Result<EventSigning, Failure> {
    use base64::{Engine as _, engine::general_purpose};
    match key.algorithm {
        SigningAlgorithm::Ed25519 => {
            SoftwareSigner::from_base64url_seed(key.kid.clone(), &key.key_base64)
                .map(EventSigning::Ed25519)
                .map_err(|error| Failure::call(SigningKeyError::from(error)))
        }
        SigningAlgorithm::HmacSha256 => {
            let bytes = general_purpose::URL_SAFE_NO_PAD
                .decode(key.key_base64.trim_end_matches('='))
                .map_err(|_| Failure::call(SigningKeyError::Encoding))?;
            let hmac = HmacKey::new(bytes).ok_or_else(|| Failure::call(SigningKeyError::Empty))?;
            Ok(EventSigning::Hmac {
                kid: key.kid.clone(),
                key: hmac,
            })
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the rejection cannot be recorded")]
struct RecordError(#[source] cellos_core::CellosError);

/// Writes the event of a rejection, and makes it durable before the program ends.
fn record(
    rejection: &Rejection,
    subject: &Subject,
    sha256: &str,
    events: &dyn cellos_core::ports::EventSink,
) -> Result<(), Failure> {
    let stamp = Stamp {
        id: compose::fresh_event_id(),
        time: jiff::Timestamp::now().to_string(),
    };
    let Some(event) = rejection.event(stamp, subject, sha256) else {
        return Ok(());
    };
    let event = event.map_err(Failure::program)?;
    run_command::block_on(async {
        events.emit(&event).await?;
        events.flush().await
    })?
    .map_err(|error| Failure::call(RecordError(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(arguments: &[&str]) -> Result<Call, UsageError> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        Call::parse(&arguments)
    }

    #[test]
    fn the_published_forms_are_understood() {
        assert_eq!(call(&["a.json"]), Ok(Call::Run("a.json".into())));
        assert_eq!(call(&["-"]), Ok(Call::Run("-".into())));
        assert_eq!(call(&["--validate", "-"]), Ok(Call::Validate("-".into())));
        assert_eq!(call(&["-V"]), Ok(Call::Version));
        assert_eq!(call(&["--help"]), Ok(Call::Help));
    }

    #[test]
    fn everything_else_is_an_error() {
        assert_eq!(call(&[]), Err(UsageError::NoDocument));
        assert_eq!(call(&["--validate"]), Err(UsageError::NoDocument));
        assert_eq!(
            call(&["--run"]),
            Err(UsageError::UnknownOption("--run".into()))
        );
        assert_eq!(call(&["a.json", "b"]), Err(UsageError::TooMany("b".into())));
        assert_eq!(call(&["secret", "get", "K"]), Err(UsageError::Secret));
    }
}
