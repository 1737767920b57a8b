//! A message that does not lie whole in one read: its pieces, gathered under the message limit.

use simdutf8::compat::from_utf8;

use super::{Message, Violation};

/// A message of which frames, or pieces of one frame, have come.
#[derive(Debug)]
pub(super) struct Assembly {
    /// Payload bytes of all its frames so far, as their headers claim.
    pub(super) claimed: usize,
    /// Its frames so far.
    pub(super) frames: u32,
    body: Body,
    complete: bool,
}

/// Text is validated as it comes: bad text is refused before more of it is read, and no byte is looked at twice.
#[derive(Debug)]
enum Body {
    Text { text: String, cut: Cut },
    Binary(Vec<u8>),
}

/// The first bytes of a character that continues in the next piece.
#[derive(Clone, Copy, Debug, Default)]
struct Cut {
    bytes: [u8; 4],
    len: usize,
}

impl Assembly {
    pub(super) fn new(text: bool) -> Self {
        let body = if text {
            Body::Text {
                text: String::new(),
                cut: Cut::default(),
            }
        } else {
            Body::Binary(Vec::new())
        };

        Self {
            claimed: 0,
            frames: 0,
            body,
            complete: false,
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn capacity(&self) -> usize {
        match &self.body {
            Body::Text { text, .. } => text.capacity(),
            Body::Binary(bytes) => bytes.capacity(),
        }
    }

    /// Adds an unmasked piece; grows by doubling, and never past `limit`, which the frames' headers were held to.
    pub(super) fn append(&mut self, piece: &[u8], limit: usize) -> Result<(), Violation> {
        match &mut self.body {
            Body::Binary(bytes) => {
                bytes.reserve_exact(growth(bytes.len(), bytes.capacity(), piece.len(), limit));
                bytes.extend_from_slice(piece);
                Ok(())
            }
            Body::Text { text, cut } => {
                text.reserve_exact(growth(
                    text.len(),
                    text.capacity(),
                    cut.len + piece.len(),
                    limit,
                ));
                let piece = cut.complete(text, piece)?;
                let Err(error) = from_utf8(piece).map(|whole| text.push_str(whole)) else {
                    return Ok(());
                };
                // Without a length, the error is a character that goes on in the next piece.
                if error.error_len().is_some() {
                    return Err(Violation::NotUtf8);
                }
                let (whole, rest) = piece.split_at(error.valid_up_to());
                // This part is known to be valid. Only `unsafe` code could spare the second check.
                text.push_str(from_utf8(whole).map_err(|_| Violation::NotUtf8)?);
                cut.bytes[..rest.len()].copy_from_slice(rest);
                cut.len = rest.len();
                Ok(())
            }
        }
    }

    /// Ends the message; text must not end inside a character.
    pub(super) fn complete(&mut self) -> Result<(), Violation> {
        if matches!(&self.body, Body::Text { cut, .. } if cut.len > 0) {
            return Err(Violation::NotUtf8);
        }
        self.complete = true;
        Ok(())
    }

    pub(super) fn message(&self) -> Message<'_> {
        match &self.body {
            Body::Text { text, .. } => Message::Text(text),
            Body::Binary(bytes) => Message::Binary(bytes),
        }
    }
}

impl Cut {
    /// Moves bytes of `piece` over until the character is whole and in `text`; returns the rest of `piece`.
    fn complete<'p>(&mut self, text: &mut String, piece: &'p [u8]) -> Result<&'p [u8], Violation> {
        let mut rest = piece;
        while self.len > 0 {
            let Some((next, after)) = rest.split_first() else {
                break;
            };

            self.bytes[self.len] = *next;
            self.len += 1;
            rest = after;

            match str::from_utf8(&self.bytes[..self.len]) {
                Ok(whole) => {
                    text.push_str(whole);
                    self.len = 0;
                }
                Err(error) if error.error_len().is_some() => return Err(Violation::NotUtf8),
                // Not whole yet. Four bytes are either a character or wrong, so `bytes` is never
                // full here.
                Err(_) => {}
            }
        }

        Ok(rest)
    }
}

/// How much to reserve past `len` for `more` bytes: double the capacity, but within `limit`.
fn growth(len: usize, capacity: usize, more: usize, limit: usize) -> usize {
    if capacity - len >= more {
        return 0;
    }
    // Doubling beyond the limit would reserve what can never be used.
    more.max((2 * capacity).min(limit).saturating_sub(len))
}
