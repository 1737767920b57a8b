//! A poll: it waits for what the session says, or for the answer to the poll before it, and ends when its own answer is
//! written or lost.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::transport::{Phase, PolledFrames, Transport};
use crate::{
    http::timeouts::{ConnectionTimer, OnAnswered},
    limits::{ANSWERS_PART, POLL_BYTES, POLL_BYTES_TIGHT},
    protocol::engineio::{self, Refused},
    session::handover::Far,
};

/// What a poll finds.
enum Look {
    /// Its answer.
    Answer(PolledFrames),
    /// The session's goodbye.
    Goodbye,
    /// Nothing yet.
    Wait(Arc<Far>),
}

impl Transport {
    /// Waits for what the session says, and returns it as a payload, with the poll, which ends when that is written. A poll that
    /// is dropped before ends the session: nobody knows what of it the client has. All answers of the node together should take
    /// a part of `refused_bytes`.
    ///
    /// While it waits for the session, the client's places stand for the socket of `life`. A poll that waits for the answer
    /// before it is not covered by them: that answer has a socket of its own.
    ///
    /// # Errors
    /// [`Refused`] where the client no longer polls, or polls twice at the same time, which ends it.
    pub(in crate::http::engineio) async fn poll(
        self: &Arc<Self>,
        refused_bytes: usize,
        life: &ConnectionTimer,
    ) -> Result<(Vec<u8>, Poll), Refused> {
        let (mut poll, pongs) = loop {
            match Poll::begin(self)? {
                Begun::Now(poll, pongs) => break (poll, pongs),
                // A client that has all of the answer before polls again immediately.
                Begun::Waits(_waiting) => self.written.notified().await,
            }
        };

        let _lent = life.lend();
        match self.write(&pongs).await {
            // What the session said before it ended is there all the same.
            Ok(()) | Err(Refused::UnknownSession) => drop(pongs),
            Err(error) => return Err(error),
        }

        let payload = loop {
            // An answer is memory until its client has read it, and many clients may read slowly.
            let is_tight = self.answers.load(Relaxed) > refused_bytes / ANSWERS_PART;
            let most = if is_tight {
                POLL_BYTES_TIGHT
            } else {
                POLL_BYTES
            };

            match self.look(most) {
                Look::Answer(PolledFrames { payload, pongs }) => {
                    poll.pongs = pongs;
                    break payload;
                }
                Look::Goodbye => {
                    poll.says_goodbye = true;
                    break engineio::CLOSE.to_vec();
                }
                Look::Wait(far) => tokio::select! {
                    _ = far.readable() => {}
                    () = self.poke.notified() => {}
                },
            }
        };

        poll.bytes = payload.capacity();
        self.answers.fetch_add(poll.bytes, Relaxed);
        Ok((payload, poll))
    }

    /// Looks what there is for a poll to answer.
    fn look(&self, most: usize) -> Look {
        let mut state = self.state.lock();
        state.fill(most);
        let mut frames = state.take_frames(most);

        if frames.payload.is_empty() {
            if state.is_over || state.phase == Phase::Closed {
                state.is_answering = true;
                return Look::Goodbye;
            }

            let far = match (state.phase, &state.far) {
                (Phase::Polling | Phase::Probing, Some(far)) => Some(far.clone()),
                _ => None,
            };

            if let Some(far) = far {
                // Nothing but pings may have been said, and to these the client's next poll is the answer.
                state.pongs.extend_from_slice(&frames.pongs);
                return Look::Wait(far);
            }

            // A WebSocket is about to take over, and the client waits until its last poll is
            // answered.
            frames.payload.extend_from_slice(engineio::NOOP);
        }

        state.is_answering = true;
        Look::Answer(frames)
    }
}

/// A poll under way. Where it is broken off, what it has read is lost, and so the client.
pub(in crate::http::engineio) struct Poll {
    transport: Arc<Transport>,
    /// Pongs for the next poll.
    pongs: Vec<u8>,
    /// Of its answer, while that is being written.
    bytes: usize,
    says_goodbye: bool,
    is_whole: bool,
}

/// What a poll begins with.
enum Begun<'t> {
    /// The poll, and the pongs that it brings.
    Now(Poll, Vec<u8>),
    /// The answer to the poll before is being written.
    Waits(Waiting<'t>),
}

/// The place of the one poll that may wait for the answer before it. An honest client has no second one: it polls again only
/// once it has read that answer.
struct Waiting<'t>(&'t Transport);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().is_waited = false;
    }
}

impl Poll {
    /// Begins a poll, or to wait for the answer to the one before. A further one ends the session.
    fn begin(transport: &Arc<Transport>) -> Result<Begun<'_>, Refused> {
        let mut state = transport.state.lock();
        match state.phase {
            Phase::Polling | Phase::Probing | Phase::Probed => {}
            Phase::Upgraded => return Err(Refused::BadRequest),
            Phase::Closed => return Err(Refused::UnknownSession),
        }

        let is_one_too_many = if state.is_answering {
            state.is_waited
        } else {
            state.is_polled
        };

        if is_one_too_many {
            drop(state);
            transport.close();
            return Err(Refused::BadRequest);
        }

        if state.is_answering {
            state.is_waited = true;
            return Ok(Begun::Waits(Waiting(transport)));
        }

        state.is_polled = true;
        let mut pongs = std::mem::take(&mut state.pongs);
        // Nobody is left to take them: the session has ended, or a WebSocket has it.
        if state.far.is_none() {
            pongs.clear();
        }

        let poll = Self {
            transport: transport.clone(),
            pongs: Vec::new(),
            bytes: 0,
            says_goodbye: false,
            is_whole: false,
        };

        Ok(Begun::Now(poll, pongs))
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        self.transport.answers.fetch_sub(self.bytes, Relaxed);
        let mut state = self.transport.state.lock();
        state.is_polled = false;
        state.is_answering = false;
        drop(state);
        if !self.is_whole {
            self.transport.close();
        }
        self.transport.rest.notify_one();
        self.transport.written.notify_one();
    }
}

impl OnAnswered for Poll {
    fn written(mut self: Box<Self>) {
        self.is_whole = true;
        if self.says_goodbye {
            // Whether the session still reads that or not, it ends.
            return self.transport.close();
        }
        let mut state = self.transport.state.lock();
        if state.far.is_some() {
            state.pongs.append(&mut self.pongs);
        }
    }
}
