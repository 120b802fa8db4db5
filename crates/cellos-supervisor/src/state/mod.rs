//! What the supervisor keeps on disk while a run lives, so that a later process can finish what a
//! killed one began.

mod folder;
mod list;
mod reap;
mod record;
mod run_log;

pub use folder::{RunLease, StateError, StateFolder, default_state_dir};
pub use list::{KnownRun, MAX_LISTED_RECORDS, Supervised};
pub use reap::{
    FinalEvent, LeftoverCleaner, NoLeftovers, ReapProblem, ReapReport, ReapedRun, reap,
};
pub use record::{LogFormat, RECORD_FORMAT_VERSION, RunRecord};
pub use run_log::{PlainLogs, RunLog, RunLogs};
