//! Whether what a cell used is what its document declares.

use std::net::IpAddr;

use super::{
    parts::{EgressRule, ExportView, FlowLayer, FlowView, IdentityStage, IdentityView},
    view::RunView,
};
use crate::finding::{Finding, FindingKind};

/// Checks what stood before the start: only the start says what is declared.
pub(super) fn check_what_came_before(view: &mut RunView, findings: &mut Vec<Finding>) {
    for identity in view.identities.items.clone() {
        check_identity(view, &identity, findings);
    }
    for flow in view.flows.items.clone() {
        check_flow(view, &flow, findings);
    }
    for export in view.exports.items.clone() {
        check_export(view, &export, findings);
    }
}

/// Checks an identity.
pub(super) fn check_identity(
    view: &mut RunView,
    identity: &IdentityView,
    findings: &mut Vec<Finding>,
) {
    let Some(declared) = &view.declared else {
        return;
    };
    let is_declared = declared.secret_refs.contains(&identity.secret_ref);
    if identity.stage == IdentityStage::Materialized && !is_declared {
        let detail = format!(
            "the secret {:?} was given, which the document does not declare",
            identity.secret_ref
        );
        let place = identity.place.clone();
        view.find(findings, &place, FindingKind::UndeclaredSecret, detail);
    }
}

/// Checks an artifact that left.
pub(super) fn check_export(view: &mut RunView, export: &ExportView, findings: &mut Vec<Finding>) {
    let Some(declared) = &view.declared else {
        return;
    };
    if export.failure.is_some() {
        return;
    }
    let target = export.target_name.as_ref();
    let detail = match declared.artifacts.iter().find(|a| a.name == export.name) {
        None => format!(
            "the artifact {:?} was exported, which the document does not declare",
            export.name
        ),
        Some(artifact) => {
            let is_elsewhere = artifact
                .target
                .as_ref()
                .zip(target)
                .is_some_and(|(declared, used)| declared != used);
            let is_unknown = target.is_some_and(|used| !declared.export_targets.contains(used));
            if !is_elsewhere && !is_unknown {
                return;
            }
            format!(
                "the artifact {:?} went to {:?}, which the document does not declare for it",
                export.name,
                target.map_or("", |name| name)
            )
        }
    };
    let place = export.place.clone();
    view.find(findings, &place, FindingKind::UndeclaredExport, detail);
}

/// Checks a connection that was allowed.
pub(super) fn check_flow(view: &mut RunView, flow: &FlowView, findings: &mut Vec<Finding>) {
    if !flow.needs_rule || is_declared(view, flow) {
        return;
    }
    let detail = format!(
        "a connection to {:?}{} was allowed, which the document does not declare",
        flow.host.as_deref().unwrap_or("an unknown host"),
        flow.port
            .map(|port| format!(" port {port}"))
            .unwrap_or_default(),
    );
    let place = flow.place.clone();
    view.find(findings, &place, FindingKind::UndeclaredFlow, detail);
}

fn is_declared(view: &RunView, flow: &FlowView) -> bool {
    let index = flow.rule.as_deref().and_then(rule_index);
    let Some(declared) = &view.declared else {
        // Published logs say how many rules there are, and no more.
        return match view.egress_rule_count {
            None => true,
            Some(count) => count > 0 && index.is_none_or(|index| index < count),
        };
    };
    let rules = &declared.egress_rules;
    match index {
        Some(index) => usize::try_from(index)
            .ok()
            .and_then(|index| rules.get(index))
            .is_some_and(|rule| covers(view, rule, flow)),
        None => rules.iter().any(|rule| covers(view, rule, flow)),
    }
}

/// The number in `authority.egressRules[3]`.
fn rule_index(rule: &str) -> Option<u64> {
    rule.strip_prefix("authority.egressRules[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// Whether a rule covers a flow; see the contract for what protocols mean.
pub(super) fn covers(view: &RunView, rule: &EgressRule, flow: &FlowView) -> bool {
    let port = flow.port.is_none_or(|port| port == rule.port);
    let protocol = flow
        .protocol
        .as_deref()
        .is_none_or(|used| transport(Some(used)) == transport(rule.protocol.as_deref()));
    port && protocol
        && match (flow.layer, flow.host.as_deref()) {
            (FlowLayer::Packet, None) => true,
            (FlowLayer::Packet, Some(address)) => covers_address(view, &rule.host, address),
            (_, None) => false,
            (_, Some(name)) => covers_name(&rule.host, name),
        }
}

#[derive(PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
    Other(String),
}

fn transport(protocol: Option<&str>) -> Transport {
    match protocol.map(str::to_ascii_lowercase).as_deref() {
        None | Some("" | "tcp" | "https" | "http" | "6") => Transport::Tcp,
        Some("udp" | "dns-acknowledged" | "17") => Transport::Udp,
        Some(other) => Transport::Other(other.to_owned()),
    }
}

fn covers_name(rule: &str, name: &str) -> bool {
    let (rule, name) = (rule.trim_end_matches('.'), name.trim_end_matches('.'));
    match rule.strip_prefix('*') {
        Some(suffix) if suffix.starts_with('.') => {
            let at = name.len().checked_sub(suffix.len());
            at.filter(|at| *at > 0)
                .and_then(|at| name.get(at..))
                .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
        }
        _ => rule.eq_ignore_ascii_case(name),
    }
}

/// A rule with a name covers the addresses that the log says it resolved to, and where the log
/// does not say, any.
fn covers_address(view: &RunView, rule: &str, address: &str) -> bool {
    let Ok(address) = plain_address(address) else {
        return false;
    };
    if let Ok(host) = plain_address(rule) {
        return host == address;
    }
    if let Some((network, bits)) = rule.split_once('/')
        && let (Ok(network), Ok(bits)) = (plain_address(network), bits.parse())
    {
        return is_within(network, bits, address);
    }
    let mut resolved = view
        .resolved
        .items
        .iter()
        .filter(|(name, _)| covers_name(rule, name))
        .peekable();
    resolved.peek().is_none()
        || !view.resolved.is_complete()
        || resolved.any(|(_, known)| plain_address(known).is_ok_and(|known| known == address))
}

fn plain_address(text: &str) -> Result<IpAddr, std::net::AddrParseError> {
    let text = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    text.parse::<IpAddr>().map(|address| address.to_canonical())
}

fn is_within(network: IpAddr, bits: u32, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) if bits <= 32 => {
            let differing = network.to_bits() ^ address.to_bits();
            differing.checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) if bits <= 128 => {
            let differing = network.to_bits() ^ address.to_bits();
            differing.checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}
