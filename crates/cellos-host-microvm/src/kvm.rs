//! Whether KVM runs guests here.
//!
//! A `/dev/kvm` that opens proves nothing: inside a virtual machine it may belong to a module that
//! runs only guests made for it (`kvm_pvm`), and makes virtual machines all the same. So an
//! ordinary kernel is booted until it misses its root file system.

use std::{fs::File, io, path::Path, time::Duration};

use crate::vmm::{BootOrder, Driver, MonitorEnd, VmmError, process::describe};

/// The device.
const DEVICE: &str = "/dev/kvm";

/// A module that makes [`DEVICE`] and runs only paravirtualised guests.
const PARAVIRTUAL_MODULE: &str = "/sys/module/kvm_pvm";

/// How long a kernel may take until it misses its root file system. With KVM it needs less than
/// a second.
pub(crate) const TRIAL_BOUND: Duration = Duration::from_secs(10);

/// What a kernel says when it has come as far as it can without a root file system.
const LAST_WORDS: &str = "Kernel panic - not syncing: VFS";

/// Longest end of a console that is quoted, in characters.
const QUOTED_CHARS: usize = 200;

/// Whether KVM runs guests here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KvmVerdict {
    /// There is no device.
    #[error("there is no /dev/kvm (load kvm_intel or kvm_amd, or turn on nested virtualisation)")]
    Absent,
    /// It may not be opened.
    #[error("/dev/kvm cannot be opened: {why} (add this user to the group kvm)")]
    NoAccess {
        /// The kernel's answer.
        why: String,
    },
    /// It opens, and a guest did not run.
    #[error("/dev/kvm opens but cannot run guests: {why}")]
    OpensButCannotRunGuests {
        /// What was tried or seen.
        why: String,
    },
    /// It opens and nothing speaks against it, but no guest was tried.
    #[error("/dev/kvm opens; whether it runs guests was not tried")]
    Untried,
    /// A guest ran.
    #[error("/dev/kvm runs guests")]
    Works,
}

impl KvmVerdict {
    /// What can be seen without booting anything.
    #[must_use]
    pub fn at_a_glance() -> Self {
        match File::options().read(true).write(true).open(DEVICE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Absent,
            Err(error) => Self::NoAccess {
                why: error.to_string(),
            },
            Ok(_) if Path::new(PARAVIRTUAL_MODULE).exists() => Self::OpensButCannotRunGuests {
                why: format!("{PARAVIRTUAL_MODULE}: only guests made for this host run"),
            },
            Ok(_) => Self::Untried,
        }
    }
}

/// Tries it: boots a kernel by `driver`, which uses KVM, without anything to go on with. The
/// order's initial RAM disk has to be absent.
///
/// What a glance says against it is enough, and what it says for it is not. The verdict holds for
/// this moment: whoever keeps it keeps it no longer than its process.
pub(crate) async fn probe(driver: &dyn Driver, order: BootOrder<'_>) -> KvmVerdict {
    match KvmVerdict::at_a_glance() {
        KvmVerdict::Untried => match trial(driver, order, TRIAL_BOUND).await {
            Ok(()) => KvmVerdict::Works,
            Err(why) => KvmVerdict::OpensButCannotRunGuests { why },
        },
        verdict => verdict,
    }
}

/// Boots a kernel until it misses its root file system, within `bound`.
///
/// # Errors
/// Why not, in words.
pub(crate) async fn trial(
    driver: &dyn Driver,
    order: BootOrder<'_>,
    bound: Duration,
) -> Result<(), String> {
    let machine = driver
        .boot(order)
        .await
        .map_err(|error: VmmError| error.to_string())?;
    let end = tokio::time::timeout(bound, machine.ended()).await;
    let console = machine.console_tail();
    let left = machine.remove().await;
    if !left.is_empty() {
        return Err(format!("the trial left {}", left.join("; ")));
    }
    judge(end.ok(), &console)
}

fn judge(end: Option<MonitorEnd>, console: &str) -> Result<(), String> {
    let count = console.chars().count();
    let tail = console.chars().skip(count.saturating_sub(QUOTED_CHARS));
    let quoted = tail.collect::<String>().replace('\n', " ");
    let quoted = match quoted.trim() {
        "" => "the guest wrote nothing".to_owned(),
        text => format!("the guest wrote last: {text}"),
    };
    match end {
        // The guest's own reset ends the monitor, after these words.
        Some(MonitorEnd(Some(status))) if status.success() && console.contains(LAST_WORDS) => {
            Ok(())
        }
        Some(end) => Err(format!("the monitor ended ({}); {quoted}", describe(end))),
        None => Err(format!(
            "a kernel did not get to its root file system in time; {quoted}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus};

    use super::*;

    #[test]
    fn only_a_kernel_that_missed_its_root_and_reset_the_machine_is_a_guest_that_ran() {
        let ended = |raw| Some(MonitorEnd(Some(ExitStatus::from_raw(raw))));
        let missed = "[ 0.3] Kernel panic - not syncing: VFS: Unable to mount root fs";
        assert_eq!(judge(ended(0), missed), Ok(()));
        for (end, console) in [
            (ended(9), missed),
            (ended(0), "KVM internal error. Suberror: 3"),
            (ended(0), ""),
            (ended(256), missed),
            (Some(MonitorEnd(None)), missed),
            (None, missed),
            (None, ""),
        ] {
            assert!(judge(end, console).is_err(), "{end:?} {console}");
        }
    }

    #[test]
    fn a_glance_never_says_that_it_works() {
        let verdict = KvmVerdict::at_a_glance();
        assert_ne!(verdict, KvmVerdict::Works);
        let module = Path::new(PARAVIRTUAL_MODULE).exists();
        assert!(!module || verdict != KvmVerdict::Untried, "{verdict}");
    }
}
