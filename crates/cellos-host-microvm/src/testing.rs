//! What tests of machines share.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use cellos_isolation::confined::Helper;
use cellos_testkit::Ability;
use sha2::{Digest as _, Sha256};

use crate::artifacts::{Artifact, Artifacts};

/// Environment variable with the folder of a bundle: `kernel`, `initrd`, `base`.
const BUNDLE_VARIABLE: &str = "CELLOS_TEST_VM_BUNDLE";

/// The folder of a bundle.
pub(crate) struct Bundle(PathBuf);

pub(crate) fn bundle() -> Result<Bundle, String> {
    let folder = std::env::var_os(BUNDLE_VARIABLE)
        .map(PathBuf::from)
        .ok_or_else(|| format!("{BUNDLE_VARIABLE} does not name a bundle"))?;
    for file in ["kernel", "initrd", "base"] {
        let path = folder.join(file);
        if !path.is_file() {
            return Err(format!("there is no {}", path.display()));
        }
    }
    Ok(Bundle(folder))
}

/// Whether there is a bundle, and what confines a monitor.
pub(crate) fn can_boot() -> Result<(), String> {
    for ability in [Ability::UserNamespaces, Ability::Landlock] {
        ability.probe().map_err(|missing| missing.to_string())?;
    }
    bundle().map(drop)
}

impl Bundle {
    pub(crate) fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    pub(crate) fn artifacts(&self, monitor: &Path) -> Artifacts {
        Artifacts {
            kernel: artifact(&self.0.join("kernel")),
            initrd: Some(artifact(&self.0.join("initrd"))),
            base: artifact(&self.0.join("base")),
            monitor: artifact(monitor),
            jailer: None,
        }
    }
}

pub(crate) fn artifact(path: &Path) -> Artifact {
    let path = std::fs::canonicalize(path).unwrap();
    let digest = Sha256::digest(path.to_string_lossy().as_bytes());
    Artifact {
        file: Arc::new(File::open(&path).unwrap()),
        path,
        // Of the name, not of the file: a driver only hands it on.
        sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

pub(crate) fn qemu() -> PathBuf {
    PathBuf::from("/usr/bin/qemu-system-x86_64")
}

/// The helper of this crate, which the test runner builds beside the tests.
pub(crate) fn helper() -> Helper {
    let named = std::env::var_os("NEXTEST_BIN_EXE_cellos-confined").map(PathBuf::from);
    let path = named.unwrap_or_else(|| {
        let tests = std::env::current_exe().unwrap();
        tests
            .parent()
            .unwrap()
            .parent()
            .unwrap()
            .join("cellos-confined")
    });
    assert!(
        path.is_file(),
        "{} is built with this crate",
        path.display()
    );
    Helper::at(path)
}

/// A field of `/proc/PID/status`.
pub(crate) fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_default()
        .trim()
}
