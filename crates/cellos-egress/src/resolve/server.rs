//! Resolvers that are asked in the protocols of DNS.

use std::{net::IpAddr, sync::Arc, time::Duration};

use cellos_core::event::{DnssecFailure, DnssecStatus};
use hickory_proto::{
    dnssec::{Proof, TrustAnchors},
    op::ResponseCode,
    rr::{Name, Record, RecordType},
};
use hickory_resolver::{
    TokioResolver,
    config::{
        ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
        ResolverOpts, ServerOrderingStrategy,
    },
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
};
use tokio::{sync::OnceCell, time::timeout};
use tokio_rustls::rustls::ClientConfig;

use super::{
    answer::{Answer, AskError, RECORDS_MAX, Unvalidated, addresses_of},
    endpoint::{Endpoint, Host, Transport},
    host,
};

/// How long a resolver has for one message.
const MESSAGE_TIME: Duration = Duration::from_secs(2);
/// How long a resolver has for a name with everything that belongs to it: aliases, keys.
pub(super) const RESOLVER_TIME: Duration = Duration::from_secs(5);
/// How often a message is sent again.
const RETRIES: usize = 1;
/// Addresses of a resolver with a name that are tried.
const SERVER_ADDRESSES: usize = 4;
/// Largest datagram that a resolver may answer with, in bytes: what passes everywhere in one piece,
/// as DNS Flag Day 2020 has it.
const DATAGRAM_MAX: u16 = 1232;

/// How answers of a resolver are validated.
#[derive(Clone)]
pub(super) struct Dnssec {
    pub(super) anchors: Arc<TrustAnchors>,
    pub(super) anchors_name: String,
    pub(super) unsigned: Unsigned,
}

/// What becomes of answers without signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsigned {
    /// They are taken.
    Taken,
    /// They are refused.
    Refused,
}

/// One resolver.
pub(super) struct Server {
    id: Option<String>,
    place: Place,
    tls: Option<ClientConfig>,
    dnssec: Option<Dnssec>,
    client: OnceCell<TokioResolver>,
}

enum Place {
    /// A declared one.
    Declared(Endpoint),
    /// Those of the host.
    Host,
}

/// What a resolver said about a type of records.
pub(super) struct Found {
    pub(super) rcode: u16,
    pub(super) records: Vec<Record>,
    pub(super) status: DnssecStatus,
}

impl Server {
    pub(super) fn declared(
        id: String,
        endpoint: Endpoint,
        tls: Option<ClientConfig>,
        dnssec: Option<Dnssec>,
    ) -> Self {
        Self {
            id: Some(id),
            place: Place::Declared(endpoint),
            tls,
            dnssec,
            client: OnceCell::new(),
        }
    }

    /// The name servers of the host.
    pub(super) fn of_host() -> Self {
        Self {
            id: None,
            place: Place::Host,
            tls: None,
            dnssec: None,
            client: OnceCell::new(),
        }
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The addresses of a name.
    pub(super) async fn addresses(&self, name: &str) -> Result<Answer, AskError> {
        let fqdn = absolute(name)?;
        let (v4, v6) = tokio::join!(
            self.records(&fqdn, RecordType::A),
            self.records(&fqdn, RecordType::AAAA),
        );
        // An answer that is not validated counts against the other one, too.
        let (v4, v6) = match (v4, v6) {
            (Err(AskError::Dnssec(what)), _) | (_, Err(AskError::Dnssec(what))) => {
                return Err(AskError::Dnssec(what));
            }
            (Err(AskError::Failed(what)), Err(_)) | (Err(_), Err(AskError::Failed(what))) => {
                return Err(AskError::Failed(what));
            }
            (v4, v6) => (v4.ok(), v6.ok()),
        };
        let mut all = Vec::new();
        let (mut ttl, mut status) = (u32::MAX, None);
        for found in [v4, v6].into_iter().flatten() {
            let (addresses, shortest) = addresses_of(&fqdn, &found.records);
            if addresses.is_empty() {
                continue;
            }
            all.extend(addresses);
            ttl = ttl.min(shortest);
            status = match status {
                None | Some(DnssecStatus::Validated) => Some(found.status),
                unsigned => unsigned,
            };
        }
        let mut answer = Answer::new(all, Some(ttl))?;
        answer.dnssec = status.unwrap_or(DnssecStatus::NotAttempted);
        answer.resolver_id.clone_from(&self.id);
        Ok(answer)
    }

    /// Records of one type; none where there are none.
    pub(super) async fn records(&self, name: &Name, kind: RecordType) -> Result<Found, AskError> {
        let asked = async {
            let client = self.client.get_or_try_init(|| self.connect()).await?;
            self.said(client.lookup(name.clone(), kind).await)
        };
        timeout(RESOLVER_TIME, asked)
            .await
            .unwrap_or_else(|_| Err(self.failed("did not answer in time")))
    }

    fn said(
        &self,
        lookup: Result<hickory_resolver::lookup::Lookup, NetError>,
    ) -> Result<Found, AskError> {
        let lookup = match lookup {
            Ok(lookup) => lookup,
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                return match none.response_code {
                    code @ (ResponseCode::NoError | ResponseCode::NXDomain) => Ok(self.none(code)),
                    code => Err(self.failed(&code.to_string())),
                };
            }
            Err(NetError::Dns(DnsError::Nsec {
                response, proof, ..
            })) => {
                return match proof {
                    Proof::Secure | Proof::Insecure => Ok(self.none(response.response_code)),
                    Proof::Bogus => Err(self.unvalidated(DnssecFailure::ValidationFailed)),
                    Proof::Indeterminate => Err(self.unvalidated(DnssecFailure::ValidatorInternal)),
                };
            }
            Err(NetError::Dns(DnsError::DnssecBogus)) => {
                return Err(self.unvalidated(DnssecFailure::ValidationFailed));
            }
            Err(error) => return Err(self.failed(&error.to_string())),
        };
        let records: Vec<Record> = lookup
            .answers()
            .iter()
            .filter(|record| record.record_type() != RecordType::RRSIG)
            .take(RECORDS_MAX)
            .cloned()
            .collect();
        Ok(Found {
            rcode: ResponseCode::NoError.into(),
            status: self.validated(&records)?,
            records,
        })
    }

    /// What DNSSEC says of these records: as much as of the worst of them.
    fn validated(&self, records: &[Record]) -> Result<DnssecStatus, AskError> {
        let Some(dnssec) = &self.dnssec else {
            return Ok(DnssecStatus::NotAttempted);
        };
        let mut status = DnssecStatus::Validated;
        for record in records {
            match record.proof {
                Proof::Secure => {}
                Proof::Insecure if dnssec.unsigned == Unsigned::Taken => {
                    status = DnssecStatus::Unsigned;
                }
                Proof::Insecure => return Err(self.unvalidated(DnssecFailure::UnsignedZone)),
                Proof::Bogus => return Err(self.unvalidated(DnssecFailure::ValidationFailed)),
                // Not proven to be unsigned either: whoever takes signatures away looks like this.
                Proof::Indeterminate => {
                    return Err(self.unvalidated(DnssecFailure::ValidatorInternal));
                }
            }
        }
        Ok(status)
    }

    fn none(&self, code: ResponseCode) -> Found {
        Found {
            rcode: code.into(),
            records: Vec::new(),
            status: DnssecStatus::NotAttempted,
        }
    }

    fn failed(&self, what: &str) -> AskError {
        let id = self.id.as_deref().unwrap_or("the host's name server");
        AskError::Failed(format!("{id}: {what}"))
    }

    fn unvalidated(&self, reason: DnssecFailure) -> AskError {
        let dnssec = self.dnssec.as_ref();
        AskError::Dnssec(Unvalidated {
            reason,
            resolver_id: self.id.clone().unwrap_or_default(),
            fail_closed: dnssec.is_some_and(|it| it.unsigned == Unsigned::Refused),
            anchors: dnssec.map_or_else(String::new, |it| it.anchors_name.clone()),
        })
    }

    async fn connect(&self) -> Result<TokioResolver, AskError> {
        let servers = match &self.place {
            Place::Host => host::name_servers()
                .into_iter()
                .map(NameServerConfig::udp_and_tcp)
                .collect(),
            Place::Declared(endpoint) => self.declared_servers(endpoint).await?,
        };
        let config = ResolverConfig::from_name_servers(servers);
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
                .with_options(options());
        // Without one, the library would read the host's roots although nothing speaks TLS here.
        builder = builder.with_tls_config(match &self.tls {
            Some(tls) => tls.clone(),
            None => no_tls().map_err(|error| self.failed(&error.to_string()))?,
        });
        if let Some(dnssec) = &self.dnssec {
            builder = builder.with_trust_anchor(Arc::clone(&dnssec.anchors));
        }
        builder
            .build()
            .map_err(|error| self.failed(&error.to_string()))
    }

    async fn declared_servers(
        &self,
        endpoint: &Endpoint,
    ) -> Result<Vec<NameServerConfig>, AskError> {
        let addresses: Vec<IpAddr> = match &endpoint.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => match host::addresses(name).await {
                Ok(answer) => answer.addresses,
                Err(_) => return Err(self.failed(&format!("{name} has no address"))),
            },
        };
        let certificate = || Arc::from(endpoint.host.certificate_name());
        let mut connections = match &endpoint.transport {
            Transport::Udp => vec![ConnectionConfig::udp(), ConnectionConfig::tcp()],
            Transport::Tcp => vec![ConnectionConfig::tcp()],
            Transport::Tls => vec![ConnectionConfig::tls(certificate())],
            Transport::Https(path) => {
                let path = Arc::from(path.as_str());
                vec![ConnectionConfig::https(certificate(), Some(path))]
            }
        };
        for connection in &mut connections {
            connection.port = endpoint.port;
        }
        Ok(addresses
            .into_iter()
            .take(SERVER_ADDRESSES)
            .map(|address| NameServerConfig::new(address, true, connections.clone()))
            .collect())
    }
}

/// Nothing is remembered there: what may be, and for how long, is decided here.
fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = MESSAGE_TIME;
    options.attempts = RETRIES;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.num_concurrent_reqs = 1;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    options.preserve_intermediates = true;
    options.edns_payload_len = DATAGRAM_MAX;
    options
}

fn no_tls() -> Result<ClientConfig, tokio_rustls::rustls::Error> {
    use tokio_rustls::rustls::{RootCertStore, crypto::ring};
    Ok(
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth(),
    )
}

/// A name from its root, so that nothing is appended to it.
pub(super) fn absolute(name: &str) -> Result<Name, AskError> {
    let mut name =
        Name::from_ascii(name).map_err(|_| AskError::Failed("this is no name".to_owned()))?;
    name.set_fqdn(true);
    Ok(name)
}
