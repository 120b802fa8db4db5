//! The published way for a guest to learn its command and to report its exit, for guests that do
//! not speak this crate's protocol.
//!
//! Weaker than that protocol: the key is on the kernel's command line, where the workload of a
//! guest that does not hide `/proc/cmdline` reads it, and the frame is bound to nothing but the
//! cell's id. Evidence that rests on it must say so.

mod boot;
mod exit_frame;

pub use boot::{BootTokens, BootTokensError, MAX_COMMAND_LINE_BYTES};
pub use exit_frame::{
    ACKNOWLEDGEMENT, EXIT_FRAME_BYTES, ExitFrameError, ExitFrameReader, exit_frame,
    verify_exit_frame,
};

/// The port of the host on which an exit frame is awaited.
pub const EXIT_PORT: u32 = 9000;
