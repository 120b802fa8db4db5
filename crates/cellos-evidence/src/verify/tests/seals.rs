//! Sealed segments that are not what their seals state, and logs that were unsigned once.

use std::{fs, path::PathBuf, sync::Arc};

use super::*;
use crate::{
    finding::Severity,
    log::{Clock, EventLog, LogConfig, Rotation, Segment, Segments},
};

fn open(path: &Path, signer: Option<SoftwareSigner>) -> EventLog {
    EventLog::open(LogConfig {
        signer: signer.map(|signer| Arc::new(signer) as _),
        rotation: Rotation {
            max_age: None,
            ..Rotation::default()
        },
        // The events of these tests are old.
        clock: Clock::new(|| "2026-01-02T03:04:04Z".parse().unwrap()),
        ..LogConfig::new(path)
    })
    .unwrap()
}

fn append_run(log: &EventLog, run: &str, second: u32) {
    for (ty, second) in [("started", second), ("destroyed", second + 1)] {
        log.append(&[event(&format!("{run}-{ty}"), ty, run, second)])
            .unwrap();
    }
}

/// A signed log of two sealed segments and a live file, a run in each.
struct Sealed {
    folder: tempfile::TempDir,
    path: PathBuf,
    segments: Vec<Segment>,
}

impl Sealed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let log = open(&path, Some(signer(1)));
        append_run(&log, "r1", 0);
        log.rotate().unwrap();
        append_run(&log, "r2", 2);
        log.rotate().unwrap();
        append_run(&log, "r3", 4);
        log.sync().unwrap();
        let segments = Segments::of(&path).unwrap().sealed;
        assert_eq!(segments.len(), 2);
        Self {
            folder,
            path,
            segments,
        }
    }

    fn seal(&self, index: usize) -> &Path {
        self.segments[index].seal.as_deref().unwrap()
    }

    fn check(&self, beginning: Beginning) -> Checked {
        let keys = keyset();
        let checks = Checks {
            keys: Some(&keys),
            beginning,
            ..Checks::default()
        };
        check_file(&self.path, &checks)
    }

    /// The errors about the log, and the file that each is about.
    fn errors(&self) -> Vec<(FindingKind, String)> {
        errors(&self.check(Beginning::Demanded))
    }

    fn name(&self, index: usize) -> String {
        name(&self.segments[index].path)
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn errors(checked: &Checked) -> Vec<(FindingKind, String)> {
    let findings = checked.recorder.findings.iter();
    findings
        .filter(|finding| finding.run.is_none() && finding.kind.severity() == Severity::Error)
        .map(|finding| (finding.kind, name(&finding.place.file)))
        .collect()
}

/// The runs whose lines can be believed.
fn believed(checked: &Checked) -> Vec<&str> {
    let verdicts = checked.recorder.verdicts.iter();
    verdicts
        .filter(|verdict| verdict.lines == Lines::Intact)
        .map(|verdict| verdict.run.key.run_id.as_str())
        .collect()
}

#[test]
fn a_log_of_sealed_segments_is_well() {
    let log = Sealed::new();
    assert_eq!(log.errors(), []);
    let checked = log.check(Beginning::Demanded);
    assert!(checked.summary.is_well());
    assert_eq!(believed(&checked), ["r1", "r2", "r3"]);
}

#[test]
fn a_seal_with_another_root_or_number_is_not_the_signers() {
    for field in ["\"root\":\"", "\"lastHash\":\"", "\"bytes\":"] {
        let log = Sealed::new();
        let seal = fs::read_to_string(log.seal(0)).unwrap();
        let at = seal.find(field).unwrap() + field.len();
        let other = if seal[at..].starts_with('1') {
            "2"
        } else {
            "1"
        };
        let changed = [&seal[..at], other, &seal[at + 1..]].concat();
        fs::write(log.seal(0), changed).unwrap();
        assert_eq!(
            log.errors(),
            [(FindingKind::SignatureInvalid, log.name(0))],
            "{field}"
        );
    }
}

#[test]
fn lines_missing_from_the_end_of_a_segment_are_missed_by_its_seal_and_by_the_next() {
    let log = Sealed::new();
    let segment = &log.segments[0].path;
    let text = fs::read_to_string(segment).unwrap();
    let end = text.trim_end().rfind('\n').unwrap() + 1;
    fs::write(segment, &text[..end]).unwrap();
    let found = log.errors();
    assert!(
        found.contains(&(FindingKind::SealBroken, log.name(0))),
        "{found:?}"
    );
    assert!(
        found.contains(&(FindingKind::Gap, log.name(1))),
        "{found:?}"
    );
}

#[test]
fn the_seal_of_another_segment_is_none_of_this_one() {
    let log = Sealed::new();
    let first = fs::read(log.seal(0)).unwrap();
    let second = fs::read(log.seal(1)).unwrap();
    fs::write(log.seal(0), second).unwrap();
    fs::write(log.seal(1), first).unwrap();
    let found = log.errors();
    assert!(
        found.contains(&(FindingKind::SealBroken, log.name(0))),
        "{found:?}"
    );
    assert!(
        found.contains(&(FindingKind::SealBroken, log.name(1))),
        "{found:?}"
    );
}

#[test]
fn a_front_that_was_removed_is_vouched_for_by_the_seal_of_what_is_left_or_missing() {
    let log = Sealed::new();
    fs::remove_file(&log.segments[0].path).unwrap();
    fs::remove_file(log.seal(0)).unwrap();
    assert_eq!(log.errors(), [(FindingKind::Pruned, log.name(1))]);
    // Whoever keeps no old segments can say so.
    let checked = log.check(Beginning::Pruned);
    assert_eq!(errors(&checked), []);
    assert!(checked.summary.is_well());
    assert_eq!(checked.summary.unchecked, [Unchecked::Pruned]);
    assert_eq!(believed(&checked), ["r2", "r3"]);
    // Nothing vouches for a segment without its seal: lines are missing before it.
    fs::remove_file(log.seal(1)).unwrap();
    let checked = log.check(Beginning::Pruned);
    assert_eq!(errors(&checked), [(FindingKind::Gap, log.name(1))]);
    assert!(!checked.summary.is_well());
    drop(log.folder);
}

#[test]
fn a_log_that_was_unsigned_until_it_got_a_signer_is_well_with_a_note() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    append_run(&open(&path, None), "r1", 0);
    let log = open(&path, Some(signer(1)));
    append_run(&log, "r2", 2);
    log.sync().unwrap();
    let keys = keyset();
    let checks = Checks {
        keys: Some(&keys),
        ..Checks::default()
    };
    let checked = check_file(&path, &checks);
    assert_eq!(checked.summary.counts[&FindingKind::UnsignedBefore], 1);
    assert_eq!(errors(&checked), []);
    assert!(checked.summary.is_well());
    assert_eq!(believed(&checked), ["r1", "r2"]);
    // Without the signed seal nobody vouches for them.
    let sealed = Segments::of(&path).unwrap().sealed.remove(0);
    fs::remove_file(sealed.seal.unwrap()).unwrap();
    let checked = check_file(&path, &checks);
    assert_eq!(
        errors(&checked),
        [(FindingKind::Unsigned, name(&sealed.path))]
    );
    assert_eq!(believed(&checked), ["r2"]);
}
