//! What a JSON Lines sink is told.

use std::path::PathBuf;

/// When an event survives a crash of the machine. A crash of the program alone loses nothing
/// either way: the kernel has the bytes when `emit` returns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// When `flush` has returned, which the lifecycle calls at its end.
    #[default]
    Flush,
    /// When `emit` has returned. Costs one disk flush per event.
    EachEvent,
}

/// Where the events go, and how safely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonlConfig {
    /// The file. Made with mode 0600 if it does not exist; its folder has to exist.
    pub path: PathBuf,
    /// When an event survives a crash of the machine.
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
