//! Values from JSON text and from `serde_json`.

use std::sync::Arc;

use simd_json::{Buffers, ErrorType, Node, StaticNode};

use super::{
    layout::{Layout, Layouts, Map, MapKey, sorted},
    value::Value,
};
use crate::limits::{DATA_DEPTH, LAYOUTS_PER_VALUE};

/// Why JSON text gave no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Arrays and objects are nested deeper than `limits::DATA_DEPTH`.
    #[error("nested deeper than {DATA_DEPTH} levels")]
    TooDeep,
    /// The text is not JSON or not UTF-8, or holds a number beyond the range of a double.
    #[error("not JSON: {reason} at byte {offset}")]
    Syntax {
        /// Where the parser stopped.
        offset: usize,
        /// What it saw there.
        reason: String,
    },
    /// The value would take more memory than it may.
    #[error("the value takes over {0} bytes in memory; send fewer values, or shorter ones")]
    TooLarge(usize),
}

impl Value {
    /// Reads JSON, as claims, profiles and params come. A number is an int if it is written as one and fits 64
    /// bits, else a double; of a repeated key the last value stays. The text is scribbled over.
    ///
    /// With `layouts`, objects share their keys with others of the same keys: for what is kept per connection.
    ///
    /// # Errors
    /// [`JsonError`], when the text is not JSON or nests deeper than [`DATA_DEPTH`].
    #[inline]
    pub fn from_json<'l>(
        json: &mut [u8],
        layouts: impl Into<Option<&'l Layouts>>,
    ) -> Result<Self, JsonError> {
        Self::from_json_within(usize::MAX, json, layouts)
    }

    /// The same for a value that may take up to `max_bytes` of memory, as strangers send them: a few bytes of JSON can be
    /// many times as many in memory.
    ///
    /// # Errors
    /// As [`Value::from_json`], and [`JsonError::TooLarge`].
    pub fn from_json_within<'l>(
        max_bytes: usize,
        json: &mut [u8],
        layouts: impl Into<Option<&'l Layouts>>,
    ) -> Result<Self, JsonError> {
        let mut buffers = Buffers::with_max_depth(json.len(), DATA_DEPTH);
        let tape =
            // It resolves escapes in place, which is why the text is scribbled over.
            simd_json::to_tape_with_buffers(json, &mut buffers).map_err(|e| match e.error() {
                ErrorType::DepthLimitExceeded => JsonError::TooDeep,
                other => JsonError::Syntax {
                    offset: e.index(),
                    reason: format!("{other:?}"),
                },
            })?;

        let mut nodes = tape.0.iter();
        let mut builder = Builder {
            layouts: layouts.into(),
            seen: Vec::new(),
            max_bytes,
            left: max_bytes,
        };

        builder.build(&mut nodes, DATA_DEPTH)
    }

    /// Converts what `serde_json` parsed, by the rules of [`Value::from_json`].
    ///
    /// # Errors
    /// [`JsonError::TooDeep`] past [`DATA_DEPTH`].
    #[inline]
    pub fn from_serde<'l>(
        json: &serde_json::Value,
        layouts: impl Into<Option<&'l Layouts>>,
    ) -> Result<Self, JsonError> {
        convert(json, layouts.into(), DATA_DEPTH)
    }
}

/// A list's or a map's allocation besides its values, and what the allocator adds.
const LIST_BYTES: usize = 24;

/// See [`LIST_BYTES`]; a map has its layout in it too.
const MAP_BYTES: usize = 48;

/// A layout besides its keys: two allocations, and a place in the table of all.
const LAYOUT_BYTES: usize = 128;

/// An allocation besides the text that it holds.
const TEXT_BYTES: usize = 24;

/// Builds a value from what the parser found, and counts the memory that it takes.
struct Builder<'l> {
    layouts: Option<&'l Layouts>,
    /// Layouts that this value has so far: the same keys again cost nothing, and no look at the table of all.
    seen: Vec<Arc<Layout>>,
    max_bytes: usize,
    left: usize,
}

impl Builder<'_> {
    fn take(&mut self, bytes: usize) -> Result<(), JsonError> {
        self.left = self
            .left
            .checked_sub(bytes)
            .ok_or(JsonError::TooLarge(self.max_bytes))?;
        Ok(())
    }

    /// Text of up to 23 bytes is in the value itself.
    fn take_text(&mut self, text: &str) -> Result<(), JsonError> {
        match text.len() {
            0..=23 => Ok(()),
            len => self.take(TEXT_BYTES + len),
        }
    }

    fn build<'t>(
        &mut self,
        nodes: &mut impl Iterator<Item = &'t Node<'t>>,
        depth: usize,
    ) -> Result<Value, JsonError> {
        let Some(node) = nodes.next() else {
            return Err(JsonError::Syntax {
                offset: 0,
                reason: "Eof".into(),
            });
        };

        let within = || depth.checked_sub(1).ok_or(JsonError::TooDeep);
        // Charged before it is made, so that a hostile value ends at the bound.
        self.take(size_of::<Value>())?;

        Ok(match node {
            Node::String(text) => {
                self.take_text(text)?;
                Value::from(*text)
            }

            Node::Static(StaticNode::Null) => Value::Null,
            Node::Static(StaticNode::Bool(value)) => Value::Bool(*value),
            Node::Static(StaticNode::I64(value)) => Value::Int(*value),
            Node::Static(StaticNode::U64(value)) => {
                // Filters have no uint, so what is too large for an int is a double.
                i64::try_from(*value).map_or(Value::Double(*value as f64), Value::Int)
            }

            Node::Static(StaticNode::F64(value)) => Value::Double(*value),
            Node::Array { len, .. } => {
                let depth = within()?;
                self.take(LIST_BYTES)?;
                let items: Result<Vec<_>, _> =
                    (0..*len).map(|_| self.build(nodes, depth)).collect();
                Value::from(items?)
            }

            Node::Object { len, .. } => {
                let depth = within()?;
                self.take(MAP_BYTES)?;
                // The parser has counted them, so the text is at least as long.
                let mut members = Vec::with_capacity(*len);

                for _ in 0..*len {
                    let Some(Node::String(key)) = nodes.next() else {
                        return Err(JsonError::Syntax {
                            offset: 0,
                            reason: "ExpectedObjectKey".into(),
                        });
                    };
                    members.push((MapKey::String((*key).into()), self.build(nodes, depth)?));
                }

                let (keys, values) = sorted(members);
                Value::Map(Map::laid_out(self.layout(keys)?, values))
            }
        })
    }

    /// The layout of `keys`: one that this value has already, one that is shared with others, or one of its own.
    fn layout(&mut self, keys: Vec<MapKey>) -> Result<Arc<Layout>, JsonError> {
        let known = self.seen.iter().find(|layout| layout.keys() == keys);
        if let Some(layout) = known {
            return Ok(layout.clone());
        }

        self.take(LAYOUT_BYTES + keys.len() * size_of::<MapKey>())?;
        for key in &keys {
            if let MapKey::String(key) = key {
                self.take_text(key)?;
            }
        }

        // Past the bound nothing is remembered either, so that looking for a known one stays cheap.
        if self.seen.len() == LAYOUTS_PER_VALUE {
            return Ok(Layout::alone(keys));
        }

        let layout = match self.layouts {
            Some(layouts) => layouts.intern(keys),
            None => Layout::alone(keys),
        };

        self.seen.push(layout.clone());
        Ok(layout)
    }
}

fn convert(
    json: &serde_json::Value,
    layouts: Option<&Layouts>,
    depth: usize,
) -> Result<Value, JsonError> {
    use serde_json::Value as Json;
    let within = || depth.checked_sub(1).ok_or(JsonError::TooDeep);
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(int) => Value::Int(int),
            None => number.as_f64().map_or(Value::Null, Value::Double),
        },

        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => {
            let depth = within()?;
            let items: Result<Vec<_>, _> = items
                .iter()
                .map(|item| convert(item, layouts, depth))
                .collect();
            Value::from(items?)
        }

        Json::Object(members) => {
            let depth = within()?;
            let members: Result<Vec<_>, _> = members
                .iter()
                .map(|(key, value)| {
                    Ok((
                        MapKey::String(key.as_str().into()),
                        convert(value, layouts, depth)?,
                    ))
                })
                .collect();
            Value::Map(Map::new(members?, layouts))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Value, JsonError> {
        Value::from_json(&mut json.as_bytes().to_vec(), None)
    }

    #[test]
    fn a_number_is_an_int_only_if_it_is_written_as_one_and_fits() {
        let kinds = [
            ("1", "int"),
            ("-9223372036854775808", "int"),
            ("9223372036854775807", "int"),
            ("9223372036854775808", "double"),
            ("-9223372036854775809", "double"),
            ("12345678901234567890", "double"),
            ("123456789012345678901234567890", "double"),
            ("1.0", "double"),
            ("1e2", "double"),
        ];
        for (json, kind) in kinds {
            assert_eq!(read(json).unwrap().kind(), kind, "{json}");
            let serde: serde_json::Value = serde_json::from_str(json).unwrap();
            let converted = Value::from_serde(&serde, None).unwrap();
            assert_eq!(
                (converted.kind(), converted),
                (kind, read(json).unwrap()),
                "{json}"
            );
        }
    }

    #[test]
    fn what_is_read_is_written_again() {
        let json = r#"{"a":[1,2.5,null,true],"b":{"c":"ü\"\n"}}"#;
        assert_eq!(serde_json::to_string(&read(json).unwrap()).unwrap(), json);
        assert_eq!(read(r#"{"a":1,"a":2}"#).unwrap().get("a"), &Value::Int(2));
    }

    #[test]
    fn a_value_is_bounded_by_what_it_takes_in_memory() {
        let within = |max: usize, json: &str| {
            Value::from_json_within(max, &mut json.as_bytes().to_vec(), &Layouts::new())
        };
        let list = |item: &str, n: usize| format!("[{}]", vec![item; n].join(","));
        // 24 bytes a value, and what its kind takes besides.
        let cases = [
            (list("1", 1000), 24_000),
            (list("{}", 1000), 72_000),
            (list("[]", 1000), 48_000),
            (list(r#"{"a":1,"b":2}"#, 1000), 120_000),
            (list(&format!("\"{}\"", "x".repeat(100)), 1000), 148_000),
        ];
        for (json, bytes) in cases {
            assert!(within(bytes + 500, &json).is_ok(), "{json:.20}");
            let refused = within(bytes, &json).unwrap_err();
            assert_eq!(refused, JsonError::TooLarge(bytes), "{json:.20}");
        }
        let keys: Vec<String> = (0..100).map(|n| format!("{{\"k{n}\":0}}")).collect();
        let many = format!("[{}]", keys.join(","));
        assert!(within(20_000, &many).is_err(), "each has keys of its own");
        assert!(within(30_000, &many).is_ok());
    }

    #[test]
    fn a_value_shares_a_bounded_number_of_layouts_and_reads_the_same() {
        let layouts = Layouts::new();
        let object = |n: usize| format!("{{\"k{n}\":{{\"k{n}\":{n}}}}}");
        let objects: Vec<String> = (0..100).map(object).collect();
        let json = format!("[{}]", objects.join(","));
        let value = Value::from_json(&mut json.clone().into_bytes(), &layouts).unwrap();
        assert_eq!(layouts.len(), LAYOUTS_PER_VALUE);
        assert_eq!(serde_json::to_string(&value).unwrap(), json);
        assert_eq!(value, read(&json).unwrap());
    }

    #[test]
    fn bad_and_deep_json_is_refused() {
        for bad in [
            "",
            "{",
            "[1,]",
            "{\"a\"}",
            "nul",
            "1 2",
            "\"\u{1}\"",
            "1e400",
            "[1}",
        ] {
            assert!(
                matches!(read(bad), Err(JsonError::Syntax { .. })),
                "{bad}: {:?}",
                read(bad)
            );
        }
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(read(&nested(DATA_DEPTH)).is_ok());
        assert_eq!(
            read(&nested(DATA_DEPTH + 1)).unwrap_err(),
            JsonError::TooDeep
        );
        assert_eq!(read(&nested(100_000)).unwrap_err(), JsonError::TooDeep);
        let mut serde = serde_json::Value::Null;
        for _ in 0..=DATA_DEPTH {
            serde = serde_json::Value::Array(vec![serde]);
        }
        assert_eq!(
            Value::from_serde(&serde, None).unwrap_err(),
            JsonError::TooDeep
        );
    }
}
