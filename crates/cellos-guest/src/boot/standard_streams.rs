//! Standard streams of a machine that has no console.

use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat};

use super::{BootError, Step as _};

/// Gives every standard stream that is no device `/dev/null`.
pub(super) fn open() -> Result<(), BootError> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .on("open", "/dev/null")?;
    let step = "give a standard stream /dev/null";
    if !is_device(std::io::stdin().as_fd()) {
        rustix::stdio::dup2_stdin(&null).step(step)?;
    }
    if !is_device(std::io::stdout().as_fd()) {
        rustix::stdio::dup2_stdout(&null).step(step)?;
    }
    if !is_device(std::io::stderr().as_fd()) {
        rustix::stdio::dup2_stderr(&null).step(step)?;
    }
    Ok(())
}

fn is_device(stream: BorrowedFd<'_>) -> bool {
    fstat(stream)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice)
}
