//! The cell's root file system: a tmpfs of its own with the host's system bound into it
//! read-only, then `pivot_root`, after which nothing else of the host can be named.

use std::{
    ffi::CString,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use cellos_core::{
    document::{Mount, MountAccess, RunUser},
    ports::network::NAME_SERVER,
};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, symlinkat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
        OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
        mount_change, move_mount, open_tree, unmount,
    },
};

use super::{
    MountOrigin,
    step::{Step, StepResult},
};
use crate::{
    base::{BaseEntry, BaseKind},
    plan::{CellPlan, DEFAULT_WORKING_FOLDER, is_beneath},
    sys::{
        Depth, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY,
        MountAttributes, mount_setattr,
    },
};

/// The device nodes that programs expect.
const DEVICE_NODES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];

/// Files of `/proc` that everybody may read and that tell about the whole host, hidden behind
/// `/dev/null`. The kernel keeps the dangerous ones (`kcore`, `kpagecount`, `sysrq-trigger`, …)
/// to the host's root, which no cell ever is, and the whole of `/proc` is read-only.
const HIDDEN_PROC_FILES: &[&str] = &["proc/interrupts", "proc/key-users", "proc/keys"];

/// Folders that every cell may write to, besides its working folder.
const WRITABLE_FOLDERS: &[&str] = &["tmp", "dev/shm"];

/// Bound on the files of a cell, so that it cannot exhaust kernel memory with inodes.
const MAX_INODES: u32 = 262_144;

/// A declared mount, ready to be put in its place.
#[derive(Debug)]
pub(super) struct OpenedMount {
    pub(super) mount: Mount,
    pub(super) is_folder: bool,
    /// A detached mount, mapped to the cell's identity; where the cell is its caller, nothing
    /// has to be mapped, and the cell opens the source itself.
    pub(super) tree: Option<OwnedFd>,
}

impl std::ops::Deref for OpenedMount {
    type Target = Mount;

    fn deref(&self) -> &Mount {
        &self.mount
    }
}

/// A root that has everything every cell has.
#[derive(Debug)]
pub(super) struct Skeleton<'a> {
    root: OwnedFd,
    host: Host,
    base: &'a [BaseEntry],
}

/// Whether the host's files can still be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    Left,
    InReach,
}

/// Builds what every cell's root has: the host's system, devices and `/proc`.
///
/// `writable_bytes` bounds what the cell may write to its own folders. A cell whose mounts come
/// from the launcher leaves the host's root at once; one that opens their sources itself has to
/// know them first.
pub(super) fn build(
    base: &[BaseEntry],
    user: RunUser,
    writable_bytes: u64,
    mounts: MountOrigin,
) -> StepResult<Skeleton<'_>> {
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .step("make mounts private")?;
    let root = new_tmpfs(&[
        ("mode", "0755"),
        ("size", &writable_bytes.to_string()),
        ("nr_inodes", &MAX_INODES.to_string()),
    ])
    .step("mount the root tmpfs")?;
    attach_on_top(root.as_fd())?;

    make_places(root.as_fd())?;
    write_configuration(root.as_fd(), user)?;
    for entry in base {
        place_base(root.as_fd(), entry)?;
    }
    // One call covers the root and everything bound so far; what comes later sets its own.
    let step = "make the system read-only";
    let read_only = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
    set(root.as_fd(), Depth::Tree, read_only).step(step)?;
    // The root itself stays writable until the places of the document's own mounts are made.
    let writable = MountAttributes {
        clear: MOUNT_ATTR_RDONLY,
        ..MountAttributes::default()
    };
    mount_setattr(root.as_fd(), Depth::One, &writable).step(step)?;
    mount_devices(root.as_fd())?;
    mount_proc(root.as_fd())?;
    for folder in WRITABLE_FOLDERS {
        make_writable(root.as_fd(), folder).step(format_args!("make /{folder} writable"))?;
    }
    let host = match mounts {
        MountOrigin::Launcher => {
            leave_host(root.as_fd())?;
            Host::Left
        }
        MountOrigin::Cell => Host::InReach,
    };
    Ok(Skeleton { root, host, base })
}

/// Adds what the document declares. After that nothing of the host can be named but what was
/// mounted.
pub(super) fn enter(
    skeleton: &Skeleton<'_>,
    plan: &CellPlan,
    mounts: &[OpenedMount],
) -> StepResult<()> {
    let root = skeleton.root.as_fd();
    let working_folder = working_folder_kind(plan, skeleton.base);
    if plan.has_network() {
        write_name_service(root)?;
    }
    make_declared_places(root, plan, working_folder, mounts)?;
    make_working_folder(root, plan, working_folder)?;
    set(root, Depth::One, MOUNT_ATTR_RDONLY).step("make the root read-only")?;
    let mut in_order: Vec<_> = mounts.iter().collect();
    in_order.sort_by_key(|mount| mount.target.matches('/').count());
    for mount in in_order {
        mount_declared(root, mount, links_for(mount, mounts))?;
    }
    match skeleton.host {
        Host::Left => Ok(()),
        Host::InReach => leave_host(root),
    }
}

/// Makes the new root the root of this process's mount namespace, where nothing else is then.
fn leave_host(root: BorrowedFd<'_>) -> StepResult<()> {
    rustix::process::fchdir(root).step("enter the new root")?;
    rustix::process::pivot_root(".", ".").step("pivot_root")?;
    unmount(".", UnmountFlags::DETACH).step("detach the host's root")?;
    rustix::process::chdir("/").step("enter the new root")
}

/// Makes every folder and file that something is mounted on, while the root can still be
/// written.
fn make_places(root: BorrowedFd<'_>) -> StepResult<()> {
    for folder in ["dev", "dev/pts", "proc", "etc"] {
        make_folder(root, folder).step(format_args!("make /{folder}"))?;
    }
    for folder in WRITABLE_FOLDERS {
        let everybody = Mode::RWXU | Mode::RWXG | Mode::RWXO | Mode::SVTX;
        mkdirat(root, *folder, everybody).step(format_args!("make /{folder}"))?;
    }
    for node in DEVICE_NODES {
        make_file(root, &format!("dev/{node}"), b"").step(format_args!("make /dev/{node}"))?;
    }
    for (link, target) in [
        ("dev/fd", "/proc/self/fd"),
        ("dev/stdin", "/proc/self/fd/0"),
        ("dev/stdout", "/proc/self/fd/1"),
        ("dev/stderr", "/proc/self/fd/2"),
        ("dev/ptmx", "pts/ptmx"),
    ] {
        symlinkat(target, root, link).step(format_args!("make /{link}"))?;
    }
    Ok(())
}

/// Makes the places of the declared mounts.
fn make_declared_places(
    root: BorrowedFd<'_>,
    plan: &CellPlan,
    working_folder: WorkingFolder,
    mounts: &[OpenedMount],
) -> StepResult<()> {
    for mount in mounts {
        let links = links_for(mount, mounts);
        // Places in another mount can be made only once what they lie in is there.
        if links != Links::Refuse && !is_in_writable_folder(plan, working_folder, &mount.target) {
            place_for(root, mount, links)?;
        }
    }
    Ok(())
}

/// What becomes of a symbolic link in the path of a mount target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    /// It leads where it leads inside the new root: the system has such links, `/bin` for one.
    StayInside,
    /// It is an error: whoever can write to the mount that it lies in would decide what is
    /// mounted where, and what is made on the host.
    Refuse,
}

fn links_for(mount: &OpenedMount, mounts: &[OpenedMount]) -> Links {
    let in_another = mounts
        .iter()
        .any(|other| other.target != mount.target && is_beneath(&mount.target, &other.target));
    if in_another {
        Links::Refuse
    } else {
        Links::StayInside
    }
}

/// Opens the place a declared mount goes to, and makes it where it is missing.
fn place_for(root: BorrowedFd<'_>, mount: &OpenedMount, links: Links) -> StepResult<OwnedFd> {
    let target = relative(&mount.target);
    match open_or_make(root, target, mount.is_folder, links) {
        Err(Errno::LOOP) => Err(Errno::LOOP).step_of_document(format_args!(
            "mount target {:?} passes a symbolic link that lies in another mount",
            mount.target
        )),
        other => other.step_of_document(format_args!("make the mount target {:?}", mount.target)),
    }
}

fn open_or_make(
    root: BorrowedFd<'_>,
    path: &str,
    is_folder: bool,
    links: Links,
) -> rustix::io::Result<OwnedFd> {
    match open_within(root, path, links) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let made;
    let folder = if folder.is_empty() {
        root
    } else {
        made = open_or_make(root, folder, true, links)?;
        made.as_fd()
    };
    if is_folder {
        make_folder(folder, name)?;
    } else {
        make_file(folder, name, b"")?;
    }
    open_within(root, path, links)
}

/// Opens a path of the new root without ever leaving it, whatever links it passes.
fn open_within(root: BorrowedFd<'_>, path: &str, links: Links) -> rustix::io::Result<OwnedFd> {
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    if links == Links::Refuse {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    openat2(root, path, flags, Mode::empty(), resolve)
}

/// Where the working folder lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkingFolder {
    /// The cell gets one made, to write to.
    Own,
    /// In a mount, in `/tmp` or in the system, which decide whether it can be written to.
    InAnother,
}

pub(super) fn working_folder_kind(plan: &CellPlan, base: &[BaseEntry]) -> WorkingFolder {
    let folder = &plan.working_folder;
    let reserved = [
        "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/dev", "/proc",
        "/tmp",
    ];
    let in_another = plan.mount_over(folder).is_some()
        || reserved.iter().any(|system| is_beneath(folder, system))
        || base
            .iter()
            .any(|entry| is_beneath(relative(folder), &entry.target));
    if in_another {
        WorkingFolder::InAnother
    } else {
        WorkingFolder::Own
    }
}

fn is_in_writable_folder(plan: &CellPlan, working_folder: WorkingFolder, target: &str) -> bool {
    let strictly_beneath = |folder: &str| target != folder && is_beneath(target, folder);
    strictly_beneath("/tmp")
        || (working_folder == WorkingFolder::Own && strictly_beneath(&plan.working_folder))
}

/// The files of `/etc` that describe the cell itself.
fn write_configuration(root: BorrowedFd<'_>, user: RunUser) -> StepResult<()> {
    let home = DEFAULT_WORKING_FOLDER;
    let mut passwd = String::from("root:x:0:0:root:/:/bin/sh\n");
    let mut group = String::from("root:x:0:\n");
    if user.uid != 0 {
        passwd.push_str(&format!(
            "cell:x:{}:{}:cell:{home}:/bin/sh\n",
            user.uid, user.gid
        ));
    }
    if user.gid != 0 {
        group.push_str(&format!("cell:x:{}:\n", user.gid));
    }
    passwd.push_str("nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n");
    group.push_str("nogroup:x:65534:\n");
    let files: [(&str, &[u8]); 6] = [
        ("etc/passwd", passwd.as_bytes()),
        ("etc/group", group.as_bytes()),
        (
            "etc/hosts",
            b"127.0.0.1 localhost cell\n::1 localhost cell\n",
        ),
        ("etc/hostname", b"cell\n"),
        (
            "etc/nsswitch.conf",
            b"passwd: files\ngroup: files\nhosts: files\nservices: files\n",
        ),
        ("etc/resolv.conf", b"# no name service in this cell\n"),
    ];
    for (path, content) in files {
        make_file(root, path, content).step(format_args!("write /{path}"))?;
    }
    Ok(())
}

/// The files of `/etc` that differ where the cell has a network. The name server always answers,
/// and asks outside itself, so it is given more time than is usual and asked no third time.
fn write_name_service(root: BorrowedFd<'_>) -> StepResult<()> {
    let resolver = format!("nameserver {NAME_SERVER}\noptions timeout:10 attempts:2\n");
    for (path, content) in [
        (
            "etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n",
        ),
        ("etc/resolv.conf", resolver.as_str()),
    ] {
        let step = format_args!("write /{path} for a cell with a network");
        let file = openat(
            root,
            path,
            OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .step(step)?;
        write_all(&file, content.as_bytes()).step(step)?;
    }
    Ok(())
}

fn place_base(root: BorrowedFd<'_>, entry: &BaseEntry) -> StepResult<()> {
    let step = format_args!("bind {:?}", entry.source);
    // `/etc` itself is there already.
    match entry.target.rsplit_once('/') {
        Some(("etc", _)) | None => {}
        Some((folder, _)) => make_folders(root, folder).step(step)?,
    }
    match &entry.kind {
        BaseKind::Link(to) => return symlinkat(to, root, &*entry.target).step(step),
        BaseKind::Folder => make_folder(root, &entry.target).step(step)?,
        BaseKind::File => make_file(root, &entry.target, b"").step(step)?,
    }
    bind(root, &entry.source, &entry.target).step(step)
}

/// Device nodes are bound from the host, since a user namespace may not make any.
fn mount_devices(root: BorrowedFd<'_>) -> StepResult<()> {
    for node in DEVICE_NODES {
        let step = format_args!("bind /dev/{node}");
        let tree = clone_tree(CWD, &format!("/dev/{node}")).step(step)?;
        set(
            tree.as_fd(),
            Depth::One,
            MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC,
        )
        .step(step)?;
        attach(tree.as_fd(), root, &format!("dev/{node}")).step(step)?;
    }
    let terminals = new_file_system(
        "devpts",
        &[("ptmxmode", "0666"), ("mode", "0600")],
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
    .step("mount /dev/pts")?;
    attach(terminals.as_fd(), root, "dev/pts").step("mount /dev/pts")
}

/// `/proc` of the cell's own PID namespace, read-only as a whole, so that none of the kernel's
/// switches in it can be turned whatever their permissions say.
fn mount_proc(root: BorrowedFd<'_>) -> StepResult<()> {
    let proc = new_file_system(
        "proc",
        // Init, which nobody in the cell may look into, is not shown: its command line is that of
        // the program that was started on the host (proc(5), Linux 5.8).
        &[("hidepid", "ptraceable")],
        MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
    .step("mount /proc")?;
    attach(proc.as_fd(), root, "proc").step("mount /proc")?;
    for file in HIDDEN_PROC_FILES {
        let step = format_args!("hide /{file}");
        let tree = clone_tree(root, "dev/null").step(step)?;
        match attach(tree.as_fd(), root, file) {
            Err(Errno::NOENT) => {}
            other => other.step(step)?,
        }
    }
    Ok(())
}

/// Makes a folder of the root writable: it is mounted over itself, with flags of its own. All
/// of them stay one tmpfs, so that one bound covers what a cell writes.
fn make_writable(root: BorrowedFd<'_>, folder: &str) -> rustix::io::Result<()> {
    let tree = clone_tree(root, folder)?;
    attach(tree.as_fd(), root, folder)
}

/// The working folder, where it is the cell's own.
fn make_working_folder(
    root: BorrowedFd<'_>,
    plan: &CellPlan,
    kind: WorkingFolder,
) -> StepResult<()> {
    let folder = relative(&plan.working_folder);
    let step = format_args!("make the working folder {:?}", plan.working_folder);
    if kind == WorkingFolder::Own {
        make_folders(root, folder).step(step)?;
        make_writable(root, folder).step(step)
    } else if is_beneath(folder, "tmp") && plan.mount_over(&plan.working_folder).is_none() {
        make_folders(root, folder).step(step)
    } else {
        Ok(())
    }
}

fn mount_declared(root: BorrowedFd<'_>, mount: &OpenedMount, links: Links) -> StepResult<()> {
    let step = format_args!("mount {:?} on {:?}", mount.source, mount.target);
    let mut attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
    if mount.access == MountAccess::Ro {
        attributes |= MOUNT_ATTR_RDONLY;
    }
    let place = place_for(root, mount, links)?;
    let own;
    let tree = match &mount.tree {
        Some(tree) => tree,
        None => {
            own = open_source(&mount.source).step(step)?;
            &own
        }
    };
    set(tree.as_fd(), Depth::Tree, attributes).step(step)?;
    move_mount(
        tree.as_fd(),
        "",
        place,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
    .step(step)
}

/// Opens a source in this mount namespace. The launcher has already refused links in its path;
/// they are refused again, since the path may have changed meanwhile.
fn open_source(source: &str) -> rustix::io::Result<OwnedFd> {
    let path = openat2(
        CWD,
        source,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )?;
    open_tree(
        path,
        "",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE,
    )
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

fn make_folder(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<()> {
    match mkdirat(root, path, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// Makes a folder and its parents. Links on the way are followed by the kernel, which is sound
/// because init runs before any code of the workload and the root holds only links made here.
fn make_folders(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<()> {
    for (end, _) in path.match_indices('/') {
        make_folder(root, path.get(..end).unwrap_or(path))?;
    }
    make_folder(root, path)
}

fn make_file(root: BorrowedFd<'_>, path: &str, content: &[u8]) -> rustix::io::Result<()> {
    let file = openat(
        root,
        path,
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o644),
    )?;
    write_all(&file, content)
}

fn write_all(file: &OwnedFd, content: &[u8]) -> rustix::io::Result<()> {
    let mut rest = content;
    while !rest.is_empty() {
        let written = rustix::io::write(file, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(())
}

fn bind(root: BorrowedFd<'_>, source: &std::path::Path, target: &str) -> rustix::io::Result<()> {
    let tree = open_tree(
        CWD,
        source,
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW,
    )?;
    attach(tree.as_fd(), root, target)
}

fn clone_tree(folder: BorrowedFd<'_>, path: &str) -> rustix::io::Result<OwnedFd> {
    open_tree(
        folder,
        path,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
}

fn attach(tree: BorrowedFd<'_>, root: BorrowedFd<'_>, target: &str) -> rustix::io::Result<()> {
    move_mount(
        tree,
        "",
        root,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

/// Attaches the new root on top of the old one until it becomes the root. Paths of this process
/// still begin at the old one beneath, so nothing of the host is covered that is to be mounted
/// yet.
fn attach_on_top(root: BorrowedFd<'_>) -> StepResult<()> {
    move_mount(root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .step("attach the new root")
}

fn new_tmpfs(options: &[(&str, &str)]) -> rustix::io::Result<OwnedFd> {
    new_file_system(
        "tmpfs",
        options,
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
    )
}

fn new_file_system(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", "cellos")?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn set(mount: BorrowedFd<'_>, depth: Depth, attributes: u64) -> std::io::Result<()> {
    mount_setattr(
        mount,
        depth,
        &MountAttributes {
            set: attributes,
            ..MountAttributes::default()
        },
    )
}

/// Opens the working folder of the finished root: for the workload to start in, and as the
/// descriptor that artifacts are read through later.
pub(super) fn open_working_folder(plan: &CellPlan) -> StepResult<OwnedFd> {
    let folder = CString::new(plan.working_folder.as_str())
        .map_err(|_| std::io::Error::from_raw_os_error(libc::EINVAL))
        .step_of_document("open the working folder")?;
    let step = format_args!("open the working folder {:?}", plan.working_folder);
    rustix::process::chdir(&folder).step_of_document(step)?;
    openat(
        CWD,
        &folder,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .or_else(|_| {
        openat(
            CWD,
            &folder,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
    })
    .step_of_document(step)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::base::{self, SystemView};

    fn kind_of(folder: &str, base: &[BaseEntry]) -> WorkingFolder {
        let document = serde_json::from_value(serde_json::json!({
            "apiVersion": "cellos.io/v1", "kind": "ExecutionCell",
            "spec": { "id": "a", "run": { "argv": ["true"], "workingDirectory": folder },
                      "authority": {}, "lifetime": { "ttlSeconds": 9 } },
        }))
        .unwrap();
        working_folder_kind(&CellPlan::from_document(&document).unwrap(), base)
    }

    #[test]
    fn a_working_folder_in_the_system_is_not_the_cells_own() {
        let of_host = base::find(Path::new("/"), SystemView::Host).unwrap();
        for (folder, kind) in [
            ("/work", WorkingFolder::Own),
            ("/srv/app", WorkingFolder::Own),
            ("/usr/src", WorkingFolder::InAnother),
            ("/etc", WorkingFolder::InAnother),
            ("/tmp/a", WorkingFolder::InAnother),
        ] {
            assert_eq!(kind_of(folder, &of_host), kind, "{folder}");
        }
        let root = tempfile::tempdir().unwrap();
        for folder in ["usr", "srv", "work"] {
            std::fs::create_dir(root.path().join(folder)).unwrap();
        }
        let of_image = base::find(root.path(), SystemView::WholeRoot).unwrap();
        for (folder, kind) in [
            ("/work", WorkingFolder::Own),
            ("/new", WorkingFolder::Own),
            ("/srv/app", WorkingFolder::InAnother),
        ] {
            assert_eq!(kind_of(folder, &of_image), kind, "{folder}");
        }
    }
}
