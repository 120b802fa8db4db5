//! The isolation of a process as the kernel reports it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use cellos_core::ports::workload::Posture;

/// Namespace kinds, as named in `/proc/PID/ns`.
const NAMESPACE_KINDS: &[&str] = &["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// Reads `/proc/PID/status`, `ns` and `cgroup` (proc(5)).
pub(crate) fn measure(
    pid: u32,
    landlock_abi: u32,
    host_namespaces: &BTreeMap<String, u64>,
) -> io::Result<Posture> {
    let folder = Path::new("/proc").join(pid.to_string());
    let status = read(&folder.join("status"))?;
    let cgroups = read(&folder.join("cgroup"))?;
    let mut posture = from_status(&status);
    posture.pid = pid;
    posture.landlock_abi = landlock_abi;
    posture.namespaces = namespaces(&folder)?;
    posture.host_namespaces = host_namespaces.clone();
    posture.cgroups = from_cgroup(&cgroups);
    Ok(posture)
}

/// Reads a file of `/proc` with one call where it fits: the kernel makes up the whole text anew
/// for every call, and tells no size that a buffer could be made for.
fn read(path: &Path) -> io::Result<String> {
    let mut text = Vec::with_capacity(8 * 1024);
    File::open(path)?.read_to_end(&mut text)?;
    String::from_utf8(text).map_err(io::Error::other)
}

fn from_status(status: &str) -> Posture {
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .unwrap_or("")
            .split_whitespace()
            .next()
            .unwrap_or("")
    };
    let number = |name| field(name).parse().unwrap_or(0);
    Posture {
        machine: None,
        host_uid: number("Uid"),
        cap_inh: field("CapInh").to_owned(),
        cap_prm: field("CapPrm").to_owned(),
        cap_eff: field("CapEff").to_owned(),
        cap_bnd: field("CapBnd").to_owned(),
        cap_amb: field("CapAmb").to_owned(),
        no_new_privs: field("NoNewPrivs") == "1",
        seccomp_mode: number("Seccomp"),
        seccomp_filters: number("Seccomp_filters"),
        ..Posture::default()
    }
}

/// Inode numbers from links like `net:[4026531840]`.
pub(crate) fn namespaces(folder: &Path) -> io::Result<BTreeMap<String, u64>> {
    NAMESPACE_KINDS
        .iter()
        .map(|kind| {
            let link = fs::read_link(folder.join("ns").join(kind))?;
            let inode = link
                .to_str()
                .and_then(|text| text.rsplit_once('[')?.1.strip_suffix(']')?.parse().ok())
                .ok_or_else(|| io::Error::other(format!("unexpected namespace link {link:?}")))?;
            Ok(((*kind).to_owned(), inode))
        })
        .collect()
}

/// Lines like `4:memory:/path`; the unified hierarchy has an empty controller list.
fn from_cgroup(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let controllers = parts.next()?;
            let name = if controllers.is_empty() {
                "unified"
            } else {
                controllers
            };
            Some((name.to_owned(), parts.next()?.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_state_is_read_back() {
        let host = namespaces(Path::new("/proc/self")).unwrap();
        let posture = measure(std::process::id(), 3, &host).unwrap();
        assert_eq!(posture.pid, std::process::id());
        assert_eq!(posture.landlock_abi, 3);
        assert_eq!(posture.cap_eff.len(), 16);
        assert_eq!(posture.private_namespaces().count(), 0);
        assert_eq!(posture.namespaces.len(), NAMESPACE_KINDS.len());
    }

    #[test]
    fn status_fields_with_a_common_prefix_are_told_apart() {
        let posture = from_status("Seccomp_filters:\t3\nSeccomp:\t2\nNoNewPrivs:\t1\nUid:\t7\t8\n");
        assert_eq!(posture.seccomp_mode, 2);
        assert_eq!(posture.seccomp_filters, 3);
        assert!(posture.no_new_privs);
        assert_eq!(posture.host_uid, 7);
    }

    #[test]
    fn hierarchies_keep_their_names() {
        let cgroups = from_cgroup("4:memory:/a\n0::/b\n9:name=systemd:/c:d\n");
        assert_eq!(cgroups["memory"], "/a");
        assert_eq!(cgroups["unified"], "/b");
        assert_eq!(cgroups["name=systemd"], "/c:d");
    }
}
