//! What a machine boots from: opened, measured and compared with the manifest before anything
//! starts.

mod digests;

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use cellos_core::{
    ports::workload::Notice,
    signing::{RevokedKids, TrustVerifyKeys},
    vm_manifest::{
        self, MAX_MANIFEST_BYTES, MAX_SIGNATURE_BYTES, Manifest, Role, SignatureError, Unsigned,
    },
};

pub(crate) use self::digests::Digests;
use crate::config::{BootFiles, DriverChoice, Jail, ManifestTrust, MicrovmConfig};

/// The manifest's name in its bundle.
const MANIFEST_FILE: &str = "manifest";

/// What the name of the manifest's signature has more than the manifest's.
const SIGNATURE_SUFFIX: &str = ".sig";

/// One file, open, and its digest.
#[derive(Debug, Clone)]
pub(crate) struct Artifact {
    /// Where it was opened; for messages and for staging, never to be opened by name again.
    pub(crate) path: PathBuf,
    /// The very file that was measured.
    pub(crate) file: Arc<File>,
    /// SHA-256, 64 lower-case hexadecimal digits.
    pub(crate) sha256: String,
}

/// Everything that one machine boots from.
#[derive(Debug, Clone)]
pub(crate) struct Artifacts {
    pub(crate) kernel: Artifact,
    /// Holds PID 1 and the kernel modules it loads; a published guest has none.
    pub(crate) initrd: Option<Artifact>,
    /// The read-only file system that the cell sees, shared by all machines.
    pub(crate) base: Artifact,
    /// The monitor's program, which is executed by this descriptor or a copy of it.
    pub(crate) monitor: Artifact,
    pub(crate) jailer: Option<Artifact>,
}

impl Artifacts {
    /// The digests of all of them, which tell whether two machines booted from the same.
    pub(crate) fn digests(&self) -> Vec<String> {
        [
            Some(&self.kernel),
            self.initrd.as_ref(),
            Some(&self.base),
            Some(&self.monitor),
            self.jailer.as_ref(),
        ]
        .into_iter()
        .flatten()
        .map(|artifact| artifact.sha256.clone())
        .collect()
    }
}

/// Why nothing can be booted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArtifactError {
    /// A file cannot be opened or read.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What it is for.
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// It is something else than a regular file.
    #[error("{what} {}: not a regular file", path.display())]
    NotAFile { what: &'static str, path: PathBuf },
    /// There is no bundle.
    #[error("there is nothing to boot in {}; `cellos vm prepare` makes it", folder.display())]
    NoBundle { folder: PathBuf },
    /// The manifest is not believed.
    #[error("{}: {source}; make the bundle with `cellos vm prepare`, or name the key that signed it", path.display())]
    Manifest {
        path: PathBuf,
        source: SignatureError,
    },
    /// The manifest lacks something that every machine needs.
    #[error("{}: no line for {role}, which every machine boots from", path.display())]
    MissingRole { path: PathBuf, role: Role },
    /// A file is not what the manifest says.
    #[error(
        "digest mismatch: {role} {} has SHA-256 {actual}, the manifest {} says {expected}; nothing \
         was booted. If that is an update of yours, make the bundle again", path.display(),
        manifest.display()
    )]
    Mismatch {
        role: Role,
        path: PathBuf,
        expected: String,
        actual: String,
        manifest: PathBuf,
    },
}

impl ArtifactError {
    /// What has to go on record about it.
    pub(crate) fn notice(&self) -> Option<Notice> {
        match self {
            Self::Mismatch {
                role,
                expected,
                actual,
                manifest,
                ..
            } => Some(Notice::ManifestFailed {
                role: role.to_string(),
                expected_sha256: expected.clone(),
                actual_sha256: actual.clone(),
                manifest_path: manifest.display().to_string(),
            }),
            _ => None,
        }
    }
}

/// Opens, measures and compares everything. Reads whole files the first time: not for a thread
/// that others wait for.
///
/// # Errors
/// [`ArtifactError`]; nothing may be booted then.
pub(crate) fn open(config: &MicrovmConfig, digests: &Digests) -> Result<Artifacts, ArtifactError> {
    let listed = Listed::read(config)?;
    let open = |role: Role, path: PathBuf| listed.open(role, path, digests);
    let (monitor, jailer) = match &config.driver {
        DriverChoice::Qemu(qemu) => (open(Role::Qemu, qemu.program.clone())?, None),
        DriverChoice::Firecracker(firecracker) => (
            open(Role::Firecracker, firecracker.program.clone())?,
            match &firecracker.jail {
                Jail::Jailer { program, .. } => Some(open(Role::Jailer, program.clone())?),
                Jail::None => None,
            },
        ),
    };
    let (kernel, initrd, base) = match &config.boot {
        BootFiles::Bundle(folder) => (
            listed.path(Role::Kernel, folder)?,
            Some(listed.path(Role::Initrd, folder)?),
            listed.path(Role::Rootfs, folder)?,
        ),
        BootFiles::Published { kernel, rootfs, .. } => (kernel.clone(), None, rootfs.clone()),
    };
    Ok(Artifacts {
        kernel: open(Role::Kernel, kernel)?,
        initrd: initrd.map(|path| open(Role::Initrd, path)).transpose()?,
        base: open(Role::Rootfs, base)?,
        monitor,
        jailer,
    })
}

/// What the manifest says, where there is one.
struct Listed {
    manifest: Option<Manifest>,
    path: PathBuf,
}

impl Listed {
    fn read(config: &MicrovmConfig) -> Result<Self, ArtifactError> {
        let path = match &config.boot {
            BootFiles::Bundle(folder) => folder.join(MANIFEST_FILE),
            BootFiles::Published {
                manifest: Some(path),
                ..
            } => path.clone(),
            BootFiles::Published { manifest: None, .. } => {
                return Ok(Self {
                    manifest: None,
                    path: PathBuf::new(),
                });
            }
        };
        let (no_keys, none_revoked) = (TrustVerifyKeys::default(), RevokedKids::default());
        let trust = match &config.trust {
            ManifestTrust::Keys { keys, revoked } => vm_manifest::ManifestTrust {
                keys,
                revoked,
                unsigned: Unsigned::Refuse,
            },
            ManifestTrust::Unsigned => vm_manifest::ManifestTrust {
                keys: &no_keys,
                revoked: &none_revoked,
                unsigned: Unsigned::Allow,
            },
        };
        let file = |what, path: &Path, source| ArtifactError::File {
            what,
            path: path.to_owned(),
            source,
        };
        let text = match (bounded(&path, MAX_MANIFEST_BYTES), &config.boot) {
            (Ok(text), _) => text,
            (Err(error), BootFiles::Bundle(folder)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ArtifactError::NoBundle {
                    folder: folder.clone(),
                });
            }
            (Err(source), _) => return Err(file("manifest", &path, source)),
        };
        let mut signature_path = path.clone().into_os_string();
        signature_path.push(SIGNATURE_SUFFIX);
        let signature_path = PathBuf::from(signature_path);
        let signature = match bounded(&signature_path, MAX_SIGNATURE_BYTES) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(file("manifest signature", &signature_path, source)),
        };
        match vm_manifest::verify(&text, signature.as_deref(), &trust) {
            Ok(verified) => Ok(Self {
                manifest: Some(verified.manifest),
                path,
            }),
            Err(source) => Err(ArtifactError::Manifest { path, source }),
        }
    }

    /// Where the file of a role is, in the folder of the manifest.
    fn path(&self, role: Role, folder: &Path) -> Result<PathBuf, ArtifactError> {
        self.manifest
            .as_ref()
            .and_then(|manifest| manifest.get(role))
            .map(|entry| folder.join(&entry.path))
            .ok_or_else(|| ArtifactError::MissingRole {
                path: self.path.clone(),
                role,
            })
    }

    /// Opens the file once, measures what was opened, and compares it where the manifest lists it.
    fn open(
        &self,
        role: Role,
        path: PathBuf,
        digests: &Digests,
    ) -> Result<Artifact, ArtifactError> {
        let what = role.as_str();
        let failed = |source| ArtifactError::File {
            what,
            path: path.clone(),
            source,
        };
        // NONBLOCK: opening a FIFO must not wait for a writer.
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default())
            .open(&path)
            .map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(ArtifactError::NotAFile { what, path });
        }
        let sha256 = digests.of(&file).map_err(failed)?;
        if let Some(entry) = self
            .manifest
            .as_ref()
            .and_then(|manifest| manifest.get(role))
            && entry.digest.to_hex() != sha256
        {
            return Err(ArtifactError::Mismatch {
                role,
                path,
                expected: entry.digest.to_hex(),
                actual: sha256,
                manifest: self.path.clone(),
            });
        }
        Ok(Artifact {
            path,
            file: Arc::new(file),
            sha256,
        })
    }
}

/// Reads a small file; one byte more than allowed shows that it is too large.
fn bounded(path: &Path, max: usize) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(limit).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use cellos_core::signing::{RevocationListV1, Signer, SoftwareSigner};
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::config::{Accelerators, QemuConfig, RateLimits};

    /// A bundle of small files, unsigned, and a configuration for it.
    pub(crate) fn bundle(folder: &Path) -> MicrovmConfig {
        let mut manifest = String::new();
        for (role, name) in [
            ("kernel", "vmlinux"),
            ("rootfs", "base"),
            ("initrd", "initrd"),
            ("qemu", "qemu"),
        ] {
            fs::write(folder.join(name), name).unwrap();
            let digest = Sha256::digest(name);
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            manifest.push_str(&format!("sha256:{digest} {role} {name}\n"));
        }
        fs::write(folder.join(MANIFEST_FILE), manifest).unwrap();
        MicrovmConfig {
            boot: BootFiles::Bundle(folder.to_owned()),
            trust: ManifestTrust::Unsigned,
            driver: DriverChoice::Qemu(QemuConfig {
                program: folder.join("qemu"),
                accelerators: Accelerators::Best,
            }),
            run_folder: folder.join("run"),
            cgroup_parent: None,
            rates: RateLimits::default(),
            pool_size: 0,
        }
    }

    fn fresh() -> Digests {
        Digests::default()
    }

    #[test]
    fn a_bundle_that_is_what_its_manifest_says_opens() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = open(&bundle(folder.path()), &fresh()).unwrap();
        assert_eq!(artifacts.digests().len(), 4);
        assert!(artifacts.base.path.ends_with("base"));
    }

    #[test]
    fn every_changed_file_is_refused_by_role_and_both_digests() {
        for (role, name) in [
            ("kernel", "vmlinux"),
            ("rootfs", "base"),
            ("initrd", "initrd"),
            ("qemu", "qemu"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let config = bundle(folder.path());
            fs::write(folder.path().join(name), "changed").unwrap();
            let refused = open(&config, &fresh()).unwrap_err();
            let text = refused.to_string();
            assert!(
                text.starts_with(&format!("digest mismatch: {role} ")),
                "{text}"
            );
            let Some(Notice::ManifestFailed {
                role: noticed,
                expected_sha256,
                actual_sha256,
                ..
            }) = refused.notice()
            else {
                panic!("no notice");
            };
            assert_eq!(noticed, role);
            assert!(text.contains(&expected_sha256) && text.contains(&actual_sha256));
        }
    }

    #[test]
    fn a_signature_is_asked_for_where_keys_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = bundle(folder.path());
        let signer = SoftwareSigner::from_seed("builder", [7; 32]);
        let trust = |revoked| ManifestTrust::Keys {
            keys: [("builder".to_owned(), signer.verifying_key())]
                .into_iter()
                .collect(),
            revoked,
        };
        config.trust = trust(RevokedKids::default());
        assert!(matches!(
            open(&config, &fresh()),
            Err(ArtifactError::Manifest {
                source: SignatureError::Unsigned,
                ..
            })
        ));
        let manifest = fs::read(folder.path().join(MANIFEST_FILE)).unwrap();
        let signature = vm_manifest::sign(&manifest, &signer).unwrap();
        fs::write(folder.path().join("manifest.sig"), signature).unwrap();
        open(&config, &fresh()).unwrap();

        let list = r#"{"schemaVersion":"1.0.0","revocationEpoch":1,"revocations":
            [{"kid":"builder","revokedAt":"2026-01-01T00:00:00Z","reason":"lost"}]}"#;
        config.trust = trust(RevocationListV1::parse(list.as_bytes()).unwrap().kids());
        let refused = open(&config, &fresh()).unwrap_err().to_string();
        assert!(
            refused.contains("\"builder\", which is revoked"),
            "{refused}"
        );
    }

    #[test]
    fn published_files_are_compared_where_there_is_a_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = bundle(folder.path());
        let published = |manifest| BootFiles::Published {
            kernel: folder.path().join("vmlinux"),
            rootfs: folder.path().join("base"),
            manifest,
        };
        config.boot = published(Some(folder.path().join(MANIFEST_FILE)));
        assert!(open(&config, &fresh()).unwrap().initrd.is_none());
        fs::write(folder.path().join("base"), "changed").unwrap();
        assert!(matches!(
            open(&config, &fresh()),
            Err(ArtifactError::Mismatch { .. })
        ));
        config.boot = published(None);
        assert_eq!(open(&config, &fresh()).unwrap().digests().len(), 3);
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let config = bundle(folder.path());
        let fifo = folder.path().join("vmlinux");
        fs::remove_file(&fifo).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(matches!(
            open(&config, &fresh()),
            Err(ArtifactError::NotAFile { what: "kernel", .. })
        ));
    }

    #[test]
    fn in_a_run_folder_that_others_can_write_no_cache_is_kept_and_no_link_followed() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        fs::create_dir(&run).unwrap();
        fs::set_permissions(&run, fs::Permissions::from_mode(0o777)).unwrap();
        let victim = folder.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let next = format!("digests.{}.new", std::process::id());
        std::os::unix::fs::symlink(&victim, run.join(next)).unwrap();
        let config = bundle(folder.path());
        open(&config, &Digests::kept_in(&run).settled()).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(!run.join(digests::CACHE_FILE).exists());
    }

    #[test]
    fn a_file_that_others_can_write_is_measured_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        fs::create_dir(&run).unwrap();
        fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).unwrap();
        let config = bundle(folder.path());
        let shared = folder.path().join("vmlinux");
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o666)).unwrap();
        open(&config, &Digests::kept_in(&run).settled()).unwrap();
        let cache = fs::read_to_string(run.join(digests::CACHE_FILE)).unwrap();
        let kept = |name: &str| {
            let digest = Sha256::digest(name);
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            cache.contains(&digest)
        };
        assert!(kept("base") && !kept("vmlinux"), "{cache}");
    }

    #[test]
    fn a_cache_file_that_others_can_write_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        fs::create_dir(&run).unwrap();
        let config = bundle(folder.path());
        open(&config, &Digests::kept_in(&run).settled()).unwrap();
        let cache = run.join(digests::CACHE_FILE);
        let lied = fs::read_to_string(&cache).unwrap();
        let kernel = Sha256::digest("vmlinux");
        let kernel: String = kernel.iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(&cache, lied.replace(&kernel, &"0".repeat(64))).unwrap();
        let trusted = open(&config, &Digests::kept_in(&run)).unwrap_err();
        assert!(
            matches!(trusted, ArtifactError::Mismatch { .. }),
            "the cache is not used at all: {trusted}"
        );
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o620)).unwrap();
        open(&config, &Digests::kept_in(&run)).unwrap();
    }
}
