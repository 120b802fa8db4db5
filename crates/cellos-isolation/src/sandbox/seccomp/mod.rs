//! The system-call filter of a cell (seccomp(2)).
//!
//! A list of what programs need is allowed; all else fails with `EPERM`, or with `ENOSYS` where
//! programs probe for a call and do without it. Calls of another architecture's ABI, and of x32,
//! kill the process, since their numbers mean something else. The program is built once, in the
//! launcher, and only installed in each cell.

mod assembler;
mod calls;
#[cfg(test)]
mod interpreter;
mod rules;
#[cfg(test)]
mod tests;

use std::io;

use libc::{c_ulong, sock_filter, sock_fprog};

use rules::Architecture;

/// The filter could not be built or installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeccompError {
    /// There are no call numbers for the architecture that this program was compiled for.
    #[error("build seccomp filter: {0} is not supported, use x86_64 or aarch64")]
    UnsupportedArchitecture(&'static str),
    /// The program is longer than the kernel takes (`BPF_MAXINSNS`).
    #[error("build seccomp filter: {0} instructions, the kernel takes {MAX_INSTRUCTIONS}")]
    TooLong(usize),
    /// seccomp(2) failed: `EACCES` without `no_new_privs`, `EINVAL` or `ENOSYS` where the kernel was
    /// built without `CONFIG_SECCOMP_FILTER`.
    #[error("install seccomp filter, which needs no_new_privs and CONFIG_SECCOMP_FILTER")]
    Install(#[source] io::Error),
}

/// `BPF_MAXINSNS` of `linux/bpf_common.h`: the longest program that the kernel takes.
const MAX_INSTRUCTIONS: usize = 4096;

/// A built filter program for this machine's architecture.
#[derive(Clone, Debug)]
pub struct Filter {
    program: Box<[sock_filter]>,
    /// `program.len()`, which is known to fit.
    length: u16,
}

impl Filter {
    /// Builds the program, which is the same for every cell.
    ///
    /// # Errors
    /// [`SeccompError::UnsupportedArchitecture`] elsewhere than on x86_64 and aarch64.
    pub fn build() -> Result<Self, SeccompError> {
        let architecture = Architecture::NATIVE.ok_or(SeccompError::UnsupportedArchitecture(
            std::env::consts::ARCH,
        ))?;
        let program = rules::assemble(architecture);
        let length = u16::try_from(program.len())
            .ok()
            .filter(|length| usize::from(*length) <= MAX_INSTRUCTIONS)
            .ok_or(SeccompError::TooLong(program.len()))?;
        Ok(Self { program, length })
    }

    /// Puts the calling thread, and all it starts, under the filter for good. One system call, no
    /// allocation. `no_new_privs` must be set, see
    /// [`set_no_new_privs`](super::privileges::set_no_new_privs).
    ///
    /// # Errors
    /// [`SeccompError::Install`] with the kernel's error; nothing is installed then.
    pub fn install(&self) -> Result<(), SeccompError> {
        let program = sock_fprog {
            len: self.length,
            filter: self.program.as_ptr().cast_mut(),
        };
        // SAFETY: `program` points to `length` initialised instructions that live through the call;
        // the kernel copies and checks them and writes nothing.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                c_ulong::from(libc::SECCOMP_SET_MODE_FILTER),
                0 as c_ulong,
                &raw const program,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(SeccompError::Install(io::Error::last_os_error()))
        }
    }

    /// How many instructions the program has.
    #[must_use]
    pub fn instructions(&self) -> usize {
        self.program.len()
    }
}
