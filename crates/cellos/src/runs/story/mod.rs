//! One run told for a person, before it is written in one of the formats.

mod ending;
mod grants;
pub(crate) mod html;
pub(crate) mod markdown;
mod network;
pub(crate) mod terminal;

use std::path::Path;

use cellos_evidence::{
    finding::Severity,
    projection::{AdmissionView, EndKind, MachineDigests, PostureView, RunView},
};
use serde::Serialize;

use super::show;

/// A run told for a person.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Story {
    /// Version of this form.
    pub(crate) format: &'static str,
    pub(crate) run_id: String,
    pub(crate) cell_id: String,
    /// Whether all is well with it, as far as its events say.
    pub(crate) well: bool,
    /// The verdict in a sentence.
    pub(crate) verdict: String,
    /// How it ended and why, in a sentence.
    pub(crate) ending: String,
    pub(crate) sections: Vec<Section>,
}

/// A part with a heading.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) content: Content,
}

/// What stands below a heading.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Content {
    Facts(Vec<Fact>),
    Timeline(Vec<Moment>),
    Grants(Vec<Grant>),
    Findings(Vec<Found>),
    Text(Vec<String>),
}

/// Something that is so.
#[derive(Debug, Serialize)]
pub(crate) struct Fact {
    pub(crate) name: &'static str,
    pub(crate) value: String,
}

/// A step in time.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Moment {
    pub(crate) reached: &'static str,
    pub(crate) at: jiff::Timestamp,
    /// Since the step before.
    pub(crate) micros: i64,
    /// That as part of the whole, in thousandths.
    pub(crate) share: u64,
}

/// Something that was granted, or used.
#[derive(Debug, Serialize)]
pub(crate) struct Grant {
    pub(crate) what: &'static str,
    pub(crate) granted: String,
    pub(crate) used: String,
}

/// Something that was found.
#[derive(Debug, Serialize)]
pub(crate) struct Found {
    pub(crate) severity: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) place: String,
    pub(crate) detail: String,
}

impl Story {
    /// Tells a run of this log.
    pub(crate) fn of(run: &RunView, log: &Path) -> Self {
        let sections = [
            section("What it was", Content::Facts(identity(run))),
            section("Timeline", Content::Timeline(timeline(run))),
            section("Granted and used", Content::Grants(grants::of(run))),
            section("Network", Content::Text(network::of(run))),
            section("Isolation", Content::Facts(isolation(run))),
            section("What was left", Content::Text(vec![residue(run)])),
            section("Findings", Content::Findings(findings(run))),
            section("Evidence", Content::Text(evidence(run, log))),
        ];
        Self {
            format: "cellos.explain/1",
            run_id: run.key.run_id.clone(),
            cell_id: run.key.cell_id.clone(),
            well: run.is_well(),
            verdict: verdict(run),
            ending: ending::sentence(run),
            sections: sections
                .into_iter()
                .filter(|section| !section.content.is_empty())
                .collect(),
        }
    }
}

impl Content {
    fn is_empty(&self) -> bool {
        match self {
            Self::Facts(items) => items.is_empty(),
            Self::Timeline(items) => items.is_empty(),
            Self::Grants(items) => items.is_empty(),
            Self::Findings(items) => items.is_empty(),
            Self::Text(items) => items.is_empty(),
        }
    }
}

fn section(title: &'static str, content: Content) -> Section {
    Section { title, content }
}

fn verdict(run: &RunView) -> String {
    match (run.errors, &run.end) {
        (0, Some(_)) => "all is well with its events".into(),
        (0, None) => "it has not ended".into(),
        (1, _) => "1 error in its events".into(),
        (errors, _) => format!("{errors} errors in its events"),
    }
}

/// Facts whose values are known.
struct Facts(Vec<Fact>);

impl Facts {
    fn add(&mut self, name: &'static str, value: Option<impl Into<String>>) {
        if let Some(value) = value {
            let value = value.into();
            self.0.push(Fact { name, value });
        }
    }
}

fn identity(run: &RunView) -> Vec<Fact> {
    let mut facts = Facts(Vec::new());
    facts.add("run", Some(&*run.key.run_id));
    let cell_id = Some(&*run.key.cell_id);
    facts.add("cell", cell_id.filter(|cell_id| !cell_id.is_empty()));
    facts.add("document", run.spec_id.as_deref());
    let plain = run.spec_hash.as_ref().map(|hash| format!("sha256:{hash}"));
    facts.add("document digest", run.document_digest.clone().or(plain));
    facts.add("tenant", run.tenant_id.as_deref());
    if let Some(correlation) = &run.correlation {
        facts.add("platform", correlation.platform.as_deref());
        facts.add("external run", correlation.external_run_id.as_deref());
        facts.add("external job", correlation.external_job_id.as_deref());
        facts.add("correlation", correlation.correlation_id.as_deref());
    }
    if let Some(placement) = &run.placement {
        facts.add("pool", placement.pool_id.as_deref());
        facts.add("namespace", placement.kubernetes_namespace.as_deref());
        facts.add("queue", placement.queue_name.as_deref());
    }
    facts.add("backend", run.backend.as_deref());
    facts.add("admission", run.admission.as_ref().map(admission));
    facts.add("session", run.session.as_deref());
    facts.add("policy pack", run.policy_pack.as_deref());
    facts.add("derived from role", run.derivation_role.as_deref());
    facts.add("derived for run", run.parent_run_id.as_deref());
    let command = run
        .command
        .as_ref()
        .filter(|command| !command.argv.is_empty());
    match command {
        Some(command) => facts.add("command", Some(shell_words(&command.argv))),
        None => facts.add("program", run.program.as_deref()),
    }
    let MachineDigests {
        kernel,
        rootfs,
        initrd,
        monitor,
    } = &run.machine_digests;
    facts.add("kernel", kernel.as_deref());
    facts.add("root file system", rootfs.as_deref());
    facts.add("initial RAM disk", initrd.as_deref());
    facts.add("monitor", monitor.as_deref());
    facts.0
}

fn admission(admission: &AdmissionView) -> String {
    let word = match admission.admitted {
        true => "admitted",
        false => "refused",
    };
    let reason = admission.reason.as_deref();
    let reason = reason.map_or(String::new(), |reason| format!(" ({reason})"));
    let problems = match admission.problems.as_slice() {
        [] => String::new(),
        problems => format!(": {}", problems.join("; ")),
    };
    format!("{word}{reason}{problems}")
}

/// Arguments as a shell would take them.
fn shell_words(argv: &[String]) -> String {
    let word = |argument: &String| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,+@%".contains(&byte);
        if !argument.is_empty() && argument.bytes().all(is_plain) {
            argument.clone()
        } else {
            format!("'{}'", argument.replace('\'', r"'\''"))
        }
    };
    argv.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn timeline(run: &RunView) -> Vec<Moment> {
    let phases = &run.phases.items;
    let whole: u64 = phases.iter().map(|phase| positive(phase.micros)).sum();
    let moment = |phase: &cellos_evidence::projection::Phase| Moment {
        reached: phase.reached,
        at: phase.at,
        micros: phase.micros,
        share: positive(phase.micros)
            .saturating_mul(1000)
            .checked_div(whole)
            .unwrap_or(0),
    };
    phases.iter().map(moment).collect()
}

fn positive(micros: i64) -> u64 {
    u64::try_from(micros).unwrap_or(0)
}

fn isolation(run: &RunView) -> Vec<Fact> {
    let Some(posture) = &run.posture else {
        return Vec::new();
    };
    let mut facts = Facts(Vec::new());
    facts.add(
        "seen",
        Some(match posture.observed {
            Some(true) => "the workload's own process was asked",
            _ => "not of the workload's own process",
        }),
    );
    facts.add(
        "user on the host",
        posture.host_uid.map(|uid| uid.to_string()),
    );
    facts.add("capabilities", capabilities(posture));
    let namespaces = posture.private_namespaces.join(", ");
    facts.add(
        "namespaces of its own",
        Some(namespaces).filter(|namespaces| !namespaces.is_empty()),
    );
    facts.add("no new privileges", posture.no_new_privs.map(yes_no));
    facts.add("seccomp", seccomp(posture));
    facts.add(
        "Landlock",
        posture.landlock_abi.map(|abi| match abi {
            0 => "none".to_owned(),
            abi => format!("ABI {abi}"),
        }),
    );
    if let Some(machine) = &posture.machine {
        let monitor = [&machine.monitor, &machine.monitor_version];
        let monitor: Vec<_> = monitor.into_iter().flatten().map(String::as_str).collect();
        facts.add("machine", Some(monitor.join(" ")).filter(|m| !m.is_empty()));
        facts.add("executed by", machine.execution.as_deref());
        facts.add("origin", machine.origin.as_deref());
        facts.add("guest kernel", machine.guest_kernel.as_deref());
        facts.add("processors", machine.vcpus.map(|count| count.to_string()));
        facts.add("memory", machine.memory_bytes.map(show::bytes));
        facts.add(
            "exit authenticated by",
            machine.exit_authentication.as_deref(),
        );
    }
    facts.0
}

fn capabilities(posture: &PostureView) -> Option<String> {
    match (posture.privileged, posture.cap_eff.as_deref()) {
        (Some(true), _) => Some("all of them".into()),
        (_, Some(set)) if set.bytes().all(|digit| digit == b'0') => Some("none".into()),
        (_, set) => set.map(str::to_owned),
    }
}

fn seccomp(posture: &PostureView) -> Option<String> {
    let filters = posture.seccomp_filters;
    posture.seccomp_mode.map(|mode| match (mode, filters) {
        (0, _) => "off".into(),
        (1, _) => "strict".into(),
        (2, Some(1)) => "1 filter".into(),
        (2, Some(count)) => format!("{count} filters"),
        (2, None) => "filter".into(),
        (other, _) => format!("mode {other}"),
    })
}

fn yes_no(flag: bool) -> &'static str {
    if flag { "yes" } else { "no" }
}

fn residue(run: &RunView) -> String {
    let Some(end) = &run.end else {
        return "It has not ended.".into();
    };
    let found = end.residue_found.join(", ");
    let looked = end.residue_looked_for.as_deref().unwrap_or_default();
    match (
        end.how,
        found.is_empty(),
        looked,
        end.residue_class.as_deref(),
    ) {
        (EndKind::NotCreated | EndKind::Refused, ..) => "The cell was never made.".into(),
        (_, false, _, Some("documented_exception")) => {
            format!("Left for a documented reason: {found}.")
        }
        (_, false, ..) => format!("Left: {found}."),
        (_, true, [], Some("none")) => "Nothing, says the end of the run.".into(),
        (_, true, [], _) => "Nobody looked.".into(),
        (_, true, looked, _) => format!("Nothing. Looked for: {}.", looked.join(", ")),
    }
}

fn findings(run: &RunView) -> Vec<Found> {
    let found = |finding: &cellos_evidence::finding::Finding| Found {
        severity: match finding.kind.severity() {
            Severity::Error => "error",
            Severity::Note => "note",
        },
        kind: finding.kind.as_str(),
        place: finding.place.to_string(),
        detail: finding.detail.clone(),
    };
    run.findings.items.iter().map(found).collect()
}

fn evidence(run: &RunView, log: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    let last = run.end.as_ref().map(|end| &end.place);
    let last = last.or_else(|| run.events.items.last().map(|event| &event.place));
    let to = last.map_or_else(String::new, |last| format!(" to {last}"));
    texts.push(format!("{} events, {}{to}", run.events.total, run.first));
    if run.cut || !run.findings.is_complete() {
        texts.push(format!(
            "Not all of it is shown: {} findings in all, long texts are cut.",
            run.findings.total
        ));
    }
    texts.push("Whether the log itself is whole and signed is not looked at here:".into());
    texts.push(format!(
        "cellos verify {}",
        shell_words(&[log.display().to_string()])
    ));
    texts
}
