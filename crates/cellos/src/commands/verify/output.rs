//! What a check says, for people and for programs.

use std::io::{self, Write as _};

use cellos_evidence::{
    finding::{Finding, Severity},
    verify::{Lines, MAX_FINDINGS_PER_KIND, Observer, Summary, Verdict},
};
use serde_json::json;

use super::progress::Progress;
use crate::say::{GOOD, STRONG, WARNING, harmless, harmless_json};

/// Version of the form of the JSON.
const FORMAT: &str = "cellos.verify/1";

/// Writes findings and verdicts as they come.
pub(super) struct Report {
    form: Form,
    runs: Runs,
    progress: Progress,
    /// Why standard output takes nothing any more.
    failed: Option<io::Error>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

/// Which runs are listed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Runs {
    NotWell,
    All,
}

impl Report {
    pub(super) fn new(json: bool, all: bool, total: u64) -> Self {
        Self {
            form: if json { Form::Json } else { Form::Text },
            runs: if all { Runs::All } else { Runs::NotWell },
            progress: Progress::new(total),
            failed: None,
        }
    }

    /// Writes the summary.
    pub(super) fn finish(mut self, summary: &Summary) -> io::Result<()> {
        self.progress.clear();
        match self.form {
            Form::Json => self.line(&harmless_json(&summary_json(summary).to_string())),
            Form::Text => self.line(&summary_text(summary)),
        }
        match self.failed {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Writes a line; the check goes on when nobody reads it, for its exit code.
    fn line(&mut self, line: &str) {
        self.progress.clear();
        if self.failed.is_none() {
            self.failed = writeln!(anstream::stdout(), "{line}").err();
        }
    }
}

impl Observer for Report {
    fn finding(&mut self, finding: &Finding) {
        let line = match self.form {
            Form::Json => harmless_json(&finding_json(finding).to_string()),
            Form::Text => finding_text(finding),
        };
        self.line(&line);
    }

    fn verdict(&mut self, verdict: &Verdict) {
        let line = match self.form {
            Form::Json => harmless_json(&verdict_json(verdict).to_string()),
            Form::Text if self.runs == Runs::All || !verdict.is_well() => verdict_text(verdict),
            Form::Text => return,
        };
        self.line(&line);
    }

    fn progress(&mut self, bytes: u64) {
        self.progress.at(bytes);
    }
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Error => "error",
    }
}

fn finding_text(finding: &Finding) -> String {
    let style = match finding.kind.severity() {
        Severity::Error => WARNING,
        Severity::Note => GOOD,
    };
    let run = finding.run.as_ref().map_or_else(String::new, |run| {
        format!(" (cell {}, run {})", run.cell_id, run.run_id)
    });
    format!(
        "{}: {style}{}{style:#}: {}",
        harmless(&finding.place.to_string()),
        finding.kind,
        harmless(&format!("{}{run}", finding.detail))
    )
}

fn finding_json(finding: &Finding) -> serde_json::Value {
    json!({
        "format": FORMAT,
        "kind": "finding",
        "file": finding.place.file.to_string_lossy(),
        "line": finding.place.line,
        "code": finding.kind.as_str(),
        "severity": severity(finding.kind.severity()),
        "cellId": finding.run.as_ref().map(|run| &run.cell_id),
        "runId": finding.run.as_ref().map(|run| &run.run_id),
        "detail": finding.detail,
    })
}

fn verdict_text(verdict: &Verdict) -> String {
    let (style, word) = match verdict.is_well() {
        true => (GOOD, "well"),
        false => (WARNING, "NOT WELL"),
    };
    let mut why: Vec<String> = verdict
        .findings
        .iter()
        .map(|(kind, count)| match count {
            1 => kind.to_string(),
            count => format!("{kind} x{count}"),
        })
        .collect();
    if verdict.lines == Lines::Broken {
        why.insert(0, "its lines cannot be believed".to_owned());
    }
    let why = match why.is_empty() {
        true => String::new(),
        false => format!(": {}", why.join(", ")),
    };
    let key = &verdict.run.key;
    let about = format!(
        "cell {}, run {}, from {}",
        key.cell_id, key.run_id, verdict.run.first
    );
    format!("{style}{word}{style:#}  {}{why}", harmless(&about))
}

fn verdict_json(verdict: &Verdict) -> serde_json::Value {
    let run = &verdict.run;
    json!({
        "format": FORMAT,
        "kind": "verdict",
        "cellId": run.key.cell_id,
        "runId": run.key.run_id,
        "verdict": if verdict.is_well() { "well" } else { "notWell" },
        "lines": match verdict.lines { Lines::Intact => "intact", Lines::Broken => "broken" },
        "findings": counts(&verdict.findings),
        "file": run.first.file.to_string_lossy(),
        "line": run.first.line,
        "tenantId": run.tenant_id,
        "backend": run.backend,
        "outcome": run.end.as_ref().and_then(|end| end.outcome.as_ref()),
    })
}

fn counts(
    findings: &std::collections::BTreeMap<cellos_evidence::finding::FindingKind, u64>,
) -> serde_json::Map<String, serde_json::Value> {
    findings
        .iter()
        .map(|(kind, count)| (kind.as_str().to_owned(), (*count).into()))
        .collect()
}

fn summary_json(summary: &Summary) -> serde_json::Value {
    json!({
        "format": FORMAT,
        "kind": "summary",
        "verdict": if summary.is_well() { "well" } else { "notWell" },
        "files": summary.files.iter().map(|(path, format)| json!({
            "file": path.to_string_lossy(),
            "form": format.to_string(),
        })).collect::<Vec<_>>(),
        "bytes": summary.bytes,
        "lines": summary.lines,
        "events": summary.events,
        "logId": summary.log_id,
        "firstSeq": summary.first_seq,
        "lastSeq": summary.last_seq,
        "head": summary.head,
        "signatures": summary.keys,
        "unsignedLines": summary.unsigned_lines,
        "findings": counts(&summary.counts),
        "runsWell": summary.runs_well,
        "runsNotWell": summary.runs_not_well,
        "notChecked": summary.unchecked.iter().map(|it| it.as_str()).collect::<Vec<_>>(),
    })
}

fn summary_text(summary: &Summary) -> String {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| {
        rows.push(format!("{STRONG}{name:12}{STRONG:#} {}", harmless(&value)));
    };
    for (path, format) in &summary.files {
        row("file", format!("{} ({format})", path.display()));
    }
    row(
        "events",
        format!("{} in {} lines", summary.events, summary.lines),
    );
    if let (Some(first), Some(last)) = (summary.first_seq, summary.last_seq) {
        let log = summary.log_id.as_deref().unwrap_or("a chain");
        row("log", format!("{log}, lines {first} to {last}"));
    }
    for (kid, count) in &summary.keys {
        row("signed by", format!("{kid} ({count} signatures)"));
    }
    if summary.unsigned_lines > 0 {
        row("not signed", format!("{} lines", summary.unsigned_lines));
    }
    row(
        "runs",
        format!(
            "{} well, {} not well",
            summary.runs_well, summary.runs_not_well
        ),
    );
    for (kind, count) in &summary.counts {
        let not_shown = match count.saturating_sub(MAX_FINDINGS_PER_KIND) {
            0 => String::new(),
            more => format!(" ({more} of them not shown)"),
        };
        let severity = severity(kind.severity());
        row("found", format!("{kind}: {count}, {severity}{not_shown}"));
    }
    for unchecked in &summary.unchecked {
        row("not checked", unchecked.meaning().to_owned());
    }
    if let (Some(seq), Some(head)) = (summary.last_seq, &summary.head) {
        row("head", format!("{seq}:{head}"));
    }
    let (style, word) = match summary.is_well() {
        true => (GOOD, "all is well"),
        false => (WARNING, "NOT all is well"),
    };
    rows.push(format!("{style}{word}{style:#}"));
    rows.join("\n")
}
