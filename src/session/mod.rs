//! One client's life, from the upgraded socket to the last count: what its frames mean, and one exit guard.
//!
//! A client's messages are taken one after another. One that has something to wait for is held as a future, and
//! nothing more is read until it is done: what a client sends next is never placed before what it sent first, and one
//! that sends faster than the node takes is held back by its own socket.
//!
//! A session works for one slice of time, or reads its socket twice, before the thread's other tasks run. What it has read and
//! not looked at by then waits in memory of its own. The second read mostly finds that there was no more.

mod arrival;
mod calling;
mod client;
mod cost;
mod credentials;
pub(crate) mod dialect;
pub(crate) mod dialects;
mod connect;
mod foreign;
mod permissions;
mod page_with_notices;
pub(crate) mod handover;
mod joining;
mod mesa;
mod messages;
mod reading;
mod recovering;
mod unfinished;
mod unreadable;

#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    mem::replace,
    pin::Pin,
    task::{Context, Poll, ready},
};

use serde_json::value::RawValue;
use tokio::{task::yield_now, time::sleep};

pub(crate) use self::{arrival::Arrival, connect::ConnectOptions, foreign::Foreign};
use self::{client::Client, connect::StoredForClient, cost::Cost, unreadable::Unreadable};
use crate::{
    close, event_loop::UnfinishedMessage, hub::Connection, node::Occupancy,
    protocol::decoder::Decoder, rates::Bucket, time_slice::TimeSlice,
};

/// What a message has yet to wait for; returns what it cost beyond one message.
type Operation = Pin<Box<dyn Future<Output = Cost>>>;

/// What has to be done before the socket is read again.
struct Pending {
    /// The operation under way, if one is.
    operation: Option<Operation>,
    /// What was read, of which the bytes from `from` on have not been looked at.
    rest: Vec<u8>,
    from: usize,
    /// Its share of the memory that waits for operations.
    held: Option<UnfinishedMessage>,
}

/// How far the end of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It goes on.
    No,
    /// It is being closed; so many bytes were read since.
    Begun(u32),
    /// Its client goes on sending instead of leaving: nothing more is read.
    Unheard,
}

/// What a session's work has come to for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It has more to do, after the thread's other tasks.
    Rests,
    /// The connection has ended.
    Ended,
}

/// What the reading side of a connection holds while the client is idle: no buffer, and nothing on the heap besides.
pub(crate) struct Session {
    client: Client,
    decoder: Decoder,
    /// What it may send while it has no user.
    bucket: Bucket,
    pending: Option<Box<Pending>>,
    /// The message that has begun and not ended.
    unfinished: Option<UnfinishedMessage>,
    /// What it comes in to once it is let in.
    options: Option<Box<ConnectOptions>>,
    unreadable: Unreadable,
    ending: Ending,
    /// The turn of the thread's clients in which the socket was last read.
    read_in: u32,
    /// Set if the client speaks another protocol than `fanfare.v1`.
    foreign: Option<Box<Foreign>>,
    /// The code the client closed with.
    left_with: u16,
    _occupancy: Occupancy,
}

impl Session {
    /// Serves the client until it leaves or is sent away.
    ///
    /// The task holds this and nothing else: polled by hand, it needs no place in a list of those who wait.
    pub(crate) async fn run(mut self) {
        while poll_fn(|cx| self.poll(cx)).await == Step::Rests {
            // Until the thread has looked at its sockets. Woken immediately, it might be the next to run, again and again.
            yield_now().await;
        }

        let event_loop = self.client.event_loop.clone();
        // Thousands may end at the same time, and each takes locks to be removed: the thread does
        // that in slices.
        event_loop.drop_later(move || drop(self));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let slice = TimeSlice::begin();
        self.look_at_unfinished();
        self.note_held(cx.waker());
        // An offer that comes now is declined, so that the other thread goes on carrying bytes.
        if self.pending.is_some() {
            self.move_over(cx.waker());
        }

        while let Some(pending) = &mut self.pending {
            if let Some(operation) = &mut pending.operation {
                let cost = ready!(operation.as_mut().poll(cx));
                pending.operation = None;
                self.charge(cost);
            }

            if self.ending == Ending::Unheard {
                return Poll::Ready(Step::Ended);
            }

            self.go_on(&slice);
            self.note_unfinished(cx.waker());
            // Not all was looked at within the slice. The other tasks come before the rest.
            if self.pending.is_some() && slice.is_spent() {
                return Poll::Ready(Step::Rests);
            }
        }

        let read = {
            let (event_loop, socket) = (self.client.event_loop.clone(), self.client.socket.clone());
            event_loop.poll_read(cx, &socket, |bytes| self.receive(bytes, &slice))
        };

        match read {
            Poll::Pending => {
                // Nothing is under way here, so the client may move to another socket without
                // losing anything.
                if self.move_over(cx.waker()) {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Step::Ended),
            Poll::Ready(Ok(_)) => {
                self.note_unfinished(cx.waker());
                let turn = self.client.event_loop.clients_turn();
                let is_second = replace(&mut self.read_in, turn) == turn;
                // Others come before the next read, however much this client has sent.
                if is_second || slice.is_spent() {
                    return Poll::Ready(Step::Rests);
                }

                // Mostly there is no more. Resting would cost a look at all sockets before that is known.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    /// Lets a connection in, or renews it, and answers the `auth` that asked for it.
    fn enter(&mut self, connection: Connection, auth: Option<Box<RawValue>>) {
        let options = self.options.take();
        let options = options.filter(|options| options.asks_for_something());

        // With other nodes it waits until the bus brings what it is to get.
        if options.is_none() && !connection.takes_stored && self.client.node.cluster.is_none() {
            self.client.open(
                connection,
                None,
                StoredForClient::default(),
                auth.as_deref(),
            );
            return;
        }

        // It has authenticated in time: entering, which may take long, must not count against it.
        self.client.socket.mark_authenticated();
        let client = self.client.clone();
        let options = options.map(|options| *options).unwrap_or_default();

        self.wait_for(async move {
            client.enter(connection, options, auth).await;
            Cost::NONE
        });
    }

    fn wait_for(&mut self, operation: impl Future<Output = Cost> + 'static) {
        self.wait_for_boxed(Box::pin(operation));
    }

    fn wait_for_boxed(&mut self, operation: Operation) {
        self.pending = Some(Box::new(Pending {
            operation: Some(operation),
            rest: Vec::new(),
            from: 0,
            held: None,
        }));
    }

    /// Reads nothing more. When it has waited, the close frame was written, and the socket is reset.
    fn wait_for_reset(&mut self) {
        let grace = self.client.socket.close_grace();
        self.wait_for(async move {
            sleep(grace).await;
            Cost::NONE
        });
    }

    fn client_closes(&mut self, close: Option<(u16, &str)>) {
        let code = close.map_or(close::NO_STATUS, |(code, _)| code);
        if self.ending == Ending::No && self.outlives_close() {
            return self.break_off(if code < 3000 { code } else { close::NORMAL });
        }
        // A client's own codes would let it make up labels of a metric.
        self.left_with = if code < 3000 { code } else { close::NORMAL };
        self.client.leave_by_itself(code);
        self.end();
    }

    fn close(&mut self, code: u16, reason: &str) {
        self.client.close(code, reason);
        self.end();
    }

    /// Notes that the connection is being closed.
    fn end(&mut self) {
        if self.ending == Ending::No {
            self.ending = Ending::Begun(0);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Client {
            event_loop, socket, ..
        } = &self.client;

        // The socket first: once the slot is free, another connection may get it.
        event_loop.leave(socket.at);
        let Some(departure) = event_loop.shard().lock(|table| table.remove(socket.at)) else {
            return;
        };

        // 0 means that the server did not close it: then what the client closed with counts.
        let code = if departure.close_code == 0 {
            self.left_with
        } else {
            departure.close_code
        };

        let app = self.client.app();
        app.metrics.closed(code);
        // One that was never let in was never counted.
        if departure.was_open {
            app.metrics.connections.dec();
        }

        let connection = departure.connection;
        self.client.leave_mesa(&connection);
        tracing::debug!(
            app = %app.name,
            connection = %connection.id(),
            user = connection.user().unwrap_or(""),
            code,
            unwritten = departure.unwritten,
            "connection ended"
        );
    }
}
