//! Mesa's frames and its messages in Redis: JSON objects, distinguished by the number `op`.
//!
//! Written from the source of npm `@cryb/mesa` 1.5.8.

use std::borrow::Cow;

use fanfare_filter::Value;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    native::{ParsedData, ParsedFrame},
    wire::{Encoding, Out},
};
use crate::{close, limits::USER_BYTES};

/// A message of an application.
pub const DISPATCH: u32 = 0;
/// One side asks whether the other is there.
pub const HEARTBEAT: u32 = 1;
/// The client says who it is.
pub const AUTHENTICATE: u32 = 2;
/// The dispatcher asks the server to do something.
pub const INTERNAL: u32 = 5;
/// What the server says first.
pub const HELLO: u32 = 10;
/// The answer to a heartbeat.
pub const HEARTBEAT_ACK: u32 = 11;
/// The client is authenticated.
pub const AUTHENTICATED: u32 = 22;

/// The name of an event whose message has none.
pub const UNNAMED: &str = "message";
/// By which a client learns that something was refused: Mesa has no errors.
pub const REFUSED: &str = "fanfare:error";
/// The payload of the ping after what was stored for a user. Its pong says that the client has all of it.
pub const STORED_PING: &[u8] = b"mesa:stored";

/// The close code of a client that could not authenticate.
const FAILED: u16 = 1008;
/// The close code of a client with another version.
pub const OTHER_VERSION: u16 = 1002;
/// The close code of a client that may come back later (RFC 6455's registry).
const TRY_AGAIN: u16 = 1013;
/// The close code of a client whose messages cannot be read.
const NOT_READABLE: u16 = 1007;

/// A string as JSON has it, borrowed if it has no escapes.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// A client's message.
#[derive(Debug, Deserialize)]
pub struct ClientFrame<'a> {
    /// What kind of message it is.
    pub op: u32,
    /// Its data.
    #[serde(borrow, default)]
    pub d: Option<&'a RawValue>,
    /// Its name.
    #[serde(borrow, default)]
    pub t: Option<Text<'a>>,
}

/// The data of [`AUTHENTICATE`].
#[derive(Debug, Default, Deserialize)]
pub struct Authentication<'a> {
    /// Who the client is.
    #[serde(borrow, default)]
    pub token: Option<Text<'a>>,
    /// Whether it wants what it has missed. If not, that is thrown away.
    #[serde(rename = "shouldSync", default)]
    pub should_sync: Option<bool>,
}

/// The data of a client's `CLIENT_VERSION`.
#[derive(Debug, Deserialize)]
pub struct ClientVersion<'a> {
    /// Its version of Mesa.
    #[serde(borrow)]
    pub v: Text<'a>,
}

/// A message as a dispatcher publishes or stores it.
#[derive(Debug, Deserialize)]
pub struct StoredMessage<'a> {
    /// What kind of message it is.
    pub op: u32,
    /// Its data.
    #[serde(borrow, default)]
    pub d: Option<&'a RawValue>,
    /// Its name.
    #[serde(borrow, default)]
    pub t: Option<Text<'a>>,
    #[serde(default)]
    o: Option<MessageOptions>,
}

#[derive(Debug, Deserialize)]
struct MessageOptions {
    #[serde(default)]
    sync: Option<bool>,
}

impl StoredMessage<'_> {
    /// The name of its event.
    pub fn name(&self) -> &str {
        self.t.as_ref().map_or(UNNAMED, |Text(name)| name)
    }

    /// Whether it is stored for those who are away.
    pub fn is_synced(&self) -> bool {
        let sync = self.o.as_ref().map(|options| options.sync);
        // A message without options is stored. One with options is stored only if they say so.
        self.op == DISPATCH && sync.is_none_or(|sync| sync == Some(true))
    }
}

/// What a dispatcher publishes.
#[derive(Debug)]
pub struct Dispatched<'a> {
    /// The message.
    pub message: StoredMessage<'a>,
    /// The same as it came.
    pub text: &'a str,
    /// For whom it is.
    pub to: Recipients,
}

/// For whom a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipients {
    /// Everyone who is connected.
    Everyone,
    /// These users, each once.
    Users(Vec<String>),
}

impl<'a> Dispatched<'a> {
    /// Reads what was published.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(payload: &'a [u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Published<'a> {
            #[serde(borrow)]
            message: &'a RawValue,
            recipients: Vec<Recipient>,
        }

        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Recipient {
            Name(String),
            // Where users have numbers, programs pass those.
            Number(serde_json::Number),
        }

        let published: Published<'a> =
            serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        let text = published.message.get();
        let message: StoredMessage<'a> =
            serde_json::from_str(text).map_err(|error| format!("message: {error}"))?;

        if !matches!(message.op, DISPATCH | INTERNAL) {
            return Err(format!(
                "message.op is {}; dispatchers send 0 (a message) and 5 (an event of the server)",
                message.op
            ));
        }

        let mut users: Vec<String> = published
            .recipients
            .into_iter()
            .map(|recipient| match recipient {
                Recipient::Name(name) => name,
                Recipient::Number(number) => number.to_string(),
            })
            .collect();

        let to = if users.iter().any(|user| user == "*") {
            Recipients::Everyone
        } else {
            // No token has such a user: what was stored for one would stay forever.
            let bytes = users.iter().map(String::len);
            if let Some(bytes) = bytes.max().filter(|bytes| *bytes > USER_BYTES) {
                return Err(format!(
                    "recipients has a name of {bytes} bytes; at most {USER_BYTES} fit"
                ));
            }
            users.sort_unstable();
            users.dedup();
            Recipients::Users(users)
        };

        Ok(Self { message, text, to })
    }
}

/// Reads the messages that were stored for a user, oldest first; `None` if the list is not one.
pub fn stored(list: &str) -> Option<Vec<StoredMessage<'_>>> {
    serde_json::from_str(list).ok()
}

/// What is left of the list `now` once the messages of the list `taken` are out of it, if it begins with all of those and has
/// more.
///
/// A dispatcher reads a list, appends to it and writes it back. If the list was taken in between, the old messages come
/// back with the new one. Both lists are as `JSON.stringify` writes them.
pub fn without_taken(now: &str, taken: &str) -> Option<String> {
    let before = taken.strip_suffix(']')?;
    let rest = now.strip_prefix(before)?.strip_prefix(',')?;
    // An empty list is the beginning of every list, and nothing was taken with it.
    (before.len() > 1).then(|| format!("[{rest}"))
}

/// What a server says of itself.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Hello<'a> {
    /// Milliseconds between two heartbeats, if there are any.
    #[serde(
        rename = "c_heartbeat_interval",
        skip_serializing_if = "Option::is_none"
    )]
    pub heartbeat_ms: Option<u64>,
    /// After how many milliseconds a client comes back, if it is to.
    #[serde(
        rename = "c_reconnect_interval",
        skip_serializing_if = "Option::is_none"
    )]
    pub reconnect_ms: Option<u64>,
    /// Milliseconds that a client has to authenticate.
    #[serde(rename = "c_authentication_timeout")]
    pub authentication_ms: u64,
    /// What the client is to do or to expect. Clients fail without the list.
    pub rules: &'a [&'a str],
}

#[derive(Serialize)]
struct ServerFrame<'a, T> {
    op: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    d: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    t: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<usize>,
}

fn write<T: Serialize>(out: &mut Out, frame: &ServerFrame<'_, T>) {
    // Numbers, strings and JSON that was read always serialize.
    out.text(&[&serde_json::to_vec(frame).unwrap_or_default()]);
}

/// An object without members.
#[derive(Serialize)]
struct Empty {}

/// Appends a frame of the protocol's own with `data`.
fn write_own<T: Serialize>(out: &mut Out, op: u32, data: T) {
    let frame = ServerFrame {
        op,
        d: Some(data),
        t: None,
        s: None,
    };
    write(out, &frame);
}

/// Appends what a server says first.
pub fn hello(out: &mut Out, hello: &Hello<'_>) {
    write_own(out, HELLO, hello);
}

/// Appends the answer to a client's heartbeat.
pub fn heartbeat_ack(out: &mut Out) {
    write_own(out, HEARTBEAT_ACK, Empty {});
}

/// Appends that the client is authenticated as `user`, with the claims of its token if it is to have them.
pub fn authenticated(out: &mut Out, user: &str, claims: Option<&Value>) {
    let Some(claims) = claims else {
        return write_own(out, AUTHENTICATED, Empty {});
    };
    let claims = serde_json::to_value(claims).unwrap_or_default();
    let mut object = serde_json::Map::new();
    object.insert("id".to_owned(), user.into());
    if let serde_json::Value::Object(claims) = claims {
        object.extend(claims);
    }
    write_own(out, AUTHENTICATED, object);
}

/// Appends a message that was stored, the `sequence`th of those.
pub fn redelivered(out: &mut Out, message: &StoredMessage<'_>, sequence: usize) {
    let frame = ServerFrame {
        op: message.op,
        d: message.d,
        t: message.t.as_ref().map(|Text(name)| &**name),
        s: Some(sequence),
    };
    write(out, &frame);
}

/// Native frames as clients of Mesa get them.
#[derive(Clone, Copy, Debug)]
pub struct Mesa {
    /// Whether the server's heartbeats are Mesa's own. They are WebSocket's otherwise.
    pub has_heartbeat: bool,
}

impl Encoding for Mesa {
    fn encode(&self, said: &ParsedFrame<'_>, out: &mut Out) {
        match said {
            ParsedFrame::Event { name, data, .. } => match data {
                ParsedData::Json(data) => write_event(out, name, data.get().as_bytes()),
                ParsedData::Bytes(bytes) => write_event(out, name, &buffer(bytes)),
            },
            ParsedFrame::Error { code, message, .. } => {
                let refused = Refused { code, message };
                let data = serde_json::to_vec(&refused).unwrap_or_default();
                write_event(out, REFUSED, &data);
            }
            // Other pings ask for the confirmation of a stored event.
            ParsedFrame::Ping([]) if self.has_heartbeat => write_own(out, HEARTBEAT, Empty {}),
            ParsedFrame::Close { code, reason } => out.close(code.and_then(close_code), reason),
            _ => {
                out.control(said);
            }
        }
    }
}

#[derive(Serialize)]
struct Refused<'a> {
    code: &'a str,
    message: &'a str,
}

fn write_event(out: &mut Out, name: &str, data: &[u8]) {
    let name = serde_json::to_vec(name).unwrap_or_default();
    out.text(&[b"{\"op\":0,\"d\":", data, b",\"t\":", &name, b"}"]);
}

/// Bytes as `JSON.stringify` writes a Buffer of Node's.
fn buffer(bytes: &[u8]) -> Vec<u8> {
    let list = serde_json::to_vec(bytes).unwrap_or_default();
    [b"{\"type\":\"Buffer\",\"data\":", &list[..], b"}"].concat()
}

/// The close code by which a client of Mesa learns the same as by `code`; none where Mesa has none.
fn close_code(code: u16) -> Option<u16> {
    match code {
        close::UNAUTHORIZED | close::FORBIDDEN | close::EXPIRED => Some(FAILED),
        close::DISCONNECTED | close::REPLACED => Some(close::NORMAL),
        close::BAD_MESSAGE => Some(NOT_READABLE),
        close::OVER_LIMIT | close::TOO_SLOW | close::RATE_LIMITED => Some(TRY_AGAIN),
        close::DRAINING => Some(close::GOING_AWAY),
        // Mesa's server gives no code then.
        close::HEARTBEAT_MISSED => None,
        code => Some(code),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        close::Close,
        event::{Data, Event},
        frame::Frame,
        native,
    };

    const QUIET: Mesa = Mesa {
        has_heartbeat: false,
    };

    fn encoded(encoding: Mesa, frame: &Frame) -> Frame {
        let mut out = Out::default();
        encoding.encode(&ParsedFrame::read(frame).unwrap(), &mut out);
        out.into_frame()
    }

    fn text(encoding: Mesa, frame: &Frame) -> String {
        String::from_utf8(encoded(encoding, frame).payload().to_vec()).unwrap()
    }

    fn event(name: &str, data: &str) -> Frame {
        let data = serde_json::from_str(data).unwrap();
        Event::new(name, Data::Json(data)).unwrap().encode()
    }

    #[test]
    fn an_event_is_a_message_with_its_data_byte_for_byte() {
        let data = r#"{"b": 1.0,"a":  [1e3, 12345678901234567890]}"#;
        assert_eq!(
            text(QUIET, &event("A \"B\"", data)),
            format!(r#"{{"op":0,"d":{data},"t":"A \"B\""}}"#)
        );
        let bytes = Event::new("E", Data::Bytes(b"\x00\xff"[..].into()))
            .unwrap()
            .encode();
        assert_eq!(
            text(QUIET, &bytes),
            r#"{"op":0,"d":{"type":"Buffer","data":[0,255]},"t":"E"}"#
        );
    }

    #[test]
    fn heartbeats_are_mesas_own_only_where_that_is_set() {
        let mesa = Mesa {
            has_heartbeat: true,
        };
        let ping = Frame::ping(b"");
        assert_eq!(encoded(QUIET, &ping).bytes(), ping.bytes());
        assert_eq!(text(mesa, &ping), r#"{"op":1,"d":{}}"#);
        let asks = native::confirm_ping(7);
        assert_eq!(encoded(mesa, &asks).bytes(), asks.bytes());
    }

    #[test]
    fn what_is_refused_is_told_and_the_rest_is_not() {
        assert_eq!(
            text(QUIET, &native::error(None, "forbidden", "no")),
            r#"{"op":0,"d":{"code":"forbidden","message":"no"},"t":"fanfare:error"}"#
        );
        for frame in [native::pong(), native::left("c"), native::joined("c", None)] {
            assert!(encoded(QUIET, &frame).is_empty(), "{frame:?}");
        }
    }

    #[test]
    fn close_codes_are_mesas() {
        for (code, mesa) in [
            (close::UNAUTHORIZED, Some(1008)),
            (close::EXPIRED, Some(1008)),
            (close::DISCONNECTED, Some(1000)),
            (close::DRAINING, Some(1001)),
            (close::HEARTBEAT_MISSED, None),
            (close::TOO_SLOW, Some(1013)),
            (1002, Some(1002)),
        ] {
            let closed = encoded(QUIET, &Frame::close(&Close::new(code, "why")));
            let expected = mesa.map_or_else(
                || vec![0x88, 0],
                |mesa| Frame::close(&Close::new(mesa, "why")).bytes().to_vec(),
            );
            assert_eq!(closed.bytes(), expected, "{code}");
        }
    }

    fn own(write: impl FnOnce(&mut Out)) -> serde_json::Value {
        let mut out = Out::default();
        write(&mut out);
        serde_json::from_slice(out.into_frame().payload()).unwrap()
    }

    #[test]
    fn a_hello_has_rules_even_if_there_are_none() {
        let of = |says: &Hello<'_>| own(|out| hello(out, says));
        let bare = Hello {
            authentication_ms: 5,
            ..Hello::default()
        };
        assert_eq!(
            of(&bare),
            json!({"op": 10, "d": {"c_authentication_timeout": 5, "rules": []}})
        );
        let full = Hello {
            heartbeat_ms: Some(1),
            reconnect_ms: Some(2),
            authentication_ms: 3,
            rules: &["sends_user_object"],
        };
        assert_eq!(
            of(&full),
            json!({"op": 10, "d": {
                "c_heartbeat_interval": 1, "c_reconnect_interval": 2, "c_authentication_timeout": 3,
                "rules": ["sends_user_object"]
            }})
        );
    }

    #[test]
    fn the_user_object_is_the_id_and_the_claims() {
        let claims = Value::from_json(&mut br#"{"sub":"0","name":"Ann"}"#.to_vec(), None).unwrap();
        assert_eq!(
            own(|out| authenticated(out, "0", Some(&claims))),
            json!({"op": 22, "d": {"id": "0", "sub": "0", "name": "Ann"}})
        );
        assert_eq!(
            own(|out| authenticated(out, "0", None)),
            json!({"op": 22, "d": {}})
        );
    }

    #[test]
    fn recipients_are_as_long_as_users_may_be() {
        let read = |bytes: usize| {
            let user = "u".repeat(bytes);
            let text =
                format!(r#"{{"message":{{"op":0,"d":1,"t":"T"}},"recipients":["a","{user}"]}}"#);
            Dispatched::read(text.as_bytes()).map(|_| ())
        };
        assert_eq!(read(USER_BYTES), Ok(()));
        let refused = "recipients has a name of 257 bytes; at most 256 fit";
        assert_eq!(read(USER_BYTES + 1), Err(refused.to_owned()));
    }

    #[test]
    fn a_dispatched_message_is_read_with_its_recipients() {
        let read = |text: &str| {
            let read = Dispatched::read(text.as_bytes())?;
            Ok::<_, String>((read.text.to_owned(), read.message.is_synced(), read.to))
        };
        let message = r#"{"op":0,"d":{"a":1.0},"t":"T"}"#;
        assert_eq!(
            read(&format!(
                r#"{{"message":{message},"recipients":["b","a","b",7]}}"#
            )),
            Ok((
                message.to_owned(),
                true,
                Recipients::Users(vec!["7".to_owned(), "a".to_owned(), "b".to_owned()])
            ))
        );
        assert_eq!(
            read(&format!(
                r#"{{"message":{message},"recipients":["a","*"]}}"#
            ))
            .unwrap()
            .2,
            Recipients::Everyone
        );
        let quiet = r#"{"message":{"op":0,"t":"T","o":{"sync":false}},"recipients":[]}"#;
        assert!(!read(quiet).unwrap().1);
        let leave = r#"{"message":{"op":5,"d":{},"t":"DISCONNECT_CLIENT"},"recipients":["5"]}"#;
        assert!(!read(leave).unwrap().1, "nothing is stored of it");
        for wrong in [
            "",
            "[]",
            "{}",
            r#"{"message":{"op":0},"recipients":"*"}"#,
            r#"{"message":{"t":"T"},"recipients":[]}"#,
            r#"{"message":{"op":22},"recipients":[]}"#,
            r#"{"message":{"op":-1},"recipients":[]}"#,
            r#"{"message":{"op":0,"t":5},"recipients":[]}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn stored_messages_are_numbered_from_one_and_keep_their_data() {
        let list = r#"[{"op":0,"d":{"n":1.0},"t":"A","o":{"sync":true}},{"op":0}]"#;
        let frames: Vec<String> = stored(list)
            .unwrap()
            .iter()
            .enumerate()
            .map(|(at, message)| {
                let mut out = Out::default();
                redelivered(&mut out, message, at + 1);
                String::from_utf8(out.into_frame().payload().to_vec()).unwrap()
            })
            .collect();
        assert_eq!(
            frames,
            [
                r#"{"op":0,"d":{"n":1.0},"t":"A","s":1}"#,
                r#"{"op":0,"s":2}"#
            ]
        );
        assert!(stored("{}").is_none() && stored("[1]").is_none());
    }

    #[test]
    fn what_was_taken_and_written_back_is_not_given_twice() {
        let rest = without_taken(r#"["a","b","c"]"#, r#"["a","b"]"#);
        assert_eq!(rest.as_deref(), Some(r#"["c"]"#));
        for (now, taken) in [
            (r#"["a"]"#, r#"["a"]"#),
            (r#"["b","a"]"#, r#"["a"]"#),
            (r#"["ab"]"#, r#"["a"]"#),
            (r#"["a"]"#, "[]"),
            ("", "[]"),
        ] {
            assert_eq!(without_taken(now, taken), None, "{now} {taken}");
        }
    }

    #[test]
    fn a_client_frame_has_a_number_and_may_lack_the_rest() {
        let read = |text| serde_json::from_str::<ClientFrame<'_>>(text);
        let frame = read(r#"{"op":0,"d":[1],"t":"a\"b","o":{}}"#).unwrap();
        assert_eq!((frame.op, frame.d.unwrap().get()), (0, "[1]"));
        assert_eq!(&*frame.t.unwrap().0, "a\"b");
        assert!(read(r#"{"op":11}"#).unwrap().d.is_none());
        for wrong in ["{}", "[]", "1", r#"{"op":"0"}"#, r#"{"op":0,"t":1}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let said: Authentication<'_> =
            serde_json::from_str(r#"{"token":"t","shouldSync":false,"more":1}"#).unwrap();
        assert_eq!(
            (&*said.token.unwrap().0, said.should_sync),
            ("t", Some(false))
        );
    }
}
