//! The contract every backend must pass, as it is started and with cells begun beforehand.

use std::{fs, path::PathBuf, sync::Arc};

use cellos_core::{ExecutionCellDocument, ports::CellBackend};
use cellos_host_linux::LinuxBackend;
use cellos_isolation::{LauncherOptions, Warm};
use cellos_testkit::{
    Ability, Missing,
    contract::{BackendUnderTest, Probe},
};

use crate::support::{backend_with, document};

/// What `create` depends on and a test can take away, in the order `create` meets it.
const SOURCE_IS_GONE: &str = "opening the source of a mount";
const SOURCE_IS_A_LINK: &str = "refusing a link as the source of a mount";
const FOLDER_IS_GONE: &str = "entering the working folder inside the cell";

struct LinuxUnderTest {
    backend: Arc<LinuxBackend>,
    /// Holds the source of the mount that every document declares.
    host: tempfile::TempDir,
}

impl LinuxUnderTest {
    fn with(warm: Warm) -> Result<Self, Missing> {
        Ability::UserNamespaces.probe()?;
        let options = LauncherOptions {
            warm,
            ..LauncherOptions::default()
        };
        let under_test = Self {
            backend: Arc::new(backend_with(&options)),
            host: tempfile::tempdir().unwrap(),
        };
        under_test.mend();
        Ok(under_test)
    }

    fn source(&self) -> PathBuf {
        self.host.path().canonicalize().unwrap().join("source")
    }

    /// Puts everything back that `inject` takes away.
    fn mend(&self) {
        let source = self.source();
        if source.is_symlink() {
            fs::remove_file(&source).unwrap();
        }
        fs::create_dir_all(source.join("folder")).unwrap();
    }
}

impl BackendUnderTest for LinuxUnderTest {
    fn backend(&self) -> Arc<dyn CellBackend> {
        self.backend.clone()
    }

    fn document(&self, id: &str) -> ExecutionCellDocument {
        document(
            id,
            &serde_json::json!({ "argv": ["/bin/true"], "workingDirectory": "/data/folder" }),
            &serde_json::json!({ "filesystem": { "mounts": [
                { "source": self.source(), "target": "/data", "access": "rw" },
            ] } }),
        )
    }

    fn command(&self, probe: Probe) -> Vec<String> {
        probe.shell_command()
    }

    fn leftovers(&self) -> Vec<String> {
        self.mend();
        let mut left = cgroup_leaves();
        if self.backend.tracked_cell_count() > 0 {
            left.push(format!(
                "{} tracked cells",
                self.backend.tracked_cell_count()
            ));
        }
        left
    }

    fn fault_points(&self) -> Vec<String> {
        [SOURCE_IS_GONE, SOURCE_IS_A_LINK, FOLDER_IS_GONE]
            .map(str::to_owned)
            .into()
    }

    fn inject(&self, point: &str) {
        let source = self.source();
        fs::remove_dir_all(source.join("folder")).unwrap();
        match point {
            SOURCE_IS_GONE => fs::remove_dir(&source).unwrap(),
            SOURCE_IS_A_LINK => {
                fs::remove_dir(&source).unwrap();
                std::os::unix::fs::symlink("/", &source).unwrap();
            }
            FOLDER_IS_GONE => {}
            unknown => panic!("no fault point {unknown:?}"),
        }
    }
}

/// Control groups of cells that this process's launchers made, in every hierarchy.
fn cgroup_leaves() -> Vec<String> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let mut left = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let hierarchy = if controllers.is_empty() {
            "unified"
        } else {
            controllers
        };
        let folder = PathBuf::from(format!("/sys/fs/cgroup/{hierarchy}{path}"));
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // Other test processes make cells beside this one's; theirs have other names.
            if name.starts_with("cellos_") && name.contains("unlucky") {
                left.push(entry.path().display().to_string());
            }
        }
    }
    left
}

mod cold {
    use super::{LinuxUnderTest, Missing, Warm};

    fn cold() -> Result<LinuxUnderTest, Missing> {
        LinuxUnderTest::with(Warm::Never)
    }

    cellos_testkit::backend_contract!(cold, runs_workloads);
}

mod warm {
    use std::{sync::Arc, time::Duration};

    use async_trait::async_trait;
    use cellos_core::{
        CellosError, ExecutionCellDocument,
        descriptor::BackendDescriptor,
        ports::{CellBackend, CellHandle, TeardownReport, workload::WorkloadControl},
    };
    use cellos_testkit::contract::{BackendUnderTest, Probe};

    use super::{LinuxUnderTest, Missing, Warm};

    /// Begun cells that the launcher keeps.
    const KEPT: u16 = 2;

    /// The same backend, whose `destroy` returns when the launcher has begun the next cells, so
    /// that cases which count processes always find the same number of them.
    struct Settled(Arc<dyn CellBackend>);

    #[async_trait]
    impl CellBackend for Settled {
        async fn create(&self, spec: &ExecutionCellDocument) -> Result<CellHandle, CellosError> {
            self.0.create(spec).await
        }

        async fn destroy(&self, handle: &CellHandle) -> Result<TeardownReport, CellosError> {
            let report = self.0.destroy(handle).await;
            for _ in 0..2000 {
                if begun_cells() >= usize::from(KEPT) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            report
        }

        async fn wait_for_in_vm_exit(&self, cell_id: &str) -> Option<Result<i32, CellosError>> {
            self.0.wait_for_in_vm_exit(cell_id).await
        }

        fn descriptor(&self) -> BackendDescriptor {
            self.0.descriptor()
        }

        fn workload(&self) -> Option<&dyn WorkloadControl> {
            self.0.workload()
        }
    }

    /// Inits below this process's launcher that have no child: no workload was forked yet.
    fn begun_cells() -> usize {
        let children = |pid: u32| -> Vec<u32> {
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
                .unwrap_or_default()
                .split_whitespace()
                .filter_map(|child| child.parse().ok())
                .collect()
        };
        let own_threads = std::fs::read_dir("/proc/self/task").unwrap();
        own_threads
            .flat_map(|thread| {
                let path = thread.unwrap().path().join("children");
                std::fs::read_to_string(path)
                    .unwrap_or_default()
                    .split_whitespace()
                    .filter_map(|child| child.parse::<u32>().ok())
                    .collect::<Vec<_>>()
            })
            .flat_map(children)
            .filter(|init| children(*init).is_empty())
            .count()
    }

    struct WarmUnderTest(LinuxUnderTest, Arc<Settled>);

    impl BackendUnderTest for WarmUnderTest {
        fn backend(&self) -> Arc<dyn CellBackend> {
            self.1.clone()
        }

        fn document(&self, id: &str) -> ExecutionCellDocument {
            self.0.document(id)
        }

        fn command(&self, probe: Probe) -> Vec<String> {
            self.0.command(probe)
        }

        fn leftovers(&self) -> Vec<String> {
            self.0.leftovers()
        }

        fn fault_points(&self) -> Vec<String> {
            self.0.fault_points()
        }

        fn inject(&self, point: &str) {
            self.0.inject(point);
        }
    }

    fn warm() -> Result<WarmUnderTest, Missing> {
        let linux = LinuxUnderTest::with(Warm::Keep(KEPT))?;
        let settled = Arc::new(Settled(linux.backend()));
        Ok(WarmUnderTest(linux, settled))
    }

    cellos_testkit::backend_contract!(warm, runs_workloads);
}
