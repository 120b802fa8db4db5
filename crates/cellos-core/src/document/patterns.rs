//! Patterns of the JSON Schema (ECMA 262). The rules themselves are functions in `admission`; a test
//! holds the two together.

/// See [`is_portable_id`](crate::admission::is_portable_id).
pub(super) const PORTABLE_ID: &str = r"^[A-Za-z0-9](\.?[A-Za-z0-9_-])*\.?$";
/// See [`is_sha256_ref`](crate::admission::is_sha256_ref).
pub(super) const SHA256_REF: &str = "^sha256:[0-9a-f]{64}$";
/// See [`is_kubernetes_namespace`](crate::admission::is_kubernetes_namespace).
pub(super) const KUBERNETES_NAMESPACE: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
/// See [`is_agent_version`](crate::admission::is_agent_version).
pub(super) const AGENT_VERSION: &str =
    r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[A-Za-z0-9.-]+)?$";
/// One token of a subject, without what cannot stand in a path.
pub(super) const TENANT_ID: &str = r"^[^.*>/\s\u0000-\u001f\u007f]+$";
/// An absolute path.
pub(super) const ABSOLUTE_PATH: &str = "^/";
