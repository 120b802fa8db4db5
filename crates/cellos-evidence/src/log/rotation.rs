//! Sealing the live file and beginning another one.
//!
//! In this order, so that a crash between any two steps leaves a log that goes on: the live file is
//! flushed, the head is written, the seal is written and flushed, the live file gets its name
//! as a segment. The next file is made by whoever appends next, and begins with an event about the
//! segment.

use std::{path::Path, sync::Arc};

use super::{
    LogError,
    end::Signing,
    recovery::COPY_BYTES,
    segments::folder_of,
    storage::Make,
    writer::{Inner, Live, State},
};
use crate::{
    line::{self, LineHash, MAX_LINE_BYTES},
    merkle::{TreeBuilder, TreeHash},
    seal::SealBody,
};

impl Inner {
    /// Does what comes before somebody's events: seals an unsigned log that has a signer now, and
    /// writes the log's own events.
    pub(super) fn make_ready(&self, state: &mut State) -> Result<(), LogError> {
        self.check_signer(state.signing)?;
        let unsigned = state.signing == Some(Signing::Unsigned) && self.signer().is_some();
        if unsigned && state.tail.next_seq > state.first_seq {
            self.seal_live(state)?;
        }
        self.write_notes(state)
    }

    pub(super) fn rotate_if_due(&self, state: &mut State) -> Result<(), LogError> {
        let rotation = self.config.rotation;
        if state.tail.next_seq == state.first_seq {
            return Ok(());
        }
        let large = state
            .live
            .as_ref()
            .is_some_and(|live| live.size >= rotation.max_bytes);
        let old = match (rotation.max_age, state.began) {
            (Some(max), Some(began)) => {
                let age = self.config.clock.now().duration_since(began);
                age.unsigned_abs() >= max && age.is_positive()
            }
            _ => false,
        };
        if !large && !old {
            return Ok(());
        }
        self.seal_live(state)?;
        self.write_notes(state)
    }

    /// Seals the live file, which has lines.
    pub(super) fn seal_live(&self, state: &mut State) -> Result<(), LogError> {
        let path = &self.config.path;
        let live = self.make_live(state)?;
        self.flush.sync_file(path, &*live.file)?;
        let body = self.examine(state, &live)?;
        self.write_head(&mut state.head_file, &state.tail)?;
        let seal = body.write(self.signer()).map_err(|source| LogError::Sign {
            path: path.clone(),
            source: Arc::new(source),
        })?;
        let (first, last) = (body.first, body.last);
        self.replace(&self.names.seal(first, last), &seal, Flushed::Yes)?;
        let folder = folder_of(path);
        let flush_folder = || {
            self.storage
                .sync_folder(folder)
                .map_err(|source| LogError::io(path, "flush its folder", source))
        };
        flush_folder()?;
        self.storage
            .rename(path, &self.names.segment(first, last))
            .map_err(|source| LogError::io(path, "rename it", source))?;
        state.live = None;
        state.first_seq = state.tail.next_seq;
        state.began = None;
        state.last_segment = Some((first, last));
        if self.signer().is_some() {
            state.signing = Some(Signing::Signed);
        }
        flush_folder()
    }

    /// Reads the lines of the live file and makes their tree.
    fn examine(&self, state: &State, live: &Live) -> Result<SealBody, LogError> {
        let path = &self.config.path;
        let not_a_chain = || LogError::NotAChain { path: path.clone() };
        let adopted = state.signing == Some(Signing::Unsigned) && self.signer().is_some();
        let mut tree = TreeBuilder::default();
        let mut before = None;
        let mut last_hash = None;
        let mut bytes = vec![0; COPY_BYTES];
        let (mut from, mut at) = (0, 0);
        while at < live.size {
            if from == bytes.len() {
                bytes.resize(bytes.len() * 2, 0);
            }
            if from > MAX_LINE_BYTES {
                return Err(not_a_chain());
            }
            let room = bytes.len() - from;
            let length = usize::try_from(live.size - at).map_or(room, |left| left.min(room));
            live.file
                .read_exact_at(&mut bytes[from..from + length], at)
                .map_err(|source| LogError::io(path, "read it", source))?;
            at += length as u64;
            let filled = from + length;
            let mut start = 0;
            while let Some(end) = bytes[start..filled].iter().position(|byte| *byte == b'\n') {
                let line = &bytes[start..start + end];
                if before.is_none() || adopted {
                    let parsed = line::parse(line).map_err(|_| not_a_chain())?;
                    if adopted && parsed.signature.is_some() {
                        return Err(LogError::UnsignedEnd { path: path.clone() });
                    }
                    before.get_or_insert(parsed.prev);
                }
                tree.push(TreeHash::leaf(line));
                start += end + 1;
                if at == live.size && start == filled {
                    last_hash = Some(LineHash::of_line(line));
                }
            }
            bytes.copy_within(start..filled, 0);
            from = filled - start;
        }
        let first = state.first_seq;
        let complete = last_hash == Some(state.tail.prev)
            && Some(tree.size()) == state.tail.next_seq.checked_sub(first);
        match (before, last_hash) {
            (Some(before), Some(last_hash)) if complete => Ok(SealBody {
                log_id: state.tail.log_id.clone(),
                first,
                last: state.tail.next_seq - 1,
                before,
                last_hash,
                bytes: live.size,
                root: tree.root(),
                time: self.config.clock.now(),
            }),
            _ => Err(not_a_chain()),
        }
    }

    /// Writes a small file beside the log in the place of an older one.
    pub(super) fn replace(
        &self,
        path: &Path,
        bytes: &[u8],
        flushed: Flushed,
    ) -> Result<(), LogError> {
        let new = super::beside(path, "tmp");
        let io = |operation| {
            let new = new.clone();
            move |source| LogError::io(&new, operation, source)
        };
        self.storage.remove(&new).map_err(io("remove it"))?;
        let file = self.storage.open(&new, Make::New);
        let file = file.map_err(|source| LogError::open(&new, source))?;
        match file.append(bytes) {
            Ok(written) if written == bytes.len() => {}
            Ok(_) => return Err(io("write to it")(std::io::ErrorKind::StorageFull.into())),
            Err(error) => return Err(io("write to it")(error)),
        }
        if flushed == Flushed::Yes {
            file.sync().map_err(io("flush it"))?;
        }
        self.storage
            .rename(&new, path)
            .map_err(|source| LogError::io(path, "rename its successor to it", source))
    }
}

/// Whether a file has to survive a crash of the machine before it takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flushed {
    Yes,
    No,
}
