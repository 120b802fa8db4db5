//! Small processes that start and time the contenders.
//!
//! Every contender is started by a runner of its own, never by the benchmark itself: all pay for
//! the same spawn from an equally small process, and one of them may live in another mount
//! namespace without any contender paying for entering it. A runner reads one command a line (a
//! JSON array) from standard input, runs it to its end with its output discarded, and answers with
//! one line: nanoseconds and the exit code.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::error::TaskError;

/// The hidden task that a runner executes.
pub(crate) const TASK: &str = "run-and-time";

/// Where a contender is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// As anything on this machine.
    Here,
    /// In a mount namespace without the cgroup v2 tree of a hybrid layout, which crun refuses.
    WithoutHybridCgroup2,
}

/// The v2 tree of a hybrid layout, as systemd and its likes mount it.
const HYBRID_CGROUP2: &str = "/sys/fs/cgroup/unified";

/// Prefixes a command so that it runs in its place.
pub(crate) fn placed(place: Place, program: &Path) -> Command {
    if place == Place::Here || !Path::new(HYBRID_CGROUP2).exists() {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(format!("umount {HYBRID_CGROUP2} && exec \"$0\" \"$@\""))
        .arg(program);
    command
}

/// A running runner.
pub(crate) struct Runner {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Runner {
    pub(crate) fn start(place: Place) -> Result<Self, TaskError> {
        let own = Path::new("/proc/self/exe");
        let program = std::fs::read_link(own).map_err(TaskError::file("read", own))?;
        let start = |source| TaskError::Start {
            program: format!("xtask {TASK}"),
            source,
        };
        let mut child = placed(place, &program)
            .arg(TASK)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(start)?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(requests), Some(answers)) => Ok(Self {
                child,
                requests,
                answers: BufReader::new(answers),
            }),
            _ => Err(start(std::io::Error::other("no pipes"))),
        }
    }

    /// The time from spawn to exit. The inner error is the contender's, the outer the runner's.
    pub(crate) fn measure(
        &mut self,
        argv: &[String],
    ) -> Result<Result<Duration, String>, TaskError> {
        let broken = |why: String| TaskError::unreadable(format!("xtask {TASK}"), why);
        let request = serde_json::Value::from(argv).to_string();
        writeln!(self.requests, "{request}").map_err(|error| broken(error.to_string()))?;
        let mut answer = String::new();
        self.answers
            .read_line(&mut answer)
            .map_err(|error| broken(error.to_string()))?;
        parse_answer(&answer).ok_or_else(|| broken(format!("it answered {answer:?}")))
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parse_answer(answer: &str) -> Option<Result<Duration, String>> {
    let (nanoseconds, code) = answer.trim().split_once(' ')?;
    let took = Duration::from_nanos(nanoseconds.parse().ok()?);
    Some(match code {
        "0" => Ok(took),
        other => Err(format!("ended with {other}")),
    })
}

/// The runner's side.
pub(crate) fn serve() -> Result<ExitCode, TaskError> {
    let stdin = std::io::stdin();
    let mut stdout = std::io::stdout();
    for line in stdin.lock().lines() {
        let line = line.map_err(|error| TaskError::unreadable("a request", error.to_string()))?;
        let argv: Vec<String> = serde_json::from_str::<serde_json::Value>(&line)
            .ok()
            .and_then(|value| {
                let words = value.as_array()?;
                words
                    .iter()
                    .map(|word| word.as_str().map(str::to_owned))
                    .collect()
            })
            .ok_or_else(|| TaskError::unreadable("a request", "not an array of strings"))?;
        let answer = time(&argv);
        writeln!(stdout, "{answer}")
            .and_then(|()| stdout.flush())
            .map_err(|error| TaskError::unreadable("an answer", error.to_string()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn time(argv: &[String]) -> String {
    let Some((program, arguments)) = argv.split_first() else {
        return "0 empty".to_owned();
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let started = Instant::now();
    let status = command.status();
    let took = started.elapsed().as_nanos();
    match status {
        Ok(status) => match status.code() {
            Some(code) => format!("{took} {code}"),
            None => format!("{took} signal"),
        },
        Err(error) => format!("{took} {}", error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_time_or_the_contenders_failure() {
        assert_eq!(
            parse_answer("1500 0\n"),
            Some(Ok(Duration::from_nanos(1500)))
        );
        assert_eq!(
            parse_answer("9 125\n"),
            Some(Err("ended with 125".to_owned()))
        );
        assert_eq!(parse_answer(""), None);
        assert_eq!(parse_answer("soon 0"), None);
    }

    #[test]
    fn times_a_real_program_and_reports_its_exit_code() {
        let argv = |words: &[&str]| {
            words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        let slept = parse_answer(&time(&argv(&["sleep", "0.05"])))
            .unwrap()
            .unwrap();
        assert!(slept >= Duration::from_millis(50), "{slept:?}");
        assert!(parse_answer(&time(&argv(&["false"]))).unwrap().is_err());
        assert!(
            parse_answer(&time(&argv(&["/nonexistent"])))
                .unwrap()
                .is_err()
        );
    }
}
