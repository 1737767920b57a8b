//! What expressions compute with: JSON's kinds, with ints apart from doubles.

use std::{cmp::Ordering, sync::Arc};

use serde::ser::{Serialize, SerializeMap, Serializer};
use smol_str::SmolStr;

use super::{
    layout::{Map, MapKey},
    tally,
};

/// One value: 24 bytes. Text of up to 23 bytes is among them, so that a test on it looks nowhere else; what is longer is
/// shared by reference count, so that a clone copies no more than that.
///
/// Equality (`==`) is that of CEL: int and double compare by value, lists and maps by their members, and nothing
/// else is coerced. `NaN` equals nothing.
#[derive(Clone, Debug, Default)]
pub enum Value {
    /// JSON's `null`, and what a missing key gives.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A JSON number written without fraction and exponent that fits 64 bits.
    Int(i64),
    /// Every other number.
    Double(f64),
    /// Text; compared by code point.
    String(SmolStr),
    /// A list of anything.
    List(Arc<[Value]>),
    /// A map from strings (or, in a map literal, ints and bools).
    Map(Map),
}

/// The kinds of two values have no order between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoOrder;

/// What a missing key gives, where a reference is needed.
pub(super) static NULL: Value = Value::Null;

impl Value {
    /// The kind's name in messages: `null`, `bool`, `int`, `double`, `string`, `list` or `map`.
    #[inline]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::List(_) => "list",
            Self::Map(_) => "map",
        }
    }

    /// The text, if this is a string.
    #[inline]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The map, if this is one.
    #[inline]
    pub fn as_map(&self) -> Option<&Map> {
        match self {
            Self::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The items, if this is a list.
    #[inline]
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    /// Whether this is `null`.
    #[inline]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The member `key` of a map; `null` where it lacks one or this is not a map.
    #[inline]
    pub fn get(&self, key: &str) -> &Value {
        self.as_map().map_or(&NULL, |map| map.get(key))
    }

    /// About how many bytes it holds, twice: what is long may be hashed as well.
    pub(super) fn bytes(&self) -> usize {
        let outside = match self {
            Self::String(text) if text.is_heap_allocated() => text.len(),
            Self::List(items) => items.iter().map(Self::bytes).sum(),
            Self::Map(map) => {
                let members = map.iter();
                let bytes = members.map(|(key, value)| key.to_value().bytes() + value.bytes());
                bytes.sum()
            }
            _ => 0,
        };
        2 * size_of::<Self>() + outside
    }

    /// Orders two values as `<` does: numbers by value, strings by code point, `false` before `true`.
    ///
    /// `Ok(None)` if one is `NaN`, for which every comparison is false.
    pub(super) fn order(&self, other: &Self) -> Result<Option<Ordering>, NoOrder> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Ok(Some(a.cmp(b))),
            (Self::Double(a), Self::Double(b)) => Ok(a.partial_cmp(b)),
            (Self::Int(a), Self::Double(b)) => Ok(order_int_double(*a, *b)),
            (Self::Double(a), Self::Int(b)) => Ok(order_int_double(*b, *a).map(Ordering::reverse)),
            (Self::String(a), Self::String(b)) => {
                tally::add(a.len().min(b.len()));
                Ok(Some(a.cmp(b)))
            }
            (Self::Bool(a), Self::Bool(b)) => Ok(Some(a.cmp(b))),
            _ => Err(NoOrder),
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        tally::add(2);
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Double(a), Self::Double(b)) => a == b,
            (Self::Int(a), Self::Double(b)) | (Self::Double(b), Self::Int(a)) => {
                double_as_int(*b) == Some(*a)
            }
            (Self::String(a), Self::String(b)) => {
                // Texts of different lengths differ without a look at their bytes.
                tally::add(if a.len() == b.len() { a.len() } else { 0 });
                a == b
            }
            (Self::List(a), Self::List(b)) => a == b,
            (Self::Map(a), Self::Map(b)) => a == b,
            _ => false,
        }
    }
}

/// The int that a double equals, if there is one.
///
/// A comparison by `int as f64` would call 2^53 + 1 equal to 2^53.
pub(super) fn double_as_int(double: f64) -> Option<i64> {
    // 2^63, the first double above all ints. The greatest int itself is not a double.
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    let fits = (-BEYOND..BEYOND).contains(&double) && double.trunc().to_bits() == double.to_bits();
    fits.then_some(double as i64)
}

fn order_int_double(int: i64, double: f64) -> Option<Ordering> {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if double.is_nan() {
        None
    } else if double >= BEYOND {
        Some(Ordering::Less)
    } else if double < -BEYOND {
        Some(Ordering::Greater)
    } else {
        // An int as well, since the ends of the range are out of the way.
        let whole = double.trunc();
        // Where the whole numbers are equal, the fraction decides.
        Some(
            int.cmp(&(whole as i64))
                .then_with(|| whole.total_cmp(&double)),
        )
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => to.serialize_unit(),
            Self::Bool(value) => to.serialize_bool(*value),
            Self::Int(value) => to.serialize_i64(*value),
            Self::Double(value) => to.serialize_f64(*value),
            Self::String(value) => to.serialize_str(value),
            Self::List(items) => to.collect_seq(items.iter()),
            Self::Map(map) => {
                let mut members = to.serialize_map(Some(map.len()))?;
                for (key, value) in map.iter() {
                    // JSON has only texts as keys.
                    match key {
                        MapKey::Bool(key) => members.serialize_entry(&key.to_string(), value)?,
                        MapKey::Int(key) => members.serialize_entry(&key.to_string(), value)?,
                        MapKey::String(key) => members.serialize_entry(&**key, value)?,
                    }
                }
                members.end()
            }
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<SmolStr> for Value {
    fn from(text: SmolStr) -> Self {
        Self::String(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Double(value)
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Self {
        Self::List(items.into())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_three_words() {
        assert!(size_of::<Value>() <= 24);
    }

    #[test]
    fn ints_and_doubles_compare_exactly() {
        let int = |i: i64| Value::Int(i);
        let double = |d: f64| Value::Double(d);
        assert_eq!(int(1), double(1.0));
        assert_eq!(int(0), double(-0.0));
        assert_ne!(int(9_007_199_254_740_993), double(9_007_199_254_740_992.0));
        assert_ne!(int(i64::MAX), double(9_223_372_036_854_775_807.0));
        assert_eq!(int(i64::MIN), double(-9_223_372_036_854_775_808.0));
        assert_ne!(double(f64::NAN), double(f64::NAN));
        let order = |a: Value, b: Value| a.order(&b).ok().flatten();
        assert_eq!(
            order(int(9_007_199_254_740_993), double(9_007_199_254_740_992.0)),
            Some(Ordering::Greater)
        );
        assert_eq!(
            order(int(i64::MAX), double(9_223_372_036_854_775_808.0)),
            Some(Ordering::Less)
        );
        assert_eq!(
            order(double(f64::INFINITY), int(i64::MAX)),
            Some(Ordering::Greater)
        );
        assert_eq!(order(int(-1), double(-1.5)), Some(Ordering::Greater));
        assert_eq!(order(int(1), double(1.5)), Some(Ordering::Less));
        assert_eq!(order(int(0), double(-0.0)), Some(Ordering::Equal));
        assert_eq!(int(1).order(&double(f64::NAN)), Ok(None));
        assert_eq!(int(1).order(&Value::Null), Err(NoOrder));
    }
}
