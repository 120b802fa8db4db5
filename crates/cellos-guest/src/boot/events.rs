//! The kernel's own word that a device has come, so that nobody has to look again and again.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind,
        netlink::{KOBJECT_UEVENT, SocketAddrNetlink},
        recv, socket_with,
    },
};

use super::{BootError, Step as _};

/// Group of `NETLINK_KOBJECT_UEVENT` that has the kernel's own events (netlink(7)).
const KERNEL_GROUP: u32 = 1;

/// Room for one event, in bytes: the kernel makes none above `UEVENT_BUFFER_SIZE`, 2048.
const EVENT_BYTES: usize = 4096;

/// Device events of the kernel from now on.
#[derive(Debug)]
pub struct KernelEvents(OwnedFd);

impl KernelEvents {
    /// Starts to listen.
    ///
    /// # Errors
    /// [`BootError::Kernel`] when the kernel refuses.
    pub fn open() -> Result<Self, BootError> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(KOBJECT_UEVENT),
        )
        .step("listen to device events")?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP)).step("listen to device events")?;
        Ok(Self(socket))
    }

    /// Looks, and after each event looks again, until something was found or the time is over.
    ///
    /// # Errors
    /// [`BootError`] of the look, or when events cannot be waited for.
    pub fn wait_for<T>(
        &self,
        within: Duration,
        mut look: impl FnMut() -> Result<Option<T>, BootError>,
    ) -> Result<Option<T>, BootError> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Ok(None);
            }
            let mut socket = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
            match poll(&mut socket, Timespec::try_from(rest).ok().as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).step("wait for device events"),
            }
            self.pass_over();
        }
    }

    /// Takes what has come: that something has, is all that counts.
    fn pass_over(&self) {
        let mut event = [0_u8; EVENT_BYTES];
        while recv(&self.0, &mut event[..], RecvFlags::DONTWAIT).is_ok() {}
    }
}
