//! Clients that keep a connection and speak both ways at once: a WebSocket, gRPC, HTTP/2.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use cellos_testkit::{python_bin, require};

use super::cell::{AUTHORITY, Cell, DECLARED, Outside, UNDECLARED};
use super::outside::Server;

/// Where cells find the packages of the gate's Python environment.
const PACKAGES: &str = "/packages";

/// The folder of those packages. It is for Debian's interpreter, the one that cells see.
fn packages() -> PathBuf {
    let versions = python_bin().join("../lib");
    let mut found = std::fs::read_dir(versions).unwrap();
    let version = found.next().unwrap().unwrap().path();
    version.join("site-packages").canonicalize().unwrap()
}

/// A server in Python: its script gets the files of certificate and key.
fn server(outside: &Outside, script: &str) -> Server {
    let (certificate, key) = outside.certificates.files();
    Server::start(python(script).arg(certificate).arg(key))
}

fn python(script: &str) -> Command {
    let mut command = Command::new(python_bin().join("python3"));
    command.args(["-c", script]);
    command
}

/// Runs a client in Python, first with the declared name and then with the other.
fn clients(outside: &Outside, port: u16, script: &str) -> super::cell::Ran {
    let (packages, script) = (packages(), outside.place.file("client.py", script));
    let mounts: [(&Path, &str); 2] = [(&packages, PACKAGES), (&script, "/client.py")];
    outside.run(&Cell {
        port,
        script: &format!(
            "/usr/bin/python3 /client.py {DECLARED} {port} {AUTHORITY}
             /usr/bin/python3 /client.py {UNDECLARED} {port} {AUTHORITY}; echo \"name $?\""
        ),
        env: &[("PYTHONPATH", PACKAGES)],
        mounts: &mounts,
        ..Cell::default()
    })
}

#[test]
fn a_web_socket_over_tls() {
    require!("userns");
    require!("python-packages");
    let outside = Outside::new();
    let server = server(&outside, include_str!("web_socket_server.py"));
    let ran = clients(
        &outside,
        server.port(),
        include_str!("web_socket_client.py"),
    );
    ran.said(&[
        "heard 100 of 100",
        "name 1",
        "Temporary failure in name resolution",
    ]);
    ran.reached();
    ran.refused_name();
}

#[test]
fn a_web_socket_without_tls() {
    require!("userns");
    require!("python-packages");
    let outside = Outside::new();
    let server = Server::start(&mut python(include_str!("web_socket_server.py")));
    let client = include_str!("web_socket_client.py");
    let client = client
        .replace("wss://", "ws://")
        .replace(", ssl=context", "");
    let ran = clients(&outside, server.port(), &client);
    ran.said(&[
        "heard 100 of 100",
        "name 1",
        "Temporary failure in name resolution",
    ]);
    ran.reached();
    ran.refused_name();
}

#[test]
fn grpc_calls_and_streams() {
    require!("userns");
    require!("python-packages");
    let outside = Outside::new();
    let server = server(&outside, include_str!("grpc_server.py"));
    let ran = clients(&outside, server.port(), include_str!("grpc_client.py"));
    ran.said(&["heard one", "streamed 100 of 100", "name 1", "UNAVAILABLE"]);
    ran.reached();
    ran.refused_name();
}

/// Answers over HTTP/2 only.
const H2_SERVER: &str = "
    const [, certificate, key] = process.argv;
    const read = require('fs').readFileSync;
    const server = require('http2').createSecureServer({
        cert: read(certificate),
        key: read(key),
    });
    server.on('stream', (stream) => {
        stream.respond({':status': 200});
        stream.end('a stream');
    });
    server.listen(0, '127.0.0.1', () => console.log(server.address().port));
";

#[test]
fn curl_over_http2() {
    require!("userns");
    require!("curl");
    require!("node");
    let outside = Outside::new();
    let (certificate, key) = outside.certificates.files();
    let mut command = Command::new("/usr/bin/node");
    let server = Server::start(command.args(["-e", H2_SERVER]).arg(certificate).arg(key));
    let port = server.port();
    let curl = format!("curl -sS --http2 --cacert {AUTHORITY} -w ' over %{{http_version}}\\n'");
    let ran = outside.run(&Cell {
        port,
        script: &format!(
            "{curl} https://{DECLARED}:{port}/ https://{DECLARED}:{port}/again
             {curl} https://{UNDECLARED}:{port}/; echo \"name $?\""
        ),
        ..Cell::default()
    });
    ran.said(&["a stream over 2\na stream over 2\n", "name 6"]);
    ran.reached();
    ran.refused_name();
}
