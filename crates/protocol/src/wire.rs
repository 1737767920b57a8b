//! Wire forms: what clients of other protocols get in place of native frames.

use std::fmt;

use super::{
    frame::{BINARY, CLOSE, Frame, PING, PONG, TEXT, append},
    native::ParsedFrame,
};
use crate::{close, close::Close};

/// The form in which a connection gets its frames. It names one encoding of this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Form(u8);

impl Form {
    /// The one in which frames are placed.
    pub const NATIVE: Self = Self(0);

    /// The one that a node has at `index` of its encodings. `None` if there are more than one byte can name.
    pub fn at(index: usize) -> Option<Self> {
        // 0 is the native form.
        u8::try_from(index.checked_add(1)?).ok().map(Self)
    }

    /// Where its encoding is among those of the node. `None` for the native form, which needs none.
    #[inline]
    pub fn index(self) -> Option<usize> {
        usize::from(self.0).checked_sub(1)
    }

    /// Whether frames go out as they are placed.
    #[inline]
    pub fn is_native(self) -> bool {
        self == Self::NATIVE
    }
}

/// Writes native frames in another protocol.
///
/// It is called once for each frame that some client of the form gets, and its work is shared by all of them.
pub trait Encoding: Send + Sync + fmt::Debug {
    /// Appends what a client gets in place of `said`: one WebSocket frame, several, or none if the protocol has no word for it.
    /// An event must become at least one.
    fn encode(&self, said: &ParsedFrame<'_>, out: &mut Out);
}

/// WebSocket frames in the making, one after the other (RFC 6455, section 5.2).
#[derive(Debug, Default)]
pub struct Out(Vec<u8>);

impl Out {
    /// Appends a text frame.
    pub fn text(&mut self, parts: &[&[u8]]) {
        append(&mut self.0, TEXT, parts);
    }

    /// Appends a binary frame.
    pub fn binary(&mut self, parts: &[&[u8]]) {
        append(&mut self.0, BINARY, parts);
    }

    /// Appends a ping. `payload` is at most 125 bytes.
    pub fn ping(&mut self, payload: &[u8]) {
        append(&mut self.0, PING, &[payload]);
    }

    /// Appends the answer to a ping. `payload` is at most 125 bytes.
    pub fn pong(&mut self, payload: &[u8]) {
        append(&mut self.0, PONG, &[payload]);
    }

    /// Appends a close frame, without a body if there is no `code` or if it may not be sent.
    pub fn close(&mut self, code: Option<u16>, reason: &str) {
        match code.filter(|code| !matches!(*code, close::NO_STATUS | close::ABNORMAL)) {
            Some(code) => {
                let close = Close::new(code, reason);
                let parts: [&[u8]; 2] = [&close.code.to_be_bytes(), close.reason.as_bytes()];
                append(&mut self.0, CLOSE, &parts);
            }
            None => append(&mut self.0, CLOSE, &[]),
        }
    }

    /// Appends `said` as a native client gets it, if it is a ping, a pong or a close frame: those are WebSocket's own, which
    /// every client understands. Returns whether it was one.
    pub fn control(&mut self, said: &ParsedFrame<'_>) -> bool {
        match said {
            ParsedFrame::Ping(payload) => self.ping(payload),
            ParsedFrame::PongFrame(payload) => self.pong(payload),
            ParsedFrame::Close { code, reason } => self.close(*code, reason),
            _ => return false,
        }
        true
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was appended.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// What was appended, as a frame that goes out as it is.
    pub fn into_frame(self) -> Frame {
        Frame::ready(self.0)
    }

    /// The same for an event, whose delivery or loss is counted.
    pub fn into_event(self) -> Frame {
        Frame::ready_event(self.0)
    }
}
