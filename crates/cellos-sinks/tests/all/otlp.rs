//! The OpenTelemetry sink against the contract, and its requests against the published protocol.

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::{Command, Stdio},
};

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

#[tokio::test]
async fn a_request_is_what_the_published_protocol_says() {
    cellos_testkit::require!("python-packages");
    let mut events = stored(&["a", "b"]);
    events[1].event.data = Some(serde_json::json!({
        "deep": {"list": [1, -2, 1.5, null, true, "text", {}, []]},
        "large": 9_007_199_254_740_991_u64,
    }));
    let harness = Collector::start().await;
    harness.sink.deliver(&events).await.unwrap();
    let body = harness.receiver.accepted()[0].body.clone();
    let mut python = Command::new(cellos_testkit::ability::python_bin().join("python3"))
        .args(["-c", PARSE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(&body).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    let parsed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = "dev.cellos.events.cell.lifecycle.v1.started";
    assert_eq!(
        parsed,
        serde_json::json!({
            "resource": {"service.name": "cellos", "host.name": "h"},
            "records": [
                {"name": name, "id": "a", "time": 1_767_323_045_678_000_000_u64, "severity": 9,
                 "body": ["cellId", "n", "runId"], "seq": 0},
                {"name": name, "id": "b", "time": 1_767_323_045_678_000_000_u64, "severity": 9,
                 "body": ["deep", "large"], "seq": 1},
            ],
        })
    );
}

/// Parses a request strictly, with the classes that are made from the published protocol.
const PARSE: &str = r#"
import json, sys
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
request = json_format.Parse(sys.stdin.read(), ExportLogsServiceRequest())
[resource] = request.resource_logs
[scope] = resource.scope_logs
records = []
for record in scope.log_records:
    attributes = {pair.key: pair.value for pair in record.attributes}
    assert attributes["event.name"].string_value == record.event_name
    records.append({
        "name": record.event_name,
        "id": attributes["cloudevents.event_id"].string_value,
        "time": record.time_unix_nano,
        "severity": record.severity_number,
        "body": [pair.key for pair in record.body.kvlist_value.values],
        "seq": attributes["cellos.log.seq"].int_value,
    })
print(json.dumps({
    "resource": {pair.key: pair.value.string_value for pair in resource.resource.attributes},
    "records": records,
}))
"#;
