//! What a connection was made to, and how what it says must fit that.

use std::{fmt::Write as _, net::IpAddr};

use cellos_core::event::FlowReason;

use super::client_hello::{ClientHello, ServerName};

/// Most characters of a name that the cell presents which are told.
const MAX_PRESENTED: usize = 253;

/// Whether TLS may present another name than the one that the cell asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Fronting {
    /// It may not.
    #[default]
    Refused,
    /// Any name, none, or an encrypted one: `cdnAuthority.providers[].acceptFronting`.
    Accepted,
}

/// What the cell connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The name behind the address, lower case, without a last dot. None for an address literal.
    pub(crate) name: Option<String>,
    /// The address that the cell dialled.
    pub(crate) address: IpAddr,
    /// The port.
    pub(crate) port: u16,
    /// Whether TLS may name another.
    pub(crate) fronting: Fronting,
}

/// Why bytes are not passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct Fault {
    /// The published reason.
    pub(crate) reason: FlowReason,
    /// The name that the cell presented instead, cut, and harmless to print.
    pub(crate) presented: Option<String>,
    /// For people; harmless to print.
    pub(crate) detail: String,
}

impl Fault {
    pub(super) fn new(reason: FlowReason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            presented: None,
            detail: detail.into(),
        }
    }

    pub(super) fn presenting(mut self, name: &[u8]) -> Self {
        self.presented = Some(harmless(name));
        self
    }

    /// The answer for a client that speaks HTTP, after which the connection ends.
    pub(crate) fn answer(&self) -> Vec<u8> {
        let body = format!("refused by the cell's gateway: {}\n", self.detail);
        let mut answer = String::from("HTTP/1.1 403 Forbidden\r\n");
        let _ = write!(
            answer,
            "Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len(),
        );
        answer.into_bytes()
    }
}

impl Expected {
    /// The destination as people write it.
    pub(super) fn destination(&self) -> String {
        self.name
            .clone()
            .unwrap_or_else(|| self.address.to_canonical().to_string())
    }

    /// Whether this hello is one for the destination.
    pub(super) fn check_tls(&self, hello: &ClientHello) -> Result<(), Fault> {
        if self.fronting == Fronting::Accepted {
            return Ok(());
        }
        let presented = match &hello.server_name {
            ServerName::Name(name) => Some(name.clone()),
            ServerName::Address(address) => Some(address.to_string()),
            ServerName::Missing => None,
        };
        let told = |mut fault: Fault| {
            fault.presented.clone_from(&presented);
            fault
        };
        if hello.encrypted {
            return Err(told(Fault::new(
                FlowReason::TlsEncryptedHello,
                "the client offers an encrypted hello (ECH), in which the true server name cannot \
                 be seen; switch ECH off in the client, or accept fronting for this host",
            )));
        }
        match (&hello.server_name, &self.name) {
            (ServerName::Name(presented), Some(name)) if presented == name => Ok(()),
            (ServerName::Missing, None) => Ok(()),
            (ServerName::Address(presented), None) if *presented == self.address.to_canonical() => {
                Ok(())
            }
            (ServerName::Missing, Some(name)) => Err(Fault::new(
                FlowReason::L7SniMissing,
                format!("TLS without a server name, where {name} was expected"),
            )),
            _ => Err(told(Fault::new(
                FlowReason::L7SniAllowlistMiss,
                format!(
                    "TLS for {}, where {} was expected",
                    presented.as_deref().unwrap_or("no name"),
                    self.destination()
                ),
            ))),
        }
    }

    /// Whether `authority` (of a `Host` header or a URI) names the destination.
    pub(super) fn check_authority(&self, authority: &[u8]) -> Result<(), Fault> {
        if authority.is_empty() {
            return Err(Fault::new(
                FlowReason::L7HttpHostMissing,
                format!("an empty host, where {} was expected", self.destination()),
            ));
        }
        let named = std::str::from_utf8(authority)
            .ok()
            .and_then(|authority| split(authority, self.port));
        let fits = match (named, &self.name) {
            (Some(host), Some(name)) => host.eq_ignore_ascii_case(name),
            (Some(host), None) => address(host) == Some(self.address.to_canonical()),
            (None, _) => false,
        };
        if fits {
            return Ok(());
        }
        Err(Fault::new(
            FlowReason::L7HttpHostAllowlistMiss,
            format!(
                "HTTP for {}, where {} on port {} was expected",
                harmless(authority),
                self.destination(),
                self.port
            ),
        )
        .presenting(authority))
    }
}

/// The host of `host` or `host:port`; nothing when the port is another one.
fn split(authority: &str, port: u16) -> Option<&str> {
    let end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at_checked(end)?;
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Some(host),
        Some(digits) if digits == port.to_string() => Some(host),
        _ => None,
    }
}

/// The address that a host of an authority is.
fn address(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    }
    .map(|address: IpAddr| address.to_canonical())
}

/// Text that does nothing to whoever prints it, and is not long.
pub(crate) fn harmless(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take(MAX_PRESENTED)
        .map(|byte| match byte {
            b' '..=b'~' => char::from(*byte),
            _ => '?',
        })
        .collect()
}
