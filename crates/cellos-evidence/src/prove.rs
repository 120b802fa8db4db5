//! Proving one line of a sealed segment without the others.
//!
//! A proof is a file that stands alone: the line, its place in the Merkle tree of its segment, and
//! the signed seal with the root. Line and seal are texts in it, so that their bytes stay what
//! they are whatever a tool does with the file.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::{
    facts::Facts,
    keyset::{KeyFault, Keyset, KeysetKey},
    line::{self, LineError, MAX_LINE_BYTES, NotAHash},
    log::{AtEnd, LineEnd, LineReader, LogReader, ReadError, Segments, SegmentsError},
    merkle::{self, MAX_PATH, PathBuilder, TreeHash},
    seal::{self, Seal, SealError},
    signed::MAX_SIGNED_BYTES,
    verify::canonical::{self, NotCanonical},
};

/// Version of the format.
pub const PROOF_FORMAT: &str = "cellos.proof/1";
/// Largest proof in bytes: a line and a seal with every byte escaped, and a path.
pub const MAX_PROOF_BYTES: usize = 6 * (MAX_LINE_BYTES + MAX_SIGNED_BYTES) + 128 * MAX_PATH;

/// Which event is to be proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The line with this number.
    Seq(u64),
    /// The event with this id.
    Id(String),
}

impl Wanted {
    /// Digits are the number of a line; anything else is the id of an event.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.parse() {
            Ok(seq) if text.bytes().all(|byte| byte.is_ascii_digit()) => Self::Seq(seq),
            _ => Self::Id(text.to_owned()),
        }
    }
}

/// A proof as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Proof {
    /// [`PROOF_FORMAT`].
    pub format: String,
    /// The line, without its line feed.
    pub line: String,
    /// Its place in the segment, from 0.
    pub index: u64,
    /// How many lines the segment has.
    pub tree_size: u64,
    /// Hashes beside the way from the line to the root, from the line upwards.
    pub path: Vec<String>,
    /// The seal of the segment.
    pub seal: String,
}

/// Why an event cannot be proved.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The files of the log cannot be found.
    #[error(transparent)]
    Segments(#[from] SegmentsError),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A seal cannot be read.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// There is no such event.
    #[error("event log {log:?}: has no event {wanted}")]
    NotThere {
        /// The log.
        log: PathBuf,
        /// What was asked for.
        wanted: String,
    },
    /// The event stands in a file that is not sealed yet.
    #[error("event log {log:?}: the event is line number {seq}, which is not sealed yet")]
    NotSealed {
        /// The log.
        log: PathBuf,
        /// Number of its line.
        seq: u64,
    },
    /// Several events have the id.
    #[error("event log {log:?}: lines number {first} and {second} have this id: name a number")]
    Ambiguous {
        /// The log.
        log: PathBuf,
        /// Number of the first.
        first: u64,
        /// Number of another one.
        second: u64,
    },
    /// The segment is not what its seal says.
    #[error("segment {segment:?}: is not what its seal says: `cellos verify` shows what is wrong")]
    Damaged {
        /// The segment.
        segment: PathBuf,
    },
}

/// Makes the proof of an event of the log at `path`.
///
/// # Errors
/// [`ProveError`].
pub fn prove(path: &Path, wanted: &Wanted) -> Result<Proof, ProveError> {
    let seq = match wanted {
        Wanted::Seq(seq) => *seq,
        Wanted::Id(id) => find(path, id)?,
    };
    let segments = Segments::of(path)?;
    let holds = |segment: &&crate::log::Segment| (segment.first..=segment.last).contains(&seq);
    let Some(segment) = segments.sealed.iter().find(holds) else {
        return Err(absent(path, seq, wanted)?);
    };
    let seal_file = segment.seal.as_deref().ok_or(ProveError::NotSealed {
        log: path.into(),
        seq,
    })?;
    let damaged = || ProveError::Damaged {
        segment: segment.path.clone(),
    };
    let io = |operation| {
        move |source| ReadError::Io {
            path: segment.path.clone(),
            operation,
            source,
        }
    };
    let seal = seal::read(seal_file)?.ok_or_else(damaged)?;
    if (seal.body.first, seal.body.last) != (segment.first, segment.last) {
        return Err(damaged());
    }
    let (index, size) = (seq - segment.first, seal.body.lines());
    let mut builder = PathBuilder::new(index, size).ok_or_else(damaged)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file: File = rustix::fs::open(&segment.path, flags, Mode::empty())
        .map_err(|errno| io("open it")(errno.into()))?
        .into();
    let mut lines = LineReader::new(file);
    let (mut at, mut found) = (0, None);
    while let Some(line) = lines.next_line().map_err(io("read it"))? {
        if line.end != LineEnd::Ended {
            return Err(damaged());
        }
        if at == index {
            found = Some(String::from_utf8(line.bytes.to_vec()).map_err(|_| damaged())?);
        }
        builder.push(TreeHash::leaf(line.bytes));
        at += 1;
    }
    let line = found.filter(|_| at == size).ok_or_else(damaged)?;
    let path = builder.path();
    let root = merkle::root_of_path(TreeHash::leaf(line.as_bytes()), index, size, &path);
    if root != Some(seal.body.root) {
        return Err(damaged());
    }
    Ok(Proof {
        format: PROOF_FORMAT.to_owned(),
        line,
        index,
        tree_size: size,
        path: path.into_iter().map(TreeHash::to_hex).collect(),
        seal: seal.text(),
    })
}

/// The number of the line that holds the event with an id.
fn find(path: &Path, id: &str) -> Result<u64, ProveError> {
    let mut reader = LogReader::open(path, AtEnd::Stop)?;
    let mut first = None;
    while let Some(line) = reader.next_line()? {
        let Ok(parsed) = line::parse(line.raw.bytes) else {
            continue;
        };
        let facts = serde_json::from_str::<Facts<'_>>(parsed.event.get());
        if !facts.is_ok_and(|facts| facts.id == id) {
            continue;
        }
        if let Some(first) = first {
            return Err(ProveError::Ambiguous {
                log: path.into(),
                first,
                second: parsed.seq,
            });
        }
        first = Some(parsed.seq);
    }
    first.ok_or_else(|| ProveError::NotThere {
        log: path.into(),
        wanted: format!("with the id {id:?}"),
    })
}

/// Whether a line that stands in no segment is in the live file.
fn absent(path: &Path, seq: u64, wanted: &Wanted) -> Result<ProveError, ProveError> {
    let mut reader = LogReader::from_seq(path, seq, AtEnd::Stop)?;
    while let Some(line) = reader.next_line()? {
        if line::parse(line.raw.bytes).is_ok_and(|line| line.seq == seq) {
            return Ok(ProveError::NotSealed {
                log: path.into(),
                seq,
            });
        }
    }
    Ok(ProveError::NotThere {
        log: path.into(),
        wanted: match wanted {
            Wanted::Seq(seq) => format!("with the number {seq}"),
            Wanted::Id(id) => format!("with the id {id:?}"),
        },
    })
}

/// What a proof proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The event, as it is stored.
    pub event: String,
    /// Number of its line.
    pub seq: u64,
    /// The seal, which is signed by [`Proven::kid`].
    pub seal: Seal,
    /// The key.
    pub kid: String,
}

/// Why a proof proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// It is larger than proofs are.
    #[error("the proof has more than {MAX_PROOF_BYTES} bytes")]
    TooLarge,
    /// It is no JSON of the expected form.
    #[error("not a proof: {0}")]
    Json(#[from] serde_json::Error),
    /// A field does not hold what it should.
    #[error("the proof's `{field}` is not what it should be")]
    Field {
        /// The field.
        field: &'static str,
    },
    /// A hash is none.
    #[error("the proof's path: {0}")]
    Hash(#[from] NotAHash),
    /// The line is none.
    #[error("the proof's line: {0}")]
    Line(#[from] LineError),
    /// The line does not say the same to every reader.
    #[error("the proof's line: {0}")]
    Canonical(#[from] NotCanonical),
    /// The event in the line is none, or its time is no time.
    #[error("the proof's line holds no event with a time that can be read")]
    Event,
    /// The seal is none.
    #[error("the proof's seal: {0}")]
    Seal(#[from] SealError),
    /// Line and path do not lead to the root.
    #[error(
        "the line does not stand where the proof says: its path does not lead to the seal's root"
    )]
    Root,
    /// The line belongs to another place or log than the seal.
    #[error("the line is not one of the sealed lines")]
    OtherLine,
    /// Nobody signed the seal.
    #[error("the seal is not signed")]
    Unsigned,
    /// The key is not in the keyset.
    #[error("the seal is signed by key {kid}, which is not among the given keys")]
    UnknownKey {
        /// The key.
        kid: String,
    },
    /// The key does not count.
    #[error("the seal is signed by key {kid}: {fault}")]
    KeyFault {
        /// The key.
        kid: String,
        /// Why.
        fault: KeyFault,
    },
    /// The signature is not by the key.
    #[error("the seal's signature is not by key {kid}")]
    Signature {
        /// The key.
        kid: String,
    },
}

/// Checks a proof with nothing but keys.
///
/// # Errors
/// [`ProofError`].
pub fn check(bytes: &[u8], keys: &Keyset) -> Result<Proven, ProofError> {
    if bytes.len() > MAX_PROOF_BYTES {
        return Err(ProofError::TooLarge);
    }
    let proof: Proof = serde_json::from_slice(bytes)?;
    let field = |field| ProofError::Field { field };
    if proof.format != PROOF_FORMAT {
        return Err(field("format"));
    }
    if proof.path.len() > MAX_PATH {
        return Err(field("path"));
    }
    let seal = Seal::parse(proof.seal.as_bytes())?;
    let kid = seal.kid.clone().ok_or(ProofError::Unsigned)?;
    let Some(key) = keys.get(&kid) else {
        return Err(ProofError::UnknownKey { kid });
    };
    if !seal.verify(&key.public) {
        return Err(ProofError::Signature { kid });
    }
    if let Err(fault) = key.judge(seal.body.time) {
        return Err(ProofError::KeyFault { kid, fault });
    }
    if proof.tree_size != seal.body.lines() {
        return Err(field("treeSize"));
    }
    let path: Result<Vec<TreeHash>, _> = proof.path.iter().map(|hash| hash.parse()).collect();
    let leaf = TreeHash::leaf(proof.line.as_bytes());
    let root = merkle::root_of_path(leaf, proof.index, proof.tree_size, &path?);
    if root != Some(seal.body.root) {
        return Err(ProofError::Root);
    }
    canonical::check(proof.line.as_bytes())?;
    let line = line::parse(proof.line.as_bytes())?;
    let place = seal.body.first.checked_add(proof.index);
    if place != Some(line.seq) || line.log_id != seal.body.log_id {
        return Err(ProofError::OtherLine);
    }
    check_time(line.event.get(), &kid, key)?;
    Ok(Proven {
        event: line.event.get().to_owned(),
        seq: line.seq,
        seal,
        kid,
    })
}

/// A seal is over lines that were there before. Whoever holds a key that has expired can date a seal
/// back, and then not over an event of today.
fn check_time(event: &str, kid: &str, key: &KeysetKey) -> Result<(), ProofError> {
    let facts = Facts::of(event.as_bytes()).map_err(|_| ProofError::Event)?;
    let (Some(time), Some(not_after)) = (facts.time.as_deref(), key.not_after) else {
        return Ok(());
    };
    let time: Timestamp = time.parse().map_err(|_| ProofError::Event)?;
    match time > not_after {
        true => Err(ProofError::KeyFault {
            kid: kid.to_owned(),
            fault: KeyFault::Expired { not_after },
        }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cellos_core::signing::{Signer, SoftwareSigner};

    use super::*;
    use crate::{
        keyset::KeysetKey,
        log::{Clock, EventLog, LogConfig},
    };

    fn keys(seed: u8) -> Keyset {
        let public = SoftwareSigner::from_seed("k1", [seed; 32]).verifying_key();
        [("k1".to_owned(), KeysetKey::new(public))]
            .into_iter()
            .collect()
    }

    #[test]
    fn every_event_of_a_segment_is_proved_and_no_changed_proof_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let signer = SoftwareSigner::from_seed("k1", [7; 32]);
        let log = EventLog::open(LogConfig {
            signer: Some(Arc::new(signer)),
            ..LogConfig::new(&path)
        })
        .unwrap();
        let event = |id: &str| {
            serde_json::from_value(serde_json::json!({
                "specversion": "1.0", "id": id, "source": "s", "type": "t",
            }))
            .unwrap()
        };
        for _ in 0..2 {
            for number in 0..7 {
                log.append(&[event(&format!("id-{number}"))]).unwrap();
            }
        }
        let unsealed = prove(&path, &Wanted::Seq(3)).unwrap_err();
        assert!(matches!(unsealed, ProveError::NotSealed { seq: 3, .. }));
        log.append(&[event("once")]).unwrap();
        log.rotate().unwrap();
        for seq in 0..15 {
            let proof = prove(&path, &Wanted::Seq(seq)).unwrap();
            let bytes = serde_json::to_vec_pretty(&proof).unwrap();
            let proven = check(&bytes, &keys(7)).unwrap();
            assert_eq!((proven.seq, proven.kid.as_str()), (seq, "k1"));
            assert!(matches!(
                check(&bytes, &keys(8)),
                Err(ProofError::Signature { .. })
            ));
        }
        let wanted = Wanted::parse("once");
        assert_eq!(
            prove(&path, &wanted).unwrap(),
            prove(&path, &Wanted::parse("14")).unwrap()
        );
        for (wanted, error) in [
            (Wanted::parse("id-3"), "lines number 3 and 10 have this id"),
            (
                Wanted::parse("nothing"),
                "has no event with the id \"nothing\"",
            ),
            (Wanted::parse("99"), "has no event with the number 99"),
            (
                Wanted::parse("15"),
                "line number 15, which is not sealed yet",
            ),
        ] {
            let text = prove(&path, &wanted).unwrap_err().to_string();
            assert!(text.contains(error), "{text}");
        }

        // No byte of a proof can be changed but where JSON itself does not care.
        let proof = prove(&path, &wanted).unwrap();
        let bytes = serde_json::to_vec(&proof).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            if serde_json::from_slice::<Proof>(&changed).is_ok_and(|changed| changed == proof) {
                continue;
            }
            assert!(check(&changed, &keys(7)).is_err(), "byte {at}");
        }
        let other = Proof {
            line: prove(&path, &Wanted::Seq(2)).unwrap().line,
            ..proof
        };
        let other = serde_json::to_vec(&other).unwrap();
        assert!(matches!(check(&other, &keys(7)), Err(ProofError::Root)));
    }

    #[test]
    fn an_expired_key_proves_no_later_event() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let back = "2026-01-01T00:00:00Z";
        let log = EventLog::open(LogConfig {
            signer: Some(Arc::new(SoftwareSigner::from_seed("k1", [7; 32]))),
            // Its holder says that it is still valid.
            clock: Clock::new(move || back.parse().unwrap()),
            ..LogConfig::new(&path)
        })
        .unwrap();
        let event = |time: &str| {
            serde_json::from_value(serde_json::json!({
                "specversion": "1.0", "id": time, "source": "s", "type": "t", "time": time,
            }))
            .unwrap()
        };
        let today = "2026-03-01T00:00:00Z";
        log.append(&[event(back), event(today)]).unwrap();
        log.rotate().unwrap();
        let mut key = keys(7).get("k1").unwrap().clone();
        key.not_after = Some("2026-02-01T00:00:00Z".parse().unwrap());
        let keys: Keyset = [("k1".to_owned(), key)].into_iter().collect();
        let proof = |id: &str| {
            let proof = prove(&path, &Wanted::parse(id)).unwrap();
            check(&serde_json::to_vec(&proof).unwrap(), &keys)
        };
        assert_eq!(proof(back).unwrap().seq, 0);
        let fault = proof(today).unwrap_err();
        assert!(matches!(fault, ProofError::KeyFault { .. }), "{fault}");
    }
}
