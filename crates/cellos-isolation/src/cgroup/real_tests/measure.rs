//! What each step costs.

use super::*;

/// Not a test of anything: prints what each step costs, for the decision in the module's text.
#[test]
#[ignore = "a measurement; run with --ignored --nocapture"]
fn measure_each_step() {
    const ROUNDS: usize = 40;
    let Some(host) = host_with(&Controller::ALL) else {
        return;
    };
    let creator = Creator::current().unwrap();
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        (times[ROUNDS / 2], times[ROUNDS * 9 / 10])
    };
    let one = |pick: fn(&mut Limits)| {
        let mut limits = Limits::default();
        pick(&mut limits);
        limits
    };
    let memory: fn(&mut Limits) = |l| l.memory_max_bytes = Some(64 * MIB);
    let pids: fn(&mut Limits) = |l| l.pids_max = Some(64);
    let cpu: fn(&mut Limits) = |l| {
        l.cpu_max = Some(CpuMax {
            quota_micros: 50_000,
            period_micros: 100_000,
        });
    };
    let all: fn(&mut Limits) = |l| {
        l.memory_max_bytes = Some(64 * MIB);
        l.pids_max = Some(64);
        l.cpu_max = Some(CpuMax {
            quota_micros: 50_000,
            period_micros: 100_000,
        });
    };
    let timed = |action: &dyn Fn()| {
        let started = Instant::now();
        action();
        started.elapsed()
    };
    let detect = (0..ROUNDS)
        .map(|_| timed(&|| drop(CgroupHost::detect(None))))
        .collect();
    eprintln!("detect: {:?}", median(detect));
    let original = fs::read_to_string("/proc/self/cgroup").unwrap();
    let original = layout::parse(
        &original,
        &fs::read_to_string("/proc/self/mountinfo").unwrap(),
    );
    for (name, pick) in [
        ("memory", memory),
        ("pids", pids),
        ("cpu", cpu),
        ("all three", all),
    ] {
        let limits = one(pick);
        let [mut create_, mut join, mut add, mut stats, mut remove] = [const { Vec::new() }; 5];
        for _ in 0..ROUNDS {
            let name = fresh_name(&creator);
            let started = Instant::now();
            let group = host.create(&name, &limits).unwrap();
            create_.push(started.elapsed());
            let group = Guard(Arc::new(group));
            // Joined by this very thread, as the launcher's child does, and left again at once.
            join.push(timed(&|| group.0.join_v1_from_child().unwrap()));
            for own in original.iter().filter(|h| h.version == Version::V1) {
                fs::write(own.own.as_ref().unwrap().join("tasks"), "0").unwrap();
            }
            let mut idle = Command::new("sleep").arg("60").spawn().unwrap();
            // A cell now and then, not a storm: the lock's grace period is over between two.
            thread::sleep(Duration::from_millis(40));
            let pid = i32::try_from(idle.id()).unwrap();
            add.push(timed(&|| group.0.add_process(pid).unwrap()));
            idle.kill().unwrap();
            idle.wait().unwrap();
            stats.push(timed(&|| _ = group.0.stats().unwrap()));
            remove.push(timed(&|| group.0.remove().unwrap()));
        }
        for (step, times) in [
            ("create", create_),
            ("join from the child", join),
            ("add_process", add),
            ("stats", stats),
            ("remove", remove),
        ] {
            eprintln!(
                "{name}: {step}: median and 90th percentile: {:?}",
                median(times)
            );
        }
    }
}
