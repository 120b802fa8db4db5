//! Why a NATS sink could not deliver.

use std::io;

use super::{
    config::{Milliseconds, ServerAddress},
    creds::CredsError,
    nkey::NkeyError,
    tls::TlsError,
    wire::WireError,
};
use crate::remote::{Retry, credential::CredentialError};

/// Why events could not be delivered. Never with a credential in it; what a server said is of bounded
/// length and without control characters.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// What to log in with cannot be read.
    #[error("logging in: {0}")]
    Credential(#[from] CredentialError),
    /// The seed of the key is none.
    #[error("logging in: {0}")]
    Nkey(#[from] NkeyError),
    /// The credential file is none.
    #[error("logging in: {0}")]
    Creds(#[from] CredsError),
    /// The key could not be used.
    #[error("logging in: the key does not sign")]
    Key,
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The name has no address.
    #[error("{server}: the name cannot be resolved: {source}")]
    Resolve {
        /// The server.
        server: ServerAddress,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody is there.
    #[error("{server}: no connection: {source}")]
    Connect {
        /// The server.
        server: ServerAddress,
        /// What the system said.
        source: io::Error,
    },
    /// It took too long.
    #[error("{server}: no connection within {timeout}")]
    ConnectTimeout {
        /// The server.
        server: ServerAddress,
        /// The limit.
        timeout: Milliseconds,
    },
    /// The two sides found no common TLS, or one does not trust the other.
    #[error("{server}: TLS: {source}")]
    Handshake {
        /// The server.
        server: ServerAddress,
        /// What TLS said.
        source: io::Error,
    },
    /// The host's name cannot be in a certificate.
    #[error("{server}: TLS: the host is no name that a certificate can have")]
    HostName {
        /// The server.
        server: ServerAddress,
    },
    /// Something was sent along before encryption began.
    #[error("{server}: bytes in clear where TLS was to begin; somebody else may have sent them")]
    BytesBeforeTls {
        /// The server.
        server: ServerAddress,
    },
    /// The server does no TLS.
    #[error("{server}: TLS is demanded, and the server has none")]
    NoTls {
        /// The server.
        server: ServerAddress,
    },
    /// A password would be sent in clear.
    #[error(
        "{server}: a password or token would be sent in clear to another host; use `tls://`, or set `secretsInClear: allow` where something else protects the connection"
    )]
    InClear {
        /// The server.
        server: ServerAddress,
    },
    /// The server wants no signature, so a key cannot log in.
    #[error("{server}: the server has no login by key")]
    NoNonce {
        /// The server.
        server: ServerAddress,
    },
    /// Something other than a NATS server answered.
    #[error("{server}: {source}")]
    NotNats {
        /// The server.
        server: ServerAddress,
        /// What is wrong.
        source: WireError,
    },
    /// A server from before headers (2.2, of 2021).
    #[error("{server}: the server knows no headers; use a later one")]
    NoHeaders {
        /// The server.
        server: ServerAddress,
    },
    /// The server does not let us in.
    #[error("{server}: the server refuses the login: {text}")]
    Refused {
        /// The server.
        server: ServerAddress,
        /// What it said.
        text: String,
    },
    /// The server ended the connection and said why.
    #[error("{server}: the server ends the connection: {text}")]
    Ended {
        /// The server.
        server: ServerAddress,
        /// What it said.
        text: String,
    },
    /// The connection broke.
    #[error("{server}: the connection broke: {source}")]
    Lost {
        /// The server.
        server: ServerAddress,
        /// What the system said.
        source: io::Error,
    },
    /// The server sends what no server sends.
    #[error("{server}: {source}")]
    Wire {
        /// The server.
        server: ServerAddress,
        /// What is wrong.
        source: WireError,
    },
    /// This user may not do it.
    #[error("{server}: this user lacks a permission: {text}")]
    Denied {
        /// The server.
        server: ServerAddress,
        /// What the server said.
        text: String,
    },
    /// Nothing came back.
    #[error("{server}: no acknowledgement within {timeout}")]
    Silent {
        /// The server.
        server: ServerAddress,
        /// The limit.
        timeout: Milliseconds,
    },
    /// The server keeps no streams.
    #[error("{server}: JetStream is off; start the server with it (`-js`)")]
    JetStreamOff {
        /// The server.
        server: ServerAddress,
    },
    /// JetStream does not answer, as when a cluster has no leader.
    #[error("{server}: JetStream does not answer")]
    JetStreamAway {
        /// The server.
        server: ServerAddress,
    },
    /// The answer about a stream cannot be read.
    #[error("stream {stream}: the server's answer cannot be read: {source}")]
    Answer {
        /// The stream.
        stream: String,
        /// Why.
        source: serde_json::Error,
    },
    /// JetStream refuses.
    #[error("stream {stream}: {text} (code {code}, error {err_code})")]
    Stream {
        /// The stream.
        stream: String,
        /// What it said.
        text: String,
        /// Its kind, as HTTP has it.
        code: u16,
        /// Number of the error.
        err_code: u32,
    },
    /// The stream takes other subjects.
    #[error("stream {stream} does not take subject {subject}, only {subjects}")]
    NotCaptured {
        /// The stream.
        stream: String,
        /// Our subject.
        subject: String,
        /// Its subjects.
        subjects: String,
    },
    /// The stream acknowledges nothing.
    #[error("stream {stream} acknowledges nothing (`no_ack`); events could be lost unseen")]
    NoAck {
        /// The stream.
        stream: String,
    },
    /// Another stream took it.
    #[error("subject {subject} went into stream {found}, not {stream}")]
    OtherStream {
        /// The stream that was configured.
        stream: String,
        /// Our subject.
        subject: String,
        /// The stream that acknowledged.
        found: String,
    },
    /// The stream went away since the connection was made.
    #[error("stream {stream} was there and takes subject {subject} no more")]
    NobodyTookIt {
        /// The stream.
        stream: String,
        /// Our subject.
        subject: String,
    },
    /// The event is larger than the server takes.
    #[error(
        "event {id} is {bytes} bytes with its headers, the server takes {limit}; raise its `max_payload`"
    )]
    TooLarge {
        /// Id of the event.
        id: String,
        /// Its size.
        bytes: usize,
        /// The server's limit.
        limit: usize,
    },
    /// The event has no JSON form.
    #[error("event {id} cannot be written as JSON: {source}")]
    Json {
        /// Id of the event.
        id: String,
        /// The encoder's reason.
        source: serde_json::Error,
    },
}

impl NatsError {
    /// Whether trying again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::Ended { .. }
            | Self::Lost { .. }
            | Self::Wire { .. }
            | Self::Silent { .. }
            | Self::JetStreamAway { .. }
            | Self::NobodyTookIt { .. } => Retry::Later,
            Self::Stream { code, .. } if !(400..500).contains(code) => Retry::Later,
            // Certificates do not mend themselves; a connection that breaks meanwhile does.
            Self::Handshake { source, .. } if source.kind() != io::ErrorKind::InvalidData => {
                Retry::Later
            }
            Self::Credential(_)
            | Self::Nkey(_)
            | Self::Creds(_)
            | Self::Key
            | Self::Tls(_)
            | Self::Handshake { .. }
            | Self::HostName { .. }
            | Self::BytesBeforeTls { .. }
            | Self::NoTls { .. }
            | Self::InClear { .. }
            | Self::NoNonce { .. }
            | Self::NotNats { .. }
            | Self::NoHeaders { .. }
            | Self::Refused { .. }
            | Self::Denied { .. }
            | Self::JetStreamOff { .. }
            | Self::Answer { .. }
            | Self::Stream { .. }
            | Self::NotCaptured { .. }
            | Self::NoAck { .. }
            | Self::OtherStream { .. }
            | Self::TooLarge { .. }
            | Self::Json { .. } => Retry::Useless,
        }
    }

    /// Whether a fresh connection may be all that is needed.
    pub(super) fn is_about_the_connection(&self) -> bool {
        matches!(
            self,
            Self::Lost { .. } | Self::Ended { .. } | Self::NobodyTookIt { .. }
        )
    }
}
