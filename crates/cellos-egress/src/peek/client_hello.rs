//! The message with which a TLS client begins, RFC 8446, 4.1.2 and RFC 5246, 7.4.1.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Largest hello. With post-quantum keys and a resumption ticket real ones have some 4 KiB.
pub(crate) const MAX_HELLO: usize = 64 << 10;
/// Most extensions of one hello. Real ones have some 20.
const MAX_EXTENSIONS: usize = 128;
/// Longest name, RFC 1035.
const MAX_NAME: usize = 253;
/// Longest label, RFC 1035.
const MAX_LABEL: usize = 63;

const SERVER_NAME: u16 = 0;
const EARLY_DATA: u16 = 42;
/// RFC 9849. What clients send to keep others from noticing who uses it looks the same.
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// The drafts before RFC 9849, of which servers are still about: `encrypted_server_name` and
/// earlier numbers of the encrypted hello.
const ENCRYPTED_DRAFTS: [u16; 6] = [0xffce, 0xfe08, 0xfe09, 0xfe0a, 0xfe0b, 0xfe0c];
/// What only an inner hello has.
const ECH_OUTER_EXTENSIONS: u16 = 0xfd00;

/// What a client says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientHello {
    /// Whom it wants to speak to.
    pub(crate) server_name: ServerName,
    /// Whether there is an encrypted hello within, or what looks like one (RFC 9849).
    pub(crate) encrypted: bool,
    /// Whether data follows before the server answered.
    pub(crate) early_data: bool,
}

/// The server name of a hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerName {
    /// There is none.
    Missing,
    /// A name, lower case.
    Name(String),
    /// An address, which RFC 6066 forbids and clients send.
    Address(IpAddr),
}

/// Reads the body of a whole message. What servers could read in two ways is refused.
pub(super) fn parse(body: &[u8]) -> Result<ClientHello, &'static str> {
    let mut rest = Reader(body);
    let broken = "a hello that is cut or has too much";
    match rest.take(2).ok_or(broken)? {
        [3, _] => {}
        _ => return Err("a hello of an unknown version"),
    }
    rest.take(32).ok_or(broken)?;
    if rest.short_list().ok_or(broken)?.len() > 32 {
        return Err("a session id that is too long");
    }
    let suites = rest.list().ok_or(broken)?;
    if suites.is_empty() || suites.len() % 2 != 0 {
        return Err("a list of cipher suites that is none");
    }
    if rest.short_list().ok_or(broken)?.is_empty() {
        return Err("a list of compression methods that is empty");
    }
    let mut hello = ClientHello {
        server_name: ServerName::Missing,
        encrypted: false,
        early_data: false,
    };
    if rest.0.is_empty() {
        return Ok(hello);
    }
    let mut extensions = Reader(rest.list().ok_or(broken)?);
    if !rest.0.is_empty() {
        return Err(broken);
    }
    let mut seen = Vec::new();
    while !extensions.0.is_empty() {
        let kind = extensions.number().ok_or(broken)?;
        let content = extensions.list().ok_or(broken)?;
        if seen.len() == MAX_EXTENSIONS {
            return Err("more than 128 extensions");
        }
        if seen.contains(&kind) {
            return Err("an extension that is there twice");
        }
        seen.push(kind);
        match kind {
            SERVER_NAME => hello.server_name = server_name(content)?,
            EARLY_DATA => hello.early_data = true,
            ENCRYPTED_CLIENT_HELLO | ECH_OUTER_EXTENSIONS => hello.encrypted = true,
            _ if ENCRYPTED_DRAFTS.contains(&kind) => hello.encrypted = true,
            _ => {}
        }
    }
    Ok(hello)
}

/// RFC 6066, 3: a list with exactly one name.
fn server_name(content: &[u8]) -> Result<ServerName, &'static str> {
    let broken = "a server name that is cut or has too much";
    let mut content = Reader(content);
    let mut list = Reader(content.list().ok_or(broken)?);
    if !content.0.is_empty() {
        return Err(broken);
    }
    match list.take(1).ok_or(broken)? {
        [0] => {}
        _ => return Err("a server name that is no host name"),
    }
    let name = list.list().ok_or(broken)?;
    if !list.0.is_empty() {
        return Err("more than one server name");
    }
    let name = std::str::from_utf8(name).map_err(|_| "a server name that is not ASCII")?;
    if let Some(address) = address(name) {
        return Ok(ServerName::Address(address.to_canonical()));
    }
    let label_fits = |label: &str| {
        !label.is_empty()
            && label.len() <= MAX_LABEL
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if name.len() > MAX_NAME || !name.split('.').all(label_fits) {
        return Err("a server name that is no host name");
    }
    Ok(ServerName::Name(name.to_ascii_lowercase()))
}

fn address(name: &str) -> Option<IpAddr> {
    let inner = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    inner
        .parse::<Ipv4Addr>()
        .map(IpAddr::V4)
        .or_else(|_| inner.parse::<Ipv6Addr>().map(IpAddr::V6))
        .ok()
}

/// Reads the vectors of TLS. Nothing is taken unless all of it is there.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*bytes))
    }

    fn short_list(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(*self.0.first()?);
        self.take(1)?;
        self.take(length)
    }

    fn list(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.number()?);
        self.take(length)
    }
}
