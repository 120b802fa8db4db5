//! How a run ended and why, in a sentence.

use cellos_evidence::projection::{EndKind, EndView, RunView};

use crate::runs::show;

/// The sentence.
pub(super) fn sentence(run: &RunView) -> String {
    let Some(end) = &run.end else {
        return "The log has no end of it: it is running, or its supervisor disappeared.".into();
    };
    let why = end.reason_detail.as_ref().or(end.reason.as_ref());
    if end.how == EndKind::NotCreated {
        return format!(
            "The cell could not be made{}.",
            why.map(|why| format!(": {why}")).unwrap_or_default()
        );
    }
    if end.how == EndKind::Refused {
        return format!(
            "The document was refused before anything was done{}.",
            why.map(|why| format!(": {why}")).unwrap_or_default()
        );
    }
    let mut sentence = how(run, end);
    // A code is its own reason.
    let is_said = why.is_none_or(|why| why.starts_with("command exited") || sentence.contains(why));
    if let Some(why) = why.filter(|_| !is_said) {
        sentence.push_str(&format!(" The log's reason: {why}."));
    }
    match end.later_errors.len() {
        0 => {}
        1 => sentence.push_str(&format!(" After that: {}.", end.later_errors[0])),
        count => sentence.push_str(&format!(" After that {count} more errors.")),
    }
    sentence
}

/// How long the command ran, in microseconds: by whoever ran it, else by its supervisor, which
/// gives whole milliseconds.
pub(super) fn lasted_micros(run: &RunView) -> Option<u64> {
    let measured = run.usage.as_ref().and_then(|usage| usage.wall_micros);
    let command = run.command.as_ref();
    measured.or_else(|| Some(command?.duration_ms?.saturating_mul(1000)))
}

fn how(run: &RunView, end: &EndView) -> String {
    let command = run.command.as_ref();
    let by = end
        .ended_by
        .as_deref()
        .or_else(|| command.and_then(|command| command.ended_by.as_deref()));
    let code = end
        .exit_code
        .or_else(|| command.and_then(|command| command.exit_code));
    let signal = end.signal.or_else(|| command.and_then(|c| c.signal));
    let lasted = lasted_micros(run)
        .map(|micros| format!(" after {}", show::unsigned_micros(micros)))
        .unwrap_or_default();
    let timeout = run
        .declared
        .as_ref()
        .and_then(|declared| declared.timeout_ms);
    let seconds = |seconds: Option<u64>| seconds.map_or("?".into(), |seconds| seconds.to_string());
    match (by, code, signal) {
        (Some("exited"), Some(code), _) | (None, Some(code @ 0..), None) => {
            format!("The command returned {code}{lasted}.")
        }
        (Some("signalled"), _, Some(signal)) => {
            format!("Signal {signal}, which CellOS did not send, ended the command{lasted}.")
        }
        (Some("deadline-ttl"), ..) => format!(
            "The cell outlived its {} s to live and was ended.",
            seconds(run.ttl_seconds)
        ),
        (Some("deadline-timeout"), ..) => format!(
            "The command outlived the {} ms that its document allows and was ended.",
            seconds(timeout)
        ),
        (Some("deadline-operator"), ..) => {
            "The command outlived the operator's cap on run time and was ended.".into()
        }
        (Some("supervisor-signal"), ..) => "CellOS was asked to stop, and ended it.".into(),
        (Some("limit"), ..) => format!(
            "The kernel ended it for a limit of the cell{}.",
            limits(run)
        ),
        (Some("backstop"), ..) => {
            "The backend's own backstop ended it, because the supervisor did not act.".into()
        }
        (Some("refused"), ..) => "The command could not be executed.".into(),
        (Some("not-started"), ..) => {
            "A phase before the command failed, so the command never ran.".into()
        }
        (Some("no-command"), ..) => "The document has no command; the cell was made and taken \
                                     apart."
            .into(),
        (Some("evidence-unwritable"), ..) => {
            "The command was killed, because its evidence could not be written.".into()
        }
        (Some("lost"), ..) => "The backend lost sight of the command.".into(),
        (Some("supervisor-lost"), ..) => {
            "The supervisor disappeared, and the reaper finished the run.".into()
        }
        (Some(other), ..) => format!("It was ended by {other:?}."),
        (None, ..) => match &command.and_then(|command| command.spawn_error.as_ref()) {
            Some(error) => format!("The command did not run to its end: {error}."),
            None if run.started.is_none() => "The cell never started.".into(),
            None => "The log does not say how the command ended.".into(),
        },
    }
}

fn limits(run: &RunView) -> String {
    let named: Vec<_> = run
        .limits_hit
        .iter()
        .map(|limit| match (&*limit.kind, limit.limit) {
            ("memory", Some(bytes)) => format!("{} of memory", show::bytes(bytes)),
            (kind, Some(count)) => format!("{count} {kind}"),
            (kind, None) => kind.to_owned(),
        })
        .collect();
    if named.is_empty() {
        String::new()
    } else {
        format!(": {}", named.join(", "))
    }
}
