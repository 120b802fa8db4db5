//! Names of leaves: which cell, and who made it, so that a later run can tell a dead run's leaf.

use std::{fmt::Write as _, fs, io, path::Path};

/// Longest name that [`leaf_name`] makes, in bytes; the kernel allows 255 (`NAME_MAX`).
pub const LEAF_NAME_MAX: usize = PREFIX.len() + READABLE_MAX + 1 + 8 + 4 * (1 + 20);

const PREFIX: &str = "cellos_";
/// Characters of the cell's id that are kept, as the published sanitiser does.
const READABLE_MAX: usize = 64;

/// The process that makes leaves. A process id alone may be reused, and means something only in its
/// PID namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Creator {
    /// Process id.
    pub pid: u32,
    /// Start in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
    pub start_time: u64,
    /// Inode of the PID namespace that `pid` counts in.
    pub pid_namespace: u64,
}

impl Creator {
    /// The calling process.
    ///
    /// # Errors
    /// When `/proc` is missing or unreadable.
    pub fn current() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// Another process, in our PID namespace.
    ///
    /// # Errors
    /// `NotFound` when there is no such process.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self {
            pid,
            start_time: start_time(pid)?,
            pid_namespace: own_pid_namespace()?,
        })
    }
}

/// Name of the leaf for a cell: `cellos_<readable id>_<hash of the id>_<namespace>_<pid>_<start>_<sequence>`.
///
/// The readable part keeps `[A-Za-z0-9_-]` of the first 64 characters, so ids may look alike; the
/// hash (FNV-1a) tells them apart for people, and creator and sequence make the name unique.
#[must_use]
pub fn leaf_name(cell_id: &str, creator: &Creator, sequence: u64) -> String {
    let mut name = String::with_capacity(LEAF_NAME_MAX);
    name.push_str(PREFIX);
    name.extend(cell_id.chars().take(READABLE_MAX).map(|c| {
        if c.is_ascii_alphanumeric() || c == '-' || c == '_' {
            c
        } else {
            '_'
        }
    }));
    if cell_id.is_empty() {
        name.push_str("cell");
    }
    let hash = cell_id.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    // Writing to a String cannot fail.
    let _ = write!(
        name,
        "_{hash:08x}_{}_{}_{}_{sequence}",
        creator.pid_namespace, creator.pid, creator.start_time
    );
    name
}

/// Whether a leaf's maker is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maker {
    /// It lives: the leaf is in use.
    Alive,
    /// It is gone: the leaf is left over.
    Gone,
    /// It counts in another PID namespace, or `/proc` cannot tell: nothing can be said.
    Unknown,
}

/// Reads the creator back from a name that [`leaf_name`] made; `None` for any other name.
pub(super) fn creator_of(name: &str) -> Option<Creator> {
    if name.len() > LEAF_NAME_MAX {
        return None;
    }
    let mut fields = name.strip_prefix(PREFIX)?.rsplitn(6, '_');
    let _sequence: u64 = number(fields.next()?)?;
    let start_time = number(fields.next()?)?;
    let pid = u32::try_from(number(fields.next()?)?).ok()?;
    let pid_namespace = number(fields.next()?)?;
    let hash = fields.next()?;
    let readable = fields.next()?;
    let hash_is_hex = hash.len() == 8 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (hash_is_hex && !readable.is_empty() && readable.bytes().all(plain)).then_some(Creator {
        pid,
        start_time,
        pid_namespace,
    })
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Looks whether the creator still runs.
pub(super) fn look_for(creator: &Creator) -> Maker {
    match own_pid_namespace() {
        Ok(own) if own == creator.pid_namespace => {}
        _ => return Maker::Unknown,
    }
    match runs_since(creator.pid) {
        Ok(Some(start)) if start == creator.start_time => Maker::Alive,
        Ok(_) => Maker::Gone,
        // With `hidepid` another user's process looks absent; a signal tells.
        Err(error) if gone(&error) => match pid_exists(creator.pid) {
            Some(false) => Maker::Gone,
            Some(true) | None => Maker::Unknown,
        },
        Err(_) => Maker::Unknown,
    }
}

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

fn pid_exists(pid: u32) -> Option<bool> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    match rustix::process::test_kill_process(pid) {
        Ok(()) | Err(rustix::io::Errno::PERM) => Some(true),
        Err(rustix::io::Errno::SRCH) => Some(false),
        Err(_) => None,
    }
}

/// Inode of our PID namespace, from the link's text `pid:[4026531836]`.
fn own_pid_namespace() -> io::Result<u64> {
    let link = fs::read_link("/proc/self/ns/pid")?;
    link.to_str()
        .and_then(|text| text.strip_prefix("pid:["))
        .and_then(|text| text.strip_suffix(']'))
        .and_then(number)
        .ok_or_else(|| io::Error::other("/proc/self/ns/pid has an unknown form"))
}

fn start_time(pid: u32) -> io::Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(Path::new(&path))?;
    stat_field(&text, 22).ok_or_else(|| io::Error::other("/proc/<pid>/stat has an unknown form"))
}

/// Start of a process that runs; `None` for one that has ended and is only not collected yet, which
/// is for ever where PID 1 of a container collects nobody.
fn runs_since(pid: u32) -> io::Result<Option<u64>> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(Path::new(&path))?;
    if has_ended(&text) {
        return Ok(None);
    }
    stat_field(&text, 22)
        .map(Some)
        .ok_or_else(|| io::Error::other("/proc/<pid>/stat has an unknown form"))
}

/// State `Z` or `X`, `proc_pid_stat(5)`, in field 3. A main thread may end before the others; then
/// there is more than one of them in field 20.
fn has_ended(stat: &str) -> bool {
    let state = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().next());
    matches!(state, Some("Z" | "X")) && stat_field(stat, 20).is_none_or(|threads| threads <= 1)
}

/// Numeric field of `/proc/<pid>/stat`, counted from 1 as in `proc_pid_stat(5)`, beyond the name. The
/// name may hold spaces and parentheses, so the count starts behind its last `)`.
pub(super) fn stat_field(stat: &str, field: usize) -> Option<u64> {
    const FIRST_AFTER_NAME: usize = 3;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace()
        .nth(field.checked_sub(FIRST_AFTER_NAME)?)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATOR: Creator = Creator {
        pid: 4242,
        start_time: 987_654,
        pid_namespace: 4_026_531_836,
    };

    #[test]
    fn a_process_that_was_not_collected_has_ended() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let creator = Creator::of(child.id()).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while look_for(&creator) != Maker::Gone {
            assert!(std::time::Instant::now() < deadline);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(pid_exists(creator.pid), Some(true));
        child.wait().unwrap();
    }

    #[test]
    fn a_main_thread_that_ended_before_the_others_is_no_end() {
        let stat = |state: &str, threads: u32| {
            format!("7 (a) b) {state} 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 {threads} 0 99 0")
        };
        assert!(has_ended(&stat("Z", 1)));
        assert!(!has_ended(&stat("Z", 3)));
        assert!(!has_ended(&stat("S", 1)));
    }

    #[test]
    fn the_creator_reads_back_from_any_id() {
        for id in [
            "a",
            "",
            "a_1_2_3",
            "../../etc",
            "ünïcode ✓",
            &"x".repeat(500),
        ] {
            let name = leaf_name(id, &CREATOR, 7);
            assert_eq!(creator_of(&name), Some(CREATOR), "{name}");
            assert!(name.len() <= LEAF_NAME_MAX, "{name}");
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'),
                "{name}"
            );
        }
    }

    #[test]
    fn the_longest_name_is_within_the_bound() {
        let creator = Creator {
            pid: u32::MAX,
            start_time: u64::MAX,
            pid_namespace: u64::MAX,
        };
        let name = leaf_name(&"é".repeat(900), &creator, u64::MAX);
        assert!(name.len() <= LEAF_NAME_MAX && name.len() <= 255);
        assert_eq!(creator_of(&name), Some(creator));
    }

    #[test]
    fn ids_that_sanitise_alike_get_other_names() {
        let pairs = [("a.b", "a_b"), ("", "cell")];
        for (left, right) in pairs {
            assert_ne!(leaf_name(left, &CREATOR, 1), leaf_name(right, &CREATOR, 1));
        }
        let long = "y".repeat(64);
        assert_ne!(
            leaf_name(&format!("{long}1"), &CREATOR, 1),
            leaf_name(&format!("{long}2"), &CREATOR, 1)
        );
    }

    #[test]
    fn names_of_others_are_not_read_as_ours() {
        for name in [
            "cellos",
            "cellos_",
            "cellos_x",
            "cellos-supervisor",
            "docker_a_00000000_1_2_3_4",
            "cellos_a_0000000g_1_2_3_4",
            "cellos_a_00000000_1_+2_3_4",
            "cellos_a/b_00000000_1_2_3_4",
            "cellos_00000000_1_2_3_4",
        ] {
            assert_eq!(creator_of(name), None, "{name}");
        }
    }

    #[test]
    fn a_living_creator_is_seen_and_a_dead_or_reused_one_is_not() {
        let own = Creator::current().unwrap();
        assert_eq!(look_for(&own), Maker::Alive);
        let reused = Creator {
            start_time: own.start_time.wrapping_add(1),
            ..own
        };
        assert_eq!(look_for(&reused), Maker::Gone);
        let foreign = Creator {
            pid_namespace: own.pid_namespace.wrapping_add(1),
            ..own
        };
        assert_eq!(look_for(&foreign), Maker::Unknown);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = Creator::of(child.id()).unwrap();
        child.wait().unwrap();
        assert_eq!(look_for(&dead), Maker::Gone);
    }

    #[test]
    fn a_process_name_with_parentheses_does_not_shift_the_fields() {
        let mut stat = String::from("77 (a) b) c) S 5");
        for field in 5..=22 {
            let _ = write!(stat, " {field}");
        }
        assert_eq!(stat_field(&stat, 4), Some(5));
        assert_eq!(stat_field(&stat, 22), Some(22));
        assert_eq!(stat_field(&stat, 99), None);
    }
}
