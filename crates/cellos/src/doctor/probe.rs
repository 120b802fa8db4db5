//! Tries things that change the process that tries them, in a process of their own: this program,
//! re-executed. It prints `ok`, with details where there are any, or the kernel's error.

use std::process::{Command, ExitCode, Stdio};

use rustix::thread::UnshareFlags;

/// First argument of the helper.
pub(crate) const ARGUMENT: &str = "__doctor-probe";

/// A thing to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    User,
    Mount,
    Pid,
    Network,
    Ipc,
    Uts,
    Cgroup,
    Landlock,
}

impl Probe {
    /// The namespaces of a cell.
    pub(crate) const NAMESPACES: [Self; 7] = [
        Self::User,
        Self::Mount,
        Self::Pid,
        Self::Network,
        Self::Ipc,
        Self::Uts,
        Self::Cgroup,
    ];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Mount => "mount",
            Self::Pid => "pid",
            Self::Network => "network",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::Landlock => "landlock",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::NAMESPACES
            .into_iter()
            .chain([Self::Landlock])
            .find(|probe| probe.name() == name)
    }

    fn attempt(self) -> Result<String, String> {
        // Each kind together with the user namespace that allows it to everybody.
        let with_user = |kind: UnshareFlags| {
            unshare(UnshareFlags::NEWUSER | kind)
                .map(|()| String::new())
                .map_err(|errno| errno.to_string())
        };
        match self {
            Self::User => with_user(UnshareFlags::empty()),
            Self::Mount => with_user(UnshareFlags::NEWNS),
            Self::Pid => with_user(UnshareFlags::NEWPID),
            Self::Network => with_user(UnshareFlags::NEWNET),
            Self::Ipc => with_user(UnshareFlags::NEWIPC),
            Self::Uts => with_user(UnshareFlags::NEWUTS),
            Self::Cgroup => with_user(UnshareFlags::NEWCGROUP),
            Self::Landlock => super::sandbox::restrict_with_landlock(),
        }
    }

    /// Tries it in a process of its own.
    pub(crate) fn try_out(self) -> Result<String, String> {
        let output = Command::new("/proc/self/exe")
            .args([ARGUMENT, self.name()])
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot be tried: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() {
            Ok(text)
        } else if text.is_empty() {
            Err(format!("cannot be tried: {}", output.status))
        } else {
            Err(text)
        }
    }
}

/// Moves this process into new namespaces.
#[allow(
    deprecated,
    reason = "what makes it unsound is CLONE_FILES, which is never given here"
)]
fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    rustix::thread::unshare(flags)
}

/// The helper process.
pub(crate) fn main() -> ExitCode {
    let name = std::env::args().nth(2).unwrap_or_default();
    let result = Probe::named(&name).map_or_else(|| Err("unknown".into()), Probe::attempt);
    match result {
        Ok(details) => {
            println!("{details}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}
