//! An event on its way in: its name, its data as they came, and the one encoding that all its receivers share.

use std::borrow::Cow;

use fanfare_filter::id::ConnectionId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use smol_str::SmolStr;
use uuid::Uuid;

use super::frame::Frame;
use crate::limits;

/// What is sent: a name and data. The data are forwarded byte for byte, never parsed again.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    /// 1 to 128 bytes, not starting with `fanfare:`.
    pub name: Cow<'a, str>,
    /// JSON as it came, or bytes.
    pub data: Data<'a>,
}

/// An event's payload.
#[derive(Clone, Debug)]
pub enum Data<'a> {
    /// JSON text as it came: numbers, key order, escapes and white space.
    Json(&'a RawValue),
    /// Bytes, delivered in a binary frame.
    Bytes(Cow<'a, [u8]>),
}

/// Which client an event is from, as its receivers are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The connection that sent it.
    pub connection: ConnectionId,
    /// Its user; `null` on the wire if anonymous.
    pub user: Option<SmolStr>,
}

/// What the server says about an event beside its name and data; what is `None` is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marks<'a> {
    /// The channel it was sent to.
    pub channel: Option<&'a str>,
    /// The client that sent it.
    pub from: Option<&'a Sender>,
    /// Names it where it is stored.
    pub id: Option<Uuid>,
}

/// Who is left out.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Exceptions {
    /// All connections of these users.
    pub users: Vec<String>,
    /// These connections.
    pub connections: Vec<String>,
    /// All connections of these devices.
    pub devices: Vec<String>,
}

impl Exceptions {
    /// Whether nobody is left out.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.connections.is_empty() && self.devices.is_empty()
    }
}

/// Why an event is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The name is empty or too long.
    #[error("\"event\" must be 1 to {max} bytes long, not {length}", max = limits::EVENT_NAME_BYTES)]
    NameLength {
        /// Bytes of the name that came.
        length: usize,
    },
    /// The name is one of the server's own.
    #[error("event names starting with \"fanfare:\" are the server's own")]
    NameReserved,
    /// The data nest too deeply for common parsers.
    #[error("\"data\" nests deeper than {max} levels", max = limits::DATA_DEPTH)]
    TooDeep,
    /// The name of the channel is empty, too long, or has a character that may not be in it.
    #[error(
        "a channel's name must be 1 to {max} bytes of [A-Za-z0-9_.:=@,;-], {}",
        channel_fault(*.length, *.character),
        max = limits::CHANNEL_NAME_BYTES
    )]
    ChannelName {
        /// Bytes of the name that came.
        length: usize,
        /// The first character that may not be in it, if its length is right.
        character: Option<char>,
    },
}

impl EventError {
    /// The stable code of the problem.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NameLength { .. } => "event_name_length",
            Self::NameReserved => "event_name_reserved",
            Self::TooDeep => "data_too_deep",
            Self::ChannelName { .. } => "bad_channel",
        }
    }
}

impl<'a> Event<'a> {
    /// An event that keeps the rules for names and depth.
    ///
    /// # Errors
    /// [`EventError`] names the rule that is broken.
    pub fn new(name: impl Into<Cow<'a, str>>, data: Data<'a>) -> Result<Self, EventError> {
        let name = name.into();
        if name.is_empty() || name.len() > limits::EVENT_NAME_BYTES {
            return Err(EventError::NameLength { length: name.len() });
        }
        if name.starts_with("fanfare:") {
            return Err(EventError::NameReserved);
        }

        if let Data::Json(raw) = &data
            && nests_deeper(raw.get().as_bytes(), limits::DATA_DEPTH)
        {
            return Err(EventError::TooDeep);
        }

        Ok(Self { name, data })
    }

    /// Encodes all but the offset, which only an event of a channel with history gets, and late.
    ///
    /// Costs one allocation for the frame and one copy of the data. JSON goes as text. A binary frame is one version
    /// byte (1), the length of its header as 16 bits big-endian, the header as JSON, then the bytes.
    pub fn draft(&self, marks: &Marks<'_>) -> Draft {
        let mut head = Vec::with_capacity(self.name.len() + 192);
        head.extend_from_slice(b"{\"event\":");
        write_json_string(&mut head, &self.name);

        if let Some(channel) = marks.channel {
            head.extend_from_slice(b",\"channel\":");
            write_json_string(&mut head, channel);
        }

        match &self.data {
            Data::Json(raw) => {
                head.extend_from_slice(b",\"data\":");
                // The data may be large. They stay out of `head`, and are copied once, into the
                // frame.
                let before = head.len();
                marks.write_behind_data(&mut head);
                let (before, behind) = head.split_at(before);
                Draft(Frame::event_text(&[
                    before,
                    raw.get().as_bytes(),
                    behind,
                    b"}",
                ]))
            }
            Data::Bytes(bytes) => {
                // Names are bounded, so the length of a head fits into 16 bits.
                marks.write_behind_data(&mut head);
                head.push(b'}');
                Draft(Frame::event_binary(&[
                    &[1],
                    &(head.len() as u16).to_be_bytes(),
                    &head,
                    bytes,
                ]))
            }
        }
    }

    /// The frame of an event with neither marks nor offset.
    pub fn encode(&self) -> Frame {
        self.draft(&Marks::default()).finish(None)
    }
}

impl Marks<'_> {
    /// Appends the members that come after the data.
    fn write_behind_data(&self, out: &mut Vec<u8>) {
        if let Some(from) = self.from {
            out.extend_from_slice(
                format!(
                    ",\"from\":{{\"connection\":\"{}\",\"user\":",
                    from.connection
                )
                .as_bytes(),
            );

            match &from.user {
                Some(user) => write_json_string(out, user),
                None => out.extend_from_slice(b"null"),
            }

            out.push(b'}');
        }

        if let Some(id) = self.id {
            out.extend_from_slice(format!(",\"id\":\"{id}\"").as_bytes());
        }
    }
}

/// An encoded event that lacks only its offset. A clone shares the bytes.
#[derive(Clone, Debug)]
pub struct Draft(Frame);

impl Draft {
    /// The frame that every receiver shares.
    ///
    /// Without an offset it is there already, and costs nothing; with one it is a copy that has it as last member.
    pub fn finish(&self, offset: Option<u64>) -> Frame {
        let Some(offset) = offset else {
            return self.0.clone();
        };

        let end = format!(",\"offset\":{offset}}}");
        let payload = self.0.payload();
        if self.0.is_text() {
            // Without the brace at the end, which `end` brings along.
            return Frame::event_text(&[&payload[..payload.len() - 1], end.as_bytes()]);
        }

        let (head, bytes) =
            payload[3..].split_at(usize::from(u16::from_be_bytes([payload[1], payload[2]])));
        let head = &head[..head.len() - 1];
        // An offset adds at most 31 bytes to a head of bounded names, so this fits into 16 bits.
        let length = (head.len() + end.len()) as u16;

        Frame::event_binary(&[&[1], &length.to_be_bytes(), head, end.as_bytes(), bytes])
    }

    /// The encoding as it is stored, or sent to another node.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// The draft whose [`Draft::bytes`] these are; `None` for what is not an event's frame. The data are not parsed
    /// again.
    pub fn from_encoded(bytes: &[u8]) -> Option<Self> {
        let frame = Frame::from_encoded(bytes)?;
        let head = match frame.payload() {
            text if frame.is_text() => text,
            [1, high, low, rest @ ..] => {
                rest.get(..usize::from(u16::from_be_bytes([*high, *low])))?
            }
            _ => return None,
        };
        // Another node or a store may have written anything. Two things must hold: `finish`
        // replaces the last brace, and a browser closes the connection for text that is not UTF-8.
        let is_object = head.starts_with(b"{") && head.ends_with(b"}");
        (is_object && simdutf8::basic::from_utf8(head).is_ok()).then_some(Self(frame))
    }

    /// Bytes on the wire, less those of the offset.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: a frame has a header.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// Checks a channel's name.
///
/// # Errors
/// [`EventError::ChannelName`] has the length or the character that is wrong.
pub fn channel_name(name: &str) -> Result<(), EventError> {
    let refuse = |character| {
        Err(EventError::ChannelName {
            length: name.len(),
            character,
        })
    };

    if name.is_empty() || name.len() > limits::CHANNEL_NAME_BYTES {
        return refuse(None);
    }

    match name
        .chars()
        .find(|c| !u8::try_from(*c).is_ok_and(may_be_in_channel))
    {
        None => Ok(()),
        wrong => refuse(wrong),
    }
}

/// Whether a channel's name may hold `byte`.
pub(crate) fn may_be_in_channel(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.:=@,;-".contains(&byte)
}

/// What is wrong with a channel's name.
fn channel_fault(length: usize, character: Option<char>) -> String {
    character.map_or_else(
        || format!("not {length}"),
        |character| format!("not {character:?}"),
    )
}

/// Appends `text` as a JSON string.
pub fn write_json_string(out: &mut Vec<u8>, text: &str) {
    // Writing to a Vec cannot fail, and a str always serializes.
    let _ = serde_json::to_writer(out, text);
}

/// Whether valid JSON `text` nests deeper than `limit`. Most texts are settled by counting brackets, at memory speed.
fn nests_deeper(text: &[u8], limit: usize) -> bool {
    let brackets = text
        .iter()
        .map(|b| usize::from(matches!(b, b'[' | b'{')))
        .sum::<usize>();
    if brackets <= limit {
        return false;
    }

    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            // Valid JSON never closes what it has not opened.
            b']' | b'}' if !in_string => depth -= 1,
            _ => {}
        }
    }

    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn data_pass_byte_for_byte() {
        for text in [
            "12345678901234567890",
            "1.0",
            "1e2",
            r#"{"b":1,"a":[ 1 , 2 ]}"#,
            r#""\u00e9\/""#,
            "null",
        ] {
            let frame = Event::new("e", Data::Json(raw(text))).unwrap().encode();
            assert_eq!(
                &frame.bytes()[2..],
                format!(r#"{{"event":"e","data":{text}}}"#).as_bytes()
            );
        }
    }

    #[test]
    fn bytes_follow_their_header() {
        let frame = Event::new("e\"", Data::Bytes(Cow::Borrowed(&[0, 255])))
            .unwrap()
            .encode();
        let header = br#"{"event":"e\""}"#;
        assert_eq!(frame.bytes()[2], 1);
        assert_eq!(frame.bytes()[3..5], (header.len() as u16).to_be_bytes());
        assert_eq!(&frame.bytes()[5..5 + header.len()], header);
        assert_eq!(&frame.bytes()[5 + header.len()..], [0, 255]);
    }

    #[test]
    fn a_draft_is_read_back_and_nothing_else_is_taken_for_one() {
        let json = Event::new("e", Data::Json(raw("[1]")))
            .unwrap()
            .draft(&Marks::default());
        let bytes = Event::new("e", Data::Bytes(Cow::Borrowed(&[0, 255])))
            .unwrap()
            .draft(&Marks::default());
        for draft in [json, bytes] {
            let read = Draft::from_encoded(draft.bytes()).unwrap();
            assert_eq!(read.finish(Some(7)).bytes(), draft.finish(Some(7)).bytes());
            assert!(read.finish(None).is_event());
        }
        let text = |payload: &[u8]| Frame::event_text(&[payload]);
        let binary = |payload: &[u8]| Frame::event_binary(&[payload]);
        for wrong in [
            text(b""),
            text(b"[1]"),
            text(b"{\"a\":1} "),
            text(b"{\"\xff\":1}"),
            binary(b""),
            binary(b"\x02\0\x02{}"),
            binary(b"\x01\0\x02{"),
            binary(b"\x01\0\0{}"),
            Frame::ping(b"{}"),
        ] {
            assert!(Draft::from_encoded(wrong.bytes()).is_none(), "{wrong:?}");
        }
    }

    fn sender() -> Sender {
        Sender {
            connection: "00000000000000000000000004".parse().unwrap(),
            user: Some("a\"b".into()),
        }
    }

    #[test]
    fn marks_stand_in_their_order() {
        let event = Event::new("chat", Data::Json(raw("[1]"))).unwrap();
        let (from, id) = (sender(), Uuid::from_u128(7));
        let draft = event.draft(&Marks {
            channel: Some("c"),
            from: Some(&from),
            id: Some(id),
        });
        let marked = concat!(
            r#"{"event":"chat","channel":"c","data":[1],"#,
            r#""from":{"connection":"00000000000000000000000004","user":"a\"b"},"#,
            r#""id":"00000000-0000-0000-0000-000000000007""#,
        );
        assert_eq!(
            draft.finish(None).payload(),
            format!("{marked}}}").as_bytes()
        );
        assert_eq!(
            draft.finish(Some(12)).payload(),
            format!("{marked},\"offset\":12}}").as_bytes()
        );
        assert!(draft.finish(None).is_same(&draft.finish(None)));
        assert!(draft.finish(Some(12)).is_event());
        let anonymous = Sender { user: None, ..from };
        let draft = event.draft(&Marks {
            from: Some(&anonymous),
            ..Marks::default()
        });
        assert!(draft.finish(None).payload().ends_with(br#","user":null}}"#));
    }

    #[test]
    fn a_binary_header_has_the_marks_and_no_data() {
        let event = Event::new("chat", Data::Bytes(Cow::Borrowed(b"}}"))).unwrap();
        let draft = event.draft(&Marks {
            channel: Some("c"),
            ..Marks::default()
        });
        for (offset, header) in [
            (None, r#"{"event":"chat","channel":"c"}"#),
            (
                Some(u64::MAX),
                r#"{"event":"chat","channel":"c","offset":18446744073709551615}"#,
            ),
        ] {
            let frame = draft.finish(offset);
            assert!(!frame.is_text() && frame.is_event());
            let length = (header.len() as u16).to_be_bytes();
            assert_eq!(
                frame.payload(),
                [&[1], &length[..], header.as_bytes(), b"}}"].concat()
            );
        }
    }

    #[test]
    fn a_channel_has_a_plain_and_short_name() {
        for good in ["a", "room-1", "A_z.0:9=@,;-", &"x".repeat(200)] {
            assert_eq!(channel_name(good), Ok(()), "{good}");
        }
        for (bad, length, character) in [
            ("", 0, None),
            (&*"x".repeat(201), 201, None),
            ("a b", 3, Some(' ')),
            ("room*", 5, Some('*')),
            ("ü", 2, Some('ü')),
        ] {
            let error = channel_name(bad).unwrap_err();
            assert_eq!(error, EventError::ChannelName { length, character });
            assert_eq!(error.code(), "bad_channel");
        }
        let text = channel_name("a b").unwrap_err().to_string();
        assert_eq!(
            text,
            "a channel's name must be 1 to 200 bytes of [A-Za-z0-9_.:=@,;-], not ' '"
        );
    }

    #[test]
    fn names_and_depth_are_bounded() {
        let data = || Data::Json(raw("1"));
        assert_eq!(
            Event::new("", data()).unwrap_err(),
            EventError::NameLength { length: 0 }
        );
        assert_eq!(
            Event::new("x".repeat(129), data()).unwrap_err(),
            EventError::NameLength { length: 129 }
        );
        assert_eq!(
            Event::new("fanfare:x", data()).unwrap_err(),
            EventError::NameReserved
        );
        let nested = |n: usize| format!("{}\"[[[\"{}", "[".repeat(n), "]".repeat(n));
        assert!(Event::new("e", Data::Json(raw(&nested(128)))).is_ok());
        assert_eq!(
            Event::new("e", Data::Json(raw(&nested(129)))).unwrap_err(),
            EventError::TooDeep
        );
        let wide = format!("[{}[]]", "[],".repeat(500));
        assert!(Event::new("e", Data::Json(raw(&wide))).is_ok());
    }
}
