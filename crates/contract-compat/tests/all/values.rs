//! Texts of errors and JSON forms of values.

use cellos_core::{
    CellosError,
    ports::{
        ExportReceipt, ExportReceiptTargetKind, InferenceMessage, InferenceRequest,
        InferenceResponse, InferenceRole, SecretView,
    },
};
use contract_compat::errors::stage;
use serde_json::{Value, json};
use zeroize::Zeroizing;

#[test]
fn errors_start_with_the_text_of_their_kind() {
    let text = || "why".to_string();
    for (error, expected, at) in [
        (
            CellosError::InvalidSpec(text()),
            "invalid cell specification: why",
            "admission",
        ),
        (CellosError::Host(text()), "host backend: why", "host"),
        (CellosError::EventSink(text()), "event sink: why", "events"),
        (
            CellosError::SecretBroker(text()),
            "secret broker: why",
            "secrets",
        ),
        (
            CellosError::ExportSink(text()),
            "export sink: why",
            "export",
        ),
        (
            CellosError::Lifecycle(text()),
            "lifecycle: why",
            "lifecycle",
        ),
        (
            CellosError::InferenceBroker(text()),
            "inference broker: why",
            "inference",
        ),
    ] {
        assert_eq!((error.to_string().as_str(), stage(&error)), (expected, at));
    }
    let error = CellosError::ArgvTooLarge {
        encoded_bytes: 4000,
        limit_bytes: 3072,
    };
    let text = error.to_string();
    assert!(text.contains("4000") && text.contains("3072"), "{text}");
    assert_eq!(stage(&error), "argv");
}

#[test]
fn errors_travel_as_boxed_errors_between_threads() {
    let error: Box<dyn std::error::Error + Send + Sync> =
        Box::new(CellosError::Host("gone".to_string()));
    let text = std::thread::spawn(move || error.to_string())
        .join()
        .unwrap();
    assert_eq!(text, "host backend: gone");
}

#[test]
fn receipts_are_camel_case_with_an_explicit_null() {
    for (kind, name) in [
        (ExportReceiptTargetKind::Local, "local"),
        (ExportReceiptTargetKind::S3, "s3"),
        (ExportReceiptTargetKind::Http, "http"),
    ] {
        let receipt = ExportReceipt {
            target_kind: kind,
            target_name: None,
            destination: "/d".to_string(),
            bytes_written: 7,
        };
        let expected = json!({
            "targetKind": name, "targetName": null, "destination": "/d", "bytesWritten": 7
        });
        assert_eq!(serde_json::to_value(&receipt).unwrap(), expected);
        let back: ExportReceipt = serde_json::from_value(expected).unwrap();
        assert_eq!(back, receipt);
    }
}

#[test]
fn inference_values_are_snake_case() {
    let role = |role, content: &str| InferenceMessage {
        role,
        content: content.to_string(),
    };
    let request = InferenceRequest {
        cell_id: "c".to_string(),
        messages: vec![
            role(InferenceRole::System, "s"),
            role(InferenceRole::User, "u"),
            role(InferenceRole::Assistant, "a"),
        ],
        max_tokens: Some(5),
        model_hint: Some("m".to_string()),
    };
    let expected = json!({
        "cell_id": "c",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "a"},
        ],
        "max_tokens": 5,
        "model_hint": "m",
    });
    assert_eq!(serde_json::to_value(&request).unwrap(), expected);
    let least: InferenceRequest =
        serde_json::from_value(json!({"cell_id": "c", "messages": []})).unwrap();
    assert_eq!((least.max_tokens, least.model_hint), (None, None));

    let response = json!({
        "content": "x", "model": "m", "input_tokens": 1, "output_tokens": 2
    });
    let parsed: InferenceResponse = serde_json::from_value(response.clone()).unwrap();
    assert_eq!(serde_json::to_value(parsed).unwrap(), response);
}

#[test]
fn a_secret_is_not_printed() {
    let view = SecretView {
        key: "token".to_string(),
        value: Zeroizing::new("hunter2".to_string()),
    };
    let text = format!("{view:?}");
    assert!(
        text.contains("token") && text.contains("<REDACTED>"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn an_event_writes_unset_attributes_as_null_and_omits_extensions() {
    let parsed: cellos_core::CloudEventV1 = serde_json::from_value(json!({
        "specversion": "1.0", "id": "1", "source": "s", "type": "t"
    }))
    .unwrap();
    let written: Value = serde_json::to_value(parsed).unwrap();
    assert_eq!(
        written,
        json!({
            "specversion": "1.0", "id": "1", "source": "s", "type": "t",
            "datacontenttype": null, "data": null, "time": null, "traceparent": null
        })
    );
}
