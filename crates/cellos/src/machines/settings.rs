//! The settings of the microVM backend, from variables: ours, and the published ones of the
//! Firecracker backend. All that is wrong is said at once.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use cellos_core::signing::RevokedKids;
use cellos_host_microvm::{
    Accelerators, BootFiles, DriverChoice, FirecrackerConfig, Jail, ManifestTrust, MicrovmConfig,
    QemuConfig, RateLimits,
};

use super::{Places, keyring};
use crate::units;

/// The program that is looked for in `PATH` where none is named.
const QEMU: &str = "qemu-system-x86_64";

/// Folders that are searched where `PATH` is unset.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// First user and group id of jailed machines, and how many there are: below the ids that the
/// `linux` backend gives to cells, far above those of people.
const FIRST_JAIL_ID: u32 = 0x6700_0000;
const JAIL_IDS: u32 = 4096;

/// Where jails are made, as published.
const DEFAULT_CHROOT_BASE: &str = "/var/lib/cellos/firecracker";

/// One setting that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SettingError {
    /// A path has to be absolute.
    #[error("{name}={value:?} is not an absolute path")]
    NotAbsolute { name: &'static str, value: PathBuf },
    /// A value is none of those that there are.
    #[error("{name}={value:?}: expected {expected}")]
    BadValue {
        name: &'static str,
        value: String,
        expected: &'static str,
    },
    /// A setting is needed because of another.
    #[error("{name} is needed: {why}")]
    Missing {
        name: &'static str,
        why: &'static str,
    },
    /// Two settings contradict one another.
    #[error("firecracker init: {0}")]
    Contradiction(&'static str),
    /// A setting would weaken what is promised.
    #[error("{name} is refused: {why}")]
    Refused {
        name: &'static str,
        why: &'static str,
    },
    /// A program is not there.
    #[error(
        "there is no {program} in PATH; install it (Debian: qemu-system-x86) or name one with CELLOS_QEMU_BINARY"
    )]
    NoProgram { program: &'static str },
    /// The trusted keys cannot be read.
    #[error("the keys that may sign what machines boot from, {}: {why}; cellos vm prepare makes a key and a bundle", path.display())]
    Keys { path: PathBuf, why: String },
    /// The list of revoked keys cannot be read.
    #[error("CELLOS_VM_REVOKED_KEYS, {}: {why}", path.display())]
    RevokedKeys { path: PathBuf, why: String },
}

/// Everything that is wrong with the settings.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub(crate) struct SettingErrors(pub(crate) Vec<SettingError>);

/// The monitors that the settings name or that are found, whichever is used: what a manifest pins.
pub(crate) fn monitors(
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Vec<(cellos_core::vm_manifest::Role, PathBuf)> {
    use cellos_core::vm_manifest::Role;
    let reader = Reader {
        environment,
        errors: Vec::new(),
    };
    let named = |name: &str| reader.value(name).map(PathBuf::from);
    [
        (
            Role::Qemu,
            named("CELLOS_QEMU_BINARY").or_else(|| reader.search(QEMU)),
        ),
        (Role::Firecracker, named("CELLOS_FIRECRACKER_BINARY")),
        (Role::Jailer, named("CELLOS_FIRECRACKER_JAILER_BINARY")),
    ]
    .into_iter()
    .filter_map(|(role, program)| Some((role, program?)))
    .collect()
}

/// A virtual machine monitor, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Monitor {
    Qemu,
    Firecracker,
}

/// The settings as the variables say. A caller that was asked for one monitor by name gets that.
pub(crate) fn config(
    environment: &dyn Fn(&str) -> Option<OsString>,
    places: &Places,
    cgroup_parent: Option<PathBuf>,
    asked: Option<Monitor>,
) -> Result<MicrovmConfig, SettingErrors> {
    let mut reader = Reader {
        environment,
        errors: Vec::new(),
    };
    let driver = match asked.unwrap_or_else(|| reader.monitor()) {
        Monitor::Qemu => reader.qemu(),
        Monitor::Firecracker => reader.firecracker(),
    };
    let boot = reader.boot(places, &driver);
    let trust = reader.trust(places, &boot);
    let rates = RateLimits {
        disk_bytes_per_second: reader.number("CELLOS_VM_DISK_BYTES_PER_SECOND"),
        disk_operations_per_second: reader.number("CELLOS_VM_DISK_OPERATIONS_PER_SECOND"),
        network_bytes_per_second: reader.number("CELLOS_VM_NETWORK_BYTES_PER_SECOND"),
    };
    let pool_size = reader.pool_size();
    if !reader.errors.is_empty() {
        return Err(SettingErrors(reader.errors));
    }
    Ok(MicrovmConfig {
        boot,
        trust,
        driver,
        run_folder: places.run.clone(),
        cgroup_parent,
        rates,
        pool_size,
    })
}

struct Reader<'a> {
    environment: &'a dyn Fn(&str) -> Option<OsString>,
    errors: Vec<SettingError>,
}

impl Reader<'_> {
    fn value(&self, name: &str) -> Option<OsString> {
        (self.environment)(name).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Option<String> {
        self.value(name)
            .map(|value| value.to_string_lossy().trim().to_owned())
    }

    fn absolute(&mut self, name: &'static str) -> Option<PathBuf> {
        let path = PathBuf::from(self.text(name)?);
        if path.is_absolute() {
            return Some(path);
        }
        self.errors
            .push(SettingError::NotAbsolute { name, value: path });
        None
    }

    fn bad(&mut self, name: &'static str, value: String, expected: &'static str) {
        self.errors.push(SettingError::BadValue {
            name,
            value,
            expected,
        });
    }

    fn number<N: std::str::FromStr>(&mut self, name: &'static str) -> Option<N> {
        let text = self.text(name)?;
        let number = text.parse().ok();
        if number.is_none() {
            self.bad(name, text, "a whole number");
        }
        number
    }

    fn switch(&mut self, name: &'static str, default: Switch) -> Switch {
        let Some(text) = self.text(name) else {
            return default;
        };
        match units::switch(&text) {
            Some(true) => Switch::On,
            Some(false) => Switch::Off,
            None => {
                self.bad(
                    name,
                    text,
                    "a switch: 1, true, yes, on or 0, false, no, off",
                );
                default
            }
        }
    }

    /// Only the exact published form counts, since it switches a protection off.
    fn exactly_one(&mut self, name: &'static str) -> Switch {
        match self.text(name).as_deref() {
            None | Some("0") => Switch::Off,
            Some("1") => Switch::On,
            Some(other) => {
                self.bad(name, other.to_owned(), "exactly 1, or nothing");
                Switch::Off
            }
        }
    }

    fn pool_size(&mut self) -> u16 {
        let ours: Option<u16> = self.number("CELLOS_VM_POOL_SIZE");
        let published: Option<u16> = self.number("CELLOS_FIRECRACKER_POOL_SIZE");
        ours.or(published).unwrap_or(0)
    }

    fn monitor(&mut self) -> Monitor {
        let firecracker = self.value("CELLOS_FIRECRACKER_BINARY").is_some();
        match self.text("CELLOS_VM_MONITOR").as_deref() {
            Some("firecracker") => Monitor::Firecracker,
            None if firecracker => Monitor::Firecracker,
            None | Some("qemu") => Monitor::Qemu,
            Some(other) => {
                self.bad("CELLOS_VM_MONITOR", other.to_owned(), "qemu or firecracker");
                Monitor::Qemu
            }
        }
    }

    fn qemu(&mut self) -> DriverChoice {
        let program = if self.value("CELLOS_QEMU_BINARY").is_some() {
            self.absolute("CELLOS_QEMU_BINARY")
        } else {
            let found = self.search(QEMU);
            if found.is_none() {
                self.errors.push(SettingError::NoProgram { program: QEMU });
            }
            found
        };
        let accelerators = match self.text("CELLOS_VM_ACCELERATOR").as_deref() {
            None | Some("best") => Accelerators::Best,
            Some("kvm") => Accelerators::KvmOnly,
            Some("emulation") => Accelerators::Emulation,
            Some(other) => {
                self.bad(
                    "CELLOS_VM_ACCELERATOR",
                    other.to_owned(),
                    "best, kvm or emulation",
                );
                Accelerators::Best
            }
        };
        DriverChoice::Qemu(QemuConfig {
            program: program.unwrap_or_default(),
            accelerators,
        })
    }

    /// The program of this name in the first folder of `PATH` that has it.
    fn search(&self, program: &str) -> Option<PathBuf> {
        let path = self.value("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        std::env::split_paths(&path)
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join(program))
            .find(|candidate| candidate.is_file())
    }

    fn firecracker(&mut self) -> DriverChoice {
        let program = self.absolute("CELLOS_FIRECRACKER_BINARY");
        if program.is_none() && self.value("CELLOS_FIRECRACKER_BINARY").is_none() {
            self.errors.push(SettingError::Missing {
                name: "CELLOS_FIRECRACKER_BINARY",
                why: "Firecracker was asked for",
            });
        }
        if self.switch("CELLOS_FIRECRACKER_NO_SECCOMP", Switch::Off) == Switch::On {
            self.errors.push(SettingError::Refused {
                name: "CELLOS_FIRECRACKER_NO_SECCOMP",
                why: "the monitor's system call filter stays on",
            });
        }
        if self.switch("CELLOS_FIRECRACKER_ALLOW_NO_VSOCK", Switch::Off) == Switch::On {
            self.errors.push(SettingError::Refused {
                name: "CELLOS_FIRECRACKER_ALLOW_NO_VSOCK",
                why: "without the bridge nobody knows how the command ended; its wait is bounded in any case",
            });
        }
        DriverChoice::Firecracker(FirecrackerConfig {
            program: program.unwrap_or_default(),
            jail: self.jail(),
        })
    }

    fn jail(&mut self) -> Jail {
        let allowed_without = self.switch("CELLOS_FIRECRACKER_ALLOW_NO_JAILER", Switch::Off);
        let required = self.switch("CELLOS_FIRECRACKER_REQUIRE_JAILER", Switch::On);
        let base = self
            .absolute("CELLOS_FIRECRACKER_CHROOT_BASE")
            .unwrap_or_else(|| DEFAULT_CHROOT_BASE.into());
        if base == Path::new("/") {
            self.bad(
                "CELLOS_FIRECRACKER_CHROOT_BASE",
                "/".into(),
                "a folder below the root",
            );
        }
        let uid: Option<u32> = self.number("CELLOS_FIRECRACKER_JAILER_UID");
        let gid: Option<u32> = self.number("CELLOS_FIRECRACKER_JAILER_GID");
        for (name, id) in [
            ("CELLOS_FIRECRACKER_JAILER_UID", uid),
            ("CELLOS_FIRECRACKER_JAILER_GID", gid),
        ] {
            if id == Some(0) {
                self.bad(name, "0".into(), "an id other than root's");
            }
        }
        if uid.is_some() && gid.is_some() && uid != gid {
            self.errors.push(SettingError::Refused {
                name: "CELLOS_FIRECRACKER_JAILER_GID",
                why: "each machine has one id of its own, as user and as group; the pool begins at CELLOS_FIRECRACKER_JAILER_UID",
            });
        }
        match self.absolute("CELLOS_FIRECRACKER_JAILER_BINARY") {
            Some(program) => Jail::Jailer {
                program,
                chroot_base: base,
                first_id: uid.or(gid).unwrap_or(FIRST_JAIL_ID),
                ids: JAIL_IDS,
            },
            None if allowed_without == Switch::On || required == Switch::Off => Jail::None,
            None => {
                self.errors.push(SettingError::Missing {
                    name: "CELLOS_FIRECRACKER_JAILER_BINARY",
                    why: "the jailer is required; CELLOS_FIRECRACKER_ALLOW_NO_JAILER=1 goes without",
                });
                Jail::None
            }
        }
    }

    fn boot(&mut self, places: &Places, driver: &DriverChoice) -> BootFiles {
        let kernel = self.absolute("CELLOS_FIRECRACKER_KERNEL_IMAGE");
        let rootfs = self.absolute("CELLOS_FIRECRACKER_ROOTFS_IMAGE");
        let manifest = self.absolute("CELLOS_FIRECRACKER_MANIFEST");
        let (kernel, rootfs) = match (driver, kernel, rootfs) {
            (DriverChoice::Firecracker(_), Some(kernel), Some(rootfs)) => (kernel, rootfs),
            (DriverChoice::Firecracker(_), Some(_), None) => {
                self.errors.push(SettingError::Missing {
                    name: "CELLOS_FIRECRACKER_ROOTFS_IMAGE",
                    why: "CELLOS_FIRECRACKER_KERNEL_IMAGE is set",
                });
                return BootFiles::Bundle(places.bundle.clone());
            }
            (DriverChoice::Firecracker(_), None, Some(_)) => {
                self.errors.push(SettingError::Missing {
                    name: "CELLOS_FIRECRACKER_KERNEL_IMAGE",
                    why: "CELLOS_FIRECRACKER_ROOTFS_IMAGE is set",
                });
                return BootFiles::Bundle(places.bundle.clone());
            }
            _ => return BootFiles::Bundle(places.bundle.clone()),
        };
        let without = self.exactly_one("CELLOS_FIRECRACKER_ALLOW_NO_MANIFEST");
        let really = self.exactly_one("CELLOS_FIRECRACKER_ALLOW_NO_MANIFEST_REALLY");
        let wrong = match (without, really, &manifest) {
            (Switch::On, Switch::On, Some(_)) => Some(
                "CELLOS_FIRECRACKER_MANIFEST and CELLOS_FIRECRACKER_ALLOW_NO_MANIFEST are mutually exclusive",
            ),
            (Switch::On, Switch::Off, _) | (Switch::Off, Switch::On, _) => Some(
                "CELLOS_FIRECRACKER_ALLOW_NO_MANIFEST and CELLOS_FIRECRACKER_ALLOW_NO_MANIFEST_REALLY only count together",
            ),
            (Switch::Off, Switch::Off, None) => {
                Some("CELLOS_FIRECRACKER_MANIFEST is needed: nothing boots unverified")
            }
            _ => None,
        };
        self.errors.extend(wrong.map(SettingError::Contradiction));
        BootFiles::Published {
            kernel,
            rootfs,
            manifest,
        }
    }

    fn trust(&mut self, places: &Places, boot: &BootFiles) -> ManifestTrust {
        let unsigned = self.exactly_one("CELLOS_VM_ALLOW_UNSIGNED");
        let keys_named = self.value("CELLOS_VM_TRUST_KEYS").is_some();
        for (named, contradiction) in [
            (
                keys_named,
                "CELLOS_VM_TRUST_KEYS and CELLOS_VM_ALLOW_UNSIGNED are mutually exclusive",
            ),
            (
                places.revoked_keys.is_some(),
                "CELLOS_VM_REVOKED_KEYS and CELLOS_VM_ALLOW_UNSIGNED are mutually exclusive",
            ),
        ] {
            if unsigned == Switch::On && named {
                self.errors.push(SettingError::Contradiction(contradiction));
            }
        }
        let named = keys_named || places.revoked_keys.is_some();
        // Published manifests know no signature; where keys are named, one is demanded all the same.
        let needs_none =
            unsigned == Switch::On || (matches!(boot, BootFiles::Published { .. }) && !named);
        if needs_none {
            return ManifestTrust::Unsigned;
        }
        let path = &places.trusted_keys;
        match keyring::trusted(path) {
            Ok(keys) => ManifestTrust::Keys {
                keys,
                revoked: self.revoked(places),
            },
            Err(error) => {
                self.errors.push(SettingError::Keys {
                    path: path.clone(),
                    why: error.to_string(),
                });
                ManifestTrust::Unsigned
            }
        }
    }

    fn revoked(&mut self, places: &Places) -> RevokedKids {
        let Some(path) = &places.revoked_keys else {
            return RevokedKids::default();
        };
        keyring::revoked(path).unwrap_or_else(|error| {
            self.errors.push(SettingError::RevokedKeys {
                path: path.clone(),
                why: error.to_string(),
            });
            RevokedKids::default()
        })
    }
}

/// A setting that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Switch {
    On,
    Off,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings that these variables come to, beside a keyring without keys.
    fn read(values: &[(&str, &str)]) -> Result<MicrovmConfig, String> {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys.json");
        std::fs::write(&keys, "{}").unwrap();
        let lookup = |name: &str| {
            values
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| OsString::from(value))
        };
        let places = Places {
            bundle: "/bundle".into(),
            trusted_keys: keys,
            revoked_keys: lookup("CELLOS_VM_REVOKED_KEYS").map(PathBuf::from),
            signing_key: "/nowhere".into(),
            run: "/run/x".into(),
        };
        config(&lookup, &places, None, None).map_err(|errors| errors.to_string())
    }

    const FIRECRACKER: (&str, &str) = ("CELLOS_FIRECRACKER_BINARY", "/opt/firecracker");
    const JAILER: (&str, &str) = ("CELLOS_FIRECRACKER_JAILER_BINARY", "/opt/jailer");
    const KERNEL: (&str, &str) = ("CELLOS_FIRECRACKER_KERNEL_IMAGE", "/k");
    const ROOTFS: (&str, &str) = ("CELLOS_FIRECRACKER_ROOTFS_IMAGE", "/r");

    #[test]
    fn without_settings_qemu_boots_the_bundle_that_was_prepared() {
        let config = read(&[("CELLOS_QEMU_BINARY", "/opt/qemu")]).unwrap();
        assert!(matches!(&config.boot, BootFiles::Bundle(path) if path == Path::new("/bundle")));
        assert!(matches!(config.trust, ManifestTrust::Keys { .. }));
        let DriverChoice::Qemu(qemu) = config.driver else {
            panic!("not qemu");
        };
        assert_eq!(qemu.program, PathBuf::from("/opt/qemu"));
        assert_eq!(qemu.accelerators, Accelerators::Best);
        assert_eq!(config.pool_size, 0);
    }

    #[test]
    fn a_firecracker_binary_chooses_firecracker_in_a_jail() {
        let config = read(&[FIRECRACKER, JAILER]).unwrap();
        let DriverChoice::Firecracker(firecracker) = config.driver else {
            panic!("not firecracker");
        };
        assert!(matches!(firecracker.jail, Jail::Jailer { first_id, .. } if first_id != 0));
        let refused = read(&[FIRECRACKER]).unwrap_err();
        assert!(refused.contains("the jailer is required"), "{refused}");
        let without = read(&[FIRECRACKER, ("CELLOS_FIRECRACKER_ALLOW_NO_JAILER", "1")]).unwrap();
        let DriverChoice::Firecracker(firecracker) = without.driver else {
            panic!("not firecracker");
        };
        assert!(matches!(firecracker.jail, Jail::None));
    }

    #[test]
    fn published_files_need_a_manifest_or_two_words() {
        let base = [FIRECRACKER, JAILER, KERNEL, ROOTFS];
        let with = |more: &[(&'static str, &'static str)]| {
            read(&base.iter().chain(more).copied().collect::<Vec<_>>())
        };
        let one = ("CELLOS_FIRECRACKER_ALLOW_NO_MANIFEST", "1");
        let two = ("CELLOS_FIRECRACKER_ALLOW_NO_MANIFEST_REALLY", "1");
        let manifest = ("CELLOS_FIRECRACKER_MANIFEST", "/m");
        assert!(with(&[]).unwrap_err().starts_with("firecracker init"));
        assert!(with(&[one]).unwrap_err().contains("only count together"));
        assert!(
            with(&[one, two, manifest])
                .unwrap_err()
                .contains("mutually exclusive")
        );
        for (more, named) in [(vec![manifest], true), (vec![one, two], false)] {
            let config = with(&more).unwrap();
            let BootFiles::Published { manifest, .. } = config.boot else {
                panic!("a bundle");
            };
            assert_eq!(manifest.is_some(), named);
            assert!(matches!(config.trust, ManifestTrust::Unsigned));
        }
    }

    #[test]
    fn what_would_weaken_or_mislead_is_refused_by_name() {
        for (more, words) in [
            (
                ("CELLOS_FIRECRACKER_NO_SECCOMP", "1"),
                "CELLOS_FIRECRACKER_NO_SECCOMP is refused",
            ),
            (
                ("CELLOS_FIRECRACKER_JAILER_UID", "0"),
                "an id other than root's",
            ),
            (("CELLOS_FIRECRACKER_JAILER_UID", "ten"), "a whole number"),
            (("CELLOS_FIRECRACKER_CHROOT_BASE", "/"), "below the root"),
            (
                ("CELLOS_FIRECRACKER_CHROOT_BASE", "jails"),
                "not an absolute path",
            ),
            (("CELLOS_VM_POOL_SIZE", "many"), "a whole number"),
            (("CELLOS_VM_MONITOR", "xen"), "qemu or firecracker"),
            (("CELLOS_FIRECRACKER_REQUIRE_JAILER", "maybe"), "a switch"),
            (("CELLOS_VM_ALLOW_UNSIGNED", "yes"), "exactly 1"),
        ] {
            let refused = read(&[FIRECRACKER, JAILER, ("CELLOS_QEMU_BINARY", "/q"), more])
                .map(drop)
                .unwrap_err();
            assert!(refused.contains(words), "{more:?}: {refused}");
        }
    }

    #[test]
    fn revoked_keys_are_read_from_a_list_and_a_list_that_cannot_be_read_stops_everything() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked.json");
        let with = |more: &[(&'static str, &'static str)]| {
            let revoked = ("CELLOS_VM_REVOKED_KEYS", path.to_str().unwrap());
            let mut values = vec![("CELLOS_QEMU_BINARY", "/q"), revoked];
            values.extend(more);
            read(&values)
        };
        let refused = with(&[]).unwrap_err();
        assert!(refused.contains("CELLOS_VM_REVOKED_KEYS, "), "{refused}");
        std::fs::write(&path, "[]").unwrap();
        let refused = with(&[]).unwrap_err();
        assert!(
            refused.contains("revocation list is unreadable"),
            "{refused}"
        );
        let list = r#"{"schemaVersion":"1.0.0","revocationEpoch":3,"revocations":
            [{"kid":"old","revokedAt":"2026-01-01T00:00:00Z","reason":"lost"}]}"#;
        std::fs::write(&path, list).unwrap();
        let ManifestTrust::Keys { revoked, .. } = with(&[]).unwrap().trust else {
            panic!("unsigned");
        };
        assert!(revoked.contains("old") && !revoked.contains("new"));
        let refused = with(&[("CELLOS_VM_ALLOW_UNSIGNED", "1")]).unwrap_err();
        assert!(refused.contains("mutually exclusive"), "{refused}");
        // A published manifest has to be signed where somebody thinks of its signers.
        let published = with(&[
            FIRECRACKER,
            JAILER,
            KERNEL,
            ROOTFS,
            ("CELLOS_FIRECRACKER_MANIFEST", "/m"),
        ]);
        assert!(matches!(
            published.unwrap().trust,
            ManifestTrust::Keys { .. }
        ));
    }

    #[test]
    fn keys_that_cannot_be_read_say_how_to_make_some() {
        let lookup = |name: &str| (name == "CELLOS_QEMU_BINARY").then(|| OsString::from("/q"));
        let places = Places {
            bundle: "/bundle".into(),
            trusted_keys: "/nowhere/keys.json".into(),
            revoked_keys: None,
            signing_key: "/nowhere".into(),
            run: "/run/x".into(),
        };
        let refused = config(&lookup, &places, None, None)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("cellos vm prepare"), "{refused}");
    }
}
