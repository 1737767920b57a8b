//! An event on its way in: its name, its data as they came, and the one encoding that all its receivers share.

use std::borrow::Cow;

use serde_json::value::RawValue;

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
    /// JSON text, kept as it came: numbers, key order, escapes and white space.
    Json(&'a RawValue),
    /// Bytes, delivered in a binary frame.
    Bytes(Cow<'a, [u8]>),
}

/// Why an event is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The name is empty or too long.
    #[error("event must be 1 to {max} bytes long, not {length}", max = limits::EVENT_NAME_BYTES)]
    NameLength {
        /// Bytes of the name that came.
        length: usize,
    },
    /// The name is one of the server's own.
    #[error("event names starting with \"fanfare:\" are the server's own")]
    NameReserved,
    /// The data nest too deeply for common parsers.
    #[error("data nests deeper than {max} levels", max = limits::DATA_DEPTH)]
    TooDeep,
}

impl EventError {
    /// The stable code of the problem.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NameLength { .. } => "event_name_length",
            Self::NameReserved => "event_name_reserved",
            Self::TooDeep => "data_too_deep",
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

    /// Builds the frame that every receiver of the protocol `fanfare.v1` shares: text for JSON, binary for bytes.
    ///
    /// Costs one allocation and one copy of the data. A binary frame is one version byte (1), the length of its
    /// header as 16 bits big-endian, the header as JSON, then the bytes.
    pub fn encode(&self) -> Frame {
        let mut head = Vec::with_capacity(self.name.len() + 32);
        head.extend_from_slice(b"{\"event\":");
        write_json_string(&mut head, &self.name);
        match &self.data {
            Data::Json(raw) => {
                head.extend_from_slice(b",\"data\":");
                Frame::event_text(&[&head, raw.get().as_bytes(), b"}"])
            }
            Data::Bytes(bytes) => {
                head.push(b'}');
                let length = head.len() as u16;
                Frame::event_binary(&[&[1], &length.to_be_bytes(), &head, bytes])
            }
        }
    }
}

/// Appends `text` as a JSON string.
pub fn write_json_string(out: &mut Vec<u8>, text: &str) {
    // Writing to a Vec cannot fail, and a str always serializes.
    let _ = serde_json::to_writer(out, text);
}

/// Whether valid JSON `text` nests deeper than `limit`. Most texts are settled by counting brackets, at memory speed.
fn nests_deeper(text: &[u8], limit: usize) -> bool {
    let brackets = text.iter().map(|b| usize::from(matches!(b, b'[' | b'{'))).sum::<usize>();
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
        for text in
            ["12345678901234567890", "1.0", "1e2", r#"{"b":1,"a":[ 1 , 2 ]}"#, r#""\u00e9\/""#, "null"]
        {
            let frame = Event::new("e", Data::Json(raw(text))).unwrap().encode();
            assert_eq!(&frame.bytes()[2..], format!(r#"{{"event":"e","data":{text}}}"#).as_bytes());
        }
    }

    #[test]
    fn bytes_follow_their_header() {
        let frame = Event::new("e\"", Data::Bytes(Cow::Borrowed(&[0, 255]))).unwrap().encode();
        let header = br#"{"event":"e\""}"#;
        assert_eq!(frame.bytes()[2], 1);
        assert_eq!(frame.bytes()[3..5], (header.len() as u16).to_be_bytes());
        assert_eq!(&frame.bytes()[5..5 + header.len()], header);
        assert_eq!(&frame.bytes()[5 + header.len()..], [0, 255]);
    }

    #[test]
    fn names_and_depth_are_bounded() {
        let data = || Data::Json(raw("1"));
        assert_eq!(Event::new("", data()).unwrap_err(), EventError::NameLength { length: 0 });
        assert_eq!(Event::new("x".repeat(129), data()).unwrap_err(), EventError::NameLength { length: 129 });
        assert_eq!(Event::new("fanfare:x", data()).unwrap_err(), EventError::NameReserved);
        let nested = |n: usize| format!("{}\"[[[\"{}", "[".repeat(n), "]".repeat(n));
        assert!(Event::new("e", Data::Json(raw(&nested(128)))).is_ok());
        assert_eq!(Event::new("e", Data::Json(raw(&nested(129)))).unwrap_err(), EventError::TooDeep);
        let wide = format!("[{}[]]", "[],".repeat(500));
        assert!(Event::new("e", Data::Json(raw(&wide))).is_ok());
    }
}
