//! The ends that a test asks for.

use std::{thread, time::Duration};

use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit};

use crate::settings::End;

/// How long a signal to this process may take.
const DELIVERY: Duration = Duration::from_secs(5);
/// What a shell adds to a signal's number.
const SIGNALLED: i32 = 128;

/// Ends this process.
pub(crate) fn end(how: End) -> ! {
    match how {
        End::Exit(code) => std::process::exit(code.into()),
        End::Signal(number) => {
            if let Some(signal) = Signal::from_named_raw(number.into()) {
                // A dump of memory is of no use. It stays as it was if this fails.
                let _ = setrlimit(
                    Resource::Core,
                    Rlimit {
                        current: Some(0),
                        maximum: Some(0),
                    },
                );
                // The first process of a PID namespace gets no signal that it does not handle.
                let sent = kill_process(getpid(), signal);
                if sent.is_ok() && !getpid().is_init() {
                    // Another thread may take it.
                    thread::sleep(DELIVERY);
                }
            }
            std::process::exit(i32::from(number) + SIGNALLED)
        }
    }
}
