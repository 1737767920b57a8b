//! Handing connections what they have missed of their users' stored events. Only this thread may: a replay blocks the
//! connection's outbox.

use std::{rc::Rc, sync::Arc};

use super::EventLoop;
use crate::{
    history::Waiting,
    hub::{Asked, CatchUp, SlotRef, StoredReplay, Table, user_key},
    id::AppId,
    limits::SCAN_CHUNK,
    node::{CatchUpHandler, UserEventSync},
    time_slice::TimeSlice,
};

impl EventLoop {
    /// Fetches what connections of this shard may have missed of stored events, until the thread ends.
    pub(crate) async fn run_user_catch_up(self: Rc<Self>, sync: Arc<UserEventSync>) {
        let shard = self.index;
        sync.run_user_catch_up(shard, self).await;
    }

    /// Visits the connections of `user` on this shard, in slices.
    async fn visit(&self, app: AppId, user: &str, mut visit: impl FnMut(SlotRef)) {
        let key = user_key(user);
        let mut slice = TimeSlice::begin();
        let mut next = Some(0);

        while let Some(from) = next {
            let found = self
                .shard
                .lock(|table| table.connections_of(app, &key, from));
            for &at in &found {
                visit(at);
            }
            // Only a full page has a next one.
            next = found.get(SCAN_CHUNK - 1).map(|last| last.slot + 1);
            slice.rest().await;
        }
    }

    fn catch_up_one(
        self: &Rc<Self>,
        at: SlotRef,
        (waiting, asked): (&Waiting, Asked),
        caught_up: &mut CatchUp,
    ) {
        // Most connections miss nothing. Only for one that does, frames are made, and without the
        // lock.
        let judge = |table: &mut Table| table.judge(at, waiting, asked);
        let Some(suspect) = self.shard.lock(judge) else {
            return;
        };
        let missed = StoredReplay::new(self.hub.context(), suspect.form, &suspect.missed(waiting));
        let begins = self.with_owner(|table, owner| {
            table.catch_up(owner, &suspect, (waiting, asked), missed, caught_up)
        });
        if begins {
            self.block(at);
        }
    }
}

impl CatchUpHandler for Rc<EventLoop> {
    async fn catch_up(&self, app: AppId, user: &str, waiting: &Waiting, asked: Asked) -> CatchUp {
        let mut caught_up = CatchUp::default();
        self.visit(app, user, |at| {
            self.catch_up_one(at, (waiting, asked), &mut caught_up);
        })
        .await;
        caught_up
    }

    async fn give_up(&self, app: AppId, user: &str) {
        self.visit(app, user, |at| {
            self.shard.lock(|table| table.give_up_stored(at));
        })
        .await;
    }
}
