//! Closing what a process inherited (close_range(2), Linux 5.9).

use std::io;
use std::os::fd::RawFd;

use libc::{c_uint, c_ulong};

/// Descriptors could not be closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptorError {
    /// The list of descriptors to keep is not strictly ascending, or has a negative number in it.
    #[error("descriptors to keep: {0} is not above its predecessor, sort the list")]
    Unsorted(RawFd),
    /// close_range(2) failed; `ENOSYS` before Linux 5.9.
    #[error("close descriptors {first} to {last}, which needs close_range (Linux 5.9)")]
    Close {
        /// First of the range.
        first: c_uint,
        /// Last of the range.
        last: c_uint,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// The first descriptor after standard input, output and error.
const FIRST_INHERITED: c_uint = 3;

/// Closes every descriptor from 3 up except those of `keep`, which is in strictly ascending order.
/// One system call for each gap.
///
/// # Errors
/// [`DescriptorError::Unsorted`] before anything is closed; [`DescriptorError::Close`] with the
/// range in question.
pub fn close_except(keep: &[RawFd]) -> Result<(), DescriptorError> {
    let mut previous = -1;
    for kept in keep {
        if *kept <= previous {
            return Err(DescriptorError::Unsorted(*kept));
        }
        previous = *kept;
    }
    let mut first = FIRST_INHERITED;
    for kept in keep.iter().map(|kept| kept.unsigned_abs()) {
        if kept < first {
            continue;
        }
        if kept > first {
            close_range(first, kept - 1)?;
        }
        first = kept + 1;
    }
    close_range(first, c_uint::MAX)
}

fn close_range(first: c_uint, last: c_uint) -> Result<(), DescriptorError> {
    let flags: c_ulong = 0;
    // SAFETY: takes numbers only. Descriptors that an owner still holds would be closed under it;
    // that is the purpose, and the caller is about to become another program.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            c_ulong::from(first),
            c_ulong::from(last),
            flags,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(DescriptorError::Close {
            first,
            last,
            source: io::Error::last_os_error(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsorted_lists_are_refused_before_anything_is_closed() {
        for keep in [&[5, 4][..], &[4, 4], &[-1], &[7, -3]] {
            assert!(
                matches!(close_except(keep), Err(DescriptorError::Unsorted(_))),
                "{keep:?}"
            );
        }
    }
}
