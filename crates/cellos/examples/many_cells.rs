//! Many cells by one supervisor, as a long-running process has them. Prints one figure a line;
//! `cargo xtask bench` runs it and sets the figures against the alternatives.
//!
//! Each cell has everything on: a complete run with its evidence in a signed log, flushed to the disk
//! at every change of phase, its record in the state folder, all isolation. Fails if any cell does not end as it should.

use std::{
    error::Error,
    fs::{self, File},
    process::{Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use cellos_core::{
    ExecutionCellDocument,
    ports::{
        CellBackend, CellHandle,
        workload::{Streams, WorkloadControl},
    },
    signing::SoftwareSigner,
};
use cellos_evidence::log::{EventLog, LogConfig};
use cellos_host_linux::LinuxBackend;
use cellos_isolation::{Launcher, LauncherOptions, Warm};
use cellos_supervisor::{RunRequest, StopRequests, Supervisor, state::StateFolder};

/// Runs measured at each concurrency, after as many unmeasured ones as are measured at once.
const RUNS: usize = 600;
/// Cells alive together in the last two measurements.
const TOGETHER: usize = 100;
/// Cells that the launcher keeps begun.
const WARM: u16 = 2;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let options = LauncherOptions {
        warm: Warm::Keep(WARM),
        ..LauncherOptions::default()
    };
    match measure(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("many_cells: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: LauncherOptions) -> Result<(), Failure> {
    let launcher = Launcher::fork(options.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let folder = std::env::temp_dir().join(format!("cellos-many-cells-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let backend = Arc::new(LinuxBackend::new(launcher, &options)?);
        let log = EventLog::open(LogConfig {
            signer: Some(Arc::new(SoftwareSigner::from_seed("bench", [7; 32]))),
            ..LogConfig::new(folder.join("events.jsonl"))
        })?;
        let supervisor = Supervisor::new(backend.clone())
            .events(Arc::new(log))
            .state(StateFolder::open(folder.join("state"))?);
        let cells = Arc::new(Cells {
            supervisor,
            next: AtomicUsize::new(0),
        });
        let result = run_all(&cells, &backend).await;
        fs::remove_dir_all(&folder)?;
        result
    })
}

async fn run_all(cells: &Arc<Cells>, backend: &LinuxBackend) -> Result<(), Failure> {
    for at_once in [1, 2, 32] {
        cells.run(at_once, at_once).await?;
        let started = Instant::now();
        let mut times = cells.run(RUNS, at_once).await?;
        let rate = RUNS as f64 / started.elapsed().as_secs_f64();
        times.sort_unstable();
        figure(&format!("cells per second, {at_once} at once"), rate, "1/s");
        for (name, part) in [("p50", 50), ("p99", 99)] {
            let time = times
                .get(times.len() * part / 100)
                .copied()
                .unwrap_or_default();
            figure(
                &format!("{name}, {at_once} at once"),
                time.as_secs_f64() * 1e3,
                "ms",
            );
        }
    }
    let started = Instant::now();
    cells.run(TOGETHER, TOGETHER).await?;
    let time = started.elapsed().as_secs_f64() * 1e3;
    figure(&format!("{TOGETHER} at once, all of them"), time, "ms");
    figure(
        "memory of an idle cell beyond its workload",
        idle_memory(backend).await?,
        "MiB",
    );
    Ok(())
}

struct Cells {
    supervisor: Supervisor,
    next: AtomicUsize,
}

impl Cells {
    /// Runs `count` cells, `at_once` of them together, and returns how long each took.
    async fn run(self: &Arc<Self>, count: usize, at_once: usize) -> Result<Vec<Duration>, Failure> {
        let left = Arc::new(AtomicUsize::new(count));
        let mut workers = Vec::new();
        for _ in 0..at_once {
            let (cells, left) = (Arc::clone(self), Arc::clone(&left));
            workers.push(tokio::spawn(async move {
                let mut times = Vec::new();
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                        left.checked_sub(1)
                    })
                    .is_ok()
                {
                    times.push(cells.run_one().await?);
                }
                Ok::<_, Failure>(times)
            }));
        }
        let mut times = Vec::new();
        for worker in workers {
            times.extend(worker.await??);
        }
        Ok(times)
    }

    async fn run_one(&self) -> Result<Duration, Failure> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let request = RunRequest {
            document: document(number, "/usr/bin/true")?,
            raw_spec_sha256: "0".repeat(64),
            run_id: format!("run-{number}"),
            streams: streams()?,
            operator_timeout: None,
            derivation: None,
            admission: None,
            universal_token: None,
            events_log: None,
        };
        let started = Instant::now();
        let outcome = self.supervisor.run(request, StopRequests::none()).await;
        let took = started.elapsed();
        match outcome.first_error {
            None => Ok(took),
            Some(error) => Err(format!("cell {number}: {error}").into()),
        }
    }
}

/// Memory that the machine has less per idle cell than per plain process of the same program.
async fn idle_memory(backend: &LinuxBackend) -> Result<f64, Failure> {
    let before = available_kib()?;
    let mut plain = Vec::new();
    for _ in 0..TOGETHER {
        plain.push(
            Command::new("/usr/bin/sleep")
                .arg("600")
                .stdin(Stdio::null())
                .spawn()?,
        );
    }
    settle().await;
    let with_plain = available_kib()?;
    for mut process in plain {
        process.kill()?;
        process.wait()?;
    }
    settle().await;
    let middle = available_kib()?;
    let mut handles: Vec<CellHandle> = Vec::new();
    for number in 0..TOGETHER {
        let handle = backend.create(&document(number, "/usr/bin/sleep")?).await?;
        backend.release(&handle.cell_id, streams()?).await?;
        handles.push(handle);
    }
    settle().await;
    let with_cells = available_kib()?;
    for handle in handles {
        backend.destroy(&handle).await?;
    }
    let plain = (before - with_plain) / TOGETHER as f64;
    let cell = (middle - with_cells) / TOGETHER as f64;
    Ok((cell - plain) / 1024.0)
}

/// Lets the kernel finish what it does in the background.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

fn available_kib() -> Result<f64, Failure> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let figure = line.and_then(|line| line.split_whitespace().next());
    Ok(figure.ok_or("no MemAvailable in /proc/meminfo")?.parse()?)
}

fn document(number: usize, program: &str) -> Result<ExecutionCellDocument, serde_json::Error> {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "cellos.io/v1",
        "kind": "ExecutionCell",
        "spec": {
            "id": format!("cell-{number}"),
            "run": { "argv": [program, "600"] },
            "authority": {},
            "lifetime": { "ttlSeconds": 60 },
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

fn figure(measure: &str, value: f64, unit: &str) {
    println!(
        "{}",
        serde_json::json!({ "measure": measure, "value": value, "unit": unit })
    );
}
