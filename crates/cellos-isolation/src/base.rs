//! What every cell sees of the system, found once. Of a host that is the programs and libraries
//! under `/usr`, and the few files of `/etc` that programs need; everything else is absent. Of a
//! machine whose root was made for cells it is the whole root.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::plan::DEFAULT_WORKING_FOLDER;

/// What a cell sees, read-only, of the system that it is built on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SystemView {
    /// `/usr` and a handful of files of `/etc`: for a host, whose other files are no cell's
    /// business.
    #[default]
    Host,
    /// Everything in the root but `/dev`, `/proc`, `/sys`, `/tmp`, `/run` and `/work`, and of
    /// `/etc` everything but the files that are made for each cell. For a machine whose root is an
    /// image made for its cell.
    WholeRoot,
}

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

/// Entries of an image's root that a cell has of its own, or not at all.
const NOT_OF_AN_IMAGE: &[&str] = &["dev", "proc", "sys", "tmp", "run", "etc"];

/// Files of `/etc` that are made for each cell.
pub(crate) const OWN_CONFIGURATION: &[&str] = &[
    "etc/passwd",
    "etc/group",
    "etc/hosts",
    "etc/hostname",
    "etc/nsswitch.conf",
    "etc/resolv.conf",
];

/// Most entries of an image's root and of its `/etc` together. Each is a mount in every cell; a
/// large distribution has about 250.
pub const MAX_IMAGE_ENTRIES: usize = 4096;

/// One piece of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseEntry {
    /// Path outside.
    pub(crate) source: PathBuf,
    /// Path in the cell's root, relative.
    pub(crate) target: String,
    pub(crate) kind: BaseKind,
}

/// How a piece of the system gets into a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BaseKind {
    Folder,
    File,
    Link(PathBuf),
}

/// The pieces of the system beneath `root` that a cell sees.
///
/// # Errors
/// When the root cannot be looked at. For a host: when `/usr` is missing. For an image: when it
/// has no entries, too many, or one whose name is not UTF-8.
pub(crate) fn find(root: &Path, view: SystemView) -> io::Result<Vec<BaseEntry>> {
    match view {
        SystemView::Host => find_of_host(root),
        SystemView::WholeRoot => find_of_image(root),
    }
}

fn find_of_host(root: &Path) -> io::Result<Vec<BaseEntry>> {
    let mut entries = Vec::new();
    for target in SYSTEM_FOLDERS.iter().chain(SYSTEM_CONFIGURATION) {
        entries.extend(look_at(root, target)?);
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

fn find_of_image(root: &Path) -> io::Result<Vec<BaseEntry>> {
    let working_folder = DEFAULT_WORKING_FOLDER.trim_start_matches('/');
    let mut targets = names_in(root)?;
    targets.retain(|name| !NOT_OF_AN_IMAGE.contains(&name.as_str()) && name != working_folder);
    let configuration = root.join("etc");
    // Only a folder: the target of a link would be looked for on the wrong side.
    if fs::symlink_metadata(&configuration).is_ok_and(|found| found.is_dir()) {
        let names = names_in(&configuration)?.into_iter();
        targets.extend(
            names
                .map(|name| format!("etc/{name}"))
                .filter(|target| !OWN_CONFIGURATION.contains(&target.as_str())),
        );
    }
    if targets.len() > MAX_IMAGE_ENTRIES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "the image has {} entries in its root and its /etc, at most {MAX_IMAGE_ENTRIES} \
                 are allowed",
                targets.len()
            ),
        ));
    }
    let mut entries = Vec::with_capacity(targets.len());
    for target in &targets {
        entries.extend(look_at(root, target)?);
    }
    if entries.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the image's root is empty",
        ));
    }
    Ok(entries)
}

/// The names in a folder, in an order that does not depend on the file system.
fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)?.take(MAX_IMAGE_ENTRIES + 1) {
        let name = entry?.file_name().into_string().map_err(|name| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{folder:?} has an entry whose name is not UTF-8: {name:?}"),
            )
        })?;
        names.push(name);
    }
    names.sort_unstable();
    Ok(names)
}

/// The piece at this place; `None` where there is none that a cell could see.
fn look_at(root: &Path, target: &str) -> io::Result<Option<BaseEntry>> {
    let source = root.join(target);
    let kind = match fs::symlink_metadata(&source) {
        Ok(found) if found.is_symlink() => BaseKind::Link(fs::read_link(&source)?),
        Ok(found) if found.is_dir() => BaseKind::Folder,
        Ok(found) if found.is_file() => BaseKind::File,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // A folder that this user may not look at is not part of the system for them.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(BaseEntry {
        source,
        target: target.to_owned(),
        kind,
    }))
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
        let found = find(&root, SystemView::Host).unwrap();
        fs::remove_dir_all(&root).unwrap();
        let targets: Vec<_> = found
            .iter()
            .map(|entry| (entry.target.as_str(), &entry.kind))
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
        assert!(find(Path::new("/proc/self/fdinfo"), SystemView::Host).is_err());
    }

    #[test]
    fn of_an_image_everything_is_seen_but_what_cells_have_of_their_own() {
        let root = tempfile::tempdir().unwrap();
        for folder in [
            "dev", "proc", "sys", "tmp", "run", "work", "app", "usr/bin", "etc/app",
        ] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for file in ["etc/passwd", "etc/resolv.conf", "etc/app.conf", "version"] {
            fs::write(root.path().join(file), "").unwrap();
        }
        std::os::unix::fs::symlink("usr/bin", root.path().join("bin")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.path().join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let found = find(root.path(), SystemView::WholeRoot).unwrap();
        let targets: Vec<_> = found
            .iter()
            .map(|entry| (entry.target.as_str(), &entry.kind))
            .collect();
        assert_eq!(
            targets,
            [
                ("app", &BaseKind::Folder),
                ("bin", &BaseKind::Link("usr/bin".into())),
                ("usr", &BaseKind::Folder),
                ("version", &BaseKind::File),
                ("etc/app", &BaseKind::Folder),
                ("etc/app.conf", &BaseKind::File),
            ]
        );
    }

    #[test]
    fn an_image_that_is_empty_or_has_too_many_entries_is_refused() {
        let root = tempfile::tempdir().unwrap();
        assert!(find(root.path(), SystemView::WholeRoot).is_err());
        fs::create_dir(root.path().join("etc")).unwrap();
        for number in 0..=MAX_IMAGE_ENTRIES {
            fs::write(root.path().join(format!("etc/{number}")), "").unwrap();
        }
        let error = find(root.path(), SystemView::WholeRoot).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
