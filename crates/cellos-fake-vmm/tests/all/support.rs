//! A fake VMM in a folder of its own, and a client for its interface.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn program(name: &str) -> PathBuf {
    let built = match name {
        "fake-firecracker" => env!("CARGO_BIN_EXE_fake-firecracker"),
        "fake-jailer" => env!("CARGO_BIN_EXE_fake-jailer"),
        _ => env!("CARGO_BIN_EXE_fake-vmm-guest-fixture"),
    };
    // Read at run time: the tests may have been moved since they were built.
    std::env::var(format!("NEXTEST_BIN_EXE_{name}"))
        .unwrap_or_else(|_| built.to_owned())
        .into()
}

pub(crate) fn guest() -> PathBuf {
    program("fake-vmm-guest-fixture")
}

/// Settings with the fixture as guest.
pub(crate) fn settings(arguments: &[&str]) -> Value {
    json!({ "guest": { "program": guest(), "arguments": arguments } })
}

/// A running fake VMM. Ends with the value.
#[derive(Debug)]
pub(crate) struct Vmm {
    pub(crate) folder: TempDir,
    /// Where the names of files begin: the folder, or the jail in it.
    pub(crate) root: PathBuf,
    pub(crate) child: Child,
}

impl Vmm {
    pub(crate) fn start(settings: &Value) -> Self {
        Self::start_in(TempDir::new().unwrap(), settings)
    }

    pub(crate) fn start_in(folder: TempDir, settings: &Value) -> Self {
        let vmm = Self::spawn(
            folder,
            settings,
            &["--api-sock", "api.sock", "--id", "vm-1"],
        );
        // The file is there a moment before anyone listens on it.
        eventually("the API socket", || {
            UnixStream::connect(vmm.path("api.sock")).is_ok()
        });
        vmm
    }

    pub(crate) fn spawn(folder: TempDir, settings: &Value, arguments: &[&str]) -> Self {
        fs::write(folder.path().join("fake-vmm.json"), settings.to_string()).unwrap();
        for name in ["kernel", "rootfs"] {
            fs::write(folder.path().join(name), "cellos fake image").unwrap();
        }
        let output = |name| fs::File::create(folder.path().join(name)).unwrap();
        let child = Command::new(program("fake-firecracker"))
            .args(arguments)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(output("stdout"))
            .stderr(output("stderr"))
            .spawn()
            .unwrap();
        let root = folder.path().to_owned();
        Self {
            folder,
            root,
            child,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn connect(&self) -> UnixStream {
        connect(&self.path("api.sock"))
    }

    /// One call on a connection of its own: status and body.
    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        call(&mut self.connect(), method, path, body)
    }

    pub(crate) fn put(&self, path: &str, body: Value) {
        let (status, answer) = self.call("PUT", path, &body);
        assert_eq!(status, 204, "{path}: {answer}");
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        let (status, answer) = self.call("GET", path, &Value::Null);
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// The call is refused; returns the fault's message.
    pub(crate) fn refused(&self, method: &str, path: &str, body: Value) -> String {
        let (status, answer) = self.call(method, path, &body);
        assert_eq!(status, 400, "{method} {path} {body}: {answer}");
        answer["fault_message"].as_str().unwrap().to_owned()
    }

    pub(crate) fn patch_vm(&self, state: &str) {
        let (status, answer) = self.call("PATCH", "/vm", &json!({ "state": state }));
        assert_eq!(status, 204, "{answer}");
    }

    pub(crate) fn action(&self, name: &str) {
        self.put("/actions", json!({ "action_type": name }));
    }

    pub(crate) fn configure(&self) {
        self.put(
            "/machine-config",
            json!({ "vcpu_count": 1, "mem_size_mib": 64 }),
        );
        self.put(
            "/boot-source",
            json!({ "kernel_image_path": "kernel", "boot_args": "console=ttyS0" }),
        );
        self.put(
            "/drives/rootfs",
            json!({
                "drive_id": "rootfs", "path_on_host": "rootfs",
                "is_root_device": true, "is_read_only": true,
            }),
        );
        self.put("/vsock", json!({ "guest_cid": 3, "uds_path": "v.sock" }));
    }

    /// Listens where the guest's port leads.
    pub(crate) fn host_port(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.path(&format!("v.sock_{port}"))).unwrap()
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the VMM's end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Accepts one connection with a limit on what is read from it.
pub(crate) fn accept(listener: &UnixListener) -> UnixStream {
    listener.set_nonblocking(true).unwrap();
    let mut accepted = None;
    eventually("a connection from the guest", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let stream = accepted.unwrap().0;
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub(crate) fn call(
    stream: &mut UnixStream,
    method: &str,
    path: &str,
    body: &Value,
) -> (u16, Value) {
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    send(stream, method, path, &body);
    receive(stream).unwrap()
}

pub(crate) fn send(stream: &mut UnixStream, method: &str, path: &str, body: &str) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    // The other end may answer and close before it has read all.
    let _ = stream.write_all(request.as_bytes());
}

/// The next answer, or `None` where the connection ends before one.
pub(crate) fn receive(stream: &mut UnixStream) -> Option<(u16, Value)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let status = line.split(' ').nth(1).unwrap().parse().unwrap();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    Some((status, serde_json::from_slice(&body).unwrap_or_default()))
}

pub(crate) fn line(stream: &UnixStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

pub(crate) fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < PATIENCE, "no sign of {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a process is there and not a zombie.
pub(crate) fn alive(pid: u64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap()
            .trim_start()
            .starts_with('Z')
    })
}
