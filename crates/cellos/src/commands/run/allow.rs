//! `--allow HOST:PORT[/PROTOCOL]`, as a rule of the document.

use cellos_core::{
    admission::{EgressHost, EgressHostError, EgressProtocol},
    document::EgressRule,
};

/// Why a destination cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AllowError {
    #[error("expected HOST:PORT or HOST:PORT/PROTOCOL, such as api.example.com:443")]
    Form,
    #[error("a destination has no scheme: write HOST:PORT, such as api.example.com:443")]
    Scheme,
    #[error("an IPv6 address stands in brackets, as in [2001:db8::1]:443")]
    Brackets,
    #[error("only an IPv6 address stands in brackets")]
    NeedlessBrackets,
    #[error("the host {0}")]
    Host(EgressHostError),
    #[error("the port is a number from 1 to 65535; each needs an --allow of its own")]
    Port,
    #[error("the protocol is tcp, udp, tls, https, http or dns-acknowledged")]
    Protocol,
}

/// Reads one.
pub(super) fn parse(text: &str) -> Result<EgressRule, AllowError> {
    if text.contains("://") {
        return Err(AllowError::Scheme);
    }
    let (host, rest) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once("]:").ok_or(AllowError::Form)?;
            if !host.contains(':') {
                return Err(AllowError::NeedlessBrackets);
            }
            (host, rest)
        }
        None => {
            let (host, rest) = text.rsplit_once(':').ok_or(AllowError::Form)?;
            if host.contains(':') {
                return Err(AllowError::Brackets);
            }
            (host, rest)
        }
    };
    host.parse::<EgressHost>().map_err(AllowError::Host)?;
    let (port, protocol) = match rest.split_once('/') {
        Some((port, protocol)) => (port, Some(protocol.to_ascii_lowercase())),
        None => (rest, None),
    };
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(AllowError::Port);
    }
    let port = match port.parse() {
        Ok(0) | Err(_) => return Err(AllowError::Port),
        Ok(port) => port,
    };
    if EgressProtocol::of(protocol.as_deref()).is_none() {
        return Err(AllowError::Protocol);
    }
    Ok(EgressRule {
        host: host.to_owned(),
        port,
        protocol,
        dns_egress_justification: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_names_addresses_and_blocks_with_a_port() {
        for (text, host, port, protocol) in [
            ("api.example.com:443", "api.example.com", 443, None),
            ("*.example.com:443", "*.example.com", 443, None),
            ("10.0.0.0/8:5432/tcp", "10.0.0.0/8", 5432, Some("tcp")),
            ("192.0.2.7:53/UDP", "192.0.2.7", 53, Some("udp")),
            ("[2001:db8::1]:80/http", "2001:db8::1", 80, Some("http")),
            ("[fd00::/8]:1/tls", "fd00::/8", 1, Some("tls")),
        ] {
            let rule = parse(text).unwrap();
            assert_eq!(
                (&*rule.host, rule.port, rule.protocol.as_deref()),
                (host, port, protocol),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_none_is_refused_with_its_mend() {
        for (text, error) in [
            ("", AllowError::Form),
            ("https://a.example:443", AllowError::Scheme),
            ("api.example.com", AllowError::Form),
            ("[::1]", AllowError::Form),
            ("2001:db8::1:443", AllowError::Brackets),
            ("[a.example]:443", AllowError::NeedlessBrackets),
            ("a.example:0", AllowError::Port),
            ("a.example:", AllowError::Port),
            ("a.example:+1", AllowError::Port),
            ("a.example:65536", AllowError::Port),
            ("a.example:80-90", AllowError::Port),
            ("a.example:443/sctp", AllowError::Protocol),
            ("a.example:443/", AllowError::Protocol),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
        for text in [":443", "a_b..c:1", "10.0.0.0/33:1"] {
            assert!(matches!(parse(text), Err(AllowError::Host(_))), "{text}");
        }
    }
}
