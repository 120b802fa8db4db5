//! The management interface: HTTP over the monitor's Unix socket.
//!
//! One connection is made before the guest runs and kept. Whoever breaks out of the guest owns the
//! folder that the socket is in, and could put a link to another socket of the host there.

use std::{path::Path, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{net::UnixStream, sync::Mutex, task::AbortHandle, time};

use super::{NAME, requests::Call};
use crate::vmm::VmmError;

/// How long one request may take. Nothing that is asked for waits for the guest; the longest,
/// writing a snapshot, has [`SNAPSHOT_TIMEOUT`].
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long writing or mapping a snapshot may take: it moves all of the guest's memory.
pub(crate) const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);

/// Most bytes of an answer. Firecracker's longest is its whole configuration, a few KiB.
pub(crate) const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Most bytes of a status line and headers; hyper asks for at least 8 KiB.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Most characters of a refusal that are kept.
const MAX_FAULT_CHARACTERS: usize = 512;

/// A connection to one monitor.
#[derive(Debug)]
pub(crate) struct Api {
    /// A monitor answers one request at a time.
    sender: Mutex<http1::SendRequest<Full<Bytes>>>,
    /// The task that moves bytes.
    connection: AbortHandle,
}

/// What Firecracker puts into the body of a refusal.
#[derive(Deserialize)]
struct Fault {
    fault_message: String,
}

impl Api {
    /// Connects. Fails at once where nobody listens.
    ///
    /// # Errors
    /// What connect(2) says, or hyper.
    pub(crate) async fn connect(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        // Its errors are those of the requests it carries.
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self {
            sender: Mutex::new(sender),
            connection: connection.abort_handle(),
        })
    }

    /// Makes a call whose answer has no content.
    ///
    /// # Errors
    /// [`VmmError::Refused`] with the status and Firecracker's own message, [`VmmError::Timeout`],
    /// [`VmmError::Unreadable`] for everything that is not HTTP.
    pub(crate) async fn call<C: Call>(&self, call: &C) -> Result<(), VmmError> {
        let path = call.path();
        let request = format!("{} {path}", C::METHOD);
        let bound = C::TIMEOUT;
        let exchange = self.exchange(&request, &path, C::METHOD, call);
        let answered = time::timeout(bound, exchange).await;
        answered.unwrap_or(Err(VmmError::Timeout {
            monitor: NAME,
            request,
            bound,
        }))
    }

    async fn exchange<B: Serialize>(
        &self,
        name: &str,
        path: &str,
        method: Method,
        body: &B,
    ) -> Result<(), VmmError> {
        let unreadable = |why: String| VmmError::Unreadable {
            monitor: NAME,
            request: name.to_owned(),
            why,
        };
        let body = serde_json::to_vec(body).map_err(|error| unreadable(error.to_string()))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| unreadable(error.to_string()))?;
        let mut sender = self.sender.lock().await;
        // The connection is busy until the answer before this was read to its end.
        let answer = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        let answer = answer.await.map_err(|error| unreadable(causes(&error)))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| unreadable(causes(&*error)))?
            .to_bytes();
        if status.is_success() {
            return Ok(());
        }
        Err(VmmError::Refused {
            monitor: NAME,
            request: name.to_owned(),
            answer: format!("HTTP {}: {}", status.as_u16(), fault(&body)),
        })
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// The message of a refusal: its `fault_message`, or the body as it is.
fn fault(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<Fault>(body) {
        Ok(fault) => fault.fault_message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    super::ring::printable(&text)
        .chars()
        .take(MAX_FAULT_CHARACTERS)
        .collect()
}

/// An error with what caused it; hyper's own message is only the first half.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::firecracker::requests::{InstanceState, VmState};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Answers each request with the next of `answers`, on one connection.
    async fn monitor(answers: Vec<Vec<u8>>) -> (tempfile::TempDir, Api) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for answer in answers {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
            // The connection stays open: what comes after this waits.
            std::future::pending::<()>().await;
        });
        let api = Api::connect(&socket).await.unwrap();
        (folder, api)
    }

    fn pause() -> VmState {
        VmState {
            state: InstanceState::Paused,
        }
    }

    #[tokio::test]
    async fn a_refusal_keeps_the_monitors_own_words() {
        let body = br#"{"fault_message":"The kernel file\u001b cannot be opened"}"#;
        let head = format!(
            "HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let (_folder, api) = monitor(vec![
            [head.as_bytes(), body].concat(),
            b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        ])
        .await;
        let refused = api.call(&pause()).await.unwrap_err().to_string();
        assert_eq!(
            refused,
            "firecracker refused PATCH /vm: HTTP 400: The kernel file? cannot be opened"
        );
        // The connection goes on.
        api.call(&pause()).await.unwrap();
    }

    #[tokio::test]
    async fn an_answer_without_end_is_cut_off() {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            MAX_ANSWER_BYTES + 1
        );
        let answer = [head.into_bytes(), vec![b'x'; MAX_ANSWER_BYTES + 1]].concat();
        let (_folder, api) = monitor(vec![answer]).await;
        let error = api.call(&pause()).await.unwrap_err();
        assert!(matches!(&error, VmmError::Unreadable { .. }), "{error}");
    }

    #[tokio::test]
    async fn what_is_not_http_is_unreadable() {
        let (_folder, api) = monitor(vec![b"hello\r\n\r\n".to_vec()]).await;
        let error = api.call(&pause()).await.unwrap_err();
        assert!(matches!(&error, VmmError::Unreadable { .. }), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_at_the_bound() {
        let (_folder, api) = monitor(vec![]).await;
        let error = api.call(&pause()).await.unwrap_err();
        assert!(
            matches!(&error, VmmError::Timeout { bound, .. } if *bound == REQUEST_TIMEOUT),
            "{error}"
        );
    }
}
