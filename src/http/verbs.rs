//! The publishing calls: which fields each takes, and what they mean.

use std::borrow::Cow;

use ahash::AHashSet;
use data_encoding::BASE64_NOPAD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    body::{self, EXCEPT, TO, present},
    problem::Problem,
    shape::{Kind, LEAVE_OUT, Shape, field, missing, shown},
};
use crate::{
    filter::Value,
    limits::{LONG_BODY, SEND_CHANNELS, TARGET_NAMES, USER_BYTES},
    node::{ClusterScope, Exceptions, Publication, Target, To, check_names},
    protocol::event::{Data, Event},
};

/// The fields of every publishing call together; each call takes some of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerbFields<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    pub(crate) call: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    event: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "present")]
    data_base64: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "present")]
    filter: Option<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    /// What was made of `params` already.
    #[serde(skip)]
    pub(super) built: Option<Value>,
    #[serde(borrow, default, deserialize_with = "present")]
    to: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    except: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "body::extent")]
    scope: Option<ClusterScope>,
    #[serde(default, deserialize_with = "body::extent")]
    receipt: Option<ClusterScope>,
    #[serde(default, deserialize_with = "present")]
    store: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    user: Option<String>,
    #[serde(default, deserialize_with = "present")]
    users: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    channel: Option<String>,
    #[serde(default, deserialize_with = "present")]
    channels: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    recipients: Option<Vec<String>>,
}

/// The publishing calls: thin forms of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Emit,
    Publish,
    Send,
    Broadcast,
    Dispatch,
}

const EXTENT: Kind = Kind::Word(&["cluster", "node"]);
const CALL: Kind = Kind::Word(&["emit", "publish", "send", "broadcast", "dispatch"]);
pub(super) const USER_OR_USERS: [&str; 2] = ["user", "users"];
const CHANNEL_OR_CHANNELS: [&str; 2] = ["channel", "channels"];

/// The shapes of a publishing call, alone and as an item of a batch: the fields that are its own, what its `except` may be,
/// and what every call takes.
macro_rules! shapes {
    ($alone:ident, $item:ident, [$($own:expr),*], $except:expr, [$($required:expr),*]) => {
        static $alone: Shape = shapes!([$($own),*], $except, [$($required),*]);
        static $item: Shape =
            shapes!([field("call", CALL) $(, $own)*], $except, [&["call"] $(, $required)*]);
    };
    ([$($own:expr),*], $except:expr, [$($required:expr),*]) => {
        Shape {
            fields: &[
                $($own,)*
                field("event", Kind::Text),
                field("data", Kind::Any),
                field("data_base64", Kind::Text),
                field("filter", Kind::Text),
                field("params", Kind::Members),
                field("except", $except),
                field("scope", EXTENT),
                field("receipt", EXTENT),
                field("store", Kind::Flag),
            ],
            required: &[$($required,)* &["event"]],
        }
    };
}

shapes!(
    EMIT,
    EMIT_ITEM,
    [field("to", Kind::Object(&TO))],
    Kind::Object(&EXCEPT),
    []
);
shapes!(
    PUBLISH,
    PUBLISH_ITEM,
    [field("user", Kind::Text), field("users", Kind::Texts)],
    Kind::Object(&EXCEPT),
    [&USER_OR_USERS]
);
shapes!(
    SEND,
    SEND_ITEM,
    [field("channel", Kind::Text), field("channels", Kind::Texts)],
    Kind::Object(&EXCEPT),
    [&CHANNEL_OR_CHANNELS]
);
shapes!(BROADCAST, BROADCAST_ITEM, [], Kind::Object(&EXCEPT), []);
shapes!(
    DISPATCH,
    DISPATCH_ITEM,
    [field("recipients", Kind::Texts)],
    Kind::TextsOr(&EXCEPT),
    [&["recipients"]]
);

impl Verb {
    /// The verb that a batch item names.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "emit" => Some(Self::Emit),
            "publish" => Some(Self::Publish),
            "send" => Some(Self::Send),
            "broadcast" => Some(Self::Broadcast),
            "dispatch" => Some(Self::Dispatch),
            _ => None,
        }
    }

    /// The fields that the verb takes.
    pub(crate) fn shape(self) -> &'static Shape {
        match self {
            Self::Emit => &EMIT,
            Self::Publish => &PUBLISH,
            Self::Send => &SEND,
            Self::Broadcast => &BROADCAST,
            Self::Dispatch => &DISPATCH,
        }
    }

    /// The fields of an item of a batch that names the verb.
    pub(crate) fn item_shape(self) -> &'static Shape {
        match self {
            Self::Emit => &EMIT_ITEM,
            Self::Publish => &PUBLISH_ITEM,
            Self::Send => &SEND_ITEM,
            Self::Broadcast => &BROADCAST_ITEM,
            Self::Dispatch => &DISPATCH_ITEM,
        }
    }
}

/// A publishing call, understood: the event, and whom it is for.
#[derive(Debug)]
pub(crate) struct PublishCall<'a> {
    event: Event<'a>,
    /// One publication each. Only a call to several channels has more than one.
    targets: Vec<Target>,
    store: Option<bool>,
    scope: ClusterScope,
    receipt: ClusterScope,
}

impl PublishCall<'_> {
    /// What is to be delivered, all of it or nothing. The data are shared, not copied.
    pub(crate) fn publications(&self) -> Vec<Publication<'_>> {
        let event = || Event {
            name: Cow::Borrowed(&*self.event.name),
            data: match &self.event.data {
                Data::Json(json) => Data::Json(json),
                Data::Bytes(bytes) => Data::Bytes(Cow::Borrowed(bytes)),
            },
        };

        let one = |target: &Target| Publication {
            event: event(),
            target: target.clone(),
            store: self.store,
            author: None,
            scope: self.scope,
            receipt: self.receipt,
        };

        self.targets.iter().map(one).collect()
    }
}

impl<'a> VerbFields<'a> {
    /// Reads an item of a batch: which call it is, and its fields.
    ///
    /// # Errors
    /// 400 for a wrong body, and for a `call` that is missing or unknown.
    pub(crate) fn item(item: &'a [u8]) -> Result<(Verb, Self), Problem> {
        let text = body::text(item)?;
        let (call, fields) = match serde_json::from_str::<Self>(text) {
            Ok(mut fields) => (fields.call.take(), Ok(fields)),
            // Which fields there are depends on the call.
            Err(error) => (called(text), Err(error)),
        };

        let verb = match call {
            Some(call) => Verb::named(&call).ok_or_else(|| unknown_call(&call))?,
            None => return Err(call_fault(text)),
        };

        fields
            .map(|fields| (verb, fields))
            .map_err(|error| verb.item_shape().explain("", text, &error))
    }

    /// The text of `params`, where building them takes long.
    pub(crate) fn long_params(&self) -> Option<&'a str> {
        self.params
            .map(RawValue::get)
            .filter(|json| json.len() >= LONG_BODY)
    }

    /// What the call of `verb` with these fields means.
    ///
    /// # Errors
    /// 400 names the field that is unknown, missing or wrong.
    pub(crate) fn into_call(self, verb: Verb) -> Result<PublishCall<'a>, Problem> {
        self.check_fields(verb)?;
        let except = match (verb, self.except) {
            (_, None) => Exceptions::default(),
            (Verb::Dispatch, Some(raw)) => except_of_dispatch(raw)?,
            (_, Some(raw)) => body::except(raw)?,
        };

        let params = match self.built {
            Some(built) => Some(built),
            None => self.params.map(|raw| body::params(raw.get())).transpose()?,
        };

        let target = Target {
            to: None,
            filter: self.filter,
            params,
            except,
        };

        let to = |to: To| Target {
            to: Some(to),
            ..target.clone()
        };

        let targets = match verb {
            Verb::Emit => vec![
                self.to
                    .map(body::to)
                    .transpose()?
                    .map_or_else(|| target.clone(), to),
            ],
            Verb::Broadcast => vec![target],
            Verb::Publish => {
                let list = if self.user.is_some() { "user" } else { "users" };
                let users = one_or_many(USER_OR_USERS, self.user, self.users)?;
                check_names(list, &users, USER_BYTES)?;
                vec![to(To {
                    users,
                    ..To::default()
                })]
            }
            Verb::Send => {
                let channels = distinct(one_or_many(
                    CHANNEL_OR_CHANNELS,
                    self.channel,
                    self.channels,
                )?)?;
                check_excepted(&target.except, channels.len())?;
                let channel = |name| {
                    to(To {
                        channels: vec![name],
                        ..To::default()
                    })
                };
                channels.into_iter().map(channel).collect()
            }
            Verb::Dispatch => vec![recipients(self.recipients)?.map_or_else(|| target.clone(), to)],
        };

        let name = self.event.ok_or_else(|| missing(&["event"]))?;
        let event = Event::new(name, data(self.data, self.data_base64.as_deref())?)?;
        // To count on every node takes a round trip, so a call has to ask for it.
        let scope = self.scope.unwrap_or(ClusterScope::Cluster);
        let receipt = self.receipt.unwrap_or(ClusterScope::Node);

        Ok(PublishCall {
            event,
            targets,
            store: self.store,
            scope,
            receipt,
        })
    }

    /// Refuses what other calls take and this one does not.
    fn check_fields(&self, verb: Verb) -> Result<(), Problem> {
        let shape = verb.shape();
        let given = [
            ("to", self.to.is_some()),
            ("user", self.user.is_some()),
            ("users", self.users.is_some()),
            ("channel", self.channel.is_some()),
            ("channels", self.channels.is_some()),
            ("recipients", self.recipients.is_some()),
            ("call", self.call.is_some()),
        ];

        match given
            .iter()
            .find(|(name, given)| *given && !shape.has(name))
        {
            Some((name, _)) => Err(shape.unknown("", name)),
            None => Ok(()),
        }
    }
}

/// The call that an item names, whatever else is wrong with it.
fn called(item: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Called<'a> {
        #[serde(borrow)]
        call: Cow<'a, str>,
    }
    serde_json::from_str::<Called<'_>>(item)
        .ok()
        .map(|called| called.call)
}

/// What is wrong with an item that names no call.
fn call_fault(item: &str) -> Problem {
    #[derive(Deserialize)]
    struct Called<'a> {
        #[serde(borrow)]
        call: &'a RawValue,
    }
    serde_json::from_str::<Called<'_>>(item)
        .ok()
        .and_then(|called| CALL.fault("call", called.call.get(), ""))
        .unwrap_or_else(|| missing(&["call"]))
}

fn unknown_call(call: &str) -> Problem {
    let detail = format!(
        "there is no call \"{}\" for a batch; use emit, publish, send, broadcast or dispatch",
        shown(call)
    );
    Problem::bad_request("unknown_call", detail)
}

fn data<'a>(json: Option<&'a RawValue>, base64: Option<&str>) -> Result<Data<'a>, Problem> {
    match (json, base64) {
        (Some(_), Some(_)) => Err(Problem::bad_request(
            "bad_field",
            "send \"data\" or \"data_base64\", not both",
        )),
        (Some(json), None) => Ok(Data::Json(json)),
        (None, None) => Ok(Data::Json(RawValue::NULL)),
        (None, Some(text)) => match data_encoding::BASE64.decode(text.as_bytes()) {
            Ok(bytes) => Ok(Data::Bytes(Cow::Owned(bytes))),
            Err(error) => Err(Problem::bad_request(
                "bad_base64",
                format!(
                    "\"data_base64\" must be padded base64: {}",
                    why_not_base64(text, error)
                ),
            )),
        },
    }
}

/// Why `text` is not base64, in the words of those who encoded it.
fn why_not_base64(text: &str, error: data_encoding::DecodeError) -> String {
    // The error names only a place. These two faults are common, and have a remedy.
    if BASE64_NOPAD.decode(text.as_bytes()).is_ok() {
        return "the padding \"=\" at its end is missing".to_owned();
    }
    if text.contains(['-', '_']) && !text.contains(['+', '/']) {
        return "it is base64url; write + in place of -, and / in place of _".to_owned();
    }
    error.to_string()
}

/// A list of user ids, or what `except` is elsewhere.
fn except_of_dispatch(raw: &RawValue) -> Result<Exceptions, Problem> {
    if raw.get().starts_with('{') {
        return body::except(raw);
    }
    let users: Vec<String> = serde_json::from_str(raw.get()).map_err(|_| except_fault(raw))?;
    check_names("except", &users, USER_BYTES)?;
    Ok(Exceptions {
        users,
        ..Exceptions::default()
    })
}

/// What is wrong with an `except` that is not a list of strings.
fn except_fault(raw: &RawValue) -> Problem {
    let fault = Kind::TextsOr(&EXCEPT).fault("except", raw.get(), LEAVE_OUT);
    fault.unwrap_or_else(|| Problem::bad_request("bad_field", "\"except\" cannot be read"))
}

/// The names of the field of one, or of the field of many; `fields` is how these are called.
pub(super) fn one_or_many(
    fields: [&str; 2],
    one: Option<String>,
    many: Option<Vec<String>>,
) -> Result<Vec<String>, Problem> {
    match (one, many) {
        (Some(_), Some(_)) => Err(Problem::bad_request(
            "bad_field",
            format!("send \"{}\" or \"{}\", not both", fields[0], fields[1]),
        )),
        (Some(one), None) => Ok(vec![one]),
        (None, Some(many)) => Ok(many),
        (None, None) => Err(missing(&fields)),
    }
}

/// Each channel once, in the order in which they came.
fn distinct(channels: Vec<String>) -> Result<Vec<String>, Problem> {
    let mut seen = AHashSet::new();
    let channels: Vec<String> = channels
        .into_iter()
        .filter(|name| seen.insert(name.clone()))
        .collect();
    if channels.len() > SEND_CHANNELS {
        let detail = format!(
            "\"channels\" has {} names; at most {SEND_CHANNELS} fit one call",
            channels.len()
        );
        return Err(Problem::bad_request("too_many_names", detail));
    }

    Ok(channels)
}

/// Refuses an `except` that names too many for a call to so many channels: each channel has it as a list of its own.
fn check_excepted(except: &Exceptions, channels: usize) -> Result<(), Problem> {
    let names = except.users.len() + except.connections.len() + except.devices.len();
    let most = TARGET_NAMES / channels.max(1);
    if channels > 1 && names > most {
        let detail = format!(
            "\"except\" has {names} names; a call to {channels} channels takes at most {most}"
        );
        return Err(Problem::bad_request("too_many_names", detail));
    }
    Ok(())
}

/// Users, or everyone for just `["*"]`.
fn recipients(recipients: Option<Vec<String>>) -> Result<Option<To>, Problem> {
    let users = recipients.ok_or_else(|| missing(&["recipients"]))?;
    check_names("recipients", &users, USER_BYTES)?;
    if users == ["*"] {
        return Ok(None);
    }
    if users.iter().any(|user| user == "*") {
        let detail = "\"*\" means everyone, and so must be alone in \"recipients\"";
        return Err(Problem::bad_request("bad_field", detail));
    }

    Ok(Some(To {
        users,
        ..To::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call_of(verb: Verb, body: &str) -> Result<Vec<Target>, &'static str> {
        let fields: VerbFields<'_> =
            body::parse(body.as_bytes(), verb.shape()).map_err(|problem| problem.code())?;
        fields
            .into_call(verb)
            .map(|order| order.targets)
            .map_err(|problem| problem.code())
    }

    fn to(verb: Verb, body: &str) -> Option<To> {
        let mut targets = call_of(verb, body).unwrap();
        assert_eq!(targets.len(), 1, "{body}");
        targets.remove(0).to
    }

    #[test]
    fn bad_base64_is_told_what_to_change() {
        for (text, why) in [
            ("AP8", "the padding \"=\" at its end is missing"),
            (
                "-_8=",
                "it is base64url; write + in place of -, and / in place of _",
            ),
            ("*", "invalid length at 0"),
        ] {
            let problem = data(None, Some(text)).unwrap_err();
            let detail = format!("\"data_base64\" must be padded base64: {why}");
            assert_eq!(problem.detail(), detail, "{text}");
        }
        assert!(data(None, Some("AP8=")).is_ok());
    }

    #[test]
    fn the_verbs_fill_in_their_part_of_the_target() {
        assert_eq!(
            to(Verb::Publish, r#"{"user":"u","event":"e"}"#)
                .unwrap()
                .users,
            ["u"]
        );
        assert!(to(Verb::Broadcast, r#"{"event":"e"}"#).is_none());
        assert!(
            to(
                Verb::Dispatch,
                r#"{"recipients":["*"],"event":"e","except":["u"]}"#
            )
            .is_none()
        );
        assert_eq!(
            to(Verb::Emit, r#"{"to":{},"event":"e"}"#).unwrap().users,
            [""; 0]
        );
        assert_eq!(
            to(Verb::Emit, r#"{"to":{"channels":["a","b"]},"event":"e"}"#)
                .unwrap()
                .channels,
            ["a", "b"]
        );
        assert!(to(Verb::Dispatch, r#"{"recipients":[],"event":"e"}"#).is_some());
        assert_eq!(
            to(Verb::Send, r#"{"channel":"a","event":"e"}"#)
                .unwrap()
                .channels,
            ["a"]
        );
    }

    #[test]
    fn several_channels_are_one_publication_each() {
        let targets = call_of(
            Verb::Send,
            r#"{"channels":["b","a","b"],"event":"e","except":{"users":["u"]}}"#,
        )
        .unwrap();
        let named: Vec<Vec<String>> = targets
            .iter()
            .map(|target| target.to.clone().unwrap().channels)
            .collect();
        assert_eq!(named, [["b"], ["a"]]);
        assert!(targets.iter().all(|target| target.except.users == ["u"]));
        assert!(
            call_of(Verb::Send, r#"{"channels":[],"event":"e"}"#)
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn who_is_left_out_counts_for_each_channel() {
        let send = |channels: usize, names: usize| {
            let list = |of: &str, count: usize| -> Vec<String> {
                (0..count).map(|n| format!("{of}{n}")).collect()
            };
            let body = serde_json::json!({
                "channels": list("c", channels), "event": "e", "except": { "users": list("u", names) },
            });
            call_of(Verb::Send, &body.to_string()).map(|targets| targets.len())
        };
        assert_eq!(send(1, 5000).unwrap(), 1);
        assert_eq!(send(100, TARGET_NAMES / 100).unwrap(), 100);
        let error = send(100, TARGET_NAMES / 100 + 1).unwrap_err();
        assert_eq!(error, "too_many_names");
    }

    #[test]
    fn dispatch_excepts_users_or_whatever_the_others_do() {
        let except = |except: &str| {
            let body = format!(r#"{{"recipients":["*"],"event":"e","except":{except}}}"#);
            call_of(Verb::Dispatch, &body).map(|mut targets| targets.remove(0).except)
        };
        assert_eq!(except(r#"["u"]"#).unwrap().users, ["u"]);
        assert_eq!(except(r#"{"devices":["d"]}"#).unwrap().devices, ["d"]);
        assert_eq!(except(r#"{"device":["d"]}"#).unwrap_err(), "unknown_field");
        for wrong in ["null", "1", "\"u\"", "[1]"] {
            assert_eq!(except(wrong).unwrap_err(), "bad_field", "{wrong}");
        }
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
            (
                Verb::Emit,
                r#"{"event":"e","channel":"c"}"#,
                "unknown_field",
            ),
            (Verb::Emit, r#"{"event":"e","to":[]}"#, "bad_field"),
            (
                Verb::Emit,
                r#"{"event":"e","to":{"user":[]}}"#,
                "unknown_field",
            ),
            (
                Verb::Emit,
                r#"{"event":"e","data":null,"data_base64":""}"#,
                "bad_field",
            ),
            (
                Verb::Emit,
                r#"{"event":"e","data_base64":"AP8"}"#,
                "bad_base64",
            ),
            (
                Verb::Emit,
                r#"{"event":"e","data_base64":"*"}"#,
                "bad_base64",
            ),
            (Verb::Emit, r#"{"event":"e","params":[]}"#, "bad_params"),
            (Verb::Emit, r#"{"event":"e","store":1}"#, "bad_field"),
            (Verb::Emit, r#"{"event":""}"#, "event_name_length"),
            (Verb::Broadcast, r#"{"event":"e","to":{}}"#, "unknown_field"),
            (Verb::Publish, r#"{"event":"e"}"#, "missing_field"),
            (
                Verb::Publish,
                r#"{"event":"e","user":"a","users":[]}"#,
                "bad_field",
            ),
            (
                Verb::Publish,
                r#"{"event":"e","user":"a","channels":[]}"#,
                "unknown_field",
            ),
            (Verb::Send, r#"{"event":"e"}"#, "missing_field"),
            (Verb::Send, r#"{"channel":"a"}"#, "missing_field"),
            (
                Verb::Send,
                r#"{"event":"e","channel":"a","channels":[]}"#,
                "bad_field",
            ),
            (
                Verb::Send,
                r#"{"event":"e","channel":"a","to":{}}"#,
                "unknown_field",
            ),
            (
                Verb::Dispatch,
                r#"{"event":"e","recipients":["*","u"]}"#,
                "bad_field",
            ),
        ] {
            assert_eq!(call_of(verb, body).unwrap_err(), code, "{body}");
        }
    }

    #[test]
    fn an_item_is_refused_in_the_words_of_its_call() {
        for (item, detail) in [
            ("{}", "\"call\" is required"),
            (r#"{"evnt":"e"}"#, "\"call\" is required"),
            (
                r#"{"call":null}"#,
                "\"call\" must be \"emit\", \"publish\", \"send\", \"broadcast\" or \"dispatch\", not null",
            ),
            (
                r#"{"call":"shout"}"#,
                "there is no call \"shout\" for a batch; use emit, publish, send, broadcast or dispatch",
            ),
            (
                r#"{"call":"send","chanel":"c","event":"e"}"#,
                "unknown field \"chanel\"; did you mean \"channel\"?",
            ),
            (
                r#"{"call":"dispatch","except":["u"],"recipient":["u"]}"#,
                "unknown field \"recipient\"; did you mean \"recipients\"?",
            ),
            (
                r#"{"call":"publish","user":5}"#,
                "\"user\" must be a string, not a number",
            ),
        ] {
            let problem = VerbFields::item(item.as_bytes()).unwrap_err();
            assert_eq!(problem.detail(), detail, "{item}");
        }
    }
}
