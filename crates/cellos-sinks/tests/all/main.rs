//! The JSON Lines sink against a real full disk and among several processes; the remote sinks against
//! their contract.
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows test functions, but not the helpers of a test program"
)]

mod disk_full;
mod nats;
mod otlp;
mod processes;
mod remote_contract;
mod stdout;
mod webhook;

use cellos_core::CloudEventV1;

fn event(ty: &str, data: serde_json::Value) -> CloudEventV1 {
    serde_json::from_value(serde_json::json!({
        "specversion": "1.0", "id": "1", "source": "test", "type": ty, "data": data
    }))
    .unwrap()
}
