//! `cellos vm prepare` and `cellos vm build`.

use std::path::{Path, PathBuf};

use cellos_vm_image::{
    BaseSource, BundleReport, BundleSpec, Existing, KernelSource, OciImage, PinnedProgram,
    Progress, build_bundle,
};

use super::keys;
use crate::{
    exit::Exit,
    failure::Failure,
    machines::{Places, monitors},
    say,
};

/// Name of the guest's program, which is installed beside this one.
const GUEST: &str = "cellos-guest";

/// Makes everything the microVM backend needs, with a small root of busybox.
///
/// Kernel and busybox come from Debian's packages, which are fetched and unpacked but not
/// installed. What is made is signed with a key of this host, which is made as well.
#[derive(Debug, clap::Args)]
pub(crate) struct PrepareArgs {
    #[command(flatten)]
    common: CommonArgs,
}

/// Makes it with another root: from a folder, or from an OCI image layout.
///
/// The same inputs give the same bytes.
#[derive(Debug, clap::Args)]
pub(crate) struct BuildArgs {
    /// Take the root from this folder
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "oci",
        conflicts_with = "oci"
    )]
    root: Option<PathBuf>,
    /// Take the root from this OCI image layout
    #[arg(long, value_name = "DIR")]
    oci: Option<PathBuf>,
    /// The image in the layout, by its reference name, where there are several
    #[arg(long, value_name = "NAME", requires = "oci")]
    reference: Option<String>,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, clap::Args)]
struct CommonArgs {
    /// Where to make it [default: vm in the state folder, or CELLOS_VM_DIR]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A kernel of your own: a bzImage or an uncompressed ELF file
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The folder of that kernel's modules, as /lib/modules/VERSION
    #[arg(long, value_name = "DIR", requires = "kernel")]
    modules: Option<PathBuf>,
    /// The guest's PID 1 [default: cellos-guest beside this program]
    #[arg(long, value_name = "FILE")]
    guest: Option<PathBuf>,
    /// Sign with this key: an Ed25519 seed in base64url, mode 0600
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
    /// Replace what is there
    #[arg(long)]
    replace: bool,
    /// Do not name the digests of this host's monitors, for a bundle that is made elsewhere; with
    /// them no machine boots after an update of a monitor until the bundle is made again
    #[arg(long)]
    leave_monitor_unpinned: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("there is no {} beside this program", GUEST)]
struct NoGuest;

pub(super) fn prepare(args: &PrepareArgs) -> Result<Exit, Failure> {
    make(&args.common, &BaseSource::Busybox)
}

pub(super) fn build(args: &BuildArgs) -> Result<Exit, Failure> {
    let base = match (&args.root, &args.oci) {
        (Some(root), _) => BaseSource::Directory(root.clone()),
        (None, Some(layout)) => BaseSource::Oci(OciImage {
            layout: layout.clone(),
            reference: args.reference.clone(),
        }),
        (None, None) => BaseSource::Busybox,
    };
    make(&args.common, &base)
}

fn make(args: &CommonArgs, base: &BaseSource) -> Result<Exit, Failure> {
    let places = Places::of_this_process().map_err(Failure::call)?;
    let kernel = match &args.kernel {
        Some(kernel) => KernelSource::Files {
            kernel: kernel.clone(),
            modules: args.modules.clone(),
        },
        None => KernelSource::Debian,
    };
    let guest = match &args.guest {
        Some(guest) => guest.clone(),
        None => guest_beside_us()?,
    };
    let signer = keys::signer(&places, args.signing_key.as_deref()).map_err(Failure::call)?;
    let target = args.dir.as_deref().unwrap_or(&places.bundle);
    make_parent(target)?;
    let programs = if args.leave_monitor_unpinned {
        Vec::new()
    } else {
        monitors(&|name| std::env::var_os(name))
            .into_iter()
            .map(|(role, path)| PinnedProgram { role, path })
            .collect()
    };
    let spec = BundleSpec {
        kernel: &kernel,
        base,
        guest_binary: &guest,
        programs: &programs,
        signer: Some(&signer),
        existing: if args.replace {
            Existing::Replace
        } else {
            Existing::Keep
        },
    };
    let report = build_bundle(&spec, target, &mut |progress| tell(&progress))
        .map_err(|error| Failure::call(error).hint("--replace exchanges what is there"))?;
    summary(&report);
    Ok(Exit::Success)
}

fn guest_beside_us() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.join(GUEST)))
        .filter(|guest| guest.is_file())
        .ok_or_else(|| {
            Failure::call(NoGuest)
                .hint("cargo build --release builds both; or name the guest's program with --guest")
        })
}

fn make_parent(target: &Path) -> Result<(), Failure> {
    match target.parent() {
        Some(parent) => std::fs::create_dir_all(parent).map_err(Failure::call),
        None => Ok(()),
    }
}

fn tell(progress: &Progress<'_>) {
    let text = match progress {
        Progress::UpdatingPackageLists => "fetching the lists of Debian's packages".to_owned(),
        Progress::Downloading { package } => format!("fetching {package}"),
        Progress::Unpacking { package } => format!("unpacking {package}"),
        Progress::ExtractingKernel { file } => {
            format!("taking the kernel out of {}", file.display())
        }
        Progress::WritingInitrd => "writing the initial RAM disk".to_owned(),
        Progress::ReadingBase => "reading the root".to_owned(),
        Progress::UnpackingLayer { number, of } => format!("unpacking layer {number} of {of}"),
        Progress::WritingBase => "writing the root's image".to_owned(),
        Progress::WritingManifest => "writing and signing the manifest".to_owned(),
    };
    say::note(&text);
}

fn summary(report: &BundleReport) {
    for file in &report.files {
        say::note(&format!(
            "{:8} {} ({} KiB)",
            file.role.to_string(),
            file.digest,
            file.bytes.div_ceil(1024)
        ));
    }
    say::note(&format!(
        "machines boot Linux {} from {}",
        report.kernel_release,
        report.folder.display()
    ));
}
