//! A TCP proxy that can stop forwarding while it keeps every connection open.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use super::free_port;

/// How long a server may take to be connected to.
const CONNECT: Duration = Duration::from_secs(5);

/// A proxy; its connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    thawed: Condvar,
}

#[derive(Debug)]
struct State {
    upstream: SocketAddr,
    /// The number of the next connection.
    next: u64,
    /// Connections with a smaller number forward nothing.
    frozen_below: u64,
    /// Connections by which scripts were run, and whether those forward nothing.
    scripted: HashSet<u64>,
    scripts_are_frozen: bool,
    /// Whether the other connections forward nothing.
    messages_are_frozen: bool,
    /// A request whose answer is to be lost, and how many were.
    loses: Option<Vec<u8>>,
    lost: u64,
    /// Connections that have forwarded such a request: they end with its answer.
    losing: HashSet<u64>,
    /// How long whatever is forwarded waits before.
    delay: Duration,
    is_over: bool,
    /// Both ends of each connection.
    open: HashMap<u64, [TcpStream; 2]>,
    /// Bytes that went from servers to clients.
    received: u64,
}

impl State {
    fn is_frozen(&self, number: u64) -> bool {
        let is_frozen = if self.scripted.contains(&number) {
            self.scripts_are_frozen
        } else {
            self.messages_are_frozen
        };
        number < self.frozen_below || is_frozen
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the connection is frozen; false once the proxy is over.
    fn wait(&self, number: u64) -> bool {
        let mut state = self.state();
        while !state.is_over && state.is_frozen(number) {
            state = self
                .thawed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        !state.is_over
    }
}

impl Proxy {
    /// Starts one that connects its clients to `upstream`.
    pub fn start(upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", free_port()?))?;
        let address = listener.local_addr()?;
        let state = State {
            upstream,
            next: 0,
            frozen_below: 0,
            scripted: HashSet::new(),
            scripts_are_frozen: false,
            messages_are_frozen: false,
            loses: None,
            lost: 0,
            losing: HashSet::new(),
            delay: Duration::ZERO,
            is_over: false,
            open: HashMap::new(),
            received: 0,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            thawed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Ok(Self { address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `redis://` and its address.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Forwards nothing on any connection from now on; new ones are accepted.
    pub fn freeze(&self) {
        self.shared.state().frozen_below = u64::MAX;
    }

    /// Forwards nothing on the connections that are open now; new ones work.
    pub fn freeze_open(&self) {
        let mut state = self.shared.state();
        state.frozen_below = state.next;
    }

    /// Forwards nothing on connections by which scripts were run: commands are not answered, and messages come.
    pub fn freeze_scripts(&self) {
        self.shared.state().scripts_are_frozen = true;
    }

    /// Forwards nothing on connections by which no script was run: messages do not come, and commands are answered.
    pub fn freeze_messages(&self) {
        self.shared.state().messages_are_frozen = true;
    }

    /// Loses the answer to the next request that contains `part`, with the connection. All connections are frozen then.
    pub fn lose_answer(&self, part: &[u8]) {
        self.shared.state().loses = Some(part.to_vec());
    }

    /// How many answers were lost.
    pub fn lost(&self) -> u64 {
        self.shared.state().lost
    }

    /// Holds back for so long whatever it forwards from now on.
    pub fn delay(&self, delay: Duration) {
        self.shared.state().delay = delay;
    }

    /// Forwards again, and first what has come meanwhile.
    pub fn thaw(&self) {
        let mut state = self.shared.state();
        state.frozen_below = 0;
        state.scripts_are_frozen = false;
        state.messages_are_frozen = false;
        drop(state);
        self.shared.thawed.notify_all();
    }

    /// Connects clients that come from now on to `upstream`; the others stay where they are.
    pub fn point_to(&self, upstream: SocketAddr) {
        self.shared.state().upstream = upstream;
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.shared.state().open.len()
    }

    /// How many bytes its clients have been sent.
    pub fn received(&self) -> u64 {
        self.shared.state().received
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.is_over = true;
        for socket in state.open.values().flatten() {
            // Fails only if it has ended.
            let _ = socket.shutdown(Shutdown::Both);
        }
        drop(state);
        self.shared.thawed.notify_all();
        // So that the one who accepts looks up.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.state().is_over {
            return;
        }
        // A client that cannot be served sees its connection end, as it would without the proxy.
        let _ = client.and_then(|client| join(client, shared));
    }
}

/// Connects `client` to the server, and forwards in both directions.
fn join(client: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    let upstream = shared.state().upstream;
    let server = TcpStream::connect_timeout(&upstream, CONNECT)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ends = [client.try_clone()?, server.try_clone()?];
    let mut state = shared.state();
    let number = state.next;
    state.next += 1;
    state.open.insert(number, ends);
    drop(state);
    let (back_from, back_to) = (server.try_clone()?, client.try_clone()?);
    let (there, back) = (Arc::clone(shared), Arc::clone(shared));
    thread::spawn(move || pump(client, server, &there, number, false));
    thread::spawn(move || pump(back_from, back_to, &back, number, true));
    Ok(())
}

/// Forwards until either side ends, and then ends both.
fn pump(mut from: TcpStream, mut to: TcpStream, shared: &Shared, number: u64, is_received: bool) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        if !is_received && buffer[..read].windows(7).any(|word| word == b"EVALSHA") {
            shared.state().scripted.insert(number);
        }
        let delay = shared.state().delay;
        thread::sleep(delay);
        // An end is held back like everything else.
        if !shared.wait(number) || read == 0 {
            break;
        }
        let mut state = shared.state();
        if is_received {
            if state.losing.contains(&number) {
                (state.lost, state.frozen_below) = (state.lost + 1, u64::MAX);
                break;
            }
            // First, so that who has received something finds it counted.
            state.received += read as u64;
        }
        let part = state.loses.as_deref().filter(|_| !is_received);
        if part.is_some_and(|part| {
            buffer[..read]
                .windows(part.len())
                .any(|found| found == part)
        }) {
            state.loses = None;
            state.losing.insert(number);
            // With the lock held: the answer is looked at after that.
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
            continue;
        }
        drop(state);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    for socket in [&from, &to] {
        // Fails only if it has ended.
        let _ = socket.shutdown(Shutdown::Both);
    }
    shared.state().open.remove(&number);
}
