//! Channels and profiles: what a connection changes about itself, in one step with every index.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use smallvec::SmallVec;
use smol_str::SmolStr;

use super::{
    connection::{Connection, SlotRef, Snapshot, State},
    presence::{JoinKind, LeaveKind, Watching},
    resume_table::{ClientKey, Detached, LostChannel, QueueAt},
    scan::Spent,
    selection::channel_key,
    table::Table,
};
use crate::{
    bus::Topic,
    filter::{IndexKey, KeyKind, LookupKey, Value},
    id::{AppId, ConnectionId},
    limits::{CHANNEL_WORK, INDEX_ENTRY_WORK, SLICE_STRIDE},
    protocol::frame::Frame,
};

/// What became of a connection's joining.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joining {
    /// It is a member from now on; by the number of the channel's change before that.
    Joined(u64),
    /// It was one before; by the number of the channel's last change.
    Already(u64),
    /// It is in as many channels as it may be.
    Full,
    /// It is not open.
    Gone,
}

/// A frame, and the connection that it is about, which need not hear it.
pub(crate) type About = (Option<ConnectionId>, Frame);

/// How a connection departs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Departing<'a> {
    /// It has left for good.
    Left,
    /// It is lost: its client may come back to all channels.
    Lost,
    /// Closed by its client, which may come back to these channels within these times.
    Closed(&'a [(SmolStr, Duration)]),
}

/// How a departing connection leaves a channel in which it waits in `queue`. `may_come_back`: to this one or to another.
fn leave_kind(queue: Option<QueueAt>, may_come_back: bool) -> LeaveKind {
    match queue {
        Some(_) => LeaveKind::Lost,
        // It is still known for the channels to which it may come back.
        None if may_come_back => LeaveKind::Left,
        None => LeaveKind::Gone,
    }
}

impl Table {
    /// Makes an open connection a member of `channel`: table, index and presence change in one step.
    ///
    /// Joining again changes nothing but whether it hears of the others, which it does once either asked for it.
    /// Costs one copy of its list of channels, and of its snapshot where someone else holds that.
    pub(crate) fn join(
        &mut self,
        at: SlotRef,
        channel: &str,
        watching: Watching,
        join_kind: JoinKind,
    ) -> Joining {
        if self.state(at) != State::Open {
            return Joining::Gone;
        }

        let slot = at.slot;
        let entry = &mut self.slots[slot as usize];
        let Some(connection) = &mut entry.connection else {
            return Joining::Gone;
        };

        let context = self.context.app(entry.app);
        let app = &mut self.apps[entry.app.0 as usize];
        let key = channel_key(channel);

        // Asked of the index, which costs the same however many channels there are.
        if app.channels.contains(&key, slot) {
            let begins = watching != Watching::No && !app.watchers.contains(&key, slot);
            if begins {
                app.watchers.insert_key(key, slot);
            }
            // A member that watches is counted once, however often it joins.
            let watching = if begins { watching } else { Watching::No };
            return Joining::Already(context.presence.watched(channel, connection, watching));
        }

        let joined = connection.attributes.channels.as_list().unwrap_or_default();
        if joined.len() >= self.context.limits.channels_per_connection {
            return Joining::Full;
        }

        let (name, changed) = context
            .presence
            .joined(channel, connection, watching, join_kind);
        let channels = joined
            .iter()
            .cloned()
            .chain([Value::String(name.clone())])
            .collect();

        Arc::make_mut(connection).attributes.channels = Value::List(channels);
        if let Some(interest) = &self.context.interest {
            interest.add(Topic::Channel(entry.app, name.clone()));
        }

        let key = LookupKey {
            kind: KeyKind::Element,
            key: IndexKey::String(name),
        };

        if watching != Watching::No {
            app.watchers.insert_key(key.clone(), slot);
        }

        app.channels.insert_key(key, slot);
        // Scans that hold candidates from before have to look at each again.
        self.changes += 1;
        self.charge(CHANNEL_WORK);

        Joining::Joined(changed)
    }

    /// Lets a member of `channel` hear no more of the others.
    pub(crate) fn unwatch(&mut self, at: SlotRef, channel: &str) {
        let Some(slot) = self.slot(at) else { return };
        let app = slot.app;
        let connection = slot.connection.clone();
        if self.apps[app.0 as usize]
            .watchers
            // Only a member that watches is counted as one.
            .remove_key(&channel_key(channel), at.slot)
            && let Some(connection) = connection
        {
            let presence = &self.context.app(app).presence;
            presence.unwatched(channel, &connection);
        }
    }

    /// Takes an open connection out of `channel`; false if it was not a member.
    pub(crate) fn leave(&mut self, at: SlotRef, channel: &str) -> bool {
        if self.state(at) != State::Open {
            return false;
        }
        // Most of those that a scan meets may be no members, and the index says so without a look at every channel.
        let app = self.slots[at.slot as usize].app;
        let is_member = self.apps[app.0 as usize]
            .channels
            .contains(&channel_key(channel), at.slot);
        is_member && !self.leave_those(at, |name| name == channel).is_empty()
    }

    /// Takes an open connection out of those of its channels for which `leaves` is true. Returns them.
    ///
    /// Its list of channels and its snapshot are copied once, however many it leaves.
    pub(crate) fn leave_those(
        &mut self,
        at: SlotRef,
        leaves: impl Fn(&str) -> bool,
    ) -> SmallVec<[SmolStr; 1]> {
        let mut left = SmallVec::new();
        if self.state(at) != State::Open {
            return left;
        }

        let entry = &mut self.slots[at.slot as usize];
        let Some(connection) = &mut entry.connection else {
            return left;
        };

        let mut stays = Vec::new();
        for name in connection.channel_names() {
            if leaves(name) {
                left.push(name.clone());
            } else {
                stays.push(Value::String(name.clone()));
            }
        }

        if left.is_empty() {
            return left;
        }

        Arc::make_mut(connection).attributes.channels = Value::List(stays.into());

        let app = &mut self.apps[entry.app.0 as usize];
        let presence = &self.context.app(entry.app).presence;
        for name in &left {
            let key = channel_key(name);
            app.channels.remove_key(&key, at.slot);
            let watched = app.watchers.remove_key(&key, at.slot);
            presence.left(name, connection, watched, LeaveKind::Left);
            if let Some(interest) = &self.context.interest {
                interest.remove(&Topic::Channel(entry.app, name.clone()));
            }
        }

        self.changes += 1;
        self.charge(CHANNEL_WORK.saturating_mul(left.len() as u32));
        left
    }

    /// Replaces what an open connection says about itself; null removes it. Returns in how many of its channels others may
    /// hear of that, or `None` if it is not open.
    ///
    /// Filters see it, and members are notified of it, from this moment on.
    pub(crate) fn set_profile(&mut self, at: SlotRef, profile: Value) -> Option<u32> {
        if self.state(at) != State::Open {
            return None;
        }

        let entry = &mut self.slots[at.slot as usize];
        let connection = entry.connection.as_mut()?;
        let context = self.context.app(entry.app);
        let app = &mut self.apps[entry.app.0 as usize];
        let declared = &mut app.declared;
        let of_profile = |n: &usize| context.schema.is_of_profile(*n);

        let mut entries = 0;
        // Out of the indexes under its old profile, and in under the new one: an entry that stays
        // would match what nobody says any longer.
        for n in (0..declared.len()).filter(of_profile) {
            if let Some(value) = context.schema.get(n, &connection.attributes) {
                entries += declared[n].remove(value, at.slot);
            }
        }

        Arc::make_mut(connection).attributes.profile = profile;
        for n in (0..declared.len()).filter(of_profile) {
            if let Some(value) = context.schema.get(n, &connection.attributes) {
                entries += declared[n].insert(value, at.slot);
            }
        }

        let (mut notified, mut channels) = (0, 0);
        for name in connection.channel_names() {
            channels += 1;
            let watches = || app.watchers.contains(&channel_key(name), at.slot);
            let others = match context.presence.updated(name, connection, watches) {
                // It does not hear of itself.
                Some(1) => !watches(),
                Some(watchers) => watchers > 0,
                None => true,
            };
            notified += u32::from(others);
        }

        self.changes += 1;
        self.charge(INDEX_ENTRY_WORK.saturating_mul(entries));
        self.charge(CHANNEL_WORK.saturating_mul(channels));

        Some(notified)
    }

    /// Takes `slot` out of every index, and its connection out of its channels. Where it may come back to them, they are held
    /// for it.
    pub(super) fn depart(&mut self, slot: u32, departing: Departing<'_>) {
        // First out of the indexes, so that nothing is placed for it from here on.
        self.unregister(slot);
        let entry = &self.slots[slot as usize];
        let Some(connection) = entry.connection.clone() else {
            return;
        };

        let resume_table = &self.context.resume_table;
        let lost = match departing {
            Departing::Lost => resume_table.queue_of_lost(&connection),
            Departing::Left | Departing::Closed(_) => None,
        };

        let app = &mut self.apps[entry.app.0 as usize];
        let mut held: BTreeMap<QueueAt, Vec<LostChannel>> = BTreeMap::new();

        // A lost connection comes back to its profile, too.
        if let Some(queue) = lost.filter(|_| connection.profile().is_some()) {
            held.insert(queue, Vec::new());
        }

        let queue_in = |name: &SmolStr| match departing {
            Departing::Closed(waiting) => waiting
                .iter()
                .find(|(waits, _)| waits == name)
                .and_then(|(_, after)| resume_table.queue_of_closed(&connection, *after)),
            Departing::Left | Departing::Lost => lost,
        };
        let may_come_back = match departing {
            Departing::Closed(_) => connection
                .channel_names()
                .any(|name| queue_in(name).is_some()),
            Departing::Left | Departing::Lost => lost.is_some(),
        };

        for name in connection.channel_names() {
            let queue = queue_in(name);
            let leaving = leave_kind(queue, may_come_back);
            let key = LookupKey {
                kind: KeyKind::Element,
                key: IndexKey::String(name.clone()),
            };

            app.channels.remove_key(&key, slot);
            let watches = app.watchers.remove_key(&key, slot);
            if let Some(queue) = queue {
                held.entry(queue).or_default().push(LostChannel {
                    name: name.clone(),
                    watched: watches,
                });
            }

            self.context
                .app(entry.app)
                .presence
                .left(name, &connection, watches, leaving);
            if let Some(interest) = &self.context.interest {
                interest.remove(&Topic::Channel(entry.app, name.clone()));
            }
        }

        for (queue, channels) in held {
            resume_table.insert(queue, Detached::in_some(&connection, channels));
        }

        let channels = connection.channel_names().count() as u32;
        self.charge(CHANNEL_WORK.saturating_mul(channels));
    }

    /// Up to `limit` members of `channel` from slot `from` on, in the order of slots.
    pub(crate) fn members_of(
        &self,
        app: AppId,
        channel: &LookupKey,
        from: u32,
        limit: usize,
    ) -> Vec<Snapshot> {
        let slots = self.apps[app.0 as usize]
            .channels
            .page(channel, from, limit);
        slots
            .into_iter()
            .filter_map(|slot| self.open_connection(slot).cloned())
            .collect()
    }

    /// Whether `slot` hears of coming and going in `channel`.
    pub(crate) fn is_watching(&self, app: AppId, channel: &LookupKey, slot: u32) -> bool {
        self.apps[app.0 as usize].watchers.contains(channel, slot)
    }

    /// Gives `frames` to a few of those who watch `channel`, from slot `from` on, except a frame to the connection that it is
    /// about. Returns where the next ones begin.
    pub(crate) fn notify_watchers(
        &mut self,
        app: AppId,
        channel: &LookupKey,
        from: u32,
        frames: &[About],
    ) -> Option<u32> {
        let watchers = self.watchers_of(app, channel, from);
        let mut spent = Spent::default();
        self.take_work();

        for &(at, id) in &watchers {
            for (about, frame) in frames {
                if *about != Some(id) {
                    self.place_own(at, frame.clone());
                }
            }
            // One that is closed as too slow may be in many channels.
            if spent.add(self.take_work()) {
                return Some(at.slot + 1);
            }
        }

        watchers.last().map(|(last, _)| last.slot + 1)
    }

    /// Up to [`SLICE_STRIDE`] of those who hear of coming and going in `channel`, from slot `from` on, in the order of slots.
    fn watchers_of(
        &self,
        app: AppId,
        channel: &LookupKey,
        from: u32,
    ) -> SmallVec<[(SlotRef, ConnectionId); SLICE_STRIDE]> {
        let slots = self.apps[app.0 as usize]
            .watchers
            .page(channel, from, SLICE_STRIDE);
        let open = slots
            .into_iter()
            .filter_map(|slot| Some((slot, self.open_connection(slot)?.id())));
        open.filter_map(|(slot, id)| Some((self.reference(slot)?, id)))
            .collect()
    }
}

impl Connection {
    /// Who it belongs to.
    pub(crate) fn client(&self) -> ClientKey<'_> {
        ClientKey {
            app: self.app,
            user: self.user(),
            device: self.device(),
        }
    }

    /// Whether `client` may stand in for this one's: the same user and device. An anonymous client has nothing to prove
    /// itself by but its device.
    pub(crate) fn is_of_client(&self, client: ClientKey<'_>) -> bool {
        let known = client.user.is_some() || client.device.is_some();
        known && self.client() == client
    }
}
