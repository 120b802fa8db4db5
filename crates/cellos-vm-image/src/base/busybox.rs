//! The smallest useful base: Debian's static busybox on a system with everything below `/usr`.

use std::{
    fs::File,
    path::Path,
    process::{Command, Stdio},
};

use super::{Base, BaseError, content_error};
use crate::{
    ImageError, Progress,
    debian::Packages,
    tree::{Directory, Metadata, Node, TreePath, symlink},
};

/// Most programs that busybox may say it can be; Debian's says 270.
pub const MAX_APPLETS: usize = 2000;

/// The package.
const PACKAGE: &str = "busybox-static";

/// Where the package has the program, on merged and older systems.
const PROGRAMS: [&str; 2] = ["usr/bin/busybox", "bin/busybox"];

/// The directories, above those that every base has.
const DIRECTORIES: [&str; 4] = ["usr", "usr/bin", "usr/lib", "usr/lib64"];

/// The links that make one directory of programs out of four, and the usual names of libraries.
const LINKS: [(&str, &str); 5] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/bin"),
    ("usr/sbin", "bin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
];

const EXECUTABLE: Metadata = Metadata {
    mode: 0o755,
    uid: 0,
    gid: 0,
};

const LINK: Metadata = Metadata {
    mode: 0o777,
    uid: 0,
    gid: 0,
};

/// Puts busybox and its links into the base.
pub(super) fn load(
    base: &mut Base,
    scratch: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), ImageError> {
    let packages = Packages::new(&scratch.join("apt-base"), PACKAGE, progress)?;
    let unpacked = packages.unpack(PACKAGE, progress)?;
    let program = PROGRAMS
        .map(|program| unpacked.folder.join(program))
        .into_iter()
        .find(|program| program.is_file())
        .ok_or(BaseError::NoBusybox)?;
    let applets = applets(&program)?;
    fill(base, &program, &applets)?;
    base.package = Some(unpacked.package);
    Ok(())
}

fn fill(base: &mut Base, program: &Path, applets: &[String]) -> Result<(), BaseError> {
    let path = |text: &str| TreePath::parse(text.as_bytes());
    for directory in DIRECTORIES {
        let node = Node::Directory(Directory::new(EXECUTABLE));
        base.tree.insert(&path(directory)?, node)?;
    }
    for (name, target) in LINKS {
        let place = path(name)?;
        let node = symlink(&place, LINK, target.into())?;
        base.tree.insert(&place, node)?;
    }
    for applet in applets {
        let place = path(&format!("usr/bin/{applet}"))?;
        let node = symlink(&place, LINK, b"busybox".to_vec())?;
        base.tree.insert(&place, node)?;
    }
    let content = File::open(program)
        .and_then(|file| base.spool.append(file))
        .map_err(|source| content_error(program.to_path_buf(), source))?;
    let node = Node::File {
        metadata: EXECUTABLE,
        content,
    };
    base.tree.insert(&path("usr/bin/busybox")?, node)?;
    Ok(())
}

/// What busybox can be, as it says itself: the package does not.
fn applets(program: &Path) -> Result<Vec<String>, BaseError> {
    let output = Command::new(program)
        .arg("--list")
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|source| BaseError::Io {
            path: program.to_path_buf(),
            source,
        })?;
    let refused = |problem: String| BaseError::Applets { problem };
    if !output.status.success() {
        return Err(refused(output.status.to_string()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut applets: Vec<String> = Vec::new();
    for name in text.lines() {
        let plain = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"[_+-.".contains(&byte));
        if !plain || name.is_empty() || name.starts_with('.') {
            return Err(refused(format!("{name:?} is no name of a program")));
        }
        applets.push(name.to_owned());
        if applets.len() > MAX_APPLETS {
            return Err(refused(format!("more than {MAX_APPLETS} programs")));
        }
    }
    if !applets.iter().any(|name| name == "sh") {
        return Err(refused("no sh among its programs".to_owned()));
    }
    Ok(applets)
}
