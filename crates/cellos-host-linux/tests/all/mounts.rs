//! Declared mounts: what is there, who owns it, and what is refused.

use std::{fs, os::unix::fs::MetadataExt};

use cellos_core::{CellosError, ports::CellBackend};
use cellos_testkit::require;
use serde_json::json;

use crate::support::{backend, document, run, shell};

fn mounts(list: serde_json::Value) -> serde_json::Value {
    json!({ "filesystem": { "mounts": list } })
}

#[tokio::test]
async fn a_writable_folder_takes_files_as_its_owner() {
    require!("userns");
    let host = tempfile::tempdir().unwrap();
    let path = host.path().canonicalize().unwrap();
    fs::write(path.join("given"), "from the host\n").unwrap();
    let authority = mounts(json!([{ "source": path, "target": "/work", "access": "rw" }]));
    let command = shell("cat given; echo made > made; stat -c %U made");
    let finished = run(&backend(), &document("rw", &command, &authority)).await;
    assert_eq!(finished.output, "from the host\ncell\n");
    assert_eq!(fs::read_to_string(path.join("made")).unwrap(), "made\n");
    let owner = |file: &str| fs::metadata(path.join(file)).unwrap().uid();
    assert_eq!(owner("made"), owner("given"));
}

#[tokio::test]
async fn a_read_only_folder_cannot_be_changed() {
    require!("userns");
    let host = tempfile::tempdir().unwrap();
    let path = host.path().canonicalize().unwrap();
    fs::write(path.join("given"), "x\n").unwrap();
    let authority = mounts(json!([{ "source": path, "target": "/data", "access": "ro" }]));
    let command = shell(
        "cat /data/given; for c in 'touch /data/new' 'rm /data/given' 'chmod 0 /data/given'; \
               do $c 2>/dev/null && echo \"$c worked\"; done; true",
    );
    let finished = run(&backend(), &document("ro", &command, &authority)).await;
    assert_eq!(finished.output, "x\n");
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
}

#[tokio::test]
async fn files_and_nested_targets_work() {
    require!("userns");
    let host = tempfile::tempdir().unwrap();
    let path = host.path().canonicalize().unwrap();
    fs::create_dir(path.join("inner")).unwrap();
    fs::write(path.join("file"), "a file\n").unwrap();
    let authority = mounts(json!([
        { "source": path.join("file"), "target": "/tmp/deep/file", "access": "ro" },
        { "source": path.join("file"), "target": "/work/file", "access": "ro" },
        { "source": path, "target": "/data", "access": "rw" },
        { "source": path.join("file"), "target": "/data/inner/again", "access": "ro" },
    ]));
    let command = shell("cat /tmp/deep/file /work/file /data/file /data/inner/again");
    let finished = run(&backend(), &document("nested", &command, &authority)).await;
    assert_eq!(finished.output, "a file\n".repeat(4));
}

#[tokio::test]
async fn setuid_files_cannot_be_left_on_the_host() {
    require!("userns");
    let host = tempfile::tempdir().unwrap();
    let path = host.path().canonicalize().unwrap();
    let authority = mounts(json!([{ "source": path, "target": "/work", "access": "rw" }]));
    let command = shell("cp /bin/true evil; chmod u+s evil; chmod g+s evil; chmod 6755 evil; true");
    run(&backend(), &document("setuid", &command, &authority)).await;
    let mode = fs::metadata(path.join("evil")).unwrap().mode();
    assert_eq!(mode & 0o6000, 0, "{mode:o}");
}

#[tokio::test]
async fn sources_that_are_not_what_they_seem_are_refused() {
    require!("userns");
    let host = tempfile::tempdir().unwrap();
    let path = host.path().canonicalize().unwrap();
    fs::create_dir(path.join("folder")).unwrap();
    std::os::unix::fs::symlink("/etc", path.join("link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path.join("fifo"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let backend = backend();
    for (source, reason) in [
        (path.join("link"), "symbolic link"),
        (path.join("link/ssl"), "symbolic link"),
        (path.join("absent"), "does not exist"),
        (path.join("fifo"), "neither a folder nor a regular file"),
        (path.join("folder/.."), "without empty, `.` and `..` parts"),
    ] {
        let authority = mounts(json!([{ "source": source, "target": "/data", "access": "ro" }]));
        let refused = backend
            .create(&document("bad", &shell("true"), &authority))
            .await;
        match refused {
            Err(CellosError::InvalidSpec(text)) => {
                assert!(text.contains(reason), "{source:?}: {text}");
                assert!(text.contains("mounts[0].source"), "{source:?}: {text}");
            }
            other => panic!("{source:?} gave {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_missing_working_folder_is_told_by_name() {
    require!("userns");
    let backend = backend();
    let command = json!({ "argv": ["true"], "workingDirectory": "/usr/no/such/folder" });
    match backend
        .create(&document("lost", &command, &json!({})))
        .await
    {
        Err(CellosError::InvalidSpec(text)) => {
            assert!(text.contains("/usr/no/such/folder"), "{text}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(backend.tracked_cell_count(), 0);
}
