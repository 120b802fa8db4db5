//! What was decided about a document before there was a cell.

use std::collections::{HashMap, VecDeque};

use super::{
    parts::{AdmissionView, EndKind, EndView},
    step::Step,
    take::{Event, items, kept},
    view::RunView,
};

/// Most admitted documents that wait for the first event of their run. The program writes both at
/// once; beyond that the oldest is forgotten, and its run then has no admission.
pub const MAX_WAITING_ADMISSIONS: usize = 256;

/// Runs that were admitted and have not begun, by run id: what was decided names no cell.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    waiting: HashMap<String, Box<RunView>>,
    /// Their ids, oldest first. An id that was taken out stays until its turn comes.
    order: VecDeque<String>,
}

impl Admitted {
    pub(super) fn insert(&mut self, view: RunView) {
        let run_id = view.key.run_id.clone();
        self.order.push_back(run_id.clone());
        self.waiting.insert(run_id, Box::new(view));
        while self.order.len() > MAX_WAITING_ADMISSIONS {
            if let Some(oldest) = self.order.pop_front() {
                self.waiting.remove(&oldest);
            }
        }
    }

    /// The run of an id, for its first event, which names the cell.
    pub(super) fn take(&mut self, cell_id: &str, run_id: &str) -> Option<Box<RunView>> {
        let mut view = self.waiting.remove(run_id)?;
        self.order.retain(|waiting| waiting != run_id);
        cell_id.clone_into(&mut view.key.cell_id);
        for finding in &mut view.findings.items {
            finding.run = Some(view.key.clone());
        }
        Some(view)
    }

    /// Those that never began.
    pub(super) fn finish(self) -> impl Iterator<Item = RunView> {
        self.waiting.into_values().map(|view| *view)
    }
}

/// Takes a decision in. A run that was refused has ended.
pub(super) fn decided(view: &mut RunView, step: Step, event: &Event<'_, '_>) {
    let data = event.data;
    let reason = kept(view, data.reason.as_deref());
    let problems = items(data.problems.as_ref()).iter();
    let problems = view.texts(problems.map(|problem| &**problem));
    let admitted = step == Step::Admitted;
    if !admitted {
        let detail = (!problems.is_empty()).then(|| problems.join("; "));
        view.end = Some(EndView {
            how: EndKind::Refused,
            outcome: None,
            reason: reason.clone(),
            reason_detail: kept(view, detail.as_deref()),
            later_errors: Vec::new(),
            ended_by: None,
            exit_code: None,
            signal: None,
            terminal_state: None,
            residue_class: None,
            residue_looked_for: None,
            egress: None,
            residue_found: Vec::new(),
            at: event.time,
            place: event.place.clone(),
        });
    }
    view.admission = Some(AdmissionView {
        admitted,
        reason,
        problems,
        at: event.time,
        place: event.place.clone(),
    });
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        facts::Facts,
        finding::{Finding, FindingKind, Place},
        projection::Projection,
    };

    #[derive(Default)]
    struct Log {
        projection: Projection,
        findings: Vec<Finding>,
        line: u64,
    }

    impl Log {
        fn apply(&mut self, ty: &str, data: Value) -> Option<RunView> {
            self.line += 1;
            let event =
                json!({"specversion": "1.0", "id": format!("e{}", self.line), "source": "s",
                "type": format!("dev.cellos.events.cell.{ty}"), "time": "2026-01-02T03:04:05Z",
                "data": data})
                .to_string();
            let facts = Facts::of(event.as_bytes()).unwrap();
            let place = Place {
                file: Arc::new(PathBuf::from("log")),
                line: self.line,
            };
            self.projection.apply(&facts, &place, &mut self.findings)
        }

        fn admit(&mut self, run: &str) {
            let data = json!({"runId": run, "specId": "s", "admitted": true,
                "reason": "admitted_for_backend", "backend": "linux", "specHash": "ab"});
            assert_eq!(self.apply("admission.v1.allowed", data), None);
        }

        fn end(&mut self, cell: &str, run: &str) -> RunView {
            let data = json!({"cellId": cell, "runId": run, "backend": "linux", "reason": "x",
                "outcome": "failed"});
            self.apply("lifecycle.v1.failed", data).unwrap()
        }
    }

    #[test]
    fn what_was_decided_belongs_to_the_run_that_begins_next_with_its_id() {
        let mut log = Log::default();
        log.admit("r1");
        log.admit("r2");
        let run = log.end("c2", "r2");
        let admission = run.admission.as_ref().unwrap();
        assert!(admission.admitted);
        assert_eq!(admission.reason.as_deref(), Some("admitted_for_backend"));
        assert_eq!((run.first.line, run.key.cell_id.as_str()), (2, "c2"));
        assert_eq!(run.events.total, 2);
        // The next one with the same id was not decided about.
        assert_eq!(log.end("c3", "r2").admission, None);
        assert_eq!(log.findings, []);
        // An admitted document whose run never began.
        let runs = log.projection.finish(&mut log.findings);
        let [run] = runs.as_slice() else {
            panic!("{runs:?}")
        };
        assert_eq!(run.key.run_id, "r1");
        assert_eq!(log.findings[0].kind, FindingKind::NeverEnded);
    }

    #[test]
    fn a_refused_document_is_a_run_that_has_ended() {
        let mut log = Log::default();
        let data = json!({"runId": "r1", "specId": "s", "admitted": false,
            "reason": "document_refused", "backend": "linux", "problems": ["spec.a: no", "b"]});
        let run = log.apply("admission.v1.rejected", data).unwrap();
        let end = run.end.as_ref().unwrap();
        assert_eq!(end.how, EndKind::Refused);
        assert_eq!(end.reason_detail.as_deref(), Some("spec.a: no; b"));
        assert!(run.is_well());
        // Published refusals need no run.
        assert_eq!(
            log.apply("admission.v1.rejected", json!({"specId": "s"})),
            None
        );
        assert_eq!(log.projection.finish(&mut log.findings), []);
        assert_eq!(log.findings, []);
    }

    #[test]
    fn admissions_that_wait_for_their_runs_are_bounded() {
        let mut log = Log::default();
        for run in 0..=MAX_WAITING_ADMISSIONS {
            log.admit(&format!("r{run}"));
        }
        assert_eq!(log.end("c", "r0").admission, None);
        assert!(log.end("c", "r1").admission.is_some());
        let runs = log.projection.finish(&mut log.findings);
        assert_eq!(runs.len(), MAX_WAITING_ADMISSIONS - 1);
    }
}
