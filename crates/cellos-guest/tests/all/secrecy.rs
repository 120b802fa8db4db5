//! The session key stays with the process that got it.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
};

use cellos_testkit::require;

use crate::host::{Host, KEY, config, shell};

#[test]
fn nothing_that_a_workload_can_read_in_proc_holds_the_key() {
    require!("userns");
    require!("cgroups");
    let key = std::str::from_utf8(&KEY).unwrap();
    let hexadecimal: String = KEY.iter().map(|byte| format!("{byte:02x}")).collect();
    // The halves are put together there, or the script would find itself.
    let (first, second) = key.split_at(16);
    let (third, fourth) = hexadecimal.split_at(32);
    let mut host = Host::running(&config(&shell(&format!(
        "a={first}; b={third}; echo \"${{a}}{second}\" > /tmp/control; \
         for file in /tmp/control /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/maps \
         /proc/[0-9]*/mem /proc/[0-9]*/fdinfo/* /proc/[a-z]*; do \
         grep -aqs -e \"${{a}}{second}\" -e \"${{b}}{fourth}\" \"$file\" </dev/null && \
         echo found $file; done; \
         for one in /proc/[0-9]*; do echo ${{one#/proc/}} $(cat $one/comm); done; \
         ls -l /proc/self/fd"
    ))));
    host.exit();
    let seen = String::from_utf8(host.stdout.clone()).unwrap();
    let found: Vec<_> = seen
        .lines()
        .filter(|line| line.starts_with("found"))
        .collect();
    assert_eq!(found, ["found /tmp/control"], "{seen}");
    assert!(
        !seen.contains("socket:"),
        "a stream to the host is open: {seen}"
    );
    assert!(!seen.contains("cellos"), "{seen}");
    host.acknowledge();
}

mod as_root {
    use super::*;

    /// What a process has in its memory, as far as it can be read.
    fn memory_holds_key(process: u32) -> bool {
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
        let memory = File::open(format!("/proc/{process}/mem")).unwrap();
        maps.lines().any(|line| {
            let (range, rest) = line.split_once(' ').unwrap();
            if !rest.starts_with('r') || rest.ends_with("[vvar]") {
                return false;
            }
            let (from, to) = range.split_once('-').unwrap();
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            let (from, to) = (number(from), number(to));
            let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
            memory.read_exact_at(&mut bytes, from).is_ok()
                && bytes.windows(KEY.len()).any(|window| window == KEY)
        })
    }

    fn descendants(process: u32) -> Vec<u32> {
        let children = format!("/proc/{process}/task/{process}/children");
        fs::read_to_string(children)
            .unwrap()
            .split_whitespace()
            .flat_map(|child| {
                let child = child.parse().unwrap();
                [vec![child], descendants(child)].concat()
            })
            .collect()
    }

    #[test]
    fn no_process_but_the_guest_itself_has_the_key_in_its_memory() {
        require!("root");
        require!("userns");
        require!("cgroups");
        let host = Host::running(&config(&shell("sleep 60 & sleep 60")));
        assert!(
            memory_holds_key(host.guest.id()),
            "the search finds nothing"
        );
        let others = descendants(host.guest.id());
        // The launcher, the cell's init, the shell and what it started.
        assert!(others.len() >= 3, "{others:?}");
        for process in others {
            assert!(!memory_holds_key(process), "{process}");
        }
    }
}
