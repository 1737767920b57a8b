//! Blocking sockets with bounds: one kept HTTP connection, single requests, and a WebSocket.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::{client::frames, http};

/// How long a node may take to be connected to.
const CONNECT: Duration = Duration::from_secs(1);

/// How long a WebSocket waits for something to come before it lets its owner look up.
const LOOK_UP: Duration = Duration::from_millis(50);

/// A connection that gives up after `patience`.
pub(crate) fn connect(to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    prepared(
        TcpStream::connect_timeout(&to, CONNECT.min(patience))?,
        patience,
    )
}

fn prepared(socket: TcpStream, patience: Duration) -> io::Result<TcpStream> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))?;
    Ok(socket)
}

/// The same from an address of this machine that is not the one by default.
pub(crate) fn connect_from(
    from: std::net::IpAddr,
    to: SocketAddr,
    patience: Duration,
) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(to),
        socket2::Type::STREAM,
        None,
    )?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect_timeout(&to.into(), CONNECT.min(patience))?;
    prepared(socket.into(), patience)
}

/// Reads one HTTP message; answers its status, its body, and whether the connection ends behind it.
fn read_answer(socket: &mut TcpStream) -> io::Result<(u16, Vec<u8>, bool)> {
    let (mut answer, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    loop {
        if let Some(message) = http::parse(&answer) {
            return Ok((message.status(), message.body.to_vec(), message.is_last));
        }
        match socket.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => answer.extend_from_slice(&buffer[..n]),
        }
    }
}

/// A caller that keeps its connection.
#[derive(Debug)]
pub(crate) struct Caller {
    to: SocketAddr,
    patience: Duration,
    socket: Option<TcpStream>,
    /// Header lines of every request.
    more: String,
}

impl Caller {
    pub(crate) fn new(to: SocketAddr, patience: Duration) -> Self {
        Self {
            to,
            patience,
            socket: None,
            more: String::new(),
        }
    }

    /// The same with an API key.
    pub(crate) fn with_key(to: SocketAddr, patience: Duration, key: &str) -> Self {
        Self {
            more: format!("Authorization: Bearer {key}\r\n"),
            ..Self::new(to, patience)
        }
    }

    /// Posts; answers status and body. After an error the next request has a new connection.
    pub(crate) fn post(&mut self, path: &str, body: &str) -> io::Result<(u16, Vec<u8>)> {
        self.post_with(path, "", body)
    }

    /// The same with further header lines.
    pub(crate) fn post_with(
        &mut self,
        path: &str,
        more: &str,
        body: &str,
    ) -> io::Result<(u16, Vec<u8>)> {
        let more = format!("{}{more}", self.more);
        self.exchange(&http::post(self.to, path, &more, body))
    }

    /// Gets; answers status and body.
    pub(crate) fn get(&mut self, path: &str) -> io::Result<(u16, Vec<u8>)> {
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\n{}\r\n",
            self.to, self.more
        );
        self.exchange(head.as_bytes())
    }

    fn exchange(&mut self, request: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect(self.to, self.patience)?,
        };
        socket.write_all(request)?;
        let (status, body, is_last) = read_answer(&mut socket)?;
        self.socket = Some(socket).filter(|_| !is_last);
        Ok((status, body))
    }
}

/// Gets on a connection of its own; answers status and body.
pub(crate) fn get(to: SocketAddr, path: &str, patience: Duration) -> io::Result<(u16, Vec<u8>)> {
    let mut socket = connect(to, patience)?;
    socket.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    read_answer(&mut socket).map(|(status, body, _)| (status, body))
}

/// A client's WebSocket.
#[derive(Debug)]
pub(crate) struct WebSocket {
    socket: TcpStream,
    inbox: Vec<u8>,
}

/// What came on it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Text(Vec<u8>),
    /// Nothing, for a moment.
    Nothing,
    Ended,
}

impl WebSocket {
    /// Upgrades a connection within `patience`.
    pub(crate) fn open(to: SocketAddr, path: &str, patience: Duration) -> io::Result<Self> {
        Self::open_on(connect(to, patience)?, to, path)
    }

    /// Upgrades `socket`, which is connected to `to`.
    pub(crate) fn open_on(mut socket: TcpStream, to: SocketAddr, path: &str) -> io::Result<Self> {
        socket.write_all(http::upgrade(to, path, "").as_bytes())?;
        let (mut inbox, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            if let Some(head) = http::parse(&inbox) {
                if head.status() != 101 {
                    return Err(io::Error::other(head.first_line.to_owned()));
                }
                let used = head.bytes;
                inbox.drain(..used);
                break;
            }
            match socket.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => inbox.extend_from_slice(&buffer[..n]),
            }
        }
        socket.set_read_timeout(Some(LOOK_UP))?;
        Ok(Self { socket, inbox })
    }

    /// The socket, and what has come on it and was not read.
    pub(crate) fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.socket, self.inbox)
    }

    /// From now on it waits for nothing.
    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        self.socket.set_nonblocking(true)
    }

    /// Sends bytes as they are.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Sends a text.
    pub(crate) fn send(&mut self, text: &str) -> io::Result<()> {
        self.socket.write_all(&frames::text(text))
    }

    /// The next text, or nothing for a moment; pings are answered.
    pub(crate) fn next(&mut self) -> Heard {
        let mut buffer = [0; 16 * 1024];
        loop {
            if let Some((frame, used)) = frames::next(&self.inbox) {
                let (opcode, payload) = (frame.opcode, frame.payload.to_vec());
                self.inbox.drain(..used);
                match opcode {
                    frames::TEXT => return Heard::Text(payload),
                    frames::CLOSE => return Heard::Ended,
                    // A socket that takes no pong is about to end, which is read then.
                    frames::PING => drop(self.socket.write_all(&frames::pong(&payload))),
                    _ => {}
                }
                continue;
            }
            match self.socket.read(&mut buffer) {
                Ok(0) => return Heard::Ended,
                Ok(n) => self.inbox.extend_from_slice(&buffer[..n]),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    return Heard::Nothing;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Heard::Ended,
            }
        }
    }
}
