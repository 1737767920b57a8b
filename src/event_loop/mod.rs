//! A shard's thread: its sockets, the writing of what was placed, and the watch over heartbeats and deadlines.
//!
//! Everything here belongs to one thread and is reached through `Rc`; other threads reach the shard's
//! [table](crate::hub) only.

mod client_tasks;
mod deadlines;
mod flush;
mod heartbeats;
mod deferred_drops;
mod pages;
mod stored;
mod unfinished;
mod watch;
mod write;

use std::{
    cell::{Cell, OnceCell, RefCell},
    io::{self, Read},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use client_tasks::ClientTasks;
use deadlines::{Deadlines, Due, until};
use deferred_drops::DeferredDrops;
use heartbeats::Heartbeats;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{io::Interest, net::TcpStream, task::spawn_local};

pub(crate) use self::unfinished::{GivenUp, Unfinished, UnfinishedMessage};
use crate::{
    calls::Places,
    hub::{Hub, Owner, Shard, SlotRef, Table},
    limits::{
        CLOSE_GRACE, EXPIRED_SPREAD, HELD_BYTES, POLLED_CLOSE_GRACE, READ_BUFFER, TICK,
        UNFINISHED_BYTES,
    },
    protocol::wire::Form,
    supervisor::Supervisor,
};

/// A connection's socket, on the thread that owns it.
#[derive(Debug)]
pub(crate) struct LocalSocket {
    pub(crate) stream: TcpStream,
    pub(crate) at: SlotRef,
    /// In which form its frames are written: the same as the table has.
    pub(crate) form: Cell<Form>,
    /// A ping was sent, and nothing has come since.
    awaiting: Cell<bool>,
    /// How many pings were sent.
    pings: Cell<u32>,
    /// A deadline is out for the answer to one that left the socket late.
    waits: Cell<bool>,
    /// When the socket last took a byte, if it refuses.
    stalled: Cell<Option<Instant>>,
    /// A deadline is out for a socket that refuses.
    is_watched: Cell<bool>,
    /// A ping was sent, and no pong has come since.
    pub(crate) pinged: Cell<bool>,
    /// Its client has shown a good token, and waits to be let in.
    is_authenticated: Cell<bool>,
    /// The calls of its client that are running; absent before the first.
    calls: OnceCell<Places>,
    /// When its token ends, in Unix seconds; [`NEVER`] if it does not.
    expiry: Cell<u32>,
    /// The end for which a deadline is out; [`NEVER`] if none is.
    expected: Cell<u32>,
    /// Set if its client began by polling, and has no WebSocket of its own yet: whether it has chosen one.
    polling: OnceCell<Arc<AtomicBool>>,
}

/// The entry of one slot: the socket of its connection, if it has one now.
///
/// The generation is here, not in the socket alone: to find a socket, a write touches this entry, and of the socket only the
/// cache line that holds the descriptor. So the size of tokio's socket, which depends on the features that the embedding
/// program chose, does not matter.
#[derive(Clone, Debug, Default)]
struct SocketEntry {
    generation: u32,
    socket: Option<Rc<LocalSocket>>,
}

// Four fit a cache line: publications for many go through all of them.
const _: () = assert!(size_of::<SocketEntry>() <= 16);

impl SocketEntry {
    /// The socket of `at`, unless its slot has another tenant or none.
    fn of(sockets: &[Self], at: SlotRef) -> Option<&Rc<LocalSocket>> {
        let entry = sockets.get(at.slot as usize)?;
        entry
            .socket
            .as_ref()
            .filter(|_| entry.generation == at.generation)
    }
}

/// The second, in 2106, that no deadline is set for.
const NEVER: u32 = u32::MAX;

impl LocalSocket {
    /// Notes that the client gave a sign of life.
    pub(crate) fn heard(&self) {
        self.awaiting.set(false);
    }

    /// Notes that the client has authenticated, even if it has to wait before it is let in.
    pub(crate) fn mark_authenticated(&self) {
        self.is_authenticated.set(true);
    }

    /// Notes that the client polls for what the session says, until it `has_chosen` a WebSocket.
    pub(crate) fn is_polled_until(&self, has_chosen: Arc<AtomicBool>) {
        // A socket is new when this is noted.
        let _ = self.polling.set(has_chosen);
    }

    /// How long the client has to answer a close frame before its socket is reset.
    ///
    /// One that polls answers none. Its connection ends as soon as the frame is written, and what it was sent waits for its next
    /// poll. Only where the socket is full because it does not poll, the frame cannot be written.
    pub(crate) fn close_grace(&self) -> Duration {
        if self.is_polled() {
            POLLED_CLOSE_GRACE
        } else {
            CLOSE_GRACE
        }
    }

    fn is_polled(&self) -> bool {
        let polling = self.polling.get();
        polling.is_some_and(|has_chosen| !has_chosen.load(Relaxed))
    }

    /// Its last frame is written. A session whose client polls has nothing left to wait for.
    fn has_said_all(&self) {
        if self.is_polled() {
            // Fails only if the peer is gone already; the reader sees that too.
            let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Both);
        }
    }

    /// The places of the client's calls.
    pub(crate) fn calls(&self) -> &Places {
        self.calls.get_or_init(Places::default)
    }

    /// Whether the kernel holds bytes for the client that it has not sent yet: the client's side takes them too slowly.
    fn has_unsent(&self) -> bool {
        let socket = socket2::SockRef::from(&self.stream);
        // With this mark the kernel calls a socket writable only while fewer unsent bytes than the mark wait in it.
        if socket.set_tcp_notsent_lowat(1).is_err() {
            return false;
        }
        let mut polled = [PollFd::new(&self.stream, PollFlags::OUT)];
        let polled = poll(&mut polled, Some(&Timespec::default()));
        // Fails only if the socket is broken; the reader will see that.
        let _ = socket.set_tcp_notsent_lowat(0);
        matches!(polled, Ok(0))
    }

    /// Lets the kernel end the connection once the client's side has acknowledged nothing for `wait`.
    fn end_if_silent_for(&self, wait: Duration) {
        let socket = socket2::SockRef::from(&self.stream);
        // Without it a client that reads nothing more is found as soon as its socket refuses.
        let _ = socket.set_tcp_user_timeout(Some(wait));
    }

    /// Ends the socket in both directions, so that all who wait on it wake up; unsent bytes are thrown away.
    pub(crate) fn reset(&self) {
        let socket = socket2::SockRef::from(&self.stream);
        // Both fail only if the peer is gone already, which is what is wanted.
        let _ = socket.set_linger(Some(Duration::ZERO));
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }
}

/// One shard's thread.
#[derive(Debug)]
pub(crate) struct EventLoop {
    hub: Arc<Hub>,
    shard: Arc<Shard>,
    index: usize,
    /// By slot.
    sockets: RefCell<Vec<SocketEntry>>,
    deadlines: RefCell<Deadlines>,
    /// Borrowed while a batch is out, and by what places a replay.
    owner: RefCell<Owner>,
    buffer: RefCell<Box<[u8]>>,
    heartbeats: RefCell<Heartbeats>,
    clients: ClientTasks,
    deferred_drops: DeferredDrops,
    unfinished: Unfinished,
    /// What came after messages that have yet to be done.
    held: Unfinished,
    /// How often the writer went round.
    flushes: Cell<u64>,
}

impl EventLoop {
    pub(crate) fn new(hub: Arc<Hub>, index: usize) -> Rc<Self> {
        let heartbeats = Heartbeats::new(hub.limits());
        let unfinished_bytes = UNFINISHED_BYTES / hub.shards().len();
        Rc::new(Self {
            shard: hub.shard(index).clone(),
            sockets: RefCell::default(),
            deadlines: RefCell::new(Deadlines::new()),
            owner: RefCell::new(hub.shard(index).owner()),
            index,
            buffer: RefCell::new(vec![0; READ_BUFFER].into_boxed_slice()),
            heartbeats: RefCell::new(heartbeats),
            clients: ClientTasks::default(),
            deferred_drops: DeferredDrops::default(),
            unfinished: Unfinished::new(unfinished_bytes),
            held: Unfinished::new(HELD_BYTES / hub.shards().len()),
            hub,

            flushes: Cell::new(0),
        })
    }

    /// Starts the tasks that write and watch; they live as long as the thread's runtime.
    pub(crate) fn start(self: &Rc<Self>, supervisor: &Supervisor) {
        let named = |task: &str| format!("{task} of shard {}", self.index);
        spawn_local(supervisor.run(&named("clients"), self.clients.work()));
        spawn_local(supervisor.run(&named("leaving"), self.deferred_drops.work()));
        spawn_local(supervisor.run(&named("flush"), self.clone().flush()));
        spawn_local(supervisor.run(&named("watch"), self.clone().watch()));
    }

    pub(crate) fn shard(&self) -> &Arc<Shard> {
        &self.shard
    }

    /// Runs `f` under the shard's lock, as [`Shard::lock_and_wake`] does, with the owner's right to place what blocks a socket.
    pub(crate) fn with_owner<T>(&self, f: impl FnOnce(&mut Table, &mut Owner) -> T) -> T {
        let mut owner = self.owner.borrow_mut();
        self.shard.lock_and_wake(|table| f(table, &mut owner))
    }

    /// Adds a socket for the connection in `at`.
    pub(crate) fn add_socket(&self, stream: TcpStream, at: SlotRef) -> Rc<LocalSocket> {
        let socket = Rc::new(LocalSocket {
            stream,
            at,
            form: Cell::new(Form::NATIVE),
            awaiting: Cell::new(false),
            pings: Cell::new(0),
            waits: Cell::new(false),
            stalled: Cell::new(None),
            is_watched: Cell::new(false),
            pinged: Cell::new(false),
            is_authenticated: Cell::new(false),
            calls: OnceCell::new(),
            expiry: Cell::new(NEVER),
            expected: Cell::new(NEVER),

            polling: OnceCell::new(),
        });

        let mut sockets = self.sockets.borrow_mut();
        if sockets.len() <= at.slot as usize {
            sockets.resize(at.slot as usize + 1, SocketEntry::default());
        }

        sockets[at.slot as usize] = SocketEntry {
            generation: at.generation,
            socket: Some(socket.clone()),
        };

        self.heartbeats.borrow_mut().join(at);
        socket
    }

    /// Sets in which form the frames of `socket` are written from now on.
    pub(crate) fn set_form(&self, socket: &LocalSocket, form: Form) {
        self.hub.context().forms.leave(socket.form.replace(form));
        self.hub.context().forms.enter(form);
        self.shard.lock(|table| table.set_form(socket.at, form));
    }

    /// Whether nothing is under way on `socket` but its session.
    pub(crate) fn may_change(socket: &Rc<LocalSocket>) -> bool {
        // The entry and the session hold it. A task that drains it holds it too.
        socket.stalled.get().is_none() && Rc::strong_count(socket) == 2
    }

    /// Lets the connection of `socket` go on with `stream`; false if that may not be.
    pub(crate) fn change_socket(&self, socket: &mut Rc<LocalSocket>, stream: TcpStream) -> bool {
        let mut sockets = self.sockets.borrow_mut();
        let at = socket.at;
        let entry = sockets.get_mut(at.slot as usize);
        let Some(entry) = entry.filter(|entry| entry.generation == at.generation) else {
            return false;
        };

        // The session's must be the only one left, so that the stream can be changed in it.
        entry.socket = None;
        let own = Rc::get_mut(socket);
        let is_own = own.is_some();

        if let Some(own) = own {
            own.stream = stream;
            own.polling.take();
        }

        entry.socket = Some(socket.clone());
        is_own
    }

    /// Runs what a client does until its connection ends, in turns with what else the thread has to do.
    pub(crate) fn run_client(&self, task: impl Future<Output = ()> + 'static) {
        self.clients.start(task);
    }

    /// The number of the turn of this thread's clients that runs.
    pub(crate) fn clients_turn(&self) -> u32 {
        self.clients.turn()
    }

    /// Does `last` for a connection that has ended: later, in the order of the calls, and in slices.
    pub(crate) fn drop_later(&self, last: impl FnOnce() + 'static) {
        self.deferred_drops.push(Box::new(last));
    }

    /// Forgets the socket of `at`. A task that still drains it is woken and ends.
    pub(crate) fn leave(&self, at: SlotRef) {
        let socket = self
            .sockets
            .borrow_mut()
            .get_mut(at.slot as usize)
            .and_then(|entry| entry.socket.take());
        let Some(socket) = socket else { return };
        self.hub.context().forms.leave(socket.form.get());
        if socket.stalled.take().is_some() {
            self.hub.context().metrics.blocked.dec();
            socket.reset();
        }
    }

    fn socket_of(&self, at: SlotRef) -> Option<Rc<LocalSocket>> {
        SocketEntry::of(&self.sockets.borrow(), at).cloned()
    }

    /// The messages of this thread's clients that have begun and not ended.
    pub(crate) fn unfinished(&self) -> &Unfinished {
        &self.unfinished
    }

    /// What this thread's clients have sent after a message that has yet to be done. It is bounded like unfinished messages,
    /// and may wait for as long as that takes.
    pub(crate) fn held(&self) -> &Unfinished {
        &self.held
    }

    /// Reads once into the thread's buffer and hands `each` what came; returns the number of bytes, 0 at the end of the
    /// stream.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        socket: &LocalSocket,
        each: impl FnOnce(&mut [u8]),
    ) -> Poll<io::Result<usize>> {
        // A socket that is said to be readable may have nothing. Asked again, it wakes the task
        // later.
        loop {
            ready!(socket.stream.poll_read_ready(cx))?;
            let mut buffer = self.buffer.borrow_mut();
            match read_once(&socket.stream, &mut buffer) {
                Ok(n) => {
                    each(&mut buffer[..n]);
                    return Poll::Ready(Ok(n));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Closes `at` with 4001 if it has not authenticated within `wait`.
    pub(crate) fn expect_authentication(&self, at: SlotRef, wait: Duration, is_misnamed: bool) {
        self.deadlines
            .borrow_mut()
            .push(wait, at, Due::Authentication(is_misnamed));
    }

    /// Closes `at` with 4005 when its token ends, unless it was renewed by then.
    pub(crate) fn expect_expiry(&self, at: SlotRef, unix: u64) {
        let Some(socket) = self.socket_of(at) else {
            return;
        };
        socket.expiry.set(u32::try_from(unix).unwrap_or(NEVER));
        self.note_expiry(&socket);
    }

    /// Notes when the token of `socket` ends if that is before its next heartbeat; if it is later, that heartbeat looks again.
    fn note_expiry(&self, socket: &LocalSocket) {
        let second = socket.expiry.get();
        // A deadline that is out and comes no later will look again: a client that renews in a loop adds nothing.
        if second >= socket.expected.get() {
            return;
        }

        let wait = until(u64::from(second));
        if wait > self.hub.limits().heartbeat + 2 * TICK {
            return;
        }

        socket.expected.set(second);
        self.deadlines
            .borrow_mut()
            .push(wait + spread(socket.at), socket.at, Due::Expiry(second));
    }
}

/// Reads what a socket has that is said to be readable.
///
/// A read that does not fill the buffer has emptied the socket, as tokio assumes in its own `poll_read`: so the socket
/// counts as unreadable from then on, without a system call that finds nothing.
fn read_once(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut emptied = None;
    let read = socket.try_io(Interest::READABLE, || {
        let n = (&*socket2::SockRef::from(socket)).read(buffer)?;
        if n > 0 && n < buffer.len() {
            emptied = Some(n);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(n)
    });
    emptied.map_or(read, Ok)
}

/// How long after its token's end a connection is closed, at most [`EXPIRED_SPREAD`]: tokens that were signed together end
/// together.
fn spread(at: SlotRef) -> Duration {
    // Slots are given out one after another; so those of one second are spread evenly.
    let part = at.slot.wrapping_mul(0x9E37_79B1);
    EXPIRED_SPREAD.mul_f64(f64::from(part) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests;
