//! Finding out where a log goes on: when it is opened, when another process has done something, and
//! when a writer died.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest as _, Sha256};

use super::{
    LogError,
    end::{self, End, SignedBy, Signing},
    notes::Note,
    segments::{FileName, folder_of},
    storage::Make,
    writer::{Compared, Inner, Live, State},
};
use crate::{
    facts::Facts,
    head::{self, Head},
    line::{self, LineHash, Tail},
    seal::{Seal, SealError},
    signed::MAX_SIGNED_BYTES,
};

/// Size of what is read at once of torn bytes and of segments, in bytes.
pub(super) const COPY_BYTES: usize = 256 * 1024;
/// Ending of torn bytes that the log has not noted yet.
const UNNOTED: &str = ".part";

/// How the live file begins.
struct Beginning {
    first_seq: u64,
    prev: LineHash,
    began: Option<jiff::Timestamp>,
}

impl Inner {
    /// Looks at the end of what others have appended to the live file; whether it is as it should
    /// be.
    pub(super) fn take_appended(
        &self,
        state: &mut State,
        live: &Live,
        size: u64,
    ) -> Result<bool, LogError> {
        let Some(end) = end::last_line(&self.config.path, &*live.file, size)? else {
            return Ok(false);
        };
        if live.size == 0 || state.signing != Some(end.signing) {
            return Ok(false);
        }
        self.check_continues(&state.tail, &end.tail)?;
        state.tail = end.tail;
        state.live = Some(Live {
            size,
            ..live.clone()
        });
        Ok(true)
    }

    /// Finds out everything from the files.
    pub(super) fn load(&self, state: &mut State) -> Result<(), LogError> {
        let path = &self.config.path;
        let io = |operation| move |source| LogError::io(path, operation, source);
        let had = state.tail.clone();
        let names = self
            .storage
            .names(folder_of(path))
            .map_err(io("look into its folder"))?;
        let segment = |name: &String| match self.names.kind(name) {
            Some(FileName::Segment { first, last }) => Some((last, first)),
            _ => None,
        };
        state.last_segment = names
            .iter()
            .filter_map(segment)
            .max()
            .map(|(last, first)| (first, last));
        let before = match state.last_segment {
            Some((first, last)) => Some(self.end_of_segment(first, last)?),
            None => None,
        };
        state.live = None;
        self.flush.folder_changed();
        let live = match self.storage.open(path, Make::Never) {
            Ok(file) => Some(self.take_live(state, file)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(LogError::open(path, error)),
        };
        let found = match &live {
            Some(live) => end::find(path, &*live.file, live.size, before.as_ref())?,
            None => None,
        };
        if let (Some(live), None) = (&live, found.as_ref().or(before.as_ref())) {
            self.check_is_ours(live)?;
        }
        let offset = found.as_ref().map_or(0, |end| end.offset);
        let end = found.or_else(|| before.clone());
        let beginning = match &live {
            Some(live) if offset > 0 => Some(self.beginning(live)?),
            _ => None,
        };
        self.check_follows(before.as_ref(), beginning.as_ref())?;
        match &end {
            Some(end) if had.next_seq > 0 => self.check_continues(&had, &end.tail)?,
            None if had.next_seq > 0 => return Err(LogError::Deleted { path: path.clone() }),
            _ => {}
        }
        let tail = end.as_ref().map_or_else(
            || Tail::of_new_log(ulid::Ulid::generate().to_string()),
            |end| end.tail.clone(),
        );
        if state.head == Compared::NotYet {
            self.check_signed_by(end.as_ref().and_then(|end| end.by.as_ref()))?;
            self.compare_with_head(&tail, live.as_ref(), offset, beginning.as_ref())?;
            state.head = Compared::Done;
        }
        state.signing = end.map(|end| end.signing);
        state.tail = tail;
        state.first_seq = beginning
            .as_ref()
            .map_or(state.tail.next_seq, |beginning| beginning.first_seq);
        state.began = beginning.and_then(|beginning| beginning.began);
        self.check_signer(state.signing)?;
        state.notes.clear();
        if let Some(live) = live.filter(|live| live.size > offset) {
            self.set_aside(state, &live, offset, &names)?;
        }
        self.note_unnoted(state, &names)?;
        self.remove_stale(state, &names)
    }

    /// Whether the last signature is by a key that ours stands beside.
    fn check_signed_by(&self, by: Option<&SignedBy>) -> Result<(), LogError> {
        let (Some(by), Some(known), Some(signer)) = (by, &self.config.known_keys, self.signer())
        else {
            return Ok(());
        };
        let (path, kid) = (self.config.path.clone(), by.kid.clone());
        match known.get(&by.kid) {
            None => Err(LogError::OtherKey {
                path,
                kid,
                signer: signer.kid().to_owned(),
            }),
            Some(key) if !key.verifies(&by.bytes, &by.signature) => {
                Err(LogError::Namesake { path, kid })
            }
            Some(_) => Ok(()),
        }
    }

    /// Whether bytes without a whole line may be the torn first line of a log.
    fn check_is_ours(&self, live: &Live) -> Result<(), LogError> {
        const BEGINNING: &[u8] = b"{\"entry\":{\"event\":";
        let path = &self.config.path;
        let length = usize::try_from(live.size).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(BEGINNING.len())];
        live.file
            .read_exact_at(&mut bytes, 0)
            .map_err(|source| LogError::io(path, "read it", source))?;
        match BEGINNING.starts_with(&bytes) {
            true => Ok(()),
            false => Err(LogError::NoLine { path: path.clone() }),
        }
    }

    fn end_of_segment(&self, first: u64, last: u64) -> Result<End, LogError> {
        let path = self.names.segment(first, last);
        let file = self
            .storage
            .open(&path, Make::Never)
            .map_err(|source| LogError::open(&path, source))?;
        let status = file
            .status()
            .map_err(|source| LogError::io(&path, "look at it", source))?;
        let end =
            end::last_line(&path, &*file, status.size)?.filter(|end| end.tail.next_seq == last + 1);
        let mut end = end.ok_or(LogError::NotAChain { path })?;
        let seal = self.read_seal(first, last)?;
        if seal.is_some_and(|seal| seal.kid.is_some()) {
            end.signing = Signing::Signed;
        }
        Ok(end)
    }

    pub(super) fn read_seal(&self, first: u64, last: u64) -> Result<Option<Seal>, LogError> {
        let path = self.names.seal(first, last);
        let Some(bytes) = self.read_small(path)? else {
            return Ok(None);
        };
        match Seal::parse(&bytes) {
            Ok(seal) => Ok(Some(seal)),
            Err(error) => Err(LogError::Seal(Arc::<SealError>::new(error))),
        }
    }

    /// Reads a small file beside the log; `None` where there is none, or one that is larger.
    pub(super) fn read_small(&self, path: PathBuf) -> Result<Option<Vec<u8>>, LogError> {
        let file = match self.storage.open(&path, Make::Never) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LogError::open(&path, error)),
        };
        let io = |source| LogError::io(&path, "read it", source);
        let size = usize::try_from(file.status().map_err(io)?.size).unwrap_or(usize::MAX);
        if size > MAX_SIGNED_BYTES {
            return Ok(None);
        }
        let mut bytes = vec![0; size];
        file.read_exact_at(&mut bytes, 0).map_err(io)?;
        Ok(Some(bytes))
    }

    fn beginning(&self, live: &Live) -> Result<Beginning, LogError> {
        let path = &self.config.path;
        let not_a_chain = || LogError::NotAChain { path: path.clone() };
        let bytes = end::first_line(path, &*live.file, live.size)?.ok_or_else(not_a_chain)?;
        let parsed = line::parse(&bytes).map_err(|_| not_a_chain())?;
        let facts = serde_json::from_str::<Facts<'_>>(parsed.event.get()).unwrap_or_default();
        Ok(Beginning {
            first_seq: parsed.seq,
            prev: parsed.prev,
            began: facts.time.and_then(|time| time.parse().ok()),
        })
    }

    /// The live file goes on where the newest segment ends.
    fn check_follows(
        &self,
        before: Option<&End>,
        beginning: Option<&Beginning>,
    ) -> Result<(), LogError> {
        match (before, beginning) {
            (Some(before), Some(begins))
                if before.tail.next_seq != begins.first_seq || before.tail.prev != begins.prev =>
            {
                Err(LogError::Replaced {
                    path: self.config.path.clone(),
                    seq: begins.first_seq,
                })
            }
            _ => Ok(()),
        }
    }

    /// What was there is still there.
    fn check_continues(&self, had: &Tail, now: &Tail) -> Result<(), LogError> {
        let path = self.config.path.clone();
        if had.next_seq == 0 {
            Ok(())
        } else if now.log_id != had.log_id || (now.next_seq == had.next_seq && now.prev != had.prev)
        {
            Err(LogError::Replaced {
                path,
                seq: had.next_seq - 1,
            })
        } else if now.next_seq < had.next_seq {
            Err(LogError::CutOff {
                path,
                missing: now.next_seq,
            })
        } else {
            Ok(())
        }
    }

    pub(super) fn check_signer(&self, signing: Option<Signing>) -> Result<(), LogError> {
        match (signing, self.signer()) {
            (Some(Signing::Signed), None) => Err(LogError::SignerMissing {
                path: self.config.path.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// The head, where there is a whole one: after a crash of the machine it may be torn, and
    /// whoever could damage it could as well remove it.
    pub(super) fn head(&self) -> Result<Option<Head>, LogError> {
        let path = head::path_of(&self.config.path);
        let Some(bytes) = self.read_small(path.clone())? else {
            return Ok(None);
        };
        Ok(whole(&path, &bytes))
    }

    fn compare_with_head(
        &self,
        tail: &Tail,
        live: Option<&Live>,
        size: u64,
        beginning: Option<&Beginning>,
    ) -> Result<(), LogError> {
        let path = self.config.path.clone();
        let Some(head) = self.head()?.filter(|head| head.next_seq > 0) else {
            return Ok(());
        };
        if let (Some(kid), Some(signer)) = (&head.kid, self.signer())
            && kid == signer.kid()
            && !head.verify(&signer.verifying_key())
        {
            let kid = kid.clone();
            return Err(LogError::HeadForged { path, kid });
        }
        let seq = head.next_seq - 1;
        if tail.next_seq > 0 && head.log_id != tail.log_id {
            return Err(LogError::Replaced { path, seq });
        }
        if head.next_seq > tail.next_seq {
            let missing = tail.next_seq;
            return Err(LogError::CutOff { path, missing });
        }
        let first = beginning.map_or(tail.next_seq, |beginning| beginning.first_seq);
        let hash = match (beginning, live) {
            _ if head.next_seq == tail.next_seq => Some(tail.prev),
            (Some(beginning), _) if head.next_seq == first => Some(beginning.prev),
            (Some(_), Some(live)) if head.next_seq > first => {
                end::hash_of(&path, &*live.file, size, seq)?
            }
            // It is of a time before the live file was begun.
            _ => return Ok(()),
        };
        match hash == Some(head.last_hash) {
            true => Ok(()),
            false => Err(LogError::Replaced { path, seq }),
        }
    }

    /// Keeps torn bytes in a file of their own and cuts them off the log.
    fn set_aside(
        &self,
        state: &mut State,
        live: &Live,
        offset: u64,
        names: &[String],
    ) -> Result<(), LogError> {
        let log = &self.config.path;
        let free = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| !names.iter().any(|other| other == name))
        };
        let first = super::beside(log, &format!("torn-{offset}"));
        let kept = std::iter::once(first)
            .chain((1_u32..).map(|n| super::beside(log, &format!("torn-{offset}-{n}"))))
            .find(free)
            .unwrap_or_else(|| super::beside(log, "torn"));
        let part = unnoted(&kept);
        let io = |operation| {
            let part = part.clone();
            move |source| LogError::io(&part, operation, source)
        };
        self.storage.remove(&part).map_err(io("remove it"))?;
        let copy = self.storage.open(&part, Make::New);
        let copy = copy.map_err(|source| LogError::open(&part, source))?;
        let mut at = offset;
        while at < live.size {
            let length = usize::try_from(live.size - at).unwrap_or(COPY_BYTES);
            let mut bytes = vec![0; length.min(COPY_BYTES)];
            live.file
                .read_exact_at(&mut bytes, at)
                .map_err(|source| LogError::io(log, "read its torn end", source))?;
            match copy.append(&bytes) {
                Ok(written) if written == bytes.len() => {}
                Ok(_) => return Err(io("write to it")(std::io::ErrorKind::StorageFull.into())),
                Err(error) => return Err(io("write to it")(error)),
            }
            at += bytes.len() as u64;
        }
        copy.sync().map_err(io("flush it"))?;
        self.storage
            .sync_folder(folder_of(log))
            .map_err(|source| LogError::io(log, "flush its folder", source))?;
        live.file
            .truncate(offset)
            .map_err(|source| LogError::io(log, "cut its torn end off", source))?;
        tracing::warn!(
            path = %log.display(),
            offset,
            kept = %kept.display(),
            "the end of the event log was torn; its bytes are kept aside"
        );
        state.live = Some(Live {
            size: offset,
            ..live.clone()
        });
        self.note(state, &kept, offset)
    }

    /// Notes torn bytes that an earlier writer set aside and did not come to note.
    fn note_unnoted(&self, state: &mut State, names: &[String]) -> Result<(), LogError> {
        let log = &self.config.path;
        let beginning = super::beside(log, "torn-");
        let Some(beginning) = beginning.file_name().and_then(|name| name.to_str()) else {
            return Ok(());
        };
        for name in names {
            let Some(kept) = name.strip_suffix(UNNOTED) else {
                continue;
            };
            let Some(number) = kept.strip_prefix(beginning) else {
                continue;
            };
            let offset = number
                .split('-')
                .next()
                .and_then(|digits| digits.parse().ok());
            let kept = log.with_file_name(kept);
            let known = state.notes.iter().any(|note| note.keeps(&kept));
            if let (Some(offset), false) = (offset, known) {
                self.note(state, &kept, offset)?;
            }
        }
        Ok(())
    }

    fn note(&self, state: &mut State, kept: &Path, offset: u64) -> Result<(), LogError> {
        let part = unnoted(kept);
        let io = |source| LogError::io(&part, "read it", source);
        let file = self
            .storage
            .open(&part, Make::Never)
            .map_err(|source| LogError::open(&part, source))?;
        let size = file.status().map_err(io)?.size;
        let mut hash = Sha256::new();
        let mut at = 0;
        while at < size {
            let length = usize::try_from(size - at).unwrap_or(COPY_BYTES);
            let mut bytes = vec![0; length.min(COPY_BYTES)];
            file.read_exact_at(&mut bytes, at).map_err(io)?;
            hash.update(&bytes);
            at += bytes.len() as u64;
        }
        state.notes.push(Note::recovered(
            &state.tail.log_id,
            offset,
            size,
            LineHash(hash.finalize().into()),
            kept,
            &part,
            self.config.clock.now(),
        ));
        Ok(())
    }

    /// Removes seals of the live file: a rotation began and did not come to rename it.
    fn remove_stale(&self, state: &State, names: &[String]) -> Result<(), LogError> {
        for name in names {
            if let Some(FileName::Seal { first, last }) = self.names.kind(name)
                && first >= state.first_seq
            {
                let seal = self.names.seal(first, last);
                self.storage
                    .remove(&seal)
                    .map_err(|source| LogError::io(&seal, "remove it", source))?;
            }
        }
        Ok(())
    }
}

/// The head that bytes are, where they are one.
pub(super) fn whole(path: &Path, bytes: &[u8]) -> Option<Head> {
    head::parse(path, bytes)
        .inspect_err(|error| tracing::warn!(%error, "the head of the event log cannot be read"))
        .ok()
}

fn unnoted(kept: &Path) -> PathBuf {
    let mut name = kept.as_os_str().to_owned();
    name.push(UNNOTED);
    name.into()
}
