//! A story as one HTML page: no scripts, nothing from elsewhere.

use std::fmt::Write as _;

use super::{Content, Story};
use crate::{runs::show, say::one_line};

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884;--good:#18794e;--bad:#c62a2f;--note:#946800}\
@media(prefers-color-scheme:dark){:root{--good:#4cc38a;--bad:#ff6369;--note:#f5d90a}}\
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.35rem;margin-bottom:.25rem}h2{font-size:1.05rem;margin:1.75rem 0 .5rem}\
table{border-collapse:collapse;width:100%}\
th,td{text-align:left;vertical-align:top;padding:.3rem .75rem .3rem 0;border-bottom:1px solid var(--line)}\
th{font-weight:600;white-space:nowrap}\
td.v{font-family:ui-monospace,monospace;font-size:.87em;overflow-wrap:anywhere}\
td.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}\
td.b{width:35%}.bar{display:block;height:.8em;margin-top:.3em;background:#3b82f6;border-radius:2px}\
.good{color:var(--good)}.bad,.error{color:var(--bad)}.note{color:var(--note)}\
code{font-family:ui-monospace,monospace;overflow-wrap:anywhere}";

/// The page.
pub(crate) fn write(story: &Story) -> String {
    let mut page = String::new();
    let (run, cell) = (escape(&story.run_id), escape(&story.cell_id));
    let class = if story.well { "good" } else { "bad" };
    // Writing to a text cannot fail.
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>Run {run}</title>\n<style>{STYLE}</style></head>\n<body>\n\
         <h1>Run <code>{run}</code> of cell <code>{cell}</code></h1>\n\
         <p><strong class=\"{class}\">{}.</strong> {}</p>\n",
        escape(&story.verdict),
        escape(&story.ending)
    );
    for section in &story.sections {
        let _ = writeln!(page, "<h2>{}</h2>", section.title);
        content(&section.content, &mut page);
    }
    page.push_str("</body></html>\n");
    page
}

fn content(content: &Content, page: &mut String) {
    match content {
        Content::Facts(items) => table(page, &[], items, |fact| {
            format!("<th>{}</th>{}", fact.name, value(&fact.value))
        }),
        Content::Timeline(items) => table(page, &["at", "reached", "after", ""], items, |moment| {
            format!(
                "<td class=\"v\">{}</td><td>{}</td><td class=\"n\">{}</td>\
                 <td class=\"b\"><span class=\"bar\" style=\"width:{}.{}%\"></span></td>",
                moment.at,
                moment.reached,
                show::micros(moment.micros),
                moment.share / 10,
                moment.share % 10
            )
        }),
        Content::Grants(items) => table(page, &["", "granted", "used"], items, |grant| {
            format!(
                "<th>{}</th>{}{}",
                grant.what,
                value(&grant.granted),
                value(&grant.used)
            )
        }),
        Content::Findings(items) => table(page, &["", "kind", "where", "what"], items, |found| {
            format!(
                "<td class=\"{0}\">{0}</td><td>{1}</td>{2}{3}",
                found.severity,
                found.kind,
                value(&found.place),
                value(&found.detail)
            )
        }),
        Content::Text(lines) => {
            let lines: Vec<_> = lines.iter().map(|line| escape(line)).collect();
            let _ = writeln!(page, "<p>{}</p>", lines.join("<br>\n"));
        }
    }
}

fn table<T>(page: &mut String, head: &[&str], items: &[T], row: impl Fn(&T) -> String) {
    page.push_str("<table>\n");
    if !head.is_empty() {
        let cells: String = head.iter().map(|name| format!("<th>{name}</th>")).collect();
        let _ = writeln!(page, "<tr>{cells}</tr>");
    }
    for item in items {
        let _ = writeln!(page, "<tr>{}</tr>", row(item));
    }
    page.push_str("</table>\n");
}

fn value(text: &str) -> String {
    format!("<td class=\"v\">{}</td>", escape(text))
}

/// A text that a browser only shows, in an element or a quoted attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in one_line(text).chars() {
        match character {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn what_others_wrote_stays_text() {
        assert_eq!(
            escape("<img src=x onerror='a'>\u{202e}\" & \u{1b}"),
            "&lt;img src=x onerror=&#39;a&#39;&gt;\\u{202e}&quot; &amp; \\u{1b}"
        );
    }
}
