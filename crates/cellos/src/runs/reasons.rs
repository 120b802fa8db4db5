//! Why the gateway decides as it does, in words, and what can be changed.

use cellos_core::event::{FlowReason, QueryReason};

/// What can be changed so that it is decided otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mend {
    /// Nothing: it was let through.
    None,
    /// A rule for the destination.
    AddRule,
    /// The destination's rule has to say `protocol: tcp`.
    DeclareTcp,
    /// The document has to allow the address for this name.
    AllowAddress,
    /// The document has to accept another server name.
    AcceptFronting,
    /// The record type has to be declared.
    AllowQueryType,
    /// Something else, told in words.
    Other(&'static str),
}

/// Why a flow was let through or refused.
pub(crate) fn of_flow(reason: FlowReason) -> (&'static str, Mend) {
    use FlowReason as R;
    match reason {
        R::EgressRuleMatch => ("A rule of the document covers it.", Mend::None),
        R::PublishedPort => ("The operator published this port of the cell.", Mend::None),
        R::Learned => (
            "The run was there to learn what it needs, so nothing was refused.",
            Mend::None,
        ),
        R::NoRule => (
            "No rule of the document covers this destination on this port.",
            Mend::AddRule,
        ),
        R::UndeclaredPort => (
            "No rule of the document has this port, so nothing listens on it in the cell and the \
             kernel refused it at once.",
            Mend::AddRule,
        ),
        R::UnknownAddress => (
            "The address is one of those that stand for names, and stands for none: the cell did \
             not ask for a name before.",
            Mend::Other("let the program ask for the name, instead of keeping an old address"),
        ),
        R::ResolveFailed => (
            "The name could not be resolved outside.",
            Mend::Other("check the name, and the resolvers of the host or of `dnsAuthority`"),
        ),
        R::AddressForbidden => (
            "The address, or each that the name resolved to, is private, loopback, link-local, \
             metadata or otherwise special, and nothing in the document names it.",
            Mend::AllowAddress,
        ),
        R::RebindRejected => (
            "The name resolved to addresses outside the document's rebinding policy.",
            Mend::AllowAddress,
        ),
        R::DnssecFailed => (
            "The answer's DNSSEC signatures do not hold, or are missing where they are demanded.",
            Mend::Other("have the zone signed, or declare a resolver that does not demand DNSSEC"),
        ),
        R::ConnectFailed => (
            "A rule covers it, but the destination, or the proxy before it, did not take the \
             connection.",
            Mend::Other("check that the destination is up and that this host reaches it"),
        ),
        R::ConnectTimeout => (
            "A rule covers it, but nobody answered in time.",
            Mend::Other("check that the destination is up and that this host reaches it"),
        ),
        R::ProxyRefused => (
            "The upstream proxy refused the connection.",
            Mend::Other("let the proxy allow the destination, or name another proxy"),
        ),
        R::L7SniMissing => (
            "The connection is TLS without a server name, so nothing says that it is for the \
             declared name.",
            Mend::AcceptFronting,
        ),
        R::L7SniAllowlistMiss => (
            "The connection is TLS for another server name than the one behind the address.",
            Mend::AcceptFronting,
        ),
        R::TlsEncryptedHello => (
            "The connection is TLS whose true server name is encrypted.",
            Mend::AcceptFronting,
        ),
        R::TlsMalformed => (
            "What began as TLS is none that can be read.",
            Mend::DeclareTcp,
        ),
        R::L7HttpHostMissing => (
            "A request names no host, so nothing says that it is for the declared name.",
            Mend::DeclareTcp,
        ),
        R::L7HttpHostAllowlistMiss => (
            "A request is for another host than the one behind the address.",
            Mend::AddRule,
        ),
        R::HttpMalformed => (
            "What began as HTTP is none, or can be read in two ways.",
            Mend::DeclareTcp,
        ),
        R::Http2Cleartext => (
            "The connection is HTTP/2 without TLS, whose requests are not looked into.",
            Mend::DeclareTcp,
        ),
        R::L7UnknownProtocol => (
            "The connection is neither TLS nor HTTP, and its rule asks for one of them.",
            Mend::DeclareTcp,
        ),
        R::L7PeekTimeout => (
            "The cell sent too little in time to say what the connection is for.",
            Mend::DeclareTcp,
        ),
        R::TooManyFlows => (
            "The cell had as many connections as it may have.",
            Mend::Other("let the program use fewer connections at once"),
        ),
        R::DatagramTooLarge => (
            "The datagram is too large to be passed on.",
            Mend::Other("let the program send smaller datagrams"),
        ),
        R::BlockedByDnsAuthority => (
            "The document's `dnsAuthority` forbids this kind of traffic outright.",
            Mend::Other(
                "unset what forbids it: `blockDirectWorkloadDns`, `blockUdpDoq` or `blockUdpHttp3`",
            ),
        ),
    }
}

/// Why a name query was answered or refused.
pub(crate) fn of_query(reason: QueryReason) -> (&'static str, Mend) {
    use QueryReason as R;
    match reason {
        R::AllowedByAllowlist => ("The document declares the name.", Mend::None),
        R::DeniedNotInAllowlist => ("The document does not declare the name.", Mend::AddRule),
        R::DeniedQueryType => (
            "The document does not allow queries of this record type.",
            Mend::AllowQueryType,
        ),
        R::MalformedQuery => (
            "The query could not be read.",
            Mend::Other("let the program send queries as RFC 1035 has them"),
        ),
        R::UpstreamFailure => (
            "The resolver outside did not answer.",
            Mend::Other("check the resolvers of the host or of `dnsAuthority`"),
        ),
        R::DeniedDnssec => (
            "The answer's DNSSEC signatures do not hold.",
            Mend::Other("have the zone signed, or declare a resolver that does not demand DNSSEC"),
        ),
        R::TooManyNames => (
            "The cell asked for too many different names.",
            Mend::Other("declare the names that are needed one by one"),
        ),
    }
}
