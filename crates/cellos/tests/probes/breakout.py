"""Tries one way out of a cell and says what came of it.

Usage: breakout.py NAME [ARGUMENT], or --list for the names. Prints `ESCAPED: …` when the way is
open and `held: …` when it is not. Anything else is a fault of the probe itself.
"""

import ctypes
import errno
import fcntl
import glob
import os
import pty
import socket
import struct
import sys
import termios

libc = ctypes.CDLL(None, use_errno=True)

# x86_64 and aarch64 numbers of calls that have no wrapper in the C library.
CALLS = {
    "x86_64": {
        "add_key": 248, "request_key": 249, "keyctl": 250, "perf_event_open": 298,
        "kexec_load": 246, "init_module": 175, "finit_module": 313, "bpf": 321,
        "userfaultfd": 323, "io_uring_setup": 425, "open_tree": 428, "move_mount": 429,
        "fsopen": 430, "fsmount": 432, "clone3": 435, "pidfd_getfd": 438,
        "mount_setattr": 442, "process_vm_readv": 310, "open_by_handle_at": 304,
        "ptrace": 101, "unshare": 272, "setns": 308, "mount": 165, "umount2": 166,
        "pivot_root": 155, "chroot": 161, "reboot": 169, "swapon": 167, "syslog": 103,
        "iopl": 172, "quotactl": 179, "acct": 163, "settimeofday": 164,
        "process_vm_writev": 311, "kcmp": 312, "fanotify_init": 300, "personality": 135,
    },
    "aarch64": {
        "add_key": 217, "request_key": 218, "keyctl": 219, "perf_event_open": 241,
        "kexec_load": 104, "init_module": 105, "finit_module": 273, "bpf": 280,
        "userfaultfd": 282, "io_uring_setup": 425, "open_tree": 428, "move_mount": 429,
        "fsopen": 430, "fsmount": 432, "clone3": 435, "pidfd_getfd": 438,
        "mount_setattr": 442, "process_vm_readv": 270, "open_by_handle_at": 265,
        "ptrace": 117, "unshare": 97, "setns": 268, "mount": 40, "umount2": 39,
        "pivot_root": 41, "chroot": 51, "reboot": 142, "swapon": 224, "syslog": 116,
        "quotactl": 60, "acct": 89, "settimeofday": 170, "process_vm_writev": 271,
        "kcmp": 272, "fanotify_init": 262, "personality": 92,
    },
}[os.uname().machine]

CLONE_NEWUSER = 0x10000000
CLONE_NEWNS = 0x00020000
MS_BIND = 4096


class Held(Exception):
    """The way is closed."""


def call(name, *arguments):
    """A system call by name; `Held` when the kernel refuses."""
    ctypes.set_errno(0)
    result = libc.syscall(CALLS[name], *arguments)
    if result == -1:
        code = ctypes.get_errno()
        # Only a refusal counts: a call that fails for its arguments got past the filter.
        if code in (errno.EPERM, errno.ENOSYS, errno.EACCES, errno.EOPNOTSUPP):
            raise Held(f"{name}: {errno.errorcode[code]}")
        return f"{name} was taken and failed with {errno.errorcode.get(code, code)}"
    return f"{name} gave {result}"


def read_file(path):
    with open(path, "rb") as file:
        return f"read {len(file.read(64))} bytes of {path}"


def shadow(_):
    return read_file("/etc/shadow")


def home_folders(_):
    found = [p for p in ["/root", "/home", "/var/lib", "/run", "/srv", "/boot"] if os.path.exists(p)]
    if not found:
        raise Held("no such folders")
    return f"sees {found}"


def host_file(path):
    return read_file(path)


def write_host_file(path):
    with open(path, "w") as file:
        file.write("escaped")
    return f"wrote {path}"


def host_processes(pid):
    if os.path.exists(f"/proc/{pid}"):
        name = open(f"/proc/{pid}/comm").read().strip()
        return f"sees process {pid} of the host, {name}"
    raise Held(f"no process {pid}")


def other_environments(secret):
    for path in glob.glob("/proc/[0-9]*/environ"):
        if path.split("/")[2] == str(os.getpid()):
            continue
        try:
            if secret.encode() in open(path, "rb").read():
                return f"read a secret in {path}"
        except OSError:
            pass
    raise Held("no environment holds the secret")


def kill_host_process(pid):
    os.kill(int(pid), 0)
    return f"may signal process {pid} of the host"


def write_system(_):
    for path in ["/usr/escaped", "/etc/escaped", "/bin/escaped", "/escaped", "/proc/sys/kernel/escaped"]:
        try:
            open(path, "w").close()
            os.unlink(path)
            return f"wrote {path}"
        except OSError:
            pass
    raise Held("every place is read-only")


def kernel_switches(_):
    for path, value in [
        ("/proc/sysrq-trigger", "h"),
        ("/proc/sys/kernel/core_pattern", "|/tmp/x"),
        ("/proc/sys/vm/drop_caches", "1"),
        ("/sys/kernel/uevent_helper", "/tmp/x"),
        ("/sys/fs/cgroup/memory/release_agent", "/tmp/x"),
    ]:
        try:
            # Opening for writing is the whole question; nothing is written.
            os.close(os.open(path, os.O_WRONLY))
            return f"may write {path} ({value})"
        except OSError:
            pass
    raise Held("none can be opened for writing")


def mount(_):
    return call("mount", b"/", b"/tmp", None, MS_BIND, None)


def new_mount_interface(_):
    try:
        return call("fsopen", b"tmpfs", 0)
    except Held:
        pass
    return call("open_tree", -100, b"/", 1)


def remount_writable(_):
    return call("mount_setattr", -100, b"/usr", 0, struct.pack("QQQQ", 0, 1, 0, 0), 32)


def unmount(_):
    return call("umount2", b"/proc", 2)


def user_namespace(_):
    return call("unshare", CLONE_NEWUSER | CLONE_NEWNS)


def user_namespace_by_clone(_):
    libc.clone.restype = ctypes.c_int
    stack = ctypes.create_string_buffer(65536)
    top = ctypes.cast(ctypes.addressof(stack) + 65536, ctypes.c_void_p)
    child = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda _: 0)
    ctypes.set_errno(0)
    if libc.clone(child, top, CLONE_NEWUSER | 17, None) == -1:
        raise Held(f"clone: {errno.errorcode[ctypes.get_errno()]}")
    return "made a user namespace by clone"


def user_namespace_by_clone3(_):
    arguments = struct.pack("QQQQQQQQ", CLONE_NEWUSER, 0, 0, 0, 17, 0, 0, 0)
    result = call("clone3", arguments, len(arguments))
    if result == "clone3 gave 0":
        os._exit(0)
    return result


def enter_namespace(_):
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    return call("setns", fd, 0)


def ptrace(_):
    child = os.fork()
    if child == 0:
        os.pause() if hasattr(os, "pause") else __import__("signal").pause()
        os._exit(0)
    try:
        return call("ptrace", 16, child, None, None)
    finally:
        os.kill(child, 9)


def read_other_memory(_):
    return call("process_vm_readv", 1, None, 0, None, 0, 0)


def keys(_):
    try:
        return call("keyctl", 0, -3, 1)
    except Held:
        pass
    return call("add_key", b"user", b"escaped", b"x", 1, -3)


def bpf(_):
    return call("bpf", 0, b"\0" * 128, 128)


def io_uring(_):
    return call("io_uring_setup", 1, ctypes.create_string_buffer(120))


def perf(_):
    return call("perf_event_open", b"\0" * 128, 0, -1, -1, 0)


def user_faults(_):
    return call("userfaultfd", 0)


def modules(_):
    try:
        return call("init_module", b"", 0, b"")
    except Held:
        pass
    return call("finit_module", -1, b"", 0)


def kexec(_):
    return call("kexec_load", 0, 0, None, 0)


def file_handles(_):
    return call("open_by_handle_at", -100, b"\0" * 16, 0)


def new_root(_):
    return call("chroot", b"/proc")


def reboot(_):
    # An unknown command: allowed callers get EINVAL.
    return call("reboot", 0, 0, 0, None)


def kernel_log(_):
    return call("syslog", 10, None, 0)


def terminal_input(_):
    main, terminal = pty.openpty()
    os.setsid() if os.getsid(0) != os.getpid() else None
    try:
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    except OSError:
        pass
    fcntl.ioctl(terminal, termios.TIOCSTI, b"x")
    return "pushed a character into a terminal"


def inherited_terminal(_):
    if not os.isatty(0):
        return "has no terminal to try, which is the test's fault"
    fcntl.ioctl(0, termios.TIOCSTI, b"x")
    return "pushed a character into the terminal of the caller"


def setuid_programs(_):
    status = open("/proc/self/mountinfo").read()
    holes = [line.split()[4] for line in status.splitlines() if "nosuid" not in line.split()[5]]
    if holes:
        return f"programs below {holes} may change their user"
    child = os.fork()
    if child == 0:
        try:
            os.setuid(0)
            os._exit(7)
        except OSError:
            os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7:
        return "became root"
    raise Held("no mount honours the bit")


def leave_setuid_file(path):
    open(path, "w").close()
    os.chmod(path, 0o4755)
    return f"made {path} set-user-id"


def host_port(port):
    with socket.create_connection(("127.0.0.1", int(port)), timeout=2):
        return f"reached port {port} of the host"


def abstract_socket(name):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + name)
        return f"reached the host's abstract socket {name}"


def outside_network(_):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packet:
        packet.connect(("192.0.2.1", 53))
        packet.send(b"x")
        return "sent a packet"


def raw_packets(_):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW):
        return "has a packet socket"


def root_links(secret):
    for path in glob.glob("/proc/[0-9]*/root") + ["/proc/self/root/..", "/proc/self/cwd/../../.."]:
        try:
            if os.path.exists(path + secret):
                return f"found {secret} through {path}"
        except OSError:
            pass
    raise Held("no link leads out")


def left_descriptors(_):
    found = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in map(int, os.listdir("/proc/self/fd"))
             if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}")}
    # The one that lists the folder is gone by now, and closed ones do not exist.
    if found:
        return f"inherited {found}"
    raise Held("only the standard streams")


def devices(_):
    for path in ["/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/sda", "/dev/kvm", "/dev/fuse", "/dev/net/tun"]:
        if os.path.exists(path):
            return f"sees {path}"
    try:
        os.mknod("/tmp/null", 0o20666, os.makedev(1, 3))
        return "made a device node"
    except OSError:
        raise Held("no devices")


def end_init(_):
    os.kill(1, 9)
    os.kill(1, 15)
    __import__("time").sleep(0.2)
    raise Held("init is still there")


PROBES = {name: value for name, value in globals().items()
          if callable(value) and getattr(value, "__module__", "") == "__main__"
          and name not in ("call", "read_file", "Held")}


def main():
    name = sys.argv[1]
    if name == "--list":
        print("\n".join(PROBES))
        return
    argument = sys.argv[2] if len(sys.argv) > 2 else None
    try:
        print("ESCAPED:", PROBES[name](argument))
    except Held as held:
        print("held:", held)
    except OSError as error:
        print("held:", error)


if __name__ == "__main__":
    main()
