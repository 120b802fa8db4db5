//! `cellos run`: one command in one cell.

mod admission;
mod allow;
mod cell_flags;
mod evidence;
mod network;
mod output;

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use cellos_core::{
    ExecutionCellDocument, ports::workload::Streams, signing::Signer, source::UnknownFields,
};
use cellos_evidence::log::Durability;
use cellos_supervisor::{EventsLog, RunOutcome, RunRequest, state::LogFormat};
use rustix::fs::FileType;

pub(crate) use output::document_value;

use self::{
    admission::Verdict,
    cell_flags::CellFlags,
    network::NetworkOptions,
    output::{DocumentFormat, RecordTarget},
};
use crate::{
    commands::attest::{self, Attestor, Document, Findings, Predicates},
    compose::{self, BackendOptions, PreparedBackend, RunPorts},
    document_file::DocumentSource,
    evidence_guard::{self, Hidden, InReach},
    exit::Exit,
    failure::Failure,
    intake::Intake,
    keys::{self, SigningOptions},
    recordable::{self, Unrecordable},
    say,
    sinks::{self, BesideARun},
    state_dir,
    stream_state::StreamState,
};

/// Runs a command in a cell, and ends in its exit code
///
/// The cell is described by a document, or by flags and a command after `--`:
///
///   cellos run cell.yaml
///   cellos run --memory 256M --mount .:/work:rw -- make test
///
/// The command's standard streams are ours, untouched. What cellos itself says goes to standard
/// error, each message after `cellos: `.
///
/// Exit codes of our own: 124 deadline, 125 CellOS failed, 126 refused or not executable, 127
/// command not found, 128 + n ended by signal n.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct RunArgs {
    /// The document, YAML or JSON; - is standard input
    #[arg(value_name = "DOCUMENT")]
    document: Option<PathBuf>,
    /// The command, for a cell without a document
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,

    /// How cells are made on this host: linux, or stub, which isolates nothing
    #[arg(long, value_name = "NAME", default_value = compose::DEFAULT_BACKEND)]
    backend: String,
    /// Append the events of the run to this log [default: the log in the state folder]
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// What the events survive: the death of every process, or also a crash of the machine,
    /// which waits for the disk at every change of phase
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Survives::Machine)]
    durability: Survives,
    #[command(flatten)]
    signing: SigningOptions,
    /// Blank these fields in the events: names with commas between, or `defaults`
    #[arg(long, value_name = "LIST")]
    redact: Option<String>,
    /// Attest the run when it has ended, in this file: signed in-toto statements, one a line
    #[arg(long, value_name = "FILE")]
    attest: Option<PathBuf>,
    /// Deliver the events to these sinks while the cell runs: a YAML file of kind `EventSinks`
    #[arg(long, value_name = "FILE", env = "CELLOS_SINKS")]
    sinks: Option<PathBuf>,
    /// Store exported artifacts in this folder
    #[arg(long, value_name = "DIR")]
    export_dir: Option<PathBuf>,
    /// State folder [default: /var/lib/cellos for root, $XDG_STATE_HOME/cellos for others]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Id of the run; a fresh one by default
    #[arg(long, value_name = "ID")]
    run_id: Option<String>,

    /// Write a result record as the last line of standard output, or to a file
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// Say at the end how the cell was isolated, how it ended, what it used and left
    #[arg(long)]
    show_evidence: bool,
    /// Say how long each phase took
    #[arg(long)]
    timings: bool,
    /// Print the document instead of running it
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "yaml")]
    print_document: Option<DocumentFormat>,
    /// Say nothing about how the command ended
    #[arg(long, short)]
    quiet: bool,
    /// Log what cellos does; twice for more
    #[arg(long, short, action = clap::ArgAction::Count)]
    verbose: u8,

    #[command(flatten)]
    network: NetworkOptions,
    // Last, because its heading is that of everything after it.
    #[command(flatten)]
    cell: CellFlags,
}

/// What the events of a run survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Survives {
    /// The death of every process
    Process,
    /// A crash of the machine
    Machine,
}

impl From<Survives> for Durability {
    fn from(survives: Survives) -> Self {
        match survives {
            Survives::Process => Self::Process,
            Survives::Machine => Self::Machine,
        }
    }
}

/// Why a call makes no sense.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("there is nothing to run: name a document, or a command after --")]
    Nothing,
    #[error("a document already says what runs, so there can be no command after --")]
    DocumentAndCommand,
    #[error("{} describe a cell, and so does the document", flags.join(", "))]
    DocumentAndFlags { flags: Vec<&'static str> },
    #[error(
        "--run-id {run_id:?} is not 1 to 128 of A-Z a-z 0-9 . _ - with a letter or digit first"
    )]
    RunId { run_id: String },
    #[error("the async runtime cannot be started")]
    Runtime(#[source] io::Error),
    #[error("signal handlers cannot be installed")]
    Signals(#[source] io::Error),
    #[error("the standard streams cannot be handed on")]
    Streams(#[source] io::Error),
    #[error("{stream} is a folder, through which the command could leave its cell")]
    FolderAsStream { stream: &'static str },
}

impl RunArgs {
    /// How many `-v` there are.
    pub(crate) fn verbosity(&self) -> u8 {
        self.verbose
    }

    fn record_target(&self) -> Result<Option<RecordTarget>, Failure> {
        self.json
            .as_deref()
            .map(|path| RecordTarget::open("result record", path))
            .transpose()
    }
}

/// What `--attest` asks for: opened and ready before the cell runs.
struct Attesting {
    attestor: Attestor,
    target: RecordTarget,
    /// The document, unless fields of the events are blanked: what is blanked there must not be
    /// readable here.
    document: Option<Document>,
}

impl Attesting {
    fn prepare(
        args: &RunArgs,
        intake: &Intake,
        signer: Option<Arc<dyn Signer>>,
    ) -> Result<Option<Self>, Failure> {
        let Some(path) = &args.attest else {
            return Ok(None);
        };
        let signer = attest::signer(signer)?;
        Ok(Some(Self {
            attestor: Attestor {
                keys: Some(attest::keys_of(signer.as_ref())),
                signer,
                builder_id: None,
                predicates: Predicates::All,
                findings: Findings::Refuse,
            },
            target: RecordTarget::open("attestation", path)?,
            document: match &args.redact {
                Some(_) => None,
                None => Some(Document::of(intake)?),
            },
        }))
    }

    fn write(&self, log: &Path, from: u64, run_id: &str) -> Result<(), Failure> {
        let lines = self
            .attestor
            .attest(log, from, run_id, self.document.as_ref())?;
        self.target.write_text(&lines)
    }
}

/// Runs it.
pub(crate) fn run(args: RunArgs, begun: Option<PreparedBackend>) -> Result<Exit, Failure> {
    let record = args.record_target()?;
    let run_id = match &args.run_id {
        Some(run_id) if !cellos_core::admission::is_portable_id(run_id) => {
            return Err(Failure::call(CallError::RunId {
                run_id: run_id.clone(),
            }));
        }
        Some(run_id) => run_id.clone(),
        None => compose::fresh_run_id(),
    };
    let result = run_with_id(args, begun, &run_id, record.as_ref());
    if let (Err(failure), Some(record)) = (&result, &record) {
        record.write(&output::failure_record(&run_id, failure))?;
    }
    result
}

fn run_with_id(
    args: RunArgs,
    begun: Option<PreparedBackend>,
    run_id: &str,
    record: Option<&RecordTarget>,
) -> Result<Exit, Failure> {
    let (intake, stdin) = intake(&args, run_id)?;
    if let Some(format) = args.print_document {
        return print_document(intake, format);
    }
    if !args.quiet {
        intake.report_warnings();
    }
    let raw_spec_sha256 = intake.sha256()?;
    let signing = keys::signing(&args.signing)?;
    let signer = signing.as_ref().map(|signing| Arc::clone(&signing.signer));
    let attesting = Attesting::prepare(&args, &intake, signer)?;
    let network = args.network.plan()?;

    let backend = match begun {
        Some(begun) if begun.name() == args.backend => begun,
        // While there is one thread: the backend may fork a launcher.
        _ => compose::prepare(&args.backend, &BackendOptions::from_environment())?,
    };
    if args.backend == compose::UNISOLATED_BACKEND {
        say::warning("the stub backend isolates NOTHING: the command runs on this host, as you");
    }
    let state = state_dir::open(args.state_dir.as_deref())?;
    let events_file = match &args.events {
        Some(file) => file.clone(),
        None => state_dir::event_log(&state)?,
    };
    let sinks = sinks::configured(args.sinks.as_deref())?;
    if let Some(sinks) = &sinks {
        sinks::check_required(sinks, &events_file)?;
    }
    let mut hidden = keys::private_places(&args.signing);
    hidden.extend(sinks.iter().flat_map(sinks::private_files));
    hidden.extend(Hidden::locks(&events_file, state.root()));
    let (events, events_format) = compose::event_log(
        &events_file,
        args.durability.into(),
        args.redact.as_deref(),
        signing,
    )?;
    // Ends when everything about the run has been said.
    let _delivery = sinks.map(|sinks| BesideARun::start(sinks, &events_file));
    let (outcome, document) = block_on(async {
        let backend = backend.start()?;
        let descriptor = compose::with_gateway(backend.descriptor());
        let descriptor = compose::with_exports(descriptor, args.export_dir.as_deref());
        network.check(&descriptor)?;
        let subject = intake.subject(run_id, &raw_spec_sha256);
        let verdict = Verdict {
            backend: &args.backend,
            sha256: &raw_spec_sha256,
        };
        let admitted = match intake.admit(Some(&descriptor), || {
            compose::other_descriptors(&args.backend)
        }) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                let problems = refusal.problems.iter().map(ToString::to_string).collect();
                verdict.record_refusal(problems, &subject, &*events).await;
                return Err(Failure::refused(refusal));
            }
        };
        let guarded = keep_apart(
            admitted.document(),
            &events_file,
            state.root(),
            args.sinks.as_deref(),
            &hidden,
        );
        let fit = guarded
            .map_err(Unfit::from)
            .and_then(|()| Ok(recordable::check(admitted.document())?));
        if let Err(error) = fit {
            let problems = vec![error.to_string()];
            verdict.record_refusal(problems, &subject, &*events).await;
            return Err(Failure::document(error));
        }
        let admission = verdict.admitted();
        let exports =
            compose::export_sink(args.export_dir.as_deref(), &admitted.document().spec.id)?;
        let document = admitted.into_document();
        let request = RunRequest {
            document: document.clone(),
            raw_spec_sha256,
            run_id: run_id.to_owned(),
            streams: streams(stdin)?,
            operator_timeout: None,
            derivation: None,
            admission: Some(admission),
            universal_token: None,
            events_log: Some(EventsLog {
                file: events_file.clone(),
                format: events_format,
            }),
        };
        let ports = RunPorts {
            backend,
            events,
            exports,
            gateway: compose::gateway(network.gateway()),
            state,
        };
        let outcome = supervise(ports, request).await?;
        Ok::<_, Failure>((outcome, document))
    })??;

    if !args.quiet {
        output::say_how_it_ended(&outcome);
    }
    if args.show_evidence {
        say::write(format_args!("{}", evidence::table(&outcome, &events_file)));
    }
    if args.timings {
        output::say_timings(&outcome);
    }
    if let Some(record) = record {
        record.write(&output::record(&outcome, &events_file)?)?;
    }
    network.say_learned(&document)?;
    if let Some(attesting) = &attesting {
        attesting.write(&events_file, first_line(events_format), &outcome.run_id)?;
    }
    Ok(output::exit(&outcome))
}

/// Number of the line before which everything in the log is of earlier runs.
fn first_line(format: LogFormat) -> u64 {
    match format {
        LogFormat::Chained { from_seq } => from_seq,
        LogFormat::Plain => 0,
    }
}

/// Keeps the cell away from the log, the state folder, the settings of the sinks, and what it must
/// not see.
fn keep_apart(
    document: &ExecutionCellDocument,
    events_file: &Path,
    state: &Path,
    sinks: Option<&Path>,
    hidden: &[Hidden],
) -> Result<(), InReach> {
    evidence_guard::check(document, events_file, state)?;
    if let Some(sinks) = sinks {
        evidence_guard::keep_unchanged(document, "the settings of the sinks", sinks)?;
    }
    evidence_guard::keep_hidden(document, hidden)?;
    Ok(())
}

/// Why a cell whose document was admitted is not made.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error(transparent)]
    InReach(#[from] InReach),
    #[error(transparent)]
    Unrecordable(#[from] Unrecordable),
}

/// Where the workload's standard input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stdin {
    /// Ours.
    Inherited,
    /// Nothing: ours was the document.
    Empty,
}

fn intake(args: &RunArgs, run_id: &str) -> Result<(Intake, Stdin), Failure> {
    match (&args.document, args.command.is_empty()) {
        (None, true) => Err(Failure::call(CallError::Nothing)
            .hint("cellos run cell.yaml, or cellos run -- echo hello")),
        (Some(_), false) => Err(Failure::call(CallError::DocumentAndCommand)),
        (None, false) => {
            let document = args
                .cell
                .document(&args.command, || compose::fresh_cell_id(run_id))
                .map_err(Failure::call)?;
            Ok((Intake::made(document), Stdin::Inherited))
        }
        (Some(path), true) => {
            let flags = args.cell.given();
            if !flags.is_empty() {
                return Err(Failure::call(CallError::DocumentAndFlags { flags })
                    .hint("write it into the document, which is what the evidence is about"));
            }
            let source = DocumentSource::from_argument(path);
            let mut intake = Intake::read(&source, None, UnknownFields::Refuse)?;
            intake.anchor_mounts(&source).map_err(Failure::call)?;
            let stdin = match source {
                DocumentSource::StandardInput => Stdin::Empty,
                DocumentSource::File(_) => Stdin::Inherited,
            };
            Ok((intake, stdin))
        }
    }
}

fn print_document(intake: Intake, format: DocumentFormat) -> Result<Exit, Failure> {
    let admitted = intake.admit(None, Vec::new).map_err(Failure::refused)?;
    output::print_document(admitted.document(), format)?;
    Ok(Exit::Success)
}

/// The workload gets descriptors of our own streams, so nothing stands between it and them.
fn streams(stdin: Stdin) -> Result<Streams, Failure> {
    let own = |name: &'static str, stream: io::Result<OwnedFd>| {
        let stream = stream.map_err(|error| Failure::call(CallError::Streams(error)))?;
        let stat = rustix::fs::fstat(&stream)
            .map_err(|error| Failure::call(CallError::Streams(error.into())))?;
        match FileType::from_raw_mode(stat.st_mode) {
            // Every path can be opened from an open folder, whatever the cell's root is.
            FileType::Directory => Err(Failure::call(CallError::FolderAsStream { stream: name })),
            _ => Ok(stream),
        }
    };
    let stdin = match stdin {
        Stdin::Inherited => io::stdin().as_fd().try_clone_to_owned(),
        Stdin::Empty => std::fs::File::open(Path::new("/dev/null")).map(OwnedFd::from),
    };
    Ok(Streams {
        stdin: own("standard input", stdin)?,
        stdout: own("standard output", io::stdout().as_fd().try_clone_to_owned())?,
        stderr: own("standard error", io::stderr().as_fd().try_clone_to_owned())?,
    })
}

/// Runs one cell to its end; signals to this process stop it.
pub(crate) async fn supervise(ports: RunPorts, request: RunRequest) -> Result<RunOutcome, Failure> {
    let stop = crate::signals::stop_requests()
        .map_err(|error| Failure::call(CallError::Signals(error)))?;
    let before = StreamState::of_standard_streams();
    let outcome = ports.supervisor().run(request, stop).await;
    before.restore();
    Ok(outcome)
}

/// Runs a future to its end on this thread.
pub(crate) fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map(|runtime| runtime.block_on(future))
        .map_err(|error| Failure::call(CallError::Runtime(error)))
}

/// The streams of a run whose document came from here.
pub(crate) fn streams_for(source: &DocumentSource) -> Result<Streams, Failure> {
    streams(match source {
        DocumentSource::StandardInput => Stdin::Empty,
        DocumentSource::File(_) => Stdin::Inherited,
    })
}
