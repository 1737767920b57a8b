//! One message of a client: its rate is checked, it is understood, and its operation begins.

use super::{
    Session,
    cost::{Cost, MessageProgress},
};
use crate::{
    close,
    hub::{Connection, Snapshot, State},
    id::AppId,
    protocol::{
        decoder::Message,
        frame::Frame,
        native::{self, Call, Misunderstood, Request},
    },
    rates::{Allowance, Bucket, Payer},
};

impl Session {
    pub(super) fn message(&mut self, message: &Message<'_>) {
        match message {
            Message::Close(close) => return self.client_closes(*close),
            Message::Pong(payload) if self.client.is_answer(payload) => return,
            // Whatever is unfinished from now on has begun after it.
            Message::Text(_) | Message::Binary(_) => {
                if self.held_by_dialect() == 0 {
                    self.unfinished = None;
                }
                if self.answers_ping(message) {
                    return;
                }
            }
            Message::Pong(_) | Message::Ping(_) => {}
        }

        let Some((state, connection)) = self.client.standing() else {
            return self.end();
        };
        // It was closed by another task, such as a call of the API.
        if state == State::Closing {
            return self.end();
        }

        let metrics = &self.client.app().metrics;
        metrics.messages.inc();
        match self.allow(&connection) {
            Allowance::Go => {}
            Allowance::Refused => return self.refuse_over_rate(message),
            Allowance::Strike => {
                self.client.close_for_rate();
                return self.end();
            }
        }

        match message {
            Message::Text(_) | Message::Binary(_) if self.foreign.is_some() => {
                self.hear(message, state, &connection);
            }
            Message::Text(text) => self.understand(native::parse(text), state, &connection),
            Message::Binary(bytes) => {
                self.understand(native::parse_binary(bytes), state, &connection);
            }
            Message::Ping(payload) => self.client.reply(Frame::pong(payload)),
            Message::Pong(_) | Message::Close(_) => {}
        }
    }

    /// Takes a message from what the client may send.
    fn allow(&mut self, connection: &Connection) -> Allowance {
        if self.client.is_server {
            return Allowance::Go;
        }
        let payer = payer(self.client.app, connection, &mut self.bucket);
        let node = &self.client.node;
        node.rates.take(payer, &node.runtime_config().config.limits)
    }

    /// Takes what a message cost beyond the first.
    pub(super) fn charge(&mut self, cost: Cost) {
        if cost == Cost::NONE || self.client.is_server {
            return;
        }
        let Some(connection) = self.client.connection() else {
            return;
        };
        let payer = payer(self.client.app, &connection, &mut self.bucket);
        let node = &self.client.node;
        node.rates
            .charge(payer, cost.0, &node.runtime_config().config.limits);
    }

    fn refuse_over_rate(&mut self, message: &Message<'_>) {
        if let Some(foreign) = &mut self.foreign
            && matches!(message, Message::Text(_) | Message::Binary(_))
        {
            // The other parts mean nothing without this one.
            foreign.dialect.lose_part();
        }

        let id = match message {
            Message::Text(text) => native::id(text),
            Message::Binary(bytes) => native::binary_id(bytes),
            Message::Pong(_) => {
                // A client does not know of the pongs that its library sends.
                return self.client.app().metrics.client_refused("unasked_pong");
            }
            Message::Ping(_) | Message::Close(_) => None,
        };

        let message = "too many messages; slow down";
        self.client.refuse(id, "rate_limited", message);
    }

    pub(super) fn understand(
        &mut self,
        call: Result<Call<'_>, Misunderstood<'_>>,
        state: State,
        connection: &Snapshot,
    ) {
        // Only messages in a row that cannot be read count against the client.
        if !matches!(call, Err(Misunderstood::Unreadable { .. })) {
            self.unreadable.end_row();
        }

        match call {
            Ok(Call {
                id,
                request: Request::Auth { token },
            }) => self.authenticate(id, &token),
            Ok(Call { id, request }) => {
                match self.client.clone().call(id, request, state, connection) {
                    MessageProgress::Done(cost) => self.charge(cost),
                    MessageProgress::Waiting(operation) => self.wait_for_boxed(operation),
                }
            }
            Err(Misunderstood::Unreadable { message }) => {
                self.client.refuse(None, "bad_message", message);
                if self.unreadable.note() {
                    let reason = "one message after another cannot be read; send JSON objects";
                    self.close(close::BAD_MESSAGE, reason);
                }
            }
            Err(Misunderstood::Refused { id, code, message }) => {
                self.client.refuse(id, code, &message);
            }
        }
    }
}

/// Whose rate holds for a connection.
fn payer<'a>(app: AppId, connection: &'a Connection, bucket: &'a mut Bucket) -> Payer<'a> {
    match connection.user_name() {
        Some(user) => Payer::User(app, user),
        None => Payer::Anonymous(bucket, connection.attributes.connection.ip),
    }
}
