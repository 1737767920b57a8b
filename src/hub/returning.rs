//! Lost connections whose clients have come back, and are about to take over their channels.
//!
//! Between leaving the [resume table](super::resume_table) and joining as another connection such a client is neither
//! lost nor a member, and its join may have to wait. A call that takes connections out of a channel has to find it
//! all the same. So it is with clients that come from other nodes, from before those let go of them.

use std::sync::Arc;

use ahash::AHashMap;
use parking_lot::{Mutex, MutexGuard};
use smol_str::SmolStr;

use super::{
    connection::{Connection, Snapshot},
    resume_table::Left,
};
use crate::{
    filter::Value,
    id::{AppId, ConnectionId},
};

/// The places in channels that returning clients have yet to claim.
#[derive(Debug, Default)]
pub(super) struct Returning(Mutex<Places>);

#[derive(Debug, Default)]
pub(super) struct Places {
    /// Lost connections as they were, but with the channels alone that are yet to be claimed. A channel is there once for each
    /// connection that comes back for it: two may try at the same time, of which one learns later that it comes too late.
    by_id: AHashMap<ConnectionId, Snapshot>,
    /// Channels that nobody comes back to for now.
    held_off: Vec<(AppId, SmolStr)>,
}

/// A channel that no returning client comes back to before this is dropped.
#[derive(Debug)]
pub(crate) struct HeldOff<'r> {
    returning: &'r Returning,
    held: (AppId, SmolStr),
}

impl Returning {
    /// For adding what is taken out of the resume table in the meantime: a search finds it in the one or the other.
    pub(super) fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock()
    }

    /// Claims the place of `id` in `channel`; false if it was taken out of the channel before. `None` if clients are held off
    /// the channel now.
    pub(super) fn claim(&self, id: &ConnectionId, (app, channel): (AppId, &str)) -> Option<bool> {
        let mut places = self.lock();
        let is_held = |(of, name): &(AppId, SmolStr)| *of == app && name == channel;
        if places.held_off.iter().any(is_held) {
            return None;
        }
        Some(places.remove(id, channel))
    }

    /// Gives up the place of `id` in `channel`; false if it was taken out of the channel before.
    pub(super) fn give_up(&self, id: &ConnectionId, channel: &str) -> bool {
        self.lock().remove(id, channel)
    }

    pub(super) fn hold_off(&self, app: AppId, channel: &str) -> HeldOff<'_> {
        let held = (app, SmolStr::from(channel));
        self.lock().held_off.push(held.clone());
        HeldOff {
            returning: self,
            held,
        }
    }

    /// Whether `id` has a place that is yet to be claimed.
    pub(super) fn has(&self, id: &ConnectionId) -> bool {
        self.lock().by_id.contains_key(id)
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Snapshot> {
        self.lock().by_id.values().cloned().collect()
    }

    /// Those with a place in `channel`.
    pub(super) fn of(&self, channel: &str) -> Vec<Snapshot> {
        let places = self.lock();
        let ones = places.by_id.values().filter(|one| one.is_in(channel));
        ones.cloned().collect()
    }

    /// Takes one out of `channel`, unless it is no longer what it was when it was looked at.
    pub(super) fn take_out(&self, seen: &Snapshot, channel: &str) -> Left {
        let mut places = self.lock();
        match places.by_id.get(&seen.id()) {
            None => Left::Gone,
            Some(now) if !Arc::ptr_eq(now, seen) => Left::Changed(now.clone()),
            Some(_) => {
                // It is there once for each connection that comes back for it.
                while places.remove(&seen.id(), channel) {}
                Left::Done
            }
        }
    }
}

impl Places {
    /// Adds the places of `lost` in `channels`.
    pub(super) fn add(&mut self, lost: &Snapshot, channels: &[SmolStr]) {
        if channels.is_empty() {
            return;
        }
        // Those of an earlier attempt stay.
        let before = self.by_id.get(&lost.id()).map(Arc::as_ref);
        let names = before.into_iter().flat_map(Connection::channel_names);
        let all: Vec<SmolStr> = names.chain(channels).cloned().collect();
        let mut one = lost.clone();
        set_channels(&mut one, all);
        self.by_id.insert(one.id(), one);
    }

    /// Removes one place; false if there is none.
    fn remove(&mut self, id: &ConnectionId, channel: &str) -> bool {
        let Some(one) = self.by_id.get_mut(id).filter(|one| one.is_in(channel)) else {
            return false;
        };

        let mut rest: Vec<SmolStr> = one.channel_names().cloned().collect();
        if let Some(at) = rest.iter().position(|name| *name == channel) {
            rest.swap_remove(at);
        }

        if rest.is_empty() {
            self.by_id.remove(id);
        } else {
            set_channels(one, rest);
        }

        true
    }
}

/// A lost connection as it was when it was in these channels.
pub(crate) fn with_channels(lost: &Snapshot, channels: &[SmolStr]) -> Snapshot {
    let mut lost = lost.clone();
    set_channels(&mut lost, channels.to_vec());
    lost
}

fn set_channels(one: &mut Snapshot, channels: Vec<SmolStr>) {
    let channels = channels.into_iter().map(Value::String).collect();
    Arc::make_mut(one).attributes.channels = Value::List(channels);
}

impl Drop for HeldOff<'_> {
    fn drop(&mut self) {
        let mut places = self.returning.lock();
        if let Some(at) = places.held_off.iter().position(|one| *one == self.held) {
            places.held_off.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::tests::unconnected;

    #[test]
    fn of_two_that_come_back_for_one_place_the_one_that_gives_up_leaves_it_to_the_other() {
        let (returning, one) = (Returning::default(), Arc::new(unconnected("d", 1)));
        let both = ["a", "b"].map(SmolStr::from);
        returning.lock().add(&one, &both);
        returning.lock().add(&one, &both);
        assert!(returning.give_up(&one.id(), "a"));
        assert_eq!(returning.claim(&one.id(), (AppId(0), "a")), Some(true));
        assert_eq!(returning.claim(&one.id(), (AppId(0), "a")), Some(false));

        // Taken out of the channel, neither comes back to it.
        let [seen] = &returning.of("b")[..] else {
            panic!("it is there once")
        };
        assert!(matches!(returning.take_out(seen, "b"), Left::Done));
        assert!(!returning.give_up(&one.id(), "b"));
        assert!(returning.lock().by_id.is_empty());
    }
}
