//! The log among several processes and on a disk that is really full, and what logs mean.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows test functions, but not the helpers of a test program"
)]

mod anything;
mod disk_full;
mod meaning;
mod processes;
mod published;

use std::{path::Path, sync::Arc};

use cellos_core::{
    CloudEventV1,
    signing::{Signer as _, SoftwareSigner},
};
use cellos_evidence::{
    line::{self, LineHash, genesis, signed_bytes},
    log::{AtEnd, LineEnd, LogConfig, LogReader},
};

fn signer() -> SoftwareSigner {
    SoftwareSigner::from_seed("k1", [7; 32])
}

fn config(path: &Path) -> LogConfig {
    LogConfig {
        signer: Some(Arc::new(signer())),
        ..LogConfig::new(path)
    }
}

fn event(id: &str, text: &str) -> CloudEventV1 {
    serde_json::from_value(serde_json::json!({
        "specversion": "1.0", "id": id, "source": "test", "type": "t", "data": text,
    }))
    .unwrap()
}

/// The ids of all events; the chain has to hold, and a signature has to speak for every line.
fn ids(path: &Path) -> Vec<String> {
    let key = signer().verifying_key();
    let mut reader = LogReader::open(path, AtEnd::Stop).unwrap();
    let mut ids = Vec::new();
    let (mut prev, mut waiting) = (None, 0);
    while let Some(line) = reader.next_line().unwrap() {
        assert_eq!(line.raw.end, LineEnd::Ended);
        let parsed = line::parse(line.raw.bytes).unwrap();
        assert_eq!(parsed.seq, ids.len() as u64);
        assert_eq!(parsed.prev, prev.unwrap_or_else(|| genesis(parsed.log_id)));
        prev = Some(LineHash::of_line(line.raw.bytes));
        waiting += 1;
        if let Some(signature) = parsed.signature {
            assert_eq!(signature.signs, waiting);
            assert!(key.verifies(&signed_bytes(parsed.entry), &signature.bytes));
            waiting = 0;
        }
        let event: CloudEventV1 = serde_json::from_str(parsed.event.get()).unwrap();
        ids.push(match event.ty.as_str() {
            "t" => event.id,
            ty => ty.rsplit('.').next().unwrap().to_owned(),
        });
    }
    assert_eq!(waiting, 0, "lines without a signature");
    ids
}
