//! For tests: the stand-in for Firecracker, whose machines run `fake-cell-guest`. It starts itself
//! once more with the settings that say so, since a driver gives a monitor no environment.

use std::{
    env, io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode},
};

use cellos_fake_vmm::settings::{GUEST_ARGUMENTS_VARIABLE, GUEST_VARIABLE};

fn main() -> ExitCode {
    let arguments = env::args_os().skip(1);
    if env::var_os(GUEST_VARIABLE).is_some() {
        return cellos_fake_vmm::vmm::run(arguments);
    }
    let guest = env::current_exe().map(|own| own.with_file_name("fake-cell-guest"));
    let error = match guest.as_deref().map(Path::to_str) {
        // A monitor is in a PID namespace of its own, whose processes the host's /proc does not have;
        // a machine has a /proc of its own.
        Ok(Some(guest)) => Command::new("/proc/self/exe")
            .args(arguments)
            .env(GUEST_VARIABLE, "/usr/bin/unshare")
            .env(
                GUEST_ARGUMENTS_VARIABLE,
                format!("[\"--mount\", \"--mount-proc\", \"--\", {guest:?}]"),
            )
            .exec(),
        Ok(None) => io::Error::other("the guest's path is not UTF-8"),
        Err(error) => io::Error::other(error.to_string()),
    };
    eprintln!("cannot start again: {error}");
    ExitCode::FAILURE
}
