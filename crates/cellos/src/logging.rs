//! Logs for operators. Off unless asked for, so that a run pays nothing for them; what happened in
//! a cell is in its events, never here.

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// The variables that ask for logs, the stronger first.
const VARIABLES: [&str; 2] = ["CELLOS_LOG", "RUST_LOG"];

/// Why logs cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{variable} is {value:?}, expected levels such as info or cellos_supervisor=debug")]
pub(crate) struct LogFilterError {
    variable: &'static str,
    value: String,
}

/// Starts logging to standard error where `CELLOS_LOG`, `RUST_LOG` or `-v` asks for it.
pub(crate) fn start(verbosity: u8) -> Result<(), LogFilterError> {
    let from_flag = match verbosity {
        // One `-v` shows the evidence of a run; logs begin with the second.
        0 | 1 => None,
        2 => Some(LevelFilter::DEBUG),
        _ => Some(LevelFilter::TRACE),
    };
    let filter = match (from_flag, variable()) {
        (Some(level), _) => Targets::new().with_default(level),
        (None, None) => return Ok(()),
        (None, Some((variable, value))) => match value.parse::<Targets>() {
            Ok(filter) => filter,
            Err(_) => return Err(LogFilterError { variable, value }),
        },
    };
    tracing_subscriber::registry()
        .with(
            tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(false)
                .without_time(),
        )
        .with(filter)
        .init();
    Ok(())
}

fn variable() -> Option<(&'static str, String)> {
    VARIABLES.into_iter().find_map(|name| {
        let value = std::env::var(name).ok()?;
        (!value.is_empty()).then_some((name, value))
    })
}
