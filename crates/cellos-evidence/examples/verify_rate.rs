//! How many signed lines a second `verify` checks on one core: `verify_rate [LINES]`.
//!
//! Writes a log of lines that look like those of a cell for each size of groups that are signed
//! together, and checks it three times; the best time counts. Everything is done on one thread, and
//! what counts is the processor's time for it, so that other programs change little.

use std::{error::Error, io::Write as _};

use cellos_core::{
    CloudEventV1,
    signing::{Signer as _, SoftwareSigner},
};
use cellos_evidence::{
    keyset::{Keyset, KeysetKey},
    line::{self, Tail},
    verify::{Checks, End, Silent, verify},
};

/// Lines of a log when the call does not say.
const LINES: usize = 100_000;
/// Lines of one run.
const RUN_LINES: usize = 8;

fn event(number: usize) -> Result<CloudEventV1, serde_json::Error> {
    let (run, step) = (number / RUN_LINES, number % RUN_LINES);
    let ty = match step {
        0 => "lifecycle.v1.started",
        7 => "lifecycle.v1.destroyed",
        _ => "observability.v1.process_spawned",
    };
    let milliseconds = number % 1000;
    let seconds = number / 1000;
    serde_json::from_value(serde_json::json!({
        "specversion": "1.0",
        "id": uuid::Uuid::from_u128(number as u128).to_string(),
        "source": "cellos-supervisor",
        "type": format!("dev.cellos.events.cell.{ty}"),
        "datacontenttype": "application/json",
        "data": {
            "cellId": format!("cell-{}", run % 50), "specId": "build", "runId": format!("run-{run}"),
            "ttlSeconds": 3600, "program": "/usr/bin/cc", "argc": 12, "outcome": "succeeded",
            "correlation": {"platform": "ci", "externalRunId": "4711", "tenantId": "acme"},
            "specHash": "e1ad461f791818609917130c4e8ec6da8ce246e195f1cd4f3ef572858656bee9",
            "residue": {"lookedFor": ["processes", "cgroup", "mounts", "files"], "found": []},
        },
        "time": format!(
            "2026-01-02T{:02}:{:02}:{:02}.{milliseconds:03}Z",
            seconds / 3600, seconds / 60 % 60, seconds % 60
        ),
    }))
}

/// How long this thread has been executed (proc(5), `schedstat`).
fn processor_seconds() -> Result<f64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split_whitespace().next().ok_or("schedstat is empty")?;
    Ok(nanoseconds.parse::<u64>()? as f64 / 1e9)
}

/// The most memory that this process had at any time (proc(5), `VmHWM`).
fn peak_memory() -> Result<String, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.ok_or("no VmHWM")?.trim().to_owned())
}

fn main() -> Result<(), Box<dyn Error>> {
    let lines = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => LINES,
    };
    let signer = SoftwareSigner::from_seed("bench", [7; 32]);
    let key = KeysetKey {
        public: signer.verifying_key(),
        not_before: None,
        not_after: None,
        revoked: None,
    };
    let keys: Keyset = [("bench".to_owned(), key)].into_iter().collect();
    let path = std::env::temp_dir().join(format!("verify-rate-{}.jsonl", std::process::id()));
    for (name, group, keys) in [
        ("not signed", 8, None),
        ("groups of 1", 1, Some(&keys)),
        ("groups of 2", 2, Some(&keys)),
        ("groups of 8", 8, Some(&keys)),
    ] {
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
        let mut tail = Tail::of_new_log("01BENCH");
        let signer = keys.map(|_| &signer as &dyn cellos_core::signing::Signer);
        for first in (0..lines).step_by(group) {
            let events = (first..lines.min(first + group)).map(event);
            let events = events.collect::<Result<Vec<_>, _>>()?;
            file.write_all(&line::encode(&mut tail, &events, signer)?)?;
        }
        file.flush()?;
        drop(file);
        let checks = Checks {
            keys,
            end: End::Open,
            ..Checks::default()
        };
        let mut best = f64::INFINITY;
        let mut summary = None;
        for _ in 0..3 {
            let start = processor_seconds()?;
            summary = Some(verify(&path, &checks, &mut Silent)?);
            best = best.min(processor_seconds()? - start);
        }
        let summary = summary.ok_or("nothing was checked")?;
        let rate = summary.lines as f64 / best;
        let size = summary.bytes as f64 / 1e6;
        println!(
            "{name:12} {rate:9.0} lines/s  {:6.0} MB/s  {} bytes a line  {:?}  memory so far {}",
            size / best,
            summary.bytes / summary.lines.max(1),
            summary.counts,
            peak_memory()?
        );
    }
    std::fs::remove_file(&path)?;
    Ok(())
}
