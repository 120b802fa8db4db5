//! From a request to a call, refusing what the interface does not have.

use serde::de::DeserializeOwned;

use super::{
    bodies::{
        Action, ActionType, BootSource, Drive, Entropy, Logger, MachineConfig, Metrics,
        NetworkInterface, Serial, SnapshotCreate, SnapshotLoad, Vm, VmState, Vsock,
    },
    http::{Request, Response},
};
use crate::settings::Version;

/// From which version on `/serial` exists, and its `rate_limiter`.
const SERIAL: Version = Version { parts: [1, 14, 0] };
const SERIAL_LIMITER: Version = Version { parts: [1, 16, 0] };
/// From which version on a snapshot can be loaded with another vsock path or clock.
const VSOCK_OVERRIDE: Version = Version { parts: [1, 16, 0] };
/// From which version on a snapshot can be loaded with other network devices.
const NETWORK_OVERRIDES: Version = Version { parts: [1, 12, 0] };

/// One call of the management interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    DescribeInstance,
    GetVersion,
    GetMachineConfig,
    GetVmConfig,
    MachineConfig(MachineConfig),
    BootSource(BootSource),
    Drive(Drive),
    NetworkInterface(NetworkInterface),
    Vsock(Vsock),
    Entropy(Entropy),
    Logger(Logger),
    Metrics(Metrics),
    Serial(Serial),
    Action(ActionType),
    Vm(VmState),
    SnapshotCreate(SnapshotCreate),
    SnapshotLoad(SnapshotLoad),
}

/// Reads a request.
pub(crate) fn parse(request: &Request, version: Version) -> Result<Call, Response> {
    let path = request.path.split('?').next().unwrap_or_default();
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/');
    let (kind, id) = (segments.next().unwrap_or_default(), segments.next());
    let unknown = || {
        let method = request.method.to_ascii_lowercase();
        Response::fault(
            400,
            format!("Invalid request method and/or path: {method} {path}."),
        )
    };
    if segments.next().is_some() || !path.starts_with('/') {
        return Err(unknown());
    }
    let body = &request.body;
    match (request.method.as_str(), kind, id) {
        ("GET", _, _) if !body.is_empty() => {
            Err(Response::fault(400, "GET request cannot have a body."))
        }
        ("PUT" | "PATCH", _, _) if body.is_empty() => {
            let what = "Empty PUT or PATCH request.";
            Err(Response::fault(400, what))
        }
        ("GET", "", None) => Ok(Call::DescribeInstance),
        ("GET", "version", None) => Ok(Call::GetVersion),
        ("GET", "machine-config", None) => Ok(Call::GetMachineConfig),
        ("GET", "vm", Some("config")) => Ok(Call::GetVmConfig),
        ("PUT", "machine-config", None) => read(body).map(Call::MachineConfig),
        ("PUT", "boot-source", None) => read(body).map(Call::BootSource),
        ("PUT", "drives", Some(id)) => {
            let drive: Drive = read(body)?;
            same_id(id, &drive.drive_id)?;
            Ok(Call::Drive(drive))
        }
        ("PUT", "network-interfaces", Some(id)) => {
            let interface: NetworkInterface = read(body)?;
            same_id(id, &interface.iface_id)?;
            Ok(Call::NetworkInterface(interface))
        }
        ("PUT", "vsock", None) => read(body).map(Call::Vsock),
        ("PUT", "entropy", None) => read(body).map(Call::Entropy),
        ("PUT", "logger", None) => read(body).map(Call::Logger),
        ("PUT", "metrics", None) => read(body).map(Call::Metrics),
        ("PUT", "serial", None) if version >= SERIAL => {
            let serial: Serial = read(body)?;
            since(
                version,
                SERIAL_LIMITER,
                "rate_limiter",
                &serial.rate_limiter,
            )?;
            Ok(Call::Serial(serial))
        }
        ("PUT", "actions", None) => {
            read(body).map(|action: Action| Call::Action(action.action_type))
        }
        ("PATCH", "vm", None) => read(body).map(|vm: Vm| Call::Vm(vm.state)),
        ("PUT", "snapshot", Some("create")) => read(body).map(Call::SnapshotCreate),
        ("PUT", "snapshot", Some("load")) => {
            let load: SnapshotLoad = read(body)?;
            let overrides = Some(&load.network_overrides).filter(|list| !list.is_empty());
            since(version, NETWORK_OVERRIDES, "network_overrides", &overrides)?;
            since(
                version,
                VSOCK_OVERRIDE,
                "vsock_override",
                &load.vsock_override,
            )?;
            since(
                version,
                VSOCK_OVERRIDE,
                "clock_realtime",
                &load.clock_realtime,
            )?;
            Ok(Call::SnapshotLoad(load))
        }
        (_, "balloon" | "cpu-config" | "hotplug" | "mmds" | "pmem", _) => Err(Response::fault(
            400,
            format!("CellOS's fake VMM does not model /{kind}."),
        )),
        _ => Err(unknown()),
    }
}

/// Reads a body.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Response> {
    serde_json::from_slice(body).map_err(|error| {
        Response::fault(
            400,
            format!("An error occurred when deserializing the json body of a request: {error}."),
        )
    })
}

fn same_id(in_path: &str, in_body: &str) -> Result<(), Response> {
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if in_path.is_empty() || !in_path.chars().all(valid) {
        return Err(Response::fault(
            400,
            "API Resource IDs can only contain alphanumeric characters and underscores.",
        ));
    }
    match in_path == in_body {
        true => Ok(()),
        false => Err(Response::fault(
            400,
            "The id from the path does not match the id from the body!",
        )),
    }
}

/// A field that an older version does not know is an unknown field there.
fn since<T>(
    version: Version,
    first: Version,
    name: &str,
    field: &Option<T>,
) -> Result<(), Response> {
    match field.is_none() || version >= first {
        true => Ok(()),
        false => Err(Response::fault(
            400,
            format!(
                "An error occurred when deserializing the json body of a request: unknown field `{name}`."
            ),
        )),
    }
}
