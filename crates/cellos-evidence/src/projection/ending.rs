//! What can be said of a run when it has ended.

use super::{
    network,
    parts::{EndKind, EndView},
    view::{RunView, micros_between},
};
use crate::finding::{Finding, FindingKind};

/// Seconds between the polite request to end and the kill, where the document does not say.
pub const DEFAULT_GRACE_SECONDS: u64 = 5;
/// Seconds from the kill at a deadline to the event that says the command has ended: the kernel
/// ends it, the backend reports, the event is written. The supervisor's own bounds add up to 50.
pub const END_SLACK_SECONDS: u64 = 60;
/// Seconds from the command's end to the cell's: taking it apart, and writing the events.
pub const TEARDOWN_SLACK_SECONDS: u64 = 240;
/// Seconds that storing one artifact, or fetching all of them, may take.
pub const EXPORT_SLACK_SECONDS: u64 = 600;
/// The published code of a command that never ran, or that a deadline ended.
const NO_EXIT_CODE: i64 = -1;
/// Added to a signal's number, as shells do.
const SIGNAL_BASE: i64 = 128;

/// Looks at a run that has ended.
pub(super) fn check(view: &mut RunView, findings: &mut Vec<Finding>) {
    let Some(end) = view.end.clone() else {
        return;
    };
    if end.how == EndKind::Refused {
        return;
    }
    if end.how == EndKind::NotCreated {
        if let Some(started) = &view.started {
            let detail = format!("the cell was not created, and started at {}", started.place);
            view.find(findings, &end.place, FindingKind::OutcomeMismatch, detail);
        }
        return;
    }
    let lost = is_lost(&end);
    if lost {
        let detail = "its supervisor disappeared, and the reaper finished it";
        view.find(findings, &end.place, FindingKind::SupervisorLost, detail);
    }
    residue(view, &end, findings);
    exit_codes(view, &end, findings);
    outcome(view, &end, findings);
    network::check(view, &end, findings);
    lifetime(view, &end, lost, findings);
}

fn is_lost(end: &EndView) -> bool {
    end.ended_by.as_deref() == Some("supervisor-lost")
        || end.reason.as_deref() == Some("supervisor_lost")
}

fn residue(view: &mut RunView, end: &EndView, findings: &mut Vec<Finding>) {
    let class = end.residue_class.as_deref();
    let looked = end
        .residue_looked_for
        .as_ref()
        .is_some_and(|kinds| !kinds.is_empty());
    let found = end.residue_found.join(", ");
    let (kind, detail) = match (class, end.residue_found.is_empty()) {
        (Some("documented_exception" | "documentedException"), _) => (
            FindingKind::ResidueDocumented,
            format!("left for a documented reason: {found}"),
        ),
        (Some("none"), false) => (
            FindingKind::Residue,
            format!("nothing is said to be left, and found was: {found}"),
        ),
        (_, false) => (FindingKind::Residue, format!("left: {found}")),
        (Some("none"), true) => return,
        (_, true) if looked => return,
        (None | Some("unknown" | "metadataOnly"), true) => (
            FindingKind::ResidueNotMeasured,
            "nobody looked for what the cell left".to_owned(),
        ),
        (Some(other), true) => (
            FindingKind::Malformed,
            format!("residueClass {other:?} is none of the contract"),
        ),
    };
    view.find(findings, &end.place, kind, detail);
}

fn exit_codes(view: &mut RunView, end: &EndView, findings: &mut Vec<Finding>) {
    let command = view.command.as_ref();
    let completed = command.and_then(|command| command.exit_code);
    let summary = view.summary_exit_code;
    let mut mismatches = Vec::new();
    if let (Some(completed), Some(summary)) = (completed, summary)
        && completed != summary
    {
        mismatches.push(format!(
            "the command completed with {completed}, the summary has {summary}"
        ));
    }
    if command.is_none()
        && let Some(summary) = summary
    {
        mismatches.push(format!(
            "the summary has {summary}, and no command completed"
        ));
    }
    // A deadline's -1 stands beside the code that the kernel gave.
    let stated = completed.filter(|code| *code != NO_EXIT_CODE);
    if let (Some(completed), Some(destroyed)) = (stated, end.exit_code)
        && completed != destroyed
    {
        mismatches.push(format!(
            "the command completed with {completed}, the end has {destroyed}"
        ));
    }
    let signals = [
        (command.and_then(|c| c.signal), stated),
        (end.signal, end.exit_code),
    ];
    for (signal, code) in signals {
        if let (Some(signal), Some(code)) = (signal, code)
            && signal.checked_add(SIGNAL_BASE) != Some(code)
        {
            mismatches.push(format!("signal {signal} with the code {code}"));
        }
    }
    if let (Some(before), Some(after)) = (command.and_then(|c| c.signal), end.signal)
        && before != after
    {
        mismatches.push(format!("signal {before}, and at the end signal {after}"));
    }
    for detail in mismatches {
        view.find(findings, &end.place, FindingKind::ExitCodeMismatch, detail);
    }
}

fn outcome(view: &mut RunView, end: &EndView, findings: &mut Vec<Finding>) {
    let command = view.command.as_ref();
    let code = command.and_then(|c| c.exit_code).or(end.exit_code);
    let export_failed = view.exports.items.iter().find(|e| e.failure.is_some());
    let ended_well = |by: &Option<String>| {
        by.as_deref()
            .is_none_or(|by| matches!(by, "exited" | "no-command"))
    };
    let mismatch = match end.outcome.as_deref() {
        Some("succeeded") => {
            if let Some(code) = code.filter(|code| *code != 0) {
                Some(format!("succeeded with the exit code {code}"))
            } else if let Some(reason) = &end.reason {
                Some(format!(
                    "succeeded, and gives a reason for failing: {reason:?}"
                ))
            } else if let Some(error) = end.later_errors.first() {
                Some(format!("succeeded with an error: {error:?}"))
            } else if command.is_some_and(|command| command.spawn_error.is_some()) {
                Some("succeeded with a command that did not run to its end".to_owned())
            } else if !ended_well(&end.ended_by) {
                let by = end.ended_by.as_deref().unwrap_or_default();
                Some(format!("succeeded, and was ended by {by:?}"))
            } else if let Some(export) = export_failed {
                Some(format!("succeeded without the artifact {:?}", export.name))
            } else if !end.residue_found.is_empty() {
                Some("succeeded with something left".to_owned())
            } else if view.started.is_none() {
                Some("succeeded without having started".to_owned())
            } else if view.program.is_some() && command.is_none() {
                Some("succeeded with a command whose end is missing".to_owned())
            } else {
                None
            }
        }
        Some("failed") => {
            let explained = code.is_some_and(|code| code != 0)
                || end.reason.is_some()
                || export_failed.is_some()
                || !end.later_errors.is_empty();
            (!explained).then(|| "failed, and nothing says why".to_owned())
        }
        Some(other) => {
            let detail = format!("outcome {other:?} is none of the contract");
            view.find(findings, &end.place, FindingKind::Malformed, detail);
            None
        }
        None => {
            let detail = "lifecycle.v1.destroyed: `outcome` is missing";
            view.find(findings, &end.place, FindingKind::Malformed, detail);
            None
        }
    };
    let command = view.command.as_ref();
    let by = command.and_then(|c| c.ended_by.as_deref());
    let changed = match (by, end.ended_by.as_deref()) {
        // The first is known before its event is written, the second once it could not be.
        (Some(_), Some("supervisor-lost" | "evidence-unwritable")) => None,
        (Some(before), Some(after)) if before != after => Some(format!(
            "the command was ended by {before:?}, the run by {after:?}"
        )),
        _ => None,
    };
    for detail in mismatch.into_iter().chain(changed) {
        view.find(findings, &end.place, FindingKind::OutcomeMismatch, detail);
    }
}

fn lifetime(view: &mut RunView, end: &EndView, lost: bool, findings: &mut Vec<Finding>) {
    let (Some(ttl), Some(started)) = (
        view.ttl_seconds,
        view.started.as_ref().and_then(|started| started.time),
    ) else {
        return;
    };
    let declared = view.declared.as_ref();
    let grace = declared
        .and_then(|declared| declared.limits.graceful_shutdown_seconds)
        .unwrap_or(DEFAULT_GRACE_SECONDS);
    let bound = ttl.saturating_add(grace).saturating_add(END_SLACK_SECONDS);
    let completed = view
        .phases
        .items
        .iter()
        .rev()
        .find(|phase| phase.reached == "completed")
        .map(|phase| phase.at);
    let mut exceeded = Vec::new();
    let mut within = |what: &str, micros: i64, bound: u64| {
        if micros > 0 && micros.unsigned_abs() > bound.saturating_mul(1_000_000) {
            exceeded.push(format!(
                "{what} after {} s, and {ttl} s are allowed ({bound} s with what ending takes)",
                micros / 1_000_000
            ));
        }
    };
    if let Some(completed) = completed {
        within(
            "the command ended",
            micros_between(started, completed),
            bound,
        );
    }
    if let Some(wall) = view.usage.as_ref().and_then(|usage| usage.wall_micros) {
        let wall = i64::try_from(wall).unwrap_or(i64::MAX);
        within("the command used its time", wall, bound);
    }
    let exports = declared
        .map_or(0, |declared| declared.artifacts.len() as u64)
        .max(view.exports.total);
    let slack = match exports {
        0 => TEARDOWN_SLACK_SECONDS,
        exports => exports
            .saturating_add(1)
            .saturating_mul(EXPORT_SLACK_SECONDS)
            .saturating_add(TEARDOWN_SLACK_SECONDS),
    };
    // The reaper comes when somebody calls it; until then nothing of the cell need be alive.
    if let Some(at) = end.at.filter(|_| !lost) {
        within(
            "the cell ended",
            micros_between(started, at),
            bound.saturating_add(slack),
        );
    }
    for detail in exceeded {
        view.find(findings, &end.place, FindingKind::LifetimeExceeded, detail);
    }
    timeout(view, grace, end, findings);
}

fn timeout(view: &mut RunView, grace: u64, end: &EndView, findings: &mut Vec<Finding>) {
    let timeout = view.declared.as_ref().and_then(|d| d.timeout_ms);
    let lasted = view.command.as_ref().and_then(|c| c.duration_ms);
    let (Some(timeout), Some(lasted)) = (timeout, lasted) else {
        return;
    };
    let slack = grace.saturating_add(END_SLACK_SECONDS).saturating_mul(1000);
    if lasted > timeout.saturating_add(slack) {
        let detail = format!("the command ran for {lasted} ms, and {timeout} ms are allowed");
        view.find(findings, &end.place, FindingKind::LifetimeExceeded, detail);
    }
}
