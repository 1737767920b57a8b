//! What a client posts: checked as a whole, and then written to its session as frames.

use std::sync::Arc;

use super::{
    frames::append_frame,
    transport::{Phase, Transport},
    writing::{Held, write},
};
use crate::{
    event_loop::Unfinished,
    limits::POST_PART,
    protocol::{
        engineio::{self, Carried, Malformed, Packet, Refused},
        socketio,
    },
    time_slice::TimeSlice,
};

impl Transport {
    /// Begins to take what the client posts.
    ///
    /// # Errors
    /// [`Refused`] where the client no longer polls, or posts twice at the same time, which ends it.
    pub(in crate::http::engineio) fn post(self: &Arc<Self>) -> Result<Post, Refused> {
        let mut state = self.state.lock();
        match (state.phase, &state.far) {
            (Phase::Closed, _) => return Err(Refused::UnknownSession),
            (phase, None) if phase.is_polling() => return Err(Refused::UnknownSession),
            (Phase::Upgraded, _) => return Err(Refused::BadRequest),
            _ => {}
        }

        if state.is_posted {
            drop(state);
            self.close();
            return Err(Refused::BadRequest);
        }

        state.is_posted = true;
        Ok(Post {
            transport: self.clone(),
            is_whole: false,
        })
    }
}

/// A client's post under way. Where it is broken off in the middle of a frame, its session cannot go on.
pub(in crate::http::engineio) struct Post {
    transport: Arc<Transport>,
    is_whole: bool,
}

/// What was posted, looked at by [`Post::check`].
#[derive(Clone, Copy, Debug)]
pub(in crate::http::engineio) struct CheckedPost<'b> {
    pub(super) text: &'b str,
    /// The client leaves by it.
    pub(super) leaves: bool,
}

impl Post {
    /// Gives the session what was posted, which counts among `held` while the session does not take it.
    ///
    /// # Errors
    /// [`Refused`] where the session has ended or takes nothing.
    pub(in crate::http::engineio) async fn say(
        mut self,
        CheckedPost { text, leaves }: CheckedPost<'_>,
        held: &Unfinished,
    ) -> Result<(), Refused> {
        let far = self.transport.state.lock().far.clone();
        let far = far.ok_or(Refused::UnknownSession)?;

        let mut frames = Vec::new();
        let mut slice = TimeSlice::begin();
        for packet in engineio::payload(text) {
            match packet.map_err(|_| Refused::BadRequest)? {
                Carried::Text(text) => append_frame(&mut frames, 0x81, text.as_bytes()),
                Carried::Binary(bytes) => append_frame(&mut frames, 0x82, &bytes),
            }
            // They are written in parts: the frames of a long payload would take its size a second
            // time.
            if frames.len() >= POST_PART {
                let bytes = text.len() + frames.capacity();
                write(&far, &frames, Some(Held { all: held, bytes })).await?;
                frames.clear();
                slice.rest().await;
            }
        }

        let bytes = text.len() + frames.capacity();
        write(&far, &frames, Some(Held { all: held, bytes })).await?;
        if leaves {
            // It will not read the session's goodbye. Fails only if the session has ended.
            let _ = rustix::net::shutdown(&*far, rustix::net::Shutdown::Write);
        }

        self.is_whole = true;
        Ok(())
    }

    /// Looks at all packets before any of them counts.
    ///
    /// # Errors
    /// [`Malformed`] for what no client says. The session cannot go on.
    pub(in crate::http::engineio) async fn check<'b>(
        &self,
        body: &'b [u8],
    ) -> Result<CheckedPost<'b>, Malformed> {
        let text = simdutf8::basic::from_utf8(body);
        let text = text.map_err(|_| Malformed("a payload is not UTF-8"))?;
        let mut attachments = self.transport.state.lock().attachments;
        let mut leaves = false;
        let mut slice = TimeSlice::begin();

        for packet in engineio::payload(text) {
            let packet = packet?;
            attachments = missing(attachments, &packet)?;
            // This packet is the goodbye of Engine.IO.
            leaves |= packet == Carried::Text("1");
            slice.rest().await;
        }

        // Nobody has changed it since it was read: a client has one post at a time.
        self.transport.state.lock().attachments = attachments;
        Ok(CheckedPost { text, leaves })
    }

    /// Nothing of it counts.
    pub(in crate::http::engineio) fn finish(mut self) {
        self.is_whole = true;
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        self.transport.state.lock().is_posted = false;
        if !self.is_whole {
            self.transport.close();
        }
        self.transport.rest.notify_one();
    }
}

/// How many attachments are missing after `packet`, before which `missing` were.
fn missing(missing: usize, packet: &Carried<'_>) -> Result<usize, Malformed> {
    match packet {
        Carried::Binary(_) => missing.checked_sub(1).ok_or(Malformed(
            "there are bytes, and no packet that they belong to",
        )),
        Carried::Text(text) => match engineio::parse(text)? {
            Packet::Message(_) if missing > 0 => {
                Err(Malformed("there is text in place of an attachment"))
            }
            Packet::Message(packet) => Ok(socketio::parse(packet)?.attachments),
            _ => Ok(missing),
        },
    }
}
