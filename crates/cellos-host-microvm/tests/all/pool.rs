//! The warm pool over snapshots of the stand-in for Firecracker. A snapshot of it saves no process: a
//! restored machine has a fresh guest, so what is seen here is the host's side.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use cellos_bridge::{Config, GuestEnd, Hello, HostMessage, HostSilence, Nonce};
use cellos_core::ports::{
    CellBackend,
    workload::{MachineOrigin, Notice, PoolOutcome, Streams, WorkloadControl as _},
};
use cellos_fake_vmm::outside::{Guests, Machine, Play};
use cellos_host_microvm::{
    BootFiles, DriverChoice, FirecrackerConfig, Jail, ManifestTrust, MicrovmBackend, MicrovmConfig,
    RateLimits,
};
use cellos_testkit::{minimal_document, require};

use crate::contract::{built, helper, over_the_fake_firecracker::small_bundle};

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// The vsock port on which the backend listens for PID 1.
const BRIDGE_PORT: u32 = 9010;

/// What hosts told their guests, by machine.
type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

/// Runs the real guest with somebody in between who writes down what the host says.
fn overheard(machine: &Machine, guest: &Path, heard: &Heard) {
    let device = machine.device.as_ref().unwrap();
    let mut host: UnixStream = device.dial(BRIDGE_PORT).unwrap().into();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut child = Command::new(guest)
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .spawn()
        .unwrap();
    let (mut from_guest, mut to_host) = (ours.try_clone().unwrap(), host.try_clone().unwrap());
    let outward = thread::spawn(move || {
        // The end of either side is the end of the dialogue.
        let _ = std::io::copy(&mut from_guest, &mut to_host);
        let _ = to_host.shutdown(std::net::Shutdown::Both);
    });
    let mine = {
        let mut heard = heard.lock().unwrap();
        heard.push(Vec::new());
        heard.len() - 1
    };
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = host.read(&mut buffer) {
        heard.lock().unwrap()[mine].extend_from_slice(&buffer[..read]);
        if ours.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = ours.shutdown(std::net::Shutdown::Both);
    outward.join().unwrap();
    child.wait().unwrap();
    if heard.lock().unwrap()[mine].is_empty() {
        // A parked guest whose host leaves stays, to be written to files.
        thread::sleep(PATIENCE);
    }
}

/// The configuration that a guest was sent, if any.
fn config(mut said: &[u8]) -> Option<Box<Config>> {
    let hello = Hello {
        guest_version: "0".to_owned(),
        kernel_release: "0".to_owned(),
        architecture: "x86_64".to_owned(),
        boot_nonce: Nonce([7; 32]),
        boot_ms: 1,
    };
    let mut end = GuestEnd::new(&hello, HostSilence::Tolerated, Instant::now()).unwrap();
    match end.receive(&mut said, Instant::now()).unwrap()? {
        HostMessage::Config(config) => Some(config),
        other => panic!("the host began with {other:?}"),
    }
}

fn silent() -> Streams {
    let null = || fs::File::options().read(true).write(true).open("/dev/null");
    Streams {
        stdin: null().unwrap().into(),
        stdout: null().unwrap().into(),
        stderr: null().unwrap().into(),
    }
}

struct Setup {
    backend: MicrovmBackend,
    run: PathBuf,
    heard: Heard,
    _guests: Guests,
    _folder: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let heard = Heard::default();
        let (guest, told) = (built("fake-cell-guest").unwrap(), Arc::clone(&heard));
        let play = Play::Function(Arc::new(move |machine| overheard(&machine, &guest, &told)));
        let guests = Guests::below(&run, play).unwrap();
        let config = MicrovmConfig {
            boot: BootFiles::Bundle(small_bundle(folder.path())),
            trust: ManifestTrust::Unsigned,
            driver: DriverChoice::Firecracker(FirecrackerConfig {
                program: built("fake-firecracker-cells").unwrap(),
                jail: Jail::None,
            }),
            run_folder: run.clone(),
            cgroup_parent: None,
            rates: RateLimits::default(),
            pool_size: 1,
        };
        Self {
            backend: MicrovmBackend::with_helper(config, helper()).unwrap(),
            run,
            heard,
            _guests: guests,
            _folder: folder,
        }
    }

    /// Runs a cell to its end; what the pool said, and where the machine came from.
    async fn run(&self, id: &str) -> (PoolOutcome, MachineOrigin) {
        let mut document = minimal_document(id, ["/bin/sh", "-c", "exit 5"]);
        // As little as there can be: a snapshot is as large, and is hashed.
        if let Some(run) = &mut document.spec.run {
            let limits = serde_json::json!({ "memoryMaxBytes": 16 << 20 });
            run.limits = serde_json::from_value(limits).unwrap();
        }
        let handle = self.backend.create(&document).await.unwrap();
        let notices = self.backend.take_notices(id);
        let [Notice::PoolCheckout { outcome, .. }] = notices[..] else {
            panic!("{notices:?}");
        };
        let machine = self.backend.posture(id).await.unwrap().machine.unwrap();
        self.backend.release(id, silent()).await.unwrap();
        let code = self.backend.wait_for_in_vm_exit(id).await.unwrap();
        assert_eq!(code.unwrap(), 5);
        self.backend.destroy(&handle).await.unwrap();
        (outcome, machine.origin)
    }

    /// The files of the only snapshot, once it is there.
    fn snapshot(&self) -> Option<[PathBuf; 2]> {
        let places = fs::read_dir(&self.run).ok()?.flatten();
        let mut found = places.filter_map(|place| {
            let files = ["state", "memory"].map(|name| place.path().join(name));
            // Kept, and what the machine had is gone.
            let kept = files.iter().all(|file| file.exists()) && !place.path().join("m").exists();
            kept.then_some(files)
        });
        found.next()
    }

    async fn wait_for_snapshot(&self) -> [PathBuf; 2] {
        let begun = Instant::now();
        loop {
            if let Some(files) = self.snapshot() {
                // It is put on its shelf a moment later.
                tokio::time::sleep(Duration::from_millis(100)).await;
                return files;
            }
            assert!(begun.elapsed() < PATIENCE, "no snapshot was made");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn places(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.run).into_iter().flatten().flatten();
        let places = entries.map(|entry| entry.path());
        places.filter(|path| path.is_dir()).collect()
    }
}

mod as_root {
    use super::*;

    #[tokio::test]
    async fn cells_of_one_snapshot_share_no_secret_and_the_pool_is_drained() {
        require!("root");
        require!("fake-vmm", built("fake-firecracker-cells").map(drop));
        require!("landlock");
        let setup = Setup::new();
        let missed = (PoolOutcome::Miss, MachineOrigin::Booted);
        assert_eq!(setup.run("first").await, missed);
        setup.wait_for_snapshot().await;
        let restored = (PoolOutcome::Hit, MachineOrigin::Restored);
        assert_eq!(setup.run("second").await, restored);
        assert_eq!(setup.run("third").await, restored);

        let heard = setup.heard.lock().unwrap().clone();
        let configs: Vec<_> = heard.iter().filter_map(|said| config(said)).collect();
        let cells: Vec<_> = configs.iter().map(|config| &*config.cell_id).collect();
        assert_eq!(cells, ["first", "second", "third"]);
        // The one that was written to files was told nothing.
        assert_eq!(heard.len(), configs.len() + 1);
        for (index, one) in configs.iter().enumerate() {
            for other in &configs[..index] {
                assert!(one.session_key != other.session_key);
                assert!(one.host_nonce != other.host_nonce);
                assert!(one.entropy != other.entropy);
                assert_ne!(one.run_id, other.run_id);
            }
        }

        assert_eq!(setup.places().len(), 1, "the snapshot's");
        drop(setup.backend);
        let begun = Instant::now();
        while fs::read_dir(&setup.run)
            .unwrap()
            .flatten()
            .any(|entry| entry.path().is_dir())
        {
            assert!(begun.elapsed() < PATIENCE);
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[tokio::test]
    async fn an_altered_snapshot_is_not_restored_and_the_cell_boots() {
        require!("root");
        require!("fake-vmm", built("fake-firecracker-cells").map(drop));
        require!("landlock");
        let setup = Setup::new();
        setup.run("first").await;
        let [_, memory] = setup.wait_for_snapshot().await;
        let mut altered = fs::read(&memory).unwrap();
        *altered.last_mut().unwrap() ^= 1;
        fs::set_permissions(&memory, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&memory, altered).unwrap();
        fs::set_permissions(&memory, fs::Permissions::from_mode(0o444)).unwrap();
        let missed = (PoolOutcome::Miss, MachineOrigin::Booted);
        assert_eq!(setup.run("second").await, missed);
    }
}
