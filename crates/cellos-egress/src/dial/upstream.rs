//! The proxy that connections have to go through, as the operator writes it.

use std::{fmt, str::FromStr};

use zeroize::Zeroizing;

/// Most bytes of a user name or a password, RFC 1929.
const MAX_LOGIN: usize = 255;

/// The way out.
///
/// ```text
/// direct                            no proxy
/// http://[user:password@]host:port  CONNECT, RFC 9110; the proxy is given a judged address
/// socks5://[user:password@]host:port            RFC 1928 and 1929; likewise
/// http+names://… and socks5h://…    the proxy is given the name, and resolves it itself
/// ```
///
/// With the last two the gateway cannot judge the address behind a name. They are for sites where
/// nobody but the proxy can resolve names of the outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Upstream {
    /// No proxy.
    #[default]
    Direct,
    /// Every connection goes through this one.
    Proxy(Box<Proxy>),
}

/// A proxy. Its login is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    pub(super) speaks: Speaks,
    pub(super) names: Names,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) login: Option<Login>,
}

/// The protocol of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    Connect,
    Socks5,
}

/// Who turns names into addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    Judged,
    LeftToProxy,
}

/// What a proxy wants to know before it does anything.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: Zeroizing<String>,
    pub(super) password: Zeroizing<String>,
}

/// Why a text names no proxy. Says nothing of the text, which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamProblem {
    /// Not one of the known schemes.
    #[error(
        "the upstream proxy is written http://, http+names://, socks5:// or socks5h://, and then \
         [user:password@]host:port"
    )]
    Scheme,
    /// TLS to the proxy.
    #[error("TLS to the upstream proxy (https://) is not supported; use http:// or socks5://")]
    Tls,
    /// A path, a query or a fragment.
    #[error("the upstream proxy has something after its port; write host:port and nothing more")]
    Path,
    /// No host, or an impossible one.
    #[error("the upstream proxy's host is missing or is no host name or address")]
    Host,
    /// No port, or an impossible one.
    #[error("the upstream proxy needs a port from 1 to 65535, as in host:3128")]
    Port,
    /// An impossible login.
    #[error(
        "the upstream proxy's login has to be user:password, neither empty nor longer than 255 \
         bytes, with %40 for @, %3A for : and %25 for %"
    )]
    Login,
}

impl Upstream {
    /// Reads what the operator wrote.
    ///
    /// # Errors
    /// [`UpstreamProblem`] for everything that is not written as above.
    pub fn parse(text: &str) -> Result<Self, UpstreamProblem> {
        if text == "direct" {
            return Ok(Self::Direct);
        }
        let (scheme, rest) = text.split_once("://").ok_or(UpstreamProblem::Scheme)?;
        let (speaks, names) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (Speaks::Connect, Names::Judged),
            "http+names" => (Speaks::Connect, Names::LeftToProxy),
            "socks5" => (Speaks::Socks5, Names::Judged),
            "socks5h" => (Speaks::Socks5, Names::LeftToProxy),
            "https" => return Err(UpstreamProblem::Tls),
            _ => return Err(UpstreamProblem::Scheme),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, authority) = match rest.rsplit_once('@') {
            Some((login, authority)) => (Some(self::login(login)?), authority),
            None => (None, rest),
        };
        if authority.contains(['/', '?', '#']) {
            return Err(UpstreamProblem::Path);
        }
        let (host, port) = authority.rsplit_once(':').ok_or(UpstreamProblem::Port)?;
        let port = match u16::from_str(port) {
            Ok(port) if port != 0 && !authority.ends_with(&format!(":+{port}")) => port,
            _ => return Err(UpstreamProblem::Port),
        };
        Ok(Self::Proxy(Box::new(Proxy {
            speaks,
            names,
            host: self::host(host).ok_or(UpstreamProblem::Host)?,
            port,
            login,
        })))
    }

    /// Whether names are given to the proxy as they are, so that nobody judges what they resolve
    /// to. Events of such flows have no address.
    #[must_use]
    pub fn resolves_names(&self) -> bool {
        match self {
            Self::Direct => false,
            Self::Proxy(proxy) => proxy.names == Names::LeftToProxy,
        }
    }
}

impl FromStr for Upstream {
    type Err = UpstreamProblem;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// The host without the brackets of an IPv6 address.
fn host(host: &str) -> Option<String> {
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']')?;
        return inner
            .parse::<std::net::Ipv6Addr>()
            .ok()
            .map(|v6| v6.to_string());
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    (!host.is_empty() && host.len() <= 253 && host.bytes().all(fits))
        .then(|| host.to_ascii_lowercase())
}

fn login(text: &str) -> Result<Login, UpstreamProblem> {
    let (user, password) = text.split_once(':').ok_or(UpstreamProblem::Login)?;
    let user = decoded(user).ok_or(UpstreamProblem::Login)?;
    // Basic authentication ends the user name at the first colon, RFC 7617.
    if user.contains(':') {
        return Err(UpstreamProblem::Login);
    }
    Ok(Login {
        user,
        password: decoded(password).ok_or(UpstreamProblem::Login)?,
    })
}

/// Text with its `%XX` resolved; no control characters in it.
fn decoded(text: &str) -> Option<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let byte = match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                rest = tail;
                let digit = |digit: u8| char::from(digit).to_digit(16);
                u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?
            }
            (b'%', _) => return None,
            _ => *first,
        };
        if byte.is_ascii_control() {
            return None;
        }
        bytes.push(byte);
    }
    let text = std::str::from_utf8(&bytes).ok()?;
    (!text.is_empty() && text.len() <= MAX_LOGIN).then(|| Zeroizing::new(text.to_owned()))
}

/// As the operator wrote it, without the login.
impl fmt::Display for Proxy {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.speaks, self.names) {
            (Speaks::Connect, Names::Judged) => "http",
            (Speaks::Connect, Names::LeftToProxy) => "http+names",
            (Speaks::Socks5, Names::Judged) => "socks5",
            (Speaks::Socks5, Names::LeftToProxy) => "socks5h",
        };
        match self.host.contains(':') {
            true => write!(to, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(to, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "Proxy({self})")
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Login")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(text: &str) -> Proxy {
        match Upstream::parse(text) {
            Ok(Upstream::Proxy(proxy)) => *proxy,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn reads_what_operators_write_and_shows_no_login() {
        assert_eq!(Upstream::parse("direct"), Ok(Upstream::Direct));
        for (text, shown) in [
            ("http://proxy.corp:3128", "http://proxy.corp:3128"),
            ("HTTP://Proxy.corp:3128/", "http://proxy.corp:3128"),
            ("socks5://u:secret@10.0.0.1:1080", "socks5://10.0.0.1:1080"),
            ("socks5h://u:secret@[::1]:1080", "socks5h://[::1]:1080"),
            ("http+names://u:s%40cret@p:1", "http+names://p:1"),
        ] {
            let upstream = Upstream::parse(text).unwrap();
            assert_eq!(proxy(text).to_string(), shown);
            let debug = format!("{upstream:?}");
            assert!(!debug.contains("cret") && debug.contains(shown), "{debug}");
        }
    }

    #[test]
    fn logins_are_decoded() {
        let login = proxy("socks5://me%20too:p%3Aw%40d%25@h:1").login.unwrap();
        assert_eq!(login.user.as_str(), "me too");
        assert_eq!(login.password.as_str(), "p:w@d%");
    }

    #[test]
    fn refuses_the_rest_without_repeating_it() {
        use UpstreamProblem::{Host, Login, Path, Port, Scheme, Tls};
        for (text, problem) in [
            ("", Scheme),
            ("proxy:3128", Scheme),
            ("ftp://h:1", Scheme),
            ("https://u:secret@h:1", Tls),
            ("http://h:1/path", Path),
            ("http://h", Port),
            ("http://h:0", Port),
            ("http://h:+80", Port),
            ("http://h:65536", Port),
            ("http://:80", Host),
            ("http://a b:80", Host),
            ("http://[::g]:80", Host),
            ("http://::1:80", Host),
            ("http://secret@h:1", Login),
            ("http://:secret@h:1", Login),
            ("http://u:@h:1", Login),
            ("http://a%3ab:secret@h:1", Login),
            ("http://u:secret%@h:1", Login),
            ("http://u:secret%0d%0aX@h:1", Login),
        ] {
            let answer = Upstream::parse(text).unwrap_err();
            assert_eq!(answer, problem, "{text}");
            assert!(!answer.to_string().contains("secret"));
        }
        let long = format!("http://u:{}@h:1", "a".repeat(MAX_LOGIN + 1));
        assert_eq!(Upstream::parse(&long), Err(Login));
    }
}
