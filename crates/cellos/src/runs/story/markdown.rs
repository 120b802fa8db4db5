//! A story as Markdown.

use std::fmt::Write as _;

use super::{Content, Story};
use crate::{runs::show, say::one_line};

/// The text.
pub(crate) fn write(story: &Story) -> String {
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = writeln!(
        text,
        "# Run {} of cell {}\n\n**{}.** {}",
        escape(&story.run_id),
        escape(&story.cell_id),
        escape(&story.verdict),
        escape(&story.ending)
    );
    for section in &story.sections {
        let _ = writeln!(text, "\n## {}\n", section.title);
        match &section.content {
            Content::Facts(items) => {
                let rows = items
                    .iter()
                    .map(|fact| vec![escape(fact.name), code(&fact.value)]);
                table(&mut text, &["", ""], rows);
            }
            Content::Timeline(items) => {
                let rows = items.iter().map(|moment| {
                    vec![
                        moment.at.to_string(),
                        moment.reached.to_owned(),
                        show::micros(moment.micros),
                    ]
                });
                table(&mut text, &["at", "reached", "after"], rows);
            }
            Content::Grants(items) => {
                let rows = items
                    .iter()
                    .map(|grant| vec![escape(grant.what), code(&grant.granted), code(&grant.used)]);
                table(&mut text, &["", "granted", "used"], rows);
            }
            Content::Findings(items) => {
                let rows = items.iter().map(|found| {
                    vec![
                        found.severity.to_owned(),
                        code(found.kind),
                        code(&found.place),
                        code(&found.detail),
                    ]
                });
                table(&mut text, &["", "kind", "where", "what"], rows);
            }
            Content::Text(lines) => {
                for line in lines {
                    let _ = writeln!(text, "{}  ", escape(line));
                }
            }
        }
    }
    text
}

fn table(text: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let _ = writeln!(text, "| {} |", head.join(" | "));
    let _ = writeln!(text, "|{}", " --- |".repeat(head.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
}

/// A text that Markdown only shows: all punctuation that it reads as its own is escaped, and what
/// is not shown is named.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in one_line(text).chars() {
        match character {
            // As entities: some readers take HTML before escapes.
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            // Bare addresses become links.
            ':' => escaped.push_str("&#58;"),
            '@' => escaped.push_str("&#64;"),
            '.' => escaped.push('.'),
            other if other.is_ascii_punctuation() => escaped.extend(['\\', other]),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A text in a fence that it cannot end, within one cell of a table.
fn code(text: &str) -> String {
    let text = one_line(text);
    if text.trim().is_empty() || text.contains(['`', '|', '\\']) {
        return escape(&text);
    }
    format!("`{text}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_stays_text() {
        for (text, shown) in [
            ("plain", "plain"),
            ("[x](http://y)", r"\[x\]\(http&#58;\/\/y\)"),
            ("<script>&", "&lt;script&gt;&amp;"),
            ("a\n# b", r"a \# b"),
            ("\u{1b}[2J", r"\\u\{1b\}\[2J"),
        ] {
            assert_eq!(escape(text), shown);
        }
        assert_eq!(code("a b"), "`a b`");
        assert_eq!(code("a`|b"), r"a\`\|b");
    }
}
