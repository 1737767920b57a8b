//! Values from JSON text and from `serde_json`.

use simd_json::{Buffers, ErrorType, Node, StaticNode};

use super::{
    layout::{Key, Layouts, Map},
    value::Value,
};
use crate::limits::DATA_DEPTH;

/// Why JSON text gave no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Arrays and objects stand deeper in one another than `limits::DATA_DEPTH`.
    #[error("nested deeper than {DATA_DEPTH} levels")]
    TooDeep,
    /// The text is no JSON, no UTF-8, or holds a number beyond the range of a double.
    #[error("not JSON: {reason} at byte {offset}")]
    Syntax {
        /// Where the parser stopped.
        offset: usize,
        /// What it saw there.
        reason: String,
    },
}

impl Value {
    /// Reads JSON, as claims, profiles and params come. A number is an int if it is written as one and fits 64
    /// bits, else a double; of a repeated key the last value stays. The text is scribbled over.
    ///
    /// With `layouts`, objects share their keys with others of the same keys: for what is kept per connection.
    ///
    /// # Errors
    /// [`JsonError`], when the text is no JSON or nests deeper than [`DATA_DEPTH`].
    pub fn from_json<'l>(
        json: &mut [u8],
        layouts: impl Into<Option<&'l Layouts>>,
    ) -> Result<Self, JsonError> {
        let mut buffers = Buffers::with_max_depth(json.len(), DATA_DEPTH);
        let tape =
            simd_json::to_tape_with_buffers(json, &mut buffers).map_err(|e| match e.error() {
                ErrorType::DepthLimitExceeded => JsonError::TooDeep,
                other => JsonError::Syntax {
                    offset: e.index(),
                    reason: format!("{other:?}"),
                },
            })?;
        let mut nodes = tape.0.iter();
        build(&mut nodes, layouts.into(), DATA_DEPTH)
    }

    /// Converts what `serde_json` parsed, by the rules of [`Value::from_json`].
    ///
    /// # Errors
    /// [`JsonError::TooDeep`] past [`DATA_DEPTH`].
    pub fn from_serde<'l>(
        json: &serde_json::Value,
        layouts: impl Into<Option<&'l Layouts>>,
    ) -> Result<Self, JsonError> {
        convert(json, layouts.into(), DATA_DEPTH)
    }
}

fn build<'t>(
    nodes: &mut impl Iterator<Item = &'t Node<'t>>,
    layouts: Option<&Layouts>,
    depth: usize,
) -> Result<Value, JsonError> {
    let Some(node) = nodes.next() else {
        return Err(JsonError::Syntax {
            offset: 0,
            reason: "Eof".into(),
        });
    };
    let within = || depth.checked_sub(1).ok_or(JsonError::TooDeep);
    Ok(match node {
        Node::String(text) => Value::from(*text),
        Node::Static(StaticNode::Null) => Value::Null,
        Node::Static(StaticNode::Bool(value)) => Value::Bool(*value),
        Node::Static(StaticNode::I64(value)) => Value::Int(*value),
        Node::Static(StaticNode::U64(value)) => {
            i64::try_from(*value).map_or(Value::Double(*value as f64), Value::Int)
        }
        Node::Static(StaticNode::F64(value)) => Value::Double(*value),
        Node::Array { len, .. } => {
            let depth = within()?;
            let items: Result<Vec<_>, _> =
                (0..*len).map(|_| build(nodes, layouts, depth)).collect();
            Value::from(items?)
        }
        Node::Object { len, .. } => {
            let depth = within()?;
            let mut members = Vec::with_capacity(*len);
            for _ in 0..*len {
                let Some(Node::String(key)) = nodes.next() else {
                    return Err(JsonError::Syntax {
                        offset: 0,
                        reason: "ExpectedObjectKey".into(),
                    });
                };
                members.push((Key::String((*key).into()), build(nodes, layouts, depth)?));
            }
            Value::Map(Map::new(members, layouts))
        }
    })
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
                        Key::String(key.as_str().into()),
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
