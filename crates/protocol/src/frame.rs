//! WebSocket frames as the server writes them: encoded once, then only shared.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use super::wire::Form;
use crate::close::Close;

pub(super) const TEXT: u8 = 0x81;
pub(super) const BINARY: u8 = 0x82;
pub(super) const CLOSE: u8 = 0x88;
pub(super) const PING: u8 = 0x89;
pub(super) const PONG: u8 = 0x8a;

/// One encoded, unmasked WebSocket frame (RFC 6455, section 5.2), shared by reference count.
///
/// A clone costs one atomic addition. The bytes never change.
#[derive(Clone)]
pub struct Frame(Arc<Inner>);

struct Inner {
    bytes: Box<[u8]>,
    kind: Kind,
    refused: AtomicU32,
    /// The same in the form of another protocol.
    other: OnceLock<Box<Other>>,
}

/// What a frame carries, as far as writing it depends on that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    is_event: bool,
    is_close: bool,
    /// It is as its client gets it, whatever the client's protocol.
    is_final: bool,
}

/// Whether the delivery or loss of a frame is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carries {
    Event,
    NoEvent,
}

/// A frame in the form of another protocol, and the next one's.
struct Other {
    form: Form,
    frame: Frame,
    next: OnceLock<Box<Self>>,
}

impl Frame {
    /// A text frame that carries an event; its delivery or loss is counted.
    pub fn event_text(parts: &[&[u8]]) -> Self {
        Self::new(TEXT, parts, Carries::Event)
    }

    /// A binary frame that carries an event; its delivery or loss is counted.
    pub fn event_binary(parts: &[&[u8]]) -> Self {
        Self::new(BINARY, parts, Carries::Event)
    }

    /// A text frame of the protocol's own: welcome, ack, error, bye.
    pub fn text(payload: &[u8]) -> Self {
        Self::new(TEXT, &[payload], Carries::NoEvent)
    }

    /// Not a frame, but the HTTP answer that grants a handshake (section 4.2.2), to go out before the first one.
    pub fn handshake(answer: Vec<u8>) -> Self {
        Self::ready(answer)
    }

    /// Whole WebSocket frames, one after the other, in the form of their client's protocol: they go out as they are.
    pub fn ready(bytes: Vec<u8>) -> Self {
        let kind = Kind {
            is_event: false,
            is_close: false,
            is_final: true,
        };
        Self::of(bytes, kind)
    }

    /// The same for an event: its delivery or loss is counted.
    pub fn ready_event(bytes: Vec<u8>) -> Self {
        let kind = Kind {
            is_event: true,
            is_close: false,
            is_final: true,
        };
        Self::of(bytes, kind)
    }

    /// A ping (section 5.5.2). `payload` is at most 125 bytes.
    pub fn ping(payload: &[u8]) -> Self {
        debug_assert!(payload.len() <= 125);
        Self::new(PING, &[payload], Carries::NoEvent)
    }

    /// The answer to a ping (section 5.5.3): the same payload, at most 125 bytes.
    pub fn pong(payload: &[u8]) -> Self {
        debug_assert!(payload.len() <= 125);
        Self::new(PONG, &[payload], Carries::NoEvent)
    }

    /// A close frame (section 5.5.1). Codes that may not be sent (1005, 1006) give an empty body.
    pub fn close(close: &Close) -> Self {
        if matches!(close.code, crate::close::NO_STATUS | crate::close::ABNORMAL) {
            return Self::new(CLOSE, &[], Carries::NoEvent);
        }
        Self::new(
            CLOSE,
            &[&close.code.to_be_bytes(), close.reason.as_bytes()],
            Carries::NoEvent,
        )
    }

    /// The frame of an event as [`Frame::bytes`] gave it, on this node or another; `None` for what is not a whole,
    /// unmasked text or binary frame with the shortest form of its length.
    pub fn from_encoded(bytes: &[u8]) -> Option<Self> {
        let &[first, length, ..] = bytes else {
            return None;
        };
        let header = match length {
            127 => 10,
            126 => 4,
            _ => 2,
        };
        // Encoded again to be compared: so a length in a longer form is found, and bytes too few or
        // too many.
        let frame = Self::new(first, &[bytes.get(header..)?], Carries::Event);
        (matches!(first, TEXT | BINARY) && frame.bytes() == bytes).then_some(frame)
    }

    /// The same bytes again, in memory of their own: what is held with this one is not held with the other.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self::of(self.0.bytes.to_vec(), self.0.kind)
    }

    /// The same in another form, which `encode` writes, and which is not held with this one.
    #[must_use]
    pub fn once_in_form(&self, encode: impl FnOnce() -> Vec<u8>) -> Self {
        if self.0.kind.is_final {
            return self.clone();
        }
        let kind = Kind {
            is_final: true,
            ..self.0.kind
        };
        Self::of(encode(), kind)
    }

    /// The same in `form`, which `encode` writes the first time that it is asked for.
    ///
    /// A frame in its final form is returned as it is.
    #[must_use]
    pub fn in_form(&self, form: Form, encode: impl FnOnce() -> Vec<u8>) -> Self {
        if self.0.kind.is_final {
            return self.clone();
        }

        let mut encode = Some(encode);
        // A list that only grows, so that readers take no lock. It is no longer than the app has
        // forms.
        let mut place = &self.0.other;
        loop {
            let other = place.get_or_init(|| {
                // At most once: the entry that this makes has `form`, and so ends the loop. The
                // loop goes on only past entries of other forms.
                let bytes = encode.take().map(|encode| encode()).unwrap_or_default();
                let kind = Kind {
                    is_final: true,
                    ..self.0.kind
                };
                Box::new(Other {
                    form,
                    frame: Self::of(bytes, kind),
                    next: OnceLock::new(),
                })
            });

            if other.form == form {
                return other.frame.clone();
            }

            place = &other.next;
        }
    }

    fn new(first: u8, parts: &[&[u8]], carries: Carries) -> Self {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut bytes = Vec::with_capacity(length + 10);
        append(&mut bytes, first, parts);
        let kind = Kind {
            is_event: carries == Carries::Event,
            is_close: first == CLOSE,
            is_final: false,
        };
        Self::of(bytes, kind)
    }

    fn of(bytes: Vec<u8>, kind: Kind) -> Self {
        Self(Arc::new(Inner {
            bytes: bytes.into_boxed_slice(),
            kind,
            refused: AtomicU32::new(0),
            other: OnceLock::new(),
        }))
    }

    /// The frame as it goes over the wire, header included.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// What the frame carries, without its header.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        // The server's frames have no mask, so the length is the end of the header.
        let header = match self.0.bytes[1] {
            127 => 10,
            126 => 4,
            _ => 2,
        };
        &self.0.bytes[header..]
    }

    /// Whether the payload is text.
    #[inline]
    pub fn is_text(&self) -> bool {
        self.0.bytes[0] == TEXT
    }

    /// Bytes on the wire.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.bytes.len()
    }

    /// Whether nothing goes over the wire: another protocol has no word for this.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.bytes.is_empty()
    }

    /// Whether this carries an event, and so counts as a delivery or a drop.
    #[inline]
    pub fn is_event(&self) -> bool {
        self.0.kind.is_event
    }

    /// Whether this is a close frame.
    #[inline]
    pub fn is_close(&self) -> bool {
        self.0.kind.is_close
    }

    /// The first byte (section 5.2): whether the frame is whole, and its opcode.
    pub(super) fn opcode(&self) -> u8 {
        self.0.bytes[0]
    }

    /// Whether both share the same bytes in memory.
    #[inline]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Notes that one more socket refused this frame; true for the first, which makes its bytes count for the node.
    #[inline]
    pub fn note_refused(&self) -> bool {
        // Relaxed, as no other memory is read by it: what counts is each caller's place in the
        // order of this one counter, which decides who was first and who is last.
        self.0.refused.fetch_add(1, Relaxed) == 0
    }

    /// How many sockets refuse it now.
    #[inline]
    pub fn refusals(&self) -> usize {
        self.0.refused.load(Relaxed) as usize
    }

    /// Takes one note back; true for the last.
    #[inline]
    pub fn forget_refused(&self) -> bool {
        self.0.refused.fetch_sub(1, Relaxed) == 1
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.0.bytes.first().copied().unwrap_or_default();
        write!(f, "Frame(0x{first:02x}, {} bytes)", self.len())
    }
}

/// Appends one unmasked frame that begins with `first` and carries `parts`.
pub(super) fn append(bytes: &mut Vec<u8>, first: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    bytes.push(first);
    match length {
        0..=125 => bytes.push(length as u8),
        126..=0xffff => {
            bytes.push(126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }

    for part in parts {
        bytes.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_their_shortest_form() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (0xffff, 4), (0x1_0000, 10)] {
            let frame = Frame::event_text(&[&vec![b'a'; length]]);
            assert_eq!(frame.len(), header + length);
            assert_eq!(frame.payload().len(), length);
            assert!(frame.is_text());
        }
    }

    #[test]
    fn a_frame_is_read_back_whole_or_not_at_all() {
        for length in [0, 1, 125, 126, 0xffff, 0x1_0000] {
            let payload = vec![b'a'; length];
            for frame in [
                Frame::event_text(&[&payload]),
                Frame::event_binary(&[&payload]),
            ] {
                let read = Frame::from_encoded(frame.bytes()).unwrap();
                assert_eq!((read.bytes(), read.is_event()), (frame.bytes(), true));
                assert!(Frame::from_encoded(&frame.bytes()[..frame.len() - 1]).is_none());
                assert!(Frame::from_encoded(&[frame.bytes(), b"a"].concat()).is_none());
            }
        }
        let masked = [TEXT, 0x81, 0, 0, 0, 0, b'a'];
        let longer = [TEXT, 126, 0, 1, b'a'];
        let endless = [&[TEXT, 127][..], &[0xff; 8]].concat();
        for wrong in [
            &[][..],
            &[TEXT],
            &[0x01, 0],
            &[PING, 0],
            &[CLOSE, 0],
            &masked,
            &longer,
            &endless,
        ] {
            assert!(Frame::from_encoded(wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn a_close_without_status_has_no_body() {
        assert_eq!(
            Frame::close(&Close::new(crate::close::NO_STATUS, "")).bytes(),
            [CLOSE, 0]
        );
        assert_eq!(
            Frame::close(&Close::new(4200, "draining")).bytes()[2..4],
            4200u16.to_be_bytes()
        );
    }
}
