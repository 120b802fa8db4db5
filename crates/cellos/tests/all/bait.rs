//! What a break-out is after, and the places it is tried in.

use std::{
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use crate::program::{Place, cellos_program, source_file};

/// The interpreter of the probes; a cell has the one of the system.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// What a probe is told to reach.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    Nothing,
    /// A file of the host.
    SecretFile,
    /// A file that does not exist, in a folder of the host.
    NewFile,
    /// A process of the same host user.
    Process,
    /// What that process has in its environment.
    SecretVariable,
    /// A port on the host's loopback interface that listens.
    Port,
    /// An abstract socket of the host that listens.
    Socket,
}

/// Things of the host that a cell must not reach.
pub(crate) struct Bait {
    pub(crate) place: Place,
    secret: String,
    process: Child,
    port: TcpListener,
    socket_name: String,
    _socket: UnixListener,
}

impl Bait {
    pub(crate) fn lay() -> Self {
        let place = Place::new();
        let secret = format!("secret-{}", uuid::Uuid::new_v4());
        place.file("secret", &secret);
        let process = Command::new("sleep")
            .arg("120")
            .env_clear()
            .env("BAIT", &secret)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let socket_name = format!("cellos-{secret}");
        let address = SocketAddr::from_abstract_name(&socket_name).unwrap();
        Self {
            place,
            secret,
            process,
            port: TcpListener::bind("127.0.0.1:0").unwrap(),
            _socket: UnixListener::bind_addr(&address).unwrap(),
            socket_name,
        }
    }

    fn secret_file(&self) -> PathBuf {
        self.place.path().join("secret")
    }

    pub(crate) fn argument(&self, target: Target) -> String {
        let path = |name: &str| self.place.path().join(name).to_str().unwrap().to_owned();
        match target {
            Target::Nothing => "-".to_owned(),
            Target::SecretFile => path("secret"),
            Target::NewFile => path("written"),
            Target::Process => self.process.id().to_string(),
            Target::SecretVariable => self.secret.clone(),
            Target::Port => self.port.local_addr().unwrap().port().to_string(),
            Target::Socket => self.socket_name.clone(),
        }
    }

    /// A command that inherits an open file of the host as descriptor 7.
    pub(crate) fn with_open_file(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", r#"exec 7<"$0"; exec "$@""#])
            .arg(self.secret_file())
            .args(arguments)
            .current_dir(self.place.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("CELLOS_STATE_DIR", self.place.path().join("state"))
            .env("BAIT", &self.secret)
            .stdin(Stdio::null());
        command
    }

    /// What the probe says in a cell with these flags.
    pub(crate) fn in_cell(&self, flags: &[&str], probe: &str, argument: &str) -> String {
        let program = cellos_program();
        let folder = format!("{}:/probes", probes().display());
        let mut arguments = vec![
            program.to_str().unwrap(),
            "run",
            "--ttl",
            "30s",
            "--mount",
            &folder,
        ];
        arguments.extend(flags);
        arguments.extend(["--", PYTHON, "/probes/breakout.py", probe, argument]);
        said(self.with_open_file(&arguments).output().unwrap())
    }

    /// What it says in bare namespaces. Another process runs beside it, with the secret in its
    /// environment.
    pub(crate) fn in_namespaces(&self, flags: &[&str], probe: &str, argument: &str) -> String {
        let script = probes().join("breakout.py");
        let mut arguments = vec!["unshare", "-Urm", "--propagation", "private", "-f"];
        arguments.extend(flags);
        arguments.extend([
            "/bin/sh",
            "-c",
            r#"sleep 60 <&- >&- 2>&- & "$@"; code=$?; kill $!; exit $code"#,
            "sh",
            PYTHON,
            script.to_str().unwrap(),
            probe,
            argument,
        ]);
        said(self.with_open_file(&arguments).output().unwrap())
    }

    /// What it says in bubblewrap, as tightly closed as its own options do it.
    pub(crate) fn in_bubblewrap(&self, probe: &str, argument: &str) -> String {
        let folder = probes();
        // Its own process 1 keeps its environment where the cell can read it.
        let mut arguments = vec!["env", "-u", "BAIT", "bwrap"];
        arguments.extend([
            "--unshare-all",
            "--die-with-parent",
            "--new-session",
            "--cap-drop",
            "ALL",
            "--ro-bind",
            "/usr",
            "/usr",
            "--symlink",
            "usr/bin",
            "/bin",
            "--symlink",
            "usr/lib",
            "/lib",
            "--symlink",
            "usr/lib64",
            "/lib64",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--tmpfs",
            "/tmp",
            "--ro-bind",
            folder.to_str().unwrap(),
            "/probes",
            PYTHON,
            "/probes/breakout.py",
            probe,
            argument,
        ]);
        said(self.with_open_file(&arguments).output().unwrap())
    }
}

impl Drop for Bait {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The folder of the probes.
pub(crate) fn probes() -> PathBuf {
    source_file("tests/probes")
}

/// Its line, and what went wrong where there is none.
fn said(output: Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    match stdout.lines().last() {
        Some(line) if output.status.success() => line.to_owned(),
        _ => format!("nothing: {output:?}"),
    }
}
