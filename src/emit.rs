//! The verbs for programs that embed the server.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use serde_json::value::to_raw_value;

use crate::{
    calls::CallError,
    hub::Connection,
    node::{
        Exceptions, Joins, NodeError, Publication, Receipt, ReplaceReceipt, RevokeReceipt, Target,
        To,
    },
    protocol::event::{Data, Event, EventError},
    server::Server,
};

/// Why nothing was emitted.
#[derive(Debug, thiserror::Error)]
pub enum EmitError {
    /// The event's name or data, or the name of a channel, break a rule.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The data cannot be written as JSON.
    #[error("the data cannot be written as JSON: {0}")]
    Data(#[from] serde_json::Error),
    /// The filter is wrong, the node is busy, or what is to be stored cannot be.
    #[error(transparent)]
    Node(NodeError),
    /// The server has been shut down.
    #[error("the server has been shut down")]
    Stopped,
}

impl From<NodeError> for EmitError {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Event(error) => Self::Event(error),
            other => Self::Node(other),
        }
    }
}

/// What a function that sends events returns by `?`: the client sees the same code as if it had sent them itself.
impl From<EmitError> for CallError {
    fn from(error: EmitError) -> Self {
        let code = match &error {
            EmitError::Event(error) => error.code(),
            EmitError::Node(error) => error.code(),
            // Mistakes of the function, about which its client can do nothing.
            EmitError::Data(_) | EmitError::Stopped => "internal",
        };
        Self::new(code, error.to_string())
    }
}

impl Server {
    /// Returns a handle whose verbs speak for the app `name`, if there is one. The first handle speaks for the first
    /// app.
    #[must_use]
    pub fn for_app(&self, name: &str) -> Option<Self> {
        let app = self.inner.node.app_named(name)?.id;
        Some(Self {
            inner: self.inner.clone(),
            app,
        })
    }

    /// Sends `event` to every connection for which `filter` is true, on every node.
    ///
    /// When this returns, every connection of this node that matched has the event in its outbox, so what the caller
    /// sends next comes after it. The other nodes get it through Redis, which has it by then. The receipt counts this
    /// node's connections, and [`Receipt::missing_nodes`] names the nodes that may not have it.
    ///
    /// `data` is serialized once, and the frame is built once. A filter on an indexed attribute costs a look-up. Any
    /// other filter is evaluated for every connection of the app, in slices between which other work goes on. If the
    /// node has as much to do as it may, the call waits for `limits.admission_wait` at most.
    ///
    /// The call is cancel-safe: it begins when its future is first polled, and is carried out from then on, even if
    /// the future is dropped.
    ///
    /// # Errors
    /// [`EmitError`]; nothing was delivered then.
    pub async fn emit(
        &self,
        event: &str,
        data: impl Serialize,
        filter: &str,
    ) -> Result<Receipt, EmitError> {
        self.emit_to(
            event,
            data,
            Target {
                filter: Some(filter.to_owned()),
                ..Target::default()
            },
        )
        .await
    }

    /// Sends `event` to the connections that `target` means; see [`Server::emit`]. Each list of a target holds up to
    /// [`TARGET_NAMES`](crate::limits::TARGET_NAMES) names.
    ///
    /// If the target is a single channel with a history, or only users of an app that stores events for users, the
    /// event is stored as well. Stored events of a channel reach all its members in one order, on every node.
    ///
    /// # Errors
    /// [`EmitError`]; nothing was delivered then.
    pub async fn emit_to(
        &self,
        event: &str,
        data: impl Serialize,
        target: Target,
    ) -> Result<Receipt, EmitError> {
        // Everything is owned, since it runs on a thread of the server, and goes on there if the
        // caller leaves.
        let (event, data) = (event.to_owned(), to_raw_value(&data)?);
        let (node, app) = (self.inner.node.clone(), self.app);
        self.run(async move {
            let event = Event::new(&*event, Data::Json(&data))?;
            Ok(node.publish(app, Publication::new(event, target)).await?)
        })
        .await
    }

    /// Sends `bytes` as `event`, in a binary frame, to the connections that `target` means; see [`Server::emit_to`].
    ///
    /// # Errors
    /// [`EmitError`]; nothing was delivered then.
    pub async fn emit_bytes(
        &self,
        event: &str,
        bytes: impl Into<Vec<u8>>,
        target: Target,
    ) -> Result<Receipt, EmitError> {
        let (event, bytes) = (event.to_owned(), bytes.into());
        let (node, app) = (self.inner.node.clone(), self.app);
        self.run(async move {
            let event = Event::new(event, Data::Bytes(bytes.into()))?;
            Ok(node.publish(app, Publication::new(event, target)).await?)
        })
        .await
    }

    /// Sends `event` to every connection for which the closure `is_meant` is true. Only this node's connections are
    /// looked at: a closure cannot travel to others.
    ///
    /// The closure sees immutable snapshots, outside every lock, on one of the server's threads. It runs once for every
    /// connection of the app, so it must be quick. If it panics for a connection, that counts in `filter_errors`, and
    /// the connection does not get the event. Order and cancel safety are those of [`Server::emit`].
    ///
    /// # Errors
    /// [`EmitError`]; nothing was delivered then.
    pub async fn emit_where(
        &self,
        event: &str,
        data: impl Serialize,
        is_meant: impl Fn(&Connection) -> bool + Send + Sync + 'static,
    ) -> Result<Receipt, EmitError> {
        let (event, data) = (event.to_owned(), to_raw_value(&data)?);
        let (node, app, closure) = (self.inner.node.clone(), self.app, Arc::new(is_meant));
        self.run(async move {
            let event = Event::new(&*event, Data::Json(&data))?;
            Ok(node.publish_where(app, &event, closure).await?)
        })
        .await
    }

    /// Sends `event` to all connections of `user`, and stores it if the app stores events for users; see
    /// [`Server::emit`].
    ///
    /// # Errors
    /// [`EmitError`]; nothing was delivered then.
    pub async fn publish(
        &self,
        user: &str,
        event: &str,
        data: impl Serialize,
    ) -> Result<Receipt, EmitError> {
        self.dispatch(&[user], &[], event, data).await
    }

    /// Sends `event` to the members of `channel`, and stores it if the channel has a history; see [`Server::emit_to`].
    ///
    /// # Errors
    /// [`EmitError`]; nothing was delivered then.
    pub async fn send(
        &self,
        channel: &str,
        event: &str,
        data: impl Serialize,
    ) -> Result<Receipt, EmitError> {
        self.emit_to(event, data, Target::channel(channel)).await
    }

    /// Sends `event` to every connection of the app, and stores nothing; see [`Server::emit`].
    ///
    /// # Errors
    /// [`EmitError`]; nothing was delivered then.
    pub async fn broadcast(&self, event: &str, data: impl Serialize) -> Result<Receipt, EmitError> {
        self.emit_to(event, data, Target::default()).await
    }

    /// Sends `event` to the users `recipients`, or to everyone for just `["*"]`, but not to the users `except`. If the
    /// app stores events for users, the event is stored for the named ones. See [`Server::emit_to`].
    ///
    /// # Errors
    /// [`EmitError`]; nothing was delivered then.
    pub async fn dispatch(
        &self,
        recipients: &[&str],
        except: &[&str],
        event: &str,
        data: impl Serialize,
    ) -> Result<Receipt, EmitError> {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let to = (recipients != ["*"]).then(|| To {
            users: owned(recipients),
            ..To::default()
        });

        let except = Exceptions {
            users: owned(except),
            ..Exceptions::default()
        };

        self.emit_to(
            event,
            data,
            Target {
                to,
                except,
                ..Target::default()
            },
        )
        .await
    }

    /// Puts the connections that `target` means into `channel`, on every node, and returns how many there were. Each is
    /// notified, before every event of the channel.
    ///
    /// Another node that does not answer within `limits.node_call_timeout` is not counted, whether it has done it or not.
    /// The call is cancel-safe, as [`Server::emit`] is.
    ///
    /// # Errors
    /// [`EmitError`]; nobody was put into it then.
    pub async fn join(&self, channel: &str, target: Target) -> Result<Joins, EmitError> {
        let (channel, node, app) = (channel.to_owned(), self.inner.node.clone(), self.app);
        self.run(async move { Ok(node.cluster_join(app, channel, target).await?.value) })
            .await
    }

    /// Takes the connections that `target` means out of `channel`, on every node, and returns how many were in it. Each
    /// is notified, after every event of the channel. Those that were lost a moment ago do not come back to it.
    ///
    /// Another node that does not answer within `limits.node_call_timeout` is not counted, whether it has done it or not.
    /// The call is cancel-safe, as [`Server::emit`] is.
    ///
    /// # Errors
    /// [`EmitError`]; nobody was taken out of it then.
    pub async fn leave(&self, channel: &str, target: Target) -> Result<u64, EmitError> {
        let (channel, node, app) = (channel.to_owned(), self.inner.node.clone(), self.app);
        self.run(async move { Ok(node.cluster_leave(app, channel, target).await?.value) })
            .await
    }

    /// Refuses tokens of `users` that were issued before `before`, on every node, and closes the connections that came with
    /// them. Without `before`, this means every token that is issued by now. A token without `iat` counts as issued before.
    ///
    /// Tokens count whole seconds, so a part of one in `before` counts as a whole one. The receipt says how many
    /// connections were closed, and which nodes did not answer: those learn of it later. The call is cancel-safe, as
    /// [`Server::emit`] is.
    ///
    /// # Errors
    /// [`EmitError`]; nothing was revoked then.
    pub async fn revoke(
        &self,
        users: &[&str],
        before: Option<SystemTime>,
    ) -> Result<RevokeReceipt, EmitError> {
        let users = users.iter().map(|&user| user.to_owned()).collect();
        // A part of a second counts as a whole one: no token of that second is left out.
        let seconds = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            since.as_secs() + u64::from(since.subsec_nanos() > 0)
        };
        let (before, node, app) = (before.map(seconds), self.inner.node.clone(), self.app);
        self.run(async move { Ok(node.cluster_revoke(app, users, before).await?) })
            .await
    }

    /// Replaces the claims of the open connections of `user`, on every node, and what its clients may do if `can` says so: the
    /// object of the claim of that name. Channels that they may no longer join are left.
    ///
    /// It holds until a connection ends, or its client renews it with a token that was issued later. The receipt counts
    /// connections and names the nodes that did not answer. The call is cancel-safe, as [`Server::emit`] is.
    ///
    /// # Errors
    /// [`EmitError`]; nothing was replaced then.
    pub async fn replace_claims(
        &self,
        user: &str,
        claims: impl Serialize,
        can: Option<&serde_json::Value>,
    ) -> Result<ReplaceReceipt, EmitError> {
        let (user, claims) = (user.to_owned(), to_raw_value(&claims)?);
        let can = can.map(to_raw_value).transpose()?;
        let (node, app) = (self.inner.node.clone(), self.app);
        self.run(async move { Ok(node.cluster_replace_claims(app, user, claims, can).await?) })
            .await
    }

    /// Runs a call on a thread of the server, so that it is carried out even if the caller drops its future.
    async fn run<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, EmitError>> + Send + 'static,
    ) -> Result<T, EmitError> {
        let called = self.inner.handle.spawn(call).await;
        called.unwrap_or_else(|ended| {
            // A task that did not panic was cancelled, as all are when the threads end.
            Err(if ended.is_panic() {
                NodeError::Failed.into()
            } else {
                EmitError::Stopped
            })
        })
    }
}
