//! Kernel calls that no library wraps safely: the only raw system calls of the launch path.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use rustix::process::Pid;

/// Namespaces that every cell's init is created in, as flags of clone(2). It makes the others
/// itself: the control group namespace once it is where that one's root shall be, the network
/// because making one waits for a lock that the kernel's clean-up of earlier ones holds, and the
/// launcher has other cells to serve meanwhile.
pub(crate) const INIT_NAMESPACES: u64 =
    (libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID) as u64;

/// `CLONE_CLEAR_SIGHAND` of clone(2): the child starts with default signal handling.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// `CLONE_INTO_CGROUP` of clone(2): the child starts in the given v2 control group.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of clone3(2), with `cgroup` (Linux 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Which side of a process creation the caller is on.
pub(crate) enum Cloned {
    /// The creator, with the child's id and process descriptor.
    Parent { pid: Pid, pidfd: OwnedFd },
    /// The new process.
    Child,
}

/// Creates a process with clone3(2), sharing nothing with the caller.
///
/// # Safety
/// The calling process must have a single thread: the child goes on with a copy of its memory,
/// in which a lock held by another thread would stay locked for ever.
pub(crate) unsafe fn clone_process(
    namespaces: u64,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: namespaces
            | libc::CLONE_PIDFD as u64
            | CLONE_CLEAR_SIGHAND
            | cgroup.map_or(0, |_| CLONE_INTO_CGROUP),
        cgroup: cgroup.map_or(0, |cgroup| u64::from(cgroup.as_raw_fd().cast_unsigned())),
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    // SAFETY: `args` is a valid clone_args of the size that is passed, without CLONE_VM, so the
    // child runs on its own copy of this stack; the caller vouches for the single thread.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            std::ptr::from_mut(&mut args),
            std::mem::size_of::<CloneArgs>(),
        )
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        pid => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            let pid = pid.ok_or_else(|| io::Error::other("clone3 gave an impossible pid"))?;
            // SAFETY: with CLONE_PIDFD the kernel stored a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid, pidfd })
        }
    }
}

/// fork(2) without any namespace.
///
/// # Safety
/// As [`clone_process`]: single-threaded callers only.
pub(crate) unsafe fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the caller vouches for the single thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// Ends the process without running destructors or exit handlers that belong to its parent.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) takes any code and never returns.
    unsafe { libc::_exit(code) }
}

/// What mount_setattr(2) changes.
#[repr(C)]
#[derive(Default)]
pub(crate) struct MountAttributes {
    /// Attributes to set, `MOUNT_ATTR_*`.
    pub(crate) set: u64,
    /// Attributes to clear.
    pub(crate) clear: u64,
    /// Propagation type.
    pub(crate) propagation: u64,
    /// User namespace for `MOUNT_ATTR_IDMAP`.
    pub(crate) userns_fd: u64,
}

/// Whether an operation covers one mount or all below it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// One mount.
    One,
    /// A mount and everything mounted below it.
    Tree,
}

pub(crate) const MOUNT_ATTR_RDONLY: u64 = 0x01;
pub(crate) const MOUNT_ATTR_NOSUID: u64 = 0x02;
pub(crate) const MOUNT_ATTR_NODEV: u64 = 0x04;
pub(crate) const MOUNT_ATTR_NOEXEC: u64 = 0x08;
pub(crate) const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
/// Propagation type of a mount that has no peers (mount(2)).
pub(crate) const MS_PRIVATE: u64 = 1 << 18;

/// mount_setattr(2) on the mount that a descriptor refers to.
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    depth: Depth,
    attributes: &MountAttributes,
) -> io::Result<()> {
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let flags = libc::AT_EMPTY_PATH
        | if depth == Depth::Tree {
            AT_RECURSIVE
        } else {
            0
        };
    // SAFETY: the path is a static NUL-terminated string and the attributes are a valid
    // mount_attr of the size that is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            std::mem::size_of::<MountAttributes>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Brings the loopback interface of the caller's network namespace up.
pub(crate) fn bring_loopback_up() -> io::Result<()> {
    bring_up("lo")
}

/// Brings an interface of the caller's network namespace up (`SIOCSIFFLAGS` of netdevice(7)). Of a
/// name that is too long only the beginning counts.
pub(crate) fn bring_up(interface: &str) -> io::Result<()> {
    /// `IFF_UP | IFF_RUNNING`, in the width that the request has.
    const UP_AND_RUNNING: libc::c_short = 0x1 | 0x40;
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name_bytes = request.ifr_name.len() - 1;
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .zip(interface.bytes().take(name_bytes))
    {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = UP_AND_RUNNING;
    // SAFETY: `request` is a valid ifreq with a NUL-terminated name for the call's duration.
    let result = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS,
            std::ptr::from_ref(&request),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Index of an interface of the caller's network namespace, by its name.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    Ok(rustix::net::netdevice::name_to_index(&socket, name)?)
}

/// setsockopt(2) of a number.
pub(crate) fn set_socket_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    set_option(socket, level, name, &value)
}

/// Lets a socket receive only what a program of classic BPF lets through (socket(7),
/// `SO_ATTACH_FILTER`).
pub(crate) fn attach_filter(
    socket: BorrowedFd<'_>,
    program: &[libc::sock_filter],
) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        // The kernel only reads it.
        filter: program.as_ptr().cast_mut(),
    };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// setsockopt(2). What pointers in `value` refer to has to be what the option says.
fn set_option<T>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(std::mem::size_of::<T>())
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the kernel reads `length` bytes from a value of that size, and what it points to,
    // which outlives the call; it checks both.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Lets a packet socket receive what comes in on an interface, of every protocol (packet(7)).
pub(crate) fn bind_packet_socket(socket: BorrowedFd<'_>, interface: u32) -> io::Result<()> {
    let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
    // SAFETY: sockaddr_ll is plain data for which all zeroes is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(invalid)?;
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL).map_err(invalid)?.to_be();
    address.sll_ifindex = interface.cast_signed();
    let length = libc::socklen_t::try_from(std::mem::size_of_val(&address)).map_err(invalid)?;
    // SAFETY: the address is a valid sockaddr_ll of the size that is passed.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// How a child ended and what it used, from wait4(2).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waited {
    pub(crate) pid: i32,
    pub(crate) status: i32,
    pub(crate) usage: libc::rusage,
}

/// Collects one ended child: `pid` itself, or any for -1. `None` where none has ended.
pub(crate) fn collect_child(pid: i32) -> io::Result<Option<Waited>> {
    // SAFETY: rusage is plain data for which all zeroes is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let mut status = 0;
    // SAFETY: both pointers are valid for writes during the call.
    match unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(Waited { pid, status, usage })),
    }
}

/// Resource use of this process or of its collected children (getrusage(2)).
pub(crate) fn resource_usage(who: libc::c_int) -> libc::rusage {
    // SAFETY: rusage is plain data for which all zeroes is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid for writes during the call.
    unsafe { libc::getrusage(who, &raw mut usage) };
    usage
}

/// Blocks every signal and gives them as a descriptor instead (signalfd(2)).
pub(crate) fn signals_as_descriptor() -> io::Result<OwnedFd> {
    // SAFETY: sigset_t is plain data that sigfillset initialises; the calls get valid pointers.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const all, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// One signal that was read from [`signals_as_descriptor`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReceivedSignal {
    pub(crate) number: i32,
    /// Sender as seen from this process's PID namespace; 0 for one outside it.
    pub(crate) sender: u32,
}

/// Reads one pending signal, if there is one.
pub(crate) fn next_signal(signals: BorrowedFd<'_>) -> io::Result<Option<ReceivedSignal>> {
    let mut buffer = [0u8; std::mem::size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(signals, &mut buffer) {
        Ok(length) if length == buffer.len() => {
            // SAFETY: the buffer holds exactly one signalfd_siginfo, plain data, which may be
            // read from an unaligned place.
            let info: libc::signalfd_siginfo =
                unsafe { std::ptr::read_unaligned(buffer.as_ptr().cast()) };
            Ok(Some(ReceivedSignal {
                number: info.ssi_signo.cast_signed(),
                sender: info.ssi_pid,
            }))
        }
        Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives every signal its default handling and unblocks all.
pub(crate) fn reset_signals() {
    // `struct sigaction` as the kernel has it: handler, flags, restorer and mask. The C library's
    // wrapper would leave out the two signals that it keeps for itself.
    let default = [0u64; 4];
    for number in 1..=64 {
        // SAFETY: the action is as large as the kernel reads, and all zeroes is SIG_DFL; numbers
        // that may not be changed only fail.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                std::ptr::null::<u64>(),
                std::mem::size_of::<u64>(),
            );
        }
    }
    // SAFETY: an empty signal set is initialised by sigemptyset and only read afterwards.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Ignores a signal in this process.
pub(crate) fn ignore_signal(number: libc::c_int) {
    // SAFETY: SIG_IGN is a valid disposition.
    unsafe { libc::signal(number, libc::SIG_IGN) };
}

/// kill(2) of one process or, for negative ids, a process group.
pub(crate) fn kill(pid: i32, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: kill(2) only takes numbers.
    if unsafe { libc::kill(pid, signal) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Names the calling process, at most 15 bytes, for `ps` and `/proc/PID/comm`.
pub(crate) fn set_process_name(name: &std::ffi::CStr) {
    // SAFETY: PR_SET_NAME reads a NUL-terminated string.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// execve(2) with vectors that were prepared before. Returns only when it failed.
pub(crate) fn execute(
    program: &std::ffi::CStr,
    arguments: &PointerVector<'_>,
    environment: &PointerVector<'_>,
) -> io::Error {
    // SAFETY: both vectors are NULL-terminated arrays of pointers to NUL-terminated strings that
    // outlive the call, which `PointerVector` guarantees by construction and by its lifetime.
    unsafe {
        libc::execve(
            program.as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
        );
    }
    io::Error::last_os_error()
}

/// execveat(2) of an open file, as [`execute`]. Returns only when it failed.
pub(crate) fn execute_open(
    program: BorrowedFd<'_>,
    arguments: &PointerVector<'_>,
    environment: &PointerVector<'_>,
) -> io::Error {
    // SAFETY: the path is a static empty string, which AT_EMPTY_PATH asks for; the vectors are as
    // `execute` has them.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

/// unshare(2): moves the caller, which has a single thread, into new namespaces.
pub(crate) fn unshare(namespaces: libc::c_int) -> io::Result<()> {
    // SAFETY: takes a number only. Nothing of memory is unshared.
    if unsafe { libc::unshare(namespaces) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes `number` refer to what `descriptor` does, and to outlive execve(2) (dup2(2)). Whatever
/// `number` was before is closed; an owner of it must not be used afterwards.
pub(crate) fn duplicate_onto(descriptor: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: takes numbers only; the caller is about to become another program and owns nothing
    // at `number`.
    if unsafe { libc::dup2(descriptor.as_raw_fd(), number) } == number {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A NULL-terminated array of C strings, as execve(2) takes it.
pub(crate) struct PointerVector<'a> {
    pointers: Vec<*const libc::c_char>,
    _strings: std::marker::PhantomData<&'a [std::ffi::CString]>,
}

impl<'a> PointerVector<'a> {
    pub(crate) fn new(strings: &'a [std::ffi::CString]) -> Self {
        let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Self {
            pointers,
            _strings: std::marker::PhantomData,
        }
    }
}
