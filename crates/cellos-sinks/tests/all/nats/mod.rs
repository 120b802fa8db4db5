//! The NATS sink against a real `nats-server`.

mod contract;
mod forward;
mod hostile;
mod jwt;
mod login;
mod outage;
mod server;
mod settings;
mod streams;
mod tls;
