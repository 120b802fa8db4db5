//! A story on a terminal.

use std::io::{self, Write};

use super::{Content, Fact, Found, Grant, Moment, Story};
use crate::{
    runs::show,
    say::{ERROR, GOOD, STRONG, WARNING, harmless, one_line},
};

/// Widest bar of the timeline, in characters.
const BAR_WIDTH: u64 = 30;
/// Widest column of what was granted, in characters; what is longer moves its line's rest.
const GRANT_WIDTH: usize = 44;

/// Writes it, with colour.
pub(crate) fn write(story: &Story, out: &mut impl Write) -> io::Result<()> {
    let style = if story.well { GOOD } else { ERROR };
    writeln!(
        out,
        "{STRONG}run {} of cell {}{STRONG:#}: {style}{}{style:#}",
        one_line(&story.run_id),
        one_line(&story.cell_id),
        story.verdict
    )?;
    writeln!(out, "{}", harmless(&story.ending))?;
    for section in &story.sections {
        writeln!(out, "\n{STRONG}{}{STRONG:#}", section.title)?;
        match &section.content {
            Content::Facts(items) => facts(items, out)?,
            Content::Timeline(items) => timeline(items, out)?,
            Content::Grants(items) => grants(items, out)?,
            Content::Findings(items) => findings(items, out)?,
            Content::Text(lines) => {
                for line in lines {
                    writeln!(out, "  {}", harmless(line))?;
                }
            }
        }
    }
    Ok(())
}

fn facts(items: &[Fact], out: &mut impl Write) -> io::Result<()> {
    let width = items.iter().map(|fact| fact.name.len()).max().unwrap_or(0);
    for Fact { name, value } in items {
        writeln!(out, "  {name:width$}  {}", one_line(value))?;
    }
    Ok(())
}

fn timeline(items: &[Moment], out: &mut impl Write) -> io::Result<()> {
    for moment in items {
        let bar = (moment.share * BAR_WIDTH).div_ceil(1000);
        let bar = "█".repeat(usize::try_from(bar).unwrap_or(0));
        let line = format!(
            "  {}  {:13} {:>12}  {bar}",
            moment.at.strftime("%Y-%m-%d %H:%M:%S%.3fZ"),
            moment.reached,
            show::micros(moment.micros)
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn grants(items: &[Grant], out: &mut impl Write) -> io::Result<()> {
    let shown: Vec<_> = items
        .iter()
        .map(|grant| (grant.what, one_line(&grant.granted), one_line(&grant.used)))
        .collect();
    let width = shown
        .iter()
        .map(|(_, granted, _)| granted.chars().count())
        .max()
        .unwrap_or(0)
        .min(GRANT_WIDTH);
    for (what, granted, used) in shown {
        writeln!(out, "  {what:10}  {granted:width$}  {used}")?;
    }
    Ok(())
}

fn findings(items: &[Found], out: &mut impl Write) -> io::Result<()> {
    for found in items {
        let style = if found.severity == "error" {
            ERROR
        } else {
            WARNING
        };
        writeln!(
            out,
            "  {style}{}{style:#} {} {}\n    {}",
            found.severity,
            found.kind,
            one_line(&found.place),
            one_line(&found.detail)
        )?;
    }
    Ok(())
}
