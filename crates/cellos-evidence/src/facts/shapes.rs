//! Fields that are told in one of several forms.

use std::borrow::Cow;

use serde::de;

use super::tolerant::{self, Shape, Tolerant};

/// What kind of identity is materialized: a name, or an object whose only key is the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityKind<'a>(pub Cow<'a, str>);

impl<'de> Shape<'de> for IdentityKind<'de> {
    fn text(text: Cow<'de, str>) -> Option<Self> {
        Some(Self(text))
    }

    fn object<A: de::MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
        let mut kind = None;
        while let Some(tolerant::Key(key)) = object.next_key()? {
            object.next_value::<de::IgnoredAny>()?;
            kind.get_or_insert(Self(key));
        }
        Ok(kind)
    }
}

/// The name of an export target: a text, or an object with a `name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetName<'a>(pub Cow<'a, str>);

impl<'de> Shape<'de> for TargetName<'de> {
    fn text(text: Cow<'de, str>) -> Option<Self> {
        Some(Self(text))
    }

    fn object<A: de::MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
        let mut name = None;
        while let Some(tolerant::Key(key)) = object.next_key()? {
            if key == "name" {
                if let Tolerant::Is(text) = object.next_value::<Tolerant<Cow<'de, str>>>()? {
                    name = Some(Self(text));
                }
            } else {
                object.next_value::<de::IgnoredAny>()?;
            }
        }
        Ok(name)
    }
}
