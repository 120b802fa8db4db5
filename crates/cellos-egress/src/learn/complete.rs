//! The document of a run, completed by what the run needed.

use cellos_core::{
    ExecutionCellDocument,
    admission::{EgressHost, is_fqdn_or_wildcard},
    document::{AuthorityBundle, DnsAuthority, EgressRule},
    event::FlowProtocol,
};

use super::{Contents, Destination, KINDS, Learned, MAX_DESTINATIONS, MAX_NOTES, Note, Seen};
use crate::{
    names::Meaning,
    rules::{Check, Permit, Rules},
};

/// A document that would have sufficed, and what is to be said about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Completed {
    /// The document.
    pub document: ExecutionCellDocument,
    /// What was refused even so with the rule that would allow it, which rules were not used, and what
    /// could not be put into the document. One sentence each, without line breaks; names in them are
    /// the cell's.
    pub notes: Vec<String>,
}

impl Learned {
    /// The run's document with the rules that were missing. What it declares stays as it is, unless a
    /// `protocol` would have refused what was seen.
    #[must_use]
    pub fn complete(&self, document: &ExecutionCellDocument) -> Completed {
        let seen = self.seen();
        let mut document = document.clone();
        let authority = &mut document.spec.authority;
        let mut notes = Vec::new();
        complete_rules(authority, &seen, &mut notes);
        complete_queries(authority, &seen);
        complete_names(authority, &seen, &mut notes);
        refused(authority, &seen, &mut notes);
        Completed { document, notes }
    }
}

/// Adds the rules that are missing, and notes those that nothing used.
fn complete_rules(authority: &mut AuthorityBundle, seen: &Seen, notes: &mut Vec<String>) {
    let rules = Rules::of(authority).unwrap_or_default();
    let declared = rules.all().len();
    let mut used = vec![false; declared];
    let mut all: Vec<EgressRule> = authority.egress_rules.take().unwrap_or_default();
    let unseen = Contents {
        opaque: 1,
        ..Contents::default()
    };
    let undeclared = seen.undeclared().map(|to| (to, &unseen));
    for (to, contents) in seen.destinations.iter().chain(undeclared) {
        let rule = match rules.decide(&to.meaning(), to.port, to.transport) {
            Ok(Permit::By(rule)) => rule,
            Ok(Permit::ToLearn(_)) | Err(_) => {
                all.push(to.rule(*contents));
                continue;
            }
        };
        if let Some(used) = used.get_mut(rule.index) {
            *used = true;
        }
        if contents.pass(rule.check) {
            continue;
        }
        match all.get_mut(rule.index) {
            // A second rule for the same host would come too late.
            Some(own) if rule.host == to.host => own.protocol = to.rule(*contents).protocol,
            _ => all.push(to.rule(*contents)),
        }
    }
    for (rule, _) in rules.all().iter().zip(used).filter(|(_, used)| !used) {
        let at = rule.reference();
        notes.push(format!(
            "{at} ({} port {}) was not used",
            rule.host, rule.port
        ));
    }
    authority.egress_rules = Some(all);
}

/// Adds the record types that were asked for.
fn complete_queries(authority: &mut AuthorityBundle, seen: &Seen) {
    let rules = Rules::of(authority).unwrap_or_default();
    let missing: Vec<_> = KINDS
        .into_iter()
        .zip(0u16..)
        .filter(|(kind, place)| {
            !rules.allows_query(*kind) && seen.asked.values().any(|kinds| kinds.contains(place))
        })
        .map(|(kind, _)| kind)
        .collect();
    if missing.is_empty() {
        return;
    }
    let dns = authority.dns_authority.get_or_insert_default();
    dns.allowed_query_types = [rules.query_types(), &missing].concat();
}

/// Adds the names that have to resolve to `hostnameAllowlist`: all that were used where there is such
/// a list, and those of which more than addresses was asked where no rule is for them.
fn complete_names(authority: &mut AuthorityBundle, seen: &Seen, notes: &mut Vec<String>) {
    let rules = Rules::of(authority).unwrap_or_default();
    let connected = seen.destinations.keys().filter_map(|to| match &to.host {
        EgressHost::Name(name) => Some(name),
        _ => None,
    });
    let asked = seen.asked.iter();
    let records = asked
        .filter(|(_, kinds)| kinds.iter().any(|place| !is_address_kind(*place)))
        .map(|(name, _)| name);
    let mut missing: Vec<&String> = connected
        .chain(records)
        .filter(|name| !rules.knows_name(name))
        .collect();
    missing.sort();
    missing.dedup();
    if missing.is_empty() {
        return;
    }
    let absent = DnsAuthority::default();
    let dns = authority.dns_authority.as_ref().unwrap_or(&absent);
    let mut patterns = dns.hostname_allowlist.clone();
    if patterns.is_empty() {
        // Without a list it is the rules' names; with one it has to have them too.
        let hosts = rules.all().iter().map(|rule| &rule.host);
        let names = hosts.filter(|it| !matches!(it, EgressHost::Ip(_) | EgressHost::Cidr(_)));
        patterns.extend(names.map(EgressHost::to_string));
        patterns.sort();
        patterns.dedup();
    }
    let fits = patterns.iter().all(|name| is_fqdn_or_wildcard(name));
    for name in missing {
        if fits && is_fqdn_or_wildcard(name) {
            patterns.push(name.clone());
        } else {
            notes.push(format!(
                "{name} was asked for, and cannot be listed in dnsAuthority.hostnameAllowlist beside \
                 what the rules name; declare a rule for it"
            ));
        }
    }
    if fits {
        let dns = authority.dns_authority.get_or_insert_default();
        dns.hostname_allowlist = patterns;
    }
}

/// Notes what was refused even so.
fn refused(authority: &AuthorityBundle, seen: &Seen, notes: &mut Vec<String>) {
    let rules = Rules::of(authority).unwrap_or_default();
    let asked = seen.asked.keys().filter(|name| !rules.knows_name(name));
    let asked = asked.map(|name| Note::OnlyAsked(name.clone()));
    let asked: Vec<Note> = asked.take(MAX_NOTES).collect();
    notes.extend(seen.notes.iter().chain(&asked).map(|note| match note {
        Note::Forbidden { to, address, what } => {
            let (host, port) = (&to.host, to.port);
            let rule = rule_text(&EgressHost::Ip(*address), to.port, to.transport);
            match host {
                EgressHost::Ip(_) => format!(
                    "{host} port {port} was refused: it is {what}; the rule {rule} names it"
                ),
                _ => format!(
                    "{host} port {port} was refused: it leads to {address}, which is {what}; beside a \
                     rule for {host} a rule {rule}, or `{host}:{address}` in \
                     dnsAuthority.rebindingPolicy.responseIpAllowlist, names that network"
                ),
            }
        }
        Note::Undeclared(to) => {
            let (host, port) = (&to.host, to.port);
            match (to.special(), to.transport) {
                (Some(what), _) => format!(
                    "{host} port {port} was refused: a run that learns does not listen on this port, \
                     and the address is {what}; the rule {} names it",
                    rule_text(host, port, to.transport)
                ),
                (None, FlowProtocol::Tcp) => format!(
                    "{host} port {port} was refused, since a run that learns does not listen on this \
                     port; the document has a rule for it with `protocol: tcp`, which can be left out \
                     where it is TLS or HTTP"
                ),
                (None, FlowProtocol::Udp) => format!(
                    "{host} port {port} was refused, since a run that learns does not listen on this \
                     port; the document has a rule for it"
                ),
            }
        }
        Note::OnlyAsked(name) => {
            format!("{name} was asked for, and nothing was connected to there; no rule is for it")
        }
    }));
    if seen.destinations.is_empty() && seen.notes.is_empty() {
        notes.push(
            "nothing outside was used. 127.0.0.0/8 and ::1 are the cell's own: for a service of this \
             host there, declare a rule like `host: \"127.0.0.1\", port: 8080`"
                .to_owned(),
        );
    }
    if seen.dropped > 0 {
        notes.push(format!(
            "{} more things were seen than there is room for ({MAX_DESTINATIONS} destinations and \
             names, {MAX_NOTES} notes); this document would not have sufficed",
            seen.dropped
        ));
    }
}

/// A rule as it stands in a document.
fn rule_text(host: &EgressHost, port: u16, transport: FlowProtocol) -> String {
    match transport {
        FlowProtocol::Tcp => format!("`host: \"{host}\", port: {port}`"),
        FlowProtocol::Udp => format!("`host: \"{host}\", port: {port}, protocol: udp`"),
    }
}

/// Whether this is one of the types that every resolver library asks for by itself.
fn is_address_kind(place: u16) -> bool {
    place < 4
}

impl Destination {
    fn meaning(&self) -> Meaning {
        match &self.host {
            EgressHost::Name(name) => Meaning::Name(name.as_str().into()),
            EgressHost::Ip(address) => Meaning::Itself(*address),
            _ => Meaning::Nothing,
        }
    }
}

impl Contents {
    /// Whether a check would have let all of it through.
    fn pass(self, check: Check) -> bool {
        match check {
            Check::Opaque => true,
            Check::TlsOrHttp => self.opaque == 0,
            Check::Tls => self.opaque == 0 && self.http == 0,
            Check::Http => self.opaque == 0 && self.tls == 0,
        }
    }
}
