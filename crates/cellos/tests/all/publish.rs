//! Ports of a cell that are open to the host.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use cellos_testkit::require;
use serde_json::Value;

use crate::program::Place;

/// A server of one answer, that says that it is ready; it ends with the connection.
fn server(port: u16) -> String {
    format!(
        "import http.server, sys\n\
         class Handler(http.server.BaseHTTPRequestHandler):\n\
        \x20   def do_GET(self):\n\
        \x20       self.send_response(200)\n\
        \x20       self.send_header('Content-Length', '13')\n\
        \x20       self.end_headers()\n\
        \x20       self.wfile.write(b'from the cell')\n\
        \x20   def log_message(self, *_): pass\n\
         server = http.server.HTTPServer(('127.0.0.1', {port}), Handler)\n\
         print('ready', flush=True)\n\
         server.handle_request()\n"
    )
}

/// A command that runs with a published port, and where the host can reach it.
struct Running {
    child: Child,
    address: SocketAddr,
}

/// Starts it, and waits until both sides listen.
fn start(mut command: Command) -> Running {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let address = loop {
        let begin = said.len();
        assert!(errors.read_line(&mut said).unwrap() > 0, "{said}");
        if let Some((_, address)) = said[begin..].split_once(" of the cell is at ") {
            break address.trim().parse().unwrap();
        }
    };
    child.stderr = Some(errors.into_inner());
    let mut ready = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut ready).unwrap();
    child.stdout = Some(output.into_inner());
    assert_eq!(ready, "ready\n", "{:?}", child.wait_with_output());
    Running { child, address }
}

fn get(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: cell\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The decisions about connections into the cell.
fn inward(place: &Place) -> Vec<Value> {
    std::fs::read_to_string(place.events())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["entry"]["event"].take())
        .map(|mut event| event["data"].take())
        .filter(|data| data["direction"] == "ingress")
        .collect()
}

fn is_reached(place: &Place, port: u16, arguments: &[&str]) {
    let events = place.events();
    let publish = format!("0:{port}");
    let mut all = vec!["run", "--events", events.to_str().unwrap()];
    all.extend(["--publish", &publish]);
    all.extend(arguments);
    let running = start(place.cellos(&all));
    assert!(running.address.ip().is_loopback(), "{}", running.address);
    assert!(get(running.address).ends_with("from the cell"));
    let ended = running.child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let flows = inward(place);
    assert_eq!(flows.len(), 1, "{flows:?}");
    assert_eq!(flows[0]["decision"], "allow");
    assert_eq!(flows[0]["reasonCode"], "published_port");
    assert!(flows[0]["bytesOut"].as_u64().unwrap() > 13, "{flows:?}");
    let verified = place
        .cellos(&["verify", events.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn a_server_in_a_cell_of_flags_is_reached_from_the_host() {
    require!("userns");
    let script = server(8080);
    let place = Place::new();
    is_reached(&place, 8080, &["--", "python3", "-c", &script]);
}

#[test]
fn a_server_in_a_cell_of_a_document_is_reached_from_the_host() {
    require!("userns");
    let place = Place::new();
    let document = serde_json::json!({"apiVersion": "cellos.io/v1", "kind": "ExecutionCell",
    "spec": {"id": "server", "authority": {}, "lifetime": {"ttlSeconds": 60},
        "run": {"argv": ["python3", "-c", server(8080)]}}});
    let file = place.file("cell.json", document.to_string());
    is_reached(&place, 8080, &[file.to_str().unwrap()]);
}

#[test]
fn a_server_may_listen_on_a_low_port() {
    require!("userns");
    let script = server(80);
    let place = Place::new();
    is_reached(&place, 80, &["--", "python3", "-c", &script]);
}

#[test]
fn the_ports_of_the_gateway_are_not_the_workloads_to_take() {
    require!("userns");
    let place = Place::new();
    let script = "import errno, socket\n\
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):\n\
        \x20   for host in ('0.0.0.0', '127.0.0.1', '198.18.0.53'):\n\
        \x20       for port in (53, 80):\n\
        \x20           if kind == socket.SOCK_DGRAM and port == 80: continue\n\
        \x20           for option in (None, socket.SO_REUSEADDR, socket.SO_REUSEPORT):\n\
        \x20               one = socket.socket(socket.AF_INET, kind)\n\
        \x20               if option: one.setsockopt(socket.SOL_SOCKET, option, 1)\n\
        \x20               try:\n\
        \x20                   one.bind((host, port))\n\
        \x20                   if kind == socket.SOCK_STREAM: one.listen()\n\
        \x20                   raise SystemExit(f'took {kind} {host} {port} {option}')\n\
        \x20               except OSError as error:\n\
        \x20                   assert error.errno == errno.EADDRINUSE, error\n";
    let output = place
        .cellos(&["run", "--allow", "a.example:80", "--", "python3", "-c"])
        .arg(script)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_port_that_another_has_is_an_error_that_names_it() {
    require!("userns");
    let place = Place::new();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let publish = format!("{port}:8080");
    let output = place
        .cellos(&["run", "--publish", &publish, "--", "touch", "ran"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    let named = format!("listen on 127.0.0.1:{port} for the cell's port 8080");
    assert!(said.contains(&named) && said.contains("in use"), "{said}");
    assert!(!place.path().join("ran").exists());
}
