//! The bodies of the management interface, with the names of Firecracker's API specification
//! (`src/firecracker/swagger/firecracker.yaml`, 1.16).

use std::time::Duration;

use hyper::Method;
use serde::Serialize;

use super::api::{REQUEST_TIMEOUT, SNAPSHOT_TIMEOUT};

/// Context id of the guest: the lowest one that is not reserved (vsock(7)). Every machine can have
/// the same, since Firecracker routes by the socket's path.
pub(crate) const GUEST_CID: u32 = 3;

/// Period in which a token bucket is filled once, in milliseconds.
const REFILL_MILLISECONDS: u64 = 1000;

/// A request of the management interface.
pub(crate) trait Call: Serialize + Sync {
    const METHOD: Method = Method::PUT;
    const TIMEOUT: Duration = REQUEST_TIMEOUT;

    fn path(&self) -> String;
}

/// `PUT /machine-config`.
#[derive(Debug, Serialize)]
pub(crate) struct MachineConfig {
    pub(crate) vcpu_count: u32,
    pub(crate) mem_size_mib: u64,
    /// Only for snapshots of differences, and slow.
    pub(crate) track_dirty_pages: bool,
}

/// `PUT /boot-source`.
#[derive(Debug, Serialize)]
pub(crate) struct BootSource<'a> {
    pub(crate) kernel_image_path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) initrd_path: Option<&'a str>,
    pub(crate) boot_args: &'a str,
}

/// `PUT /drives/{drive_id}`.
#[derive(Debug, Serialize)]
pub(crate) struct Drive<'a> {
    pub(crate) drive_id: &'a str,
    pub(crate) path_on_host: &'a str,
    pub(crate) is_root_device: bool,
    pub(crate) is_read_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate_limiter: Option<RateLimiter>,
}

/// `PUT /network-interfaces/{iface_id}`.
#[derive(Debug, Serialize)]
#[expect(dead_code, reason = "for the gateway, which does not exist yet")]
pub(crate) struct NetworkInterface<'a> {
    pub(crate) iface_id: &'a str,
    pub(crate) host_dev_name: &'a str,
    pub(crate) guest_mac: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rx_rate_limiter: Option<RateLimiter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tx_rate_limiter: Option<RateLimiter>,
}

/// `PUT /vsock`. The monitor binds `uds_path` while it answers.
#[derive(Debug, Serialize)]
pub(crate) struct Vsock<'a> {
    pub(crate) guest_cid: u32,
    pub(crate) uds_path: &'a str,
}

/// `PUT /actions`.
#[derive(Debug, Serialize)]
pub(crate) struct Action {
    pub(crate) action_type: ActionType,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) enum ActionType {
    InstanceStart,
    /// Of x86 alone; elsewhere Firecracker refuses it.
    SendCtrlAltDel,
}

/// `PATCH /vm`.
#[derive(Debug, Serialize)]
pub(crate) struct VmState {
    pub(crate) state: InstanceState,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) enum InstanceState {
    Paused,
}

/// `PUT /snapshot/create`.
#[derive(Debug, Serialize)]
pub(crate) struct SnapshotCreate<'a> {
    pub(crate) snapshot_type: SnapshotType,
    pub(crate) snapshot_path: &'a str,
    pub(crate) mem_file_path: &'a str,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) enum SnapshotType {
    Full,
}

/// `PUT /snapshot/load`. Has neither the deprecated `enable_diff_snapshots` nor overrides: inside a
/// jail every path is where it was, and a machine without a network interface has none to rename.
#[derive(Debug, Serialize)]
pub(crate) struct SnapshotLoad<'a> {
    pub(crate) snapshot_path: &'a str,
    pub(crate) mem_backend: MemoryBackend<'a>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) network_overrides: &'a [NetworkOverride<'a>],
    pub(crate) resume_vm: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct MemoryBackend<'a> {
    pub(crate) backend_type: BackendType,
    pub(crate) backend_path: &'a str,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) enum BackendType {
    File,
}

/// Another device of the host for a network interface of the snapshot.
#[derive(Debug, Serialize)]
pub(crate) struct NetworkOverride<'a> {
    pub(crate) iface_id: &'a str,
    pub(crate) host_dev_name: &'a str,
}

/// Bounds on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct RateLimiter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bandwidth: Option<TokenBucket>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ops: Option<TokenBucket>,
}

/// What may be used in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct TokenBucket {
    /// Bytes or operations.
    pub(crate) size: u64,
    /// Milliseconds in which an empty bucket fills.
    pub(crate) refill_time: u64,
}

impl RateLimiter {
    /// `None` where nothing is bounded.
    pub(crate) fn per_second(bytes: Option<u64>, operations: Option<u64>) -> Option<Self> {
        let bucket = |size| TokenBucket {
            size,
            refill_time: REFILL_MILLISECONDS,
        };
        (bytes.is_some() || operations.is_some()).then(|| Self {
            bandwidth: bytes.map(bucket),
            ops: operations.map(bucket),
        })
    }
}

impl Call for MachineConfig {
    fn path(&self) -> String {
        "/machine-config".into()
    }
}

impl Call for BootSource<'_> {
    fn path(&self) -> String {
        "/boot-source".into()
    }
}

impl Call for Drive<'_> {
    fn path(&self) -> String {
        format!("/drives/{}", self.drive_id)
    }
}

impl Call for NetworkInterface<'_> {
    fn path(&self) -> String {
        format!("/network-interfaces/{}", self.iface_id)
    }
}

impl Call for Vsock<'_> {
    fn path(&self) -> String {
        "/vsock".into()
    }
}

impl Call for Action {
    fn path(&self) -> String {
        "/actions".into()
    }
}

impl Call for VmState {
    const METHOD: Method = Method::PATCH;

    fn path(&self) -> String {
        "/vm".into()
    }
}

impl Call for SnapshotCreate<'_> {
    const TIMEOUT: Duration = SNAPSHOT_TIMEOUT;

    fn path(&self) -> String {
        "/snapshot/create".into()
    }
}

impl Call for SnapshotLoad<'_> {
    const TIMEOUT: Duration = SNAPSHOT_TIMEOUT;

    fn path(&self) -> String {
        "/snapshot/load".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(call: &impl Call) -> String {
        serde_json::to_string(call).unwrap()
    }

    #[test]
    fn bodies_have_the_fields_of_the_specification_and_no_others() {
        let drive = Drive {
            drive_id: "rootfs",
            path_on_host: "/rootfs",
            is_root_device: true,
            is_read_only: true,
            rate_limiter: RateLimiter::per_second(Some(9), None),
        };
        assert_eq!(
            json(&drive),
            r#"{"drive_id":"rootfs","path_on_host":"/rootfs","is_root_device":true,"is_read_only":true,"rate_limiter":{"bandwidth":{"size":9,"refill_time":1000}}}"#
        );
        assert_eq!(drive.path(), "/drives/rootfs");
        let load = SnapshotLoad {
            snapshot_path: "/state",
            mem_backend: MemoryBackend {
                backend_type: BackendType::File,
                backend_path: "/memory",
            },
            network_overrides: &[],
            resume_vm: true,
        };
        assert_eq!(
            json(&load),
            r#"{"snapshot_path":"/state","mem_backend":{"backend_type":"File","backend_path":"/memory"},"resume_vm":true}"#
        );
        let create = SnapshotCreate {
            snapshot_type: SnapshotType::Full,
            snapshot_path: "/state",
            mem_file_path: "/memory",
        };
        assert_eq!(
            json(&create),
            r#"{"snapshot_type":"Full","snapshot_path":"/state","mem_file_path":"/memory"}"#
        );
        let start = Action {
            action_type: ActionType::InstanceStart,
        };
        assert_eq!(json(&start), r#"{"action_type":"InstanceStart"}"#);
        let keys = Action {
            action_type: ActionType::SendCtrlAltDel,
        };
        assert_eq!(json(&keys), r#"{"action_type":"SendCtrlAltDel"}"#);
        assert_eq!(
            json(&VmState {
                state: InstanceState::Paused
            }),
            r#"{"state":"Paused"}"#
        );
    }

    #[test]
    fn nothing_bounded_is_no_limiter() {
        assert_eq!(RateLimiter::per_second(None, None), None);
    }
}
