//! Tests that could not run here and said so.
//!
//! A test that lacks an ability of the machine prints the line `SKIPPED NAME: WHY` to standard error
//! and returns. The runner sees a pass; this module takes it back. What passing tests print is in the
//! JUnit report that nextest writes.

use std::path::Path;

use crate::counts::TestCounts;
use crate::error::TaskError;
use crate::workspace;

/// What a test that skips itself begins its line with.
const MARK: &str = "SKIPPED ";

/// One test that did not run, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Skip {
    /// Program and path of the test.
    pub(crate) test: String,
    pub(crate) reason: String,
}

/// Reads the report of one run.
pub(crate) fn read(report: &Path) -> Result<Vec<Skip>, TaskError> {
    Ok(parse(&workspace::read(report)?))
}

/// A test that skipped passed in the runner's eyes: moves it from passed to skipped.
pub(crate) fn apply(counts: &mut TestCounts, skips: &[Skip]) {
    let number = u64::try_from(skips.len()).unwrap_or(u64::MAX);
    let number = number.min(counts.passed);
    counts.passed -= number;
    counts.skipped += number;
}

/// Finds the tests that passed and printed a marked line. Text in the report is escaped, so a tag
/// can be found without reading XML in full.
fn parse(report: &str) -> Vec<Skip> {
    let mut skips: Vec<Skip> = report
        .split("<testcase ")
        .skip(1)
        .filter_map(|case| {
            let (head, body) = case.split_once('>')?;
            let (body, _) = body.split_once("</testcase>")?;
            if body.contains("<failure") || body.contains("<error") {
                return None;
            }
            let name = attribute(head, "name")?;
            let program = attribute(head, "classname")?;
            Some(Skip {
                test: format!("{program} {name}"),
                reason: reason(body)?,
            })
        })
        .collect();
    skips.sort();
    skips
}

fn attribute(head: &str, name: &str) -> Option<String> {
    // The blank tells `name` from the end of `classname`.
    let head = format!(" {head}");
    let (_, rest) = head.split_once(&format!(" {name}=\""))?;
    let (value, _) = rest.split_once('"')?;
    Some(unescape(value))
}

/// The reason in the first marked line.
fn reason(body: &str) -> Option<String> {
    let line = body
        .split(['\n', '>'])
        .find_map(|line| line.strip_prefix(MARK))?;
    // The last line is followed by its element's end.
    let (line, _) = line.split_once('<').unwrap_or((line, ""));
    // `::` inside a test's path is not followed by a space.
    let (_test, why) = line.split_once(": ").unwrap_or((line, "no reason given"));
    Some(unescape(why.trim()))
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="4" failures="1" errors="0">
    <testsuite name="cellos::all" tests="4" disabled="0" errors="0" failures="1">
        <testcase name="limits::memory" classname="cellos::all" time="0.002">
            <system-out>running 1 test
test limits::memory ... ok
</system-out>
            <system-err>warming up
SKIPPED limits::memory: no cgroup: &quot;memory&quot; is &lt;absent&gt;
SKIPPED limits::memory: again
</system-err>
        </testcase>
        <testcase name="runs" classname="cellos::all" time="0.002">
            <system-err>this was not SKIPPED x: y
</system-err>
        </testcase>
        <testcase name="quiet" classname="cellos::all" time="0.002"/>
        <testcase name="bare" classname="cellos::all" time="0.002">
            <system-err>SKIPPED bare</system-err>
        </testcase>
        <testcase name="fails" classname="cellos::all" time="0.001">
            <failure type="test failure"/>
            <system-err>SKIPPED fails: and yet it failed
</system-err>
        </testcase>
    </testsuite>
</testsuites>
"#;

    #[test]
    fn finds_passed_tests_that_said_they_were_skipped() {
        let found: Vec<_> = parse(REPORT)
            .into_iter()
            .map(|skip| (skip.test, skip.reason))
            .collect();
        let expected = [
            ("cellos::all bare", "no reason given"),
            (
                "cellos::all limits::memory",
                "no cgroup: \"memory\" is <absent>",
            ),
        ];
        assert_eq!(
            found,
            expected.map(|(test, why)| (test.to_owned(), why.to_owned()))
        );
    }

    #[test]
    fn skipped_tests_do_not_count_as_passed() {
        let mut counts = TestCounts {
            passed: 5,
            failed: 1,
            skipped: 0,
        };
        apply(&mut counts, &parse(REPORT));
        assert_eq!(counts.to_string(), "3 passed, 1 failed, 2 skipped");
    }

    #[test]
    fn a_run_without_a_report_is_an_error() {
        assert!(read(Path::new("/nonexistent/junit.xml")).is_err());
    }
}
