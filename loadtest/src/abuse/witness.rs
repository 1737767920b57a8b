//! Who looks on: clients and callers that ask for little, fifty times a second, and note how long they wait.
//!
//! Each lane is a thread of its own, which goes before all ordinary processes where the system permits it. What is due
//! while a lane waits counts from when it was due, so that one stall of two seconds is a hundred waits.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::victim::{ATTACKED, OTHER, SECRET, key};
use crate::{
    clock,
    error::{Doing, Result, failed},
    priority,
    socket::{Caller, Heard, WebSocket, connect_from},
    token::Signer,
};

/// Between two questions of a lane.
const PERIOD: Duration = Duration::from_millis(20);

/// The same of the lane that connects, which costs more.
const NEWCOMERS: Duration = Duration::from_millis(200);

/// How long anything may take before it counts as not answered.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the witness's clients are. An attacker is elsewhere.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 2, 0, 1));

/// What the lanes do.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize, serde::Serialize,
)]
#[serde(rename_all = "snake_case")]
pub(super) enum Lane {
    /// `op: ping` by a client of the attacked app.
    Ping,
    /// A small event from a function of the attacked app to its own client.
    Emit,
    /// `GET /healthz`.
    Health,
    /// The other app: an event through a filter, with an `Idempotency-Key`.
    Other,
    /// A new client of the attacked app, until its welcome.
    Newcomer,
}

impl Lane {
    pub(super) const ALL: [Self; 5] = [
        Self::Ping,
        Self::Emit,
        Self::Health,
        Self::Other,
        Self::Newcomer,
    ];

    fn period(self) -> Duration {
        if self == Self::Newcomer {
            NEWCOMERS
        } else {
            PERIOD
        }
    }
}

/// One question: when it was due, how long its answer took from then on, and what was wrong with that.
#[derive(Clone, Debug)]
pub(super) struct Wait {
    pub(super) due: u64,
    pub(super) nanos: u64,
    pub(super) refusal: Option<String>,
}

/// The lanes at work.
#[derive(Debug)]
pub(super) struct Witness {
    lanes: Vec<(Lane, JoinHandle<Vec<Wait>>)>,
    is_over: Arc<AtomicBool>,
}

impl Witness {
    /// Connects its clients, and begins.
    pub(super) fn start(server: SocketAddr) -> Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut lanes = Vec::new();
        for lane in Lane::ALL {
            let asker = Asker::new(lane, server).doing("the witness cannot connect")?;
            let is_over = is_over.clone();
            let thread = thread::Builder::new()
                .name(format!("{lane:?}"))
                .spawn(move || watch(asker, &is_over))
                .doing("cannot start a thread")?;
            lanes.push((lane, thread));
        }
        Ok(Self { lanes, is_over })
    }

    /// Ends it; returns what each lane saw.
    pub(super) fn end(self) -> Result<Vec<(Lane, Vec<Wait>)>> {
        self.is_over.store(true, Relaxed);
        let mut all = Vec::new();
        for (lane, thread) in self.lanes {
            match thread.join() {
                Ok(waits) => all.push((lane, waits)),
                Err(_) => return failed("a lane of the witness panicked"),
            }
        }
        Ok(all)
    }
}

/// Asks when it is due, until it is over.
fn watch(mut asker: Asker, is_over: &AtomicBool) -> Vec<Wait> {
    // Without the right to it, waits hold the machine's scheduling too, with and without the attack.
    priority::go_first();
    let period = clock::nanos(asker.lane.period());
    let mut waits = Vec::new();
    let mut due = clock::now() + period;
    while !is_over.load(Relaxed) {
        thread::sleep(Duration::from_nanos(due.saturating_sub(clock::now())));
        let refusal = asker.ask();
        let now = clock::now();

        // Whatever was due meanwhile has waited for the same answer.
        while due <= now {
            waits.push(Wait {
                due,
                nanos: now - due,
                refusal: refusal.clone(),
            });
            due += period;
        }
    }
    waits
}

/// One lane's client and caller.
#[derive(Debug)]
struct Asker {
    lane: Lane,
    server: SocketAddr,
    caller: Caller,
    socket: Option<WebSocket>,
    connection: String,
    number: u64,
    signer: Signer,
}

impl Asker {
    fn new(lane: Lane, server: SocketAddr) -> io::Result<Self> {
        let app = if lane == Lane::Other { OTHER } else { ATTACKED };
        let mut asker = Self {
            lane,
            server,
            caller: Caller::with_key(server, PATIENCE, &key(app)),
            socket: None,
            connection: String::new(),
            number: 0,
            signer: Signer::new(SECRET),
        };
        if matches!(lane, Lane::Ping | Lane::Emit | Lane::Other) {
            asker.connect(app)?;
        }
        Ok(asker)
    }

    /// Connects as a user of its own; returns when it is welcome.
    fn connect(&mut self, app: &str) -> io::Result<()> {
        let user = format!("witness-{:?}", self.lane).to_lowercase();
        let exp = super::arms::unix_now() + 3600;
        let token = self
            .signer
            .sign_claims(&format!(r#"{{"sub":"{user}","exp":{exp},"plan":"w"}}"#));
        let path = format!("/v1/connect?app={app}&token={token}");
        let socket = connect_from(ADDRESS, self.server, PATIENCE)?;
        let mut socket = WebSocket::open_on(socket, self.server, &path)?;
        let welcome = hear(&mut socket, |text| text.contains(r#""op":"welcome""#))?;
        let welcome: serde_json::Value = serde_json::from_str(&welcome)?;
        welcome["connection"]
            .as_str()
            .unwrap_or("")
            .clone_into(&mut self.connection);
        self.socket = Some(socket);
        Ok(())
    }

    /// Asks once; returns what was wrong with the answer.
    fn ask(&mut self) -> Option<String> {
        self.number += 1;
        let done = match self.lane {
            Lane::Ping => self.ping(),
            Lane::Emit => {
                let connection = &self.connection;
                let whom = format!(r#""to":{{"connections":["{connection}"]}}"#);
                self.emit(&whom, "")
            }
            Lane::Other => {
                let key = format!("Idempotency-Key: witness-{}\r\n", self.number);
                let whom = r#""filter":"auth.plan == params.p","params":{"p":"w"}"#;
                self.emit(whom, &key)
            }
            Lane::Health => self.caller.get("/healthz").and_then(accepted),
            Lane::Newcomer => self.come_and_go(),
        };
        done.err().map(|error| error.to_string())
    }

    fn ping(&mut self) -> io::Result<()> {
        let number = self.number;
        let socket = self.connected()?;
        socket.send(&format!(r#"{{"op":"ping","id":{number}}}"#))?;
        let wanted = format!(r#""id":{number}"#);
        hear(socket, |text| text.contains(&wanted)).map(|_| ())
    }

    fn emit(&mut self, whom: &str, more: &str) -> io::Result<()> {
        let number = self.number;
        let body = format!(r#"{{"event":"witness","data":{number},{whom}}}"#);
        let answer = self.caller.post_with("/v1/emit", more, &body)?;
        accepted(answer)?;
        let wanted = format!(r#""data":{number}"#);
        let is_mine = |text: &str| text.contains(r#""event":"witness""#) && text.contains(&wanted);
        hear(self.connected()?, is_mine).map(|_| ())
    }

    fn come_and_go(&mut self) -> io::Result<()> {
        self.connect(ATTACKED)?;
        if let Some(mut socket) = self.socket.take() {
            socket.send_raw(&crate::client::frames::GOODBYE)?;
        }
        Ok(())
    }

    /// The client's socket. One that was closed is not opened again: the server has no reason to close it.
    fn connected(&mut self) -> io::Result<&mut WebSocket> {
        self.socket
            .as_mut()
            .ok_or_else(|| io::Error::other("the witness has no connection"))
    }
}

/// Reads texts until one is `wanted`.
fn hear(socket: &mut WebSocket, is_wanted: impl Fn(&str) -> bool) -> io::Result<String> {
    let until = Instant::now() + PATIENCE;
    loop {
        match socket.next() {
            Heard::Text(text) => {
                let text = String::from_utf8_lossy(&text);
                if is_wanted(&text) {
                    return Ok(text.into_owned());
                }
            }
            Heard::Nothing if Instant::now() < until => {}
            Heard::Nothing => return Err(io::Error::other("no answer within 10 s")),
            Heard::Ended => return Err(io::Error::other("the connection was closed")),
        }
    }
}

/// Nothing, where the status is 200; else the problem's code.
fn accepted((status, body): (u16, Vec<u8>)) -> io::Result<()> {
    if status == 200 {
        return Ok(());
    }
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let code = problem["code"].as_str().unwrap_or("no code");
    Err(io::Error::other(format!("{status} {code}")))
}
