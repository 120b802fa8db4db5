#!/usr/bin/env python3
"""Checks the lines of a CellOS log without CellOS: chain, signatures, and the head beside it.

    verify_log.py KEYRING SEALED... LIVE

KEYRING is what `cellos keys show --keyring` prints. The files are those of one log from its first
line on, all of it signed: sealed segments in the order of their names, then the live file. Needs the
package `cryptography`. Ends in 0 and prints the head, or says what is wrong first and ends in 1.

It says nothing of validity and revocation, seals, canonical form, or what the events tell:
`cellos verify` does. docs/evidence.md describes the format.
"""
import base64, hashlib, json, sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def unbase64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def once(pairs):
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def parts(text, name):
    """The signed bytes of {"<name>":{...},"sig":"..."} as they are stored, what they say, and the signature."""
    outer = json.loads(text, object_pairs_hook=once)
    start, end = b'{"%s":' % name, b',"sig":"%s"}' % outer["sig"].encode() if "sig" in outer else b"}"
    if not (text.startswith(start) and text.endswith(end)):
        raise ValueError("not %s and its signature" % name.decode())
    return text[len(start):-len(end)], outer[name.decode()], outer.get("sig")


def check_signature(keys, domain, body, said, sig):
    Ed25519PublicKey.from_public_bytes(unbase64(keys[said["kid"]])).verify(unbase64(sig), domain + body)


def check(keys, files):
    seq, log, prev, waiting = 0, None, None, 0
    # Whoever cuts the end off can take the head away too.
    body, head, sig = parts(open(files[-1] + ".head", "rb").read().rstrip(b" \n"), b"head")
    check_signature(keys, b"cellos.log.head.v1\n", body, head, sig)
    for file in files:
        for line in open(file, "rb"):
            if not line.endswith(b"\n"):
                raise ValueError("line %d has no end" % seq)
            body, entry, sig = parts(line[:-1], b"entry")
            if log is None:
                log = entry["log"]
                prev = hashlib.sha256(b"cellos.log.genesis.v1\n" + log.encode()).hexdigest()
            if (entry["v"], entry["log"], entry["seq"], entry["prev"]) != (1, log, seq, prev):
                raise ValueError("line %d is not the one that follows" % seq)
            waiting += 1
            if sig is not None:
                if entry["signs"] != waiting:
                    raise ValueError("line %d speaks for other lines than wait" % seq)
                check_signature(keys, b"cellos.log.entry.v1\n", body, entry, sig)
                waiting = 0
            prev = hashlib.sha256(b"cellos.log.line.v1\n" + line[:-1]).hexdigest()
            if seq == head["nextSeq"] - 1 and prev != head["lastHash"]:
                raise ValueError("line %d is not the one that the head names" % seq)
            seq += 1
    if waiting:
        raise ValueError("nobody signed the last %d lines" % waiting)
    if head["log"] != log or head["nextSeq"] > seq:
        raise ValueError("cut off: the head says that line %d comes next" % head["nextSeq"])
    return "%d:%s" % (seq - 1, prev)


if __name__ == "__main__":
    try:
        print(check(json.load(open(sys.argv[1])), sys.argv[2:]))
    except Exception as error:
        sys.exit("not well: %s: %s" % (type(error).__name__, error))
