//! Clients that fetch sources and packages: git, pip and npm.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use cellos_testkit::require;

use super::cell::{AUTHORITY, Cell, DECLARED, Outside, UNDECLARED};
use super::outside::serve_folder;

/// Runs something on the host, and fails the test where that fails.
fn host(command: &mut Command) {
    let output = command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn folder(outside: &Outside, name: &str) -> std::path::PathBuf {
    let folder = outside.place.path().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A bare repository `project.git` with one commit.
fn repository(root: &Path, work: &Path) {
    let git = |arguments: &[&str], at: &Path| {
        host(
            Command::new("/usr/bin/git")
                .args(["-c", "user.name=A", "-c", "user.email=a@test.example"])
                .args(arguments)
                .current_dir(at)
                .env("HOME", at),
        );
    };
    git(&["init", "--quiet", "--initial-branch=main"], work);
    std::fs::write(work.join("README"), "from the repository").unwrap();
    git(&["add", "README"], work);
    git(&["commit", "--quiet", "--message=First"], work);
    let bare = root.join("project.git");
    let arguments = ["clone", "--quiet", "--bare", ".", bare.to_str().unwrap()];
    git(&arguments, work);
}

#[test]
fn git_clones_over_https() {
    require!("userns");
    require!("git");
    let outside = Outside::new();
    let web = folder(&outside, "web");
    repository(&folder(&outside, "web/git"), &folder(&outside, "work"));
    let port = serve_folder(&outside.certificates, &web);
    let ran = outside.run(&Cell {
        port,
        script: &format!(
            "/usr/bin/git clone --depth 1 https://{DECLARED}:{port}/git/project.git one; \
               cat one/README; echo \" came, $?\"
             /usr/bin/git clone https://{UNDECLARED}:{port}/git/project.git two; echo \"name $?\""
        ),
        env: &[("GIT_SSL_CAINFO", AUTHORITY)],
        ..Cell::default()
    });
    ran.said(&[
        "from the repository came, 0",
        "name 128",
        "Could not resolve host",
    ]);
    ran.reached();
    ran.refused_name();
}

/// Packs a wheel, which pip installs without running anything of it.
const PACK_WHEEL: &str = r#"
import sys, zipfile
info = "demo-1.0.dist-info/"
with zipfile.ZipFile(sys.argv[1], "w") as wheel:
    wheel.writestr("demo.py", "words = 'from the index'\n")
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\n"
                   "Root-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", "demo.py,,\n" + info + "METADATA,,\n"
                   + info + "WHEEL,,\n" + info + "RECORD,,\n")
"#;

#[test]
fn pip_installs_from_an_index() {
    require!("userns");
    require!("pip");
    let outside = Outside::new();
    let web = folder(&outside, "web");
    let index = folder(&outside, "web/simple/demo");
    let wheel = "demo-1.0-py3-none-any.whl";
    host(
        Command::new("/usr/bin/python3")
            .args(["-c", PACK_WHEEL])
            .arg(index.join(wheel)),
    );
    let page = format!("<!DOCTYPE html><html><body><a href=\"{wheel}\">{wheel}</a></body></html>");
    std::fs::write(index.join("index.html"), page).unwrap();
    let port = serve_folder(&outside.certificates, &web);
    let pip = "/usr/bin/python3 -m pip install --disable-pip-version-check --retries 0";
    let ran = outside.run(&Cell {
        port,
        script: &format!(
            "{pip} --index-url https://{DECLARED}:{port}/simple --target one demo; \
               PYTHONPATH=one /usr/bin/python3 -c 'import demo; print(demo.words)'
             {pip} --index-url https://{UNDECLARED}:{port}/simple --target two demo; \
               echo \"name $?\""
        ),
        env: &[("PIP_CERT", AUTHORITY)],
        ..Cell::default()
    });
    ran.said(&["from the index", "name 1", "No matching distribution found"]);
    ran.reached();
    ran.refused_name();
}

#[test]
fn npm_installs_from_a_registry() {
    require!("userns");
    require!("npm");
    let outside = Outside::new();
    let web = folder(&outside, "web");
    let package = folder(&outside, "work/package");
    std::fs::write(
        package.join("package.json"),
        r#"{"name": "demo", "version": "1.0.0", "main": "index.js"}"#,
    )
    .unwrap();
    let code = "module.exports = 'from the registry'";
    std::fs::write(package.join("index.js"), code).unwrap();
    host(
        Command::new("/usr/bin/tar")
            .arg("-czf")
            .arg(web.join("demo-1.0.0.tgz"))
            .arg("-C")
            .arg(outside.place.path().join("work"))
            .arg("package"),
    );
    let port = serve_folder(&outside.certificates, &web);
    let registry = serde_json::json!({
        "name": "demo",
        "dist-tags": {"latest": "1.0.0"},
        "versions": {"1.0.0": {
            "name": "demo",
            "version": "1.0.0",
            "dist": {"tarball": format!("https://{DECLARED}:{port}/demo-1.0.0.tgz")},
        }},
    });
    std::fs::write(web.join("demo"), registry.to_string()).unwrap();
    let npm = "npm install --fetch-retries 0";
    let ran = outside.run(&Cell {
        port,
        script: &format!(
            "mkdir one two
             cd one; {npm} --registry https://{DECLARED}:{port}/ demo; \
               node -e 'console.log(require(\"demo\"))'
             cd ../two; {npm} --registry https://{UNDECLARED}:{port}/ demo \
               || echo refused"
        ),
        env: &[("npm_config_cafile", AUTHORITY)],
        ..Cell::default()
    });
    ran.said(&["from the registry", "refused", "getaddrinfo"]);
    ran.reached();
    ran.refused_name();
}
