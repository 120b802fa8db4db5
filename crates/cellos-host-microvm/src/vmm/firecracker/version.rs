//! Which Firecracker this is, as it says itself.

use std::{
    fmt,
    io::Read as _,
    os::fd::{AsFd as _, AsRawFd as _},
    process::{Command, Stdio},
    time::Duration,
};

use cellos_core::ports::workload::GuestExecution;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::NAME;
use crate::{artifacts::Artifact, vmm::VmmError};

/// The oldest that is used: 1.14 has no known hole of its jailer or its vsock device, and the
/// bodies sent here mean the same in it as in [`RESTORES`].
pub(crate) const MINIMUM: Version = Version([1, 14, 0]);

/// The oldest whose snapshots are used. Restored guests of 1.15 took a port of the vsock device
/// twice, and those of 1.16.0 were silent for ever.
pub(crate) const RESTORES: Version = Version([1, 16, 1]);

/// How long a program may take to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of its answer that are read.
const MAX_ANSWER_BYTES: u64 = 4 << 10;

/// What the stand-in of the tests says of itself, besides a version.
const STAND_IN: &str = "CellOS's fake VMM";

/// Major, minor and patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) [u16; 3]);

/// What a program said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) version: Version,
    pub(crate) execution: GuestExecution,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// Asks the programs for their versions and compares them.
///
/// # Errors
/// [`VmmError::Unusable`] for one that is too old, for a jailer of another version, and for
/// answers that are none.
pub(crate) fn ask(monitor: &Artifact, jailer: Option<&Artifact>) -> Result<Said, VmmError> {
    let said = parse(&answer(monitor)?).ok_or_else(|| unusable(no_version(monitor)))?;
    let of_jailer = match jailer {
        Some(jailer) => {
            let said = parse(&answer(jailer)?).ok_or_else(|| unusable(no_version(jailer)))?;
            Some(said.version)
        }
        None => None,
    };
    check(said.version, of_jailer).map_err(unusable)?;
    Ok(said)
}

fn check(monitor: Version, jailer: Option<Version>) -> Result<(), String> {
    if monitor < MINIMUM {
        return Err(format!(
            "it is version {monitor}, and {MINIMUM} is the oldest that is used"
        ));
    }
    match jailer {
        Some(jailer) if jailer != monitor => Err(format!(
            "it is version {monitor} and its jailer version {jailer}; a jailer goes with the \
             Firecracker of its own release"
        )),
        _ => Ok(()),
    }
}

/// The version of a first line like `Firecracker v1.16.1`, and who speaks.
fn parse(answer: &str) -> Option<Said> {
    let word = answer.lines().next()?.split_whitespace().last()?;
    let number = word.strip_prefix('v').unwrap_or(word);
    // Builds between releases add where they were made from: `1.17.0-dev`, `1.16.1-12-gabcdef`.
    let number = number.split('-').next()?;
    let parts: Vec<u16> = number
        .split('.')
        .map(|part| part.parse().ok())
        .collect::<Option<_>>()?;
    Some(Said {
        version: Version(parts.try_into().ok()?),
        execution: if answer.contains(STAND_IN) {
            GuestExecution::Fake
        } else {
            GuestExecution::Kvm
        },
    })
}

/// What a program prints for `--version`: the very file that was measured, with nothing of our
/// environment, within [`VERSION_TIMEOUT`].
fn answer(program: &Artifact) -> Result<String, VmmError> {
    let failed = |source| VmmError::Host {
        step: format!("ask {} for its version", program.path.display()),
        source,
    };
    let mut child = Command::new(executable(program))
        .arg("--version")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let ended = has_ended(child.id());
    if !matches!(ended, Ok(true)) {
        let _ = child.kill();
    }
    let waited = child.wait().map_err(failed);
    if !ended.map_err(failed)? {
        return Err(VmmError::Timeout {
            monitor: NAME,
            request: format!("{} --version", program.path.display()),
            bound: VERSION_TIMEOUT,
        });
    }
    let mut text = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(MAX_ANSWER_BYTES)
            .read_to_end(&mut text)
            .map_err(failed)?;
    }
    let status = waited?;
    if !status.success() {
        return Err(unusable(format!(
            "{} --version ended with {status}",
            program.path.display()
        )));
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// A path that leads to the measured file itself, in this process and in children until they
/// execute it.
pub(crate) fn executable(program: &Artifact) -> String {
    format!("/proc/self/fd/{}", program.file.as_raw_fd())
}

fn has_ended(pid: u32) -> std::io::Result<bool> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(std::io::ErrorKind::InvalidInput)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let mut waited = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    let bound = Timespec {
        tv_sec: VERSION_TIMEOUT.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    Ok(poll(&mut waited, Some(&bound))? > 0)
}

fn no_version(program: &Artifact) -> String {
    format!(
        "{} did not say a version for --version",
        program.path.display()
    )
}

fn unusable(why: String) -> VmmError {
    VmmError::Unusable { monitor: NAME, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_programs_print_them() {
        for (answer, version, execution) in [
            (
                "Firecracker v1.16.1\n\nSupported snapshot data format versions: v8.0.0\n",
                [1, 16, 1],
                GuestExecution::Kvm,
            ),
            ("Jailer v1.14.0", [1, 14, 0], GuestExecution::Kvm),
            ("Firecracker v1.17.0-dev", [1, 17, 0], GuestExecution::Kvm),
            (
                "Firecracker v1.16.1\nThis is CellOS's fake VMM, for tests; it isolates nothing.\n",
                [1, 16, 1],
                GuestExecution::Fake,
            ),
        ] {
            let said = parse(answer).unwrap();
            assert_eq!(
                said,
                Said {
                    version: Version(version),
                    execution
                },
                "{answer}"
            );
        }
        for nonsense in ["", "Firecracker", "Firecracker v1.16", "1.2.3.4", "v1.-1.2"] {
            assert_eq!(parse(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn old_ones_and_jailers_of_another_release_are_refused() {
        let good = Version([1, 16, 1]);
        check(good, None).unwrap();
        check(good, Some(good)).unwrap();
        let refused = check(good, Some(Version([1, 16, 0]))).unwrap_err();
        assert!(refused.contains("jailer version 1.16.0"), "{refused}");
        let refused = check(Version([1, 13, 9]), None).unwrap_err();
        assert!(refused.contains("1.14.0 is the oldest"), "{refused}");
    }

    #[test]
    fn versions_are_ordered_by_number() {
        assert!(Version([1, 9, 9]) < MINIMUM);
        assert!(Version([1, 16, 0]) < RESTORES);
        assert!(Version([1, 100, 0]) > RESTORES);
    }
}
