//! What a log says about runs: the one reducer that every reader uses.
//!
//! Memory is bounded. At most [`MAX_LIVE_RUNS`] runs without an end are followed, and at most
//! [`MAX_LIVE_BYTES`] are kept of them together; beyond that the run that began first is given up,
//! which is an error of that run ([`FindingKind::NotFollowed`]) and never silent. Of runs that
//! have ended the last [`MAX_ENDED_REMEMBERED`] are remembered, so that an event after an end is
//! told from a new run; what comes later than that begins a run that has no end, or no start.

mod admission;
mod begin;
mod ending;
mod grants;
mod network;
mod parts;
mod snapshot;
mod source;
mod step;
mod take;
mod used;
mod view;

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{BuildHasher as _, Hash, Hasher, RandomState},
};

use jiff::{Timestamp, ToSpan as _};

use self::admission::Admitted;
pub use self::admission::MAX_WAITING_ADMISSIONS;
pub use self::ending::{
    DEFAULT_GRACE_SECONDS, END_SLACK_SECONDS, EXPORT_SLACK_SECONDS, TEARDOWN_SLACK_SECONDS,
};
pub use self::network::{EgressView, FlowLayer, FlowView, NetworkTotals};
pub use self::parts::{
    AdmissionView, Artifact, CommandView, CorrelationView, Declared, EgressRule, EndKind, EndView,
    EventRef, ExportView, IdentityStage, IdentityView, LimitView, Limits, MachineDigests,
    MachineView, Mount, Phase, PlacementView, PostureView, UsageView,
};
pub use self::snapshot::{
    CurrentState, ExportStage, ExportedFile, IdentityProgress, LifecycleStage, Snapshot,
};
pub use self::source::{NoEvent, event_in};
use self::step::Step;
pub(crate) use self::view::cut_to;
pub use self::view::{Kept, MAX_KEPT, MAX_RUN_BYTES, MAX_TEXT_BYTES, RunView};
use crate::{
    facts::{DataFacts, Facts},
    finding::{Finding, FindingKind, Place, RunKey},
};

/// Most runs without an end that are followed at once.
pub const MAX_LIVE_RUNS: usize = 16_384;
/// Most bytes of texts and items that are kept of all runs without an end.
pub const MAX_LIVE_BYTES: usize = 256 * 1024 * 1024;
/// Most runs that are remembered after their end.
pub const MAX_ENDED_REMEMBERED: usize = 131_072;
/// Longest id of a cell or a run, in bytes. Documents and the drop-in allow fewer.
pub const MAX_ID_BYTES: usize = 512;
/// How much later than the end a side task of the published implementation may date what it saw,
/// in milliseconds: it reports while the end is being written.
pub const LATE_OBSERVATION_MS: i64 = 1000;

/// The state of all runs that have not ended.
#[derive(Debug, Default)]
pub struct Projection {
    live: HashMap<RunKey, Live>,
    /// Keys of live runs by the number of their first event.
    order: BTreeMap<u64, RunKey>,
    next: u64,
    kept_bytes: usize,
    ended: Ended,
    admitted: Admitted,
}

#[derive(Debug)]
struct Live {
    view: Box<RunView>,
    number: u64,
    /// The session of an ended run with the same key.
    before: Option<Option<String>>,
}

impl Projection {
    /// Takes one event in. What is wrong with it goes to `findings`; a run that it ends is
    /// returned, and so is one that is given up for it.
    pub fn apply(
        &mut self,
        facts: &Facts<'_>,
        place: &Place,
        findings: &mut Vec<Finding>,
    ) -> Option<RunView> {
        let step = Step::of(&facts.ty)?;
        let Some(data) = facts.data.as_deref() else {
            findings.push(malformed(place, None, facts, "data"));
            return None;
        };
        let time = facts.time.as_deref().and_then(|time| time.parse().ok());
        if matches!(step, Step::Admitted | Step::Refused) {
            return self.decided(step, facts, data, time, place, findings);
        }
        let Some((cell_id, run_id)) = key_of(data) else {
            // The manifest's event of the published implementation names no cell.
            if step != Step::ManifestFailed && step != Step::PoolCheckout {
                findings.push(malformed(place, None, facts, "cellId or runId"));
            }
            return None;
        };
        let key: &dyn Pair = &(cell_id, run_id);
        let mut returned = None;
        if !self.live.contains_key(key) {
            let before = self.ended.get(cell_id, run_id);
            if let Some(before) = before
                && !is_of_another_run(before, step, facts)
            {
                if !before.given_up {
                    let key = RunKey {
                        cell_id: cell_id.to_owned(),
                        run_id: run_id.to_owned(),
                    };
                    findings.push(after_end(before, step, facts, place, key, time));
                }
                return None;
            }
            let before = before.map(|before| before.session.clone());
            self.begin(cell_id, run_id, place, before);
        } else if self.is_begun_again(key, step, facts) {
            returned = self.give_way(key, place, findings);
            let before = returned.as_ref().map(|view| view.session.clone());
            self.begin(cell_id, run_id, place, before);
        }
        let live = self.live.get_mut(key)?;
        let left = live.view.left;
        take::event(&mut live.view, step, facts, data, time, place, findings);
        if step == Step::Started
            && let Some(Some(session)) = &live.before
            && facts.cexsessionid.as_deref() == Some(session)
        {
            let detail = format!("session {session} starts again after its end");
            live.view
                .find(findings, place, FindingKind::AfterEnd, detail);
        }
        self.kept_bytes += left - live.view.left;
        if matches!(step, Step::Destroyed | Step::Failed) {
            let mut view = self.remove(key)?;
            ending::check(&mut view, findings);
            self.ended.insert(&view, GivenUp::No);
            return returned.or(Some(view));
        }
        returned.or_else(|| self.make_room(place, findings))
    }

    /// The end of the log: runs that have not ended, by key.
    pub fn finish(self, findings: &mut Vec<Finding>) -> Vec<RunView> {
        let live = self.live.into_values().map(|live| *live.view);
        let mut runs: Vec<_> = live.chain(self.admitted.finish()).collect();
        runs.sort_by(|a, b| a.key.cmp(&b.key));
        for run in &mut runs {
            never_ended(run, findings);
        }
        runs
    }

    /// The runs that have not ended so far.
    pub fn live(&self) -> impl Iterator<Item = &RunView> {
        self.live.values().map(|live| &*live.view)
    }

    /// What was decided about a document. A run whose document was refused is returned.
    fn decided(
        &mut self,
        step: Step,
        facts: &Facts<'_>,
        data: &DataFacts<'_>,
        time: Option<Timestamp>,
        place: &Place,
        findings: &mut Vec<Finding>,
    ) -> Option<RunView> {
        // The published implementation names a run only where it was given an id.
        let run_id = data.run_id.as_deref()?;
        if run_id.len() > MAX_ID_BYTES {
            return None;
        }
        let key = RunKey {
            cell_id: String::new(),
            run_id: run_id.to_owned(),
        };
        let mut view = RunView::new(key, place.clone());
        take::event(&mut view, step, facts, data, time, place, findings);
        match step {
            Step::Refused => Some(view),
            _ => {
                self.admitted.insert(view);
                None
            }
        }
    }

    fn begin(&mut self, cell: &str, run: &str, place: &Place, before: Option<Option<String>>) {
        let key = RunKey {
            cell_id: cell.to_owned(),
            run_id: run.to_owned(),
        };
        let number = self.next;
        self.next += 1;
        self.order.insert(number, key.clone());
        let view = self.admitted.take(cell, run);
        let view = view.unwrap_or_else(|| Box::new(RunView::new(key.clone(), place.clone())));
        self.kept_bytes += MAX_RUN_BYTES - view.left;
        let live = Live {
            view,
            number,
            before,
        };
        self.live.insert(key, live);
    }

    /// Whether an event begins another run with the key of one that has not ended, as runs of the
    /// published implementation do: its run id has a default, and its cells are named after
    /// their documents.
    fn is_begun_again(&self, key: &dyn Pair, step: Step, facts: &Facts<'_>) -> bool {
        let Some(started) = self.live.get(key).map(|live| &live.view) else {
            return false;
        };
        match step {
            Step::Scope => started.started.is_some(),
            Step::Started => {
                started.started.is_some()
                    && facts.cexsessionid.is_some()
                    && facts.cexsessionid.as_deref() != started.session.as_deref()
            }
            _ => false,
        }
    }

    fn give_way(
        &mut self,
        key: &dyn Pair,
        place: &Place,
        findings: &mut Vec<Finding>,
    ) -> Option<RunView> {
        let mut view = self.remove(key)?;
        let detail = "the log has no end of this run before another one with its ids begins";
        view.find(findings, place, FindingKind::NeverEnded, detail);
        Some(view)
    }

    /// Gives up the run that began first, where there are too many.
    fn make_room(&mut self, place: &Place, findings: &mut Vec<Finding>) -> Option<RunView> {
        if self.live.len() <= MAX_LIVE_RUNS && self.kept_bytes <= MAX_LIVE_BYTES {
            return None;
        }
        let (_, key) = self.order.first_key_value()?;
        let key = key.clone();
        let mut view = self.remove(&key)?;
        let detail = format!(
            "given up before its end: more than {MAX_LIVE_RUNS} runs are not ended here, or more \
             than {MAX_LIVE_BYTES} bytes are kept of them"
        );
        view.find(findings, place, FindingKind::NotFollowed, detail);
        self.ended.insert(&view, GivenUp::Yes);
        Some(view)
    }

    fn remove(&mut self, key: &dyn Pair) -> Option<RunView> {
        let live = self.live.remove(key)?;
        self.order.remove(&live.number);
        self.kept_bytes -= MAX_RUN_BYTES - live.view.left;
        Some(*live.view)
    }
}

fn never_ended(run: &mut RunView, findings: &mut Vec<Finding>) {
    let place = run.first.clone();
    run.find(
        findings,
        &place,
        FindingKind::NeverEnded,
        "the log has no end of this run",
    );
}

/// The ids, where there are some that can be followed.
fn key_of<'d>(data: &'d DataFacts<'_>) -> Option<(&'d str, &'d str)> {
    let cell_id = data.cell_id.as_deref()?;
    let run_id = match data.run_id.as_deref() {
        Some(run_id) => run_id,
        None if data.wrong.contains(&"runId") => return None,
        None => "",
    };
    let is_usable = |id: &str| id.len() <= MAX_ID_BYTES;
    (is_usable(cell_id) && is_usable(run_id)).then_some((cell_id, run_id))
}

fn malformed(place: &Place, run: Option<RunKey>, facts: &Facts<'_>, what: &str) -> Finding {
    Finding {
        place: place.clone(),
        run,
        kind: FindingKind::Malformed,
        detail: format!(
            "{}: `{what}` is missing, of another type, or too long",
            short(&facts.ty)
        ),
    }
}

/// A type without what all have in common, and cut.
fn short(ty: &str) -> &str {
    view::cut_to(ty.strip_prefix(step::PREFIX).unwrap_or(ty), MAX_TEXT_BYTES)
}

/// Whether an event after the end of a run begins another one with the same ids.
fn is_of_another_run(before: &EndedRun, step: Step, facts: &Facts<'_>) -> bool {
    match (step, &before.session, &facts.cexsessionid) {
        // A start with the session of the ended run is taken in, and found there.
        (Step::Destroyed, Some(before), Some(now)) => **before != **now,
        _ => step.opens(),
    }
}

fn after_end(
    before: &EndedRun,
    step: Step,
    facts: &Facts<'_>,
    place: &Place,
    key: RunKey,
    time: Option<Timestamp>,
) -> Finding {
    let ty = short(&facts.ty);
    let limit = before
        .at
        .and_then(|at| at.checked_add(LATE_OBSERVATION_MS.milliseconds()).ok());
    let is_late = step.is_of_a_side_task() && time.zip(limit).is_some_and(|(at, end)| at <= end);
    let (kind, detail) = match step {
        Step::Destroyed => (
            FindingKind::EndedTwice,
            format!("it ended at {} already", before.place),
        ),
        _ if is_late => (
            FindingKind::LateObservation,
            format!("{ty} stands after the end at {}", before.place),
        ),
        _ => (
            FindingKind::AfterEnd,
            format!("{ty} stands after the end at {}", before.place),
        ),
    };
    Finding {
        place: place.clone(),
        run: Some(key),
        kind,
        detail,
    }
}

/// Two ids, owned or not: looking a run up allocates nothing.
trait Pair {
    fn pair(&self) -> (&str, &str);
}

impl Pair for RunKey {
    fn pair(&self) -> (&str, &str) {
        (&self.cell_id, &self.run_id)
    }
}

impl Pair for (&str, &str) {
    fn pair(&self) -> (&str, &str) {
        *self
    }
}

impl Hash for dyn Pair + '_ {
    /// As the derived one of [`RunKey`].
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pair().hash(state);
    }
}

impl PartialEq for dyn Pair + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.pair() == other.pair()
    }
}

impl Eq for dyn Pair + '_ {}

impl<'a> Borrow<dyn Pair + 'a> for RunKey {
    fn borrow(&self) -> &(dyn Pair + 'a) {
        self
    }
}

/// Whether a run was given up before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GivenUp {
    No,
    Yes,
}

/// Runs that have ended, by two hashes of their ids with secret keys.
#[derive(Debug, Default)]
struct Ended {
    runs: HashMap<(u64, u64), EndedRun>,
    order: VecDeque<(u64, u64)>,
    hashers: (RandomState, RandomState),
}

#[derive(Debug)]
struct EndedRun {
    session: Option<String>,
    at: Option<Timestamp>,
    place: Place,
    given_up: bool,
}

impl Ended {
    fn get(&self, cell_id: &str, run_id: &str) -> Option<&EndedRun> {
        self.runs.get(&self.hash(cell_id, run_id))
    }

    fn insert(&mut self, view: &RunView, given_up: GivenUp) {
        let hash = self.hash(&view.key.cell_id, &view.key.run_id);
        let end = view.end.as_ref();
        let run = EndedRun {
            session: view.session.clone(),
            at: end.and_then(|end| end.at),
            place: end.map_or(&view.first, |end| &end.place).clone(),
            given_up: given_up == GivenUp::Yes,
        };
        if self.runs.insert(hash, run).is_none() {
            self.order.push_back(hash);
        }
        if self.order.len() > MAX_ENDED_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.runs.remove(&oldest);
        }
    }

    fn hash(&self, cell_id: &str, run_id: &str) -> (u64, u64) {
        let pair = (cell_id, run_id);
        (self.hashers.0.hash_one(pair), self.hashers.1.hash_one(pair))
    }
}
