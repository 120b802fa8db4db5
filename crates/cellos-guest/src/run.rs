//! The whole life of this program, as PID 1 and as an ordinary process.

use std::{
    fmt::Display,
    io::{self, Write as _},
    os::fd::OwnedFd,
    time::Duration,
};

use cellos_isolation::{Launcher, LauncherOptions, StartError, SystemView, Warm, plan::Card};

use crate::{
    boot::{self, BootError},
    dial::{DialError, Dialler, Patience},
    machine::{self, Surroundings},
    session::{self, Builder, SessionEnd, SessionError},
};

/// How long a machine that cannot be made ready waits for a host to tell it.
pub const FAILURE_PATIENCE: Duration = Duration::from_secs(10);

/// Why this program ends without its host's acknowledgement.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The machine could not be made ready.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Cells cannot be built.
    #[error(transparent)]
    Launcher(#[from] StartError),
    /// This process could not hide its memory.
    #[error("withdraw from everybody's sight: {0}")]
    Withdraw(io::Error),
    /// The host cannot be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The dialogue broke.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The host was told of a failure and went without a word.
    #[error("the host did not acknowledge the failure it was told")]
    NeverAcknowledged,
}

/// Boots the machine and serves its host. When that is over, for whatever reason, the machine is
/// reset, and nothing of a cell is left.
pub fn as_pid_1() -> ! {
    machine::occupy_standard_streams();
    rustix::thread::set_name(c"cellos-init").unwrap_or_default();
    let begun = match boot::begin() {
        Ok(begun) => begun,
        Err(error) => {
            tell_console(&error);
            machine::reset()
        }
    };
    let mut dialler = Dialler::Device(begun.bridge);
    let outcome = match finish_boot(&begun) {
        Ok(mut builder) => serve(&mut dialler, &mut builder, Surroundings::Machine),
        Err(error) => {
            tell_console(&error);
            tell_host(&mut dialler, &error)
        }
    };
    if let Err(error) = outcome {
        tell_console(&error);
    }
    machine::reset()
}

/// Serves the host on an inherited stream. The launcher, and with it every process of a cell, has
/// ended when this returns.
///
/// # Errors
/// [`GuestError`] unless the host acknowledged the end, or went before it said what to run.
pub fn on_stream(stream: OwnedFd) -> Result<(), GuestError> {
    let mut dialler = Dialler::Inherited(Some(stream));
    let served = start_builder(SystemView::Host, Surroundings::Process, Card::Left)
        .and_then(|mut builder| serve(&mut dialler, &mut builder, Surroundings::Process));
    machine::wait_for_children();
    match served {
        Err(GuestError::Dial(DialError::UsedUp)) => Ok(()),
        other => other,
    }
}

fn finish_boot(begun: &boot::Begun) -> Result<Builder, GuestError> {
    boot::finish(begun)?;
    start_builder(SystemView::WholeRoot, Surroundings::Machine, begun.card)
}

/// Forks the launcher, then hides what this process will know.
fn start_builder(
    system: SystemView,
    surroundings: Surroundings,
    card: Card,
) -> Result<Builder, GuestError> {
    let launcher = Launcher::fork(LauncherOptions {
        cgroup_parent: None,
        // No cell may be begun before the generator has been fed.
        warm: Warm::Never,
        system,
    })?;
    // From now on the kernel collects whatever ends here. Not before: the launcher collects its
    // own children, and would have inherited this.
    machine::let_the_kernel_reap();
    surroundings.withdraw().map_err(GuestError::Withdraw)?;
    Ok(Builder::new(launcher, card))
}

/// Serves hosts until one has given a configuration, and that one to the end.
fn serve(
    dialler: &mut Dialler,
    builder: &mut Builder,
    surroundings: Surroundings,
) -> Result<(), GuestError> {
    loop {
        match session::serve(dialler.dial(Patience::Endless)?, builder, surroundings)? {
            SessionEnd::Acknowledged => return Ok(()),
            SessionEnd::NeverAcknowledged => return Err(GuestError::NeverAcknowledged),
            SessionEnd::LeftWhileParked => {}
        }
    }
}

fn tell_host(dialler: &mut Dialler, error: &GuestError) -> Result<(), GuestError> {
    let stream = dialler.dial(Patience::For(FAILURE_PATIENCE))?;
    let reason = error.to_string();
    session::report_failure(stream, Surroundings::Machine, "boot the guest", &reason)?;
    Ok(())
}

/// Says something where the kernel's own messages go, if anywhere.
fn tell_console(what: &impl Display) {
    let _ = writeln!(io::stderr(), "cellos-init: {what}");
}
