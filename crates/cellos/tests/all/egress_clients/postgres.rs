//! psql and a real PostgreSQL, whose protocol begins with neither TLS nor HTTP.

use std::{
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use cellos_testkit::{Ability, require};

use super::cell::{AUTHORITY, Cell, DECLARED, Outside, UNDECLARED};
use super::outside::{Server, free_port, listens};

/// The user `nobody` of Debian: PostgreSQL does not run as root.
const NOBODY: u32 = 65_534;
/// Longest start of the server.
const START_MAX: Duration = Duration::from_secs(20);

/// The folder of the server's programs, which Debian keeps out of the way.
fn programs() -> Result<PathBuf, String> {
    let versions = Path::new("/usr/lib/postgresql");
    let entries =
        std::fs::read_dir(versions).map_err(|error| format!("/usr/lib/postgresql: {error}"))?;
    let mut found = entries.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    found
        .find(|bin| bin.join("initdb").is_file())
        .ok_or_else(|| "no initdb beneath /usr/lib/postgresql".to_owned())
}

/// A program of the server's, as somebody who is not root.
fn unprivileged(program: &Path) -> Command {
    let mut command = if Ability::Root.probe().is_ok() {
        let mut command = Command::new("/usr/bin/setpriv");
        let user = NOBODY.to_string();
        command
            .args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"])
            .arg(program);
        command
    } else {
        Command::new(program)
    };
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Starts a server with the certificate of the test, which everybody on this host may use.
fn server(outside: &Outside) -> Server {
    let bin = programs().unwrap();
    let place = outside.place.path();
    std::fs::set_permissions(place, PermissionsExt::from_mode(0o711)).unwrap();
    let folder = place.join("postgres");
    std::fs::create_dir(&folder).unwrap();
    let (certificate, key) = outside.certificates.files();
    let own = |from: &Path, name: &str| {
        let path = place.join(name);
        std::fs::copy(from, &path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    };
    let files = [
        folder.clone(),
        own(certificate, "postgres.pem"),
        own(key, "postgres.key"),
    ];
    if Ability::Root.probe().is_ok() {
        for path in &files {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    let [folder, certificate, key] = files;
    let made = unprivileged(&bin.join("initdb"))
        .args(["--no-sync", "--auth=trust", "--username=tester", "--pgdata"])
        .arg(&folder)
        .status()
        .unwrap();
    assert!(made.success(), "{made:?}");
    let port = free_port();
    let child = unprivileged(&bin.join("postgres"))
        .arg("-D")
        .arg(&folder)
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
        .args([
            "-c",
            "unix_socket_directories=",
            "-c",
            "fsync=off",
            "-c",
            "ssl=on",
        ])
        .arg("-c")
        .arg(format!("ssl_cert_file={}", certificate.display()))
        .arg("-c")
        .arg(format!("ssl_key_file={}", key.display()))
        .spawn()
        .unwrap();
    let server = Server::of(child, port);
    let begin = Instant::now();
    while !listens(port) {
        assert!(begin.elapsed() < START_MAX, "PostgreSQL does not start");
        thread::sleep(Duration::from_millis(20));
    }
    server
}

#[test]
fn psql_asks_a_database() {
    require!("userns");
    require!("postgres");
    let outside = Outside::new();
    let server = server(&outside);
    let port = server.port();
    let psql = |host: &str, tls: &str| {
        format!(
            "psql -w -At 'host={host} port={port} user=tester dbname=postgres sslmode={tls} \
             sslrootcert={AUTHORITY}'"
        )
    };
    let script = format!(
        "{} -c \"select 'plain ' || 6 * 7\"
         {} -c \"select 'tls ' || count(*) from generate_series(1, 100000)\"
         {} -c 'select 1'; echo \"name $?\"",
        psql(DECLARED, "disable"),
        psql(DECLARED, "verify-full"),
        psql(UNDECLARED, "disable"),
    );
    let mut cell = Cell {
        port,
        protocol: Some("tcp"),
        script: &script,
        ..Cell::default()
    };
    let ran = outside.run(&cell);
    // psql(1): 2 is a connection that could not be made.
    ran.said(&["plain 42", "tls 100000", "name 2"]);
    ran.reached();
    ran.refused_name();

    // The same without a protocol is neither TLS nor HTTP, and the record says what to do.
    (cell.log, cell.protocol) = ("second", None);
    let script = format!(
        "{} -c 'select 1'; echo \"code $?\"",
        psql(DECLARED, "disable")
    );
    cell.script = &script;
    let ran = outside.run(&cell);
    ran.said(&["code 2"]);
    let refused = ran.refused_flow("l7_unknown_protocol");
    let detail = refused["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("protocol: tcp"), "{refused}");
}
