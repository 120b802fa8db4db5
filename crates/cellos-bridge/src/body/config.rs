//! The body of a configuration. Apart from [`Config`], so that a type which holds a key cannot be
//! written by mistake.

use std::{fmt, time::Duration};

use cellos_core::ExecutionCellDocument;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use super::{Bounded as _, json, write_json};
use crate::{
    BodyProblem, BridgeError, Config, Entropy, FrameKind, MAX_ENTROPY_BYTES, Nonce, SendError,
    SessionKey, secret::KEY_BYTES,
};

/// Writes a configuration after looking at its bounds.
pub(crate) fn write_config(config: &Config) -> Result<Zeroizing<Vec<u8>>, SendError> {
    let kind = FrameKind::Config;
    config
        .check()
        .map_err(|problem| SendError::Invalid { kind, problem })?;
    let body = Outgoing {
        run_id: &config.run_id,
        cell_id: &config.cell_id,
        document: &config.document,
        memory_limit_bytes: config.memory_limit_bytes,
        host_nonce: config.host_nonce,
        session_key: SecretHex(config.session_key.as_bytes()),
        entropy: SecretHex(config.entropy.as_bytes()),
        wall_clock_unix_ns: config.wall_clock_unix_ns,
        // Bounded to 60 s by the check above.
        heartbeat_interval_ms: u64::try_from(config.heartbeat_interval.as_millis())
            .unwrap_or(u64::MAX),
        stdout_credit_bytes: config.stdout_credit_bytes,
        stderr_credit_bytes: config.stderr_credit_bytes,
    };
    write_json(kind, &body, 0)
}

/// Reads a configuration. The host is trusted not to write one value in two forms, so the form is
/// not compared, which would cost the guest the code to write documents.
pub(crate) fn read_config(body: &[u8]) -> Result<Config, BridgeError> {
    let malformed = |problem| BridgeError::Malformed {
        kind: FrameKind::Config,
        problem,
    };
    let body: Incoming =
        serde_json::from_slice(body).map_err(|error| malformed(json::problem(&error)))?;
    let config = Config {
        run_id: body.run_id,
        cell_id: body.cell_id,
        document: body.document,
        memory_limit_bytes: body.memory_limit_bytes,
        host_nonce: body.host_nonce,
        session_key: SessionKey::new(*fixed(&body.session_key.0).map_err(malformed)?),
        entropy: Entropy::new(body.entropy.0).ok_or_else(|| {
            malformed(BodyProblem::Field {
                field: "entropy",
                rule: "must be 32 to 4096 bytes",
            })
        })?,
        wall_clock_unix_ns: body.wall_clock_unix_ns,
        heartbeat_interval: Duration::from_millis(body.heartbeat_interval_ms),
        stdout_credit_bytes: body.stdout_credit_bytes,
        stderr_credit_bytes: body.stderr_credit_bytes,
    };
    config.check().map_err(malformed)?;
    Ok(config)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outgoing<'a> {
    run_id: &'a str,
    cell_id: &'a str,
    document: &'a ExecutionCellDocument,
    memory_limit_bytes: u64,
    host_nonce: Nonce,
    session_key: SecretHex<'a>,
    entropy: SecretHex<'a>,
    wall_clock_unix_ns: u64,
    heartbeat_interval_ms: u64,
    stdout_credit_bytes: u32,
    stderr_credit_bytes: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Incoming {
    run_id: String,
    cell_id: String,
    document: ExecutionCellDocument,
    memory_limit_bytes: u64,
    host_nonce: Nonce,
    session_key: SecretBytes,
    entropy: SecretBytes,
    wall_clock_unix_ns: u64,
    heartbeat_interval_ms: u64,
    stdout_credit_bytes: u32,
    stderr_credit_bytes: u32,
}

/// Bytes that are written as hexadecimal digits and wiped on the way.
struct SecretHex<'a>(&'a [u8]);

impl Serialize for SecretHex<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut digits = Zeroizing::new(String::with_capacity(self.0.len() * 2));
        for byte in self.0 {
            digits.push(digit(byte >> 4));
            digits.push(digit(byte & 0xf));
        }
        serializer.serialize_str(&digits)
    }
}

/// Bytes read from hexadecimal digits, straight into memory that is wiped.
struct SecretBytes(Zeroizing<Vec<u8>>);

impl<'de> Deserialize<'de> for SecretBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(HexVisitor)
    }
}

impl Serialize for Nonce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        SecretHex(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let SecretBytes(bytes) = SecretBytes::deserialize(deserializer)?;
        fixed(&bytes)
            .map(|bytes| Self(*bytes))
            .map_err(de::Error::custom)
    }
}

struct HexVisitor;

impl de::Visitor<'_> for HexVisitor {
    type Value = SecretBytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an even number of lowercase hexadecimal digits")
    }

    fn visit_str<E: de::Error>(self, digits: &str) -> Result<SecretBytes, E> {
        // The digits themselves stay out of the message.
        let refused = || E::custom("not an even number of lowercase hexadecimal digits");
        if !digits.len().is_multiple_of(2) || digits.len() > MAX_ENTROPY_BYTES * 2 {
            return Err(refused());
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(digits.len() / 2));
        for pair in digits.as_bytes().chunks_exact(2) {
            let (high, low) = value(pair[0]).zip(value(pair[1])).ok_or_else(refused)?;
            bytes.push(high << 4 | low);
        }
        Ok(SecretBytes(bytes))
    }
}

fn fixed(bytes: &[u8]) -> Result<Zeroizing<[u8; KEY_BYTES]>, BodyProblem> {
    bytes
        .try_into()
        .map(Zeroizing::new)
        .map_err(|_| BodyProblem::Field {
            field: "key or nonce",
            rule: "must be 32 bytes",
        })
}

fn digit(nibble: u8) -> char {
    char::from(if nibble < 10 {
        b'0' + nibble
    } else {
        b'a' + nibble - 10
    })
}

fn value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}
