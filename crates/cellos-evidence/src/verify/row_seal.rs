//! The signed seal beside a published chain, `audit-trail.sig`.

use std::{path::PathBuf, sync::Arc};

use cellos_core::signing::parse_signed_event;

use super::{published::Envelopes, session::Session};
use crate::{
    finding::{FindingKind, Place},
    log::SEGMENT_SEALED,
    signed::read_small,
};

/// Name of the seal in the folder of the rows.
const NAME: &str = "audit-trail.sig";
/// Largest seal, in bytes: one small event in its envelope.
const MAX_BYTES: usize = 64 * 1024;

/// What the seal states.
pub(super) struct RowSeal {
    place: Place,
    /// How many rows there were. The published name of the field says something else.
    rows: u64,
    head: String,
}

impl RowSeal {
    /// Reads the seal beside rows, where there is one, and checks its signature.
    pub(super) fn beside(
        session: &mut Session<'_>,
        rows: &Arc<PathBuf>,
        envelopes: &Envelopes,
    ) -> Option<Self> {
        let path = rows.with_file_name(NAME);
        let read = read_small(&path, MAX_BYTES);
        let place = Place {
            file: Arc::new(path),
            line: 1,
        };
        let bytes = match read {
            Ok(bytes) => bytes?,
            Err(error) => {
                session.find(place, FindingKind::Unreadable, error.to_string());
                return None;
            }
        };
        let envelope = parse_signed_event(bytes.trim_ascii());
        let stated = envelope.as_ref().ok().map(|envelope| {
            let event = &envelope.event;
            let data = event.data.as_ref().filter(|_| event.ty == SEGMENT_SEALED);
            let rows = data.and_then(|data| data.get("lastSeq")?.as_u64());
            let head = data.and_then(|data| data.get("headRowHash")?.as_str());
            rows.zip(head.map(str::to_owned))
        });
        envelopes.check(session, &place, 0, envelope);
        match stated {
            // That it cannot be read has been said.
            None => None,
            Some(None) => {
                let detail = "no seal of rows: lastSeq and headRowHash are not there";
                session.find(place, FindingKind::SealBroken, detail);
                None
            }
            Some(Some((rows, head))) => Some(Self { place, rows, head }),
        }
    }

    /// Compares a row with what is stated.
    pub(super) fn row(&self, session: &mut Session<'_>, seq: u64, hash: &str) {
        if seq.checked_add(1) == Some(self.rows) && hash != self.head {
            let place = session.place(0);
            let detail = format!(
                "row {seq} is another one than its seal {} states",
                self.place
            );
            session.find(place.clone(), FindingKind::SealBroken, detail);
            session.missing_before(place);
        }
    }

    /// The end of the rows; `next` is the number of the row that would come.
    pub(super) fn finish(&self, session: &mut Session<'_>, next: u64, end: &Place) {
        if next < self.rows {
            let detail = format!(
                "the seal {} states {} rows, and there are {next}: rows have been cut off",
                self.place, self.rows
            );
            session.find(end.clone(), FindingKind::CutOff, detail);
            session.missing_before(end.clone());
        }
    }
}
