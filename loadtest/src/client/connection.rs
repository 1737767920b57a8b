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
    error::{Doing, Result, failed},
    fanfare, http,
};

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// TCP is being set up.
    Dialing,
    /// The upgrade was asked for.
    Upgrading,
    /// The upgrade was granted; the welcome has not come.
    Welcoming,
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
    pub(super) fn dial(order: &Connect, index: usize, token: &str) -> Result<Self> {
        let Connect { to, source, .. } = *order;
        let dial = || -> io::Result<TcpStream> {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            if let Some(bytes) = order.receive_buffer {
                socket.set_recv_buffer_size(bytes)?;
            }
            if to.is_ipv4() && to.ip().is_loopback() {
                let [high, low] = source.wrapping_add((index / PER_SOURCE) as u16).to_be_bytes();
                let from = Ipv4Addr::new(127, 1, high, low);
                socket.bind(&SocketAddr::new(IpAddr::V4(from), 0).into())?;
            }
            socket.set_nonblocking(true)?;
            socket.set_tcp_nodelay(true)?;
            match socket.connect(&to.into()) {
                Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                    Err(error)
                }
                _ => Ok(TcpStream::from_std(socket.into())),
            }
        };
        let socket = dial().doing(format!("cannot connect to {to}"))?;
        let request = fanfare::handshake(to, token);
        Ok(Self { socket, stage: Stage::Dialing, request, carry: Vec::new(), close_code: None })
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

    /// Reads until the socket is empty, and hands each text frame to `event`; pings are answered and counted. Where
    /// the server `has_ended` its side, that is read as well.
    pub(super) fn readable(
        &mut self,
        has_ended: bool,
        buffer: &mut [u8],
        pings: &mut u64,
        mut event: impl FnMut(&[u8]),
    ) -> Result<Readout> {
        loop {
            let n = match self.socket.read(buffer) {
                Ok(0) => return Ok(Readout::Ended),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Readout::Going),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Ok(Readout::Ended),
            };
            if !self.take(&buffer[..n], pings, &mut event)? {
                return Ok(Readout::Ended);
            }
            // A short read has emptied the socket; what comes later wakes the loop again.
            if n < buffer.len() && !has_ended {
                return Ok(Readout::Going);
            }
        }
    }

    /// False if the server has said that it closes.
    fn take(&mut self, bytes: &[u8], pings: &mut u64, event: &mut impl FnMut(&[u8])) -> Result<bool> {
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
                return failed(format!("the server refused a client: {} {why}", head.first_line));
            }
            rest = &rest[head.bytes..];
            self.stage = Stage::Welcoming;
        }
        while let Some((frame, used)) = frames::next(rest) {
            rest = &rest[used..];
            if !self.frame(frame, pings, event)? {
                return Ok(false);
            }
        }
        self.carry = if carry.is_empty() || !rest.is_empty() { rest.to_vec() } else { Vec::new() };
        Ok(true)
    }

    fn frame(&mut self, frame: Frame<'_>, pings: &mut u64, event: &mut impl FnMut(&[u8])) -> Result<bool> {
        match (frame.opcode, self.stage) {
            (frames::TEXT, Stage::Open) => event(frame.payload),
            (frames::TEXT, _) if fanfare::is_welcome(frame.payload) => self.stage = Stage::Open,
            (frames::PING, _) => {
                *pings += 1;
                // A socket that takes no pong is about to end, which is counted then.
                let _ = self.socket.write(&frames::pong(frame.payload));
            }
            (frames::CLOSE, Stage::Open) => {
                self.close_code = frame.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
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

    /// Ends by a reset, which tells the server nothing.
    pub(super) fn reset(self) -> Result<()> {
        SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).doing("cannot reset a connection")
    }

    /// Closes well, so that the server has nothing to wait for.
    pub(super) fn say_goodbye(&mut self) {
        // Fails only where the server has gone first.
        let _ = self.socket.write(&frames::GOODBYE);
    }
}
