//! The contract of all remote sinks.

use async_trait::async_trait;
use cellos_sinks::remote::{RemoteSink, SinkConfig as _, Surroundings, nats::NatsSink};
use cellos_testkit::require;
use serde_json::json;

use super::server::{Reached as _, Reader, Server};
use crate::remote_contract::{self, Harness};

const STREAM: &str = "CELLOS_EVENTS";
const PASSWORD: &str = "pass-word-7Q";

struct Nats {
    server: Server,
    sink: NatsSink,
    debug: String,
}

impl Nats {
    fn reader(&self) -> Reader {
        Reader::new(&self.server, json!({"user": "cells", "pass": PASSWORD}))
    }
}

#[async_trait]
impl Harness for Nats {
    async fn start() -> Self {
        let server = Server::start(&format!(
            "authorization: {{user: cells, password: \"{PASSWORD}\"}}\n"
        ));
        let config = server.config(json!({
            "auth": {"login": {"user": "cells", "password": {"env": "PASSWORD"}}},
        }));
        let surroundings = Surroundings {
            folder: server.folder(),
            env: &|_| Some(PASSWORD.to_owned()),
        };
        config.open(&surroundings).unwrap();
        let sink = NatsSink::open(&config, &surroundings).unwrap();
        let debug = format!("{sink:?} {config:?}");
        Self {
            server,
            sink,
            debug,
        }
    }

    fn sink(&self) -> &dyn RemoteSink {
        &self.sink
    }

    fn debug(&self) -> String {
        self.debug.clone()
    }

    fn credential(&self) -> Option<&str> {
        Some(PASSWORD)
    }

    async fn received(&mut self) -> Vec<String> {
        self.reader().ids(STREAM)
    }

    async fn go_away(&mut self) {
        self.server.kill();
    }

    async fn come_back(&mut self) {
        self.server.up();
    }

    async fn refuse(&mut self) {
        self.server.change(PASSWORD, "another-one");
    }

    async fn fail_after(&mut self, accepted: usize) -> bool {
        let mut reader = self.reader();
        let limited = json!({
            "name": STREAM, "subjects": ["cellos.events.>"], "max_msgs": accepted, "discard": "new",
        });
        reader.stream("CREATE", &limited);
        true
    }
}

/// As `remote_sink_contract!` has it, and skipped where there is no server.
macro_rules! rules {
    ($($rule:ident)*) => {$(
        #[tokio::test]
        async fn $rule() {
            require!("nats");
            remote_contract::$rule::<Nats>().await;
        }
    )*};
}

rules! {
    events_arrive_once_and_in_order
    an_outage_is_survived_by_the_same_sink
    a_refusal_is_told_from_an_outage
    the_acknowledged_are_counted_when_a_batch_breaks
    credentials_are_shown_nowhere
    the_largest_event_arrives
    nothing_to_deliver_needs_nobody
}
