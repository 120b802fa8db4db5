//! The helper process.

use std::{
    fs,
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags},
    process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus},
};

use super::{
    descendants::{self, Sweep},
    protocol::{Ended, Launch, Refusal, Report, Request, STREAMS_BYTE, receive, send},
};

/// How often children that were inherited from ended parents are waited for while the command
/// runs. Only the number of zombies depends on it.
const REAP_INTERVAL: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// Exit code of a helper that could not do its part.
const HELPER_FAILED: u8 = 125;

/// The helper process: reads its orders from the socket that is its standard input and runs one
/// command. Call it before anything else, while the process has a single thread.
#[must_use]
pub fn main() -> ExitCode {
    // Whatever the supervisor inherited is not the command's. Only files that are opened from now
    // on and the three streams remain.
    close_fds::set_fds_cloexec(3, &[]);
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(HELPER_FAILED),
    }
}

fn serve() -> io::Result<()> {
    let socket = UnixStream::from(rustix::stdio::stdin().try_clone_to_owned()?);
    rustix::process::setsid()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let streams = receive_streams(&socket)?;
    let Request::Launch(launch) = receive(&socket)? else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the first request is not a launch",
        ));
    };
    match start(&launch, streams) {
        Ok(pid) => {
            // When the supervisor is gone already, the watch below notices at once.
            let _ = send(
                &socket,
                &Report::Started {
                    pid: pid.as_raw_pid().unsigned_abs(),
                },
            );
            let ended = watch(&socket, pid)?;
            send(&socket, &Report::Ended(ended))
        }
        Err(refusal) => send(&socket, &Report::Refused(refusal)),
    }
}

/// The three streams that come with the first byte.
fn receive_streams(socket: &UnixStream) -> io::Result<[OwnedFd; 3]> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut streams = Vec::with_capacity(3);
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            streams.extend(files);
        }
    }
    if byte != [STREAMS_BYTE] {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the streams did not come first",
        ));
    }
    streams.try_into().map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "there are not exactly three streams",
        )
    })
}

fn start(launch: &Launch, streams: [OwnedFd; 3]) -> Result<Pid, Refusal> {
    let setup = |operation: &str, error: &io::Error| Refusal::Setup {
        reason: format!("{operation}: {error}"),
    };
    let Some((program, arguments)) = launch.argv.split_first() else {
        return Err(Refusal::Setup {
            reason: "run.argv is empty".into(),
        });
    };
    if let Some(cgroup) = &launch.cgroup {
        // This process joins, so that there is no moment in which the command is outside.
        fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
            .map_err(|error| setup(&format!("join control group {}", cgroup.display()), &error))?;
    }
    if let Some(directory) = &launch.working_directory {
        std::env::set_current_dir(directory).map_err(|error| {
            setup(
                &format!("enter run.workingDirectory {}", directory.display()),
                &error,
            )
        })?;
    }
    let [stdin, stdout, stderr] = streams;
    let spawned = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(&launch.env)
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout))
        .stderr(Stdio::from(stderr))
        .process_group(0)
        .spawn();
    match spawned {
        // Its end is waited for together with that of its descendants, never through this handle.
        Ok(child) => i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| Refusal::Setup {
                reason: "the process has no id".into(),
            }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if program.contains('/') && Path::new(program).exists() {
                // The file is there, what it names as its interpreter is not.
                return Err(Refusal::NotExecutable {
                    reason: "its interpreter does not exist".into(),
                });
            }
            Err(Refusal::NotFound)
        }
        Err(error) => Err(Refusal::NotExecutable {
            reason: error.to_string(),
        }),
    }
}

/// Waits for the command's end, passes requests on, and ends whatever is left.
fn watch(socket: &UnixStream, main: Pid) -> io::Result<Ended> {
    let handle = rustix::process::pidfd_open(main, PidfdFlags::empty())?;
    let mut status = None;
    let mut killed_on_request = false;
    while status.is_none() && !killed_on_request {
        let mut polled = [
            PollFd::new(socket, PollFlags::IN),
            PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN),
        ];
        match rustix::event::poll(&mut polled, Some(&REAP_INTERVAL)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !polled[0].revents().is_empty() {
            match receive(socket) {
                Ok(Request::Terminate) => terminate(main),
                // No supervisor is the same as a request to kill.
                Ok(Request::Kill | Request::Launch(_)) | Err(_) => killed_on_request = true,
            }
        }
        reap(|pid, how| {
            if pid == main {
                status = Some(how);
            }
        });
    }
    let Sweep {
        killed,
        still_there,
    } = descendants::kill_all(main, |pid, how| {
        if pid == main {
            status = Some(how);
        }
    });
    let cpu = descendants::cpu_of_ended_children();
    Ok(Ended {
        code: status.and_then(WaitStatus::exit_status),
        signal: status.and_then(WaitStatus::terminating_signal),
        cpu_user_micros: cpu.map(|(user, _)| user),
        cpu_system_micros: cpu.map(|(_, system)| system),
        left_over: killed,
        still_there,
    })
}

fn reap(mut ended: impl FnMut(Pid, WaitStatus)) {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => ended(pid, status),
            Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

/// `SIGTERM` to the command's process group, or to the command alone when it left that group.
fn terminate(main: Pid) {
    if rustix::process::kill_process_group(main, Signal::TERM).is_err() {
        let _ = rustix::process::kill_process(main, Signal::TERM);
    }
}
