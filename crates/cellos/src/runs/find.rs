//! Finding one run by what a person types.

use std::path::Path;

use cellos_evidence::projection::RunView;

use super::{Read, read};
use crate::failure::Failure;

/// Most runs that are kept while it is not known which one is meant.
const MAX_CANDIDATES: usize = 20;
/// The name of the run that began last.
const LATEST: &str = "latest";

/// Why no one run is meant.
#[derive(Debug, thiserror::Error)]
enum FindError {
    #[error("there is no log at {log}")]
    NoLog { log: String },
    #[error("the log at {log} has no run")]
    Empty { log: String },
    #[error("no run of {log} is called {name:?} or begins like that, and no cell")]
    None { name: String, log: String },
    #[error("{name:?} may be any of {count} runs: {runs}")]
    Ambiguous {
        name: String,
        count: String,
        runs: String,
    },
}

/// How well a run fits a name; a better fit wins over any number of worse ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    CellPrefix,
    RunPrefix,
    Cell,
    Run,
    Both,
}

/// The run that a name means: `latest`, a run id, a cell id (its latest run), `CELL/RUN`, or the
/// beginning of an id.
pub(crate) fn find(log: &Path, name: &str) -> Result<RunView, Failure> {
    if !log.exists() {
        return Err(Failure::call(FindError::NoLog {
            log: log.display().to_string(),
        })
        .hint("name another one with --log"));
    }
    let mut search = Search {
        name,
        fit: None,
        found: Vec::new(),
        more: false,
        latest: None,
    };
    let read: Read = read(log, |run| search.take(run))?;
    read.warn(log);
    search.answer(log)
}

struct Search<'n> {
    name: &'n str,
    fit: Option<Fit>,
    found: Vec<RunView>,
    /// Whether there were more than are kept.
    more: bool,
    latest: Option<RunView>,
}

impl Search<'_> {
    fn take(&mut self, run: RunView) {
        if self.name == LATEST {
            let is_later = self.latest.as_ref().is_none_or(|known| later(&run, known));
            if is_later {
                self.latest = Some(run);
            }
            return;
        }
        let Some(fit) = self.fit_of(&run) else {
            return;
        };
        match self.fit {
            Some(best) if best > fit => return,
            Some(best) if best == fit => {}
            _ => {
                self.fit = Some(fit);
                self.found.clear();
                self.more = false;
            }
        }
        // A cell's latest run, and the latest one with the same ids.
        let is_of_cell = matches!(fit, Fit::Cell | Fit::CellPrefix);
        let same = self.found.iter().position(|known| {
            known.key.cell_id == run.key.cell_id
                && (is_of_cell || known.key.run_id == run.key.run_id)
        });
        match same {
            Some(at) if later(&run, &self.found[at]) => self.found[at] = run,
            Some(_) => {}
            None if self.found.len() < MAX_CANDIDATES => self.found.push(run),
            None => self.more = true,
        }
    }

    fn fit_of(&self, run: &RunView) -> Option<Fit> {
        let (cell, id) = (&*run.key.cell_id, &*run.key.run_id);
        let both = self
            .name
            .strip_prefix(cell)
            .and_then(|rest| rest.strip_prefix('/'))
            .is_some_and(|rest| rest == id);
        if both {
            Some(Fit::Both)
        } else if id == self.name {
            Some(Fit::Run)
        } else if cell == self.name {
            Some(Fit::Cell)
        } else if id.starts_with(self.name) {
            Some(Fit::RunPrefix)
        } else if cell.starts_with(self.name) {
            Some(Fit::CellPrefix)
        } else {
            None
        }
    }

    fn answer(mut self, log: &Path) -> Result<RunView, Failure> {
        let log = log.display().to_string();
        if self.name == LATEST {
            return self
                .latest
                .ok_or_else(|| Failure::call(FindError::Empty { log }));
        }
        if self.found.len() > 1 || self.more {
            let runs: Vec<_> = self
                .found
                .iter()
                .map(|run| format!("{}/{}", run.key.cell_id, run.key.run_id))
                .collect();
            let than = if self.more { "more than " } else { "" };
            return Err(Failure::call(FindError::Ambiguous {
                name: self.name.to_owned(),
                count: format!("{than}{}", runs.len()),
                runs: runs.join(", "),
            })
            .hint("give more of the id, or CELL/RUN"));
        }
        self.found.pop().ok_or_else(|| {
            Failure::call(FindError::None {
                name: self.name.to_owned(),
                log,
            })
            .hint("`cellos ps -a` lists the runs")
        })
    }
}

/// Whether a run began no earlier than another one.
fn later(run: &RunView, than: &RunView) -> bool {
    match (run.began(), than.began()) {
        (Some(a), Some(b)) => a >= b,
        (_, None) => true,
        (None, Some(_)) => false,
    }
}
