//! Runs the program with a clean environment and shows what it did as text for snapshots.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

/// A folder of the test's own, where state, events and documents go.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// `cellos` with these arguments, in this place.
    pub(crate) fn cellos(&self, arguments: &[&str]) -> Command {
        self.command(&cellos_program(), arguments)
    }

    /// `cellos-supervisor` with these arguments, in this place, as the published tests set it up.
    pub(crate) fn supervisor(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&supervisor_program(), arguments);
        command
            .env("CELLOS_DEPLOYMENT_PROFILE", "portable")
            .env("CELL_OS_USE_NOOP_SINK", "1")
            .env("CELLOS_CELL_BACKEND", "stub")
            .env("CELL_OS_JSONL_EVENTS", self.events());
        command
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("CELLOS_STATE_DIR", self.path().join("state"))
            .env("CELLOS_KEY_DIR", self.path().join("keys"))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn events(&self) -> PathBuf {
        self.path().join("events.jsonl")
    }

    /// The types of the logged events, without what they have in common.
    pub(crate) fn event_types(&self) -> Vec<String> {
        cellos_testkit::EventLog::read(self.events())
            .types()
            .into_iter()
            .map(str::to_owned)
            .collect()
    }
}

/// The program under test. Asked for at run time: tests may have been moved since they were built.
pub(crate) fn cellos_program() -> PathBuf {
    program("NEXTEST_BIN_EXE_cellos", env!("CARGO_BIN_EXE_cellos"))
}

fn supervisor_program() -> PathBuf {
    program(
        "NEXTEST_BIN_EXE_cellos-supervisor",
        env!("CARGO_BIN_EXE_cellos-supervisor"),
    )
}

fn program(variable: &str, built: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| built.into(), PathBuf::from)
}

/// A file of this package or, with `..`, of the workspace.
pub(crate) fn source_file(path: &str) -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.join(path)
}

/// Runs it with something on standard input.
pub(crate) fn with_input(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses early does not read all of it.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// What a program did.
pub(crate) fn show(output: &Output) -> String {
    let mut text = format!("exit code {}\n", output.status.code().unwrap());
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        if !bytes.is_empty() {
            text.push_str(&format!("--- {name}\n{}", String::from_utf8_lossy(bytes)));
        }
    }
    text
}

/// Compares with the stored snapshot, with what differs from run to run taken out.
macro_rules! snapshot {
    ($name:expr, $place:expr, $output:expr) => {{
        let mut settings = insta::Settings::clone_current();
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.set_snapshot_path("../snapshots");
        settings.add_filter(&$crate::program::regex_escape($place.path()), "[place]");
        settings.add_filter("[0-9A-HJKMNP-TV-Z]{26}", "[ulid]");
        settings.add_filter("[0-9a-hjkmnp-tv-z]{26}", "[ulid]");
        settings.add_filter(r"cellos( |-supervisor )\d+\.\d+\.\d+", "cellos$1[version]");
        settings.bind(|| insta::assert_snapshot!($name, crate::program::show($output)));
    }};
}
pub(crate) use snapshot;

/// A path as a pattern that matches it alone.
pub(crate) fn regex_escape(path: &Path) -> String {
    path.to_str().unwrap().replace('.', r"\.")
}
