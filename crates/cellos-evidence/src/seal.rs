//! The seal of a segment: which lines it holds, and the root of the Merkle tree over them.
//!
//! ```text
//! {"seal":{"before":"9f3c…","bytes":70000,"first":0,"format":"cellos.seal/1","kid":"k1","last":99,
//!  "lastHash":"77ab…","lines":100,"log":"01J…","root":"50fe…","time":"2026-01-02T03:04:05Z"},
//!  "sig":"…"}
//! ```

use std::{
    io,
    path::{Path, PathBuf},
};

use cellos_core::signing::{Signer, TrustAnchorPublicKey};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    line::{LineHash, NotAHash},
    merkle::TreeHash,
    signed::{self, MAX_SIGNED_BYTES, SignError, Signed},
};

/// Version of the format.
pub const SEAL_FORMAT: &str = "cellos.seal/1";
/// What the signed bytes of a seal begin with.
pub const SEAL_DOMAIN: &[u8] = b"cellos.log.seal.v1\n";

/// What a seal states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealBody {
    /// Id of the log.
    pub log_id: String,
    /// Number of the first line.
    pub first: u64,
    /// Number of the last line.
    pub last: u64,
    /// Hash that the first line refers to.
    pub before: LineHash,
    /// Hash of the last line.
    pub last_hash: LineHash,
    /// Size of the segment in bytes.
    pub bytes: u64,
    /// Root of the tree over the lines (RFC 9162), each without its line feed.
    pub root: TreeHash,
    /// When it was sealed.
    pub time: Timestamp,
}

/// A seal as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// What it states.
    pub body: SealBody,
    /// The key it is signed with.
    pub kid: Option<String>,
    signed: Signed,
}

/// Why bytes are no seal.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The file cannot be read.
    #[error("seal {path:?}: cannot be read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// They are no JSON of the expected form.
    #[error("not a seal of a segment: {0}")]
    Json(#[from] serde_json::Error),
    /// A hash is none.
    #[error("seal: {0}")]
    Hash(#[from] NotAHash),
    /// A field does not hold what it should.
    #[error("seal: `{field}` is not what it should be")]
    Field {
        /// The field.
        field: &'static str,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Body {
    before: String,
    bytes: u64,
    first: u64,
    format: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    last: u64,
    last_hash: String,
    lines: u64,
    log: String,
    root: String,
    time: Timestamp,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SealIn<'a> {
    #[serde(borrow)]
    seal: &'a RawValue,
    #[serde(default)]
    sig: Option<&'a str>,
}

impl SealBody {
    /// How many lines the segment has; at least 1.
    #[must_use]
    pub const fn lines(&self) -> u64 {
        self.last - self.first + 1
    }

    /// The bytes of the seal.
    pub(crate) fn write(&self, signer: Option<&dyn Signer>) -> Result<Vec<u8>, SignError> {
        let body = Body {
            before: self.before.to_hex(),
            bytes: self.bytes,
            first: self.first,
            format: SEAL_FORMAT.to_owned(),
            kid: signer.map(|signer| signer.kid().to_owned()),
            last: self.last,
            last_hash: self.last_hash.to_hex(),
            lines: self.lines(),
            log: self.log_id.clone(),
            root: self.root.to_hex(),
            time: self.time,
        };
        signed::write("seal", SEAL_DOMAIN, &body, signer)
    }
}

/// Reads the seal in the file at `path`; `None` where there is none.
///
/// # Errors
/// [`SealError`].
pub fn read(path: &Path) -> Result<Option<Seal>, SealError> {
    let bytes = signed::read_small(path, MAX_SIGNED_BYTES).map_err(|source| SealError::Io {
        path: path.to_owned(),
        source,
    })?;
    bytes.map(|bytes| Seal::parse(&bytes)).transpose()
}

impl Seal {
    /// Takes a seal apart.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, SealError> {
        let outer: SealIn<'_> = serde_json::from_slice(bytes)?;
        let body: Body = serde_json::from_str(outer.seal.get())?;
        let field = |field| SealError::Field { field };
        if body.format != SEAL_FORMAT {
            return Err(field("format"));
        }
        let lines = body.last.checked_sub(body.first);
        if lines.and_then(|lines| lines.checked_add(1)) != Some(body.lines) {
            return Err(field("lines"));
        }
        let signed = Signed::new(outer.seal.get(), outer.sig).ok_or_else(|| field("sig"))?;
        if signed.signature.is_some() != body.kid.is_some() {
            return Err(field("kid"));
        }
        Ok(Self {
            body: SealBody {
                log_id: body.log,
                first: body.first,
                last: body.last,
                before: body.before.parse()?,
                last_hash: body.last_hash.parse()?,
                bytes: body.bytes,
                root: body.root.parse()?,
                time: body.time,
            },
            kid: body.kid,
            signed,
        })
    }

    /// The text it was read from, without its line feed.
    #[must_use]
    pub fn text(&self) -> String {
        self.signed.text("seal")
    }

    /// Whether it is signed by this key.
    #[must_use]
    pub fn verify(&self, key: &TrustAnchorPublicKey) -> bool {
        self.signed.verify(SEAL_DOMAIN, key)
    }
}

#[cfg(test)]
mod tests {
    use cellos_core::signing::SoftwareSigner;

    use super::*;

    #[test]
    fn a_seal_is_read_as_it_was_written() {
        let body = SealBody {
            log_id: "01J".into(),
            first: 3,
            last: 9,
            before: LineHash([1; 32]),
            last_hash: LineHash([2; 32]),
            bytes: 700,
            root: TreeHash([3; 32]),
            time: "2026-01-02T03:04:05Z".parse().unwrap(),
        };
        let signer = SoftwareSigner::from_seed("k1", [7; 32]);
        let bytes = body.write(Some(&signer)).unwrap();
        let seal = Seal::parse(&bytes).unwrap();
        assert_eq!((&seal.body, seal.kid.as_deref()), (&body, Some("k1")));
        assert!(seal.verify(&signer.verifying_key()));
        let text = String::from_utf8(bytes).unwrap();
        let forged = text.replace("\"bytes\":700", "\"bytes\":701");
        assert!(
            !Seal::parse(forged.as_bytes())
                .unwrap()
                .verify(&signer.verifying_key())
        );
        for damaged in [
            text.replace("\"lines\":7", "\"lines\":8"),
            text.replace("\"last\":9", "\"last\":2"),
            text.replace("seal/1", "seal/2"),
            text.replace("\"kid\":\"k1\",", ""),
            text.replace("0303", "03"),
        ] {
            assert!(Seal::parse(damaged.as_bytes()).is_err(), "{damaged}");
        }
        let whole = body.write(None).unwrap();
        assert!(!Seal::parse(&whole).unwrap().verify(&signer.verifying_key()));
    }
}
