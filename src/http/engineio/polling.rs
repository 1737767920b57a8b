//! Long polling: a session's stream of WebSocket frames, handed to its client in the answers to its polls.
//!
//! The session does not know of it. It has one end of a pair of sockets; here is the other one. A poll waits for what the
//! session says and turns frames into a payload; what a client posts is turned into frames. Polls of one client come in on any
//! thread, one at a time.
//!
//! A session that ends gives its places back immediately, whether its client polls or not. What it said last, and no poll has
//! taken yet, is kept for a few seconds in memory that is bounded for the node.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Poll::Ready,
    time::{Duration, Instant},
};

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{sleep_until, timeout},
};

use crate::{
    event_loop::Unfinished,
    http::timeouts::{ConnectionTimer, OnAnswered},
    id::AppId,
    limits::{
        ANSWERS_PART, LAST_WORDS_BYTES, LAST_WORDS_COST, LAST_WORDS_TIME, MESSAGE_TIME, POLL_BYTES,
        POLL_BYTES_TIGHT, POST_PART, READ_BUFFER,
    },
    protocol::{
        decoder::Message,
        engineio::{self, Carried, Malformed, Packet, Refused},
        socketio,
    },
    session::handover::{Far, Handover, read_all},
    time_slice::TimeSlice,
};

/// The clients of this node that poll, by their `sid`. Each has a connection's place, which bounds how many there are; those
/// whose sessions have ended are bounded by their memory.
#[derive(Debug, Default)]
pub(crate) struct Polls {
    clients: Mutex<AHashMap<Box<str>, Arc<Transport>>>,
    ended: Mutex<Ended>,
    /// Bytes of the answers to polls that are being written.
    answers: Arc<AtomicUsize>,
}

/// Clients whose sessions have ended, and who have yet to poll for what those said last.
#[derive(Debug, Default)]
struct Ended {
    /// The oldest first: since when, who, and how much memory it takes.
    queue: VecDeque<(Instant, Box<str>, usize)>,
    bytes: usize,
    /// Whether a task forgets them in time.
    is_swept: bool,
}

impl Ended {
    /// The oldest, if it ended before `until` or all together take too much.
    fn pop(&mut self, until: Option<Instant>) -> Option<Box<str>> {
        let (since, ..) = self.queue.front()?;
        if self.bytes <= LAST_WORDS_BYTES && until.is_none_or(|until| *since > until) {
            return None;
        }
        let (_, sid, bytes) = self.queue.pop_front()?;
        self.bytes -= bytes;
        Some(sid)
    }
}

impl Polls {
    /// Bytes of the answers to polls that are being written.
    pub(super) fn answers(&self) -> &Arc<AtomicUsize> {
        &self.answers
    }

    pub(super) fn find(&self, sid: &str, app: AppId) -> Option<Arc<Transport>> {
        let clients = self.clients.lock();
        clients.get(sid).filter(|found| found.app == app).cloned()
    }

    pub(super) fn insert(&self, sid: &str, transport: Arc<Transport>) {
        self.clients.lock().insert(sid.into(), transport);
    }

    pub(super) fn remove(&self, sid: &str) {
        let removed = self.clients.lock().remove(sid);
        drop(removed);
    }

    /// The session of `sid` has ended. Keeps what its client has yet to be told.
    pub(super) fn end(self: &Arc<Self>, sid: &str) {
        let found = self.clients.lock().get(sid).cloned();
        let Some(transport) = found else { return };
        let Some(bytes) = transport.end() else {
            return self.remove(sid);
        };

        let bytes = bytes + LAST_WORDS_COST;
        let mut ended = self.ended.lock();
        ended.queue.push_back((Instant::now(), sid.into(), bytes));
        ended.bytes += bytes;
        let begins_sweeping = !std::mem::replace(&mut ended.is_swept, true);
        let too_many: Vec<_> = std::iter::from_fn(|| ended.pop(None)).collect();
        drop(ended);
        for sid in too_many {
            self.forget(&sid);
        }

        if begins_sweeping {
            tokio::task::spawn_local(self.clone().sweep());
        }
    }

    /// Forgets what the ended session of `sid` said last. A poll of it that still waits has nothing to wait for.
    fn forget(&self, sid: &str) {
        let removed = self.clients.lock().remove(sid);
        if let Some(transport) = removed {
            transport.close();
        }
    }

    /// Forgets what sessions said last when its time is over, until there is nothing left to forget.
    async fn sweep(self: Arc<Self>) {
        loop {
            let oldest = {
                let mut ended = self.ended.lock();
                let oldest = ended.queue.front().map(|(since, ..)| *since);
                if oldest.is_none() {
                    *ended = Ended::default();
                }
                oldest
            };

            let Some(oldest) = oldest else { return };
            sleep_until((oldest + LAST_WORDS_TIME).into()).await;
            let mut slice = TimeSlice::begin();

            loop {
                let until = Instant::now().checked_sub(LAST_WORDS_TIME);
                let over = self.ended.lock().pop(until);
                let Some(sid) = over else { break };
                self.forget(&sid);
                slice.rest().await;
            }
        }
    }
}

/// How a client of Engine.IO that began with polling stands.
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
    /// A WebSocket wants to take over: polls are answered at once, so that the client stops polling.
    Probed,
    /// It has a WebSocket.
    Upgraded,
    /// It has ended.
    Closed,
}

impl Phase {
    fn is_polling(self) -> bool {
        matches!(self, Self::Polling | Self::Probing | Self::Probed)
    }
}

/// One client that polls.
#[derive(Debug)]
pub(crate) struct Transport {
    app: AppId,
    pub(super) handover: Arc<Handover>,
    state: Mutex<State>,
    /// Bytes of all answers that are being written.
    answers: Arc<AtomicUsize>,
    /// Rings for the poll that waits.
    poke: Notify,
    /// Rings when a request of the client has ended.
    rest: Notify,
    /// Rings when the answer to a poll is written, or lost, and when no poll has an answer to wait for any more. One poll waits
    /// for it at most, so one ring is enough.
    written: Notify,
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says of another request whether it is under way"
)]
struct State {
    phase: Phase,
    /// What the session says is read from here; nothing once the session has ended, or a WebSocket has it.
    far: Option<Arc<Far>>,
    is_polled: bool,
    /// The poll has its answer, which is being written.
    is_answering: bool,
    /// The next poll is here already, and waits until that is written.
    is_waited: bool,
    is_posted: bool,
    /// What the session has said and no answer has: the beginning of a frame, or frames that the last answer had no room for.
    unread: Vec<u8>,
    /// The session says nothing more. The client is told so by the answer to its next poll. Together with what was said before
    /// it would come too early: clients read a close at once, and packets of Socket.IO only after that.
    is_over: bool,
    /// Answers to the session's pings, to be given once the client polls again: so it has what stood before them.
    pongs: Vec<u8>,
    /// Attachments that the packet posted last has yet to get.
    attachments: usize,
}

impl State {
    /// Reads what the session has said, up to about `most` bytes, and at least one frame if it is there.
    fn fill(&mut self, most: usize) {
        let Some(far) = &self.far else {
            self.is_over = true;
            return;
        };

        while !self.is_over {
            if self.unread.len() >= most && bounds(&self.unread).is_some() {
                return;
            }
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

    /// Turns the whole frames that were read into packets, up to about `most` bytes, with the answers to pings among them. Keeps
    /// no more memory than what is left takes.
    fn take_frames(&mut self, most: usize) -> (Vec<u8>, Vec<u8>) {
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
        if is_closed || (self.is_over && bounds(&self.unread[from..]).is_none()) {
            self.unread = Vec::new();
        } else {
            self.unread.drain(..from);
            self.unread.shrink_to_fit();
        }

        (payload, pongs)
    }

    /// Whether what was read and not handed out has anything for the client.
    fn has_words(&self) -> bool {
        let mut rest = &self.unread[..];
        while let Some((message, length)) = frame(rest) {
            match message {
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

/// What a poll finds.
enum Look {
    /// Its answer, and the answers to pings in it.
    Answer(Vec<u8>, Vec<u8>),
    /// The session's goodbye.
    Goodbye,
    /// Nothing yet.
    Wait(Arc<Far>),
}

impl Transport {
    pub(super) fn new(
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
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Closed;
        state.unread = Vec::new();
        state.pongs = Vec::new();
        if let Some(far) = &state.far {
            // Fails only if the session has ended already.
            let _ = rustix::net::shutdown(&**far, rustix::net::Shutdown::Both);
        }
        drop(state);
        self.poke.notify_one();
        self.written.notify_one();
    }

    /// The session has ended, and with this its pair of sockets. Returns how many bytes it said that the client has yet to poll
    /// for; `None` if there is nothing that it should be told.
    fn end(&self) -> Option<usize> {
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

    /// Waits for what the session says, and returns it as a payload, with the poll, which ends when that is written. A poll that
    /// is dropped before ends the session: nobody knows what of it the client has. All answers of the node together should take
    /// a part of `refused_bytes`.
    ///
    /// While it waits for the session, the client's places stand for the socket of `life`. A poll that waits for the answer
    /// before it is not covered by them: that answer has a socket of its own.
    ///
    /// # Errors
    /// [`Refused`] where the client does not poll any more, or polls twice at the same time, which ends it.
    pub(super) async fn poll(
        self: &Arc<Self>,
        refused_bytes: usize,
        life: &ConnectionTimer,
    ) -> Result<(Vec<u8>, Poll), Refused> {
        let (mut poll, pongs) = loop {
            match Poll::begin(self)? {
                Begun::Now(poll, pongs) => break (poll, pongs),
                // A client that has all of the answer before polls again at once.
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
            let is_tight = self.answers.load(Relaxed) > refused_bytes / ANSWERS_PART;
            let most = if is_tight {
                POLL_BYTES_TIGHT
            } else {
                POLL_BYTES
            };

            match self.look(most) {
                Look::Answer(payload, pongs) => {
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
        let (mut payload, pongs) = state.take_frames(most);

        if payload.is_empty() {
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
                state.pongs.extend_from_slice(&pongs);
                return Look::Wait(far);
            }

            payload.extend_from_slice(engineio::NOOP);
        }

        state.is_answering = true;
        Look::Answer(payload, pongs)
    }

    /// Begins to take what the client posts.
    ///
    /// # Errors
    /// [`Refused`] where the client does not poll any more, or posts twice at the same time, which ends it.
    pub(super) fn post(self: &Arc<Self>) -> Result<Post, Refused> {
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

    /// Writes whole frames to the session.
    async fn write(&self, bytes: &[u8]) -> Result<(), Refused> {
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
    pub(super) fn probe(&self) -> Result<(), Refused> {
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

    /// The WebSocket has shown that it works, or is gone.
    pub(super) fn probed(&self, works: bool) {
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::Probing | Phase::Probed) {
            state.phase = if works { Phase::Probed } else { Phase::Polling };
        }
        drop(state);
        self.poke.notify_one();
    }

    /// The WebSocket takes over, once no request is under way: returns what a poll has read and not handed out, and the other end
    /// of the session's socket, unless the session has ended.
    pub(super) async fn take_over(&self, within: Duration) -> Option<(Vec<u8>, Option<Arc<Far>>)> {
        let quiet = async {
            loop {
                {
                    let mut state = self.state.lock();
                    match state.phase {
                        Phase::Probed | Phase::Upgraded => state.phase = Phase::Upgraded,
                        Phase::Polling | Phase::Probing | Phase::Closed => return None,
                    }

                    if !state.is_polled && !state.is_posted {
                        if state.far.is_some() {
                            self.handover.choose();
                        }
                        let pongs = std::mem::take(&mut state.pongs);
                        return Some((std::mem::take(&mut state.unread), pongs, state.far.take()));
                    }
                }
                self.poke.notify_one();
                self.rest.notified().await;
            }
        };

        let (unread, pongs, far) = timeout(within, quiet).await.ok().flatten()?;
        if let Some(far) = &far {
            // That the client goes on shows that it has the answer to its last poll, as a further poll would.
            write(far, &pongs, None).await.ok()?;
        }

        Some((unread, far))
    }
}

/// Memory that waits for a session to take a post, among what waits on this thread.
struct Held<'h> {
    all: &'h Unfinished,
    bytes: usize,
}

/// Writes whole frames to a session. Where that has to wait, `held` is counted, and given up if all that waits is too much.
async fn write(far: &Far, mut bytes: &[u8], held: Option<Held<'_>>) -> Result<(), Refused> {
    while !bytes.is_empty() {
        match far.try_write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_writable(far, held.as_ref()).await?;
            }
            Err(_) => return Err(Refused::UnknownSession),
        }
    }
    Ok(())
}

async fn wait_writable(far: &Far, held: Option<&Held<'_>>) -> Result<(), Refused> {
    let mut writable = pin!(far.writable());
    let mut noted = None;
    let waited = poll_fn(|cx| {
        if let Some(Held { all, bytes }) = held {
            let noted = noted.get_or_insert_with(|| {
                let noted = all.begin(cx.waker());
                noted.holds(*bytes);
                noted
            });
            if noted.given_up().is_some() {
                return Ready(Err(io::ErrorKind::OutOfMemory.into()));
            }
        }
        writable.as_mut().poll(cx)
    });

    match timeout(MESSAGE_TIME, waited).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Refused::BadRequest),
    }
}

/// A poll under way. Where it is broken off, what it has read is lost, and so the client.
pub(super) struct Poll {
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

/// A client's post under way. Where it is broken off in the middle of a frame, its session cannot go on.
pub(super) struct Post {
    transport: Arc<Transport>,
    is_whole: bool,
}

impl Post {
    /// Gives the session what was posted, which counts among `held` while the session does not take it. Whether the client
    /// `leaves` by it, [`Post::check`] has found.
    ///
    /// # Errors
    /// [`Refused`] where the session has ended or takes nothing.
    pub(super) async fn say(
        mut self,
        text: &str,
        leaves: bool,
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

    /// Looks at all packets before any of them counts; returns the text, and whether the client leaves by it.
    ///
    /// # Errors
    /// [`Malformed`] for what no client says. The session cannot go on.
    pub(super) async fn check<'b>(&self, body: &'b [u8]) -> Result<(&'b str, bool), Malformed> {
        let text = simdutf8::basic::from_utf8(body);
        let text = text.map_err(|_| Malformed("a payload is not UTF-8"))?;
        let mut attachments = self.transport.state.lock().attachments;
        let mut leaves = false;
        let mut slice = TimeSlice::begin();

        for packet in engineio::payload(text) {
            let packet = packet?;
            attachments = missing(attachments, &packet)?;
            leaves |= packet == Carried::Text("1");
            slice.rest().await;
        }

        self.transport.state.lock().attachments = attachments;
        Ok((text, leaves))
    }

    /// Nothing of it counts.
    pub(super) fn finish(mut self) {
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

/// About how many bytes the packets of the whole frames in `bytes` take, up to `most` and the last of them.
fn packets_size(mut bytes: &[u8], most: usize) -> usize {
    let mut size = 0;
    while size < most
        && let Some((first, payload, length)) = bounds(bytes)
    {
        size += match first {
            0x81 => payload.len() + 1,
            0x82 => payload.len().div_ceil(3) * 4 + 2,
            _ => 0,
        };
        bytes = &bytes[length..];
    }
    size
}

/// The first byte of the first frame, its payload, and its length; nothing where its rest has yet to come. The session writes
/// whole messages, unmasked.
fn bounds(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
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
    Some((first, payload, bytes.len() - rest.len() + length))
}

/// The first frame of what the session says, and its length.
fn frame(bytes: &[u8]) -> Option<(Message<'_>, usize)> {
    let (first, payload, length) = bounds(bytes)?;
    let message = match first {
        0x81 => Message::Text(simdutf8::basic::from_utf8(payload).unwrap_or("6")),
        0x82 => Message::Binary(payload),
        0x89 => Message::Ping(payload),
        0x8a => Message::Pong(payload),
        _ => Message::Close(None),
    };
    Some((message, length))
}

/// Appends a frame as clients send them. A mask of zeros changes nothing.
fn append_frame(to: &mut Vec<u8>, first: u8, payload: &[u8]) {
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

    fn transport(far: tokio::net::UnixStream, answers: &Arc<AtomicUsize>) -> Arc<Transport> {
        let (far, handover) = (Far::new(far, None), Arc::default());
        Arc::new(Transport::new(AppId(0), far, handover, answers.clone()))
    }

    /// A session that says `events` of so many bytes, and the client that is to poll them.
    fn says(events: usize, bytes: usize) -> (tokio::net::UnixStream, Arc<Transport>) {
        let (near, far) = tokio::net::UnixStream::pair().unwrap();
        socket2::SockRef::from(&near)
            .set_send_buffer_size(1 << 20)
            .unwrap();
        let event = Frame::event_text(&[&vec![b'a'; bytes]]);
        for _ in 0..events {
            assert_eq!(near.try_write(event.bytes()).unwrap(), event.len());
        }
        (near, transport(far, &Arc::default()))
    }

    fn is_pending(future: std::pin::Pin<&mut impl Future>) -> bool {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        future.poll(&mut cx).is_pending()
    }

    const PLENTY: usize = 1 << 30;

    async fn polled(client: &Arc<Transport>) -> Result<(Vec<u8>, Poll), Refused> {
        client
            .poll(PLENTY, &ConnectionTimer::new(Arc::default()))
            .await
    }

    /// A poll whose answer is being written, and a second one that waits for that; how many sockets the client borrows.
    macro_rules! poll_that_waits {
        ($client:ident, $answering:ident, $waiting:ident, $lent:ident) => {
            let (_, $answering) = polled(&$client).await.unwrap();
            let $lent: Arc<AtomicUsize> = Arc::default();
            let life = ConnectionTimer::new($lent.clone());
            let mut $waiting = pin!($client.poll(PLENTY, &life));
            assert!(is_pending($waiting.as_mut()));
        };
    }

    #[tokio::test]
    async fn one_poll_waits_for_the_answer_before_it_and_a_further_one_ends_the_session() {
        let (_near, client) = says(1, 10);
        poll_that_waits!(client, answering, waiting, lent);
        assert_eq!(lent.load(Relaxed), 0, "no place stands for it");
        assert_eq!(polled(&client).await.err(), Some(Refused::BadRequest));
        assert_eq!(waiting.await.err(), Some(Refused::UnknownSession));
        drop(answering);

        let (near, client) = says(1, 10);
        poll_that_waits!(client, answering, waiting, lent);
        Box::new(answering).written();
        assert!(is_pending(waiting.as_mut()), "nothing was said");
        assert_eq!(lent.load(Relaxed), 1, "it waits for the session");
        let event = Frame::event_text(&[b"b"]);
        near.try_write(event.bytes()).unwrap();
        let (payload, _poll) = waiting.await.unwrap();
        assert_eq!((&payload[..], lent.load(Relaxed)), (&b"b"[..], 0));
    }

    #[tokio::test]
    async fn a_poll_that_was_given_up_while_it_waited_makes_room_for_the_next() {
        let (_near, client) = says(1, 10);
        let (_, answering) = polled(&client).await.unwrap();
        {
            let mut given_up = pin!(polled(&client));
            assert!(is_pending(given_up.as_mut()));
        }
        let mut next = pin!(polled(&client));
        assert!(is_pending(next.as_mut()));
        assert_eq!(client.state.lock().phase, Phase::Polling);
        drop(answering);
    }

    #[tokio::test]
    async fn a_poll_that_waits_for_the_answer_before_it_ends_with_its_session() {
        let ends: [fn(&Arc<Polls>, &Transport); 3] = [
            |_, client| client.close(),
            // It has nothing to say.
            |polls, _| polls.end("a"),
            // As if the time of its last words were over.
            |polls, _| polls.forget("a"),
        ];
        for end in ends {
            let (near, client) = says(1, 10);
            let polls = Arc::new(Polls::default());
            polls.insert("a", client.clone());
            poll_that_waits!(client, answering, waiting, _lent);
            drop(near);
            end(&polls, &client);
            assert_eq!(waiting.await.err(), Some(Refused::UnknownSession));
            drop(answering);
        }
    }

    #[tokio::test]
    async fn a_poll_that_waits_gets_what_its_session_said_last() {
        let (near, client) = says(1, 10);
        poll_that_waits!(client, answering, waiting, _lent);
        near.try_write(Frame::event_text(&[b"b"]).bytes()).unwrap();
        drop(near);
        assert!(client.end().is_some());
        assert!(is_pending(waiting.as_mut()), "the answer comes first");
        Box::new(answering).written();
        assert_eq!(waiting.await.unwrap().0, b"b");
    }

    #[tokio::test]
    async fn a_client_that_polls_keeps_no_more_than_what_it_has_yet_to_get() {
        let (near, client) = says(70, 4000);
        near.try_write(b"\x81\x7e\x10\x00the beginning of a frame")
            .unwrap();
        let (payload, poll) = polled(&client).await.unwrap();
        assert!(payload.len().abs_diff(POLL_BYTES) < 5000);
        assert!(
            payload.capacity() <= payload.len() + 5000,
            "it grew by doubling"
        );
        let held = |client: &Transport| {
            let state = client.state.lock();
            (state.unread.len(), state.unread.capacity())
        };
        let (left, room) = held(&client);
        assert!(left > 0 && room <= left + 64, "{room} bytes for {left}");
        Box::new(poll).written();

        let (rest, poll) = polled(&client).await.unwrap();
        assert_eq!(payload.len() + 1 + rest.len(), 70 * 4001 - 1);
        Box::new(poll).written();
        assert_eq!(held(&client).0, "....the beginning of a frame".len());
        assert!(held(&client).1 < 100);
        client.close();
        assert_eq!(held(&client), (0, 0));
    }

    #[tokio::test]
    async fn answers_are_short_while_many_are_being_written() {
        let (_near, client) = says(40, 1000);
        client.answers.store(PLENTY / ANSWERS_PART, Relaxed);
        let (payload, poll) = polled(&client).await.unwrap();
        assert!(payload.len() > 2 * POLL_BYTES_TIGHT, "not yet");
        assert!(client.answers.load(Relaxed) >= PLENTY / ANSWERS_PART + payload.len());
        Box::new(poll).written();
        assert_eq!(client.answers.load(Relaxed), PLENTY / ANSWERS_PART);

        let (_near, client) = says(40, 1000);
        client.answers.store(PLENTY / ANSWERS_PART + 1, Relaxed);
        let (payload, _poll) = polled(&client).await.unwrap();
        assert!(payload.len().abs_diff(POLL_BYTES_TIGHT) < 2000);
    }

    #[tokio::test]
    async fn what_a_session_said_last_is_there_without_it_and_then_its_goodbye() {
        let (near, client) = says(3, 10);
        near.try_write(b"\x88\x00").unwrap();
        drop(near);
        assert!(client.end().is_some());
        assert!(client.state.lock().far.is_none(), "the descriptor is kept");
        assert_eq!(client.post().err(), Some(Refused::UnknownSession));
        assert_eq!(client.probe().err(), Some(Refused::UnknownSession));

        let (payload, poll) = polled(&client).await.unwrap();
        assert_eq!(payload.len(), 3 * 11 - 1);
        Box::new(poll).written();
        let (payload, poll) = polled(&client).await.unwrap();
        assert_eq!(payload, engineio::CLOSE);
        Box::new(poll).written();
        assert_eq!(polled(&client).await.err(), Some(Refused::UnknownSession));
    }

    #[tokio::test]
    async fn a_session_that_said_nothing_but_a_ping_or_goodbye_leaves_nothing() {
        for said in [&b""[..], b"\x88\x00", b"\x81\x012\x88\x00", b"\x89\x00"] {
            let (near, client) = says(0, 0);
            near.try_write(said).unwrap();
            drop(near);
            assert_eq!(client.end(), None, "{said:?}");
        }
        let (_near, client) = says(3, 10);
        client.close();
        assert_eq!(client.end(), None, "its client is gone");
    }

    #[tokio::test]
    async fn all_last_words_together_are_bounded_and_end() {
        const MANY: usize = 2 * LAST_WORDS_BYTES / (60_000 + LAST_WORDS_COST);
        let polls = Arc::new(Polls::default());
        let all = async {
            for n in 0..MANY {
                let (near, client) = says(1, 60_000);
                drop(near);
                polls.insert(&n.to_string(), client);
                polls.end(&n.to_string());
            }
            let kept = polls.clients.lock().len();
            assert!(kept * (60_000 + LAST_WORDS_COST) <= LAST_WORDS_BYTES);
            assert!(kept > MANY / 3);
            assert!(polls.find("0", AppId(0)).is_none(), "the oldest goes first");
            let newest = (MANY - 1).to_string();
            assert!(polls.find(&newest, AppId(0)).is_some());

            // As if its time were over.
            let until = Some(Instant::now());
            let gone = std::iter::from_fn(|| polls.ended.lock().pop(until)).count();
            assert_eq!((gone, polls.ended.lock().bytes), (kept, 0));
        };
        tokio::task::LocalSet::new().run_until(all).await;
    }

    #[tokio::test]
    async fn a_post_that_its_session_does_not_take_counts_and_is_given_up_where_too_much_waits() {
        let body = format!("4{}", "a".repeat(1 << 20));
        let post = || {
            let (near, client) = says(0, 0);
            (near, client.post().unwrap(), client)
        };
        let (_near, first, _client) = post();
        let held = Unfinished::new(3 << 20);
        let mut first = Box::pin(first.say(&body, false, &held));
        assert!(!held.is_tight());
        assert!(is_pending(first.as_mut()));
        assert!(held.is_tight(), "body and frames are two of three MiB");

        let (_near, second, client) = post();
        let mut second = Box::pin(second.say(&body, false, &held));
        assert!(is_pending(second.as_mut()));
        assert_eq!(
            first.await,
            Err(Refused::BadRequest),
            "it waits for longest"
        );
        drop(second);
        assert_eq!(client.state.lock().phase, Phase::Closed);
        assert!(!held.is_tight());
    }

    #[tokio::test]
    async fn a_post_with_a_packet_that_no_client_sends_is_refused_as_a_whole() {
        let check = async |before: usize, body: &str| {
            let (_near, client) = says(0, 0);
            client.state.lock().attachments = before;
            let post = client.post().unwrap();
            let checked = post.check(body.as_bytes()).await;
            let attachments = client.state.lock().attachments;
            checked.map(|(_, leaves)| (leaves, attachments))
        };
        for (before, body, is_good) in [
            (0, "40", (false, 0)),
            (0, "42[\"a\"]\u{1e}3\u{1e}1", (true, 0)),
            (0, "452-[\"a\"]\u{1e}bAAAA", (false, 1)),
            (1, "bAAAA\u{1e}42[\"a\"]", (false, 0)),
            (1, "3", (false, 1)),
        ] {
            assert_eq!(check(before, body).await, Ok(is_good), "{body}");
        }
        for (before, body) in [
            (0, "bAAAA"),
            (0, "40\u{1e}bAAAA"),
            (1, "42[\"a\"]"),
            (1, "bAAAA\u{1e}bAAAA"),
            (0, "42[[["),
            (0, "4"),
            (0, "49"),
            (0, ""),
            (0, "x"),
        ] {
            assert!(check(before, body).await.is_err(), "{body}");
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
