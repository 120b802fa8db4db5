//! One connection to a NATS server: opening it, and reading and writing at the same time.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf},
    net::{TcpStream, lookup_host},
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use uuid::Uuid;

use super::{
    config::{Milliseconds, NatsConfig, SecretsInClear, ServerAddress, Transport},
    error::NatsError,
    login::Method,
    tls,
    wire::{self, Connect, Message, ServerInfo, ServerOp, WireError},
};
use crate::remote::Retry;

/// How much is read at once, in bytes.
const READ_BYTES: usize = 16 * 1024;

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection that has logged in. Dropping it closes it; what was not sent is then not sent.
pub(super) struct Connection {
    server: ServerAddress,
    info: ServerInfo,
    inbox: String,
    replies: u64,
    reader: ReadHalf<Box<dyn Io>>,
    writer: WriteHalf<Box<dyn Io>>,
    /// Read and not yet taken apart, from `taken` on.
    input: Vec<u8>,
    taken: usize,
    /// To be written, from `written` on.
    out: Vec<u8>,
    written: usize,
    /// How many `PONG` are among what is to be written.
    pongs: usize,
    unflushed: bool,
    patience: Milliseconds,
    deadline: Instant,
}

/// What happened on a connection.
pub(super) enum Step {
    /// A message came.
    Message(Message),
    /// Everything to be written is written.
    Drained,
}

impl Connection {
    /// Connects to the first server that lets us in.
    ///
    /// # Errors
    /// Why the last of them did not, or the last one of which that may change.
    pub(super) async fn open(config: &NatsConfig, login: &Method) -> Result<Self, NatsError> {
        let connector = tls::connector(config.tls.as_ref());
        // Certificates matter only to who uses them.
        let connector = match (&config.tls, connector) {
            (_, Ok(connector)) => Some(connector),
            (None, Err(_)) => None,
            (Some(_), Err(error)) => return Err(error.into()),
        };
        let limit = config.connect_timeout_ms;
        let mut failure: Option<NatsError> = None;
        for server in &config.servers {
            let opening = open_one(config, login, server, connector.as_ref());
            let error = match timeout(limit.duration(), opening).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error,
                Err(_) => NatsError::ConnectTimeout {
                    server: server.clone(),
                    timeout: limit,
                },
            };
            tracing::debug!(%server, %error, "no connection to NATS");
            let known_to_change = failure
                .as_ref()
                .is_some_and(|known| known.retry() == Retry::Later);
            if !(known_to_change && error.retry() == Retry::Useless) {
                failure = Some(error);
            }
        }
        Err(failure.unwrap_or(NatsError::Tls(tls::TlsError::NoAuthority)))
    }

    pub(super) fn server(&self) -> &ServerAddress {
        &self.server
    }

    pub(super) fn info(&self) -> &ServerInfo {
        &self.info
    }

    /// Number of the next reply, and where it is to be sent to.
    pub(super) fn next_reply(&mut self) -> (u64, String) {
        let number = self.replies;
        self.replies += 1;
        (number, format!("{}.{number}", self.inbox))
    }

    /// The number of a reply, by where it came.
    pub(super) fn reply_number(&self, subject: &str) -> Option<u64> {
        let number = subject.strip_prefix(&self.inbox)?.strip_prefix('.')?;
        number.parse().ok()
    }

    /// Where to write what is to be sent, and how many bytes of it wait.
    pub(super) fn out(&mut self) -> (&mut Vec<u8>, usize) {
        let waiting = self.out.len() - self.written;
        (&mut self.out, waiting)
    }

    /// Begins to wait anew: something came, or something is asked for.
    pub(super) fn be_patient(&mut self) {
        self.deadline = Instant::now() + self.patience.duration();
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`NatsError`].
    pub(super) async fn request(
        &mut self,
        subject: &str,
        payload: &[u8],
    ) -> Result<Message, NatsError> {
        let (_, reply) = self.next_reply();
        wire::request(&mut self.out, subject, &reply, payload);
        self.be_patient();
        loop {
            if let Step::Message(message) = self.step().await?
                && message.subject == reply
            {
                return Ok(message);
            }
        }
    }

    /// Reads and writes until something happened. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// [`NatsError`]; the connection is of no use then.
    pub(super) async fn step(&mut self) -> Result<Step, NatsError> {
        loop {
            match self.next_op()? {
                Some(ServerOp::Message(message)) => return Ok(Step::Message(message)),
                Some(ServerOp::Ping) => {
                    self.pong()?;
                    continue;
                }
                Some(ServerOp::Err(text)) => return Err(self.told(text)),
                Some(ServerOp::Info(info)) => {
                    if info.max_payload > 0 {
                        self.info.max_payload = info.max_payload;
                    }
                    continue;
                }
                Some(ServerOp::Pong | ServerOp::Ok) => continue,
                None => {}
            }
            if self.exchange().await? {
                return Ok(Step::Drained);
            }
        }
    }

    fn pong(&mut self) -> Result<(), NatsError> {
        if self.pongs >= wire::MAX_PONGS {
            return Err(NatsError::Wire {
                server: self.server.clone(),
                source: WireError::Pings,
            });
        }
        self.pongs += 1;
        self.out.extend_from_slice(b"PONG\r\n");
        Ok(())
    }

    fn next_op(&mut self) -> Result<Option<ServerOp>, NatsError> {
        let parsed = wire::parse(&self.input[self.taken..]).map_err(|source| NatsError::Wire {
            server: self.server.clone(),
            source,
        })?;
        match parsed {
            Some((op, used)) => {
                self.taken += used;
                Ok(Some(op))
            }
            None => {
                self.input.drain(..self.taken);
                self.taken = 0;
                Ok(None)
            }
        }
    }

    /// Reads or writes something. Whether all is written now.
    async fn exchange(&mut self) -> Result<bool, NatsError> {
        let lost = |source| NatsError::Lost {
            server: self.server.clone(),
            source,
        };
        let writing = self.written < self.out.len();
        self.input.reserve(READ_BYTES);
        tokio::select! {
            read = self.reader.read_buf(&mut self.input) => match read.map_err(lost)? {
                0 => Err(lost(io::ErrorKind::UnexpectedEof.into())),
                _ => Ok(false),
            },
            wrote = write_or_flush(&mut self.writer, &self.out[self.written..]), if writing || self.unflushed => {
                match wrote.map_err(lost)? {
                    Wrote::Some(bytes) => self.written += bytes,
                    Wrote::Flushed => {
                        self.unflushed = false;
                        return Ok(true);
                    }
                }
                self.unflushed = true;
                if self.written == self.out.len() {
                    self.out.clear();
                    self.written = 0;
                    self.pongs = 0;
                }
                self.be_patient();
                Ok(false)
            }
            () = sleep_until(self.deadline) => Err(NatsError::Silent {
                server: self.server.clone(),
                timeout: self.patience,
            }),
        }
    }

    /// What an error means that the server told.
    fn told(&self, text: String) -> NatsError {
        let server = self.server.clone();
        let lower = text.to_ascii_lowercase();
        match lower {
            _ if lower.starts_with("permissions violation") => NatsError::Denied { server, text },
            _ if lower.starts_with("authorization") || lower.contains("authentication") => {
                NatsError::Refused { server, text }
            }
            _ => NatsError::Ended { server, text },
        }
    }
}

enum Wrote {
    Some(usize),
    Flushed,
}

/// Writes some of the bytes, or flushes where there are none. Nothing is lost when the future is
/// dropped.
async fn write_or_flush(writer: &mut WriteHalf<Box<dyn Io>>, bytes: &[u8]) -> io::Result<Wrote> {
    if bytes.is_empty() {
        return writer.flush().await.map(|()| Wrote::Flushed);
    }
    match writer.write(bytes).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        written => Ok(Wrote::Some(written)),
    }
}

async fn open_one(
    config: &NatsConfig,
    login: &Method,
    server: &ServerAddress,
    connector: Option<&TlsConnector>,
) -> Result<Connection, NatsError> {
    let no_connection = |source| NatsError::Connect {
        server: server.clone(),
        source,
    };
    let addresses: Vec<_> = lookup_host((server.host.as_str(), server.port))
        .await
        .map_err(|source| NatsError::Resolve {
            server: server.clone(),
            source,
        })?
        .collect();
    let mut socket = TcpStream::connect(addresses.as_slice())
        .await
        .map_err(no_connection)?;
    socket.set_nodelay(true).map_err(no_connection)?;
    let loopback = socket
        .peer_addr()
        .is_ok_and(|address| address.ip().is_loopback());

    let (info, rest) = introduction(&mut socket, server).await?;
    let demanded = server.transport == Transport::Tls || config.tls.is_some();
    let (stream, in_clear): (Box<dyn Io>, bool) = match (demanded, info.tls_required) {
        (false, false) => (Box::new(socket), true),
        (true, false) if !info.tls_available => {
            return Err(NatsError::NoTls {
                server: server.clone(),
            });
        }
        _ if !rest.is_empty() => {
            return Err(NatsError::BytesBeforeTls {
                server: server.clone(),
            });
        }
        _ => (encrypt(socket, server, connector).await?, false),
    };
    let proof = login.proof(server, &info)?;
    let exposed = in_clear && !loopback && config.secrets_in_clear == SecretsInClear::Refuse;
    if exposed && proof.is_secret() {
        return Err(NatsError::InClear {
            server: server.clone(),
        });
    }
    if !info.headers {
        return Err(NatsError::NoHeaders {
            server: server.clone(),
        });
    }

    let connect = Connect {
        verbose: false,
        pedantic: false,
        tls_required: !in_clear,
        echo: false,
        headers: true,
        no_responders: true,
        protocol: 1,
        lang: "rust",
        version: env!("CARGO_PKG_VERSION"),
        name: "cellos",
        user: proof.user.as_deref(),
        pass: proof.password.as_ref().map(|text| text.as_str()),
        auth_token: proof.token.as_ref().map(|text| text.as_str()),
        jwt: proof.jwt.as_ref().map(|text| text.as_str()),
        nkey: proof.nkey.as_deref(),
        sig: proof.signature.as_deref(),
    };
    let mut hello = zeroize::Zeroizing::new(b"CONNECT ".to_vec());
    serde_json::to_writer(&mut *hello, &connect)
        .map_err(|source| no_connection(io::Error::from(source)))?;
    hello.extend_from_slice(b"\r\nPING\r\n");

    let (reader, mut writer) = tokio::io::split(stream);
    let lost = |source: io::Error| match source.kind() {
        // In TLS 1.3 a server judges a client's certificate after the handshake.
        io::ErrorKind::InvalidData => NatsError::Handshake {
            server: server.clone(),
            source,
        },
        _ => NatsError::Lost {
            server: server.clone(),
            source,
        },
    };
    writer.write_all(&hello).await.map_err(lost)?;
    writer.flush().await.map_err(lost)?;

    let patience = config.ack_timeout_ms;
    let mut connection = Connection {
        server: server.clone(),
        inbox: format!("{}.{}", config.inbox_prefix.0, Uuid::new_v4().as_simple()),
        replies: 0,
        info,
        reader,
        writer,
        input: rest,
        taken: 0,
        out: Vec::new(),
        written: 0,
        pongs: 0,
        unflushed: false,
        // The time to connect is limited as a whole.
        deadline: Instant::now() + patience.duration() + Duration::from_secs(3600),
        patience,
    };
    welcome(&mut connection)
        .await
        .map_err(|error| match error {
            NatsError::Lost { source, .. } => lost(source),
            NatsError::Ended { server, text } => NatsError::Ended { server, text },
            error => error,
        })?;
    let listen = format!("SUB {}.* 1\r\n", connection.inbox);
    connection.out.extend_from_slice(listen.as_bytes());
    Ok(connection)
}

/// Waits until the server has let us in.
async fn welcome(connection: &mut Connection) -> Result<(), NatsError> {
    loop {
        match connection.next_op()? {
            Some(ServerOp::Pong) => return Ok(()),
            Some(ServerOp::Err(text)) => return Err(connection.told(text)),
            Some(_) => {}
            None => {
                connection.exchange().await?;
            }
        }
    }
}

/// The server's first line, and what came after it, which is nothing where all is well.
async fn introduction(
    socket: &mut TcpStream,
    server: &ServerAddress,
) -> Result<(ServerInfo, Vec<u8>), NatsError> {
    let not_nats = |source| NatsError::NotNats {
        server: server.clone(),
        source,
    };
    let lost = |source| NatsError::Lost {
        server: server.clone(),
        source,
    };
    let mut input = Vec::new();
    let (info, used) = loop {
        match wire::parse(&input).map_err(not_nats)? {
            Some((ServerOp::Info(info), used)) => break (info, used),
            Some((op, _)) => return Err(not_nats(WireError::Unknown(format!("{op:?}")))),
            None => {}
        }
        if socket.read_buf(&mut input).await.map_err(lost)? == 0 {
            return Err(lost(io::ErrorKind::UnexpectedEof.into()));
        }
    };
    let rest = input.split_off(used);
    // A server that is full introduces itself and hangs up.
    match wire::parse(&rest) {
        Ok(Some((ServerOp::Err(text), _))) => Err(NatsError::Ended {
            server: server.clone(),
            text,
        }),
        _ => Ok((*info, rest)),
    }
}

async fn encrypt(
    socket: TcpStream,
    server: &ServerAddress,
    connector: Option<&TlsConnector>,
) -> Result<Box<dyn Io>, NatsError> {
    let connector = connector.ok_or(NatsError::Tls(tls::TlsError::NoAuthority))?;
    let name = ServerName::try_from(server.host.clone()).map_err(|_| NatsError::HostName {
        server: server.clone(),
    })?;
    let stream = connector
        .connect(name, socket)
        .await
        .map_err(|source| NatsError::Handshake {
            server: server.clone(),
            source,
        })?;
    Ok(Box::new(stream))
}
