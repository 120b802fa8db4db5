//! The connection to the launcher: requests out, answers and ends of cells in, and what is known
//! of each cell.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cellos_core::{
    CellosError,
    ports::network::{CellNetwork, NetworkNeeds},
};
use cellos_isolation::{
    message::{self, MAX_MESSAGE_BYTES, MOST_WAITS, WAIT_FOR_RECEIVER},
    protocol::{CellKey, Created, Ended, FromLauncher, NetworkSocket, Numbered, Reply, Request},
};
use rustix::net::{RecvFlags, SendFlags};
use tokio::{
    io::unix::AsyncFd,
    sync::{oneshot, watch},
};

/// Others' descriptors are on their way, and have to arrive first.
const TOO_MANY_REFERENCES: i32 = rustix::io::Errno::TOOMANYREFS.raw_os_error();

/// What the reader task and the callers share.
pub(super) struct Shared {
    pub(super) socket: AsyncFd<OwnedFd>,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) last_number: u64,
    pub(super) waiting: HashMap<u64, oneshot::Sender<Answer>>,
    pub(super) cells: HashMap<String, Entry>,
    pub(super) by_key: HashMap<CellKey, watch::Sender<Option<Fate>>>,
    pub(super) launcher_gone: bool,
    /// Sockets that came for the `Create` with this number, whose answer follows.
    pub(super) arriving: HashMap<u64, CellNetwork>,
    /// What the cell that is created next under an id needs.
    pub(super) needs: HashMap<String, NetworkNeeds>,
}

/// What became of a cell, once that is known: sticky, for any number of waiters.
#[derive(Debug, Clone)]
pub(super) enum Fate {
    /// It ended and was taken apart.
    Ended(Ended),
    /// The launcher died, and with it the cell; nobody saw how it ended.
    Lost,
}

pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) descriptor: Option<OwnedFd>,
    pub(super) network: CellNetwork,
}

/// What is known of a cell id.
pub(super) enum Entry {
    /// It is reserved; the launcher builds the cell.
    Creating,
    /// The cell is there.
    Live(Box<Live>),
}

pub(super) struct Live {
    pub(super) created: Created,
    pub(super) fate: watch::Receiver<Option<Fate>>,
    pub(super) working_folder: Option<OwnedFd>,
    /// Its network until somebody takes it.
    pub(super) network: Option<CellNetwork>,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock panics; a poisoned state is still a consistent one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request. The receiver gets its answer.
    pub(super) async fn ask(
        &self,
        request: Request,
        descriptors: &[OwnedFd],
    ) -> Result<oneshot::Receiver<Answer>, CellosError> {
        let (answer, receiver) = oneshot::channel();
        let number = {
            let mut state = self.state();
            if state.launcher_gone {
                return Err(launcher_gone());
            }
            state.last_number += 1;
            let number = state.last_number;
            state.waiting.insert(number, answer);
            number
        };
        let sent = self.send(&Numbered { number, request }, descriptors).await;
        if let Err(error) = sent {
            self.state().waiting.remove(&number);
            return Err(error);
        }
        Ok(receiver)
    }

    pub(super) async fn send(
        &self,
        request: &Numbered,
        descriptors: &[OwnedFd],
    ) -> Result<(), CellosError> {
        let bytes = serde_json::to_vec(request)
            .map_err(|error| CellosError::Host(format!("write a request: {error}")))?;
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(CellosError::InvalidSpec(format!(
                "spec.run: command and environment come to {} bytes, at most {MAX_MESSAGE_BYTES} \
                 fit",
                bytes.len()
            )));
        }
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let mut waits = 0;
        loop {
            let sent = self
                .socket
                .async_io(tokio::io::Interest::WRITABLE, |socket| {
                    message::send(socket.as_fd(), &bytes, &descriptors, SendFlags::DONTWAIT)
                })
                .await;
            match sent {
                Ok(()) => return Ok(()),
                Err(error)
                    if error.raw_os_error() == Some(TOO_MANY_REFERENCES) && waits < MOST_WAITS =>
                {
                    waits += 1;
                    tokio::time::sleep(WAIT_FOR_RECEIVER).await;
                }
                Err(error) => {
                    return Err(match error.kind() {
                        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                            launcher_gone()
                        }
                        _ => CellosError::Host(format!("ask the launcher: {error}")),
                    });
                }
            }
        }
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn call(
        &self,
        request: Request,
        descriptors: &[OwnedFd],
    ) -> Result<Answer, CellosError> {
        self.ask(request, descriptors)
            .await?
            .await
            .map_err(|_| launcher_gone())
    }

    pub(super) fn take(&self, message: FromLauncher, descriptors: Vec<OwnedFd>) -> Option<CellKey> {
        match message {
            FromLauncher::Network { number, sockets } => {
                let mut state = self.state();
                let network = state.arriving.entry(number).or_default();
                for (kind, socket) in sockets.into_iter().zip(descriptors) {
                    match kind {
                        NetworkSocket::Tcp(port) => network.tcp.push((port, socket)),
                        NetworkSocket::Udp(port) => network.udp.push((port, socket)),
                        NetworkSocket::Inbound => network.inbound.push(socket),
                        NetworkSocket::Refusals => network.refusals = Some(socket),
                    }
                }
                None
            }
            FromLauncher::Reply { number, reply } => {
                let descriptor = descriptors.into_iter().next();
                let mut state = self.state();
                let network = state.arriving.remove(&number).unwrap_or_default();
                let created = match &reply {
                    Reply::Created(created) => Some(created.cell),
                    _ => None,
                };
                if let Some(key) = created {
                    state.by_key.insert(key, watch::Sender::new(None));
                }
                let waiting = state.waiting.remove(&number);
                let answer = Answer {
                    reply,
                    descriptor,
                    network,
                };
                let unheard = waiting.and_then(|waiting| waiting.send(answer).err());
                // Whoever asked for this cell has given up; nobody else would ever end it.
                created.filter(|_| unheard.is_some())
            }
            FromLauncher::Ended { cell, ended } => {
                if let Some(fate) = self.state().by_key.get(&cell) {
                    fate.send_replace(Some(Fate::Ended(ended)));
                }
                None
            }
        }
    }

    /// The launcher is gone, and with it every cell: everybody who waits is told.
    pub(super) fn launcher_is_gone(&self) {
        let mut state = self.state();
        state.launcher_gone = true;
        state.waiting.clear();
        for fate in state.by_key.values() {
            fate.send_if_modified(|fate| {
                let unknown = fate.is_none();
                if unknown {
                    *fate = Some(Fate::Lost);
                }
                unknown
            });
        }
    }
}

/// Takes what the launcher says until it is gone.
pub(super) async fn read_answers(shared: Arc<Shared>) {
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    loop {
        let received = shared
            .socket
            .async_io(tokio::io::Interest::READABLE, |socket| {
                message::receive_what_fits(socket, &mut buffer, RecvFlags::DONTWAIT)
            })
            .await;
        // Whoever needs a descriptor that was lost misses it; other cells go on.
        let Ok((Some(message), _)) = received else {
            break;
        };
        let Ok(said) = serde_json::from_slice(&message.bytes) else {
            break;
        };
        if let Some(abandoned) = shared.take(said, message.descriptors) {
            let number = {
                let mut state = shared.state();
                state.by_key.remove(&abandoned);
                state.last_number += 1;
                state.last_number
            };
            let destroy = Numbered {
                number,
                request: Request::Destroy(abandoned),
            };
            if shared.send(&destroy, &[]).await.is_err() {
                break;
            }
        }
    }
    shared.launcher_is_gone();
}

pub(super) fn launcher_gone() -> CellosError {
    CellosError::Host("the launcher is gone, and with it every cell".to_owned())
}
