//! How commands in machines end, and what is said of it.

use cellos_testkit::require;

use super::{Machines, available, stdout};

#[test]
fn a_command_that_takes_too_much_memory_is_killed_and_told_so() {
    require!("machines", available());
    let machines = Machines::new();
    // The file system of the cell is memory of the cell.
    let output = machines
        .shell(
            &["--memory", "64M"],
            "head -c 200000000 /dev/zero > /tmp/fill; echo survived",
        )
        .output()
        .unwrap();
    let destroyed = machines.log().data("destroyed").clone();
    assert_eq!(
        destroyed["limitsHit"][0]["kind"], "memory",
        "{destroyed} {output:?}"
    );
    assert_eq!(
        destroyed["limitsHit"][0]["limitBytes"],
        64 << 20,
        "{destroyed}"
    );
    machines.assert_nothing_left();
}

#[test]
fn memory_without_a_file_ends_the_same_way_with_and_without_a_declared_limit() {
    require!("machines", available());
    for (flags, limit_bytes) in [(&["--memory", "64M"][..], 64 << 20), (&[], 256 << 20)] {
        let machines = Machines::new();
        // It keeps the last line, which has no end.
        let output = machines
            .shell(flags, "tail /dev/zero; echo survived")
            .output()
            .unwrap();
        assert_eq!(stdout(&output, 128 + 9), "");
        let destroyed = machines.log().data("destroyed").clone();
        let hit = &destroyed["limitsHit"][0];
        assert_eq!(hit["kind"], "memory", "{destroyed}");
        assert_eq!(hit["limitBytes"], limit_bytes, "{destroyed}");
        machines.assert_nothing_left();
    }
}

#[test]
fn a_command_that_forks_without_end_meets_its_deadline() {
    require!("machines", available());
    let machines = Machines::new();
    let output = machines
        .shell(
            &["--timeout", "10s"],
            "bomb() { bomb | bomb & }; bomb 2>/dev/null; sleep 600",
        )
        .output()
        .unwrap();
    stdout(&output, 124);
    let destroyed = machines.log().data("destroyed").clone();
    assert_eq!(destroyed["reason"], "timeout_exceeded", "{destroyed}");
    assert_eq!(destroyed["residue"]["found"], serde_json::json!([]));
    machines.assert_nothing_left();
}

#[test]
fn a_deadline_ends_the_command_and_the_machine() {
    require!("machines", available());
    let machines = Machines::new();
    let output = machines
        .shell(
            &["--timeout", "1s"],
            "trap '' TERM; while :; do sleep 1; done",
        )
        .output()
        .unwrap();
    stdout(&output, 124);
    let destroyed = machines.log().data("destroyed").clone();
    assert_eq!(destroyed["reason"], "timeout_exceeded", "{destroyed}");
    assert_eq!(destroyed["terminalState"], "forced", "{destroyed}");
    machines.assert_nothing_left();
}

#[test]
fn signals_and_commands_that_are_not_there_have_a_shells_codes() {
    require!("machines", available());
    let machines = Machines::new();
    let killed = machines.shell(&[], "kill -SEGV $$").output().unwrap();
    stdout(&killed, 128 + 11);
    let machines = Machines::new();
    let absent = machines
        .run(&["--ttl", "120s", "--", "no-such-program"])
        .output()
        .unwrap();
    stdout(&absent, 127);
    assert_eq!(
        machines.log().data("destroyed")["reason"],
        "command_refused"
    );
    machines.assert_nothing_left();
}
