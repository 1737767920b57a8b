//! The members of a client's object, taken one by one, so that what is left over is what its `op` does not take.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use smallvec::SmallVec;

/// Most members of one object. No `op` takes half as many, and names are compared with one another.
const FIELDS: usize = 16;

/// A client's object, its values unread.
#[derive(Debug)]
pub(super) struct Fields<'a>(SmallVec<[(Cow<'a, str>, &'a RawValue); 8]>);

impl<'a> Fields<'a> {
    /// Takes the member `name` out.
    pub(super) fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let at = self.0.iter().position(|(field, _)| field == name)?;
        // Keeps the order, so that the first unknown member is the one that a refusal names.
        Some(self.0.remove(at).1)
    }

    /// The name of the first member that nobody took and that is not one of the `known`.
    pub(super) fn first_other_than(&self, known: &[&str]) -> Option<&str> {
        let mut names = self.0.iter().map(|(name, _)| &**name);
        names.find(|name| !known.contains(name))
    }
}

/// A string as JSON has it, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The string that `raw` is, if it is one.
pub(super) fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str(raw.get()).ok().map(|Text(text)| text)
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Object)
    }
}

struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = SmallVec::<[(Cow<'de, str>, &'de RawValue); 8]>::new();
        while let Some((Text(name), value)) = map.next_entry()? {
            if fields.len() == FIELDS {
                return Err(A::Error::custom(format!(
                    "the message has over {FIELDS} fields"
                )));
            }
            // JSON does not say which of two counts. A program that checks messages before they
            // come here might have read the other one.
            if fields.iter().any(|(known, _)| *known == name) {
                return Err(A::Error::custom(format!("{} is there twice", cut(&name))));
            }
            fields.push((name, value));
        }

        Ok(Fields(fields))
    }
}

/// The beginning of a name that a client made up, to be repeated to it.
pub(super) fn cut(name: &str) -> String {
    name.chars().take(40).collect()
}
