//! Exit codes. `docs/exit-codes.md` is made from this file.

use std::{fmt::Write as _, process::ExitCode};

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// What was asked for was done.
    Success,
    /// The workload ended by itself; its code is ours.
    Workload(u8),
    /// What was checked is not as it should be.
    NotWell,
    /// A deadline ended the cell.
    Deadline,
    /// CellOS itself, or the host beneath it, failed.
    Failure,
    /// The document was refused, or its command cannot be executed.
    Refused,
    /// There is no such command in the cell.
    CommandNotFound,
    /// A signal ended the workload, or stopped us and with us the cell.
    Signalled(u8),
}

/// Added to a signal's number, as shells do.
const SIGNAL_BASE: u8 = 128;

impl Exit {
    /// The code that the calling process sees.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Workload(code) => code,
            Self::NotWell => 1,
            Self::Deadline => 124,
            Self::Failure => 125,
            Self::Refused => 126,
            Self::CommandNotFound => 127,
            Self::Signalled(signal) => SIGNAL_BASE.saturating_add(signal),
        }
    }

    /// The exit for a code as a shell gives it, which is what a workload leaves.
    #[must_use]
    pub fn from_shell_code(code: i32) -> Self {
        u8::try_from(code).map_or(Self::Failure, Self::Workload)
    }

    /// What the code means, for the table in the documentation.
    fn row(self) -> (&'static str, &'static str) {
        match self {
            Self::Success => (
                "0",
                "Done. For `run`: the workload returned 0. For `validate`: every document would be \
                 admitted. For `doctor`: the default backend works here. For `verify`: all is well.",
            ),
            Self::NotWell => (
                "1",
                "`verify`: not all is well with the log, and the findings say what.",
            ),
            Self::Workload(_) => ("1–255", "`run`: the workload's own exit code, unchanged."),
            Self::Deadline => (
                "124",
                "`run`: the cell outlived `lifetime.ttlSeconds` or `run.timeoutMs` and was ended.",
            ),
            Self::Failure => (
                "125",
                "CellOS could not do it: wrong usage, an unreadable document, an unknown backend, \
                 an event that could not be written, a host that lacks something. `doctor`: the \
                 default backend does not work here. `run`: a required sink lacks too many events. \
                 `forward`: something is left.",
            ),
            Self::Refused => (
                "126",
                "The document was refused at admission, or (as in shells) its command exists and \
                 cannot be executed.",
            ),
            Self::CommandNotFound => ("127", "`run`: there is no such command in the cell."),
            Self::Signalled(_) => (
                "128 + n",
                "`run`: signal n ended the workload, or stopped `cellos` and with it the cell.",
            ),
        }
    }

    /// One of each.
    const ALL: [Self; 8] = [
        Self::Success,
        Self::NotWell,
        Self::Workload(2),
        Self::Deadline,
        Self::Failure,
        Self::Refused,
        Self::CommandNotFound,
        Self::Signalled(15),
    ];
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The text of `docs/exit-codes.md`.
#[must_use]
pub fn documentation() -> String {
    let mut text = String::from(
        "# Exit codes\n\n\
         Made from `crates/cellos/src/exit.rs`; a test keeps it true.\n\n\
         ## cellos\n\n\
         | code | meaning |\n| --- | --- |\n",
    );
    for exit in Exit::ALL {
        let (code, meaning) = exit.row();
        let _ = writeln!(text, "| {code} | {meaning} |");
    }
    text.push_str(
        "\nA workload may itself return 124 to 127. The result record (`cellos run --json`) and the \
         events tell the two apart: `endedBy` names who or what ended the run.\n\n\
         ## cellos-supervisor\n\n\
         | code | meaning |\n| --- | --- |\n\
         | 0 | The whole lifecycle succeeded, or the document has no `spec.run`. |\n\
         | 1 | Anything else. The workload's own code is in the `command.v1.completed` event. |\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_follow_the_shells() {
        assert_eq!(Exit::Signalled(9).code(), 137);
        assert_eq!(Exit::from_shell_code(143), Exit::Workload(143));
        assert_eq!(Exit::from_shell_code(-1), Exit::Failure);
    }

    #[test]
    fn no_two_failures_share_a_code() {
        let mut codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Exit::ALL.len());
    }
}
