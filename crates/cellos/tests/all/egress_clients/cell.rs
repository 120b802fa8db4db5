//! A cell with a document that declares some destinations, and what its record says afterwards.

use std::{net::IpAddr, path::Path};

use cellos_testkit::dns::DnsServer;
use serde_json::{Value, json};

use super::outside::Certificates;
use crate::program::Place;

/// A name that servers here have a certificate for, and that rules declare.
pub(crate) const DECLARED: &str = "declared.test.example";
/// One that leads to the same servers, which have a certificate for it, too. No rule declares it.
pub(crate) const UNDECLARED: &str = "undeclared.test.example";
/// Where cells find the file of the authority.
pub(crate) const AUTHORITY: &str = "/authority.pem";

/// Longest life of a cell here, in seconds: `npm` takes some on a busy host.
const TTL_SECONDS: u64 = 120;

/// A place with names and certificates.
pub(crate) struct Outside {
    pub(crate) place: Place,
    pub(crate) certificates: Certificates,
    names: DnsServer,
}

impl Outside {
    pub(crate) fn new() -> Self {
        let place = Place::new();
        let here: &[IpAddr] = &[[127, 0, 0, 1].into()];
        Self {
            certificates: Certificates::new(place.path(), &[DECLARED, UNDECLARED]),
            names: DnsServer::with(&[(DECLARED, here), (UNDECLARED, here)]),
            place,
        }
    }

    /// Runs a script of bash in a cell that may connect to this port of [`DECLARED`].
    pub(crate) fn run(&self, cell: &Cell<'_>) -> Ran {
        let Self { place, names, .. } = self;
        let rule = match cell.protocol {
            Some(protocol) => json!({"host": DECLARED, "port": cell.port, "protocol": protocol}),
            None => json!({"host": DECLARED, "port": cell.port}),
        };
        let mut mounts = vec![mount(self.certificates.authority(), AUTHORITY)];
        mounts.extend(cell.mounts.iter().map(|(from, to)| mount(from, to)));
        let env: serde_json::Map<String, Value> = [("HOME", "/work")]
            .iter()
            .chain(cell.env)
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        let document = json!({
            "apiVersion": "cellos.io/v1",
            "kind": "ExecutionCell",
            "spec": {
                "id": "client",
                "run": {
                    "argv": ["/bin/bash", "-c", cell.script],
                    "workingDirectory": "/work",
                    "env": env,
                },
                "authority": {
                    "egressRules": [rule],
                    "dnsAuthority": {
                        "resolvers": [{
                            "resolverId": "one",
                            "endpoint": names.address().to_string(),
                            "protocol": "do53-udp",
                        }],
                        "rebindingPolicy": {
                            "responseIpAllowlist": [format!("{DECLARED}:127.0.0.0/8")],
                        },
                    },
                    "filesystem": {"mounts": mounts},
                },
                "lifetime": {"ttlSeconds": TTL_SECONDS},
            },
        });
        let file = place.file("cell.json", document.to_string());
        let log = place.path().join(format!("{}.jsonl", cell.log));
        let (file, log) = (file.to_str().unwrap(), log.to_str().unwrap());
        let output = place
            .cellos(&["run", "--quiet", "--events", log, file])
            .output()
            .unwrap();
        let verified = place.cellos(&["verify", log]).output().unwrap();
        assert!(verified.status.success(), "{verified:?} of {output:?}");
        let said = [output.stdout.as_slice(), b"\n--\n", &output.stderr].concat();
        Ran {
            said: String::from_utf8_lossy(&said).into_owned(),
            code: output.status.code(),
            flows: data(log, "network_flow_decision"),
            queries: data(log, "dns_query"),
        }
    }
}

/// What differs between the cells here.
#[derive(Default)]
pub(crate) struct Cell<'a> {
    /// Name of its record: a place can have several cells.
    pub(crate) log: &'a str,
    pub(crate) port: u16,
    pub(crate) protocol: Option<&'a str>,
    pub(crate) script: &'a str,
    pub(crate) env: &'a [(&'a str, &'a str)],
    pub(crate) mounts: &'a [(&'a Path, &'a str)],
}

fn mount(source: &Path, target: &str) -> Value {
    json!({"source": source, "target": target, "access": "ro"})
}

fn data(log: &str, kind: &str) -> Vec<Value> {
    std::fs::read_to_string(log)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["entry"]["event"].take())
        .filter(|event| event["type"].as_str().is_some_and(|it| it.ends_with(kind)))
        .map(|mut event| event["data"].take())
        .collect()
}

/// What a cell did.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Standard output, and then standard error.
    pub(crate) said: String,
    pub(crate) code: Option<i32>,
    pub(crate) flows: Vec<Value>,
    pub(crate) queries: Vec<Value>,
}

impl Ran {
    /// The script ended well and said each of these words.
    #[track_caller]
    pub(crate) fn said(&self, words: &[&str]) {
        assert_eq!(self.code, Some(0), "{self:#?}");
        for word in words {
            assert!(self.said.contains(word), "no {word:?} in {self:#?}");
        }
    }

    /// Something was let through to the declared name, by its rule, and bytes went both ways.
    #[track_caller]
    pub(crate) fn reached(&self) {
        let mut flows = self.flows.iter();
        let found = flows.any(|flow| {
            flow["decision"] == "allow"
                && flow["requestedName"] == DECLARED
                && flow["nftRuleRef"] == "authority.egressRules[0]"
                && flow["bytesOut"].as_u64() > Some(0)
                && flow["bytesIn"].as_u64() > Some(0)
        });
        assert!(found, "{self:#?}");
    }

    /// A query for the undeclared name was refused, and every connection was to the declared one.
    #[track_caller]
    pub(crate) fn refused_name(&self) {
        let mut queries = self.queries.iter();
        let found = queries.any(|query| {
            query["queryName"] == UNDECLARED
                && query["decision"] == "deny"
                && query["reasonCode"] == "denied_not_in_allowlist"
        });
        assert!(found, "{self:#?}");
        let mut flows = self.flows.iter();
        let elsewhere =
            flows.any(|flow| flow["decision"] == "allow" && flow["requestedName"] != DECLARED);
        assert!(!elsewhere, "{self:#?}");
    }

    /// A connection was refused for this reason.
    #[track_caller]
    pub(crate) fn refused_flow(&self, reason: &str) -> &Value {
        let mut flows = self.flows.iter();
        let found = flows.find(|flow| flow["decision"] == "deny" && flow["reasonCode"] == reason);
        assert!(found.is_some(), "no {reason} in {self:#?}");
        found.unwrap()
    }
}
