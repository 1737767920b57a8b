//! Bytes of the socket to messages, within one slice of time. What is not looked at waits in memory of its own.

use std::mem;

use super::{Ending, Pending, Session, cost::Cost};
use crate::{
    hub::LongStep,
    limits::{CLOSING_BYTES, READ_BUFFER, RECEIVE_STRIDE},
    protocol::decoder::{Decoder, Message, Role},
    time_slice::TimeSlice,
};

impl Session {
    /// Keeps what was read and is not looked at yet, from `from` on.
    pub(super) fn keep(&mut self, rest: Vec<u8>, from: usize) {
        if from == rest.len() {
            return;
        }

        match &mut self.pending {
            Some(pending) => (pending.rest, pending.from) = (rest, from),
            None => {
                self.pending = Some(Box::new(Pending {
                    operation: None,
                    rest,
                    from,
                    held: None,
                }));
            }
        }
    }

    /// Takes bytes off the socket.
    pub(super) fn receive(&mut self, bytes: &mut [u8], slice: &TimeSlice) {
        self.client.socket.heard();
        let left = self.take(bytes, slice);
        // They are in the thread's own buffer, which the next read overwrites.
        if left > 0 {
            self.keep(bytes[bytes.len() - left..].to_vec(), 0);
        }

        // Where memory is short, what has begun is finished first, which frees it.
        let is_tight = self.client.event_loop.unfinished().is_tight();
        if self.pending.is_none() && self.decoder.held() >= READ_BUFFER / 2 && !is_tight {
            // Thousands may send long messages at the same time. Each piece waits in line with the others, and short
            // messages go between.
            let (node, app) = (self.client.node.clone(), self.client.app);
            self.wait_for(async move {
                node.queue_long_step(app, LongStep::Client).await;
                Cost::NONE
            });
        }
    }

    /// Goes on with what was read before.
    pub(super) fn go_on(&mut self, slice: &TimeSlice) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        let Pending { mut rest, from, .. } = *pending;
        let left = self.take(&mut rest[from..], slice);
        let from = rest.len() - left;
        self.keep(rest, from);
    }

    /// Takes messages out of `bytes`, up to one that has something to wait for, or for a slice of time; returns how many
    /// bytes were not looked at.
    fn take(&mut self, mut bytes: &mut [u8], slice: &TimeSlice) -> usize {
        // Taken out, since a message borrows from it while the session changes.
        let mut decoder = mem::replace(&mut self.decoder, Decoder::new(Role::Server, 0));
        let mut frames = 0;
        while self.pending.is_none() {
            if let Ending::Begun(_) | Ending::Unheard = self.ending {
                self.discard(&mut decoder, mem::take(&mut bytes));
                break;
            }

            // Looking at the clock for each frame would cost about as much as a small frame.
            if frames == RECEIVE_STRIDE {
                if slice.is_spent() {
                    break;
                }
                frames = 0;
            }

            frames += 1;
            match decoder.next(&mut bytes) {
                Ok(None) => break,
                Ok(Some(message)) => self.message(&message),
                Err(violation) => self.close(violation.code(), &decoder.reason(violation)),
            }
        }

        self.decoder = decoder;
        bytes.len()
    }

    /// Passes over all but the client's own close frame, once its connection is being closed. A frame costs some nanoseconds
    /// then, and no lock.
    fn discard(&mut self, decoder: &mut Decoder, mut bytes: &mut [u8]) {
        let Ending::Begun(so_far) = self.ending else {
            return;
        };

        let all = so_far.saturating_add(bytes.len() as u32);
        self.ending = Ending::Begun(all);
        loop {
            match decoder.next(&mut bytes) {
                Ok(Some(Message::Close(close))) => self.client_closes(close),
                Ok(Some(_)) => {}
                // After a violation nothing that follows means anything.
                Ok(None) | Err(_) => break,
            }
        }

        // A client that closes sends its close frame soon. This one only goes on sending.
        if all > CLOSING_BYTES {
            self.ending = Ending::Unheard;
            self.wait_for_reset();
        }
    }
}
