//! What a NATS sink is told.
//!
//! ```yaml
//! servers: ["tls://nats-1.example:4222", "tls://nats-2.example:4222"]
//! stream: CELLOS_EVENTS                  # made if it is not there; an existing one is left as it is
//! subject: {tenant: acme}                # or {literal: a.b}, or {template: "a.{tenantId}.{run_id}"}
//! auth: {creds: {file: /etc/cellos/nats.creds}}
//! tls: {caFile: /etc/cellos/ca.pem}
//! ```

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};
use url::{Host, Url};

use super::{
    NatsSink,
    subject::{SubjectRule, Token},
};
use crate::remote::{
    RemoteSink, SinkConfig, SinkOpenError, Surroundings, credential::CredentialSource,
};

/// Port of an address without one.
pub const DEFAULT_PORT: u16 = 4222;
/// Most addresses of a sink.
pub const MAX_SERVERS: usize = 16;
/// How long one address may take until it has let us in, in milliseconds, by default.
pub const DEFAULT_CONNECT_TIMEOUT_MS: u64 = 5_000;
/// How long no acknowledgement may come while some are due, in milliseconds, by default.
pub const DEFAULT_ACK_TIMEOUT_MS: u64 = 10_000;
/// Longest timeout that may be configured, in milliseconds.
pub const MAX_TIMEOUT_MS: u64 = 300_000;
/// Events that may be sent and not yet acknowledged, by default.
pub const DEFAULT_IN_FLIGHT: usize = 256;
/// Most events that may be sent and not yet acknowledged; a bound for what is sent twice.
pub const MAX_IN_FLIGHT: usize = 4096;

/// What a NATS sink is told. A key that is not listed here is an error.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NatsConfig {
    /// `servers`: addresses of one cluster, `nats://HOST[:PORT]` or `tls://HOST[:PORT]`, tried in
    /// this order. `tls` demands TLS; `nats` uses it when the server or [`tls`](Self::tls) wants it.
    #[serde(deserialize_with = "servers")]
    pub servers: Vec<ServerAddress>,
    /// `stream`: name of the stream, by default `CELLOS_EVENTS`.
    #[serde(default = "default_stream")]
    pub stream: Token,
    /// `subject`: where events go, by default `{literal: cellos.events.v1}`.
    #[serde(default)]
    pub subject: SubjectRule,
    /// `auth`: how to log in, by default not at all.
    #[serde(default)]
    pub auth: Auth,
    /// `tls`: certificates.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// `secretsInClear`: whether a password or a token may go over a connection without TLS to another
    /// host, by default `refuse`. Keys and credentials never leave this host.
    #[serde(default)]
    pub secrets_in_clear: SecretsInClear,
    /// `domain`: the JetStream domain, by default the server's own.
    #[serde(default)]
    pub domain: Option<Token>,
    /// `inboxPrefix`: where acknowledgements are sent to, by default `_INBOX`; for users that may not
    /// listen there.
    #[serde(default = "default_inbox")]
    pub inbox_prefix: InboxPrefix,
    /// `connectTimeoutMs`: how long one address may take, by default
    /// [`DEFAULT_CONNECT_TIMEOUT_MS`].
    #[serde(default = "default_connect_timeout")]
    pub connect_timeout_ms: Milliseconds,
    /// `ackTimeoutMs`: how long no acknowledgement may come while some are due, by default
    /// [`DEFAULT_ACK_TIMEOUT_MS`].
    #[serde(default = "default_ack_timeout")]
    pub ack_timeout_ms: Milliseconds,
    /// `maxInFlight`: events sent and not yet acknowledged, by default [`DEFAULT_IN_FLIGHT`].
    #[serde(default)]
    pub max_in_flight: InFlight,
}

impl SinkConfig for NatsConfig {
    fn open(&self, surroundings: &Surroundings<'_>) -> Result<Arc<dyn RemoteSink>, SinkOpenError> {
        Ok(Arc::new(NatsSink::open(self, surroundings)?))
    }

    fn private_files(&self) -> Vec<&Path> {
        let login = match &self.auth {
            Auth::None => None,
            Auth::Login(Login { password, .. }) => Some(password),
            Auth::Token(secret) | Auth::Creds(secret) | Auth::Nkey(secret) => Some(secret),
        };
        let login = login.and_then(CredentialSource::file);
        let client = self.tls.as_ref().and_then(|tls| tls.client.as_ref());
        let key = client.map(|client| client.key_file.as_path());
        [login, key].into_iter().flatten().collect()
    }
}

/// How to log in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Auth {
    /// Not at all, or by the certificate of [`TlsConfig`].
    #[default]
    None,
    /// `{login: {user: NAME, password: SECRET}}`.
    Login(Login),
    /// `{token: SECRET}`.
    Token(CredentialSource),
    /// `{creds: SECRET}`: a credential file with a user's token (JWT) and the seed of its key.
    Creds(CredentialSource),
    /// `{nkey: SECRET}`: the seed of a user's key.
    Nkey(CredentialSource),
}

/// A name and its password.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The name.
    pub user: String,
    /// Where the password is.
    pub password: CredentialSource,
}

/// Certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsConfig {
    /// `caFile`: authorities to trust besides the system's own, PEM.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// `client`: what this side shows of itself.
    #[serde(default)]
    pub client: Option<ClientCertificate>,
}

impl TlsConfig {
    /// With paths that start from where the configuration is.
    pub(super) fn within(&self, surroundings: &Surroundings<'_>) -> Self {
        let within = |path: &PathBuf| surroundings.folder.join(path);
        Self {
            ca_file: self.ca_file.as_ref().map(within),
            client: self.client.as_ref().map(|client| ClientCertificate {
                cert_file: within(&client.cert_file),
                key_file: within(&client.key_file),
            }),
        }
    }
}

/// The certificate of a client.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientCertificate {
    /// `certFile`: the certificate and those between it and its authority, PEM.
    pub cert_file: PathBuf,
    /// `keyFile`: its private key, PEM.
    pub key_file: PathBuf,
}

/// Whether a password or a token may be sent without TLS to another host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SecretsInClear {
    /// It may not.
    #[default]
    Refuse,
    /// It may: something else protects the connection.
    Allow,
}

/// Whether a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// When the server wants it.
    AsServerSays,
    /// Always.
    Tls,
}

/// Where a server is. Holds no credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    /// Whether the address demands TLS.
    pub transport: Transport,
    /// Name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            Transport::AsServerSays => "nats",
            Transport::Tls => "tls",
        };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

/// Why a text is no address. The text never appears in the message, because it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is no URL of the expected form.
    #[error("an address is `nats://HOST[:PORT]` or `tls://HOST[:PORT]`")]
    Form,
    /// It has a user or a password.
    #[error("an address holds no user and no password; they go under `auth`")]
    Credentials,
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let url = Url::parse(text).map_err(|_| AddressError::Form)?;
        let transport = match url.scheme() {
            "nats" => Transport::AsServerSays,
            "tls" => Transport::Tls,
            _ => return Err(AddressError::Form),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AddressError::Credentials);
        }
        let bare =
            matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        let host = match url.host() {
            Some(Host::Domain(name)) if !name.is_empty() => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            _ => return Err(AddressError::Form),
        };
        match bare {
            true => Ok(Self {
                transport,
                host,
                port: url.port().unwrap_or(DEFAULT_PORT),
            }),
            false => Err(AddressError::Form),
        }
    }
}

/// One address or a list of them. By hand, because a derived reader would show a text, which may hold
/// a password, that stands where a list is expected.
fn servers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ServerAddress>, D::Error> {
    struct Addresses;

    impl<'de> Visitor<'de> for Addresses {
        type Value = Vec<ServerAddress>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "1 to {MAX_SERVERS} addresses")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            text.parse().map(|server| vec![server]).map_err(E::custom)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut servers = Vec::new();
            while let Some(text) = seq.next_element::<String>()? {
                if servers.len() == MAX_SERVERS {
                    return Err(de::Error::invalid_length(MAX_SERVERS + 1, &self));
                }
                servers.push(text.parse().map_err(de::Error::custom)?);
            }
            match servers.is_empty() {
                false => Ok(servers),
                true => Err(de::Error::invalid_length(0, &self)),
            }
        }
    }

    deserializer.deserialize_any(Addresses)
}

/// A time of 1 to [`MAX_TIMEOUT_MS`] milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub struct Milliseconds(u64);

impl Milliseconds {
    pub(super) fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

impl TryFrom<u64> for Milliseconds {
    type Error = String;

    fn try_from(time: u64) -> Result<Self, String> {
        match (1..=MAX_TIMEOUT_MS).contains(&time) {
            true => Ok(Self(time)),
            false => Err(format!("{time} ms is outside 1 to {MAX_TIMEOUT_MS}")),
        }
    }
}

/// 1 to [`MAX_IN_FLIGHT`] events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "usize")]
pub struct InFlight(pub(super) usize);

impl Default for InFlight {
    fn default() -> Self {
        Self(DEFAULT_IN_FLIGHT)
    }
}

impl TryFrom<usize> for InFlight {
    type Error = String;

    fn try_from(events: usize) -> Result<Self, String> {
        match (1..=MAX_IN_FLIGHT).contains(&events) {
            true => Ok(Self(events)),
            false => Err(format!("{events} is outside 1 to {MAX_IN_FLIGHT}")),
        }
    }
}

/// What the subjects of acknowledgements begin with: parts of letters, digits, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct InboxPrefix(pub(super) String);

impl TryFrom<String> for InboxPrefix {
    type Error = &'static str;

    fn try_from(prefix: String) -> Result<Self, Self::Error> {
        let fits = prefix.len() <= 128
            && prefix.split('.').all(|part| {
                !part.is_empty()
                    && part
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            });
        match fits {
            true => Ok(Self(prefix)),
            false => Err("use up to 128 letters, digits, `-`, `_`, and dots between them"),
        }
    }
}

fn default_stream() -> Token {
    Token::default_stream()
}

fn default_inbox() -> InboxPrefix {
    InboxPrefix("_INBOX".to_owned())
}

fn default_connect_timeout() -> Milliseconds {
    Milliseconds(DEFAULT_CONNECT_TIMEOUT_MS)
}

fn default_ack_timeout() -> Milliseconds {
    Milliseconds(DEFAULT_ACK_TIMEOUT_MS)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> Result<NatsConfig, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn the_servers_are_all_that_is_needed() {
        let read = read(json!({"servers": "nats://localhost"})).unwrap();
        assert_eq!(read.servers, ["nats://localhost:4222".parse().unwrap()]);
        assert_eq!(read.stream.to_string(), "CELLOS_EVENTS");
        assert_eq!((read.auth, read.tls), (Auth::None, None));
        assert_eq!(read.secrets_in_clear, SecretsInClear::Refuse);
        assert_eq!(read.max_in_flight.0, DEFAULT_IN_FLIGHT);
    }

    #[test]
    fn every_field_is_read() {
        let read = read(json!({
            "servers": ["tls://[::1]:4333", "nats://10.0.0.1", "nats://n.example/"],
            "stream": "S",
            "subject": {"literal": "a.b"},
            "auth": {"login": {"user": "u", "password": {"file": "/p"}}},
            "tls": {"caFile": "/ca", "client": {"certFile": "/c", "keyFile": "/k"}},
            "secretsInClear": "allow",
            "domain": "hub",
            "inboxPrefix": "_INBOX.cells",
            "connectTimeoutMs": 1500,
            "ackTimeoutMs": 300_000,
            "maxInFlight": 1,
        }))
        .unwrap();
        let shown: Vec<_> = read.servers.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "tls://[::1]:4333",
                "nats://10.0.0.1:4222",
                "nats://n.example:4222"
            ]
        );
        assert_eq!(
            read.tls.unwrap().client.unwrap().key_file.to_str(),
            Some("/k")
        );
        assert_eq!(read.secrets_in_clear, SecretsInClear::Allow);
        assert_eq!(read.ack_timeout_ms.duration(), Duration::from_secs(300));
    }

    #[test]
    fn what_is_wrong_is_named_and_no_password_shown() {
        let server = "nats://u:hunter2@h";
        for (given, expected) in [
            (json!({}), "missing field `servers`"),
            (json!({"servers": []}), "1 to 16 addresses"),
            (
                json!({"servers": vec!["nats://h"; 17]}),
                "1 to 16 addresses",
            ),
            (json!({"servers": server}), "they go under `auth`"),
            (json!({"servers": [server]}), "they go under `auth`"),
            (json!({"servers": ["nats://hunter2@h"]}), "under `auth`"),
            (json!({"servers": "http://h"}), "`nats://HOST[:PORT]`"),
            (json!({"servers": "nats://h/path"}), "`nats://HOST[:PORT]`"),
            (json!({"servers": "nats://"}), "`nats://HOST[:PORT]`"),
            (json!({"servers": "hunter2"}), "`nats://HOST[:PORT]`"),
            (
                json!({"servers": "nats://h", "user": "x"}),
                "unknown field `user`",
            ),
            (json!({"servers": "nats://h", "stream": "a.b"}), "no dot"),
            (
                json!({"servers": "nats://h", "maxInFlight": 0}),
                "outside 1 to 4096",
            ),
            (
                json!({"servers": "nats://h", "ackTimeoutMs": 300_001}),
                "outside 1 to 300000",
            ),
            (
                json!({"servers": "nats://h", "inboxPrefix": "a.>"}),
                "letters, digits",
            ),
            (
                json!({"servers": "nats://h", "auth": {"token": "hunter2"}}),
                "`file` or `env`",
            ),
            (
                json!({"servers": "nats://h", "tls": {"client": {"certFile": "c"}}}),
                "missing field `keyFile`",
            ),
        ] {
            let error = read(given).unwrap_err();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
