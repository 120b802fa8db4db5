//! What the guest is made of.

use std::process::Command;

use cellos_testkit::require;

use super::{Entry, Place, answers, can_build};

/// Registers and instructions that an ordinary kernel's emulation of a processor lacks. The guest
/// turns no vector unit on either, so they would fault on any machine.
const ABSENT: [&str; 6] = ["%xmm", "%mm", "%st", "cmpxchg16b", "xrstor", "int3"];

#[test]
fn the_guest_is_made_of_plain_integer_instructions_only() {
    require!("rustc", can_build());
    require!("objdump", answers(Command::new("objdump").arg("--version")));
    for entry in [Entry::AsOffered, Entry::Relayed, Entry::WithoutPvh] {
        let place = Place::new(entry);
        let listing = Command::new("objdump")
            .args(["--disassemble", "--no-show-raw-insn"])
            .arg(place.guest())
            .output()
            .unwrap();
        let listing = String::from_utf8(listing.stdout).unwrap();
        assert!(listing.contains("<bare_guest>:"), "{listing}");
        let found: Vec<&str> = listing
            .lines()
            .filter(|line| ABSENT.iter().any(|word| line.contains(word)))
            .collect();
        assert!(found.is_empty(), "{entry:?}: {found:#?}");
    }
}
