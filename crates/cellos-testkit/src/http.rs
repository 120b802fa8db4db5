//! A receiver of HTTP requests that goes away, comes back, refuses and breaks off as told.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot have its receiver cannot go on"
)]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Time between two looks for a connection.
const ACCEPT_INTERVAL: Duration = Duration::from_millis(2);

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// Path and query.
    pub target: String,
    /// Headers in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl HttpRequest {
    /// The value of a header, given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What a receiver does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpAnswer {
    /// Answers.
    Say {
        /// The status.
        status: u16,
        /// A header, as `name: value`, where there is one more.
        header: Option<String>,
        /// The body.
        body: String,
    },
    /// Ends the connection without a word.
    HangUp,
}

impl HttpAnswer {
    /// An answer with nothing but a status.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Say {
            status,
            header: None,
            body: String::new(),
        }
    }
}

type Behaviour = Box<dyn FnMut(&HttpRequest) -> HttpAnswer + Send>;

struct Shared {
    behaviour: Mutex<Behaviour>,
    accepted: Mutex<Vec<HttpRequest>>,
    connections: Mutex<Vec<TcpStream>>,
}

/// A receiver on this host.
pub struct HttpReceiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    running: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl HttpReceiver {
    /// Starts one that accepts everything.
    ///
    /// # Panics
    /// Where no port can be had.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut receiver = Self {
            address: listener.local_addr().unwrap(),
            shared: Arc::new(Shared {
                behaviour: Mutex::new(Box::new(|_| HttpAnswer::status(200))),
                accepted: Mutex::default(),
                connections: Mutex::default(),
            }),
            running: None,
        };
        receiver.listen(listener);
        receiver
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests that it has answered with success, in their order.
    #[must_use]
    pub fn accepted(&self) -> Vec<HttpRequest> {
        lock(&self.shared.accepted).clone()
    }

    /// What it does with requests from now on.
    pub fn behave(&self, behaviour: impl FnMut(&HttpRequest) -> HttpAnswer + Send + 'static) {
        *lock(&self.shared.behaviour) = Box::new(behaviour);
    }

    /// Ends all connections and refuses new ones.
    ///
    /// # Panics
    /// Where a thread of its own has.
    pub fn go_away(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            stop.store(true, Ordering::SeqCst);
            thread.join().unwrap();
        }
        for connection in lock(&self.shared.connections).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Is there again, at the same address.
    ///
    /// # Panics
    /// Where somebody else has taken its port.
    pub fn come_back(&mut self) {
        if self.running.is_none() {
            self.listen(TcpListener::bind(self.address).unwrap());
        }
    }

    fn listen(&mut self, listener: TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, shared) = (Arc::clone(&stop), Arc::clone(&self.shared));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let Ok((connection, _)) = listener.accept() else {
                    thread::sleep(ACCEPT_INTERVAL);
                    continue;
                };
                connection.set_nonblocking(false).unwrap();
                lock(&shared.connections).push(connection.try_clone().unwrap());
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(&shared, connection));
            }
        });
        self.running = Some((stop, thread));
    }
}

impl Drop for HttpReceiver {
    fn drop(&mut self) {
        self.go_away();
    }
}

fn serve(shared: &Shared, connection: TcpStream) {
    let Ok(mut answers) = connection.try_clone() else {
        return;
    };
    let mut requests = BufReader::new(connection);
    while let Some(request) = read(&mut requests) {
        // One at a time, as if there were one database behind it.
        let mut behaviour = lock(&shared.behaviour);
        let answer = behaviour(&request);
        let HttpAnswer::Say {
            status,
            header,
            body,
        } = answer
        else {
            let _ = answers.shutdown(Shutdown::Both);
            return;
        };
        if (200..300).contains(&status) {
            lock(&shared.accepted).push(request);
        }
        drop(behaviour);
        let header = header.map(|header| format!("{header}\r\n"));
        let text = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{}\r\n{body}",
            body.len(),
            header.unwrap_or_default()
        );
        if answers.write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

/// One request with a `content-length`.
fn read(input: &mut BufReader<TcpStream>) -> Option<HttpRequest> {
    let mut line = || {
        let mut line = String::new();
        input.read_line(&mut line).ok().filter(|read| *read > 0)?;
        Some(line.trim_end().to_owned())
    };
    let target = line()?.split(' ').nth(1)?.to_owned();
    let mut headers = Vec::new();
    loop {
        let header = line()?;
        let Some((name, value)) = header.split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = HttpRequest {
        target,
        headers,
        body: Vec::new(),
    };
    let length = request.header("content-length")?.parse().ok()?;
    request.body = vec![0; length];
    input.read_exact(&mut request.body).ok()?;
    Some(request)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
