//! In QEMU's `microvm` machine, whose vsock device is a process of its own.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use cellos_testkit::require;

use super::{
    Entry, FRAME, Guarded, Place, WORDS, accept, answers, can_build, read_frame, takes_the_frame,
    wait_for,
};

const PROGRAM: &str = "qemu-system-x86_64";
const SWITCH: &str = "vhost-device-vsock";

/// Who executes the guest's instructions.
#[derive(Debug, Clone, Copy)]
enum Accelerator {
    Emulation,
    Kvm,
}

/// Whether the machine has a vsock device.
#[derive(Debug, Clone, Copy)]
enum Vsock {
    Switched,
    None,
}

fn qemu() -> Result<(), String> {
    answers(Command::new(PROGRAM).arg("--version"))
}

fn switch() -> Result<(), String> {
    answers(Command::new(switch_program()).arg("--version"))
}

/// On the search path, or where cargo installs it.
fn switch_program() -> PathBuf {
    let cargo = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    cargo
        .map(|home| home.join("bin").join(SWITCH))
        .filter(|program| program.is_file())
        .unwrap_or_else(|| PathBuf::from(SWITCH))
}

/// The device's process, ready for QEMU to connect.
fn start_switch(place: &Place) -> Guarded {
    let socket = place.path("vhost");
    let mut command = Command::new(switch_program());
    command
        .arg("--guest-cid=3")
        .arg(format!("--socket={}", socket.display()))
        .arg(format!("--uds-path={}", place.path("v").display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut process = Guarded::start(&mut command);
    wait_for("the device's socket", || {
        assert_eq!(process.ended(), None, "{SWITCH} does not run");
        socket.exists().then_some(())
    });
    process
}

fn start(place: &Place, words: &str, accelerator: Accelerator, vsock: Vsock) -> Guarded {
    let mut command = Command::new(PROGRAM);
    command
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-m", "64M"])
        // Without ACPI, since only then QEMU appends its devices to the command line.
        .args([
            "-machine",
            "microvm,acpi=off,auto-kernel-cmdline=on,memory-backend=mem",
        ])
        .args(["-object", "memory-backend-memfd,id=mem,size=64M,share=on"])
        .args(["-global", "virtio-mmio.force-legacy=false"])
        .arg("-serial")
        .arg(format!("file:{}", place.path("serial").display()))
        .arg("-kernel")
        .arg(place.guest())
        .args(["-append", words]);
    match accelerator {
        Accelerator::Emulation => command.args(["-accel", "tcg", "-cpu", "max"]),
        // kvm-pvm offers a capability that QEMU then cannot set.
        Accelerator::Kvm => command.args(["-accel", "kvm", "-cpu", "host,arch-capabilities=off"]),
    };
    if matches!(vsock, Vsock::Switched) {
        command
            .arg("-chardev")
            .arg(format!(
                "socket,id=vsock,path={}",
                place.path("vhost").display()
            ))
            .args(["-device", "vhost-user-vsock-device,chardev=vsock"]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Guarded::start(&mut command)
}

/// One machine from its start to its end after the acknowledgement.
fn runs(entry: Entry, accelerator: Accelerator) {
    let place = Place::new(entry);
    let listener = place.listen();
    let _switch = start_switch(&place);
    let mut machine = start(&place, WORDS, accelerator, Vsock::Switched);
    let status = takes_the_frame(&place, &listener, &mut machine);
    assert!(status.success(), "{status}");
    assert_eq!(place.serial(), "");
}

#[test]
fn an_emulated_machine_reports_its_exit_and_waits_for_the_acknowledgement() {
    require!("rustc", can_build());
    require!("qemu", qemu());
    require!("vhost-device-vsock", switch());
    runs(Entry::AsOffered, Accelerator::Emulation);
}

#[test]
fn the_entry_of_linux_s_protocol_leads_to_the_same() {
    require!("rustc", can_build());
    require!("qemu", qemu());
    require!("vhost-device-vsock", switch());
    runs(Entry::Relayed, Accelerator::Emulation);
}

/// Also where KVM emulates each instruction and no Linux can run.
#[test]
fn a_machine_of_kvm_reports_its_exit() {
    require!("kvm");
    require!("rustc", can_build());
    require!("qemu", qemu());
    require!("vhost-device-vsock", switch());
    runs(Entry::AsOffered, Accelerator::Kvm);
}

#[test]
fn what_stops_the_machine_before_it_connects_is_one_letter() {
    require!("rustc", can_build());
    require!("qemu", qemu());
    let place = Place::new(Entry::AsOffered);
    for (words, letter) in [
        (WORDS.replace("cellos.cell_id=", "cell="), "A"),
        (WORDS.to_owned(), "D"),
    ] {
        let mut machine = start(&place, &words, Accelerator::Emulation, Vsock::None);
        let status = machine.end();
        assert!(status.success(), "{status}");
        assert_eq!(place.serial(), letter, "{words}");
    }
}

/// The device says nothing at all about a port where nobody listens.
#[test]
fn an_answer_that_never_comes_is_not_waited_for_without_end() {
    require!("rustc", can_build());
    require!("qemu", qemu());
    require!("vhost-device-vsock", switch());
    let place = Place::new(Entry::AsOffered);
    let _switch = start_switch(&place);
    start(&place, WORDS, Accelerator::Emulation, Vsock::Switched).end();
    assert_eq!(place.serial(), "T");
}

#[test]
fn another_answer_than_the_acknowledgement_is_not_taken_for_it() {
    require!("rustc", can_build());
    require!("qemu", qemu());
    require!("vhost-device-vsock", switch());
    for (answer, letter) in [(&[1_u8][..], "K"), (&[0, 0], "P"), (&[], "R")] {
        let place = Place::new(Entry::AsOffered);
        let listener = place.listen();
        let _switch = start_switch(&place);
        let mut machine = start(&place, WORDS, Accelerator::Emulation, Vsock::Switched);
        let mut stream = accept(&listener, &mut machine, &place);
        assert_eq!(read_frame(&mut stream), FRAME);
        stream.write_all(answer).unwrap();
        drop(stream);
        machine.end();
        assert_eq!(place.serial(), letter, "{answer:?}");
    }
}
