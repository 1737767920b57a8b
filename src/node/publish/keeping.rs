//! Keeping an event where all nodes keep theirs: in Redis, by which it comes back to every node.

use std::collections::VecDeque;

use super::{Keeping, Prepared};
use crate::{
    history::{HistoryError, Keep, Key, New},
    id::AppId,
    limits::STORED_AT_ONCE,
    log_limit::Line,
    node::{
        Node, NodeError, Placement, Receipt,
        cluster::{Appending, Message, Patience},
    },
    protocol::envelope::Tails,
    time_slice::TimeSlice,
};

impl Node {
    /// Keeps an event, and waits until it has come back over the bus: by it, every node, this one too, places the event
    /// in the history's order. It takes its place at the gate then.
    pub(super) async fn keep_over_bus(&self, prepared: Prepared) -> Result<Receipt, NodeError> {
        let Prepared {
            id,
            selection,
            draft,
            keeping,
            omit,
            message,
        } = prepared;
        let mut receipt = Receipt::new(id);
        let Some(Message::Kept(header)) = message else {
            return Ok(receipt);
        };
        let tails = Tails::new(&header, &draft);
        let new = New {
            id,
            draft,
            omit,
            tail: None,
        };
        self.append_all(selection.app, keeping, new, &tails, &mut receipt)
            .await?;
        Ok(receipt)
    }

    async fn append_all(
        &self,
        app: AppId,
        keeping: Keeping,
        new: New,
        tails: &Tails<'_>,
        receipt: &mut Receipt,
    ) -> Result<(), NodeError> {
        match keeping {
            Keeping::Nobody => {}
            Keeping::Channel(channel, key, keep) => {
                let id = new.id;
                self.app(app).metrics.encodings.inc();
                let mut patience = Patience::new(self.config.limits.redis_timeout);
                let (position, counts) = match self
                    .append_over_bus(&key, &keep, new, tails)?
                    .end(&mut patience)
                    .await
                {
                    Ok(kept) => kept,
                    Err(error) => return self.unsure(error, receipt),
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
            Keeping::Users(users, keep) => {
                self.app(app).metrics.encodings.inc();
                let keys: Vec<Key> = users.into_iter().map(|user| Key::user(app, user)).collect();
                if let Err(error) = self
                    .keep_for_users(&keys, &keep, &new, tails, receipt)
                    .await
                {
                    return self.unsure(error, receipt);
                }
            }
        }
        let header = tails.header();
        if header.receipt {
            self.add_others(app, header.id, receipt).await;
        }
        Ok(())
    }

    /// Keeps an event for each of these users, for [`STORED_AT_ONCE`] of them at once. After a failure nothing more is begun,
    /// and what is under way is waited for.
    ///
    /// # Errors
    /// The first one, or rather one that leaves open whether it was kept, if there is such; what the others became is in
    /// `receipt`.
    async fn keep_for_users(
        &self,
        keys: &[Key],
        keep: &Keep,
        new: &New,
        tails: &Tails<'_>,
        receipt: &mut Receipt,
    ) -> Result<(), NodeError> {
        let mut patience = Patience::new(self.config.limits.redis_timeout);
        let mut waiting = keys.iter();
        let mut under_way: VecDeque<Appending<'_>> = VecDeque::new();
        let mut failed: Option<NodeError> = None;
        let mut slice = TimeSlice::begin();
        loop {
            while failed.is_none() && under_way.len() < STORED_AT_ONCE {
                let Some(key) = waiting.next() else { break };
                under_way.push_back(self.append_over_bus(key, keep, new.clone(), tails)?);
                // Each names whom it leaves out, which may take long to write.
                slice.rest().await;
            }
            let Some(first) = under_way.pop_front() else {
                break;
            };
            match first.end(&mut patience).await {
                Ok((_, counts)) => {
                    receipt.add(counts);
                    receipt.stored += 1;
                }
                Err(error) if failed.is_none() || is_open(&error) => failed = Some(error),
                Err(_) => {}
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// What is answered where keeping failed: an error only if nothing was done for certain. Otherwise the receipt says how
    /// much was kept, and names every node, since none is certain to have the rest.
    fn unsure(&self, error: NodeError, receipt: &mut Receipt) -> Result<(), NodeError> {
        if receipt.stored == 0 && !is_open(&error) {
            return Err(error);
        }
        if let Some(others) = self.lines().note(Line::StoredInPart) {
            tracing::warn!(others, %error, id = %receipt.id, "a publication was stored in part, or it is not known");
        }
        receipt.missing_nodes = self.all_names();
        Ok(())
    }
}

/// Whether it leaves open that the event was kept.
fn is_open(error: &NodeError) -> bool {
    matches!(error, NodeError::History(HistoryError::Unanswered))
}
