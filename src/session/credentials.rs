//! The identity of a client: by its handshake, and by `op: auth`.
//!
//! A token whose key is not here may be of a key that is yet to be fetched. Where a fetch may begin, its client waits
//! for the end of it before it is refused: 4001 would send it away for good.

use std::{mem, sync::Arc, time::Instant};

use serde_json::value::RawValue;
use tokio::time::timeout;

use super::{Session, client::Client, cost::Cost};
use crate::{
    auth::{TokenError, Verified, unix_now},
    config::ClientAuth,
    hub::{Connection, LongStep, Snapshot, State},
    limits::JWKS_WAIT,
    metrics::Refusal,
    protocol::native,
};

/// A token, and whom to answer.
struct Presented {
    token: String,
    connection: Snapshot,
    /// The connection is let in already, so that a bad token changes nothing.
    is_renewal: bool,
    /// The `id` of the message that brought it.
    id: Option<Box<RawValue>>,
    /// As [`super::ConnectOptions::is_app_guessed`].
    is_app_guessed: bool,
}

impl Session {
    /// Decides what the handshake's credentials, or their absence, make of the connection.
    pub(super) fn identify(&mut self, connection: &Arc<Connection>, token: Option<&str>) {
        match (self.client.client_auth(), token) {
            // A page whose variable is empty has no token; where one is required, it has a bad one.
            (ClientAuth::Off, _) | (ClientAuth::Optional, None | Some("")) => {
                self.enter(Connection::clone(connection), None);
            }
            (ClientAuth::Required, None) => self.await_credentials(),
            (_, Some(token)) => self.judge(Presented {
                token: token.to_owned(),
                connection: connection.clone(),
                is_renewal: false,
                id: None,
                is_app_guessed: self.is_app_guessed(),
            }),
        }
    }

    /// Gives the client its time to say who it is.
    pub(super) fn await_credentials(&self) {
        let wait = self.client.node.runtime_config().config.limits.auth;
        let options = self.options.as_ref();
        let is_misnamed = options.is_some_and(|options| options.is_token_misnamed);
        self.client
            .event_loop
            .expect_authentication(self.client.socket.at, wait, is_misnamed);
    }

    /// `op: auth`: a client that waits for it is let in. One that is in is renewed in one step, as the same user.
    pub(super) fn authenticate(&mut self, id: Option<&RawValue>, token: &str) {
        let at = self.client.socket.at;
        // Nobody would verify the token, and its client must not believe to be that user.
        if self.client.client_auth() == ClientAuth::Off {
            return self
                .client
                .refuse(id, "auth_off", "client authentication is off");
        }

        let shard = self.client.event_loop.shard().clone();
        let (state, connection) = shard.lock(|table| (table.state(at), table.connection(at)));
        let Some(connection) = connection else { return };

        let presented = Presented {
            token: token.to_owned(),
            connection,
            // Mesa's clients are closed for a bad token whenever they bring one.
            is_renewal: state != State::Pending && self.client.mesa.is_none(),
            id: id.map(ToOwned::to_owned),
            is_app_guessed: self.is_app_guessed(),
        };

        // Tokens that were signed together are renewed together, by thousands of clients.
        let (node, app) = (self.client.node.clone(), self.client.app);
        let turn = async move { node.queue_long_step(app, LongStep::Token).await };
        self.judge_later(presented, turn, NewKeys::MayCome);
    }

    fn is_app_guessed(&self) -> bool {
        let options = self.options.as_ref();
        options.is_some_and(|options| options.is_app_guessed)
    }

    /// Verifies a token, immediately if that can be; then lets its client in, or refuses it.
    fn judge(&mut self, presented: Presented) {
        let verified = self.client.verify(&presented.token);
        let news = verified
            .as_ref()
            .err()
            .and_then(|error| self.client.news_of_keys(error));
        let Some(news) = news else {
            if let Some(connection) = presented.decide(&self.client, verified) {
                self.enter(connection, presented.id);
            }
            return;
        };

        let fetched = async move {
            // If the keys have not come by then, those that are here decide.
            let _ = timeout(JWKS_WAIT, news).await;
        };

        self.judge_later(presented, fetched, NewKeys::HaveCome);
    }

    /// Verifies a token after `first`, and once more if keys may come for it; then lets its client in, renews it, or refuses
    /// it.
    fn judge_later(
        &mut self,
        mut presented: Presented,
        first: impl Future<Output = ()> + 'static,
        new_keys: NewKeys,
    ) {
        // It has not failed to authenticate in time: it is we who take the time.
        self.client.socket.mark_authenticated();
        let options = mem::take(&mut self.options)
            .map(|options| *options)
            .unwrap_or_default();
        let client = self.client.clone();

        self.wait_for(async move {
            first.await;
            let mut verified = client.verify(&presented.token);
            if let Some(news) = verified
                .as_ref()
                .err()
                .filter(|_| new_keys == NewKeys::MayCome)
                .and_then(|error| client.news_of_keys(error))
            {
                let _ = timeout(JWKS_WAIT, news).await;
                verified = client.verify(&presented.token);
            }

            // A call of the API may have changed it in the meantime.
            let Some(now) = client.connection() else {
                return Cost::NONE;
            };

            presented.connection = now;
            if let Some(connection) = presented.decide(&client, verified) {
                client.enter(connection, options, presented.id).await;
            }
            Cost::NONE
        });
    }
}

/// Whether keys for a token are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NewKeys {
    MayCome,
    /// They were waited for: what is here by now decides.
    HaveCome,
}

impl Presented {
    /// Why a client is not let in. If it left out `app=`, the mistake may be the app.
    fn reason(&self, client: &Client, error: &TokenError) -> String {
        if self.is_app_guessed {
            let app = &client.app().name;
            format!("{error} for app \"{app}\" (no app= was given)")
        } else {
            error.to_string()
        }
    }

    /// The connection as the token makes it; `None` if the client is refused, which it learns here.
    fn decide(
        &self,
        client: &Client,
        verified: Result<Verified, TokenError>,
    ) -> Option<Connection> {
        let id = self.id.as_deref();
        let verified = match verified {
            Ok(verified) => verified,
            Err(error) if self.is_renewal => {
                // A client that learns this fetches another token, and sends that.
                let code = if error == TokenError::Expired {
                    "token_expired"
                } else {
                    "unauthorized"
                };
                client.refuse(id, code, &error.to_string());
                return None;
            }
            Err(error) => {
                let reason = self.reason(client, &error);
                // A client that may come back later with the same token is only closed.
                if error != TokenError::KeysOutOfReach {
                    client.reply_refused(id, &reason);
                }
                client.unauthorized(&error, &reason);
                return None;
            }
        };

        // Its rate, its stored events and its place among members were settled for its user.
        if self
            .connection
            .user()
            .is_some_and(|user| user != &*verified.user)
        {
            client.refuse(id, "forbidden", "a renewed token must be of the same user");
            return None;
        }

        match client.authenticated(&self.connection, verified) {
            Ok(connection) => return Some(connection),
            Err(message) if self.is_renewal => client.refuse(id, "unauthorized", &message),
            Err(message) => {
                client.reply_refused(id, &message);
                client.turn_away(Refusal::Token, &message);
            }
        }

        None
    }
}

impl Client {
    fn verify(&self, token: &str) -> Result<Verified, TokenError> {
        let (runtime_config, now) = (self.node.runtime_config(), unix_now());
        let verified = runtime_config.access(self.app).tokens.verify(token, now)?;
        let Verified {
            user, issued_at, ..
        } = &verified;

        // Looked up last, since only a token that is good can be revoked.
        if self
            .node
            .revocations
            .refuses(self.app, user, *issued_at, now)
        {
            return Err(TokenError::Revoked);
        }

        Ok(verified)
    }

    /// Answers a client of another protocol that is about to be closed for its credentials, if it waits for an answer. A native
    /// client learns the reason by the close frame.
    pub(super) fn reply_refused(&self, id: Option<&RawValue>, reason: &str) {
        if id.is_some() && !self.socket.form.get().is_native() {
            self.reply(native::error(id, "unauthorized", reason));
        }
    }

    /// What ends when keys have been fetched for a token that failed by `error`; `None` where that would not help, or is
    /// not to be yet.
    fn news_of_keys(&self, error: &TokenError) -> Option<impl Future<Output = ()> + use<>> {
        let of_keys = matches!(error, TokenError::UnknownKey | TokenError::KeysOutOfReach);
        let runtime_config = self.node.runtime_config();
        let source = runtime_config
            .access(self.app)
            .tokens
            .source()
            // Only a lack of keys can be mended by fetching them.
            .filter(|_| of_keys)?;
        source.ask(Instant::now())
    }
}
