//! A client in every channel, which comes back on another node when its connection ends, as a good client does.

use std::{sync::atomic::Ordering::Relaxed, thread, time::Duration};

use serde::Deserialize;
use serde_json::json;

use super::{
    plan::{CHANNELS, NODES, SECRET, Scene, WATCHED, channel, keeps, number, of_stream},
    present::Present,
    record::{Log, Returns, Seen},
    socket::{Heard, WebSocket},
    view::{Member, Next, Notice, View},
};
use crate::{clock, priority::First, stamp::Stamp, token::Signer};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// Between two tries to connect.
const PAUSE: Duration = Duration::from_millis(100);

/// Between two tries to join; within the rate at which a client may speak.
const RETRY: Duration = Duration::from_millis(500);

/// Members in one page; more than there can be.
const PAGE: usize = 1000;

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
    resumed: Option<bool>,
    reconnect_in_ms: Option<u64>,
    kind: String,
    member: Option<Member>,
    previous: Option<String>,
    members: Option<Vec<Member>>,
    cursor: Option<String>,
}

/// What a subscriber knows of one channel.
#[derive(Debug, Default)]
struct Place {
    epoch: String,
    offset: Option<u64>,
    is_member: bool,
    /// It was asked for, and not answered: asked for twice, what is kept would come twice.
    is_asked: bool,
    /// It came back by resuming, and what was missed is yet to be asked for.
    filling: Option<Filling>,
}

/// What a member does that came back by resuming: it joins once more, from what it has had.
#[derive(Debug, Default)]
struct Filling {
    /// The last that it has; nothing where the channel keeps nothing.
    since: Option<(String, u64)>,
    is_asked: bool,
}

/// All that a subscriber has seen.
pub(super) struct Story {
    pub(super) logs: Vec<Log>,
    pub(super) returns: Returns,
}

/// One subscriber at work.
struct Subscriber<'s> {
    scene: &'s Scene,
    present: &'s Present,
    number: usize,
    node: usize,
    id: String,
    /// The connection before, whose channels this one takes over or has taken over.
    former: Option<String>,
    /// When it was told to come back.
    not_before: u64,
    places: Vec<Place>,
    views: [View; WATCHED],
    /// What it has to say.
    outgoing: Vec<String>,
    logs: Vec<Log>,
    returns: Returns,
}

/// Stays in every channel until the scene is over; answers what it saw.
pub(super) fn subscribe(scene: &Scene, present: &Present, number: usize) -> Story {
    let log = |channel| Log {
        channel,
        keeps: keeps(channel),
        seen: Vec::new(),
    };
    let mut subscriber = Subscriber {
        scene,
        present,
        number,
        node: number % NODES,
        id: String::new(),
        former: None,
        not_before: 0,
        places: (0..CHANNELS).map(|_| Place::default()).collect(),
        views: Default::default(),
        outgoing: Vec::new(),
        logs: (0..CHANNELS).map(log).collect(),
        returns: Returns::default(),
    };
    let _first = scene.manners.is_timed.then(First::ask);
    while !scene.is_over.load(Relaxed) {
        if scene.is_away(number) || clock::now() < subscriber.not_before {
            thread::sleep(PAUSE);
            continue;
        }
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
    let profiles = subscriber.views.iter().map(|view| view.without_profile);
    let without_profile = profiles.sum();
    Story {
        logs: subscriber.logs,
        returns: Returns {
            without_profile,
            ..subscriber.returns
        },
    }
}

impl Subscriber<'_> {
    fn connect(&self) -> Option<WebSocket> {
        if self.scene.is_dead(self.node) {
            return None;
        }
        let mut query = format!("token={}", Signer::new(SECRET).sign(self.number));
        if self.scene.manners.do_resume {
            query = format!("{query}&device=d{}", self.number);
        }
        if let Some(former) = &self.former {
            query = format!("{query}&resume={former}");
        }
        let path = format!("/v1/connect?{query}");
        WebSocket::open(self.scene.nodes[self.node], &path, HANDSHAKE).ok()
    }

    /// Reads until the connection ends or the scene is over.
    fn stay(&mut self, mut socket: WebSocket) {
        let mut tried = 0;
        while !self.scene.is_over.load(Relaxed) && !self.scene.is_away(self.number) {
            match socket.next() {
                Heard::Ended => return,
                Heard::Text(text) => self.take(&text),
                Heard::Nothing => {}
            }
            let now = clock::now();
            if !self.id.is_empty() && now > tried + clock::nanos(RETRY) {
                // What comes back by itself is not to be asked for.
                let is_resuming = tried == 0 && self.former.is_some();
                tried = now;
                if !is_resuming {
                    self.join();
                }
            }
            for message in std::mem::take(&mut self.outgoing) {
                if socket.send(&message).is_err() {
                    return;
                }
            }
        }
    }

    /// Joins what it is not in, and asks again for what it has not got.
    fn join(&mut self) {
        let mut is_in_all = true;
        let home = self.number % NODES;
        for at in (0..CHANNELS).filter(|&at| self.scene.is_for(at, home)) {
            if self.places[at].is_member {
                self.fill(at);
                continue;
            }
            is_in_all = false;
            let place = &mut self.places[at];
            if std::mem::replace(&mut place.is_asked, true) {
                continue;
            }
            let since = place.offset.map(|offset| (place.epoch.clone(), offset));
            self.say_join(at, since);
        }
        for at in 0..WATCHED {
            let next = self.views[at].ask_again();
            self.follow(at, next);
        }
        self.present
            .set(self.number, is_in_all.then(|| self.id.clone()));
    }

    fn say_join(&mut self, at: usize, since: Option<(String, u64)>) {
        let mut message = json!({"op": "join", "id": at, "channel": channel(at)});
        if let Some((epoch, offset)) = since {
            message["since"] = json!({"epoch": epoch, "offset": offset});
        }
        if at < WATCHED {
            message["members"] = json!(true);
        }
        self.outgoing.push(message.to_string());
    }

    /// Asks for what was missed on the way from the connection before.
    fn fill(&mut self, at: usize) {
        let Some(filling) = &mut self.places[at].filling else {
            return;
        };
        if !std::mem::replace(&mut filling.is_asked, true) {
            let since = filling.since.clone();
            self.say_join(at, since);
        }
    }

    fn follow(&mut self, at: usize, next: Next) {
        if next == Next::Ask {
            let ask = json!({
                "op": "members", "id": CHANNELS + at, "channel": channel(at), "limit": PAGE
            });
            self.outgoing.push(ask.to_string());
        }
        self.show(at);
    }

    fn show(&self, at: usize) {
        if self.places[at].is_member && self.places[at].filling.is_none() {
            let members = self.views[at].with(&self.id);
            self.present.sees(self.number, at, members);
        }
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
            "welcome" => self.welcomed(message),
            "bye" => {
                let wait = Duration::from_millis(message.reconnect_in_ms.unwrap_or(0));
                if self.scene.manners.do_resume {
                    self.not_before = now + clock::nanos(wait);
                    self.returns.sent_away += 1;
                }
            }
            "ack" => self.answered(now, message),
            "error" => self.refused(&message),
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
            "member" | "members" => self.hear_of_members(now, message),
            _ if message.recovered == Some(false) => {
                if let Some(at) = number(&message.channel) {
                    self.logs[at].seen.push((now, Seen::Gap));
                }
            }
            _ => {}
        }
    }

    fn welcomed(&mut self, message: Message) {
        self.id = message.connection;
        if self.scene.manners.do_resume {
            let is_resumed = message.resumed == Some(true);
            self.returns.resumed += usize::from(is_resumed);
            self.returns.asked += usize::from(self.former.is_some());
            if !is_resumed {
                let profile = json!({"op": "update", "data": {"number": self.number}});
                self.outgoing.push(profile.to_string());
                self.former = None;
            }
        }
    }

    fn answered(&mut self, now: u64, message: Message) {
        let Some(id) = message.id else { return };
        if let Some(at) = id.checked_sub(CHANNELS) {
            return self.take_page(at, message);
        }
        if !self.places[id].is_member || self.places[id].filling.is_some() {
            self.joined(now, id, message);
        }
    }

    fn take_page(&mut self, at: usize, message: Message) {
        if let (true, Some(members)) = (at < WATCHED, message.members) {
            let next = self.views[at].take_page(members, message.cursor.is_none());
            self.follow(at, next);
        }
    }

    fn refused(&mut self, message: &Message) {
        let Some(id) = message.id else { return };
        if let Some(place) = self.places.get_mut(id) {
            place.is_asked = false;
            if let Some(filling) = &mut place.filling {
                filling.is_asked = false;
            }
        } else if let Some(view) = self.views.get_mut(id - CHANNELS) {
            view.was_refused();
        }
    }

    fn hear_of_members(&mut self, now: u64, message: Message) {
        let Some(at) = number(&message.channel).filter(|&at| at < WATCHED) else {
            return;
        };
        let Some(member) = message.member else {
            let next = self.views[at].must_ask();
            return self.follow(at, next);
        };
        if message.kind == "left" && !self.scene.is_over.load(Relaxed) {
            self.present.was_told_to_have_left(member.id.clone(), now);
        }
        self.views[at].take(Notice {
            kind: message.kind,
            member,
            previous: message.previous,
        });
        self.show(at);
    }

    fn joined(&mut self, now: u64, at: usize, message: Message) {
        let Message {
            op,
            epoch,
            offset,
            recovered,
            members,
            cursor,
            ..
        } = message;
        let place = &mut self.places[at];

        // It came back by resuming: what was missed comes by joining once more.
        if op == "joined" && !place.is_member && self.former.is_some() {
            let since = place.offset.map(|offset| (place.epoch.clone(), offset));
            place.filling = (since.is_some() || at < WATCHED).then_some(Filling {
                since,
                is_asked: false,
            });
        } else {
            place.filling = None;
            // Without a replay to come the channel is known up to here.
            if place.offset.is_none() || recovered != Some(true) {
                place.offset = offset;
            }
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

        self.fill(at);
        if at < WATCHED
            && let Some(members) = members
        {
            let next = self.views[at].take_page(members, cursor.is_none());
            self.follow(at, next);
        }
    }

    fn take_event(&mut self, now: u64, text: &[u8], message: &Message) {
        for stamp in Stamp::all(text).filter(|stamp| stamp.round == self.scene.round) {
            let (publisher, channel) = of_stream(stamp.stream);
            if number(&message.channel) != Some(channel) {
                continue;
            }
            let place = &mut self.places[channel];
            let is_to_come = place.filling.as_ref().is_some_and(|it| it.since.is_some());
            // It comes again, after what was missed.
            if is_to_come && message.offset.is_some() {
                continue;
            }
            let (sequence, offset) = (stamp.sequence, message.offset);
            place.offset = offset.or(place.offset);
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
        let id = std::mem::take(&mut self.id);
        self.outgoing.clear();
        if self.scene.manners.do_resume && !id.is_empty() {
            self.former = Some(id.clone());
        }
        self.present.ended(self.number, id, now);
        for view in &mut self.views {
            view.forget();
        }
        for (place, log) in self.places.iter_mut().zip(&mut self.logs) {
            if place.is_member && !self.scene.is_over.load(Relaxed) {
                log.seen.push((now, Seen::Ended));
            }
            // What was to be filled is missing still.
            if let Some((epoch, offset)) = place.filling.take().and_then(|filling| filling.since) {
                (place.epoch, place.offset) = (epoch, Some(offset));
            }
            (place.is_member, place.is_asked) = (false, false);
        }
    }
}
