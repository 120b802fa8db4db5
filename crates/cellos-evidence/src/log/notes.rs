//! What the log says about itself, as events among the others.

use std::path::{Path, PathBuf};

use cellos_core::{
    CloudEventV1,
    event::{JSON_CONTENT_TYPE, SPEC_VERSION},
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    LogError,
    writer::{Inner, State},
};
use crate::{
    line::{LineHash, PreparedEvent},
    seal::Seal,
};

/// Type of the event that notes torn bytes: `log`, `offset`, `droppedBytes`, `fragmentSha256` and
/// `keptAs`, the name of the file that has them.
pub const RECOVERED: &str = "dev.cellos.events.cell.audit.v1.recovered";
/// Type of the event that a file begins with after a rotation: `chainId`, `lastSeq` (how many lines
/// there were, as the published contract has it), `headRowHash` and `integrity`; and of our own
/// `firstSeq`, `lastRowSeq`, `lines`, `merkleRoot`, `segment` and `seal`.
pub const SEGMENT_SEALED: &str = "dev.cellos.events.cell.audit.v1.segment-sealed";
/// `source` of these events.
const SOURCE: &str = "cellos-evidence";

/// An event of the log about itself.
pub(super) struct Note {
    event: CloudEventV1,
    /// Torn bytes that it is about: the name they have, and the name they get when it is written.
    torn: Option<(PathBuf, PathBuf)>,
}

impl Note {
    pub(super) fn recovered(
        log_id: &str,
        offset: u64,
        size: u64,
        hash: LineHash,
        kept: &Path,
        part: &Path,
        now: Timestamp,
    ) -> Self {
        let data = json!({
            "log": log_id,
            "offset": offset,
            "droppedBytes": size,
            "fragmentSha256": hash.to_hex(),
            "keptAs": name(kept),
        });
        Self {
            event: event(RECOVERED, uuid::Uuid::new_v4().to_string(), now, data),
            torn: Some((part.to_owned(), kept.to_owned())),
        }
    }

    fn sealed(seal: &Seal, segment: &Path, seal_file: &Path, now: Timestamp) -> Self {
        let body = &seal.body;
        let count = body.last + 1;
        let data = json!({
            "chainId": body.log_id,
            "lastSeq": count,
            "headRowHash": body.last_hash.to_hex(),
            "integrity": match seal.kid {
                Some(_) => "sha256-chain+ed25519-seal",
                None => "sha256-chain",
            },
            "firstSeq": body.first,
            "lastRowSeq": body.last,
            "lines": body.lines(),
            "merkleRoot": body.root.to_hex(),
            "segment": name(segment),
            "seal": name(seal_file),
        });
        let id = format!("seal-{}-{count}", body.log_id);
        Self {
            event: event(SEGMENT_SEALED, id, now, data),
            torn: None,
        }
    }

    /// Whether it is about these torn bytes.
    pub(super) fn keeps(&self, kept: &Path) -> bool {
        self.torn.as_ref().is_some_and(|(_, name)| name == kept)
    }
}

impl Inner {
    /// Writes the log's own events that are due, before those of anybody else.
    pub(super) fn write_notes(&self, state: &mut State) -> Result<(), LogError> {
        let empty = state.live.as_ref().is_none_or(|live| live.size == 0);
        if let (true, Some((first, last))) = (empty, state.last_segment)
            && let Some(seal) = self.read_seal(first, last)?
        {
            let (segment, seal_file) = (
                self.names.segment(first, last),
                self.names.seal(first, last),
            );
            let note = Note::sealed(&seal, &segment, &seal_file, self.config.clock.now());
            self.write_note(state, &note)?;
        }
        while let Some(note) = state.notes.pop() {
            if let Err(error) = self.write_note(state, &note) {
                state.notes.push(note);
                return Err(error);
            }
            if let Some((part, kept)) = &note.torn
                && let Err(error) = self.storage.rename(part, kept)
            {
                // It is noted once more by whoever opens the log next.
                tracing::warn!(%error, file = %part.display(), "torn bytes cannot be renamed");
            }
        }
        Ok(())
    }

    fn write_note(&self, state: &mut State, note: &Note) -> Result<(), LogError> {
        let event = PreparedEvent::of(&note.event, self.signer())?;
        self.write(state, &[&event]).map(drop)
    }
}

fn name(path: &Path) -> Value {
    path.file_name()
        .map_or(Value::Null, |name| name.to_string_lossy().into())
}

fn event(ty: &str, id: String, now: Timestamp, data: Value) -> CloudEventV1 {
    CloudEventV1 {
        specversion: SPEC_VERSION.to_owned(),
        id,
        source: SOURCE.to_owned(),
        ty: ty.to_owned(),
        datacontenttype: Some(JSON_CONTENT_TYPE.to_owned()),
        data: Some(data),
        time: Some(now.to_string()),
        traceparent: None,
        cexauthorityclass: None,
        cextrustceiling: None,
        cexsessionid: None,
        cexparenttrace: None,
        cexreceipthash: None,
        cexdoctrinecite: None,
        cexrevocation: None,
    }
}
