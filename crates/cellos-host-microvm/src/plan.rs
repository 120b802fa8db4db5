//! What a document comes to as a virtual machine.

use cellos_core::{
    CellosError, ExecutionCellDocument, admission::is_portable_id, ports::network::NetworkNeeds,
};

/// Memory of a cell that declares none, in bytes.
pub(crate) const DEFAULT_CELL_MEMORY_BYTES: u64 = 256 << 20;

/// What the guest's kernel, PID 1 and initial RAM disk need beside the cell, in bytes. The machine
/// has this more than the cell may use, so that a cell that takes too much meets its own limit and
/// not a guest without memory.
pub(crate) const GUEST_OVERHEAD_BYTES: u64 = 128 << 20;

/// What the monitor needs on the host beside the memory of its machine, in bytes. An emulator
/// keeps translated code, which is most of it.
pub(crate) const MONITOR_OVERHEAD_BYTES: u64 = 512 << 20;

/// Most virtual processors, Firecracker's bound.
pub(crate) const MAX_VCPUS: u32 = 32;

/// Period of CPU bandwidth where the document is silent, in microseconds: the kernel's default.
const DEFAULT_CPU_PERIOD_MICROS: u64 = 100_000;

const MIB: u64 = 1 << 20;

/// One machine and what it is for.
#[derive(Debug, Clone)]
pub(crate) struct VmPlan {
    /// The admitted document; PID 1 of the guest makes its cell of it.
    pub(crate) document: ExecutionCellDocument,
    pub(crate) shape: MachineShape,
    /// What the cell may use inside the guest, in bytes.
    pub(crate) cell_memory_bytes: u64,
    /// CPU bandwidth of the whole monitor: quota and period in microseconds.
    pub(crate) cpu_max: Option<(u64, u64)>,
    /// The sockets of its network, where it has one.
    pub(crate) network: Option<NetworkNeeds>,
}

/// What a machine has to have; parked machines of the same shape can stand for one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct MachineShape {
    pub(crate) vcpus: u32,
    pub(crate) memory_mib: u64,
}

impl MachineShape {
    pub(crate) fn memory_bytes(self) -> u64 {
        self.memory_mib * MIB
    }
}

impl VmPlan {
    /// # Errors
    /// [`CellosError::InvalidSpec`] for what this backend cannot map.
    pub(crate) fn from_document(document: &ExecutionCellDocument) -> Result<Self, CellosError> {
        let spec = &document.spec;
        // Names on the host are derived from it, but what reaches the guest is the id itself.
        if !is_portable_id(&spec.id) {
            return Err(CellosError::InvalidSpec(format!(
                "spec.id: {:?} is not 1 to 128 letters, digits, `.`, `_` and `-`, starting with a \
                 letter or digit, without `..`",
                spec.id
            )));
        }
        let limits = spec.run.as_ref().and_then(|run| run.limits.as_ref());
        let cell_memory_bytes = limits
            .and_then(|limits| limits.memory_max_bytes)
            .unwrap_or(DEFAULT_CELL_MEMORY_BYTES);
        let cpu_max = limits.and_then(|limits| limits.cpu_max).map(|cpu| {
            let period = cpu.period_micros.unwrap_or(DEFAULT_CPU_PERIOD_MICROS);
            (cpu.quota_micros, period)
        });
        let memory_mib = cell_memory_bytes
            .checked_add(GUEST_OVERHEAD_BYTES)
            .map(|bytes| bytes.div_ceil(MIB))
            .ok_or_else(|| {
                CellosError::InvalidSpec(format!(
                    "spec.run.limits.memoryMaxBytes: no machine has {cell_memory_bytes} bytes"
                ))
            })?;
        Ok(Self {
            document: document.clone(),
            shape: MachineShape {
                vcpus: vcpus(cpu_max)?,
                memory_mib,
            },
            cell_memory_bytes,
            cpu_max,
            network: None,
        })
    }
}

/// As many processors as the bandwidth can keep busy.
fn vcpus(cpu_max: Option<(u64, u64)>) -> Result<u32, CellosError> {
    let Some((quota, period)) = cpu_max else {
        return Ok(1);
    };
    u32::try_from(quota.div_ceil(period.max(1)).max(1))
        .ok()
        .filter(|vcpus| *vcpus <= MAX_VCPUS)
        .ok_or_else(|| {
            CellosError::InvalidSpec(format!(
                "spec.run.limits.cpuMax: {quota} of {period} µs is more than {MAX_VCPUS} \
                 processors, which is the most a machine can have"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(limits: &str) -> Result<VmPlan, CellosError> {
        let document = serde_json::from_str(&format!(
            r#"{{"apiVersion":"cellos.io/v1","kind":"ExecutionCell","spec":{{"id":"a",
            "run":{{"argv":["true"],"limits":{limits}}},"authority":{{}},"lifetime":{{"ttlSeconds":9}}}}}}"#
        ))
        .unwrap();
        VmPlan::from_document(&document)
    }

    #[test]
    fn a_machine_has_more_than_its_cell_may_use() {
        let plan = plan(r#"{"memoryMaxBytes":67108865}"#).unwrap();
        assert_eq!(plan.cell_memory_bytes, 67_108_865);
        assert_eq!(plan.shape.memory_mib, 64 + 1 + 128);
    }

    #[test]
    fn a_share_of_a_processor_is_one_processor_and_a_bound_on_the_monitor() {
        let plan = plan(r#"{"cpuMax":{"quotaMicros":150000,"periodMicros":100000}}"#).unwrap();
        assert_eq!(plan.shape.vcpus, 2);
        assert_eq!(plan.cpu_max, Some((150_000, 100_000)));
    }

    #[test]
    fn what_no_machine_has_is_refused_by_name() {
        for limits in [
            r#"{"memoryMaxBytes":18446744073709551615}"#,
            r#"{"cpuMax":{"quotaMicros":3300000,"periodMicros":100000}}"#,
        ] {
            let refused = plan(limits).unwrap_err().to_string();
            assert!(refused.contains("spec.run.limits."), "{refused}");
        }
    }
}
