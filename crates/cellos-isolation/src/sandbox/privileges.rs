//! Giving up privileges: capabilities, secure bits, `no_new_privs`, key rings.
//!
//! Order, each step once: [`new_session_keyring`] and [`set_umask`] at any time before;
//! [`lock_securebits`] and [`drop_bounding_set`], which need `CAP_SETPCAP` in the user namespace;
//! [`drop_capabilities`], after which nothing is left; [`set_no_new_privs`]; [`set_dumpable`], last,
//! because changing credentials resets it.

use std::io;

use libc::{c_int, c_ulong};

/// A step of giving up privileges failed. The process must not go on to run a workload.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct PrivilegeError {
    /// The step that failed.
    pub operation: PrivilegeOperation,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// A step of giving up privileges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrivilegeOperation {
    /// `PR_SET_SECUREBITS`.
    #[error("lock the secure bits, which needs CAP_SETPCAP")]
    LockSecurebits,
    /// `PR_CAPBSET_DROP` of the capability with this number.
    #[error("drop capability {0} from the bounding set, which needs CAP_SETPCAP")]
    DropBounding(u8),
    /// `PR_CAP_AMBIENT_CLEAR_ALL`.
    #[error("clear the ambient capabilities")]
    ClearAmbient,
    /// `capset`.
    #[error("clear the capability sets")]
    ClearCapabilities,
    /// `PR_SET_NO_NEW_PRIVS`.
    #[error("set no_new_privs")]
    NoNewPrivs,
    /// `PR_SET_DUMPABLE`.
    #[error("set whether the process is dumpable")]
    Dumpable,
    /// `KEYCTL_JOIN_SESSION_KEYRING`; `EDQUOT` when the user has too many keys.
    #[error("join a new session keyring (kernel.keys.maxkeys bounds how many a user may have)")]
    SessionKeyring,
}

impl PrivilegeOperation {
    fn failed(self) -> PrivilegeError {
        PrivilegeError {
            operation: self,
            source: io::Error::last_os_error(),
        }
    }
}

/// Whether other processes of the same user may look into this one (`/proc/pid/mem` and friends,
/// ptrace), and whether it may leave a core file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dumpable {
    /// Closed: the files in `/proc/pid` belong to root. `execve` of a readable file opens it again.
    No,
    /// Open to the same user.
    Yes,
}

/// What became of the session keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionKeyring {
    /// The process has a fresh, empty one.
    Fresh,
    /// The kernel has no key rings, so none is inherited.
    Unsupported,
}

/// The first word of the version-3 header of capset(2).
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Capability sets are 64 bits wide, so no capability has a higher number.
const MAX_CAPABILITIES: u8 = 64;

/// `SECBIT_NOROOT`, `SECBIT_NO_SETUID_FIXUP` and `SECBIT_NO_CAP_AMBIENT_RAISE` set,
/// `SECBIT_KEEP_CAPS` clear, all four locked (capabilities(7), `linux/securebits.h`).
const SECUREBITS: c_ulong = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7;

/// Makes user ID 0 an ordinary one for good: neither `execve` nor `setuid` gives or takes
/// capabilities because of it.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP` in the user namespace.
pub fn lock_securebits() -> Result<(), PrivilegeError> {
    prctl(libc::PR_SET_SECUREBITS, SECUREBITS, 0)
        .map_err(|_| PrivilegeOperation::LockSecurebits.failed())
}

/// Empties the capability bounding set, so that no file's capabilities can bring one back.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP` in the user namespace.
pub fn drop_bounding_set() -> Result<(), PrivilegeError> {
    for capability in 0..MAX_CAPABILITIES {
        if prctl(libc::PR_CAPBSET_DROP, c_ulong::from(capability), 0).is_err() {
            let error = PrivilegeOperation::DropBounding(capability).failed();
            // The kernel answers EINVAL beyond its last capability; so all of them are dropped.
            if capability > 0 && error.source.raw_os_error() == Some(libc::EINVAL) {
                return Ok(());
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Clears the ambient, inheritable, permitted and effective sets.
///
/// # Errors
/// The kernel's; clearing needs no privilege.
pub fn drop_capabilities() -> Result<(), PrivilegeError> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }

    prctl(libc::PR_CAP_AMBIENT, ambient_clear_all(), 0)
        .map_err(|_| PrivilegeOperation::ClearAmbient.failed())?;
    let mut header = Header {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let none = [Sets {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    }; 2];
    // SAFETY: the header names version 3, whose data are two sets, which the kernel only reads; it
    // may write the version that it prefers into the header. Both live through the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, none.as_ptr()) };
    if result == 0 {
        Ok(())
    } else {
        Err(PrivilegeOperation::ClearCapabilities.failed())
    }
}

/// Promises that no `execve` will ever grant a privilege: set-user-ID bits and file capabilities
/// are ignored from here on. Needed before Landlock and seccomp.
///
/// # Errors
/// The kernel's; needs no privilege.
pub fn set_no_new_privs() -> Result<(), PrivilegeError> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map_err(|_| PrivilegeOperation::NoNewPrivs.failed())
}

/// Sets whether the process may be looked into by others of its user until its next `execve`.
///
/// # Errors
/// The kernel's; needs no privilege.
pub fn set_dumpable(dumpable: Dumpable) -> Result<(), PrivilegeError> {
    let value = match dumpable {
        Dumpable::No => 0,
        Dumpable::Yes => 1,
    };
    prctl(libc::PR_SET_DUMPABLE, value, 0).map_err(|_| PrivilegeOperation::Dumpable.failed())
}

/// Leaves the inherited session keyring for a new, empty one, so that the keys of whoever started
/// CellOS are out of reach (keyctl(2), `KEYCTL_JOIN_SESSION_KEYRING`).
///
/// # Errors
/// `EDQUOT` when the user holds too many keys already.
pub fn new_session_keyring() -> Result<SessionKeyring, PrivilegeError> {
    const JOIN_SESSION_KEYRING: c_ulong = 1;
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for an anonymous keyring, so nothing is dereferenced.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, anonymous) };
    if result >= 0 {
        return Ok(SessionKeyring::Fresh);
    }
    let error = PrivilegeOperation::SessionKeyring.failed();
    match error.source.raw_os_error() {
        Some(libc::ENOSYS) => Ok(SessionKeyring::Unsupported),
        _ => Err(error),
    }
}

/// Sets the bits that new files of the process never get, and returns those before (umask(2)).
pub fn set_umask(mask: libc::mode_t) -> libc::mode_t {
    // SAFETY: umask(2) takes a number and always succeeds.
    unsafe { libc::umask(mask) }
}

fn ambient_clear_all() -> c_ulong {
    libc::PR_CAP_AMBIENT_CLEAR_ALL.unsigned_abs().into()
}

/// prctl(2) with arguments that are numbers; the unused ones must be zero.
fn prctl(option: c_int, second: c_ulong, third: c_ulong) -> Result<(), ()> {
    let zero: c_ulong = 0;
    // SAFETY: none of the options used in this module takes a pointer.
    let result = unsafe { libc::prctl(option, second, third, zero, zero) };
    if result >= 0 { Ok(()) } else { Err(()) }
}
