//! Taking in the start of a run, which says what its document declares.

use super::{
    grants, network,
    parts::{Artifact, Declared, EgressRule, EventRef, Limits, Mount},
    short,
    take::{Event, items, kept},
    view::RunView,
};
use crate::{facts::DeclaredFacts, finding::FindingKind};

/// Takes the start in.
pub(super) fn started(view: &mut RunView, event: &mut Event<'_, '_>) {
    if let Some(first) = &view.started {
        let detail = format!("it started at {} already", first.place);
        view.find(
            event.findings,
            event.place,
            FindingKind::StartedTwice,
            detail,
        );
        return;
    }
    let data = event.data;
    view.started = Some(EventRef {
        id: view.text(&event.facts.id),
        ty: short(&event.facts.ty).to_owned(),
        time: event.time,
        place: event.place.clone(),
    });
    view.machine_digests.kernel = kept(view, data.kernel_digest.as_deref());
    view.machine_digests.rootfs = kept(view, data.rootfs_digest.as_deref());
    view.machine_digests.monitor = kept(view, data.firecracker_digest.as_deref());
    view.derivation_role = kept(view, data.role_root.as_deref());
    view.parent_run_id = kept(view, data.parent_run_id.as_deref());
    if let Some(facts) = data.declared.as_deref() {
        let declared = declared(view, facts);
        if !declared.complete && facts.wrong.is_empty() {
            view.find(
                event.findings,
                event.place,
                FindingKind::NotFollowed,
                "the document declares more than is kept",
            );
        }
        view.declared = Some(declared);
        network::mode(view, facts.network_mode.as_deref(), event.findings);
        grants::check_what_came_before(view, event.findings);
    }
}

fn declared(view: &mut RunView, facts: &DeclaredFacts<'_>) -> Declared {
    let cut_before = std::mem::take(&mut view.cut);
    let mut declared = Declared {
        timeout_ms: facts.timeout_ms,
        complete: facts.wrong.is_empty(),
        ..Declared::default()
    };
    for rule in items(facts.egress_rules.as_ref()) {
        let made = view.weigh(|view| EgressRule {
            host: view.text(rule.host.as_deref().unwrap_or_default()),
            port: rule.port.unwrap_or_default(),
            protocol: kept(view, rule.protocol.as_deref()),
        });
        declare(view, &mut declared.egress_rules, made);
    }
    for secret in items(facts.secret_refs.as_ref()) {
        let made = view.weigh(|view| view.text(secret));
        declare(view, &mut declared.secret_refs, made);
    }
    for mount in items(facts.mounts.as_ref()) {
        let made = view.weigh(|view| Mount {
            source: view.text(mount.source.as_deref().unwrap_or_default()),
            target: view.text(mount.target.as_deref().unwrap_or_default()),
            access: view.text(mount.access.as_deref().unwrap_or_default()),
        });
        declare(view, &mut declared.mounts, made);
    }
    for artifact in items(facts.artifacts.as_ref()) {
        let made = view.weigh(|view| Artifact {
            name: view.text(artifact.name.as_deref().unwrap_or_default()),
            path: kept(view, artifact.path.as_deref()),
            target: kept(view, artifact.target.as_deref()),
        });
        declare(view, &mut declared.artifacts, made);
    }
    for target in items(facts.export_targets.as_ref()) {
        let made = view.weigh(|view| view.text(&target.0));
        declare(view, &mut declared.export_targets, made);
    }
    if let Some(limits) = &facts.limits {
        declared.limits = Limits {
            memory_max_bytes: limits.memory_max_bytes,
            cpu_quota_micros: limits.cpu_max.as_ref().and_then(|cpu| cpu.quota_micros),
            cpu_period_micros: limits.cpu_max.as_ref().and_then(|cpu| cpu.period_micros),
            pids_max: limits.pids_max,
            graceful_shutdown_seconds: limits.graceful_shutdown_seconds,
        };
    }
    declared.complete &= !view.cut;
    view.cut |= cut_before;
    declared
}

fn declare<T>(view: &mut RunView, list: &mut Vec<T>, (item, size): (T, usize)) {
    if view.takes(size) {
        list.push(item);
    }
}
