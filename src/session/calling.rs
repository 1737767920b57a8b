//! Calls of a client to functions of the embedding program, and their answers.

use std::{rc::Rc, sync::Arc, time::Instant};

use serde_json::value::RawValue;
use tokio::task::spawn_local;

use super::client::Client;
use crate::{
    calls::{Running, Unanswered},
    config::ProtocolKind,
    event_loop::EventLoop,
    hub::{Connection, SlotRef, Snapshot},
    id::AppId,
    log_limit::Line,
    node::Node,
    protocol::{event::Data, frame::Frame, native},
};

impl Client {
    /// Begins a call. It is answered when its function is done, and the client's next messages do not wait for that: the pong to
    /// the server's ping may be among them.
    pub(super) fn call_function(
        &self,
        id: Option<&RawValue>,
        caller: &Snapshot,
        name: &str,
        data: Data<'_>,
    ) {
        let asker = CallTask {
            node: self.node.clone(),
            event_loop: self.event_loop.clone(),
            app: self.app,
            at: self.socket.at,
            id: id.map(ToOwned::to_owned),
        };

        let calls = &self.node.calls;
        let app = (self.app, &self.app().name);
        match calls.begin(name, app, caller, data, self.socket.calls()) {
            Ok(running) => {
                self.app().metrics.calls.inc();
                // A task of its own, so that the session goes on reading: a pong may be next.
                spawn_local(asker.answer_from(name.into(), running));
            }
            Err(refusal @ Unanswered::NoFunction(_)) => {
                asker.note_missing(name);
                let message = explained_call(caller, name, &refusal.to_string());
                asker.refuse_with(&refusal, &message);
            }
            Err(refusal) => asker.refuse(&refusal),
        }
    }
}

/// Most characters of a function's name that a message repeats.
const SHOWN_CHARS: usize = 40;

/// `refusal` of a call, for clients that may not know that it is one: what Socket.IO's clients emit is a call unless it has
/// the name of an operation.
pub(super) fn explained_call(caller: &Connection, name: &str, refusal: &str) -> String {
    if caller.attributes.connection.protocol != ProtocolKind::SocketIo.name() {
        return refusal.to_owned();
    }
    let name: String = name.chars().take(SHOWN_CHARS).collect();
    format!(
        "{name:?} is not an event of Fanfare's (join, send, …), so it calls a function, and {refusal}. \
         To send it to a channel: emit(\"send\", {{ channel, event: {name:?}, data }})"
    )
}

/// Waits for the answer of a function. It does not hold the socket, so that a client may leave in the meantime.
struct CallTask {
    node: Arc<Node>,
    event_loop: Rc<EventLoop>,
    app: AppId,
    at: SlotRef,
    id: Option<Box<RawValue>>,
}

impl CallTask {
    /// Waits for the function called `name`, and answers the client if it is still there.
    async fn answer_from(self, name: Arc<str>, running: Running) {
        let begun = Instant::now();
        let answer = running.answer().await;
        let metrics = &self.node.metrics;
        // What failed counts as well: a function that takes too long is what the metric is for.
        metrics.call.observe(begun.elapsed().as_secs_f64());

        match answer {
            Ok(data) => {
                if let Some(id) = &self.id {
                    self.reply(native::ack_data(id, &data));
                }
            }
            Err(error) => {
                if let Unanswered::Panicked = error
                    && let Some(others) = self.node.lines().note(Line::FunctionPanicked)
                {
                    let app = &self.node.app(self.app).name;
                    tracing::error!(others, %app, function = %name, "a function that a client called has panicked");
                }
                self.refuse(&error);
            }
        }
    }

    /// Says in the log that a client called a function that is not there: most clients hear of it only if they listen.
    fn note_missing(&self, name: &str) {
        // Any client can cause this line, as often as it likes.
        let Some(others) = self.node.lines().note(Line::NoFunction) else {
            return;
        };
        let app = &self.node.app(self.app).name;
        let function: String = name.chars().take(SHOWN_CHARS).collect();
        tracing::info!(others, %app, ?function, "a client called a function that is not set up");
    }

    fn refuse(&self, error: &Unanswered) {
        self.refuse_with(error, &error.to_string());
    }

    fn refuse_with(&self, error: &Unanswered, message: &str) {
        let metrics = &self.node.app(self.app).metrics;
        metrics.client_refused(error.reason());
        self.reply(native::error(self.id.as_deref(), error.code(), message));
    }

    fn reply(&self, frame: Frame) {
        // `at` has a generation. If the client has left, the next one of its slot does not get
        // this.
        self.event_loop
            .shard()
            .lock_and_wake(|table| table.place_own(self.at, frame));
    }
}
