//! Telling a process from a later one of the same number.

/// Field 22 of `/proc/PID/stat` (proc_pid_stat(5)): when the process started, in clock ticks since
/// the kernel did.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in field 2 may hold anything, also brackets.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_started_and_none_is_no_process() {
        assert!(super::start_time(std::process::id()).is_some_and(|ticks| ticks > 0));
        assert_eq!(super::start_time(u32::MAX), None);
    }
}
