//! Policy, authority proofs, canonical JSON and signatures, against the published vectors and
//! through the public interface only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "authority/authorization.rs"]
mod authorization;
#[path = "authority/ceiling.rs"]
mod ceiling;
#[path = "authority/derivation.rs"]
mod derivation;
#[path = "authority/digests.rs"]
mod digests;
#[path = "authority/fixtures.rs"]
mod fixtures;
#[path = "authority/policy_differences.rs"]
mod policy_differences;
#[path = "authority/policy_packs.rs"]
mod policy_packs;
#[path = "authority/properties.rs"]
mod properties;
#[path = "authority/signed_events.rs"]
mod signed_events;
#[path = "authority/trust_envelopes.rs"]
mod trust_envelopes;
