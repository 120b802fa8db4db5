//! What a run was granted, and what it used of that.

use cellos_evidence::projection::{
    Declared, EgressRule, ExportView, IdentityStage, RunView, UsageView,
};

use super::Grant;
use crate::runs::show;

/// Nobody watched, so nothing is said.
const NOT_OBSERVED: &str = "not observed";

/// Every grant, and every use.
pub(super) fn of(run: &RunView) -> Vec<Grant> {
    let mut rows = Vec::new();
    if let Some(ttl) = run.ttl_seconds {
        rows.push(Grant {
            what: "lifetime",
            granted: format!("{ttl} s"),
            used: run.lasted_micros().map_or_else(unknown, show::micros),
        });
    }
    match &run.declared {
        Some(declared) => declared_and_used(run, declared, &mut rows),
        None => counted(run, &mut rows),
    }
    rows
}

fn unknown() -> String {
    NOT_OBSERVED.to_owned()
}

fn declared_and_used(run: &RunView, declared: &Declared, rows: &mut Vec<Grant>) {
    limits(run, declared, rows);
    for rule in &declared.egress_rules {
        rows.push(Grant {
            what: "connection",
            granted: connection(rule),
            used: connections(run, rule),
        });
    }
    for mount in &declared.mounts {
        rows.push(Grant {
            what: "mount",
            granted: format!("{} at {} ({})", mount.source, mount.target, mount.access),
            used: unknown(),
        });
    }
    for secret in &declared.secret_refs {
        rows.push(Grant {
            what: "secret",
            granted: secret.clone(),
            used: secret_use(run, secret),
        });
    }
    for artifact in &declared.artifacts {
        let used = run.exports.items.iter().find(|e| e.name == artifact.name);
        rows.push(Grant {
            what: "artifact",
            granted: match &artifact.path {
                Some(path) => format!("{} from {path}", artifact.name),
                None => artifact.name.clone(),
            },
            used: used.map_or_else(|| "unused: it did not leave the cell".into(), export),
        });
    }
    let is_undeclared = |name: &str| !declared.artifacts.iter().any(|a| a.name == name);
    for used in run.exports.items.iter().filter(|e| is_undeclared(&e.name)) {
        rows.push(Grant {
            what: "artifact",
            granted: "nothing".into(),
            used: format!("{}: {}", used.name, export(used)),
        });
    }
}

/// What published logs say: how many there are.
fn counted(run: &RunView, rows: &mut Vec<Grant>) {
    for (what, count) in [
        ("connection", run.egress_rule_count),
        ("secret", run.secret_count),
    ] {
        if let Some(count) = count.filter(|count| *count > 0) {
            rows.push(Grant {
                what,
                granted: format!("{count}, which the log does not name"),
                used: unknown(),
            });
        }
    }
    for used in &run.exports.items {
        rows.push(Grant {
            what: "artifact",
            granted: "not in the log".into(),
            used: format!("{}: {}", used.name, export(used)),
        });
    }
}

fn limits(run: &RunView, declared: &Declared, rows: &mut Vec<Grant>) {
    let nothing = UsageView::default();
    let usage = run.usage.as_ref().unwrap_or(&nothing);
    let limits = &declared.limits;
    let mut add = |what, granted: Option<String>, used: Option<String>| {
        if granted.is_some() || used.is_some() {
            rows.push(Grant {
                what,
                granted: granted.unwrap_or_else(|| "no limit declared".into()),
                used: used.unwrap_or_else(unknown),
            });
        }
    };
    if let Some(timeout) = declared.timeout_ms {
        add(
            "run time",
            Some(show::unsigned_micros(timeout.saturating_mul(1000))),
            super::ending::lasted_micros(run).map(show::unsigned_micros),
        );
    }
    add(
        "memory",
        limits.memory_max_bytes.map(show::bytes),
        usage.memory_peak_bytes.map(show::bytes),
    );
    add(
        "processes",
        limits.pids_max.map(|count| count.to_string()),
        usage.pids_peak.map(|count| count.to_string()),
    );
    let processor = limits.cpu_quota_micros.map(|quota| {
        let period = limits.cpu_period_micros.unwrap_or(100_000).max(1);
        let hundredths = u128::from(quota) * 100 / u128::from(period);
        format!("{}.{:02} of one", hundredths / 100, hundredths % 100)
    });
    let spent = match (usage.cpu_user_micros, usage.cpu_system_micros) {
        (None, None) => None,
        (user, system) => {
            let total = user.unwrap_or(0).saturating_add(system.unwrap_or(0));
            Some(show::unsigned_micros(total))
        }
    };
    add("processor", processor, spent);
    let written = [
        ("output", usage.stdout_bytes),
        ("errors", usage.stderr_bytes),
    ];
    for (what, bytes) in written {
        if let Some(bytes) = bytes {
            add(what, None, Some(show::bytes(bytes)));
        }
    }
}

fn connection(rule: &EgressRule) -> String {
    let protocol = rule.protocol.as_deref().unwrap_or("tcp");
    format!("{protocol} to {} port {}", rule.host, rule.port)
}

fn connections(run: &RunView, rule: &EgressRule) -> String {
    if run.flows.total == 0 {
        return unknown();
    }
    let allowed = run
        .flows
        .items
        .iter()
        .filter(|flow| flow.needs_rule && run.covers(rule, flow))
        .count();
    match (allowed, run.flows.is_complete()) {
        (0, true) => "unused: no connection was allowed".into(),
        (0, false) => "none among the decisions that are kept".into(),
        (count, true) => format!("{count} allowed"),
        (count, false) => format!("at least {count} allowed"),
    }
}

fn secret_use(run: &RunView, secret: &str) -> String {
    let last = run
        .identities
        .items
        .iter()
        .rev()
        .find(|identity| identity.secret_ref == secret);
    match last.map(|identity| identity.stage) {
        None => unknown(),
        Some(IdentityStage::Materialized) => "given, and not taken back".into(),
        Some(IdentityStage::MaterializeFailed) => "could not be given".into(),
        Some(IdentityStage::Revoked) => "given, and taken back".into(),
        Some(IdentityStage::RevokeFailed) => "given, and could not be taken back".into(),
    }
}

fn export(export: &ExportView) -> String {
    if let Some(failure) = &export.failure {
        return format!("failed: {failure}");
    }
    let mut text = export
        .bytes_written
        .map_or_else(|| "stored".into(), show::bytes);
    if let Some(destination) = &export.destination {
        text.push_str(&format!(" to {destination}"));
    }
    if let Some(sha256) = &export.sha256 {
        text.push_str(&format!(", sha256 {sha256}"));
    }
    text
}
