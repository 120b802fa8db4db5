//! Taking one event of a run in.

use jiff::Timestamp;

use super::{
    admission, begin, network,
    parts::{
        CommandView, CorrelationView, EndKind, EndView, EventRef, LimitView, MachineView, Phase,
        PlacementView, PostureView, UsageView,
    },
    short,
    step::Step,
    used,
    view::{Kept, MAX_KEPT, MAX_TEXT_BYTES, MAX_TEXTS, RunView, cut_to, micros_between},
};
use crate::{
    facts::{DataFacts, Facts, LimitFacts, List, StreamFacts, UsageFacts},
    finding::{Finding, FindingKind, Place},
};

/// How far apart the clocks of two emitters of one run may be read, in microseconds: some write
/// whole milliseconds.
const CLOCK_GRAIN_MICROS: i64 = 1000;

/// One event and what it is taken in for.
pub(super) struct Event<'e, 'a> {
    pub(super) facts: &'e Facts<'a>,
    pub(super) data: &'e DataFacts<'a>,
    pub(super) time: Option<Timestamp>,
    pub(super) place: &'e Place,
    pub(super) findings: &'e mut Vec<Finding>,
}

/// Takes an event in.
pub(super) fn event(
    view: &mut RunView,
    step: Step,
    facts: &Facts<'_>,
    data: &DataFacts<'_>,
    time: Option<Timestamp>,
    place: &Place,
    findings: &mut Vec<Finding>,
) {
    let mut event = Event {
        facts,
        data,
        time,
        place,
        findings,
    };
    look_at_its_form(view, &mut event);
    identify(view, &mut event);
    if step.needs_start() && view.started.is_none() {
        let detail = format!("{} stands before the start", short(&facts.ty));
        view.find(event.findings, place, FindingKind::BeforeStart, detail);
    }
    if let (Some(reached), Some(at)) = (step.phase(), time) {
        reach(view, reached, at, &mut event);
    }
    match step {
        Step::Admitted | Step::Refused => admission::decided(view, step, &event),
        Step::Scope => view.egress_rule_count = data.egress_rule_count,
        Step::Started => begin::started(view, &mut event),
        Step::Posture => posture(view, &mut event),
        Step::Spawned => spawned(view, &mut event),
        Step::Completed => completed(view, &mut event),
        Step::Touched => used::touched(view, &mut event),
        Step::Exported | Step::ExportedOld | Step::ExportFailed => {
            used::exported(view, step, &mut event);
        }
        Step::Summary => summary(view, &mut event),
        Step::Homeostasis => {
            view.secret_count = data.declared_secret_count.or(view.secret_count);
        }
        Step::Materialized | Step::Revoked | Step::IdentityFailed => {
            used::identity(view, step, &mut event);
        }
        Step::Flow | Step::Name | Step::Query => used::flow(view, step, &mut event),
        Step::Resolution => used::resolution(view, &mut event),
        Step::Destroyed | Step::Failed => end(view, step, &event),
        Step::ManifestFailed | Step::PoolCheckout | Step::Side | Step::Other => {}
    }
    keep_event(view, &event);
}

fn look_at_its_form(view: &mut RunView, event: &mut Event<'_, '_>) {
    let ty = short(&event.facts.ty);
    let wrong: Vec<_> = event
        .facts
        .wrong
        .iter()
        .filter(|name| **name != "data")
        .copied()
        .chain(event.data.wrong.iter().copied())
        .take(8)
        .collect();
    if !wrong.is_empty() {
        let detail = format!("{ty}: of another type, or twice: {}", wrong.join(", "));
        view.find(event.findings, event.place, FindingKind::Malformed, detail);
    }
    if event.time.is_none() && event.facts.time.is_some() {
        let detail = format!("{ty}: `time` is no time");
        view.find(event.findings, event.place, FindingKind::Malformed, detail);
    }
    let id = &*event.facts.id;
    if !id.is_empty() && view.events.items.iter().any(|kept| kept.id == id) {
        let detail = format!("{ty}: the run has an event with this id already");
        view.find(
            event.findings,
            event.place,
            FindingKind::DuplicateId,
            detail,
        );
    }
}

fn identify(view: &mut RunView, event: &mut Event<'_, '_>) {
    let data = event.data;
    let correlation = data.correlation.as_deref();
    let tenant = data
        .tenant_id
        .as_deref()
        .or_else(|| correlation.and_then(|c| c.tenant_id.as_deref()));
    // Two hashes share the name: of the bytes, and with a prefix of the typed specification.
    let (typed, plain) = match data.spec_hash.as_deref() {
        Some(hash) if hash.starts_with("sha256:") => (Some(hash), None),
        hash => (None, hash),
    };
    type Slot = fn(&mut RunView) -> &mut Option<String>;
    let constants: [(&str, Option<&str>, Slot); 7] = [
        ("specId", data.spec_id.as_deref(), |v| &mut v.spec_id),
        ("documentDigest", data.document_digest.as_deref(), |v| {
            &mut v.document_digest
        }),
        ("specHash", plain, |v| &mut v.spec_hash),
        ("specHash", typed, |v| &mut v.typed_spec_hash),
        ("session", event.facts.cexsessionid.as_deref(), |v| {
            &mut v.session
        }),
        ("tenantId", tenant, |v| &mut v.tenant_id),
        ("backend", data.backend.as_deref(), |v| &mut v.backend),
    ];
    for (name, value, slot) in constants {
        let Some(value) = value else { continue };
        match slot(view).as_deref() {
            None => *slot(view) = Some(view.text(value)),
            Some(known) if known == cut(value) => {}
            Some(known) => {
                let detail = format!("{name} was {known:?} and is {:?}", cut(value));
                view.find(
                    event.findings,
                    event.place,
                    FindingKind::IdentityChanged,
                    detail,
                );
            }
        }
    }
    let ttl = data.ttl_seconds.or(data.lifetime_ttl_seconds);
    match (view.ttl_seconds, ttl) {
        (None, Some(_)) => view.ttl_seconds = ttl,
        (Some(known), Some(ttl)) if known != ttl => {
            let detail = format!("ttlSeconds was {known} and is {ttl}");
            view.find(
                event.findings,
                event.place,
                FindingKind::IdentityChanged,
                detail,
            );
        }
        _ => {}
    }
    parent(view, event);
    if view.correlation.is_none()
        && let Some(facts) = correlation
    {
        view.correlation = Some(CorrelationView {
            platform: kept(view, facts.platform.as_deref()),
            external_run_id: kept(view, facts.external_run_id.as_deref()),
            external_job_id: kept(view, facts.external_job_id.as_deref()),
            correlation_id: kept(view, facts.correlation_id.as_deref()),
        });
    }
    if view.placement.is_none()
        && let Some(facts) = &data.placement
    {
        view.placement = Some(PlacementView {
            pool_id: kept(view, facts.pool_id.as_deref()),
            kubernetes_namespace: kept(view, facts.kubernetes_namespace.as_deref()),
            queue_name: kept(view, facts.queue_name.as_deref()),
        });
    }
}

/// An event that follows from the run's start has to name the one that is there.
fn parent(view: &mut RunView, event: &mut Event<'_, '_>) {
    let provenance = event.data.provenance.as_ref();
    let parents = [
        event.facts.cexparenttrace.as_deref(),
        provenance.and_then(|provenance| provenance.parent.as_deref()),
    ];
    let Some(started) = view.started.as_ref().map(|started| started.id.clone()) else {
        return;
    };
    for parent in parents.into_iter().flatten() {
        if cut(parent) != started {
            let detail = format!(
                "{} follows from {:?}, and the run's start is {started:?}",
                short(&event.facts.ty),
                cut(parent)
            );
            view.find(
                event.findings,
                event.place,
                FindingKind::IdentityChanged,
                detail,
            );
        }
    }
}

fn reach(view: &mut RunView, reached: &'static str, at: Timestamp, event: &mut Event<'_, '_>) {
    let last = view.phases.items.last().map(|last| (last.reached, last.at));
    let micros = last.map_or(0, |(_, last)| micros_between(last, at));
    if let Some((last, last_at)) = last
        && micros < -CLOCK_GRAIN_MICROS
    {
        let detail = format!("{reached} at {at}, and before it {last} at {last_at}");
        view.find(
            event.findings,
            event.place,
            FindingKind::TimeDisorder,
            detail,
        );
    }
    let phase = Phase {
        reached,
        at,
        micros,
    };
    push(view, |view| &mut view.phases, (phase, size_of::<Phase>()));
}

/// Whether something that is said once about a run is said again, which is then found.
fn is_again(view: &mut RunView, event: &mut Event<'_, '_>, before: bool) -> bool {
    if before {
        let detail = format!("{} stands there twice", short(&event.facts.ty));
        view.find(event.findings, event.place, FindingKind::Malformed, detail);
    }
    before
}

fn posture(view: &mut RunView, event: &mut Event<'_, '_>) {
    let is_known = view.posture.is_some();
    if is_again(view, event, is_known) {
        return;
    }
    let data = event.data;
    let machine = data.machine.as_deref().map(|machine| {
        view.machine_digests.initrd = kept(view, machine.initrd_digest.as_deref());
        if view.machine_digests.monitor.is_none() {
            view.machine_digests.monitor = kept(view, machine.monitor_digest.as_deref());
        }
        MachineView {
            monitor: kept(view, machine.monitor.as_deref()),
            monitor_version: kept(view, machine.monitor_version.as_deref()),
            execution: kept(view, machine.execution.as_deref()),
            guest_kernel: kept(view, machine.guest_kernel.as_deref()),
            guest_version: kept(view, machine.guest_version.as_deref()),
            vcpus: machine.vcpus,
            memory_bytes: machine.memory_bytes,
            origin: kept(view, machine.origin.as_deref()),
            exit_authentication: kept(view, machine.exit_authentication.as_deref()),
        }
    });
    view.posture = Some(PostureView {
        observed: data.observed,
        privileged: data.privileged,
        cap_eff: kept(view, data.cap_eff.as_deref()),
        cap_bnd: kept(view, data.cap_bnd.as_deref()),
        host_uid: data.host_uid,
        private_namespaces: view
            .texts(items(data.private_namespaces.as_ref()).iter().map(|s| &**s)),
        no_new_privs: data.no_new_privs,
        seccomp_mode: data.seccomp_mode,
        seccomp_filters: data.seccomp_filters,
        landlock_abi: data.landlock_abi,
        machine,
    });
}

fn spawned(view: &mut RunView, event: &mut Event<'_, '_>) {
    let is_known = view.program.is_some();
    if is_again(view, event, is_known) {
        return;
    }
    view.program = Some(view.text(event.data.program.as_deref().unwrap_or_default()));
    view.program_observed = event.data.observed;
}

fn completed(view: &mut RunView, event: &mut Event<'_, '_>) {
    if view.command.is_some() {
        view.find(
            event.findings,
            event.place,
            FindingKind::CompletedTwice,
            "the command has completed already",
        );
        return;
    }
    let data = event.data;
    if data.exit_code.is_none() {
        missing(view, event, "exitCode");
    }
    let argv = items(data.argv.as_ref());
    view.command = Some(CommandView {
        argv: view.texts(argv.iter().map(|s| &**s)),
        exit_code: data.exit_code,
        duration_ms: data.duration_ms,
        spawn_error: kept(view, data.spawn_error.as_deref()),
        ended_by: kept(view, data.ended_by.as_deref()),
        signal: data.signal,
    });
    use_of(view, data);
}

fn use_of(view: &mut RunView, data: &DataFacts<'_>) {
    if let Some(usage) = data.usage.as_deref() {
        view.usage = Some(usage_view(usage, view.usage.take()));
    }
    if let Some(output) = &data.output {
        let bytes = |stream: Option<&StreamFacts<'_>>| stream.and_then(|stream| stream.bytes);
        let usage = view.usage.get_or_insert_default();
        usage.stdout_bytes = bytes(output.stdout.as_ref());
        usage.stderr_bytes = bytes(output.stderr.as_ref());
    }
    if let Some(limits) = &data.limits_hit {
        view.limits_hit = limits
            .items
            .iter()
            .take(MAX_TEXTS)
            .map(|limit| limit_view(view, limit))
            .collect();
    }
}

fn usage_view(usage: &UsageFacts<'_>, before: Option<UsageView>) -> UsageView {
    let before = before.unwrap_or_default();
    UsageView {
        wall_micros: usage.wall_micros,
        cpu_user_micros: usage.cpu_user_micros,
        cpu_system_micros: usage.cpu_system_micros,
        memory_peak_bytes: usage.memory_peak_bytes,
        max_rss_bytes: usage.max_rss_bytes,
        oom_kills: usage.oom_kills,
        pids_peak: usage.pids_peak,
        ..before
    }
}

fn limit_view(view: &mut RunView, limit: &LimitFacts<'_>) -> LimitView {
    LimitView {
        kind: view.text(limit.kind.as_deref().unwrap_or_default()),
        limit: limit.limit_bytes.or(limit.limit),
        times: limit.kills.or(limit.refusals),
    }
}

fn summary(view: &mut RunView, event: &mut Event<'_, '_>) {
    let is_known = view.secret_delivery_mode.is_some();
    if is_again(view, event, is_known) {
        return;
    }
    let data = event.data;
    view.summary_exit_code = data.command_exit_code;
    let mode = data.secret_delivery_mode.as_deref().unwrap_or_default();
    view.secret_delivery_mode = Some(view.text(mode));
    let pack = data.policy_pack_id.as_deref().map(|id| {
        let version = data.policy_pack_version.as_deref().unwrap_or("?");
        format!("{} {}", cut(id), cut(version))
    });
    view.policy_pack = kept(view, pack.as_deref());
    match (view.egress_rule_count, data.egress_rule_count) {
        (Some(before), Some(now)) if before != now => {
            let detail = format!("egressRuleCount was {before} and is {now}");
            view.find(
                event.findings,
                event.place,
                FindingKind::IdentityChanged,
                detail,
            );
        }
        (None, count) => view.egress_rule_count = count,
        _ => {}
    }
}

fn end(view: &mut RunView, step: Step, event: &Event<'_, '_>) {
    let data = event.data;
    let residue = data.residue.as_deref();
    let later = items(data.later_errors.as_ref());
    let mut end = EndView {
        how: match step {
            Step::Failed => EndKind::NotCreated,
            _ => EndKind::Destroyed,
        },
        outcome: kept(view, data.outcome.as_deref()),
        reason: kept(view, data.reason.as_deref()),
        reason_detail: kept(view, data.reason_detail.as_deref()),
        later_errors: Vec::new(),
        ended_by: kept(view, data.ended_by.as_deref()),
        exit_code: data.exit_code,
        signal: data.signal,
        terminal_state: kept(view, data.terminal_state.as_deref()),
        residue_class: kept(view, data.residue_class.as_deref()),
        residue_looked_for: residue
            .and_then(|residue| residue.looked_for.as_ref())
            .map(|looked_for| view.texts(looked_for.items.iter().map(|s| &**s))),
        residue_found: residue
            .and_then(|residue| residue.found.as_ref())
            .map(|found| view.texts(found.items.iter().map(|s| &**s)))
            .unwrap_or_default(),
        egress: data
            .egress
            .as_deref()
            .map(|egress| network::record(view, egress)),
        at: event.time,
        place: event.place.clone(),
    };
    end.later_errors = view.texts(later.iter().map(|s| &**s));
    view.end = Some(end);
    use_of(view, data);
}

fn keep_event(view: &mut RunView, event: &Event<'_, '_>) {
    let kept = view.weigh(|view| EventRef {
        id: view.text(&event.facts.id),
        ty: view.text(short(&event.facts.ty)),
        time: event.time,
        place: event.place.clone(),
    });
    push(view, |view| &mut view.events, kept);
}

pub(super) fn missing(view: &mut RunView, event: &mut Event<'_, '_>, name: &str) {
    let detail = format!("{}: `{name}` is missing", short(&event.facts.ty));
    view.find(event.findings, event.place, FindingKind::Malformed, detail);
}

/// Keeps an item that the document has to declare. What is not kept before the document is known
/// cannot be checked, which is an error.
pub(super) fn push_checked<T>(
    view: &mut RunView,
    list: fn(&mut RunView) -> &mut Kept<T>,
    item: (T, usize),
    event: &mut Event<'_, '_>,
) {
    push(view, list, item);
    if !list(view).is_complete() && view.started.is_none() {
        let detail = format!("{}: more than is kept", short(&event.facts.ty));
        view.find(
            event.findings,
            event.place,
            FindingKind::NotFollowed,
            detail,
        );
    }
}

/// Counts an item, and keeps it where there is room.
pub(super) fn push<T>(
    view: &mut RunView,
    list: fn(&mut RunView) -> &mut Kept<T>,
    (item, size): (T, usize),
) {
    let has_place = list(view).items.len() < MAX_KEPT;
    let is_kept = has_place && view.takes(size);
    let list = list(view);
    list.total += 1;
    if is_kept {
        list.items.push(item);
    }
}

pub(super) fn kept(view: &mut RunView, text: Option<&str>) -> Option<String> {
    text.map(|text| view.text(text))
}

pub(super) fn items<T>(list: Option<&List<T>>) -> &[T] {
    list.map_or(&[], |list| &list.items)
}

/// A text as it would be kept.
pub(super) fn cut(text: &str) -> &str {
    cut_to(text, MAX_TEXT_BYTES)
}
