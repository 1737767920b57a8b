//! A session that began over long polling goes on over a WebSocket of its own, as if it had begun there.
//!
//! The WebSocket comes in on any thread. There it carries the session's bytes to and fro, until the session's own thread finds
//! nothing under way on the old socket, and takes the new one in its place. Both are streams of whole WebSocket frames in
//! either direction, so that one goes on exactly where the other ends.

use std::{
    io::{self, Read, Write},
    ops::Deref,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Waker,
};

use parking_lot::Mutex;
use tokio::{
    net::{TcpStream, UnixStream},
    sync::Notify,
};

use super::Session;
use crate::{event_loop::EventLoop, limits::READ_BUFFER, node::Occupancy};

/// The other end of the pair of sockets of a session whose client polls.
#[derive(Debug)]
pub(crate) struct Far {
    socket: UnixStream,
    /// Places for the descriptors that the client takes beside its connection's one. They are free when this end is
    /// closed.
    _places: Option<Occupancy>,
}

impl Far {
    pub(crate) fn new(socket: UnixStream, places: Option<Occupancy>) -> Self {
        Self {
            socket,
            _places: places,
        }
    }
}

impl Deref for Far {
    type Target = UnixStream;

    fn deref(&self) -> &UnixStream {
        &self.socket
    }
}

impl AsFd for Far {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A socket that a session is to go on with, and what has yet to go before it.
#[derive(Debug)]
pub(crate) struct Offered {
    pub(crate) socket: std::net::TcpStream,
    /// What came from the client after what the session has already.
    pub(crate) heard: Vec<u8>,
    /// What the session has said, and the client has not.
    pub(crate) unsaid: Vec<u8>,
    /// The other end of the session's old socket.
    pub(crate) far: Arc<Far>,
}

/// What became of an offer.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The session goes on with it.
    Taken,
    /// Something is under way on the old socket, or the session has ended.
    NotNow(Offered),
    /// One of the sockets failed.
    Lost,
}

/// Where a socket is offered on one thread and taken on another.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    inner: Mutex<Inner>,
    answered: Notify,
    /// Rings when the session has ended.
    over: Notify,
    /// The client has chosen its WebSocket, and no longer polls.
    has_chosen: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Inner {
    offered: Option<Offered>,
    outcome: Option<Outcome>,
    is_over: bool,
    session: Option<Waker>,
}

impl Handover {
    /// The client goes on with a WebSocket.
    pub(crate) fn choose(&self) {
        self.has_chosen.store(true, Relaxed);
    }

    /// Whether the client has chosen a WebSocket. Until then nobody reads what the session says before the client polls for it.
    pub(crate) fn has_chosen(&self) -> &Arc<AtomicBool> {
        &self.has_chosen
    }

    /// Offers a socket to the session, and waits for its answer. A session that ends gives it back: the client has yet to read
    /// what it said last.
    pub(crate) async fn offer(&self, offered: Offered) -> Outcome {
        {
            let mut inner = self.inner.lock();
            if inner.is_over {
                return Outcome::NotNow(offered);
            }
            inner.offered = Some(offered);
            if let Some(waker) = inner.session.take() {
                waker.wake();
            }
        }
        loop {
            let outcome = self.inner.lock().outcome.take();
            if let Some(outcome) = outcome {
                return outcome;
            }
            self.answered.notified().await;
        }
    }

    /// The session has ended.
    pub(crate) fn end(&self) {
        let mut inner = self.inner.lock();
        inner.is_over = true;
        if let Some(offered) = inner.offered.take() {
            // Nobody else would answer, and the other thread waits.
            inner.outcome = Some(Outcome::NotNow(offered));
        }
        drop(inner);
        self.answered.notify_one();
        self.over.notify_one();
    }

    /// Whether the session has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.inner.lock().is_over
    }

    /// Waits until the session has ended. Cancel-safe; one waits at a time.
    pub(crate) async fn ended(&self) {
        loop {
            if self.is_over() {
                return;
            }
            self.over.notified().await;
        }
    }

    fn take(&self, waker: &Waker) -> Option<Offered> {
        let mut inner = self.inner.lock();
        // Noted even if nothing is offered, so that an offer that comes later wakes the session.
        inner.session = Some(waker.clone());
        inner.offered.take()
    }

    fn answer(&self, outcome: Outcome) {
        self.inner.lock().outcome = Some(outcome);
        self.answered.notify_one();
    }
}

impl Session {
    /// Takes a socket that is offered, unless something is under way on the old one. Returns whether it did.
    pub(super) fn move_over(&mut self, waker: &Waker) -> bool {
        let foreign = self.foreign.as_ref();
        let Some(handover) = foreign.and_then(|foreign| foreign.handover.clone()) else {
            return false;
        };
        let Some(offered) = handover.take(waker) else {
            return false;
        };
        if self.pending.is_some() {
            handover.answer(Outcome::NotNow(offered));
            return false;
        }

        match self.change_socket(offered) {
            Ok(heard) => {
                if let Some(foreign) = &mut self.foreign {
                    foreign.handover = None;
                }
                handover.answer(Outcome::Taken);
                self.keep(heard, 0);
                true
            }
            Err(Refused {
                offered: Some(offered),
                ..
            }) => {
                handover.answer(Outcome::NotNow(offered));
                false
            }
            Err(Refused { offered: None, .. }) => {
                handover.answer(Outcome::Lost);
                false
            }
        }
    }

    /// Changes the socket; returns what was heard and not looked at.
    fn change_socket(&mut self, mut offered: Offered) -> Result<Vec<u8>, Refused> {
        // Bytes that were written to one end can be read at the other immediately, whatever the runtime knows of
        // it. Only this thread writes to the near end, and nobody writes to the far one any longer.
        let is_said = read_all(&*offered.far, &mut offered.unsaid)
            .and_then(|()| say(&offered.socket, &mut offered.unsaid));
        if is_said.is_err() {
            return Err(Refused { offered: None });
        }
        // Earlier messages have to be written before the session itself writes there.
        if !offered.unsaid.is_empty() || !EventLoop::may_change(&self.client.socket) {
            return Err(offered.into());
        }

        let mut heard = Vec::new();
        if read_all(&self.client.socket.stream, &mut heard).is_err() {
            return Err(Refused { offered: None });
        }

        // The client sent the rest of the old socket before anything that the new one brought.
        heard.append(&mut offered.heard);
        offered.heard = heard;

        let Offered {
            socket, heard, far, ..
        } = offered;

        let Ok(socket) = TcpStream::from_std(socket) else {
            return Err(Refused { offered: None });
        };

        let event_loop = self.client.event_loop.clone();
        if event_loop.change_socket(&mut self.client.socket, socket) {
            drop(far);
            return Ok(heard);
        }

        Err(Refused { offered: None })
    }
}

/// The socket was not taken: it is still offered, or lost with the session's old one.
struct Refused {
    offered: Option<Offered>,
}

impl From<Offered> for Refused {
    fn from(offered: Offered) -> Self {
        Self {
            offered: Some(offered),
        }
    }
}

/// Appends what there is to read, as far as the socket has it.
pub(crate) fn read_all(socket: &impl AsFd, to: &mut Vec<u8>) -> io::Result<()> {
    let socket = socket2::SockRef::from(socket);
    let mut buffer = vec![0; READ_BUFFER];
    loop {
        match (&*socket).read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => to.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes as much of `unsaid` as the socket takes, and leaves the rest.
fn say(socket: &std::net::TcpStream, unsaid: &mut Vec<u8>) -> io::Result<()> {
    while !unsaid.is_empty() {
        match (&*socket).write(unsaid) {
            Ok(n) => drop(unsaid.drain(..n)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
