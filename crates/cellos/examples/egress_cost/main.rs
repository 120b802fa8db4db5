//! What the network of a cell costs: beside the host's loopback device, beside a veth pair with
//! network address translation, and beside slirp4netns. Prints one figure a line; `cargo xtask bench`
//! runs it with the path of `cellos` and makes a table of the figures.
//!
//! Everything happens in a network namespace of its own, so the host's network is neither used nor
//! changed: the server listens there, and the namespaces that are compared are attached to it.

mod load;
mod server;
mod start;
mod ways;

use std::{
    error::Error,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode},
};

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["serve", ..] => server::serve(&arguments[1..]),
        ["load", address] => load::run(address),
        ["load-when-told", address] => ways::wait_until_told().and_then(|()| load::run(address)),
        ["in-private", cellos] => measure(Path::new(cellos)),
        [cellos] => again_in_private(cellos),
        _ => Err("usage: egress_cost PATH-OF-CELLOS".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("egress_cost: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Becomes this program in a network namespace of its own.
fn again_in_private(cellos: &str) -> Result<(), Failure> {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--"]).arg(std::env::current_exe()?);
    Err(command.args(["in-private", cellos]).exec().into())
}

fn measure(cellos: &Path) -> Result<(), Failure> {
    ways::prepare()?;
    // First: the launcher has to be forked before this process has threads.
    start::measure(cellos)?;
    ways::measure(cellos)
}

fn figure(measure: &str, value: f64, unit: &str) {
    println!(
        "{}",
        serde_json::json!({ "measure": measure, "value": value, "unit": unit })
    );
}
