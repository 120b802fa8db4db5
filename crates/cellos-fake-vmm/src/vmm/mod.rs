//! The program `fake-firecracker`.

mod arguments;
mod bodies;
mod call;
mod configuration;
mod end;
mod http;
mod machine;
pub(crate) mod process;
mod server;
mod snapshot;
mod vsock;

use std::{
    ffi::OsString,
    fs,
    process::ExitCode,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use arguments::{Arguments, Asked};
pub(crate) use arguments::{is_id, is_level};
use call::Call;
use machine::{Machine, Outcome};

use crate::settings::{Settings, Version};

/// How Firecracker ends, of what the fake can come to (its `FcExitCode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok = 0,
    Generic = 1,
    BadConfiguration = 152,
    Arguments = 153,
}

/// What happens to the machine.
#[derive(Debug)]
pub(crate) enum Event {
    /// A call, and where its outcome goes.
    Call(Box<Call>, mpsc::Sender<Outcome>),
    /// The guest's process is gone.
    GuestEnded,
}

/// Runs the program with the words after its name.
#[must_use]
pub fn run(words: impl Iterator<Item = OsString>) -> ExitCode {
    end(run_until_the_end(words, None))
}

/// The same with settings of the program's own, whatever its environment and its files say: for a
/// driver's monitor, which gets neither from a test.
#[must_use]
pub fn run_with(settings: Settings, words: impl Iterator<Item = OsString>) -> ExitCode {
    end(run_until_the_end(words, Some(settings)))
}

fn end(ended: Result<Exit, Failure>) -> ExitCode {
    let exit = ended.unwrap_or_else(|(exit, message)| {
        eprintln!("fake-firecracker (CellOS's fake VMM): {message}");
        exit
    });
    ExitCode::from(exit as u8)
}

/// The first line of `--version`.
pub(crate) fn version_text(version: Version) -> String {
    format!("Firecracker v{version}")
}

type Failure = (Exit, String);

fn run_until_the_end(
    words: impl Iterator<Item = OsString>,
    settings: Option<Settings>,
) -> Result<Exit, Failure> {
    let asked = arguments::parse(words).map_err(|error| {
        let text = format!("Arguments parsing error: {error}\n\nFor more information try --help.");
        (Exit::Arguments, text)
    })?;
    let settings = settings.map_or_else(Settings::load, Ok).map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        (
            Exit::Generic,
            format!("{error}{}", cause.unwrap_or_default()),
        )
    })?;
    match asked {
        Asked::Help => {
            println!("CellOS's fake VMM: takes Firecracker's arguments. For tests only.");
            Ok(Exit::Ok)
        }
        Asked::Version => {
            println!("{}", version_text(settings.version));
            println!("This is CellOS's fake VMM, for tests; it isolates nothing.");
            Ok(Exit::Ok)
        }
        Asked::Run(arguments) => serve(&arguments, settings),
    }
}

fn serve(arguments: &Arguments, settings: Settings) -> Result<Exit, Failure> {
    thread::sleep(Duration::from_millis(settings.launch.delay_ms));
    if let Some(text) = &settings.launch.stderr {
        eprintln!("{text}");
    }
    if let Some(how) = settings.launch.end {
        end::end(how);
    }
    let generic = |message: String| (Exit::Generic, message);
    let (sender, events) = mpsc::channel();
    let (version, faults) = (settings.version, settings.calls.clone());
    let mut machine = Machine::new(arguments.id.clone(), settings, sender.clone());
    if let Some(path) = &arguments.log_path {
        machine.log_to(path).map_err(generic)?;
    }
    let unanswered = Arc::new(server::Unanswered::default());
    if let Some(path) = &arguments.socket {
        let server = server::Server {
            version,
            faults: faults.into(),
            max_payload_bytes: arguments.max_payload_bytes,
            events: sender,
            unanswered: Arc::clone(&unanswered),
        };
        server.listen(path).map_err(|error| {
            generic(format!(
                "Failed to open the API socket at: {}. Check that it is not already used: {error}",
                path.display()
            ))
        })?;
    }
    if let Some(path) = &arguments.config_file {
        let configured = fs::read(path)
            .map_err(|error| error.to_string())
            .and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()))
            .and_then(|file| machine.boot_from(file));
        configured.map_err(|error| {
            let text = format!("Building VMM configured from cmdline json failed: {error}");
            (Exit::BadConfiguration, text)
        })?;
    }
    // This thread also starts the guest, which lives no longer than the thread that started it.
    while let Ok(event) = events.recv() {
        match event {
            Event::GuestEnded => break,
            Event::Call(call, outcome) => {
                // A caller that is gone needs no answer.
                let _ = outcome.send(machine.handle(*call));
            }
        }
    }
    // Whoever calls from now on finds the connection closed, as with a process that is gone.
    drop(events);
    unanswered.wait();
    Ok(Exit::Ok)
}
