//! `cellos explain`: one run, for a person.

use std::io::Write as _;

use clap::ValueEnum;

use crate::{
    exit::Exit,
    failure::Failure,
    runs::{
        LogArgs,
        find::find,
        story::{Story, html, markdown, terminal},
    },
    say,
};

/// Tells one run for a person: its phases, what it was granted and what it used, and how it ended.
///
/// Told is what the log says; whether the log is whole and signed is what `cellos verify` checks.
#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// Run id, cell id (its latest run), CELL/RUN, the beginning of an id, or `latest`
    #[arg(value_name = "RUN")]
    run: String,
    /// How it is written
    #[arg(long, value_enum, default_value_t = Format::Terminal)]
    format: Format,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Text, with colour on a terminal
    Terminal,
    /// Markdown
    Markdown,
    /// One HTML page without scripts
    Html,
    /// JSON
    Json,
}

/// Tells.
pub(crate) fn run(args: &ExplainArgs) -> Result<Exit, Failure> {
    let (log, _) = args.log.open()?;
    let story = Story::of(&find(&log, &args.run)?, &log);
    let text = match args.format {
        Format::Terminal => {
            let mut text = Vec::new();
            terminal::write(&story, &mut text)?;
            anstream::stdout().lock().write_all(&text)?;
            return Ok(Exit::Success);
        }
        Format::Markdown => markdown::write(&story),
        Format::Html => html::write(&story),
        Format::Json => {
            let text = serde_json::to_string_pretty(&story).map_err(Failure::program)?;
            say::harmless_json(&text) + "\n"
        }
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(Exit::Success)
}
