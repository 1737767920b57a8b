//! The floor: a server that does nothing but one `send` per connection and event.
//!
//! It shows what the kernel, the harness and the machine cost by themselves. It understands exactly what the harness
//! sends, checks nothing, and is no server to use.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::SocketAddr,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};

use crate::{
    error::{Doing, Result},
    http, token,
};

const LISTENER: Token = Token(usize::MAX);

const UPGRADED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x10{\"op\":\"welcome\"}";

/// The first byte of a close frame.
const CLOSE: u8 = 0x88;

const TAKEN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

/// A socket, and what it refused.
#[derive(Debug)]
struct Peer {
    socket: TcpStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    user: Option<String>,
}

impl Peer {
    fn send(&mut self, bytes: &[u8]) {
        if !self.outbox.is_empty() {
            return self.outbox.extend_from_slice(bytes);
        }
        let taken = self.socket.write(bytes).unwrap_or(0);
        self.outbox.extend_from_slice(&bytes[taken..]);
    }

    fn flush(&mut self) {
        if let (false, Ok(taken)) = (self.outbox.is_empty(), self.socket.write(&self.outbox)) {
            self.outbox.drain(..taken);
        }
    }

    /// Reads what has come; false at the end.
    fn fill(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return false,
                // Clients of the harness have nothing to say but goodbye.
                Ok(_) if self.user.is_some() && buffer[0] == CLOSE => return false,
                Ok(_) if self.user.is_some() => {}
                Ok(n) => self.inbox.extend_from_slice(&buffer[..n]),
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }
}

/// Serves on `listen` until it is killed.
pub(crate) fn run(listen: SocketAddr) -> Result<()> {
    let mut listener = TcpListener::bind(listen).doing(format!("cannot listen on {listen}"))?;
    let mut poll = Poll::new().doing("no event loop")?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)
        .doing("no event loop")?;
    let mut floor = Floor::default();
    let mut events = Events::with_capacity(1024);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other.doing("the event loop failed")?,
        }
        for event in &events {
            match event.token() {
                LISTENER => floor.accept(&listener, &poll),
                Token(at) => floor.handle(at),
            }
        }
    }
}

#[derive(Debug, Default)]
struct Floor {
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    users: HashMap<String, usize>,
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener, poll: &Poll) {
        while let Ok((mut socket, _)) = listener.accept() {
            // Nagle's algorithm would hold answers back.
            let _ = socket.set_nodelay(true);
            let at = self.free.pop().unwrap_or(self.peers.len());
            if poll
                .registry()
                .register(
                    &mut socket,
                    Token(at),
                    Interest::READABLE | Interest::WRITABLE,
                )
                .is_err()
            {
                continue;
            }
            let peer = Peer {
                socket,
                inbox: Vec::new(),
                outbox: Vec::new(),
                user: None,
            };
            if at == self.peers.len() {
                self.peers.push(None);
            }
            self.peers[at] = Some(peer);
        }
    }

    fn handle(&mut self, at: usize) {
        let Some(Some(peer)) = self.peers.get_mut(at) else {
            return;
        };
        peer.flush();
        let going = peer.fill();
        let mut inbox = std::mem::take(&mut peer.inbox);
        while let Some(request) = http::parse(&inbox) {
            if request.first_line.starts_with("GET ") {
                self.upgrade(at, request.first_line);
            } else {
                self.emit(&String::from_utf8_lossy(request.body));
                if let Some(Some(peer)) = self.peers.get_mut(at) {
                    peer.send(TAKEN);
                }
            }
            let used = request.bytes;
            inbox.drain(..used);
        }
        if let Some(Some(peer)) = self.peers.get_mut(at) {
            peer.inbox = inbox;
        }
        if !going {
            self.remove(at);
        }
    }

    fn upgrade(&mut self, at: usize, request_line: &str) {
        let token = request_line
            .split_once("token=")
            .and_then(|(_, rest)| rest.split(' ').next());
        let user = token.and_then(token::subject).unwrap_or_default();
        let Some(Some(peer)) = self.peers.get_mut(at) else {
            return;
        };
        peer.user = Some(user.clone());
        peer.send(UPGRADED);
        self.users.insert(user, at);
    }

    fn emit(&mut self, body: &str) {
        let data = between(body, r#""data":""#, '"').unwrap_or("");
        let frame = frame(&format!(r#"{{"event":"load","data":"{data}"}}"#));
        if let Some(user) = between(body, r#""users":[""#, '"') {
            let at = self.users.get(user).copied();
            if let Some(Some(peer)) = at.and_then(|at| self.peers.get_mut(at)) {
                peer.send(&frame);
            }
            return;
        }
        self.peers
            .iter_mut()
            .flatten()
            .filter(|peer| peer.user.is_some())
            .for_each(|peer| peer.send(&frame));
    }

    fn remove(&mut self, at: usize) {
        if let Some(user) = self.peers[at].take().and_then(|peer| peer.user)
            && self.users.get(&user) == Some(&at)
        {
            self.users.remove(&user);
        }
        self.free.push(at);
    }
}

fn between<'t>(text: &'t str, before: &str, after: char) -> Option<&'t str> {
    text.split_once(before)?.1.split(after).next()
}

fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match text.len() {
        length @ 0..=125 => frame.push(length as u8),
        length @ 126..=0xffff => {
            frame.push(126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(text.as_bytes());
    frame
}
