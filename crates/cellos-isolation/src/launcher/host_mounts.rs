//! Mounts of cells that are visible outside of any cell, which none ever should be.

use std::{
    cell::RefCell,
    fs::File,
    io::{self, Read as _, Seek as _},
    os::fd::AsFd,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The launcher's view of its own mount namespace. The kernel tells when it changes
/// (proc_pid_mountinfo(5)), so a look costs one system call and not a host's whole mount table.
pub(super) struct HostMounts(RefCell<View>);

struct View {
    table: File,
    of_cells: Vec<String>,
}

impl HostMounts {
    /// Looks for the first time.
    pub(super) fn open() -> io::Result<Self> {
        let mut table = File::open("/proc/self/mountinfo")?;
        let of_cells = read(&mut table)?;
        Ok(Self(RefCell::new(View { table, of_cells })))
    }

    /// The places of cells' mounts that are there now.
    pub(super) fn of_cells(&self) -> io::Result<Vec<String>> {
        let mut view = self.0.borrow_mut();
        let View { table, of_cells } = &mut *view;
        let mut changes = [PollFd::from_borrowed_fd(table.as_fd(), PollFlags::PRI)];
        if poll(&mut changes, Some(&Timespec::default()))? > 0 {
            table.rewind()?;
            *of_cells = read(table)?;
        }
        Ok(of_cells.clone())
    }
}

fn read(table: &mut File) -> io::Result<Vec<String>> {
    // Paths in the table need not be UTF-8.
    let mut text = Vec::with_capacity(16 * 1024);
    table.read_to_end(&mut text)?;
    Ok(of_cells(&String::from_utf8_lossy(&text)))
}

/// Every mount that a cell makes has this name as its source.
fn of_cells(mountinfo: &str) -> Vec<String> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            let mut kind = kind.split(' ').skip(1);
            (kind.next() == Some("cellos"))
                .then(|| place.split(' ').nth(4).unwrap_or("?").to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_of_cells_are_found() {
        let mountinfo = "22 1 0:20 / /proc rw shared:1 - proc proc rw\n\
                         99 1 0:50 / /tmp/x rw - tmpfs cellos rw\n";
        assert_eq!(of_cells(mountinfo), ["/tmp/x"]);
    }

    #[test]
    fn a_second_look_finds_what_the_first_found() {
        let mounts = HostMounts::open().unwrap();
        assert_eq!(mounts.of_cells().unwrap(), mounts.of_cells().unwrap());
    }
}
