//! Putting a finished bundle into its place, whole.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use tempfile::TempDir;

use crate::{ImageError, build::MANIFEST_FILE};

/// Mode of a bundle's folder: there is nothing secret in it.
const FOLDER_MODE: u32 = 0o755;

/// What becomes of a bundle that stands in the place already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// It is kept, and the build fails.
    #[default]
    Keep,
    /// It is exchanged for the new one and removed. Something that is no bundle is kept.
    Replace,
}

/// A folder beside the bundle's place, removed when dropped.
pub(crate) struct Staging {
    folder: TempDir,
    parent: PathBuf,
    target: PathBuf,
    existing: Existing,
}

impl Staging {
    /// Makes the folder, after checking that the bundle may come into its place.
    pub(crate) fn new(target: &Path, existing: Existing) -> Result<Self, ImageError> {
        if target.file_name().is_none() {
            return Err(ImageError::NoName {
                path: target.to_path_buf(),
            });
        }
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        check_existing(target, existing)?;
        let folder = tempfile::Builder::new()
            .prefix(".cellos-bundle-")
            .tempdir_in(parent)
            .map_err(ImageError::io("create a folder in", parent))?;
        let staging = Self {
            folder,
            parent: parent.to_path_buf(),
            target: target.to_path_buf(),
            existing,
        };
        for part in [staging.bundle(), staging.scratch()] {
            fs::create_dir(&part).map_err(ImageError::io("create", &part))?;
        }
        let bundle = staging.bundle();
        fs::set_permissions(&bundle, Permissions::from_mode(FOLDER_MODE))
            .map_err(ImageError::io("set the mode of", &bundle))?;
        Ok(staging)
    }

    /// Where the bundle is put together.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.folder.path().join("bundle")
    }

    /// Where what is needed on the way is kept.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.folder.path().join("scratch")
    }

    /// Moves the bundle into its place; it is on disk before it is there.
    pub(crate) fn publish(self) -> Result<(), ImageError> {
        let bundle = self.bundle();
        sync(&bundle)?;
        let rename = |flags| renameat_with(CWD, &bundle, CWD, &self.target, flags);
        let renamed = match rename(RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {
                check_existing(&self.target, self.existing)?;
                rename(RenameFlags::EXCHANGE)
            }
            other => other,
        };
        renamed.map_err(|errno| ImageError::io("rename to", &self.target)(errno.into()))?;
        sync(&self.parent)
    }
}

/// Fails when something stands in the place that is not to be replaced.
fn check_existing(target: &Path, existing: Existing) -> Result<(), ImageError> {
    let Ok(metadata) = fs::symlink_metadata(target) else {
        // The rename will say what is wrong, if anything is.
        return Ok(());
    };
    match existing {
        Existing::Keep => Err(ImageError::TargetExists {
            path: target.to_path_buf(),
        }),
        Existing::Replace
            if metadata.is_dir()
                && fs::symlink_metadata(target.join(MANIFEST_FILE))
                    .is_ok_and(|manifest| manifest.is_file()) =>
        {
            Ok(())
        }
        Existing::Replace => Err(ImageError::NotABundle {
            path: target.to_path_buf(),
        }),
    }
}

fn sync(folder: &Path) -> Result<(), ImageError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(ImageError::io("write to disk", folder))
}
