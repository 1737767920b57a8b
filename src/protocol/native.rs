//! The client protocol `fanfare.v1`: JSON objects in text frames, told apart by `op`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::frame::Frame;
use crate::id::ConnectionId;

/// The name of the protocol, as `Sec-WebSocket-Protocol` and `connection.protocol` have it.
pub const NAME: &str = "fanfare.v1";

/// What a client asks for.
#[derive(Debug)]
pub enum Request<'a> {
    /// Authenticate, or renew what was authenticated.
    Auth {
        /// The token.
        token: Cow<'a, str>,
    },
    /// A sign of life for clients that cannot send WebSocket pings.
    Ping,
}

/// A client's message: what it asks for, and the name it wants the answer to carry.
#[derive(Debug)]
pub struct Call<'a> {
    /// A number or a short string, echoed in the answer; without it there is no ack.
    pub id: Option<&'a RawValue>,
    /// What is asked for.
    pub request: Request<'a>,
}

/// Why a message is not understood.
#[derive(Debug)]
pub enum Misunderstood<'a> {
    /// It is no JSON text: the connection ends with 4009.
    NotJson,
    /// It is JSON, and asks for nothing known: the client gets an `error` and stays.
    Refused {
        /// The `id` of the message, if it has one.
        id: Option<&'a RawValue>,
        /// The stable code.
        code: &'static str,
        /// What is wrong with it.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    #[serde(borrow)]
    op: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    token: Option<Cow<'a, str>>,
}

/// Longest `id`, in bytes of JSON.
const ID_BYTES: usize = 64;

/// Reads one text message.
///
/// # Errors
/// [`Misunderstood`] says whether the connection can go on.
pub fn parse(text: &str) -> Result<Call<'_>, Misunderstood<'_>> {
    let refused = |id, code, message: String| Misunderstood::Refused { id, code, message };
    let fields: Fields<'_> = serde_json::from_str(text).map_err(|error| {
        if error.is_data() {
            refused(id(text), "bad_message", without_place(&error))
        } else {
            Misunderstood::NotJson
        }
    })?;
    if !text.trim_start().starts_with('{') {
        // serde would read the fields from an array too.
        return Err(refused(None, "bad_message", "the message is no object".to_owned()));
    }
    let id = fields.id.filter(|id| is_id(id));
    if fields.id.is_some() && id.is_none() {
        return Err(refused(
            None,
            "bad_message",
            format!("id must be a number or a string of up to {ID_BYTES} bytes"),
        ));
    }
    let request = match (fields.op.as_deref(), fields.token) {
        (Some("auth"), Some(token)) => Request::Auth { token },
        (Some("auth"), None) => return Err(refused(id, "bad_message", "auth needs token".to_owned())),
        (Some("ping"), None) => Request::Ping,
        (Some("ping"), Some(_)) => return Err(refused(id, "bad_message", "ping takes no token".to_owned())),
        (Some(op), _) => return Err(refused(id, "unknown_op", format!("there is no op \"{}\"", cut(op)))),
        (None, _) => return Err(refused(id, "bad_message", "the message has no op".to_owned())),
    };
    Ok(Call { id, request })
}

fn is_id(id: &RawValue) -> bool {
    id.get().len() <= ID_BYTES && !id.get().starts_with(['{', '['])
}

/// The `id` of a message, whatever else it says.
pub fn id(text: &str) -> Option<&RawValue> {
    #[derive(Deserialize)]
    struct Id<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
    }
    serde_json::from_str::<Id<'_>>(text).ok()?.id.filter(|id| is_id(id))
}

fn cut(op: &str) -> String {
    op.chars().take(40).collect()
}

fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(what, _)| what.to_owned())
}

#[derive(Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Reply<'a> {
    Welcome {
        connection: &'a str,
        user: Option<&'a str>,
        heartbeat: u64,
    },
    Ack {
        id: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at: Option<u64>,
    },
    Error {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
        code: &'a str,
        message: &'a str,
    },
    Pong,
    Bye {
        code: u16,
        reason: &'a str,
        reconnect_in_ms: u64,
    },
}

fn frame(reply: &Reply<'_>) -> Frame {
    // Plain structs of strings and numbers always serialize.
    Frame::text(&serde_json::to_vec(reply).unwrap_or_default())
}

/// The first message of every connection.
pub fn welcome(connection: ConnectionId, user: Option<&str>, heartbeat_seconds: u64) -> Frame {
    frame(&Reply::Welcome { connection: &connection.to_string(), user, heartbeat: heartbeat_seconds })
}

/// The answer to an `auth` that carried an `id`.
pub fn ack_auth(id: &RawValue, user: &str, expires_at: Option<u64>) -> Frame {
    frame(&Reply::Ack { id, user: Some(user), expires_at })
}

/// The answer to a request that was refused.
pub fn error(id: Option<&RawValue>, code: &str, message: &str) -> Frame {
    frame(&Reply::Error { id, code, message })
}

/// The answer to `ping` without an `id`.
pub fn pong() -> Frame {
    frame(&Reply::Pong)
}

/// The answer to a request that needs no more than to be known done.
pub fn ack(id: &RawValue) -> Frame {
    frame(&Reply::Ack { id, user: None, expires_at: None })
}

/// The last message before the server closes a connection on leaving.
pub fn bye(code: u16, reason: &str, reconnect_in_ms: u64) -> Frame {
    frame(&Reply::Bye { code, reason, reconnect_in_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> (&'static str, String) {
        match parse(text) {
            Err(Misunderstood::Refused { code, message, .. }) => (code, message),
            Err(Misunderstood::NotJson) => ("not_json", String::new()),
            Ok(call) => panic!("{text} was understood as {call:?}"),
        }
    }

    #[test]
    fn requests_are_told_apart_by_op() {
        assert!(matches!(parse(r#"{"op":"ping"}"#), Ok(Call { id: None, request: Request::Ping })));
        let call = parse(r#"{"op":"auth","id":7,"token":"t"}"#).unwrap();
        assert_eq!(call.id.map(RawValue::get), Some("7"));
        assert!(matches!(call.request, Request::Auth { token } if token == "t"));
    }

    #[test]
    fn what_is_not_understood_says_why() {
        assert_eq!(refusal("{").0, "not_json");
        assert_eq!(refusal("nope").0, "not_json");
        for (text, code) in [
            ("[]", "bad_message"),
            ("{}", "bad_message"),
            (r#"{"op":"auth"}"#, "bad_message"),
            (r#"{"op":"dance"}"#, "unknown_op"),
            (r#"{"op":"ping","extra":1}"#, "bad_message"),
            (r#"{"op":"ping","id":{}}"#, "bad_message"),
        ] {
            let (got, message) = refusal(text);
            assert_eq!(got, code, "{text}");
            assert!(!message.is_empty() && !message.contains("line"), "{message}");
        }
    }

    #[test]
    fn replies_have_the_shape_of_the_protocol() {
        let text = |frame: Frame| String::from_utf8(frame.bytes()[2..].to_vec()).unwrap();
        let id: Box<RawValue> = serde_json::from_str("1").unwrap();
        assert_eq!(text(pong()), r#"{"op":"pong"}"#);
        assert_eq!(text(ack(&id)), r#"{"op":"ack","id":1}"#);
        assert_eq!(text(error(None, "c", "m")), r#"{"op":"error","code":"c","message":"m"}"#);
        assert_eq!(
            text(bye(4200, "draining", 5)),
            r#"{"op":"bye","code":4200,"reason":"draining","reconnect_in_ms":5}"#
        );
    }
}
