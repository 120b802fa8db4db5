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
    /// The addresses of a name; nothing when there are too many names, or it is none.
    pub(crate) fn stand_for(&self, name: &str) -> Option<Stand> {
        let name = normal_name(name)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let number = match known.by_name.get(name.as_ref()) {
            Some(number) => *number,
            None if known.by_number.len() >= MAX_NAMES => return None,
            None => {
                let number = u32::try_from(known.by_number.len()).ok()?;
                let name: Arc<str> = name.as_ref().into();
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

#[cfg(test)]
mod tests {
    use cellos_core::ports::network::NAME_SERVER;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_normalised() {
        for (text, name) in [
            ("a.example", Some("a.example")),
            ("A.Example.", Some("a.example")),
            ("localhost", Some("localhost")),
            ("_dns.example", Some("_dns.example")),
            ("", None),
            (".", None),
            ("a..b", None),
            ("a.b..", None),
            ("*.b", None),
            ("*", None),
            ("1.2.3.4", None),
            ("::1", None),
            ("10.0.0.0/8", None),
            ("a b", None),
        ] {
            assert_eq!(normal_name(text).as_deref(), name, "{text:?}");
        }
    }

    #[test]
    fn a_cell_cannot_make_up_names_without_an_end() {
        let names = Names::default();
        let first = names.stand_for("n0.example").unwrap();
        for n in 1..MAX_NAMES {
            assert!(names.stand_for(&format!("n{n}.example")).is_some(), "{n}");
        }
        assert_eq!(names.stand_for("one-more.example"), None);
        // Those that are known stay.
        assert_eq!(names.stand_for("n0.example"), Some(first));
        let known = names.known.lock().unwrap();
        assert_eq!(
            (known.by_name.len(), known.by_number.len()),
            (MAX_NAMES, MAX_NAMES)
        );
    }

    #[test]
    fn what_is_no_name_takes_no_room() {
        let names = Names::default();
        for text in ["", "8.8.8.8", "*.a", &"a.".repeat(1000)] {
            assert_eq!(names.stand_for(text), None, "{text:?}");
        }
        assert!(names.known.lock().unwrap().by_name.is_empty());
    }

    #[test]
    fn every_spelling_of_an_address_means_the_same() {
        let names = Names::default();
        let stand = names.stand_for("A.example.").unwrap();
        assert_eq!(names.stand_for("a.example"), Some(stand));
        let meant = Meaning::Name("a.example".into());
        let mapped = IpAddr::V6(stand.v4.to_ipv6_mapped());
        for address in [IpAddr::V4(stand.v4), IpAddr::V6(stand.v6), mapped] {
            assert_eq!(names.meaning(address), meant, "{address}");
        }
    }

    #[test]
    fn the_pool_means_nothing_by_itself_and_the_rest_means_itself() {
        let names = Names::default();
        names.stand_for("a.example").unwrap();
        for address in [
            "198.18.0.0",
            "198.18.0.53",
            "198.18.0.255",
            "198.18.1.1",
            "198.19.255.255",
            "::ffff:198.18.0.53",
            "fd63:656c:6c6f::",
            "fd63:656c:6c6f::1",
            "fd63:656c:6c6f:1::c612:100",
            "fd63:656c:6c6f::1:c612:100",
            "fd63:656c:6c6f::c612:101",
        ] {
            assert_eq!(
                names.meaning(address.parse().unwrap()),
                Meaning::Nothing,
                "{address}"
            );
        }
        for address in [
            "198.17.255.255",
            "198.20.0.0",
            "127.0.0.1",
            "::1",
            "fd63:656c:6c70::c612:100",
            "::",
        ] {
            let address = address.parse().unwrap();
            assert_eq!(names.meaning(address), Meaning::Itself(address));
        }
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        assert_eq!(
            names.meaning(mapped),
            Meaning::Itself("127.0.0.1".parse().unwrap())
        );
    }

    proptest! {
        #[test]
        fn addresses_stand_for_one_name_each_for_ever(
            asked in prop::collection::vec("[a-c]{1,2}\\.[a-c]{1,3}", 1..64),
        ) {
            let names = Names::default();
            let first: Vec<Stand> = asked.iter().map(|name| names.stand_for(name).unwrap()).collect();
            for (name, stand) in asked.iter().zip(&first) {
                prop_assert_eq!(names.stand_for(name), Some(*stand));
                let meant = Meaning::Name(name.as_str().into());
                prop_assert_eq!(names.meaning(stand.v4.into()), meant.clone());
                prop_assert_eq!(names.meaning(stand.v6.into()), meant);
                prop_assert_ne!(stand.v4, NAME_SERVER);
                prop_assert!(stand.v4.octets()[..2] == [198, 18] || stand.v4.octets()[..2] == [198, 19]);
            }
            for (one, first_one) in asked.iter().zip(&first) {
                for (other, first_other) in asked.iter().zip(&first) {
                    prop_assert_eq!(one == other, first_one == first_other);
                }
            }
        }

        #[test]
        fn whatever_address_is_dialled_means_something(bits in any::<u128>(), v4 in any::<u32>()) {
            let names = Names::default();
            names.stand_for("a.example").unwrap();
            names.meaning(IpAddr::V6(bits.into()));
            names.meaning(IpAddr::V4(v4.into()));
        }
    }
}
