//! What a JSON Lines sink is told.

use std::path::PathBuf;

/// What an event survives, and from when on. The death of any process loses nothing in either
/// case: the kernel has the bytes when `emit` returns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// The death of every process, when `emit` has returned. Costs no disk flush.
    #[default]
    Process,
    /// A crash of the machine, when `flush` has returned, which the lifecycle calls before a
    /// workload starts and at its end. Costs two disk flushes per cell.
    Machine,
    /// A crash of the machine, when `emit` has returned. Costs one disk flush per event.
    EachEvent,
}

/// Where the events go, and how safely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonlConfig {
    /// The file. Made with mode 0600 if it does not exist; its folder has to exist.
    pub path: PathBuf,
    /// What an event survives.
    pub durability: Durability,
}

impl JsonlConfig {
    /// A file with the default durability.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            durability: Durability::default(),
        }
    }
}
