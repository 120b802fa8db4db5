//! What each step of the gate came to, and the closing lines that a person and a machine read.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::counts::TestCounts;
use crate::error::TaskError;
use crate::skips::Skip;

/// How one step ended.
pub(crate) enum Outcome {
    /// It held; a few words about what was seen.
    Held(String),
    /// Tests ran. They may have failed.
    Tests(TestCounts, Vec<Skip>),
    /// It could not be done here.
    Skipped(String),
    /// It did not hold.
    Failed(String),
}

struct Step {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

/// The steps so far.
#[derive(Default)]
pub(crate) struct Report {
    steps: Vec<Step>,
}

impl Report {
    /// Runs one step with a heading before it and its result after it. `true`: it held.
    pub(crate) fn step(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> Result<Outcome, TaskError>,
    ) -> bool {
        eprintln!("\n── {name}");
        let started = Instant::now();
        let outcome = work().unwrap_or_else(|error| Outcome::Failed(error.to_string()));
        let step = Step {
            name,
            outcome,
            took: started.elapsed(),
        };
        let held = step.held();
        eprintln!("   {}: {} ({})", name, step.words(), seconds(step.took));
        self.steps.push(step);
        held
    }

    /// Notes a step that was not tried because of an earlier one.
    pub(crate) fn not_tried(&mut self, name: &'static str, why: &str) {
        self.steps.push(Step {
            name,
            outcome: Outcome::Skipped(why.to_owned()),
            took: Duration::ZERO,
        });
    }

    /// Whether every step held or was skipped for a stated reason.
    pub(crate) fn held(&self) -> bool {
        self.steps.iter().all(Step::held)
    }

    /// The table of steps, the skipped tests with their reasons, and the closing line.
    pub(crate) fn summary(&self) -> String {
        let width = |text: &str| text.chars().count();
        let column = self.steps.iter().map(|step| width(step.name)).max();
        let column = column.unwrap_or(0);
        let mut text = String::from("\n── summary\n");
        for step in &self.steps {
            let padding = " ".repeat(column.saturating_sub(width(step.name)));
            let _ = writeln!(
                text,
                "{} {}{padding}  {:>8}  {}",
                step.mark(),
                step.name,
                seconds(step.took),
                step.words().replace('\n', "\n             ")
            );
        }
        let mut total = TestCounts::default();
        for step in &self.steps {
            let Outcome::Tests(counts, skips) = &step.outcome else {
                continue;
            };
            total += *counts;
            if !skips.is_empty() {
                let _ = writeln!(text, "\nskipped in {}:", step.name);
            }
            for skip in skips {
                let _ = writeln!(text, "  {}: {}", skip.test, skip.reason);
            }
        }
        let _ = writeln!(text, "\n{total}");
        text
    }
}

impl Step {
    fn held(&self) -> bool {
        match &self.outcome {
            Outcome::Held(_) | Outcome::Skipped(_) => true,
            Outcome::Tests(counts, _) => counts.failed == 0,
            Outcome::Failed(_) => false,
        }
    }

    fn mark(&self) -> &'static str {
        match &self.outcome {
            Outcome::Skipped(_) => "skip",
            _ if self.held() => "ok  ",
            _ => "FAIL",
        }
    }

    fn words(&self) -> String {
        match &self.outcome {
            Outcome::Held(words) | Outcome::Failed(words) => words.clone(),
            Outcome::Skipped(why) => format!("not done: {why}"),
            Outcome::Tests(counts, _) => counts.to_string(),
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tests(passed: u64, failed: u64, skipped: u64) -> Outcome {
        Outcome::Tests(
            TestCounts {
                passed,
                failed,
                skipped,
            },
            Vec::new(),
        )
    }

    #[test]
    fn the_last_line_sums_all_test_steps() {
        let mut report = Report::default();
        report.step("unit", || Ok(tests(3, 0, 1)));
        report.step("doc", || Ok(tests(2, 0, 0)));
        assert!(report.held());
        assert_eq!(
            report.summary().lines().last(),
            Some("5 passed, 0 failed, 1 skipped")
        );
    }

    #[test]
    fn a_failed_test_or_step_breaks_the_report() {
        let mut failed_test = Report::default();
        assert!(!failed_test.step("unit", || Ok(tests(3, 1, 0))));
        assert!(!failed_test.held());

        let mut error = Report::default();
        assert!(!error.step("deny", || Err(TaskError::usage("a licence"))));
        assert!(!error.held());
        assert!(error.summary().contains("FAIL deny"));
        assert!(error.summary().contains("a licence"));
    }

    #[test]
    fn skipped_steps_and_tests_are_listed_with_their_reasons() {
        let mut report = Report::default();
        report.not_tried("rootless", "not root");
        report.step("unit", || {
            Ok(Outcome::Tests(
                TestCounts::default(),
                vec![Skip {
                    test: "a::b".to_owned(),
                    reason: "no KVM".to_owned(),
                }],
            ))
        });
        let summary = report.summary();
        assert!(report.held());
        assert!(summary.contains("not done: not root"), "{summary}");
        assert!(
            summary.contains("skipped in unit:\n  a::b: no KVM"),
            "{summary}"
        );
    }
}
