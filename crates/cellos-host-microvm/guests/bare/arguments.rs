//! The words of the command line that mean something here. Also compiled on the host, by the tests.

use super::exit_frame;

/// Longest cell id, in bytes: the document format's bound.
const MAX_CELL_ID_BYTES: usize = 128;

/// What the machine is to say, and to whom.
pub(crate) struct Arguments<'a> {
    /// `cellos.vsock_port=`: the port of the host that takes the frame.
    pub(crate) vsock_port: u32,
    /// `cellos.exit_hmac_key=`: the key in standard base64.
    pub(crate) key: [u8; exit_frame::KEY_BYTES],
    /// `cellos.cell_id=`.
    pub(crate) cell_id: &'a [u8],
    /// `bare.exit=`: the code to report, 0 if absent.
    pub(crate) exit_code: i32,
}

impl<'a> Arguments<'a> {
    /// `None` if a word is missing, there twice or malformed.
    pub(crate) fn parse(command_line: &'a [u8]) -> Option<Self> {
        let required = |name| only(command_line, name)?;
        let cell_id = required(b"cellos.cell_id=")?;
        if cell_id.is_empty() || cell_id.len() > MAX_CELL_ID_BYTES {
            return None;
        }
        Some(Self {
            vsock_port: u32::try_from(decimal(required(b"cellos.vsock_port=")?)?).ok()?,
            key: exit_frame::key(required(b"cellos.exit_hmac_key=")?)?,
            cell_id,
            exit_code: match only(command_line, b"bare.exit=")? {
                Some(word) => signed(word)?,
                None => 0,
            },
        })
    }
}

/// The addresses in `virtio_mmio.device=SIZE@ADDRESS:IRQ[:ID]`, in their order. Words of another
/// form are passed over: they are the monitor's, and a device not found is reported anyway.
pub(crate) fn devices(command_line: &[u8]) -> impl Iterator<Item = u64> {
    words(command_line).filter_map(|word| {
        let (_size, rest) = split(word.strip_prefix(b"virtio_mmio.device=")?, b'@')?;
        let (address, _irq) = split(rest, b':')?;
        match address.strip_prefix(b"0x") {
            Some(digits) => number(digits, 16),
            None => decimal(address),
        }
    })
}

fn words(command_line: &[u8]) -> impl Iterator<Item = &[u8]> {
    command_line
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

/// The value of the one word with this name: `None` if there are several, `Some(None)` if there is
/// none.
fn only<'a>(command_line: &'a [u8], name: &[u8]) -> Option<Option<&'a [u8]>> {
    let mut values = words(command_line).filter_map(|word| word.strip_prefix(name));
    let first = values.next();
    match values.next() {
        Some(_) => None,
        None => Some(first),
    }
}

fn signed(word: &[u8]) -> Option<i32> {
    let value = match word.strip_prefix(b"-") {
        Some(digits) => 0_i64.checked_sub_unsigned(decimal(digits)?)?,
        None => i64::try_from(decimal(word)?).ok()?,
    };
    i32::try_from(value).ok()
}

fn decimal(digits: &[u8]) -> Option<u64> {
    number(digits, 10)
}

fn number(digits: &[u8], base: u32) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, byte| {
        let digit = char::from(*byte).to_digit(base)?;
        value.checked_mul(base.into())?.checked_add(digit.into())
    })
}

fn split(word: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let mut parts = word.splitn(2, |byte| *byte == at);
    Some((parts.next()?, parts.next()?))
}
