//! How much of what other nodes ask for is carried out at the same time.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::order::Order;
use crate::{
    id::AppId,
    limits::{ORDERS_AT_ONCE, ORDERS_OF_APP, REVOKES_AT_ONCE},
};

/// Room for the orders of other nodes. Each app has some for certain, so that no app's calls keep out another's, and more while
/// there is room for all. Revoking has room of its own: it must not fail for anything else that is asked.
#[derive(Debug)]
pub(super) struct Room {
    apps: Box<[Arc<Semaphore>]>,
    common: Arc<Semaphore>,
    revokes: Arc<Semaphore>,
}

impl Room {
    /// All of it, for so many apps.
    pub(super) fn new(apps: usize) -> Self {
        let of = |permits| Arc::new(Semaphore::new(permits));
        Self {
            apps: (0..apps).map(|_| of(ORDERS_OF_APP)).collect(),
            common: of(ORDERS_AT_ONCE),
            revokes: of(REVOKES_AT_ONCE),
        }
    }

    /// Room for one order, until it is dropped; nothing if there is none.
    pub(super) fn take(&self, app: AppId, order: &Order) -> Option<OwnedSemaphorePermit> {
        if matches!(order, Order::Revoke { .. }) {
            return self.revokes.clone().try_acquire_owned().ok();
        }
        let of_app = self.apps.get(usize::from(app.0))?.clone();
        let permit = of_app.try_acquire_owned();
        permit
            .or_else(|_| self.common.clone().try_acquire_owned())
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::cluster::revoked::Changes;

    #[test]
    fn an_app_that_asks_for_too_much_leaves_room_for_others_and_for_revoking() {
        let room = Room::new(2);
        let count = || Order::User {
            user: "ann".to_owned(),
        };
        let revoke = || Order::Revoke {
            users: Vec::new(),
            changes: Changes::default(),
        };
        let of_first = || room.take(AppId(0), &count());
        let mut taken: Vec<_> = std::iter::from_fn(of_first).collect();
        assert_eq!(taken.len(), ORDERS_OF_APP + ORDERS_AT_ONCE);

        let of_second = || room.take(AppId(1), &count());
        let others: Vec<_> = std::iter::from_fn(of_second).collect();
        assert_eq!(others.len(), ORDERS_OF_APP);
        assert!(room.take(AppId(0), &revoke()).is_some());

        // What is given back is free for any app, but what is one's own.
        taken.pop();
        assert!(room.take(AppId(1), &count()).is_some());
        assert!(
            room.take(AppId(7), &count()).is_none(),
            "no app of this node"
        );
    }
}
