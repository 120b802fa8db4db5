//! Keeps SPECIFICATION.md true: each promise names tests, and each named test exists.

use std::collections::BTreeSet;
use std::process::ExitCode;

use crate::error::TaskError;
use crate::limits;
use crate::process;
use crate::workspace::Workspace;

const FILE: &str = "SPECIFICATION.md";

/// What stands in the test column of a promise that nothing guards yet.
const NO_TEST: &str = "none yet";

/// One row of a table of promises.
#[derive(Debug, PartialEq, Eq)]
struct Promise {
    id: String,
    /// Test names as written; empty where the row says [`NO_TEST`].
    tests: Vec<String>,
}

/// `cargo xtask spec`.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<ExitCode, TaskError> {
    if let Some(argument) = arguments.first() {
        return Err(TaskError::usage(format!("spec takes no `{argument}`")));
    }
    println!("{}", limits::check(workspace)?);
    println!("{}", check(workspace, usize::MAX)?);
    Ok(ExitCode::SUCCESS)
}

/// Compares the document with the tests that nextest lists. The answer names at most `named`
/// promises that no test holds.
pub(crate) fn check(workspace: &Workspace, named: usize) -> Result<String, TaskError> {
    let promises = promises(&workspace.read(FILE)?)?;
    let known = known_tests(workspace)?;
    let unknown: Vec<String> = unknown(&promises, &known)
        .into_iter()
        .map(|(id, test)| format!("{FILE}: {id} names `{test}`, and there is no such test"))
        .collect();
    if !unknown.is_empty() {
        return Err(TaskError::Broken(unknown));
    }
    let unguarded: Vec<&str> = promises
        .iter()
        .filter(|promise| promise.tests.is_empty())
        .map(|promise| promise.id.as_str())
        .collect();
    let number = promises.len();
    if unguarded.is_empty() {
        return Ok(format!("all {number} promises are guarded by a test"));
    }
    let shown = unguarded.get(..named).unwrap_or(&unguarded);
    let more = if shown.len() < unguarded.len() {
        ", …"
    } else {
        ""
    };
    Ok(format!(
        "{} of {number} promises are guarded by a test; none yet for {}{more}",
        number - unguarded.len(),
        shown.join(", ")
    ))
}

/// Reads every table whose header is `| id | promise | number | test |`.
fn promises(text: &str) -> Result<Vec<Promise>, TaskError> {
    let mut promises: Vec<Promise> = Vec::new();
    let mut in_table = false;
    for line in text.lines() {
        let Some(cells) = cells(line) else {
            in_table = false;
            continue;
        };
        if !in_table {
            in_table = cells == ["id", "promise", "number", "test"];
            continue;
        }
        if cells
            .iter()
            .all(|cell| cell.chars().all(|c| "-: ".contains(c)))
        {
            continue;
        }
        let [id, _promise, _number, test] = cells.as_slice() else {
            return Err(TaskError::unreadable(
                FILE,
                format!("a row of a table of promises has four cells: {line}"),
            ));
        };
        let tests = backticked(test);
        if tests.is_empty() && *test != NO_TEST {
            return Err(TaskError::unreadable(
                FILE,
                format!("{id} names no test in backticks and does not say `{NO_TEST}`"),
            ));
        }
        if promises.iter().any(|promise| promise.id == *id) {
            return Err(TaskError::unreadable(FILE, format!("{id} is there twice")));
        }
        promises.push(Promise {
            id: (*id).to_owned(),
            tests,
        });
    }
    if promises.is_empty() {
        return Err(TaskError::unreadable(FILE, "it has no table of promises"));
    }
    Ok(promises)
}

fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

fn backticked(cell: &str) -> Vec<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// Each promise's named tests that are not in the list.
fn unknown<'a>(promises: &'a [Promise], known: &BTreeSet<String>) -> Vec<(&'a str, &'a str)> {
    promises
        .iter()
        .flat_map(|promise| promise.tests.iter().map(|test| (promise.id.as_str(), test)))
        .filter(|(_, test)| !known.iter().any(|name| names(test, name)))
        .map(|(id, test)| (id, test.as_str()))
        .collect()
}

/// Whether `written` means the test `full`, which is `BINARY MODULE::TEST`. The binary may be left
/// out, and so may leading modules: a suffix that begins at a path's boundary is enough.
fn names(written: &str, full: &str) -> bool {
    let Some((binary, path)) = full.split_once(' ') else {
        return false;
    };
    let path_matches = |written: &str| {
        path == written
            || path
                .strip_suffix(written)
                .is_some_and(|before| before.ends_with("::"))
    };
    match written.split_once(' ') {
        Some((written_binary, written_path)) => {
            written_binary == binary && path_matches(written_path)
        }
        None => path_matches(written),
    }
}

/// `BINARY-ID MODULE::TEST` for each test of the workspace.
fn known_tests(workspace: &Workspace) -> Result<BTreeSet<String>, TaskError> {
    let text = process::output(&mut workspace.cargo(&[
        "nextest",
        "list",
        "--locked",
        "--workspace",
        "--message-format=json",
    ]))?;
    parse_list(&text)
}

fn parse_list(text: &str) -> Result<BTreeSet<String>, TaskError> {
    let unreadable = |why: &str| TaskError::unreadable("cargo nextest list", why);
    let list: serde_json::Value =
        serde_json::from_str(text).map_err(|error| unreadable(&error.to_string()))?;
    let suites = list
        .get("rust-suites")
        .and_then(serde_json::Value::as_object)
        .ok_or_else(|| unreadable("no rust-suites"))?;
    let mut names = BTreeSet::new();
    for (binary, suite) in suites {
        let cases = suite
            .get("testcases")
            .and_then(serde_json::Value::as_object)
            .ok_or_else(|| unreadable("a suite without testcases"))?;
        names.extend(cases.keys().map(|test| format!("{binary} {test}")));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
text with | a bar

| id | promise | number | test |
| --- | --- | ---: | --- |
| END-1 | dies | 1 s | `deadline::kills`, `cellos::all deadline::children` |
| END-2 | leaves nothing | 0 | none yet |

| other | table |
| --- | --- |
| x | y |
";

    fn known() -> BTreeSet<String> {
        BTreeSet::from([
            "cellos::all deadline::children".to_owned(),
            "cellos-supervisor lifecycle::deadline::kills".to_owned(),
        ])
    }

    #[test]
    fn reads_promises_and_leaves_other_tables_alone() {
        let promises = promises(TABLE).unwrap();
        assert_eq!(promises.len(), 2);
        assert_eq!(promises[0].tests.len(), 2);
        assert!(promises[1].tests.is_empty());
        assert_eq!(unknown(&promises, &known()), []);
    }

    #[test]
    fn a_test_that_does_not_exist_is_named_with_its_promise() {
        let text = TABLE.replace("deadline::kills", "deadline::never");
        let promises = promises(&text).unwrap();
        assert_eq!(unknown(&promises, &known()), [("END-1", "deadline::never")]);
    }

    #[test]
    fn a_name_matches_only_at_a_path_boundary_and_in_its_binary() {
        let full = "cellos-supervisor lifecycle::deadline::kills";
        for good in [
            "kills",
            "deadline::kills",
            "cellos-supervisor kills",
            "lifecycle::deadline::kills",
        ] {
            assert!(names(good, full), "{good}");
        }
        for bad in [
            "ills",
            "line::kills",
            "cellos kills",
            "lifecycle::deadline",
            "",
        ] {
            assert!(!names(bad, full), "{bad}");
        }
    }

    #[test]
    fn a_promise_without_a_test_must_say_so() {
        let error = promises(&TABLE.replace("none yet", "")).unwrap_err();
        assert!(error.to_string().contains("END-2"), "{error}");
    }

    #[test]
    fn a_promise_may_not_stand_twice() {
        let error = promises(&TABLE.replace("END-2", "END-1")).unwrap_err();
        assert!(
            error.to_string().contains("END-1 is there twice"),
            "{error}"
        );
    }

    #[test]
    fn a_document_without_promises_is_an_error() {
        assert!(promises("nothing here").is_err());
    }

    #[test]
    fn reads_the_list_of_nextest() {
        let text = r#"{"rust-suites":{"a::all":{"testcases":{"m::x":{},"m::y":{}}},"b":{"testcases":{}}}}"#;
        let names: Vec<_> = parse_list(text).unwrap().into_iter().collect();
        assert_eq!(names, ["a::all m::x", "a::all m::y"]);
        assert!(parse_list("{}").is_err());
    }
}
