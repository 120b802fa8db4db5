//! A client for one receiver: HTTP/1.1 over one connection that is kept, with TLS where the address
//! says so. Redirects are not followed.

mod config;
mod tls;

use std::{fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::Mutex, time};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use zeroize::Zeroizing;

pub use config::{BasicConfig, DEFAULT_TIMEOUT, HttpConfig, MAX_TIMEOUT};
pub use tls::MAX_CA_FILE_BYTES;

use config::{Address, Authorization, Scheme};

use super::{Retry, SinkOpenError, Surroundings, credential::OneLine};

/// Most bytes of an answer that are read. Answers say why something was refused.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Most bytes of a status line and headers; hyper asks for at least 8 KiB.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Most characters of an answer that are repeated in a message.
const MAX_QUOTED_CHARACTERS: usize = 200;
/// Longest wait that a receiver can ask for with `Retry-After`.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

/// A client for one receiver.
pub struct HttpClient {
    address: Address,
    authorization: Option<HeaderValue>,
    /// What must not be repeated in a message.
    secrets: Vec<Zeroizing<String>>,
    tls: Option<TlsConnector>,
    timeout: Duration,
    /// A connection answers one request at a time.
    connection: Mutex<Option<Connection>>,
}

type Connection = http1::SendRequest<Full<Bytes>>;

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient")
            .field("address", &self.address)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Why a request was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The receiver cannot be reached.
    #[error("cannot connect to {authority}: {reason}")]
    Connect {
        /// The receiver.
        authority: String,
        /// Why.
        reason: String,
    },
    /// The connection broke, or what came was not HTTP.
    #[error("the connection to {authority} broke: {reason}")]
    Broken {
        /// The receiver.
        authority: String,
        /// How.
        reason: String,
    },
    /// It took too long.
    #[error("{authority} did not answer within {bound:?}")]
    Timeout {
        /// The receiver.
        authority: String,
        /// The time it had.
        bound: Duration,
    },
    /// It answered with something else than success.
    #[error("{authority} answered {status}{said}")]
    Status {
        /// The receiver.
        authority: String,
        /// The answer.
        status: StatusCode,
        /// What it said besides, after `: `, or nothing.
        said: String,
        /// How long it asked to be left alone, at most [`MAX_RETRY_AFTER`].
        retry_after: Option<Duration>,
    },
}

impl RequestError {
    /// Whether trying again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Connect { .. } | Self::Broken { .. } | Self::Timeout { .. } => Retry::Later,
            Self::Status { status, .. } => match *status {
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Retry::Later,
                status if status.is_server_error() => Retry::Later,
                _ => Retry::Useless,
            },
        }
    }

    /// How long the receiver asked to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl HttpClient {
    /// A client that has not connected yet. Credentials and certificates are read now.
    ///
    /// # Errors
    /// [`SinkOpenError`].
    pub fn open(
        config: &HttpConfig<'_>,
        surroundings: &Surroundings<'_>,
    ) -> Result<Self, SinkOpenError> {
        let address = config.address()?;
        let authorization = config.authorization(&address, surroundings)?;
        let tls = match (address.scheme, config.ca_file) {
            (Scheme::Tls, file) => {
                let file = file.map(|file| surroundings.folder.join(file));
                Some(TlsConnector::from(tls::client(file.as_deref())?))
            }
            (Scheme::Plain, None) => None,
            (Scheme::Plain, Some(_)) => {
                return Err(SinkOpenError::Value {
                    field: "caFile",
                    problem: "has no use without https://".to_owned(),
                });
            }
        };
        Ok(Self {
            timeout: config.timeout()?,
            secrets: authorization.as_ref().map(secrets).unwrap_or_default(),
            authorization: authorization.as_ref().map(header_value).transpose()?,
            address,
            tls,
            connection: Mutex::new(None),
        })
    }

    /// Posts a body, and returns what the receiver says when it has accepted it; `None` where it
    /// says more than [`MAX_ANSWER_BYTES`] or breaks off.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn post(
        &self,
        content_type: &'static str,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<Option<Bytes>, RequestError> {
        let mut all = HeaderMap::new();
        all.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                all.insert(HeaderName::from_static(name), value);
            }
        }
        let mut connection = self.connection.lock().await;
        // A request that is cut off leaves a connection that nobody can use.
        let kept = connection.take();
        let exchange = self.exchange(kept, &all, &body);
        let (sender, answer) = time::timeout(self.timeout, exchange)
            .await
            .unwrap_or_else(|_| Err(self.timed_out()))?;
        *connection = sender;
        answer
    }

    /// Over the kept connection, or else over a new one: the receiver may have ended the kept one
    /// when nothing was going on.
    async fn exchange(
        &self,
        kept: Option<Connection>,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<(Option<Connection>, Result<Option<Bytes>, RequestError>), RequestError> {
        if let Some(mut kept) = kept
            && kept.ready().await.is_ok()
            && let Ok(answer) = kept.send_request(self.request(headers, body)?).await
        {
            return Ok(self.judge(kept, answer).await);
        }
        let mut fresh = self.connect().await?;
        let answer = fresh
            .send_request(self.request(headers, body)?)
            .await
            .map_err(|error| self.broken(&error))?;
        Ok(self.judge(fresh, answer).await)
    }

    async fn connect(&self) -> Result<Connection, RequestError> {
        let failed = |reason: String| RequestError::Connect {
            authority: self.address.authority.clone(),
            reason,
        };
        let host = self.address.host.as_str();
        let stream = TcpStream::connect((host, self.address.port))
            .await
            .map_err(|error| failed(error.to_string()))?;
        // Each request is written at once, and its answer is awaited.
        stream
            .set_nodelay(true)
            .map_err(|error| failed(error.to_string()))?;
        match &self.tls {
            None => self.handshake(TokioIo::new(stream)).await,
            Some(tls) => {
                let name = ServerName::try_from(host.to_owned())
                    .map_err(|error| failed(error.to_string()))?;
                let stream = tls
                    .connect(name, stream)
                    .await
                    .map_err(|error| failed(format!("TLS: {error}")))?;
                self.handshake(TokioIo::new(stream)).await
            }
        }
    }

    async fn handshake<T>(&self, io: T) -> Result<Connection, RequestError>
    where
        T: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake(io)
            .await
            .map_err(|error| self.broken(&error))?;
        // Its errors are those of the requests it carries.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn request(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Request<Full<Bytes>>, RequestError> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&self.address.target)
            .header(header::HOST, &self.address.authority)
            .header(
                header::USER_AGENT,
                concat!("cellos/", env!("CARGO_PKG_VERSION")),
            )
            .header(header::ACCEPT, "application/json")
            .body(Full::new(body.clone()))
            .map_err(|error| self.broken(&error))?;
        request.headers_mut().extend(
            headers
                .iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        if let Some(authorization) = &self.authorization {
            request
                .headers_mut()
                .insert(header::AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }

    /// What an answer means. The connection is kept where the answer was read to its end.
    async fn judge(
        &self,
        connection: Connection,
        answer: Response<Incoming>,
    ) -> (Option<Connection>, Result<Option<Bytes>, RequestError>) {
        let status = answer.status();
        let retry_after = retry_after(answer.headers(), jiff::Timestamp::now());
        let location = answer.headers().get(header::LOCATION).cloned();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes);
        let (kept, body) = match body {
            Ok(body) => (Some(connection), Some(body)),
            Err(_) => (None, None),
        };
        if status.is_success() {
            return (kept, Ok(body));
        }
        let said = match location {
            Some(location) if status.is_redirection() => format!(
                ", which is not followed: the address would be {}",
                self.quoted(location.as_bytes())
            ),
            _ => match body.as_deref() {
                None | Some([]) => String::new(),
                Some(body) => format!(": {}", self.quoted(body)),
            },
        };
        let error = RequestError::Status {
            authority: self.address.authority.clone(),
            status,
            said,
            retry_after,
        };
        (kept, Err(error))
    }

    /// What others wrote: it is cut, has no control characters, and is left out where it repeats
    /// what it was sent.
    fn quoted(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes);
        if self.secrets.iter().any(|secret| text.contains(&**secret)) {
            return "(an answer that repeats the credential)".to_owned();
        }
        cut(text.trim())
    }

    fn broken(&self, error: &dyn std::error::Error) -> RequestError {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            reason = format!("{reason}: {cause}");
            source = cause.source();
        }
        RequestError::Broken {
            authority: self.address.authority.clone(),
            reason,
        }
    }

    fn timed_out(&self) -> RequestError {
        RequestError::Timeout {
            authority: self.address.authority.clone(),
            bound: self.timeout,
        }
    }
}

/// What is secret, in each form that is sent.
fn secrets(authorization: &Authorization) -> Vec<Zeroizing<String>> {
    let plain = |credential: &OneLine| Zeroizing::new(credential.expose().to_owned());
    match authorization {
        Authorization::Bearer(token) => vec![plain(token)],
        Authorization::Basic { user, password } => vec![plain(password), basic(user, password)],
    }
}

fn basic(user: &str, password: &OneLine) -> Zeroizing<String> {
    let pair = Zeroizing::new(format!("{user}:{}", password.expose()));
    Zeroizing::new(STANDARD.encode(pair.as_bytes()))
}

fn header_value(authorization: &Authorization) -> Result<HeaderValue, SinkOpenError> {
    let text = Zeroizing::new(match authorization {
        Authorization::Bearer(token) => format!("Bearer {}", token.expose()),
        Authorization::Basic { user, password } => format!("Basic {}", *basic(user, password)),
    });
    let mut value = HeaderValue::from_str(&text).map_err(|_| SinkOpenError::Value {
        field: "token",
        problem: "the credential cannot stand in a header".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// `Retry-After`, RFC 9110 section 10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: jiff::Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            Duration::try_from(date.duration_since(now)).unwrap_or_default()
        }
    };
    Some(asked.min(MAX_RETRY_AFTER))
}

/// The first characters, without control characters.
fn cut(text: &str) -> String {
    let plain = |character: char| match character.is_control() {
        true => ' ',
        false => character,
    };
    let mut cut: String = text
        .chars()
        .take(MAX_QUOTED_CHARACTERS)
        .map(plain)
        .collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_seconds_or_a_date_and_bounded() {
        let now: jiff::Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        for (text, expected) in [
            ("7", Some(Duration::from_secs(7))),
            ("99999999", Some(MAX_RETRY_AFTER)),
            (
                "Fri, 02 Jan 2026 03:04:35 GMT",
                Some(Duration::from_secs(30)),
            ),
            ("Fri, 02 Jan 2026 03:04:00 GMT", Some(Duration::ZERO)),
            ("soon", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            assert_eq!(retry_after(&headers, now), expected, "{text}");
        }
    }
}
