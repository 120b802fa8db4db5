//! Group commit: callers queue their events, and one of them writes what is queued for all.
//!
//! The first caller leads. It writes one group, its own events among it, and then makes the first
//! of those that came meanwhile the next leader, so nobody writes for others without end.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use super::{LogError, writer::Appended};
use crate::line::PreparedEvent;

/// Most bytes of events that are written together; one caller's events are never parted, however
/// large they are. A group is locked, hashed and signed at once, and takes a few milliseconds.
pub(super) const MAX_GROUP_BYTES: usize = 1024 * 1024;

/// The callers that wait.
#[derive(Default)]
pub(super) struct Group {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Request>,
    led: Led,
}

/// Whether somebody leads. Nobody waits while nobody does.
#[derive(Default, PartialEq, Eq)]
enum Led {
    #[default]
    No,
    Yes,
}

/// Events of one caller.
pub(super) struct Request {
    pub(super) events: Vec<PreparedEvent>,
    slot: Arc<Slot>,
}

impl Request {
    pub(super) fn answer(self, result: Result<Appended, LogError>) {
        self.slot.put(Word::Done(result));
    }
}

/// What a waiting caller is told.
pub(super) enum Word {
    /// Lead: write the next group.
    Lead,
    /// The events are written, or not.
    Done(Result<Appended, LogError>),
}

/// Where one caller waits.
#[derive(Default)]
pub(super) struct Slot {
    state: Mutex<SlotState>,
    told: Condvar,
}

#[derive(Default)]
struct SlotState {
    word: Option<Word>,
    waker: Option<Waker>,
}

impl Slot {
    fn put(&self, word: Word) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.word = Some(word);
        let waker = state.waker.take();
        drop(state);
        self.told.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits on this thread.
    pub(super) fn wait(&self) -> Word {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match state.word.take() {
                Some(word) => return word,
                None => {
                    state = self
                        .told
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Waits as a task.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<Word> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.word.take() {
            Some(word) => Poll::Ready(word),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Whether a word to lead lies here that nobody took.
    pub(super) fn was_left_to_lead(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(state.word.take(), Some(Word::Lead))
    }
}

impl Group {
    /// Queues events. The slot says what comes of them; whoever leaves before it does has to see
    /// whether it was left to lead.
    pub(super) fn enter(&self, events: Vec<PreparedEvent>) -> Arc<Slot> {
        let slot = Arc::new(Slot::default());
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.waiting.push_back(Request {
            events,
            slot: Arc::clone(&slot),
        });
        if queue.led == Led::No {
            queue.led = Led::Yes;
            slot.put(Word::Lead);
        }
        slot
    }

    /// The leader's group: at most `most` events, or one caller's.
    pub(super) fn take(&self, most: usize) -> Vec<Request> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut events, mut bytes) = (0, 0);
        let mut group = Vec::new();
        while let Some(request) = queue.waiting.front() {
            events += request.events.len();
            bytes += request
                .events
                .iter()
                .map(PreparedEvent::bytes)
                .sum::<usize>();
            if !group.is_empty() && (events > most || bytes > MAX_GROUP_BYTES) {
                break;
            }
            group.extend(queue.waiting.pop_front());
        }
        group
    }

    /// Passes the lead on.
    pub(super) fn pass_on(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.waiting.front() {
            Some(next) => next.slot.put(Word::Lead),
            None => queue.led = Led::No,
        }
    }
}
