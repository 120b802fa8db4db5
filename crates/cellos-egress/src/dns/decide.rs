//! What a query gets, without asking anybody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cellos_core::{document::DnsQueryType, event::QueryReason};
use hickory_proto::rr::RecordType;

use super::{reverse, wire::Query};
use crate::{
    gateway::Cell,
    names::{Meaning, Stand},
};

/// What a query gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// This address, of a declared name.
    Address(IpAddr),
    /// Nothing, of a declared name: it has no record of this type.
    Nothing,
    /// Nothing either, but because the document does not allow the type.
    NothingAllowed,
    /// This address, or nothing, of a name that is known to every host.
    Local(Option<IpAddr>),
    /// This name, of an address.
    Pointer(String),
    /// What the resolver outside says.
    Outside(DnsQueryType, String),
    /// Refused.
    Refused(QueryReason),
}

/// Decides.
pub(super) fn decide(cell: &Cell, query: &Query) -> Decision {
    let undeclared = Decision::Refused(QueryReason::DeniedNotInAllowlist);
    let Some(name) = query.plain_name.as_deref() else {
        return undeclared;
    };
    if name == "cell" || name == "localhost" || name.ends_with(".localhost") {
        return Decision::Local(match query.kind {
            RecordType::A => Some(Ipv4Addr::LOCALHOST.into()),
            RecordType::AAAA => Some(Ipv6Addr::LOCALHOST.into()),
            _ => None,
        });
    }
    if query.kind == RecordType::PTR
        && let Some(pointer) = pointer(cell, name)
    {
        return Decision::Pointer(pointer);
    }
    if !cell.rules.knows_name(name) {
        return undeclared;
    }
    let Some(kind) = kind(query.kind) else {
        return Decision::Refused(QueryReason::DeniedQueryType);
    };
    let allowed = cell.rules.allows_query(kind);
    match (kind, allowed) {
        (DnsQueryType::A | DnsQueryType::Aaaa, false) => Decision::NothingAllowed,
        (_, false) => Decision::Refused(QueryReason::DeniedQueryType),
        (DnsQueryType::A, true) => stand(cell, name, |stand| stand.v4.into()),
        (DnsQueryType::Aaaa, true) => stand(cell, name, |stand| stand.v6.into()),
        (DnsQueryType::Cname | DnsQueryType::Https | DnsQueryType::Svcb, true) => Decision::Nothing,
        (
            DnsQueryType::Txt
            | DnsQueryType::Mx
            | DnsQueryType::Srv
            | DnsQueryType::Ns
            | DnsQueryType::Ptr,
            true,
        ) => Decision::Outside(kind, name.to_owned()),
    }
}

fn stand(cell: &Cell, name: &str, family: impl Fn(Stand) -> IpAddr) -> Decision {
    match cell.names.stand_for(name) {
        Some(stand) => Decision::Address(family(stand)),
        None => Decision::Refused(QueryReason::TooManyNames),
    }
}

/// The name of an address, where the cell can know it: one of its own, or one that stands for a name.
fn pointer(cell: &Cell, name: &str) -> Option<String> {
    let address = reverse::address_of(name)?;
    if address.is_loopback() {
        return Some("localhost".into());
    }
    match cell.names.meaning(address) {
        Meaning::Name(name) => Some(name.to_string()),
        Meaning::Itself(_) | Meaning::Nothing => None,
    }
}

/// The type as documents name it; nothing for one that they cannot name.
pub(super) fn kind(kind: RecordType) -> Option<DnsQueryType> {
    Some(match kind {
        RecordType::A => DnsQueryType::A,
        RecordType::AAAA => DnsQueryType::Aaaa,
        RecordType::CNAME => DnsQueryType::Cname,
        RecordType::TXT => DnsQueryType::Txt,
        RecordType::MX => DnsQueryType::Mx,
        RecordType::SRV => DnsQueryType::Srv,
        RecordType::NS => DnsQueryType::Ns,
        RecordType::PTR => DnsQueryType::Ptr,
        RecordType::HTTPS => DnsQueryType::Https,
        RecordType::SVCB => DnsQueryType::Svcb,
        _ => return None,
    })
}
