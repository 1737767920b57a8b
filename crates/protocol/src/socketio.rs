//! Socket.IO 5: packets in the messages of Engine.IO, and what its clients get in place of native frames.
//!
//! A packet is text: its type, the number of its attachments, a namespace, an id and JSON. Its attachments follow it as
//! binary messages, and the JSON has a placeholder for each. Native JSON has bytes as `{"$bytes":"<base64>"}` in that place.

mod bytes;
mod encoding;

use std::borrow::Cow;

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use smallvec::SmallVec;

pub(crate) use self::{
    bytes::{ONLY, outline},
    encoding::RESERVED,
};
pub use self::{
    bytes::{inline, placeholder},
    encoding::{Namespace, Namespaces, SocketIo, connect_error, connected, request_id},
};
use super::engineio::Malformed;
use crate::limits::SOCKETIO_ATTACHMENTS;

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A client wants to be in a namespace; the server lets it in.
    Connect,
    /// Either side leaves a namespace.
    Disconnect,
    /// An event.
    Event,
    /// The answer to an event with an id.
    Ack,
    /// The server does not let a client in.
    ConnectError,
}

/// A packet as it came, without its attachments.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// What it is.
    pub kind: Kind,
    /// Binary messages that follow it.
    pub attachments: usize,
    /// `/` unless it names another one.
    pub namespace: &'a str,
    /// The digits of its id.
    pub id: Option<&'a str>,
    /// Its JSON.
    pub data: Option<&'a RawValue>,
}

/// Longest id of a packet, in digits: those of the largest whole number that JavaScript counts to.
const ID_DIGITS: usize = 16;

/// Reads a packet.
///
/// # Errors
/// [`Malformed`] for what Socket.IO's own parser refuses, and for more than [`SOCKETIO_ATTACHMENTS`].
pub fn parse(text: &str) -> Result<Packet<'_>, Malformed> {
    let mut chars = text.chars();
    let (kind, is_binary) = match chars.next() {
        Some('0') => (Kind::Connect, false),
        Some('1') => (Kind::Disconnect, false),
        Some('2') => (Kind::Event, false),
        Some('3') => (Kind::Ack, false),
        Some('4') => (Kind::ConnectError, false),
        // The same two with attachments. JSON cannot hold bytes, so they follow as binary messages.
        Some('5') => (Kind::Event, true),
        Some('6') => (Kind::Ack, true),
        _ => return Err(Malformed("a Socket.IO packet has an unknown type")),
    };

    let mut rest = chars.as_str();
    let mut attachments = 0;
    if is_binary {
        let (count, behind) = rest
            .split_once('-')
            .ok_or(Malformed("a binary packet does not say its attachments"))?;
        attachments = attachments_of(count)?;
        rest = behind;
    }

    let mut namespace = "/";
    if rest.starts_with('/') {
        // Without anything after it, the comma may be left out.
        (namespace, rest) = rest.split_once(',').unwrap_or((rest, ""));
        // Clients of old put the query there too.
        namespace = namespace
            .split_once('?')
            .map_or(namespace, |(name, _)| name);
    }

    // Nothing separates the id from the JSON. That begins with a brace or a bracket in all packets
    // that have an id, so the digits end by themselves.
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (id, json) = rest.split_at(digits);
    if digits > ID_DIGITS {
        return Err(Malformed("the id of a packet is too long"));
    }

    let data: Option<&RawValue> = match json {
        "" => None,
        json => {
            let read = serde_json::from_str(json);
            Some(read.map_err(|_| Malformed("the data of a packet is not JSON"))?)
        }
    };

    let packet = Packet {
        kind,
        attachments,
        namespace,
        id: (digits > 0).then_some(id),
        data,
    };

    check(&packet)?;
    Ok(packet)
}

fn attachments_of(count: &str) -> Result<usize, Malformed> {
    // `parse` would take a sign as well.
    let is_number = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
    match count.parse::<usize>() {
        Ok(count) if is_number && (1..=SOCKETIO_ATTACHMENTS).contains(&count) => Ok(count),
        Ok(count) if is_number && count > 0 => Err(Malformed("a packet has too many attachments")),
        _ => Err(Malformed("a binary packet does not say its attachments")),
    }
}

/// Refuses data that a packet of its kind may not have.
fn check(packet: &Packet<'_>) -> Result<(), Malformed> {
    let first = packet.data.and_then(|data| data.get().bytes().next());
    let is_good = match packet.kind {
        Kind::Connect => matches!(first, None | Some(b'{')),
        Kind::Disconnect => first.is_none(),
        Kind::Event | Kind::Ack => first == Some(b'['),
        // Only servers send it. The dialect refuses it, whatever it carries.
        Kind::ConnectError => true,
    };
    if is_good {
        Ok(())
    } else {
        Err(Malformed("the data of a packet do not fit its type"))
    }
}

/// Most arguments of an event, its name aside. They are counted before anything is done with them.
pub const ARGUMENTS: usize = 32;

/// What an event carries.
#[derive(Debug)]
pub struct Arguments<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// What follows the name.
    pub rest: SmallVec<[&'a RawValue; 2]>,
}

impl<'a> Arguments<'a> {
    /// Reads the data of an event.
    ///
    /// # Errors
    /// [`Malformed`] if its name is not a string, and if there are over [`ARGUMENTS`].
    pub fn read(data: &'a RawValue) -> Result<Self, Malformed> {
        serde_json::from_str(data.get()).map_err(|_| {
            Malformed("the data of an event is not a list of its name and up to 32 arguments")
        })
    }
}

impl<'de> Deserialize<'de> for Arguments<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(List)
    }
}

/// A string as JSON has it, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct List;

impl<'de> Visitor<'de> for List {
    type Value = Arguments<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list that begins with a name")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let Some(Text(name)) = list.next_element()? else {
            return Err(A::Error::invalid_length(0, &self));
        };
        let mut rest = SmallVec::new();
        while let Some(argument) = list.next_element()? {
            if rest.len() == ARGUMENTS {
                return Err(A::Error::invalid_length(ARGUMENTS + 1, &self));
            }
            rest.push(argument);
        }
        Ok(Arguments { name, rest })
    }
}

/// A binary packet, until its attachments have come.
#[derive(Debug)]
pub struct Assembly {
    text: Box<str>,
    missing: usize,
    attachments: SmallVec<[Box<[u8]>; 1]>,
    bytes: usize,
}

impl Assembly {
    /// Begins with the text of a packet that has `attachments`.
    pub fn new(text: &str, attachments: usize) -> Self {
        Self {
            text: text.into(),
            missing: attachments,
            attachments: SmallVec::new(),
            bytes: text.len(),
        }
    }

    /// Takes the next attachment; true if it was the last one. All of the packet together may have `limit` bytes.
    ///
    /// # Errors
    /// [`Malformed`] beyond `limit`.
    pub fn take(&mut self, attachment: &[u8], limit: usize) -> Result<bool, Malformed> {
        // All of the packet counts as one message. If each attachment had the limit to itself, a
        // client could hold ten times as much.
        self.bytes += attachment.len();
        if self.bytes > limit {
            return Err(Malformed("a packet is too big, with its attachments"));
        }
        self.attachments.push(attachment.into());
        self.missing = self.missing.saturating_sub(1);
        Ok(self.missing == 0)
    }

    /// Bytes that have come.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The text of the packet, and its attachments.
    pub fn parts(&self) -> (&str, &[Box<[u8]>]) {
        (&self.text, &self.attachments)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> (Kind, usize, &str, Option<&str>, Option<&str>) {
        let packet = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let data = packet.data.map(RawValue::get);
        (
            packet.kind,
            packet.attachments,
            packet.namespace,
            packet.id,
            data,
        )
    }

    #[test]
    fn packets_are_read_as_their_own_parser_does() {
        for (text, packet) in [
            ("0", (Kind::Connect, 0, "/", None, None)),
            (
                r#"0{"token":"t"}"#,
                (Kind::Connect, 0, "/", None, Some(r#"{"token":"t"}"#)),
            ),
            ("0/chat,", (Kind::Connect, 0, "/chat", None, None)),
            ("0/chat", (Kind::Connect, 0, "/chat", None, None)),
            (
                "0/chat?a=b,{}",
                (Kind::Connect, 0, "/chat", None, Some("{}")),
            ),
            ("1/chat,", (Kind::Disconnect, 0, "/chat", None, None)),
            (r#"2["a"]"#, (Kind::Event, 0, "/", None, Some(r#"["a"]"#))),
            (
                r#"2/chat,17["a",1]"#,
                (Kind::Event, 0, "/chat", Some("17"), Some(r#"["a",1]"#)),
            ),
            ("30[]", (Kind::Ack, 0, "/", Some("0"), Some("[]"))),
            (
                r#"52-/chat,3["a"]"#,
                (Kind::Event, 2, "/chat", Some("3"), Some(r#"["a"]"#)),
            ),
            ("61-4[]", (Kind::Ack, 1, "/", Some("4"), Some("[]"))),
        ] {
            assert_eq!(read(text), packet, "{text}");
        }
    }

    #[test]
    fn malformed_packets_of_every_kind_are_refused() {
        for text in [
            "",
            "7",
            "x",
            "2",
            "2{}",
            "2\"a\"",
            "2[",
            "2[\"a\"]x",
            "212345678901234567[\"a\"]",
            "3",
            "3{}",
            "0[]",
            "0x",
            "1{}",
            "5[\"a\"]",
            "5-[\"a\"]",
            "50-[\"a\"]",
            "5x-[\"a\"]",
            "5+1-[\"a\"]",
            "5-1-[\"a\"]",
            "511-[\"a\"]",
            "599999999999999999999-[\"a\"]",
            "61[]",
            "2/chat[\"a\"]",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_event_has_a_name_and_a_bounded_list_behind_it() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let data = raw(r#"["a\n",1,{"b":[]}]"#);
        let arguments = Arguments::read(&data).unwrap();
        assert_eq!(arguments.name, "a\n");
        let rest: Vec<&str> = arguments.rest.iter().map(|raw| raw.get()).collect();
        assert_eq!(rest, ["1", r#"{"b":[]}"#]);

        let many = |count| raw(&format!("[\"a\"{}]", ",1".repeat(count)));
        assert!(Arguments::read(&many(ARGUMENTS)).is_ok());
        for wrong in [many(ARGUMENTS + 1), raw("[]"), raw("[1]"), raw("[null,1]")] {
            assert!(Arguments::read(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_packet_is_whole_with_its_last_attachment_and_no_bigger_than_allowed() {
        let mut assembly = Assembly::new("2345", 2);
        assert_eq!(assembly.take(b"abc", 10), Ok(false));
        assert_eq!(assembly.take(b"def", 10), Ok(true));
        let (text, attachments) = assembly.parts();
        assert_eq!((text, attachments.len()), ("2345", 2));
        assert!(Assembly::new("2345", 2).take(b"abcdefg", 10).is_err());
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(
            text in prop_oneof![any::<String>(), r#"[0-7]{1,2}-?(/[a-z]{0,3},)?[0-9]{0,3}[\[{]?("[a-z_]*",?)*[\]}]?"#],
        ) {
            if let Ok(packet) = parse(&text) {
                prop_assert!(packet.attachments <= SOCKETIO_ATTACHMENTS);
                if let (Kind::Event, Some(data)) = (packet.kind, packet.data) {
                    let _ = Arguments::read(data);
                }
            }
        }
    }
}
