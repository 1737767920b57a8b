//! What the test says to its client processes, and what they answer: one JSON text a line.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    os::unix::net::UnixStream,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    slow::Heard,
    storm::Stormed,
    tally::{Expected, Report, Stream},
};
use crate::{
    driver::Driver,
    error::{Doing, Result, failed},
};

/// Connections to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Connect {
    /// The server.
    pub(crate) to: SocketAddr,
    /// Number of the first user.
    pub(crate) first: usize,
    /// How many.
    pub(crate) count: usize,
    /// How it is spoken to.
    pub(crate) driver: Driver,
    /// The last two bytes of the first source address, 127.1.x.y; a thousand connections share one.
    pub(crate) source: u16,
    /// At most so many handshakes a second.
    pub(crate) rate: u32,
    /// Each one is dialed when it is due by the rate, whatever became of those before it, and says when it was open.
    pub(crate) is_open_loop: bool,
    /// What the kernel is to keep at most of what was not read, in bytes.
    pub(crate) receive_buffer: Option<usize>,
}

/// What a client process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Connect, and say [`Notice::Connected`] when all are open.
    Connect(Connect),
    /// Count from zero.
    Begin {
        /// The measurement.
        round: u16,
        /// Length of the intervals of its timeline, in nanoseconds.
        interval: u64,
        /// Its streams. Each time all whom an event reaches have had one more, it is said.
        streams: Vec<Stream>,
    },
    /// Wait for what is expected, or until nothing comes for `patience_ms`; then report.
    End {
        /// What each connection must have had, by stream.
        expected: Vec<Expected>,
        /// How long to wait for nothing.
        patience_ms: u64,
    },
    /// Connect, close all when all have had their welcome, and so on with other addresses.
    Storm(Connect),
    /// Finish the present storm, and report.
    Calm,
    /// Stop reading, and say [`Notice::Deaf`].
    Deafen,
    /// Read again, until all have ended or nothing comes for `patience_ms`; then say what became of them.
    Hear {
        /// The measurement that they did not hear.
        round: u16,
        /// How many events of it the server took, by stream.
        sent: Vec<u32>,
        /// How long to wait for nothing.
        patience_ms: u64,
    },
    /// Close all connections.
    Disconnect,
    /// End all connections at once, by a reset of each.
    Reset,
}

/// How a connection that was due at a moment came in; in nanoseconds of the machine's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arrival {
    /// When it was to be dialed.
    pub(crate) due: u64,
    /// When it was.
    pub(crate) dialed: u64,
    /// When it had its welcome.
    pub(crate) open: u64,
}

/// What a client process says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Notice {
    /// So many are open, and others are not yet.
    Connecting(usize),
    /// All are open.
    Connected,
    /// Counting has begun.
    Began,
    /// All connections that it reaches have had one more event of this stream.
    Done(u16),
    /// What came.
    Report(Box<Report>),
    /// What the storms brought.
    Calm(Box<Stormed>),
    /// None reads.
    Deaf,
    /// What became of those that had stopped reading.
    Heard(Heard),
    /// How those came in that were dialed when they were due; said before [`Notice::Connected`].
    Arrived(Vec<Arrival>),
    /// All are closed.
    Disconnected,
    /// It cannot go on.
    Failed(String),
}

/// One end of the socket between the test and a client process. Never blocks, but to send.
#[derive(Debug)]
pub(crate) struct Link {
    /// For registering it.
    pub(crate) socket: mio::net::UnixStream,
    inbox: Vec<u8>,
}

impl Link {
    /// Speaks over `socket`.
    pub(crate) fn new(socket: UnixStream) -> Result<Self> {
        socket
            .set_nonblocking(true)
            .doing("cannot use the socket between processes")?;
        Ok(Self {
            socket: mio::net::UnixStream::from_std(socket),
            inbox: Vec::new(),
        })
    }

    /// Sends one message, waiting where the other side reads slowly.
    pub(crate) fn send(&mut self, message: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(message)
            .map_err(io::Error::from)
            .doing("cannot write JSON")?;
        line.push(b'\n');
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            match self.socket.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_micros(200));
                }
                Err(error) => return Err(error).doing("the other process is gone"),
            }
        }
        Ok(())
    }

    /// All messages that have come.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> Result<Vec<T>> {
        let mut buffer = [0; 16 * 1024];
        let gone = loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => break true,
                Ok(n) => self.inbox.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(error) => return Err(error).doing("the other process is gone"),
            }
        };
        let Some(end) = self.inbox.iter().rposition(|&byte| byte == b'\n') else {
            // Last words first: this is said only once they have been heard.
            return if gone {
                failed("the other process is gone")
            } else {
                Ok(Vec::new())
            };
        };
        let rest = self.inbox.split_off(end + 1);
        let lines = std::mem::replace(&mut self.inbox, rest);
        let lines = lines
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty());
        let parse = |line: &[u8]| serde_json::from_slice(line).map_err(io::Error::from);
        lines
            .map(parse)
            .collect::<io::Result<_>>()
            .doing("another process speaks no JSON")
    }
}
