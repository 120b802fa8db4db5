//! Addresses that stand for names inside one cell.

use std::{
    borrow::Cow,
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use cellos_core::{
    admission::EgressHost,
    ports::network::{NAME_POOL_V4, NAME_POOL_V6},
};

/// The first addresses of the pool stand for no name; the name server is one of them.
const RESERVED: u32 = 256;
/// Most names that one cell can have addresses for. A wildcard rule lets a cell make names up, and
/// each takes memory here.
pub(crate) const MAX_NAMES: usize = 4096;

/// Which address stands for which name. A name keeps its address as long as the cell lives.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_name: HashMap<Arc<str>, u32>,
    by_number: Vec<Arc<str>>,
}

/// What stands for one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stand {
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
}

/// What an address stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A name that the cell asked for.
    Name(Arc<str>),
    /// Itself: it is outside of the pool.
    Itself(IpAddr),
    /// Nothing: it is in the pool, but stands for no name.
    Nothing,
}

/// A DNS name as it is compared everywhere: lower case, without the last dot; nothing for what is no
/// name that a resolver can be asked for, an address among that. The one place that does this.
pub(crate) fn normal_name(text: &str) -> Option<Cow<'_, str>> {
    match text.parse() {
        Ok(EgressHost::Name(name)) if name == text => Some(Cow::Borrowed(text)),
        Ok(EgressHost::Name(name)) => Some(Cow::Owned(name)),
        _ => None,
    }
}

impl Names {
    /// The addresses of a name; nothing when there are too many names.
    pub(crate) fn stand_for(&self, name: &str) -> Option<Stand> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let number = match known.by_name.get(name) {
            Some(number) => *number,
            None if known.by_number.len() >= MAX_NAMES => return None,
            None => {
                let number = u32::try_from(known.by_number.len()).ok()?;
                let name: Arc<str> = name.into();
                known.by_name.insert(Arc::clone(&name), number);
                known.by_number.push(name);
                number
            }
        };
        let bits = NAME_POOL_V4.0.to_bits() | (number + RESERVED);
        let v4 = Ipv4Addr::from_bits(bits);
        let [a, b, c] = NAME_POOL_V6;
        let (high, low) = ((bits >> 16) as u16, (bits & 0xffff) as u16);
        Some(Stand {
            v4,
            v6: Ipv6Addr::new(a, b, c, 0, 0, 0, high, low),
        })
    }

    /// What an address that the cell dialled stands for.
    pub(crate) fn meaning(&self, address: IpAddr) -> Meaning {
        let address = address.to_canonical();
        let bits = match address {
            IpAddr::V4(v4) => v4.to_bits(),
            IpAddr::V6(v6) if v6.segments()[..3] == NAME_POOL_V6 => {
                let [.., high, low] = v6.segments();
                if v6.segments()[3..6] != [0, 0, 0] {
                    return Meaning::Nothing;
                }
                u32::from(high) << 16 | u32::from(low)
            }
            IpAddr::V6(_) => return Meaning::Itself(address),
        };
        let (network, prefix) = NAME_POOL_V4;
        let number = bits ^ network.to_bits();
        if number >> (32 - u32::from(prefix)) != 0 {
            return match address {
                IpAddr::V4(_) => Meaning::Itself(address),
                IpAddr::V6(_) => Meaning::Nothing,
            };
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        number
            .checked_sub(RESERVED)
            .and_then(|number| known.by_number.get(usize::try_from(number).ok()?))
            .map_or(Meaning::Nothing, |name| Meaning::Name(Arc::clone(name)))
    }
}
