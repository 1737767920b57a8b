//! JSON on the command line: kept as it was written, refused with what to write instead.

use serde_json::value::RawValue;

/// JSON as it was written, so that numbers and the order of keys reach clients unchanged.
pub(super) type Json = Box<RawValue>;

/// Where an event's data comes from.
#[derive(Clone, Debug)]
pub(super) enum Data {
    /// The argument itself.
    Given(Json),
    /// `-`: standard input.
    Stdin,
}

/// Reads any JSON value.
///
/// # Errors
/// Says how a string is quoted, since that is what most mistakes are.
pub(super) fn value(text: &str) -> Result<Json, String> {
    serde_json::from_str(text).map_err(|error| {
        let json = serde_json::Value::from(text).to_string();
        // It was meant to be JSON, so the parser's words help more than quotes.
        if text.trim_start().starts_with(['{', '[', '"']) {
            format!("it is not JSON: {error}")
        } else {
            format!(
                "{json} is not JSON. Put a string in quotes: {}",
                quoted(&json)
            )
        }
    })
}

/// `text` as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Makes a JSON string of a text.
pub(super) fn string(text: &str) -> Result<Json, String> {
    RawValue::from_string(serde_json::Value::from(text).to_string())
        .map_err(|error| error.to_string())
}

/// Reads a JSON object.
///
/// # Errors
/// When it is something else.
pub(super) fn object(text: &str) -> Result<Json, String> {
    match serde_json::from_str::<Json>(text) {
        Ok(json) if json.get().starts_with('{') => Ok(json),
        Ok(_) => {
            Err("it must be a JSON object, such as '{\"email\":\"ann@example.com\"}'".to_owned())
        }
        // Written as `--param` takes it, so the object that was meant is known.
        Err(error) => match text.split_once('=') {
            Some((name, value)) if !text.starts_with('{') => {
                let object = serde_json::json!({ name: value }).to_string();
                Err(format!(
                    "it must be a JSON object, such as {}",
                    quoted(&object)
                ))
            }
            _ => Err(format!("it must be a JSON object: {error}")),
        },
    }
}

/// Reads `DATA`: JSON, or `-`.
///
/// # Errors
/// As [`value`].
pub(super) fn data(text: &str) -> Result<Data, String> {
    if text == "-" {
        return Ok(Data::Stdin);
    }
    match value(text) {
        Ok(json) => Ok(Data::Given(json)),
        // This is what `value` says of a bare word, which was more likely meant as text.
        Err(error) if error.contains("Put a string in quotes") => {
            Err(format!("{error}, or give it as --text {}", quoted(text)))
        }
        Err(error) => Err(error),
    }
}

/// Reads `name=json`.
///
/// # Errors
/// As [`value`], or when there is no name.
pub(super) fn param(text: &str) -> Result<(String, Json), String> {
    match text.split_once('=') {
        Some((name, json)) if !name.is_empty() => Ok((name.to_owned(), value(json)?)),
        _ => Err("write NAME=JSON, such as age=18 or name='\"ann\"'".to_owned()),
    }
}

/// `params` of a request: an object with what was given, the last of a name counting; `None` if nothing was.
pub(super) fn params(
    pairs: &[(String, Json)],
) -> Option<std::collections::BTreeMap<&str, &RawValue>> {
    (!pairs.is_empty()).then(|| {
        pairs
            .iter()
            .map(|(name, json)| (name.as_str(), &**json))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_kept_as_written_and_a_bare_word_is_refused_with_its_quotes() {
        assert_eq!(
            value(r#"{"b":1.0,"a":12345678901234567890}"#)
                .unwrap()
                .get(),
            r#"{"b":1.0,"a":12345678901234567890}"#
        );
        assert_eq!(
            value("hello").unwrap_err(),
            r#""hello" is not JSON. Put a string in quotes: '"hello"'"#
        );
        assert!(
            data("it's")
                .unwrap_err()
                .ends_with(r"or give it as --text 'it'\''s'")
        );
        assert_eq!(string("a \"b\"").unwrap().get(), r#""a \"b\"""#);
        assert!(value(r#"{"a":}"#).unwrap_err().contains("column 6"));
        assert!(matches!(data("-"), Ok(Data::Stdin)));
    }

    #[test]
    fn params_and_objects_are_checked() {
        let (name, json) = param("query=a=1")
            .map_err(|_| ())
            .unwrap_or_else(|()| param("query=1").unwrap());
        assert_eq!((name.as_str(), json.get()), ("query", "1"));
        assert!(param("=1").is_err() && param("age").is_err());
        assert_eq!(
            object("plan=pro").unwrap_err(),
            r#"it must be a JSON object, such as '{"plan":"pro"}'"#
        );
        assert!(object("[1]").is_err() && object("{}").is_ok() && object("x").is_err());
    }
}
