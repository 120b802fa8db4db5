//! The head of a log: how far it went when it was flushed last. A log that ends before its head has
//! been cut off. It has [`HEAD_BYTES`] bytes, spaces before its line feed filling it up, so that it can be
//! written over in place.
//!
//! ```text
//! {"head":{"format":"cellos.head/1","kid":"k1","lastHash":"9f3c…","log":"01J…","nextSeq":12,
//!  "time":"2026-01-02T03:04:05Z"},"sig":"…"}
//! ```

use std::{
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use cellos_core::signing::{Signer, TrustAnchorPublicKey};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    line::{LineHash, Tail},
    signed::{self, MAX_SIGNED_BYTES, SignError, Signed},
};

/// Version of the format.
pub const HEAD_FORMAT: &str = "cellos.head/1";
/// What the signed bytes of a head begin with.
pub const HEAD_DOMAIN: &[u8] = b"cellos.log.head.v1\n";

/// Size of a head, in bytes: a sector, which a disk writes whole or not at all. With a longer name
/// of a key it has more, and then another file takes its place.
pub const HEAD_BYTES: usize = 512;
/// How often a head is read that is being written meanwhile, and how long after another.
const READS: (u32, Duration) = (5, Duration::from_millis(1));

/// How far a log went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Id of the log.
    pub log_id: String,
    /// Number of the line that comes next.
    pub next_seq: u64,
    /// Hash of the last line.
    pub last_hash: LineHash,
    /// When it was written.
    pub time: Timestamp,
    /// The key it is signed with.
    pub kid: Option<String>,
    signed: Signed,
}

/// Why there is no head in a file.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// The file cannot be read.
    #[error("head {path:?}: cannot be read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no JSON of the expected form.
    #[error("head {path:?}: not a head of a log: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A field does not hold what it should.
    #[error("head {path:?}: `{field}` is not what it should be")]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Body {
    format: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    last_hash: String,
    log: String,
    next_seq: u64,
    time: Timestamp,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadIn<'a> {
    #[serde(borrow)]
    head: &'a RawValue,
    #[serde(default)]
    sig: Option<&'a str>,
}

/// Where the head of a log is.
#[must_use]
pub fn path_of(log: &Path) -> PathBuf {
    crate::log::beside(log, "head")
}

/// Reads the head in the file at `path`; `None` where there is none. It may be written over
/// meanwhile, so what counts is what two reads in a row agree on.
///
/// # Errors
/// [`HeadError`].
pub fn read(path: &Path) -> Result<Option<Head>, HeadError> {
    let bytes = || {
        signed::read_small(path, MAX_SIGNED_BYTES).map_err(|source| HeadError::Io {
            path: path.to_owned(),
            source,
        })
    };
    let mut before = bytes()?;
    let mut reads = 1;
    loop {
        let now = bytes()?;
        reads += 1;
        let read = now.as_deref().map(|bytes| parse(path, bytes)).transpose();
        if reads >= READS.0 || (read.is_ok() && now == before) {
            return read;
        }
        before = now;
        thread::sleep(READS.1);
    }
}

/// Takes a head apart; `path` is for messages.
///
/// # Errors
/// [`HeadError`].
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Head, HeadError> {
    let json = |source| HeadError::Json {
        path: path.to_owned(),
        source,
    };
    let field = |field| HeadError::Field {
        path: path.to_owned(),
        field,
    };
    let outer: HeadIn<'_> = serde_json::from_slice(bytes).map_err(json)?;
    let body: Body = serde_json::from_str(outer.head.get()).map_err(json)?;
    if body.format != HEAD_FORMAT {
        return Err(field("format"));
    }
    let signed = Signed::new(outer.head.get(), outer.sig).ok_or_else(|| field("sig"))?;
    if signed.signature.is_some() != body.kid.is_some() {
        return Err(field("kid"));
    }
    Ok(Head {
        last_hash: body.last_hash.parse().map_err(|_| field("lastHash"))?,
        log_id: body.log,
        next_seq: body.next_seq,
        time: body.time,
        kid: body.kid,
        signed,
    })
}

/// The bytes of a head of a log that goes on at `tail`.
pub(crate) fn write(
    tail: &Tail,
    time: Timestamp,
    signer: Option<&dyn Signer>,
) -> Result<Vec<u8>, SignError> {
    let body = Body {
        format: HEAD_FORMAT.to_owned(),
        kid: signer.map(|signer| signer.kid().to_owned()),
        last_hash: tail.prev.to_hex(),
        log: tail.log_id.clone(),
        next_seq: tail.next_seq,
        time,
    };
    let mut bytes = signed::write("head", HEAD_DOMAIN, &body, signer)?;
    if bytes.len() < HEAD_BYTES {
        bytes.pop();
        bytes.resize(HEAD_BYTES - 1, b' ');
        bytes.push(b'\n');
    }
    Ok(bytes)
}

impl Head {
    /// Whether it is signed by this key.
    #[must_use]
    pub fn verify(&self, key: &TrustAnchorPublicKey) -> bool {
        self.signed.verify(HEAD_DOMAIN, key)
    }
}

#[cfg(test)]
mod tests {
    use cellos_core::signing::SoftwareSigner;

    use super::*;

    #[test]
    fn a_head_says_how_far_a_log_went_and_who_says_so() {
        let signer = SoftwareSigner::from_seed("k1", [7; 32]);
        let mut tail = Tail::of_new_log("01J");
        tail.next_seq = 12;
        let time: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let bytes = write(&tail, time, Some(&signer)).unwrap();
        let path = Path::new("events.jsonl.head");
        let head = parse(path, &bytes).unwrap();
        assert_eq!((head.next_seq, head.last_hash), (12, tail.prev));
        assert_eq!((head.log_id.as_str(), head.time), ("01J", time));
        assert!(head.verify(&signer.verifying_key()));
        assert!(!head.verify(&SoftwareSigner::from_seed("k1", [8; 32]).verifying_key()));

        let text = String::from_utf8(bytes).unwrap();
        let forged = text.replace("\"nextSeq\":12", "\"nextSeq\":11");
        let forged = parse(path, forged.as_bytes()).unwrap();
        assert!(!forged.verify(&signer.verifying_key()));
        for damaged in [
            text.replace("head/1", "head/2"),
            text.replace("\"kid\":\"k1\",", ""),
            text.replace("\"nextSeq\":12", "\"nextSeq\":12,\"nextSeq\":13"),
            text.replace("\"sig\":\"", "\"sig\":\"AA"),
            text[..40].to_owned(),
        ] {
            assert!(parse(path, damaged.as_bytes()).is_err(), "{damaged}");
        }
        let unsigned = write(&tail, time, None).unwrap();
        assert_eq!((text.len(), unsigned.len()), (HEAD_BYTES, HEAD_BYTES));
        assert!(text.ends_with(" \n"), "{text}");
        let long = "k".repeat(crate::line::MAX_KID_BYTES);
        let long = write(&tail, time, Some(&SoftwareSigner::from_seed(long, [7; 32])));
        assert!(long.unwrap().ends_with(b"\"}\n"));
        let unsigned = parse(path, &unsigned).unwrap();
        assert!(!unsigned.verify(&signer.verifying_key()));
    }
}
