//! Users who come and go.

use std::sync::Arc;

use bytes::Bytes;
use smol_str::SmolStr;

use super::{
    Captured, ClusterHandles, Coming, Mesa, MesaApp, Users, arg,
    giving_back::{GivenBack, GoesTo},
    script::{ENTER, LEAVE, PUT_BACK},
};
use crate::{
    bus::{BusError, Health},
    hub::{Connection, LongStep},
    id::{AppId, ConnectionId},
    limits::{LONG_BODY, MESA_COMING_BYTES},
    log_limit::Line,
    protocol::{
        event::{Data, Event},
        frame::Frame,
        mesa::{self, STORED_PING, StoredMessage},
        wire::Out,
    },
    time_slice::TimeSlice,
};

/// What becomes of the messages that were stored for a user who comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MesaTake {
    /// They stay.
    Leave,
    /// They are thrown away: the client says that it has no need of them.
    Drop,
    /// A client of Mesa gets them, numbered.
    Numbered,
    /// A native client gets them as events.
    Events,
}

/// A connection of a user that is about to be let in: messages for it wait here in the meantime. If it is not let in,
/// they are stored again.
#[derive(Debug)]
pub(crate) struct MesaArrival {
    mesa: Arc<Mesa>,
    app: AppId,
    user: SmolStr,
    id: ConnectionId,
    /// What was stored.
    stored: Vec<Frame>,
    is_in: bool,
}

impl Mesa {
    /// Notes that a user has a connection here that is about to be let in, and takes what was stored for the user.
    pub(crate) async fn arrive(
        self: &Arc<Self>,
        connection: &Connection,
        take: MesaTake,
    ) -> Option<MesaArrival> {
        let app = connection.app;
        let (mesa, cluster) = self.in_redis(app)?;
        let user = connection.user_name()?.clone();

        // With sync off, Mesa's own server may run beside this one, and delivers what is stored.
        let take = if mesa.has_sync() {
            take
        } else {
            MesaTake::Leave
        };

        // What is published from now on must come here.
        if matches!(cluster.bus.health(), Health::Up) {
            let wait = self.limits().redis_timeout;
            for topic in mesa.topics() {
                let live = cluster.bus.interest().live(topic, wait).await;
                if let Err(error) = live {
                    tracing::debug!(%error, "a user comes in before Redis brings what dispatchers say");
                }
            }
        }

        let id = connection.id();
        let mut arrival = MesaArrival {
            mesa: self.clone(),
            app,
            user,
            id,
            stored: Vec::new(),
            is_in: false,
        };

        let entering = {
            let mut users = mesa.users.lock();
            users.come(&arrival.user, id, take != MesaTake::Leave);
            self.enter(&users, app, (&*arrival.user, id), take)
        };

        // The script was queued under the lock, which is all that the order needs. Only its answer
        // is awaited, and not under the lock.
        let answer = match entering {
            Some(entering) => entering.await,
            None => return Some(arrival),
        };

        match answer.map(redis::from_redis_value::<Option<Vec<u8>>>) {
            Ok(Ok(Some(list))) => {
                arrival.stored = self.frames(app, &list, take).await;
                // A dispatcher that has read the list before may write it back, with more.
                mesa.users.lock().looks.note_taken(&arrival.user, list);
            }
            Ok(_) => {
                // Nothing was stored, so nothing has to be confirmed.
                mesa.users.lock().unconfirmed.remove(&id);
            }
            Err(error) => self.note_unanswered(mesa, id, &error),
        }

        Some(arrival)
    }

    /// Notes that Redis has not said what is stored for a connection that is about to be let in.
    fn note_unanswered(&self, mesa: &MesaApp, id: ConnectionId, error: &BusError) {
        // A look finds what is stored again.
        let mut users = mesa.users.lock();
        if users.unconfirmed.contains(&id) {
            users.unanswered.insert(id);
            users.owes = true;
        }
        drop(users);

        if let Some(others) = self.lines().note(Line::WithoutStored) {
            tracing::warn!(others, %error, "a user comes in without what dispatchers have stored, and gets it when Redis answers");
        }
    }

    /// Has Redis note that a user is here. The order of calls is that of the steps in Redis, so the users' lock is held.
    fn enter(
        &self,
        users: &Users,
        app: AppId,
        (user, id): (&str, ConnectionId),
        take: MesaTake,
    ) -> Option<impl Future<Output = Result<redis::Value, BusError>> + use<>> {
        let (mesa, cluster) = self.in_redis(app)?;
        let keys = cluster.keys(app);
        let mode = match take {
            MesaTake::Leave => "leave",
            MesaTake::Drop => "drop",
            MesaTake::Numbered | MesaTake::Events => "take",
        };

        Some(cluster.bus.eval(
            &ENTER,
            &keys.home,
            vec![
                mesa.connected.clone(),
                mesa.undelivered.clone(),
                keys.nodes(),
                keys.aside(),
                keys.users(self.id()),
                keys.known(),
            ],
            vec![
                arg(user),
                self.node_name(),
                arg(mode),
                self.field(id, user),
                users.changes.to_string().into(),
                mesa.exact(),
            ],
        ))
    }

    /// Names what is set aside for a connection.
    pub(super) fn field(&self, id: ConnectionId, user: &str) -> Bytes {
        format!("{} {id} {user}", self.id()).into()
    }

    /// The frames of stored messages, with a ping after them.
    async fn frames(&self, app: AppId, list: &[u8], take: MesaTake) -> Vec<Frame> {
        // Reading a long list takes long.
        if list.len() >= LONG_BODY {
            self.hub.queue_long_step(app, LongStep::Body).await;
        }

        // One text that is not UTF-8 must not cost the user all the others.
        let text = String::from_utf8_lossy(list);
        let Some(messages) = mesa::stored(&text) else {
            self.app(app).metrics.dispatch_malformed.inc();
            return Vec::new();
        };

        let mut frames = Vec::with_capacity(messages.len() + 1);
        let mut slice = TimeSlice::begin();
        for (at, message) in messages.iter().enumerate() {
            slice.rest().await;
            let frame = match take {
                MesaTake::Numbered => {
                    let mut out = Out::default();
                    mesa::redelivered(&mut out, message, at + 1);
                    Some(out.into_event())
                }
                _ => event(message),
            };
            frames.extend(frame);
        }

        frames.push(Frame::ping(STORED_PING));
        frames
    }

    /// Notes that a client has answered the ping after what was stored: it has all of it.
    pub(crate) fn confirm(&self, app: AppId, user: &str, id: ConnectionId) -> bool {
        let Some((mesa, cluster)) = self.in_redis(app) else {
            return false;
        };
        // Only once, and only for a connection that was given something.
        if !mesa.users.lock().unconfirmed.remove(&id) {
            return false;
        }
        let keys = cluster.keys(app);
        // Nobody waits for it. If it is lost, the list is stored again later: the user gets it
        // twice, and not never.
        let mut command = redis::cmd("HDEL");
        command.arg(keys.aside()).arg(&*self.field(id, user));
        drop(cluster.bus.command(&keys.home, command));
        true
    }

    /// Notes that a connection of a user has ended.
    pub(crate) fn leave(&self, app: AppId, user: &str, id: ConnectionId) {
        if let Some((mesa, _)) = self.in_redis(app) {
            let mut users = mesa.users.lock();
            self.leave_with(&mut users, app, user, id);
        }
    }

    fn leave_with(&self, users: &mut Users, app: AppId, user: &str, id: ConnectionId) {
        let Some((mesa, cluster)) = self.in_redis(app) else {
            return;
        };
        users.unanswered.remove(&id);
        if users.unconfirmed.remove(&id) {
            let field = self.field(id, user);
            // Redis may not get this, so a later round does it again.
            users.owes |= !matches!(cluster.bus.health(), Health::Up);
            drop(put_back(mesa, cluster, user, field));
        }
        if users.go(user, id) {
            self.gone(app, user);
        }
    }

    /// Has Redis note that a user is no longer here. The users' lock is held, as in [`Mesa::enter`].
    pub(super) fn gone(&self, app: AppId, user: &str) {
        let Some((mesa, cluster)) = self.in_redis(app) else {
            return;
        };

        let keys = cluster.keys(app);
        drop(cluster.bus.eval(
            &LEAVE,
            &keys.home,
            vec![mesa.connected.clone(), keys.nodes(), keys.users(self.id())],
            vec![
                arg(user),
                self.node_name(),
                keys.prefix(),
                keys.gone(),
                mesa.exact(),
            ],
        ));
    }

    /// Stores a list of messages for a user who has gone before they could be delivered, after what is stored.
    pub(super) fn store(&self, mesa: &MesaApp, user: &str, list: Bytes) {
        let one = GivenBack {
            user: user.into(),
            list,
            goes_to: GoesTo::Back,
        };
        self.give_back(mesa, one);
    }
}

/// Stores again what was set aside under `field`.
pub(super) fn put_back(
    mesa: &MesaApp,
    cluster: &ClusterHandles,
    user: &str,
    field: Bytes,
) -> impl Future<Output = Result<redis::Value, BusError>> + use<> {
    let keys = cluster.keys(mesa.app);
    let names = vec![mesa.undelivered.clone(), keys.aside(), keys.nodes()];
    let args = vec![
        arg(user),
        field,
        keys.prefix(),
        cluster.bus.channel(&mesa.settled).into(),
    ];
    cluster.bus.eval(&PUT_BACK, &keys.home, names, args)
}

/// A stored message as an event; nothing if no event can be called that.
pub(super) fn event(message: &StoredMessage<'_>) -> Option<Frame> {
    let data = message.d.unwrap_or(serde_json::value::RawValue::NULL);
    let event = Event::new(message.name(), Data::Json(data)).ok()?;
    Some(event.encode())
}

impl MesaArrival {
    /// The connection is let in, and reached by everything that is placed from now on: returns what comes before that. Called
    /// under the shard's lock.
    pub(crate) fn let_in(&mut self) -> Vec<Frame> {
        self.is_in = true;
        let mut frames = std::mem::take(&mut self.stored);
        if let Some(mesa) = self.mesa.get(self.app) {
            let captured = mesa.users.lock().arrived(&self.user, self.id);
            frames.extend(captured.into_iter().map(|message| message.frame));
        }
        frames
    }
}

impl Drop for MesaArrival {
    fn drop(&mut self) {
        if self.is_in {
            return;
        }
        let Some(mesa) = self.mesa.get(self.app) else {
            return;
        };

        let mut users = mesa.users.lock();
        let captured = users.arrived(&self.user, self.id);
        self.mesa
            .leave_with(&mut users, self.app, &self.user, self.id);
        drop(users);

        for message in captured {
            // Without a list it is not one to be stored, and its user just misses it.
            if !message.list.is_empty() {
                self.mesa.store(mesa, &self.user, message.list);
            }
        }
    }
}

impl Users {
    /// Notes a connection that is about to be let in, and whether it takes what is stored.
    fn come(&mut self, user: &SmolStr, id: ConnectionId, takes: bool) {
        self.changes += 1;
        let here = self.here.entry(user.clone()).or_default();
        here.change = self.changes;
        here.connections += 1;

        here.coming.push(Coming {
            id,
            captured: Vec::new(),
            bytes: 0,
        });

        if takes {
            self.unconfirmed.insert(id);
            self.looks.after(user);
        }
    }

    /// Notes that a connection is let in, or never will be; returns what came for it.
    fn arrived(&mut self, user: &str, id: ConnectionId) -> Vec<Captured> {
        let Some(here) = self.here.get_mut(user) else {
            return Vec::new();
        };
        self.changes += 1;
        here.change = self.changes;
        match here.coming.iter().position(|coming| coming.id == id) {
            Some(at) => here.coming.remove(at).captured,
            None => Vec::new(),
        }
    }

    /// Notes that a connection has ended; true if it was the user's last here.
    fn go(&mut self, user: &str, id: ConnectionId) -> bool {
        let Some(here) = self.here.get_mut(user) else {
            return false;
        };
        self.changes += 1;
        here.change = self.changes;
        // It may end before it is let in.
        here.coming.retain(|coming| coming.id != id);
        here.connections -= 1;
        let is_last = here.connections == 0;
        if is_last {
            self.here.remove(user);
        }
        is_last
    }

    /// Distinguishes the states of a user: another one each time that a connection comes, is let in or goes.
    pub(super) fn change(&self, user: &str) -> Option<u64> {
        self.here.get(user).map(|here| here.change)
    }

    /// Holds a message for the connections of `user` that are about to be let in; adds them to `held`.
    pub(super) fn capture(
        &mut self,
        user: &str,
        message: &Captured,
        held: &mut Vec<ConnectionId>,
    ) -> Capture {
        let mut capture = Capture::Nobody;
        let Some(here) = self.here.get_mut(user) else {
            return capture;
        };

        for coming in &mut here.coming {
            // Also those of a message for which there is no room: what follows it has no room either,
            // so the order stays. Such a message is stored, and connections that hold it already get
            // it twice.
            coming.bytes += message.frame.len();
            if coming.bytes > MESA_COMING_BYTES {
                return Capture::NoRoom;
            }
            coming.captured.push(message.clone());
            held.push(coming.id);
            capture = Capture::Held;
        }

        capture
    }
}

/// What became of a message for connections that are about to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capture {
    /// There are none.
    Nobody,
    /// It waits for them.
    Held,
    /// There was no room for it.
    NoRoom,
}
