//! A cell with a network among services that it must not reach, and what a run in it left behind.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    process::{Command, Output},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use cellos_testkit::dns::{
    DnsAnswer, DnsServer, fqdn,
    hickory_proto::rr::{RData, Record, RecordType, rdata::A},
};
use serde_json::{Value, json};

use crate::{
    bait::{PYTHON, probes},
    program::Place,
};

/// The declared name, which leads to a service of this host.
pub(crate) const NAME: &str = "api.test.example";
/// Declared names that lead where no name may lead.
pub(crate) const LIARS: &[(&str, &[&str])] = &[
    ("loopback.test.example", &["127.0.0.1", "::1"]),
    (
        "metadata.test.example",
        &["169.254.169.254", "fd00:ec2::254"],
    ),
    ("mapped.test.example", &["::ffff:127.0.0.1"]),
    ("private.test.example", &["10.0.0.1", "fd00::1"]),
    ("zero.test.example", &["0.0.0.0", "::"]),
    ("sixloop.test.example", &["::1"]),
    (
        "pool.test.example",
        &["198.18.1.0", "fd63:656c:6c6f::c612:100"],
    ),
];

/// A cell, the services around it that it must not reach, and what they saw.
pub(crate) struct Stage {
    pub(crate) place: Place,
    pub(crate) names: DnsServer,
    pub(crate) port: u16,
    /// The port, the address and the first words of each connection.
    pub(crate) seen: Arc<Mutex<Vec<(u16, IpAddr, String)>>>,
    own: Vec<IpAddr>,
    socket_name: String,
    _socket: UnixListener,
}

/// What a run left behind.
pub(crate) struct Evidence {
    pub(crate) flows: Vec<Value>,
    pub(crate) queries: Vec<Value>,
    pub(crate) egress: Value,
}

pub(crate) fn system_python() -> Result<(), String> {
    let works = Command::new(PYTHON).arg("--version").output();
    works
        .map(drop)
        .map_err(|error| format!("{PYTHON}: {error}"))
}

/// The right address, then one of this host's services, then both; none of them for longer than now.
fn changing(turn: usize) -> Vec<Record> {
    let both = [A::new(127, 0, 0, 1), A::new(127, 0, 0, 9)];
    let addresses = match turn % 3 {
        1 => &both[1..],
        2 => &both[..1],
        _ => &both[..],
    };
    let name = fqdn("changing.test.example");
    let record = |address: &A| Record::from_rdata(name.clone(), 0, RData::A(*address));
    addresses.iter().map(record).collect()
}

/// Listens on every address of this host, on one port and the next.
fn listeners() -> (u16, [TcpListener; 2]) {
    (0..64)
        .find_map(|_| {
            let first = TcpListener::bind("[::]:0")
                .or_else(|_| TcpListener::bind("0.0.0.0:0"))
                .unwrap();
            let mut address = first.local_addr().unwrap();
            let port = address.port();
            address.set_port(port.checked_add(1)?);
            Some((port, [first, TcpListener::bind(address).ok()?]))
        })
        .unwrap()
}

/// The addresses that this host would send from.
fn own_addresses() -> Vec<IpAddr> {
    [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")]
        .into_iter()
        .filter_map(|(from, to)| {
            let socket = UdpSocket::bind(from).ok()?;
            socket.connect(to).ok()?;
            Some(socket.local_addr().ok()?.ip())
        })
        .filter(|address| !address.is_loopback() && !address.is_unspecified())
        .collect()
}

fn answer(mut stream: TcpStream, seen: &Mutex<Vec<(u16, IpAddr, String)>>) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let ip = local.ip().to_canonical();
    let mut request = [0; 4096];
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let length = stream.read(&mut request).unwrap_or(0);
    let words = String::from_utf8_lossy(&request[..length]).into_owned();
    seen.lock().unwrap().push((local.port(), ip, words));
    // 127.0.0.9 is where a name is allowed to lead; everywhere else is bait.
    let body = if ip.to_string() == "127.0.0.9" {
        "is fine"
    } else {
        "reached"
    };
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\n";
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
}

impl Stage {
    pub(crate) fn set() -> Self {
        let (port, listeners) = listeners();
        let seen = Arc::<Mutex<Vec<_>>>::default();
        for listener in listeners {
            let seen = Arc::clone(&seen);
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let seen = Arc::clone(&seen);
                    let stream = stream.unwrap();
                    thread::spawn(move || answer(stream, &seen));
                }
            });
        }
        let own = own_addresses();
        let names = DnsServer::start();
        let (its_own, mut turn) = (own.clone(), 0);
        names.behave(move |question| match question.name.as_str() {
            NAME => DnsAnswer::Addresses(vec!["127.0.0.1".parse().unwrap()]),
            "own.test.example" => DnsAnswer::Addresses(its_own.clone()),
            "changing.test.example" if question.kind == RecordType::A => {
                turn += 1;
                DnsAnswer::Records(changing(turn))
            }
            name => {
                let liar = LIARS.iter().find(|(liar, _)| *liar == name);
                let addresses = liar.map(|(_, addresses)| *addresses).unwrap_or_default();
                DnsAnswer::Addresses(addresses.iter().map(|it| it.parse().unwrap()).collect())
            }
        });
        let socket_name = format!("cellos-attack-{}", uuid::Uuid::new_v4());
        let address = SocketAddr::from_abstract_name(&socket_name).unwrap();
        Self {
            place: Place::new(),
            names,
            port,
            seen,
            own,
            socket_name,
            _socket: UnixListener::bind_addr(&address).unwrap(),
        }
    }

    /// A document whose cell tries these probes.
    pub(crate) fn document(
        &self,
        file: &str,
        id: &str,
        user: Option<u32>,
        declared: (&str, u16),
        tries: &[&str],
    ) -> String {
        let (name, port) = declared;
        let own: Vec<String> = self.own.iter().map(IpAddr::to_string).collect();
        let mut argv = vec![PYTHON.to_owned(), "/probes/egress.py".to_owned()];
        argv.extend([
            self.port.to_string(),
            own.join(","),
            self.socket_name.clone(),
        ]);
        argv.extend(tries.iter().map(|it| (*it).to_owned()));
        let mut rules = vec![json!({"host": name, "port": port})];
        for liar in LIARS.iter().map(|(liar, _)| *liar) {
            rules.push(json!({"host": liar, "port": port}));
        }
        for name in [
            "own.test.example",
            "changing.test.example",
            "*.wild.example",
        ] {
            rules.push(json!({"host": name, "port": port}));
        }
        let mut run = json!({"argv": argv});
        if let Some(uid) = user {
            run["user"] = json!({"uid": uid, "gid": uid});
        }
        let document = json!({"apiVersion": "cellos.io/v1", "kind": "ExecutionCell", "spec": {
            "id": id,
            "authority": {
                "filesystem": {"mounts": [{"source": probes(), "target": "/probes", "access": "ro"}]},
                "egressRules": rules,
                "dnsAuthority": {
                    "resolvers": [{"resolverId": "one", "endpoint": self.names.address().to_string(),
                        "protocol": "do53-udp"}],
                    "rebindingPolicy": {"responseIpAllowlist":
                        [format!("{name}:127.0.0.1/32"), "changing.test.example:127.0.0.9/32"]}}},
            "run": run,
            "lifetime": {"ttlSeconds": 120}}});
        let path = self.place.file(file, document.to_string());
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn command(&self, document: &str, log: &str) -> Command {
        let log = self.place.path().join(log);
        self.place.cellos(&[
            "run",
            "--quiet",
            "--events",
            log.to_str().unwrap(),
            document,
        ])
    }

    /// Has a cell try these, and looks that each was held and that the gateway still serves.
    pub(crate) fn try_all(&self, user: Option<u32>, tries: &[&str]) -> Evidence {
        let document = self.document("cell.json", "attack", user, (NAME, self.port), tries);
        let ran = self.command(&document, "log.jsonl").output().unwrap();
        assert_held(&ran, tries);
        let evidence = self.evidence("log.jsonl");
        assert_eq!(evidence.egress["flowsAllowed"], 1, "{}", evidence.egress);
        assert_eq!(evidence.egress["exercisedRules"], json!([0]));
        self.assert_only_declared_reached();
        evidence
    }

    /// The service saw one request, the one that is allowed.
    fn assert_only_declared_reached(&self) {
        let seen = self.seen.lock().unwrap();
        assert_eq!(seen.len(), 1, "{seen:?}");
        let (port, address, words) = &seen[0];
        assert_eq!(
            (*port, address.to_string().as_str()),
            (self.port, "127.0.0.1")
        );
        assert!(words.contains(&format!("\r\nHost: {NAME}\r\n")), "{words}");
    }

    /// Reads the log, which has to verify and to agree with itself.
    pub(crate) fn evidence(&self, log: &str) -> Evidence {
        let path = self.place.path().join(log);
        let verified = self
            .place
            .cellos(&["verify", path.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(verified.status.success(), "{verified:?}");
        let text = std::fs::read(&path).unwrap();
        let strange = text
            .iter()
            .find(|byte| !matches!(byte, b'\n' | b' '..=b'~'));
        assert_eq!(strange, None, "the log has a byte that a terminal may obey");
        let events: Vec<Value> = String::from_utf8(text)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["entry"]["event"].take())
            .collect();
        let data = |kind: &str| -> Vec<Value> {
            let of_kind = events
                .iter()
                .filter(|it| it["type"].as_str().is_some_and(|it| it.ends_with(kind)));
            of_kind.map(|it| it["data"].clone()).collect()
        };
        let evidence = Evidence {
            flows: data("network_flow_decision"),
            queries: data("dns_query"),
            egress: data("lifecycle.v1.destroyed")[0]["egress"].clone(),
        };
        let total = |events: &[Value], decision| {
            events
                .iter()
                .filter(|it| it["decision"] == decision)
                .map(count)
                .sum::<u64>()
        };
        assert_eq!(
            total(&evidence.flows, "deny"),
            evidence.egress["flowsRefused"]
        );
        assert_eq!(
            total(&evidence.flows, "allow"),
            evidence.egress["flowsAllowed"]
        );
        assert_eq!(
            total(&evidence.queries, "deny"),
            evidence.egress["queriesRefused"]
        );
        evidence
    }
}

/// How many refusals an event stands for.
fn count(event: &Value) -> u64 {
    event["count"].as_u64().unwrap_or(1)
}

impl Evidence {
    /// How many flows were refused for each reason, by transport.
    pub(crate) fn refused(&self) -> BTreeMap<String, u64> {
        let mut reasons = BTreeMap::new();
        for flow in self.flows.iter().filter(|it| it["decision"] == "deny") {
            let (reason, protocol) = (&flow["reasonCode"], &flow["protocol"]);
            let key = format!(
                "{}/{}",
                reason.as_str().unwrap(),
                protocol.as_str().unwrap()
            );
            *reasons.entry(key).or_default() += count(flow);
        }
        reasons
    }

    /// Refusals of a kind are told, as many as there were tries at least.
    #[track_caller]
    pub(crate) fn assert_refused(&self, kinds: &[(&str, u64)]) {
        let refused = self.refused();
        for (kind, least) in kinds {
            let told = refused.get(*kind).copied().unwrap_or(0);
            assert!(told >= *least, "{kind}: {told} of {least} in {refused:?}");
        }
    }
}

#[track_caller]
pub(crate) fn assert_held(ran: &Output, tries: &[&str]) {
    let said = String::from_utf8_lossy(&ran.stdout);
    let complaint = String::from_utf8_lossy(&ran.stderr);
    for name in tries {
        let held = format!("{name} held: ");
        assert!(
            said.lines().any(|line| line.starts_with(&held)),
            "{name}\n{said}\n{complaint}"
        );
    }
    assert!(said.ends_with("allowed works\n"), "{said}\n{complaint}");
    assert!(ran.status.success(), "{complaint}");
}
