//! Runs one test again in a process of its own, where nothing else opens files or starts threads,
//! or behind a command such as `unshare`.

use std::{
    env,
    io::Write,
    process::{Command, Stdio},
};

/// Names, in the child, the test that it was started for.
const MARK: &str = "CELLOS_TESTKIT_ALONE";
/// The child writes this line when it has run the test, so that a wrong name cannot pass for a
/// success: the harness exits with 0 when no test matches.
const RAN: &str = "cellos-testkit: ran alone";

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Place {
    /// The child: run the body, then call [`finished`].
    Alone,
    /// The parent: the child has run; this is what came of it.
    Parent(Result<(), String>),
}

/// Runs the test `test` (its path as the harness prints it, see [`test_name!`](crate::test_name))
/// again in a child process, behind `command` if that is not empty: `["unshare", "-m"]`.
#[must_use]
pub fn rerun(test: &str, command: &[&str]) -> Place {
    if env::var(MARK).is_ok_and(|name| name == test) {
        return Place::Alone;
    }
    Place::Parent(run_child(test, command))
}

/// Tells the parent that the body ran to its end.
pub fn finished() {
    // Past the harness's capture; the parent fails the test when the line does not arrive.
    let _ = writeln!(std::io::stdout(), "{RAN}");
}

fn run_child(test: &str, command: &[&str]) -> Result<(), String> {
    let program = env::current_exe().map_err(|error| format!("the test's own program: {error}"))?;
    let mut child = match command.split_first() {
        None => Command::new(&program),
        Some((first, rest)) => {
            let mut wrapped = Command::new(first);
            wrapped.args(rest).arg(&program);
            wrapped
        }
    };
    let output = child
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(MARK, test)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {test} in a child: {error}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    for line in stderr.lines().filter(|line| line.starts_with("SKIPPED ")) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    match (output.status.success(), stdout.contains(RAN)) {
        (true, true) => Ok(()),
        (true, false) => Err(format!(
            "the child did not run {test:?}\nstdout: {stdout}\nstderr: {stderr}"
        )),
        (false, _) => Err(format!(
            "in a process of its own ({}):\nstdout: {stdout}\nstderr: {stderr}",
            output.status
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_in_another_process() {
        let parent = std::process::id();
        match rerun(crate::test_name!(), &["env", &format!("PARENT={parent}")]) {
            Place::Alone => {
                assert_ne!(env::var("PARENT").unwrap(), std::process::id().to_string());
                finished();
            }
            Place::Parent(result) => result.unwrap(),
        }
    }

    #[test]
    fn reports_a_failure_of_the_child() {
        match rerun(crate::test_name!(), &[]) {
            Place::Alone => panic!("on purpose"),
            Place::Parent(result) => assert!(result.unwrap_err().contains("on purpose")),
        }
    }

    #[test]
    fn a_name_that_matches_nothing_is_a_failure() {
        match rerun("alone::tests::there_is_no_such_test", &[]) {
            Place::Alone => unreachable!("the child runs no test"),
            Place::Parent(result) => {
                assert!(result.unwrap_err().contains("did not run"));
            }
        }
    }
}
