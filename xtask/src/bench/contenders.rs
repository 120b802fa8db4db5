//! The programs that are compared, each set to isolate as the others do.

use std::path::Path;
use std::process::Stdio;

use super::Measured;
use super::bundle;
use super::options::Options;
use super::runner::{self, Place};
use super::statistics::Distribution;
use crate::error::TaskError;
use crate::process;
use crate::workspace::ScratchFolder;

/// What runs inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    /// Nothing: all that is measured is isolation.
    True,
    /// An interpreter that starts and stops: what a tool call looks like.
    Python,
}

impl Workload {
    pub(crate) const ALL: [Self; 2] = [Self::True, Self::Python];

    pub(crate) fn argv(self) -> &'static [&'static str] {
        match self {
            Self::True => &["/usr/bin/true"],
            Self::Python => &["/usr/bin/python3", "-c", "pass"],
        }
    }
}

/// One way to run a workload.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    /// Why it cannot be run here, or how it is.
    pub(crate) argv: Result<Vec<String>, String>,
}

/// The contender that ratios are against.
pub(crate) const REFERENCE: &str = "bubblewrap";

/// What the names of our own contenders begin with.
pub(crate) const OURS: &str = "cellos run";

/// All namespaces, the read-only system, private /proc, /dev and /tmp, no capabilities, and death
/// with the parent.
const BUBBLEWRAP: &[&str] = &[
    "--unshare-all",
    "--die-with-parent",
    "--new-session",
    "--ro-bind",
    "/usr",
    "/usr",
    "--symlink",
    "usr/bin",
    "/bin",
    "--symlink",
    "usr/sbin",
    "/sbin",
    "--symlink",
    "usr/lib",
    "/lib",
    "--symlink",
    "usr/lib64",
    "/lib64",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "--tmpfs",
    "/tmp",
    "--cap-drop",
    "ALL",
    "--",
];

/// The contenders in the order of the table.
pub(crate) fn all(
    workload: Workload,
    cellos: &Path,
    options: &Options,
    scratch: &ScratchFolder,
) -> Result<Vec<Contender>, TaskError> {
    let cellos = cellos.to_string_lossy().into_owned();
    let events = scratch
        .path()
        .join("events.jsonl")
        .to_string_lossy()
        .into_owned();
    let here = |name, argv| Contender {
        name,
        place: Place::Here,
        argv,
    };
    let mut contenders = vec![
        here("plain process", Ok(words(workload.argv()))),
        here(REFERENCE, bubblewrap(workload)),
        Contender {
            name: "crun",
            place: Place::WithoutHybridCgroup2,
            argv: crun(workload, scratch)?,
        },
        here(
            OURS,
            Ok([
                words(&[&cellos, "run", "--ttl", "60s", "--events", &events, "--"]),
                words(workload.argv()),
            ]
            .concat()),
        ),
    ];
    if let Some(document) = &options.document {
        let document = document.to_string_lossy();
        contenders.push(here(
            "cellos run DOCUMENT",
            Ok(words(&[&cellos, "run", "--events", &events, &document])),
        ));
    }
    Ok(contenders)
}

/// What the reference needed, if it could be measured.
pub(crate) fn reference(measured: &[Measured]) -> Option<Distribution> {
    measured
        .iter()
        .find(|measured| measured.name == REFERENCE)
        .and_then(|measured| measured.result.as_ref().ok().copied())
}

/// Runs a contender once, so that one which does not work here is reported with its own words.
pub(crate) fn try_once(argv: &[String], place: Place) -> Result<(), String> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err("it has no command".to_owned());
    };
    let output = runner::placed(place, Path::new(program))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let first = complaint.lines().find(|line| !line.trim().is_empty());
    Err(format!(
        "{}: {}",
        output.status,
        first.unwrap_or("it said nothing")
    ))
}

fn bubblewrap(workload: Workload) -> Result<Vec<String>, String> {
    let program = installed("bwrap")?;
    Ok([vec![program], words(BUBBLEWRAP), words(workload.argv())].concat())
}

fn crun(
    workload: Workload,
    scratch: &ScratchFolder,
) -> Result<Result<Vec<String>, String>, TaskError> {
    let program = match installed("crun") {
        Ok(program) => program,
        Err(why) => return Ok(Err(why)),
    };
    let name = match workload {
        Workload::True => "true",
        Workload::Python => "python",
    };
    let folder = scratch.path().join(format!("bundle-{name}"));
    bundle::prepare(&folder, workload.argv())?;
    let state = scratch.path().join("crun").to_string_lossy().into_owned();
    let id = format!("cellos-bench-{}-{name}", std::process::id());
    let folder = folder.to_string_lossy();
    Ok(Ok([
        vec![program],
        words(&[
            "--root",
            &state,
            "--cgroup-manager",
            "cgroupfs",
            "run",
            "--bundle",
            &folder,
            &id,
        ]),
    ]
    .concat()))
}

fn installed(program: &str) -> Result<String, String> {
    process::find(program)
        .map(|path| path.to_string_lossy().into_owned())
        .ok_or_else(|| format!("{program} is not installed"))
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contender_that_fails_is_reported_in_its_own_words() {
        let argv = words(&["sh", "-c", "echo 'no such cell' >&2; exit 4"]);
        let why = try_once(&argv, Place::Here).unwrap_err();
        assert_eq!(why, "exit status: 4: no such cell");
        assert!(try_once(&words(&["true"]), Place::Here).is_ok());
    }
}
