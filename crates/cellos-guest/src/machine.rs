//! What PID 1 does to the machine as a whole, and does not do as an ordinary process.

use std::{
    ffi::c_void,
    io,
    os::fd::{AsRawFd as _, IntoRawFd as _},
    time::Duration,
};

use cellos_bridge::Entropy;
use rustix::{
    fs::{Mode, OFlags},
    process::DumpableBehavior,
    system::RebootCommand,
    time::{ClockId, Timespec, clock_settime},
};
use zeroize::Zeroize as _;

/// Where this program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surroundings {
    /// As PID 1 of a machine that is its own.
    Machine,
    /// As an ordinary process of a host, whose clock and generator are not its business.
    Process,
}

/// `RNDADDENTROPY` of random(4): `_IOW('R', 0x03, int[2])`.
const ADD_ENTROPY: rustix::ioctl::Opcode =
    rustix::ioctl::opcode::write::<[libc::c_int; 2]>(b'R', 0x03);

/// `RNDRESEEDCRNG` of random(4): `_IO('R', 0x07)`.
const RESEED: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(b'R', 0x07);

/// `struct rand_pool_info` of random(4) with room for all that a configuration may bring.
#[repr(C)]
struct PoolInfo {
    entropy_bits: libc::c_int,
    bytes: libc::c_int,
    buffer: [u8; cellos_bridge::MAX_ENTROPY_BYTES],
}

impl Drop for PoolInfo {
    fn drop(&mut self) {
        self.buffer.zeroize();
    }
}

/// The request to add entropy. The pool is not moved into it, which would leave copies behind.
struct AddEntropy<'a>(&'a mut PoolInfo);

// SAFETY: for this request the kernel reads a rand_pool_info, whose `bytes` says how many of the
// buffer are meant. `add_entropy`, which alone makes one, counts the bytes that it copied there.
unsafe impl rustix::ioctl::Ioctl for AddEntropy<'_> {
    type Output = ();

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> rustix::ioctl::Opcode {
        ADD_ENTROPY
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(
        _: rustix::ioctl::IoctlOutput,
        _: *mut c_void,
    ) -> rustix::io::Result<()> {
        Ok(())
    }
}

impl Surroundings {
    /// Sets the clock to nanoseconds since 1970. A machine that was parked or restored has the
    /// time of then.
    ///
    /// # Errors
    /// The kernel's, clock_settime(2).
    pub fn set_clock(self, unix_ns: u64) -> io::Result<()> {
        if self == Self::Process {
            return Ok(());
        }
        let time = Timespec::try_from(Duration::from_nanos(unix_ns))
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(clock_settime(ClockId::Realtime, time)?)
    }

    /// Feeds the kernel's generator and makes it start anew from that. Two machines restored from
    /// one snapshot would otherwise draw the same numbers.
    ///
    /// # Errors
    /// The kernel's, random(4).
    pub fn add_entropy(self, entropy: &Entropy) -> io::Result<()> {
        if self == Self::Process {
            return Ok(());
        }
        let device = std::fs::File::options().write(true).open("/dev/random")?;
        let bytes = entropy.as_bytes();
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let count = libc::c_int::try_from(bytes.len()).map_err(|_| invalid())?;
        let mut pool = PoolInfo {
            entropy_bits: count.checked_mul(8).ok_or_else(invalid)?,
            bytes: count,
            buffer: [0; cellos_bridge::MAX_ENTROPY_BYTES],
        };
        pool.buffer
            .get_mut(..bytes.len())
            .ok_or_else(invalid)?
            .copy_from_slice(bytes);
        // SAFETY: `AddEntropy` describes its request as the kernel has it.
        unsafe { rustix::ioctl::ioctl(&device, AddEntropy(&mut pool))? };
        // SAFETY: this request has no argument.
        unsafe { rustix::ioctl::ioctl(&device, rustix::ioctl::NoArg::<RESEED>::new())? };
        Ok(())
    }

    /// Hides this process's memory from everything but the kernel, and spares it when memory runs
    /// out. To be called when the launcher has been forked: what it makes inherits the second.
    ///
    /// # Errors
    /// The kernel's, PR_SET_DUMPABLE(2const) and proc_pid_oom_score_adj(5).
    pub fn withdraw(self) -> io::Result<()> {
        if self == Self::Machine {
            std::fs::write("/proc/self/oom_score_adj", "-1000")?;
        }
        Ok(rustix::process::set_dumpable_behavior(
            DumpableBehavior::NotDumpable,
        )?)
    }
}

/// Resets the machine without writing anything back: nothing of a cell outlives it. On x86 a
/// monitor of microVMs sees a restart as the end, and no power-off (there is no ACPI); elsewhere
/// both end it.
pub fn reset() -> ! {
    let command = if cfg!(target_arch = "x86_64") {
        RebootCommand::Restart
    } else {
        RebootCommand::PowerOff
    };
    let _ = rustix::system::reboot(command);
    // Only without the right to: then the end of PID 1 is the end of the machine, by panic.
    std::process::abort()
}

/// Makes a write to a pipe or socket that nobody reads an error, and not the end of this process.
pub fn ignore_broken_pipes() {
    // SAFETY: SIG_IGN is a valid disposition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Takes the numbers of standard streams that the kernel could not open, so that nothing else gets
/// them. What they lead to is of no use; [`boot`](crate::boot) gives them `/dev/null`.
pub fn occupy_standard_streams() {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    while let Ok(placeholder) = rustix::fs::open("/", flags, Mode::empty()) {
        if placeholder.as_raw_fd() > 2 {
            return;
        }
        let _ = placeholder.into_raw_fd();
    }
}

/// Makes the kernel collect every process that ends as a child of this one, orphans included
/// (sigaction(2), `SIGCHLD`).
pub fn let_the_kernel_reap() {
    // SAFETY: SIG_IGN is a valid disposition.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Waits until no child is left. With [`let_the_kernel_reap`] in force there is nothing to collect,
/// and the wait ends with the last of them (wait(2)).
pub fn wait_for_children() {
    while !matches!(
        rustix::process::wait(rustix::process::WaitOptions::empty()),
        Err(rustix::io::Errno::CHILD)
    ) {}
}
