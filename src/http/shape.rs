//! What the bodies of the calls look like, and what is wrong with one that is refused.
//!
//! serde reads a body in one pass. Only a body that serde refuses is read again, by the shape of its call: for a message
//! that names the field, what was expected, and what came instead. The tests compare the shapes with the types that serde
//! fills in and with `docs/openapi.json`.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{identity::Moment, problem::Problem};
use crate::auth::json_kind;

/// How much of a name or a value from a body a message repeats.
const SHOWN_CHARS: usize = 64;

/// What to do about a field that came as `null` and is not required.
pub(crate) const LEAVE_OUT: &str = "; a field without a value must be left out";

/// The fields of an object. There are no others.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) fields: &'static [Field],
    /// Of each group at least one field is required.
    pub(crate) required: &'static [&'static [&'static str]],
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

/// What a field may hold. Only [`Kind::Any`] may be `null`: a variable that is empty by mistake must not mean "everyone",
/// "no filter" or "the default".
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Any JSON value.
    Any,
    /// A string.
    Text,
    /// One of these strings.
    Word(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    /// A whole number from 0, in any notation; the text says what it counts.
    Whole(&'static str),
    /// A time: whole seconds since 1970, or text by RFC 3339.
    Moment,
    /// A list of strings.
    Texts,
    /// An object with any members.
    Members,
    /// A list of objects, which have shapes of their own.
    Objects,
    /// An object of this shape.
    Object(&'static Shape),
    /// A list of strings, or an object of this shape.
    TextsOr(&'static Shape),
}

pub(crate) const fn field(name: &'static str, kind: Kind) -> Field {
    Field { name, kind }
}

impl Shape {
    /// Why serde refused `object`, in the words of the API. `path` is the place of the object, `""` for a body.
    pub(crate) fn explain(&self, path: &str, object: &str, error: &serde_json::Error) -> Problem {
        if !error.is_data() {
            return not_json(error);
        }

        // The tests hold that there is always a fault to be found.
        self.fault(path, object)
            .unwrap_or_else(|| bad_field(error.to_string()))
    }

    /// The first thing that is wrong with an object, in the order of its text.
    pub(crate) fn fault(&self, path: &str, object: &str) -> Option<Problem> {
        let Members(members) = match serde_json::from_str(object) {
            Ok(members) => members,
            Err(error) => return Some(not_json(&error)),
        };

        for (at, (name, value)) in members.iter().enumerate() {
            let Some(field) = self.fields.iter().find(|field| field.name == *name) else {
                return Some(self.unknown(path, name));
            };
            let path = join(path, name);
            if members[..at].iter().any(|(earlier, _)| earlier == name) {
                return Some(bad_field(format!("\"{path}\" is there twice")));
            }
            if let Some(problem) = field.kind.fault(&path, value.get(), self.advice(name)) {
                return Some(problem);
            }
        }

        let is_given = |name: &&str| members.iter().any(|(given, _)| given == name);
        let lacking = self
            .required
            .iter()
            .find(|group| !group.iter().any(is_given));
        lacking.map(|group| missing(group))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.name == name)
    }

    /// What to do about a `null` that came for the field `name`.
    fn advice(&self, name: &str) -> &'static str {
        if self.required.iter().any(|group| *group == [name]) {
            ""
        } else {
            LEAVE_OUT
        }
    }

    /// The problem of a field that is not one of these, with the nearest one, which may be inside another.
    pub(crate) fn unknown(&self, path: &str, name: &str) -> Problem {
        let mut known: Vec<String> = Vec::new();
        let mut inner: Vec<String> = Vec::new();
        for field in self.fields {
            known.push(join(path, field.name));
            // `users` may be a slip for `to.users`, so the fields of inner objects are suggested
            // too.
            if let Kind::Object(shape) | Kind::TextsOr(shape) = field.kind {
                let names = shape.fields.iter().map(|inner| inner.name);
                inner.extend(names.map(|inner| join(&join(path, field.name), inner)));
            }
        }

        let takes = if path.is_empty() {
            format!("this call takes {}", known.join(", "))
        } else {
            format!("\"{path}\" takes {}", names(self))
        };

        let hint = nearest(name, known.iter().chain(&inner)).unwrap_or(takes);
        let path = join(path, shown(name));
        Problem::bad_request("unknown_field", format!("unknown field \"{path}\"; {hint}"))
    }
}

/// The names of a shape's fields, as a message lists them.
fn names(shape: &Shape) -> String {
    let names: Vec<&str> = shape.fields.iter().map(|field| field.name).collect();
    names.join(", ")
}

impl Kind {
    /// What is wrong with `value`, which is at `path`. `advice` is added to the message about a `null`.
    pub(crate) fn fault(self, path: &str, value: &str, advice: &str) -> Option<Problem> {
        let is_fine = match (self, value.as_bytes().first()) {
            (Self::Any, _)
            | (Self::Text, Some(b'"'))
            | (Self::Flag, Some(b't' | b'f'))
            | (Self::Members, Some(b'{')) => true,
            (Self::Word(words), Some(b'"')) => serde_json::from_str::<Cow<'_, str>>(value)
                .is_ok_and(|word| words.contains(&&*word)),
            (Self::Whole(_), _) => serde_json::from_str::<Whole>(value).is_ok(),
            (Self::Moment, _) => serde_json::from_str::<Moment>(value).is_ok(),
            (Self::Texts | Self::TextsOr(_), Some(b'[')) => {
                return each(path, value, Self::Text);
            }
            (Self::Objects, Some(b'[')) => return each(path, value, Self::Members),
            (Self::Object(shape) | Self::TextsOr(shape), Some(b'{')) => {
                return shape.fault(path, value);
            }
            _ => false,
        };

        (!is_fine).then(|| bad_field(self.mismatch(path, value, advice)))
    }

    /// The message for a `value` at `path` that is something else.
    pub(crate) fn mismatch(self, path: &str, value: &str, advice: &str) -> String {
        let expected: Cow<'_, str> = match self {
            Self::Any => "a JSON value".into(),
            Self::Text => "a string".into(),
            Self::Word(words) => alternatives(words).into(),
            Self::Flag => "true or false".into(),
            Self::Whole(what) => what.into(),
            Self::Moment => {
                "whole seconds since 1970, or a time such as \"2026-07-28T12:00:00Z\"".into()
            }
            Self::Texts => "a list of strings".into(),
            Self::Objects => "a list of objects".into(),
            Self::Members | Self::Object(_) => "an object".into(),
            Self::TextsOr(_) => "a list of strings, or an object".into(),
        };

        let found = match (self, value.as_bytes().first()) {
            (Self::Word(_), Some(b'"'))
            | (Self::Whole(_), Some(b'-' | b'0'..=b'9'))
            | (Self::Moment, Some(b'"' | b'-' | b'0'..=b'9')) => shown(value),
            _ => json_kind(value),
        };

        let advice = if found == "null" { advice } else { "" };
        format!("\"{path}\" must be {expected}, not {found}{advice}")
    }
}

/// What is wrong with the first wrong item of a list.
fn each(path: &str, list: &str, kind: Kind) -> Option<Problem> {
    let items: Vec<&RawValue> = match serde_json::from_str(list) {
        Ok(items) => items,
        Err(error) => return Some(not_json(&error)),
    };
    let mut items = items.iter().enumerate();
    items.find_map(|(at, item)| {
        // Nearly every item is fine. Its place is spelled out for a message alone, which costs more than the look.
        kind.fault("", item.get(), "")?;
        kind.fault(&item_path(path, at), item.get(), "")
    })
}

/// The place of the item `at` of the list at `path`.
fn item_path(path: &str, at: usize) -> String {
    #[cfg(test)]
    tests::ITEM_PATHS.set(tests::ITEM_PATHS.get() + 1);
    format!("{path}[{at}]")
}

/// The problem of a body that is not JSON.
fn not_json(error: &serde_json::Error) -> Problem {
    // The error says in its text alone what was wrong, before the place.
    let text = error.to_string();
    let reason = match text.split(" at line ").next().unwrap_or(&text) {
        _ if error.is_eof() => "it ends too early",
        "expected value" | "expected ident" => "a value must be here",
        other => other,
    };
    let (line, column) = (error.line(), error.column());
    let detail = format!("the body is not valid JSON: {reason} (line {line}, column {column})");
    Problem::bad_request("bad_json", detail)
}

fn bad_field(detail: String) -> Problem {
    Problem::bad_request("bad_field", detail)
}

/// The problem of a call that has none of the fields `names`, of which it needs one.
pub(crate) fn missing(names: &[&str]) -> Problem {
    let detail = format!("{} is required", alternatives(names));
    Problem::bad_request("missing_field", detail)
}

/// `"a", "b" or "c"`.
fn alternatives(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match &quoted[..] {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => quoted.concat(),
    }
}

/// A question for the name of `known` that was probably meant by `name`, which is the last part of it or all.
pub(crate) fn nearest<'n>(
    name: &str,
    known: impl IntoIterator<Item = &'n (impl AsRef<str> + 'n + ?Sized)>,
) -> Option<String> {
    let known = known.into_iter().map(|path| {
        let path = path.as_ref();
        (path, path.rsplit('.').next().unwrap_or(path))
    });
    let path = crate::nearest::nearest(name, known, |last| last.len() / 2)?;
    Some(format!("did you mean \"{path}\"?"))
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// The beginning of a text that came with a body.
pub(crate) fn shown(text: &str) -> &str {
    let end = text.char_indices().nth(SHOWN_CHARS);
    end.map_or(text, |(end, _)| &text[..end])
}

/// The members of a JSON object as they came.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }

        from.deserialize_map(Collect)
    }
}

/// A whole number from 0 in any notation that JSON has, such as `3600`, `3600.0` and `3.6e3`: to JavaScript and to JSON
/// Schema these are one number. A number over 64 bits counts as the largest number of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whole(pub(crate) u64);

impl Whole {
    /// The number, if it is whole and not below 0.
    pub(crate) fn of(number: f64) -> Option<Self> {
        (number >= 0.0 && number.fract() == 0.0).then_some(Self(number as u64))
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = Whole;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number from 0")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Whole, E> {
                Ok(Whole(number))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Whole, E> {
                Whole::of(number).ok_or_else(|| E::custom("not a whole number from 0"))
            }
        }

        from.deserialize_u64(Number)
    }
}

#[cfg(test)]
mod tests;
