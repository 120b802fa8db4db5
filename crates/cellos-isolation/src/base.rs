//! What every cell sees of the host's system, found once: the programs and libraries under
//! `/usr`, and the few files of `/etc` that programs need. Everything else of the host is absent.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Folders and links of the root that hold the system. On a merged-`/usr` host most are links.
const SYSTEM_FOLDERS: &[&str] = &["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Files and folders of `/etc` that programs read and that hold nothing private. `passwd`,
/// `group`, `hosts`, `hostname`, `resolv.conf` and `nsswitch.conf` are made for each cell. Each
/// entry costs every cell about 10 µs, so a file that few programs miss is not here.
const SYSTEM_CONFIGURATION: &[&str] = &[
    "etc/alternatives",
    "etc/crypto-policies",
    "etc/fonts",
    "etc/java-17-openjdk",
    "etc/java-21-openjdk",
    "etc/ld.so.cache",
    "etc/localtime",
    "etc/os-release",
    "etc/pki/ca-trust",
    "etc/pki/tls/certs",
    "etc/protocols",
    "etc/services",
    "etc/ssl/certs",
    "etc/ssl/openssl.cnf",
];

/// One piece of the host's system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseEntry {
    /// Path on the host.
    pub(crate) source: PathBuf,
    /// Path in the cell's root, relative.
    pub(crate) target: &'static str,
    pub(crate) kind: BaseKind,
}

/// How a piece of the system gets into a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BaseKind {
    Folder,
    File,
    Link(PathBuf),
}

/// The pieces that this host has.
///
/// # Errors
/// When `/usr` is missing or the root cannot be looked at.
pub(crate) fn find(root: &Path) -> io::Result<Vec<BaseEntry>> {
    let mut entries = Vec::new();
    for target in SYSTEM_FOLDERS.iter().chain(SYSTEM_CONFIGURATION) {
        let source = root.join(target);
        let kind = match fs::symlink_metadata(&source) {
            Ok(found) if found.is_symlink() => BaseKind::Link(fs::read_link(&source)?),
            Ok(found) if found.is_dir() => BaseKind::Folder,
            Ok(found) if found.is_file() => BaseKind::File,
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            // A folder that this user may not look at is not part of the system for them.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
            Err(error) => return Err(error),
        };
        entries.push(BaseEntry {
            source,
            target,
            kind,
        });
    }
    if !entries
        .iter()
        .any(|entry| entry.target == "usr" && entry.kind == BaseKind::Folder)
    {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the host has no /usr folder",
        ));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_folders_and_files_are_told_apart_and_missing_ones_left_out() {
        let root = std::env::temp_dir().join(format!("cellos-base-{}", std::process::id()));
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::create_dir_all(root.join("etc/ssl/private")).unwrap();
        fs::write(root.join("etc/services"), "").unwrap();
        std::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
        let found = find(&root).unwrap();
        fs::remove_dir_all(&root).unwrap();
        let targets: Vec<_> = found
            .iter()
            .map(|entry| (entry.target, &entry.kind))
            .collect();
        assert_eq!(
            targets,
            [
                ("usr", &BaseKind::Folder),
                ("bin", &BaseKind::Link("usr/bin".into())),
                ("etc/services", &BaseKind::File),
            ]
        );
    }

    #[test]
    fn a_root_without_usr_is_refused() {
        assert!(find(Path::new("/proc/self/fdinfo")).is_err());
    }
}
