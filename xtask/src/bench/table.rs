//! Results as Markdown.

use std::fmt::Write as _;
use std::time::Duration;

use super::Measured;
use super::contenders::{self, Workload};

/// One table for one workload, with the reasons of those that could not be measured below it.
pub(crate) fn whole_process(workload: Workload, measured: &[Measured]) -> String {
    let reference = contenders::reference(measured);
    let mut text = format!("\n### Whole process: `{}`\n\n", workload.argv().join(" "));
    text.push_str("| program | p50 ms | p99 ms | min ms | p50, × bubblewrap |\n");
    text.push_str("| --- | ---: | ---: | ---: | ---: |\n");
    for entry in measured {
        let Ok(result) = &entry.result else { continue };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            entry.name,
            milliseconds(result.p50),
            milliseconds(result.p99),
            milliseconds(result.min),
            ratio(result.p50, reference.map(|reference| reference.p50)),
        );
    }
    for entry in measured {
        if let Err(why) = &entry.result {
            let _ = write!(text, "\n{}: not measured: {why}\n", entry.name);
        }
    }
    text
}

pub(crate) fn milliseconds(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64() * 1000.0)
}

pub(crate) fn ratio(duration: Duration, reference: Option<Duration>) -> String {
    match reference {
        Some(reference) if !reference.is_zero() => {
            format!("{:.2}", duration.as_secs_f64() / reference.as_secs_f64())
        }
        _ => "–".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::statistics::Distribution;

    fn measured(name: &'static str, p50: u64) -> Measured {
        let value = Duration::from_micros(p50);
        Measured {
            name,
            result: Ok(Distribution {
                min: value,
                p50: value,
                p99: value,
            }),
        }
    }

    #[test]
    fn ratios_are_against_bubblewrap_and_failures_stand_below() {
        let mut all = vec![measured("bubblewrap", 4000), measured("cellos run", 3000)];
        all.push(Measured {
            name: "crun",
            result: Err("not installed".to_owned()),
        });
        let text = whole_process(Workload::True, &all);
        assert!(
            text.contains("| cellos run | 3.00 | 3.00 | 3.00 | 0.75 |"),
            "{text}"
        );
        assert!(
            text.ends_with("\ncrun: not measured: not installed\n"),
            "{text}"
        );
    }

    #[test]
    fn without_the_reference_there_are_no_ratios() {
        let text = whole_process(Workload::True, &[measured("cellos run", 3000)]);
        assert!(text.contains("| 3.00 | – |"), "{text}");
    }
}
