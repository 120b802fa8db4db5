//! What `cellos` itself says: on standard error, each message prefixed, so that it can be told
//! from the workload's own. Colour only on a terminal, and never with `NO_COLOR`.

use anstyle::{AnsiColor, Style};

/// Errors.
pub(crate) const ERROR: Style = AnsiColor::Red.on_default().bold();
/// Warnings, and things that are not as they should be.
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// Things that are as they should be.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// Headings.
pub(crate) const STRONG: Style = Style::new().bold();
/// Helpful asides.
pub(crate) const ASIDE: Style = AnsiColor::Cyan.on_default();

/// An error.
pub(crate) fn error(message: &str) {
    anstream::eprintln!("cellos: {ERROR}error:{ERROR:#} {message}");
}

/// Something the user should know.
pub(crate) fn warning(message: &str) {
    anstream::eprintln!("cellos: {WARNING}warning:{WARNING:#} {message}");
}

/// A plain statement.
pub(crate) fn note(message: &str) {
    anstream::eprintln!("cellos: {message}");
}

/// What can be done.
pub(crate) fn hint(message: &str) {
    anstream::eprintln!("cellos: {ASIDE}hint:{ASIDE:#} {message}");
}
