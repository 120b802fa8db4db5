//! PKCS#11 URIs (RFC 7512), as far as they name one key.

use std::path::PathBuf;

/// Longest URI, in bytes.
pub const MAX_URI_BYTES: usize = 4096;

/// One key of one token, and the way to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenUri {
    /// The driver: `module-path`.
    pub module: Option<PathBuf>,
    /// Label of the token: `token`.
    pub token: Option<String>,
    /// Serial number of the token: `serial`.
    pub serial: Option<String>,
    /// Label of the key: `object`.
    pub object: Option<String>,
    /// Id of the key: `id`.
    pub id: Option<Vec<u8>>,
    /// Where its PIN stands: `pin-source`.
    pub pin: Option<PinSource>,
}

/// Where a PIN stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinSource {
    /// In a file: `file:/path` or `/path`.
    File(PathBuf),
    /// In a variable of the environment: `env:NAME`.
    Variable(String),
}

/// Why a text names no key. A PIN in it never appears in the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// It does not begin so.
    #[error("a PKCS#11 URI begins with pkcs11:")]
    Scheme,
    /// It is too long.
    #[error("a PKCS#11 URI has at most {MAX_URI_BYTES} bytes")]
    TooLong,
    /// An attribute has no value.
    #[error("PKCS#11 URI: {name} has no value")]
    NoValue {
        /// The attribute.
        name: String,
    },
    /// A value is not well encoded.
    #[error(
        "PKCS#11 URI: the value of {name} is not percent-encoded UTF-8 without control characters"
    )]
    Encoding {
        /// The attribute.
        name: String,
    },
    /// An attribute stands there twice.
    #[error("PKCS#11 URI: {name} stands there twice")]
    Repeated {
        /// The attribute.
        name: String,
    },
    /// An attribute that would not be obeyed.
    #[error(
        "PKCS#11 URI: {name} is unknown; there are token, serial, object, id, type=private, \
         module-path and pin-source"
    )]
    Unknown {
        /// The attribute.
        name: String,
    },
    /// A PIN in the open.
    #[error(
        "PKCS#11 URI: pin-value is refused, because everybody on this host can read the arguments \
         of a process: write pin-source=file:/path or pin-source=env:NAME"
    )]
    PinValue,
    /// Neither a file nor a variable.
    #[error("PKCS#11 URI: pin-source is file:/path or env:NAME")]
    PinSource,
    /// Nothing says which key.
    #[error("PKCS#11 URI: object or id has to say which key")]
    NoKey,
}

impl TokenUri {
    /// Reads a URI.
    ///
    /// # Errors
    /// [`UriError`].
    pub fn parse(text: &str) -> Result<Self, UriError> {
        if text.len() > MAX_URI_BYTES {
            return Err(UriError::TooLong);
        }
        let rest = text.strip_prefix("pkcs11:").ok_or(UriError::Scheme)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut uri = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        let attributes = path.split(';').chain(query.split('&'));
        for attribute in attributes.filter(|it| !it.is_empty()) {
            let (name, value) = attribute.split_once('=').unwrap_or((attribute, ""));
            if name == "pin-value" {
                return Err(UriError::PinValue);
            }
            let shown = || name.chars().take(32).collect::<String>();
            if value.is_empty() {
                return Err(UriError::NoValue { name: shown() });
            }
            if seen.contains(&name) {
                return Err(UriError::Repeated { name: shown() });
            }
            seen.push(name);
            let bytes = decode(value).ok_or_else(|| UriError::Encoding { name: shown() })?;
            let text = || {
                String::from_utf8(bytes.clone())
                    .ok()
                    .filter(|text| !text.chars().any(char::is_control))
                    .ok_or_else(|| UriError::Encoding { name: shown() })
            };
            match name {
                "token" => uri.token = Some(text()?),
                "serial" => uri.serial = Some(text()?),
                "object" => uri.object = Some(text()?),
                "id" => uri.id = Some(bytes),
                "module-path" => uri.module = Some(text()?.into()),
                "pin-source" => uri.pin = Some(pin_source(&text()?)?),
                "type" if bytes == b"private" => {}
                _ => return Err(UriError::Unknown { name: shown() }),
            }
        }
        if uri.object.is_none() && uri.id.is_none() {
            return Err(UriError::NoKey);
        }
        Ok(uri)
    }
}

fn pin_source(text: &str) -> Result<PinSource, UriError> {
    let path = text.strip_prefix("file://").or(text.strip_prefix("file:"));
    match (path, text.strip_prefix("env:")) {
        (Some(path), _) if path.starts_with('/') => Ok(PinSource::File(path.into())),
        (None, Some(name)) if !name.is_empty() => Ok(PinSource::Variable(name.to_owned())),
        (None, None) if text.starts_with('/') => Ok(PinSource::File(text.into())),
        _ => Err(UriError::PinSource),
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    while let Some(byte) = bytes.next() {
        let value = match byte {
            b'%' => u8::try_from(digit(bytes.next())? * 16 + digit(bytes.next())?).ok()?,
            other => other,
        };
        decoded.push(value);
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_driver_token_key_and_pin() {
        let text = "pkcs11:token=The%20token;serial=01;object=k;id=%01%ff;type=private\
                    ?module-path=/usr/lib/x.so&pin-source=file:/etc/pin";
        assert_eq!(
            TokenUri::parse(text).unwrap(),
            TokenUri {
                module: Some("/usr/lib/x.so".into()),
                token: Some("The token".into()),
                serial: Some("01".into()),
                object: Some("k".into()),
                id: Some(vec![1, 255]),
                pin: Some(PinSource::File("/etc/pin".into())),
            }
        );
        for (source, expected) in [
            ("env:PIN", PinSource::Variable("PIN".into())),
            ("/etc/pin", PinSource::File("/etc/pin".into())),
            ("file:///etc/pin", PinSource::File("/etc/pin".into())),
        ] {
            let uri = TokenUri::parse(&format!("pkcs11:object=k?pin-source={source}")).unwrap();
            assert_eq!(uri.pin, Some(expected));
        }
    }

    #[test]
    fn what_would_not_be_obeyed_is_refused_and_no_pin_is_repeated() {
        for text in [
            "",
            "pkcs11:",
            "pkcs11:token=t",
            "PKCS11:object=k",
            "pkcs11:object=",
            "pkcs11:object=%f",
            "pkcs11:object=%+1",
            "pkcs11:object=%ff",
            "pkcs11:object=a%0ab",
            "pkcs11:object=a;object=b",
            "pkcs11:object=a;type=public",
            "pkcs11:object=a;model=m",
            "pkcs11:object=a?module-name=m",
            "pkcs11:object=a?pin-value=123456",
            "pkcs11:object=a?pin-source=|ask",
            "pkcs11:object=a?pin-source=file:relative",
            "pkcs11:object=a?pin-source=env:",
            &format!("pkcs11:object={}", "a".repeat(MAX_URI_BYTES)),
        ] {
            let error = TokenUri::parse(text).unwrap_err();
            assert!(!error.to_string().contains("123456"), "{error}");
        }
    }
}
