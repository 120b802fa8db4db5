//! The API socket: connections, the faults that a test asked for, and the way to the machine.

use std::{
    io,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    Event, call,
    end::end,
    http::{self, Broken, Request, Response},
    machine::Outcome,
};
use crate::settings::{CallFault, Then, Version};

/// Connections at one time (`MAX_CONNECTIONS` of Firecracker's `micro_http`).
const MAX_CONNECTIONS: usize = 10;
/// How long a machine that has ended waits for its last answers to be written.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// What a connection needs.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) version: Version,
    pub(crate) faults: Faults,
    pub(crate) max_payload_bytes: usize,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) unanswered: Arc<Unanswered>,
}

/// Calls that were taken and not answered yet.
#[derive(Debug, Default)]
pub(crate) struct Unanswered(AtomicUsize);

/// One of them.
struct Taken<'a>(&'a Unanswered);

/// The faults that are not used up.
#[derive(Debug)]
pub(crate) struct Faults(Mutex<Vec<CallFault>>);

/// How a connection goes on after a request.
enum Next {
    Stay,
    Close,
}

impl Unanswered {
    /// Waits until all are answered, but not for ever: a caller may not read.
    pub(crate) fn wait(&self) {
        let start = Instant::now();
        while self.0.load(Ordering::SeqCst) > 0 && start.elapsed() < LAST_ANSWERS {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn take(&self) -> Taken<'_> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Taken(self)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl From<Vec<CallFault>> for Faults {
    fn from(faults: Vec<CallFault>) -> Self {
        Self(Mutex::new(faults))
    }
}

impl Faults {
    /// The first fault for a call, used up by one.
    fn take(&self, request: &Request) -> Option<CallFault> {
        let name = format!("{} {}", request.method, request.path);
        let body: Option<serde_json::Value> = serde_json::from_slice(&request.body).ok();
        let action = body.as_ref().and_then(|body| body["action_type"].as_str());
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = faults
            .iter_mut()
            .find(|fault| fault.times != Some(0) && fault.fits(&name, action))?;
        if let Some(times) = &mut fault.times {
            *times -= 1;
        }
        Some(fault.clone())
    }
}

impl Server {
    /// Makes the socket and serves it on threads of its own.
    pub(crate) fn listen(self, path: &Path) -> io::Result<()> {
        let listener = UnixListener::bind(path)?;
        let server = Arc::new(self);
        let open = Arc::new(AtomicUsize::new(0));
        thread::Builder::new().name("api".into()).spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                if open.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
                    open.fetch_sub(1, Ordering::SeqCst);
                    // The caller may be gone already.
                    let _ = Response::fault(503, "Too many open connections.").write(&mut stream);
                    continue;
                }
                let (server, open_here) = (Arc::clone(&server), Arc::clone(&open));
                let spawned =
                    thread::Builder::new()
                        .name("api-connection".into())
                        .spawn(move || {
                            // An error is the end of the connection, which the caller sees.
                            let _ = server.serve(stream);
                            open_here.fetch_sub(1, Ordering::SeqCst);
                        });
                if spawned.is_err() {
                    open.fetch_sub(1, Ordering::SeqCst);
                }
            }
        })?;
        Ok(())
    }

    fn serve(&self, mut stream: UnixStream) -> io::Result<()> {
        let mut left = Vec::new();
        loop {
            let request = match http::read(&mut stream, &mut left, self.max_payload_bytes) {
                Ok(request) => request,
                Err(Broken::Closed) => return Ok(()),
                Err(Broken::Answer(response)) => return response.write(&mut stream),
            };
            match self.answer(&request, &mut stream)? {
                Next::Stay if request.keep_alive => {}
                _ => return Ok(()),
            }
        }
    }

    fn answer(&self, request: &Request, stream: &mut UnixStream) -> io::Result<Next> {
        let fault = self.faults.take(request);
        if let Some(fault) = &fault {
            thread::sleep(fault.delay());
        }
        match fault.map(|fault| fault.then).unwrap_or_default() {
            Then::Answer => {
                let _taken = self.unanswered.take();
                self.carry_out(request)?.write_and_end(stream)
            }
            Then::Error { status, message } => {
                Response::fault(status, message).write(stream)?;
                Ok(Next::Stay)
            }
            Then::Drop => Ok(Next::Close),
            Then::DropAfter => {
                if let Some(exit) = self.carry_out(request)?.end {
                    std::process::exit(exit as i32);
                }
                Ok(Next::Close)
            }
            Then::NeverAnswer => loop {
                thread::park();
            },
            Then::End(how) => end(how),
        }
    }

    fn carry_out(&self, request: &Request) -> io::Result<Outcome> {
        let call = match call::parse(request, self.version) {
            Ok(call) => call,
            Err(response) => {
                return Ok(Outcome {
                    response,
                    end: None,
                });
            }
        };
        let (sender, outcome) = mpsc::channel();
        self.events
            .send(Event::Call(Box::new(call), sender))
            .map_err(io::Error::other)?;
        outcome.recv().map_err(io::Error::other)
    }
}

impl Outcome {
    fn write_and_end(self, stream: &mut UnixStream) -> io::Result<Next> {
        let written = self.response.write(stream);
        if let Some(exit) = self.end {
            std::process::exit(exit as i32);
        }
        written.map(|()| Next::Stay)
    }
}
