//! Files of the working folder, fetched after the end.

use cellos_testkit::require;

use crate::host::{Host, config, shell};

#[test]
fn regular_files_beneath_the_working_folder_are_sent_and_nothing_else() {
    require!("userns");
    require!("cgroups");
    let mut host = Host::running(&config(&shell(
        "mkdir -p a/b; head -c 3000000 /dev/zero > a/b/large; : > empty; \
         ln -s /etc/passwd link; ln -s a alias; ln -s .. up; mkfifo pipe",
    )));
    host.exit();
    assert_eq!(
        host.fetch("a/b/large", 3_000_000).unwrap(),
        vec![0; 3_000_000]
    );
    assert_eq!(host.fetch("empty", 0).unwrap(), b"");
    for path in ["none", "a/none", "empty/none"] {
        assert_eq!(host.fetch(path, 10).unwrap_err(), "absent", "{path}");
    }
    for (path, why) in [
        ("link", "symbolic link"),
        ("alias/b/large", "symbolic link"),
        ("up/etc/passwd", "symbolic link"),
        ("pipe", "not a regular file"),
        ("a", "not a regular file"),
        ("a/b/large", "has 3000000 bytes, at most 10 are wanted"),
    ] {
        let refused = host.fetch(path, 10).unwrap_err();
        assert!(refused.contains(why), "{path}: {refused}");
    }
    host.acknowledge();
}
