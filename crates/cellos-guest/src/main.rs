//! PID 1 of a microVM, or the same as an ordinary process on an inherited descriptor.

use std::{
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
    process::ExitCode,
};

use cellos_guest::run;

const USAGE: &str = "cellos-guest runs as PID 1 of a microVM.\n\
                     Elsewhere: cellos-guest --on-descriptor N, where N is a connected stream.\n";

fn main() -> ExitCode {
    if rustix::process::getpid().is_init() {
        run::as_pid_1()
    }
    let mut arguments = std::env::args().skip(1);
    let (option, value, rest) = (arguments.next(), arguments.next(), arguments.next());
    match (option.as_deref(), value.as_deref().map(str::parse), rest) {
        (Some("--version"), None, None) => {
            println!("cellos-guest {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        (Some("--on-descriptor"), Some(Ok(number)), None) => on_descriptor(number),
        _ => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn on_descriptor(number: RawFd) -> ExitCode {
    // SAFETY: fcntl(2) only looks.
    if number <= 2 || unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        eprintln!("cellos-guest: descriptor {number} is a standard stream or not open");
        return ExitCode::from(2);
    }
    // SAFETY: the descriptor is open, as was just seen, and nothing else in this program, which
    // has only begun, uses it.
    let stream = unsafe { OwnedFd::from_raw_fd(number) };
    match run::on_stream(stream) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cellos-guest: {error}");
            ExitCode::FAILURE
        }
    }
}
