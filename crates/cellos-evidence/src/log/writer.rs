//! Appending to a log.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cellos_core::{CloudEventV1, signing::Signer};
use jiff::Timestamp;

use super::{
    LogConfig, LogError, Segment,
    end::Signing,
    error::is_full,
    flush::{Flush, HeadFile},
    group::{Group, Request, Slot, Word},
    notes::Note,
    segments::Names,
    storage::{FileId, Kernel, Kind, Make, Storage, StoredFile},
    wait::{Progress, Wait},
};
use crate::{
    head,
    line::{self, EncodeError, MAX_LINES_PER_SIGNATURE, PreparedEvent, Tail},
};

/// Lines that were appended together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Number of the first one.
    pub first_seq: u64,
    /// Where the next one will go.
    pub tail: Tail,
}

/// A log that is open for appending.
///
/// Writing happens on the calling thread, under a lock between processes. Callers that come while
/// another one writes are written together, under one signature.
pub struct EventLog {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) config: LogConfig,
    pub(super) names: Names,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) group: Group,
    pub(super) flush: Flush,
    state: Mutex<State>,
}

/// What is known about the files. True while the lock is held and nobody else has appended.
pub(super) struct State {
    lock: Arc<dyn StoredFile>,
    lock_id: FileId,
    /// The live file, where there is one.
    pub(super) live: Option<Live>,
    pub(super) tail: Tail,
    /// Number of the first line of the live file, or of the line it will begin with.
    pub(super) first_seq: u64,
    /// Whether the lines are signed; `None` before there are lines.
    pub(super) signing: Option<Signing>,
    /// Time of the first event of the live file.
    pub(super) began: Option<Timestamp>,
    /// First and last line of the newest sealed segment.
    pub(super) last_segment: Option<(u64, u64)>,
    /// What the log has to say about itself, and has not said yet.
    pub(super) notes: Vec<Note>,
    /// Whether the log has been compared with its head.
    pub(super) head: Compared,
    /// The file that the head was written to last.
    pub(super) head_file: Option<HeadFile>,
}

/// Whether a log has been compared with its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compared {
    NotYet,
    Done,
}

/// The live file.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) file: Arc<dyn StoredFile>,
    pub(super) id: FileId,
    /// Size of the file up to which the state is true.
    pub(super) size: u64,
}

impl EventLog {
    /// Opens or makes a log. A torn end is set aside and noted; an unsigned log that gets a signer
    /// is sealed.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open(config: LogConfig) -> Result<Self, LogError> {
        Self::open_in(Arc::new(Kernel), config)
    }

    pub(super) fn open_in(storage: Arc<dyn Storage>, config: LogConfig) -> Result<Self, LogError> {
        let path = &config.path;
        let names = Names::of(path).ok_or_else(|| LogError::NoName { path: path.clone() })?;
        if let Some(signer) = &config.signer
            && !line::is_kid(signer.kid())
        {
            return Err(LogError::KeyId {
                path: path.clone(),
                kid: signer.kid().to_owned(),
            });
        }
        let (lock, lock_id) = open_lock(&*storage, path)?;
        let state = State {
            lock,
            lock_id,
            live: None,
            tail: Tail::of_new_log(ulid::Ulid::generate().to_string()),
            first_seq: 0,
            signing: None,
            began: None,
            last_segment: None,
            notes: Vec::new(),
            head: Compared::NotYet,
            head_file: None,
        };
        let inner = Inner {
            names,
            storage,
            group: Group::default(),
            flush: Flush::default(),
            state: Mutex::new(state),
            config,
        };
        inner.locked(|state| {
            inner.load(state)?;
            inner.make_live(state)?;
            inner.make_ready(state)
        })?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Appends events as lines that stand together: all of them or none. At most 256.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn append(&self, events: &[CloudEventV1]) -> Result<Appended, LogError> {
        let turn = self.enter(events)?;
        loop {
            match turn.slot.wait() {
                Word::Lead => self.inner.lead(),
                Word::Done(result) => return result,
            }
        }
    }

    /// As [`EventLog::append`], for tasks: a task whose events another one writes gives way. Events
    /// of a task that is dropped meanwhile may be written or not.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn append_async(&self, events: &[CloudEventV1]) -> Result<Appended, LogError> {
        let turn = self.enter(events)?;
        loop {
            match std::future::poll_fn(|context| turn.slot.poll(context)).await {
                Word::Lead => self.inner.lead(),
                Word::Done(result) => return result,
            }
        }
    }

    /// Seals the live file now, where it has lines, and begins the next one.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn rotate(&self) -> Result<Option<Segment>, LogError> {
        let inner = &self.inner;
        inner.locked(|state| {
            inner.follow(state)?;
            inner.make_ready(state)?;
            if state.tail.next_seq == state.first_seq {
                return Ok(None);
            }
            inner.seal_live(state)?;
            inner.make_ready(state)?;
            Ok(state.last_segment.map(|(first, last)| Segment {
                path: inner.names.segment(first, last),
                first,
                last,
                seal: Some(inner.names.seal(first, last)),
            }))
        })
    }

    fn enter(&self, events: &[CloudEventV1]) -> Result<Turn<'_>, LogError> {
        if events.len() > MAX_LINES_PER_SIGNATURE as usize {
            let count = events.len();
            return Err(EncodeError::TooMany { count }.into());
        }
        let signer = self.inner.signer();
        let prepared: Result<Vec<_>, _> = events
            .iter()
            .map(|event| PreparedEvent::of(event, signer))
            .collect();
        Ok(Turn {
            slot: self.inner.group.enter(prepared?),
            inner: &self.inner,
        })
    }
}

/// A caller's place in the queue.
struct Turn<'l> {
    slot: Arc<Slot>,
    inner: &'l Inner,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.slot.was_left_to_lead() {
            self.inner.lead();
        }
    }
}

/// The lock between processes.
struct Locked(Arc<dyn StoredFile>);

impl Drop for Locked {
    fn drop(&mut self) {
        self.0.unlock();
    }
}

impl Inner {
    pub(super) fn signer(&self) -> Option<&dyn Signer> {
        self.config.signer.as_deref()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes one group and passes the lead on.
    fn lead(&self) {
        let group = self.group.take(MAX_LINES_PER_SIGNATURE as usize);
        let events: Vec<_> = group.iter().flat_map(|request| &request.events).collect();
        let written = self.locked(|state| {
            self.follow(state)?;
            self.make_ready(state)?;
            self.rotate_if_due(state)?;
            self.write(state, &events)
        });
        drop(events);
        answer(group, written);
        self.group.pass_on();
    }

    /// Does something while no other thread and no other process works on the files.
    pub(super) fn locked<T>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        self.flush.check_lost(&self.config.path)?;
        let mut state = self.state();
        let _lock = self.lock(&mut state)?;
        work(&mut state)
    }

    fn lock(&self, state: &mut State) -> Result<Locked, LogError> {
        let path = &self.config.path;
        let mut wait = Wait::default();
        loop {
            let got = state.lock.try_lock();
            if got.map_err(|source| LogError::io(path, "lock it", source))? {
                let locked = Locked(Arc::clone(&state.lock));
                let there = self.storage.identity(&super::beside(path, "lock"));
                if there.is_ok_and(|there| there == Some(state.lock_id)) {
                    return Ok(locked);
                }
                // Somebody removed the file: others would lock another one.
                drop(locked);
                (state.lock, state.lock_id) = open_lock(&*self.storage, path)?;
            }
            if wait.is_over(|| self.progress()) {
                return Err(LogError::Locked {
                    path: path.clone(),
                    waited_ms: wait.waited_ms(),
                });
            }
            wait.pause();
        }
    }

    /// How far others are. What cannot be looked at does not move.
    fn progress(&self) -> Progress {
        let path = &self.config.path;
        let live = self.storage.open(path, Make::Never).ok();
        Progress {
            live: live.and_then(|file| file.status().ok()),
            head: self.read_small(head::path_of(path)).ok().flatten(),
        }
    }

    /// Makes the live file where there is none.
    pub(super) fn make_live(&self, state: &mut State) -> Result<Live, LogError> {
        if let Some(live) = &state.live {
            return Ok(live.clone());
        }
        let path = &self.config.path;
        let file = self.storage.open(path, Make::New);
        let file = file.map_err(|source| LogError::open(path, source))?;
        self.flush.folder_changed();
        self.take_live(state, file)
    }

    /// Takes a file as the live one; what is in it is still to be looked at.
    pub(super) fn take_live(
        &self,
        state: &mut State,
        file: Arc<dyn StoredFile>,
    ) -> Result<Live, LogError> {
        let path = &self.config.path;
        let status = file
            .status()
            .map_err(|source| LogError::io(path, "look at it", source))?;
        if status.kind != Kind::Regular {
            return Err(LogError::NotAFile { path: path.clone() });
        }
        let live = Live {
            file,
            id: status.id,
            size: status.size,
        };
        state.live = Some(live.clone());
        Ok(live)
    }

    /// Takes in what other processes have done.
    fn follow(&self, state: &mut State) -> Result<(), LogError> {
        let path = &self.config.path;
        let there = self
            .storage
            .identity(path)
            .map_err(|source| LogError::io(path, "look for it", source))?;
        let Some(live) = state.live.clone().filter(|live| Some(live.id) == there) else {
            return self.load(state);
        };
        let status = live
            .file
            .status()
            .map_err(|source| LogError::io(path, "look at it", source))?;
        match status.size {
            size if size == live.size => Ok(()),
            size if size > live.size && self.take_appended(state, &live, size)? => Ok(()),
            _ => self.load(state),
        }
    }

    /// Appends lines to the live file with one write.
    pub(super) fn write(
        &self,
        state: &mut State,
        events: &[&PreparedEvent],
    ) -> Result<Appended, LogError> {
        let first_seq = state.tail.next_seq;
        if events.is_empty() {
            return Ok(Appended {
                first_seq,
                tail: state.tail.clone(),
            });
        }
        let mut live = self.make_live(state)?;
        let mut tail = state.tail.clone();
        let lines = line::encode_prepared(&mut tail, events, self.signer())?;
        self.write_whole(&live, &lines)?;
        live.size += lines.len() as u64;
        state.live = Some(live);
        state.tail = tail.clone();
        state.signing = Some(match self.signer() {
            Some(_) => Signing::Signed,
            None => Signing::Unsigned,
        });
        if state.began.is_none() {
            state.began = Some(self.config.clock.now());
        }
        Ok(Appended { first_seq, tail })
    }

    fn write_whole(&self, live: &Live, lines: &[u8]) -> Result<(), LogError> {
        let path = &self.config.path;
        let source = match live.file.append(lines) {
            Ok(written) if written == lines.len() => return Ok(()),
            Ok(written) => io::Error::new(
                io::ErrorKind::StorageFull,
                format!("only {written} of {} bytes fit", lines.len()),
            ),
            Err(error) => error,
        };
        // Nobody else has appended meanwhile: everybody who appends holds the lock.
        match live.file.truncate(live.size) {
            Err(cut) if is_full(&source) => Err(LogError::FullAndTorn {
                path: path.clone(),
                source: Arc::new(source),
                cut: Arc::new(cut),
            }),
            // A torn end that stays is set aside by the next append.
            _ => Err(LogError::io(path, "write to it", source)),
        }
    }
}

/// Tells each caller where its events are.
fn answer(group: Vec<Request>, written: Result<Appended, LogError>) {
    let mut next = written.as_ref().map_or(0, |appended| appended.first_seq);
    for request in group {
        let first_seq = next;
        next += request.events.len() as u64;
        request.answer(written.clone().map(|appended| Appended {
            first_seq,
            ..appended
        }));
    }
}

fn open_lock(storage: &dyn Storage, log: &Path) -> Result<(Arc<dyn StoredFile>, FileId), LogError> {
    let path = super::beside(log, "lock");
    let lock = storage
        .open(&path, Make::IfMissing)
        .map_err(|source| LogError::open(&path, source))?;
    let status = lock
        .status()
        .map_err(|source| LogError::io(&path, "look at it", source))?;
    match status.kind {
        Kind::Regular => Ok((lock, status.id)),
        Kind::Other => Err(LogError::NotAFile { path }),
    }
}
