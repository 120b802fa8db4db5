//! The name server inside the cell.
//!
//! It stands behind port 53 of every address that no rule names, over UDP and TCP. What it says:
//!
//! | asked | said |
//! | --- | --- |
//! | A, AAAA of a declared name | the address that stands for it, the same as long as the cell lives |
//! | CNAME, HTTPS, SVCB of a declared name | there is none. Those outside may carry addresses and the keys of encrypted hellos (RFC 9460), so they are never passed on |
//! | TXT, MX, SRV, NS, PTR of a declared name | what the resolver outside says, where `allowedQueryTypes` lists the type: records of that type for that name, and nothing beside them |
//! | PTR of an address that stands for a name | that name |
//! | `localhost`, names below it, `cell` | loopback, RFC 6761 |
//! | anything else | REFUSED |
//!
//! A and AAAA that a document does not allow are answered with "there is none", so that a program
//! which asks for both goes on with the other; the record says that they were refused.
//!
//! **Evidence.** Each refused query is reported, and each that goes outside. A name that is answered
//! from the pool is reported when the cell asks for it the first time. A report is taken before the
//! answer is sent; when the record takes no more, nothing is answered any more.
//!
//! **Bounds.** A query is at most [`MAX_QUERY`] bytes with one question. Queries from the pool are
//! answered in order by the one task of the socket, which lets others run after every
//! [`BURST`] datagrams; those for outside have tasks of their own, at most
//! [`MAX_OUTSIDE`] at once in a cell, and beyond that fail at once. A connection has its queries
//! answered one by one, in order (RFC 7766 asks for no more), so that it holds one query and one
//! answer; there are at most [`MAX_CONNECTIONS`], and each step of theirs has a time limit.

use std::time::Duration;

mod answer;
mod decide;
mod reverse;
mod tcp;
mod udp;
mod wire;

pub(crate) use answer::{NameServer, Transport};

/// Most bytes of a query: a name has 255, and options beside it are padded to 128 (RFC 8467). What is
/// longer is malformed.
const MAX_QUERY: usize = 1024;
/// Most bytes of an answer over UDP, whatever the asker says that it takes; what has no room comes
/// over TCP. As agreed among name servers in 2020.
const MAX_UDP_ANSWER: u16 = 1232;
/// Bytes of an answer over UDP to who does not say how much it takes; RFC 1035.
const MIN_UDP_ANSWER: u16 = 512;
/// Most bytes of an answer over TCP.
const MAX_TCP_ANSWER: u16 = 16 * 1024;
/// Most records from outside in one answer.
const MAX_RECORDS: usize = 64;
/// Most aliases that are followed within one answer from outside.
const MAX_ALIASES: usize = 8;
/// How long an answer from the pool may be kept, in seconds. It never becomes wrong while the cell
/// lives; short, so that programs that log it are not astonished.
const POOL_TTL: u32 = 60;
/// Most queries of one cell that wait for resolvers outside at once.
const MAX_OUTSIDE: usize = 32;
/// Longest wait for a resolver outside.
const OUTSIDE_LIMIT: Duration = Duration::from_secs(10);
/// Most connections to the name server at once; each takes about 20 KiB at most.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection may say nothing between two queries.
const CONNECTION_IDLE: Duration = Duration::from_secs(10);
/// How long the bytes of one query may take to come, and of one answer to go.
const MESSAGE_LIMIT: Duration = Duration::from_secs(5);
/// Most datagrams in a row before other tasks run.
pub(crate) const BURST: usize = 32;

#[cfg(test)]
mod tests;
