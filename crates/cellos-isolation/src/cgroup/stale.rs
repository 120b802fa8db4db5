//! What a killed supervisor left.

use std::path::{Path, PathBuf};

use super::{
    Cgroup, CgroupError, CgroupHost,
    leaf_name::{Maker, creator_of, look_for},
};

/// What was removed, and what could not be.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ReapReport {
    /// Leaves that are gone now and were there before.
    pub removed: Vec<PathBuf>,
    /// Leaves that are left, each with its reason.
    pub left: Vec<(PathBuf, CgroupError)>,
}

/// Kills what is left in the recorded leaves of a dead run and removes them. A leaf that is gone is
/// in neither list. Refuses whatever is not a leaf of ours, and any whose creator still runs.
pub fn remove_stale<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> ReapReport {
    let mut report = ReapReport::default();
    for path in paths {
        let path = path.as_ref();
        match remove_one(path) {
            Ok(true) => report.removed.push(path.to_owned()),
            Ok(false) => {}
            Err(error) => report.left.push((path.to_owned(), error)),
        }
    }
    report
}

/// Whether something was there.
fn remove_one(path: &Path) -> Result<bool, CgroupError> {
    let group = Cgroup::open([path])?;
    let name = path.file_name().and_then(|name| name.to_str());
    if let Some(creator) = name.and_then(creator_of)
        && look_for(&creator) == Maker::Alive
    {
        return Err(CgroupError::NotALeaf {
            path: path.to_owned(),
            why: "the process that made it still runs",
        });
    }
    if group.primary_path().is_none() {
        return Ok(false);
    }
    group.kill()?;
    group.remove()?;
    Ok(true)
}

impl CgroupHost {
    /// Leaves beneath our parents whose creator is gone. Ones made in another PID namespace are left
    /// out: whether their creator lives cannot be seen from here.
    ///
    /// # Errors
    /// A parent that cannot be listed.
    pub fn find_stale(&self) -> Result<Vec<PathBuf>, CgroupError> {
        let mut stale = Vec::new();
        for parent in self.parents()? {
            for name in parent.children()? {
                let gone = |creator| look_for(&creator) == Maker::Gone;
                if creator_of(&name).is_some_and(gone) {
                    stale.push(parent.path().join(name));
                }
            }
        }
        Ok(stale)
    }
}
