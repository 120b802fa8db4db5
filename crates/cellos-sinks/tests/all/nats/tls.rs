//! TLS, with an authority of the test's own.

use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cellos_sinks::remote::Retry;
use cellos_testkit::require;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::server::{Reached as _, Server};
use crate::remote_contract::stored;

/// A folder with an authority, a certificate of the server and one of a client, and those of another
/// authority.
fn certificates() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
    for authority in ["ca", "other"] {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        write(
            &format!("{authority}.pem"),
            pem("CERTIFICATE", issuer.der()),
        );
        for subject in ["server", "client"] {
            let key = KeyPair::generate().unwrap();
            let names = vec!["127.0.0.1".to_owned()];
            let certificate = CertificateParams::new(names)
                .unwrap()
                .signed_by(&key, &issuer)
                .unwrap();
            write(
                &format!("{authority}-{subject}.pem"),
                pem("CERTIFICATE", certificate.der()),
            );
            write(
                &format!("{authority}-{subject}.key"),
                pem("PRIVATE KEY", &key.serialize_der()),
            );
        }
    }
    folder
}

fn pem(what: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    format!("-----BEGIN {what}-----\n{text}\n-----END {what}-----\n")
}

fn server(more: &str) -> Server {
    let folder = certificates();
    let at = folder.path().display();
    let settings = format!(
        "tls: {{cert_file: \"{at}/ca-server.pem\", key_file: \"{at}/ca-server.key\", ca_file: \
         \"{at}/ca.pem\", {more}}}\n"
    );
    Server::start_in(folder, &settings)
}

async fn deliver(server: &Server, scheme: &str, tls: Value) -> Result<(), (Retry, String)> {
    let url = format!("{scheme}://127.0.0.1:{}", server.port());
    let mut more = json!({"servers": url});
    if !tls.is_null() {
        more["tls"] = tls;
    }
    let delivered = server.sink(more).deliver(&stored(&["a"])).await;
    delivered.map_err(|error| (error.retry, error.reason))
}

#[tokio::test]
async fn a_server_of_a_trusted_authority() {
    require!("nats");
    let server = server("");
    for scheme in ["tls", "nats"] {
        deliver(&server, scheme, json!({"caFile": "ca.pem"}))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_server_of_another_authority_gets_nothing() {
    require!("nats");
    let server = server("");
    for tls in [json!({"caFile": "other.pem"}), Value::Null] {
        let (retry, reason) = deliver(&server, "tls", tls).await.unwrap_err();
        assert_eq!(retry, Retry::Useless, "{reason}");
        assert!(
            reason.contains("TLS: ") && reason.contains("certificate"),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn a_server_without_tls_where_it_is_demanded() {
    require!("nats");
    let server = Server::start_in(certificates(), "");
    for (scheme, tls) in [
        ("tls", json!({"caFile": "ca.pem"})),
        ("nats", json!({"caFile": "ca.pem"})),
    ] {
        let (retry, reason) = deliver(&server, scheme, tls).await.unwrap_err();
        assert_eq!(retry, Retry::Useless, "{reason}");
        assert!(
            reason.ends_with("TLS is demanded, and the server has none"),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_of_the_client() {
    require!("nats");
    let server = server("verify: true");
    let of = |authority: &str| {
        json!({"caFile": "ca.pem", "client": {
            "certFile": format!("{authority}-client.pem"), "keyFile": format!("{authority}-client.key"),
        }})
    };
    deliver(&server, "tls", of("ca")).await.unwrap();
    for tls in [json!({"caFile": "ca.pem"}), of("other")] {
        let (_, reason) = deliver(&server, "tls", tls).await.unwrap_err();
        assert!(reason.contains("tls://127.0.0.1"), "{reason}");
    }
}

#[test]
fn certificates_of_no_use_are_told_when_the_sink_is_made() {
    use cellos_sinks::remote::{SinkConfig as _, Surroundings, nats::NatsConfig};

    let folder = certificates();
    fs::write(folder.path().join("text"), "hunter2").unwrap();
    let client = |cert: &str, key: &str| json!({"client": {"certFile": cert, "keyFile": key}});
    for (tls, expected) in [
        (json!({"caFile": "absent.pem"}), "absent.pem"),
        (json!({"caFile": "text"}), "no certificate in it"),
        (
            client("ca-client.pem", "text"),
            "no private key in PEM form",
        ),
        (
            client("ca-client.pem", "other-client.key"),
            "client certificate",
        ),
    ] {
        let config = json!({"servers": "tls://127.0.0.1", "tls": tls});
        let config: NatsConfig = serde_json::from_value(config).unwrap();
        let opened = config.open(&Surroundings {
            folder: folder.path(),
            env: &|_| None,
        });
        let error = opened.map(drop).unwrap_err().to_string();
        assert!(
            error.starts_with("tls: ") && error.contains(expected),
            "{error}"
        );
        assert!(!error.contains("hunter2"));
    }
}
