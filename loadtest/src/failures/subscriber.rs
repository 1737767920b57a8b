//! A client in every channel, which comes back on another node when its connection ends, as a good client does.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use serde::Deserialize;
use serde_json::json;

use super::{
    plan::{CHANNELS, NODES, SECRET, Scene, channel, keeps, number, of_stream},
    record::{Log, Seen},
    socket::{Heard, WebSocket},
};
use crate::{clock, stamp::Stamp, token::Signer};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// Between two tries to connect.
const PAUSE: Duration = Duration::from_millis(100);

/// Between two tries to join; within the rate at which a client may speak.
const RETRY: Duration = Duration::from_millis(500);

/// Who is connected, and who was.
#[derive(Debug, Default)]
pub(super) struct Present {
    /// The ids of those who are connected and in every channel, by subscriber.
    ids: Mutex<BTreeMap<usize, String>>,
    /// When connections ended.
    gone: Mutex<BTreeMap<String, u64>>,
}

impl Present {
    fn set(&self, subscriber: usize, id: Option<String>) {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        match id {
            Some(id) => drop(ids.insert(subscriber, id)),
            None => drop(ids.remove(&subscriber)),
        }
    }

    fn ended(&self, subscriber: usize, id: String, now: u64) {
        self.set(subscriber, None);
        self.gone
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, now);
    }

    /// The ids of those who are connected and in every channel.
    pub(super) fn ids(&self) -> Vec<String> {
        let ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.values().cloned().collect()
    }

    /// The connections that ended, and when.
    pub(super) fn gone(&self) -> BTreeMap<String, u64> {
        self.gone
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// As much of a server's message as matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Message {
    op: String,
    connection: String,
    event: Option<String>,
    channel: String,
    id: Option<usize>,
    epoch: String,
    offset: Option<u64>,
    recovered: Option<bool>,
}

/// What a subscriber knows of one channel.
#[derive(Debug, Default)]
struct Place {
    epoch: String,
    offset: Option<u64>,
    is_member: bool,
    /// It was asked for, and not answered: asked for twice, what is kept would come twice.
    is_asked: bool,
}

/// One subscriber at work.
struct Subscriber<'s> {
    scene: &'s Scene,
    present: &'s Present,
    number: usize,
    node: usize,
    id: String,
    places: Vec<Place>,
    logs: Vec<Log>,
}

/// Stays in every channel until the scene is over; answers what it saw of each.
pub(super) fn subscribe(scene: &Scene, present: &Present, number: usize) -> Vec<Log> {
    let log = |channel| Log {
        channel,
        keeps: keeps(channel),
        seen: Vec::new(),
    };
    let (node, id) = (number % NODES, String::new());
    let places = (0..CHANNELS).map(|_| Place::default()).collect();
    let logs = (0..CHANNELS).map(log).collect();
    let mut subscriber = Subscriber {
        scene,
        present,
        number,
        node,
        id,
        places,
        logs,
    };
    while !scene.is_over.load(Relaxed) {
        if let Some(socket) = subscriber.connect() {
            subscriber.stay(socket);
            subscriber.leave();
        } else {
            thread::sleep(PAUSE);
        }
        // A load balancer sends who comes back elsewhere.
        if !scene.is_over.load(Relaxed) {
            subscriber.node = (subscriber.node + 1) % NODES;
        }
    }
    subscriber.logs
}

impl Subscriber<'_> {
    fn connect(&self) -> Option<WebSocket> {
        if self.scene.is_dead(self.node) {
            return None;
        }
        let path = format!(
            "/v1/connect?token={}",
            Signer::new(SECRET).sign(self.number)
        );
        WebSocket::open(self.scene.nodes[self.node], &path, HANDSHAKE).ok()
    }

    /// Reads until the connection ends or the scene is over.
    fn stay(&mut self, mut socket: WebSocket) {
        let mut tried = 0;
        while !self.scene.is_over.load(Relaxed) {
            match socket.next() {
                Heard::Ended => return,
                Heard::Text(text) => self.take(&text),
                Heard::Nothing => {}
            }
            let now = clock::now();
            if !self.id.is_empty() && now > tried + clock::nanos(RETRY) {
                tried = now;
                if self.join(&mut socket).is_err() {
                    return;
                }
            }
        }
    }

    /// Joins what it is not in.
    fn join(&mut self, socket: &mut WebSocket) -> std::io::Result<()> {
        let mut is_in_all = true;
        let (scene, home) = (self.scene, self.number % NODES);
        let missing = self
            .places
            .iter_mut()
            .enumerate()
            .filter(|(_, place)| !place.is_member);
        for (at, place) in missing.filter(|(at, _)| scene.is_for(*at, home)) {
            is_in_all = false;
            if std::mem::replace(&mut place.is_asked, true) {
                continue;
            }
            let mut message = json!({"op": "join", "id": at, "channel": channel(at)});
            if let Some(offset) = place.offset {
                message["since"] = json!({"epoch": place.epoch, "offset": offset});
            }
            socket.send(&message.to_string())?;
        }
        self.present
            .set(self.number, is_in_all.then(|| self.id.clone()));
        Ok(())
    }

    fn take(&mut self, text: &[u8]) {
        let now = clock::now();
        let Ok(message) = serde_json::from_slice::<Message>(text) else {
            return;
        };
        if message.event.is_some() {
            return self.take_event(now, text, &message);
        }
        match message.op.as_str() {
            "welcome" => self.id = message.connection,
            "ack" => {
                let Some(at) = message
                    .id
                    .filter(|&at| at < CHANNELS && !self.places[at].is_member)
                else {
                    return;
                };
                self.joined(now, at, message);
            }
            "error" => {
                if let Some(place) = message.id.and_then(|at| self.places.get_mut(at)) {
                    place.is_asked = false;
                }
            }
            "joined" => {
                if let Some(at) = number(&message.channel) {
                    self.joined(now, at, message);
                }
            }
            "left" => {
                if let Some(at) = number(&message.channel) {
                    (self.places[at].is_member, self.places[at].is_asked) = (false, false);
                    self.logs[at].seen.push((now, Seen::Ended));
                }
            }
            _ if message.recovered == Some(false) => {
                if let Some(at) = number(&message.channel) {
                    self.logs[at].seen.push((now, Seen::Gap));
                }
            }
            _ => {}
        }
    }

    fn joined(&mut self, now: u64, at: usize, message: Message) {
        let Message {
            epoch,
            offset,
            recovered,
            ..
        } = message;
        let place = &mut self.places[at];
        // Without a replay to come the channel is known up to here.
        if place.offset.is_none() || recovered != Some(true) {
            place.offset = offset;
        }
        place.epoch.clone_from(&epoch);
        place.is_member = true;
        self.logs[at].seen.push((
            now,
            Seen::Joined {
                node: self.node,
                epoch,
                recovered,
            },
        ));
    }

    fn take_event(&mut self, now: u64, text: &[u8], message: &Message) {
        for stamp in Stamp::all(text).filter(|stamp| stamp.round == self.scene.round) {
            let (publisher, channel) = of_stream(stamp.stream);
            if number(&message.channel) != Some(channel) {
                continue;
            }
            let (sequence, offset) = (stamp.sequence, message.offset);
            self.places[channel].offset = offset.or(self.places[channel].offset);
            self.logs[channel].seen.push((
                now,
                Seen::Event {
                    publisher,
                    sequence,
                    offset,
                },
            ));
        }
    }

    fn leave(&mut self) {
        let now = clock::now();
        self.present
            .ended(self.number, std::mem::take(&mut self.id), now);
        for (place, log) in self.places.iter_mut().zip(&mut self.logs) {
            if place.is_member && !self.scene.is_over.load(Relaxed) {
                log.seen.push((now, Seen::Ended));
            }
            (place.is_member, place.is_asked) = (false, false);
        }
    }
}
