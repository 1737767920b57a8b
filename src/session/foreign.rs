//! Clients of other protocols: their messages, read by a [`Dialect`], become the operations of native ones.

use std::{borrow::Cow, sync::Arc};

use serde_json::value::RawValue;
use smol_str::SmolStr;

use super::{
    Session,
    cost::{Cost, MessageProgress},
    dialect::{ClientState, Credentials, Dialect, Meaning, Unintelligible},
    handover::Handover,
};
use crate::{
    app::ClientPage,
    auth::{Rights, Scope},
    close::{self, Close},
    config::{ClientAuth, KeyHash, Scopes},
    event_loop::{EventLoop, LocalSocket},
    hub::{Connection, Snapshot, State},
    id::ConnectionId,
    metrics::Refusal,
    protocol::{
        decoder::Message,
        frame::Frame,
        native::{Call, Request},
        wire::Form,
    },
};

/// What a session knows of a client that speaks another protocol.
#[derive(Debug)]
pub(crate) struct Foreign {
    pub(crate) dialect: Box<dyn Dialect>,
    /// What `connection.protocol` is.
    pub(crate) protocol: &'static str,
    /// The form in which the client gets frames, until it says more of itself.
    pub(crate) form: Form,
    /// The Origin of its page, if it is one, until it is decided who it is.
    pub(crate) origin: Option<String>,
    /// The token of its handshake, if that had one, until then.
    pub(crate) token: Option<String>,
    /// The client key of its handshake, if that had one and the app has any, until then.
    pub(crate) key: Option<String>,
    /// What stands for the client's device if it names none.
    pub(crate) device: Option<SmolStr>,
    /// Where it gets another socket, if it may.
    pub(crate) handover: Option<Arc<Handover>>,
    /// The API key by which it speaks for the app, and what that may do, if it does.
    pub(crate) api_key: Option<(KeyHash, Scopes)>,
}

/// The page that a client runs in.
#[derive(Clone, Copy, Debug)]
struct Page<'a> {
    origin: &'a str,
    /// How its client sends a token.
    token: &'static str,
}

fn page<'a>(origin: Option<&'a str>, dialect: &dyn Dialect) -> Option<Page<'a>> {
    let token = dialect.names_token();
    origin.map(|origin| Page { origin, token })
}

impl Foreign {
    /// Sets the form of `socket`, and whether its client polls, and says what the protocol says first.
    pub(super) fn greet(
        &mut self,
        event_loop: &EventLoop,
        socket: &LocalSocket,
        connection: ConnectionId,
    ) {
        event_loop.set_form(socket, self.form);
        if let Some(handover) = &self.handover {
            socket.is_polled_until(handover.has_chosen().clone());
        }
        for frame in self.dialect.greeting(connection) {
            event_loop
                .shard()
                .lock_and_wake(|table| table.place_own(socket.at, frame));
        }
    }
}

impl Session {
    /// Whether a client of another protocol answers the server's sign of life with `message`.
    pub(super) fn answers_ping(&self, message: &Message<'_>) -> bool {
        let foreign = self.foreign.as_ref();
        // Only a payload that the server's plain ping has, so that it confirms no stored event.
        foreign.is_some_and(|foreign| foreign.dialect.answers_ping(message))
            && self.client.is_answer(b"")
    }

    /// Does what a message of a client of another protocol means.
    pub(super) fn hear(&mut self, message: &Message<'_>, state: State, connection: &Snapshot) {
        // Taken out, so that the dialect can lend its reading while the session changes.
        let Some(mut foreign) = self.foreign.take() else {
            return;
        };

        // Keys change by a reload: a server whose key was removed must not go on.
        if self.has_lost_key(&foreign) {
            self.client
                .turn_away(Refusal::ApiKey, close::API_KEY_UNKNOWN);
            return self.end();
        }

        let Foreign {
            dialect,
            origin,
            token,
            key,
            api_key,
            ..
        } = &mut *foreign;

        let page = page(origin.as_deref(), &**dialect);
        dialect.know(ClientState {
            connection: connection.clone(),
            has_client_keys: {
                let runtime_config = self.client.node.runtime_config();
                runtime_config.access(self.client.app).has_client_keys()
            },
        });

        match dialect.read(message) {
            Ok(Meaning::Enter(mut credentials)) => {
                self.unreadable.end_row();
                // What it says in a message comes before what its handshake has.
                if credentials.token.is_none() {
                    credentials.token = token.take().map(Into::into);
                }
                if credentials.key.is_none() {
                    credentials.key = key.clone().map(Into::into);
                }
                let presented = credentials.api_key.as_deref().map(KeyHash::of);
                self.come_in(credentials, page, state, connection);
                // It was decided who it is, and it may be connected for long.
                (*origin, *token, *key) = (None, None, None);
                if let Some(hash) = presented.filter(|_| self.client.is_server) {
                    let runtime_config = self.client.node.runtime_config();
                    *api_key = runtime_config.keys.find(hash).map(|key| (hash, key.scopes));
                }
            }
            Ok(reading) => {
                self.unreadable.end_row();
                self.obey(reading, state, connection);
                self.charge(Cost::of_page(foreign.dialect.answer_bytes()));
            }
            Err(error) => self.not_intelligible(error),
        }

        foreign.dialect.forget();
        self.foreign = Some(foreign);
    }

    /// Whether the API key by which a client speaks for the app is no longer known, or may do something else.
    fn has_lost_key(&self, foreign: &Foreign) -> bool {
        foreign.api_key.is_some_and(|(hash, scopes)| {
            let runtime_config = self.client.node.runtime_config();
            runtime_config
                .keys
                .find(hash)
                .is_none_or(|key| key.scopes != scopes)
        })
    }

    /// Bytes that a client of another protocol has sent of a message whose rest has yet to come.
    pub(super) fn held_by_dialect(&self) -> usize {
        self.foreign
            .as_ref()
            .map_or(0, |foreign| foreign.dialect.held())
    }

    /// Lets a client in without a word of its own, if the app allows that or its handshake has a token.
    pub(super) fn let_in_first(&mut self, connection: &Arc<Connection>) {
        let Some(foreign) = &mut self.foreign else {
            return;
        };

        let (origin, token) = (foreign.origin.clone(), foreign.token.take());
        let page = page(origin.as_deref(), &*foreign.dialect);
        let key = foreign.key.clone();
        let token = token.filter(|token| !token.is_empty());
        if let Err((why, reason)) = self.take_key(key.as_deref()) {
            self.client.turn_away(why, &reason);
            return self.end();
        }

        let connection = &if key.is_some() {
            // It came with the app's own rights.
            Arc::new(Connection {
                rights: self.client.default_rights(),
                ..Connection::clone(connection)
            })
        } else {
            connection.clone()
        };

        if self.client.client_auth() == ClientAuth::Required && token.is_none() {
            return self.await_credentials();
        }

        match self.choose_policy(None, page, token.is_some()) {
            Ok(()) => {
                // The reason is the same as in `hear`.
                if let Some(foreign) = &mut self.foreign {
                    (foreign.origin, foreign.key) = (None, None);
                }
                self.identify(connection, token.as_deref());
            }
            // A page may yet bring its token in a message, which lets pages of every origin in.
            Err((Refusal::Origin, _))
                if token.is_none() && self.client.client_auth() == ClientAuth::Optional =>
            {
                self.await_credentials();
            }
            Err((why, reason)) => {
                self.client.turn_away(why, &reason);
                self.end();
            }
        }
    }

    fn obey(&mut self, reading: Meaning<'_>, state: State, connection: &Snapshot) {
        match reading {
            Meaning::Nothing | Meaning::Enter(_) => {}
            Meaning::Answer(frame) => self.client.reply(frame),
            Meaning::TurnedAway {
                why,
                detail,
                answer,
            } => {
                let refusals = self.client.node.refusals();
                refusals.refuse(why, Some(self.client.app), detail);
                self.client.reply(answer);
            }
            Meaning::Call(Call {
                id,
                request: Request::Auth { token },
            }) => self.authenticate(id, &token),
            Meaning::Call(Call { id, request }) => {
                match self.client.clone().call(id, request, state, connection) {
                    MessageProgress::Done(cost) => self.charge(cost),
                    MessageProgress::Waiting(operation) => self.wait_for_boxed(operation),
                }
            }
            Meaning::JoinAll { id, channels } => self.join_all(id, channels, state, connection),
            Meaning::Refused { id, code, message } => {
                self.client.refuse(id.as_deref(), code, &message);
            }
            Meaning::Reform {
                form,
                answer,
                leave,
            } => self.reform(form, answer, leave.as_deref(), connection),
            Meaning::Break => self.break_off(close::NORMAL),
            Meaning::Leave => {
                self.left_with = close::NORMAL;
                self.client.leave_by_itself(close::NORMAL);
                self.end();
            }
            Meaning::Close { code, reason } => self.close(code, &reason),
        }
    }

    /// Changes the client's form, and takes it out of the channels whose names begin with `leave`.
    fn reform(
        &self,
        form: Form,
        answer: Option<Frame>,
        leave: Option<&str>,
        connection: &Connection,
    ) {
        let left = leave.into_iter().flat_map(|prefix| {
            let names = connection.channel_names();
            names.filter(move |name| name.starts_with(prefix))
        });
        for channel in left {
            self.client.leave(None, channel);
        }
        self.client.event_loop.set_form(&self.client.socket, form);
        if let Some(answer) = answer {
            self.client.reply(answer);
        }
    }

    /// Ends the connection as if its socket had failed: its client may come back to its channels.
    pub(super) fn break_off(&mut self, code: u16) {
        self.left_with = code;
        let (at, close) = (self.client.socket.at, Close::new(code, ""));
        let shard = self.client.event_loop.shard().clone();
        shard.lock_and_wake(|table| table.close_lost(at, &close));
        self.end();
    }

    /// Whether the client, which closes its WebSocket, may come back by itself.
    pub(super) fn outlives_close(&self) -> bool {
        let foreign = self.foreign.as_ref();
        foreign.is_some_and(|foreign| foreign.dialect.outlives_close())
    }

    /// Joins several channels for one message, which costs as much as a message for each.
    fn join_all(
        &mut self,
        id: Option<&RawValue>,
        channels: Vec<Cow<'_, str>>,
        state: State,
        connection: &Snapshot,
    ) {
        let most = self.client.node.config.limits.channels_per_connection;
        if channels.len() > most {
            let message = format!("a connection may be in {most} channels");
            return self.client.refuse(id, "too_many_channels", &message);
        }

        // All of them first, so that a client that may not join one joins none.
        for channel in &channels {
            let request = Request::Join {
                channel: channel.as_ref().into(),
                members: false,
                since: None,
            };
            if !self.client.permits(id, &request, state, connection) {
                return;
            }
        }

        let channels = channels.into_iter().map(Cow::into_owned).collect();
        let (client, id) = (self.client.clone(), id.map(ToOwned::to_owned));
        self.wait_for(async move { client.join_all(id, channels).await });
    }

    fn not_intelligible(&mut self, error: Unintelligible) {
        let Unintelligible { message, is_fatal } = error;
        self.client.refuse(None, "bad_message", message);
        if is_fatal || self.unreadable.note() {
            self.close(close::BAD_MESSAGE, message);
        }
    }

    /// Lets a client in by what it says of itself, or renews its token.
    fn come_in(
        &mut self,
        credentials: Credentials<'_>,
        page: Option<Page<'_>>,
        state: State,
        connection: &Connection,
    ) {
        let Credentials {
            id,
            token,
            key,
            echo,
            api_key,
            store,
            form,
            form_inside,
            mut options,
            recovery,
        } = credentials;

        // Clients whose variable is empty send an empty token.
        let token = token.filter(|token| !token.is_empty());
        self.client.store = store.unwrap_or(self.client.store);

        if state != State::Pending {
            match token {
                Some(token) => self.authenticate(id, &token),
                None => self
                    .client
                    .refuse(id, "bad_message", "the client is in already"),
            }
            return;
        }

        let most = self.client.node.config.limits.channels_per_connection;
        if options.channels.len() > most {
            let reason = format!("at most {most} channels can be named");
            self.client.turn_away(Refusal::Query, &reason);
            return self.end();
        }

        if let Some(form) = form {
            self.client.event_loop.set_form(&self.client.socket, form);
        }

        self.client.form_inside = form_inside;
        if let Some(recovery) = recovery {
            self.client.recovers(recovery, &mut options);
        }

        if let Some(api_key) = api_key {
            return self.come_in_as_server(&api_key, connection);
        }

        if let Err((why, reason)) = self.choose_policy(key.as_deref(), page, token.is_some()) {
            self.client.reply_refused(id, &reason);
            self.client.turn_away(why, &reason);
            return self.end();
        }

        self.client.echo = echo.unwrap_or(self.client.echo);
        self.options = (!options.is_empty()).then(|| Box::new(options));
        self.enter_by_token(id, token, connection);
    }

    /// Lets a client in whose key and page are allowed: by its token, or without one if it needs none.
    fn enter_by_token(
        &mut self,
        id: Option<&RawValue>,
        token: Option<Cow<'_, str>>,
        connection: &Connection,
    ) {
        match (self.client.client_auth(), token) {
            (ClientAuth::Off, _) | (ClientAuth::Optional, None) => {
                // It came with the app's own rights, before it named its key.
                let rights = self.client.default_rights();
                let connection = Connection {
                    rights,
                    ..connection.clone()
                };
                self.enter(connection, id.map(ToOwned::to_owned));
            }
            (ClientAuth::Required, None) => {
                self.client.turn_away(Refusal::Token, close::TOKEN_MISSING);
                self.end();
            }
            (_, Some(token)) => self.authenticate(id, &token),
        }
    }

    /// Finds out which of the app's policies holds for a client with `key`, and whether its page may connect.
    fn choose_policy(
        &mut self,
        key: Option<&str>,
        page: Option<Page<'_>>,
        has_token: bool,
    ) -> Result<(), (Refusal, Cow<'static, str>)> {
        self.take_key(key)?;
        let Some(Page { origin, token }) = page else {
            return Ok(());
        };

        let (node, app) = (self.client.node.clone(), self.client.app);
        let runtime_config = node.runtime_config();
        let policy = runtime_config
            .access(app)
            .policy(usize::from(self.client.policy));
        let page = ClientPage {
            origin,
            has_token,
            is_development: runtime_config.config.is_development(),
        };
        if policy.allows(&page) {
            return Ok(());
        }

        Err((Refusal::Origin, policy.page_refusal(origin, token).into()))
    }

    /// Chooses the policy of a client that names a client key.
    fn take_key(&mut self, key: Option<&str>) -> Result<(), (Refusal, Cow<'static, str>)> {
        let Some(key) = key else { return Ok(()) };
        let (node, app) = (self.client.node.clone(), self.client.app);
        let (_, policy) = node
            // Keys of all apps are found here, and one of another app is as unknown as any.
            .runtime_config()
            .client_keys
            .find(key)
            .filter(|(of, _)| *of == app)
            .ok_or((Refusal::ClientKey, close::KEY_UNKNOWN.into()))?;
        self.client.policy = policy as u16;
        Ok(())
    }

    /// Lets in a server of the app, with what its API key may do.
    fn come_in_as_server(&mut self, api_key: &str, connection: &Connection) {
        let rights = {
            let runtime_config = self.client.node.runtime_config();
            let key = runtime_config.keys.authenticate(api_key);
            match key.filter(|key| key.app == self.client.app) {
                Some(key) => Some(Rights::of_server(
                    key.may(Scope::Publish),
                    key.may(Scope::Inspect),
                )),
                // Without any API key this is development, where every server is let in.
                None => runtime_config.keys.is_empty().then(Rights::everything),
            }
        };

        let Some(rights) = rights else {
            self.client
                .turn_away(Refusal::ApiKey, close::API_KEY_UNKNOWN);
            return self.end();
        };

        self.client.is_server = true;
        self.enter(
            Connection {
                rights: Arc::new(rights),
                ..connection.clone()
            },
            None,
        );
    }
}
