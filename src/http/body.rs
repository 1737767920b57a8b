//! Bodies: read within bounds, parsed with clear errors.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{StatusCode, body::Incoming};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::problem::Problem;
use crate::{
    node::{Exceptions, Target, To},
    predicate::Value,
    protocol::event::{Data, Event},
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
        Ok(Err(_)) => Err(Problem::bad_request("body_incomplete", "the body ended early")),
        Err(_) => {
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body did not arrive in time"))
        }
    }
}

/// Parses JSON into `T`, whose fields are `fields`.
///
/// # Errors
/// 400 with a code of its own for what is not JSON, an unknown field, a missing one, and a value of the wrong kind.
pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8], fields: &[&str]) -> Result<T, Problem> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::bad_request("bad_json", "the body is empty; send a JSON object"));
    }
    let text = std::str::from_utf8(body).map_err(|error| {
        Problem::bad_request("bad_json", format!("the body is not UTF-8 at byte {}", error.valid_up_to()))
    })?;
    if !text.trim_start().starts_with('{') && serde_json::from_str::<&RawValue>(text).is_ok() {
        return Err(Problem::bad_request("bad_json", "the body must be a JSON object"));
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
    let code = if text.starts_with("missing field") { "missing_field" } else { "bad_field" };
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

/// Whose connections a call means, and whose counts it answers. One node is the whole cluster here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Extent {
    Cluster,
    Node,
}

/// The fields of every publishing call together; each call takes some of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fields<'a> {
    #[serde(borrow, default)]
    pub(crate) call: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default)]
    data_base64: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "present")]
    filter: Option<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    to: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    except: Option<&'a RawValue>,
    /// Both values mean the same while the node is alone; they are read to be checked.
    #[serde(default, rename = "scope")]
    _scope: Option<Extent>,
    #[serde(default, rename = "receipt")]
    _receipt: Option<Extent>,
    #[serde(default)]
    store: Option<bool>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    users: Option<Vec<String>>,
    #[serde(default)]
    recipients: Option<Vec<String>>,
}

/// `to` as a call gives it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ToFields {
    users: Option<Vec<String>>,
    connections: Option<Vec<String>>,
}

/// The publishing calls: thin forms of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Emit,
    Publish,
    Broadcast,
    Dispatch,
}

const EMIT: &[&str] =
    &["event", "data", "data_base64", "filter", "params", "to", "except", "scope", "receipt", "store"];
const PUBLISH: &[&str] = &[
    "user",
    "users",
    "event",
    "data",
    "data_base64",
    "filter",
    "params",
    "except",
    "scope",
    "receipt",
    "store",
];
const BROADCAST: &[&str] =
    &["event", "data", "data_base64", "filter", "params", "except", "scope", "receipt", "store"];
const DISPATCH: &[&str] = &[
    "recipients",
    "except",
    "event",
    "data",
    "data_base64",
    "filter",
    "params",
    "scope",
    "receipt",
    "store",
];

impl Verb {
    /// The verb that a batch item names.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "emit" => Some(Self::Emit),
            "publish" => Some(Self::Publish),
            "broadcast" => Some(Self::Broadcast),
            "dispatch" => Some(Self::Dispatch),
            _ => None,
        }
    }

    /// The fields that the verb takes.
    pub(crate) fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Emit => EMIT,
            Self::Publish => PUBLISH,
            Self::Broadcast => BROADCAST,
            Self::Dispatch => DISPATCH,
        }
    }
}

/// A publishing call, understood: the event and whom it is for.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    pub(crate) event: Event<'a>,
    pub(crate) target: Target,
}

impl<'a> Fields<'a> {
    /// What the call of `verb` with these fields means.
    ///
    /// # Errors
    /// 400 names the field that is unknown, missing or wrong.
    pub(crate) fn order(self, verb: Verb) -> Result<Order<'a>, Problem> {
        self.check_fields(verb)?;
        if self.store == Some(true) {
            let detail = "no history is configured that could keep this event; leave `store` out";
            return Err(Problem::bad_request("store_unavailable", detail));
        }
        let params = self.params.map(|raw| params(raw.get())).transpose()?;
        let (to, except) = match verb {
            Verb::Emit => (self.to.map(to).transpose()?, self.except.map(except).transpose()?),
            Verb::Broadcast => (None, self.except.map(except).transpose()?),
            Verb::Publish => {
                (Some(one_or_many(self.user, self.users)?), self.except.map(except).transpose()?)
            }
            Verb::Dispatch => (recipients(self.recipients)?, self.except.map(except_users).transpose()?),
        };
        let name = self.event.ok_or_else(|| missing("event"))?;
        let event = Event::new(name, data(self.data, self.data_base64.as_deref())?)?;
        Ok(Order {
            event,
            target: Target { to, filter: self.filter, params, except: except.unwrap_or_default() },
        })
    }

    fn check_fields(&self, verb: Verb) -> Result<(), Problem> {
        let allowed = verb.fields();
        let given = [
            ("to", self.to.is_some()),
            ("user", self.user.is_some()),
            ("users", self.users.is_some()),
            ("recipients", self.recipients.is_some()),
            ("call", self.call.is_some()),
        ];
        match given.iter().find(|(name, given)| *given && !allowed.contains(name)) {
            Some((name, _)) => Err(unknown_field(name, allowed)),
            None => Ok(()),
        }
    }
}

fn missing(field: &str) -> Problem {
    Problem::bad_request("missing_field", format!("missing field `{field}`"))
}

fn data<'a>(json: Option<&'a RawValue>, base64: Option<&str>) -> Result<Data<'a>, Problem> {
    match (json, base64) {
        (Some(_), Some(_)) => {
            Err(Problem::bad_request("bad_field", "send `data` or `data_base64`, not both"))
        }
        (Some(json), None) => Ok(Data::Json(json)),
        (None, None) => Ok(Data::Json(RawValue::NULL)),
        (None, Some(text)) => match data_encoding::BASE64.decode(text.as_bytes()) {
            Ok(bytes) => Ok(Data::Bytes(Cow::Owned(bytes))),
            Err(error) => Err(Problem::bad_request("bad_base64", format!("`data_base64`: {error}"))),
        },
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
    Value::from_json(&mut json.as_bytes().to_vec(), None).map_err(|error| wrong(format!("`params`: {error}")))
}

pub(crate) fn to(raw: &RawValue) -> Result<To, Problem> {
    let fields: ToFields = inner("to", raw, &["users", "connections"])?;
    Ok(To { users: fields.users.unwrap_or_default(), connections: fields.connections.unwrap_or_default() })
}

pub(crate) fn except(raw: &RawValue) -> Result<Exceptions, Problem> {
    inner("except", raw, &["users", "connections", "devices"])
}

fn except_users(raw: &RawValue) -> Result<Exceptions, Problem> {
    let users = serde_json::from_str(raw.get()).map_err(|_| {
        Problem::bad_request("bad_field", "`except` of a dispatch must be a list of user ids")
    })?;
    Ok(Exceptions { users, ..Exceptions::default() })
}

fn inner<'a, T: Deserialize<'a>>(name: &str, raw: &'a RawValue, fields: &[&str]) -> Result<T, Problem> {
    if !raw.get().starts_with('{') {
        return Err(Problem::bad_request("bad_field", format!("`{name}` must be an object")));
    }
    serde_json::from_str(raw.get()).map_err(|error| refused(&error, fields))
}

fn one_or_many(user: Option<String>, users: Option<Vec<String>>) -> Result<To, Problem> {
    let users = match (user, users) {
        (Some(_), Some(_)) => {
            return Err(Problem::bad_request("bad_field", "send `user` or `users`, not both"));
        }
        (Some(user), None) => vec![user],
        (None, Some(users)) => users,
        (None, None) => return Err(missing("user")),
    };
    Ok(To { users, connections: Vec::new() })
}

/// Users, or everyone for just `["*"]`.
fn recipients(recipients: Option<Vec<String>>) -> Result<Option<To>, Problem> {
    let users = recipients.ok_or_else(|| missing("recipients"))?;
    if users == ["*"] {
        return Ok(None);
    }
    if users.iter().any(|user| user == "*") {
        let detail = "\"*\" means everyone, and so stands alone in `recipients`";
        return Err(Problem::bad_request("bad_field", detail));
    }
    Ok(Some(To { users, connections: Vec::new() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(verb: Verb, body: &str) -> Result<Target, &'static str> {
        let fields: Fields<'_> = parse(body.as_bytes(), verb.fields()).map_err(|problem| problem.code())?;
        fields.order(verb).map(|order| order.target).map_err(|problem| problem.code())
    }

    #[test]
    fn the_verbs_fill_in_their_part_of_the_target() {
        let target = order(Verb::Publish, r#"{"user":"u","event":"e"}"#).unwrap();
        assert_eq!(target.to.unwrap().users, ["u"]);
        assert!(order(Verb::Broadcast, r#"{"event":"e"}"#).unwrap().to.is_none());
        assert!(
            order(Verb::Dispatch, r#"{"recipients":["*"],"event":"e","except":["u"]}"#).unwrap().to.is_none()
        );
        assert_eq!(order(Verb::Emit, r#"{"to":{},"event":"e"}"#).unwrap().to.unwrap().users, [""; 0]);
        assert!(order(Verb::Dispatch, r#"{"recipients":[],"event":"e"}"#).unwrap().to.is_some());
    }

    #[test]
    fn every_wrong_body_has_a_code() {
        for (verb, body, code) in [
            (Verb::Emit, "", "bad_json"),
            (Verb::Emit, "{", "bad_json"),
            (Verb::Emit, "[]", "bad_json"),
            (Verb::Emit, r#"{"event":"e"} x"#, "bad_json"),
            (Verb::Emit, "{}", "missing_field"),
            (Verb::Emit, r#"{"event":1}"#, "bad_field"),
            (Verb::Emit, r#"{"event":"e","filtre":"x"}"#, "unknown_field"),
            (Verb::Emit, r#"{"event":"e","user":"u"}"#, "unknown_field"),
            (Verb::Emit, r#"{"event":"e","to":[]}"#, "bad_field"),
            (Verb::Emit, r#"{"event":"e","to":{"user":[]}}"#, "unknown_field"),
            (Verb::Emit, r#"{"event":"e","data":null,"data_base64":""}"#, "bad_field"),
            (Verb::Emit, r#"{"event":"e","data_base64":"*"}"#, "bad_base64"),
            (Verb::Emit, r#"{"event":"e","params":[]}"#, "bad_params"),
            (Verb::Emit, r#"{"event":"e","store":true}"#, "store_unavailable"),
            (Verb::Emit, r#"{"event":""}"#, "event_name_length"),
            (Verb::Broadcast, r#"{"event":"e","to":{}}"#, "unknown_field"),
            (Verb::Publish, r#"{"event":"e"}"#, "missing_field"),
            (Verb::Publish, r#"{"event":"e","user":"a","users":[]}"#, "bad_field"),
            (Verb::Dispatch, r#"{"event":"e","recipients":["*","u"]}"#, "bad_field"),
            (Verb::Dispatch, r#"{"event":"e","recipients":[],"except":{}}"#, "bad_field"),
        ] {
            assert_eq!(order(verb, body).unwrap_err(), code, "{body}");
        }
    }

    #[test]
    fn an_unknown_field_gets_a_suggestion() {
        let problem = unknown_field("filtre", EMIT);
        assert!(format!("{problem:?}").contains("did you mean `filter`?"));
    }
}
