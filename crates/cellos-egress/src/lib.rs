//! The egress gateway: one door out of a cell, by name.
//!
//! A cell's network namespace has a loopback device, on which every address is local, and sockets
//! on the declared ports, which this gateway serves from outside ([`cellos_core::ports::network`]).
//! A connection goes through here like this:
//!
//! ```text
//! dns      a declared name gets an address of the pool; anything else is refused
//! gateway  accepts; the address it was made to gives the name that was meant
//! rules    name, port and protocol decide
//! peek     TLS: the server name has to be that name; HTTP: the host of every request
//! resolve  the real addresses, outside, judged: none that is private unless a rule names it
//! dial     to one of those, directly or through the site's proxy
//! relay    bytes both ways, counted
//! report   one event for the flow
//! ```

#![forbid(unsafe_code)]

mod dial;
mod dns;
mod gateway;
mod learn;
mod names;
mod peek;
mod publish;
mod ranges;
mod refusals;
mod relay;
mod report;
mod resolve;
mod rules;
mod udp;

pub use dial::{Proxy, Upstream, UpstreamProblem};
pub use gateway::{EgressGateway, GatewayConfig, Mode};
pub use learn::{Completed, Content, Learned};
pub use publish::{Publish, PublishError, PublishProblem};
pub use rules::{Check, Rule, RuleProblem, Rules};
