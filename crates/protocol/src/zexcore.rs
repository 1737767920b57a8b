//! Zexcore RTM's frames: JSON objects in text frames, distinguished by `type`, and events whose data is a list of
//! arguments.
//!
//! An answer has the `id` of its request and `data`. Its client takes `data.error` for a failure, and a false `data` in the
//! answer to `auth` for a refusal, after which it does not come back.

use std::borrow::Cow;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    native::{ParsedAck, ParsedData, ParsedFrame},
    wire::{Encoding, Out},
};

/// Longest `id`, in bytes of JSON. Clients send UUIDs.
const ID_BYTES: usize = 64;

/// What a client says.
#[derive(Debug, Deserialize)]
pub struct ClientFrame<'a> {
    /// Names the answer.
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    /// What is asked for.
    #[serde(borrow, rename = "type")]
    pub kind: Cow<'a, str>,
    /// The arguments.
    #[serde(borrow, default)]
    pub data: Option<&'a RawValue>,
    /// The function to invoke.
    #[serde(borrow, default)]
    pub function: Option<Text<'a>>,
    /// What is subscribed to.
    #[serde(borrow, default)]
    pub tags: Vec<Text<'a>>,
}

/// A string as JSON has it, borrowed where it has no escapes.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl<'a> ClientFrame<'a> {
    /// Reads a message; `None` if it is not one of the protocol.
    pub fn read(text: &'a str) -> Option<Self> {
        let frame: Self = serde_json::from_str(text).ok()?;
        // The answer repeats the id, so it is short, and a string or a number.
        let is_answerable = frame.id.is_none_or(|id| {
            id.get().len() <= ID_BYTES
                && id
                    .get()
                    .starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit())
        });
        is_answerable.then_some(frame)
    }

    /// Names the answer.
    pub fn id(&self) -> Option<&'a RawValue> {
        self.id
    }

    /// The id of an `auth`, whose answer is not as the others are.
    pub fn auth_id(&self) -> Option<Box<RawValue>> {
        let id = format!("{AUTH}{}]", self.id?.get());
        RawValue::from_string(id).ok()
    }

    /// The token of an `auth`: its first argument, or the `token` in it.
    pub fn token(&self) -> Option<Cow<'a, str>> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Credentials {
            Token(String),
            Object { token: String },
        }
        // A tuple of one, so that a list with more arguments is refused.
        let (credentials,): (Credentials,) = serde_json::from_str(self.data?.get()).ok()?;
        let (Credentials::Token(token) | Credentials::Object { token }) = credentials;
        (!token.is_empty()).then_some(token.into())
    }
}

/// How the id of an `auth` begins in the server: it is a list of this and the client's id.
const AUTH: &str = "[\"auth\",";

/// The client's id in the id of an `auth`; `None` for that of anything else.
fn auth_id(id: &RawValue) -> Option<&RawValue> {
    // No client can send such an id: those are strings and numbers, never lists.
    let inner = id.get().strip_prefix(AUTH)?.strip_suffix(']')?;
    serde_json::from_str(inner).ok()
}

/// Native frames as clients of Zexcore RTM get them.
#[derive(Clone, Copy, Debug)]
pub struct Zexcore;

/// An answer.
#[derive(Serialize)]
struct CallbackAnswer<'a, T> {
    id: &'a RawValue,
    data: T,
}

/// What a client learns of itself when it has authenticated.
#[derive(Serialize)]
struct Authenticated<'a> {
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
}

/// Why there is no other answer.
#[derive(Serialize)]
struct Failure<'a> {
    error: Reason<'a>,
}

#[derive(Serialize)]
struct Reason<'a> {
    code: &'a str,
    message: &'a str,
}

impl Encoding for Zexcore {
    fn encode(&self, said: &ParsedFrame<'_>, out: &mut Out) {
        match said {
            ParsedFrame::Event { name, data, .. } => event(name, *data, out),
            ParsedFrame::Ack(ack) => done(ack, out),
            ParsedFrame::Error {
                id: Some(id),
                code,
                message,
            } => match auth_id(id) {
                Some(id) => answer(id, false, out),
                None => answer(id, failure(code, message), out),
            },
            // It has no word for the rest, and nobody waits for it.
            _ => {
                out.control(said);
            }
        }
    }
}

fn event(name: &str, data: ParsedData<'_>, out: &mut Out) {
    let name = serde_json::to_vec(name).unwrap_or_default();
    let encoded;
    let (before, data, behind): (&[u8], &str, &[u8]) = match data {
        // It is spread into the arguments of the client's callback.
        ParsedData::Json(data) if data.get().trim_start().starts_with('[') => {
            (b"", data.get(), b"")
        }
        ParsedData::Json(data) => (b"[", data.get(), b"]"),
        ParsedData::Bytes(bytes) => {
            encoded = BASE64.encode(bytes);
            (b"[{\"$bytes\":\"", &encoded, b"\"}]")
        }
    };

    out.text(&[
        b"{\"event\":",
        &name,
        b",\"data\":",
        before,
        data.as_bytes(),
        behind,
        b"}",
    ]);
}

/// Says that what was asked for is done, with what a function has returned.
fn done(ack: &ParsedAck<'_>, out: &mut Out) {
    if let Some(id) = auth_id(ack.id) {
        let user = ack.user.as_deref();
        let expires_at = ack.expires_at;
        return answer(id, Authenticated { user, expires_at }, out);
    }
    match ack.data {
        Some(data) => answer(ack.id, data, out),
        None => answer(ack.id, true, out),
    }
}

fn failure<'a>(code: &'a str, message: &'a str) -> Failure<'a> {
    Failure {
        error: Reason { code, message },
    }
}

fn answer(id: &RawValue, data: impl Serialize, out: &mut Out) {
    // JSON and strings always serialize.
    let text = serde_json::to_vec(&CallbackAnswer { id, data }).unwrap_or_default();
    out.text(&[&text]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        close::Close,
        event::{Data, Event},
        frame::Frame,
        native,
    };

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    /// The text of what a client gets in place of `frame`; nothing if that is nothing.
    fn said(frame: &Frame) -> String {
        let mut out = Out::default();
        Zexcore.encode(&ParsedFrame::read(frame).unwrap(), &mut out);
        let bytes = out.into_bytes();
        if bytes.is_empty() {
            return String::new();
        }
        let frame = Frame::ready(bytes);
        assert!(frame.is_text());
        String::from_utf8(frame.payload().to_vec()).unwrap()
    }

    #[test]
    fn data_of_events_is_a_list_of_arguments() {
        for (data, arguments) in [
            (r#"[1, "a"]"#, r#"[1, "a"]"#),
            ("[]", "[]"),
            ("{\"a\":1.0}", "[{\"a\":1.0}]"),
            ("\"[1]\"", "[\"[1]\"]"),
            ("null", "[null]"),
        ] {
            let data = raw(data);
            let event = Event::new("a\"b", Data::Json(&data)).unwrap();
            assert_eq!(
                said(&event.encode()),
                format!(r#"{{"event":"a\"b","data":{arguments}}}"#)
            );
        }
        let bytes = Event::new("e", Data::Bytes(b"\0\xff"[..].into())).unwrap();
        assert_eq!(
            said(&bytes.encode()),
            r#"{"event":"e","data":[{"$bytes":"AP8="}]}"#
        );
    }

    #[test]
    fn answers_have_the_id_of_their_request() {
        let id = raw("\"a-b\"");
        for (frame, text) in [
            (native::ack(&id), r#"{"id":"a-b","data":true}"#),
            (
                native::ack_data(&id, &raw(r#"{"a": [1.0]}"#)),
                r#"{"id":"a-b","data":{"a": [1.0]}}"#,
            ),
            (
                native::ack_data(&id, RawValue::NULL),
                r#"{"id":"a-b","data":null}"#,
            ),
            (
                native::error(Some(&id), "forbidden", "a \"b\""),
                r#"{"id":"a-b","data":{"error":{"code":"forbidden","message":"a \"b\""}}}"#,
            ),
        ] {
            assert_eq!(said(&frame), text);
        }
    }

    #[test]
    fn a_refused_auth_is_answered_with_what_is_false() {
        let text = r#"{"id":"a-b","type":"auth","data":["t"]}"#;
        let id = ClientFrame::read(text).unwrap().auth_id().unwrap();
        let refused = native::error(Some(&id), "unauthorized", "bad");
        assert_eq!(said(&refused), r#"{"id":"a-b","data":false}"#);
        assert_eq!(
            said(&native::ack_auth(&id, "ann", Some(7))),
            r#"{"id":"a-b","data":{"user":"ann","expires_at":7}}"#
        );
        assert_eq!(
            said(&native::ack_auth(&id, "ann", None)),
            r#"{"id":"a-b","data":{"user":"ann"}}"#
        );
    }

    #[test]
    fn what_nobody_waits_for_is_nothing() {
        for frame in [
            native::pong(),
            native::joined("room", None),
            native::left("room"),
            native::error(None, "bad_message", "m"),
            native::bye(4200, "draining", 5),
        ] {
            assert_eq!(said(&frame), "");
        }
        let close = Frame::close(&Close::new(4200, "draining"));
        let mut out = Out::default();
        Zexcore.encode(&ParsedFrame::read(&close).unwrap(), &mut out);
        assert_eq!(out.into_bytes(), close.bytes());
    }

    #[test]
    fn messages_are_read_as_clients_write_them() {
        let frame = |text| ClientFrame::read(text).unwrap();
        let invoke =
            frame(r#"{"id":"u-1","type":"invoke","data":[1.0,{"a":null}],"function":"f\n"}"#);
        assert_eq!(invoke.id().unwrap().get(), "\"u-1\"");
        assert_eq!(&*invoke.kind, "invoke");
        assert_eq!(invoke.data.unwrap().get(), r#"[1.0,{"a":null}]"#);
        assert_eq!(invoke.function.unwrap().0, "f\n");

        let subscribe =
            frame(r#"{"id":"u","type":"subscribe","event":"e","tags":["a","b\u0041"]}"#);
        let tags: Vec<&str> = subscribe.tags.iter().map(|Text(tag)| &**tag).collect();
        assert_eq!(tags, ["a", "bA"]);

        for (data, token) in [
            (r#"["t"]"#, Some("t")),
            (r#"[{"token":"t","more":1}]"#, Some("t")),
            (r#"[""]"#, None),
            ("[]", None),
            ("[1]", None),
            (r#"["t","more"]"#, None),
            (r#""t""#, None),
            ("null", None),
        ] {
            let text = format!(r#"{{"id":1,"type":"auth","data":{data}}}"#);
            let frame = ClientFrame::read(&text).unwrap();
            assert_eq!(frame.token().as_deref(), token, "{data}");
        }
    }

    #[test]
    fn what_is_no_message_of_the_protocol_is_not_read() {
        for text in [
            "",
            "ping",
            "[]",
            "{}",
            r#"{"id":1}"#,
            r#"{"type":1}"#,
            r#"{"type":"invoke","id":[1]}"#,
            r#"{"type":"invoke","id":{}}"#,
            r#"{"type":"invoke","function":1}"#,
            r#"{"type":"subscribe","tags":"a"}"#,
            r#"{"type":"subscribe","tags":[1]}"#,
        ] {
            assert!(ClientFrame::read(text).is_none(), "{text}");
        }
        let id = |length: usize| format!(r#"{{"type":"x","id":"{}"}}"#, "i".repeat(length));
        assert!(ClientFrame::read(&id(62)).is_some());
        assert!(ClientFrame::read(&id(63)).is_none());
    }
}
