//! Queries and answers as bytes; RFC 1035, 6891.

use hickory_proto::{
    op::{Edns, Message, OpCode, ResponseCode},
    rr::{DNSClass, Name, Record, RecordType},
};

use super::{MAX_QUERY, MAX_TCP_ANSWER, MAX_UDP_ANSWER, MIN_UDP_ANSWER, Transport};

/// Bytes of the header.
const HEADER: usize = 12;
/// Most records beside the question: options, and a signature, which is not looked at.
const MAX_ADDITIONAL: u16 = 2;

/// A query that can be read.
#[derive(Debug, Clone)]
pub(super) struct Query {
    message: Message,
    /// Lower case, without the last dot; nothing for a name with other bytes than letters, digits,
    /// `-` and `_`, which no rule can name.
    pub(super) plain_name: Option<String>,
    /// For the record: as above, with any other byte as `\ddd`.
    pub(super) shown_name: String,
    /// The type asked for.
    pub(super) kind: RecordType,
}

/// A query that is not answered as such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unread {
    /// There is nobody to answer: no header, or an answer itself.
    Silence,
    /// Only this code.
    Code(Vec<u8>),
}

/// Reads a query.
pub(super) fn read(bytes: &[u8], transport: Transport) -> Result<Query, Unread> {
    let header: &[u8; HEADER] = bytes.first_chunk().ok_or(Unread::Silence)?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let is_answer = header[2] & 0x80 != 0;
    let opcode = OpCode::from_u8(header[2] >> 3 & 0x0f);
    let code = |code| Unread::Code(bare(word(0), opcode, header[2] & 1 != 0, code));
    match () {
        () if is_answer => return Err(Unread::Silence),
        () if opcode != OpCode::Query => return Err(code(ResponseCode::NotImp)),
        () if bytes.len() > MAX_QUERY
            || word(4) != 1
            || word(6) != 0
            || word(8) != 0
            || word(10) > MAX_ADDITIONAL =>
        {
            return Err(code(ResponseCode::FormErr));
        }
        () => {}
    }
    let message = Message::from_vec(bytes).map_err(|_| code(ResponseCode::FormErr))?;
    let Some(question) = message.queries.first() else {
        return Err(code(ResponseCode::FormErr));
    };
    let (plain_name, shown_name) = names(question.name());
    let kind = question.query_type();
    let class = question.query_class();
    let version = message.edns.as_ref().map_or(0, Edns::version);
    let query = Query {
        message,
        plain_name,
        shown_name,
        kind,
    };
    match (version, class) {
        (1.., _) => Err(Unread::Code(query.answer(
            ResponseCode::BADVERS,
            Vec::new(),
            transport,
        ))),
        (0, DNSClass::IN) => Ok(query),
        (0, _) => Err(Unread::Code(query.answer(
            ResponseCode::Refused,
            Vec::new(),
            transport,
        ))),
    }
}

impl Query {
    /// The name that was asked for, in the spelling of who asks.
    pub(super) fn name(&self) -> Name {
        self.message
            .queries
            .first()
            .map_or_else(Name::root, |question| question.name().clone())
    }

    /// An answer to this query. What does not fit is left out, and the answer says so.
    pub(super) fn answer(
        &self,
        code: ResponseCode,
        records: Vec<Record>,
        transport: Transport,
    ) -> Vec<u8> {
        let asked = &self.message;
        let mut answer = Message::response(asked.metadata.id, OpCode::Query);
        answer.metadata.recursion_desired = asked.metadata.recursion_desired;
        answer.metadata.checking_disabled = asked.metadata.checking_disabled;
        answer.metadata.recursion_available = true;
        answer.metadata.response_code = code;
        answer.add_queries(asked.queries.iter().cloned());
        answer.insert_answers(records);
        if let Some(edns) = &asked.edns {
            let mut ours = Edns::new();
            ours.set_max_payload(MAX_UDP_ANSWER);
            ours.set_dnssec_ok(edns.flags().dnssec_ok);
            answer.set_edns(ours);
        }
        let limit = match (transport, &asked.edns) {
            (Transport::Tcp, _) => MAX_TCP_ANSWER,
            (Transport::Udp, None) => MIN_UDP_ANSWER,
            (Transport::Udp, Some(edns)) => {
                edns.max_payload().clamp(MIN_UDP_ANSWER, MAX_UDP_ANSWER)
            }
        };
        let unfit = |bytes: &Vec<u8>| bytes.len() > usize::from(limit);
        match answer.to_vec() {
            Ok(bytes) if !unfit(&bytes) => bytes,
            // A part of a set of records is of no use to anybody: RFC 2181, 9.
            _ => {
                answer.answers.clear();
                answer.metadata.truncation = true;
                answer.to_vec().unwrap_or_else(|_| {
                    let asked = &asked.metadata;
                    let code = ResponseCode::ServFail;
                    bare(asked.id, OpCode::Query, asked.recursion_desired, code)
                })
            }
        }
    }
}

/// A header and nothing else.
fn bare(id: u16, opcode: OpCode, recursion_desired: bool, code: ResponseCode) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let flags = 0x80 | u8::from(opcode) << 3 | u8::from(recursion_desired);
    let mut bytes = vec![high, low, flags, 0x80 | code.low()];
    bytes.resize(HEADER, 0);
    bytes
}

/// The plain form of a name, if it has one, and the form for the record.
fn names(name: &Name) -> (Option<String>, String) {
    let mut plain = true;
    let mut shown = String::with_capacity(64);
    for label in name.iter() {
        if !shown.is_empty() {
            shown.push('.');
        }
        for byte in label {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => {
                    shown.push(char::from(byte.to_ascii_lowercase()));
                }
                byte => {
                    plain = false;
                    shown.push_str(&format!("\\{byte:03}"));
                }
            }
        }
    }
    if shown.is_empty() {
        return (None, ".".into());
    }
    (plain.then(|| shown.clone()), shown)
}

/// A type as the record names it.
pub(super) fn kind_word(kind: RecordType) -> String {
    match kind {
        RecordType::A
        | RecordType::AAAA
        | RecordType::CNAME
        | RecordType::TXT
        | RecordType::MX
        | RecordType::SRV
        | RecordType::NS
        | RecordType::PTR
        | RecordType::HTTPS
        | RecordType::SVCB => kind.to_string(),
        other => format!("TYPE{}", u16::from(other)),
    }
}
