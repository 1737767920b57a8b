//! One client, which comes back when its connection ends, as the SDK does: it names its old connection, joins its channel from the
//! last event that it has, and passes over what the replay brings again.

use std::{
    borrow::Cow,
    io::{self, Read, Write},
    net::SocketAddr,
};

use mio::net::TcpStream;
use serde::Deserialize;

use crate::{client::frames, clock, http, token::Signer};

/// What a client waits before it connects again, in nanoseconds: as servers advise, doubling up to half a minute, with jitter.
const FIRST_WAIT: u64 = 500_000_000;
const LONGEST_WAIT: u64 = 30_000_000_000;

/// A message of the server, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Message<'m> {
    #[serde(borrow)]
    op: Cow<'m, str>,
    #[serde(borrow)]
    channel: Cow<'m, str>,
    #[serde(borrow)]
    connection: Cow<'m, str>,
    #[serde(borrow)]
    epoch: Option<Cow<'m, str>>,
    offset: Option<u64>,
    resumed: bool,
    recovered: bool,
    reconnect_in_ms: Option<u64>,
}

/// How a client stands.
#[derive(Debug)]
enum Stage {
    /// It connects at this moment.
    Waiting(u64),
    /// Its request is on its way, or the answer.
    Dialing,
    /// It waits for its welcome.
    Upgraded,
    /// It has asked for its channel.
    Joining,
    /// It is in its channel.
    In,
}

/// Moments of one client's way back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Way {
    /// It had its welcome.
    pub(super) back: Option<u64>,
    /// It had everything that it missed.
    pub(super) current: Option<u64>,
    /// It was in the channel that it had been put into.
    pub(super) put: Option<u64>,
    /// The server said that it had resumed.
    pub(super) is_resumed: bool,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) number: usize,
    pub(super) channel: String,
    pub(super) socket: Option<TcpStream>,
    inbox: Vec<u8>,
    stage: Stage,
    attempts: u32,
    /// What the server said in its goodbye.
    told_wait: Option<u64>,
    id: Option<String>,
    epoch: Option<String>,
    /// The last event that it has.
    pub(super) last: u64,
    /// Where its channel stood when it was in again; until it has that, it is not current.
    wanted: Option<u64>,
    /// Events that never came.
    pub(super) lost: u64,
    /// Connections that ended.
    pub(super) ends: u64,
    pub(super) way: Way,
    random: u64,
}

impl Client {
    pub(super) fn new(number: usize, channel: String) -> Self {
        Self {
            number,
            channel,
            socket: None,
            inbox: Vec::new(),
            stage: Stage::Waiting(0),
            attempts: 0,
            told_wait: None,
            id: None,
            epoch: None,
            last: 0,
            wanted: None,
            lost: 0,
            ends: 0,
            way: Way::default(),
            random: 0x9e37_79b9_7f4a_7c15 ^ (number as u64 + 1),
        }
    }

    /// Whether it is in its channel.
    pub(super) fn is_in(&self) -> bool {
        matches!(self.stage, Stage::In)
    }

    /// When it connects, if it is not connected.
    pub(super) fn due(&self) -> Option<u64> {
        match self.stage {
            Stage::Waiting(due) => Some(due),
            _ => None,
        }
    }

    /// Begins to connect to one of `nodes`.
    pub(super) fn dial(&mut self, nodes: &[SocketAddr]) -> io::Result<()> {
        let to = nodes[(self.number + self.attempts as usize) % nodes.len()];
        self.socket = Some(TcpStream::connect(to)?);
        self.inbox.clear();
        self.stage = Stage::Dialing;
        Ok(())
    }

    /// Sends its request, once its socket is connected.
    pub(super) fn connected(&mut self, signer: &Signer) -> io::Result<()> {
        let Some(socket) = &mut self.socket else {
            return Ok(());
        };
        let to = socket.peer_addr()?;
        let token = signer.sign(self.number);
        let resume = self.id.as_ref().map(|id| format!("&resume={id}"));
        let path = format!(
            "/v1/connect?token={token}&device=d{}{}",
            self.number,
            resume.unwrap_or_default()
        );
        socket.write_all(http::upgrade(to, &path, "").as_bytes())
    }

    /// Reads what has come. False if the connection has ended.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> bool {
        loop {
            let Some(socket) = &mut self.socket else {
                return false;
            };
            match socket.read(buffer) {
                Ok(0) => return false,
                Ok(n) => self.inbox.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return false,
            }
            if !self.take() {
                return false;
            }
        }
    }

    /// Takes what is whole of what has come. False if the connection has ended.
    fn take(&mut self) -> bool {
        let inbox = std::mem::take(&mut self.inbox);
        let mut at = 0;
        if matches!(self.stage, Stage::Dialing) {
            let Some(head) = http::parse(&inbox) else {
                self.inbox = inbox;
                return true;
            };
            if head.status() != 101 {
                return false;
            }
            at = head.bytes;
            self.stage = Stage::Upgraded;
        }
        while let Some((frame, used)) = frames::next(&inbox[at..]) {
            at += used;
            let goes_on = match frame.opcode {
                frames::TEXT => self.hear(frame.payload),
                frames::PING => self.send(&frames::pong(frame.payload)),
                frames::CLOSE => {
                    self.send(&frames::raw(0x88, frame.payload));
                    false
                }
                _ => true,
            };
            if !goes_on {
                return false;
            }
        }
        self.inbox = inbox[at..].to_vec();
        true
    }

    fn send(&mut self, bytes: &[u8]) -> bool {
        let socket = self.socket.as_mut();
        // Little is sent, and a socket that takes no more is about to end.
        socket.is_some_and(|socket| socket.write_all(bytes).is_ok())
    }

    fn hear(&mut self, text: &[u8]) -> bool {
        let Ok(message) = serde_json::from_slice::<Message<'_>>(text) else {
            return false;
        };
        match &*message.op {
            "welcome" => {
                self.way.back.get_or_insert_with(clock::now);
                self.way.is_resumed |= message.resumed;
                self.id = Some(message.connection.into_owned());
                self.attempts = 0;
                self.stage = Stage::Joining;
                let since = self.epoch.as_ref().map(|epoch| {
                    format!(
                        ",\"since\":{{\"epoch\":\"{epoch}\",\"offset\":{}}}",
                        self.last
                    )
                });
                let join = format!(
                    "{{\"op\":\"join\",\"id\":1,\"channel\":\"{}\"{}}}",
                    self.channel,
                    since.unwrap_or_default()
                );
                return self.send(&frames::text(&join));
            }
            "ack" => {
                let offset = message.offset.unwrap_or(0);
                if self.epoch.is_none() {
                    self.last = offset;
                } else if !message.recovered {
                    self.lost += offset.saturating_sub(self.last);
                    self.last = offset;
                }
                self.epoch = message.epoch.map(Cow::into_owned);
                self.wanted = Some(offset);
                self.stage = Stage::In;
            }
            "joined" if message.channel != self.channel => {
                self.way.put.get_or_insert_with(clock::now);
            }
            "bye" => self.told_wait = message.reconnect_in_ms,
            "error" => return false,
            // What comes before the ack is part of the replay after it.
            "" if message.channel == self.channel && self.is_in() => self.count(&message),
            _ => {}
        }
        if self.wanted.is_some_and(|wanted| self.last >= wanted) {
            self.wanted = None;
            self.way.current.get_or_insert_with(clock::now);
        }
        true
    }

    fn count(&mut self, message: &Message<'_>) {
        let offset = message.offset.unwrap_or(0);
        if offset > self.last {
            self.lost += offset - self.last - 1;
            self.last = offset;
        }
    }

    /// Notes that its connection has ended: it connects again after a while.
    pub(super) fn ended(&mut self) {
        self.ends += 1;
        self.socket = None;
        let told = self.told_wait.take().map(|wait| wait * 1_000_000);
        let wait = told.unwrap_or_else(|| {
            let wait = FIRST_WAIT << self.attempts.min(6);
            self.attempts += 1;
            self.jittered(wait.min(LONGEST_WAIT))
        });
        self.stage = Stage::Waiting(clock::now() + wait);
    }

    /// Between half of `wait` and all of it.
    fn jittered(&mut self, wait: u64) -> u64 {
        // Xorshift: the same in every run.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        wait / 2 + self.random % (wait / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        let mut client = Client::new(1, "room-1".to_owned());
        client.stage = Stage::Joining;
        client.epoch = Some("e".to_owned());
        client.last = 3;
        client
    }

    #[test]
    fn what_a_replay_brings_again_counts_once() {
        let mut client = client();
        // It came before the ack, and comes again after it.
        assert!(client.hear(br#"{"event":"e","channel":"room-1","data":1,"offset":5}"#));
        assert!(client.hear(br#"{"op":"ack","id":1,"epoch":"e","offset":5,"recovered":true}"#));
        assert!(client.way.current.is_none());
        for offset in 4..=5 {
            let event = format!(r#"{{"event":"e","channel":"room-1","data":1,"offset":{offset}}}"#);
            assert!(client.hear(event.as_bytes()));
        }
        assert!(client.way.current.is_some());
        assert_eq!((client.last, client.lost), (5, 0));
    }

    #[test]
    fn what_never_came_is_counted() {
        let mut client = client();
        assert!(client.hear(br#"{"op":"ack","id":1,"epoch":"f","offset":5,"recovered":false}"#));
        assert_eq!((client.last, client.lost), (5, 2));
        assert!(client.hear(br#"{"event":"e","channel":"room-1","data":1,"offset":8}"#));
        assert_eq!((client.last, client.lost), (8, 4));
    }
}
