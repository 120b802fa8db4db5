//! Many cells by one supervisor: cells per second at 1, 2 and 32 at once, p50 and p99, memory of
//! an idle cell, 100 at once.
//!
//! The measuring itself is a program beside the code that it measures: the example
//! `crates/cellos/examples/many_cells.rs`. It prints one JSON object a line,
//! `{"measure": "p50, 1 at once", "value": 1.9, "unit": "ms"}`, and ends with success only if every
//! cell ended as it should. Here its lines become a table; figures in `ms` are also set against
//! bubblewrap's p50 for `true` from the same run.

use std::fmt::Write as _;
use std::time::Duration;

use super::table;
use crate::error::TaskError;
use crate::process;
use crate::workspace::Workspace;

const EXAMPLE: &str = "many_cells";

/// A line of the program.
#[derive(Debug, PartialEq)]
struct Figure {
    measure: String,
    value: f64,
    unit: String,
}

pub(crate) fn measure(
    workspace: &Workspace,
    reference: Option<Duration>,
) -> Result<String, TaskError> {
    let heading = "\n### In one process: many cells by one supervisor\n\n";
    let source = format!("crates/cellos/examples/{EXAMPLE}.rs");
    if !workspace.root.join(&source).exists() {
        return Ok(format!("{heading}not measured: there is no {source}\n"));
    }
    let output = process::output(&mut workspace.cargo(&[
        "run",
        "--release",
        "--locked",
        "--quiet",
        "--package",
        "cellos",
        "--example",
        EXAMPLE,
    ]))?;
    let figures = output
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(parse)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(format!("{heading}{}", tabulate(&figures, reference)))
}

fn parse(line: &str) -> Result<Figure, TaskError> {
    let unreadable = || {
        TaskError::unreadable(
            format!("the example {EXAMPLE}"),
            format!("not a figure: {line}"),
        )
    };
    let value: serde_json::Value = serde_json::from_str(line).map_err(|_| unreadable())?;
    let text = |field: &str| value.get(field)?.as_str().map(str::to_owned);
    Ok(Figure {
        measure: text("measure").ok_or_else(unreadable)?,
        value: value
            .get("value")
            .and_then(serde_json::Value::as_f64)
            .ok_or_else(unreadable)?,
        unit: text("unit").ok_or_else(unreadable)?,
    })
}

fn tabulate(figures: &[Figure], reference: Option<Duration>) -> String {
    let mut text = String::from("| measure | value | unit | × bubblewrap p50 |\n");
    text.push_str("| --- | ---: | --- | ---: |\n");
    for figure in figures {
        let ratio = match (
            figure.unit.as_str(),
            Duration::try_from_secs_f64(figure.value / 1000.0),
        ) {
            ("ms", Ok(duration)) => table::ratio(duration, reference),
            _ => String::new(),
        };
        let _ = writeln!(
            text,
            "| {} | {:.2} | {} | {ratio} |",
            figure.measure, figure.value, figure.unit
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_set_against_the_reference_and_other_units_are_not() {
        let figures = [
            parse(r#"{"measure":"p50, 1 at once","value":2,"unit":"ms"}"#).unwrap(),
            parse(r#"{"measure":"cells, 32 at once","value":900.5,"unit":"1/s"}"#).unwrap(),
        ];
        let text = tabulate(&figures, Some(Duration::from_millis(4)));
        assert!(
            text.contains("| p50, 1 at once | 2.00 | ms | 0.50 |"),
            "{text}"
        );
        assert!(
            text.contains("| cells, 32 at once | 900.50 | 1/s |  |"),
            "{text}"
        );
    }

    #[test]
    fn a_line_that_is_no_figure_is_shown() {
        let error = parse("ready").unwrap_err();
        assert!(error.to_string().contains("not a figure: ready"), "{error}");
        assert!(parse(r#"{"measure":"x","unit":"ms"}"#).is_err());
    }
}
