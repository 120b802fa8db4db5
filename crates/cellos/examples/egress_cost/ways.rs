//! The ways to the server, each measured in turn by the same load.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{Failure, figure};

/// Where the server is. A private address, so that rules have to name it.
const SERVER: &str = "10.77.0.1";
/// Its ports: behind a rule that lets anything through, and behind one that wants TLS or HTTP.
const OPAQUE: &str = "10.77.0.1:7001";
const CHECKED: &str = "10.77.0.1:7002";
/// The two ends of the veth pair.
const VETH_OUTSIDE: &str = "10.88.0.1";
const VETH_INSIDE: &str = "10.88.0.2";
/// Each way is measured this often, in turn; medians count.
const ROUNDS: usize = 3;
/// How long a namespace may take until it has its network.
const READY_TIME: Duration = Duration::from_secs(10);

/// Source addresses of the namespace behind the veth pair are translated, as for a way out.
const TRANSLATION: &str = "table ip bench {
    chain input { type nat hook input priority 100; ip saddr 10.88.0.2 snat to 10.88.0.1; }
}";

/// A way to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Gateway,
    CheckingGateway,
    Veth,
    Slirp,
}

impl Way {
    const ALL: [Self; 5] = [
        Self::Direct,
        Self::Gateway,
        Self::CheckingGateway,
        Self::Veth,
        Self::Slirp,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Direct => "loopback",
            Self::Gateway => "cell, `tcp`",
            Self::CheckingGateway => "cell, HTTP checked",
            Self::Veth => "veth, NAT",
            Self::Slirp => "slirp4netns",
        }
    }
}

/// Brings up the loopback device of this namespace, with the server's address.
pub(crate) fn prepare() -> Result<(), Failure> {
    ip(&["link", "set", "lo", "up"])?;
    ip(&["address", "add", &format!("{SERVER}/32"), "dev", "lo"])
}

pub(crate) fn measure(cellos: &Path) -> Result<(), Failure> {
    let _server = Server::start()?;
    let mut figures: BTreeMap<(String, usize), (Vec<f64>, String)> = BTreeMap::new();
    let mut order = Vec::new();
    for _ in 0..ROUNDS {
        for (column, way) in Way::ALL.into_iter().enumerate() {
            let output = match load(way, cellos) {
                Ok(output) => output,
                Err(error) => return Err(format!("{}: {error}", way.name()).into()),
            };
            for line in output.lines() {
                let line: serde_json::Value = serde_json::from_str(line)?;
                let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
                let measure = text("measure");
                if !order.contains(&measure) {
                    order.push(measure.clone());
                }
                let entry = figures.entry((measure, column)).or_default();
                entry
                    .0
                    .push(line["value"].as_f64().ok_or("a figure without value")?);
                entry.1 = text("unit");
            }
        }
    }
    for measure in order {
        for (column, way) in Way::ALL.into_iter().enumerate() {
            if let Some((mut values, unit)) = figures.remove(&(measure.clone(), column)) {
                values.sort_by(f64::total_cmp);
                let median = values[values.len() / 2];
                figure(&format!("{measure}: {}", way.name()), median, &unit);
            }
        }
    }
    Ok(())
}

/// The load's figures over one way.
fn load(way: Way, cellos: &Path) -> Result<String, Failure> {
    match way {
        Way::Direct => said(own()?.args(["load", OPAQUE]).output()?),
        Way::Gateway => in_cell(cellos, OPAQUE),
        Way::CheckingGateway => in_cell(cellos, CHECKED),
        Way::Veth => in_namespace(|pid| {
            ip(&[
                "link",
                "add",
                "bench-out",
                "type",
                "veth",
                "peer",
                "name",
                "bench-in",
                "netns",
                pid,
            ])?;
            let outside = format!("{VETH_OUTSIDE}/24");
            ip(&["address", "add", &outside, "dev", "bench-out"])?;
            ip(&["link", "set", "bench-out", "up"])?;
            let inside = format!("{VETH_INSIDE}/24");
            ip_of(pid, &["address", "add", &inside, "dev", "bench-in"])?;
            ip_of(pid, &["link", "set", "bench-in", "up"])?;
            ip_of(pid, &["route", "add", "default", "via", VETH_OUTSIDE])?;
            translate()?;
            Ok(None)
        }),
        Way::Slirp => in_namespace(|pid| {
            let slirp = Command::new("slirp4netns")
                .args(["--configure", "--mtu=65520", pid, "tap0"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .map_err(|error| format!("cannot start slirp4netns: {error}"))?;
            let slirp = Killed(slirp);
            let begun = Instant::now();
            // A default route: its line says that the destination is 0.
            let routes = format!("/proc/{pid}/net/route");
            while !fs::read_to_string(&routes)?.contains("tap0\t00000000") {
                if begun.elapsed() > READY_TIME {
                    return Err("it did not set its network up".into());
                }
                thread::sleep(Duration::from_millis(10));
            }
            Ok(Some(slirp))
        }),
    }
}

fn in_cell(cellos: &Path, address: &str) -> Result<String, Failure> {
    let program = std::env::current_exe()?;
    let folder = program.parent().ok_or("this program is in no folder")?;
    let name = program.file_name().ok_or("this program has no name")?;
    let inside = Path::new("/load").join(name);
    let events = std::env::temp_dir().join(format!("cellos-egress-{}.jsonl", std::process::id()));
    let mut command = Command::new(cellos);
    command
        .args(["run", "--ttl", "60s", "--mount"])
        .arg(format!("{}:/load", folder.display()))
        .arg("--events")
        .arg(&events)
        .args([
            "--allow",
            &format!("{OPAQUE}/tcp"),
            "--allow",
            CHECKED,
            "--",
        ])
        .arg(inside)
        .args(["load", address]);
    let output = command.output()?;
    // A log is more than one file, and the next way begins its own.
    for suffix in ["", ".head", ".lock"] {
        let mut name = events.clone().into_os_string();
        name.push(suffix);
        let _ = fs::remove_file(name);
    }
    said(output)
}

/// Runs the load in a network namespace that `attach` gives its network, and keeps what that
/// started until the end.
fn in_namespace(
    attach: impl FnOnce(&str) -> Result<Option<Killed>, Failure>,
) -> Result<String, Failure> {
    let mut child = Command::new("unshare")
        .args(["--net", "--"])
        .arg(std::env::current_exe()?)
        .args(["load-when-told", OPAQUE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let attached = wait_for_ready(&mut child).and_then(|()| attach(&child.id().to_string()));
    match attached {
        Ok(_keep) => {
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(b"begin\n")?;
            }
            said(child.wait_with_output()?)
        }
        Err(error) => {
            child.kill()?;
            child.wait()?;
            Err(error)
        }
    }
}

/// Reads a byte at a time: what follows the first line is left for others.
fn wait_for_ready(child: &mut Child) -> Result<(), Failure> {
    let stdout = child.stdout.as_mut().ok_or("no pipe")?;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        std::io::Read::read_exact(stdout, &mut byte)?;
        line.extend_from_slice(&byte);
    }
    Ok(())
}

/// The load's side: says that it is there, and waits for a line.
pub(crate) fn wait_until_told() -> Result<(), Failure> {
    println!("ready");
    ip(&["link", "set", "lo", "up"])?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(())
}

/// A program that ends with its owner.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The server, in a process of its own.
struct Server(#[expect(dead_code, reason = "killed when dropped")] Killed);

impl Server {
    fn start() -> Result<Self, Failure> {
        let mut child = own()?
            .args(["serve", OPAQUE, CHECKED])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no pipe")?;
        let server = Self(Killed(child));
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        match line.trim() {
            "ready" => Ok(server),
            _ => Err("the server did not start".into()),
        }
    }
}

fn own() -> Result<Command, Failure> {
    Ok(Command::new(std::env::current_exe()?))
}

fn translate() -> Result<(), Failure> {
    // Left from the round before.
    let _ = Command::new("nft")
        .args(["delete", "table", "ip", "bench"])
        .stderr(Stdio::null())
        .status();
    said(Command::new("nft").arg(TRANSLATION).output()?).map(drop)
}

fn ip(arguments: &[&str]) -> Result<(), Failure> {
    said(Command::new("ip").args(arguments).output()?).map(drop)
}

fn ip_of(pid: &str, arguments: &[&str]) -> Result<(), Failure> {
    let mut command = Command::new("nsenter");
    command.args(["--target", pid, "--net", "--", "ip"]);
    said(command.args(arguments).output()?).map(drop)
}

/// What a program said, if it ended well.
fn said(output: Output) -> Result<String, Failure> {
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout)?),
        false => Err(format!(
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        )
        .into()),
    }
}
