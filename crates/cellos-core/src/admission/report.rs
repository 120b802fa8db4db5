//! Where the rules put what they find.

use std::fmt::Display;

use crate::source::{Problem, ProblemCode};

/// The problems of one document, in the order of the rules.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) problems: Vec<Problem>,
}

impl Report {
    /// Refuses what stands at `path`.
    pub(super) fn refuse(
        &mut self,
        code: ProblemCode,
        path: impl Display,
        message: impl Into<String>,
    ) {
        self.problems
            .push(Problem::error(code, path.to_string(), message, None));
    }

    /// Refuses what stands at `path` and says how to mend it.
    pub(super) fn refuse_with(
        &mut self,
        code: ProblemCode,
        path: impl Display,
        message: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.problems.push(Problem::error(
            code,
            path.to_string(),
            message,
            Some(mend.into()),
        ));
    }
}

/// Longest part of a document's text that a message repeats, in characters.
const SHOWN_CHARS: usize = 64;

/// A text of the document as messages show it: short, and without control characters, which could
/// drive a terminal.
pub(crate) fn shown(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(SHOWN_CHARS)
        .flat_map(|c| {
            let escaped: Vec<char> = if c.is_control() {
                c.escape_default().collect()
            } else {
                vec![c]
            };
            escaped
        })
        .collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_text_is_short_and_without_control_characters() {
        assert_eq!(shown("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(shown(&"é".repeat(100)).chars().count(), SHOWN_CHARS + 1);
    }
}
