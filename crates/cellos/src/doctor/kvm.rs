//! Virtual machines. A device that opens is no proof: `kvm_pvm` opens and emulates every guest
//! instruction of an ordinary kernel, which then dies before its init.

use std::fs::OpenOptions;

use super::{Area, Check, State};

const DEVICE: &str = "/dev/kvm";
const EMULATING_MODULE: &str = "/sys/module/kvm_pvm";

pub(super) fn checks() -> Vec<Check> {
    let check = |state, found: String, meaning| {
        Check::new(Area::Virtualization, DEVICE, state, found, meaning)
    };
    let not_needed = "the Linux backend does not need it";
    vec![
        match OpenOptions::new().read(true).write(true).open(DEVICE) {
            Ok(_) if std::path::Path::new(EMULATING_MODULE).exists() => check(
                State::Missing,
                "opens, but the module is kvm_pvm".into(),
                "it cannot run an ordinary guest kernel; the Linux backend does not need it",
            )
            .mend(
                "run on a host with hardware virtualization, or nested virtualization switched on",
            ),
            Ok(_) => check(
                State::Info,
                "opens; whether guests run was not tried".into(),
                not_needed,
            ),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                check(State::Info, "not there".into(), not_needed)
            }
            Err(error) => check(State::Info, error.to_string(), not_needed)
                .mend("add the user to the group of /dev/kvm"),
        },
    ]
}
