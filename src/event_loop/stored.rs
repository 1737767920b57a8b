//! Handing connections what they have missed of their users' stored events. Only this thread may: a replay blocks the
//! connection's outbox.

use std::{rc::Rc, sync::Arc};

use super::EventLoop;
use crate::{
    history::Waiting,
    hub::{Asked, Mended, SlotRef, StoredReplay, Table, user_key},
    id::AppId,
    limits::SWEEP_STRIDE,
    node::{Mender, Node},
    time_slice::TimeSlice,
};

impl EventLoop {
    /// Fetches what connections of this shard may have missed of stored events, until the thread ends.
    pub(crate) async fn keep_stored(self: Rc<Self>, node: Arc<Node>) {
        let shard = self.index;
        node.keep_stored(shard, self).await;
    }

    /// Visits the connections of `user` on this shard, in slices.
    async fn visit(&self, app: AppId, user: &str, mut visit: impl FnMut(SlotRef)) {
        let key = user_key(user);
        let mut slice = TimeSlice::begin();
        let mut next = Some(0);
        while let Some(from) = next {
            let found = self
                .shard
                .own(|table| table.connections_of(app, &key, from));
            for &at in &found {
                visit(at);
            }
            next = found.get(SWEEP_STRIDE - 1).map(|last| last.slot + 1);
            slice.rest().await;
        }
    }

    fn mend_one(
        self: &Rc<Self>,
        at: SlotRef,
        (waiting, asked): (&Waiting, Asked),
        mended: &mut Mended,
    ) {
        let judge = |table: &mut Table| table.judge(at, waiting, asked);
        let Some(doubted) = self.shard.own(judge) else {
            return;
        };
        let missed = StoredReplay::new(self.hub.context(), &doubted.missed(waiting));
        let begins = self.with_owner(|table, owner| {
            table.mend(owner, &doubted, (waiting, asked), missed, mended)
        });
        if begins {
            self.block(at);
        }
    }
}

impl Mender for Rc<EventLoop> {
    async fn mend(&self, app: AppId, user: &str, waiting: &Waiting, asked: Asked) -> Mended {
        let mut mended = Mended::default();
        self.visit(app, user, |at| {
            self.mend_one(at, (waiting, asked), &mut mended);
        })
        .await;
        mended
    }

    async fn give_up(&self, app: AppId, user: &str) {
        self.visit(app, user, |at| {
            self.shard.own(|table| table.give_up_stored(at));
        })
        .await;
    }
}
