//! Reading and writing control files beneath an open cgroup directory.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
};

use super::{CgroupError, Operation};

/// Longest control file that is read, in bytes. The largest of interest, `cgroup.procs` of a leaf at
/// the kernel's limit of 4 Mi processes, stays below it.
const READ_MAX: usize = 64 << 20;

/// How much is read at a time, in bytes: what the kernel makes at a time.
const PAGE: usize = 4096;

/// What the kernel reports on v1 for "no limit": the largest page count, in bytes. Pages of other
/// sizes round differently, so everything from here up means unlimited.
const V1_UNLIMITED_FROM: u64 = 0x7fff_ffff_ffff_0000;

/// An open cgroup directory and its name for messages.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    fd: Arc<OwnedFd>,
    path: Arc<Path>,
}

impl Directory {
    /// Opens a directory by path. The last component may not be a link.
    pub(super) fn open(path: &Path) -> Result<Self, CgroupError> {
        rustix::fs::open(path, directory_flags(), Mode::empty())
            .map(|fd| Self::new(fd, path.to_owned()))
            .map_err(|e| CgroupError::io(Operation::Open, path, e))
    }

    /// Opens a directory beneath this one.
    pub(super) fn open_child(&self, name: &str) -> Result<Self, Errno> {
        openat(&*self.fd, name, directory_flags(), Mode::empty())
            .map(|fd| Self::new(fd, self.path.join(name)))
    }

    fn new(fd: OwnedFd, path: PathBuf) -> Self {
        Self {
            fd: Arc::new(fd),
            path: path.into(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Where a control file is, for messages.
    pub(super) fn file(&self, name: &CStr) -> PathBuf {
        self.path.join(name.to_str().unwrap_or_default())
    }

    /// Writes a control file in one `write`, as the kernel's parsers want it. No allocation.
    pub(super) fn write_raw(&self, name: &CStr, value: &[u8]) -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat(&*self.fd, name, flags, Mode::empty())?;
        match rustix::io::write(&file, value) {
            Ok(written) if written == value.len() => Ok(()),
            Ok(_) => Err(Errno::IO),
            Err(error) => Err(error),
        }
    }

    pub(super) fn write(&self, name: &CStr, value: &str) -> Result<(), CgroupError> {
        self.write_raw(name, value.as_bytes())
            .map_err(|e| CgroupError::io(Operation::Write, self.file(name), e))
    }

    /// Reads a whole control file, however long.
    pub(super) fn read(&self, name: &CStr) -> Result<String, CgroupError> {
        self.read_raw(name)
            .map_err(|e| CgroupError::io(Operation::Read, self.file(name), e))
    }

    fn open_file(&self, name: &CStr) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        openat(&*self.fd, name, flags, Mode::empty())
    }

    fn read_raw(&self, name: &CStr) -> io::Result<String> {
        let file = self.open_file(name)?;
        let mut text = Vec::new();
        let mut chunk = [0_u8; PAGE];
        while text.len() < READ_MAX {
            match rustix::io::read(&file, &mut chunk[..])? {
                0 => break,
                count => text.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            }
        }
        String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Reads a short file (one value, or keyed figures) that this kernel may not have. The kernel
    /// makes its text in one go, so one `read` has all of it.
    pub(super) fn read_optional(&self, name: &CStr) -> Result<Option<String>, CgroupError> {
        let fail = |e| CgroupError::io(Operation::Read, self.file(name), e);
        let file = match self.open_file(name) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(fail(e)),
        };
        let mut chunk = [0_u8; PAGE];
        let count = rustix::io::read(&file, &mut chunk[..]).map_err(fail)?;
        let text = chunk.get(..count).unwrap_or_default();
        Ok(Some(String::from_utf8_lossy(text).into_owned()))
    }

    /// Reads a file with one number, where the kernel has it.
    pub(super) fn number(&self, name: &CStr) -> Result<Option<u64>, CgroupError> {
        let Some(text) = self.read_optional(name)? else {
            return Ok(None);
        };
        text.trim()
            .parse()
            .map(Some)
            .map_err(|_| self.parse_error(name, &text))
    }

    /// Reads a file with one limit, where the kernel has it.
    pub(super) fn limit(&self, name: &CStr) -> Result<Option<Bound>, CgroupError> {
        let Some(text) = self.read_optional(name)? else {
            return Ok(None);
        };
        Bound::parse(text.trim())
            .map(Some)
            .ok_or_else(|| self.parse_error(name, &text))
    }

    pub(super) fn parse_error(&self, name: &CStr, text: &str) -> CgroupError {
        CgroupError::Parse {
            path: self.file(name),
            value: text.trim().chars().take(80).collect(),
        }
    }

    /// Process ids in `cgroup.procs`, without the zeros that stand for processes of other namespaces.
    pub(super) fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        Ok(process_ids(&self.read(c"cgroup.procs")?))
    }

    /// Names of the cgroups beneath this one.
    pub(super) fn children(&self) -> Result<Vec<String>, CgroupError> {
        let fail = |e| CgroupError::io(Operation::Read, self.path(), e);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&*self.fd).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            if entry.file_type() != rustix::fs::FileType::Directory || name == c"." || name == c".."
            {
                continue;
            }
            if let Ok(name) = name.to_str() {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Removes the empty cgroup `name` beneath this one; one that is not there is removed already.
    pub(super) fn remove_child(&self, name: &str) -> Result<(), Errno> {
        match rustix::fs::unlinkat(&*self.fd, name, rustix::fs::AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn directory_flags() -> OFlags {
    OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW
}

/// A limit as the kernel shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    Unlimited,
    At(u64),
}

impl Bound {
    /// `max` (v2, pids), `-1` (v1 quota), the largest page count (v1 memory), or a number.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "max" | "-1" => Some(Self::Unlimited),
            number => match number.parse() {
                Ok(value) if value >= V1_UNLIMITED_FROM => Some(Self::Unlimited),
                Ok(value) => Some(Self::At(value)),
                Err(_) => None,
            },
        }
    }

    pub(super) fn value(self) -> Option<u64> {
        match self {
            Self::Unlimited => None,
            Self::At(value) => Some(value),
        }
    }
}

/// Value of a key in a flat keyed file (`key value` lines).
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok()).flatten()
    })
}

pub(super) fn process_ids(text: &str) -> Vec<i32> {
    let ids = text.lines().filter_map(|line| line.trim().parse().ok());
    ids.filter(|id: &i32| *id > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_in_each_form_that_kernels_write() {
        for (text, want) in [
            ("max", Some(Bound::Unlimited)),
            ("-1", Some(Bound::Unlimited)),
            ("9223372036854771712", Some(Bound::Unlimited)),
            ("9223372036854710272", Some(Bound::Unlimited)),
            ("0", Some(Bound::At(0))),
            ("104857600", Some(Bound::At(104_857_600))),
            ("", None),
            ("-2", None),
            ("1 2", None),
            ("18446744073709551616", None),
        ] {
            assert_eq!(Bound::parse(text), want, "{text}");
        }
    }

    #[test]
    fn keyed_files_match_whole_keys_only() {
        let text = "low 0\noom 3\noom_kill 2\noom_group_kill 1\nbroken\n";
        assert_eq!(keyed(text, "oom_kill"), Some(2));
        assert_eq!(keyed(text, "oom"), Some(3));
        assert_eq!(keyed(text, "max"), None);
        assert_eq!(keyed(text, "broken"), None);
    }

    #[test]
    fn processes_of_other_namespaces_are_not_process_ids() {
        assert_eq!(process_ids("0\n12\n0\n7\n"), [12, 7]);
        assert_eq!(process_ids(""), [0_i32; 0]);
    }

    #[test]
    fn a_missing_control_file_is_absent_and_not_an_error() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        assert_eq!(directory.number(c"memory.peak").unwrap(), None);
        assert!(directory.write(c"memory.max", "1").is_err());
        assert!(!root.path().join("memory.max").exists());
        std::fs::write(root.path().join("memory.peak"), "many\n").unwrap();
        let message = directory.number(c"memory.peak").unwrap_err().to_string();
        assert!(message.contains("many"), "{message}");
    }
}
