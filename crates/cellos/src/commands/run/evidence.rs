//! The evidence of a run as a short table, for `-v`.

use std::{fmt::Write as _, path::Path};

use anstyle::Style;
use cellos_core::ports::workload::{
    ExitAuthentication, GuestExecution, LimitHit, Machine, MachineOrigin, Posture, Residue, Usage,
    WorkloadEnd,
};
use cellos_supervisor::RunOutcome;

use crate::say::{GOOD, STRONG, WARNING, harmless};

/// The table, with colour; every line ends in a newline.
pub(super) fn table(outcome: &RunOutcome, log: &Path) -> String {
    let mut table = Table::default();
    table.row(
        "cell",
        &format!("{}  (run {})", outcome.cell_id, outcome.run_id),
    );
    match &outcome.posture {
        Some(posture) => {
            if let Some(around) = &posture.machine {
                machine(&mut table, around, posture.pid);
            }
            isolation(&mut table, posture);
        }
        None => table.bad("isolation", "not measured"),
    }
    end(&mut table, outcome);
    if let Some(report) = &outcome.exit_report {
        usage(&mut table, &report.usage);
        for hit in &report.limits_hit {
            table.bad("limit hit", &limit(*hit));
        }
    }
    for artifact in &outcome.artifacts {
        let receipt = &artifact.receipt;
        let mut line = format!("{} ({})", receipt.destination, size(receipt.bytes_written));
        if let Some(sha256) = &artifact.sha256 {
            let _ = write!(line, " sha256:{sha256}");
        }
        table.row("artifact", &line);
    }
    residue(&mut table, outcome.residue.as_ref());
    table.row("event log", &log.display().to_string());
    table.text
}

#[derive(Default)]
struct Table {
    text: String,
}

impl Table {
    fn row(&mut self, name: &str, value: &str) {
        self.styled(name, value, Style::new());
    }

    fn good(&mut self, name: &str, value: &str) {
        self.styled(name, value, GOOD);
    }

    fn bad(&mut self, name: &str, value: &str) {
        self.styled(name, value, WARNING);
    }

    /// Values hold what a guest's kernel says of itself, which may be anything.
    fn styled(&mut self, name: &str, value: &str, style: Style) {
        let value = harmless(value);
        let _ = writeln!(
            self.text,
            "cellos: {STRONG}{name:13}{STRONG:#} {style}{value}{style:#}"
        );
    }
}

/// The virtual machine around the cell. What stands below it is its kernel's word.
fn machine(table: &mut Table, machine: &Machine, pid: u32) {
    let execution = match machine.execution {
        GuestExecution::Kvm => "KVM",
        GuestExecution::Emulated => "emulated",
        GuestExecution::Fake => "FAKE, for tests",
    };
    let origin = match machine.origin {
        MachineOrigin::Booted => "booted",
        MachineOrigin::Parked => "from the warm pool",
        MachineOrigin::Restored => "restored",
    };
    let line = format!(
        "{} {} ({execution}, pid {pid}), {} CPU, {}, kernel {}, {origin} in {:.0} ms",
        machine.monitor,
        machine.monitor_version,
        machine.vcpus,
        size(machine.memory_bytes),
        machine.guest_kernel,
        machine.ready_after.as_secs_f64() * 1e3,
    );
    match machine.execution {
        GuestExecution::Fake => table.bad("machine", &line),
        GuestExecution::Kvm | GuestExecution::Emulated => table.good("machine", &line),
    }
    match machine.exit_authentication {
        ExitAuthentication::Session => table.good("exit code", "authenticated by the session"),
        ExitAuthentication::PublishedFrame => table.bad(
            "exit code",
            "by the published frame, whose key the workload can read",
        ),
    }
}

/// What the kernel said about the workload's process, never what was asked for.
fn isolation(table: &mut Table, posture: &Posture) {
    let private: Vec<&str> = posture.private_namespaces().collect();
    let shared: Vec<&str> = posture
        .namespaces
        .keys()
        .map(String::as_str)
        .filter(|kind| !private.contains(kind))
        .collect();
    if !private.is_empty() {
        table.good("namespaces", &format!("own {}", private.join(" ")));
    }
    if !shared.is_empty() {
        table.bad("namespaces", &format!("the host's {}", shared.join(" ")));
    }
    let capabilities = format!("CapEff {}", posture.cap_eff);
    if posture.cap_eff.bytes().all(|digit| digit == b'0') {
        table.good("capabilities", &format!("{capabilities} (none)"));
    } else {
        table.bad("capabilities", &capabilities);
    }
    let seccomp = match posture.seccomp_mode {
        0 => "0 (off)".to_owned(),
        1 => "1 (strict)".to_owned(),
        2 => format!("2 (filter, {} stacked)", posture.seccomp_filters),
        other => other.to_string(),
    };
    let line = format!(
        "Seccomp {seccomp}, NoNewPrivs {}, Landlock {}",
        u8::from(posture.no_new_privs),
        match posture.landlock_abi {
            0 => "off".to_owned(),
            abi => format!("ABI {abi}"),
        }
    );
    if posture.seccomp_mode == 2 && posture.no_new_privs {
        table.good("sandbox", &line);
    } else {
        table.bad("sandbox", &line);
    }
    // Of a machine everything here is its kernel's word, and so is who the workload is.
    let whose = match posture.machine {
        Some(_) => "guest user",
        None => "host user",
    };
    table.row(whose, &format!("uid {}", posture.host_uid));
    let mut groups: Vec<&str> = posture.cgroups.values().map(String::as_str).collect();
    groups.sort_unstable();
    groups.dedup();
    table.row("control group", &groups.join(" "));
}

fn end(table: &mut Table, outcome: &RunOutcome) {
    let how = match outcome.end {
        Some(WorkloadEnd::Exited { code }) => format!("exited with {code}"),
        Some(WorkloadEnd::Signalled { signal }) => format!("ended by signal {signal}"),
        Some(WorkloadEnd::Backstop) => "ended by the backstop".into(),
        None => "did not run".into(),
    };
    match &outcome.first_error {
        None => table.good("end", &how),
        Some(error) => table.bad("end", &format!("{how}: {error}")),
    }
}

fn usage(table: &mut Table, usage: &Usage) {
    let millis = |duration: std::time::Duration| format!("{:.1} ms", duration.as_secs_f64() * 1e3);
    let mut parts = vec![format!("wall {}", millis(usage.wall))];
    if let (Some(user), Some(system)) = (usage.cpu_user, usage.cpu_system) {
        parts.push(format!("cpu {}", millis(user.saturating_add(system))));
    }
    if let Some(bytes) = usage.memory_peak_bytes {
        parts.push(format!("memory {}", size(bytes)));
    } else if let Some(bytes) = usage.max_rss_bytes {
        parts.push(format!("largest process {}", size(bytes)));
    }
    if let Some(pids) = usage.pids_peak {
        parts.push(format!("processes {pids}"));
    }
    table.row("usage", &parts.join(", "));
}

fn limit(hit: LimitHit) -> String {
    match hit {
        LimitHit::Memory { limit_bytes, kills } => {
            format!("memory {}, {kills} killed", size(limit_bytes))
        }
        LimitHit::Pids { limit, refusals } => format!("{limit} processes, {refusals} refused"),
    }
}

fn residue(table: &mut Table, residue: Option<&Residue>) {
    match residue {
        None => table.bad("residue", "nobody looked"),
        Some(residue) if residue.found.is_empty() => table.good(
            "residue",
            &format!("none (looked for {})", residue.looked_for.join(", ")),
        ),
        Some(residue) => table.bad("residue", &residue.found.join("; ")),
    }
}

/// Bytes for people, in powers of 1024.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = larger;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (256 << 20, "256.0 MiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn what_a_hostile_guest_says_of_itself_is_only_shown() {
        let mut table = Table::default();
        table.good(
            "machine",
            "kernel 6.1\u{1b}]52;c;\u{7}\ncellos: residue none",
        );
        let hostile = Usage {
            cpu_user: Some(std::time::Duration::MAX),
            cpu_system: Some(std::time::Duration::MAX),
            ..Usage::default()
        };
        usage(&mut table, &hostile);
        let text = anstream::adapter::strip_str(&table.text).to_string();
        assert!(
            text.contains("kernel 6.1\\u{1b}]52;c;\\u{7}\n  cellos: residue none\n"),
            "{text}"
        );
        assert!(!table.text.contains('\u{7}'), "{text}");
    }

    #[test]
    fn what_is_shared_with_the_host_is_said() {
        let mut posture = Posture {
            cap_eff: "000001ffffffffff".into(),
            ..Posture::default()
        };
        posture.namespaces = [("net".to_owned(), 1), ("pid".to_owned(), 2)].into();
        posture.host_namespaces = [("net".to_owned(), 1), ("pid".to_owned(), 9)].into();
        let mut table = Table::default();
        isolation(&mut table, &posture);
        let text = anstream::adapter::strip_str(&table.text).to_string();
        assert!(text.contains("own pid"), "{text}");
        assert!(text.contains("the host's net"), "{text}");
        assert!(text.contains("CapEff 000001ffffffffff\n"), "{text}");
        assert!(
            text.contains("Seccomp 0 (off), NoNewPrivs 0, Landlock off"),
            "{text}"
        );
    }
}
