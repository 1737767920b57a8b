//! One connection of a fleet.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use mio::net::TcpStream;
use socket2::{Domain, SockRef, Socket, Type};

use super::{
    control::Connect,
    frames::{self, Frame},
};
use crate::{
    driver::{Dialect, Step},
    error::{Doing, Result, failed},
    http,
};

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// TCP is being set up.
    Dialing,
    /// The upgrade was asked for.
    Upgrading,
    /// The upgrade was granted; the server has not said all yet that it must. Counts for the dialect.
    Opening(u8),
    /// Open.
    Open,
}

/// A client's socket, with what is cut short on it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: TcpStream,
    pub(super) stage: Stage,
    request: String,
    carry: Vec<u8>,
    /// What the server's close frame said.
    pub(super) close_code: Option<u16>,
}

/// Who listens to a connection.
pub(super) struct Listener<'f> {
    /// How its server speaks.
    pub(super) dialect: &'f dyn Dialect,
    /// The user it is for.
    pub(super) user: usize,
    /// Pings answered, of either kind.
    pub(super) pings: &'f mut u64,
}

/// What reading brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readout {
    /// The socket is empty.
    Going,
    /// The server ended the connection.
    Ended,
}

/// Connections that share one source address. The kernel has about 28,000 ports for each, but looks long for the last
/// free ones, and ports of closed connections stay taken for a minute.
const PER_SOURCE: usize = 1000;

impl Connection {
    /// Begins to connect the fleet's connection number `index`.
    pub(super) fn dial(order: &Connect, index: usize) -> Result<Self> {
        let Connect { to, source, .. } = *order;
        let dial = || -> io::Result<TcpStream> {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            if let Some(bytes) = order.receive_buffer {
                socket.set_recv_buffer_size(bytes)?;
            }
            if to.is_ipv4() && to.ip().is_loopback() {
                let [high, low] = source
                    .wrapping_add((index / PER_SOURCE) as u16)
                    .to_be_bytes();
                let from = Ipv4Addr::new(127, 1, high, low);
                socket.bind(&SocketAddr::new(IpAddr::V4(from), 0).into())?;
            }
            socket.set_nonblocking(true)?;
            socket.set_tcp_nodelay(true)?;
            match socket.connect(&to.into()) {
                Err(error)
                    if error.raw_os_error()
                        != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
                {
                    Err(error)
                }
                _ => Ok(TcpStream::from_std(socket.into())),
            }
        };
        let socket = dial().doing(format!("cannot connect to {to}"))?;
        let request = order.driver.dialect().handshake(to, order.first + index);
        Ok(Self {
            socket,
            stage: Stage::Dialing,
            request,
            carry: Vec::new(),
            close_code: None,
        })
    }

    /// Asks for the upgrade once TCP is there.
    pub(super) fn writable(&mut self) -> Result<()> {
        if self.stage != Stage::Dialing {
            return Ok(());
        }
        if let Some(error) = self.socket.take_error().doing("cannot ask a socket")? {
            return Err(error).doing("cannot connect");
        }
        let request = std::mem::take(&mut self.request);
        match self.socket.write(request.as_bytes()) {
            Ok(n) if n == request.len() => self.stage = Stage::Upgrading,
            Ok(_) => return failed("the socket took half a handshake"),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => self.request = request,
            Err(error) => return Err(error).doing("cannot ask for the upgrade"),
        }
        Ok(())
    }

    /// Reads until the socket is empty, and hands each text frame that may hold events to `event`; pings are answered
    /// and counted. Where the server `has_ended` its side, that is read as well.
    pub(super) fn readable(
        &mut self,
        has_ended: bool,
        buffer: &mut [u8],
        listener: &mut Listener<'_>,
        mut event: impl FnMut(&[u8]),
    ) -> Result<Readout> {
        loop {
            let n = match self.socket.read(buffer) {
                Ok(0) => return Ok(Readout::Ended),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Readout::Going);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Ok(Readout::Ended),
            };
            if !self.take(&buffer[..n], listener, &mut event)? {
                return Ok(Readout::Ended);
            }
            // A short read has emptied the socket; what comes later wakes the loop again.
            if n < buffer.len() && !has_ended {
                return Ok(Readout::Going);
            }
        }
    }

    /// False if the server has said that it closes.
    fn take(
        &mut self,
        bytes: &[u8],
        listener: &mut Listener<'_>,
        event: &mut impl FnMut(&[u8]),
    ) -> Result<bool> {
        let mut carry = std::mem::take(&mut self.carry);
        let all = if carry.is_empty() {
            bytes
        } else {
            carry.extend_from_slice(bytes);
            &carry
        };
        let mut rest = all;
        if self.stage == Stage::Upgrading {
            let Some(head) = http::parse(rest) else {
                self.carry = rest.to_vec();
                return Ok(true);
            };
            if head.status() != 101 {
                let why = String::from_utf8_lossy(head.body);
                return failed(format!(
                    "the server refused a client: {} {why}",
                    head.first_line
                ));
            }
            rest = &rest[head.bytes..];
            self.open(0, None, listener)?;
        }
        while let Some((frame, used)) = frames::next(rest) {
            rest = &rest[used..];
            if !self.frame(frame, listener, event)? {
                return Ok(false);
            }
        }
        self.carry = if carry.is_empty() || !rest.is_empty() {
            rest.to_vec()
        } else {
            Vec::new()
        };
        Ok(true)
    }

    /// Does what the dialect wants on the way to an open connection, on the upgrade or on a frame.
    fn open(&mut self, mut heard: u8, frame: Option<&[u8]>, listener: &Listener<'_>) -> Result<()> {
        let step = listener.dialect.open(listener.user, &mut heard, frame);
        self.stage = if step == Step::Open {
            Stage::Open
        } else {
            Stage::Opening(heard)
        };
        match step {
            Step::Wait | Step::Open => Ok(()),
            Step::Say(texts) => {
                let frames: Vec<u8> = texts.iter().flat_map(|text| frames::text(text)).collect();
                match self.socket.write(&frames).doing("a client cannot speak")? {
                    n if n == frames.len() => Ok(()),
                    _ => failed("the socket took half of what a client says first"),
                }
            }
            Step::Refused(why) => failed(format!("the server refused a client: {why}")),
        }
    }

    fn frame(
        &mut self,
        frame: Frame<'_>,
        listener: &mut Listener<'_>,
        event: &mut impl FnMut(&[u8]),
    ) -> Result<bool> {
        match (frame.opcode, self.stage) {
            (frames::TEXT, Stage::Open) => {
                if let Some(answer) = listener.dialect.ping(frame.payload) {
                    self.answer(&frames::text(answer), listener);
                }
                event(frame.payload);
            }
            (frames::TEXT, Stage::Opening(heard)) => {
                self.open(heard, Some(frame.payload), listener)?;
            }
            (frames::PING, _) => self.answer(&frames::pong(frame.payload), listener),
            (frames::CLOSE, Stage::Open) => {
                self.close_code = frame
                    .payload
                    .first_chunk()
                    .map(|code| u16::from_be_bytes(*code));
                return Ok(false);
            }
            (frames::CLOSE, _) => {
                let why = String::from_utf8_lossy(frame.payload.get(2..).unwrap_or_default());
                return failed(format!("the server closed a client at once: {why}"));
            }
            _ => {}
        }
        Ok(true)
    }

    fn answer(&mut self, pong: &[u8], listener: &mut Listener<'_>) {
        *listener.pings += 1;
        // A socket that takes no pong is about to end, which is counted then.
        let _ = self.socket.write(pong);
    }

    /// Ends by a reset, which tells the server nothing.
    pub(super) fn reset(self) -> Result<()> {
        SockRef::from(&self.socket)
            .set_linger(Some(Duration::ZERO))
            .doing("cannot reset a connection")
    }

    /// Closes well, so that the server has nothing to wait for.
    pub(super) fn say_goodbye(&mut self) {
        // Fails only where the server has gone first.
        let _ = self.socket.write(&frames::GOODBYE);
    }
}
