//! Engine.IO 4: what carries Socket.IO, over WebSocket frames and over long polling.
//!
//! A packet is one WebSocket message: text that begins with a digit, or bytes. Over polling, packets are joined into the
//! payload of a request or an answer, and bytes are written in base64.

use std::borrow::Cow;

use data_encoding::BASE64;
use serde::Serialize;

/// The version of the protocol, as clients name it in `EIO=`.
pub const VERSION: &str = "4";

/// The separator of the packets of a payload.
pub const SEPARATOR: u8 = 0x1e;

/// The server's sign of life, which clients answer with [`PONG`].
pub const PING: &[u8] = b"2";

/// The answer to [`PING`].
pub const PONG: &[u8] = b"3";

/// What a WebSocket that is to take over from polling says first.
pub const PROBE: &str = "2probe";

/// The answer to [`PROBE`].
pub const PROBED: &[u8] = b"3probe";

/// The goodbye of either side.
pub const CLOSE: &[u8] = b"1";

/// Says nothing: the answer to a poll that must end now.
pub const NOOP: &[u8] = b"6";

/// The type of a message, which precedes its text.
pub const MESSAGE: &[u8] = b"4";

/// A packet that a client sent as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// A message of the protocol above.
    Message(&'a str),
    /// A ping. Clients send one only as the probe of an upgrade.
    Ping(&'a str),
    /// The answer to the server's ping.
    Pong(&'a str),
    /// The client leaves.
    Close,
    /// The WebSocket that was probed takes over.
    Upgrade,
    /// Nothing.
    Noop,
}

/// Why something is not a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// Reads the packet of a text message.
///
/// # Errors
/// [`Malformed`] for an empty text, an unknown type, and an `open`, which only servers send.
pub fn parse(text: &str) -> Result<Packet<'_>, Malformed> {
    let mut chars = text.chars();
    let kind = chars
        .next()
        .ok_or(Malformed("an Engine.IO packet is empty"))?;
    let rest = chars.as_str();

    // Since version 4 the server pings and the client answers. In version 3 it was the client,
    // which is why a connection with `EIO=3` is not let in.
    match kind {
        '4' => Ok(Packet::Message(rest)),
        '2' => Ok(Packet::Ping(rest)),
        '3' => Ok(Packet::Pong(rest)),
        '1' => Ok(Packet::Close),
        '5' => Ok(Packet::Upgrade),
        '6' => Ok(Packet::Noop),
        _ => Err(Malformed("an Engine.IO packet has an unknown type")),
    }
}

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Open<'a> {
    /// Names the connection in its further requests.
    pub sid: &'a str,
    /// Transports that it may go over to.
    pub upgrades: &'a [&'a str],
    /// Milliseconds between two pings of the server.
    pub ping_interval: u64,
    /// Milliseconds that the client waits for a ping beyond that, before it gives the server up.
    pub ping_timeout: u64,
    /// Most bytes of the payload of one request.
    pub max_payload: usize,
}

impl Open<'_> {
    /// The text of the packet.
    pub fn packet(&self) -> Vec<u8> {
        let mut packet = b"0".to_vec();
        // A plain struct of strings and numbers always serializes, and writing to a Vec cannot fail.
        let _ = serde_json::to_writer(&mut packet, self);
        packet
    }
}

/// Why a request over HTTP is refused, as Engine.IO numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// `transport` is neither `polling` nor `websocket`.
    UnknownTransport = 0,
    /// No connection here has this `sid`. Clients begin again.
    UnknownSession = 1,
    /// A connection begins with GET.
    BadHandshakeMethod = 2,
    /// The request does not fit the connection that it names.
    BadRequest = 3,
    /// The client may not connect.
    Forbidden = 4,
    /// `EIO` is not 4.
    UnsupportedVersion = 5,
}

impl Refused {
    /// The message of Engine.IO's own server.
    pub fn message(self) -> &'static str {
        match self {
            Self::UnknownTransport => "Transport unknown",
            Self::UnknownSession => "Session ID unknown",
            Self::BadHandshakeMethod => "Bad handshake method",
            Self::BadRequest => "Bad request",
            Self::Forbidden => "Forbidden",
            Self::UnsupportedVersion => "Unsupported protocol version",
        }
    }

    /// The body of the answer, with `message` in place of Engine.IO's own where there is more to say.
    pub fn body(self, message: Option<&str>) -> Vec<u8> {
        #[derive(Serialize)]
        struct Body<'a> {
            code: u8,
            message: &'a str,
        }
        let body = Body {
            code: self as u8,
            message: message.unwrap_or_else(|| self.message()),
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

/// A packet of a payload, as the WebSocket message that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carried<'a> {
    /// The text of a packet, for [`parse`].
    Text(&'a str),
    /// The bytes of a message.
    Binary(Vec<u8>),
}

/// Takes a payload apart.
///
/// The first packet that is malformed ends it.
pub fn payload(body: &str) -> impl Iterator<Item = Result<Carried<'_>, Malformed>> {
    let mut is_broken = false;
    // No packet has the separator inside: JSON escapes it, and base64 has no such character.
    body.split(char::from(SEPARATOR)).map_while(move |packet| {
        if is_broken {
            return None;
        }
        let carried = carried(packet);
        is_broken = carried.is_err();
        Some(carried)
    })
}

fn carried(packet: &str) -> Result<Carried<'_>, Malformed> {
    match packet.strip_prefix('b') {
        Some(base64) => BASE64
            .decode(base64.as_bytes())
            .map(Carried::Binary)
            .map_err(|_| Malformed("a binary packet is not in base64")),
        // Only checked here: it goes on as the WebSocket message would, and is read there.
        None => parse(packet).map(|_| Carried::Text(packet)),
    }
}

/// Appends a packet to a payload, after what is there.
pub fn append(payload: &mut Vec<u8>, packet: &Carried<'_>) {
    if !payload.is_empty() {
        payload.push(SEPARATOR);
    }
    match packet {
        Carried::Text(text) => payload.extend_from_slice(text.as_bytes()),
        Carried::Binary(bytes) => {
            payload.push(b'b');
            let from = payload.len();
            // In place, since an attachment may be large and a text in between would be a second
            // copy.
            payload.resize(from + BASE64.encode_len(bytes.len()), 0);
            BASE64.encode_mut(bytes, &mut payload[from..]);
        }
    }
}

/// The value of `name` in a query, decoded.
pub fn parameter<'q>(query: &'q str, name: &str) -> Option<Cow<'q, str>> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| {
            // A `+` stays one: these clients encode with `encodeURIComponent`, which writes a space
            // as `%20`.
            percent_encoding::percent_decode_str(value)
                .decode_utf8()
                .ok()
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packets_are_distinguished_by_their_first_character() {
        for (text, packet) in [
            ("40{}", Packet::Message("0{}")),
            ("4", Packet::Message("")),
            ("2probe", Packet::Ping("probe")),
            ("3", Packet::Pong("")),
            ("1", Packet::Close),
            ("5", Packet::Upgrade),
            ("6", Packet::Noop),
        ] {
            assert_eq!(parse(text), Ok(packet), "{text}");
        }
        for text in ["", "0{}", "7", "x", "ü", "\u{1e}", " 4"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_open_packet_has_the_fields_that_clients_read() {
        let open = Open {
            sid: "s",
            upgrades: &["websocket"],
            ping_interval: 25_000,
            ping_timeout: 20_000,
            max_payload: 65_536,
        };
        assert_eq!(
            str::from_utf8(&open.packet()).unwrap(),
            r#"0{"sid":"s","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":65536}"#
        );
    }

    #[test]
    fn a_refusal_is_in_the_form_that_clients_know() {
        let body = |refused: Refused, message| String::from_utf8(refused.body(message)).unwrap();
        assert_eq!(
            body(Refused::UnknownSession, None),
            r#"{"code":1,"message":"Session ID unknown"}"#
        );
        assert_eq!(
            body(Refused::Forbidden, Some("full")),
            r#"{"code":4,"message":"full"}"#
        );
    }

    #[test]
    fn a_payload_ends_at_its_first_fault() {
        let all: Vec<_> = payload("42[\"a\"]\u{1e}bAAE=\u{1e}x\u{1e}3").collect();
        assert_eq!(
            all[..2],
            [
                Ok(Carried::Text("42[\"a\"]")),
                Ok(Carried::Binary(vec![0, 1]))
            ]
        );
        assert!(all.len() == 3 && all[2].is_err());
        for wrong in ["", "\u{1e}", "4\u{1e}", "bA", "b!!!!", "0{}"] {
            assert!(payload(wrong).any(|packet| packet.is_err()), "{wrong:?}");
        }
    }

    #[test]
    fn parameters_are_decoded() {
        let query = "EIO=4&transport=polling&sid=a%2Fb&t";
        assert_eq!(parameter(query, "sid").as_deref(), Some("a/b"));
        assert_eq!(parameter(query, "t"), None);
        assert_eq!(parameter(query, "IO"), None);
    }

    proptest! {
        #[test]
        fn a_payload_comes_back_as_it_was_written(
            packets in prop::collection::vec(
                prop_oneof![
                    "[^\u{1e}]{0,20}".prop_map(|text| Err(format!("4{text}"))),
                    prop::collection::vec(any::<u8>(), 0..20).prop_map(Ok),
                ],
                1..8,
            ),
        ) {
            let carried: Vec<Carried<'_>> = packets
                .iter()
                .map(|packet| match packet {
                    Ok(bytes) => Carried::Binary(bytes.clone()),
                    Err(text) => Carried::Text(text),
                })
                .collect();
            let mut body = Vec::new();
            for packet in &carried {
                append(&mut body, packet);
            }
            let body = String::from_utf8(body).unwrap();
            let read: Result<Vec<_>, _> = payload(&body).collect();
            prop_assert_eq!(read.unwrap(), carried);
        }

        #[test]
        fn whatever_comes_is_read_or_refused(text in any::<String>()) {
            let _ = parse(&text);
            prop_assert!(payload(&text).count() <= text.len() + 1);
        }
    }
}
