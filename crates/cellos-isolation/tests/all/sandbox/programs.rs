//! Usual programs, which must run inside as they run outside.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::child::{Sandbox, command};

/// Whether the program is on this machine; says so where it is not.
fn installed(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: no {program} on this machine");
    }
    found
}

/// Runs a shell script inside and gives its standard output.
fn shell(folder: &Path, script: &str) -> String {
    let output = command("/bin/sh", folder, Sandbox::Whole)
        .args(["-euc", script])
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{}\n{stdout}\n{stderr}",
        output.status
    );
    stdout.into_owned()
}

#[test]
fn shell_pipelines_run() {
    let folder = tempfile::tempdir().unwrap();
    let script = "for i in 3 1 2; do echo $i; done | sort | tr '\\n' ' ' | tee copy; \
        (sleep 0.01 & wait); mkfifo p; echo x > p & cat p; cp copy other; ls; trap 'echo term' TERM; kill $$";
    assert_eq!(
        shell(folder.path(), script),
        "1 2 3 x\ncopy\nother\np\nterm\n"
    );
}

#[test]
fn python_runs_threads_processes_sockets_and_databases() {
    if !installed("python3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = r"
import asyncio, ctypes, mmap, multiprocessing, os, select, signal, socket, sqlite3, subprocess, tempfile, threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    assert sum(pool.map(lambda x: x * x, range(100))) == 328350
assert subprocess.run(['sh', '-c', 'echo out; exit 3'], capture_output=True).returncode == 3
with multiprocessing.get_context('fork').Pool(2) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
    a = socket.socket(family)
    a.close()
a, b = socket.socketpair()
a.send(b'x'); assert b.recv(1) == b'x'
server = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(server.getsockname())
client.sendall(b'hello'); peer, _ = server.accept(); assert peer.recv(5) == b'hello'
socket.getaddrinfo('localhost', 80)
socket.if_nameindex()
db = sqlite3.connect('test.db'); db.execute('pragma journal_mode=wal')
db.execute('create table t(x)'); db.executemany('insert into t values (?)', [(i,) for i in range(50)]); db.commit()
assert db.execute('select sum(x) from t').fetchone() == (1225,)
async def main():
    p = await asyncio.create_subprocess_exec('true'); assert await p.wait() == 0
asyncio.run(main())
signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 0.01); signal.pause()
os.memfd_create('x'); os.pidfd_open(os.getpid()); os.sched_getaffinity(0)
with tempfile.NamedTemporaryFile() as f: f.write(b'x'); f.flush(); os.chmod(f.name, 0o600); os.statvfs(f.name)
try:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raise SystemExit('packet socket')
except OSError: pass
print('fine')
";
    fs::write(folder.path().join("test.py"), script).unwrap();
    assert_eq!(shell(folder.path(), "python3 test.py"), "fine\n");
}

#[test]
fn gcc_compiles_and_threads_run() {
    if !installed("gcc") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = r#"
#include <pthread.h>
#include <stdio.h>
static void *run(void *x) { return x; }
int main(void) { pthread_t t; void *r; if (pthread_create(&t, 0, run, "threads")) return 1;
  pthread_join(t, &r); puts(r); return 0; }
"#;
    fs::write(folder.path().join("t.c"), source).unwrap();
    assert_eq!(
        shell(folder.path(), "gcc -O1 -pthread -o t t.c && ./t"),
        "threads\n"
    );
}

#[test]
fn git_commits_and_clones() {
    if !installed("git") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = "git init -q r && cd r && git config user.email a@example.org && \
        git config user.name a && echo x > f && git add f && git commit -qm first && \
        git gc -q && git clone -q . ../copy && git -C ../copy log --format=%s";
    assert_eq!(shell(folder.path(), script), "first\n");
}

#[test]
fn perl_forks_and_pipes() {
    if !installed("perl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = r#"perl -e 'open(my $p, "-|", "echo inside") or die; print <$p>; close $p;
        my $pid = fork; exit 4 unless $pid; waitpid $pid, 0; print $? >> 8, "\n"'"#;
    assert_eq!(shell(folder.path(), script), "inside\n4\n");
}

#[test]
fn node_runs_workers_files_and_servers() {
    if !installed("node") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
const { Worker } = require('worker_threads'), fs = require('fs'), net = require('net');
const { execSync } = require('child_process'), crypto = require('crypto');
fs.writeFileSync('f', 'x'); fs.watch('.').close();
crypto.pbkdf2Sync('a', 'b', 10, 8, 'sha256');
const child = execSync('echo child').toString().trim();
const server = net.createServer(s => s.end('served')).listen(0, '127.0.0.1', () => {
  net.connect(server.address().port, '127.0.0.1').on('data', d => {
    server.close();
    new Worker("require('worker_threads').parentPort.postMessage('worker')", { eval: true })
      .on('message', m => console.log(child, d.toString(), m));
  });
});
"#;
    fs::write(folder.path().join("t.js"), script).unwrap();
    assert_eq!(shell(folder.path(), "node t.js"), "child served worker\n");
}

#[test]
fn java_starts_its_threads() {
    if !installed("java") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // The version option starts the whole virtual machine, its collector's threads included.
    let text = shell(folder.path(), "java -XX:+UseG1GC -version 2>&1");
    assert!(text.contains("version"), "{text}");
}

#[test]
fn terminals_and_clocks_work() {
    if !installed("script") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let text = shell(
        folder.path(),
        "script -qec 'test -t 1 && stty size && echo terminal' /dev/null </dev/null",
    );
    assert!(text.contains("terminal"), "{text}");
}
