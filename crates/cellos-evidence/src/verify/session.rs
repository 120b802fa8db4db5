//! What all forms of logs have in common: findings are counted, events are taken in by the
//! projection, ids and times are looked at, and each run gets its verdict.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    hash::{BuildHasher as _, RandomState},
    path::PathBuf,
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use super::{
    Checks, Signatures,
    report::{Lines, MAX_FINDINGS_PER_KIND, Observer, Summary, Unchecked, Verdict},
};
use crate::{
    facts::Facts,
    finding::{Finding, FindingKind, Place},
    projection::{Projection, RunView, cut_to},
};

/// How far the time of an event may lie before that of an earlier line. Several processes append
/// to one log, and an event gets its time before its process waits for the log's lock.
pub const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(5);
/// Among how many events before it the id of an event is looked for. A line that stands there
/// again is found by the chain, however far away.
pub const ID_WINDOW: usize = 1 << 18;
/// Of how many runs is kept that a line of theirs cannot be believed. Beyond, no run is believed.
pub const MAX_BROKEN_RUNS: usize = 1 << 16;

/// Most runs that wait for their verdict while nothing in the log is signed that they could wait
/// for.
pub const MAX_WAITING_RUNS: usize = 4096;
/// Longest text of a finding, in bytes: it quotes the log, in which a key's id may fill a line.
pub const MAX_DETAIL_BYTES: usize = 1024;

/// Type of the only event whose id is the same in every run of the published implementation.
const CONSTANT_ID_TYPE: &str = "dev.cellos.events.cell.host.v1.baseline-attestation";
/// End of the type of an event that says that a torn line was set aside.
const RECOVERED: &str = ".audit.v1.recovered";

/// Stands for the run of a line; 0 for none.
pub(super) type RunTag = u64;

pub(super) struct Session<'a> {
    pub(super) checks: &'a Checks<'a>,
    pub(super) summary: Summary,
    observer: &'a mut dyn Observer,
    /// The file that is read.
    file: Arc<PathBuf>,
    /// The numbers of all files so far, to tell which of two places comes first.
    files: HashMap<Arc<PathBuf>, usize>,
    projection: Projection,
    found: Vec<Finding>,
    waiting: Vec<Ended>,
    tags: RandomState,
    broken: HashSet<RunTag>,
    all_broken: bool,
    /// Where lines were found missing last.
    missing_at: Option<Place>,
    ids: Ids,
    latest: Option<Timestamp>,
}

/// A run that has ended and waits for the signatures of its lines to be checked.
struct Ended {
    run: RunView,
    tag: RunTag,
    /// Whether lines were missing while it lived.
    incomplete: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(checks: &'a Checks<'a>, observer: &'a mut dyn Observer) -> Self {
        Self {
            checks,
            summary: Summary::default(),
            observer,
            file: Arc::default(),
            files: HashMap::new(),
            projection: Projection::default(),
            found: Vec::new(),
            waiting: Vec::new(),
            tags: RandomState::new(),
            broken: HashSet::new(),
            all_broken: false,
            missing_at: None,
            ids: Ids::default(),
            latest: None,
        }
    }

    /// From here on lines are of this file.
    pub(super) fn begin_file(&mut self, path: &Arc<PathBuf>) {
        self.file = Arc::clone(path);
        let number = self.files.len();
        self.files.entry(Arc::clone(path)).or_insert(number);
    }

    /// A place in the present file.
    pub(super) fn place(&self, line: u64) -> Place {
        Place {
            file: Arc::clone(&self.file),
            line,
        }
    }

    pub(super) fn progress(&mut self, bytes: u64) {
        self.observer.progress(bytes);
    }

    /// Why a key that signed a statement about the lines so far cannot have: it had expired before
    /// the last of their events.
    pub(super) fn expired(&self, kid: Option<&str>) -> Option<String> {
        let (kid, latest) = (kid?, self.latest?);
        let until = self.checks.keys?.get(kid)?.not_after?;
        (latest > until).then(|| {
            format!("its key {kid:?} was valid until {until}, and the log goes to {latest} there")
        })
    }

    /// Something about the log itself.
    pub(super) fn find(&mut self, place: Place, kind: FindingKind, detail: impl Into<String>) {
        self.report(Finding {
            place,
            run: None,
            kind,
            detail: detail.into(),
        });
    }

    /// There are signatures and no keys.
    pub(super) fn signatures_unchecked(&mut self, place: Place) {
        if self.summary.unchecked.contains(&Unchecked::Signatures) {
            return;
        }
        self.summary.not_checked(Unchecked::Signatures);
        let is_demanded = self.checks.signatures == Signatures::Demanded;
        if is_demanded || self.checks.requires_signatures() {
            self.find(
                place,
                FindingKind::SignaturesUnchecked,
                "there are signatures, and no keys to check them with",
            );
        }
    }

    fn report(&mut self, mut finding: Finding) {
        let detail = &mut finding.detail;
        if detail.len() > MAX_DETAIL_BYTES {
            detail.truncate(cut_to(detail, MAX_DETAIL_BYTES).len());
            detail.push('…');
        }
        let count = self.summary.counts.entry(finding.kind).or_default();
        *count += 1;
        if *count <= MAX_FINDINGS_PER_KIND {
            self.observer.finding(&finding);
        }
    }

    /// Lines are missing before this place: no run that began before it and ends after it can be
    /// believed.
    pub(super) fn missing_before(&mut self, place: Place) {
        self.missing_at = Some(place);
    }

    /// A line of this run cannot be believed.
    pub(super) fn break_run(&mut self, tag: RunTag) {
        if tag == 0 {
            return;
        }
        if self.broken.len() < MAX_BROKEN_RUNS {
            self.broken.insert(tag);
        } else {
            self.all_broken |= !self.broken.contains(&tag);
        }
    }

    /// Stands for the run that an event belongs to.
    pub(super) fn tag(&self, facts: &Facts<'_>) -> RunTag {
        let data = facts.data.as_ref();
        let cell = data.and_then(|data| data.cell_id.as_deref());
        let run = data.and_then(|data| data.run_id.as_deref());
        match run {
            // What was decided before there was a cell names none.
            Some(run) => self.tag_of(cell.unwrap_or_default(), run),
            None => 0,
        }
    }

    fn tag_of(&self, cell: &str, run: &str) -> RunTag {
        self.tags.hash_one((cell, run)).max(1)
    }

    /// Takes an event in that stands in its place in the log. Its time is returned.
    pub(super) fn event(&mut self, facts: &Facts<'_>, line: u64) -> Option<Timestamp> {
        self.summary.events += 1;
        let place = self.place(line);
        let time = self.clock(facts, &place);
        self.id(facts, &place);
        if facts.ty.ends_with(RECOVERED) {
            self.find(
                place.clone(),
                FindingKind::Recovered,
                "a torn line before this one was set aside by the writer that found it",
            );
        }
        let ended = self.projection.apply(facts, &place, &mut self.found);
        for finding in std::mem::take(&mut self.found) {
            self.report(finding);
        }
        if let Some(run) = ended {
            let ended = self.ended(run);
            self.waiting.push(ended);
        }
        time
    }

    fn clock(&mut self, facts: &Facts<'_>, place: &Place) -> Option<Timestamp> {
        let text = facts.time.as_deref()?;
        let Ok(time) = text.parse::<Timestamp>() else {
            self.find(
                place.clone(),
                FindingKind::Unreadable,
                format!("the event's time {text:?} is no RFC 3339 time"),
            );
            return None;
        };
        match self.latest {
            Some(latest) if latest.duration_since(time) > CLOCK_TOLERANCE => {
                self.find(
                    place.clone(),
                    FindingKind::ClockBackwards,
                    format!("{time} stands after {latest}"),
                );
                // One finding a jump: what follows is compared with the new time.
                self.latest = Some(time);
            }
            Some(latest) if latest >= time => {}
            _ => self.latest = Some(time),
        }
        Some(time)
    }

    fn id(&mut self, facts: &Facts<'_>, place: &Place) {
        if facts.id.is_empty() {
            self.find(
                place.clone(),
                FindingKind::Unreadable,
                "the event has no id",
            );
        } else if self.ids.is_new(&facts.id) || facts.ty == CONSTANT_ID_TYPE {
        } else {
            let detail = format!("event id {:?} stands here again", facts.id);
            self.find(place.clone(), FindingKind::DuplicateId, detail);
        }
    }

    /// Whether so many runs wait for their verdict that no more should.
    pub(super) fn many_wait(&self) -> bool {
        self.waiting.len() >= MAX_WAITING_RUNS
    }

    /// No run that ended since verdicts were given last can be believed.
    pub(super) fn break_waiting(&mut self) {
        for ended in &mut self.waiting {
            ended.incomplete = true;
        }
    }

    /// Gives their verdicts to the runs that ended; everything about their lines is known by now.
    pub(super) fn settle(&mut self) {
        for ended in std::mem::take(&mut self.waiting) {
            self.verdict(ended);
        }
    }

    fn verdict(&mut self, ended: Ended) {
        let Ended {
            run,
            tag,
            incomplete,
        } = ended;
        let mut findings = BTreeMap::new();
        for finding in &run.findings.items {
            *findings.entry(finding.kind).or_default() += 1;
        }
        let violations = match self.checks.policy {
            Some(policy) => policy.violations(&run),
            None => Vec::new(),
        };
        for detail in violations {
            *findings.entry(FindingKind::Policy).or_default() += 1;
            self.report(Finding {
                place: run.first.clone(),
                run: Some(run.key.clone()),
                kind: FindingKind::Policy,
                detail,
            });
        }
        let mut broken = self.broken.remove(&tag) || self.all_broken || incomplete;
        if run.admission.is_some() {
            broken |= self.broken.remove(&self.tag_of("", &run.key.run_id));
        }
        let verdict = Verdict {
            findings,
            run,
            lines: if broken { Lines::Broken } else { Lines::Intact },
        };
        if verdict.is_well() {
            self.summary.runs_well += 1;
        } else {
            self.summary.runs_not_well += 1;
        }
        self.observer.verdict(&verdict);
    }

    fn ended(&self, run: RunView) -> Ended {
        Ended {
            tag: self.tag_of(&run.key.cell_id, &run.key.run_id),
            incomplete: self.is_incomplete(&run),
            run,
        }
    }

    fn is_incomplete(&self, run: &RunView) -> bool {
        self.missing_at
            .as_ref()
            .is_some_and(|missing| self.is_before(&run.first, missing))
    }

    fn is_before(&self, a: &Place, b: &Place) -> bool {
        let number = |place: &Place| self.files.get(&place.file);
        match number(a).cmp(&number(b)) {
            std::cmp::Ordering::Equal => a.line < b.line,
            other => other.is_lt(),
        }
    }

    /// The end of the log.
    pub(super) fn finish(mut self) -> Summary {
        self.settle();
        let runs = std::mem::take(&mut self.projection).finish(&mut self.found);
        for finding in std::mem::take(&mut self.found) {
            self.report(finding);
        }
        for run in runs {
            let ended = self.ended(run);
            self.verdict(ended);
        }
        self.summary
    }
}

/// The ids of the last [`ID_WINDOW`] events.
#[derive(Default)]
struct Ids {
    known: HashSet<u128>,
    order: VecDeque<u128>,
}

impl Ids {
    /// Whether an id is not among them; it is from now on.
    fn is_new(&mut self, id: &str) -> bool {
        let key = uuid::Uuid::try_parse(id).map_or_else(
            |_| {
                let digest = Sha256::digest(id.as_bytes());
                digest
                    .iter()
                    .take(16)
                    .fold(0, |key, byte| key << 8 | u128::from(*byte))
            },
            |uuid| uuid.as_u128(),
        );
        if !self.known.insert(key) {
            return false;
        }
        self.order.push_back(key);
        if self.order.len() > ID_WINDOW
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// What readers look at in an event, given as its text.
pub(super) fn read_facts(event: &str) -> Result<Facts<'_>, String> {
    let facts = Facts::of(event.as_bytes()).map_err(|error| error.to_string())?;
    match facts.wrong.as_slice() {
        [] => Ok(facts),
        wrong => Err(format!("not as it should be: {}", wrong.join(", "))),
    }
}
