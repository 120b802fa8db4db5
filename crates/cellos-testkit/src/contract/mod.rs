//! What every backend must do.
//!
//! One call in a backend's `tests/all.rs` makes one test of each case:
//!
//! ```text
//! cellos_testkit::backend_contract!(make_backend);                  // runs nothing itself
//! cellos_testkit::backend_contract!(make_backend, runs_workloads);  // has WorkloadControl
//! ```
//!
//! where `fn make_backend() -> Result<impl BackendUnderTest, Missing>` makes a fresh backend, or
//! says what the host lacks; the test is then reported as skipped:
//!
//! ```text
//! fn make_backend() -> Result<LinuxUnderTest, Missing> {
//!     Ability::UserNamespaces.probe()?;
//!     Ok(LinuxUnderTest::new())
//! }
//! ```
//!
//! Put two calls for two configurations of a backend into two modules.

pub mod faults;
pub mod ids;
pub mod leaks;
pub mod lifecycle;
mod macros;
pub mod streams;
pub mod workload;

use std::{fmt, future::Future, io, sync::Arc, time::Duration};

use cellos_core::{CellosError, ExecutionCellDocument, ports::CellBackend};

use crate::{Missing, alone, alone::Place, minimal_document};

/// Longest run of one case. Far more than any needs: reaching it means that a call hangs.
pub const CASE_LIMIT: Duration = Duration::from_secs(120);
/// Longest wait for a call that has nothing to wait for.
pub const PROMPT: Duration = Duration::from_secs(10);
/// Cells made and taken apart by the leak case: enough that a leak in one of a hundred shows.
pub const CYCLES: usize = 200;
/// Threads for blocking calls of a case's runtime. They are started before anything is counted.
const BLOCKING_THREADS: usize = 8;

/// A backend, and what the contract has to know about it.
pub trait BackendUnderTest: Send + Sync {
    /// The backend. Always the same one.
    fn backend(&self) -> Arc<dyn CellBackend>;

    /// What of cells is left on the host, one line each, found by looking: files below the
    /// backend's folders, control groups, sockets. Empty when no cell is alive.
    fn leftovers(&self) -> Vec<String>;

    /// A document that this backend accepts.
    fn document(&self, id: &str) -> ExecutionCellDocument {
        minimal_document(id, ["/bin/true"])
    }

    /// The command that behaves as a probe says.
    fn command(&self, probe: Probe) -> Vec<String> {
        probe.shell_command()
    }

    /// Points at which `create` can be made to fail, in the order it passes them.
    fn fault_points(&self) -> Vec<String> {
        Vec::new()
    }

    /// Makes the next `create` fail at one of [`BackendUnderTest::fault_points`].
    fn inject(&self, point: &str) {
        let _ = point;
    }

    /// How many cells the leak case makes; fewer only where one takes a second or more.
    fn cycles(&self) -> usize {
        CYCLES
    }
}

/// What a workload of the contract does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Ends with a code.
    Exit(u8),
    /// Ends itself with `SIGKILL`.
    KillItself,
    /// Sleeps for ten minutes, and ends on `SIGTERM`.
    Sleep,
    /// Writes `ready` to standard output, ignores `SIGTERM` and sleeps.
    IgnoreTerminate,
    /// Writes `ready` to standard output, leaves a daemon in a session of its own and sleeps. The
    /// daemon sleeps for a number of seconds by which it can be found among all processes.
    LeaveDaemon {
        /// The daemon's argument.
        seconds: u32,
    },
    /// Writes `out` to standard output and `err` to standard error.
    Speak,
    /// Copies standard input to standard output.
    Copy,
    /// Makes the file `started` in the working folder.
    Mark,
    /// A program that does not exist.
    Absent,
    /// A path that exists and cannot be executed.
    NotExecutable,
}

impl Probe {
    /// The command with the programs of an ordinary Linux system.
    #[must_use]
    pub fn shell_command(self) -> Vec<String> {
        let shell = |script: String| vec!["/bin/sh".to_owned(), "-c".to_owned(), script];
        match self {
            Self::Exit(code) => shell(format!("exit {code}")),
            Self::KillItself => shell("kill -KILL $$".into()),
            Self::Sleep => vec!["sleep".into(), "600".into()],
            Self::IgnoreTerminate => {
                shell("trap '' TERM; echo ready; while :; do sleep 1; done".into())
            }
            Self::LeaveDaemon { seconds } => shell(format!(
                "(setsid sleep {seconds} </dev/null >/dev/null 2>&1 &); echo ready; exec sleep 600"
            )),
            Self::Speak => shell("echo out; echo err >&2".into()),
            Self::Copy => vec!["cat".into()],
            Self::Mark => shell(": > started".into()),
            Self::Absent => vec!["a-program-that-is-nowhere".into()],
            Self::NotExecutable => vec!["/usr".into()],
        }
    }
}

/// A way in which a backend breaks the contract.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(String);

impl Violation {
    /// From what was seen.
    pub fn new(seen: impl Into<String>) -> Self {
        Self(seen.into())
    }
}

// The test harness prints the Debug form.
impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<CellosError> for Violation {
    fn from(error: CellosError) -> Self {
        Self(format!("unexpected error: {error}"))
    }
}

impl From<io::Error> for Violation {
    fn from(error: io::Error) -> Self {
        Self(format!("the test itself failed: {error}"))
    }
}

/// What came of one case.
pub type CaseResult = Result<(), Violation>;

/// The backend as the cases get it.
pub type Subject = Arc<dyn BackendUnderTest>;

/// Returns a [`Violation`] from a case unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::contract::Violation::new(format!($($message)+)));
        }
    };
}
pub(crate) use ensure;

/// Runs one case over a fresh backend, on a runtime of its own, and then looks at what is left.
///
/// # Errors
/// [`Violation`] when the backend breaks the contract, or when it is missing and
/// `CELLOS_TEST_REQUIRE` says that it may not be.
pub fn run<B, C, F>(test: &str, factory: impl FnOnce() -> Result<B, Missing>, case: C) -> CaseResult
where
    B: BackendUnderTest + 'static,
    C: FnOnce(Subject) -> F,
    F: Future<Output = CaseResult>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS)
        // Idle threads stay, so that their number is the same at every look.
        .thread_keep_alive(CASE_LIMIT * 2)
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let subject: Subject = match factory() {
            Ok(subject) => Arc::new(subject),
            Err(missing) if missing.is_required() => {
                return Err(Violation::new(missing.to_string()));
            }
            Err(missing) => {
                missing.report(test);
                return Ok(());
            }
        };
        start_blocking_threads().await?;
        match tokio::time::timeout(CASE_LIMIT, case(Arc::clone(&subject))).await {
            Ok(result) => result?,
            Err(_) => return Err(Violation::new(format!("not done after {CASE_LIMIT:?}"))),
        }
        let left = subject.leftovers();
        ensure!(left.is_empty(), "left on the host: {}", left.join(", "));
        Ok(())
    });
    // A backend that hangs must not hang the test program as well.
    runtime.shutdown_background();
    result
}

/// [`run`] in a process of its own, for cases that count what the process holds.
///
/// # Errors
/// As [`run`].
pub fn run_alone<B, C, F>(
    test: &str,
    factory: impl FnOnce() -> Result<B, Missing>,
    case: C,
) -> CaseResult
where
    B: BackendUnderTest + 'static,
    C: FnOnce(Subject) -> F,
    F: Future<Output = CaseResult>,
{
    match alone::rerun(test, &[]) {
        Place::Alone => {
            run(test, factory, case)?;
            alone::finished();
            Ok(())
        }
        Place::Parent(result) => result.map_err(Violation),
    }
}

/// Starts every thread that the runtime may ever have, by occupying them all at once.
async fn start_blocking_threads() -> CaseResult {
    let barrier = Arc::new(std::sync::Barrier::new(BLOCKING_THREADS));
    let waiting: Vec<_> = (0..BLOCKING_THREADS)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            tokio::task::spawn_blocking(move || barrier.wait())
        })
        .collect();
    for thread in waiting {
        thread
            .await
            .map_err(|error| Violation::new(error.to_string()))?;
    }
    Ok(())
}

/// The result of a call that must answer at once.
async fn promptly<T>(what: &str, call: impl Future<Output = T>) -> Result<T, Violation> {
    tokio::time::timeout(PROMPT, call)
        .await
        .map_err(|_| Violation::new(format!("{what} gave no answer in {PROMPT:?}")))
}
