//! What `cellos` itself says: on standard error, each message prefixed, so that it can be told
//! from the workload's own. Colour only on a terminal, and never with `NO_COLOR`.

use std::{fmt, io::Write as _};

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
    write(format_args!("cellos: {ERROR}error:{ERROR:#} {message}\n"));
}

/// Something the user should know.
pub(crate) fn warning(message: &str) {
    write(format_args!(
        "cellos: {WARNING}warning:{WARNING:#} {message}\n"
    ));
}

/// A plain statement.
pub(crate) fn note(message: &str) {
    write(format_args!("cellos: {message}\n"));
}

/// What can be done.
pub(crate) fn hint(message: &str) {
    write(format_args!("cellos: {ASIDE}hint:{ASIDE:#} {message}\n"));
}

/// Writes as it is, with colour. Where standard error takes nothing there is nobody to tell, and
/// what the program comes to does not change.
pub(crate) fn write(text: fmt::Arguments<'_>) {
    let _ = anstream::stderr().lock().write_fmt(text);
}
