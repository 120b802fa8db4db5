//! The limits of one cell, and how each interface is told about them.

use rustix::io::Errno;

use super::{
    CgroupError, Controller, Operation, Unavailable, Version,
    control::{Bound, Directory},
};

/// Smallest memory limit in bytes: one page of the common size. The kernel rounds down to pages, so
/// anything less would be a limit of zero.
pub(super) const MEMORY_MIN_BYTES: u64 = 4096;
/// Smallest quota and period in µs that the kernel's bandwidth control takes.
const CPU_MIN_MICROS: u64 = 1_000;
/// Longest period in µs that it takes.
const CPU_PERIOD_MAX_MICROS: u64 = 1_000_000;
/// Largest `pids.max` that is not `max`: the kernel's `PID_MAX_LIMIT`. More processes cannot exist.
const PIDS_MAX: u64 = 4 * 1024 * 1024;

/// How much processor time: `quota` in every `period`, both in µs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuMax {
    /// Processor time per period, in µs. More than the period means more than one processor.
    pub quota_micros: u64,
    /// The period, in µs.
    pub period_micros: u64,
}

impl CpuMax {
    /// Period in µs where a document names none: the kernel's default.
    pub const DEFAULT_PERIOD_MICROS: u64 = 100_000;

    /// The same share in a period and quota that the kernel takes (1 ms to 1 s; quota at least 1 ms).
    fn for_kernel(self) -> Result<Self, CgroupError> {
        let Self {
            quota_micros: quota,
            period_micros: period,
        } = self;
        let refuse = |why: &str| CgroupError::Limit {
            field: "run.limits.cpuMax",
            value: format!("{quota}/{period}"),
            why: why.to_owned(),
        };
        if quota == 0 || period == 0 {
            return Err(refuse("quota and period must be above zero"));
        }
        let scaled = if period > CPU_PERIOD_MAX_MICROS {
            let share = u128::from(quota) * u128::from(CPU_PERIOD_MAX_MICROS) / u128::from(period);
            Self {
                quota_micros: u64::try_from(share)
                    .map_err(|_| refuse("the share is more than any machine has"))?,
                period_micros: CPU_PERIOD_MAX_MICROS,
            }
        } else {
            let smaller = quota.min(period);
            let factor = CPU_MIN_MICROS.div_ceil(smaller);
            Self {
                quota_micros: quota.saturating_mul(factor),
                period_micros: period.saturating_mul(factor),
            }
        };
        if scaled.quota_micros < CPU_MIN_MICROS || scaled.period_micros > CPU_PERIOD_MAX_MICROS {
            return Err(refuse("the kernel takes no share below 1 ms per 1 s"));
        }
        Ok(scaled)
    }
}

/// When to make leaves that no limit needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accounting {
    /// Only the hierarchies that the limits need; none without limits.
    #[default]
    WithLimits,
    /// Each usable hierarchy of memory, CPU and process count, for figures alone.
    Always,
}

/// What one cell may use. `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes of memory and swap together.
    pub memory_max_bytes: Option<u64>,
    /// Processor time.
    pub cpu_max: Option<CpuMax>,
    /// Tasks (processes and threads).
    pub pids_max: Option<u64>,
    /// Whether to account for what is not limited.
    pub accounting: Accounting,
}

impl Limits {
    /// Whether this limit is declared.
    #[must_use]
    pub fn declares(&self, controller: Controller) -> bool {
        match controller {
            Controller::Memory => self.memory_max_bytes.is_some(),
            Controller::Cpu => self.cpu_max.is_some(),
            Controller::Pids => self.pids_max.is_some(),
        }
    }

    /// Refuses what no kernel takes, and puts the rest in the kernel's range.
    pub(super) fn checked(mut self) -> Result<Self, CgroupError> {
        if let Some(bytes) = self.memory_max_bytes
            && bytes < MEMORY_MIN_BYTES
        {
            return Err(CgroupError::Limit {
                field: "run.limits.memoryMaxBytes",
                value: bytes.to_string(),
                why: format!("must be at least one page, {MEMORY_MIN_BYTES} bytes"),
            });
        }
        if self.pids_max == Some(0) {
            return Err(CgroupError::Limit {
                field: "run.limits.pidsMax",
                value: "0".to_owned(),
                why: "must be at least 1, or nothing can start".to_owned(),
            });
        }
        self.pids_max = self.pids_max.map(|count| count.min(PIDS_MAX));
        self.cpu_max = self.cpu_max.map(CpuMax::for_kernel).transpose()?;
        Ok(self)
    }
}

/// The limits that the kernel holds, read back from a leaf. Memory is rounded down to pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EffectiveLimits {
    /// Bytes of memory.
    pub memory_max_bytes: Option<u64>,
    /// Bytes of memory and swap together, where the kernel counts swap.
    pub memory_and_swap_max_bytes: Option<u64>,
    /// Processor time.
    pub cpu_max: Option<CpuMax>,
    /// Tasks.
    pub pids_max: Option<u64>,
}

/// Whether the host has swap on, and so a limit must count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Swap {
    On,
    Off,
}

/// Writes the limits that this leaf's controllers enforce. They must be checked.
pub(super) fn apply(
    leaf: &Directory,
    version: Version,
    controllers: &[Controller],
    limits: &Limits,
    swap: Swap,
) -> Result<(), CgroupError> {
    for controller in controllers {
        match controller {
            Controller::Memory => {
                if let Some(bytes) = limits.memory_max_bytes {
                    apply_memory(leaf, version, bytes, swap)?;
                }
            }
            Controller::Cpu => {
                if let Some(cpu) = limits.cpu_max {
                    apply_cpu(leaf, version, cpu)?;
                }
            }
            Controller::Pids => {
                if let Some(count) = limits.pids_max {
                    leaf.write(c"pids.max", &count.to_string())?;
                }
            }
        }
    }
    Ok(())
}

fn apply_memory(
    leaf: &Directory,
    version: Version,
    bytes: u64,
    swap: Swap,
) -> Result<(), CgroupError> {
    let value = bytes.to_string();
    let swap_limit = match version {
        Version::V1 => {
            leaf.write(c"memory.limit_in_bytes", &value)?;
            // Only after the other: the kernel holds this one at or above it.
            write_where_there(leaf, c"memory.memsw.limit_in_bytes", &value)?
        }
        Version::V2 => {
            leaf.write(c"memory.max", &value)?;
            // A workload whose one process was shot is in an unknown state: all of it goes.
            write_where_there(leaf, c"memory.oom.group", "1")?;
            write_where_there(leaf, c"memory.swap.max", "0")?
        }
    };
    match (swap_limit, swap) {
        (Written::Absent, Swap::On) => Err(CgroupError::Unavailable {
            controller: Controller::Memory,
            unavailable: swap_is_not_counted(),
        }),
        _ => Ok(()),
    }
}

/// Why a memory limit cannot hold with this host's swap.
pub(super) fn swap_is_not_counted() -> Unavailable {
    Unavailable {
        why: "swap is on and the kernel does not count it, so a cell could use more than its limit"
            .to_owned(),
        mend: "boot with swapaccount=1, or turn swap off".to_owned(),
    }
}

fn apply_cpu(leaf: &Directory, version: Version, cpu: CpuMax) -> Result<(), CgroupError> {
    let (quota, period) = (cpu.quota_micros, cpu.period_micros);
    match version {
        Version::V1 => {
            if period != CpuMax::DEFAULT_PERIOD_MICROS {
                leaf.write(c"cpu.cfs_period_us", &period.to_string())?;
            }
            leaf.write(c"cpu.cfs_quota_us", &quota.to_string())
        }
        Version::V2 => leaf.write(c"cpu.max", &format!("{quota} {period}")),
    }
}

/// Whether this kernel has a control file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Done,
    Absent,
}

fn write_where_there(
    leaf: &Directory,
    name: &std::ffi::CStr,
    value: &str,
) -> Result<Written, CgroupError> {
    match leaf.write_raw(name, value.as_bytes()) {
        Ok(()) => Ok(Written::Done),
        Err(Errno::NOENT) => Ok(Written::Absent),
        Err(e) => Err(CgroupError::io(Operation::Write, leaf.file(name), e)),
    }
}

/// Reads back what a leaf's controllers hold.
pub(super) fn read_back(
    leaf: &Directory,
    version: Version,
    controllers: &[Controller],
    into: &mut EffectiveLimits,
) -> Result<(), CgroupError> {
    let bytes = |name| Ok::<_, CgroupError>(leaf.limit(name)?.and_then(Bound::value));
    for controller in controllers {
        match (controller, version) {
            (Controller::Memory, Version::V1) => {
                into.memory_max_bytes = bytes(c"memory.limit_in_bytes")?;
                into.memory_and_swap_max_bytes = bytes(c"memory.memsw.limit_in_bytes")?;
            }
            (Controller::Memory, Version::V2) => {
                into.memory_max_bytes = bytes(c"memory.max")?;
                into.memory_and_swap_max_bytes = match leaf.limit(c"memory.swap.max")? {
                    Some(Bound::At(swap)) => into.memory_max_bytes.map(|m| m.saturating_add(swap)),
                    Some(Bound::Unlimited) | None => None,
                };
            }
            (Controller::Cpu, Version::V1) => {
                let quota = bytes(c"cpu.cfs_quota_us")?;
                let period = leaf.number(c"cpu.cfs_period_us")?;
                into.cpu_max = quota
                    .zip(period)
                    .map(|(quota_micros, period_micros)| CpuMax {
                        quota_micros,
                        period_micros,
                    });
            }
            (Controller::Cpu, Version::V2) => {
                let text = leaf.read_optional(c"cpu.max")?.unwrap_or_default();
                into.cpu_max = parse_cpu_max(&text);
            }
            (Controller::Pids, _) => into.pids_max = bytes(c"pids.max")?,
        }
    }
    Ok(())
}

/// `cpu.max`: `max 100000` or `50000 100000`.
fn parse_cpu_max(text: &str) -> Option<CpuMax> {
    let (quota, period) = text.trim().split_once(' ')?;
    Some(CpuMax {
        quota_micros: quota.parse().ok()?,
        period_micros: period.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn cpu(quota_micros: u64, period_micros: u64) -> CpuMax {
        CpuMax {
            quota_micros,
            period_micros,
        }
    }

    #[test]
    fn cpu_shares_are_brought_into_the_kernels_range_or_refused() {
        for (given, want) in [
            (cpu(50_000, 100_000), Some(cpu(50_000, 100_000))),
            (cpu(400_000, 100_000), Some(cpu(400_000, 100_000))),
            (cpu(500, 100_000), Some(cpu(1_000, 200_000))),
            (cpu(100, 200), Some(cpu(1_000, 2_000))),
            (cpu(4_000_000, 2_000_000), Some(cpu(2_000_000, 1_000_000))),
            (cpu(1, 1_000_000), None),
            (cpu(1, 100_000_000), None),
            (cpu(0, 100_000), None),
            (cpu(1_000, 0), None),
        ] {
            assert_eq!(given.for_kernel().ok(), want, "{given:?}");
        }
    }

    #[test]
    fn limits_that_no_kernel_takes_are_refused_by_the_name_of_the_field() {
        let memory = Limits {
            memory_max_bytes: Some(4095),
            ..Limits::default()
        };
        let pids = Limits {
            pids_max: Some(0),
            ..Limits::default()
        };
        let message = |l: Limits| l.checked().unwrap_err().to_string();
        assert!(message(memory).starts_with("run.limits.memoryMaxBytes = 4095"));
        assert!(message(pids).starts_with("run.limits.pidsMax = 0"));
        let huge = Limits {
            pids_max: Some(u64::MAX),
            ..Limits::default()
        };
        assert_eq!(huge.checked().unwrap().pids_max, Some(PIDS_MAX));
    }

    fn leaf_with(files: &[&str]) -> (tempfile::TempDir, Directory) {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            fs::write(root.path().join(file), "").unwrap();
        }
        let directory = Directory::open(root.path()).unwrap();
        (root, directory)
    }

    const ALL_LIMITS: Limits = Limits {
        memory_max_bytes: Some(1 << 20),
        cpu_max: Some(CpuMax {
            quota_micros: 20_000,
            period_micros: 50_000,
        }),
        pids_max: Some(9),
        accounting: Accounting::WithLimits,
    };

    #[test]
    fn v2_limits_forbid_swap_and_kill_the_cell_as_one() {
        let (root, leaf) = leaf_with(&[
            "memory.max",
            "memory.swap.max",
            "memory.oom.group",
            "cpu.max",
            "pids.max",
        ]);
        apply(&leaf, Version::V2, &Controller::ALL, &ALL_LIMITS, Swap::On).unwrap();
        let read = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
        assert_eq!(read("memory.max"), "1048576");
        assert_eq!(read("memory.swap.max"), "0");
        assert_eq!(read("memory.oom.group"), "1");
        assert_eq!(read("cpu.max"), "20000 50000");
        assert_eq!(read("pids.max"), "9");
        let mut held = EffectiveLimits::default();
        read_back(&leaf, Version::V2, &Controller::ALL, &mut held).unwrap();
        assert_eq!(held.memory_and_swap_max_bytes, Some(1 << 20));
        assert_eq!(held.cpu_max, ALL_LIMITS.cpu_max);
    }

    #[test]
    fn v1_limits_count_swap_where_the_kernel_does() {
        let files = [
            "memory.limit_in_bytes",
            "cpu.cfs_quota_us",
            "cpu.cfs_period_us",
            "pids.max",
        ];
        let (root, leaf) = leaf_with(&files);
        let refused = apply(&leaf, Version::V1, &Controller::ALL, &ALL_LIMITS, Swap::On);
        assert!(matches!(refused, Err(CgroupError::Unavailable { .. })));
        apply(&leaf, Version::V1, &Controller::ALL, &ALL_LIMITS, Swap::Off).unwrap();
        assert!(!root.path().join("memory.memsw.limit_in_bytes").exists());
        fs::write(root.path().join("memory.memsw.limit_in_bytes"), "").unwrap();
        apply(&leaf, Version::V1, &Controller::ALL, &ALL_LIMITS, Swap::On).unwrap();
        let mut held = EffectiveLimits::default();
        read_back(&leaf, Version::V1, &Controller::ALL, &mut held).unwrap();
        assert_eq!(held.memory_max_bytes, Some(1 << 20));
        assert_eq!(held.memory_and_swap_max_bytes, Some(1 << 20));
        assert_eq!(held.cpu_max, ALL_LIMITS.cpu_max);
        assert_eq!(held.pids_max, Some(9));
    }
}
