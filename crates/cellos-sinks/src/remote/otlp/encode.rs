//! Events as OpenTelemetry log records, in the JSON form of OTLP 1: 64-bit integers are strings,
//! trace and span ids hexadecimal.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::remote::StoredEvent;

/// `SEVERITY_NUMBER_INFO`, `_WARN` and `_ERROR` of the log data model, with their texts.
const INFO: (u8, &str) = (9, "INFO");
const WARN: (u8, &str) = (13, "WARN");
const ERROR: (u8, &str) = (17, "ERROR");

/// An `ExportLogsServiceRequest`.
pub(super) fn request(resource: &BTreeMap<String, String>, events: &[StoredEvent]) -> Value {
    let mut attributes = vec![];
    if !resource.contains_key("service.name") {
        attributes.push(text("service.name", "cellos"));
    }
    attributes.extend(resource.iter().map(|(key, value)| text(key, value)));
    json!({"resourceLogs": [{
        "resource": {"attributes": attributes},
        "scopeLogs": [{
            "scope": {"name": "cellos", "version": env!("CARGO_PKG_VERSION")},
            "logRecords": events.iter().map(record).collect::<Vec<_>>(),
        }],
    }]})
}

fn record(stored: &StoredEvent) -> Value {
    let event = &stored.event;
    let (number, name) = severity(&event.ty);
    let mut attributes = vec![
        text("event.name", &event.ty),
        text("cloudevents.event_id", &event.id),
        text("cloudevents.event_source", &event.source),
        text("cloudevents.event_type", &event.ty),
        text("cloudevents.event_spec_version", &event.specversion),
        attribute("cellos.log.seq", any(&json!(stored.seq))),
        text("cellos.log.line_hash", &stored.line_hash.to_hex()),
    ];
    for (key, field) in [("cellos.run.id", "runId"), ("cellos.cell.id", "cellId")] {
        let value = event.data.as_ref().and_then(|data| data.get(field));
        if let Some(Value::String(value)) = value {
            attributes.push(text(key, value));
        }
    }
    let mut record = Map::new();
    let nanoseconds = event.time.as_deref().and_then(nanoseconds);
    if let Some(nanoseconds) = nanoseconds {
        record.insert("timeUnixNano".to_owned(), nanoseconds.to_string().into());
    }
    record.insert("severityNumber".to_owned(), number.into());
    record.insert("severityText".to_owned(), name.into());
    record.insert("eventName".to_owned(), event.ty.as_str().into());
    if let Some(data) = &event.data {
        record.insert("body".to_owned(), any(data));
    }
    record.insert("attributes".to_owned(), attributes.into());
    if let Some((trace, span, flags)) = event.traceparent.as_deref().and_then(trace) {
        record.insert("traceId".to_owned(), trace.into());
        record.insert("spanId".to_owned(), span.into());
        record.insert("flags".to_owned(), flags.into());
    }
    Value::Object(record)
}

fn severity(ty: &str) -> (u8, &'static str) {
    match ty.rsplit('.').next() {
        Some("failed") => ERROR,
        Some("rejected" | "denied" | "recovered") => WARN,
        _ => INFO,
    }
}

/// Since 1970; `None` for what is no time or lies before.
fn nanoseconds(time: &str) -> Option<u64> {
    let time: jiff::Timestamp = time.parse().ok()?;
    u64::try_from(time.as_nanosecond()).ok()
}

/// `00-<32 hexadecimal digits>-<16>-<2>`, W3C Trace Context.
fn trace(traceparent: &str) -> Option<(&str, &str, u8)> {
    let mut parts = traceparent.split('-');
    let (_version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hexadecimal = |text: &str, length| {
        text.len() == length && text.bytes().all(|digit| digit.is_ascii_hexdigit())
    };
    let whole = hexadecimal(trace, 32) && hexadecimal(span, 16) && hexadecimal(flags, 2);
    whole.then_some(())?;
    Some((trace, span, u8::from_str_radix(flags, 16).ok()?))
}

fn text(key: &str, value: &str) -> Value {
    attribute(key, json!({"stringValue": value}))
}

fn attribute(key: &str, value: Value) -> Value {
    json!({"key": key, "value": value})
}

/// An `AnyValue`. The reader of the log bounds how deep it goes.
fn any(value: &Value) -> Value {
    match value {
        Value::Null => json!({}),
        Value::Bool(value) => json!({"boolValue": value}),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => json!({"intValue": integer.to_string()}),
            None => json!({"doubleValue": number.as_f64()}),
        },
        Value::String(value) => json!({"stringValue": value}),
        Value::Array(items) => {
            json!({"arrayValue": {"values": items.iter().map(any).collect::<Vec<_>>()}})
        }
        Value::Object(fields) => {
            let values: Vec<_> = fields
                .iter()
                .map(|(key, value)| attribute(key, any(value)))
                .collect();
            json!({"kvlistValue": {"values": values}})
        }
    }
}

#[cfg(test)]
mod tests {
    use cellos_evidence::line::LineHash;

    use super::*;

    #[test]
    fn a_record_has_the_events_time_severity_ids_and_data() {
        let stored = StoredEvent {
            seq: 7,
            line_hash: LineHash([0xab; 32]),
            event: serde_json::from_value(json!({
                "specversion": "1.0", "id": "i", "source": "s",
                "type": "dev.cellos.events.cell.lifecycle.v1.failed",
                "time": "2026-01-02T03:04:05.5Z",
                "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                "data": {"runId": "r", "cellId": "c", "n": [1, 1.5, null, true]},
            }))
            .unwrap(),
        };
        let request = request(&BTreeMap::new(), &[stored]);
        let record = &request["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
        assert_eq!(record["timeUnixNano"], "1767323045500000000");
        assert_eq!(record["severityNumber"], 17);
        assert_eq!(record["traceId"], "0af7651916cd43dd8448eb211c80319c");
        let attributes: BTreeMap<_, _> = record["attributes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| (pair["key"].as_str().unwrap(), &pair["value"]))
            .collect();
        assert_eq!(attributes["cellos.log.seq"], &json!({"intValue": "7"}));
        assert_eq!(attributes["cellos.run.id"], &json!({"stringValue": "r"}));
        assert_eq!(
            record["body"]["kvlistValue"]["values"][1]["value"]["arrayValue"]["values"],
            json!([{"intValue": "1"}, {"doubleValue": 1.5}, {}, {"boolValue": true}]),
            "{record}"
        );
    }
}
