//! The contract every backend must pass, over the stand-in for Firecracker and over QEMU.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use cellos_core::{
    ExecutionCellDocument,
    document::{ExportArtifact, ExportChannels},
    ports::CellBackend,
};
use cellos_fake_vmm::{
    outside::{Guests, Play},
    settings::Guest,
};
use cellos_host_microvm::{
    Accelerators, BootFiles, DriverChoice, FirecrackerConfig, Jail, ManifestTrust, MicrovmBackend,
    MicrovmConfig, QemuConfig, RateLimits,
};
use cellos_isolation::confined::Helper;
use cellos_testkit::{Ability, Missing, contract::BackendUnderTest, minimal_document};
use sha2::{Digest as _, Sha256};

/// Names the folder of a bundle, as `cellos vm prepare` makes it.
const BUNDLE_VARIABLE: &str = "CELLOS_TEST_VM_BUNDLE";

struct MicrovmUnderTest {
    backend: Arc<MicrovmBackend>,
    folder: tempfile::TempDir,
    cycles: usize,
    /// Of the stand-in for Firecracker.
    _guests: Option<Guests>,
}

impl MicrovmUnderTest {
    fn new(
        driver: DriverChoice,
        cycles: usize,
        guest: Option<PathBuf>,
        boot: impl FnOnce(&Path) -> PathBuf,
    ) -> MicrovmUnderTest {
        let folder = tempfile::tempdir().unwrap();
        let guests = guest.map(|program| {
            let play = Play::Program(Guest {
                program,
                arguments: Vec::new(),
                environment: BTreeMap::new(),
            });
            Guests::below(folder.path().join("run"), play).unwrap()
        });
        let config = MicrovmConfig {
            boot: BootFiles::Bundle(boot(folder.path())),
            trust: ManifestTrust::Unsigned,
            driver,
            run_folder: folder.path().join("run"),
            cgroup_parent: None,
            rates: RateLimits::default(),
            pool_size: 0,
        };
        let backend = MicrovmBackend::with_helper(config, helper()).unwrap();
        Self {
            backend: Arc::new(backend),
            folder,
            cycles,
            _guests: guests,
        }
    }
}

impl BackendUnderTest for MicrovmUnderTest {
    fn backend(&self) -> Arc<dyn CellBackend> {
        self.backend.clone()
    }

    /// Lets the file out by which the contract sees whether a workload ran.
    fn document(&self, id: &str) -> ExecutionCellDocument {
        let mut document = minimal_document(id, ["/bin/true"]);
        document.spec.export = Some(ExportChannels {
            artifacts: Some(vec![ExportArtifact {
                name: "started".to_owned(),
                path: "started".to_owned(),
                target: None,
                content_type: None,
            }]),
            targets: None,
        });
        document
    }

    fn leftovers(&self) -> Vec<String> {
        let run = self.folder.path().join("run");
        let entries = fs::read_dir(run).into_iter().flatten().flatten();
        let mut left: Vec<String> = entries
            .filter(|entry| entry.path().is_dir() && entry.file_name() != "ids")
            .map(|entry| entry.path().display().to_string())
            .collect();
        if self.backend.tracked_cell_count() > 0 {
            left.push(format!("{} cells", self.backend.tracked_cell_count()));
        }
        left.extend(monitors_below(self.folder.path()));
        left
    }

    fn cycles(&self) -> usize {
        self.cycles
    }
}

/// Processes whose current folder is in one of this backend's, as monitors' is.
fn monitors_below(folder: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|process| {
            fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
        })
        .map(|process| format!("process {}", process.file_name().to_string_lossy()))
        .collect()
}

/// What was built beside this test.
pub(super) fn built(name: &str) -> Result<PathBuf, Missing> {
    let test = env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    [profile.join("examples").join(name), profile.join(name)]
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| Missing {
            word: "examples".to_owned(),
            why: format!("{name} was not built beside {}", test.display()),
        })
}

pub(super) fn helper() -> Helper {
    let named = env::var_os("NEXTEST_BIN_EXE_cellos-confined").map(PathBuf::from);
    Helper::at(named.unwrap_or_else(|| env!("CARGO_BIN_EXE_cellos-confined").into()))
}

pub(super) mod over_the_fake_firecracker {
    use super::*;

    fn fake() -> Result<MicrovmUnderTest, Missing> {
        Ability::UserNamespaces.probe()?;
        Ability::Landlock.probe()?;
        let guest = built("fake-cell-guest")?;
        let driver = DriverChoice::Firecracker(FirecrackerConfig {
            program: built("fake-firecracker-cells")?,
            jail: Jail::None,
        });
        Ok(MicrovmUnderTest::new(
            driver,
            200,
            Some(guest),
            small_bundle,
        ))
    }

    /// Files that nothing executes: the stand-in only opens them.
    pub(crate) fn small_bundle(folder: &Path) -> PathBuf {
        let mut manifest = String::new();
        for (role, name) in [
            ("kernel", "vmlinux"),
            ("rootfs", "base"),
            ("initrd", "initrd"),
        ] {
            fs::write(folder.join(name), name).unwrap();
            let digest = Sha256::digest(name);
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            manifest.push_str(&format!("sha256:{digest} {role} {name}\n"));
        }
        fs::write(folder.join("manifest"), manifest).unwrap();
        folder.to_owned()
    }

    cellos_testkit::backend_contract!(fake, runs_workloads);
}

mod over_qemu {
    use super::*;

    /// An emulated machine takes a second or two, so the many cycles are the stand-in's; these show
    /// that a second cell leaves no more than the first.
    const CYCLES: usize = 2;

    fn qemu() -> Result<MicrovmUnderTest, Missing> {
        let missing = |word: &str, why: String| Missing {
            word: word.to_owned(),
            why,
        };
        let bundle = env::var_os(BUNDLE_VARIABLE).map(PathBuf::from);
        let bundle = bundle
            .ok_or_else(|| missing("vm-bundle", format!("{BUNDLE_VARIABLE} names no bundle")))?;
        let program = PathBuf::from("/usr/bin/qemu-system-x86_64");
        if !program.is_file() {
            return Err(missing(
                "qemu",
                format!("there is no {}", program.display()),
            ));
        }
        let driver = DriverChoice::Qemu(QemuConfig {
            program,
            accelerators: Accelerators::Best,
        });
        Ok(MicrovmUnderTest::new(driver, CYCLES, None, |_| bundle))
    }

    cellos_testkit::backend_contract!(qemu, runs_workloads);
}
