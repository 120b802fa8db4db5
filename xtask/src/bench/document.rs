//! The part of BENCHMARKS.md that the benchmark writes.

use crate::error::TaskError;
use crate::workspace::{self, Workspace};

pub(crate) const FILE: &str = "BENCHMARKS.md";
const BEGIN: &str = "<!-- begin: written by `cargo xtask bench --write` -->";
const END: &str = "<!-- end -->";

/// Replaces what stands between the two marks.
pub(crate) fn replace(workspace: &Workspace, results: &str) -> Result<(), TaskError> {
    let text = workspace.read(FILE)?;
    let replaced = between_marks(&text, results)
        .ok_or_else(|| TaskError::unreadable(FILE, format!("no `{BEGIN}` before a `{END}`")))?;
    workspace::write(&workspace.root.join(FILE), &replaced)
}

fn between_marks(text: &str, results: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_old, after) = rest.split_once(END)?;
    Some(format!(
        "{before}{BEGIN}\n\n{}\n\n{END}{after}",
        results.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let text = format!("# head\n{BEGIN}\nold\n{END}\ntail\n");
        let new = between_marks(&text, "\nnew\n").unwrap();
        assert_eq!(new, format!("# head\n{BEGIN}\n\nnew\n\n{END}\ntail\n"));
        assert_eq!(between_marks("no marks", "new"), None);
    }

    #[test]
    fn the_checked_in_document_has_the_marks() {
        let text = include_str!("../../../BENCHMARKS.md");
        assert!(between_marks(text, "x").is_some());
    }
}
