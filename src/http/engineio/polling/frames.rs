//! The frames between a session and its client: those that the session writes, and those that stand for what its client posts.

use crate::protocol::decoder::Message;

/// About how many bytes the packets of the whole frames in `bytes` take, up to `most` and the last of them.
pub(super) fn packets_size(mut bytes: &[u8], most: usize) -> usize {
    let mut size = 0;
    while size < most
        && let Some(frame) = first_frame(bytes)
    {
        // Text goes as it is, bytes as `b` and base64. Each packet has one byte more, the
        // separator.
        size += match frame.first {
            0x81 => frame.payload.len() + 1,
            0x82 => frame.payload.len().div_ceil(3) * 4 + 2,
            _ => 0,
        };
        bytes = &bytes[frame.length..];
    }
    size
}

/// A frame among others.
pub(super) struct WholeFrame<'a> {
    /// Its first byte.
    first: u8,
    payload: &'a [u8],
    /// Its length with the header.
    length: usize,
}

/// The first frame in `bytes`; nothing where its rest has yet to come. The session writes whole messages, unmasked.
pub(super) fn first_frame(bytes: &[u8]) -> Option<WholeFrame<'_>> {
    let (&[first, length], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match length {
        127 => {
            let (length, rest) = rest.split_first_chunk()?;
            (u64::from_be_bytes(*length) as usize, rest)
        }
        126 => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        length => (usize::from(length), rest),
    };

    let payload = rest.get(..length)?;
    Some(WholeFrame {
        first,
        payload,
        length: bytes.len() - rest.len() + length,
    })
}

/// The first frame of what the session says, and its length.
pub(super) fn frame(bytes: &[u8]) -> Option<(Message<'_>, usize)> {
    let WholeFrame {
        first,
        payload,
        length,
    } = first_frame(bytes)?;
    let message = match first {
        // The session writes UTF-8. If it did not, the client would get a packet without a meaning
        // (noop).
        0x81 => Message::Text(simdutf8::basic::from_utf8(payload).unwrap_or("6")),
        0x82 => Message::Binary(payload),
        0x89 => Message::Ping(payload),
        0x8a => Message::Pong(payload),
        _ => Message::Close(None),
    };
    Some((message, length))
}

/// Appends a frame as clients send them. A mask of zeros changes nothing.
pub(super) fn append_frame(to: &mut Vec<u8>, first: u8, payload: &[u8]) {
    to.push(first);
    match payload.len() {
        length @ 0..=125 => to.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            to.push(0xfe);
            to.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            to.push(0xff);
            to.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }

    to.extend_from_slice(&[0; 4]);
    to.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{
        decoder::{Decoder, Role},
        frame::Frame,
    };

    #[test]
    fn a_frame_is_taken_when_all_of_it_is_there() {
        for length in [0, 125, 126, 0xffff, 0x1_0000] {
            let whole = Frame::event_text(&[&vec![b'a'; length]]);
            let bytes = whole.bytes();
            assert!(frame(&bytes[..bytes.len() - 1]).is_none());
            let two = [bytes, b"\x81\x01b"].concat();
            let (message, taken) = frame(&two).unwrap();
            assert_eq!(taken, bytes.len());
            assert!(matches!(message, Message::Text(text) if text.len() == length));
        }
    }

    #[test]
    fn what_is_posted_is_read_as_the_frames_of_a_client() {
        for length in [0, 125, 126, 0xffff, 0x1_0000] {
            let payload = vec![b'a'; length];
            let mut bytes = Vec::new();
            append_frame(&mut bytes, 0x81, &payload);
            let mut decoder = Decoder::new(Role::Server, 1 << 20);
            let mut rest = &mut *bytes;
            let message = decoder.next(&mut rest).unwrap();
            assert!(matches!(message, Some(Message::Text(text)) if text.len() == length));
        }
    }
}
