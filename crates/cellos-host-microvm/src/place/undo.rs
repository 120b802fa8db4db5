//! Taking apart what a record names.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use cellos_isolation::cgroup::Cgroup;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    mount::UnmountFlags,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::Resource;
use crate::remove::remove_folder_at;

/// How long a killed process may take to end. The kernel has to free its memory: a large machine's
/// takes a second.
const KILL_BOUND: Duration = Duration::from_secs(10);

/// How long a control group may stay busy after its last process has ended.
const EMPTY_BOUND: Duration = Duration::from_secs(2);

/// Between two looks at a busy control group.
const EMPTY_INTERVAL: Duration = Duration::from_millis(5);

/// What came of undoing a record: one line for each thing.
#[derive(Debug, Default)]
pub(crate) struct Undone {
    pub(crate) removed: Vec<String>,
    pub(crate) left: Vec<String>,
}

/// Ends and removes everything that a record names, the last first, and then its folder. What is
/// gone already is not mentioned.
pub(crate) fn undo(folder: &Path, resources: &[Resource]) -> Undone {
    let mut undone = Undone::default();
    // Processes go first whatever their place: nothing that they use can be removed before.
    let processes = |resource: &&Resource| matches!(resource, Resource::Process { .. });
    let others = |resource: &&Resource| !matches!(resource, Resource::Process { .. });
    for resource in resources
        .iter()
        .rev()
        .filter(processes)
        .chain(resources.iter().rev().filter(others))
    {
        undone.note(name_of(resource), undo_one(resource));
    }
    if undone.left.is_empty() {
        undone.note(
            format!("folder {}", folder.display()),
            // A monitor had a part of it to itself.
            existed(remove_folder_at(folder)),
        );
    } else {
        // The record stays, so that the rest can be undone later.
        undone.left.push(format!("folder {}", folder.display()));
    }
    undone
}

impl Undone {
    fn note(&mut self, name: String, result: io::Result<Found>) {
        match result {
            Ok(Found::Removed) => self.removed.push(name),
            Ok(Found::Nothing) => {}
            Err(error) => self.left.push(format!("{name}: {error}")),
        }
    }
}

/// Whether there was something.
enum Found {
    Removed,
    Nothing,
}

fn existed(result: io::Result<()>) -> io::Result<Found> {
    match result {
        Ok(()) => Ok(Found::Removed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(error),
    }
}

fn name_of(resource: &Resource) -> String {
    match resource {
        Resource::Process { pid, .. } => format!("process {pid}"),
        Resource::ControlGroup { path } => format!("control group {}", path.display()),
        Resource::Folder { path } => format!("folder {}", path.display()),
        Resource::File { path } => format!("file {}", path.display()),
        Resource::NamespaceFile { path } => format!("namespace {}", path.display()),
    }
}

fn undo_one(resource: &Resource) -> io::Result<Found> {
    match resource {
        Resource::Process { pid, start_time } => kill(*pid, *start_time),
        Resource::ControlGroup { path } => remove_group(path),
        Resource::Folder { path } => existed(remove_folder_at(path)),
        Resource::File { path } => existed(fs::remove_file(path)),
        Resource::NamespaceFile { path } => {
            match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                // Nothing is mounted there, or nothing is there.
                Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            existed(fs::remove_file(path))
        }
    }
}

/// Kills exactly the process that was noted: its number is turned into a descriptor first, and its
/// start compared after that, so that no other process of the number can slip in between.
fn kill(pid: u32, start_time: u64) -> io::Result<Found> {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Ok(Found::Nothing);
    };
    let process = match pidfd_open(number, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(Found::Nothing),
        Err(error) => return Err(error.into()),
    };
    if crate::process::start_time(pid) != Some(start_time) {
        return Ok(Found::Nothing);
    }
    match pidfd_send_signal(&process, Signal::KILL) {
        Ok(()) => {}
        Err(rustix::io::Errno::SRCH) => return Ok(Found::Nothing),
        Err(error) => return Err(error.into()),
    }
    let bound = Timespec {
        tv_sec: i64::try_from(KILL_BOUND.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    let ended = rustix::io::retry_on_intr(|| {
        poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&bound))
    })?;
    if ended == 0 {
        return Err(io::Error::other(format!(
            "still there {KILL_BOUND:?} after SIGKILL"
        )));
    }
    Ok(Found::Removed)
}

fn remove_group(path: &Path) -> io::Result<Found> {
    if !path.exists() {
        return Ok(Found::Nothing);
    }
    let group = Cgroup::open([path]).map_err(io::Error::other)?;
    let _ = group.kill();
    let begun = Instant::now();
    loop {
        match group.remove() {
            Ok(()) => return Ok(Found::Removed),
            Err(_) if begun.elapsed() < EMPTY_BOUND => std::thread::sleep(EMPTY_INTERVAL),
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}
