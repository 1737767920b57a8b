//! Bodies: read within bounds, parsed with clear errors.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{StatusCode, body::Incoming};
use serde::{
    Deserialize, Deserializer,
    de::{Error, Unexpected, Visitor},
};
use serde_json::value::RawValue;

use super::{
    problem::Problem,
    shape::{Kind, LEAVE_OUT, Shape, field, missing},
};
use crate::{
    auth::json_kind,
    filter::Value,
    id::AppId,
    limits::LONG_BODY,
    node::{ClusterScope, Exceptions, Node, Target, To},
};

/// Reads a body of at most `limit` bytes within `time`.
///
/// # Errors
/// 413, 408, and 400 if the client broke off.
pub(crate) async fn read(body: Incoming, limit: usize, time: Duration) -> Result<Bytes, Problem> {
    match tokio::time::timeout(time, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("the body is over {limit} bytes (limits.body_bytes)"),
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

/// Parses JSON into `T`, which takes the fields of `shape`.
///
/// # Errors
/// 400 with a code of its own for a body that is not JSON, for an unknown field, a missing one, and a value of the wrong
/// kind.
pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8], shape: &Shape) -> Result<T, Problem> {
    let text = text(body)?;
    serde_json::from_str(text).map_err(|error| shape.explain("", text, &error))
}

/// The text of a body, which is a JSON object if it is JSON.
///
/// # Errors
/// 400 `bad_json`.
pub(crate) fn text(body: &[u8]) -> Result<&str, Problem> {
    let refuse = |detail: String| Err(Problem::bad_request("bad_json", detail));
    if body.iter().all(u8::is_ascii_whitespace) {
        return refuse("the body is empty; send a JSON object".to_owned());
    }

    let text = match std::str::from_utf8(body) {
        Ok(text) => text,
        Err(error) => {
            return refuse(format!(
                "the body is not UTF-8 at byte {}",
                error.valid_up_to()
            ));
        }
    };

    // serde would take a list for a struct.
    let start = text.trim_start();
    if !start.starts_with('{') && serde_json::from_str::<&RawValue>(text).is_ok() {
        return refuse(format!(
            "a JSON object is required, not {}",
            json_kind(start)
        ));
    }

    Ok(text)
}

/// A field that is there. Unlike serde's own `Option` it refuses `null`, as every field but `data` does.
pub(crate) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// `scope` and `receipt`. serde's own enums would take `{"node": null}` as well.
pub(crate) fn extent<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ClusterScope>, D::Error> {
    struct Word;

    impl Visitor<'_> for Word {
        type Value = ClusterScope;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("cluster or node")
        }

        fn visit_str<E: Error>(self, word: &str) -> Result<ClusterScope, E> {
            match word {
                "cluster" => Ok(ClusterScope::Cluster),
                "node" => Ok(ClusterScope::Node),
                _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
            }
        }
    }

    from.deserialize_str(Word).map(Some)
}

/// The shape of `to`.
pub(crate) static TO: Shape = Shape {
    fields: &[
        field("users", Kind::Texts),
        field("channels", Kind::Texts),
        field("connections", Kind::Texts),
    ],
    required: &[],
};

/// The shape of `except`.
pub(crate) static EXCEPT: Shape = Shape {
    fields: &[
        field("users", Kind::Texts),
        field("connections", Kind::Texts),
        field("devices", Kind::Texts),
    ],
    required: &[],
};

/// `to` as a call gives it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ToFields {
    users: Vec<String>,
    channels: Vec<String>,
    connections: Vec<String>,
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
            return Err(missing(&["to", "filter"]));
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
/// 400 where it is not an object, or nests too deeply.
pub(crate) fn params(json: &str) -> Result<Value, Problem> {
    let wrong = |detail: String| Problem::bad_request("bad_params", detail);
    let json = json.trim_start();
    if !json.starts_with('{') {
        return Err(wrong(Kind::Members.mismatch("params", json, LEAVE_OUT)));
    }
    // The parser writes into the text that it reads, and this one is only borrowed.
    Value::from_json(&mut json.as_bytes().to_vec(), None)
        .map_err(|error| wrong(format!("\"params\": {error}")))
}

/// Does what [`params`] does, on a thread that serves no client.
///
/// # Errors
/// As [`params`].
pub(crate) async fn params_aside(node: &Node, app: AppId, json: &str) -> Result<Value, Problem> {
    let text = json.to_owned();
    let built = node.run_in_background(app, move || params(&text)).await;
    built.unwrap_or_else(|| Err(Problem::internal("the params could not be built")))
}

/// Understands a body by `read`; a long one on a thread that serves no client.
///
/// # Errors
/// Those of `read`.
pub(crate) async fn understand<T: Send + 'static>(
    node: &Node,
    app: AppId,
    body: &Bytes,
    read: fn(&[u8]) -> Result<T, Problem>,
) -> Result<T, Problem> {
    // Another thread is worth its wait only if reading would hold up this one's clients.
    if body.len() < LONG_BODY {
        return read(body);
    }
    let body = body.clone();
    let understood = node.run_in_background(app, move || read(&body)).await;
    understood.unwrap_or_else(|| Err(Problem::internal("the body could not be read")))
}

/// Reads `to`.
///
/// # Errors
/// 400 where it is not an object of lists of strings.
pub(crate) fn to(raw: &RawValue) -> Result<To, Problem> {
    let fields: ToFields = inner("to", raw, &TO)?;
    Ok(To {
        users: fields.users,
        channels: fields.channels,
        connections: fields.connections,
    })
}

/// Reads `except`.
///
/// # Errors
/// 400 where it is not an object of lists of strings.
pub(crate) fn except(raw: &RawValue) -> Result<Exceptions, Problem> {
    inner("except", raw, &EXCEPT)
}

fn inner<'a, T: Deserialize<'a>>(
    name: &str,
    raw: &'a RawValue,
    shape: &'static Shape,
) -> Result<T, Problem> {
    // serde would take a list for a struct.
    if !raw.get().starts_with('{') {
        let detail = Kind::Object(shape).mismatch(name, raw.get(), LEAVE_OUT);
        return Err(Problem::bad_request("bad_field", detail));
    }
    serde_json::from_str(raw.get()).map_err(|error| shape.explain(name, raw.get(), &error))
}
