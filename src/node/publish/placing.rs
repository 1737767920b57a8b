//! Carrying out what was admitted: placing it here, and before that storing it where this node alone stores
//! it.

use std::{sync::Arc, time::Instant};

use smol_str::SmolStr;

use super::{Admitted, Begun, Prepared, preparing::Durability};
use crate::{
    history::{Key, New, Retention},
    hub::{Permit, Reach, Recipients, RemainingScan, ScanPermit, Selection},
    node::{Node, NodeError, Placement, Receipt},
    protocol::frame::Frame,
    time_slice::TimeSlice,
};

/// A small publication that is placed in part.
#[derive(Debug)]
pub(super) struct Unfinished {
    receipt: Receipt,
    selection: Selection,
    frame: Frame,
    permit: Permit,
    scan_permit: Option<ScanPermit>,
    began: Instant,
    rest: Box<RemainingScan>,
}

impl Node {
    /// Places a small publication.
    ///
    /// # Errors
    /// What is left of it, for [`Node::finish`], if its filter took too much work for one turn of the thread.
    pub(super) fn place_at_once(&self, admitted: Admitted) -> Result<Receipt, Box<Unfinished>> {
        let Admitted {
            prepared:
                Prepared {
                    id,
                    selection,
                    draft,
                    ..
                },
            reach,
            permit,
            scan_permit,
        } = admitted;

        let mut receipt = Receipt::new(id);
        let frame = self.encode(selection.app, &draft);
        if let Reach::Small(few) = reach {
            let began = Instant::now();
            match self.hub.place_small(&selection, few, &frame, &permit) {
                Ok(counts) => receipt.add(counts),
                Err(rest) => {
                    return Err(Box::new(Unfinished {
                        receipt,
                        selection,
                        frame,
                        permit,
                        scan_permit,
                        began,
                        rest,
                    }));
                }
            }

            self.note_placed(&selection, began, &receipt);
        }

        Ok(receipt)
    }

    /// Places the rest of a small publication.
    pub(super) async fn finish(self: Arc<Self>, unfinished: Box<Unfinished>) -> Receipt {
        let Unfinished {
            mut receipt,
            selection,
            frame,
            permit,
            scan_permit,
            began,
            rest,
        } = *unfinished;

        let counts = self.hub.place_rest(&selection, rest, &frame, &permit).await;
        drop((scan_permit, permit));
        receipt.add(counts);
        self.note_placed(&selection, began, &receipt);

        receipt
    }

    /// Carries out what was admitted. Only the other nodes' part of it has yet to be waited for ([`Node::end`]).
    pub(super) async fn carry_out(self: Arc<Self>, admitted: Admitted) -> Result<Begun, NodeError> {
        let Admitted {
            prepared,
            reach,
            permit,
            scan_permit,
        } = admitted;

        if prepared.comes_by_bus() {
            // It is admitted when it comes back. Until then, others may have these places.
            drop((scan_permit, permit));
            return self.carry_out_over_bus(prepared).await;
        }

        let Prepared {
            id,
            mut selection,
            draft,
            durability,
            omit,
            message,
        } = prepared;

        let new = New {
            id,
            draft,
            omit,
            tail: None,
        };

        let mut receipt = Receipt::new(id);
        // Before it is placed here, so that other nodes need not wait for that.
        let sent = message.and_then(|message| self.send(message));
        let began = Instant::now();

        match durability {
            Durability::Transient => {
                let frame = self.encode(selection.app, &new.draft);
                receipt.add(
                    self.hub
                        .place_reach(&selection, reach, &frame, &permit)
                        .await,
                );
            }
            Durability::Channel(channel, key, retention) => {
                let stored = (channel, key, retention);
                self.place_in_history(&selection, stored, new, &permit, &mut receipt)
                    .await?;
            }
            Durability::Users(users, retention) => {
                let stored = (users, retention);
                self.place_for_users(&mut selection, stored, new, &permit, &mut receipt)
                    .await?;
            }
        }

        drop((scan_permit, permit));
        self.note_placed(&selection, began, &receipt);

        Ok(Begun {
            app: selection.app,
            receipt,
            sent,
        })
    }

    async fn carry_out_over_bus(&self, prepared: Prepared) -> Result<Begun, NodeError> {
        let app = prepared.selection.app;
        let receipt = self.publish_durable(prepared, None).await?;
        Ok(Begun {
            app,
            receipt,
            sent: None,
        })
    }

    /// Appends an event to the history of its channel, and places it before the channel's next one.
    async fn place_in_history(
        &self,
        selection: &Selection,
        (channel, key, retention): (SmolStr, Key, Retention),
        new: New,
        permit: &Permit,
        receipt: &mut Receipt,
    ) -> Result<(), NodeError> {
        let id = new.id;
        let _topic_lock = self.topic_locks.lock(&key).await;
        let appended = self.history.append(&key, &retention, new).await?;
        self.app(selection.app).metrics.encodings.inc();

        // A client that joined in the meantime has got an offset before this one, and must have it.
        let reach = self.hub.reach(selection);
        let forms = &self.hub.context().forms;
        let frame = forms.to_place(selection.app, &appended.frame);
        receipt.add(self.hub.place_reach(selection, reach, &frame, permit).await);

        receipt.stored = 1;
        receipt.publications = vec![Placement {
            channel,
            id,
            epoch: appended.position.epoch.to_string(),
            offset: appended.position.offset,
        }];

        Ok(())
    }

    /// Stores an event for one user after the other, and places it for the connections of each.
    async fn place_for_users(
        &self,
        selection: &mut Selection,
        (users, retention): (Vec<SmolStr>, Retention),
        new: New,
        permit: &Permit,
        receipt: &mut Receipt,
    ) -> Result<(), NodeError> {
        let frame = self.encode(selection.app, &new.draft);
        let mut slice = TimeSlice::begin();

        for user in users {
            selection.recipients = Some(Recipients::user(&user));
            let key = Key::user(selection.app, user.clone());
            let _topic_lock = self.topic_locks.lock(&key).await;
            let appended = self.history.append(&key, &retention, new.clone()).await?;
            receipt.stored += 1;

            let placed = self
                .hub
                .place_stored(
                    (selection, &user),
                    &frame,
                    appended.position,
                    permit,
                    &mut slice,
                )
                .await;

            receipt.add(placed.counts);
            slice.rest().await;
        }

        // Once for all users: the upper bound was taken for all of them together.
        self.hub.settle_permit(permit, receipt.queued);
        Ok(())
    }

    fn note_placed(&self, selection: &Selection, began: Instant, receipt: &Receipt) {
        if selection.filter.is_some() {
            self.metrics
                .filter_evaluate
                .observe(began.elapsed().as_secs_f64());
        }
        self.app(selection.app)
            .metrics
            .filter_errors
            .inc_by(receipt.filter_errors);
    }
}
