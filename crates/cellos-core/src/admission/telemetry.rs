//! `spec.telemetry`.

use super::{grammar, report::Report, shown};
use crate::{document::ExecutionCellSpec, source::ProblemCode};

/// The one channel there is.
const CHANNEL: &str = "vsock-cbor";

pub(super) fn check(spec: &ExecutionCellSpec, report: &mut Report) {
    let Some(telemetry) = &spec.telemetry else {
        return;
    };
    if telemetry.events.is_empty() {
        report.refuse(
            ProblemCode::Empty,
            "spec.telemetry.events",
            "names no event",
        );
    }
    if telemetry.channel != CHANNEL {
        let message = format!("`{}` is not a known channel", shown(&telemetry.channel));
        let mend = format!("known: {CHANNEL}");
        report.refuse_with(
            ProblemCode::UnknownValue,
            "spec.telemetry.channel",
            message,
            mend,
        );
    }
    if !grammar::is_agent_version(&telemetry.agent_version) {
        report.refuse_with(
            ProblemCode::InvalidVersion,
            "spec.telemetry.agentVersion",
            format!("`{}` is not a version", shown(&telemetry.agent_version)),
            "write MAJOR.MINOR.PATCH without leading zeros, optionally `-` and a pre-release",
        );
    }
    let egress = spec
        .authority
        .egress_rules
        .as_ref()
        .is_some_and(|rules| !rules.is_empty());
    for (index, event) in telemetry.events.iter().enumerate() {
        let path = format!("spec.telemetry.events[{index}]");
        let name = event.trim();
        if name.is_empty() {
            report.refuse(ProblemCode::Empty, path, "is blank");
        } else if !egress && name.to_lowercase().starts_with("net.") {
            report.refuse_with(
                ProblemCode::TelemetryWithoutEgress,
                path,
                format!("`{}` cannot happen without an egress rule", shown(name)),
                "declare spec.authority.egressRules, or leave the event out",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use serde_json::{Value, json};

    fn telemetry(changes: Value) -> Value {
        let mut telemetry =
            json!({"channel": "vsock-cbor", "events": ["proc.spawn"], "agentVersion": "1.0.0"});
        for (name, value) in changes.as_object().expect("an object") {
            telemetry[name] = value.clone();
        }
        json!({"telemetry": telemetry})
    }

    #[test]
    fn fields() {
        admitted(telemetry(json!({})));
        admitted(telemetry(
            json!({"rateLimits": {"eventsPerSecond": 0}, "agentVersion": "1.0.0-a-b.c"}),
        ));
        for (changes, path, code) in [
            (json!({"events": []}), "events", ProblemCode::Empty),
            (
                json!({"events": ["a", " "]}),
                "events[1]",
                ProblemCode::Empty,
            ),
            (
                json!({"channel": "VSOCK-CBOR"}),
                "channel",
                ProblemCode::UnknownValue,
            ),
            (
                json!({"agentVersion": "1.0"}),
                "agentVersion",
                ProblemCode::InvalidVersion,
            ),
            (
                json!({"events": [" Net.connect"]}),
                "events[0]",
                ProblemCode::TelemetryWithoutEgress,
            ),
        ] {
            refused(telemetry(changes), &format!("spec.telemetry.{path}"), code);
        }
    }

    #[test]
    fn network_events_go_with_egress() {
        let mut spec = telemetry(json!({"events": ["net.connect"]}));
        spec["authority"] = json!({"egressRules": [{"host": "a.b", "port": 1}]});
        admitted(spec);
    }
}
