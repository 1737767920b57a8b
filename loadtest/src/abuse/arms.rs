//! What an attacking process has: a server to attack, a time to do it in, and clients and callers that are not polite.
//!
//! The process that started it says by a line when to begin, and reads what was done from the last line.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::{
    args::Attack as Args,
    victim::{ATTACKED, SECRET, key},
};
use crate::{
    client::frames,
    error::{Doing, Result, failed},
    priority,
    socket::{Caller, Heard, WebSocket, connect},
    token::Signer,
};

/// Files that one attacking process may open.
const DESCRIPTORS: u64 = 20_000;

/// How long an answer is waited for. Servers that are stopped for longer are found by the witness.
const PATIENCE: Duration = Duration::from_secs(10);

/// Lines that pass between the two processes.
pub(super) const READY: &str = "ready";
pub(super) const GO: &str = "go";

/// What an attack did, and what the server must not have done.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Deeds {
    /// How often it did what, and what it was answered.
    pub(super) counts: BTreeMap<String, u64>,
    /// Answers that are wrong whatever the load.
    pub(super) faults: Vec<String>,
}

/// The attacking process.
pub(super) struct Arms {
    pub(super) to: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) pid: u32,
    pub(super) duration: Duration,
    is_small: bool,
    signer: Signer,
    until: OnceLock<Instant>,
    deeds: Mutex<Deeds>,
}

impl Arms {
    pub(super) fn new(args: &Args) -> Self {
        Self {
            to: args.address,
            admin: args.admin,
            pid: args.pid,
            duration: args.duration,
            is_small: args.small,
            signer: Signer::new(SECRET),
            until: OnceLock::new(),
            deeds: Mutex::default(),
        }
    }

    /// One of two sizes.
    pub(super) fn size(&self, full: usize, small: usize) -> usize {
        if self.is_small { small } else { full }
    }

    /// Says that all is prepared, and waits for the word to begin.
    pub(super) fn ready(&self) -> Result<()> {
        println!("{READY}");
        let mut line = String::new();
        io::stdin()
            .lock()
            .read_line(&mut line)
            .doing("cannot read the word to begin")?;
        if line.trim() != GO {
            return failed("the attack was called off");
        }
        let _ = self.until.set(Instant::now() + self.duration);
        Ok(())
    }

    /// When it is over.
    pub(super) fn until(&self) -> Instant {
        self.until.get().copied().unwrap_or_else(Instant::now)
    }

    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.until()
    }

    /// Waits until it is over.
    pub(super) fn wait(&self) {
        thread::sleep(self.until().saturating_duration_since(Instant::now()));
    }

    /// Counts `what`.
    pub(super) fn count(&self, what: impl Into<String>, times: u64) {
        *self.deeds().counts.entry(what.into()).or_default() += times;
    }

    /// Says that the server did what it must not.
    pub(super) fn fault(&self, what: impl Into<String>) {
        self.deeds().faults.push(what.into());
    }

    fn deeds(&self) -> std::sync::MutexGuard<'_, Deeds> {
        self.deeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn into_deeds(self) -> Deeds {
        self.deeds
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `body` on so many threads, with their numbers, again and again until it is over.
    pub(super) fn storm(&self, threads: usize, body: impl Fn(usize) + Sync) {
        thread::scope(|scope| {
            for number in 0..threads {
                let body = &body;
                scope.spawn(move || {
                    while !self.is_over() {
                        body(number);
                    }
                });
            }
        });
    }

    /// A token of the user, with further claims such as `,"tenant":"t"`, that ends in `ttl` seconds.
    pub(super) fn token(&self, user: &str, more: &str, ttl: u64) -> String {
        let exp = unix_now() + ttl;
        let iat = unix_now();
        self.signer.sign_claims(&format!(
            r#"{{"sub":"{user}","iat":{iat},"exp":{exp}{more}}}"#
        ))
    }

    /// A caller of the attacked app.
    pub(super) fn caller(&self) -> Caller {
        Caller::with_key(self.to, PATIENCE, &key(ATTACKED))
    }

    /// Posts, and counts the answer; a defect of the server is a fault.
    pub(super) fn post(&self, caller: &mut Caller, path: &str, body: &str) -> Option<Vec<u8>> {
        self.posted(caller.post(path, body), path)
    }

    /// The same with an `Idempotency-Key`.
    pub(super) fn post_keyed(&self, caller: &mut Caller, path: &str, key: &str, body: &str) {
        let more = format!("Idempotency-Key: {key}\r\n");
        self.posted(caller.post_with(path, &more, body), path);
    }

    /// Gets, and counts the answer.
    pub(super) fn get(&self, caller: &mut Caller, path: &str) -> Option<Vec<u8>> {
        self.posted(caller.get(path), path)
    }

    fn posted(&self, answer: io::Result<(u16, Vec<u8>)>, path: &str) -> Option<Vec<u8>> {
        let Ok((status, body)) = answer else {
            self.count("answers that did not come", 1);
            return None;
        };
        self.count(format!("answers {status}"), 1);
        if status == 500 {
            let body = String::from_utf8_lossy(&body);
            self.fault(format!("{path} was answered by 500: {body}"));
        }
        (status == 200).then_some(body)
    }

    /// Posts these bodies in turn, on so many threads, until it is over.
    pub(super) fn post_in_turn(&self, threads: usize, path: &str, bodies: &[String]) {
        let mut callers: Vec<_> = (0..threads).map(|_| Mutex::new(self.caller())).collect();
        let turns: Vec<_> = (0..threads).map(Mutex::new).collect();
        self.storm(threads, |number| {
            let mut turn = turns[number].lock().unwrap_or_else(PoisonError::into_inner);
            let mut caller = callers[number]
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            self.post(&mut caller, path, &bodies[*turn % bodies.len()]);
            *turn += 1;
        });
        callers.clear();
    }

    /// A client of the attacked app, welcomed; `query` is that of the handshake behind `app=`.
    pub(super) fn client(&self, query: &str) -> io::Result<Client> {
        let path = format!("/v1/connect?app={ATTACKED}{query}");
        let mut socket = WebSocket::open(self.to, &path, PATIENCE)?;
        let until = Instant::now() + PATIENCE;
        loop {
            match socket.next() {
                Heard::Text(text) => {
                    let welcome: serde_json::Value = serde_json::from_slice(&text)?;
                    if let Some(id) = welcome["connection"].as_str() {
                        let id = id.to_owned();
                        return Ok(Client { socket, id });
                    }
                }
                Heard::Nothing if Instant::now() < until => {}
                Heard::Nothing => return Err(io::ErrorKind::TimedOut.into()),
                Heard::Ended => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// So many clients, each with the query that `query` gives for its number; they are connected by several threads.
    pub(super) fn crowd(
        &self,
        count: usize,
        query: impl Fn(usize) -> String + Sync,
    ) -> Result<Vec<Client>> {
        let threads = 4;
        let part = |first: usize| -> io::Result<Vec<Client>> {
            let numbers = (first..count).step_by(threads);
            numbers
                .map(|number| self.client_at_last(&query(number)))
                .collect()
        };
        let parts = thread::scope(|scope| {
            let part = &part;
            let parts: Vec<_> = (0..threads)
                .map(|first| scope.spawn(move || part(first)))
                .collect();
            parts
                .into_iter()
                .map(thread::ScopedJoinHandle::join)
                .collect::<Vec<_>>()
        });

        let mut all = Vec::with_capacity(count);
        for part in parts {
            let part = part.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
            all.extend(part.doing("cannot connect the attack's clients")?);
        }
        Ok(all)
    }

    /// A client that comes again where there is no room for the moment.
    fn client_at_last(&self, query: &str) -> io::Result<Client> {
        let mut tries = 0;
        loop {
            match self.client(query) {
                Err(_) if tries < 5 => {
                    tries += 1;
                    thread::sleep(Duration::from_millis(100 * tries));
                }
                done => return done,
            }
        }
    }

    /// A connection on which nothing has been said.
    pub(super) fn socket(&self) -> io::Result<TcpStream> {
        connect(self.to, PATIENCE)
    }
}

/// Seconds since 1970.
pub(super) fn unix_now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

/// A client that was welcomed.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) socket: WebSocket,
    /// Its connection.
    pub(super) id: String,
}

impl Client {
    /// Sends `text`, and waits for the answer that has `id`.
    pub(super) fn ask(&mut self, id: u64, text: &str) -> io::Result<serde_json::Value> {
        self.socket.send(text)?;
        let until = Instant::now() + PATIENCE;
        loop {
            match self.socket.next() {
                Heard::Text(text) => {
                    let answer: serde_json::Value =
                        serde_json::from_slice(&text).unwrap_or_default();
                    if answer["id"].as_u64() == Some(id) {
                        return Ok(answer);
                    }
                }
                Heard::Nothing if Instant::now() < until => {}
                Heard::Nothing => return Err(io::ErrorKind::TimedOut.into()),
                Heard::Ended => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Ends it by a reset, without a close frame.
    pub(super) fn reset(self) {
        reset(&self.socket.into_parts().0);
    }
}

/// Makes the end of this socket a reset, which leaves nothing in the kernel.
pub(crate) fn reset(socket: &TcpStream) {
    let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Sockets that many threads may write, and that one reads, if anyone does.
#[derive(Clone, Debug)]
pub(super) struct Herd(pub(super) Arc<Vec<TcpStream>>);

impl Herd {
    /// These clients' sockets, which wait for nothing from now on.
    pub(super) fn of(clients: Vec<Client>) -> Result<Self> {
        let sockets = clients.into_iter();
        Self::of_sockets(sockets.map(|client| client.socket.into_parts().0).collect())
    }

    /// The same of sockets whatever their clients speak.
    pub(super) fn of_sockets(sockets: Vec<TcpStream>) -> Result<Self> {
        for socket in &sockets {
            socket
                .set_nonblocking(true)
                .doing("cannot set a socket up")?;
        }
        Ok(Self(Arc::new(sockets)))
    }

    /// Writes as much of `bytes` to each as it takes.
    pub(super) fn write_each(&self, bytes: impl Fn(usize) -> Vec<u8>) {
        for (number, mut socket) in self.0.iter().enumerate() {
            let _ = socket.write(&bytes(number));
        }
    }

    /// Reads everything that comes to them, and forgets it, until the guard is dropped.
    pub(super) fn read_on(&self) -> Result<Reading> {
        let mut poll = Poll::new().doing("cannot wait for sockets")?;
        for (number, socket) in self.0.iter().enumerate() {
            let descriptor = socket.as_raw_fd();
            poll.registry()
                .register(
                    &mut SourceFd(&descriptor),
                    Token(number),
                    Interest::READABLE,
                )
                .doing("cannot wait for a socket")?;
        }
        let is_over = Arc::new(AtomicBool::new(false));
        let (sockets, over) = (self.0.clone(), is_over.clone());
        let thread = thread::spawn(move || read_all(&sockets, &mut poll, &over));
        Ok(Reading {
            is_over,
            thread: Some(thread),
        })
    }

    /// How many of them the server has not ended.
    pub(super) fn open(&self) -> usize {
        let is_open = |socket: &&TcpStream| match socket.peek(&mut [0; 1]) {
            Ok(bytes) => bytes > 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        self.0.iter().filter(is_open).count()
    }

    /// Ends every one that `is_meant` without a close frame, and keeps the others.
    pub(super) fn cut(&self, is_meant: impl Fn(usize) -> bool) {
        for (number, socket) in self.0.iter().enumerate() {
            if is_meant(number) {
                // The descriptor stays, since it is shared; the connection goes.
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    }
}

fn read_all(sockets: &[TcpStream], poll: &mut Poll, is_over: &AtomicBool) {
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 256 * 1024];
    while !is_over.load(Relaxed) {
        if poll
            .poll(&mut events, Some(Duration::from_millis(50)))
            .is_err()
        {
            continue;
        }
        for event in &events {
            let mut socket = &sockets[event.token().0];
            while matches!(socket.read(&mut buffer), Ok(1..)) {}
        }
    }
}

/// A thread that reads; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Reading {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A client's message as bytes on the wire.
pub(super) fn text(message: &str) -> Vec<u8> {
    frames::text(message)
}

/// Puts this process behind all others, and lets it open as many files as an attack may.
pub(super) fn give_way() -> Result<()> {
    priority::give_way().doing("cannot give way to other processes")?;
    let hard = getrlimit(Resource::Nofile).maximum;
    let files = DESCRIPTORS.min(hard.unwrap_or(DESCRIPTORS));
    let limit = Rlimit {
        current: Some(files),
        maximum: Some(files),
    };
    setrlimit(Resource::Nofile, limit).doing("cannot set the limit of files")
}
