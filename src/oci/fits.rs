//! Whether a text has the shape of the table in [`super::fields`], found in one pass that keeps nothing.
//!
//! Nearly every config.json does. Only for one that does not is the text read into values, which takes three times as long, and walked once
//! more for what there is to say. So this may say no to a text that is right after all, and never yes to one that there is anything to say of.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::capability::Capability;
use super::fields::Kind;

/// Whether each value of a JSON text is what this kind says, and no field is unknown.
pub(super) fn fits(text: &[u8], kind: &Kind) -> bool {
    // Looked at as a whole once, not each text in it.
    let Ok(text) = str::from_utf8(text) else { return false };
    let mut reader = serde_json::Deserializer::from_str(text);
    Fits(kind).deserialize(&mut reader).and_then(|()| reader.end()).is_ok()
}

/// A value that must be of this kind. What does not fit is an error, whose text nobody sees.
#[derive(Clone, Copy)]
struct Fits<'k>(&'k Kind);

impl<'de> DeserializeSeed<'de> for Fits<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        match self.0 {
            Kind::Any => IgnoredAny::deserialize(reader).map(drop),
            _ => reader.deserialize_any(self),
        }
    }
}

impl Fits<'_> {
    fn is<E: Error>(fits: bool) -> Result<(), E> {
        if fits { Ok(()) } else { Err(E::custom("")) }
    }
}

impl<'de> Visitor<'de> for Fits<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("another value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Self::is(matches!(self.0, Kind::Bool))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        Self::is(match self.0 {
            Kind::Text => true,
            Kind::Word(_, known) => known.contains(&text),
            Kind::Capability => text.parse::<Capability>().is_ok(),
            _ => false,
        })
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        // Only negative numbers come this way.
        Self::is(match self.0 {
            Kind::Signed => true,
            Kind::Int => i32::try_from(number).is_ok(),
            _ => false,
        })
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        Self::is(match self.0 {
            Kind::Signed => i64::try_from(number).is_ok(),
            Kind::Unsigned => true,
            Kind::Id => u32::try_from(number).is_ok(),
            Kind::Short => u16::try_from(number).is_ok(),
            Kind::Int => i32::try_from(number).is_ok(),
            _ => false,
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Kind::List(inner) = self.0 else { return Self::is(false) };
        while items.next_element_seed(Fits(inner))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(kind) = entries.next_key_seed(Key(self.0))? {
            entries.next_value_seed(Fits(kind))?;
        }
        Ok(())
    }
}

/// A key of an object of this kind; gives the kind of its value.
struct Key<'k>(&'k Kind);

impl<'de, 'k> DeserializeSeed<'de> for Key<'k> {
    type Value = &'k Kind;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<&'k Kind, D::Error> {
        reader.deserialize_str(self)
    }
}

impl<'k> Visitor<'_> for Key<'k> {
    type Value = &'k Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<&'k Kind, E> {
        let kind = match self.0 {
            Kind::Map(inner) => Some(*inner),
            Kind::Object(fields) => fields.iter().find(|(name, _)| *name == key).map(|(_, kind)| kind),
            _ => None,
        };
        kind.ok_or_else(|| E::custom(""))
    }
}
