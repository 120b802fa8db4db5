//! What a network adds to a cell's start, and to the memory that a cell takes.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use cellos_core::{
    CellosError, ExecutionCellDocument,
    ports::{
        CellBackend,
        network::{NetworkGateway, NetworkReport, NetworkReports},
        workload::{Streams, WorkloadControl},
    },
    signing::SoftwareSigner,
};
use cellos_egress::{EgressGateway, GatewayConfig};
use cellos_evidence::log::{EventLog, LogConfig};
use cellos_host_linux::LinuxBackend;
use cellos_isolation::{Launcher, LauncherOptions, Warm};
use cellos_supervisor::{RunRequest, StopRequests, Supervisor, state::StateFolder};

use super::{Failure, figure};

/// Rounds of whole processes, each with and without a network.
const PROCESSES: usize = 100;
/// Rounds of cells in one process, likewise.
const CELLS: usize = 300;
/// Rounds before that do not count.
const WARM_UPS: usize = 10;
/// Cells with gateways that are alive at once.
const TOGETHER: usize = 1000;
/// Cells that the launcher keeps begun.
const WARM: u16 = 2;

/// Whether a cell has a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    None,
    Gateway,
}

pub(crate) fn measure(cellos: &Path) -> Result<(), Failure> {
    let options = LauncherOptions {
        warm: Warm::Keep(WARM),
        ..LauncherOptions::default()
    };
    let launcher = Launcher::fork(options.clone())?;
    processes(cellos)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let folder = std::env::temp_dir().join(format!("cellos-egress-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let backend = Arc::new(LinuxBackend::new(launcher, &options)?);
        let result = async {
            in_one_process(&folder, &backend).await?;
            together(&backend).await
        };
        let result = result.await;
        fs::remove_dir_all(&folder)?;
        result
    })
}

/// `cellos run`, from its start to its end.
fn processes(cellos: &Path) -> Result<(), Failure> {
    let events = std::env::temp_dir().join(format!("cellos-egress-{}.jsonl", std::process::id()));
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..WARM_UPS + PROCESSES {
        for (network, times) in [Network::None, Network::Gateway].iter().zip(&mut times) {
            let mut command = Command::new(cellos);
            command
                .args(["run", "--ttl", "60s", "--events"])
                .arg(&events);
            if *network == Network::Gateway {
                command.args(["--allow", "a.example:443"]);
            }
            command.args(["--", "/usr/bin/true"]).stdin(Stdio::null());
            let begun = Instant::now();
            let status = command.status()?;
            let took = begun.elapsed();
            if !status.success() {
                return Err(format!("cellos run ended with {status}").into());
            }
            if round >= WARM_UPS {
                times.push(took);
            }
        }
    }
    for suffix in ["", ".head", ".lock"] {
        let mut name = events.clone().into_os_string();
        name.push(suffix);
        let _ = fs::remove_file(name);
    }
    added("cellos run", times);
    Ok(())
}

/// A complete run by a supervisor that is there already.
async fn in_one_process(folder: &Path, backend: &Arc<LinuxBackend>) -> Result<(), Failure> {
    let log = EventLog::open(LogConfig {
        signer: Some(Arc::new(SoftwareSigner::from_seed("bench", [7; 32]))),
        ..LogConfig::new(folder.join("events.jsonl"))
    })?;
    let supervisor = Supervisor::new(backend.clone())
        .events(Arc::new(log))
        .state(StateFolder::open(folder.join("state"))?)
        .gateway(Arc::new(EgressGateway::new(GatewayConfig::default())));
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..WARM_UPS + CELLS {
        for (network, times) in [Network::None, Network::Gateway].iter().zip(&mut times) {
            let request = RunRequest {
                document: document(round, "/usr/bin/true", *network)?,
                raw_spec_sha256: "0".repeat(64),
                run_id: format!("run-{round}-{network:?}"),
                streams: streams()?,
                operator_timeout: None,
                derivation: None,
                admission: None,
                universal_token: None,
                events_log: None,
            };
            let begun = Instant::now();
            let outcome = supervisor.run(request, StopRequests::none()).await;
            let took = begun.elapsed();
            if let Some(error) = outcome.first_error {
                return Err(format!("cell {round}, network {network:?}: {error}").into());
            }
            if round >= WARM_UPS {
                times.push(took);
            }
        }
    }
    added("a cell of a running supervisor", times);
    Ok(())
}

/// Prints both medians and their difference.
fn added(what: &str, times: [Vec<Duration>; 2]) {
    let [without, with] = times.map(|mut times| {
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        median.as_secs_f64() * 1e3
    });
    figure(&format!("{what}, p50: without a network"), without, "ms");
    figure(&format!("{what}, p50: with one"), with, "ms");
    figure(&format!("{what}, p50: added"), with - without, "ms");
}

/// Counts nothing and refuses nothing: these cells connect to nothing.
struct Unheard;

#[async_trait]
impl NetworkReports for Unheard {
    async fn report(&self, _report: NetworkReport) -> Result<(), CellosError> {
        Ok(())
    }
}

/// Many cells with gateways at once: what each takes of the machine's memory, and of this process's.
async fn together(backend: &LinuxBackend) -> Result<(), Failure> {
    let gateway = EgressGateway::new(GatewayConfig::default());
    let (mut cells, mut gateways) = (Vec::new(), Vec::new());
    settle().await;
    let (machine, own) = (available_kib()?, resident_kib()?);
    let begun = Instant::now();
    for number in 0..TOGETHER {
        let document = document(number, "/usr/bin/sleep", Network::Gateway)?;
        let needs = gateway.needs(&document.spec)?.ok_or("no network")?;
        backend.prepare_network(&document.spec.id, needs).await?;
        let handle = backend.create(&document).await?;
        let network = backend.network(&handle.cell_id).await?;
        let open = gateway.open(&document.spec, network, Arc::new(Unheard));
        gateways.push(open.await?);
        backend.release(&handle.cell_id, streams()?).await?;
        cells.push(handle);
    }
    let took = begun.elapsed();
    settle().await;
    let (machine, own) = (machine - available_kib()?, resident_kib()? - own);
    figure(
        &format!("{TOGETHER} cells with gateways: started after"),
        took.as_secs_f64(),
        "s",
    );
    let each = TOGETHER as f64;
    figure(
        &format!("{TOGETHER} cells with gateways: memory of the supervisor's process, each"),
        own / each,
        "KiB",
    );
    figure(
        &format!("{TOGETHER} cells with gateways: memory of the machine, each, with its workload"),
        machine / each,
        "KiB",
    );
    for gateway in gateways {
        gateway.close().await?;
    }
    for cell in cells {
        backend.destroy(&cell).await?;
    }
    Ok(())
}

/// Lets the kernel finish what it does in the background.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

fn available_kib() -> Result<f64, Failure> {
    kib("/proc/meminfo", "MemAvailable:")
}

fn resident_kib() -> Result<f64, Failure> {
    kib("/proc/self/status", "VmRSS:")
}

fn kib(file: &str, field: &str) -> Result<f64, Failure> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let figure = line.and_then(|line| line.split_whitespace().next());
    Ok(figure
        .ok_or_else(|| format!("no {field} in {file}"))?
        .parse()?)
}

fn document(
    number: usize,
    program: &str,
    network: Network,
) -> Result<ExecutionCellDocument, serde_json::Error> {
    let authority = match network {
        Network::None => serde_json::json!({}),
        Network::Gateway => {
            serde_json::json!({ "egressRules": [{ "host": "a.example", "port": 443 }] })
        }
    };
    serde_json::from_value(serde_json::json!({
        "apiVersion": "cellos.io/v1",
        "kind": "ExecutionCell",
        "spec": {
            "id": format!("cell-{number}"),
            "run": { "argv": [program, "600"] },
            "authority": authority,
            "lifetime": { "ttlSeconds": 600 },
        },
    }))
}

fn streams() -> Result<Streams, std::io::Error> {
    let null = || {
        File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map(Into::into)
    };
    Ok(Streams {
        stdin: null()?,
        stdout: null()?,
        stderr: null()?,
    })
}
