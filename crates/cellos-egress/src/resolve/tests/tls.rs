//! DNS over TLS, with certificates that are made here.

use std::path::Path;

use base64::{Engine as _, prelude::BASE64_STANDARD as STANDARD};
use cellos_core::document::DnsResolver;
use hickory_proto::{op::Message, rr::Name};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

use super::{super::servers, *};
use crate::resolve::server::Server;

/// A server with a certificate for this name; the certificate is put into a file.
async fn start(name: &str, bundle: &Path) -> std::net::SocketAddr {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let text = STANDARD.encode(cert.der());
    let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    std::fs::write(bundle, pem).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(serve(acceptor.clone(), connection));
        }
    });
    at
}

async fn serve(acceptor: TlsAcceptor, connection: TcpStream) -> std::io::Result<()> {
    let mut connection = acceptor.accept(connection).await?;
    loop {
        let mut question = vec![0; usize::from(connection.read_u16().await?)];
        connection.read_exact(&mut question).await?;
        let question = Message::from_vec(&question).unwrap();
        let mut message = Message::response(question.id, question.op_code);
        message.add_queries(question.queries.clone());
        if question.queries[0].query_type() == RecordType::A {
            message.add_answer(address("a.example", [93, 184, 216, 34].into()));
        }
        let message = message.to_vec().unwrap();
        let length = u16::try_from(message.len()).unwrap();
        connection.write_u16(length).await?;
        connection.write_all(&message).await?;
        connection.flush().await?;
    }
}

fn over_tls(endpoint: String, bundle: &Path) -> Server {
    let one = json!({"resolverId": "one", "endpoint": endpoint, "protocol": "dot"});
    let one: DnsResolver = serde_json::from_value(one).unwrap();
    let mut all = servers(&[one], Some(bundle.as_os_str())).unwrap();
    all.remove(0)
}

async fn asked(server: &Server) -> Result<usize, super::super::answer::AskError> {
    let name = Name::from_ascii("a.example.").unwrap();
    let found = server.records(&name, RecordType::A).await?;
    Ok(found.records.len())
}

#[tokio::test]
async fn certificates_of_the_bundle_count_for_the_endpoints_name_only() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (dir.path().join("one.pem"), dir.path().join("other.pem"));
    let by_address = start("127.0.0.1", &one).await;
    assert_eq!(asked(&over_tls(by_address.to_string(), &one)).await, Ok(1));
    let by_name = start("localhost", &other).await;
    let endpoint = format!("localhost:{}", by_name.port());
    assert_eq!(asked(&over_tls(endpoint, &other)).await, Ok(1));

    let wrong_name = asked(&over_tls(by_name.to_string(), &other)).await;
    assert!(wrong_name.is_err(), "{wrong_name:?}");
    let untrusted = asked(&over_tls(by_address.to_string(), &other)).await;
    assert!(untrusted.is_err(), "{untrusted:?}");
}
