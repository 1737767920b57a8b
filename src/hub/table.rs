//! One shard's connections: slots, indexes, outboxes and the log, all under the shard's one lock.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use roaring::RoaringBitmap;

use super::{
    connection::{Connection, SlotRef, Snapshot, State},
    forms::{Forms, Wire},
    inbox::Inbox,
    index::Index,
    log::Log,
    membership::Departing,
    outbox::Outbox,
    placing::SlowConsumers,
    presence::{NoticeQueue, Presence},
    resume_table::ResumeTable,
    selection::{Name, channel_key},
};
use crate::{
    bus::{Interest, Topic},
    config,
    filter::{IndexKey, IndexRef, LookupKey, Schema, Value},
    id::{AppId, ConnectionId, NodeId},
    limits::{CHANNEL_WORK, INDEX_ENTRY_WORK, Limits, SLOTS_LOOK},
    log_limit::Lines,
    metrics::{AppMetrics, DropReason, Metrics},
    protocol::wire::Form,
    refusals::Refusals,
};

/// What all tables of a node share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) node: NodeId,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) refusals: Refusals,
    /// Which lines about clients were written lately.
    pub(crate) lines: Arc<Lines>,
    pub(crate) apps: Vec<AppContext>,
    /// Bytes that sockets refused, shared bytes once.
    pub(crate) refused: Arc<AtomicUsize>,
    /// Which channels have something to send to their members.
    pub(crate) notices: Arc<NoticeQueue>,
    /// Connections that may come back.
    pub(crate) resume_table: ResumeTable,
    /// What this node wants to hear from others, if there are any: kept in step with the connections.
    pub(crate) interest: Option<Arc<Interest>>,
    /// The forms of other protocols.
    pub(crate) forms: Arc<Forms>,
}

/// What the hub needs to know of an app.
#[derive(Debug)]
pub(crate) struct AppContext {
    pub(crate) name: Arc<str>,
    pub(crate) metrics: Arc<AppMetrics>,
    pub(crate) schema: Arc<Schema>,
    pub(crate) slow_consumer: config::SlowConsumer,
    pub(crate) presence: Presence,
    pub(crate) counts: AppCounts,
}

/// How many connections of an app stand how, over all shards: to be read without a lock.
#[derive(Debug, Default)]
pub(crate) struct AppCounts {
    pub(crate) open: AtomicUsize,
    /// Those whose sockets refused, or are handed a replay.
    pub(crate) blocked: AtomicUsize,
}

impl Context {
    /// What the tables of a node share that has one app, named "default", and nothing around it.
    pub(crate) fn of_one_app(
        limits: Limits,
        schema: Arc<Schema>,
        slow_consumer: config::SlowConsumer,
    ) -> Self {
        let (metrics, notices) = (Arc::new(Metrics::new()), Arc::<NoticeQueue>::default());
        let app_metrics = Arc::new(metrics.app("default"));
        let app = AppContext {
            name: "default".into(),
            metrics: app_metrics.clone(),
            schema,
            slow_consumer,
            presence: Presence::new(AppId(0), &limits, notices.clone(), app_metrics, None),
            counts: AppCounts::default(),
        };

        Self {
            node: NodeId(1),
            resume_table: ResumeTable::new(1, limits.resume_window, []),
            limits,
            refusals: Refusals::new(metrics.clone(), vec![app.name.clone()], true),
            lines: Arc::default(),
            metrics,
            apps: vec![app],
            refused: Arc::default(),
            notices,
            interest: None,
            forms: Arc::default(),
        }
    }

    /// What writes `form`; `None` for the native one.
    pub(crate) fn wire(&self, form: Form) -> Option<Wire> {
        Wire::of(form, &self.forms)
    }

    pub(crate) fn app(&self, app: AppId) -> &AppContext {
        &self.apps[app.0 as usize]
    }
}

/// On which flush list an outbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dirty {
    No,
    Small,
    Bulk,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) generation: u32,
    pub(super) app: AppId,
    pub(super) close_code: u16,
    pub(super) state: State,
    /// In which form its frames are written.
    pub(super) form: Form,
    /// It was open at some time, and so was counted.
    opened: bool,
    pub(super) dirty: Dirty,
    pub(super) outbox: Outbox,
    pub(super) connection: Option<Arc<Connection>>,
    /// What it has yet to confirm, if it takes stored events.
    pub(super) inbox: Option<Box<Inbox>>,
}

// An entry is one cache line: publications for many go through all of them.
const _: () = assert!(size_of::<Slot>() <= 64);

/// One app's connections on one shard.
#[derive(Debug)]
pub(super) struct AppTable {
    members: RoaringBitmap,
    pub(super) users: Index,
    pub(super) declared: Box<[Index]>,
    pub(super) channels: Index,
    /// Those who hear of the others' coming and going, by channel.
    pub(super) watchers: Index,
}

/// The data of one shard. No socket is known here, and no method blocks or waits.
#[derive(Debug)]
pub(crate) struct Table {
    pub(super) shard: u8,
    pub(super) apps: Vec<AppTable>,
    /// Counts every change of a connection that may change what it matches.
    pub(super) changes: u64,
    free: Vec<u32>,
    pub(super) slots: Vec<Slot>,
    /// The claims of each slot's connection: a scan finds them side by side, and none elsewhere.
    claims: Vec<Value>,
    pub(super) log: Log,
    pub(super) small: VecDeque<u32>,
    pub(super) bulk: VecDeque<u32>,
    pub(super) closing: Vec<SlotRef>,
    /// The slots whose outboxes are blocked.
    pub(super) blocked: RoaringBitmap,
    /// Consumers that were closed as slow and are yet to be logged.
    pub(super) slow: SlowConsumers,
    /// What changes of connections have cost since the last look, in units of [`SCAN_WORK`](crate::limits::SCAN_WORK).
    work: u32,
    pub(super) context: Arc<Context>,
}

/// The table has no slot left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this shard holds as many connections as it can name")]
pub(crate) struct Full;

/// What a connection leaves when it is removed.
#[derive(Debug)]
pub(crate) struct Departure {
    pub(crate) connection: Snapshot,
    /// Whether it was ever open, and so was counted as connected.
    pub(crate) was_open: bool,
    /// The code the server closed it with; 0 where the client or the network ended it.
    pub(crate) close_code: u16,
    /// Events that had been placed and were not written.
    pub(crate) unwritten: u64,
}

impl Table {
    pub(crate) fn new(shard: u8, context: Arc<Context>) -> Self {
        let apps = context
            .apps
            .iter()
            .map(|app| AppTable {
                members: RoaringBitmap::new(),
                users: Index::default(),
                declared: app.schema.paths().map(|_| Index::default()).collect(),
                channels: Index::default(),
                watchers: Index::default(),
            })
            .collect();

        Self {
            shard,
            apps,
            changes: 0,
            free: Vec::new(),
            slots: Vec::new(),
            claims: Vec::new(),
            log: Log::default(),
            small: VecDeque::new(),
            bulk: VecDeque::new(),
            closing: Vec::new(),
            blocked: RoaringBitmap::new(),
            slow: SlowConsumers::default(),
            work: 0,

            context,
        }
    }

    /// Gives a new connection a slot, in which it waits, reached by nothing, until it is opened.
    ///
    /// # Errors
    /// [`Full`] when every slot that an id can name is taken.
    pub(crate) fn insert(
        &mut self,
        build: impl FnOnce(ConnectionId) -> Connection,
    ) -> Result<(SlotRef, Snapshot), Full> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            // An id has 24 bits for the slot.
            None if self.slots.len() < 1 << 24 => {
                self.slots.push(Slot {
                    generation: 0,
                    app: AppId(0),
                    close_code: 0,
                    state: State::Free,
                    form: Form::NATIVE,
                    opened: false,
                    dirty: Dirty::No,
                    outbox: Outbox::Empty,
                    connection: None,
                    inbox: None,
                });
                self.claims.push(Value::Null);
                self.slots.len() as u32 - 1
            }
            None => return Err(Full),
        };

        // Ids must not be guessed: one that was lost is resumed by its id.
        let nonce = uuid::Uuid::new_v4().as_u64_pair().0;
        let connection = Arc::new(build(ConnectionId {
            node: self.context.node,
            shard: self.shard,
            slot,
            nonce,
        }));

        let entry = &mut self.slots[slot as usize];
        entry.state = State::Pending;
        entry.form = Form::NATIVE;
        entry.opened = false;
        entry.app = connection.app;
        entry.close_code = 0;
        entry.connection = Some(connection.clone());
        self.claims[slot as usize] = connection.attributes.auth.clone();

        Ok((
            SlotRef {
                slot,
                generation: entry.generation,
            },
            connection,
        ))
    }

    /// The slot of `at`, unless its tenant has changed.
    pub(super) fn slot(&mut self, at: SlotRef) -> Option<&mut Slot> {
        self.slots
            .get_mut(at.slot as usize)
            .filter(|slot| slot.generation == at.generation && slot.state != State::Free)
    }

    /// Sets in which form the frames of `at` are written from now on.
    pub(crate) fn set_form(&mut self, at: SlotRef, form: Form) {
        let wire = self.context.wire(form);
        if let Some(slot) = self.slot(at) {
            slot.form = form;
            if let Some(backlog) = slot.outbox.backlog() {
                backlog.set_wire(wire);
            }
        }
    }

    /// Whether the frames of `at` go out as they are placed.
    pub(crate) fn is_native(&mut self, at: SlotRef) -> bool {
        self.slot(at).is_none_or(|slot| slot.form.is_native())
    }

    /// The state of `at`; `Free` if it is gone.
    pub(crate) fn state(&mut self, at: SlotRef) -> State {
        self.slot(at).map_or(State::Free, |slot| slot.state)
    }

    /// The connection at `at`, unless it is gone.
    pub(crate) fn connection(&mut self, at: SlotRef) -> Option<Snapshot> {
        self.slot(at).and_then(|slot| slot.connection.clone())
    }

    /// Lets a pending connection be reached, or replaces what an open one was authenticated as: claims, user, rights and
    /// index entries change in one step; its channels and profile stay. False if the connection is gone or closing.
    pub(crate) fn open(&mut self, at: SlotRef, mut connection: Connection) -> bool {
        let state = self.state(at);
        let Some(slot) = self.slot(at) else {
            return false;
        };

        let was_anonymous = slot
            .connection
            .as_ref()
            .is_some_and(|current| current.user().is_none());
        match (state, &slot.connection) {
            // They are its own, and not its token's.
            (State::Open, Some(current)) => {
                connection.attributes.channels = current.attributes.channels.clone();
                connection.attributes.profile = current.attributes.profile.clone();
                // Under its old claims, before it is registered under the new ones.
                self.unregister(at.slot);
            }
            (State::Pending, _) => {}
            _ => return false,
        }

        let connection = Arc::new(connection);
        let entry = &mut self.slots[at.slot as usize];
        entry.state = State::Open;
        entry.opened = true;

        // A renewal keeps what the client has yet to confirm.
        entry.inbox = entry
            .inbox
            .take()
            .or_else(|| connection.takes_stored.then(Box::default));
        entry.connection = Some(connection.clone());
        let app = entry.app;
        self.claims[at.slot as usize] = connection.attributes.auth.clone();
        self.register(at.slot);

        if was_anonymous && connection.user().is_some() {
            for channel in connection.channels() {
                self.charge(CHANNEL_WORK);
                let watchers = &self.apps[app.0 as usize].watchers;
                let watches = watchers.contains(&channel_key(channel), at.slot);
                self.context
                    .app(app)
                    .presence
                    .identified(channel, &connection, watches);
            }
        }

        true
    }

    /// Takes a connection out, with whatever waited for it.
    pub(crate) fn remove(&mut self, at: SlotRef) -> Option<Departure> {
        // Its socket ended without a word, so its client may come back.
        if self.state(at) == State::Open {
            self.depart(at.slot, Departing::Lost);
        }

        let entry = self.slot(at)?;
        let app = entry.app;
        let close_code = entry.close_code;
        let was_open = entry.opened;
        let connection = entry.connection.take()?;
        entry.inbox = None;
        entry.state = State::Free;
        entry.dirty = Dirty::No;
        // References to this tenant must miss the next one.
        entry.generation = entry.generation.wrapping_add(1);
        self.claims[at.slot as usize] = Value::Null;
        let unwritten = self.clear_outbox(at.slot);
        self.free.push(at.slot);

        self.context
            .app(app)
            .metrics
            .dropped(DropReason::Gone, unwritten);
        Some(Departure {
            connection,
            was_open,
            close_code,
            unwritten,
        })
    }

    fn clear_outbox(&mut self, slot: u32) -> u64 {
        let outbox = &mut self.slots[slot as usize].outbox;
        if let Some(backlog) = outbox.backlog() {
            let events = backlog.events();
            *outbox = Outbox::Empty;
            self.note_unblocked(slot);
            return events;
        }
        outbox
            .take_queue(&mut self.log)
            .iter()
            .map(|queued| u64::from(queued.frame.is_event()))
            .sum()
    }

    /// Notes that a change of a connection has cost `work`. A loop that goes through connections under one hold of the
    /// lock ends the hold by it, so each change that takes more than a moment says so here.
    pub(crate) fn charge(&mut self, work: u32) {
        self.work = self.work.saturating_add(work);
    }

    /// What was charged since the last call.
    #[inline]
    pub(super) fn take_work(&mut self) -> u32 {
        std::mem::take(&mut self.work)
    }

    /// The tally of the app that the tenant of `slot` belongs to.
    fn counts(&self, slot: u32) -> &AppCounts {
        &self.context.app(self.slots[slot as usize].app).counts
    }

    /// Notes that the outbox of `slot` is blocked.
    pub(super) fn note_blocked(&mut self, slot: u32) {
        if self.blocked.insert(slot) {
            self.counts(slot).blocked.fetch_add(1, Relaxed);
        }
    }

    /// Notes that the outbox of `slot` is blocked no longer.
    pub(super) fn note_unblocked(&mut self, slot: u32) {
        if self.blocked.remove(slot) {
            self.counts(slot).blocked.fetch_sub(1, Relaxed);
        }
    }

    fn register(&mut self, slot: u32) {
        self.counts(slot).open.fetch_add(1, Relaxed);
        self.mind(slot, Interest::add);
        self.index(slot, Index::insert, |members, slot| {
            members.insert(slot);
        });
    }

    /// Takes `slot` out of the indexes of who is there and what its claims say, but not of its channels'.
    pub(super) fn unregister(&mut self, slot: u32) {
        self.counts(slot).open.fetch_sub(1, Relaxed);
        self.mind(slot, |interest, topic| interest.remove(&topic));
        self.index(slot, Index::remove, |members, slot| {
            members.remove(slot);
        });
    }

    /// Changes what the node wants to hear for a connection: what everyone gets, and what its user does.
    fn mind(&self, slot: u32, change: impl Fn(&Interest, Topic)) {
        let (Some(interest), Some(connection)) = (
            &self.context.interest,
            &self.slots[slot as usize].connection,
        ) else {
            return;
        };
        change(interest, Topic::App(connection.app));
        if let Some(user) = connection.user_name() {
            change(interest, Topic::User(connection.app, user.clone()));
        }
    }

    fn index(
        &mut self,
        slot: u32,
        change: fn(&mut Index, &Value, u32) -> u32,
        member: fn(&mut RoaringBitmap, u32),
    ) {
        self.changes += 1;
        let entry = &self.slots[slot as usize];
        let Some(connection) = &entry.connection else {
            return;
        };

        let app = &mut self.apps[entry.app.0 as usize];
        let schema = &self.context.app(entry.app).schema;
        member(&mut app.members, slot);
        let mut entries = change(&mut app.users, &connection.attributes.user, slot);

        for (at, index) in app.declared.iter_mut().enumerate() {
            if let Some(value) = schema.get(at, &connection.attributes) {
                entries += change(index, value, slot);
            }
        }

        self.charge(INDEX_ENTRY_WORK.saturating_mul(entries));
    }

    /// Connections of `app` that are open here.
    pub(crate) fn members(&self, app: AppId) -> usize {
        self.apps[app.0 as usize].members.len() as usize
    }

    /// The first open connection of `app` at or after `slot`.
    pub(super) fn next_member(&self, app: AppId, slot: u32) -> impl Iterator<Item = u32> {
        self.apps[app.0 as usize].members.range(slot..)
    }

    /// How many connections `name` stands for at most.
    pub(super) fn count(&self, app: AppId, name: Name<'_>) -> usize {
        let table = &self.apps[app.0 as usize];
        match name {
            Name::Everyone => self.members(app),
            Name::User(key) => table.users.count(key),
            Name::Channel(key) => table.channels.count(key),
            Name::Connection(id) => usize::from(self.find(app, id).is_some()),
            Name::Key(index, key) => self.look_up(app, index, key, Index::count, |_| 1),
        }
    }

    /// Adds the slots of the connections that `name` stands for.
    pub(super) fn collect(&self, app: AppId, name: Name<'_>, to: &mut RoaringBitmap) {
        let table = &self.apps[app.0 as usize];
        match name {
            Name::Everyone => *to |= &table.members,
            Name::User(key) => table.users.collect(key, to),
            Name::Channel(key) => table.channels.collect(key, to),
            Name::Connection(id) => to.extend(self.find(app, id)),
            Name::Key(IndexRef::ConnectionId, key) => to.extend(self.find_key(app, key)),
            Name::Key(index, key) => {
                self.look_up(app, index, key, |index, key| index.collect(key, to), |_| ());
            }
        }
    }

    fn look_up<T: Default>(
        &self,
        app: AppId,
        index: IndexRef,
        key: &LookupKey,
        by_index: impl FnOnce(&Index, &LookupKey) -> T,
        by_id: impl FnOnce(u32) -> T,
    ) -> T {
        let table = &self.apps[app.0 as usize];
        match index {
            IndexRef::User => by_index(&table.users, key),
            IndexRef::Channels => by_index(&table.channels, key),
            IndexRef::Declared(at) => by_index(&table.declared[at], key),
            IndexRef::ConnectionId => self.find_key(app, key).map(by_id).unwrap_or_default(),
        }
    }

    fn find_key(&self, app: AppId, key: &LookupKey) -> Option<u32> {
        match &key.key {
            IndexKey::Connection(id) => self.find(app, id),
            _ => None,
        }
    }

    /// The slot of an open connection of `app`, by its id; costs no index.
    pub(crate) fn find(&self, app: AppId, id: &ConnectionId) -> Option<u32> {
        if id.node != self.context.node || id.shard != self.shard {
            return None;
        }
        let entry = self.slots.get(id.slot as usize)?;
        // A former tenant of the slot had another nonce, so that its id finds nobody.
        let same = entry
            .connection
            .as_ref()
            .is_some_and(|connection| connection.id() == *id);
        (same && entry.state == State::Open && entry.app == app).then_some(id.slot)
    }

    /// The open connection in `slot`.
    pub(crate) fn open_connection(&self, slot: u32) -> Option<&Arc<Connection>> {
        let entry = self.slots.get(slot as usize)?;
        if entry.state == State::Open {
            entry.connection.as_ref()
        } else {
            None
        }
    }

    /// The open connection in `slot`, and its claims.
    pub(super) fn open_tenant(&self, slot: u32) -> Option<(&Arc<Connection>, &Value)> {
        Some((self.open_connection(slot)?, &self.claims[slot as usize]))
    }

    /// A name for the tenant of `slot` that outlives the lock.
    pub(crate) fn reference(&self, slot: u32) -> Option<SlotRef> {
        self.slots.get(slot as usize).map(|entry| SlotRef {
            slot,
            generation: entry.generation,
        })
    }

    /// The open connection in `slot`, with a name for it that outlives the lock.
    pub(super) fn open_snapshot(&self, slot: u32) -> Option<(SlotRef, Snapshot)> {
        let generation = self.slots.get(slot as usize)?.generation;
        self.open_connection(slot)
            .map(|connection| (SlotRef { slot, generation }, connection.clone()))
    }

    /// Connections among [`SLOTS_LOOK`] slots from `from` on that are open or about to be; and where to look next.
    pub(crate) fn tenants(&self, from: usize) -> (Vec<SlotRef>, Option<usize>) {
        let end = self.slots.len().min(from + SLOTS_LOOK);
        let scan = (from.min(end)..end).zip(&self.slots[from.min(end)..end]);
        let tenants = scan
            .filter(|(_, entry)| matches!(entry.state, State::Open | State::Pending))
            .map(|(slot, entry)| SlotRef {
                slot: slot as u32,
                generation: entry.generation,
            });
        (tenants.collect(), (end < self.slots.len()).then_some(end))
    }

    /// Whether the owner has something to do: an outbox waits, or a connection began to close.
    pub(super) fn is_waiting(&self) -> bool {
        let lists = self.waiting();
        lists.small || lists.bulk || !self.closing.is_empty()
    }

    /// Lets go of frames that were placed for nobody as part of a run, and of their permits.
    pub(super) fn trim(&mut self) {
        self.log.trim();
    }

    /// Whether nothing at all is held: no connection, no index entry, no frame.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
            && self.log.len() == 0
            && self.blocked.is_empty()
            && self.apps.iter().all(|app| {
                app.members.is_empty()
                    && app.users.len() == 0
                    && app.declared.iter().all(|index| index.len() == 0)
                    && app.channels.len() == 0
                    && app.watchers.len() == 0
            })
            && self.context.apps.iter().all(|app| {
                let AppCounts { open, blocked } = &app.counts;
                app.presence.is_empty() && open.load(Relaxed) == 0 && blocked.load(Relaxed) == 0
            })
    }
}
