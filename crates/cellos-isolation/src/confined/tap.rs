//! TAP devices (`Documentation/networking/tuntap` of the kernel).

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::fs::{Mode, OFlags};

/// Longest name of an interface in bytes: `IFNAMSIZ` without the NUL.
const NAME_BYTES: usize = 15;

/// Makes a TAP device in the caller's network namespace and gives its end of frames, with the
/// header that virtio uses before each. The interface is down, and lasts as long as the descriptor.
pub(super) fn make(name: &str) -> io::Result<OwnedFd> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || name.len() > NAME_BYTES || !name.bytes().all(plain) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is not the name of an interface"),
        ));
    }
    let device = rustix::fs::open(
        "/dev/net/tun",
        OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    )
    .map_err(|error| {
        io::Error::new(
            io::Error::from(error).kind(),
            format!("/dev/net/tun: {error}"),
        )
    })?;
    // SAFETY: ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: `request` is a valid ifreq with a NUL-terminated name for the call's duration.
    let made = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if made != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(device)
}
