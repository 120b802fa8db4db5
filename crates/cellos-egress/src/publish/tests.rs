//! Connections through published ports, with this host's network in place of a cell's.

use async_trait::async_trait;
use cellos_core::{
    CellosError,
    ports::network::{NetworkReport, NetworkReports},
};
use rustix::net::{SocketFlags, SocketType, socket_with};
use tokio::sync::mpsc;

use super::*;

struct Told(mpsc::UnboundedSender<NetworkFlowDecision>);

#[async_trait]
impl NetworkReports for Told {
    async fn report(&self, report: NetworkReport) -> Result<(), CellosError> {
        if let NetworkReport::Flow(flow) = report {
            self.0.send(*flow).unwrap();
        }
        Ok(())
    }
}

fn reporter() -> (Arc<Reporter>, mpsc::UnboundedReceiver<NetworkFlowDecision>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Arc::new(Reporter::new(Arc::new(Told(sender)))), receiver)
}

/// Sockets of this test's own network stand in for those of a cell.
fn sockets(count: usize) -> Vec<OwnedFd> {
    let socket = |family| {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        socket_with(family, SocketType::STREAM, flags, None).unwrap()
    };
    (0..count)
        .flat_map(|_| [socket(AddressFamily::INET), socket(AddressFamily::INET6)])
        .collect()
}

/// A server "in the cell" that answers each connection with what it got, in reverse.
async fn server(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut said = Vec::new();
            stream.read_to_end(&mut said).await.unwrap();
            said.reverse();
            stream.write_all(&said).await.unwrap();
        }
    });
    port
}

async fn publish(port: u16, count: usize, reporter: Arc<Reporter>) -> Published {
    let ports = [format!("0:{port}").parse().unwrap()];
    start(&ports, sockets(count), reporter).await.unwrap()
}

async fn ask(published: &Published, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(published.open()[0].host).await?;
    stream.write_all(question).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn one_socket_carries_one_connection_after_another_and_each_is_told() {
    for address in ["127.0.0.1", "::1"] {
        let (reporter, mut told) = reporter();
        let published = publish(server(address).await, 1, reporter).await;
        for _ in 0..5 {
            assert_eq!(ask(&published, b"abc").await.unwrap(), b"cba", "{address}");
            let flow = told.recv().await.unwrap();
            assert_eq!(flow.direction, FlowDirection::Ingress);
            assert_eq!(flow.reason_code, FlowReason::PublishedPort);
            assert_eq!(flow.dst_addr.as_deref(), Some(address));
            assert_eq!((flow.bytes_in, flow.bytes_out), (Some(3), Some(3)));
            assert_eq!(flow.ended_by, Some(FlowEnd::Closed));
        }
        published.close().await;
        assert!(told.recv().await.is_none());
    }
}

#[tokio::test]
async fn a_refused_connection_is_told_and_its_socket_used_again() {
    let (reporter, mut told) = reporter();
    let port = server("127.0.0.1").await;
    // Nobody listens on the first one.
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = unused.local_addr().unwrap().port();
    drop(unused);
    let ports = [closed, port].map(|port| format!("0:{port}").parse().unwrap());
    let published = start(&ports, sockets(1), reporter).await.unwrap();
    let mut stream = TcpStream::connect(published.open()[0].host).await.unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
    let flow = told.recv().await.unwrap();
    assert_eq!(flow.decision, NetworkVerdict::Deny);
    assert_eq!(flow.reason_code, FlowReason::ConnectFailed);
    let mut stream = TcpStream::connect(published.open()[1].host).await.unwrap();
    stream.write_all(b"xy").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"yx");
}

#[tokio::test]
async fn no_more_connections_than_sockets_and_closing_ends_them() {
    let (reporter, mut told) = reporter();
    let published = publish(server("127.0.0.1").await, 1, reporter).await;
    let mut first = TcpStream::connect(published.open()[0].host).await.unwrap();
    first.write_all(b"held").await.unwrap();
    let mut second = TcpStream::connect(published.open()[0].host).await.unwrap();
    assert_eq!(second.read(&mut [0; 8]).await.unwrap_or(0), 0);
    let flow = told.recv().await.unwrap();
    assert_eq!(flow.reason_code, FlowReason::TooManyFlows);
    published.close().await;
    let flow = told.recv().await.unwrap();
    assert_eq!(flow.ended_by, Some(FlowEnd::CellEnded));
    assert_eq!(first.read(&mut [0; 8]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let ports = [Publish {
        host: address,
        port: 80,
    }];
    let error = start(&ports, sockets(1), reporter().0).await.unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    let error = start(&ports, Vec::new(), reporter().0).await.unwrap_err();
    assert!(matches!(error, PublishError::NoSockets));
}

#[test]
fn ports_to_publish_are_written_in_three_ways() {
    for (text, host, port) in [
        ("8080", "127.0.0.1:8080", 8080),
        ("8080:80", "127.0.0.1:8080", 80),
        ("0:80", "127.0.0.1:0", 80),
        ("0.0.0.0:8080:80", "0.0.0.0:8080", 80),
        ("[::1]:8080:80", "[::1]:8080", 80),
    ] {
        let expected = Publish {
            host: host.parse().unwrap(),
            port,
        };
        assert_eq!(text.parse(), Ok(expected), "{text}");
    }
    for text in [
        "",
        "0",
        "80:0",
        "x:80",
        "80:",
        ":80",
        "::1:80:80",
        "70000",
        "a:1:2",
    ] {
        assert!(text.parse::<Publish>().is_err(), "{text}");
    }
}
