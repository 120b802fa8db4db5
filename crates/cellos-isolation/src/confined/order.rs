//! What a helper is told.

use std::path::PathBuf;

use cellos_core::ports::network::NetworkNeeds;
use serde::{Deserialize, Serialize};

use super::ConfinedError;
use crate::message;

/// Number of the first descriptor that a program is given; the others follow.
pub const FIRST_DESCRIPTOR: i32 = 3;

/// Most descriptors that a program is given. A monitor needs three files, three sockets and a few
/// TAP devices.
pub const MAX_DESCRIPTORS: usize = 32;

/// What a program is, and all that it may reach.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Its arguments, its name first.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// Where it starts: `/`, or a folder among those below.
    pub working_folder: PathBuf,
    /// Files and folders that it may read and execute, absolute; they are all that its root has, with
    /// those below and `/proc`. One that is not there grants nothing.
    pub readable: Vec<PathBuf>,
    /// Files and folders that are made its own: their owner becomes its user, and it may do with
    /// them what it wants. What is in a folder keeps its owner.
    pub own: Vec<PathBuf>,
    /// Indices of given descriptors that it may open anew by `/proc/self/fd`, to read.
    pub reopened: Vec<usize>,
    /// Devices below `/dev` that it may use; each has to be there.
    pub devices: Vec<PathBuf>,
    /// Its control groups, made by [`CgroupHost::create`](crate::cgroup::CgroupHost::create).
    pub control_groups: Vec<PathBuf>,
    /// Descriptors that it may have open at once.
    pub open_files: u64,
    /// Size in bytes of the largest file that it may write; 0 for none.
    pub file_bytes: u64,
    /// What it keeps.
    pub privileges: Privileges,
    /// Its network.
    pub network: Network,
    /// Where its standard output goes.
    pub output: Output,
}

/// Where a program's standard output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// Nowhere.
    Discarded,
    /// To a pipe, [`Child::stdout`](std::process::Child::stdout): for a monitor whose machines have
    /// their console there. Whoever starts the program has to read it.
    Pipe,
}

/// What a program keeps of the privileges of whoever starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Privileges {
    /// None: no capabilities and none to be had, a user of its own where root starts it, only the
    /// files of the order.
    None,
    /// All of them, for a program of root's that builds a jail and gives them up itself. Neither
    /// Landlock nor another user; session, namespaces, groups and limits hold all the same.
    ForJailer,
}

/// What a program has of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// A namespace without anything in it.
    Empty,
    /// A namespace with one TAP device, which comes as one more descriptor after the given ones.
    /// Every address is local to it, and whoever starts the program gets the sockets that answer
    /// ([`Confined::sockets`](super::Confined::sockets)); the program has none of them.
    Tap {
        /// Name of the interface: 1 to 15 of letters, digits, `-` and `_`.
        name: String,
        /// The sockets.
        needs: NetworkNeeds,
    },
}

/// An order on its way.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wire {
    /// Process id of whoever gives it.
    pub(super) parent: u32,
    /// How many descriptors follow.
    pub(super) descriptors: usize,
    pub(super) order: Order,
}

impl Order {
    pub(super) fn to_wire(&self, descriptors: usize) -> Result<Vec<u8>, ConfinedError> {
        if descriptors > MAX_DESCRIPTORS {
            return Err(ConfinedError::Order(format!(
                "{descriptors} descriptors are more than {MAX_DESCRIPTORS}"
            )));
        }
        if let Some(index) = self.reopened.iter().find(|index| **index >= descriptors) {
            return Err(ConfinedError::Order(format!(
                "descriptor {index} is to be opened anew, and {descriptors} are given"
            )));
        }
        let wire = Wire {
            parent: std::process::id(),
            descriptors,
            order: self.clone(),
        };
        let bytes =
            serde_json::to_vec(&wire).map_err(|error| ConfinedError::Order(error.to_string()))?;
        if bytes.len() > message::MAX_MESSAGE_BYTES {
            return Err(ConfinedError::Order(format!(
                "its order of {} bytes is more than {}",
                bytes.len(),
                message::MAX_MESSAGE_BYTES
            )));
        }
        Ok(bytes)
    }
}
