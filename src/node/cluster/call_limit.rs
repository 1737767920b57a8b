//! How much of what other nodes ask for is carried out at the same time, and how much of what programs say waits.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::rpc_request::Request;
use crate::{
    id::AppId,
    limits::{PEER_CALLS_AT_ONCE, PEER_CALLS_OF_APP, REVOKES_AT_ONCE},
};

/// Room for the bytes of programs' messages that wait to be understood. Half of it belongs to the apps in equal shares, so that
/// no app's programs keep out another's.
#[derive(Debug)]
pub(super) struct ProgramRoom {
    apps: Box<[Arc<Semaphore>]>,
    common: Arc<Semaphore>,
}

/// What a message of a program takes of it, until this is dropped.
#[derive(Debug)]
pub(crate) struct ProgramBytes {
    _own: OwnedSemaphorePermit,
    _common: Option<OwnedSemaphorePermit>,
}

impl ProgramRoom {
    /// Room for `all` bytes, for so many apps.
    pub(super) fn new(all: usize, apps: usize) -> Self {
        let share = all / 2 / apps.max(1);
        let of = |bytes| Arc::new(Semaphore::new(bytes));
        Self {
            apps: (0..apps).map(|_| of(share)).collect(),
            common: of(all - share * apps),
        }
    }

    /// Room for a message of `app`: what is left of the app's share first. Nothing if there is not enough.
    pub(super) fn take(&self, app: AppId, bytes: usize) -> Option<ProgramBytes> {
        let some = |room: &Arc<Semaphore>, bytes: usize| {
            let bytes = u32::try_from(bytes).ok()?;
            room.clone().try_acquire_many_owned(bytes).ok()
        };

        let own = self.apps.get(usize::from(app.0))?;
        // Only this task takes from it, so that what is available stays so.
        let in_share = bytes.min(own.available_permits());
        let common = match bytes - in_share {
            0 => None,
            rest => Some(some(&self.common, rest)?),
        };

        Some(ProgramBytes {
            _own: some(own, in_share)?,
            _common: common,
        })
    }
}

/// Room for the orders of other nodes. Each app has some for certain, so that no app's calls keep out another's, and more while
/// there is room for all. Revoking has room of its own: it must not fail for anything else that is asked.
#[derive(Debug)]
pub(super) struct CallLimit {
    apps: Box<[Arc<Semaphore>]>,
    common: Arc<Semaphore>,
    revokes: Arc<Semaphore>,
}

impl CallLimit {
    /// All of it, for so many apps.
    pub(super) fn new(apps: usize) -> Self {
        let of = |permits| Arc::new(Semaphore::new(permits));
        Self {
            apps: (0..apps).map(|_| of(PEER_CALLS_OF_APP)).collect(),
            common: of(PEER_CALLS_AT_ONCE),
            revokes: of(REVOKES_AT_ONCE),
        }
    }

    /// Room for one order, until it is dropped; nothing if there is none.
    pub(super) fn take(&self, app: AppId, request: &Request) -> Option<OwnedSemaphorePermit> {
        if matches!(request, Request::Revoke { .. }) {
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
    fn programs_of_an_app_that_flood_leave_the_others_their_share() {
        let room = ProgramRoom::new(1000, 2);
        let flood: Vec<_> = std::iter::from_fn(|| room.take(AppId(0), 60)).collect();
        // Its own 250, and of the 500 of all what whole messages have use for.
        assert_eq!(flood.len(), 12);
        assert!(room.take(AppId(0), 31).is_none());

        let others: Vec<_> = std::iter::from_fn(|| room.take(AppId(1), 50)).collect();
        assert_eq!(others.len(), 5);
        assert!(room.take(AppId(7), 1).is_none(), "no app of this node");

        drop(flood);
        let long = room.take(AppId(0), 750);
        assert!(long.is_some(), "a message may be longer than a share");
        drop((long, others));
        assert!(room.take(AppId(1), 750).is_some(), "all was given back");
    }

    #[test]
    fn an_app_that_asks_for_too_much_leaves_room_for_others_and_for_revoking() {
        let room = CallLimit::new(2);
        let count = || Request::User {
            user: "ann".to_owned(),
        };
        let revoke = || Request::Revoke {
            users: Vec::new(),
            changes: Changes::default(),
        };
        let of_first = || room.take(AppId(0), &count());
        let mut taken: Vec<_> = std::iter::from_fn(of_first).collect();
        assert_eq!(taken.len(), PEER_CALLS_OF_APP + PEER_CALLS_AT_ONCE);

        let of_second = || room.take(AppId(1), &count());
        let others: Vec<_> = std::iter::from_fn(of_second).collect();
        assert_eq!(others.len(), PEER_CALLS_OF_APP);
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
