//! The stream to the host.

use std::{
    fs, io,
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
};

use crate::boot::BridgeDevice;

/// Name of the virtio port that is the bridge.
pub const PORT_NAME: &str = "cellos.bridge";

/// Where the kernel tells the names of virtio ports.
const PORTS: &str = "/sys/class/virtio-ports";

/// First pause between two attempts to reach the host.
pub const FIRST_PAUSE: Duration = Duration::from_millis(2);

/// Longest pause between two attempts. A parked machine whose host is not there wakes this often.
pub const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How long the first attempt to connect by vsock waits for an answer, which comes within
/// milliseconds. But a device may lose a request, and not each refuses one for a port where nobody
/// listens: such an attempt is given up, and another made.
pub const FIRST_CONNECT_TIMEOUT: Duration = Duration::from_millis(250);

/// How long an attempt to connect by vsock waits at most. Each that was not answered gives the next
/// double the time, for a host that is there and slow.
pub const LONGEST_CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// `SO_VM_SOCKETS_CONNECT_TIMEOUT` of `linux/vm_sockets.h`, where `time_t` and `long` are alike.
const SO_VM_SOCKETS_CONNECT_TIMEOUT: libc::c_int = 6;

/// How the host is reached.
#[derive(Debug)]
pub enum Dialler {
    /// By a device, as often as needed.
    Device(BridgeDevice),
    /// By a stream that was inherited. It can be used once.
    Inherited(Option<OwnedFd>),
}

/// How long a host is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// A parked machine has nothing else to do.
    Endless,
    /// As long as this.
    For(Duration),
}

/// The host cannot be reached, now or ever.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is no such device, or nobody at its other end.
    #[error("reach the host by {by}: {source}")]
    Unreachable {
        /// The device.
        by: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The one stream there was has ended.
    #[error("the inherited stream has ended")]
    UsedUp,
}

impl DialError {
    fn is_unanswered(&self) -> bool {
        matches!(self, Self::Unreachable { source, .. } if source.kind() == io::ErrorKind::TimedOut)
    }
}

impl Dialler {
    /// Waits for the host. The stream does not block.
    ///
    /// # Errors
    /// [`DialError::Unreachable`] when the host was not there as long as one that is wanted to be
    /// patient waits; [`DialError::UsedUp`] for a stream that had been inherited.
    pub fn dial(&mut self, patience: Patience) -> Result<OwnedFd, DialError> {
        let mut pause = FIRST_PAUSE;
        let mut timeout = FIRST_CONNECT_TIMEOUT;
        let begun = Instant::now();
        loop {
            match self.try_once(timeout) {
                Err(error @ DialError::Unreachable { .. }) => {
                    if let Patience::For(time) = patience
                        && begun.elapsed() >= time
                    {
                        return Err(error);
                    }
                    if error.is_unanswered() {
                        timeout = (timeout * 2).min(LONGEST_CONNECT_TIMEOUT);
                    }
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                other => return other,
            }
        }
    }

    fn try_once(&mut self, timeout: Duration) -> Result<OwnedFd, DialError> {
        let (by, stream) = match self {
            Self::Device(BridgeDevice::VirtioPort) => ("virtio port", open_port()),
            Self::Device(BridgeDevice::Vsock { port }) => ("vsock", connect(*port, timeout)),
            Self::Inherited(stream) => (
                "inherited descriptor",
                Ok(stream.take().ok_or(DialError::UsedUp)?),
            ),
        };
        let unreachable = |source| DialError::Unreachable { by, source };
        let stream = stream.map_err(unreachable)?;
        rustix::io::ioctl_fionbio(&stream, true).map_err(|error| unreachable(error.into()))?;
        Ok(stream)
    }
}

/// Opens the port, when somebody is at its other end: until then it reads as ended.
fn open_port() -> io::Result<OwnedFd> {
    let not_found = || io::Error::from(io::ErrorKind::NotFound);
    let mut found = None;
    for entry in fs::read_dir(PORTS)? {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim_end() == PORT_NAME {
            found = Some(entry.file_name());
        }
    }
    let device = std::path::Path::new("/dev").join(found.ok_or_else(not_found)?);
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let port = rustix::fs::open(device, flags, Mode::empty())?;
    let mut state = [PollFd::new(&port, PollFlags::empty())];
    poll(&mut state, Some(&Timespec::default()))?;
    let [state] = state;
    if state.revents().contains(PollFlags::HUP) {
        return Err(io::ErrorKind::NotConnected.into());
    }
    Ok(port)
}

/// Connects to a port of the host (vsock(7)), if that is answered in time.
fn connect(port: u32, timeout: Duration) -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::VSOCK,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    bound_connect(socket.as_fd(), timeout)?;
    // SAFETY: sockaddr_vm is plain data for which all zeroes is a valid value.
    let mut address: libc::sockaddr_vm = unsafe { MaybeUninit::zeroed().assume_init() };
    address.svm_family = libc::AF_VSOCK.try_into().unwrap_or_default();
    address.svm_cid = libc::VMADDR_CID_HOST;
    address.svm_port = port;
    // SAFETY: `address` is a valid sockaddr_vm of the length that is passed.
    let connected = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size_of::<libc::sockaddr_vm>()
                .try_into()
                .unwrap_or_default(),
        )
    };
    if connected == 0 {
        Ok(socket)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes the kernel give up an attempt to connect: `ETIMEDOUT`.
fn bound_connect(socket: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let time = libc::timeval {
        tv_sec: timeout.as_secs().try_into().map_err(invalid)?,
        tv_usec: timeout.subsec_micros().into(),
    };
    // SAFETY: the option takes a timeval, and `time` is one, of the length that is passed.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::AF_VSOCK,
            SO_VM_SOCKETS_CONNECT_TIMEOUT,
            std::ptr::from_ref(&time).cast(),
            size_of::<libc::timeval>().try_into().unwrap_or_default(),
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
