//! Whether what a cell used is what its document declares.

use std::net::IpAddr;

use cellos_core::admission::{EgressHost, EgressProtocol};

use super::{
    network::{FlowLayer, FlowView},
    parts::{EgressRule, ExportView, IdentityStage, IdentityView},
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
        flow.requested_name
            .as_deref()
            .or(flow.host.as_deref())
            .unwrap_or("an unknown host"),
        flow.port
            .map(|port| format!(" port {port}"))
            .unwrap_or_default(),
    );
    let place = flow.place.clone();
    view.find(findings, &place, FindingKind::UndeclaredFlow, detail);
}

fn is_declared(view: &RunView, flow: &FlowView) -> bool {
    let index = flow.rule_index();
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
pub(super) fn rule_index(rule: &str) -> Option<u64> {
    rule.strip_prefix("authority.egressRules[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// The reason of flows that our gateway let through for a rule: it tells names where there are
/// any, so that an address without a name was covered as such.
const BY_OUR_GATEWAY: &str = "egress_rule_match";

/// Whether a rule covers a flow; see the contract for what protocols mean.
pub(super) fn covers(view: &RunView, rule: &EgressRule, flow: &FlowView) -> bool {
    let port = flow.port.is_none_or(|port| port == rule.port);
    let protocol = flow
        .protocol
        .as_deref()
        .is_none_or(|used| is_same_transport(used, rule.protocol.as_deref().unwrap_or("tcp")));
    let named = match flow.layer {
        FlowLayer::Packet => flow.requested_name.as_deref(),
        _ => flow.host.as_deref(),
    };
    port && protocol
        && match (flow.layer, named, flow.host.as_deref()) {
            (_, Some(name), _) => covers_name(&rule.host, name),
            (FlowLayer::Packet, None, Some(address)) => {
                let by_name = match flow.reason_code.as_deref() {
                    Some(BY_OUR_GATEWAY) => ByName::Never,
                    _ => ByName::AsResolved,
                };
                covers_address(view, &rule.host, address, by_name)
            }
            (FlowLayer::Packet, None, None) => true,
            (_, None, _) => false,
        }
}

fn is_same_transport(used: &str, declared: &str) -> bool {
    match (transport(used), transport(declared)) {
        (None, None) => used.eq_ignore_ascii_case(declared),
        (used, declared) => used == declared,
    }
}

/// The transport, also by the number of its protocol; `None` for an unknown one.
fn transport(protocol: &str) -> Option<EgressProtocol> {
    match protocol {
        "" | "6" => Some(EgressProtocol::Tcp),
        "17" => Some(EgressProtocol::Udp),
        other => EgressProtocol::of(Some(other)),
    }
}

fn covers_name(rule: &str, name: &str) -> bool {
    rule.parse::<EgressHost>()
        .is_ok_and(|rule| rule.matches(name))
}

/// Whether a rule with a name may cover an address without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ByName {
    /// The log would tell the name.
    Never,
    /// It covers the addresses that the log says the name resolved to, and where the log does not
    /// say, any.
    AsResolved,
}

fn covers_address(view: &RunView, rule: &str, address: &str, by_name: ByName) -> bool {
    let (Ok(rule), Ok(EgressHost::Ip(address))) = (rule.parse(), address.parse()) else {
        return false;
    };
    match rule {
        EgressHost::Any => true,
        EgressHost::Ip(declared) => declared == address,
        EgressHost::Cidr(block) => block.contains(address),
        EgressHost::Name(_) | EgressHost::Wildcard(_) => {
            by_name == ByName::AsResolved && is_resolved(view, &rule, address)
        }
    }
}

fn is_resolved(view: &RunView, rule: &EgressHost, address: IpAddr) -> bool {
    let mut resolved = view
        .resolved
        .items
        .iter()
        .filter(|(name, _)| rule.matches(name))
        .peekable();
    resolved.peek().is_none()
        || !view.resolved.is_complete()
        || resolved.any(|(_, known)| known.parse() == Ok(EgressHost::Ip(address)))
}
