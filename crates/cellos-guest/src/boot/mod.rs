//! From the kernel's hand-over to a machine that a cell can be built in. Each step is a function
//! with an error that names it.

mod base;
mod command_line;
mod control_groups;
mod events;
mod modules;
mod mounts;
#[cfg(test)]
mod namespaces;
mod standard_streams;

use std::{io, path::PathBuf};

use cellos_isolation::plan::Card;

pub use base::{BASE_DEVICE, DEVICE_TIMEOUT};
pub use command_line::{BridgeDevice, CommandLineError, MAX_COMMAND_LINE_BYTES};
pub use events::KernelEvents;
pub use modules::{MAX_MODULES, MODULES_FOLDER, MODULES_LIST};

/// A step of the boot that failed.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file system could not be mounted or moved.
    #[error("mount {what} on {place}: {source}")]
    Mount {
        /// Kind of file system, or what was to be mounted.
        what: &'static str,
        /// Where.
        place: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A file or folder could not be read, written or made.
    #[error("{operation} {path}: {source}")]
    File {
        /// What was attempted.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A call of the kernel about the machine or this process failed.
    #[error("{operation}: {source}")]
    Kernel {
        /// What was attempted.
        operation: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A module could not be loaded.
    #[error("load module {name:?}: {source}")]
    Module {
        /// Its file.
        name: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The list of modules holds something that is not a name of a file, or too much.
    #[error("{path}: {problem}")]
    ModuleList {
        /// The list.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The device with the base did not appear.
    #[error("{device} did not appear within {waited:?}")]
    NoDevice {
        /// The device.
        device: PathBuf,
        /// How long was waited.
        waited: std::time::Duration,
    },
    /// The base is not a file system that this program knows.
    #[error("{device} holds neither squashfs nor erofs nor ext4")]
    UnknownBase {
        /// The device.
        device: PathBuf,
    },
    /// The kernel's command line does not say where the bridge is.
    #[error(transparent)]
    CommandLine(#[from] CommandLineError),
    /// The kernel has no controller for one of the limits that cells get.
    #[error("the kernel has no {controller} controller of cgroup v2")]
    NoController {
        /// Its name.
        controller: &'static str,
    },
}

/// What the first half of the boot leaves behind.
#[derive(Debug)]
pub struct Begun {
    /// Where the bridge is.
    pub bridge: BridgeDevice,
    /// What becomes of the network card.
    pub card: Card,
    events: KernelEvents,
}

/// The first half: everything that the bridge needs, so that a failure of the second can be told
/// to the host.
///
/// # Errors
/// [`BootError`] with the step that failed.
pub fn begin() -> Result<Begun, BootError> {
    mounts::mount_kernel_file_systems()?;
    standard_streams::open()?;
    let line = command_line::read()?;
    let bridge = command_line::bridge_device(&line)?;
    let card = command_line::card(&line);
    let events = KernelEvents::open()?;
    modules::load_all(MODULES_FOLDER.as_ref(), &line)?;
    Ok(Begun {
        bridge,
        card,
        events,
    })
}

/// The second half: the base becomes the root, and control groups are made ready.
///
/// # Errors
/// [`BootError`] with the step that failed.
pub fn finish(begun: &Begun) -> Result<(), BootError> {
    base::await_device(BASE_DEVICE.as_ref(), &begun.events, DEVICE_TIMEOUT)?;
    base::make_it_the_root(BASE_DEVICE.as_ref())?;
    control_groups::prepare(control_groups::MOUNT_POINT.as_ref())
}

/// Adds the step to a failure of the kernel.
trait Step<T> {
    fn step(self, operation: &'static str) -> Result<T, BootError>;
    fn on(self, operation: &'static str, path: impl Into<PathBuf>) -> Result<T, BootError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, operation: &'static str) -> Result<T, BootError> {
        self.map_err(|error| BootError::Kernel {
            operation,
            source: error.into(),
        })
    }

    fn on(self, operation: &'static str, path: impl Into<PathBuf>) -> Result<T, BootError> {
        self.map_err(|error| BootError::File {
            operation,
            path: path.into(),
            source: error.into(),
        })
    }
}
