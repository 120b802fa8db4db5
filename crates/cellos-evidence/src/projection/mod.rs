//! What a log says about runs: the one reducer that every reader uses.

use std::collections::HashMap;

use crate::{
    facts::Facts,
    finding::{Finding, FindingKind, Place, RunKey},
};

/// The state of all runs that have not ended.
#[derive(Debug, Default)]
pub struct Projection {
    live: HashMap<RunKey, RunView>,
}

/// What is known about one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunView {
    /// The run.
    pub key: RunKey,
    /// Where its first event stands.
    pub first: Place,
}

impl Projection {
    /// Takes one event in. What is wrong with it goes to `findings`; a run that it ends is returned.
    pub fn apply(
        &mut self,
        facts: &Facts<'_>,
        place: &Place,
        findings: &mut Vec<Finding>,
    ) -> Option<RunView> {
        let _ = findings;
        let data = facts.data.as_ref()?;
        let key = RunKey {
            cell_id: data.cell_id.as_deref()?.to_owned(),
            run_id: data.run_id.as_deref()?.to_owned(),
        };
        self.live.entry(key.clone()).or_insert_with(|| RunView {
            key: key.clone(),
            first: place.clone(),
        });
        let ended = facts.ty.ends_with(".lifecycle.v1.destroyed")
            || facts.ty.ends_with(".lifecycle.v1.failed");
        ended.then(|| self.live.remove(&key)).flatten()
    }

    /// The end of the log: runs that have not ended.
    pub fn finish(self, findings: &mut Vec<Finding>) -> Vec<RunView> {
        let mut runs: Vec<_> = self.live.into_values().collect();
        runs.sort_by(|a, b| a.key.cmp(&b.key));
        findings.extend(runs.iter().map(|run| Finding {
            place: run.first.clone(),
            run: Some(run.key.clone()),
            kind: FindingKind::NeverEnded,
            detail: "the log has no end of this run".to_owned(),
        }));
        runs
    }
}
