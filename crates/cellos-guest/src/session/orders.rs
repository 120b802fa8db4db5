//! What a configuration comes to: the plan of a cell, or why there is none.

use cellos_bridge::{Config, Refused};
use cellos_core::admission::is_portable_id;
use cellos_isolation::plan::{Card, CellPlan, DEFAULT_PROCESS_LIMIT};

use crate::machine::Surroundings;

/// Sets clock and generator, before anything of the cell exists that could have used the old ones,
/// and makes the plan.
///
/// The launcher is older than the configuration, and was perhaps restored with the machine. That
/// does no harm: it draws no numbers, it has begun no cell (`Warm::Never`), and what the kernel
/// gives a program at its execution (`AT_RANDOM`, the places of its memory) comes from the
/// generator as it is then. It is forked early so that its memory, which every cell's init begins
/// with, never held the session key.
pub(super) fn carry_out(
    config: &Config,
    surroundings: Surroundings,
    card: Card,
) -> Result<CellPlan, Refused> {
    let failure = |operation: &str, error: std::io::Error| Refused::GuestFailure {
        operation: operation.to_owned(),
        reason: error.to_string(),
    };
    surroundings
        .set_clock(config.wall_clock_unix_ns)
        .map_err(|error| failure("set the clock", error))?;
    surroundings
        .add_entropy(&config.entropy)
        .map_err(|error| failure("feed the random number generator", error))?;
    Ok(CellPlan {
        card,
        ..plan(config)?
    })
}

fn plan(config: &Config) -> Result<CellPlan, Refused> {
    let invalid = |reason: String| Refused::InvalidDocument { reason };
    let spec = &config.document.spec;
    if spec.id != config.cell_id || !is_portable_id(&spec.id) {
        return Err(invalid(format!(
            "spec.id: {:?} is not the cell's id {:?}, or no portable id",
            spec.id, config.cell_id
        )));
    }
    let mut plan =
        CellPlan::from_document(&config.document).map_err(|error| invalid(error.to_string()))?;
    if !plan.mounts.is_empty() {
        return Err(invalid(
            "spec.authority.filesystem.mounts: the folders of the host are not in this machine"
                .to_owned(),
        ));
    }
    // Always, so that a cell that takes too much meets its own limit and not a machine without
    // memory, and so that every cell has a control group.
    let declared = plan.memory_max_bytes.unwrap_or(u64::MAX);
    plan.memory_max_bytes = Some(declared.min(config.memory_limit_bytes));
    plan.pids_max.get_or_insert(DEFAULT_PROCESS_LIMIT);
    Ok(plan)
}
