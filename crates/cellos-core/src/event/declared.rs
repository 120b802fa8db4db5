//! What a document grants, so that whoever has only the log can compare it with what was observed.

use serde::{Deserialize, Serialize};

use super::NetworkMode;
use crate::{
    ExecutionCellSpec,
    document::{ExportTarget, Mount, RunLimits, RunUser},
};

/// What a document grants; ours. Neither the command nor values of variables are in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Declared {
    /// `authority.egressRules`.
    pub egress_rules: Vec<DeclaredEgress>,
    /// How strict the gateway of the cell's network is; absent for a cell without a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_mode: Option<NetworkMode>,
    /// `authority.secretRefs`: names, never values.
    pub secret_refs: Vec<String>,
    /// `authority.filesystem.mounts`.
    pub mounts: Vec<Mount>,
    /// `export.artifacts`.
    pub artifacts: Vec<DeclaredArtifact>,
    /// Names of `export.targets`.
    pub export_targets: Vec<String>,
    /// `run.limits`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<RunLimits>,
    /// `run.timeoutMs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// `run.user`, as the workload sees itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<RunUser>,
    /// `environment.imageDigest`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// `ingress`, without its secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<DeclaredIngress>,
}

/// One rule of `authority.egressRules`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredEgress {
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

/// One artifact of `export.artifacts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredArtifact {
    /// Its name.
    pub name: String,
    /// The file in the cell.
    pub path: String,
    /// The target that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// What `ingress` brings into a cell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeclaredIngress {
    /// `ingress.git.url`, without user and password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_url: Option<String>,
    /// `ingress.git.ref`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_ref: Option<String>,
    /// `ingress.ociImage.reference`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oci_reference: Option<String>,
    /// `ingress.ociImage.digest`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oci_digest: Option<String>,
}

impl Declared {
    /// What this document grants.
    #[must_use]
    pub fn of(spec: &ExecutionCellSpec) -> Self {
        let authority = &spec.authority;
        let export = spec.export.as_ref();
        let run = spec.run.as_ref();
        Self {
            egress_rules: authority
                .egress_rules
                .iter()
                .flatten()
                .map(|rule| DeclaredEgress {
                    host: rule.host.clone(),
                    port: rule.port,
                    protocol: rule.protocol.clone(),
                })
                .collect(),
            network_mode: None,
            secret_refs: authority.secret_refs.clone().unwrap_or_default(),
            mounts: authority
                .filesystem
                .as_ref()
                .map_or_else(Vec::new, |filesystem| filesystem.mounts.clone()),
            artifacts: export
                .and_then(|export| export.artifacts.as_deref())
                .unwrap_or_default()
                .iter()
                .map(|artifact| DeclaredArtifact {
                    name: artifact.name.clone(),
                    path: artifact.path.clone(),
                    target: artifact.target.clone(),
                })
                .collect(),
            export_targets: export
                .and_then(|export| export.targets.as_deref())
                .unwrap_or_default()
                .iter()
                .map(|target| match target {
                    ExportTarget::Http { name, .. } | ExportTarget::S3 { name, .. } => name.clone(),
                })
                .collect(),
            limits: run.and_then(|run| run.limits.clone()),
            timeout_ms: run.and_then(|run| run.timeout_ms),
            user: run.and_then(|run| run.user),
            image_digest: spec
                .environment
                .as_ref()
                .and_then(|environment| environment.image_digest.clone()),
            ingress: ingress(spec),
        }
    }
}

fn ingress(spec: &ExecutionCellSpec) -> Option<DeclaredIngress> {
    let ingress = spec.ingress.as_ref()?;
    let git = ingress.git.as_ref();
    let image = ingress.oci_image.as_ref();
    Some(DeclaredIngress {
        git_url: git
            .and_then(|git| git.url.as_deref())
            .map(without_credentials),
        git_ref: git.and_then(|git| git.git_ref.clone()),
        oci_reference: image.map(|image| image.reference.clone()),
        oci_digest: image.and_then(|image| image.digest.clone()),
    })
}

/// An address without what stands before `@` in its authority.
fn without_credentials(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    format!("{scheme}{host}{path}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_says_what_is_granted_and_neither_the_command_nor_values() {
        let spec: ExecutionCellSpec = serde_json::from_value(json!({
            "id": "c",
            "ingress": {"git": {"url": "https://me:pw@git.example/x@y", "ref": "v1"}},
            "run": {"argv": ["/bin/deploy", "--password=hunter2"], "timeoutMs": 5,
                "env": {"TOKEN": "hunter2"}, "limits": {"memoryMaxBytes": 1_048_576},
                "user": {"uid": 1, "gid": 2}},
            "authority": {
                "egressRules": [{"host": "a.example", "port": 443, "protocol": "tcp"}],
                "secretRefs": ["DB"],
                "filesystem": {"mounts": [
                    {"source": "/data", "target": "/in", "access": "ro"}]}},
            "export": {"artifacts": [{"name": "out", "path": "out.txt", "target": "t"}],
                "targets": [{"kind": "http", "name": "t", "baseUrl": "https://x.example"}]},
            "lifetime": {"ttlSeconds": 5}
        }))
        .unwrap();
        let declared = serde_json::to_value(Declared::of(&spec)).unwrap();
        assert_eq!(
            declared,
            json!({
                "egressRules": [{"host": "a.example", "port": 443, "protocol": "tcp"}],
                "secretRefs": ["DB"],
                "mounts": [{"source": "/data", "target": "/in", "access": "ro"}],
                "artifacts": [{"name": "out", "path": "out.txt", "target": "t"}],
                "exportTargets": ["t"],
                "limits": {"memoryMaxBytes": 1_048_576, "cpuMax": null},
                "timeoutMs": 5,
                "user": {"uid": 1, "gid": 2},
                "ingress": {"gitUrl": "https://git.example/x@y", "gitRef": "v1"}
            })
        );
        assert!(!declared.to_string().contains("hunter2"), "{declared}");
    }
}
