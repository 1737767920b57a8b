//! The transport of one client that polls: how far it is on the way to a WebSocket, which of its requests are under way, and
//! what its session has said that it has yet to get.

use std::{
    io,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::timeout};

use super::{
    frames::{append_frame, first_frame, frame, packets_size},
    writing::write,
};
use crate::{
    id::AppId,
    limits::{POLL_BYTES_TIGHT, READ_BUFFER},
    protocol::{
        decoder::Message,
        engineio::{self, Carried, Refused},
    },
    session::handover::{Far, Handover, read_all},
};

/// The state of a client of Engine.IO that began with polling.
///
/// ```text
/// Polling ──► Probing ──probe──► Probed ──upgrade──► Upgraded
///    ▲           │                 │
///    └────────── lost ─────────────┘           any ──► Closed
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It polls.
    Polling,
    /// The same, and has opened a WebSocket.
    Probing,
    /// A WebSocket wants to take over: polls are answered immediately, so that the client stops
    /// polling.
    Probed,
    /// It has a WebSocket.
    Upgraded,
    /// It has ended.
    Closed,
}

impl Phase {
    pub(super) fn is_polling(self) -> bool {
        matches!(self, Self::Polling | Self::Probing | Self::Probed)
    }
}

/// One client that polls. Parts of its `impl` are in `poll.rs` and `post.rs`.
#[derive(Debug)]
pub(in crate::http::engineio) struct Transport {
    pub(super) app: AppId,
    pub(in crate::http::engineio) handover: Arc<Handover>,
    pub(super) state: Mutex<State>,
    /// Bytes of all answers that are being written.
    pub(super) answers: Arc<AtomicUsize>,
    /// Rings for the poll that waits.
    pub(super) poke: Notify,
    /// Rings when a request of the client has ended.
    pub(super) rest: Notify,
    /// Rings when the answer to a poll is written, or lost, and when no poll has an answer to wait for any longer. One
    /// poll waits for it at most, so one ring is enough.
    pub(super) written: Notify,
}

impl Transport {
    pub(in crate::http::engineio) fn new(
        app: AppId,
        far: Far,
        handover: Arc<Handover>,
        answers: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            app,
            handover,
            answers,

            state: Mutex::new(State {
                phase: Phase::Polling,
                far: Some(Arc::new(far)),
                is_polled: false,
                is_answering: false,
                is_waited: false,
                is_posted: false,
                unread: Vec::new(),
                is_over: false,
                pongs: Vec::new(),
                attachments: 0,
            }),

            poke: Notify::new(),
            rest: Notify::new(),
            written: Notify::new(),
        }
    }

    /// Ends the session, as if its socket had failed.
    pub(in crate::http::engineio) fn close(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Closed;
        // Requests may hold the transport for a while, and its memory need not wait for them.
        state.unread = Vec::new();
        state.pongs = Vec::new();
        if let Some(far) = &state.far {
            // Fails only if the session has ended already.
            let _ = rustix::net::shutdown(&**far, rustix::net::Shutdown::Both);
        }
        drop(state);
        // A poll that waits for the session, and one that waits for the answer before it, have nothing to wait for.
        self.poke.notify_one();
        self.written.notify_one();
    }

    /// The session has ended, and with this its pair of sockets. Returns how many bytes it said that the client has yet
    /// to poll for; `None` if there is nothing that it should learn.
    pub(super) fn end(&self) -> Option<usize> {
        let mut state = self.state.lock();
        let far = state.far.take()?;
        if state.phase != Phase::Closed {
            // What was written to the other end is there, whatever the runtime knows of it.
            let _ = read_all(&*far, &mut state.unread);
            state.unread.shrink_to_fit();
        }

        drop(far);
        state.is_over = true;
        state.pongs = Vec::new();
        let is_read_now = state.is_polled && !state.is_answering;

        let is_waited_for = match state.phase {
            // All of it goes into one answer.
            _ if is_read_now && state.unread.len() < POLL_BYTES_TIGHT => false,
            Phase::Polling | Phase::Probing | Phase::Probed => state.has_words(),
            // A WebSocket that is about to take over says it.
            Phase::Upgraded | Phase::Closed => false,
        };

        if state.phase == Phase::Polling && !is_read_now && !is_waited_for {
            // The session is unknown from now on, to a poll that waits for the answer before it as to any later one.
            state.phase = Phase::Closed;
        }

        let left = state.unread.len();
        drop(state);
        self.poke.notify_one();
        self.rest.notify_one();
        self.written.notify_one();

        is_waited_for.then_some(left)
    }

    /// Writes whole frames to the session.
    pub(super) async fn write(&self, bytes: &[u8]) -> Result<(), Refused> {
        if bytes.is_empty() {
            return Ok(());
        }
        let far = self.state.lock().far.clone();
        let far = far.ok_or(Refused::UnknownSession)?;
        write(&far, bytes, None).await
    }

    /// Notes that a WebSocket wants to take over.
    ///
    /// # Errors
    /// [`Refused`] where it may not.
    pub(in crate::http::engineio) fn probe(&self) -> Result<(), Refused> {
        let mut state = self.state.lock();
        match (state.phase, &state.far) {
            (Phase::Polling, Some(_)) => {
                state.phase = Phase::Probing;
                Ok(())
            }
            (Phase::Polling, None) | (Phase::Closed, _) => Err(Refused::UnknownSession),
            _ => Err(Refused::BadRequest),
        }
    }

    /// The WebSocket has shown that it works.
    pub(in crate::http::engineio) fn probe_worked(&self) {
        self.end_probe(Phase::Probed);
    }

    /// The WebSocket is gone: the client goes on polling.
    pub(in crate::http::engineio) fn probe_failed(&self) {
        self.end_probe(Phase::Polling);
    }

    fn end_probe(&self, phase: Phase) {
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::Probing | Phase::Probed) {
            state.phase = phase;
        }
        drop(state);
        self.poke.notify_one();
    }

    /// The WebSocket takes over, once no request is under way.
    pub(in crate::http::engineio) async fn take_over(&self, within: Duration) -> Option<TakenOver> {
        let quiet = async {
            loop {
                {
                    let mut state = self.state.lock();
                    match state.phase {
                        // A second round finds the phase that the first one has set.
                        Phase::Probed | Phase::Upgraded => state.phase = Phase::Upgraded,
                        Phase::Polling | Phase::Probing | Phase::Closed => return None,
                    }

                    // What a request still carries comes before all that the WebSocket will.
                    if !state.is_polled && !state.is_posted {
                        if state.far.is_some() {
                            self.handover.choose();
                        }
                        let pongs = std::mem::take(&mut state.pongs);
                        return Some((std::mem::take(&mut state.unread), pongs, state.far.take()));
                    }
                }
                // A poll that waits for the session would be under way until that says something.
                self.poke.notify_one();
                self.rest.notified().await;
            }
        };

        let (unsaid, pongs, far) = timeout(within, quiet).await.ok().flatten()?;
        if let Some(far) = &far {
            // That the client goes on shows that it has the answer to its last poll, as a further poll would.
            match write(far, &pongs, None).await {
                // What the session said before it ended is there all the same.
                Ok(()) | Err(Refused::UnknownSession) => {}
                Err(_) => return None,
            }
        }

        Some(TakenOver { unsaid, far })
    }
}

/// What a WebSocket takes over.
pub(in crate::http::engineio) struct TakenOver {
    /// What a poll has read and not handed out.
    pub(in crate::http::engineio) unsaid: Vec<u8>,
    /// The other end of the session's socket; nothing once the session has ended.
    pub(in crate::http::engineio) far: Option<Arc<Far>>,
}

/// Whole frames of the session, as a poll is answered with them.
#[derive(Debug)]
pub(super) struct PolledFrames {
    /// The frames as packets.
    pub(super) payload: Vec<u8>,
    /// The answers to the pings among them.
    pub(super) pongs: Vec<u8>,
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says of another request whether it is under way"
)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// What the session says is read from here; nothing once the session has ended, or a WebSocket has it.
    pub(super) far: Option<Arc<Far>>,
    pub(super) is_polled: bool,
    /// The poll has its answer, which is being written.
    pub(super) is_answering: bool,
    /// The next poll is here already, and waits until that is written.
    pub(super) is_waited: bool,
    pub(super) is_posted: bool,
    /// What the session has said and no answer has: the beginning of a frame, or frames that the last answer had no room for.
    pub(super) unread: Vec<u8>,
    /// The session says nothing more. The client learns of it by the answer to its next poll. Together with what was
    /// said before it would come too early: clients read a close immediately, and packets of Socket.IO only after that.
    pub(super) is_over: bool,
    /// Answers to the session's pings, to be given once the client polls again: so it has what stood before them.
    pub(super) pongs: Vec<u8>,
    /// Attachments that the packet posted last has yet to get.
    pub(super) attachments: usize,
}

impl State {
    /// Reads what the session has said, up to about `most` bytes, and at least one frame if it is there.
    pub(super) fn fill(&mut self, most: usize) {
        let Some(far) = &self.far else {
            self.is_over = true;
            return;
        };

        while !self.is_over {
            if self.unread.len() >= most && first_frame(&self.unread).is_some() {
                return;
            }
            // There is room for what has come and for no more: sessions are many, and most say
            // little.
            let waiting = rustix::io::ioctl_fionread(&**far).unwrap_or(0) as usize;
            self.unread.reserve_exact(waiting.clamp(64, READ_BUFFER));
            match far.try_read_buf(&mut self.unread) {
                Ok(0) => self.is_over = true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.is_over = true,
            }
        }
    }

    /// Turns the whole frames that were read into packets, up to about `most` bytes. Keeps no more memory than what is left takes.
    pub(super) fn take_frames(&mut self, most: usize) -> PolledFrames {
        let (mut payload, mut pongs) = (Vec::new(), Vec::new());
        payload.reserve_exact(packets_size(&self.unread, most));
        let mut from = 0;
        let mut is_closed = false;

        while let Some((message, length)) = frame(&self.unread[from..]) {
            match message {
                Message::Text(text) => engineio::append(&mut payload, &Carried::Text(text)),
                Message::Binary(bytes) => {
                    engineio::append(&mut payload, &Carried::Binary(bytes.to_vec()));
                }
                Message::Ping(asked) => append_frame(&mut pongs, 0x8a, asked),
                Message::Pong(_) => {}
                Message::Close(_) => is_closed = true,
            }

            from += length;
            if is_closed || payload.len() >= most {
                break;
            }
        }

        self.is_over |= is_closed;
        if is_closed || (self.is_over && first_frame(&self.unread[from..]).is_none()) {
            self.unread = Vec::new();
        } else {
            self.unread.drain(..from);
            self.unread.shrink_to_fit();
        }

        PolledFrames { payload, pongs }
    }

    /// Whether what was read and not handed out has anything for the client.
    fn has_words(&self) -> bool {
        let mut rest = &self.unread[..];
        while let Some((message, length)) = frame(rest) {
            match message {
                // A ping means nothing once the session has ended.
                Message::Text(text) if text.as_bytes() == engineio::PING => {}
                Message::Text(_) | Message::Binary(_) => return true,
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Close(_) => return false,
            }
            rest = &rest[length..];
        }
        false
    }
}
