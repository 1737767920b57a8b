//! WebSocket frames of a server, as much as a load test reads of them.

/// One frame. Servers do not mask, and ours does not fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'b> {
    /// Its opcode (RFC 6455, section 5.2).
    pub(crate) opcode: u8,
    /// Its payload.
    pub(crate) payload: &'b [u8],
}

/// Text.
pub(crate) const TEXT: u8 = 1;
/// Close.
pub(crate) const CLOSE: u8 = 8;
/// Ping.
pub(crate) const PING: u8 = 9;
/// Pong.
pub(crate) const PONG: u8 = 10;

/// The first frame of `bytes` and its whole length, once all of it is there.
pub(crate) fn next(bytes: &[u8]) -> Option<(Frame<'_>, usize)> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    let (length, head): (usize, usize) = match second & 0x7f {
        126 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
        127 => (
            usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).ok()?,
            10,
        ),
        length => (usize::from(length), 2),
    };
    let payload = bytes.get(head..head.checked_add(length)?)?;
    Some((
        Frame {
            opcode: first & 0x0f,
            payload,
        },
        head + length,
    ))
}

/// A client's pong.
pub(crate) fn pong(payload: &[u8]) -> Vec<u8> {
    client(PONG, payload)
}

/// A client's text.
pub(crate) fn text(payload: &str) -> Vec<u8> {
    client(TEXT, payload.as_bytes())
}

/// A client's frame of at most 65,535 bytes; its mask is zero, so that the payload stands as it is.
fn client(opcode: u8, payload: &[u8]) -> Vec<u8> {
    raw(0x80 | opcode, payload)
}

/// The same with a first byte that need not be right.
pub(crate) fn raw(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0xfe);
            frame.extend((length as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// A client's close with 1000.
pub(crate) const GOODBYE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_once_it_is_whole_in_all_three_lengths() {
        for length in [3usize, 126, 70_000] {
            let mut bytes = vec![0x81];
            match length {
                0..=125 => bytes.push(length as u8),
                126..=0xffff => {
                    bytes.push(126);
                    bytes.extend((length as u16).to_be_bytes());
                }
                _ => {
                    bytes.push(127);
                    bytes.extend((length as u64).to_be_bytes());
                }
            }
            bytes.extend(vec![b'a'; length]);
            assert_eq!(next(&bytes[..bytes.len() - 1]), None);
            let (frame, used) = next(&bytes).unwrap();
            assert_eq!(
                (frame.opcode, frame.payload.len(), used),
                (TEXT, length, bytes.len())
            );
        }
    }

    #[test]
    fn a_client_masks_with_zeros() {
        assert_eq!(pong(b"p"), [0x8a, 0x81, 0, 0, 0, 0, b'p']);
        let long = text(&"a".repeat(300));
        assert_eq!(long[..9], [0x81, 0xfe, 1, 44, 0, 0, 0, 0, b'a']);
        assert_eq!(long.len(), 8 + 300);
    }
}
