//! Publishing: select, encode once, admit, store where that is wanted, place.

mod durable;
mod placing;
mod preparing;
mod several;

use std::{future::poll_fn, sync::Arc, task::Poll};

use smol_str::SmolStr;
use uuid::Uuid;

use self::preparing::Durability;
pub(crate) use self::preparing::Prepared;
use super::{
    ClusterScope, Node, NodeError, Receipt, Target,
    cluster::{Message, Sent},
};
use crate::{
    hub::{Closure, Permit, Reach, ScanPermit, Selection},
    id::AppId,
    limits::SMALL_DELIVERIES,
    protocol::{
        event::{Draft, Event, Marks, Sender},
        frame::Frame,
    },
};

/// An event on its way in, with all that its caller says about it.
#[derive(Debug)]
pub(crate) struct Publication<'a> {
    pub(crate) event: Event<'a>,
    pub(crate) target: Target,
    /// Whether to store it for users who are away; `None` stores it where that is possible.
    pub(crate) store: Option<bool>,
    /// The client that sent it, if one did.
    pub(crate) author: Option<Author>,
    /// Whose connections are meant.
    pub(crate) scope: ClusterScope,
    /// Whose counts the receipt has.
    pub(crate) receipt: ClusterScope,
}

impl<'a> Publication<'a> {
    /// An event of nobody in particular for all whom `target` means, on every node.
    pub(crate) fn new(event: Event<'a>, target: Target) -> Self {
        let (scope, receipt) = (ClusterScope::Cluster, ClusterScope::Node);
        Self {
            event,
            target,
            store: None,
            author: None,
            scope,
            receipt,
        }
    }
}

/// The client that sent an event.
#[derive(Clone, Debug)]
pub(crate) struct Author {
    pub(crate) sender: Sender,
    pub(crate) device: Option<SmolStr>,
    /// Whether it gets its own event.
    pub(crate) echo: bool,
}

/// A publication past admission: it is carried out, whatever becomes of its caller.
#[derive(Debug)]
struct Admitted {
    prepared: Prepared,
    reach: Reach,
    permit: Permit,
    scan_permit: Option<ScanPermit>,
}

/// A publication that was placed here, and may be on its way to the other nodes.
pub(crate) struct Begun {
    app: AppId,
    receipt: Receipt,
    sent: Option<Sent>,
}

impl Begun {
    /// How many messages Redis has yet to answer.
    pub(crate) fn messages(&self) -> usize {
        self.sent.as_ref().map_or(0, Sent::messages)
    }
}

impl Node {
    /// Delivers an event to the connections of `app` that its target means, and stores it where that is
    /// wanted.
    ///
    /// The event is encoded once. When this returns, every connection that matched has it in its outbox, so what the
    /// same caller publishes next comes after it. Past admission it is carried out whatever becomes of the caller.
    ///
    /// # Errors
    /// [`NodeError`]; nothing was delivered then.
    pub(crate) async fn publish(
        self: &Arc<Self>,
        app: AppId,
        publication: Publication<'_>,
    ) -> Result<Receipt, NodeError> {
        let prepared = self.prepare_aside(app, publication).await?;
        self.deliver(prepared).await
    }

    /// Waits until the node may accept an event that comes back over the bus. It takes its place at admission when it comes back.
    ///
    /// # Errors
    /// [`NodeError::Busy`].
    pub(crate) async fn admit_to_store(&self, prepared: Prepared) -> Result<Prepared, NodeError> {
        let admitted = self.admit(prepared).await?;
        Ok(admitted.prepared)
    }

    /// Delivers what was prepared; see [`Node::publish`].
    ///
    /// # Errors
    /// As [`Node::begin`].
    pub(crate) async fn deliver(
        self: &Arc<Self>,
        prepared: Prepared,
    ) -> Result<Receipt, NodeError> {
        let begun = self.begin(prepared).await?;
        Ok(self.end(begun).await)
    }

    /// Places here what was prepared, and puts it on its way to the other nodes. What this node publishes after that comes after it
    /// there too, if [`Node::sends_in_order`].
    ///
    /// # Errors
    /// [`NodeError::Busy`] and [`NodeError::History`]; nothing was delivered then.
    pub(crate) async fn begin(self: &Arc<Self>, prepared: Prepared) -> Result<Begun, NodeError> {
        let mut admitted = self.admit(prepared).await?;
        // Without a task of its own, which a small publication would cost more than its work.
        if let (Durability::Transient, Reach::Small(_)) =
            (&admitted.prepared.durability, &admitted.reach)
        {
            let app = admitted.prepared.selection.app;
            // On its way first, so that other nodes need not wait for what is done here.
            let sent = admitted
                .prepared
                .message
                .take()
                .and_then(|message| self.send(message));

            let receipt = match self.place_at_once(admitted) {
                Ok(receipt) => receipt,
                Err(rest) => run_detached(self.clone().finish(rest)).await?,
            };

            return Ok(Begun { app, receipt, sent });
        }

        run_detached(self.clone().carry_out(admitted)).await?
    }

    /// Waits until what was begun has reached the other nodes, if it is for them, and adds what became of it there.
    pub(crate) async fn end(&self, begun: Begun) -> Receipt {
        let Begun {
            app,
            mut receipt,
            sent,
        } = begun;

        if let (Some(cluster), Some(sent)) = (&self.cluster, sent) {
            cluster.sender.sent(app, sent, &mut receipt).await;
        }
        receipt
    }

    /// Whether messages reach the other nodes in the order in which they were begun. The servers of a Redis Cluster keep no order
    /// between them.
    pub(crate) fn sends_in_order(&self) -> bool {
        let cluster = self.cluster.as_ref();
        cluster.is_none_or(|cluster| cluster.sender.has_one_server())
    }

    /// Whether so many messages wait to be sent to the other nodes that those of others may find no room, if
    /// [`Node::sends_in_order`].
    pub(crate) fn sends_are_crowded(&self) -> bool {
        let cluster = self.cluster.as_ref();
        cluster.is_some_and(|cluster| cluster.sender.is_crowded())
    }

    async fn admit(&self, prepared: Prepared) -> Result<Admitted, NodeError> {
        let reach = self.hub.reach(&prepared.selection);
        let scan_permit = self
            .hub
            .permit_to_reach(&prepared.selection, &reach)
            .await?;
        let app = prepared.selection.app;
        // This comes second, so that nobody holds places at admission while waiting to scan.
        let permit = self.hub.admit(app, &reach, prepared.draft.len()).await?;
        self.app(app).metrics.accepted.inc();

        Ok(Admitted {
            prepared,
            reach,
            permit,
            scan_permit,
        })
    }

    /// Puts a message for other nodes on its way; see [`EnvelopeSender::send`](super::cluster::EnvelopeSender::send).
    fn send(&self, message: Message) -> Option<Sent> {
        self.cluster.as_ref()?.sender.send(message)
    }

    fn encode(&self, app: AppId, draft: &Draft) -> Frame {
        self.app(app).metrics.encodings.inc();
        draft.finish(None)
    }

    /// Delivers `event` to the connections for which a Rust closure is true; see [`crate::hub::Hub::place_where`].
    ///
    /// # Errors
    /// [`NodeError::Busy`]; nothing was delivered then.
    pub(crate) async fn publish_where(
        self: &Arc<Self>,
        app: AppId,
        event: &Event<'_>,
        closure: Closure,
    ) -> Result<Receipt, NodeError> {
        let frame = self.encode(app, &event.draft(&Marks::default()));
        let scan_permit = self.hub.permit_to_scan(app).await?;
        // What a closure picks is not known before, so it counts as large.
        let bound = self.hub.members(app).max(SMALL_DELIVERIES + 1);

        let permit = self
            .hub
            .admit(app, &Reach::Large(bound), frame.len())
            .await?;
        self.app(app).metrics.accepted.inc();
        let node = self.clone();

        run_detached(async move {
            let selection = Selection::everyone(app);
            let mut receipt = Receipt::new(Uuid::now_v7());
            receipt.add(
                node.hub
                    .place_where(&selection, &closure, &frame, &permit)
                    .await,
            );

            drop(scan_permit);
            node.app(app)
                .metrics
                .filter_errors
                .inc_by(receipt.filter_errors);
            receipt
        })
        .await
    }
}

/// Runs `task` to its end whatever becomes of the caller: here where it has nothing to wait for, else as a task of its
/// own.
pub(super) async fn run_detached<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> Result<T, NodeError> {
    let mut task = Box::pin(task);
    match poll_fn(|cx| Poll::Ready(task.as_mut().poll(cx))).await {
        Poll::Ready(done) => Ok(done),
        Poll::Pending => tokio::spawn(task).await.map_err(|_| NodeError::Failed),
    }
}
