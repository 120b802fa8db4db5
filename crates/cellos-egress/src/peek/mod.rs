//! The first bytes of a connection, read without trusting them. Nothing here waits or writes.
//!
//! [`kind`](kind::kind) says what the bytes look like. TLS then goes through a [`TlsGuard`] and HTTP
//! through a [`Conversation`] for as long as either asks for it: one look at the beginning is not
//! enough, because a second hello or a second request can want something else than the first.

mod client_hello;
mod expected;
mod http1;
mod kind;
mod tls;

#[allow(unused_imports)]
pub(crate) use expected::{Expected, Fault, Fronting, harmless};
#[allow(unused_imports)]
pub(crate) use http1::{Client, Conversation, Server};
#[allow(unused_imports)]
pub(crate) use kind::{Kind, kind};
#[allow(unused_imports)]
pub(crate) use tls::{Hold, TlsGuard};
