//! Coming in: what waits for the user, the channels of a lost connection, and those that the handshake names.

use std::{
    num::{NonZeroU32, NonZeroU64},
    sync::Arc,
};

use serde_json::value::RawValue;
use smol_str::SmolStr;

use super::{
    client::Client,
    joining::{Claim, Join, JoinReply},
    recovering::may_come_back,
};
use crate::{
    auth::{Rights, TokenError, Verified, lacking, unix_now},
    close::{self, Close},
    event_loop::EventLoop,
    filter::Value,
    history::{Entry, Key, Waiting},
    hub::{Connection, JoinKind, Joining, LostChannel, Owner, Replay, State, StoredReplay, Table},
    id::ConnectionId,
    log_limit::Line,
    metrics::Refusal,
    node::{
        LocalResume, MesaArrival, REVOKED, ResumeChannel, ResumeState, SubscriptionState,
        TopicGuard, UserEventSync,
    },
    protocol::{
        event::channel_name,
        frame::Frame,
        native::{self, Reconnect, Welcome},
        wire::Form,
    },
};

/// What a client asks for with its handshake, to be had once it is let in.
#[derive(Debug, Default)]
pub(crate) struct ConnectOptions {
    /// Channels to join.
    pub(crate) channels: Vec<String>,
    /// The connection whose place it takes, as the client wrote it.
    pub(crate) resume: Option<String>,
    /// Whether it named no app, and there are several. A message about its token then names the app that was taken.
    pub(crate) is_app_guessed: bool,
    /// Whether its address seems to have the token under another name.
    pub(crate) is_token_misnamed: bool,
}

impl ConnectOptions {
    /// Whether there is something to do once it is let in.
    pub(crate) fn asks_for_something(&self) -> bool {
        !self.channels.is_empty() || self.resume.is_some()
    }

    /// Whether nothing is asked for, and nothing is to be known later.
    pub(crate) fn is_empty(&self) -> bool {
        let is_plain = !self.is_app_guessed && !self.is_token_misnamed;
        self.channels.is_empty() && self.resume.is_none() && is_plain
    }
}

/// Why a connection was not let in, or not renewed, after its token had been found good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unopened {
    /// The token was revoked in the meantime.
    Revoked,
    /// The API has replaced the connection's claims since the token was issued.
    Superseded,
}

/// What was stored for a user who comes in.
#[derive(Debug)]
pub(super) struct Stored {
    user: SmolStr,
    /// None where the store did not say.
    waiting: Option<Waiting>,
    /// What the node heard of the user when it asked.
    subscription: SubscriptionState,
}

/// What was held for a client until it is let in.
#[derive(Default)]
pub(super) struct StoredForClient<'a> {
    pub(super) stored: Option<&'a Stored>,
    /// What Mesa's programs have sent.
    pub(super) arrival: Option<MesaArrival>,
}

impl<'a> StoredForClient<'a> {
    fn of(stored: Option<&'a Stored>, arrival: Option<MesaArrival>) -> Self {
        Self { stored, arrival }
    }
}

/// A connection that is to be let in, or renewed, with what is placed for it then. Made before the shard's lock is taken,
/// which is held for as little as possible.
struct Opening<'a> {
    connection: Connection,
    /// The connection's, which the table has taken when they are needed.
    rights: Arc<Rights>,
    welcome: Frame,
    /// What a client of Mesa learns that has authenticated.
    authenticated: Option<Frame>,
    stored: Option<&'a Stored>,
    /// What is stored, ready to be handed over.
    missed: StoredReplay,
    arrival: &'a mut Option<MesaArrival>,
}

/// What letting a client in, or renewing it, has come to.
struct Opened {
    /// It was let in just now.
    is_new: bool,
    /// The owner has to start writing what it missed.
    replays: bool,
    /// The number of the doubt that it is in, if it is.
    suspected_gap: Option<u64>,
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
            .claims(claims, &self.node.runtime_config().config.limits)
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
        options: ConnectOptions,
        auth: Option<Box<RawValue>>,
    ) {
        // Before the store is asked, so that what is stored after its answer is heard. Once this is
        // dropped, the open connection holds the subscriptions.
        let _subscriptions = self
            .node
            .subscribe_user(self.app, connection.user_name())
            .await;
        let resume = self.find_named(options.resume).await;
        let local_resume = resume
            .as_ref()
            .and_then(|id| self.begin_resume(id, &connection));

        // Only a connection that this node does not know is looked for on the others.
        let resume_state = match (&resume, &local_resume) {
            (Some(id), None) => self.begin_remote_resume(id, &connection).await,
            _ => None,
        };

        // One that has missed something learns that it was not recovered, and looks for what is missing.
        let remote = resume_state.as_ref().map(|(_, resume_state)| resume_state);
        let is_recovered = (local_resume.is_some() || remote.is_some())
            && (self.recovery.is_none()
                || self
                    .misses_nothing(&connection, local_resume.as_ref(), remote)
                    .await);
        let resumed = resume.as_ref().map(|_| is_recovered);

        let is_new_user = self.is_new_user(&connection);
        let arrival = if is_new_user {
            self.arrive_for_mesa(&connection).await
        } else {
            None
        };

        let stored = match connection.user_name() {
            Some(user) if connection.takes_stored && is_new_user => {
                Some(self.stored_for(user).await)
            }
            _ => None,
        };

        let held = StoredForClient::of(stored.as_ref().map(|(_, stored)| stored), arrival);
        let is_in = self.open(connection, resumed, held, auth.as_deref());
        // Lets go of the topic's lock.
        drop(stored);

        if !is_in {
            return;
        }

        // Before the channels of the handshake: one may be among both, and coming back to it must
        // not count as joining.
        if let Some(local_resume) = local_resume {
            self.resume_local(local_resume).await;
        }

        if let Some((id, resume_state)) = resume_state {
            self.resume_remote(id, resume_state).await;
        }

        self.join_on_connect(options.channels).await;
    }

    /// Whether the client had no user so far, and has one as `connection`.
    fn is_new_user(&self, connection: &Connection) -> bool {
        let was = self.connection();
        was.is_some_and(|was| was.user().is_none()) && connection.user().is_some()
    }

    /// Reads what is stored for a user who comes in, under the lock of the user's topic. The lock is held until the
    /// connection is open: each event is in the store by now, or is placed after that.
    async fn stored_for(&self, user: &SmolStr) -> (TopicGuard<'_>, Stored) {
        let key = Key::user(self.app, user.clone());
        let topic_lock = self.node.topic_locks.lock(&key).await;
        let subscription = self.subscription_state(user);
        let waiting = self.node.history.waiting(&key).await;
        if let Err(error) = &waiting
            && let Some(others) = self.node.lines().note(Line::WithoutStored)
        {
            tracing::warn!(others, %error, "a user comes in without what was stored, and gets it when it can be had");
        }

        let stored = Stored {
            user: user.clone(),
            waiting: waiting.ok(),
            subscription,
        };
        (topic_lock, stored)
    }

    /// Brings a client that was let in into the channels that its handshake named.
    async fn join_on_connect(&self, channels: Vec<String>) {
        for channel in channels {
            if let Err(error) = channel_name(&channel) {
                self.refuse(None, error.code(), &format!("channel={channel}: {error}"));
                continue;
            }

            let allowed = self
                .connection()
                .is_some_and(|own| own.rights.may_join(&channel));
            if !allowed {
                self.refuse(None, "forbidden", &lacking("join", &channel));
                continue;
            }

            self.join(
                Join {
                    channel,
                    members: false,
                    is_plain: false,
                    since: None,
                },
                JoinReply::Joined,
                JoinKind::New,
            )
            .await;
        }
    }

    /// What fetches stored events that may have been missed, if there are other nodes.
    fn user_events(&self) -> Option<&UserEventSync> {
        self.node.cluster.as_ref().map(|cluster| &*cluster.stored)
    }

    /// To be read before the store is asked what waits for `user`.
    fn subscription_state(&self, user: &SmolStr) -> SubscriptionState {
        let sync = self.user_events();
        sync.map_or(SubscriptionState::NOTHING, |sync| {
            sync.subscription_state(self.app, user)
        })
    }

    fn begin_resume(&self, id: &str, connection: &Connection) -> Option<LocalResume> {
        let id: ConnectionId = id.parse().ok()?;
        let device = self.proving_device(connection);
        self.node
            .begin_resume(self.app, &id, connection.user(), device)
    }

    async fn begin_remote_resume(
        &self,
        id: &str,
        connection: &Connection,
    ) -> Option<(ConnectionId, ResumeState)> {
        let id: ConnectionId = id.parse().ok()?;
        let (user, device) = (connection.user(), self.proving_device(connection));
        let handover = &self.node.cluster.as_ref()?.handover;
        let resume_state = handover.begin_remote_resume(self.app, &id, user, device);
        Some((id, resume_state.await?))
    }

    /// Takes the place of another node's lost connection in its channels, as [`Client::resume_local`] does of this one's.
    async fn resume_remote(&self, id: ConnectionId, mut resume_state: ResumeState) {
        self.app().metrics.resumed.inc();
        if let Some(profile) = resume_state.profile() {
            self.event_loop
                .shard()
                .lock_and_wake(|table| table.set_profile(self.socket.at, profile));
        }

        let Some(own) = self.connection() else { return };
        self.note_successor(id, own.id());
        let successor = resume_state.successor();
        if let Some(successor) = successor {
            self.note_successor(successor, own.id());
        }
        let id = successor.unwrap_or(id);

        // Rights may have changed since, so each channel is checked again.
        resume_state.channels.retain(|channel| {
            let may_stay = may_come_back(&own, &channel.name, channel.was_allowed);
            if !may_stay {
                self.reply(native::left(&channel.name));
            }
            may_stay
        });

        let join_kind = if resume_state.is_listed {
            JoinKind::Inherited(id)
        } else {
            JoinKind::Resumed(id)
        };

        let Some(cluster) = &self.node.cluster else {
            return;
        };

        let (mut remote_resume, gone) = cluster
            .handover
            .settle_remote(&self.node, &own, id, resume_state)
            .await;
        for channel in gone {
            self.reply(native::left(&channel));
        }

        while let Some(ResumeChannel { name, watched, .. }) = remote_resume.next() {
            let members = watched && own.rights.may_see_members(&name);
            let since = self.since(&name);
            let join = Join {
                channel: name,
                members,
                is_plain: false,
                since,
            };

            let joined = self.join(join, JoinReply::Joined, join_kind).await;
            match joined.joining {
                Joining::Joined(_) => remote_resume.taken(),
                // The reason is the same as in `resume_local`.
                Joining::Already(_) | Joining::Full | Joining::Gone => remote_resume.give_up(),
            }
        }
    }

    /// Notes which connection a client has that has come back. If its welcome is lost, it comes back by the one before again.
    fn note_successor(&self, old: ConnectionId, new: ConnectionId) {
        let resume_table = &self.node.hub.context().resume_table;
        resume_table.note_successor(old, new);
    }

    /// Takes a lost connection's place in its channels. Channels that the client may no longer join are left, and it
    /// is notified.
    async fn resume_local(&self, mut local_resume: LocalResume) {
        let lost = local_resume.lost.clone();
        self.app().metrics.resumed.inc();
        if let Some(profile) = lost.profile() {
            self.event_loop
                .shard()
                .lock_and_wake(|table| table.set_profile(self.socket.at, profile.clone()));
        }

        if let Some(own) = self.connection() {
            self.note_successor(lost.id(), own.id());
        }

        while let Some(LostChannel {
            name: channel,
            watched,
        }) = local_resume.next()
        {
            // Looked up for each channel: a renewal or a call of the API may change its rights
            // while this waits.
            let Some(own) = self.connection() else { return };
            if !may_come_back(&own, &channel, lost.rights.may_join(&channel)) {
                local_resume.give_up();
                self.reply(native::left(&channel));
                continue;
            }

            let members = watched && own.rights.may_see_members(&channel);
            let join = Join {
                channel: channel.to_string(),
                members,
                is_plain: false,
                since: self.since(&channel),
            };

            let join_kind = JoinKind::Resumed(lost.id());
            let joined = self.join(join, JoinReply::Joined, join_kind).await;
            match joined.joining {
                Joining::Joined(_) => local_resume.taken(),
                // Put into it by a call in the meantime: nobody was notified that it takes the lost one's place.
                Joining::Already(_) | Joining::Full | Joining::Gone
                    if joined.claim == Claim::Made =>
                {
                    local_resume.lapse();
                }
                Joining::Already(_) | Joining::Full | Joining::Gone => local_resume.give_up(),
            }
        }
    }

    /// Makes the connection reachable, or renews it. Its welcome, then what was stored for it, come before anything
    /// else. Channels that renewed rights no longer allow are left, and their members no longer watched. Then the
    /// `auth` that asked for it is answered. Returns whether it is let in: what has happened in the meantime may
    /// forbid it, and the client is notified then.
    pub(super) fn open(
        &self,
        connection: Connection,
        resumed: Option<bool>,
        held: StoredForClient<'_>,
        auth: Option<&RawValue>,
    ) -> bool {
        // It outlives the shard's lock: if the client is not let in, dropping it stores again what it holds.
        let mut arrival = held.arrival;
        // First, since the welcome and what follows it are in that form.
        let form_before = self.take_form_inside();
        let opening = Opening {
            welcome: self.welcome(&connection, resumed),
            authenticated: auth.and_then(|_| self.authenticated_for_mesa(&connection)),
            stored: held.stored,
            missed: self.missed_by(&connection, held.stored),
            arrival: &mut arrival,
            rights: connection.rights.clone(),
            connection,
        };

        let (expires_at, events) = (opening.connection.expires_at, opening.missed.events());
        let opened = self
            .event_loop
            .with_owner(|table, owner| self.open_now(table, owner, opening));

        let opened = match opened {
            Ok(opened) => opened,
            Err((why, pending)) => {
                // The refusal goes out in the form that the client knows.
                self.event_loop.set_form(&self.socket, form_before);
                self.say_unopened(why, pending, auth);
                return false;
            }
        };

        self.app().metrics.replayed.inc_by(events);
        if let Some(expires_at) = expires_at {
            self.event_loop
                .expect_expiry(self.socket.at, expires_at.get());
        }

        self.note_opened(&opened);
        self.acknowledge_auth(auth);
        true
    }

    /// The stored events that are for a client that comes in, in its form.
    fn missed_by(&self, connection: &Connection, stored: Option<&Stored>) -> StoredReplay {
        let waiting = stored.and_then(|stored| stored.waiting.as_ref());
        let missed = waiting.iter().flat_map(|waiting| &waiting.entries);
        let missed: Vec<&Entry> = missed
            .filter(|entry| entry.is_for(&connection.reader()))
            .collect();
        StoredReplay::new(self.node.hub.context(), self.socket.form.get(), &missed)
    }

    /// The step of [`Client::open`] that is under the shard's lock. Refuses with the reason, and with whether the client was
    /// yet to be let in.
    fn open_now(
        &self,
        table: &mut Table,
        owner: &mut Owner,
        opening: Opening<'_>,
    ) -> Result<Opened, (Unopened, bool)> {
        let at = self.socket.at;
        let pending = table.state(at) == State::Pending;
        let was = table.connection(at);

        // Checked here, since nothing can come in between under the lock.
        if let Some(why) = self.unopened(&opening.connection, was.as_deref()) {
            // A renewal that fails leaves the connection as it was.
            if pending {
                table.close(at, None, &Close::new(close::UNAUTHORIZED, REVOKED));
            }
            return Err((why, pending));
        }

        // Within one lock: no event may come before the welcome, and none may be lost between
        // what is replayed and what is live.
        let open = table.open(at, opening.connection);
        if open && pending {
            table.place_own(at, opening.welcome);
        }

        if let (true, Some(authenticated)) = (open, opening.authenticated) {
            table.place_own(at, authenticated);
        }

        if let (true, false, Some(was)) = (open, pending, was) {
            let rights = &opening.rights;
            self.node.drop_what_is_not_allowed(table, at, &was, rights);
        }

        let waiting = opening.stored.and_then(|stored| stored.waiting.as_ref());
        let mut replays =
            waiting.is_some_and(|waiting| table.hand_over(owner, at, waiting, opening.missed));
        if let (true, Some(arrival)) = (open, opening.arrival) {
            let context = self.node.hub.context();
            let wire = context.wire(self.socket.form.get());
            let frames = Replay::new(context.refused.clone(), wire, arrival.let_in());
            replays |= table.replay(owner, at, frames);
        }

        let suspected_gap = self.suspect_since(opening.stored);
        if let Some(number) = suspected_gap {
            table.suspected_gap(at, number);
        }
        Ok(Opened {
            is_new: open && pending,
            replays,
            suspected_gap,
        })
    }

    /// The number of the doubt that a client is in that was given what was `stored` when the store was asked, if it is in one. Called
    /// under the lock under which it becomes reachable.
    fn suspect_since(&self, stored: Option<&Stored>) -> Option<u64> {
        let (stored, sync) = (stored?, self.user_events()?);
        // If the subscription was lost since the store was asked, an event may be neither in its answer
        // nor live.
        let asked = stored.waiting.is_some();
        sync.suspect_since((self.app, &stored.user), stored.subscription, asked)
    }

    /// Does what follows from letting a client in, or renewing it: fetches what it may have missed, writes what it did, counts it
    /// if it is new, and notifies the portal, if there is one.
    fn note_opened(&self, opened: &Opened) {
        if let (Some(_), Some(sync)) = (opened.suspected_gap, self.user_events()) {
            sync.clear_suspected_gaps();
        }

        if opened.replays {
            EventLoop::block(&self.event_loop, self.socket.at);
        }

        if opened.is_new {
            self.count_in();
        }
        self.has_authenticated_for_mesa();
    }

    /// Changes the form of a client that is about to be let in to that of those who are; returns the one before.
    fn take_form_inside(&self) -> Form {
        let (at, before) = (self.socket.at, self.socket.form.get());
        let is_pending = || self.event_loop.shard().lock(|table| table.state(at)) == State::Pending;
        if let Some(form) = self.form_inside.filter(|_| is_pending()) {
            self.event_loop.set_form(&self.socket, form);
        }
        before
    }

    fn count_in(&self) {
        let metrics = &self.app().metrics;
        metrics.connections.inc();
        metrics.connected.inc();
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
        let runtime_config = self.node.runtime_config();
        let limits = &runtime_config.config.limits;
        let recovery = self.recovery_name(connection, resumed == Some(true));

        native::welcome(&Welcome {
            connection: connection.id(),
            user: connection.user(),
            heartbeat: limits.heartbeat.as_secs(),
            resumed,
            recovery: recovery.as_deref(),
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
