//! A name server that answers, stays silent and lies as told, over UDP and TCP.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot have its name server cannot go on"
)]

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME},
    },
};

pub use hickory_proto;

/// Time between two looks for a question.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// Time to live of the records that are made here, in seconds.
const TTL: u32 = 60;
/// How often a port is looked for that is free for both transports.
const PORT_ATTEMPTS: usize = 64;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsTransport {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

/// A question as it came.
#[derive(Debug, Clone)]
pub struct DnsQuestion {
    /// The name, lower case, without the last dot.
    pub name: String,
    /// The record type.
    pub kind: RecordType,
    /// How it came.
    pub transport: DnsTransport,
    /// All of it.
    pub message: Message,
}

impl DnsQuestion {
    /// An answer to this question with these records.
    #[must_use]
    pub fn answer(&self, records: impl IntoIterator<Item = Record>) -> Message {
        let mut message = self.code(ResponseCode::NoError);
        for record in records {
            message.add_answer(record);
        }
        message
    }

    /// An answer to this question with nothing but a code.
    #[must_use]
    pub fn code(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.message.id, self.message.op_code);
        message.metadata.response_code = code;
        message.metadata.recursion_desired = true;
        message.metadata.recursion_available = true;
        message.add_queries(self.message.queries.clone());
        message
    }
}

/// What a server does with a question.
#[derive(Debug, Clone)]
pub enum DnsAnswer {
    /// Answers with those of the addresses that were asked for (IPv4 to A, IPv6 to AAAA).
    Addresses(Vec<IpAddr>),
    /// Answers with these records.
    Records(Vec<Record>),
    /// Answers with a code.
    Code(ResponseCode),
    /// Says exactly this; the id is the question's.
    Message(Box<Message>),
    /// Says these bytes.
    Bytes(Vec<u8>),
    /// The answer does not fit, ask over TCP.
    Truncated,
    /// First says this with another id, then that.
    WrongIdThen(Box<DnsAnswer>, Box<DnsAnswer>),
    /// First says this from another port, then that; UDP only.
    WrongSourceThen(Box<DnsAnswer>, Box<DnsAnswer>),
    /// Says it later. Other questions wait, too.
    After(Duration, Box<DnsAnswer>),
    /// Says nothing.
    Silence,
}

/// An address record.
///
/// # Panics
/// For what is no name.
#[must_use]
pub fn address(name: &str, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    Record::from_rdata(fqdn(name), TTL, data)
}

/// An alias.
///
/// # Panics
/// For what is no name.
#[must_use]
pub fn alias(name: &str, target: &str) -> Record {
    Record::from_rdata(fqdn(name), TTL, RData::CNAME(CNAME(fqdn(target))))
}

/// A name, from its root.
///
/// # Panics
/// For what is no name.
#[must_use]
pub fn fqdn(name: &str) -> Name {
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    name
}

type Behaviour = Box<dyn FnMut(&DnsQuestion) -> DnsAnswer + Send>;

struct Shared {
    behaviour: Mutex<Behaviour>,
    asked: Mutex<Vec<DnsQuestion>>,
    stop: AtomicBool,
}

/// A name server on this host.
pub struct DnsServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl DnsServer {
    /// Starts one that knows no name, on one port of `127.0.0.1` for UDP and TCP.
    ///
    /// # Panics
    /// Where no port can be had.
    #[must_use]
    pub fn start() -> Self {
        let (tcp, udp) = (0..PORT_ATTEMPTS)
            .find_map(|_| {
                let tcp = TcpListener::bind("127.0.0.1:0").ok()?;
                let udp = UdpSocket::bind(tcp.local_addr().ok()?).ok()?;
                Some((tcp, udp))
            })
            .unwrap();
        let address = tcp.local_addr().unwrap();
        tcp.set_nonblocking(true).unwrap();
        udp.set_read_timeout(Some(LOOK_INTERVAL * 10)).unwrap();
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(Box::new(|_| DnsAnswer::Code(ResponseCode::NXDomain))),
            asked: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let (of_udp, of_tcp) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            thread::spawn(move || serve_udp(&of_udp, &udp)),
            thread::spawn(move || serve_tcp(&of_tcp, &tcp)),
        ];
        Self {
            address,
            shared,
            threads,
        }
    }

    /// Starts one that knows these names, and no others.
    #[must_use]
    pub fn with(names: &[(&str, &[IpAddr])]) -> Self {
        let server = Self::start();
        let names: Vec<(String, Vec<IpAddr>)> = names
            .iter()
            .map(|(name, addresses)| ((*name).to_owned(), addresses.to_vec()))
            .collect();
        server.behave(move |question| {
            names
                .iter()
                .find(|(name, _)| *name == question.name)
                .map_or(DnsAnswer::Code(ResponseCode::NXDomain), |(_, addresses)| {
                    DnsAnswer::Addresses(addresses.clone())
                })
        });
        server
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<DnsQuestion> {
        lock(&self.shared.asked).clone()
    }

    /// What it does with questions from now on.
    pub fn behave(&self, behaviour: impl FnMut(&DnsQuestion) -> DnsAnswer + Send + 'static) {
        *lock(&self.shared.behaviour) = Box::new(behaviour);
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve_udp(shared: &Shared, socket: &UdpSocket) {
    let mut buffer = vec![0; 65_535];
    while !shared.stop.load(Ordering::SeqCst) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        for (said, other) in answers(shared, &buffer[..length], DnsTransport::Udp) {
            if other {
                let elsewhere = UdpSocket::bind("127.0.0.1:0").unwrap();
                let _ = elsewhere.send_to(&said, from);
            } else {
                let _ = socket.send_to(&said, from);
            }
        }
    }
}

fn serve_tcp(shared: &Arc<Shared>, listener: &TcpListener) {
    while !shared.stop.load(Ordering::SeqCst) {
        let Ok((connection, _)) = listener.accept() else {
            thread::sleep(LOOK_INTERVAL);
            continue;
        };
        connection.set_nonblocking(false).unwrap();
        let shared = Arc::clone(shared);
        thread::spawn(move || serve_connection(&shared, connection));
    }
}

fn serve_connection(shared: &Shared, mut connection: TcpStream) {
    while let Some(question) = read(&mut connection) {
        for (said, _) in answers(shared, &question, DnsTransport::Tcp) {
            let length = u16::try_from(said.len()).unwrap();
            let framed = [&length.to_be_bytes()[..], &said].concat();
            if connection.write_all(&framed).is_err() {
                return;
            }
        }
    }
}

fn read(connection: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    connection.read_exact(&mut length).ok()?;
    let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
    connection.read_exact(&mut question).ok()?;
    Some(question)
}

/// What is said to a question, and whether from another port.
fn answers(shared: &Shared, bytes: &[u8], transport: DnsTransport) -> Vec<(Vec<u8>, bool)> {
    let Ok(message) = Message::from_vec(bytes) else {
        return Vec::new();
    };
    let Some(query) = message.queries.first() else {
        return Vec::new();
    };
    let name = query.name().to_ascii().to_ascii_lowercase();
    let question = DnsQuestion {
        name: name.trim_end_matches('.').to_owned(),
        kind: query.query_type(),
        transport,
        message,
    };
    lock(&shared.asked).push(question.clone());
    let answer = lock(&shared.behaviour)(&question);
    said(&question, answer)
}

fn said(question: &DnsQuestion, answer: DnsAnswer) -> Vec<(Vec<u8>, bool)> {
    let message = match answer {
        DnsAnswer::Addresses(addresses) => {
            let records = addresses
                .into_iter()
                .map(|given| address(&question.name, given));
            question.answer(records.filter(|record| record.record_type() == question.kind))
        }
        DnsAnswer::Records(records) => question.answer(records),
        DnsAnswer::Code(code) => question.code(code),
        DnsAnswer::Message(mut message) => {
            message.metadata.id = question.message.id;
            *message
        }
        DnsAnswer::Bytes(bytes) => return vec![(bytes, false)],
        DnsAnswer::Truncated => {
            let mut message = question.code(ResponseCode::NoError);
            message.metadata.truncation = true;
            message
        }
        DnsAnswer::WrongIdThen(first, then) => {
            let mut all = said(question, *first);
            for (bytes, _) in &mut all {
                bytes[0] ^= 0xff;
            }
            all.extend(said(question, *then));
            return all;
        }
        DnsAnswer::WrongSourceThen(first, then) => {
            let mut all = said(question, *first);
            for (_, other) in &mut all {
                *other = true;
            }
            all.extend(said(question, *then));
            return all;
        }
        DnsAnswer::After(time, then) => {
            thread::sleep(time);
            return said(question, *then);
        }
        DnsAnswer::Silence => return Vec::new(),
    };
    vec![(message.to_vec().unwrap(), false)]
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
