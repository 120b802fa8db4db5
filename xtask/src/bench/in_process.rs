//! Many cells by one supervisor: cells per second at 1, 2 and 32 at once, p50 and p99, memory of
//! an idle cell, 100 at once; and cells in virtual machines, step by step.
//!
//! The measuring itself is a program beside the code that it measures: the example
//! `crates/cellos/examples/many_cells.rs`, and `machines.rs`, `evidence_cost.rs` and `egress_cost` there. Each prints one JSON object a line,
//! `{"measure": "p50, 1 at once", "value": 1.9, "unit": "ms"}`, and ends with success only if every
//! cell ended as it should. Here its lines become a table; figures in `ms` are also set against
//! bubblewrap's p50 for `true` from the same run.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::table;
use crate::error::TaskError;
use crate::machines::Machines;
use crate::process;
use crate::workspace::Workspace;

const MANY_CELLS: &str = "many_cells";
const MACHINES: &str = "machines";
const EVIDENCE: &str = "evidence_cost";
const EGRESS: &str = "egress_cost";

/// The column that the others of the egress table are set against.
const LOOPBACK: &str = "loopback";

/// How the figure begins that the others are set against.
const PLAIN_QEMU: &str = "QEMU alone";

/// How the figures of evidence begin that others are set against, and how those others begin.
const EVIDENCE_PAIRS: [(&str, &str); 4] = [
    (
        "plain lines, a disk flush after each line",
        "signed events by 1 producer",
    ),
    (
        "plain lines, a disk flush after each 64",
        "signed events by 64 producers",
    ),
    ("p50 of a cell, without evidence", "p50 of a cell, evidence"),
    ("their signatures alone, in batches", "lines verified"),
];

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
    let figures = run(workspace, MANY_CELLS, &[])?;
    Ok(format!("{heading}{}", tabulate(&figures, reference)))
}

/// What evidence costs, each figure beside that of the same work without it, from the same run.
pub(crate) fn measure_evidence(workspace: &Workspace) -> Result<String, TaskError> {
    let heading = "\n### Evidence\n\n";
    let figures = run(workspace, EVIDENCE, &[])?;
    Ok(format!("{heading}{}", tabulate_evidence(&figures)))
}

fn tabulate_evidence(figures: &[Figure]) -> String {
    let mut text = String::from("| measure | value | unit | ratio to what stands beside it |\n");
    text.push_str("| --- | ---: | --- | --- |\n");
    for figure in figures {
        let pair = EVIDENCE_PAIRS
            .iter()
            .find(|(_, ours)| figure.measure.starts_with(ours))
            .and_then(|(plain, _)| {
                let plain = figures
                    .iter()
                    .find(|other| other.measure.starts_with(plain))?;
                Some(format!(
                    "{:.2} × {}",
                    figure.value / plain.value,
                    plain.measure
                ))
            });
        let _ = writeln!(
            text,
            "| {} | {:.2} | {} | {} |",
            figure.measure,
            figure.value,
            figure.unit,
            pair.unwrap_or_default()
        );
    }
    text
}

/// What the network of a cell costs, beside other ways out of a network namespace.
pub(crate) fn measure_egress(workspace: &Workspace, cellos: &Path) -> Result<String, TaskError> {
    let heading = "\n### Egress\n\n";
    let figures = run(workspace, EGRESS, &[cellos.as_os_str()])?;
    Ok(format!("{heading}{}", tabulate_egress(&figures)))
}

/// `MEASURE: COLUMN` figures that have a column for the loopback device become one table of their
/// columns, each with its ratio to that one; all others are listed below it.
fn tabulate_egress(figures: &[Figure]) -> String {
    let split = |figure: &'_ Figure| -> Option<(String, String)> {
        let (measure, column) = figure.measure.split_once(": ")?;
        Some((measure.to_owned(), column.to_owned()))
    };
    let mut rows: Vec<(String, &str, f64)> = Vec::new();
    let mut columns: Vec<String> = Vec::new();
    for figure in figures {
        if let Some((measure, column)) = split(figure)
            && column == LOOPBACK
        {
            rows.push((measure, &figure.unit, figure.value));
        }
    }
    let in_table = |measure: &str| rows.iter().any(|(row, ..)| row == measure);
    for figure in figures {
        if let Some((measure, column)) = split(figure)
            && in_table(&measure)
            && !columns.contains(&column)
        {
            columns.push(column);
        }
    }
    let mut text = format!("| measure | unit | {} |\n", columns.join(" | "));
    let _ = writeln!(text, "| --- | --- |{}", " ---: |".repeat(columns.len()));
    for (measure, unit, loopback) in &rows {
        let _ = write!(text, "| {measure} | {unit} |");
        for column in &columns {
            let name = format!("{measure}: {column}");
            let cell = match figures.iter().find(|figure| figure.measure == name) {
                Some(figure) if column == LOOPBACK => format!("{:.2}", figure.value),
                Some(figure) => {
                    format!("{:.2} ({:.2} ×)", figure.value, figure.value / loopback)
                }
                None => String::new(),
            };
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    text.push_str("\n| measure | value | unit |\n| --- | ---: | --- |\n");
    for figure in figures {
        if !split(figure).is_some_and(|(measure, _)| in_table(&measure)) {
            let Figure {
                measure,
                value,
                unit,
            } = figure;
            let _ = writeln!(text, "| {measure} | {value:.2} | {unit} |");
        }
    }
    text
}

/// Cells in virtual machines, from the bundle that the gate makes.
pub(crate) fn measure_machines(workspace: &Workspace) -> Result<String, TaskError> {
    let heading = "\n### In virtual machines, p50 of each step\n\n";
    let machines = Machines::of(workspace);
    machines.prepare(workspace)?;
    let Some(bundle) = machines.bundle() else {
        return Ok(format!(
            "{heading}not measured: there is no bundle to boot\n"
        ));
    };
    let figures = run(workspace, MACHINES, &[bundle.as_os_str()])?;
    let reference = figures
        .iter()
        .find(|figure| figure.measure.starts_with(PLAIN_QEMU))
        .map(|figure| figure.value);
    let mut text = format!("{heading}| step | value | unit | × QEMU alone |\n");
    text.push_str("| --- | ---: | --- | ---: |\n");
    for figure in &figures {
        let ratio = match (figure.unit.as_str(), reference) {
            ("ms", Some(reference)) => format!("{:.3}", figure.value / reference),
            _ => String::new(),
        };
        let _ = writeln!(
            text,
            "| {} | {:.2} | {} | {ratio} |",
            figure.measure, figure.value, figure.unit
        );
    }
    Ok(text)
}

/// Runs one example, and reads its figures.
fn run(
    workspace: &Workspace,
    example: &'static str,
    arguments: &[&OsStr],
) -> Result<Vec<Figure>, TaskError> {
    let mut command = workspace.cargo(&[
        "run",
        "--release",
        "--locked",
        "--quiet",
        "--package",
        "cellos",
        "--example",
        example,
        "--",
    ]);
    process::output(command.args(arguments))?
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| parse(example, line))
        .collect()
}

fn parse(example: &str, line: &str) -> Result<Figure, TaskError> {
    let unreadable = || {
        TaskError::unreadable(
            format!("the example {example}"),
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
            parse(
                MANY_CELLS,
                r#"{"measure":"p50, 1 at once","value":2,"unit":"ms"}"#,
            )
            .unwrap(),
            parse(
                MANY_CELLS,
                r#"{"measure":"cells, 32 at once","value":900.5,"unit":"1/s"}"#,
            )
            .unwrap(),
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
    fn evidence_is_set_against_the_same_work_without_it() {
        let figure = |measure: &str, value| Figure {
            measure: measure.to_owned(),
            value,
            unit: "1/s".to_owned(),
        };
        let text = tabulate_evidence(&[
            figure("lines verified, each signed", 30.0),
            figure("their signatures alone, in batches", 40.0),
            figure("their signatures alone, one by one", 20.0),
        ]);
        assert!(
            text.contains("| 30.00 | 1/s | 0.75 × their signatures alone, in batches |"),
            "{text}"
        );
        assert!(text.contains("| 20.00 | 1/s |  |"), "{text}");
    }

    #[test]
    fn ways_out_stand_side_by_side_and_other_figures_below() {
        let figure = |measure: &str, value, unit: &str| Figure {
            measure: measure.to_owned(),
            value,
            unit: unit.to_owned(),
        };
        let text = tabulate_egress(&[
            figure("cellos run, p50: added", 0.5, "ms"),
            figure("bulk: loopback", 4.0, "GB/s"),
            figure("bulk: cell", 3.0, "GB/s"),
            figure("bulk: slirp4netns", 1.0, "GB/s"),
        ]);
        let expected = "| measure | unit | loopback | cell | slirp4netns |\n\
                        | --- | --- | ---: | ---: | ---: |\n\
                        | bulk | GB/s | 4.00 | 3.00 (0.75 ×) | 1.00 (0.25 ×) |\n\
                        \n| measure | value | unit |\n| --- | ---: | --- |\n\
                        | cellos run, p50: added | 0.50 | ms |\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_line_that_is_no_figure_is_shown() {
        let error = parse(MANY_CELLS, "ready").unwrap_err();
        assert!(error.to_string().contains("not a figure: ready"), "{error}");
        assert!(parse(MANY_CELLS, r#"{"measure":"x","unit":"ms"}"#).is_err());
    }
}
