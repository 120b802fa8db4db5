//! The lifecycle of one cell, over ports only: it creates a cell, lets its command run, ends it at
//! its deadline or when asked, exports what it left, takes it apart whatever happened, and writes
//! an event for each of these.
#![forbid(unsafe_code)]

mod artifact;
pub mod bounds;
mod clock;
mod deadline;
mod error;
pub mod host_runner;
mod journal;
mod lifecycle;
mod outcome;
mod output;
mod reports;
pub mod state;
mod stop;
mod supervisor;
mod workload;

pub use clock::{Clock, SystemClock};
pub use deadline::DeadlineSource;
pub use error::{NetworkError, RunError, describe_limit};
pub use host_runner::HostRunner;
pub use outcome::{
    EXIT_CELLOS, EXIT_DEADLINE, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, Phase, PhaseTiming,
    RESULT_FORMAT_VERSION, ResultRecord, RunOutcome, StoredArtifact,
};
pub use stop::{StopHandle, StopRequests, SupervisorSignal};
pub use supervisor::{DerivationFacts, EventsLog, RunRequest, Supervisor};
