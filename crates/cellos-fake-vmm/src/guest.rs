//! The guest's end of the fake vsock device.
//!
//! The VMM leaves one `SOCK_SEQPACKET` socket open in the guest and names it in [`DEVICE_VARIABLE`].
//! A request is one message of [`REQUEST_BYTES`] bytes: a verb, `D` to dial or `L` to listen, then the
//! port as four bytes, least significant first. The answer is one byte: `+`, with one descriptor
//! beside it, or `-` with no descriptor: refused. What is dialled is a stream; what is listened on is
//! another `SOCK_SEQPACKET` socket on which each message is the byte `+` and one stream.

use std::{
    env, io,
    mem::MaybeUninit,
    os::fd::{AsFd, FromRawFd, OwnedFd},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send, sockopt,
};

/// Names the descriptor of the device in the guest's environment. Absent without a device.
pub const DEVICE_VARIABLE: &str = "FAKE_VMM_VSOCK_FD";
/// The descriptor that the VMM leaves open for the device.
pub const DEVICE_DESCRIPTOR: i32 = 3;
/// In the guest's environment: `cold` after `InstanceStart`, `restored` after a snapshot was loaded.
pub const BOOT_VARIABLE: &str = "FAKE_VMM_BOOT";
/// In the guest's environment: the kernel's command line, with what the VMM appends.
pub const COMMAND_LINE_VARIABLE: &str = "FAKE_VMM_COMMAND_LINE";
/// In the guest's environment: the drives in the order of the guest's devices, a JSON array of
/// objects with `drive_id`, `path_on_host` (seen from the VMM), `is_read_only` and `is_root_device`.
pub const DRIVES_VARIABLE: &str = "FAKE_VMM_DRIVES";
/// Bytes of a request.
pub const REQUEST_BYTES: usize = 5;

pub(crate) const DIAL: u8 = b'D';
pub(crate) const LISTEN: u8 = b'L';
pub(crate) const GRANTED: u8 = b'+';
pub(crate) const REFUSED: u8 = b'-';

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The vsock device.
#[derive(Debug)]
pub struct Device {
    /// One request and its answer at a time.
    socket: Mutex<OwnedFd>,
}

/// A port that the guest listens on, until it is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
}

/// Why the device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The machine has none.
    #[error("the machine has no vsock device: {DEVICE_VARIABLE} is not set")]
    Absent,
    /// It was taken before, or what the variable names is not the device.
    #[error("{DEVICE_VARIABLE} does not name the device: {what}")]
    NotTheDevice {
        /// What is wrong.
        what: String,
    },
    /// Nobody listens there on the host, or the port is taken.
    #[error("port {port} is refused")]
    Refused {
        /// The port.
        port: u32,
    },
    /// The VMM is gone, or the socket failed.
    #[error("cannot {operation} over the vsock device")]
    Io {
        /// What was done.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl Device {
    /// Takes the device that the VMM left open. Only once in a process.
    ///
    /// # Errors
    /// [`DeviceError::Absent`] in a machine without one; [`DeviceError::NotTheDevice`] the second time.
    pub fn from_inherited() -> Result<Self, DeviceError> {
        let name = env::var(DEVICE_VARIABLE).map_err(|_| DeviceError::Absent)?;
        let wrong = |what: String| DeviceError::NotTheDevice { what };
        if name != DEVICE_DESCRIPTOR.to_string() {
            return Err(wrong(format!("it says {name:?}, not {DEVICE_DESCRIPTOR}")));
        }
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Err(wrong("it was taken before".into()));
        }
        // SAFETY: the VMM opened this descriptor for this process before it was executed, as the
        // variable says, and nothing else owns it: `TAKEN` lets one caller come here.
        let socket = unsafe { OwnedFd::from_raw_fd(DEVICE_DESCRIPTOR) };
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)
            .and_then(|()| sockopt::socket_type(&socket))
            .map_err(|error| wrong(error.to_string()))
            .and_then(|kind| match kind == rustix::net::SocketType::SEQPACKET {
                true => Ok(()),
                false => Err(wrong("it is another kind of socket".into())),
            })?;
        Ok(Self {
            socket: Mutex::new(socket),
        })
    }

    /// The device as somebody else handed it over.
    pub(crate) fn of(socket: OwnedFd) -> Self {
        Self {
            socket: Mutex::new(socket),
        }
    }

    /// Connects to a port of the host: the stream to what listens on `<uds_path>_<port>` there.
    ///
    /// # Errors
    /// [`DeviceError::Refused`] if nothing does.
    pub fn dial(&self, port: u32) -> Result<OwnedFd, DeviceError> {
        self.request(DIAL, port)
    }

    /// Listens on a port of the guest, for connections that the host makes with `CONNECT`.
    ///
    /// # Errors
    /// [`DeviceError::Refused`] if the guest listens there already.
    pub fn listen(&self, port: u32) -> Result<Listener, DeviceError> {
        let socket = self.request(LISTEN, port)?;
        Ok(Listener { socket })
    }

    fn request(&self, verb: u8, port: u32) -> Result<OwnedFd, DeviceError> {
        let [a, b, c, d] = port.to_le_bytes();
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        retry(|| send(&*socket, &[verb, a, b, c, d], SendFlags::NOSIGNAL)).map_err(|source| {
            DeviceError::Io {
                operation: "send a request",
                source,
            }
        })?;
        match receive(&*socket) {
            Ok(Some(stream)) => Ok(stream),
            Ok(None) => Err(DeviceError::Refused { port }),
            Err(source) => Err(DeviceError::Io {
                operation: "receive an answer",
                source,
            }),
        }
    }
}

impl Listener {
    /// Waits for the next connection.
    ///
    /// # Errors
    /// [`DeviceError::Io`] if the VMM is gone.
    pub fn accept(&self) -> Result<OwnedFd, DeviceError> {
        receive(&self.socket)
            .and_then(|stream| stream.ok_or_else(|| io::Error::other("no stream came")))
            .map_err(|source| DeviceError::Io {
                operation: "accept a connection",
                source,
            })
    }
}

/// One answer: a descriptor, or `None` for a refusal.
fn receive(socket: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = retry(|| {
        recvmsg(
            socket.as_fd(),
            &mut [io::IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let received = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
        _ => None,
    });
    match (message.bytes, byte, received) {
        (1, [GRANTED], Some(descriptor)) => Ok(Some(descriptor)),
        (1, [REFUSED], None) => Ok(None),
        (0, ..) => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

pub(crate) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}
