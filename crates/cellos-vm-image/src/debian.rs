//! Getting packages of the Debian system this runs on, without installing them.
//!
//! `apt-get` checks what it fetches against the signed package lists; `dpkg-deb` unpacks it into a
//! private folder. Neither needs root.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use cellos_core::vm_manifest::Sha256Digest;

use crate::{ImageError, Progress, file};

/// Longest excerpt of what a program printed in a message, in bytes.
const EXCERPT_BYTES: usize = 1024;

/// A package that was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebianPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The digest of its file.
    pub digest: Sha256Digest,
}

/// Why a package cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// A program is missing.
    #[error("{program} is missing: it is needed to get {package} (Debian packages apt and dpkg)")]
    NoProgram {
        /// The program.
        program: &'static str,
        /// The package.
        package: String,
    },
    /// A program could not be started.
    #[error("{program} cannot be started: {source}")]
    Start {
        /// The program.
        program: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} failed for {package} ({status}): {message}")]
    Failed {
        /// The program.
        program: &'static str,
        /// The package.
        package: String,
        /// How it ended.
        status: String,
        /// The end of what it printed.
        message: String,
    },
    /// No package list knows the package.
    #[error("no package {package} in the host's package sources")]
    Unknown {
        /// The package.
        package: String,
    },
    /// The package for the present kernel names none.
    #[error("package {package} depends on no kernel")]
    NoKernel {
        /// The package.
        package: String,
    },
    /// A package name is none.
    #[error("{name:?} is no name of a package")]
    Name {
        /// What stands for a name.
        name: String,
    },
    /// The download left something else than one package file.
    #[error("{package} was downloaded, but there is not exactly one package file")]
    NoFile {
        /// The package.
        package: String,
    },
}

/// The package sources of the host.
pub(crate) struct Packages {
    folder: PathBuf,
    /// Set where the host's own lists know no packages.
    private_lists: Option<PathBuf>,
}

/// A package, unpacked.
pub(crate) struct Unpacked {
    pub(crate) package: DebianPackage,
    pub(crate) folder: PathBuf,
}

impl Packages {
    /// Prepares to fetch a package into a folder, which is made.
    pub(crate) fn new(
        folder: &Path,
        package: &str,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, ImageError> {
        fs::create_dir_all(folder).map_err(ImageError::io("create", folder))?;
        let mut packages = Self {
            folder: folder.to_path_buf(),
            private_lists: None,
        };
        // A fresh container has no lists, and an installed package is known without any.
        let arguments = ["--quiet=2", "--print-uris", "download", package];
        let known = packages.output("apt-get", package, &arguments, None)?;
        if !known.status.success() {
            progress(Progress::UpdatingPackageLists);
            let lists = packages.folder.join("lists");
            let partial = lists.join("partial");
            fs::create_dir_all(&partial).map_err(ImageError::io("create", &partial))?;
            packages.private_lists = Some(lists);
            packages.run("apt-get", package, &["--quiet=2", "update"], None)?;
        }
        Ok(packages)
    }

    /// The kernel package that a package for the present kernel depends on.
    pub(crate) fn kernel_of(&self, package: &str) -> Result<String, ImageError> {
        let stanza = self.stanza(package)?.ok_or_else(|| DebianError::Unknown {
            package: package.to_owned(),
        })?;
        let name = first_kernel(&stanza).ok_or_else(|| DebianError::NoKernel {
            package: package.to_owned(),
        })?;
        check_name(name)?;
        Ok(name.to_owned())
    }

    /// Downloads and unpacks a package.
    pub(crate) fn unpack(
        &self,
        name: &str,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Unpacked, ImageError> {
        check_name(name)?;
        progress(Progress::Downloading { package: name });
        let download = self.folder.join(format!("{name}.download"));
        fs::create_dir(&download).map_err(ImageError::io("create", &download))?;
        self.run(
            "apt-get",
            name,
            &["--quiet=2", "download", name],
            Some(&download),
        )?;
        let deb = only_package_file(&download, name)?;
        let (digest, _) = file::digest(file::open(&deb)?).map_err(ImageError::io("read", &deb))?;

        progress(Progress::Unpacking { package: name });
        let folder = self.folder.join(format!("{name}.unpacked"));
        let version = self.run_on(
            name,
            ["--field".into(), deb.clone().into(), "Version".into()],
        )?;
        self.run_on(
            name,
            ["--extract".into(), deb.into(), folder.clone().into()],
        )?;
        Ok(Unpacked {
            package: DebianPackage {
                name: name.to_owned(),
                version: String::from_utf8_lossy(&version.stdout).trim().to_owned(),
                digest,
            },
            folder,
        })
    }

    /// What the lists say about a package; `None` when they do not know it.
    fn stanza(&self, package: &str) -> Result<Option<String>, ImageError> {
        let output = self.output(
            "apt-cache",
            package,
            &["--no-all-versions", "show", package],
            None,
        )?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok((output.status.success() && !text.trim().is_empty()).then_some(text))
    }

    fn run(
        &self,
        program: &'static str,
        package: &str,
        arguments: &[&str],
        folder: Option<&Path>,
    ) -> Result<Output, ImageError> {
        succeeded(
            program,
            package,
            self.output(program, package, arguments, folder)?,
        )
    }

    fn output(
        &self,
        program: &'static str,
        package: &str,
        arguments: &[&str],
        folder: Option<&Path>,
    ) -> Result<Output, ImageError> {
        let mut command = Command::new(program);
        if let Some(lists) = &self.private_lists {
            let mut option = OsString::from("Dir::State::Lists=");
            option.push(lists);
            command.arg("--option").arg(option);
            let mut option = OsString::from("Dir::Cache=");
            option.push(&self.folder);
            command.arg("--option").arg(option);
        }
        command
            .args(arguments)
            .current_dir(folder.unwrap_or(&self.folder));
        output(program, package, command)
    }

    fn run_on<const N: usize>(
        &self,
        package: &str,
        arguments: [OsString; N],
    ) -> Result<Output, ImageError> {
        let program = "dpkg-deb";
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.folder);
        succeeded(program, package, output(program, package, command)?)
    }
}

fn output(
    program: &'static str,
    package: &str,
    mut command: Command,
) -> Result<Output, ImageError> {
    command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| {
            match source.kind() {
                io::ErrorKind::NotFound => DebianError::NoProgram {
                    program,
                    package: package.to_owned(),
                },
                _ => DebianError::Start { program, source },
            }
            .into()
        })
}

fn succeeded(program: &'static str, package: &str, output: Output) -> Result<Output, ImageError> {
    if output.status.success() {
        return Ok(output);
    }
    let text = &output.stderr;
    let end = text
        .get(text.len().saturating_sub(EXCERPT_BYTES)..)
        .unwrap_or_default();
    Err(DebianError::Failed {
        program,
        package: package.to_owned(),
        status: output.status.to_string(),
        message: String::from_utf8_lossy(end).trim().to_owned(),
    }
    .into())
}

/// The first kernel in the `Depends` of a package (Debian Policy, 7.1).
fn first_kernel(stanza: &str) -> Option<&str> {
    let depends = stanza
        .lines()
        .find_map(|line| line.strip_prefix("Depends:"))?;
    depends
        .split([',', '|'])
        .filter_map(|relation| {
            relation
                .split([' ', '(', ':'])
                .find(|word| !word.is_empty())
        })
        .find(|name| name.starts_with("linux-image-"))
}

/// A name as the Debian Policy has it (5.6.7), so that it can stand in a path and is no option.
fn check_name(name: &str) -> Result<(), DebianError> {
    let first =
        name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit());
    let rest = name
        .bytes()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.'));
    if first && rest {
        Ok(())
    } else {
        Err(DebianError::Name {
            name: name.to_owned(),
        })
    }
}

fn only_package_file(folder: &Path, package: &str) -> Result<PathBuf, ImageError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(ImageError::io("list", folder))? {
        let path = entry.map_err(ImageError::io("list", folder))?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            files.push(path);
        }
    }
    match (files.pop(), files.is_empty()) {
        (Some(file), true) => Ok(file),
        _ => Err(DebianError::NoFile {
            package: package.to_owned(),
        }
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_the_one_that_is_depended_on() {
        let stanza = "Package: linux-image-cloud-amd64\nDepends: foo (>= 1), \
                      linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\nSuggests: linux-image-x\n";
        assert_eq!(
            first_kernel(stanza),
            Some("linux-image-6.1.0-56-cloud-amd64")
        );
        assert_eq!(first_kernel("Depends: foo\n"), None);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in ["", "-o", "../x", "a/b", "Upper", "a b"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        check_name("linux-image-6.1.0-56-cloud-amd64").unwrap();
    }
}
