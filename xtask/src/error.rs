//! What can go wrong in a task.

use std::path::{Path, PathBuf};

/// A task could not do its work. The message is for the developer who started it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskError {
    /// The command line of the task itself was wrong.
    #[error("{0}")]
    Usage(String),
    /// A program could not be started at all.
    #[error("cannot start `{program}`: {source}")]
    Start {
        /// The program as it would be typed.
        program: String,
        /// Why the kernel refused.
        source: std::io::Error,
    },
    /// A program ran and said that it failed.
    #[error("`{command}` ended with {status}")]
    Failed {
        /// The command as it would be typed.
        command: String,
        /// Its exit code or signal.
        status: String,
    },
    /// A file or folder could not be used.
    #[error("cannot {operation} {}: {source}", path.display())]
    File {
        /// A verb: read, write, create, …
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A program's output was not what this task can read.
    #[error("cannot understand {what}: {why}")]
    Unreadable {
        /// Whose output.
        what: String,
        /// What was expected.
        why: String,
    },
    /// Checks ran and did not hold. One message for each.
    #[error("{}", .0.join("\n       "))]
    Broken(Vec<String>),
}

impl TaskError {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    pub(crate) fn unreadable(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unreadable {
            what: what.into(),
            why: why.into(),
        }
    }

    pub(crate) fn file(
        operation: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File {
            operation,
            path: path.to_path_buf(),
            source,
        }
    }
}
