//! Running other programs: loudly, silently, or loudly while keeping what they said.

use std::ffi::OsStr;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use crate::error::TaskError;

/// What a program wrote and how it ended.
pub(crate) struct Captured {
    pub(crate) status: ExitStatus,
    /// Standard output and then standard error.
    pub(crate) text: String,
}

/// The command as a person would type it.
pub(crate) fn display(command: &Command) -> String {
    // Where a program lies is of no interest to the reader.
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let mut words = vec![name.to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| {
        let word = word.to_string_lossy();
        if word.is_empty() || word.contains([' ', '(', '|', '&', '*']) {
            format!("'{word}'")
        } else {
            word.into_owned()
        }
    }));
    words.join(" ")
}

/// Runs with our own output, and fails when the program does.
pub(crate) fn run(command: &mut Command) -> Result<(), TaskError> {
    eprintln!("$ {}", display(command));
    let status = command
        .stdin(Stdio::null())
        .status()
        .map_err(|source| cannot_start(command, source))?;
    succeeded(command, status)
}

/// Runs unseen and gives back standard output; on failure the error carries standard error.
pub(crate) fn output(command: &mut Command) -> Result<String, TaskError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| cannot_start(command, source))?;
    if !output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        succeeded(command, output.status)?;
    }
    String::from_utf8(output.stdout)
        .map_err(|_| TaskError::unreadable(display(command), "its output is not UTF-8"))
}

/// Runs with its output shown as it comes and kept as well. The caller judges the status.
pub(crate) fn tee(command: &mut Command) -> Result<Captured, TaskError> {
    eprintln!("$ {}", display(command));
    if std::io::stderr().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| cannot_start(command, source))?;
    let copies = (child.stdout.take(), child.stderr.take());
    let (out, err) = thread::scope(|scope| {
        let out = scope.spawn(|| copy(copies.0, std::io::stdout()));
        let err = scope.spawn(|| copy(copies.1, std::io::stderr()));
        (
            out.join().unwrap_or_default(),
            err.join().unwrap_or_default(),
        )
    });
    let status = child
        .wait()
        .map_err(|source| cannot_start(command, source))?;
    let mut bytes = out;
    bytes.extend_from_slice(&err);
    Ok(Captured {
        status,
        text: String::from_utf8_lossy(&bytes).into_owned(),
    })
}

/// The error for a status that is not success.
pub(crate) fn succeeded(command: &Command, status: ExitStatus) -> Result<(), TaskError> {
    if status.success() {
        return Ok(());
    }
    Err(TaskError::Failed {
        command: display(command),
        status: status.to_string(),
    })
}

/// Where a program is on the search path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    find_in(std::env::var_os("PATH").as_deref()?, program)
}

fn find_in(search_path: &OsStr, program: &str) -> Option<PathBuf> {
    std::env::split_paths(search_path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// Whether this process is root in the eyes of the kernel's file checks.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    Path::new("/proc/self")
        .metadata()
        .is_ok_and(|metadata| metadata.uid() == 0)
}

fn cannot_start(command: &Command, source: std::io::Error) -> TaskError {
    TaskError::Start {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    }
}

fn copy(from: Option<impl Read>, mut to: impl Write) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut from) = from else { return kept };
    let mut buffer = [0_u8; 8192];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 {
            break;
        }
        let chunk = buffer.get(..length).unwrap_or_default();
        // Our own output may be gone; what was said is still kept and judged.
        let _ = to.write_all(chunk).and_then(|()| to.flush());
        kept.extend_from_slice(chunk);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_a_command_as_it_would_be_typed() {
        let mut command = Command::new("/some/where/cargo");
        command.args(["nextest", "-E", "kind(test) & package(a)"]);
        assert_eq!(
            display(&command),
            "cargo nextest -E 'kind(test) & package(a)'"
        );
    }

    #[test]
    fn tee_keeps_both_streams_and_the_status() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let captured = tee(&mut command).unwrap();
        assert_eq!(captured.status.code(), Some(3));
        assert_eq!(captured.text, "out\nerr\n");
    }

    #[test]
    fn a_missing_program_is_named_in_the_error() {
        let error = run(&mut Command::new("/nonexistent/program")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot start `/nonexistent/program`")
        );
    }

    #[test]
    fn finds_a_program_in_the_first_folder_that_has_it() {
        let first = tempfile::tempdir().unwrap();
        let second = tempfile::tempdir().unwrap();
        let tool = second.path().join("tool");
        std::fs::write(&tool, "").unwrap();
        let path = std::env::join_paths([first.path(), second.path()]).unwrap();
        assert_eq!(find_in(&path, "tool"), Some(tool));
        assert_eq!(find_in(&path, "another"), None);
    }
}
