//! The driver against its stand-ins, as root in jails and without.

mod failures;
mod host;
mod machines;
mod snapshots;

/// Skips a test where the stand-ins, or root for their jails, are missing.
macro_rules! needs {
    (Jailed) => {
        cellos_testkit::require!("root");
        cellos_testkit::require!("fake-vmm", $crate::vmm::firecracker::tests::host::fakes());
    };
    (Unjailed) => {
        if !rustix::process::geteuid().is_root() {
            cellos_testkit::require!("userns");
        }
        cellos_testkit::require!("fake-vmm", $crate::vmm::firecracker::tests::host::fakes());
    };
}
use needs;
