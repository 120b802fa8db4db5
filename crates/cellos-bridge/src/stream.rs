//! Streams of a workload and the credit that bounds what is under way on each.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Most bytes of one stream that may be under way, and so what a receiver must have room for.
pub const MAX_CREDIT_BYTES: u32 = 1024 * 1024;

/// A standard stream of the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StandardStream {
    /// Standard input.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl StandardStream {
    /// Number on the wire, the number of the descriptor.
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }

    /// The output stream with this number.
    pub(crate) const fn output_from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            _ => None,
        }
    }
}

impl fmt::Display for StandardStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdin => "standard input",
            Self::Stdout => "standard output",
            Self::Stderr => "standard error",
        })
    }
}

/// Bytes of one stream that were allowed, and those that were sent, and whether more are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Window {
    credit: u32,
    passed: u64,
    closed: bool,
}

impl Window {
    /// Bytes that may still pass.
    pub(crate) fn credit(self) -> u32 {
        self.credit
    }

    /// Bytes that have passed.
    pub(crate) fn passed(self) -> u64 {
        self.passed
    }

    /// Whether whoever takes the bytes wants no more of them.
    pub(crate) fn is_closed(self) -> bool {
        self.closed
    }

    /// Wants no more bytes. What was allowed before may still be under way.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// Allows more bytes; `None` where more than [`MAX_CREDIT_BYTES`] would be under way.
    pub(crate) fn grant(&mut self, bytes: u32) -> Option<()> {
        let credit = self.credit.checked_add(bytes)?;
        if credit > MAX_CREDIT_BYTES {
            return None;
        }
        self.credit = credit;
        Some(())
    }

    /// Lets bytes pass; `None` where they are more than was allowed.
    pub(crate) fn pass(&mut self, bytes: usize) -> Option<()> {
        let bytes = u32::try_from(bytes).ok()?;
        self.credit = self.credit.checked_sub(bytes)?;
        self.passed = self.passed.saturating_add(u64::from(bytes));
        Some(())
    }
}
