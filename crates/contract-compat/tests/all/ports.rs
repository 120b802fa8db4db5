//! Sinks and brokers through their ports, and what the defaults do.

use std::sync::{Arc, atomic::AtomicUsize};

use cellos_core::{
    CloudEventV1,
    ports::{
        EventSink, ExportArtifactMetadata, ExportReceiptTargetKind, ExportSink, InferenceBroker,
        InferenceMessage, InferenceRequest, InferenceResponse, InferenceRole, NoopEventSink,
        NoopExportSink, NoopInferenceBroker, NoopSecretBroker, RuntimeSecretLeaseRequest,
        SecretBroker,
    },
};
use contract_compat::{
    brokers::{Echo, LeasingBroker, PlainBroker},
    sinks::{Accepting, Bucket, Counter, Ids},
};

fn event(id: &str) -> CloudEventV1 {
    CloudEventV1 {
        specversion: "1.0".to_string(),
        id: id.to_string(),
        source: "outsider".to_string(),
        ty: "t".to_string(),
        datacontenttype: None,
        data: None,
        time: None,
        traceparent: None,
        cexauthorityclass: None,
        cextrustceiling: None,
        cexsessionid: None,
        cexparenttrace: None,
        cexreceipthash: None,
        cexdoctrinecite: None,
        cexrevocation: None,
    }
}

fn request(messages: Vec<InferenceMessage>) -> InferenceRequest {
    InferenceRequest {
        cell_id: "c".to_string(),
        messages,
        max_tokens: Some(9),
        model_hint: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_sinks_work_across_threads_and_flush_by_default() {
    let ids = Arc::new(Ids::default());
    let sink: Arc<dyn EventSink> = ids.clone();
    let other = Arc::clone(&sink);
    tokio::spawn(async move { other.emit(&event("1")).await })
        .await
        .unwrap()
        .unwrap();
    sink.flush().await.unwrap();
    assert_eq!(*ids.0.lock().unwrap(), ["1"]);

    let counter: Box<dyn EventSink> = Box::new(Counter(AtomicUsize::new(0)));
    assert_eq!(
        counter.flush().await.unwrap_err().to_string(),
        "event sink: nothing to flush"
    );
    counter.emit(&event("2")).await.unwrap();
    counter.flush().await.unwrap();
}

#[tokio::test]
async fn a_broker_without_leases_says_so_and_fetches_by_resolving() {
    let broker: Box<dyn SecretBroker> = Box::new(PlainBroker);
    let view = broker.resolve("token", "cell", 5).await.unwrap();
    assert_eq!(
        (view.key.as_str(), view.value.as_str()),
        ("token", "cell/5")
    );
    let view = broker
        .fetch_runtime_secret("token", "cell", 6)
        .await
        .unwrap();
    assert_eq!(view.value.as_str(), "cell/6");
    let error = broker
        .prepare_runtime_secret_lease("cell", &[])
        .await
        .unwrap_err();
    assert!(error.to_string().starts_with("secret broker: "), "{error}");
    assert_eq!(broker.broker_correlation_id(), None);
    assert!(broker.resolve("", "cell", 5).await.is_err());
    broker.revoke_for_cell("cell").await.unwrap();
}

#[tokio::test]
async fn a_broker_with_leases_overrides_every_default() {
    let broker: Arc<dyn SecretBroker> = Arc::new(LeasingBroker::default());
    let lease = RuntimeSecretLeaseRequest {
        key: "token".to_string(),
        ttl_seconds: 30,
    };
    broker
        .prepare_runtime_secret_lease("cell", &[lease])
        .await
        .unwrap();
    let view = broker
        .fetch_runtime_secret("token", "cell", 1)
        .await
        .unwrap();
    assert_eq!(view.value.as_str(), "leased for 30");
    broker.revoke_for_cell("cell").await.unwrap();
    assert!(
        broker
            .fetch_runtime_secret("token", "cell", 1)
            .await
            .is_err()
    );
    assert_eq!(
        broker.broker_correlation_id().as_deref(),
        Some("exchange-1")
    );
}

#[tokio::test]
async fn export_sinks_have_no_kind_and_no_hint_by_default() {
    let plain: Box<dyn ExportSink> = Box::new(Accepting);
    assert_eq!(
        (plain.target_kind(), plain.destination_hint("a")),
        (None, None)
    );
    let receipt = plain
        .push("a", "/p", &ExportArtifactMetadata::default())
        .await
        .unwrap();
    assert_eq!(receipt.destination, "/p#a");

    let bucket: Arc<dyn ExportSink> = Arc::new(Bucket);
    assert_eq!(bucket.target_kind(), Some(ExportReceiptTargetKind::S3));
    assert_eq!(
        bucket.destination_hint("a").as_deref(),
        Some("s3://bucket/a")
    );
    let metadata = ExportArtifactMetadata {
        content_type: Some("text/plain".to_string()),
    };
    let receipt = bucket.push("a", "/p", &metadata).await.unwrap();
    assert_eq!(receipt.destination, "s3://bucket/a?text/plain");
}

#[tokio::test]
async fn an_inference_broker_answers() {
    let broker: Arc<dyn InferenceBroker> = Arc::new(Echo);
    let said = InferenceMessage {
        role: InferenceRole::User,
        content: "hello".to_string(),
    };
    let answer = broker.infer(&request(vec![said])).await.unwrap();
    assert_eq!(
        (answer.content.as_str(), answer.output_tokens),
        ("hello", 9)
    );
    let error = broker.infer(&request(vec![])).await.unwrap_err();
    assert_eq!(error.to_string(), "inference broker: nobody asked");
}

#[tokio::test]
async fn the_noops_do_what_the_contract_says() {
    NoopEventSink.emit(&event("1")).await.unwrap();
    let export = NoopExportSink
        .push("a", "/p", &ExportArtifactMetadata::default())
        .await;
    assert!(export.unwrap_err().to_string().starts_with("export sink: "));
    let secret = NoopSecretBroker.resolve("k", "c", 1).await;
    assert!(
        secret
            .unwrap_err()
            .to_string()
            .starts_with("secret broker: ")
    );
    NoopSecretBroker.revoke_for_cell("c").await.unwrap();
    let answer = NoopInferenceBroker.infer(&request(vec![])).await.unwrap();
    assert_eq!(
        answer,
        InferenceResponse {
            content: String::new(),
            model: "noop".to_string(),
            input_tokens: 0,
            output_tokens: 0,
        }
    );
}
