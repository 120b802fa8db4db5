//! The machine of `guests/bare`: what it computes, and that it carries an exit frame from a real
//! monitor's guest to a Unix socket of the host and an acknowledgement back.

mod encoding;
mod firecracker;
mod instructions;
mod qemu;

use std::{
    ffi::OsString,
    fs,
    io::{ErrorKind, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    thread::sleep,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long a machine may take to dial, and how long to end: seconds of an emulator on a busy host,
/// more than the guest itself waits.
const MACHINE_BOUND: Duration = Duration::from_secs(30);

const TURN: Duration = Duration::from_millis(2);

const PORT: u32 = 9000;

/// The key 00 01 … 1f and the frame of code 42 of the cell `cell-vec-1`: published vectors.
const WORDS: &str = "cellos.cell_id=cell-vec-1 cellos.vsock_port=9000 \
     cellos.exit_hmac_key=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8= bare.exit=42";
const FRAME: &str = "2a0000005c94671d1d5a50b6d78338f6ef805a30a7aedd5133104835115871d322c57720";

/// Which of its entries the guest is built for.
#[derive(Debug, Clone, Copy)]
enum Entry {
    /// As it is: the monitor chooses.
    AsOffered,
    /// By PVH, and from there over the entry of Linux's protocol.
    Relayed,
    /// That of Linux's protocol alone.
    WithoutPvh,
}

/// A folder with the guest in it, and with everything else of a test.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new(entry: Entry) -> Self {
        // Short, since the address of a Unix socket has at most 107 bytes.
        let folder = tempfile::Builder::new()
            .prefix("bare")
            .tempdir_in("/tmp")
            .unwrap();
        let place = Self { folder };
        build(entry, &place.guest());
        place
    }

    fn guest(&self) -> PathBuf {
        self.path("guest")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the machine wrote to its serial port.
    fn serial(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("serial")).unwrap_or_default()).into_owned()
    }

    /// The host's end of the port, named as both monitors name it.
    fn listen(&self) -> UnixListener {
        let listener = UnixListener::bind(self.path(&format!("v_{PORT}"))).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    }
}

/// Compiles the guest as its README says.
fn build(entry: Entry, output: &Path) {
    let source = sources();
    let mut command = Command::new(rustc());
    command.args([
        "--edition=2024",
        "--crate-name=bare_guest",
        "--target=x86_64-unknown-linux-gnu",
        "-Cpanic=abort",
        "-Copt-level=s",
        "-Ccodegen-units=1",
        "-Crelocation-model=static",
        "-Ctarget-feature=-sse",
    ]);
    command.arg(format!(
        "-Clink-args=-nostartfiles -nostdlib -static -no-pie -T {}",
        source.join("guest.ld").display()
    ));
    match entry {
        Entry::AsOffered => {}
        Entry::Relayed => drop(command.args(["--cfg", "relay"])),
        Entry::WithoutPvh => drop(command.args(["--cfg", "without_pvh"])),
    }
    let built = command
        .arg("-o")
        .arg(output)
        .arg(source.join("main.rs"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{said}");
}

fn sources() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
    Path::new(&manifest).join("guests/bare")
}

fn rustc() -> PathBuf {
    std::env::var_os("RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from)
}

/// Whether there is a compiler with the target's core library.
fn can_build() -> Result<(), String> {
    answers(Command::new(rustc()).arg("-vV"))
}

/// Whether a program starts and ends well.
fn answers(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{name} ends with {}", output.status)),
    }
}

/// A process that does not outlive the test.
struct Guarded(Child);

impl Guarded {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }

    /// Waits for its own end.
    fn end(&mut self) -> ExitStatus {
        wait_for("the monitor to end", || self.ended())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // It may have ended already, and a failed test must not become an abort.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The guest's connection.
fn accept(listener: &UnixListener, monitor: &mut Guarded, place: &Place) -> UnixStream {
    let stream = wait_for("the machine to dial", || match listener.accept() {
        Ok((stream, _)) => Some(stream),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            if let Some(status) = monitor.ended() {
                panic!(
                    "the monitor ended with {status}, serial {:?}",
                    place.serial()
                );
            }
            None
        }
        Err(error) => panic!("{error}"),
    });
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(MACHINE_BOUND)).unwrap();
    stream
}

/// Reads one frame, in hexadecimal digits.
fn read_frame(stream: &mut UnixStream) -> String {
    let mut frame = [0; encoding::FRAME_BYTES];
    stream.read_exact(&mut frame).unwrap();
    hex(&frame)
}

/// Plays the host: takes the frame, sees that the machine waits, acknowledges and sees it end.
fn takes_the_frame(place: &Place, listener: &UnixListener, monitor: &mut Guarded) -> ExitStatus {
    let mut stream = accept(listener, monitor, place);
    assert_eq!(read_frame(&mut stream), FRAME);
    // Long enough for a machine that does not wait to be gone.
    sleep(Duration::from_millis(300));
    assert_eq!(
        monitor.ended(),
        None,
        "the machine ended before the acknowledgement"
    );
    stream.write_all(&[0]).unwrap();
    drop(stream);
    monitor.end()
}

fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(started.elapsed() < MACHINE_BOUND, "waited for {what}");
        sleep(TURN);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
