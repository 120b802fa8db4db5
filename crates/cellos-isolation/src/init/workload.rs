//! The process that becomes the workload: it waits for its streams, then executes the program.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use rustix::net::{RecvFlags, SendFlags};

use crate::{
    message,
    plan::CellPlan,
    protocol::workload,
    sandbox::{descriptors::close_except, privileges},
    sys::{self, PointerVector},
};

/// Exit code of the process when its program could not be executed, as shells have it.
const EXEC_FAILED: i32 = 127;

/// Parks, and executes the plan's command when the launcher says so.
pub(super) fn park_and_execute(plan: &CellPlan, launcher: BorrowedFd<'_>) -> ! {
    if let Err(error) = park(plan, launcher) {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let _ = message::send(launcher, &errno.to_le_bytes(), &[], SendFlags::empty());
    }
    sys::exit_now(EXEC_FAILED)
}

/// Returns only with the reason why the program could not be executed.
fn park(plan: &CellPlan, launcher: BorrowedFd<'_>) -> io::Result<()> {
    sys::set_process_name(c"cellos-parked");
    sys::reset_signals();
    rustix::process::setsid()?;
    // Init stays undumpable; the workload's own processes may look at each other, and the
    // launcher at this one.
    privileges::set_dumpable(privileges::Dumpable::Yes).map_err(|error| error.source)?;
    let arguments = c_strings(plan.argv.iter().map(String::as_str))?;
    let environment = plan
        .environment
        .iter()
        .map(|(name, value)| CString::new(format!("{name}={value}")))
        .collect::<Result<Vec<_>, _>>()?;
    let search_path = plan.environment.get("PATH").map_or("", String::as_str);
    let candidates = candidates(plan.argv.first().map_or("", String::as_str), search_path)?;

    message::send(launcher, workload::PARKED, &[], SendFlags::empty())?;
    let mut buffer = [0; 8];
    let message = message::receive(launcher, &mut buffer, RecvFlags::empty())?;
    let Some(message) = message.filter(|message| message.bytes == workload::RUN) else {
        sys::exit_now(EXEC_FAILED);
    };
    take_streams(message.descriptors)?;
    close_except(&[launcher.as_raw_fd()]).map_err(io::Error::other)?;
    Err(execute(&candidates, &arguments, &environment))
}

fn take_streams(streams: Vec<std::os::fd::OwnedFd>) -> io::Result<()> {
    let [input, output, errors] = streams.as_slice() else {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    };
    rustix::stdio::dup2_stdin(input)?;
    rustix::stdio::dup2_stdout(output)?;
    rustix::stdio::dup2_stderr(errors)?;
    // They are closed by number together with everything else.
    std::mem::forget(streams);
    Ok(())
}

/// Tries each candidate as execvp(3) does: a missing file leads on to the next, a forbidden one
/// too, but is remembered as the better answer.
fn execute(candidates: &[CString], arguments: &[CString], environment: &[CString]) -> io::Error {
    let arguments = PointerVector::new(arguments);
    let environment = PointerVector::new(environment);
    let mut answer = io::Error::from_raw_os_error(libc::ENOENT);
    for candidate in candidates {
        let error = sys::execute(candidate, &arguments, &environment);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => answer = error,
            _ => return error,
        }
    }
    answer
}

/// The paths that a program's name may stand for.
fn candidates(program: &str, search_path: &str) -> io::Result<Vec<CString>> {
    if program.contains('/') {
        return c_strings([program]);
    }
    search_path
        .split(':')
        .filter(|folder| folder.starts_with('/'))
        .map(|folder| Ok(CString::new(format!("{folder}/{program}"))?))
        .collect()
}

fn c_strings<'a>(strings: impl IntoIterator<Item = &'a str>) -> io::Result<Vec<CString>> {
    strings
        .into_iter()
        .map(|string| Ok(CString::new(string)?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_looked_up_and_a_path_is_not() {
        let names = |program| {
            candidates(program, "/usr/bin::relative:/bin")
                .unwrap()
                .into_iter()
                .map(|path| path.into_string().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(names("true"), ["/usr/bin/true", "/bin/true"]);
        assert_eq!(names("./true"), ["./true"]);
    }
}
