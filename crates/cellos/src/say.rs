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
    let message = harmless(message);
    write(format_args!("cellos: {ERROR}error:{ERROR:#} {message}\n"));
}

/// Something the user should know.
pub(crate) fn warning(message: &str) {
    let message = harmless(message);
    write(format_args!(
        "cellos: {WARNING}warning:{WARNING:#} {message}\n"
    ));
}

/// A plain statement.
pub(crate) fn note(message: &str) {
    write(format_args!("cellos: {}\n", harmless(message)));
}

/// What can be done.
pub(crate) fn hint(message: &str) {
    let message = harmless(message);
    write(format_args!("cellos: {ASIDE}hint:{ASIDE:#} {message}\n"));
}

/// A text that a terminal only shows. Messages quote what others wrote (a guest's kernel, a server,
/// a document), which could steer a terminal, turn the line's order around, or begin a line that
/// looks like one of ours: so further lines are indented, and what is not shown is named.
pub(crate) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => shown.push_str("\n  "),
            '\t' => shown.push(' '),
            quote @ ('"' | '\'' | '\\') => shown.push(quote),
            other => shown.extend(other.escape_debug()),
        }
    }
    shown
}

/// The same in one line.
pub(crate) fn one_line(text: &str) -> String {
    harmless(&text.replace(['\n', '\r'], " "))
}

/// JSON that a terminal only shows: in strings, and elsewhere they are not in JSON, characters
/// that are not shown are written as escapes.
pub(crate) fn harmless_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() || character.escape_debug().len() == 1 {
            shown.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    shown
}

/// Writes as it is, with colour. Where standard error takes nothing there is nobody to tell, and
/// what the program comes to does not change.
pub(crate) fn write(text: fmt::Arguments<'_>) {
    let _ = anstream::stderr().lock().write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::{harmless, harmless_json};

    #[test]
    fn json_says_the_same_and_cannot_steer_a_terminal() {
        let value = serde_json::json!({"é\u{9b}2J": "\u{202e}x\u{1b}\u{e0001} 日本"});
        let shown = harmless_json(&serde_json::to_string(&value).unwrap());
        assert_eq!(shown, r#"{"é\u009b2J":"\u202ex\u001b\udb40\udc01 日本"}"#);
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            value
        );
    }

    #[test]
    fn what_others_wrote_cannot_steer_a_terminal() {
        for (text, shown) in [
            (
                "plain \"quoted\" it's é ü 日本",
                "plain \"quoted\" it's é ü 日本",
            ),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("\u{9b}2J\r\u{8}", "\\u{9b}2J\\r\\u{8}"),
            ("a\u{202e}b", "a\\u{202e}b"),
            ("one\ncellos: two", "one\n  cellos: two"),
        ] {
            assert_eq!(harmless(text), shown);
        }
    }
}
