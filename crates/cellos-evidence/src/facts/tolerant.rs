//! Reading JSON that may hold anything: a value of another type than expected is noted and
//! skipped, and what stands around it is read nevertheless.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// Most items of one list that are kept; a document of 1 MiB has fewer rules than that.
pub const MAX_LIST_ITEMS: usize = 8192;

/// A number as it stands in the text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    Unsigned(u64),
    Signed(i64),
    Float,
}

/// What can be read from some JSON values, and not from others.
pub(super) trait Shape<'de>: Sized {
    fn text(_: Cow<'de, str>) -> Option<Self> {
        None
    }

    fn number(_: Number) -> Option<Self> {
        None
    }

    fn flag(_: bool) -> Option<Self> {
        None
    }

    fn list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn object<A: MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    /// Whether everything within is of the expected types.
    fn is_sound(&self) -> bool {
        true
    }
}

/// A value that may be of another type than expected.
pub(super) enum Tolerant<T> {
    Null,
    Is(T),
    Wrong,
}

impl<T> Tolerant<T> {
    fn of(value: Option<T>) -> Self {
        value.map_or(Self::Wrong, Self::Is)
    }
}

impl<'de, T: Shape<'de>> Deserialize<'de> for Tolerant<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any(PhantomData))
    }
}

struct Any<T>(PhantomData<T>);

impl<'de, T: Shape<'de>> Visitor<'de> for Any<T> {
    type Value = Tolerant<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Tolerant::of(T::text(Cow::Borrowed(text))))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Tolerant::of(T::text(Cow::Owned(text.to_owned()))))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Tolerant::of(T::number(Number::Unsigned(number))))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Tolerant::of(T::number(Number::Signed(number))))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Tolerant::of(T::number(Number::Float)))
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Self::Value, E> {
        Ok(Tolerant::of(T::flag(flag)))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Tolerant::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        Ok(Tolerant::of(T::list(list)?))
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
        Ok(Tolerant::of(T::object(object)?))
    }
}

impl<'de> Shape<'de> for Cow<'de, str> {
    fn text(text: Cow<'de, str>) -> Option<Self> {
        Some(text)
    }
}

impl Shape<'_> for bool {
    fn flag(flag: bool) -> Option<Self> {
        Some(flag)
    }
}

impl Shape<'_> for u64 {
    fn number(number: Number) -> Option<Self> {
        match number {
            Number::Unsigned(number) => Some(number),
            Number::Signed(_) | Number::Float => None,
        }
    }
}

impl Shape<'_> for i64 {
    fn number(number: Number) -> Option<Self> {
        match number {
            Number::Unsigned(number) => number.try_into().ok(),
            Number::Signed(number) => Some(number),
            Number::Float => None,
        }
    }
}

impl<'de, T: Shape<'de>> Shape<'de> for Box<T> {
    fn object<A: MapAccess<'de>>(object: A) -> Result<Option<Self>, A::Error> {
        Ok(T::object(object)?.map(Box::new))
    }

    fn is_sound(&self) -> bool {
        T::is_sound(self)
    }
}

/// A list, of which at most [`MAX_LIST_ITEMS`] are kept.
#[derive(Debug, Clone)]
pub struct List<T> {
    /// The first items; those of another type are left out.
    pub items: Vec<T>,
    /// Whether all items are here.
    pub complete: bool,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            complete: true,
        }
    }
}

impl<'de, T: Shape<'de>> Shape<'de> for List<T> {
    fn list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut read = Self::default();
        loop {
            if read.items.len() == MAX_LIST_ITEMS {
                while list.next_element::<IgnoredAny>()?.is_some() {
                    read.complete = false;
                }
                return Ok(Some(read));
            }
            match list.next_element::<Tolerant<T>>()? {
                None => return Ok(Some(read)),
                Some(Tolerant::Is(item)) => {
                    read.complete &= item.is_sound();
                    read.items.push(item);
                }
                Some(Tolerant::Null | Tolerant::Wrong) => read.complete = false,
            }
        }
    }

    fn is_sound(&self) -> bool {
        self.complete
    }
}

/// The key of a field, which borrows unless it is written with escapes.
pub(super) struct Key<'a>(pub(super) Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Makes a structure whose fields are all optional, its reader, and its soundness. The names of
/// fields that are of another type than expected, or stand there twice, are kept in `wrong`.
macro_rules! facts {
    ($($(#[$doc:meta])* pub struct $name:ident {
        $($(#[$field_doc:meta])* $field:ident: $ty:ty = $key:literal,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Default)]
        pub struct $name<'a> {
            $($(#[$field_doc])* pub $field: Option<$ty>,)*
            /// Names of fields that are of another type than expected, or stand there twice. Of
            /// the latter the last one counts.
            pub wrong: Vec<&'static str>,
            marker: std::marker::PhantomData<&'a ()>,
        }

        impl<'a> $crate::facts::tolerant::Shape<'a> for $name<'a> {
            fn object<A: serde::de::MapAccess<'a>>(mut object: A) -> Result<Option<Self>, A::Error> {
                use $crate::facts::tolerant::{Key, Shape, Tolerant};
                let mut read = Self::default();
                while let Some(Key(key)) = object.next_key()? {
                    match &*key {
                        $($key => {
                            let (value, sound) = match object.next_value::<Tolerant<$ty>>()? {
                                Tolerant::Null => (None, true),
                                Tolerant::Wrong => (None, false),
                                Tolerant::Is(value) => {
                                    let sound = Shape::is_sound(&value);
                                    (Some(value), sound)
                                }
                            };
                            if !sound || read.$field.is_some() {
                                read.wrong.push($key);
                            }
                            read.$field = value;
                        })*
                        _ => {
                            object.next_value::<serde::de::IgnoredAny>()?;
                        }
                    }
                }
                Ok(Some(read))
            }

            fn is_sound(&self) -> bool {
                self.wrong.is_empty()
            }
        }
    )*};
}

pub(super) use facts;
