//! The program `fake-jailer`.

mod arguments;
mod cgroup;
mod jail;

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Instant, UNIX_EPOCH},
};

use arguments::{Arguments, Asked, PidNamespace, Session};
use rustix::{
    process::{geteuid, setsid},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

/// The first descriptor that is not input, output or error.
const FIRST_TO_CLOSE: i32 = 3;

/// Why the jailer gives up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("Arguments parsing error: {0}")]
    Arguments(#[from] arguments::ArgumentError),
    #[error("the jailer must be run as root")]
    NotRoot,
    #[error("no control group hierarchy for {0} is mounted")]
    NoHierarchy(String),
    #[error("cannot {operation} {path}: {source}")]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// Runs the program with the words after its name. Returns only if it does not become the VMM.
#[must_use]
pub fn run(words: impl Iterator<Item = OsString>) -> ExitCode {
    let asked = arguments::parse(words).map_err(Failure::from);
    let done = asked.and_then(|asked| match asked {
        Asked::Help => {
            println!("CellOS's fake jailer: takes the arguments of Firecracker's. For tests only.");
            Ok(())
        }
        Asked::Version => {
            println!("Jailer v{}", crate::settings::Version::default());
            println!("This is CellOS's fake jailer, for tests.");
            Ok(())
        }
        Asked::Run(arguments) => jail_and_execute(&arguments),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fake-jailer (CellOS's fake jailer): {error}");
            ExitCode::FAILURE
        }
    }
}

/// Names the operation and its object in an error.
pub(crate) fn attempt<T>(
    operation: &'static str,
    path: &Path,
    result: io::Result<T>,
) -> Result<T, Failure> {
    result.map_err(|source| Failure::Io {
        operation,
        path: path.to_owned(),
        source,
    })
}

fn jail_and_execute(arguments: &Arguments) -> Result<(), Failure> {
    let begun = Instant::now();
    // They close when the VMM is executed; until then this process is the only one to hold them.
    close_fds::set_fds_cloexec(FIRST_TO_CLOSE, &[]);
    if !geteuid().is_root() {
        return Err(Failure::NotRoot);
    }
    let root = jail::make(arguments)?;
    jail::limit(&arguments.limits)?;
    cgroup::join(&arguments.cgroups, &arguments.id)?;
    // Both are outside the jail, so they are opened before it closes.
    let netns = arguments.netns.as_deref();
    let netns = netns
        .map(|path| attempt("open", path, File::open(path)).map(|file| (file, path)))
        .transpose()?;
    let null = Path::new("/dev/null");
    let null = (
        attempt(
            "open",
            null,
            File::options().read(true).write(true).open(null),
        )?,
        null,
    );
    jail::enter(&root)?;
    jail::furnish(arguments.uid, arguments.gid)?;
    if let Some((file, path)) = netns {
        let entered = move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network));
        attempt("enter", path, entered.map_err(io::Error::from))?;
    }
    if arguments.session == Session::Daemon {
        let (file, path) = &null;
        let detach = || {
            setsid()?;
            dup2_stdin(file)?;
            dup2_stdout(file)?;
            dup2_stderr(file)
        };
        attempt("detach to", path, detach().map_err(io::Error::from))?;
    }
    execute(arguments, begun)
}

fn execute(arguments: &Arguments, begun: Instant) -> Result<(), Failure> {
    let program = Path::new("/").join(&arguments.exec_name);
    let now = UNIX_EPOCH.elapsed().unwrap_or_default();
    let mut command = Command::new(&program);
    command
        .env_clear()
        .args(["--id", &arguments.id])
        .args(["--start-time-us", &now.as_micros().to_string()])
        .args([
            "--start-time-cpu-us",
            &begun.elapsed().as_micros().to_string(),
        ])
        .args(&arguments.rest)
        .gid(arguments.gid)
        .uid(arguments.uid);
    match arguments.pid_namespace {
        PidNamespace::Own => attempt("execute", &program, Err(command.exec())),
        PidNamespace::New => {
            // SAFETY: the descriptor table stays shared; only children get another PID namespace.
            let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWPID) };
            attempt(
                "make a PID namespace for",
                &program,
                unshared.map_err(io::Error::from),
            )?;
            let child = attempt("execute", &program, command.spawn())?;
            let path = PathBuf::from(format!("{}.pid", program.display()));
            attempt("write", &path, fs::write(&path, child.id().to_string()))
        }
    }
}
