//! The files beside the lines: seals of segments, and the head.

use std::{fs, path::PathBuf};

use super::*;
use crate::{
    head,
    log::{EventLog, LogConfig},
};

/// A signed log, as its writer leaves it.
fn written(folder: &Path) -> PathBuf {
    let path = folder.join("events.jsonl");
    let log = EventLog::open(LogConfig {
        signer: Some(std::sync::Arc::new(signer(1))),
        ..LogConfig::new(&path)
    })
    .unwrap();
    for run in ["r1", "r2"] {
        log.append(&[event(&format!("{run}-a"), "started", run, 0)])
            .unwrap();
        log.append(&[event(&format!("{run}-b"), "destroyed", run, 1)])
            .unwrap();
    }
    log.sync().unwrap();
    path
}

fn kinds_at(path: &Path) -> Vec<(FindingKind, u64)> {
    let keys = keyset();
    let checks = Checks {
        keys: Some(&keys),
        ..Checks::default()
    };
    check_file(path, &checks).kinds()
}

#[test]
fn the_head_beside_a_log_makes_a_cut_off_tail_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path());
    assert!(head::path_of(&path).exists());
    assert_eq!(kinds_at(&path), []);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    fs::write(&path, lines[..lines.len() - 1].concat()).unwrap();
    assert_eq!(kinds_at(&path), [(FindingKind::CutOff, 0)]);
}

#[test]
fn a_head_that_nobody_vouches_for_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path());
    let head = head::path_of(&path);
    let text = fs::read_to_string(&head).unwrap();
    fs::write(&head, text.replace("\"nextSeq\":4", "\"nextSeq\":3")).unwrap();
    assert_eq!(kinds_at(&path), [(FindingKind::SignatureInvalid, 0)]);
}
