//! Storing an event where all nodes store theirs: in Redis, by which it comes back to every node.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::{Prepared, Publication, preparing::Durability};
use crate::{
    history::{HistoryError, Key, New, Retention},
    id::AppId,
    limits::STORED_AT_ONCE,
    log_limit::Line,
    node::{
        Node, NodeError, Placement, Receipt,
        cluster::{Appending, EchoTimeout, Message, Replicator},
    },
    protocol::envelope::Tails,
    time_slice::TimeSlice,
};

impl Node {
    /// Stores events of `app` that all come back over the bus, one after another. `has_begun` is dropped when all are
    /// on their way to Redis: what is begun after that is stored after them.
    ///
    /// # Errors The first that occurs; what comes after it is not stored.
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
        let Prepared {
            id,
            selection,
            draft,
            durability,
            omit,
            message,
        } = prepared;

        let mut receipt = Receipt::new(id);
        let Some(Message::Durable(header)) = message else {
            return Ok(receipt);
        };

        let tails = Tails::new(&header, &draft);
        let new = New {
            id,
            draft,
            omit,
            tail: None,
        };

        let event = (new, &tails);
        self.append_all(selection.app, durability, event, has_begun, &mut receipt)
            .await?;
        Ok(receipt)
    }

    async fn append_all(
        &self,
        app: AppId,
        durability: Durability,
        (new, tails): (New, &Tails<'_>),
        has_begun: Option<oneshot::Sender<()>>,
        receipt: &mut Receipt,
    ) -> Result<(), NodeError> {
        match durability {
            Durability::Transient => {}
            Durability::Channel(channel, key, retention) => {
                let id = new.id;
                self.app(app).metrics.encodings.inc();
                let mut timeout = EchoTimeout::new(self.config.limits.redis_timeout);
                let appending = self
                    .replicator()?
                    .append_over_bus(&key, &retention, new, tails);
                // Its place in Redis is taken, so what is begun from here on comes after it.
                drop(has_begun);
                let (position, counts) = match appending.end(&mut timeout).await {
                    Ok(kept) => kept,
                    Err(error) => return self.unsure(app, error, receipt),
                };
                receipt.add(counts);
                receipt.stored = 1;
                let epoch = position.epoch.to_string();
                receipt.publications = vec![Placement {
                    channel,
                    id,
                    epoch,
                    offset: position.offset,
                }];
            }
            Durability::Users(users, retention) => {
                self.app(app).metrics.encodings.inc();
                let keys: Vec<Key> = users.into_iter().map(|user| Key::user(app, user)).collect();
                let event = (&new, tails);
                if let Err(error) = self
                    .append_for_users(&keys, &retention, event, has_begun, receipt)
                    .await
                {
                    return self.unsure(app, error, receipt);
                }
            }
        }

        let header = tails.header();
        if header.receipt
            && let Some(cluster) = &self.cluster
        {
            cluster.sender.add_others(app, header.id, receipt).await;
        }

        Ok(())
    }

    /// Stores an event for each of these users, for [`STORED_AT_ONCE`] of them at the same time. After a failure
    /// nothing more is begun, and what is under way is waited for.
    ///
    /// # Errors The first one, or rather one that leaves open whether it was stored, if there is such; what the others
    /// became is in `receipt`.
    async fn append_for_users(
        &self,
        keys: &[Key],
        retention: &Retention,
        (new, tails): (&New, &Tails<'_>),
        mut has_begun: Option<oneshot::Sender<()>>,
        receipt: &mut Receipt,
    ) -> Result<(), NodeError> {
        let mut timeout = EchoTimeout::new(self.config.limits.redis_timeout);
        let mut waiting = keys.iter();
        let mut under_way: VecDeque<Appending<'_>> = VecDeque::new();
        let mut failed: Option<NodeError> = None;
        let mut slice = TimeSlice::begin();

        loop {
            while failed.is_none() && under_way.len() < STORED_AT_ONCE {
                let Some(key) = waiting.next() else {
                    drop(has_begun.take());
                    break;
                };

                under_way.push_back(self.replicator()?.append_over_bus(
                    key,
                    retention,
                    new.clone(),
                    tails,
                ));

                // Each names whom it leaves out, which may take long to write.
                slice.rest().await;
            }

            let Some(first) = under_way.pop_front() else {
                break;
            };

            match first.end(&mut timeout).await {
                Ok((_, counts)) => {
                    receipt.add(counts);
                    receipt.stored += 1;
                }
                // One that leaves open whether it was stored says more than one that does not.
                Err(error) if failed.is_none() || is_open(&error) => failed = Some(error),
                Err(_) => {}
            }
        }

        failed.map_or(Ok(()), Err)
    }

    /// What stores events for all nodes.
    ///
    /// # Errors
    /// [`NodeError::Failed`] without other nodes.
    fn replicator(&self) -> Result<&Replicator, NodeError> {
        let cluster = self.cluster.as_ref().ok_or(NodeError::Failed)?;
        Ok(&cluster.replicator)
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

/// Whether it leaves open that the event was stored.
fn is_open(error: &NodeError) -> bool {
    matches!(error, NodeError::History(HistoryError::Unanswered))
}
