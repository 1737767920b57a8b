//! One kept HTTP connection, with at most one request under way.

use std::io::{self, Read, Write};

use mio::{Interest, Registry, Token, net::TcpStream};

use crate::{
    error::{Doing, Result, failed},
    fanfare::{Api, Recipients},
    http,
};

/// An event under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    /// For whom.
    pub(super) recipients: Recipients,
    /// When it was due.
    pub(super) at: u64,
    /// The server has answered.
    pub(super) answered: bool,
    /// Fleets that do not have it everywhere yet.
    pub(super) fleets_waiting: usize,
}

/// A function, as the server sees it.
#[derive(Debug)]
pub(super) struct Caller {
    socket: TcpStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    pub(super) lane: usize,
    pub(super) stream: u16,
    /// Events to everyone that the server took.
    pub(super) sequence: u32,
    pub(super) flight: Option<Flight>,
    /// The server has closed the connection while nothing was under way.
    pub(super) is_closed: bool,
}

impl Caller {
    /// Connects to `api` and is watched under `token`.
    pub(super) fn connect(
        api: &Api,
        registry: &Registry,
        token: Token,
        lane: usize,
        stream: u16,
    ) -> Result<Self> {
        let (inbox, outbox) = (Vec::new(), Vec::new());
        let socket = Self::dial(api, registry, token)?;
        Ok(Self { socket, inbox, outbox, lane, stream, sequence: 0, flight: None, is_closed: false })
    }

    /// Takes a new connection; servers close those that were idle for long.
    pub(super) fn renew(&mut self, api: &Api, registry: &Registry, token: Token) -> Result<()> {
        self.socket = Self::dial(api, registry, token)?;
        self.is_closed = false;
        Ok(())
    }

    fn dial(api: &Api, registry: &Registry, token: Token) -> Result<TcpStream> {
        let connect = || -> io::Result<TcpStream> {
            let socket = std::net::TcpStream::connect(api.address)?;
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            let mut socket = TcpStream::from_std(socket);
            registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
            Ok(socket)
        };
        connect().doing(format!("cannot connect to {}", api.address))
    }

    /// Sends a request.
    pub(super) fn send(&mut self, request: Vec<u8>, flight: Flight) -> Result<()> {
        self.flight = Some(flight);
        self.outbox = request;
        self.write()
    }

    /// Writes what the socket has not taken yet.
    pub(super) fn write(&mut self) -> Result<()> {
        while !self.outbox.is_empty() {
            match self.socket.write(&self.outbox) {
                Ok(n) => drop(self.outbox.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).doing("a request was cut off"),
            }
        }
        Ok(())
    }

    /// Reads what has come; answers whether the server took the event, once it has answered.
    pub(super) fn read(&mut self) -> Result<Option<bool>> {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) if self.flight.is_none() => {
                    self.is_closed = true;
                    return Ok(None);
                }
                Ok(0) => return failed("the server closed a kept HTTP connection"),
                Ok(n) => self.inbox.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) if self.flight.is_none() => {
                    self.is_closed = true;
                    return Ok(None);
                }
                Err(error) => return Err(error).doing("an answer was cut off"),
            }
        }
        let Some(answer) = http::parse(&self.inbox) else { return Ok(None) };
        let taken = match answer.status() {
            200 => true,
            503 => false,
            _ => {
                let why = String::from_utf8_lossy(answer.body);
                return failed(format!("the server refused an emit: {} {why}", answer.first_line));
            }
        };
        let used = answer.bytes;
        self.inbox.drain(..used);
        Ok(Some(taken))
    }
}
