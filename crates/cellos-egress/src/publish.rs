//! Published ports: connections from outside to a port of the cell.
//!
//! A listener on the host accepts, and a socket that was made inside the cell's network connects to
//! the cell's own loopback address. Such sockets are as many as were made with the cell, and each
//! is used again when its connection has ended (connect(2), `AF_UNSPEC`).

#[cfg(test)]
mod tests;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cellos_core::event::{
    FlowDirection, FlowEnd, FlowProtocol, FlowReason, NETWORK_SCHEMA_VERSION, NetworkFlowDecision,
    NetworkVerdict,
};
use rustix::net::{AddressFamily, connect_unspec, sockopt::socket_domain};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::report::{Reporter, Unrecorded};

/// How long the cell may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may be silent both ways.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Bytes that are carried at once, each way.
const BUFFER_BYTES: usize = 16 * 1024;
/// How long a listener rests when the host has no descriptors left for what it accepts.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// A port of the cell that is open to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Publish {
    /// Where the host listens; port 0 is any free one.
    pub host: SocketAddr,
    /// The port of the cell's loopback address that a connection leads to.
    pub port: u16,
}

/// A text that names no port to publish.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a port to publish: write [[HOST-ADDRESS:]HOST-PORT:]CELL-PORT, such as 8080, \
     8080:80 or 127.0.0.1:8080:80; host port 0 is any free one"
)]
pub struct PublishProblem(String);

impl FromStr for Publish {
    type Err = PublishProblem;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let problem = || PublishProblem(text.to_owned());
        let (host, port) = match text.rsplit_once(':') {
            None => (text, text),
            Some(parts) => parts,
        };
        let cell_port: u16 = port.parse().map_err(|_| problem())?;
        let host = match host.parse::<u16>() {
            Ok(host_port) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), host_port),
            Err(_) => host.parse().map_err(|_| problem())?,
        };
        match cell_port {
            0 => Err(problem()),
            port => Ok(Self { host, port }),
        }
    }
}

/// Why ports could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The host does not let us listen there.
    #[error("listen on {address} for the cell's port {port}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The cell's port.
        port: u16,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The cell was made without sockets for connections from outside.
    #[error("publish a port: the cell has no sockets for connections from outside")]
    NoSockets,
    /// A socket of the cell is none that can be connected.
    #[error("look at a socket of the cell: {0}")]
    Socket(#[source] io::Error),
}

/// Ports that are open. Dropping it closes them, and ends every connection without a report.
#[derive(Debug)]
pub(crate) struct Published {
    open: Vec<Publish>,
    closing: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// Begins to listen on every one of these, or on none.
pub(crate) async fn start(
    ports: &[Publish],
    inbound: Vec<OwnedFd>,
    reporter: Arc<Reporter>,
) -> Result<Published, PublishError> {
    let (closing, closed) = watch::channel(false);
    let mut published = Published {
        open: Vec::new(),
        closing,
        tasks: JoinSet::new(),
    };
    if ports.is_empty() {
        return Ok(published);
    }
    let pool = Arc::new(Pool::of(inbound).map_err(PublishError::Socket)?);
    if lock(&pool.free).is_empty() {
        return Err(PublishError::NoSockets);
    }
    let mut listeners = Vec::new();
    for Publish { host, port } in ports.iter().copied() {
        let failed = |source| PublishError::Listen {
            address: host,
            port,
            source,
        };
        let listener = TcpListener::bind(host).await.map_err(failed)?;
        let host = listener.local_addr().map_err(failed)?;
        published.open.push(Publish { host, port });
        listeners.push((listener, Publish { host, port }));
    }
    for (listener, publish) in listeners {
        let door = Door {
            publish,
            pool: Arc::clone(&pool),
            reporter: Arc::clone(&reporter),
            closed: closed.clone(),
        };
        published.tasks.spawn(door.serve(listener));
    }
    Ok(published)
}

impl Published {
    /// What is open, with the ports that the host gave.
    pub(crate) fn open(&self) -> &[Publish] {
        &self.open
    }

    /// Closes every port and ends every connection; each has been reported then.
    pub(crate) async fn close(mut self) {
        self.closing.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The unconnected sockets inside the cell.
#[derive(Debug)]
struct Pool {
    free: Mutex<Vec<Pair>>,
}

/// The sockets of one connection: one of each family, since a socket keeps its own.
#[derive(Debug)]
struct Pair {
    v4: OwnedFd,
    v6: Option<OwnedFd>,
}

impl Pool {
    fn of(sockets: Vec<OwnedFd>) -> io::Result<Self> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for socket in sockets {
            match socket_domain(&socket)? {
                AddressFamily::INET6 => v6.push(socket),
                _ => v4.push(socket),
            }
        }
        let mut v6 = v6.into_iter();
        let free = v4.into_iter().map(|v4| Pair { v4, v6: v6.next() });
        Ok(Self {
            free: Mutex::new(free.collect()),
        })
    }

    fn take(self: &Arc<Self>) -> Option<Taken> {
        let pair = lock(&self.free).pop()?;
        Some(Taken {
            pair: Some(pair),
            pool: Arc::clone(self),
        })
    }
}

/// Sockets that are in use. They go back when this is dropped.
struct Taken {
    pair: Option<Pair>,
    pool: Arc<Pool>,
}

impl Taken {
    /// Connects to a port of the cell's own loopback addresses.
    async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let pair = self.pair.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let v4 = connect(&pair.v4, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)).await;
        match (v4, &pair.v6) {
            (Err(_), Some(v6)) => {
                connect(v6, SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port)).await
            }
            (v4, _) => v4,
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Some(pair) = self.pair.take() else { return };
        let dissolved = [Some(&pair.v4), pair.v6.as_ref()]
            .into_iter()
            .flatten()
            .all(|socket| connect_unspec(socket).is_ok());
        // One that stays connected is of no more use.
        if dissolved {
            lock(&self.pool.free).push(pair);
        }
    }
}

async fn connect(socket: &OwnedFd, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(socket.try_clone()?.into());
    match tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// One published port.
#[derive(Clone)]
struct Door {
    publish: Publish,
    pool: Arc<Pool>,
    reporter: Arc<Reporter>,
    closed: watch::Receiver<bool>,
}

impl Door {
    async fn serve(mut self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                _ = self.closed.wait_for(|closed| *closed) => break,
                Some(carried) = connections.join_next() => match carried {
                    // Nothing is let through that cannot be recorded.
                    Ok(Err(Unrecorded)) => break,
                    _ => continue,
                },
                accepted = listener.accept() => accepted,
            };
            let carried = match (accepted, self.pool.take()) {
                (Ok((stream, from)), Some(sockets)) => {
                    connections.spawn(self.clone().carry(stream, from, sockets));
                    Ok(())
                }
                (Ok((stream, from)), None) => {
                    drop(stream);
                    self.refuse(from, FlowReason::TooManyFlows, None).await
                }
                (Err(_), _) => {
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    Ok(())
                }
            };
            if carried.is_err() {
                break;
            }
        }
        drop(listener);
        // Each ends by itself, having been told above, or by its drop when nothing can be recorded.
        if *self.closed.borrow() {
            while connections.join_next().await.is_some() {}
        }
    }

    async fn carry(
        mut self,
        outside: TcpStream,
        from: SocketAddr,
        sockets: Taken,
    ) -> Result<(), Unrecorded> {
        let began = Instant::now();
        let mut inside = match sockets.connect(self.publish.port).await {
            Ok(inside) => inside,
            Err(error) => {
                let reason = match error.kind() {
                    io::ErrorKind::TimedOut => FlowReason::ConnectTimeout,
                    _ => FlowReason::ConnectFailed,
                };
                drop(outside);
                return self.refuse(from, reason, Some(&error)).await;
            }
        };
        let address = inside.peer_addr().ok().map(|address| address.ip());
        let counts = Counts::default();
        let mut outside = outside;
        let end = tokio::select! {
            _ = self.closed.wait_for(|closed| *closed) => FlowEnd::CellEnded,
            end = carry(&mut outside, &mut inside, &counts) => end,
        };
        drop((outside, inside, sockets));
        let bytes_in = counts.inward.load(Ordering::Relaxed);
        let bytes_out = counts.outward.load(Ordering::Relaxed);
        let flow = NetworkFlowDecision {
            decision: NetworkVerdict::Allow,
            reason_code: FlowReason::PublishedPort,
            dst_addr: address.map(|address| address.to_string()),
            byte_count: Some(bytes_in.saturating_add(bytes_out)),
            bytes_in: Some(bytes_in),
            bytes_out: Some(bytes_out),
            duration_ms: Some(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)),
            ended_by: Some(end),
            ..self.refusal(from, FlowReason::PublishedPort, None)
        };
        self.reporter.flow(flow).await
    }

    async fn refuse(
        &self,
        from: SocketAddr,
        reason: FlowReason,
        error: Option<&io::Error>,
    ) -> Result<(), Unrecorded> {
        self.reporter.flow(self.refusal(from, reason, error)).await
    }

    fn refusal(
        &self,
        from: SocketAddr,
        reason: FlowReason,
        error: Option<&io::Error>,
    ) -> NetworkFlowDecision {
        let mut detail = format!("from {from} by way of {}", self.publish.host);
        if let Some(error) = error {
            detail = format!("{detail}: {error}");
        }
        NetworkFlowDecision {
            schema_version: NETWORK_SCHEMA_VERSION.to_owned(),
            decision_id: uuid::Uuid::new_v4().to_string(),
            direction: FlowDirection::Ingress,
            decision: NetworkVerdict::Deny,
            reason_code: reason,
            nft_rule_ref: None,
            dst_addr: Some(IpAddr::from(Ipv4Addr::LOCALHOST).to_string()),
            dst_port: Some(self.publish.port),
            protocol: Some(FlowProtocol::Tcp),
            byte_count: None,
            observed_at: jiff::Timestamp::now().to_string(),
            requested_name: None,
            presented_name: None,
            bytes_out: None,
            bytes_in: None,
            duration_ms: None,
            ended_by: None,
            upstream_resolver_id: None,
            detail: Some(detail),
            count: None,
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    inward: AtomicU64,
    outward: AtomicU64,
}

/// Carries bytes both ways until both sides have closed, one breaks off, or nobody says anything
/// for too long.
async fn carry(outside: &mut TcpStream, inside: &mut TcpStream, counts: &Counts) -> FlowEnd {
    let (mut from_outside, mut to_outside) = outside.split();
    let (mut from_inside, mut to_inside) = inside.split();
    let both = async {
        tokio::try_join!(
            pump(&mut from_outside, &mut to_inside, &counts.inward),
            pump(&mut from_inside, &mut to_outside, &counts.outward),
        )
    };
    let said = || {
        let inward = counts.inward.load(Ordering::Relaxed);
        (inward, counts.outward.load(Ordering::Relaxed))
    };
    let idle = async {
        loop {
            let before = said();
            tokio::time::sleep(IDLE_TIMEOUT).await;
            if said() == before {
                return;
            }
        }
    };
    tokio::select! {
        ended = both => match ended {
            Ok(_) => FlowEnd::Closed,
            Err(_) => FlowEnd::Reset,
        },
        () = idle => FlowEnd::Idle,
    }
}

/// Carries bytes one way to the end, and passes the end on.
async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    count: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            // The other side may be gone already.
            return to.shutdown().await.or(Ok(()));
        }
        to.write_all(buffer.get(..length).unwrap_or_default())
            .await?;
        count.fetch_add(u64::try_from(length).unwrap_or(0), Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // No code that holds the lock panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
