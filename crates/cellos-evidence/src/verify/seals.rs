//! What stands beside the lines: the seals of finished segments, and the head of the log.

use std::path::Path;

use cellos_core::signing::TrustAnchorPublicKey;
use jiff::Timestamp;

use crate::{
    finding::FindingKind,
    head::{self, Head},
    keyset::Keyset,
    line::LineHash,
    log::{LineEnd, RawLine},
    merkle::{TreeBuilder, TreeHash},
    seal::{self, Seal},
};

/// What is wrong with a file beside the log.
pub(super) type Fault = (FindingKind, String);

/// The seal of a segment, compared with the lines while they pass.
pub(super) struct Sealed {
    pub(super) seal: Seal,
    /// Whether a key that counts signed it.
    pub(super) is_vouched: bool,
    tree: TreeBuilder,
    bytes: u64,
}

impl Sealed {
    /// Reads the seal beside a segment; nothing where the file is no segment, or has no seal.
    pub(super) fn beside(segment: &Path, keys: Option<&Keyset>) -> Result<Option<Self>, Fault> {
        let name = segment.file_name().and_then(|name| name.to_str());
        let Some(stem) = name.and_then(|name| name.strip_suffix(".jsonl")) else {
            return Ok(None);
        };
        let path = segment.with_file_name(format!("{stem}.seal.json"));
        let read = seal::read(&path)
            .map_err(|error| (FindingKind::SealBroken, format!("its seal: {error}")))?;
        let Some(seal) = read else {
            return Ok(None);
        };
        let is_vouched = match keys {
            None => false,
            Some(keys) => {
                let kid = seal.kid.as_deref();
                judge(keys, "seal", kid, seal.body.time, |key| seal.verify(key))?
            }
        };
        Ok(Some(Self {
            seal,
            is_vouched,
            tree: TreeBuilder::default(),
            bytes: 0,
        }))
    }

    /// Takes a line in as it stands.
    pub(super) fn line(&mut self, raw: &RawLine<'_>) {
        self.tree.push(TreeHash::leaf(raw.bytes));
        let end = u64::from(raw.end == LineEnd::Ended);
        self.bytes = raw.offset + raw.bytes.len() as u64 + end;
    }

    /// What does not fit at the end of the segment.
    pub(super) fn fault(&self, last: Option<(u64, LineHash)>) -> Option<Fault> {
        let body = &self.seal.body;
        let fits = [
            ("number of lines", self.tree.size() == body.lines()),
            ("size", self.bytes == body.bytes),
            ("root", self.tree.root() == body.root),
            ("last line", last == Some((body.last, body.last_hash))),
        ];
        let (what, _) = fits.into_iter().find(|(_, fits)| !fits)?;
        let detail = format!("the segment is not the one that was sealed: another {what}");
        Some((FindingKind::SealBroken, detail))
    }
}

/// Reads the head of a log. Only a head that a key vouches for counts where there are keys.
pub(super) fn head(log: &Path, keys: Option<&Keyset>) -> Result<Option<Head>, Fault> {
    let read = head::read(&head::path_of(log))
        .map_err(|error| (FindingKind::Unreadable, error.to_string()))?;
    let (Some(head), Some(keys)) = (&read, keys) else {
        return Ok(read);
    };
    let kid = head.kid.as_deref();
    let counts = judge(keys, "head", kid, head.time, |key| head.verify(key))?;
    Ok(read.filter(|_| counts))
}

/// Whether a statement is signed by a key that counts; an error where it should be and is not.
fn judge(
    keys: &Keyset,
    what: &str,
    kid: Option<&str>,
    time: Timestamp,
    verify: impl Fn(&TrustAnchorPublicKey) -> bool,
) -> Result<bool, Fault> {
    let Some(kid) = kid else {
        return Err((FindingKind::Unsigned, format!("the {what} is not signed")));
    };
    let Some(key) = keys.get(kid) else {
        let detail = format!("the {what} is signed with key {kid:?}, which is not in the keyset");
        return Err((FindingKind::UnknownKey, detail));
    };
    if !verify(&key.public) {
        let detail = format!("the signature of the {what} is not by key {kid:?}");
        return Err((FindingKind::SignatureInvalid, detail));
    }
    key.judge_dated(kid, Some(time))
        .map(|()| true)
        .map_err(|(kind, detail)| (kind, format!("the {what} is signed, and {detail}")))
}
