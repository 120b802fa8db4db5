//! Sinks for a real `nats-server`.

use std::sync::Arc;

use cellos_sinks::remote::{RemoteSink, SinkConfig as _, Surroundings, nats::NatsConfig};
pub(crate) use cellos_testkit::nats::{Reader, Server};
use serde_json::{Value, json};

/// What a server is reached by.
pub(crate) trait Reached {
    /// A sink for it, with more settings.
    fn sink(&self, more: Value) -> Arc<dyn RemoteSink>;

    fn config(&self, more: Value) -> NatsConfig;
}

impl Reached for Server {
    fn sink(&self, more: Value) -> Arc<dyn RemoteSink> {
        self.config(more)
            .open(&Surroundings {
                folder: self.folder(),
                env: &|_| None,
            })
            .unwrap()
    }

    fn config(&self, more: Value) -> NatsConfig {
        let mut config = json!({"servers": [self.url()], "connectTimeoutMs": 20_000});
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        serde_json::from_value(config).unwrap()
    }
}
