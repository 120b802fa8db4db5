//! What every sink over HTTP is told.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use hyper::Uri;
use serde::Deserialize;

use crate::remote::{
    SinkOpenError, Surroundings,
    credential::{CredentialSource, OneLine},
};

/// How long one request may take, connecting included, when nobody says. Collectors answer within
/// a second.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for one request that can be asked for.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(300);

/// Who sends.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BasicConfig {
    /// The user's name, which is no secret.
    pub user: String,
    /// Where the password is.
    pub password: CredentialSource,
}

/// A receiver, taken from the fields of a sink.
#[derive(Debug, Clone, Copy)]
pub struct HttpConfig<'a> {
    /// Where requests go: `https://host[:port]/path`, or `http://` without credentials or to this
    /// host.
    pub url: &'a str,
    /// Certificates in PEM of authorities that are trusted besides those of the system.
    pub ca_file: Option<&'a PathBuf>,
    /// Where a bearer token is.
    pub token: Option<&'a CredentialSource>,
    /// A user's name and password.
    pub basic: Option<&'a BasicConfig>,
    /// How long one request may take, in milliseconds.
    pub timeout_ms: Option<u64>,
}

/// How a receiver is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Plain,
    Tls,
}

/// A receiver's address, checked.
#[derive(Debug, Clone)]
pub(super) struct Address {
    pub(super) scheme: Scheme,
    /// Name or address, without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    /// As it stands in the header `Host`.
    pub(super) authority: String,
    /// Path and query.
    pub(super) target: String,
}

/// The value of the header `Authorization`.
#[derive(Debug, Clone)]
pub(super) enum Authorization {
    Bearer(OneLine),
    Basic { user: String, password: OneLine },
}

impl<'a> HttpConfig<'a> {
    /// The files that a token or a password is in.
    pub(in crate::remote) fn private_files(&self) -> Vec<&'a Path> {
        let password = self.basic.map(|basic| &basic.password);
        let sources = [self.token, password].into_iter().flatten();
        sources.filter_map(CredentialSource::file).collect()
    }

    pub(super) fn address(&self) -> Result<Address, SinkOpenError> {
        let uri: Uri = self.url.parse().map_err(|error| value("url", error))?;
        let scheme = match uri.scheme_str() {
            Some("https") => Scheme::Tls,
            Some("http") => Scheme::Plain,
            _ => return Err(value("url", "begins with neither https:// nor http://")),
        };
        let authority = uri
            .authority()
            .ok_or_else(|| value("url", "names no host"))?
            .as_str();
        if authority.contains('@') {
            return Err(value(
                "url",
                "holds credentials: name them with `token` or `basic`",
            ));
        }
        let host = uri.host().unwrap_or_default();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        Ok(Address {
            scheme,
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(match scheme {
                Scheme::Plain => 80,
                Scheme::Tls => 443,
            }),
            authority: authority.to_owned(),
            target: uri
                .path_and_query()
                .map_or("/", |target| target.as_str())
                .to_owned(),
        })
    }

    pub(super) fn authorization(
        &self,
        address: &Address,
        surroundings: &Surroundings<'_>,
    ) -> Result<Option<Authorization>, SinkOpenError> {
        let authorization = match (self.token, self.basic) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                return Err(value("token", "there can be a token or `basic`, not both"));
            }
            (Some(token), None) => Authorization::Bearer(token.open(surroundings)?.one_line()?),
            (None, Some(basic)) if basic.user.contains(':') => {
                return Err(value("basic.user", "a user's name holds no colon"));
            }
            (None, Some(basic)) => Authorization::Basic {
                user: basic.user.clone(),
                password: basic.password.open(surroundings)?.one_line()?,
            },
        };
        match address.scheme {
            Scheme::Plain if !is_this_host(&address.host) => Err(value(
                "url",
                "credentials would go over the network in the clear: use https://",
            )),
            Scheme::Plain | Scheme::Tls => Ok(Some(authorization)),
        }
    }

    pub(super) fn timeout(&self) -> Result<Duration, SinkOpenError> {
        let timeout = self
            .timeout_ms
            .map_or(DEFAULT_TIMEOUT, Duration::from_millis);
        if timeout.is_zero() || timeout > MAX_TIMEOUT {
            let most = MAX_TIMEOUT.as_millis();
            return Err(value("timeoutMs", format_args!("is not 1 to {most}")));
        }
        Ok(timeout)
    }
}

fn is_this_host(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn value(field: &'static str, problem: impl ToString) -> SinkOpenError {
    SinkOpenError::Value {
        field,
        problem: problem.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> HttpConfig<'_> {
        HttpConfig {
            url,
            ca_file: None,
            token: None,
            basic: None,
            timeout_ms: None,
        }
    }

    #[test]
    fn addresses_are_taken_apart() {
        for (url, scheme, host, port, target) in [
            ("https://h.example", Scheme::Tls, "h.example", 443, "/"),
            ("http://h:81/a?b=c", Scheme::Plain, "h", 81, "/a?b=c"),
            ("https://[::1]:9/x", Scheme::Tls, "::1", 9, "/x"),
        ] {
            let address = config(url).address().unwrap();
            assert_eq!(address.scheme, scheme, "{url}");
            assert_eq!(
                (address.host.as_str(), address.port, address.target.as_str()),
                (host, port, target)
            );
        }
        for url in ["", "/x", "ftp://h/", "https://u:p@h/", "https://", "h:1"] {
            assert!(config(url).address().is_err(), "{url}");
        }
    }

    #[test]
    fn credentials_do_not_travel_in_the_clear() {
        let surroundings = Surroundings {
            folder: std::path::Path::new("/"),
            env: &|_| Some("secret".to_owned()),
        };
        let token = CredentialSource::Env("T".to_owned());
        for (url, allowed) in [
            ("http://h.example/", false),
            ("http://127.0.0.1:1/", true),
            ("http://[::1]/", true),
            ("https://h.example/", true),
        ] {
            let config = HttpConfig {
                token: Some(&token),
                ..config(url)
            };
            let address = config.address().unwrap();
            let authorization = config.authorization(&address, &surroundings);
            assert_eq!(authorization.is_ok(), allowed, "{url}");
            assert!(!format!("{authorization:?}").contains("secret"));
        }
    }
}
