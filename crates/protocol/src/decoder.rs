//! WebSocket frames to messages (RFC 6455, section 5), under bounds, from bytes in whatever pieces they arrive.
//!
//! The usual frame is whole in the caller's read buffer: it is unmasked in place and handed out as a borrow,
//! with no copy and no allocation. Only what is cut short (a frame over two reads, a message in fragments)
//! is gathered in memory of the decoder's own, which grows with the bytes that came, never with a length that a
//! header claims, and goes as soon as the message is done. An idle [`Decoder`] holds nothing on the heap.

// The input is a cursor over the caller's buffer, as `&mut &[u8]` is for `std::io::Read`.
#![allow(clippy::mut_mut)]

mod assembly;
mod violation;

use std::mem;

pub use self::violation::Violation;

use self::assembly::Assembly;
use crate::limits;

/// Which end of the connection decodes; it decides whether frames must be masked (RFC 6455, section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads what a client sent: every frame must be masked.
    Server,
    /// Reads what a server sent: no frame may be masked.
    Client,
}

/// One message or control frame, borrowed from the input or from the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'m> {
    /// A whole text message.
    Text(&'m str),
    /// A whole binary message.
    Binary(&'m [u8]),
    /// A ping, to be answered by a pong with the same bytes; at most 125.
    Ping(&'m [u8]),
    /// A pong; at most 125 bytes.
    Pong(&'m [u8]),
    /// The peer closes, with its code and reason if it gave them. What follows it is discarded.
    Close(Option<(u16, &'m str)>),
}

/// Decodes one direction of one connection.
///
/// It is synchronous and takes bytes as they come, cut at any point; a read that is cancelled between two calls
/// loses nothing. 24 bytes while nothing is cut short; see [`Decoder::held`] for the rest.
#[derive(Debug)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
    limit: usize,
    role: Role,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Open,
    Closed,
    Broken(Violation),
}

/// What is cut short. Exists only while there is something in it.
#[derive(Debug, Default)]
struct Partial {
    head: [u8; MAX_HEAD],
    head_len: usize,
    /// The frame whose payload is coming, and how much of it came.
    frame: Option<(Head, usize)>,
    control: Vec<u8>,
    message: Option<Assembly>,
}

/// Longest frame header: two bytes, a 64-bit length, a mask.
const MAX_HEAD: usize = 14;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

#[derive(Clone, Copy, Debug)]
struct Head {
    fin: bool,
    opcode: u8,
    mask: [u8; 4],
    len: usize,
}

impl Head {
    /// Whether the frame is a message of its own.
    fn is_alone(self) -> bool {
        self.is_control() || (self.fin && self.opcode != CONTINUATION)
    }

    fn is_control(self) -> bool {
        self.opcode >= CLOSE
    }
}

/// What one look at the input came to, without a borrow of the decoder.
enum Step<'i> {
    /// The input is used up.
    Starved,
    /// A frame was taken in, and its message is not whole yet.
    Consumed,
    /// A message lay whole in the input; it is masked still.
    InPlace(Head, &'i mut [u8]),
    /// The assembled message is complete.
    Assembled,
    /// The control frame that was cut short is complete.
    Control(u8),
}

impl Decoder {
    /// A decoder for one connection; `limit` bounds a message's payload, all its fragments together, in bytes.
    #[inline]
    pub fn new(role: Role, limit: usize) -> Self {
        Self {
            partial: None,
            limit,
            role,
            state: State::Open,
        }
    }

    /// Takes the next message off the front of `input`, or takes in all of it and returns `None`.
    ///
    /// Call it until it returns `None`, then read more. `input` is unmasked in place and moves past what was used. A
    /// message that is whole in `input` costs no copy and no allocation. What was allocated for one that did not is
    /// freed by the call after the one that returned it.
    ///
    /// Once a close frame came, all further input is discarded (RFC 6455, section 1.4).
    ///
    /// # Errors
    /// The peer's violation, found as early as the bytes allow: what a header already shows, before any payload; bad
    /// UTF-8, in the piece that holds it. Every later call returns the same.
    pub fn next<'m, 'i: 'm>(
        &'m mut self,
        input: &mut &'i mut [u8],
    ) -> Result<Option<Message<'m>>, Violation> {
        match self.state {
            State::Open => {}
            State::Closed => {
                *input = &mut [];
                return Ok(None);
            }
            State::Broken(violation) => return Err(violation),
        }

        // Outside of a message in fragments, nearly every call gets here with a whole frame. The message is made in
        // place, since moving it through the steps below costs more than all the rest of a small frame.
        if self.partial.is_none() {
            match self.parse_head(input) {
                Ok(Some((head, used))) if head.is_alone() && input.len() - used >= head.len => {
                    take(input, used);
                    return self.whole(head, take(input, head.len));
                }
                Ok(_) => {}
                Err(violation) => return Err(self.poison(violation)),
            }
        }

        match self.advance(input) {
            Ok(Step::InPlace(head, payload)) => self.whole(head, payload),
            Ok(step) => self.finish(&step),
            Err(violation) => Err(self.poison(violation)),
        }
    }

    /// Bytes on the heap: 0 between messages, and never more than the limit, 125 for a control frame between the
    /// fragments, and a fixed part of less than 200.
    #[inline]
    pub fn held(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| {
            size_of::<Partial>()
                + partial.control.capacity()
                + partial.message.as_ref().map_or(0, Assembly::capacity)
        })
    }

    /// Whether a frame or a message is cut short: bytes of it came, and more must follow.
    #[inline]
    pub fn is_mid_message(&self) -> bool {
        self.partial.as_ref().is_some_and(|partial| {
            partial.head_len > 0
                || partial.frame.is_some()
                || partial.message.as_ref().is_some_and(|m| !m.is_complete())
        })
    }

    /// The message of a frame that is whole in the input.
    #[inline]
    fn whole<'i>(
        &mut self,
        head: Head,
        payload: &'i mut [u8],
    ) -> Result<Option<Message<'i>>, Violation> {
        unmask(payload, head.mask, 0);
        let answer = interpret(head.opcode, payload);
        match &answer {
            Ok(Some(Message::Close(_))) => self.state = State::Closed,
            Ok(_) => {}
            Err(violation) => {
                self.poison(*violation);
            }
        }
        answer
    }

    /// The reason that a peer gets for its `violation`: with the bound, if that was exceeded.
    pub fn reason(&self, violation: Violation) -> String {
        match violation {
            Violation::TooBig => format!("over {} bytes (limits.message_bytes)", self.limit),
            other => other.to_string(),
        }
    }

    fn poison(&mut self, violation: Violation) -> Violation {
        // Nothing more of it is read, so its memory is freed now.
        self.partial = None;
        self.state = State::Broken(violation);
        violation
    }

    /// Takes in frames until one completes a message or the input is used up.
    fn advance<'i>(&mut self, input: &mut &'i mut [u8]) -> Result<Step<'i>, Violation> {
        self.forget_delivered();
        loop {
            let step = if self
                .partial
                .as_ref()
                .is_some_and(|partial| partial.frame.is_some())
            {
                self.fill(input)?
            } else {
                match self.take_head(input)? {
                    None => Step::Starved,
                    Some(head) => self.begin(head, input)?,
                }
            };

            if !matches!(step, Step::Consumed) {
                return Ok(step);
            }
        }
    }

    /// Frees what the last answer borrowed, which only a new call proves to be over.
    fn forget_delivered(&mut self) {
        if let Some(partial) = &mut self.partial {
            if partial.message.as_ref().is_some_and(Assembly::is_complete) {
                partial.message = None;
            }
            if partial.frame.is_none() {
                partial.control = Vec::new();
                if partial.message.is_none() && partial.head_len == 0 {
                    self.partial = None;
                }
            }
        }
    }

    /// Takes a whole frame header, or holds the bytes of one that is cut short.
    fn take_head(&mut self, input: &mut &mut [u8]) -> Result<Option<Head>, Violation> {
        let held = self.partial.as_ref().map_or(0, |partial| partial.head_len);
        if held == 0 {
            if let Some((head, used)) = self.parse_head(input)? {
                take(input, used);
                return Ok(Some(head));
            }
            if !input.is_empty() {
                // It is shorter than the longest header, since no header could be read from it.
                let rest = mem::take(input);
                let partial = self.partial.get_or_insert_default();
                partial.head[..rest.len()].copy_from_slice(rest);
                partial.head_len = rest.len();
            }
            return Ok(None);
        }

        // A copy of 14 bytes, because `parse_head` borrows all of the decoder.
        let mut head = self
            .partial
            .as_ref()
            .map_or([0; MAX_HEAD], |partial| partial.head);
        let mut len = held;
        let mut found = None;

        // Byte by byte, since what follows the header is not to be taken yet.
        while found.is_none() && !input.is_empty() {
            head[len] = take(input, 1)[0];
            len += 1;
            found = self.parse_head(&head[..len])?;
        }

        let partial = self.partial.get_or_insert_default();
        partial.head = head;
        partial.head_len = if found.is_some() { 0 } else { len };

        Ok(found.map(|(head, _)| head))
    }

    /// Reads a header and everything it can already violate; `None` when it is cut short (RFC 6455, section 5.2).
    #[inline]
    fn parse_head(&self, bytes: &[u8]) -> Result<Option<(Head, usize)>, Violation> {
        let [first, second, rest @ ..] = bytes else {
            return Ok(None);
        };

        let (fin, opcode, masked) = (first & 0x80 != 0, first & 0x0f, second & 0x80 != 0);
        // Before the length: a peer that does not speak this protocol is refused at its second
        // byte.
        self.check_flags(*first, *second)?;
        let (len, rest) = match second & 0x7f {
            126 => {
                let Some((len, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                (u64::from(u16::from_be_bytes(*len)), rest)
            }
            127 => {
                let Some((len, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                (u64::from_be_bytes(*len), rest)
            }
            len => (u64::from(len), rest),
        };

        match (second & 0x7f, len) {
            (126, 0..=125) | (127, 0..=0xffff) => return Err(Violation::LongLength),
            _ if len >> 63 == 1 => return Err(Violation::HugeLength),
            _ => {}
        }

        // A control frame is bounded by its flags. It may come between fragments, and does not
        // count with them.
        let len = if opcode >= CLOSE {
            len as usize
        } else {
            self.admit(len)?
        };

        let (mask, rest) = match (masked, rest.split_first_chunk()) {
            // A frame without a mask counts as one with a mask of zeros, which changes no byte.
            (false, _) => ([0; 4], rest),
            (true, Some((mask, rest))) => (*mask, rest),
            (true, None) => return Ok(None),
        };

        Ok(Some((
            Head {
                fin,
                opcode,
                mask,
                len,
            },
            bytes.len() - rest.len(),
        )))
    }

    /// What the first two bytes of a frame can violate.
    #[inline]
    fn check_flags(&self, first: u8, second: u8) -> Result<(), Violation> {
        // The server grants no extension, compression included, so nothing can give these bits a
        // meaning.
        if first & 0x70 != 0 {
            return Err(Violation::ReservedBit);
        }

        match (self.role, second & 0x80 != 0) {
            (Role::Server, false) => return Err(Violation::NotMasked),
            (Role::Client, true) => return Err(Violation::Masked),
            _ => {}
        }

        // A message that was handed out is forgotten before any header is read, so what is gathered
        // here is a message in fragments.
        let inside = self.assembly().is_some();
        match first & 0x0f {
            CONTINUATION if !inside => Err(Violation::StrayContinuation),
            TEXT | BINARY if inside => Err(Violation::Interleaved),
            CLOSE | PING | PONG if first & 0x80 == 0 => Err(Violation::FragmentedControl),
            // 126 and 127 announce a longer length, which need not have come yet.
            CLOSE | PING | PONG if second & 0x7f > 125 => Err(Violation::LongControl),
            CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG => Ok(()),
            _ => Err(Violation::UnknownOpcode),
        }
    }

    /// Decides on a data frame of `len` bytes before anything of it takes memory: all fragments count
    /// together.
    fn admit(&self, len: u64) -> Result<usize, Violation> {
        let (claimed, frames) = self
            .assembly()
            .map_or((0, 0), |message| (message.claimed, message.frames));
        if frames >= limits::MESSAGE_FRAGMENTS {
            return Err(Violation::TooManyFragments);
        }
        // The earlier fragments were within the limit, so this cannot be negative.
        match usize::try_from(len) {
            Ok(len) if len <= self.limit - claimed => Ok(len),
            _ => Err(Violation::TooBig),
        }
    }

    fn assembly(&self) -> Option<&Assembly> {
        self.partial
            .as_ref()
            .and_then(|partial| partial.message.as_ref())
    }

    /// Hands out a frame that is whole in the input, or starts to gather it.
    fn begin<'i>(&mut self, head: Head, input: &mut &'i mut [u8]) -> Result<Step<'i>, Violation> {
        if head.is_alone() && input.len() >= head.len {
            return Ok(Step::InPlace(head, take(input, head.len)));
        }

        let partial = self.partial.get_or_insert_default();
        partial.frame = Some((head, 0));
        if !head.is_control() {
            let message = partial
                .message
                .get_or_insert_with(|| Assembly::new(head.opcode == TEXT));
            message.claimed += head.len;
            message.frames += 1;
        }

        self.fill(input)
    }

    /// Takes in payload of the frame that was begun.
    fn fill<'i>(&mut self, input: &mut &'i mut [u8]) -> Result<Step<'i>, Violation> {
        let limit = self.limit;
        let partial = self.partial.get_or_insert_default();
        let Some((head, seen)) = partial.frame.take() else {
            return Ok(Step::Starved);
        };

        let piece = take(input, input.len().min(head.len - seen));
        unmask(piece, head.mask, seen);
        let seen = seen + piece.len();

        if head.is_control() {
            partial.control.reserve_exact(piece.len());
            partial.control.extend_from_slice(piece);
        } else if let Some(message) = &mut partial.message {
            message.append(piece, limit)?;
        }

        if seen < head.len {
            partial.frame = Some((head, seen));
            return Ok(Step::Starved);
        }

        if head.is_control() {
            // Read here for its faults, since an error of `finish` would not break the decoder.
            // `finish` reads it once more, as only it may lend the bytes.
            if let Some(Message::Close(_)) = interpret(head.opcode, &partial.control)? {
                self.state = State::Closed;
            }
            return Ok(Step::Control(head.opcode));
        }

        match &mut partial.message {
            Some(message) if head.fin => message.complete().map(|()| Step::Assembled),
            _ => Ok(Step::Consumed),
        }
    }

    /// The message that a step completed in the decoder's own memory, which the answer borrows.
    fn finish(&self, step: &Step<'_>) -> Result<Option<Message<'_>>, Violation> {
        match (step, &self.partial) {
            (Step::Control(opcode), Some(partial)) => interpret(*opcode, &partial.control),
            (Step::Assembled, Some(partial)) => Ok(partial.message.as_ref().map(Assembly::message)),
            _ => Ok(None),
        }
    }
}

/// Moves `input` past its first `count` bytes and returns them.
fn take<'i>(input: &mut &'i mut [u8], count: usize) -> &'i mut [u8] {
    // Out of the reference first: a piece of a reborrow would live no longer than the reborrow.
    let (front, rest) = mem::take(input).split_at_mut(count);
    *input = rest;
    front
}

/// Removes the mask from a piece that begins `offset` bytes into its payload (RFC 6455, section 5.3).
///
/// Eight bytes at a time, in a form that compilers turn into vector instructions.
fn unmask(piece: &mut [u8], mut mask: [u8; 4], offset: usize) {
    if mask == [0; 4] {
        return;
    }

    // The piece may begin anywhere in the four bytes of the mask.
    mask.rotate_left(offset % 4);
    let [a, b, c, d] = mask;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = piece.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }

    // Eight is a multiple of four, so the mask begins again here.
    for (byte, mask) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= mask;
    }
}

/// The message of one whole unmasked frame; always one, in the form of an answer.
#[inline]
fn interpret(opcode: u8, payload: &[u8]) -> Result<Option<Message<'_>>, Violation> {
    match opcode {
        // `basic` does not say where the fault is, and is faster for it. Text in pieces needs that
        // place and is checked with `compat`.
        TEXT => match simdutf8::basic::from_utf8(payload) {
            Ok(text) => Ok(Some(Message::Text(text))),
            Err(_) => Err(Violation::NotUtf8),
        },
        BINARY => Ok(Some(Message::Binary(payload))),
        PING => Ok(Some(Message::Ping(payload))),
        PONG => Ok(Some(Message::Pong(payload))),
        // `check_flags` has let no other opcode through.
        _ => close_frame(payload).map(|close| Some(Message::Close(close))),
    }
}

/// The code and reason of a close frame (RFC 6455, section 5.5.1).
fn close_frame(payload: &[u8]) -> Result<Option<(u16, &str)>, Violation> {
    match payload {
        [] => Ok(None),
        [_] => Err(Violation::ShortClose),
        [a, b, reason @ ..] => {
            let code = u16::from_be_bytes([*a, *b]);
            if !may_be_sent(code) {
                return Err(Violation::BadCloseCode);
            }
            str::from_utf8(reason)
                .map(|reason| Some((code, reason)))
                .map_err(|_| Violation::NotUtf8)
        }
    }
}

/// Whether a peer may put `code` on the wire: section 7.4 and the IANA registry (1012 to 1014), less what only means
/// that there was no close frame.
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmasking_by_words_is_unmasking_by_bytes() {
        let mask = [0x11, 0x22, 0x44, 0x88];
        for len in 0..40 {
            for offset in 0..9 {
                let masked: Vec<u8> = (0..len).map(|n: u8| n.wrapping_mul(7)).collect();
                let naive: Vec<u8> = masked
                    .iter()
                    .enumerate()
                    .map(|(n, byte)| byte ^ mask[(n + offset) % 4])
                    .collect();
                let mut fast = masked.clone();
                unmask(&mut fast, mask, offset);
                assert_eq!(fast, naive, "{len} {offset}");
            }
        }
    }
}
