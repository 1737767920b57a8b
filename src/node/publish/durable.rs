//! Storing an event where all nodes store theirs: in Redis, by which it comes back to every node.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use smol_str::SmolStr;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Prepared, Publication, preparing::Durability, run_detached};
use crate::{
    history::{HistoryError, Key, New, Position, Retention},
    id::AppId,
    limits::STORED_AT_ONCE,
    log_limit::Line,
    node::{
        Node, NodeError, Placement, Receipt,
        cluster::{Appending, EchoTimeout, Message},
    },
    protocol::envelope::{Header, Tails},
    time_slice::TimeSlice,
};

impl Node {
    /// Stores events of `app` that all come back over the bus, one after another. `has_begun` is dropped when all are
    /// on their way to Redis: what is begun after that is stored after them.
    ///
    /// # Errors
    /// The first that occurs; what comes after it is not stored.
    pub(crate) async fn publish_in_order(
        &self,
        app: AppId,
        publications: Vec<Publication<'_>>,
        has_begun: oneshot::Sender<()>,
    ) -> Result<(), NodeError> {
        let mut prepared = Vec::with_capacity(publications.len());
        for publication in publications {
            prepared.push(self.prepare(app, publication)?);
        }

        self.app(app).metrics.accepted.inc_by(prepared.len() as u64);
        let last = prepared.pop();
        for one in prepared {
            self.publish_durable(one, None).await?;
        }

        // Once the last one is on its way, all before it are.
        if let Some(last) = last {
            self.publish_durable(last, Some(has_begun)).await?;
        }
        Ok(())
    }

    /// Stores an event, and waits until it has come back over the bus: by it, every node, this one too, places the
    /// event in the history's order. It takes its place at admission then. `has_begun` is dropped when all of it is on
    /// its way.
    pub(super) async fn publish_durable(
        &self,
        prepared: Prepared,
        has_begun: Option<oneshot::Sender<()>>,
    ) -> Result<Receipt, NodeError> {
        let mut receipts = self.store(vec![prepared], has_begun).await;
        receipts.pop().unwrap_or(Err(NodeError::Failed))
    }

    /// Stores publications that all come back over the bus, and returns what became of each. Their events go to Redis
    /// in order, up to [`STORED_AT_ONCE`] at the same time. So those of one topic are stored and placed in order. One
    /// that fails does not stop the others. All are carried out whatever becomes of the caller.
    pub(crate) async fn publish_stored(
        self: &Arc<Self>,
        publications: Vec<Prepared>,
    ) -> Vec<Result<Receipt, NodeError>> {
        let (node, count) = (self.clone(), publications.len());
        let stored = run_detached(async move { node.store(publications, None).await }).await;
        stored.unwrap_or_else(|_| failed(count))
    }

    /// See [`Self::publish_stored`]. `has_begun` is dropped when all is on its way.
    async fn store(
        &self,
        publications: Vec<Prepared>,
        has_begun: Option<oneshot::Sender<()>>,
    ) -> Vec<Result<Receipt, NodeError>> {
        let Some(cluster) = &self.cluster else {
            return failed(publications.len());
        };

        let storing: Vec<Storing> = publications.into_iter().map(Storing::new).collect();
        let within = self.config.limits.redis_timeout;
        let end = |one: &Storing| End::new(one.new.id, within);
        let mut ends: Vec<End> = storing.iter().map(end).collect();
        let mut under_way = VecDeque::new();
        let mut slice = TimeSlice::begin();

        for (at, one) in storing.iter().enumerate() {
            let (Some(header), Some(retention)) = (&one.header, &one.retention) else {
                continue;
            };

            self.app(one.app).metrics.encodings.inc();
            let tails = Tails::new(header, &one.new.draft);
            for key in &one.keys {
                if under_way.len() >= STORED_AT_ONCE {
                    end_first(&mut under_way, &mut ends).await;
                }
                // After a failure nothing more of a publication is begun.
                if ends[at].failed.is_some() {
                    break;
                }

                let (replicator, new) = (&cluster.replicator, one.new.clone());
                let appending = replicator.append_over_bus(key, retention, new, &tails);
                under_way.push_back((at, appending));

                // Each names whom it leaves out, which may take long to write.
                slice.rest().await;
            }
        }

        // All has its place in the queue to Redis, so what is begun from here on comes after it.
        drop(has_begun);
        while !under_way.is_empty() {
            end_first(&mut under_way, &mut ends).await;
        }
        drop(under_way);

        let mut receipts = Vec::with_capacity(ends.len());
        for (one, end) in storing.into_iter().zip(ends) {
            receipts.push(self.receipt(one, end).await);
        }
        receipts
    }

    /// What is answered about a publication that was stored, or failed to be.
    async fn receipt(&self, one: Storing, end: End) -> Result<Receipt, NodeError> {
        let Storing {
            app,
            header,
            channel,
            ..
        } = one;
        let End {
            mut receipt,
            position,
            failed,
            ..
        } = end;

        if let (Some(channel), Some(position)) = (channel, position) {
            receipt.publications = vec![Placement {
                channel,
                id: receipt.id,
                epoch: position.epoch.to_string(),
                offset: position.offset,
            }];
        }

        if let Some(error) = failed {
            self.unsure(app, error, &mut receipt)?;
        } else if header.is_some_and(|header| header.receipt)
            && let Some(cluster) = &self.cluster
        {
            let id = receipt.id;
            cluster.sender.add_others(app, id, &mut receipt).await;
        }

        Ok(receipt)
    }

    /// The answer where storing failed: an error only if nothing was done for certain. Otherwise the receipt says how
    /// much was stored, and names every node that serves the app, since none is certain to have the rest.
    fn unsure(&self, app: AppId, error: NodeError, receipt: &mut Receipt) -> Result<(), NodeError> {
        if receipt.stored == 0 && !is_open(&error) {
            return Err(error);
        }
        if let Some(others) = self.lines().note(Line::StoredInPart) {
            tracing::warn!(others, %error, id = %receipt.id, "a publication was stored in part, or it is not known");
        }
        receipt.missing_nodes = self.serving_names(app);
        Ok(())
    }
}

/// A publication on its way into the history.
struct Storing {
    app: AppId,
    /// What its events say to other nodes; nothing if it does not come back over the bus.
    header: Option<Box<Header<'static>>>,
    new: New,
    retention: Option<Retention>,
    /// The channel that it is for, if it is for one.
    channel: Option<SmolStr>,
    /// The topics that store it.
    keys: Vec<Key>,
}

impl Storing {
    fn new(prepared: Prepared) -> Self {
        let Prepared {
            id,
            selection,
            draft,
            durability,
            omit,
            message,
        } = prepared;

        let app = selection.app;
        let (channel, keys, retention) = match durability {
            Durability::Transient => (None, Vec::new(), None),
            Durability::Channel(channel, key, retention) => {
                (Some(channel), vec![key], Some(retention))
            }
            Durability::Users(users, retention) => {
                let keys = users.into_iter().map(|user| Key::user(app, user));
                (None, keys.collect(), Some(retention))
            }
        };

        let header = match message {
            Some(Message::Durable(header)) => Some(header),
            _ => None,
        };
        let new = New {
            id,
            draft,
            omit,
            tail: None,
        };

        Self {
            app,
            header,
            new,
            retention,
            channel,
            keys,
        }
    }
}

/// What became of a publication so far.
struct End {
    receipt: Receipt,
    /// Where its last event stands.
    position: Option<Position>,
    /// Why some of it was not stored, or may not be: the first error, or rather one that leaves open whether it was stored.
    failed: Option<NodeError>,
    /// How long its events are waited for. Those of others do not change that: only its own topics may be busy.
    timeout: EchoTimeout,
}

impl End {
    fn new(id: Uuid, within: Duration) -> Self {
        Self {
            receipt: Receipt::new(id),
            position: None,
            failed: None,
            timeout: EchoTimeout::new(within),
        }
    }
}

/// What is answered about `count` publications of which nothing more is known.
fn failed(count: usize) -> Vec<Result<Receipt, NodeError>> {
    (0..count).map(|_| Err(NodeError::Failed)).collect()
}

/// Waits for the event that went to Redis first, and notes what became of it.
async fn end_first(under_way: &mut VecDeque<(usize, Appending<'_>)>, ends: &mut [End]) {
    let Some((at, first)) = under_way.pop_front() else {
        return;
    };

    let end = &mut ends[at];
    match first.end(&mut end.timeout).await {
        Ok((position, counts)) => {
            end.receipt.add(counts);
            end.receipt.stored += 1;
            end.position = Some(position);
        }
        // One that leaves open whether it was stored says more than one that does not.
        Err(error) if end.failed.is_none() || is_open(&error) => end.failed = Some(error),
        Err(_) => {}
    }
}

/// Whether it leaves open that the event was stored.
fn is_open(error: &NodeError) -> bool {
    matches!(error, NodeError::History(HistoryError::Unanswered))
}
