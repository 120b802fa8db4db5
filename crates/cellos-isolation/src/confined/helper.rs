//! The helper's side: from its socket to the program, each step by name.

use std::{
    convert::Infallible,
    ffi::CString,
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
};

use cellos_core::ports::network::NetworkNeeds;
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags},
    mount::MountPropagationFlags,
    net::{RecvFlags, SendFlags},
    process::{Gid, Resource, Rlimit, Signal, Uid},
};

use super::{
    Confinement, FIRST_DESCRIPTOR, Failure, Network, Order, Privileges, Report, Step, order::Wire,
    root, tap,
};
use crate::{
    cgroup::Cgroup,
    init::network::link,
    launcher::IdentityMode,
    message,
    plan::socket_count,
    sandbox::{descriptors, landlock, limits, privileges},
    sys::{self, PointerVector},
};

/// Descriptors are kept from this number up until they get their final ones below it:
/// [`FIRST_DESCRIPTOR`], [`MAX_DESCRIPTORS`](super::MAX_DESCRIPTORS) and a TAP device.
const PARKED_FROM: RawFd = 64;

/// Descriptors that a helper has open besides the sockets that it sends, generously.
const OWN_DESCRIPTORS: u64 = 128;

/// Becomes the program, or ends with a report of what failed.
pub(super) fn main() -> ! {
    sys::set_process_name(c"cellos-confined");
    let Ok(socket) = rustix::io::fcntl_dupfd_cloexec(io::stdin(), PARKED_FROM) else {
        sys::exit_now(2);
    };
    let Err(failure) = confine(&socket);
    if let Ok(report) = serde_json::to_vec(&Report::Failed(failure)) {
        // Nobody is left to tell if this fails.
        let _ = message::send(socket.as_fd(), &report, &[], SendFlags::empty());
    }
    sys::exit_now(1)
}

/// Errors of a step get its name.
trait At<T> {
    fn at(self, step: Step) -> Result<T, Failure>;
}

impl<T, E: std::error::Error + 'static> At<T> for Result<T, E> {
    fn at(self, step: Step) -> Result<T, Failure> {
        self.map_err(|error| {
            let mut why = error.to_string();
            let mut errno = None;
            let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
            while let Some(error) = cause {
                if let Some(error) = error.downcast_ref::<io::Error>() {
                    errno = errno.or(error.raw_os_error());
                } else if let Some(error) = error.downcast_ref::<rustix::io::Errno>() {
                    errno = errno.or(Some(error.raw_os_error()));
                }
                cause = error.source();
                if let Some(cause) = cause {
                    why = format!("{why}: {cause}");
                }
            }
            Failure { step, why, errno }
        })
    }
}

fn confine(socket: &OwnedFd) -> Result<Infallible, Failure> {
    die_with_parent(None)?;
    let (order, parent, program, mut given) = receive(socket)?;
    die_with_parent(Some(parent))?;

    begin_session()?;
    Cgroup::open(&order.control_groups)
        .and_then(|groups| groups.join_from_child())
        .at(Step::ControlGroups)?;

    let identity = IdentityMode::detect();
    make_namespaces(identity, order.privileges)?;
    let me = rustix::process::getpid();
    let (uid, gid) = match order.privileges {
        Privileges::None => identity.host_ids(me),
        Privileges::ForJailer => own_ids(),
    };
    // The program's standard input is opened before its devices are all there is.
    let null = open_null().at(Step::Root)?;
    let network_namespace = park(open_read_only("/proc/self/ns/net").at(Step::Namespaces)?)?;
    if let Network::Tap { name, needs } = &order.network {
        given.push(park(tap::make(name).at(Step::Tap)?)?);
        send_sockets(name, needs, socket)?;
    }
    hand_over_folders(&order, identity, (uid, gid))?;
    if order.privileges == Privileges::None {
        root::enter(&order, identity, (uid, gid)).at(Step::Root)?;
    }
    // In its own root: a folder outside would be a way out of it.
    rustix::process::chdir(&order.working_folder)
        .map_err(|error| about(&order.working_folder, error))
        .at(Step::Folders)?;

    let mut landlock_abi = 0;
    privileges::set_no_new_privs().at(Step::NoNewPrivileges)?;
    if order.privileges == Privileges::None {
        landlock_abi = restrict_files(&order, &program, &given)?;
        give_up_privileges(identity, (uid, gid))?;
        // A change of the user forgets whom the process dies with, prctl(2).
        die_with_parent(Some(parent))?;
    }

    let confinement = Confinement {
        uid,
        gid,
        landlock_abi,
    };
    let report = serde_json::to_vec(&Report::Confined(confinement)).at(Step::Execute)?;
    let arguments = strings(order.arguments.iter().map(String::as_str))?;
    let environment = order
        .environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let environment = strings(environment)?;
    // Not before: parked descriptors have higher numbers than the program may use.
    lower_limits(&order)?;
    let needed = [socket.as_fd(), program.as_fd(), network_namespace.as_fd()];
    arrange_descriptors(null, given, &needed)?;
    message::send(
        socket.as_fd(),
        &report,
        &[network_namespace.as_fd()],
        SendFlags::empty(),
    )
    .at(Step::Execute)?;
    let error = sys::execute_open(
        program.as_fd(),
        &PointerVector::new(&arguments),
        &PointerVector::new(&environment),
    );
    Err(error).at(Step::Execute)
}

/// Binds the helper's life to its parent's. With the parent's id it also sees whether that one
/// had ended before the kernel was asked.
fn die_with_parent(parent: Option<u32>) -> Result<(), Failure> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).at(Step::ParentDeath)?;
    let Some(expected) = parent else {
        return Ok(());
    };
    let actual = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
    if actual == Some(expected) {
        Ok(())
    } else {
        Err(io::Error::other("the parent has ended")).at(Step::ParentDeath)
    }
}

/// The order, its giver's process id, the program and its descriptors, all parked high.
fn receive(socket: &OwnedFd) -> Result<(Order, u32, OwnedFd, Vec<OwnedFd>), Failure> {
    let ended = || io::Error::other("the order ended early");
    let message = message::receive_any(socket)
        .and_then(|message| message.ok_or_else(ended))
        .at(Step::Order)?;
    let wire: Wire = serde_json::from_slice(&message.bytes).at(Step::Order)?;
    let program = message.descriptors.into_iter().next();
    let program = park(program.ok_or_else(ended).at(Step::Order)?)?;
    if wire.descriptors > super::MAX_DESCRIPTORS {
        return Err(io::Error::other("too many descriptors")).at(Step::Order);
    }
    let mut given = Vec::new();
    for _ in 0..wire.descriptors {
        let mut word = [0; 16];
        let message = message::receive(socket, &mut word, RecvFlags::empty())
            .and_then(|message| message.ok_or_else(ended))
            .at(Step::Order)?;
        let descriptor = message.descriptors.into_iter().next();
        given.push(park(descriptor.ok_or_else(ended).at(Step::Order)?)?);
    }
    Ok((wire.order, wire.parent, program, given))
}

fn park(descriptor: OwnedFd) -> Result<OwnedFd, Failure> {
    rustix::io::fcntl_dupfd_cloexec(&descriptor, PARKED_FROM).at(Step::Descriptors)
}

fn begin_session() -> Result<(), Failure> {
    // A process that leads a group already cannot, and a fresh child never does.
    rustix::process::setsid().at(Step::Session)?;
    sys::reset_signals();
    privileges::set_umask(0o077);
    privileges::new_session_keyring().at(Step::Session)?;
    Ok(())
}

fn lower_limits(order: &Order) -> Result<(), Failure> {
    for (resource, most) in [
        // Nothing of a machine's memory may end up in a file.
        (Resource::Core, 0),
        (Resource::Nofile, order.open_files),
        (Resource::Fsize, order.file_bytes),
        (Resource::Msgqueue, 0),
        (Resource::Rtprio, 0),
    ] {
        let current = rustix::process::getrlimit(resource);
        let least = |limit: Option<u64>| Some(limit.map_or(most, |limit| limit.min(most)));
        let lowered = Rlimit {
            current: least(current.current),
            maximum: least(current.maximum),
        };
        rustix::process::setrlimit(resource, lowered).at(Step::ResourceLimits)?;
    }
    Ok(())
}

fn make_namespaces(identity: IdentityMode, kept: Privileges) -> Result<(), Failure> {
    let mut wanted =
        libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    let maps = match (identity, kept) {
        (IdentityMode::Caller { uid, gid }, Privileges::None) => {
            wanted |= libc::CLONE_NEWUSER;
            Some((uid, gid))
        }
        _ => None,
    };
    sys::unshare(wanted).at(Step::Namespaces)?;
    if let Some((uid, gid)) = maps {
        // The order is the kernel's, user_namespaces(7).
        for (file, content) in [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("{uid} {uid} 1\n")),
            ("gid_map", format!("{gid} {gid} 1\n")),
        ] {
            fs::write(Path::new("/proc/self").join(file), content).at(Step::Namespaces)?;
        }
    }
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .at(Step::Namespaces)
}

/// Makes the sockets that answer what comes from the TAP device, and keeps none of them.
fn send_sockets(name: &str, needs: &NetworkNeeds, socket: &OwnedFd) -> Result<(), Failure> {
    let wanted = u64::try_from(socket_count(needs)).unwrap_or(u64::MAX);
    let before =
        limits::raise_open_files(wanted.saturating_add(OWN_DESCRIPTORS)).at(Step::Network)?;
    let sockets = link::serve_tap(name, needs).map_err(|failure| Failure {
        step: Step::Network,
        why: format!(
            "{}: {}",
            failure.step,
            io::Error::from_raw_os_error(failure.errno)
        ),
        errno: Some(failure.errno),
    })?;
    for chunk in sockets.chunks(message::MAX_DESCRIPTORS) {
        let (kinds, descriptors): (Vec<_>, Vec<_>) = chunk
            .iter()
            .map(|(kind, socket)| (*kind, socket.as_fd()))
            .unzip();
        let report = serde_json::to_vec(&Report::Network(kinds)).at(Step::Network)?;
        message::send(socket.as_fd(), &report, &descriptors, SendFlags::empty())
            .at(Step::Network)?;
    }
    drop(sockets);
    limits::set_open_files(before).at(Step::Network)
}

fn own_ids() -> (u32, u32) {
    (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    )
}

/// Makes files and folders the program's own, as root; without root they are the caller's, who is
/// the program's user too.
fn hand_over_folders(
    order: &Order,
    identity: IdentityMode,
    (uid, gid): (u32, u32),
) -> Result<(), Failure> {
    if identity != IdentityMode::OwnUser || order.privileges != Privileges::None {
        return Ok(());
    }
    for path in &order.own {
        rustix::fs::chownat(
            CWD,
            path,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|error| about(path, error))
        .at(Step::Folders)?;
    }
    Ok(())
}

/// Restricts the process to its files, before it becomes its user: folders on the way to them
/// need not be open to that one.
fn restrict_files(order: &Order, program: &OwnedFd, given: &[OwnedFd]) -> Result<u32, Failure> {
    let reopened = order.reopened.iter().filter_map(|index| given.get(*index));
    let open_files: Vec<PathBuf> = reopened
        .chain([program])
        .map(|file| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())))
        .collect();
    let readable: Vec<&Path> = order
        .readable
        .iter()
        .filter(|path| path.exists())
        .chain(&open_files)
        .map(PathBuf::as_path)
        .collect();
    let own: Vec<&Path> = order.own.iter().map(PathBuf::as_path).collect();
    let devices: Vec<&Path> = root::HARMLESS_DEVICES
        .iter()
        .map(Path::new)
        .chain(order.devices.iter().map(PathBuf::as_path))
        .collect();
    let status = landlock::restrict(&readable, &own, &devices).at(Step::Landlock)?;
    if status.abi == 0 {
        let why =
            "the kernel has no Landlock (it came with Linux 5.13; boot with lsm=...,landlock)";
        return Err(io::Error::other(why)).at(Step::Landlock);
    }
    Ok(status.abi)
}

fn give_up_privileges(identity: IdentityMode, (uid, gid): (u32, u32)) -> Result<(), Failure> {
    privileges::lock_securebits().at(Step::Capabilities)?;
    privileges::drop_bounding_set().at(Step::Capabilities)?;
    if identity == IdentityMode::OwnUser {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::thread::set_thread_groups(&[]).at(Step::Identity)?;
        rustix::thread::set_thread_res_gid(gid, gid, gid).at(Step::Identity)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).at(Step::Identity)?;
    }
    privileges::drop_capabilities().at(Step::Capabilities)
}

/// Gives the descriptors their final numbers and closes all others but the `needed` ones, which the
/// execution of the program closes. Standard output and error are as the parent made them.
fn arrange_descriptors(
    null: OwnedFd,
    given: Vec<OwnedFd>,
    needed: &[BorrowedFd<'_>],
) -> Result<(), Failure> {
    let mut keep = Vec::new();
    sys::duplicate_onto(null.as_fd(), 0).at(Step::Descriptors)?;
    for (number, descriptor) in (FIRST_DESCRIPTOR..PARKED_FROM).zip(&given) {
        sys::duplicate_onto(descriptor.as_fd(), number).at(Step::Descriptors)?;
        keep.push(number);
    }
    keep.extend(needed.iter().map(AsRawFd::as_raw_fd));
    keep.sort_unstable();
    // They are closed below, which must not happen twice.
    for descriptor in given.into_iter().chain([null]) {
        let _ = descriptor.into_raw_fd();
    }
    descriptors::close_except(&keep).at(Step::Descriptors)
}

fn open_null() -> Result<OwnedFd, io::Error> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, Mode::empty())?;
    Ok(rustix::io::fcntl_dupfd_cloexec(&null, PARKED_FROM)?)
}

fn open_read_only(path: &str) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn about(path: &Path, error: rustix::io::Errno) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn strings<S: Into<Vec<u8>>>(all: impl IntoIterator<Item = S>) -> Result<Vec<CString>, Failure> {
    all.into_iter()
        .map(CString::new)
        .collect::<Result<_, _>>()
        .at(Step::Execute)
}
