//! Keeps docs/limits.md true: each bound it names is a constant of the source with that value.

use crate::error::TaskError;
use crate::workspace::Workspace;

const FILE: &str = "docs/limits.md";

/// One row of a table of bounds.
#[derive(Debug, PartialEq, Eq)]
struct Limit {
    /// Path of the source file, from the root of the workspace.
    source: String,
    /// Name of the constant.
    name: String,
    /// Its value as the source has it.
    value: String,
}

/// Compares the page with the source.
pub(crate) fn check(workspace: &Workspace) -> Result<String, TaskError> {
    let limits = limits(&workspace.read(FILE)?)?;
    let mut wrong = Vec::new();
    for Limit {
        source,
        name,
        value,
    } in &limits
    {
        let text = workspace.read(source)?;
        let found = values(&text, name);
        if found.is_empty() {
            wrong.push(format!("{FILE}: {source} has no constant {name}"));
        } else if !found.contains(&value.as_str()) {
            let found = found.join("` or `");
            wrong.push(format!(
                "{FILE}: {name} is `{found}` in {source}, not `{value}`"
            ));
        }
    }
    if wrong.is_empty() {
        Ok(format!(
            "all {} limits are those of the source",
            limits.len()
        ))
    } else {
        Err(TaskError::Broken(wrong))
    }
}

/// Reads every table whose header is `| bound | constant | value | at it |`.
fn limits(text: &str) -> Result<Vec<Limit>, TaskError> {
    let mut limits = Vec::new();
    let mut in_table = false;
    for line in text.lines() {
        let Some(inner) = line
            .strip_prefix('|')
            .and_then(|rest| rest.strip_suffix('|'))
        else {
            in_table = false;
            continue;
        };
        let cells: Vec<&str> = inner.split('|').map(str::trim).collect();
        if !in_table {
            in_table = cells == ["bound", "constant", "value", "at it"];
            continue;
        }
        if cells.iter().all(|cell| cell.chars().all(|c| c == '-')) {
            continue;
        }
        let [_bound, constant, value, _at_it] = cells.as_slice() else {
            return Err(TaskError::unreadable(
                FILE,
                format!("a row of a table of bounds has four cells: {line}"),
            ));
        };
        let (Some([source, name]), Some([value])) = (quoted(constant), quoted(value)) else {
            return Err(TaskError::unreadable(
                FILE,
                format!("file, constant and value stand in backticks: {line}"),
            ));
        };
        limits.push(Limit {
            source,
            name,
            value,
        });
    }
    if limits.is_empty() {
        return Err(TaskError::unreadable(FILE, "it has no table of bounds"));
    }
    Ok(limits)
}

/// The first texts in backticks.
fn quoted<const COUNT: usize>(cell: &str) -> Option<[String; COUNT]> {
    let texts: Vec<String> = cell
        .split('`')
        .skip(1)
        .step_by(2)
        .take(COUNT)
        .map(str::to_owned)
        .collect();
    texts.try_into().ok()
}

/// What the source gives to constants of this name, as written.
fn values<'a>(source: &'a str, name: &str) -> Vec<&'a str> {
    source
        .lines()
        .filter_map(|line| {
            let (before, rest) = line.split_once("const ")?;
            let visibility = before.trim();
            if !(visibility.is_empty() || visibility.starts_with("pub")) {
                return None;
            }
            let (_type, value) = rest
                .strip_prefix(name)?
                .strip_prefix(':')?
                .split_once(" = ")?;
            value.strip_suffix(';')
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
| bound | constant | value | at it |
| --- | --- | --- | --- |
| a wait | `crates/a/src/b.rs` `WAIT` | `Duration::from_secs(2)` (`x`) | gives up |
";

    #[test]
    fn rows_name_file_constant_and_value() {
        let limits = limits(PAGE).unwrap();
        assert_eq!(limits.len(), 1);
        assert_eq!(limits[0].source, "crates/a/src/b.rs");
        assert_eq!(limits[0].name, "WAIT");
        assert_eq!(limits[0].value, "Duration::from_secs(2)");
    }

    #[test]
    fn a_row_without_a_value_and_a_page_without_rows_are_errors() {
        assert!(limits(&PAGE.replace('`', "")).is_err());
        assert!(limits("nothing here").is_err());
    }

    #[test]
    fn values_are_those_of_the_whole_name() {
        let source = "\
const WAITING: u32 = 1;
    const WAIT: u32 = 2;
pub(super) const WAIT: u64 = 3 * 4;
// const WAIT: u8 = 5;
";
        assert_eq!(values(source, "WAIT"), ["2", "3 * 4"]);
        assert_eq!(values(source, "NONE"), [""; 0]);
    }
}
