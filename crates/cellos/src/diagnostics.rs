//! Shows the problems of a document the way compilers do: where, what, the line itself, and how
//! to mend it.

use std::fmt::Write as _;

use cellos_core::source::{Position, Problem, Severity};

use crate::say::{ASIDE, ERROR, STRONG, WARNING};

/// Most characters of a source line that are shown, so that a document of one huge line does not
/// fill the screen.
const MAX_SHOWN_CHARACTERS: usize = 120;
/// Characters shown before the marked place when a line is cut.
const LEAD_CHARACTERS: usize = 40;
/// A character in place of each that was cut away.
const CUT: char = '…';

/// One problem as text for people, with colour; ends in a newline.
pub(crate) fn render(name: &str, text: &str, problem: &Problem) -> String {
    let (style, word) = match problem.severity {
        Severity::Error => (ERROR, "error"),
        Severity::Warning => (WARNING, "warning"),
    };
    let mut out = String::new();
    let place = match &problem.position {
        Some(position) => format!("{name}:{}:{}", position.line, position.column),
        None => name.to_owned(),
    };
    let path = if problem.path.is_empty() {
        String::new()
    } else {
        format!("{STRONG}{}{STRONG:#}: ", printable(&problem.path))
    };
    let _ = writeln!(
        out,
        "{place}: {style}{word}:{style:#} {path}{} [{}]",
        printable(&problem.message),
        problem.code.as_str()
    );
    let gutter = problem
        .position
        .as_ref()
        .and_then(|position| snippet(&mut out, text, position, style))
        .unwrap_or(1);
    if let Some(hint) = &problem.hint {
        let _ = writeln!(
            out,
            "{:gutter$} = {ASIDE}hint:{ASIDE:#} {}",
            "",
            printable(hint)
        );
    }
    out
}

/// The source line with a mark below it. Returns the width of the line number.
fn snippet(
    out: &mut String,
    text: &str,
    position: &Position,
    style: anstyle::Style,
) -> Option<usize> {
    let line = text.lines().nth(position.line.checked_sub(1)?)?;
    let before = position.column.checked_sub(1)?;
    let marked = text
        .get(position.offset..position.offset.saturating_add(position.length))
        .map_or(1, |marked| marked.chars().count())
        .max(1);
    let skipped = if before + marked > MAX_SHOWN_CHARACTERS {
        before.saturating_sub(LEAD_CHARACTERS)
    } else {
        0
    };
    let mut shown: String = line
        .chars()
        .skip(skipped)
        .take(MAX_SHOWN_CHARACTERS)
        .map(visible)
        .collect();
    let length = line.chars().count();
    let lead = if skipped > 0 {
        CUT.to_string()
    } else {
        String::new()
    };
    if length > skipped + MAX_SHOWN_CHARACTERS {
        shown.push(CUT);
    }
    let number = position.line.to_string();
    let gutter = number.len();
    let pad = before - skipped + lead.chars().count();
    let marks =
        "^".repeat(marked.min(MAX_SHOWN_CHARACTERS.saturating_sub(before - skipped).max(1)));
    let _ = writeln!(out, "{:gutter$} |", "");
    let _ = writeln!(out, "{number} | {lead}{shown}");
    let _ = writeln!(out, "{:gutter$} | {:pad$}{style}{marks}{style:#}", "", "");
    Some(gutter)
}

/// One column for each character, so that the mark stands below what it marks, and nothing that a
/// hostile document could steer a terminal with.
fn visible(character: char) -> char {
    match character {
        '\t' => ' ',
        other if other.is_control() => '\u{fffd}',
        other => other,
    }
}

fn printable(text: &str) -> String {
    text.chars().map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellos_core::source::ProblemCode;

    fn problem(position: Option<Position>) -> Problem {
        Problem {
            code: ProblemCode::UnknownField,
            path: "spec.rnu".into(),
            message: "is unknown".into(),
            hint: Some("did you mean run?".into()),
            position,
            severity: Severity::Error,
        }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn the_mark_stands_below_what_it_marks() {
        let text = "spec:\n  rnu: {}\n";
        let position = Position {
            line: 2,
            column: 3,
            offset: 8,
            length: 3,
        };
        assert_eq!(
            plain(&render("cell.yaml", text, &problem(Some(position)))),
            "cell.yaml:2:3: error: spec.rnu: is unknown [unknown-field]\n\
             \u{20} |\n\
             2 |   rnu: {}\n\
             \u{20} |   ^^^\n\
             \u{20} = hint: did you mean run?\n"
        );
    }

    #[test]
    fn a_problem_without_a_place_has_no_source_line() {
        assert_eq!(
            plain(&render("cell.yaml", "", &problem(None))),
            "cell.yaml: error: spec.rnu: is unknown [unknown-field]\n  = hint: did you mean run?\n"
        );
    }

    #[test]
    fn a_huge_line_is_cut_around_the_mark() {
        let text = format!("{}rnu{}", "a".repeat(100_000), "b".repeat(100_000));
        let position = Position {
            line: 1,
            column: 100_001,
            offset: 100_000,
            length: 3,
        };
        let shown = plain(&render("-", &text, &problem(Some(position))));
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[2].chars().count() < 140, "{}", lines[2]);
        assert_eq!(
            lines[2]
                .find("rnu")
                .map(|at| lines[2][..at].chars().count()),
            lines[3].find('^')
        );
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let text = "a: \u{1b}[31m\n";
        let position = Position {
            line: 1,
            column: 1,
            offset: 0,
            length: 1,
        };
        let rendered = render("-", text, &problem(Some(position)));
        assert!(!plain(&rendered).contains('\u{1b}'));
        assert!(rendered.contains("\u{fffd}[31m"));
    }
}
