//! Errors of the steps that build a cell.

use std::{error::Error, fmt, io};

use crate::protocol::SetupFailure;

/// What init's functions return.
pub(crate) type StepResult<T> = Result<T, SetupFailure>;

/// Names the step that an error happened in.
pub(crate) trait Step<T> {
    /// The host is at fault.
    fn step(self, step: impl fmt::Display) -> StepResult<T>;
    /// The document is at fault: it names something that is not there or may not be used.
    fn step_of_document(self, step: impl fmt::Display) -> StepResult<T>;
}

impl<T, E: Error + 'static> Step<T> for Result<T, E> {
    fn step(self, step: impl fmt::Display) -> StepResult<T> {
        self.map_err(|error| failure(step, &error, false))
    }

    fn step_of_document(self, step: impl fmt::Display) -> StepResult<T> {
        self.map_err(|error| failure(step, &error, true))
    }
}

fn failure(
    step: impl fmt::Display,
    error: &(dyn Error + 'static),
    invalid_spec: bool,
) -> SetupFailure {
    match errno(error) {
        Some(errno) => SetupFailure {
            step: step.to_string(),
            errno,
            invalid_spec,
        },
        // An error without a number says more in words.
        None => SetupFailure {
            step: format!("{step}: {error}"),
            errno: libc::EIO,
            invalid_spec,
        },
    }
}

/// The kernel's number at the root of an error.
fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    if let Some(error) = error.downcast_ref::<rustix::io::Errno>() {
        return Some(error.raw_os_error());
    }
    if let Some(errno) = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::raw_os_error)
    {
        return Some(errno);
    }
    errno(error.source()?)
}
