//! The protocol of Redis (RESP3), as far as subscribers need it: bytes to frames, and commands to bytes.
//!
//! Nothing here trusts what it reads: lengths, counts and depth are bounded in [`crate::limits`], and nothing is set aside
//! for what has not arrived.

use std::ops::Range;

use bytes::{Buf as _, Bytes, BytesMut};

use crate::limits;

/// One thing that Redis sent.
#[derive(Debug, PartialEq)]
pub(super) enum Frame {
    /// What someone published.
    Message { channel: Bytes, payload: Bytes },
    /// A subscription is confirmed.
    Subscribed(Bytes),
    /// One has ended, asked for or not.
    Unsubscribed(Bytes),
    /// Another push; of no interest.
    Other,
    /// The answer to a command.
    Reply(Reply),
}

/// The answer to a command. Maps and sets are arrays here, one after the other.
#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    Text(Vec<u8>),
    Error(String),
    Int(i64),
    Null,
    Array(Vec<Reply>),
}

impl Reply {
    /// A text, if it is one and UTF-8.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// The elements of an array; of nothing else there are any.
    pub(super) fn array(&self) -> &[Self] {
        match self {
            Self::Array(elements) => elements,
            _ => &[],
        }
    }

    /// What a map has under `key`.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.array()
            .chunks_exact(2)
            .find(|pair| pair[0].text() == Some(key))
            .map(|pair| &pair[1])
    }
}

/// This is not RESP3, or more than Fanfare takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what came is not the protocol of Redis: {0}")]
pub(super) struct Malformed(&'static str);

enum Stop {
    /// At least so many bytes are missing.
    Short(usize),
    Malformed(&'static str),
}

type Parsed<T> = Result<T, Stop>;

/// Takes the first frame out of `buffer`, when it is whole; else makes room for what lacks of it.
///
/// A payload of more than [`limits::BUS_COPIED_BYTES`] shares its bytes with the buffer; a shorter one is a copy. So is no
/// channel: it is to be looked at and let go.
///
/// # Errors
/// [`Malformed`]; nothing after it can be understood.
pub(super) fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
    let mut cursor = Cursor {
        bytes: buffer,
        at: 0,
        elements: 0,
    };

    let frame = match cursor.frame() {
        Ok(frame) => frame,
        Err(Stop::Malformed(why)) => return Err(Malformed(why)),
        Err(Stop::Short(_)) if buffer.len() > limits::BUS_FRAME_BYTES => {
            return Err(Malformed("one frame is too large"));
        }
        Err(Stop::Short(lacks)) => {
            // All of it: each time that a frame is short, it is read again from its beginning.
            buffer.reserve(lacks);
            return Ok(None);
        }
    };

    let end = cursor.at;
    Ok(Some(match frame {
        Raw::Reply(reply) => {
            buffer.advance(end);
            Frame::Reply(reply)
        }

        Raw::Other => {
            buffer.advance(end);
            Frame::Other
        }

        Raw::Subscribed(channel) => Frame::Subscribed(buffer.split_to(end).freeze().slice(channel)),
        Raw::Unsubscribed(channel) => {
            Frame::Unsubscribed(buffer.split_to(end).freeze().slice(channel))
        }

        Raw::Message { channel, payload } => {
            let bytes = buffer.split_to(end).freeze();
            let payload = if payload.len() > limits::BUS_COPIED_BYTES {
                bytes.slice(payload)
            } else {
                Bytes::copy_from_slice(&bytes[payload])
            };
            Frame::Message {
                channel: bytes.slice(channel),
                payload,
            }
        }
    }))
}

/// The frames of a stream that comes in `pieces`, as texts, and the error that ends it; for fuzzing.
pub(crate) fn transcript(pieces: &[&[u8]]) -> Vec<String> {
    let mut buffer = BytesMut::new();
    let mut found = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decode(&mut buffer) {
                Ok(Some(frame)) => found.push(format!("{frame:?}")),
                Ok(None) => break,
                Err(malformed) => {
                    found.push(malformed.to_string());
                    return found;
                }
            }
        }
    }

    found
}

/// A frame whose bytes are still in the buffer.
enum Raw {
    Message {
        channel: Range<usize>,
        payload: Range<usize>,
    },
    Subscribed(Range<usize>),
    Unsubscribed(Range<usize>),
    Other,
    Reply(Reply),
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    elements: usize,
}

impl Cursor<'_> {
    fn frame(&mut self) -> Parsed<Raw> {
        loop {
            match self.peek()? {
                b'>' => return self.push(),
                // Attributes say something about what follows; nothing that is asked for here.
                b'|' => {
                    self.value(0)?;
                }
                _ => return self.value(0).map(Raw::Reply),
            }
        }
    }

    fn push(&mut self) -> Parsed<Raw> {
        self.at += 1;
        let count = self.count()?;
        let kind = if count == 0 { 0..0 } else { self.string()? };
        let kind = &self.bytes[kind];

        Ok(match (kind, count) {
            (b"message" | b"smessage", 3) => Raw::Message {
                channel: self.string()?,
                payload: self.string()?,
            },

            (b"subscribe" | b"ssubscribe", 3) => {
                let channel = self.string()?;
                self.value(0)?;
                Raw::Subscribed(channel)
            }

            (b"unsubscribe" | b"sunsubscribe", 3) => {
                // Where nothing was subscribed, the channel is null.
                let channel = if self.peek()? == b'_' {
                    self.null()?
                } else {
                    self.string()?
                };
                self.value(0)?;
                Raw::Unsubscribed(channel)
            }

            _ => {
                for _ in 1..count {
                    self.value(0)?;
                }
                Raw::Other
            }
        })
    }

    fn value(&mut self, depth: usize) -> Parsed<Reply> {
        self.elements += 1;
        if depth > limits::BUS_FRAME_DEPTH || self.elements > limits::BUS_FRAME_ELEMENTS {
            return Err(Stop::Malformed(
                "an answer is too deep or has too many elements",
            ));
        }

        let kind = self.peek()?;
        Ok(match kind {
            b'$' | b'=' | b'!' => {
                let Some(text) = self.blob()? else {
                    return Ok(Reply::Null);
                };
                let text = &self.bytes[text];
                match kind {
                    // `txt:` or `mkd:` precedes it.
                    b'=' => Reply::Text(text.get(4..).unwrap_or_default().to_vec()),
                    b'!' => Reply::Error(String::from_utf8_lossy(text).into_owned()),
                    _ => Reply::Text(text.to_vec()),
                }
            }

            b'+' | b'-' | b'(' | b',' | b'#' => {
                let line = self.line()?;
                let line = &self.bytes[line];
                if kind == b'-' {
                    Reply::Error(String::from_utf8_lossy(line).into_owned())
                } else {
                    Reply::Text(line.to_vec())
                }
            }

            b':' => {
                self.at += 1;
                Reply::Int(self.int()?)
            }

            b'_' => {
                self.null()?;
                Reply::Null
            }

            b'*' | b'~' | b'%' | b'|' | b'>' => return self.array(kind, depth),
            _ => return Err(Stop::Malformed("a value starts with an unknown byte")),
        })
    }

    fn array(&mut self, kind: u8, depth: usize) -> Parsed<Reply> {
        self.at += 1;
        if kind == b'*' && self.bytes.get(self.at) == Some(&b'-') {
            // `*-1`: null, as older protocols have it.
            self.int()?;
            return Ok(Reply::Null);
        }
        let count = self.count()? * if matches!(kind, b'%' | b'|') { 2 } else { 1 };
        // Nothing is reserved: the count is only a claim until the elements have come.
        let mut elements = Vec::new();
        for _ in 0..count {
            elements.push(self.value(depth + 1)?);
        }
        Ok(Reply::Array(elements))
    }

    /// The bytes of a string, be it a blob or a line.
    fn string(&mut self) -> Parsed<Range<usize>> {
        match self.peek()? {
            b'$' => self
                .blob()?
                .ok_or(Stop::Malformed("a push has no text where one belongs")),
            b'+' => self.line(),
            _ => Err(Stop::Malformed("a push has no text where one belongs")),
        }
    }

    /// Length, line end, bytes, line end; `None` for the null of older protocols.
    fn blob(&mut self) -> Parsed<Option<Range<usize>>> {
        self.at += 1;
        let len = match self.int()? {
            -1 => return Ok(None),
            len => usize::try_from(len)
                .ok()
                .filter(|len| *len <= limits::BUS_FRAME_BYTES),
        };

        let len = len.ok_or(Stop::Malformed("a text has no length that is allowed"))?;
        // `len` is bounded, so no sum here overflows.
        let text = self.at..self.at + len;
        match self.bytes.get(text.end..text.end + 2) {
            Some(b"\r\n") => {}
            Some(_) => return Err(Stop::Malformed("a text does not end where it should")),
            None => return Err(Stop::Short(text.end + 2 - self.bytes.len())),
        }

        self.at = text.end + 2;
        Ok(Some(text))
    }

    /// What is between the first byte and the line end.
    fn line(&mut self) -> Parsed<Range<usize>> {
        let start = self.at + 1;
        let rest = &self.bytes[start..];
        // A line that has not ended is searched from its start after each read, so its length is
        // bounded.
        let Some(len) = rest
            .iter()
            .take(limits::BUS_READ_BYTES)
            .position(|byte| *byte == b'\r')
        else {
            return Err(if rest.len() < limits::BUS_READ_BYTES {
                Stop::Short(1)
            } else {
                Stop::Malformed("a line does not end")
            });
        };

        self.at = start + len;
        self.line_end()?;
        Ok(start..start + len)
    }

    fn null(&mut self) -> Parsed<Range<usize>> {
        self.at += 1;
        self.line_end()?;
        Ok(0..0)
    }

    fn count(&mut self) -> Parsed<usize> {
        let count = usize::try_from(self.int()?)
            .ok()
            .filter(|count| *count <= limits::BUS_FRAME_ELEMENTS);
        count.ok_or(Stop::Malformed("an array has no length that is allowed"))
    }

    /// Digits and the line end.
    fn int(&mut self) -> Parsed<i64> {
        let negative = self.peek()? == b'-';
        self.at += usize::from(negative);
        let (mut value, mut digits) = (0_i64, 0);

        loop {
            let byte = self.peek()?;
            if !byte.is_ascii_digit() {
                break;
            }
            let next = value
                .checked_mul(10)
                .and_then(|value| value.checked_add(i64::from(byte - b'0')));
            value = next.ok_or(Stop::Malformed("a number is too large"))?;
            (self.at, digits) = (self.at + 1, digits + 1);
        }

        if digits == 0 {
            return Err(Stop::Malformed("a number is missing"));
        }

        self.line_end()?;
        Ok(if negative { -value } else { value })
    }

    fn line_end(&mut self) -> Parsed<()> {
        match self.bytes.get(self.at..) {
            Some([b'\r', b'\n', ..]) => {
                self.at += 2;
                Ok(())
            }
            None | Some([] | [b'\r']) => Err(Stop::Short(1)),
            Some(_) => Err(Stop::Malformed("a line does not end where it should")),
        }
    }

    fn peek(&self) -> Parsed<u8> {
        self.bytes.get(self.at).copied().ok_or(Stop::Short(1))
    }
}

/// Appends the head of a command with `count` words.
pub(super) fn head(out: &mut BytesMut, count: usize) {
    number(out, b'*', count);
}

/// Appends one word of a command.
pub(super) fn word(out: &mut BytesMut, word: &[u8]) {
    number(out, b'$', word.len());
    out.extend_from_slice(word);
    out.extend_from_slice(b"\r\n");
}

/// Appends a command.
pub(super) fn command(out: &mut BytesMut, words: &[&[u8]]) {
    head(out, words.len());
    for one in words {
        word(out, one);
    }
}

fn number(out: &mut BytesMut, kind: u8, number: usize) {
    let mut digits = [0; 20];
    let (mut rest, mut at) = (number, digits.len());
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }

    out.extend_from_slice(&[kind]);
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<Frame>, Malformed> {
        let mut buffer = BytesMut::from(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = decode(&mut buffer)? {
            frames.push(frame);
        }
        assert!(buffer.is_empty() || frames.len() < 100);
        Ok(frames)
    }

    fn message(channel: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        command(&mut out, &[b"message", channel, payload]);
        out[0] = b'>';
        out.to_vec()
    }

    const STREAM: &[u8] = b"%2\r\n$4\r\nrole\r\n$6\r\nmaster\r\n+proto\r\n:3\r\n>3\r\n$10\r\nssubscribe\r\n$1\r\na\r\n:1\r\n\
        >3\r\n$7\r\nmessage\r\n$1\r\na\r\n$3\r\n\r\nx\r\n>3\r\n$12\r\nsunsubscribe\r\n_\r\n:0\r\n-MOVED 1 h:1\r\n_\r\n$-1\r\n*-1\r\n\
        |1\r\n+k\r\n*1\r\n:1\r\n=7\r\ntxt:abc\r\n>2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n~2\r\n,1.5\r\n#t\r\n!3\r\nERR\r\n(123\r\n";

    fn expected() -> Vec<Frame> {
        let text = |text: &str| Reply::Text(text.as_bytes().to_vec());
        vec![
            Frame::Reply(Reply::Array(vec![
                text("role"),
                text("master"),
                text("proto"),
                Reply::Int(3),
            ])),
            Frame::Subscribed(Bytes::from_static(b"a")),
            Frame::Message {
                channel: Bytes::from_static(b"a"),
                payload: Bytes::from_static(b"\r\nx"),
            },
            Frame::Unsubscribed(Bytes::new()),
            Frame::Reply(Reply::Error("MOVED 1 h:1".to_owned())),
            Frame::Reply(Reply::Null),
            Frame::Reply(Reply::Null),
            Frame::Reply(Reply::Null),
            Frame::Reply(text("abc")),
            Frame::Other,
            Frame::Reply(Reply::Array(vec![text("1.5"), text("t")])),
            Frame::Reply(Reply::Error("ERR".to_owned())),
            Frame::Reply(text("123")),
        ]
    }

    #[test]
    fn every_kind_of_frame_is_read() {
        assert_eq!(all(STREAM), Ok(expected()));
    }

    #[test]
    fn a_stream_may_be_cut_anywhere() {
        for cut in 0..=STREAM.len() {
            let mut buffer = BytesMut::from(&STREAM[..cut]);
            let mut frames = Vec::new();
            for more in [&STREAM[cut..], &[]] {
                while let Some(frame) = decode(&mut buffer).unwrap() {
                    frames.push(frame);
                }
                buffer.extend_from_slice(more);
            }
            assert_eq!(frames, expected(), "cut at {cut}");
        }
        let mut buffer = BytesMut::new();
        let mut frames = Vec::new();
        for byte in STREAM {
            buffer.extend_from_slice(&[*byte]);
            frames.extend(decode(&mut buffer).unwrap());
        }
        assert_eq!(frames, expected());
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let deep = "*1\r\n".repeat(limits::BUS_FRAME_DEPTH + 2);
        let large = format!("${}\r\n", limits::BUS_FRAME_BYTES + 1);
        let many = format!("*{}\r\n", limits::BUS_FRAME_ELEMENTS + 1);
        let endless = "+".to_owned() + &"x".repeat(limits::BUS_READ_BYTES + 1);
        for bad in [
            "x",
            "\r\n",
            "$x\r\n",
            "$\r\n",
            "$-2\r\n",
            "$3\r\nabcd\r\n",
            "$3\r\nabc\n\n",
            ":1\n",
            ":\r\n",
            ":--1\r\n",
            ":99999999999999999999\r\n",
            "*-x\r\n",
            ">-1\r\n",
            ">3\r\n:1\r\n",
            ">3\r\n$7\r\nmessage\r\n:1\r\n",
            ">3\r\n$7\r\nmessage\r\n$-1\r\n",
            "_x\r\n",
            "$?\r\n",
            "*?\r\n",
            "HTTP/1.1 400 Bad Request\r\n",
            &deep,
            &large,
            &many,
            &endless,
        ] {
            assert!(
                all(bad.as_bytes()).is_err(),
                "{}",
                &bad[..bad.len().min(40)]
            );
        }
    }

    #[test]
    fn a_small_payload_keeps_no_buffer_and_a_large_one_shares_it() {
        let small = vec![b'x'; limits::BUS_COPIED_BYTES];
        let large = vec![b'y'; limits::BUS_COPIED_BYTES + 1];
        let mut buffer =
            BytesMut::from(&[message(b"a", &small), message(b"a", &large)].concat()[..]);
        let room = buffer.as_ptr() as usize..buffer.as_ptr() as usize + buffer.len();
        for (payload, shared) in [(small, false), (large, true)] {
            let Some(Frame::Message { payload: read, .. }) = decode(&mut buffer).unwrap() else {
                panic!()
            };
            assert_eq!(
                (&read[..], room.contains(&(read.as_ptr() as usize))),
                (&payload[..], shared)
            );
        }
    }

    #[test]
    fn a_command_is_what_redis_reads() {
        let mut out = BytesMut::new();
        command(&mut out, &[b"PUBLISH", b"", b"0123456789"]);
        assert_eq!(
            &out[..],
            b"*3\r\n$7\r\nPUBLISH\r\n$0\r\n\r\n$10\r\n0123456789\r\n"
        );
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in(
            messages in prop::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..8),
            step in 1_usize..40,
        ) {
            let bytes = messages.iter().flat_map(|(channel, payload)| message(channel, payload)).collect::<Vec<_>>();
            let mut buffer = BytesMut::new();
            let mut read = Vec::new();
            for part in bytes.chunks(step) {
                buffer.extend_from_slice(part);
                while let Some(Frame::Message { channel, payload }) = decode(&mut buffer).unwrap() {
                    read.push((channel.to_vec(), payload.to_vec()));
                }
            }
            prop_assert_eq!(read, messages);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(prop_oneof![
            any::<u8>(), prop::sample::select(b"$*>%:+-_|=~!#,(0123456789\r\n".to_vec())
        ], 0..200)) {
            let _ = all(&bytes);
        }
    }
}
