//! Coming in: what waits for the user, the channels of a lost connection, and those that the handshake names.

use std::num::{NonZeroU32, NonZeroU64};

use serde_json::value::RawValue;

use super::{
    client::Client,
    joining::{Claim, Join, Told},
};
use crate::{
    auth::{TokenError, Verified, unix_now},
    close::{self, Close},
    event_loop::EventLoop,
    history::{Entry, Key, Waiting},
    hub::{Coming, Connection, Joining, State, StoredReplay},
    id::ConnectionId,
    log_limit::Line,
    metrics::Refusal,
    node::{Former, FormerChannel, Hearing, REVOKED, Recalled},
    predicate::Value,
    protocol::{
        event::channel_name,
        frame::Frame,
        native::{self, Reconnect, Welcome},
    },
};

/// What a client asks for with its handshake, to be had once it is let in.
#[derive(Debug, Default)]
pub(crate) struct Entrance {
    /// Channels to join.
    pub(crate) channels: Vec<String>,
    /// The connection whose place it takes, as the client wrote it.
    pub(crate) resume: Option<String>,
    /// Whether it named no app, and there are several. What is said of its token then names the app that was taken.
    pub(crate) is_app_guessed: bool,
}

impl Entrance {
    /// Whether there is something to do once it is let in.
    pub(crate) fn asks_for_something(&self) -> bool {
        !self.channels.is_empty() || self.resume.is_some()
    }

    /// Whether nothing is asked for, and nothing is to be known later.
    pub(crate) fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.resume.is_none() && !self.is_app_guessed
    }
}

/// Why a connection was not let in, or not renewed, after its token had been found good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unopened {
    /// The token was revoked meanwhile.
    Revoked,
    /// The API has replaced the connection's claims since the token was issued.
    Superseded,
}

/// What was stored for a user who comes in.
#[derive(Debug)]
pub(super) struct Stored {
    /// None where the store did not say.
    waiting: Option<Waiting>,
    /// What the node heard of the user when it asked.
    hearing: Hearing,
}

impl Client {
    /// The connection as it is with a verified token's claims and rights.
    pub(super) fn authenticated(
        &self,
        connection: &Connection,
        verified: Verified,
    ) -> Result<Connection, String> {
        let claims = str::from_utf8(&verified.claims).unwrap_or_default();
        let auth = self
            .app()
            .claims(claims, &self.node.live().config.limits)
            .map_err(|error| format!("claims: {error}"))?;
        let mut attributes = connection.attributes.clone();
        attributes.auth = auth;
        // One string for both, where there is one.
        attributes.user = match attributes.auth.get("sub") {
            sub @ Value::String(_) => sub.clone(),
            _ => Value::String(verified.user),
        };
        Ok(Connection {
            app: self.app,
            attributes,
            rights: verified.rights.unwrap_or_else(|| self.default_rights()),
            expires_at: verified.expires_at.and_then(NonZeroU64::new),
            issued_at: verified.issued_at.and_then(seconds),
            replaced_at: None,
            takes_stored: self.store && self.app().user_events().is_some(),
        })
    }

    /// Lets a connection in, with what was stored for its user before everything newer, then brings it into its
    /// channels.
    pub(super) async fn enter(
        self,
        connection: Connection,
        entrance: Entrance,
        auth: Option<Box<RawValue>>,
    ) {
        let _attending = self
            .node
            .attend_user(self.app, connection.user_name())
            .await;
        let recalled = entrance
            .resume
            .as_ref()
            .map(|id| self.recall(id, &connection));
        let former = match (&entrance.resume, &recalled) {
            (Some(id), Some(None)) => self.recall_elsewhere(id, &connection).await,
            _ => None,
        };
        let resumed = recalled
            .as_ref()
            .map(|recalled| recalled.is_some() || former.is_some());
        let was = self.connection();
        let is_new_user =
            was.is_some_and(|was| was.user().is_none()) && connection.user().is_some();
        let is_in = match connection.user_name() {
            Some(user) if connection.takes_stored && is_new_user => {
                let key = Key::user(self.app, user.clone());
                let _turn = self.node.turns.take(&key).await;
                let hearing = self.node.hearing(self.app, user);
                let waiting = self.node.history.waiting(&key).await;
                if let Err(error) = &waiting
                    && let Some(others) = self.node.lines().note(Line::WithoutStored)
                {
                    tracing::warn!(others, %error, "a user comes in without what was stored, and gets it when it can be had");
                }
                let stored = Stored {
                    waiting: waiting.ok(),
                    hearing,
                };
                self.open(connection, resumed, Some(&stored), auth.as_deref())
            }
            _ => self.open(connection, resumed, None, auth.as_deref()),
        };
        if !is_in {
            return;
        }
        if let Some(recalled) = recalled.flatten() {
            self.come_back(recalled).await;
        }
        if let Some((id, former)) = former {
            self.come_back_here(id, former).await;
        }
        self.join_at_entrance(entrance.channels).await;
    }

    /// Brings a client that was let in into the channels that its handshake named.
    async fn join_at_entrance(&self, channels: Vec<String>) {
        for channel in channels {
            if let Err(error) = channel_name(&channel) {
                self.refuse(None, error.code(), &format!("channel={channel}: {error}"));
                continue;
            }
            let allowed = self
                .connection()
                .is_some_and(|own| own.rights.may_join(&channel));
            if !allowed {
                let message = format!("this needs the right \"join\" for channel \"{channel}\"");
                self.refuse(None, "forbidden", &message);
                continue;
            }
            self.join(
                Join {
                    channel,
                    members: false,
                    since: None,
                },
                Told::Joined,
                Coming::New,
            )
            .await;
        }
    }

    fn recall(&self, id: &str, connection: &Connection) -> Option<Recalled> {
        let id: ConnectionId = id.parse().ok()?;
        self.node
            .recall(self.app, &id, connection.user(), connection.device())
    }

    async fn recall_elsewhere(
        &self,
        id: &str,
        connection: &Connection,
    ) -> Option<(ConnectionId, Former)> {
        let id: ConnectionId = id.parse().ok()?;
        let (user, device) = (connection.user(), connection.device());
        Some((
            id,
            self.node
                .recall_elsewhere(self.app, &id, user, device)
                .await?,
        ))
    }

    /// Takes the place of another node's lost connection in its channels, as [`Client::come_back`] does of this one's.
    async fn come_back_here(&self, id: ConnectionId, mut former: Former) {
        self.app().metrics.resumed.inc();
        if let Some(profile) = former.profile() {
            self.event_loop
                .shard()
                .with(|table| table.set_profile(self.seat.at, profile));
        }
        let Some(own) = self.connection() else { return };
        former.channels.retain(|channel| {
            let was_put = own.user().is_some() && !channel.was_allowed;
            let may_stay = own.rights.may_join(&channel.name) || was_put;
            if !may_stay {
                self.reply(native::left(&channel.name));
            }
            may_stay
        });
        let (mut takeover, gone) = self.node.settle_elsewhere(&own, id, former).await;
        for channel in gone {
            self.reply(native::left(&channel));
        }
        while let Some(FormerChannel { name, watched, .. }) = takeover.next() {
            let members = watched && own.rights.may_see_members(&name);
            let join = Join {
                channel: name,
                members,
                since: None,
            };
            let joined = self.join(join, Told::Joined, Coming::Resumed(id)).await;
            match joined.joining {
                Joining::Joined(_) => takeover.taken(),
                // As in `come_back`.
                Joining::Already(_) | Joining::Full | Joining::Gone => takeover.give_up(),
            }
        }
    }

    /// Takes a lost connection's place in its channels. Those that the client may not join any more are left, and it
    /// is told. Those that it never might, it was put into, and stays in, if it is a user: a device proves nothing.
    async fn come_back(&self, mut recalled: Recalled) {
        let lost = recalled.lost.clone();
        self.app().metrics.resumed.inc();
        if let Some(profile) = lost.profile() {
            self.event_loop
                .shard()
                .with(|table| table.set_profile(self.seat.at, profile.clone()));
        }
        while let Some((channel, watched)) = recalled.next() {
            let Some(own) = self.connection() else { return };
            let was_put = own.user().is_some() && !lost.rights.may_join(&channel);
            if !own.rights.may_join(&channel) && !was_put {
                recalled.give_up();
                self.reply(native::left(&channel));
                continue;
            }
            let members = watched && own.rights.may_see_members(&channel);
            let join = Join {
                channel: channel.to_string(),
                members,
                since: None,
            };
            let coming = Coming::Resumed(lost.id());
            let joined = self.join(join, Told::Joined, coming).await;
            match joined.joining {
                Joining::Joined(_) => recalled.taken(),
                // Put into it by someone meanwhile: nobody was told that it stands in for the lost one.
                Joining::Already(_) | Joining::Full | Joining::Gone
                    if joined.claim == Claim::Made =>
                {
                    recalled.lapse();
                }
                Joining::Already(_) | Joining::Full | Joining::Gone => recalled.give_up(),
            }
        }
    }

    /// Lets the connection be reached, or renews it; its welcome, then what was stored for it, come before anything
    /// else. Channels that renewed rights do not allow any more are left, and their members not heard of. Then the `auth`
    /// that asked for it is answered. Returns whether it is let in: what has happened meanwhile may forbid it, and the client
    /// has been told so then.
    pub(super) fn open(
        &self,
        connection: Connection,
        resumed: Option<bool>,
        stored: Option<&Stored>,
        auth: Option<&RawValue>,
    ) -> bool {
        let at = self.seat.at;
        let welcome = self.welcome(&connection, resumed);
        let (expires_at, rights) = (connection.expires_at, connection.rights.clone());
        let waiting = stored.and_then(|stored| stored.waiting.as_ref());
        let missed = waiting.iter().flat_map(|waiting| &waiting.entries);
        let missed: Vec<&Entry> = missed
            .filter(|entry| entry.is_for(&connection.reader()))
            .collect();
        let events = missed.len() as u64;
        let missed = StoredReplay::new(self.node.hub.context(), &missed);
        let opened = self.event_loop.with_owner(|table, owner| {
            let pending = table.state(at) == State::Pending;
            let was = table.connection(at);
            // Only here, under the lock, nothing can come in between any more.
            if let Some(why) = self.unopened(&connection, was.as_deref()) {
                if pending {
                    table.close(at, None, &Close::new(close::UNAUTHORIZED, REVOKED));
                }
                return Err((why, pending));
            }
            let open = table.open(at, connection);
            if open && pending {
                table.place_own(at, welcome);
            }
            if let (true, false, Some(was)) = (open, pending, was) {
                self.node.drop_what_is_not_allowed(table, at, &was, &rights);
            }
            let replays =
                waiting.is_some_and(|waiting| table.hand_over(owner, at, waiting, missed));
            let asked = waiting.is_some();
            let doubt = stored.and_then(|stored| self.node.doubt_since(stored.hearing, asked));
            if let Some(number) = doubt {
                table.doubt(at, number);
            }
            Ok((open && pending, replays, doubt))
        });
        let (opened, replays, doubt) = match opened {
            Ok(opened) => opened,
            Err((why, pending)) => {
                self.say_unopened(why, pending, auth);
                return false;
            }
        };
        if doubt.is_some() {
            self.node.clear_doubts();
        }
        self.app().metrics.replayed.inc_by(events);
        if replays {
            EventLoop::block(&self.event_loop, at);
        }
        if opened {
            self.app().metrics.connections.inc();
            self.app().metrics.connected.inc();
        }
        if let Some(expires_at) = expires_at {
            self.event_loop.expect_expiry(at, expires_at.get());
        }
        self.acknowledge_auth(auth);
        true
    }

    /// Whether what has happened since its token was verified keeps a connection from being let in or renewed. `was` is the
    /// connection as it is.
    fn unopened(&self, connection: &Connection, was: Option<&Connection>) -> Option<Unopened> {
        if self.node.is_revoked(connection, unix_now()) {
            return Some(Unopened::Revoked);
        }
        let replaced_at = was?.replaced_at?;
        // One without `iat` may be as old as any.
        let is_older = connection
            .issued_at
            .is_none_or(|issued_at| issued_at < replaced_at);
        is_older.then_some(Unopened::Superseded)
    }

    /// Says why a connection was not let in, or not renewed.
    fn say_unopened(&self, why: Unopened, pending: bool, auth: Option<&RawValue>) {
        match why {
            Unopened::Revoked if pending => {
                let refusals = self.node.refusals();
                refusals.refuse(Refusal::Token, Some(self.app), TokenError::Revoked);
            }
            Unopened::Revoked => self.refuse(auth, "unauthorized", REVOKED),
            Unopened::Superseded => {
                let message = "the claims of this connection were replaced after the token was issued; fetch a new one";
                self.refuse(auth, "token_superseded", message);
            }
        }
    }

    fn welcome(&self, connection: &Connection, resumed: Option<bool>) -> Frame {
        let live = self.node.live();
        let limits = &live.config.limits;
        native::welcome(&Welcome {
            connection: connection.id(),
            user: connection.user(),
            heartbeat: limits.heartbeat.as_secs(),
            resumed,
            reconnect: Reconnect {
                min_ms: limits.reconnect_min.as_millis() as u64,
                max_ms: limits.reconnect_max.as_millis() as u64,
                resume_ms: limits.resume_window.as_millis() as u64,
            },
        })
    }

    /// Answers an `auth` that carried an `id`.
    fn acknowledge_auth(&self, id: Option<&RawValue>) {
        let (Some(id), Some(connection)) = (id, self.connection()) else {
            return;
        };
        let expires_at = connection.expires_at.map(NonZeroU64::get);
        self.reply(native::ack_auth(
            id,
            connection.user().unwrap_or_default(),
            expires_at,
        ));
    }
}

/// A time of a token as connections hold it; far ones count as the last that fits.
fn seconds(time: u64) -> Option<NonZeroU32> {
    NonZeroU32::new(u32::try_from(time).unwrap_or(u32::MAX))
}
