//! Where the files of machines are.

use std::{ffi::OsString, path::PathBuf};

use cellos_supervisor::state::default_state_dir;

/// The folders of the microVM backend on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    /// What machines boot from: `CELLOS_VM_DIR`, else `vm` in the state folder.
    pub(crate) bundle: PathBuf,
    /// The public keys that its manifest may be signed with: `CELLOS_VM_TRUST_KEYS`, else
    /// `vm-keys/trusted.json` in the state folder.
    pub(crate) trusted_keys: PathBuf,
    /// The keys among them that do not count any more: `CELLOS_VM_REVOKED_KEYS`, else none.
    pub(crate) revoked_keys: Option<PathBuf>,
    /// The key that `cellos vm prepare` signs with: `vm-keys/signing.key` in the state folder.
    pub(crate) signing_key: PathBuf,
    /// Live machines: `CELLOS_VM_RUN_DIR`, else a short path that a restart of the host clears.
    pub(crate) run: PathBuf,
}

/// No folder could be found.
#[derive(Debug, thiserror::Error)]
#[error("there is no place for the files of machines: neither HOME nor XDG_STATE_HOME is set")]
pub(crate) struct PlacesError;

impl Places {
    /// As the environment says.
    pub(crate) fn find(
        environment: impl Fn(&str) -> Option<OsString>,
        effective_uid: u32,
    ) -> Result<Self, PlacesError> {
        let path = |name: &str| {
            environment(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let state = default_state_dir(None, &environment, effective_uid).ok_or(PlacesError)?;
        let runtime = match effective_uid {
            0 => Some(PathBuf::from("/run")),
            _ => path("XDG_RUNTIME_DIR").filter(|path| path.is_absolute()),
        };
        Ok(Self {
            bundle: path("CELLOS_VM_DIR").unwrap_or_else(|| state.join("vm")),
            trusted_keys: path("CELLOS_VM_TRUST_KEYS")
                .unwrap_or_else(|| state.join("vm-keys/trusted.json")),
            revoked_keys: path("CELLOS_VM_REVOKED_KEYS"),
            signing_key: state.join("vm-keys/signing.key"),
            run: path("CELLOS_VM_RUN_DIR").unwrap_or_else(|| match runtime {
                Some(runtime) => runtime.join("cellos/vm"),
                None => state.join("vm-run"),
            }),
        })
    }

    /// As this process's environment says.
    pub(crate) fn of_this_process() -> Result<Self, PlacesError> {
        Self::find(
            |name| std::env::var_os(name),
            rustix::process::geteuid().as_raw(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(values: &[(&str, &str)], uid: u32) -> Result<Places, PlacesError> {
        Places::find(
            |name| {
                values
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, value)| value.into())
            },
            uid,
        )
    }

    #[test]
    fn root_and_others_have_places_of_their_own() {
        let root = find(&[], 0).unwrap();
        assert_eq!(root.bundle, PathBuf::from("/var/lib/cellos/vm"));
        assert_eq!(root.run, PathBuf::from("/run/cellos/vm"));
        let user = find(
            &[("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/7")],
            7,
        )
        .unwrap();
        assert_eq!(
            user.trusted_keys,
            PathBuf::from("/home/u/.local/state/cellos/vm-keys/trusted.json")
        );
        assert_eq!(user.run, PathBuf::from("/run/user/7/cellos/vm"));
        assert!(find(&[], 7).is_err());
    }

    #[test]
    fn each_place_can_be_named_and_an_empty_name_is_none() {
        let named = find(
            &[
                ("CELLOS_VM_DIR", "/b"),
                ("CELLOS_VM_TRUST_KEYS", "/k.json"),
                ("CELLOS_VM_RUN_DIR", ""),
            ],
            0,
        )
        .unwrap();
        assert_eq!(named.bundle, PathBuf::from("/b"));
        assert_eq!(named.trusted_keys, PathBuf::from("/k.json"));
        assert_eq!(named.run, PathBuf::from("/run/cellos/vm"));
    }
}
