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

#[cfg(test)]
mod tests {
    use cellos_testkit::{require, test_name};
    use rustix::fs::{major, minor};

    use super::*;
    use crate::boot::namespaces::{Namespaces, inside};

    /// Major and minor number of `/dev/null` (null(4)).
    const NULL: (u32, u32) = (1, 3);

    fn device(stream: BorrowedFd<'_>) -> (u32, u32) {
        let device = fstat(stream).unwrap().st_rdev;
        (major(device), minor(device))
    }

    #[test]
    fn a_stream_that_is_no_device_leads_nowhere_from_then_on() {
        require!("userns");
        // For the whole process, so in one of its own, whose output is pipes.
        inside(test_name!(), Namespaces::Unprivileged, |_| {
            assert!(!is_device(std::io::stdout().as_fd()));
            let stdout = std::io::stdout().as_fd().try_clone_to_owned().unwrap();
            open().unwrap();
            assert_eq!(device(std::io::stdout().as_fd()), NULL);
            assert_eq!(device(std::io::stderr().as_fd()), NULL);
            assert!(is_device(std::io::stdin().as_fd()));
            // The parent wants to hear of it.
            rustix::stdio::dup2_stdout(stdout).unwrap();
        });
    }
}
