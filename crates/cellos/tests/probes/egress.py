"""Tries ways out of a cell's network.

Usage: egress.py PORT HOST_ADDRESSES SOCKET_NAME PROBE... where PORT is declared for
api.test.example, PORT + 1 and every other port is not, and a service of the host listens on both.
Prints for each probe a line `NAME open: …` or `NAME held: …`; anything else is a fault of the probe.
"""

import ctypes
import errno
import os
import socket
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
NAME = "api.test.example"
PORT = int(sys.argv[1])
ADDRESSES = [address for address in sys.argv[2].split(",") if address]
SOCKET_NAME = sys.argv[3]
BAIT = b"reached"
DNS = ("198.18.0.53", 53)


class Held(Exception):
    """The way is closed."""


def request(host, end="\r\n\r\n"):
    return f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close{end}".encode()


def talk(stream, said):
    """What comes back; everything but the bait is a refusal."""
    try:
        stream.settimeout(15)
        stream.sendall(said)
        heard = b""
        while part := stream.recv(65536):
            heard += part
    except OSError as error:
        return str(error).encode()
    return heard


def ask(address, host=None, said=None):
    """Connects to a socket address and asks for the bait."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as stream:
        stream.settimeout(15)
        try:
            stream.connect(address)
        except (OSError, UnicodeError, ValueError) as error:
            return f"connect: {error}".encode()
        return talk(stream, said or request(host or address[0]))


def none_of(tries):
    """Open when one of the answers has the bait."""
    said = []
    for label, answer in tries:
        if BAIT in answer:
            return f"{label}: {answer[-40:]!r}"
        said.append(f"{label}: {answer[:40]!r}")
    raise Held("; ".join(said)[:600])


def address():
    return socket.getaddrinfo(NAME, PORT, socket.AF_INET)[0][4][0]


def query(name_bytes, kind=1, tail=b""):
    return struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + name_bytes + struct.pack(">HH", kind, 1) + tail


def labels(name):
    return b"".join(bytes([len(part)]) + part for part in name.encode("latin-1").split(b".")) + b"\0"


def udp_query(message, server=DNS, wait=3):
    with socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(wait)
        try:
            datagrams.sendto(message, server)
            return datagrams.recv(65535)
        except OSError as error:
            return error


def code(answer):
    if isinstance(answer, bytes) and len(answer) >= 12:
        return (answer[3] & 15, struct.unpack(">H", answer[6:8])[0])
    return (repr(answer), 0)


# Addresses and ports.

def literals():
    targets = ["192.0.2.1", "8.8.8.8", "1.1.1.1", "10.0.0.1", "169.254.169.254", "100.100.100.200",
               "2001:4860:4860::8888", "fd00:ec2::254", "fe80::1%1" , "255.255.255.255", "224.0.0.1"]
    return none_of((target, ask((target, PORT), NAME)) for target in targets)


def other_ports():
    target = address()
    return none_of((str(port), ask((target, port), NAME)) for port in [PORT + 1, 80, 443, 22, 1, 65535])


def host_loopback():
    targets = ["127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::",
               "::ffff:0.0.0.0", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"] + ADDRESSES
    targets += ["::ffff:" + a for a in ADDRESSES if ":" not in a]
    return none_of((f"{target} {port}", ask((target, port), host))
                   for target in targets for port in [PORT, PORT + 1] for host in [NAME, target])


def spellings():
    # Old spellings of 127.0.0.1, and of names that lead there.
    targets = ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "cell", "a.localhost",
               "localhost.localdomain", "host.docker.internal", "ip6-localhost", "gateway", "_gateway"]
    return none_of((f"{target} {port}", ask((target, port), NAME)) for target in targets for port in [PORT, PORT + 1])


def before_resolution():
    # The first address of the pool is given to the first name that is asked for; nobody has asked yet.
    targets = ["198.18.1.0", "::ffff:198.18.1.0", "fd63:656c:6c6f::c612:100"]
    return none_of((target, ask((target, PORT), NAME)) for target in targets)


def synthetic_not_given():
    given = socket.inet_aton(address())
    number = struct.unpack(">I", given)[0]
    targets = [socket.inet_ntoa(struct.pack(">I", number + n)) for n in [1, 2, 255, 65536]]
    targets += ["198.18.0.0", "198.18.0.53", "198.19.255.255", "fd63:656c:6c6f::1", "fd63:656c:6c6f::",
                f"fd63:656c:6c6f:1::{given[0]:x}{given[1]:02x}:{given[2]:x}{given[3]:02x}"]
    return none_of((target, ask((target, PORT), NAME)) for target in targets)


def other_hosts_behind_address():
    target = address()
    hosts = ["evil.test.example", "127.0.0.1", "localhost", NAME + ".evil", "x" + NAME, NAME + "@evil", "", "*",
             NAME + "\0", "api.test.example\r\nHost: evil.test.example", NAME + " evil", NAME + ":1", "аpi.test.example",
             "[::1]", NAME + "..", NAME + "/evil"]
    answers = []
    for host in hosts:
        with socket.create_connection((target, PORT)) as stream:
            answers.append((repr(host), talk(stream, request(host))))
    return none_of(answers)


def smuggled():
    target = address()
    ask_for = lambda host: f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"
    evil = "GET /evil HTTP/1.1\r\nHost: evil.test.example\r\n\r\n"
    starts = [
        f"GET http://evil.test.example/ HTTP/1.1\r\nHost: {NAME}\r\n\r\n",
        f"CONNECT evil.test.example:443 HTTP/1.1\r\nHost: {NAME}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: {NAME}\r\nhost: evil.test.example\r\n\r\n",
        f"GET / HTTP/1.1\r\n Host: {NAME}\r\nHost: evil.test.example\r\n\r\n",
        f"GET / HTTP/1.1\nHost: evil.test.example\n\nHost: {NAME}\r\n\r\n",
        f"POST / HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{evil}",
        f"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ask_for("evil.test.example") + ask_for(NAME),
        f"GET / HTTP/1.0\r\n\r\n",
        f"GET /\r\n\r\n",
    ]
    answers = []
    for start in starts:
        with socket.create_connection((target, PORT)) as stream:
            answers.append((repr(start[:24]), talk(stream, start.encode())))
    return none_of(answers)


def urgent_data():
    # A byte that a receiver may or may not see in the stream: the head must not mean two things.
    with socket.create_connection((address(), PORT)) as stream:
        stream.sendall(b"GET / HTTP/1.1\r\nHost: ")
        stream.send(b"x", socket.MSG_OOB)
        answer = talk(stream, f"evil.test.example\r\nConnection: close\r\n\r\n".encode())
    with socket.create_connection((address(), PORT)) as stream:
        # Without the urgent byte, the host is another one.
        stream.sendall(b"GET / HTTP/1.1\r\nHost: evil-")
        stream.send(b"-", socket.MSG_OOB)
        other = talk(stream, f"{NAME}\r\nConnection: close\r\n\r\n".encode())
    return none_of([("urgent", answer), ("urgent host", other)])


def source_routes():
    answers = []
    for route in ["127.0.0.1", *[a for a in ADDRESSES if ":" not in a]]:
        for kind in [131, 137]:
            option = bytes([kind, 7, 4]) + socket.inet_aton(route) + b"\0"
            with socket.socket() as stream:
                stream.settimeout(5)
                try:
                    stream.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, option)
                    stream.connect(("192.0.2.1", PORT + 1))
                    answers.append((route, talk(stream, request(NAME))))
                except OSError as error:
                    answers.append((route, str(error).encode()))
    return none_of(answers)


def device_and_marks():
    answers = []
    for option, value in [(25, b"eth0\0"), (25, b"lo\0"), (36, struct.pack("i", 1)), (19, struct.pack("i", 1))]:
        with socket.socket() as stream:
            stream.settimeout(5)
            try:
                level = socket.IPPROTO_IP if option == 19 else socket.SOL_SOCKET
                stream.setsockopt(level, option, value)
                stream.connect(("127.0.0.1", PORT + 1))
                answers.append((str(option), talk(stream, request(NAME))))
            except OSError as error:
                answers.append((str(option), str(error).encode()))
    return none_of(answers)


def self_connect():
    # A connection to one's own port is between the cell and itself; it leads nowhere.
    with socket.socket() as stream:
        stream.bind(("0.0.0.0", 0))
        stream.settimeout(5)
        try:
            stream.connect(("127.0.0.1", stream.getsockname()[1]))
            answer = b"only itself"
        except OSError as error:
            answer = str(error).encode()
    # From a declared port, towards a declared port: the gateway has it.
    with socket.socket() as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            stream.bind(("192.0.2.1", PORT))
            return f"bound the gateway's port: {stream.getsockname()}"
        except OSError as error:
            return none_of([("self", answer), ("bind", str(error).encode())])


# Sockets of other kinds.

def other_families():
    opened, held = [], []
    kinds = [(socket.AF_PACKET, socket.SOCK_RAW, 0x300), (socket.AF_PACKET, socket.SOCK_DGRAM, 0x300),
             (socket.AF_INET, socket.SOCK_RAW, 255), (socket.AF_INET, socket.SOCK_RAW, 1), (socket.AF_INET6, socket.SOCK_RAW, 58),
             (socket.AF_INET, socket.SOCK_DGRAM, 1),              (socket.AF_INET, socket.SOCK_RAW, 6), (socket.AF_INET, socket.SOCK_STREAM, 132), (socket.AF_INET, 6, 33),
             (40, socket.SOCK_STREAM, 0), (44, socket.SOCK_RAW, 0), (socket.AF_NETLINK, socket.SOCK_RAW, 12),
             (socket.AF_NETLINK, socket.SOCK_RAW, 16), (38, 5, 0), (29, 3, 1), (31, 1, 3), (16, 3, 4), (21, 5, 0),
             (30, 1, 0), (43, 1, 0), (socket.AF_INET, socket.SOCK_STREAM, 262), (24, 1, 0), (41, 2, 0)]
    for kind in kinds:
        try:
            socket.socket(*kind).close()
            opened.append(str(kind))
        except OSError as error:
            held.append(errno.errorcode[error.errno])
    if opened:
        return ", ".join(opened)
    raise Held(" ".join(held))


def abstract_socket():
    with socket.socket(socket.AF_UNIX) as stream:
        try:
            stream.connect(b"\0" + SOCKET_NAME.encode())
        except OSError as error:
            raise Held(str(error))
    return "connected"


# The namespace.

def message(kind, body, flags=0x605):
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


def attribute(kind, value):
    pad = b"\0" * (-len(value) % 4)
    return struct.pack("=HH", 4 + len(value), kind) + value + pad


def netlink_changes():
    lo = struct.pack("=I", 1)
    changes = {
        "delete the route v4": (25, struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 255, 3, 254, 2, 0) + attribute(4, lo)),
        "delete the route v6": (25, struct.pack("=BBBBBBBBI", 10, 0, 0, 0, 255, 3, 254, 2, 0) + attribute(4, lo)),
        "add a route": (24, struct.pack("=BBBBBBBBI", 2, 24, 0, 0, 254, 3, 253, 1, 0) + attribute(1, socket.inet_aton("192.0.2.0")) + attribute(4, lo)),
        "add an address": (20, struct.pack("=BBBBI", 2, 32, 0, 0, 1) + attribute(2, socket.inet_aton("192.0.2.7"))),
        "delete the address": (21, struct.pack("=BBBBI", 2, 32, 0, 0, 1) + attribute(2, socket.inet_aton("198.18.0.53"))),
        "loopback down": (16, struct.pack("=BBHiII", 0, 0, 0, 1, 0, 1)),
        "a veth": (16, struct.pack("=BBHiII", 0, 0, 0, 0, 0, 0) + attribute(18, attribute(1, b"veth"))),
        "a dummy": (16, struct.pack("=BBHiII", 0, 0, 0, 0, 0, 0) + attribute(18, attribute(1, b"dummy"))),
        "a rule": (32, struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 1, 0)),
        "a neighbour": (28, struct.pack("=BBHIHBB", 2, 0, 0, 1, 0x80, 0, 0) + attribute(1, socket.inet_aton("192.0.2.9"))),
        "another namespace's device": (16, struct.pack("=BBHiII", 0, 0, 0, 1, 0, 0) + attribute(19, struct.pack("=I", os.getpid()))),
    }
    taken, held = [], []
    for name, (kind, body) in changes.items():
        try:
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
                kernel.settimeout(2)
                kernel.send(message(kind, body))
                answer = kernel.recv(4096)
                result = -struct.unpack("=i", answer[16:20])[0]
                if result in (errno.EPERM, errno.EACCES):
                    held.append(name)
                else:
                    taken.append(f"{name}: {errno.errorcode.get(result, result)}")
        except OSError as error:
            held.append(f"{name}: {error}")
    if taken:
        return ", ".join(taken)
    raise Held("refused: " + ", ".join(held))


def interface_changes():
    import fcntl
    taken = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        # SIOCSIFFLAGS, SIOCSIFADDR, SIOCADDRT, SIOCDELRT, SIOCSARP
        for request_number in [0x8914, 0x8916, 0x890B, 0x890C, 0x8955]:
            try:
                fcntl.ioctl(any_socket, request_number, b"lo".ljust(128, b"\0"))
                taken.append(hex(request_number))
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EACCES):
                    taken.append(f"{request_number:x}: {error}")
    for path in ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/conf/all/route_localnet",
                 "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/net/ipv4/ip_nonlocal_bind"]:
        try:
            with open(path, "w") as switch:
                switch.write("1")
            taken.append(path)
        except OSError:
            pass
    if taken:
        return ", ".join(taken)
    raise Held("refused")


def nested_namespaces():
    taken = []
    for flags in [0x50000000, 0x10000000, 0x40000000, 0x40000000 | 0x20000]:
        if libc.unshare(flags) == 0:
            taken.append(f"unshare {flags:x}")
    for path in ["/proc/1/ns/net", "/proc/self/ns/net", "/proc/self/ns/user"]:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        if libc.setns(descriptor, 0) == 0:
            taken.append(f"setns {path}")
    child = libc.syscall(56 if os.uname().machine == "x86_64" else 220, 0x50000000 | 17, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    if child > 0:
        os.waitpid(child, 0)
        taken.append("clone")
    if taken:
        return ", ".join(taken)
    raise Held("refused")


# The gateway's own sockets.

def take_ports():
    taken, held = [], []
    for port in [PORT, 53]:
        for kind in [socket.SOCK_STREAM, socket.SOCK_DGRAM]:
            if kind == socket.SOCK_DGRAM and port == PORT:
                continue
            for host in ["0.0.0.0", "127.0.0.1", "198.18.0.53", "198.18.1.0", "192.0.2.1", "::", "::1", "::ffff:198.18.0.53", "2001:db8::1"]:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                with socket.socket(family, kind) as mine:
                    for option in [socket.SO_REUSEADDR, socket.SO_REUSEPORT]:
                        mine.setsockopt(socket.SOL_SOCKET, option, 1)
                    # IP_FREEBIND, IP_TRANSPARENT, SO_BINDTODEVICE
                    for level, option, value in [(0, 15, 1), (0, 19, 1)]:
                        try:
                            mine.setsockopt(level, option, value)
                        except OSError:
                            pass
                    try:
                        mine.setsockopt(socket.SOL_SOCKET, 25, b"lo\0")
                    except OSError:
                        pass
                    try:
                        mine.bind((host, port))
                        if kind == socket.SOCK_STREAM:
                            mine.listen()
                        taken.append(f"{host} {port} {kind}")
                    except OSError as error:
                        held.append(errno.errorcode[error.errno])
    if taken:
        return "bound " + ", ".join(taken)
    raise Held(" ".join(sorted(set(held))))


def find_sockets():
    """Descriptors of the gateway's sockets, in any process that the cell can see."""
    mine, found = os.getpid(), []
    for process in filter(str.isdigit, os.listdir("/proc")):
        if int(process) == mine:
            continue
        folder = f"/proc/{process}/fd"
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            try:
                if "socket:" in os.readlink(f"{folder}/{name}"):
                    os.open(f"{folder}/{name}", os.O_RDWR)
                    found.append(f"{folder}/{name}")
            except OSError:
                continue
    for process in range(1, 40):
        try:
            pidfd = os.pidfd_open(process)
        except OSError:
            continue
        for number in range(0, 64):
            got = libc.syscall(438, pidfd, number, 0)
            if got >= 0 and process != mine:
                found.append(f"pidfd_getfd {process} {number}")
    for number in range(3, 256):
        try:
            os.fstat(number)
            if "socket" in os.readlink(f"/proc/self/fd/{number}"):
                found.append(f"inherited {number}")
        except OSError:
            continue
    if found:
        return ", ".join(found[:8])
    raise Held("no descriptor")


def destroy_sockets():
    """SOCK_DESTROY of sock_diag(7): closes a socket from outside of its process."""
    taken, held = [], []
    for family, protocol, port in [(2, 6, PORT), (10, 6, PORT), (2, 17, 53), (10, 17, 53)]:
        try:
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as kernel:
                kernel.settimeout(2)
                identity = struct.pack(">HH", port, 0) + b"\0" * 32 + struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
                kernel.send(message(21, struct.pack("=BBBBI", family, protocol, 0, 0, 0xFFFFFFFF) + identity, 5))
                result = -struct.unpack("=i", kernel.recv(4096)[16:20])[0]
                (held if result in (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP) else taken).append(str(errno.errorcode.get(result, result)))
        except OSError as error:
            held.append(str(error))
    if taken:
        return ", ".join(taken)
    raise Held(" ".join(held))


# Names.

def hosts_file():
    written = []
    for path in ["/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf"]:
        try:
            with open(path, "a") as file:
                file.write("\n192.0.2.1 api.test.example\n")
            written.append(path)
        except OSError:
            pass
    # Where it can be written, it leads a name of the cell's choice to an address of its choice, no more.
    answers = [(f"{name} {port}", ask((name, port), NAME)) for name, port in [("192.0.2.1", PORT), ("127.0.0.1", PORT), ("127.0.0.1", PORT + 1)]]
    try:
        return none_of(answers)
    except Held as held:
        raise Held(f"wrote {written}; {held}")


def own_name_server():
    # A name server of the cell's own says that the declared name is at 127.0.0.1; the gateway believes no name server of the cell.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 5353))
        answer = udp_query(query(labels(NAME)), ("127.0.0.1", 5353), 1)
        heard = server.recv(512)
    if heard[12:] != query(labels(NAME))[12:]:
        return "the cell cannot even talk to itself"
    return none_of([("127.0.0.1", ask(("127.0.0.1", PORT), NAME)), ("192.0.2.9", ask(("192.0.2.9", PORT), NAME))])


def other_name_servers():
    wrong, message = [], query(labels("evil.test.example"))
    for server in [("8.8.8.8", 53), ("1.1.1.1", 53), ("127.0.0.1", 53), ("::1", 53), ("2001:4860:4860::8888", 53), *[(a, 53) for a in ADDRESSES]]:
        got = code(udp_query(message, server))
        if got != (5, 0):
            wrong.append(f"udp {server}: {got}")
        with socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET) as stream:
            stream.settimeout(5)
            try:
                stream.connect(server)
                stream.sendall(struct.pack(">H", len(message)) + message)
                got = code(stream.recv(4096)[2:])
            except OSError as error:
                got = (repr(error), 0)
            if got != (5, 0):
                wrong.append(f"tcp {server}: {got}")
    for server in [("8.8.8.8", 443), ("8.8.8.8", 853), ("1.1.1.1", 5353)]:
        if isinstance(udp_query(message, server, 2), bytes):
            wrong.append(f"udp {server}")
        if BAIT in ask(server, NAME, struct.pack(">H", len(message)) + message):
            wrong.append(f"tcp {server}")
    if wrong:
        return "; ".join(wrong)
    raise Held("refused by all")


def dns_over_declared_port():
    message = query(labels("evil.test.example"))
    said = struct.pack(">H", len(message)) + message
    return none_of([("dns", ask((address(), PORT), None, said)), ("junk", ask((address(), PORT), None, b"\0" * 64)),
                    ("words", ask((address(), PORT), None, b"SSH-2.0-x\r\n"))])


def odd_names():
    wrong, tried = [], 0
    names = [b"\x04evil\x04test\x07example\0", b"\x04EVIL\x04TEST\x07EXAMPLE\0", b"\x03api\x04test\x07example\x04evil\0",
             b"\x08api.test\x07example\0", b"\x10api.test.example\0", b"\x04api\0\x04test\x07example\0", b"\x10api.test.example\x00",
             b"\x03api\x04test\x08example\0\0", b"\x04\xd0\xb0pi\x04test\x07example\0", b"\x08xn--pi-6kc\x04test\x07example\0",
             b"\x01*\x04test\x07example\0", b"\0", b"\x03a\x1b[\x04test\x07example\0", b"\x04a\"},\x04test\x07example\0",
             b"\x04a\r\n{\x04test\x07example\0", (b"\x3f" + b"a" * 63) * 3 + b"\x04test\x07example\0",
             (b"\x3f" + b"a" * 63) * 4 + b"\0", b"\x40" + b"a" * 64 + b"\0", b"\xc0\x0c", b"\xc0\xff", b"\x03api\xc0\x0c"]
    for name in names:
        for kind in [1, 28, 16, 255, 252, 65]:
            tried += 1
            got = udp_query(query(name, kind), wait=0.4)
            if code(got)[1]:
                wrong.append(f"{name!r} {kind}: {code(got)}")
    if wrong:
        return "; ".join(wrong[:5])
    raise Held(f"{tried} without a record")


def long_labels():
    # A tunnel through names under the wildcard *.wild.example: what is asked must not leave the host.
    for number in range(200):
        label = f"{number:05x}".ljust(63, "s")
        udp_query(query(labels(f"{label}.{label}.wild.example"), [1, 28, 16][number % 3]), wait=0.3)
    raise Held("asked; whether they left is for the host to see")


def same_name_spelled_otherwise():
    # Not an attack: every spelling is the declared name, so it must lead there.
    for name in ["API.Test.EXAMPLE", "api.test.example."]:
        got = code(udp_query(query(labels(name.rstrip(".")))))
        if got != (0, 1):
            return f"{name}: {got}"
    raise Held("all one name")


def lying_names():
    names = ["loopback.test.example", "metadata.test.example", "own.test.example", "mapped.test.example",
             "private.test.example", "zero.test.example", "sixloop.test.example", "pool.test.example"]
    return none_of((f"{name} {family}", resolve_and_ask(name, family)) for name in names for family in [socket.AF_INET, socket.AF_INET6])


def resolve_and_ask(name, family):
    try:
        target = socket.getaddrinfo(name, PORT, family)[0][4]
    except OSError as error:
        return f"no name: {error}".encode()
    return ask(target[:2], name)


def changing_name():
    # Leads to a good address when asked first and to a service of the host then, or the other way round.
    answers = []
    for _ in range(6):
        answers.append(("changing", resolve_and_ask("changing.test.example", socket.AF_INET)))
    return none_of(answers)


def quic():
    got = []
    for target in [address(), "8.8.8.8", "127.0.0.1", *ADDRESSES]:
        for port in [443, PORT]:
            with socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
                datagrams.settimeout(1)
                try:
                    datagrams.connect((target, port))
                    datagrams.send(b"\xc0\0\0\0\1" + b"\0" * 1195)
                    got.append(f"{target}: {datagrams.recv(2000)!r}")
                except OSError:
                    pass
    if got:
        return ", ".join(got)
    raise Held("nothing came back")


# Evidence.

def forged_hosts():
    answers = []
    for host in ["\x1b]0;owned\x07\x1b[2Jevil", '"},{"decision":"allow', "evil\u202egpj", "a" * 4000, "\x7f\x9b31m", "evil\tx", "é.example"]:
        with socket.create_connection((address(), PORT)) as stream:
            answers.append((repr(host[:20]), talk(stream, f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())))
    for sni in [b"\x1b]0;owned\x07\x1b[2Jevil", b'"},{"decision":"allow', b"evil\n{\"a\":1}", b"a" * 4000, b"\xff\xfe\x00", b"evil\0api.test.example"]:
        with socket.create_connection((address(), PORT)) as stream:
            answers.append((repr(sni[:20]), talk(stream, hello(sni))))
    return none_of(answers)


def hello(name):
    entry = b"\0" + struct.pack(">H", len(name)) + name
    names = struct.pack(">H", len(entry)) + entry
    extensions = struct.pack(">HH", 0, len(names)) + names
    body = b"\3\3" + b"r" * 32 + b"\0" + b"\0\2\x13\1" + b"\1\0" + struct.pack(">H", len(extensions)) + extensions
    handshake = b"\1" + struct.pack(">I", len(body))[1:] + body
    return b"\x16\3\1" + struct.pack(">H", len(handshake)) + handshake


# Processes that stay.

def other_cell():
    # Another cell runs now. Its gateway listens on PORT + 1, its abstract socket is called SOCKET_NAME.
    targets = ["198.18.1.0", "fd63:656c:6c6f::c612:100", "127.0.0.1", "198.18.0.53", *ADDRESSES]
    answers = [(target, ask((target, port), "other.test.example")) for target in targets for port in [PORT, PORT + 1]]
    with socket.socket(socket.AF_UNIX) as stream:
        try:
            stream.connect(b"\0" + SOCKET_NAME.encode())
            return "connected to the other cell's socket"
        except OSError:
            pass
    return none_of(answers)


def waits_beside():
    with socket.socket(socket.AF_UNIX) as stream:
        stream.bind(b"\0" + SOCKET_NAME.encode())
        stream.listen()
        print("beside", flush=True)
        sys.stdin.read()
    raise Held("waited")


def leaves_a_process():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            stream = socket.create_connection((address(), PORT))
            for number in (0, 1, 2):
                os.dup2(os.open("/dev/null", os.O_RDWR), number)
            time.sleep(20)
            stream.sendall(request(NAME + ".late"))
            os._exit(0)
        os._exit(0)
    os.wait()
    time.sleep(0.3)
    raise Held("left")


def main():
    for name in sys.argv[4:]:
        try:
            print(name, "open:", globals()[name](), flush=True)
        except Held as held:
            print(name, "held:", held, flush=True)
    answer = ask((NAME, PORT), NAME)
    print("allowed", "works" if BAIT in answer else f"fails: {answer!r}", flush=True)


main()
