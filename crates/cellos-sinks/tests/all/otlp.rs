//! The OpenTelemetry sink against the contract, and its requests against the published protocol.

use std::collections::BTreeMap;

use async_trait::async_trait;
use cellos_sinks::remote::{
    RemoteSink,
    otlp::{OtlpConfig, OtlpSink},
};
use cellos_testkit::http::{HttpAnswer, HttpReceiver};
use serde_json::Value;

use crate::{
    remote_contract::{Harness, remote_sink_contract, stored},
    webhook::{TOKEN, surroundings, variable},
};

remote_sink_contract!(Collector);

struct Collector {
    receiver: HttpReceiver,
    config: OtlpConfig,
    sink: OtlpSink,
}

fn records(request: &[u8]) -> Vec<Value> {
    let request: Value = serde_json::from_slice(request).unwrap();
    let records = &request["resourceLogs"][0]["scopeLogs"][0]["logRecords"];
    records.as_array().unwrap().clone()
}

fn attribute(record: &Value, key: &str) -> String {
    let attributes = record["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|pair| pair["key"] == key).unwrap();
    found["value"]["stringValue"].as_str().unwrap().to_owned()
}

fn answer(status: u16, body: &str) -> HttpAnswer {
    HttpAnswer::Say {
        status,
        header: Some("content-type: application/json".to_owned()),
        body: body.to_owned(),
    }
}

#[async_trait]
impl Harness for Collector {
    async fn start() -> Self {
        let receiver = HttpReceiver::start();
        receiver.behave(|request| match request.target.as_str() {
            "/v1/logs" => answer(200, "{}"),
            _ => answer(404, ""),
        });
        let config = OtlpConfig {
            url: format!("http://{}", receiver.address()),
            resource: BTreeMap::from([("host.name".to_owned(), "h".to_owned())]),
            ca_file: None,
            token: Some(variable("TOKEN")),
            basic: None,
            timeout_ms: None,
        };
        Self {
            sink: OtlpSink::open(&config, &surroundings()).unwrap(),
            config,
            receiver,
        }
    }

    fn sink(&self) -> &dyn RemoteSink {
        &self.sink
    }

    fn debug(&self) -> String {
        format!("{:?} {:?}", self.sink, self.config)
    }

    fn credential(&self) -> Option<&str> {
        Some(TOKEN)
    }

    async fn received(&mut self) -> Vec<String> {
        self.receiver
            .accepted()
            .iter()
            .flat_map(|request| records(&request.body))
            .map(|record| attribute(&record, "cloudevents.event_id"))
            .collect()
    }

    async fn go_away(&mut self) {
        self.receiver.go_away();
    }

    async fn come_back(&mut self) {
        self.receiver.come_back();
    }

    async fn refuse(&mut self) {
        self.receiver
            .behave(|_| answer(400, r#"{"code":3,"message":"no"}"#));
    }

    async fn fail_after(&mut self, _accepted: usize) -> bool {
        self.receiver.behave(|_| HttpAnswer::HangUp);
        false
    }
}

#[tokio::test]
async fn a_partial_success_stops_and_says_why() {
    let harness = Collector::start().await;
    harness.receiver.behave(|_| {
        answer(
            200,
            r#"{"partialSuccess":{"rejectedLogRecords":"1","errorMessage":"too old"}}"#,
        )
    });
    let error = harness
        .sink
        .deliver(&stored(&["a", "b"]))
        .await
        .unwrap_err();
    assert!(error.reason.contains("too old"), "{error}");
}
