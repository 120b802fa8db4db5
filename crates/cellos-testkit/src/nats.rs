//! A real `nats-server`, with a port and a folder of its own, and a small client that reads what it
//! has.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "these are assertions: a panic is how they fail the calling test"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ability::python_bin;

/// How long a server may take to start, on a busy host.
const START: Duration = Duration::from_secs(20);

/// A server that is killed when this is dropped.
pub struct Server {
    folder: TempDir,
    settings: String,
    port: Option<u16>,
    child: Option<Child>,
}

/// Port, chosen by the server when it starts for the first time.
const ANY_PORT: i32 = -1;

impl Server {
    /// Starts one with JetStream on, and more settings.
    pub fn start(settings: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), settings)
    }

    /// Starts one in a folder with files that its settings name.
    pub fn start_in(folder: TempDir, settings: &str) -> Self {
        let store = folder.path().join("store");
        Self::bare(
            folder,
            &format!(
                "jetstream: {{store_dir: \"{}\"}}\n{settings}",
                store.display()
            ),
        )
    }

    /// Starts one with these settings alone.
    pub fn bare(folder: TempDir, settings: &str) -> Self {
        let mut server = Self {
            folder,
            settings: settings.to_owned(),
            port: None,
            child: None,
        };
        server.up();
        server
    }

    /// Its folder, which goes when it does.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it again, at the same port and with what it had.
    pub fn up(&mut self) {
        let at = self.folder.path();
        let port = self.port.map_or(ANY_PORT, i32::from);
        let config = at.join("server.conf");
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\nports_file_dir: \"{}\"\n{}",
            at.display(),
            self.settings
        );
        fs::write(&config, text).unwrap();
        let log = fs::File::create(at.join("server.log")).unwrap();
        let child = Command::new(python_bin().join("nats-server"))
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let ports = at.join(format!("nats-server_{}.ports", child.id()));
        self.child = Some(child);
        let begin = Instant::now();
        let port = loop {
            if let Some(port) = listening(&ports) {
                break port;
            }
            let log = fs::read_to_string(at.join("server.log")).unwrap();
            assert!(begin.elapsed() < START, "no server: {log}");
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {log}");
            thread::sleep(Duration::from_millis(10));
        };
        self.port = Some(port);
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it anew with other settings.
    pub fn change(&mut self, from: &str, to: &str) {
        self.kill();
        self.settings = self.settings.replace(from, to);
        self.up();
    }

    /// Its port, which stays the same.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.unwrap()
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn listening(ports: &PathBuf) -> Option<u16> {
    let text = fs::read_to_string(ports).ok()?;
    let ports: Value = serde_json::from_str(&text).ok()?;
    let url = ports["nats"][0].as_str().or(ports["tls"][0].as_str())?;
    url.rsplit(':').next()?.parse().ok()
}

/// A client that asks one thing at a time.
pub struct Reader {
    input: BufReader<TcpStream>,
}

/// One message in a stream.
pub struct Kept {
    /// Where it was sent to.
    pub subject: String,
    /// Its headers, as they are.
    pub headers: String,
    /// Its content.
    pub event: Value,
}

impl Reader {
    /// Connects, and logs in with fields of `CONNECT`.
    pub fn new(server: &Server, login: Value) -> Self {
        Self::signing(server, |_| login)
    }

    /// Connects, and logs in with fields that depend on what the server sends to be signed.
    pub fn signing(server: &Server, login: impl FnOnce(&str) -> Value) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        // Without it, each answer waits for the delayed acknowledgement of the one before.
        socket.set_nodelay(true).unwrap();
        let mut input = BufReader::new(socket);
        let mut line = String::new();
        input.read_line(&mut line).unwrap();
        let info: Value = serde_json::from_str(line.strip_prefix("INFO ").unwrap()).unwrap();
        let login = login(info["nonce"].as_str().unwrap_or_default());
        let mut connect = json!({"verbose": false, "headers": true, "no_responders": true});
        for (key, value) in login.as_object().unwrap() {
            connect[key] = value.clone();
        }
        write!(input.get_mut(), "CONNECT {connect}\r\nSUB in.* 1\r\n").unwrap();
        Self { input }
    }

    /// Asks the stream interface.
    pub fn ask(&mut self, what: &str, payload: &Value) -> Value {
        let payload = match payload {
            Value::Null => String::new(),
            payload => payload.to_string(),
        };
        let bytes = payload.len();
        let request = format!("PUB $JS.API.{what} in.1 {bytes}\r\n{payload}\r\n");
        self.input.get_mut().write_all(request.as_bytes()).unwrap();
        loop {
            let mut line = String::new();
            self.input.read_line(&mut line).unwrap();
            let fields: Vec<_> = line.split_whitespace().collect();
            match fields.as_slice() {
                ["MSG", .., size] => {
                    let mut content = vec![0; size.parse::<usize>().unwrap() + 2];
                    self.input.read_exact(&mut content).unwrap();
                    return serde_json::from_slice(&content).unwrap();
                }
                ["PING"] => self.input.get_mut().write_all(b"PONG\r\n").unwrap(),
                _ => assert!(
                    line.starts_with("INFO") || line.starts_with("PONG"),
                    "{line}"
                ),
            }
        }
    }

    /// Makes a stream, or changes it (`UPDATE`).
    pub fn stream(&mut self, verb: &str, config: &Value) {
        let name = config["name"].as_str().unwrap();
        let answer = self.ask(&format!("STREAM.{verb}.{name}"), config);
        assert!(answer["error"].is_null(), "{answer}");
    }

    /// What the server says about a stream.
    pub fn info(&mut self, stream: &str) -> Value {
        self.ask(&format!("STREAM.INFO.{stream}"), &Value::Null)
    }

    /// Everything that a stream has, in its order.
    pub fn kept(&mut self, stream: &str) -> Vec<Kept> {
        let info = self.info(stream);
        let last = info["state"]["last_seq"].as_u64().unwrap_or(0);
        (1..=last)
            .map(|seq| {
                let what = format!("STREAM.MSG.GET.{stream}");
                let answer = self.ask(&what, &json!({"seq": seq}));
                let message = &answer["message"];
                let decoded = |field: &str| {
                    String::from_utf8(STANDARD.decode(message[field].as_str().unwrap()).unwrap())
                        .unwrap()
                };
                Kept {
                    subject: message["subject"].as_str().unwrap().to_owned(),
                    headers: decoded("hdrs"),
                    event: serde_json::from_str(&decoded("data")).unwrap(),
                }
            })
            .collect()
    }

    /// Ids of the events in a stream.
    pub fn ids(&mut self, stream: &str) -> Vec<String> {
        self.kept(stream)
            .iter()
            .map(|kept| kept.event["id"].as_str().unwrap().to_owned())
            .collect()
    }
}
