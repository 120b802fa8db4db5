//! PID 1 of a microVM, or the same as an ordinary process on an inherited descriptor.
//!
//! The C library calls `main` here itself. The standard library's own start would open `/dev/null`
//! for standard streams that are closed, and end the process where there is none; and a machine
//! without a console gives its PID 1 neither streams nor, before the first mount, a `/dev/null`.
#![no_main]

use std::{
    ffi::{c_char, c_int},
    fs::File,
    io,
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
};

use cellos_guest::run;

/// Everything went as it should.
const SUCCESS: c_int = 0;

/// The dialogue with the host broke, or nothing could be built.
const FAILURE: c_int = 1;

/// The command line makes no sense.
const WRONG_USAGE: c_int = 2;

const USAGE: &str = "cellos-guest runs as PID 1 of a microVM.\n\
                     Elsewhere: cellos-guest --on-descriptor N, where N is a connected stream.\n";

/// The entry that the C library's start calls.
// SAFETY: no other function of this program has this name, and this is the C signature of `main`.
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    cellos_guest::machine::ignore_broken_pipes();
    if rustix::process::getpid().is_init() {
        run::as_pid_1()
    }
    as_process()
}

fn as_process() -> c_int {
    let mut arguments = std::env::args().skip(1);
    let (option, value, rest) = (arguments.next(), arguments.next(), arguments.next());
    match (option.as_deref(), value.as_deref().map(str::parse), rest) {
        (Some("--version"), None, None) => {
            println!("cellos-guest {}", env!("CARGO_PKG_VERSION"));
            SUCCESS
        }
        (Some("--on-descriptor"), Some(Ok(number)), None) => on_descriptor(number),
        _ => {
            eprint!("{USAGE}");
            WRONG_USAGE
        }
    }
}

fn on_descriptor(number: RawFd) -> c_int {
    let stream = match take_descriptor(number) {
        Ok(stream) => stream,
        Err(error) => {
            eprintln!("cellos-guest: take descriptor {number}: {error}");
            return WRONG_USAGE;
        }
    };
    match run::on_stream(stream) {
        Ok(()) => SUCCESS,
        Err(error) => {
            eprintln!("cellos-guest: {error}");
            FAILURE
        }
    }
}

/// Takes over an inherited descriptor. Standard input is left behind with `/dev/null`; the
/// others of its kind are for what this program has to say.
fn take_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    if number == 0 {
        let stream = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        return Ok(stream);
    }
    // SAFETY: fcntl(2) only looks, and marks the descriptor.
    let found = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    if number <= 2 || found != 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the descriptor is open, as was just seen, and nothing else in this program, which
    // has only begun, uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
