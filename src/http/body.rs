//! Bodies: read within bounds, parsed with clear errors.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{StatusCode, body::Incoming};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::problem::Problem;
use crate::{
    node::{Exceptions, Target, To},
    predicate::Value,
};

/// Reads a body of at most `limit` bytes within `time`.
///
/// # Errors
/// 413, 408, and 400 where the client broke off.
pub(crate) async fn read(body: Incoming, limit: usize, time: Duration) -> Result<Bytes, Problem> {
    match tokio::time::timeout(time, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("the body is over {limit} bytes"),
        )),
        Ok(Err(_)) => Err(Problem::bad_request(
            "body_incomplete",
            "the body ended early",
        )),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            "the body did not arrive in time",
        )),
    }
}

/// Parses JSON into `T`, whose fields are `fields`.
///
/// # Errors
/// 400 with a code of its own for what is not JSON, an unknown field, a missing one, and a value of the wrong kind.
pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8], fields: &[&str]) -> Result<T, Problem> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::bad_request(
            "bad_json",
            "the body is empty; send a JSON object",
        ));
    }
    let text = std::str::from_utf8(body).map_err(|error| {
        Problem::bad_request(
            "bad_json",
            format!("the body is not UTF-8 at byte {}", error.valid_up_to()),
        )
    })?;
    if !text.trim_start().starts_with('{') && serde_json::from_str::<&RawValue>(text).is_ok() {
        return Err(Problem::bad_request(
            "bad_json",
            "the body must be a JSON object",
        ));
    }
    serde_json::from_str(text).map_err(|error| refused(&error, fields))
}

/// Names what serde found, in the words of the API. serde tells the kinds of data errors apart by their text only.
fn refused(error: &serde_json::Error, fields: &[&str]) -> Problem {
    let text = error.to_string();
    if !error.is_data() {
        return Problem::bad_request("bad_json", text);
    }
    let quoted = text.split('`').nth(1).unwrap_or("");
    if text.starts_with("unknown field") {
        return unknown_field(quoted, fields);
    }
    let code = if text.starts_with("missing field") {
        "missing_field"
    } else {
        "bad_field"
    };
    Problem::bad_request(code, text)
}

/// The problem of a field that the call does not take, with the nearest one it does.
pub(crate) fn unknown_field(name: &str, fields: &[&str]) -> Problem {
    let nearest = fields
        .iter()
        .map(|field| (strsim::damerau_levenshtein(name, field), field))
        .filter(|(distance, field)| *distance <= field.len() / 2)
        .min();
    let hint = nearest.map_or_else(
        || format!("this call takes {}", fields.join(", ")),
        |(_, field)| format!("did you mean `{field}`?"),
    );
    let name: String = name.chars().take(64).collect();
    Problem::bad_request("unknown_field", format!("unknown field `{name}`; {hint}"))
}

/// A member that is there, even as `null`: what should narrow a target must not fall away for want of a value.
pub(crate) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// The problem of a field that the call needs.
pub(crate) fn missing(field: &str) -> Problem {
    Problem::bad_request("missing_field", format!("missing field `{field}`"))
}

/// `to` as a call gives it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ToFields {
    users: Option<Vec<String>>,
    channels: Option<Vec<String>>,
    connections: Option<Vec<String>>,
}

/// Whom a steering call means, as its body says it.
#[derive(Debug, Default)]
pub(crate) struct Whom<'a> {
    pub(crate) to: Option<&'a RawValue>,
    pub(crate) filter: Option<String>,
    pub(crate) params: Option<&'a RawValue>,
    pub(crate) except: Option<&'a RawValue>,
}

impl Whom<'_> {
    /// The target. It must be said: nobody steers everyone by leaving something out.
    ///
    /// # Errors
    /// 400 where neither `to` nor `filter` is there, or one of the four is wrong.
    pub(crate) fn target(self) -> Result<Target, Problem> {
        if self.to.is_none() && self.filter.is_none() {
            return Err(Problem::bad_request(
                "missing_field",
                "say which connections are meant, by `to` or `filter`",
            ));
        }
        Ok(Target {
            to: self.to.map(to).transpose()?,
            filter: self.filter,
            params: self.params.map(|raw| params(raw.get())).transpose()?,
            except: self.except.map(except).transpose()?.unwrap_or_default(),
        })
    }
}

/// Builds `params` for a filter.
///
/// # Errors
/// 400 where it is no object, or nests too deeply.
pub(crate) fn params(json: &str) -> Result<Value, Problem> {
    let wrong = |detail: String| Problem::bad_request("bad_params", detail);
    if !json.trim_start().starts_with('{') {
        return Err(wrong("`params` must be an object".to_owned()));
    }
    Value::from_json(&mut json.as_bytes().to_vec(), None)
        .map_err(|error| wrong(format!("`params`: {error}")))
}

/// Reads `to`.
///
/// # Errors
/// 400 where it is no object of lists of strings.
pub(crate) fn to(raw: &RawValue) -> Result<To, Problem> {
    let fields: ToFields = inner("to", raw, &["users", "channels", "connections"])?;
    Ok(To {
        users: fields.users.unwrap_or_default(),
        channels: fields.channels.unwrap_or_default(),
        connections: fields.connections.unwrap_or_default(),
    })
}

/// Reads `except`.
///
/// # Errors
/// 400 where it is no object of lists of strings.
pub(crate) fn except(raw: &RawValue) -> Result<Exceptions, Problem> {
    inner("except", raw, &["users", "connections", "devices"])
}

fn inner<'a, T: Deserialize<'a>>(
    name: &str,
    raw: &'a RawValue,
    fields: &[&str],
) -> Result<T, Problem> {
    if !raw.get().starts_with('{') {
        return Err(Problem::bad_request(
            "bad_field",
            format!("`{name}` must be an object"),
        ));
    }
    serde_json::from_str(raw.get()).map_err(|error| refused(&error, fields))
}
