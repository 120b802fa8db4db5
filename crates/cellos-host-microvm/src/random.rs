//! Random bytes from the kernel.

use std::io;

/// Fills a buffer with bytes fit for keys (getrandom(2)).
///
/// # Errors
/// The kernel's, which it has only for callers that do not wait.
pub(crate) fn fill(mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        let filled = rustix::io::retry_on_intr(|| {
            rustix::rand::getrandom(&mut *buffer, rustix::rand::GetRandomFlags::empty())
        })?;
        buffer = buffer.get_mut(filled..).unwrap_or_default();
    }
    Ok(())
}
