//! A host for the driver: folders, files to boot, programs.
//!
//! The programs are the stand-ins of `cellos-fake-vmm`. Where `CELLOS_FIRECRACKER_BINARY` and
//! `CELLOS_FIRECRACKER_JAILER_BINARY` name real ones, tests that need no guest use those.

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cellos_fake_vmm::programs::Program;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt as _, net::UnixStream, time};

use crate::{
    artifacts::{Artifact, Artifacts},
    config::{
        BootFiles, DriverChoice, FirecrackerConfig, Jail, ManifestTrust, MicrovmConfig, RateLimits,
    },
    place::Place,
    plan::MachineShape,
    vmm::{
        BootOrder, Driver as _, Machine, MonitorLimits, Snapshot, VmmError,
        firecracker::{
            Firecracker,
            jail::FOLDER,
            stage::{Use, digest},
        },
    },
};

/// How long anything may take before a test fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// First user id of the tests' pool.
pub(super) const FIRST_ID: u32 = 871_000;

pub(super) const SHAPE: MachineShape = MachineShape {
    vcpus: 2,
    memory_mib: 64,
};

/// Whether machines have jails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Jailed,
    Unjailed,
}

/// Which programs are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Programs {
    /// The stand-ins: there is a guest, or the settings say what goes wrong.
    Fake,
    /// Real ones, if they were named.
    RealIfNamed,
}

pub(super) struct Host {
    pub(super) folder: TempDir,
    pub(super) artifacts: Artifacts,
    pub(super) config: MicrovmConfig,
    pub(super) driver: Firecracker,
    record: crate::place::Record,
}

/// For `cellos_testkit::require!`: whether the stand-ins were built.
pub(super) fn fakes() -> Result<(), String> {
    for program in [Program::Firecracker, Program::Jailer] {
        program.find().map_err(|error| error.to_string())?;
    }
    guest().map(drop)
}

impl Host {
    /// `settings` are the stand-in's; the guest is added.
    pub(super) fn new(kind: Kind, programs: Programs, settings: Value) -> Self {
        let guest = settings;
        Self::with(kind, programs, guest, |_| ())
    }

    pub(super) fn with(
        kind: Kind,
        programs: Programs,
        mut settings: Value,
        change: impl FnOnce(&mut MicrovmConfig),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            artifact(&path)
        };
        let artifacts = Artifacts {
            kernel: file("vmlinux", "no kernel"),
            initrd: Some(file("initrd.img", "no disk")),
            base: file("base.img", "no file system"),
            monitor: artifact(&program(Program::Firecracker, programs)),
            jailer: (kind == Kind::Jailed).then(|| artifact(&program(Program::Jailer, programs))),
        };
        let jail = match kind {
            Kind::Jailed => Jail::Jailer {
                program: artifacts.jailer.as_ref().unwrap().path.clone(),
                chroot_base: folder.path().join("jails"),
                first_id: FIRST_ID,
                ids: 50,
            },
            Kind::Unjailed => Jail::None,
        };
        let firecracker = FirecrackerConfig {
            program: artifacts.monitor.path.clone(),
            jail,
        };
        let mut config = MicrovmConfig {
            boot: BootFiles::Bundle(folder.path().into()),
            trust: ManifestTrust::Unsigned,
            driver: DriverChoice::Firecracker(firecracker),
            run_folder: folder.path().into(),
            cgroup_parent: None,
            rates: RateLimits::default(),
            pool_size: 0,
        };
        change(&mut config);
        let mut driver = Self::driver(&config, &artifacts).unwrap();
        let port = driver.guest_port().to_string();
        settings["guest"] = match kind {
            Kind::Jailed => json!({ "program": "/guest", "arguments": [port] }),
            Kind::Unjailed => json!({ "program": "./guest", "arguments": [port] }),
        };
        driver.extra_files = vec![
            (
                "fake-vmm.json".into(),
                file("fake-vmm.json", &settings.to_string()),
                Use::Read,
            ),
            ("guest".into(), artifact(&guest().unwrap()), Use::Execute),
        ];
        Self {
            folder,
            artifacts,
            config,
            driver,
            record: crate::place::Record::nowhere(),
        }
    }

    pub(super) fn driver(
        config: &MicrovmConfig,
        artifacts: &Artifacts,
    ) -> Result<Firecracker, VmmError> {
        let DriverChoice::Firecracker(settings) = &config.driver else {
            unreachable!();
        };
        Firecracker::new(config, settings, artifacts, crate::testing::helper())
    }

    pub(super) fn machine_folder(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn jails(&self) -> PathBuf {
        self.folder.path().join("jails/firecracker")
    }

    pub(super) fn root(&self, name: &str) -> PathBuf {
        match self.artifacts.jailer {
            Some(_) => self.jails().join(name).join("root"),
            None => self.machine_folder(name).join(FOLDER),
        }
    }

    pub(super) async fn boot(&self, name: &str) -> Result<Box<dyn Machine>, VmmError> {
        self.boot_within(name, MonitorLimits::default()).await
    }

    pub(super) async fn boot_within(
        &self,
        name: &str,
        limits: MonitorLimits,
    ) -> Result<Box<dyn Machine>, VmmError> {
        let folder = self.machine_folder(name);
        fs::create_dir(&folder).unwrap();
        let order = self.order(name, &folder, limits);
        time::timeout(PATIENCE, self.driver.boot(order))
            .await
            .unwrap()
    }

    /// In a place with a record, which is left to whoever finds it.
    pub(super) async fn boot_in(&self, place: &Place) -> Result<Box<dyn Machine>, VmmError> {
        let order = BootOrder {
            record: place.record(),
            ..self.order(place.name(), place.folder(), MonitorLimits::default())
        };
        self.driver.boot(order).await
    }

    /// With a name that was used before, or that no machine may have.
    pub(super) async fn boot_named(&self, name: &str) -> Result<Box<dyn Machine>, VmmError> {
        let order = self.order(name, self.folder.path(), MonitorLimits::default());
        time::timeout(PATIENCE, self.driver.boot(order))
            .await
            .unwrap()
    }

    pub(super) async fn restore(
        &self,
        name: &str,
        snapshot: &Snapshot,
    ) -> Result<Box<dyn Machine>, VmmError> {
        let folder = self.machine_folder(name);
        fs::create_dir(&folder).unwrap();
        let order = self.order(name, &folder, MonitorLimits::default());
        let restored = self.driver.restore(order, snapshot);
        time::timeout(PATIENCE, restored).await.unwrap()
    }

    fn order<'a>(
        &'a self,
        name: &'a str,
        folder: &'a Path,
        limits: MonitorLimits,
    ) -> BootOrder<'a> {
        BootOrder {
            name,
            shape: SHAPE,
            artifacts: &self.artifacts,
            folder,
            record: &self.record,
            limits,
            network: None,
            extra_boot_arguments: "test.words=1",
        }
    }

    /// Nothing of any machine is there but what the test itself put into its folder.
    pub(super) fn assert_clean(&self, name: &str) {
        if self.artifacts.jailer.is_some() {
            assert_eq!(names(&self.jails()), Vec::<String>::new());
        }
        let mut left = names(&self.machine_folder(name));
        left.retain(|name| !["fake-vmm.json", "guest", "state", "memory"].contains(&&**name));
        assert_eq!(left, Vec::<String>::new());
    }
}

pub(super) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

pub(super) fn artifact(path: &Path) -> Artifact {
    let file = File::open(path).unwrap();
    Artifact {
        path: path.into(),
        sha256: digest(&file).unwrap(),
        file: Arc::new(file),
    }
}

/// What the guest says when it has connected.
pub(super) async fn report(machine: &dyn Machine) -> (UnixStream, Value) {
    let mut stream = time::timeout(PATIENCE, machine.bridge())
        .await
        .unwrap()
        .unwrap();
    let mut text = Vec::new();
    while text.last() != Some(&b'\n') {
        text.push(
            time::timeout(PATIENCE, stream.read_u8())
                .await
                .unwrap()
                .unwrap(),
        );
    }
    (stream, serde_json::from_slice(&text).unwrap())
}

pub(super) fn is_there(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn program(program: Program, programs: Programs) -> PathBuf {
    let variable = match program {
        Program::Firecracker => "CELLOS_FIRECRACKER_BINARY",
        Program::Jailer => "CELLOS_FIRECRACKER_JAILER_BINARY",
    };
    match env::var_os(variable) {
        Some(real) if programs == Programs::RealIfNamed => real.into(),
        _ => {
            eprintln!("{}: the stand-in of the tests is used", program.name());
            program.find().unwrap()
        }
    }
}

fn guest() -> Result<PathBuf, String> {
    let test = env::current_exe().map_err(|error| error.to_string())?;
    let profile = test.ancestors().nth(2).unwrap_or(&test);
    let path = profile.join("examples/fake-guest");
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("{} was not built", path.display()))
    }
}
