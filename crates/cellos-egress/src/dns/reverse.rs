//! Addresses in the names that are asked for to find the name of an address; RFC 1035, 3.5 and RFC
//! 3596, 2.5.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address that such a name is for.
pub(super) fn address_of(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0u8; 4];
        let mut labels = digits.split('.');
        for octet in octets.iter_mut().rev() {
            let label = labels.next()?;
            let plain = label.bytes().all(|byte| byte.is_ascii_digit());
            *octet = label.parse().ok().filter(|_| plain)?;
        }
        return labels
            .next()
            .is_none()
            .then(|| Ipv4Addr::from(octets).into());
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let mut bits = 0u128;
    let mut count = 0u32;
    for label in digits.split('.') {
        let [digit] = label.as_bytes() else {
            return None;
        };
        let digit = char::from(*digit).to_digit(16)?;
        if count == 32 {
            return None;
        }
        bits |= u128::from(digit) << (4 * count);
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from_bits(bits).into())
}
