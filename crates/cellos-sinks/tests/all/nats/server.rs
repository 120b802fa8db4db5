//! A real `nats-server`, with a port and a folder of its own, and a small client that reads what it
//! has.

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
use cellos_sinks::remote::{RemoteSink, SinkConfig as _, Surroundings, nats::NatsConfig};
use cellos_testkit::ability::python_bin;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a server may take to start, on a busy host.
const START: Duration = Duration::from_secs(20);

/// A server that is killed when this is dropped.
pub(crate) struct Server {
    folder: TempDir,
    settings: String,
    port: Option<u16>,
    child: Option<Child>,
}

/// Port, chosen by the server when it starts for the first time.
const ANY_PORT: i32 = -1;

impl Server {
    /// Starts one with JetStream on, and more settings.
    pub(crate) fn start(settings: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), settings)
    }

    /// Starts one in a folder with files that its settings name.
    pub(crate) fn start_in(folder: TempDir, settings: &str) -> Self {
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
    pub(crate) fn bare(folder: TempDir, settings: &str) -> Self {
        let mut server = Self {
            folder,
            settings: settings.to_owned(),
            port: None,
            child: None,
        };
        server.up();
        server
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it again, at the same port and with what it had.
    pub(crate) fn up(&mut self) {
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
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it anew with other settings.
    pub(crate) fn change(&mut self, from: &str, to: &str) {
        self.kill();
        self.settings = self.settings.replace(from, to);
        self.up();
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port())
    }

    /// A sink for it, with more settings.
    pub(crate) fn sink(&self, more: Value) -> std::sync::Arc<dyn RemoteSink> {
        self.config(more)
            .open(&Surroundings {
                folder: self.folder(),
                env: &|_| None,
            })
            .unwrap()
    }

    pub(crate) fn config(&self, more: Value) -> NatsConfig {
        let mut config = json!({"servers": [self.url()], "connectTimeoutSeconds": 20});
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        serde_json::from_value(config).unwrap()
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
pub(crate) struct Reader {
    input: BufReader<TcpStream>,
}

/// One message in a stream.
pub(crate) struct Kept {
    pub(crate) subject: String,
    pub(crate) headers: String,
    pub(crate) event: Value,
}

impl Reader {
    /// Connects, and logs in with fields of `CONNECT`.
    pub(crate) fn new(server: &Server, login: Value) -> Self {
        Self::signing(server, |_| login)
    }

    /// Connects, and logs in with fields that depend on what the server sends to be signed.
    pub(crate) fn signing(server: &Server, login: impl FnOnce(&str) -> Value) -> Self {
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
    pub(crate) fn ask(&mut self, what: &str, payload: &Value) -> Value {
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
    pub(crate) fn stream(&mut self, verb: &str, config: &Value) {
        let name = config["name"].as_str().unwrap();
        let answer = self.ask(&format!("STREAM.{verb}.{name}"), config);
        assert!(answer["error"].is_null(), "{answer}");
    }

    pub(crate) fn info(&mut self, stream: &str) -> Value {
        self.ask(&format!("STREAM.INFO.{stream}"), &Value::Null)
    }

    /// Everything that a stream has, in its order.
    pub(crate) fn kept(&mut self, stream: &str) -> Vec<Kept> {
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
    pub(crate) fn ids(&mut self, stream: &str) -> Vec<String> {
        self.kept(stream)
            .iter()
            .map(|kept| kept.event["id"].as_str().unwrap().to_owned())
            .collect()
    }
}
