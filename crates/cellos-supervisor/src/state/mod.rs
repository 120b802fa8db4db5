//! What the supervisor keeps on disk while a run lives, so that a later process can finish what a
//! killed one began.

mod folder;
mod reap;
mod record;

pub use folder::{RunLease, StateError, StateFolder, default_state_dir};
pub use reap::{
    FinalEvent, LeftoverCleaner, NoLeftovers, ReapProblem, ReapReport, ReapedRun, reap,
};
pub use record::{RECORD_FORMAT_VERSION, RunRecord};
