//! Foreign programs that cannot outlive us, whatever they do to themselves.
//!
//! `PR_SET_PDEATHSIG` alone is not enough for a program that changes its user or forks, as a
//! jailer does: both clear it (PR_SET_PDEATHSIG(2const)). So the program runs in a PID namespace
//! of its own, whose first process is ours and keeps the setting:
//!
//! ```text
//! us ── keeper: dies with us, ends as the program ended
//!          └─ init, PID 1 of the namespace: dies with the keeper, reaps
//!               └─ the program and whatever it leaves
//! ```
//!
//! When the init dies, the kernel kills everything in the namespace. The keeper is what
//! [`std::process::Child`] stands for, so its exit status is the program's own, also where the
//! program put another in its place and ended, as a jailer with `--new-pid-ns` does.

use std::{
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, Command, ExitStatus},
    sync::{Arc, OnceLock, mpsc},
    thread,
};

use crate::{cgroup::Cgroup, sys};

/// What a tethered program gets besides its PID namespace.
#[derive(Debug)]
pub struct Tether {
    /// Control groups that the init joins before the program starts, so that everything in the
    /// namespace is in them from its first instruction.
    pub groups: Arc<Cgroup>,
    /// The program's network.
    pub network: Network,
    /// Stays open until the namespace is gone: the lock file of something that the program uses.
    pub held: Option<OwnedFd>,
}

/// The network of a tethered program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// A new namespace with a loopback device that is down.
    Empty,
    /// The caller's.
    Shared,
}

/// Where keeper and init have their connection.
const LINK: RawFd = 3;
/// Where the init has what it holds.
const HELD: RawFd = 4;
/// First number of temporary duplicates, above both.
const ABOVE: RawFd = 10;

/// Starts a program tethered, and without a way to new privileges. Where we are not root, it also
/// gets a user namespace, without which there are no others, and stays the same user. The command may have no
/// `pre_exec` of its own that runs later than this.
///
/// # Errors
/// As [`Command::spawn`], and the kernel's refusal of a namespace or group.
pub fn spawn(mut command: Command, tether: Tether) -> io::Result<Child> {
    // A parent's death is that of the thread that forked, so one that never ends does it.
    let (answer, answered) = mpsc::sync_channel(1);
    let job: Job = Box::new(move || {
        let spawned = spawn_here(&mut command, &tether);
        // Before the answer: whoever gets an error must find free what was lent.
        drop((command, tether));
        let _ = answer.send(spawned);
    });
    let gone = || io::Error::other("the thread that starts programs has ended");
    spawner()?.send(job).map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}

type Job = Box<dyn FnOnce() + Send>;

fn spawner() -> io::Result<&'static mpsc::Sender<Job>> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    if let Some(spawner) = SPAWNER.get() {
        return Ok(spawner);
    }
    let (jobs, next) = mpsc::channel::<Job>();
    thread::Builder::new()
        .name("spawner".into())
        .spawn(move || next.into_iter().for_each(|job| job()))?;
    // Of two at the same time, one is not used; its thread ends having done nothing.
    Ok(SPAWNER.get_or_init(|| jobs))
}

fn spawn_here(command: &mut Command, tether: &Tether) -> io::Result<Child> {
    let (keeper_end, init_end) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    let ends = [keeper_end.as_raw_fd(), init_end.as_raw_fd()];
    let held = tether.held.as_ref().map(|held| held.as_raw_fd());
    let groups = Arc::clone(&tether.groups);
    let network = tether.network;
    let us = std::process::id();
    let map = (!rustix::process::geteuid().is_root()).then(IdentityMap::of_caller);
    // Away from the terminal's group: an interrupt typed there is for us to pass on.
    command.process_group(0);
    // SAFETY: the closure runs in the forked child and makes system calls only; what it needs was
    // prepared here. Joining a group allocates only when it fails, and glibc's fork leaves the
    // allocator usable.
    unsafe {
        command.pre_exec(move || enter(us, ends, held, &groups, network, map.as_ref()));
    }
    command.spawn()
}

/// Runs in the forked child, which becomes the keeper; returns in the program's process alone, or
/// with an error, which std then reports to [`Command::spawn`].
fn enter(
    us: u32,
    [keeper_end, init_end]: [RawFd; 2],
    held: Option<RawFd>,
    groups: &Cgroup,
    network: Network,
    map: Option<&IdentityMap>,
) -> io::Result<()> {
    die_with_parent()?;
    // Parents that died before that are not signalled any more.
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned()) != Some(us)
    {
        return Err(io::Error::from(io::ErrorKind::BrokenPipe));
    }
    if let Some(map) = map {
        unshare(libc::CLONE_NEWUSER)?;
        map.write()?;
        // Whether the kernel takes that for a change of the user is its own matter.
        die_with_parent()?;
    }
    unshare(libc::CLONE_NEWPID)?;
    // SAFETY: this process has one thread, the one that std forked.
    if let Some(init) = unsafe { sys::fork() }? {
        keep_only(keeper_end, None);
        keep(init);
    }
    die_with_parent()?;
    if is_alone(init_end, keeper_end)? {
        return Err(io::Error::from(io::ErrorKind::BrokenPipe));
    }
    if network == Network::Empty {
        unshare(libc::CLONE_NEWNET)?;
    }
    groups.join_from_child().map_err(|error| match error {
        crate::cgroup::CgroupError::Io { source, .. } => source,
        other => io::Error::other(other),
    })?;
    // SAFETY: as above.
    let Some(program) = (unsafe { sys::fork() })? else {
        // A program that gives privileges up needs none to do it.
        return rustix::thread::set_no_new_privs(true).map_err(Into::into);
    };
    keep_only(init_end, held);
    reap(program)
}

/// The caller's user and group as themselves in a new user namespace (user_namespaces(7)).
struct IdentityMap {
    user: String,
    group: String,
}

impl IdentityMap {
    fn of_caller() -> Self {
        let line = |id: u32| format!("{id} {id} 1");
        Self {
            user: line(rustix::process::geteuid().as_raw()),
            group: line(rustix::process::getegid().as_raw()),
        }
    }

    fn write(&self) -> io::Result<()> {
        // The kernel wants this first of whoever has no privileges outside.
        for (file, text) in [
            (c"/proc/self/setgroups", "deny"),
            (c"/proc/self/uid_map", &*self.user),
            (c"/proc/self/gid_map", &*self.group),
        ] {
            let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
            let file = rustix::fs::open(file, flags, rustix::fs::Mode::empty())?;
            rustix::io::write(file, text.as_bytes())?;
        }
        Ok(())
    }
}

/// The keeper: waits for what the init says about the program's end, and ends in the same way.
fn keep(init: rustix::process::Pid) -> ! {
    let mut status = [0; 4];
    // SAFETY: the descriptor is ours, see `keep_only`.
    let link = unsafe { BorrowedFd::borrow_raw(LINK) };
    let said = loop {
        match rustix::io::read(link, &mut status) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other,
        }
    };
    // With it everything in the namespace is gone.
    let _ = rustix::process::waitpid(Some(init), rustix::process::WaitOptions::empty());
    let status = match said {
        Ok(4) => ExitStatus::from_raw(i32::from_ne_bytes(status)),
        // The init was killed.
        _ => ExitStatus::from_raw(libc::SIGKILL),
    };
    if let Some(code) = status.code() {
        sys::exit_now(code);
    }
    let signal = status.signal().unwrap_or(libc::SIGKILL);
    sys::reset_signals();
    let no_core = rustix::process::Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, no_core);
    let _ = sys::kill(std::process::id().cast_signed(), signal);
    sys::exit_now(128 + signal)
}

/// The init: reaps until nothing is left, and says how the program ended. Where the program itself
/// ended well and left others, the last of those counts.
fn reap(program: rustix::process::Pid) -> ! {
    let mut of_program = 0;
    let mut of_others = 0;
    loop {
        let mut status = 0;
        // SAFETY: the pointer is valid for writes during the call.
        match unsafe { libc::waitpid(-1, &raw mut status, 0) } {
            -1 if rustix_errno() == libc::EINTR => {}
            -1 => break,
            pid if pid == program.as_raw_nonzero().get() => of_program = status,
            _ => of_others = status,
        }
    }
    let status: i32 = if of_program == 0 {
        of_others
    } else {
        of_program
    };
    // SAFETY: the descriptor is ours, see `keep_only`.
    let link = unsafe { BorrowedFd::borrow_raw(LINK) };
    let _ = rustix::io::write(link, &status.to_ne_bytes());
    sys::exit_now(0)
}

fn rustix_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Closes everything but one end of the link and what is held, and hides the copy of our memory
/// that this process still has.
fn keep_only(link: RawFd, held: Option<RawFd>) {
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    sys::set_process_name(c"cellos-tether");
    sys::reset_signals();
    // SAFETY: only numbers; this process uses no other descriptor and never executes anything.
    unsafe {
        let link = libc::fcntl(link, libc::F_DUPFD_CLOEXEC, ABOVE);
        let held = held.map(|held| libc::fcntl(held, libc::F_DUPFD_CLOEXEC, ABOVE));
        libc::dup2(link, LINK);
        libc::syscall(libc::SYS_close_range, 0, LINK - 1, 0);
        let first = match held {
            Some(held) => {
                libc::dup2(held, HELD);
                HELD + 1
            }
            None => LINK + 1,
        };
        libc::syscall(libc::SYS_close_range, first, u32::MAX, 0);
    }
}

fn die_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(Into::into)
}

/// Whether nobody has the other end of the link any more, once our copy of it is closed.
fn is_alone(ours: RawFd, theirs: RawFd) -> io::Result<bool> {
    // SAFETY: the init's copy of the keeper's end, which nothing else in this process uses.
    drop(unsafe { OwnedFd::from_raw_fd(theirs) });
    // SAFETY: open in this process until it ends or executes.
    let ours = unsafe { BorrowedFd::borrow_raw(ours) };
    let mut poll = [rustix::event::PollFd::new(
        &ours,
        rustix::event::PollFlags::HUP,
    )];
    let now = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut poll, Some(&now))?;
    Ok(poll
        .first()
        .is_some_and(|poll| poll.revents().contains(rustix::event::PollFlags::HUP)))
}

fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: unshare(2) takes only flags, and this process has one thread.
    if unsafe { libc::unshare(flags) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead as _, BufReader},
        process::Stdio,
        time::{Duration, Instant},
    };

    /// Root can make them anyway.
    macro_rules! require_namespaces {
        () => {
            if !rustix::process::geteuid().is_root() {
                cellos_testkit::require!("userns");
            }
        };
    }

    fn tethered(script: &str) -> io::Result<Child> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        spawn(
            command,
            Tether {
                groups: Arc::new(Cgroup::none()),
                network: Network::Empty,
                held: None,
            },
        )
    }

    fn is_there(pid: &str) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn its_end_is_the_programs() {
        require_namespaces!();
        for (script, expected) in [
            ("exit 0", 0),
            ("exit 148", 148 << 8),
            ("kill -SEGV $$", libc::SIGSEGV),
            // As a jailer does: leaves another process and ends.
            ("(sleep 0.1; exit 7) & exit 0", 7 << 8),
            ("(sleep 0.1; exit 7) & exit 3", 3 << 8),
        ] {
            let status = tethered(script).unwrap().wait().unwrap();
            assert_eq!(status.into_raw(), expected, "{script}");
        }
    }

    #[test]
    fn what_cannot_start_is_an_error_of_the_caller() {
        require_namespaces!();
        let tether = Tether {
            groups: Arc::new(Cgroup::none()),
            network: Network::Shared,
            held: None,
        };
        let error = spawn(Command::new("/nowhere/program"), tether).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn nothing_outlives_the_keeper() {
        require_namespaces!();
        // The id is asked for outside the namespace: /proc is the host's.
        let mut child =
            tethered("setsid sh -c 'readlink /proc/self; exec sleep 60' & exit 0").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        // `readlink` was a child of the shell that became `sleep`.
        let status =
            std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
        let init = status.trim().to_owned();
        assert!(is_there(&init), "{status:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        let start = Instant::now();
        while is_there(&init) {
            assert!(start.elapsed() < Duration::from_secs(5), "{init} lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn it_stays_its_user_and_gets_no_new_privileges() {
        require_namespaces!();
        let mut child = tethered("id -u; grep NoNewPrivs /proc/self/status").unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines: Vec<_> = lines.map(Result::unwrap).collect();
        child.wait().unwrap();
        let user = rustix::process::geteuid().as_raw().to_string();
        assert_eq!(lines, [&*user, "NoNewPrivs:\t1"]);
    }

    #[test]
    fn its_network_is_empty() {
        require_namespaces!();
        let mut child = tethered("wc -l < /proc/self/net/dev").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        child.wait().unwrap();
        // Two lines of headings and the loopback device.
        assert_eq!(line.trim(), "3");
    }
}
