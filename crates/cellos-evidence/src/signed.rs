//! Small signed documents beside a log: `{"<name>":{…},"sig":"…"}`, as a line is.
//!
//! The body is canonical JSON (RFC 8785); the signature (Ed25519) is over a domain and the bytes of
//! the body as they are stored.

use std::{fs::File, io, io::Read, path::Path};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cellos_core::{
    CellosError,
    signing::{Signer, TrustAnchorPublicKey},
};
use rustix::fs::{Mode, OFlags};
use serde::Serialize;

/// Largest such document in bytes. Ours have less than 1 KiB.
pub const MAX_SIGNED_BYTES: usize = 16 * 1024;

/// Why a document cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// It has no JSON form.
    #[error("cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The key could not be used.
    #[error("signing with key {kid} failed: {source}")]
    Signer {
        /// Id of the key.
        kid: String,
        /// What the signer said.
        source: CellosError,
    },
}

/// Makes a document, with its line feed.
pub(crate) fn write(
    name: &str,
    domain: &[u8],
    body: &impl Serialize,
    signer: Option<&dyn Signer>,
) -> Result<Vec<u8>, SignError> {
    let body = serde_json_canonicalizer::to_vec(body)?;
    let mut out = format!("{{\"{name}\":").into_bytes();
    out.extend_from_slice(&body);
    if let Some(signer) = signer {
        let signature =
            signer
                .sign(&[domain, &body].concat())
                .map_err(|source| SignError::Signer {
                    kid: signer.kid().to_owned(),
                    source,
                })?;
        out.extend_from_slice(b",\"sig\":\"");
        out.extend_from_slice(URL_SAFE_NO_PAD.encode(signature).as_bytes());
        out.push(b'"');
    }
    out.extend_from_slice(b"}\n");
    Ok(out)
}

/// A signature over stored bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    /// The body, as it is stored.
    pub(crate) body: Box<str>,
    /// The signature, where there is one.
    pub(crate) signature: Option<[u8; 64]>,
}

impl Signed {
    /// `None` where `sig` is no signature.
    pub(crate) fn new(body: &str, sig: Option<&str>) -> Option<Self> {
        let signature = match sig {
            None => None,
            Some(sig) => {
                let mut bytes = [0; 64];
                match URL_SAFE_NO_PAD.decode_slice(sig, &mut bytes) {
                    Ok(64) => Some(bytes),
                    _ => return None,
                }
            }
        };
        Some(Self {
            body: body.into(),
            signature,
        })
    }

    /// The whole document, without its line feed.
    pub(crate) fn text(&self, name: &str) -> String {
        let body = &self.body;
        match &self.signature {
            None => format!("{{\"{name}\":{body}}}"),
            Some(signature) => {
                let sig = URL_SAFE_NO_PAD.encode(signature);
                format!("{{\"{name}\":{body},\"sig\":\"{sig}\"}}")
            }
        }
    }

    pub(crate) fn verify(&self, domain: &[u8], key: &TrustAnchorPublicKey) -> bool {
        self.signature.is_some_and(|signature| {
            key.verifies(&[domain, self.body.as_bytes()].concat(), &signature)
        })
    }
}

/// Reads a small file without following links; `None` where there is none.
pub(crate) fn read_small(path: &Path, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file: File = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => file.into(),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() > limit {
        true => Err(io::Error::other(format!("it has more than {limit} bytes"))),
        false => Ok(Some(bytes)),
    }
}
