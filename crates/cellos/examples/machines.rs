//! Cells in virtual machines: what each step of one costs, and what a parked machine saves. Prints
//! one figure a line; `cargo xtask bench` runs it.
//!
//! `machines BUNDLE`, with the bundle that `cellos vm prepare` makes. Fails if any cell does not end
//! as it should.

use std::{
    error::Error,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use cellos_core::{
    ExecutionCellDocument,
    ports::{
        CellBackend,
        workload::{GuestExecution, Streams, WorkloadControl},
    },
};
use cellos_host_microvm::{
    Accelerators, BootFiles, DriverChoice, ManifestTrust, MicrovmBackend, MicrovmConfig,
    QemuConfig, RateLimits,
};

/// Machines that are measured, after one that is not.
const RUNS: usize = 15;
/// QEMU, where Debian puts it.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    // The program is executed again to confine a monitor.
    cellos_isolation::confined::take_over_if_asked();
    let Some(bundle) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: machines BUNDLE");
        return ExitCode::FAILURE;
    };
    match measure(&bundle) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("machines: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(bundle: &Path) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let folder = std::env::temp_dir().join(format!("cellos-machines-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let result = runtime.block_on(async {
        plain_qemu(bundle)?;
        management_interface()?;
        let mut steps = Steps::default();
        let backend = MicrovmBackend::new(config(bundle, &folder.join("cold"), 0))?;
        for number in 0..=RUNS {
            let run = one(&backend, number).await?;
            if number > 0 {
                steps.add(&run);
            }
        }
        steps.print_boot();
        steps.print("booted");
        println!(
            "{}",
            figure(
                "memory of the monitor beyond its guest",
                steps.memory(),
                "MiB"
            )
        );
        drop(backend);

        let mut steps = Steps::default();
        let backend = MicrovmBackend::new(config(bundle, &folder.join("warm"), 1))?;
        for number in 0..=RUNS {
            // The pool fills in the background; what is measured is a checkout, not the wait.
            tokio::time::sleep(Duration::from_secs(3)).await;
            let run = one(&backend, number).await?;
            if number > 0 {
                steps.add(&run);
            }
        }
        steps.print("parked");
        Ok(())
    });
    fs::remove_dir_all(&folder)?;
    result
}

fn config(bundle: &Path, run_folder: &Path, pool_size: u16) -> MicrovmConfig {
    MicrovmConfig {
        boot: BootFiles::Bundle(bundle.to_owned()),
        trust: ManifestTrust::Unsigned,
        driver: DriverChoice::Qemu(QemuConfig {
            program: QEMU.into(),
            accelerators: Accelerators::Best,
        }),
        run_folder: run_folder.to_owned(),
        cgroup_parent: None,
        rates: RateLimits::default(),
        pool_size,
    }
}

/// How long each step of one cell took.
struct Run {
    create: Duration,
    release: Duration,
    exit: Duration,
    destroy: Duration,
    /// From the start of the monitor, or the checkout, to a PID 1 that has spoken.
    ready: Duration,
    /// Resident memory of the monitor less that of the guest, in MiB.
    beyond_guest: f64,
    execution: GuestExecution,
}

async fn one(backend: &MicrovmBackend, number: usize) -> Result<Run, Failure> {
    let started = Instant::now();
    let cell = backend.create(&document(number)?).await?;
    let create = started.elapsed();
    let posture = backend.posture(&cell.cell_id).await?;
    let beyond_guest = beyond_guest(posture.pid)?;
    let machine = posture.machine.ok_or("the posture names no machine")?;
    let started = Instant::now();
    backend.release(&cell.cell_id, streams()?).await?;
    let release = started.elapsed();
    let started = Instant::now();
    match backend.wait_for_in_vm_exit(&cell.cell_id).await {
        Some(Ok(7)) => {}
        other => return Err(format!("cell {number} ended with {other:?}").into()),
    }
    let exit = started.elapsed();
    let started = Instant::now();
    backend.destroy(&cell).await?;
    Ok(Run {
        create,
        release,
        exit,
        destroy: started.elapsed(),
        ready: machine.ready_after,
        beyond_guest,
        execution: machine.execution,
    })
}

/// What a monitor has resident that is not its guest's memory, which is one shared mapping.
fn beyond_guest(pid: u32) -> Result<f64, Failure> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |name: &str| -> Result<f64, Failure> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let figure = line.and_then(|line| line.split_whitespace().next());
        Ok(figure
            .ok_or("no such figure in the monitor's status")?
            .parse()?)
    };
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    // The guest's memory is by far the largest mapping.
    let mut largest = (0.0, 0.0);
    let mut size = 0.0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match (
            words.next(),
            words.next().and_then(|word| word.parse().ok()),
        ) {
            (Some("Size:"), Some(figure)) => size = figure,
            (Some("Rss:"), Some(resident)) if size > largest.0 => largest = (size, resident),
            _ => {}
        }
    }
    Ok((kib("VmRSS:")? - largest.1) / 1024.0)
}

/// From the start of QEMU alone until it answers on its management interface, with nothing booted.
fn management_interface() -> Result<(), Failure> {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let started = Instant::now();
        let mut monitor = Command::new(QEMU)
            .args([
                "-M",
                "microvm",
                "-nodefaults",
                "-no-user-config",
                "-nographic",
            ])
            .args(["-S", "-qmp", "stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut greeting = String::new();
        if let Some(stdout) = monitor.stdout.take() {
            BufReader::new(stdout).read_line(&mut greeting)?;
        }
        times.push(started.elapsed());
        monitor.kill()?;
        monitor.wait()?;
        if !greeting.contains("QMP") {
            return Err("QEMU alone did not greet".into());
        }
    }
    let name = "QEMU alone: start to its management interface";
    println!("{}", figure(name, p50(&mut times), "ms"));
    Ok(())
}

/// The same kernel and initial RAM disk under QEMU alone: from its start to the machine's reset,
/// which comes as soon as the init finds no bridge. What any user of QEMU would pay.
fn plain_qemu(bundle: &Path) -> Result<(), Failure> {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let started = Instant::now();
        let status = Command::new(QEMU)
            .args([
                "-M",
                "microvm,acpi=off",
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max",
                "-m",
                "384",
                "-nodefaults",
                "-no-user-config",
                "-nographic",
                "-no-reboot",
                "-serial",
                "null",
                "-append",
                "reboot=t panic=-1 quiet",
                "-kernel",
            ])
            .arg(bundle.join("kernel"))
            .arg("-initrd")
            .arg(bundle.join("initrd"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        if !status.success() {
            return Err(format!("QEMU alone ended with {status}").into());
        }
        times.push(started.elapsed());
    }
    println!(
        "{}",
        figure(
            "QEMU alone, emulated: start to reset by the init",
            p50(&mut times),
            "ms"
        )
    );
    Ok(())
}

#[derive(Default)]
struct Steps {
    create: Vec<Duration>,
    release: Vec<Duration>,
    exit: Vec<Duration>,
    destroy: Vec<Duration>,
    ready: Vec<Duration>,
    beyond_guest: Vec<f64>,
    execution: Option<GuestExecution>,
}

impl Steps {
    fn add(&mut self, run: &Run) {
        self.create.push(run.create);
        self.release.push(run.release);
        self.exit.push(run.exit);
        self.destroy.push(run.destroy);
        self.ready.push(run.ready);
        self.beyond_guest.push(run.beyond_guest);
        self.execution = Some(run.execution);
    }

    fn print(&mut self, origin: &str) {
        for (name, times) in [
            ("create to parked init and cell", &mut self.create),
            ("parked to exec", &mut self.release),
            ("exec to exit code, of `exit 7`", &mut self.exit),
            ("destroy", &mut self.destroy),
        ] {
            println!("{}", figure(&format!("{origin}: {name}"), p50(times), "ms"));
        }
    }

    fn print_boot(&mut self) {
        let execution = match self.execution {
            Some(GuestExecution::Kvm) => "by KVM",
            Some(GuestExecution::Emulated) => "emulated",
            Some(GuestExecution::Fake) | None => "by nothing real",
        };
        let name = format!("booted: start of the monitor to a PID 1 that has spoken, {execution}");
        println!("{}", figure(&name, p50(&mut self.ready), "ms"));
    }

    fn memory(&mut self) -> f64 {
        self.beyond_guest.sort_by(f64::total_cmp);
        self.beyond_guest
            .get(self.beyond_guest.len() / 2)
            .copied()
            .unwrap_or_default()
    }
}

fn p50(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times
        .get(times.len() / 2)
        .copied()
        .unwrap_or_default()
        .as_secs_f64()
        * 1e3
}

fn document(number: usize) -> Result<ExecutionCellDocument, serde_json::Error> {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "cellos.io/v1",
        "kind": "ExecutionCell",
        "spec": {
            "id": format!("cell-{number}"),
            "run": { "argv": ["sh", "-c", "exit 7"] },
            "authority": {},
            "lifetime": { "ttlSeconds": 120 },
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

fn figure(measure: &str, value: f64, unit: &str) -> serde_json::Value {
    serde_json::json!({ "measure": measure, "value": value, "unit": unit })
}
