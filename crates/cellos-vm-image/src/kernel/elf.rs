//! The few parts of an ELF file that matter here (System V ABI, chapter 4; `elf(5)`).

/// What an ELF file begins with.
const MAGIC: &[u8] = b"\x7fELF";

/// Offset of the class, whose value for 64 bits is 2.
const CLASS: usize = 4;

/// Offset of the byte order, whose value for little endian is 1.
const ORDER: usize = 5;

/// Offset of the machine, two bytes.
const MACHINE: usize = 18;

/// `EM_X86_64`.
const X86_64: u16 = 62;

/// Size of one section header, in bytes.
const SECTION_HEADER_BYTES: usize = 64;

/// Whether the data begins like a 64-bit ELF file for `x86_64`.
pub(crate) fn is_elf_for_x86_64(data: &[u8]) -> bool {
    is_elf(data) && data.get(MACHINE..).and_then(u16_at) == Some(X86_64)
}

/// The content of the section with a name, in a 64-bit little-endian file.
pub(super) fn section<'d>(data: &'d [u8], name: &[u8]) -> Option<&'d [u8]> {
    if !is_elf(data) {
        return None;
    }
    let table = usize_at(data, 0x28)?;
    let count = usize::from(data.get(0x3c..).and_then(u16_at)?);
    let names = usize::from(data.get(0x3e..).and_then(u16_at)?);
    let header = |index: usize| {
        let start = table.checked_add(index.checked_mul(SECTION_HEADER_BYTES)?)?;
        data.get(start..start.checked_add(SECTION_HEADER_BYTES)?)
    };
    let content = |header: &[u8]| {
        let start = usize_at(header, 0x18)?;
        data.get(start..start.checked_add(usize_at(header, 0x20)?)?)
    };
    let names = content(header(names)?)?;
    (0..count).find_map(|index| {
        let header = header(index)?;
        let offset = usize::try_from(u32_at(header)?).ok()?;
        let found = names.get(offset..)?.split(|byte| *byte == 0).next()?;
        (found == name).then(|| content(header))?
    })
}

fn is_elf(data: &[u8]) -> bool {
    data.starts_with(MAGIC) && data.get(CLASS) == Some(&2) && data.get(ORDER) == Some(&1)
}

fn u16_at(data: &[u8]) -> Option<u16> {
    data.first_chunk().copied().map(u16::from_le_bytes)
}

fn u32_at(data: &[u8]) -> Option<u32> {
    data.first_chunk().copied().map(u32::from_le_bytes)
}

fn usize_at(data: &[u8], offset: usize) -> Option<usize> {
    let bytes = data.get(offset..)?.first_chunk().copied()?;
    usize::try_from(u64::from_le_bytes(bytes)).ok()
}
