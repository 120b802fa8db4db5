//! The webhook sink against the contract, in both modes, and over TLS.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use cellos_core::CloudEventV1;
use cellos_sinks::remote::{
    RemoteSink, Retry, Surroundings,
    credential::CredentialSource,
    http::BasicConfig,
    webhook::{ContentMode, WebhookConfig, WebhookSink},
};
use cellos_testkit::http::{HttpAnswer, HttpReceiver, HttpRequest};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

use crate::remote_contract::{Harness, remote_sink_contract, stored};

/// The token that a sink has.
pub(crate) const TOKEN: &str = "t0ken-that-nobody-may-see";

mod structured {
    use super::*;
    remote_sink_contract!(Webhook<0>);
}

mod batched {
    use super::*;
    remote_sink_contract!(Webhook<1>);
}

/// Mode 0 is structured, mode 1 batched.
struct Webhook<const MODE: u8> {
    receiver: HttpReceiver,
    config: WebhookConfig,
    sink: WebhookSink,
}

/// A configuration with a bearer token.
fn config(url: String) -> WebhookConfig {
    WebhookConfig {
        url,
        mode: ContentMode::Structured,
        ca_file: None,
        token: Some(variable("TOKEN")),
        basic: None,
        timeout_ms: Some(5000),
    }
}

pub(crate) fn variable(name: &str) -> CredentialSource {
    CredentialSource::Env(name.to_owned())
}

pub(crate) fn surroundings() -> Surroundings<'static> {
    Surroundings {
        folder: Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data")),
        env: &|name| (name == "TOKEN").then(|| TOKEN.to_owned()),
    }
}

fn events(request: &HttpRequest) -> Vec<CloudEventV1> {
    match request.header("content-type") {
        Some("application/cloudevents+json") => {
            vec![serde_json::from_slice(&request.body).unwrap()]
        }
        Some("application/cloudevents-batch+json") => {
            serde_json::from_slice(&request.body).unwrap()
        }
        other => unreachable!("{other:?}"),
    }
}

#[async_trait]
impl<const MODE: u8> Harness for Webhook<MODE> {
    async fn start() -> Self {
        let receiver = HttpReceiver::start();
        let config = WebhookConfig {
            mode: match MODE {
                0 => ContentMode::Structured,
                _ => ContentMode::Batched,
            },
            ..config(format!("http://{}/events", receiver.address()))
        };
        Self {
            sink: WebhookSink::open(&config, &surroundings()).unwrap(),
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
        let accepted = self.receiver.accepted();
        for request in &accepted {
            let expected = format!("Bearer {TOKEN}");
            assert_eq!(request.header("authorization"), Some(expected.as_str()));
        }
        accepted
            .iter()
            .flat_map(events)
            .map(|event| event.id)
            .collect()
    }

    async fn go_away(&mut self) {
        self.receiver.go_away();
    }

    async fn come_back(&mut self) {
        self.receiver.come_back();
    }

    async fn refuse(&mut self) {
        // As careless receivers do, it repeats what it was sent.
        self.receiver.behave(|request| HttpAnswer::Say {
            status: 403,
            header: None,
            body: format!("no: {:?}", request.header("authorization")),
        });
    }

    async fn fail_after(&mut self, accepted: usize) -> bool {
        let mut room = if MODE == 0 { accepted } else { 0 };
        self.receiver.behave(move |_| match room {
            0 => HttpAnswer::HangUp,
            _ => {
                room -= 1;
                HttpAnswer::status(204)
            }
        });
        MODE == 0
    }
}

#[tokio::test]
async fn an_event_is_sent_as_cloudevents_says_with_its_place_in_the_log() {
    let harness = Webhook::<0>::start().await;
    harness.sink.deliver(&stored(&["a", "b"])).await.unwrap();
    let accepted = harness.receiver.accepted();
    assert_eq!(accepted[1].target, "/events");
    assert_eq!(accepted[1].header("cellos-log-seq"), Some("1"));
    let hash = stored(&["a", "b"])[1].line_hash.to_hex();
    assert_eq!(accepted[1].header("cellos-line-hash"), Some(&*hash));
    let body: serde_json::Value = serde_json::from_slice(&accepted[1].body).unwrap();
    assert_eq!(body["id"], "b");
    assert!(body.get("traceparent").is_none(), "unset is absent: {body}");
}

#[tokio::test]
async fn answers_decide_whether_trying_again_can_help() {
    for (status, header, retry, wait) in [
        (400, None, Retry::Useless, None),
        (401, None, Retry::Useless, None),
        (413, None, Retry::Useless, None),
        (302, Some("location: http://other/"), Retry::Useless, None),
        (408, None, Retry::Later, None),
        (429, Some("retry-after: 7"), Retry::Later, Some(7)),
        (500, None, Retry::Later, None),
        (503, Some("retry-after: 100000"), Retry::Later, Some(600)),
    ] {
        let harness = Webhook::<0>::start().await;
        harness.receiver.behave(move |_| HttpAnswer::Say {
            status,
            header: header.map(str::to_owned),
            body: "x".repeat(100_000),
        });
        let error = harness.sink.deliver(&stored(&["a"])).await.unwrap_err();
        assert_eq!(error.retry, retry, "{error}");
        assert!(error.reason.contains(&status.to_string()), "{error}");
        assert!(error.reason.len() < 500, "{error}");
        let wait = wait.map(Duration::from_secs);
        assert_eq!(harness.sink.asked_to_wait(), wait, "{status}");
    }
}

#[tokio::test]
async fn a_receiver_that_says_nothing_is_left_in_time() {
    // The system accepts the connection, and nobody ever answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let config = WebhookConfig {
        timeout_ms: Some(100),
        ..config(url)
    };
    let sink = WebhookSink::open(&config, &surroundings()).unwrap();
    let error = sink.deliver(&stored(&["a"])).await.unwrap_err();
    assert_eq!((error.acknowledged, error.retry), (0, Retry::Later));
    assert!(error.reason.contains("100ms"), "{error}");
}

#[tokio::test]
async fn a_name_and_password_are_sent_in_base64() {
    let receiver = HttpReceiver::start();
    let config = WebhookConfig {
        token: None,
        basic: Some(BasicConfig {
            user: "u".to_owned(),
            password: variable("TOKEN"),
        }),
        ..config(format!("http://{}", receiver.address()))
    };
    let sink = WebhookSink::open(&config, &surroundings()).unwrap();
    sink.deliver(&stored(&["a"])).await.unwrap();
    let accepted = receiver.accepted();
    assert_eq!(
        accepted[0].header("authorization"),
        Some("Basic dTp0MGtlbi10aGF0LW5vYm9keS1tYXktc2Vl")
    );
}

#[tokio::test]
async fn over_tls_only_known_authorities_are_trusted() {
    let receiver = HttpReceiver::start();
    let front = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = front.local_addr().unwrap().port();
    let behind = receiver.address();
    let acceptor = acceptor();
    tokio::spawn(async move {
        while let Ok((connection, _)) = front.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust us ends it here.
                if let Ok(connection) = acceptor.accept(connection).await {
                    pass_on(connection, behind).await;
                }
            });
        }
    });
    for (host, ca_file, trusted) in [
        ("localhost", Some("ca.pem".into()), true),
        ("127.0.0.1", Some("ca.pem".into()), true),
        ("localhost", None, false),
    ] {
        let config = WebhookConfig {
            ca_file,
            ..config(format!("https://{host}:{port}/"))
        };
        let sink = match WebhookSink::open(&config, &surroundings()) {
            Ok(sink) => sink,
            // A host without any authority.
            Err(error) if !trusted => {
                assert!(error.to_string().contains("caFile"), "{error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let delivered = sink.deliver(&stored(&["a"])).await;
        assert_eq!(delivered.is_ok(), trusted, "{host}: {delivered:?}");
    }
    assert_eq!(receiver.accepted().len(), 2);
}

fn acceptor() -> TlsAcceptor {
    let folder = surroundings().folder;
    let certificate = CertificateDer::from_pem_file(folder.join("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn pass_on(mut front: impl AsyncRead + AsyncWrite + Unpin, behind: std::net::SocketAddr) {
    let mut behind = tokio::net::TcpStream::connect(behind).await.unwrap();
    let _ = copy_bidirectional(&mut front, &mut behind).await;
}
