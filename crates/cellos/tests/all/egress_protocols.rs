//! Hostile programs in real cells that say to the gateway what no protocol allows. Nothing of it
//! arrives.

use cellos_testkit::require;

use crate::hostile::Attack;

#[test]
fn requests_that_can_be_read_in_two_ways_do_not_arrive() {
    require!("userns");
    require!("python3");
    let attack = Attack::new(
        None,
        r#"
PATIENCE = 1
host = f"Host: {NAME}:{PORT}\r\n".encode()
chunked = b"Transfer-Encoding: chunked\r\n"
heads = [
    b"POST /evil HTTP/1.1\r\n" + host + b"Content-Length: 4\r\n" + chunked + b"\r\n0\r\n\r\nGET /evil HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /evil HTTP/1.1\r\n" + host + b"Content-Length: 4\r\nContent-Length: 40\r\n\r\nabcd",
    b"POST /evil HTTP/1.1\r\n" + host + b"Content-Length: 4, 40\r\n\r\nabcd",
    b"POST /evil HTTP/1.1\r\n" + host + b"Content-Length: +4\r\n\r\nabcd",
    b"POST /evil HTTP/1.1\r\n" + host + b"Content-Length: 0x4\r\n\r\nabcd",
    b"POST /evil HTTP/1.1\r\n" + host + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"POST /evil HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"POST /evil HTTP/1.1\r\n" + host + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"POST /evil HTTP/1.1\r\n" + host + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    b"POST /evil HTTP/1.1\r\n" + host + b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /evil HTTP/1.1\r\n" + host + b"X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /evil HTTP/1.0\r\n" + host + chunked + b"\r\n0\r\n\r\n",
    b"GET /evil HTTP/1.1\r\n" + host + host + b"\r\n",
    b"GET /evil HTTP/1.1\r\n" + host + b"Host: evil.example\r\n\r\n",
    b"GET /evil HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"GET /evil HTTP/1.1\r\nX: y\r\n\r\n",
    b"GET /evil HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /evil\r\n",
    b"GET /evil HTTP/0.9\r\n\r\n",
    b"GET /evil HTTP/2.0\r\n" + host + b"\r\n",
    b"GET http://evil.example/evil HTTP/1.1\r\n" + host + b"\r\n",
    b"GET http://user@evil.example@" + NAME.encode() + b"/evil HTTP/1.1\r\n" + host + b"\r\n",
    b"CONNECT evil.example:443 HTTP/1.1\r\n" + host + b"\r\nevil",
    b"GET /evil HTTP/1.1\nHost: " + NAME.encode() + b"\n\n",
    b"GET /evil HTTP/1.1\rHost: " + NAME.encode() + b"\r\r",
    b"GET  /evil  HTTP/1.1\r\n" + host + b"\r\n",
    b"GET /evil HTTP/1.1\r\nHost: " + NAME.encode() + b"\x00.evil.example\r\n\r\n",
    b"GET /evil HTTP/1.1\r\nHost:\r\n evil.example\r\n\r\n",
    b"GET /evil HTTP/1.1\r\nHost: " + NAME.encode() + b":1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nevil",
    b"SSH-2.0-evil\r\n",
]
for head in heads:
    s = connect(); s.sendall(head)
    said = heard(s)
    assert b"reached" not in said, (head, said)
# After a request that is let through, on the same connection: none of these, either.
good = b"GET /good HTTP/1.1\r\n" + host + b"\r\n"
for head in heads[:-2]:
    for together in (True, False):
        s = connect()
        if together: s.sendall(good + head)
        else:
            s.sendall(good); s.recv(4096); s.sendall(head)
        heard(s)
# What follows a request that asks for another protocol, or waits to be asked for its body.
for ask in (b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"):
    s = connect(); s.sendall(b"GET /up HTTP/1.1\r\n" + host + ask + b"\r\nGET /evil HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    heard(s)
s = connect(); s.sendall(b"POST /wait HTTP/1.1\r\n" + host + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n12345GET /evil HTTP/1.1\r\nHost: evil.example\r\n\r\n")
heard(s)
allowed()
"#,
    );
    attack.succeeds();
    assert!(attack.server.has_heard(b"/good") && attack.server.has_heard(b"/allowed"));
    assert!(!attack.server.has_heard(b"evil"));
}

#[test]
fn hellos_are_read_however_they_are_cut() {
    require!("userns");
    require!("python3");
    let attack = Attack::new(
        None,
        r#"
import ssl
def hello(name):
    to = ssl.MemoryBIO()
    context = ssl.create_default_context(); context.check_hostname = False
    tls = context.wrap_bio(ssl.MemoryBIO(), to, server_hostname=name)
    try: tls.do_handshake()
    except ssl.SSLWantReadError: pass
    return to.read()
good, bad = hello(NAME), hello("evil.example")
assert len(good) > 100
for at in range(1, len(good), 3):
    for said, reaches in ((good, True), (bad, False)):
        s = connect(); s.sendall(said[:at]); time.sleep(0.001)
        try: s.sendall(said[at:])
        except OSError: pass
        if reaches: assert s.recv(4096).startswith(b"HTTP"), at
        else: assert b"HTTP" not in heard(s), at
# Every byte in a record of its own.
def dust(said): return b"".join(said[:3] + b"\x00\x01" + bytes([byte]) for byte in said[5:])
s = connect(); s.sendall(dust(bad)); assert b"HTTP" not in heard(s)
s = connect(); s.sendall(hello(None)); assert b"HTTP" not in heard(s)
# One byte after another.
s = connect()
for byte in good: s.sendall(bytes([byte]))
assert s.recv(4096).startswith(b"HTTP")
# Records of no bytes, of too many, of another kind; a length that lies.
for said in (b"\x16\x03\x01\x00\x00" * 1000, b"\x16\x03\x01\xff\xff" + good, b"\x17" + good[1:],
             good[:5] + b"\x01\xff\xff\xff" + good[9:], good[:60], b"\x80\x2e\x01\x03\x01"):
    s = connect()
    try: s.sendall(said); s.shutdown(socket.SHUT_WR)
    except OSError: pass
    assert b"HTTP" not in heard(s), said
allowed()
"#,
    );
    attack.succeeds();
    assert!(!attack.server.has_heard(b"evil"));
    assert!(
        attack.refused("l7_sni_allowlist_miss") > 50,
        "{:?}",
        attack.egress()
    );
}
