//! The vsock device: Unix sockets on the host's side, as Firecracker's vsock.md has it; descriptors
//! passed to the guest process on the other.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read, Write},
    mem::MaybeUninit,
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        SocketFlags, SocketType, recv, sendmsg, socketpair,
    },
};

use crate::guest::{DIAL, GRANTED, LISTEN, REFUSED, REQUEST_BYTES, retry};

/// Connections at one time (Firecracker's `MAX_CONNECTIONS`).
const MAX_CONNECTIONS: usize = 1_023;
/// The first port that stands for the host's end of a connection, as Firecracker counts them.
const FIRST_HOST_PORT: u32 = 1 << 30;
/// Most bytes of `CONNECT 4294967295\n`, with room for spaces.
const MAX_CONNECT_BYTES: usize = 32;

/// The device from its configuration on.
#[derive(Debug)]
pub(crate) struct Vsock {
    listener: UnixListener,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// The ports on which the guest listens, with the VMM's end of each listener.
    ports: Mutex<HashMap<u32, OwnedFd>>,
    /// Both ends that the VMM holds of each connection, to be able to reset it.
    connections: Mutex<HashMap<u32, [UnixStream; 2]>>,
    next: AtomicU32,
}

impl Vsock {
    /// Binds the host's socket; a file that is there already makes it fail.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        Ok(Self {
            listener: UnixListener::bind(path)?,
            shared: Arc::new(Shared {
                path: path.to_owned(),
                ports: Mutex::default(),
                connections: Mutex::default(),
                next: AtomicU32::new(FIRST_HOST_PORT),
            }),
        })
    }

    /// Removes the socket of a device that is configured anew.
    pub(crate) fn remove(self) {
        // A file that is gone already is as good.
        let _ = fs::remove_file(&self.shared.path);
    }

    /// Serves the host and the guest from now on. Returns the guest's end.
    pub(crate) fn start(&self) -> io::Result<OwnedFd> {
        let (own, guest) = pair(SocketType::SEQPACKET)?;
        let listener = self.listener.try_clone()?;
        let shared = Arc::clone(&self.shared);
        thread::Builder::new()
            .name("vsock-guest".into())
            .spawn(move || shared.serve_guest(&own))?;
        let shared = Arc::clone(&self.shared);
        thread::Builder::new()
            .name("vsock-host".into())
            .spawn(move || shared.serve_host(&listener))?;
        Ok(guest)
    }

    /// What a snapshot does to open connections: they end. Listeners stay.
    pub(crate) fn reset(&self) {
        for ends in lock(&self.shared.connections).values() {
            for end in ends {
                // One that is over already cannot be shut down, and need not be.
                let _ = end.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Shared {
    fn serve_guest(self: Arc<Self>, socket: &OwnedFd) {
        loop {
            // One byte more, so that a longer message is seen to be one.
            let mut request = [0; REQUEST_BYTES + 1];
            let Ok((REQUEST_BYTES, _)) =
                retry(|| recv(socket, request.as_mut_slice(), RecvFlags::empty()))
            else {
                return;
            };
            let [verb, a, b, c, d, _] = request;
            let port = u32::from_le_bytes([a, b, c, d]);
            let granted = match verb {
                DIAL => self.dial(port),
                LISTEN => self.listen(port),
                _ => Err(io::ErrorKind::InvalidInput.into()),
            };
            let sent = match granted {
                Ok(descriptor) => grant(socket.as_fd(), descriptor.as_fd()),
                Err(_) => {
                    retry(|| rustix::net::send(socket, &[REFUSED], SendFlags::NOSIGNAL)).map(drop)
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }

    fn dial(self: &Arc<Self>, port: u32) -> io::Result<OwnedFd> {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        let host = UnixStream::connect(path)?;
        let (own, guest) = pair(SocketType::STREAM)?;
        self.join(self.next_port(), host, own.into())?;
        Ok(guest)
    }

    fn listen(&self, port: u32) -> io::Result<OwnedFd> {
        let mut ports = lock(&self.ports);
        if ports.get(&port).is_some_and(|end| !hung_up(end.as_fd())) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (own, guest) = pair(SocketType::SEQPACKET)?;
        ports.insert(port, own);
        Ok(guest)
    }

    fn serve_host(self: Arc<Self>, listener: &UnixListener) {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let shared = Arc::clone(&self);
            // Without a thread the stream is dropped, which is what a refusal looks like.
            let _ = thread::Builder::new()
                .name("vsock-connect".into())
                .spawn(move || shared.connect(stream));
        }
    }

    /// Does what `CONNECT port` asks for; the stream closes if nobody listens.
    fn connect(self: &Arc<Self>, mut host: UnixStream) -> io::Result<()> {
        let port = read_connect(&mut host)?;
        let listener = lock(&self.ports)
            .get(&port)
            .filter(|end| !hung_up(end.as_fd()))
            .map(OwnedFd::try_clone)
            .ok_or(io::ErrorKind::ConnectionRefused)??;
        let (own, guest) = pair(SocketType::STREAM)?;
        let assigned = self.next_port();
        host.write_all(format!("OK {assigned}\n").as_bytes())?;
        grant(listener.as_fd(), guest.as_fd())?;
        self.join(assigned, host, own.into())
    }

    /// Moves bytes between two streams until both directions are over.
    fn join(self: &Arc<Self>, id: u32, host: UnixStream, guest: UnixStream) -> io::Result<()> {
        {
            let mut connections = lock(&self.connections);
            if connections.len() >= MAX_CONNECTIONS {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            connections.insert(id, [host.try_clone()?, guest.try_clone()?]);
        }
        let (from_host, to_guest) = (host.try_clone()?, guest.try_clone()?);
        let shared = Arc::clone(self);
        let outward = thread::Builder::new()
            .name("vsock-out".into())
            .spawn(move || pump(&guest, &host))?;
        thread::Builder::new()
            .name("vsock-in".into())
            .spawn(move || {
                pump(&from_host, &to_guest);
                // It cannot panic; if it did, the connection would be over all the same.
                let _ = outward.join();
                lock(&shared.connections).remove(&id);
            })?;
        Ok(())
    }

    fn next_port(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// Copies one direction and passes its end on. Errors are the end of a connection here: the two
/// sides learn of them by the shutdowns.
fn pump(mut from: &UnixStream, mut to: &UnixStream) {
    let copied = io::copy(&mut from, &mut to);
    let both = copied.is_err() || hung_up(from.as_fd());
    let how = match both {
        true => Shutdown::Both,
        false => Shutdown::Write,
    };
    let _ = to.shutdown(how);
    let _ = from.shutdown(Shutdown::Read);
}

fn read_connect(stream: &mut UnixStream) -> io::Result<u32> {
    let mut line = Vec::new();
    let mut byte = [0];
    // Byte by byte: what follows the line belongs to the guest.
    while line.len() < MAX_CONNECT_BYTES {
        stream.read_exact(&mut byte)?;
        if byte == *b"\n" {
            let line = String::from_utf8_lossy(&line);
            let mut words = line.split_whitespace();
            let command = words.next().unwrap_or_default();
            if let (true, Some(port), None) = (
                command.eq_ignore_ascii_case("connect"),
                words.next().and_then(|port| port.parse().ok()),
                words.next(),
            ) {
                return Ok(port);
            }
            break;
        }
        line.extend(byte);
    }
    Err(io::ErrorKind::InvalidData.into())
}

fn grant(socket: BorrowedFd<'_>, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let descriptors = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    let bytes = [GRANTED];
    let bytes = [io::IoSlice::new(&bytes)];
    retry(|| sendmsg(socket, &bytes, &mut control, SendFlags::NOSIGNAL)).map(drop)
}

fn hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(socket, PollFlags::empty())];
    let at_once = Timespec::default();
    matches!(poll(&mut polled, Some(&at_once)), Ok(1))
        && polled[0]
            .revents()
            .intersects(PollFlags::HUP | PollFlags::ERR)
}

fn pair(kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
