//! One channel of a node: its connections, its users, and how many watch.

use std::collections::BTreeMap;

use ahash::AHashMap;
use smol_str::SmolStr;

use super::{
    Count, LeaveKind,
    notices::{PendingNotices, PendingShare},
};
use crate::{
    limits::SHARE_BYTES,
    protocol::envelope::{Share, UserShare},
};

#[derive(Debug, Default)]
pub(super) struct UserCounts {
    pub(super) live: u32,
    lost: u32,
}

impl UserCounts {
    fn of(&self, user: &SmolStr) -> UserShare {
        UserShare(user.clone(), self.live, self.lost)
    }
}

#[derive(Debug, Default)]
pub(super) struct Room {
    pub(super) connections: u32,
    pub(super) watchers: u32,
    pub(super) counts_only: bool,
    /// When it last changed, by [`Presence::clock`](super::Presence::clock).
    pub(super) changed: u64,
    pub(super) online: u32,
    /// Lost connections without a user that may come back.
    lost_anonymous: u32,
    pub(super) users: AHashMap<SmolStr, UserCounts>,
    pub(super) pending: Option<Box<PendingNotices>>,
}

impl Room {
    pub(super) fn count(&self) -> Count {
        Count {
            connections: self.connections.into(),
            users: self.online.into(),
        }
    }

    pub(super) fn enter(&mut self, user: Option<&SmolStr>) {
        self.connections += 1;
        let Some(user) = user else { return };
        let counts = self.users.entry(user.clone()).or_default();
        counts.live += 1;
        self.online += u32::from(counts.live == 1);
    }

    pub(super) fn exit(&mut self, user: Option<&SmolStr>, leaving: LeaveKind) {
        self.connections -= 1;
        let Some(user) = user else {
            self.lost_anonymous += u32::from(leaving == LeaveKind::Lost);
            return;
        };
        let Some(counts) = self.users.get_mut(user) else {
            return;
        };
        counts.live -= 1;
        self.online -= u32::from(counts.live == 0);
        counts.lost += u32::from(leaving == LeaveKind::Lost);
        self.forget_if_gone(user);
    }

    /// One lost connection of `user` will not come back, or has.
    pub(super) fn settle_lost(&mut self, user: Option<&SmolStr>) {
        let Some(user) = user else {
            self.lost_anonymous = self.lost_anonymous.saturating_sub(1);
            return;
        };
        let Some(counts) = self.users.get_mut(user) else {
            return;
        };
        counts.lost = counts.lost.saturating_sub(1);
        self.forget_if_gone(user);
    }

    fn forget_if_gone(&mut self, user: &SmolStr) {
        if self
            .users
            .get(user)
            .is_some_and(|counts| counts.live == 0 && counts.lost == 0)
        {
            self.users.remove(user);
        }
    }

    pub(super) fn connections_of(&self, user: &SmolStr) -> u64 {
        self.users
            .get(user)
            .map_or(0, |counts| u64::from(counts.live) + u64::from(counts.lost))
    }

    /// Whether nobody is here, and nobody may come back: what becomes of a lost connection is reported until
    /// then.
    pub(super) fn is_empty(&self) -> bool {
        self.connections == 0 && self.users.is_empty() && self.lost_anonymous == 0
    }

    /// All that is here. Users are named if they are at most `most`, and their names have at most [`SHARE_BYTES`].
    pub(super) fn share(&self, most: usize) -> Share {
        // Added up only where there are few enough.
        let bytes = || self.users.keys().map(SmolStr::len).sum::<usize>();
        let is_named = self.users.len() <= most && bytes() <= SHARE_BYTES;
        let all = || self.users.iter().map(|(user, counts)| counts.of(user));
        Share {
            at: self.changed,
            connections: self.connections.into(),
            users: self.online.into(),
            tallies: is_named.then(|| all().collect()),
            is_whole: true,
        }
    }

    /// The same with those users alone that other nodes do not know of yet.
    pub(super) fn share_pending(&self, unshared: &mut PendingShare, most: usize) -> Share {
        let PendingShare {
            users, is_whole, ..
        } = std::mem::take(unshared);

        if is_whole || self.users.len() > most {
            let share = self.share(most);
            // Others have to get them all once they can be named again.
            unshared.is_whole = share.tallies.is_none();
            return share;
        }

        let of = |user: SmolStr| {
            let counts = self.users.get(&user);
            counts.map_or_else(|| UserShare(user.clone(), 0, 0), |counts| counts.of(&user))
        };

        Share {
            tallies: Some(users.into_iter().map(of).collect()),
            is_whole: false,
            ..self.share(0)
        }
    }

    /// Whether there is something to send.
    pub(super) fn has_pending(&self) -> bool {
        self.pending
            .as_ref()
            .is_some_and(|pending| pending.is_due || pending.is_counted)
    }
}

pub(super) type Rooms = BTreeMap<SmolStr, Room>;
