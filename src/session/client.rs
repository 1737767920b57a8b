//! What a client's messages do.

use std::{borrow::Cow, rc::Rc, sync::Arc, time::Duration};

use serde_json::value::RawValue;
use smol_str::SmolStr;

use super::{
    Operation,
    arrival::default_rights,
    calling::explained_call,
    cost::{Cost, MessageProgress},
    joining::{Join, JoinReply, PAGES_TRIED},
    mesa::MesaSide,
    page_with_notices::{PageWithNotices, no_page},
    permissions,
    recovering::Recovering,
};
use crate::{
    app::{App, Unfit},
    auth::{Rights, TokenError},
    close::{self, Close},
    config::{ClientAuth, Presence},
    event_loop::{EventLoop, LocalSocket},
    history::Key,
    hub::{Connection, Count, JoinKind, LongStep, PageCursor, Snapshot, State, Table, channel_key},
    id::AppId,
    limits::{LONG_PROFILE, PAGE_DEFAULT, PAGE_MAX, REPLAY_LOOK, REPLAY_LOOK_MAX},
    metrics::Refusal,
    node::{
        Author, MembersQuery, Node, NodeError, PageBounds, PageStart, Prepared, Publication,
        Target, read_cursor, write_cursor,
    },
    protocol::{
        event::Sender,
        frame::Frame,
        native::{self, ClientEvent, MembersPage, Request},
        wire::Form,
    },
};

/// Whether a client that closed with `code` may only have loaded its page again: browsers then send 1001, or no code.
fn is_reload(code: u16) -> bool {
    matches!(code, close::GOING_AWAY | close::NO_STATUS)
}

/// One client as its operations know it.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) node: Arc<Node>,
    pub(super) event_loop: Rc<EventLoop>,
    pub(super) socket: Rc<LocalSocket>,
    pub(super) app: AppId,
    /// Which of the app's policies for clients holds.
    pub(super) policy: u16,
    /// Whether it gets its own messages back where they do not say.
    pub(super) echo: bool,
    /// Whether it takes events that were stored for its user.
    pub(super) store: bool,
    /// Its form once it is in, where that differs from the one before.
    pub(super) form_inside: Option<Form>,
    /// How it goes on for earlier connections, and later ones for it, if it knows no ids of connections.
    pub(super) recovery: Option<Rc<Recovering>>,
    /// Whether it is a server, by an API key: its events are nobody's, and it has no rate.
    pub(super) is_server: bool,
    /// What concerns a client of Mesa, if it is one.
    pub(super) mesa: Option<MesaSide>,
}

impl Client {
    pub(super) fn app(&self) -> &App {
        self.node.app(self.app)
    }

    /// Whether the client must authenticate.
    pub(super) fn client_auth(&self) -> ClientAuth {
        self.node
            .runtime_config()
            .access(self.app)
            .policy(usize::from(self.policy))
            .client_auth
    }

    /// Its rights where its token has no `can`.
    pub(super) fn default_rights(&self) -> Arc<Rights> {
        default_rights(&self.node, self.app, usize::from(self.policy))
    }

    pub(super) fn connection(&self) -> Option<Snapshot> {
        self.event_loop
            .shard()
            .lock(|table| table.connection(self.socket.at))
    }

    /// The state of the connection, unless it is gone.
    pub(super) fn standing(&self) -> Option<(State, Snapshot)> {
        self.event_loop.shard().lock(|table| {
            Some((
                table.state(self.socket.at),
                table.connection(self.socket.at)?,
            ))
        })
    }

    pub(super) fn reply(&self, frame: Frame) {
        self.event_loop
            .shard()
            .lock_and_wake(|table| table.place_own(self.socket.at, frame));
    }

    pub(super) fn refuse(&self, id: Option<&RawValue>, code: &'static str, message: &str) {
        self.app().metrics.client_refused(code);
        self.reply(native::error(id, code, message));
    }

    fn acknowledge(&self, id: Option<&RawValue>) {
        if let Some(id) = id {
            self.reply(native::ack(id));
        }
    }

    pub(super) fn close(&self, code: u16, reason: &str) {
        let close = Close::new(code, reason);
        self.event_loop
            .shard()
            .lock_and_wake(|table| table.close(self.socket.at, None, &close));
    }

    /// Closes a client that may come back, and says when: others may be closed for the same reason, and are not to come back
    /// together.
    pub(super) fn close_for_now(&self, code: u16, reason: &str) {
        let close = Close::new(code, reason);
        let runtime_config = self.node.runtime_config();
        let limits = &runtime_config.config.limits;
        let bye = native::bye_between(&close, limits.reconnect_min, limits.reconnect_max);
        self.event_loop
            .shard()
            .lock_and_wake(|table| table.close(self.socket.at, Some(bye), &close));
    }

    /// Closes a client that may not come in, and says so in the log.
    pub(super) fn turn_away(&self, why: Refusal, reason: &str) {
        self.node.refusals().refuse(why, Some(self.app), reason);
        self.close(close::UNAUTHORIZED, reason);
    }

    /// Closes a client whose token is refused for `error`, which `reason` says.
    pub(super) fn unauthorized(&self, error: &TokenError, reason: &str) {
        // A client that may well have a good token, now or soon, is to come back with it.
        let (code, why) = match error {
            TokenError::KeysOutOfReach => (close::OVER_LIMIT, Refusal::TokenKeys),
            TokenError::Expired => (close::EXPIRED, Refusal::TokenExpired),
            _ => (close::UNAUTHORIZED, Refusal::Token),
        };

        self.node.refusals().refuse(why, Some(self.app), reason);
        if code == close::OVER_LIMIT {
            return self.close_for_now(code, reason);
        }

        let close = Close::new(code, reason);
        let bye = (code == close::EXPIRED).then(|| native::bye_expired(&close));
        self.event_loop
            .shard()
            .lock_and_wake(|table| table.close(self.socket.at, bye, &close));
    }

    /// Closes a client that keeps sending over its rate, and says when to come back.
    pub(super) fn close_for_rate(&self) {
        let wait = self
            .node
            .runtime_config()
            .config
            .limits
            .reconnect_max
            .as_millis() as u64;
        let bye = native::bye(close::RATE_LIMITED, "too many messages", wait);
        let close = Close::new(close::RATE_LIMITED, "too many messages");
        self.event_loop
            .shard()
            .lock_and_wake(|table| table.close(self.socket.at, Some(bye), &close));
    }

    /// Answers the client's close frame. The code counts as the client's, not as one of ours.
    pub(super) fn leave_by_itself(&self, code: u16) {
        let close = Close::new(code, "");
        let waiting = if is_reload(code) {
            self.waiting_channels()
        } else {
            Vec::new()
        };
        self.event_loop
            .shard()
            .lock_and_wake(|table| table.close_answer(self.socket.at, &close, &waiting));
    }

    /// The channels in which the connection is still counted for a while after its client has closed it.
    fn waiting_channels(&self) -> Vec<(SmolStr, Duration)> {
        let Some(own) = self.connection() else {
            return Vec::new();
        };
        let waits = |name: &SmolStr| (name.clone(), self.app().rule(name).leave_after);
        own.channel_names()
            .map(waits)
            .filter(|(_, after)| !after.is_zero())
            .collect()
    }

    /// Whether a pong answers a ping of the server. Any other one is a message like any, since nobody needs it.
    pub(super) fn is_answer(&self, payload: &[u8]) -> bool {
        // The plain ping comes last: its mark must not be taken by the answer to another ping.
        self.confirm(payload) || self.confirm_mesa(payload) || self.socket.pinged.take()
    }

    /// Takes the answer to a ping that was placed after a stored event. The event has then reached the client, and
    /// need no longer be stored for it. False if no such ping is out.
    fn confirm(&self, payload: &[u8]) -> bool {
        let Some(offset) = native::confirmed(payload) else {
            return false;
        };

        let at = self.socket.at;
        let (was_asked, confirmed) = self
            .event_loop
            .shard()
            .lock_and_wake(|table| (table.hear_pong(at), table.confirmed(at, offset)));
        let Some(connection) = self.connection().filter(|_| confirmed) else {
            return was_asked;
        };

        if let Some(user) = connection.user_name() {
            let key = Key::user(self.app, user.clone());
            self.node
                .history
                .confirm(&key, offset, &connection.reader());
        }

        was_asked
    }

    /// Does what a message asks for, or begins to: what is answered has to be waited for before the next message.
    pub(super) fn call(
        self,
        id: Option<&RawValue>,
        request: Request<'_>,
        state: State,
        connection: &Snapshot,
    ) -> MessageProgress<Operation> {
        if !self.permits(id, &request, state, connection) {
            return MessageProgress::Done(Cost::NONE);
        }
        match self.begin(id, connection, request) {
            MessageProgress::Done(cost) => MessageProgress::Done(cost),
            MessageProgress::Waiting(later) => {
                // The message's bytes are gone by the time of the answer.
                let id = id.map(ToOwned::to_owned);
                MessageProgress::Waiting(self.finish(id, later))
            }
        }
    }

    /// Whether the client may do what it asks for. If not, it is refused.
    pub(super) fn permits(
        &self,
        id: Option<&RawValue>,
        request: &Request<'_>,
        state: State,
        connection: &Connection,
    ) -> bool {
        if state == State::Pending && !matches!(request, Request::Ping) {
            self.refuse(id, "unauthorized", "authenticate first, by op \"auth\"");
            return false;
        }
        if let Some(mut missing) = permissions::check(&connection.rights, request) {
            if let Request::Call { name, .. } = request {
                missing = explained_call(connection, name, &missing);
            }
            self.refuse(id, "forbidden", &missing);
            return false;
        }
        true
    }

    /// Does what can be done immediately, while the message's bytes are there; returns what has to be waited for.
    fn begin(
        &self,
        id: Option<&RawValue>,
        connection: &Snapshot,
        request: Request<'_>,
    ) -> MessageProgress<Later> {
        let later = match request {
            // The session itself authenticates, before a request comes here.
            Request::Auth { .. } => None,
            Request::Ping => {
                self.reply(id.map_or_else(native::pong, native::ack));
                None
            }
            Request::Leave { channel } => {
                self.leave(id, &channel);
                None
            }
            // A short one takes less time to read than a long step takes to be begun.
            Request::Update { data } if data.get().len() < LONG_PROFILE => {
                return MessageProgress::Done(self.update(id, data));
            }
            Request::Update { data } => Some(Later::Update(data.to_owned())),
            Request::Members {
                channel,
                cursor,
                limit,
            } => self.members(id, &channel, cursor.as_deref(), limit),
            // Where a portal listens, messages go to that instead of a function.
            Request::Call { name, data } if self.notify_portal(connection, &name, &data) => None,
            Request::Call { name, data } => {
                self.call_function(id, connection, &name, data);
                None
            }
            Request::Join {
                channel,
                members,
                since,
            } => (!members || self.shows_members(id, &channel)).then(|| {
                Later::Join(Join {
                    channel: channel.into_owned(),
                    members,
                    is_plain: false,
                    since,
                })
            }),
            Request::Attend { channel } => Some(Later::Join(self.attendance(connection, channel))),
            Request::Roster { channel } => self
                .shows_members(id, &channel)
                .then(|| Later::Roster(channel.into_owned())),
            Request::Send { channel, message } => {
                return self.publication(id, connection, message, Target::channel(&channel));
            }
            Request::Broadcast { message } => {
                return self.publication(id, connection, message, Target::default());
            }
            // No connection can be a user's, so the event would reach nobody, and nobody would
            // learn why.
            Request::Publish { .. } if !self.node.runtime_config().access(self.app).has_users() => {
                let error = NodeError::NoUsers;
                self.refuse(id, error.code(), &error.to_string());
                None
            }
            Request::Publish { users, message } => {
                return self.publication(id, connection, message, Target::users(users));
            }
        };

        later.map_or(MessageProgress::Done(Cost::NONE), MessageProgress::Waiting)
    }

    /// The join of a client that hears who comes and goes wherever it may, and gets no page of members.
    fn attendance(&self, connection: &Snapshot, channel: Cow<'_, str>) -> Join {
        let has_members = self.app().rule(&channel).presence != Presence::Off;
        Join {
            members: connection.rights.may_see_members(&channel) && has_members,
            is_plain: true,
            since: None,
            channel: channel.into_owned(),
        }
    }

    /// What is left to do of a message. Each kind has a future of its own size: thousands of clients may wait at the same time,
    /// and most of them to join.
    fn finish(self, id: Option<Box<RawValue>>, later: Later) -> Operation {
        match later {
            Later::Join(join) => Box::pin(async move {
                let reply = JoinReply::Ack(id);
                self.join(join, reply, JoinKind::New).await.cost
            }),
            Later::Members {
                channel,
                from,
                limit,
            } => Box::pin(async move {
                let Some(id) = &id else { return Cost::NONE };
                self.drained().await;
                match from {
                    PageFrom::Here(from) => self.page_of_node(id, &channel, from, limit).await,
                    PageFrom::Everywhere(from) => self.page_of_all(id, &channel, from, limit).await,
                }
            }),
            Later::Roster(channel) => Box::pin(async move {
                let Some(id) = &id else { return Cost::NONE };
                self.drained().await;
                self.roster(id, &channel).await
            }),
            Later::Update(data) => Box::pin(async move {
                self.node.queue_long_step(self.app, LongStep::Client).await;
                self.update(id.as_deref(), &data)
            }),
            Later::Publish(prepared, cost) => Box::pin(async move {
                match self.node.deliver(*prepared).await {
                    Ok(receipt) => {
                        if let Some(id) = &id {
                            self.reply(native::ack_position(id, receipt.position().as_ref()));
                        }
                    }
                    Err(error) => self.refuse(id.as_deref(), error.code(), &error.to_string()),
                }
                cost
            }),
        }
    }

    /// Waits until the client has read most of what it was sent: so what it asks for faster than it reads does not pile up.
    pub(super) async fn drained(&self) {
        let most = self.node.config.limits.outbox_bytes / 4;
        self.wait_while(|table| table.is_behind(self.socket.at, most))
            .await;
    }

    /// Waits while `is_so`, looking again ever more rarely: thousands of clients may read slowly at the same time.
    pub(super) async fn wait_while(&self, is_so: impl Fn(&mut Table) -> bool) {
        let mut pause = REPLAY_LOOK;
        while self.event_loop.shard().lock(&is_so) {
            tokio::time::sleep(pause).await;
            pause = (pause + pause / 4).min(REPLAY_LOOK_MAX);
        }
    }

    /// Settles what a client's event means, as long as its bytes are there. One that is refused costs the same.
    fn publication(
        &self,
        id: Option<&RawValue>,
        connection: &Snapshot,
        message: ClientEvent<'_>,
        target: Target,
    ) -> MessageProgress<Later> {
        let ClientEvent {
            event,
            echo,
            except,
        } = message;

        let author = Author {
            sender: Sender {
                connection: connection.id(),
                user: connection.user_name().cloned(),
            },
            device: connection.attributes.connection.device.clone(),
            echo: echo.unwrap_or(self.echo),
        };

        let except_names = except.users.len() + except.connections.len() + except.devices.len();
        let users = target.to.as_ref().map_or(0, |to| to.users.len());
        let cost = Cost::of_names(users + except_names);
        let target = Target { except, ..target };

        let publication = Publication {
            author: (!self.is_server).then_some(author),
            ..Publication::new(event, target)
        };

        match self.node.prepare(self.app, publication) {
            Ok(prepared) => MessageProgress::Waiting(Later::Publish(Box::new(prepared), cost)),
            Err(error) => {
                self.refuse(id, error.code(), &error.to_string());
                MessageProgress::Done(cost)
            }
        }
    }

    pub(super) fn leave(&self, id: Option<&RawValue>, channel: &str) {
        // This is one step, so that no event of the channel comes after the answer.
        self.event_loop.shard().lock_and_wake(|table| {
            table.leave(self.socket.at, channel);
            if let Some(id) = id {
                table.place_own(self.socket.at, native::ack(id));
            }
        });
    }

    fn update(&self, id: Option<&RawValue>, data: &RawValue) -> Cost {
        let profile = match self.app().profile(data.get(), &self.node.config.limits) {
            Ok(profile) => profile,
            Err(error) => {
                self.refuse_profile(id, &error);
                return Cost::NONE;
            }
        };

        // Each channel in which someone is notified of it counts as an event to that channel.
        let notified = self
            .event_loop
            .shard()
            .lock_and_wake(|table| table.set_profile(self.socket.at, profile));

        self.acknowledge(id);
        Cost(notified.unwrap_or(0))
    }

    fn refuse_profile(&self, id: Option<&RawValue>, error: &Unfit) {
        let code = if error.is_size() {
            "profile_too_large"
        } else {
            "bad_profile"
        };
        self.refuse(id, code, &format!("data: {error}"));
    }

    /// Whether a channel shows its members. If not, the client is refused.
    fn shows_members(&self, id: Option<&RawValue>, channel: &str) -> bool {
        let shows = self.app().rule(channel).presence != Presence::Off;
        if !shows {
            let message = format!("channel \"{channel}\" does not show its members");
            self.refuse(id, "members_off", &message);
        }
        shows
    }

    /// Settles which page of members is asked for; `None` where that is refused.
    fn members(
        &self,
        id: Option<&RawValue>,
        channel: &str,
        cursor: Option<&str>,
        limit: Option<usize>,
    ) -> Option<Later> {
        let limit = limit.unwrap_or(PAGE_DEFAULT);
        let from = if self.node.cluster.is_some() {
            let from = cursor.map_or(Some(None), |cursor| PageStart::read(cursor).map(Some));
            from.map(PageFrom::Everywhere)
        } else {
            cursor
                .map_or(Some(PageCursor::default()), read_cursor)
                .map(PageFrom::Here)
        };

        // Without an id nobody would know which request the page answers.
        let (Some(_), Some(from), true) = (id, from, (1..=PAGE_MAX).contains(&limit)) else {
            let message = format!(
                "members needs id, a cursor that is one of ours, and limit 1 to {PAGE_MAX}"
            );
            self.refuse(id, "bad_message", &message);
            return None;
        };

        self.shows_members(id, channel).then(|| Later::Members {
            channel: channel.to_owned(),
            from,
            limit,
        })
    }

    /// Answers with a page of members over all nodes. The page may be older than the notices that a watching client
    /// has got in the meantime, so these are sent again after it.
    async fn page_of_all(
        &self,
        id: &RawValue,
        channel: &str,
        from: Option<PageStart>,
        limit: usize,
    ) -> Cost {
        let Some(own) = self.connection() else {
            return Cost::NONE;
        };

        // This is begun before the page, so that no change falls between the two.
        let buffer = self.node.buffer_notices(self.app, channel, own.id()).await;
        let bounds = PageBounds {
            items: limit,
            bytes: self.node.config.limits.outbox_bytes / 4,
        };
        let page = self
            .node
            .cluster_members_page(self.app, channel, from.clone(), bounds, None)
            .await;

        let page = match page {
            Ok(page) => page.value,
            Err(error) => {
                self.refuse(Some(id), error.code(), &error.to_string());
                return Cost::NONE;
            }
        };

        let cost = Cost::of_page(page.members.get().len());
        let gathered = PageWithNotices {
            page,
            from: from.unwrap_or_else(PageStart::first),
            buffer,
        };

        let (at, key) = (self.socket.at, channel_key(channel));
        self.event_loop.shard().lock_and_wake(|table| {
            let (page, notices) = gathered.take();
            table.place_own(at, native::ack_members(id, &page));
            if table.is_watching(self.app, &key, at.slot) {
                for notice in notices {
                    table.place_own(at, notice);
                }
            }
        });

        cost
    }

    /// Answers with all members of `channel` over all nodes.
    async fn roster(&self, id: &RawValue, channel: &str) -> Cost {
        let max_bytes = self.node.config.limits.outbox_bytes / 4;
        self.node.queue_long_step(self.app, LongStep::Client).await;
        match self.node.roster(self.app, channel, max_bytes).await {
            Ok(Some(members)) => {
                let page = MembersPage {
                    members,
                    ..no_page(String::new())
                };
                let page = MembersPage {
                    cursor: None,
                    ..page
                };
                let cost = Cost::of_page(page.members.get().len());
                self.reply(native::ack_members(id, &page));
                cost
            }
            Ok(None) => {
                let message = format!(
                    "channel \"{channel}\" has too many members for one answer; page through them over HTTP"
                );
                self.refuse(Some(id), "too_many_members", &message);
                // Gathering them was the work, though nothing is sent.
                Cost::of_page(max_bytes)
            }
            Err(error) => {
                self.refuse(Some(id), error.code(), &error.to_string());
                Cost::NONE
            }
        }
    }

    /// Answers with a page of members of this node, which is all there are.
    async fn page_of_node(
        &self,
        id: &RawValue,
        channel: &str,
        from: PageCursor,
        limit: usize,
    ) -> Cost {
        let max_bytes = self.node.config.limits.outbox_bytes / 4;
        let query = MembersQuery {
            from,
            limit,
            max_bytes,
        };

        let presence = self.node.hub.presence(self.app);
        for _ in 0..PAGES_TRIED {
            self.node.queue_long_step(self.app, LongStep::Client).await;
            // Noted before the page is gathered, so that a change during that shows.
            let seen = presence.changed(channel);
            let page = self.node.members(self.app, channel, query);
            let cost = Cost::of_page(page.members.get().len());
            let answer = native::ack_members(id, &page);

            let placed = self.event_loop.shard().lock_and_wake(|table| {
                // After a notice of what has changed since, an older page would bring back members who have left.
                let fresh = presence.changed(channel) == seen;
                if fresh {
                    table.place_own(self.socket.at, answer);
                }
                fresh
            });

            if placed {
                return cost;
            }
        }

        // The channel changes faster than a page is gathered: the client gets an empty page, and
        // asks again.
        let Count { connections, users } = self.node.count(self.app, channel);
        let page = MembersPage {
            count: connections,
            users,
            ..no_page(write_cursor(from))
        };

        self.reply(native::ack_members(id, &page));
        Cost::NONE
    }
}

/// What a message still has to wait for.
enum Later {
    Join(Join),
    Publish(Box<Prepared>, Cost),
    /// A profile that takes long to be read and indexed.
    Update(Box<RawValue>),
    /// All members of a channel.
    Roster(String),
    /// A page of members.
    Members {
        channel: String,
        from: PageFrom,
        limit: usize,
    },
}

/// Where a page of members begins: among those of this node, where there are no others, or among all.
enum PageFrom {
    Here(PageCursor),
    Everywhere(Option<PageStart>),
}
