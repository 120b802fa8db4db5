//! Reading how many tests ran from what the runners print.

use std::ops::AddAssign;

/// How a set of tests ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TestCounts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl AddAssign for TestCounts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for TestCounts {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// The counts of nextest's closing line, such as
/// `Summary [   0.5s] 3/5 tests run: 1 passed (1 slow), 1 failed, 1 timed out, 2 skipped`.
///
/// `None`: there is no such line, so nothing ran (a build that failed, for example).
pub(crate) fn nextest(text: &str) -> Option<TestCounts> {
    let plain = without_colour(text);
    let line = plain
        .lines()
        .rev()
        .find(|line| line.trim_start().starts_with("Summary [") && line.contains(" run: "))?;
    let (_, parts) = line.split_once(" run: ")?;
    let mut counts = TestCounts::default();
    for (number, label) in numbered(&without_parentheses(parts)) {
        match label {
            "passed" => counts.passed += number,
            "skipped" => counts.skipped += number,
            // failed, exec failed, timed out, and whatever a later version adds: a label that
            // is not known to be good is not good.
            _ => counts.failed += number,
        }
    }
    Some(counts)
}

/// The sum of all lines such as
/// `test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s`.
pub(crate) fn libtest(text: &str) -> Option<TestCounts> {
    let plain = without_colour(text);
    let mut lines = plain
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("test result: "))
        .peekable();
    lines.peek()?;
    let mut counts = TestCounts::default();
    for line in lines {
        let (_verdict, parts) = line.split_once(". ").unwrap_or(("", line));
        for (number, label) in numbered(parts) {
            match label {
                "passed" => counts.passed += number,
                "failed" => counts.failed += number,
                "ignored" => counts.skipped += number,
                _ => {}
            }
        }
    }
    Some(counts)
}

/// Splits `3 passed, 1 exec failed; …` into its numbers and labels.
fn numbered(parts: &str) -> impl Iterator<Item = (u64, &str)> {
    parts.split([',', ';']).filter_map(|part| {
        let (number, label) = part.trim().split_once(' ')?;
        Some((number.parse().ok()?, label.trim()))
    })
}

/// Drops `(1 slow, 2 leaky)`, which repeats tests that are already counted.
fn without_parentheses(text: &str) -> String {
    let mut depth = 0_u32;
    text.chars()
        .filter(|character| match character {
            '(' => {
                depth += 1;
                false
            }
            ')' => {
                depth = depth.saturating_sub(1);
                false
            }
            _ => depth == 0,
        })
        .collect()
}

/// Drops the terminal's colour sequences (`ESC [ … m`).
fn without_colour(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            characters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passed: u64, failed: u64, skipped: u64) -> TestCounts {
        TestCounts {
            passed,
            failed,
            skipped,
        }
    }

    #[test]
    fn reads_nextest_closing_lines() {
        let cases = [
            (
                "     Summary [   0.005s] 3 tests run: 3 passed, 0 skipped",
                counts(3, 0, 0),
            ),
            (
                "  Summary [ 1.2s] 1 test run: 1 passed (1 slow, 1 leaky), 7 skipped",
                counts(1, 0, 7),
            ),
            (
                "  Summary [ 9.1s] 4/5 tests run: 1 passed, 1 failed, 1 exec failed, 1 timed out, 2 skipped",
                counts(1, 3, 2),
            ),
            (
                "  \u{1b}[32;1m   Summary\u{1b}[0m [   0.1s] \u{1b}[1m2\u{1b}[0m tests run: \u{1b}[1m2\u{1b}[0m \u{1b}[32;1mpassed\u{1b}[0m, \u{1b}[1m0\u{1b}[0m skipped",
                counts(2, 0, 0),
            ),
            (
                "  Summary [ 1.0s] 0 tests run: 0 passed, 12 skipped",
                counts(0, 0, 12),
            ),
        ];
        for (line, expected) in cases {
            // `Summary [` must be found with and without colour between the two.
            let text = format!("noise\n{line}\nFAIL [0.1s] a::b\n");
            assert_eq!(nextest(&text), Some(expected), "{line}");
        }
    }

    #[test]
    fn an_unknown_label_of_nextest_counts_as_failed() {
        let line = "Summary [ 1s] 2 tests run: 1 passed, 1 exploded, 0 skipped";
        assert_eq!(nextest(line), Some(counts(1, 1, 0)));
    }

    #[test]
    fn without_a_closing_line_nothing_is_known_to_have_run() {
        assert_eq!(nextest("error: could not compile `cellos`"), None);
        assert_eq!(libtest("error: could not compile `cellos`"), None);
    }

    #[test]
    fn adds_up_the_closing_lines_of_every_crate() {
        let text = "\
test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.12s
test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.1s
";
        assert_eq!(libtest(text), Some(counts(5, 2, 1)));
    }

    #[test]
    fn displays_as_the_plain_closing_line() {
        assert_eq!(
            counts(12, 0, 3).to_string(),
            "12 passed, 0 failed, 3 skipped"
        );
    }
}
