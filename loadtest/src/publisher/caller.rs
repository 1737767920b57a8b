//! One kept HTTP connection, with at most one request under way.

use std::io::{self, Read, Write};

use mio::{Interest, Registry, Token, net::TcpStream};

use crate::{
    driver::{Answer, Api, Recipients},
    error::{Doing, Result, failed},
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
    api: Api,
    registry: Registry,
    token: Token,
    /// `None` once the server has closed it, as some do when nothing was asked for a while.
    socket: Option<TcpStream>,
    /// The one before, which the server closes: whoever closes first has its port taken for a minute.
    leaving: Option<TcpStream>,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    pub(super) lane: usize,
    pub(super) stream: u16,
    /// Events to everyone that the server took.
    pub(super) sequence: u32,
    pub(super) flight: Option<Flight>,
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
        let registry = registry.try_clone().doing("no event loop")?;
        let mut caller = Self {
            api: api.clone(),
            registry,
            token,
            socket: None,
            leaving: None,
            inbox: Vec::new(),
            outbox: Vec::new(),
            lane,
            stream,
            sequence: 0,
            flight: None,
        };
        caller
            .dial()
            .doing(format!("cannot connect to {}", api.address))?;
        Ok(caller)
    }

    /// Takes a new connection for the next request; servers close those that were idle for long.
    pub(super) fn renew(&mut self) {
        self.socket = None;
    }

    fn dial(&mut self) -> io::Result<()> {
        let socket = std::net::TcpStream::connect(self.api.address)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let socket = self.socket.insert(TcpStream::from_std(socket));
        self.registry
            .register(socket, self.token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Sends a request.
    pub(super) fn send(&mut self, request: Vec<u8>, flight: Flight) -> Result<()> {
        self.flight = Some(flight);
        self.outbox = request;
        if self.socket.is_none() {
            self.dial()
                .doing(format!("cannot connect to {} again", self.api.address))?;
        }
        self.write()
    }

    /// Writes what the socket has not taken yet.
    pub(super) fn write(&mut self) -> Result<()> {
        let Some(socket) = &mut self.socket else {
            return Ok(());
        };
        while !self.outbox.is_empty() {
            match socket.write(&self.outbox) {
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
        let Some(socket) = &mut self.socket else {
            return Ok(None);
        };
        loop {
            match socket.read(&mut buffer) {
                Ok(0) => {
                    self.socket = None;
                    break;
                }
                Ok(n) => self.inbox.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) if self.flight.is_none() => {
                    self.socket = None;
                    return Ok(None);
                }
                Err(error) => return Err(error).doing("an answer was cut off"),
            }
        }
        let Some(answer) = http::parse(&self.inbox) else {
            let is_waiting = self.flight.is_some_and(|flight| !flight.answered);
            return match self.socket {
                None if is_waiting => {
                    failed("the server closed an HTTP connection instead of answering")
                }
                _ => Ok(None),
            };
        };
        let taken = match self.api.driver.dialect().answer(&answer) {
            Answer::Taken => true,
            Answer::Full => false,
            Answer::Refused => {
                let why = String::from_utf8_lossy(answer.body);
                return failed(format!(
                    "the server refused an emit: {} {why}",
                    answer.first_line
                ));
            }
        };
        let (used, is_last) = (answer.bytes, answer.is_last);
        if is_last {
            self.leaving = self.socket.take();
        }
        self.inbox.drain(..used);
        Ok(Some(taken))
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use mio::{Events, Poll};

    use super::*;
    use crate::driver::Driver;

    /// Answers one request on each of two connections and closes them, the second time without saying so before.
    fn close_behind_answers(listener: &TcpListener) {
        for connection in ["Connection: close\r\n", ""] {
            let (mut socket, _) = listener.accept().unwrap();
            assert!(socket.read(&mut [0; 4096]).unwrap() > 0);
            socket
                .write_all(
                    format!("HTTP/1.1 200 OK\r\n{connection}Content-Length: 2\r\n\r\n{{}}")
                        .as_bytes(),
                )
                .unwrap();
        }
    }

    #[test]
    fn a_caller_connects_again_where_the_server_closes() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let api = Api {
            address: listener.local_addr().unwrap(),
            driver: Driver::floor(),
        };
        let server = thread::spawn(move || close_behind_answers(&listener));
        let mut poll = Poll::new().unwrap();
        let mut caller = Caller::connect(&api, poll.registry(), Token(0), 0, 0).unwrap();
        let flight = Flight {
            recipients: Recipients::Everyone,
            at: 0,
            answered: false,
            fleets_waiting: 0,
        };
        for _ in 0..2 {
            caller
                .send(api.emit(flight.recipients, "\"d\""), flight)
                .unwrap();
            while caller.read().unwrap() != Some(true) {
                poll.poll(&mut Events::with_capacity(8), None).unwrap();
            }
            caller.flight = None;
        }
        server.join().unwrap();
        while caller.socket.is_some() {
            assert_eq!(caller.read().unwrap(), None);
        }
    }
}
