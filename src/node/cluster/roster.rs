//! The list of this node's members in Redis, which outlives a node that ends without a word.
//!
//! It lives as long as the node's lease. Whoever finds a list without a lease tells the channels, bit by bit, that these members
//! have left, and takes it away; so nobody stays who is not there. Where no node comes any more, it goes by itself. Until then
//! clients that come back take their places out of it ([`super::resume_from_list`]).
//!
//! The list has a version. Each change is made only to the version before it, so it shows if Redis has lost the list, or has gone
//! back to an older one. Only then, and after changes that may have been lost on their way, is it written as a whole. What clients
//! take out of it makes no other version, as it is to stay out.

use std::{
    collections::VecDeque,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use ahash::{AHashMap, RandomState};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use smol_str::SmolStr;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::timeout,
};

use super::{
    Handles, Task,
    leases::{Gone, Membership, millis},
    notices::NoticeRelay,
    resume_from_list::record,
    unreadable,
    unsent_notices::InFlightNotice,
};
use crate::{
    app::Apps,
    auth::Revocations,
    bus::{Bus, BusError, Script, Topic, jitter},
    hub::{Change, Hub, Listing, Register, Snapshot, State, channel_key},
    id::{AppId, ConnectionId, NodeId},
    limits::{
        MEMBERS_AT_ONCE, NOTICES_TOGETHER, ROSTER_OUTLIVES, TOLD_BYTES, TOLD_CHANNELS,
        TOLD_TOGETHER,
    },
    protocol::{
        envelope::{MemberNotice, Notices},
        native::{Changes, MemberKind},
    },
    time_slice::TimeSlice,
};

/// How long the list waits before it is written again after a failure.
const AGAIN: Duration = Duration::from_millis(500);

/// How often a node that departs looks whether its list is written.
const LOOK: Duration = Duration::from_millis(5);

/// The fields of a list that change, by name; those without a value go.
type Fields = AHashMap<String, Option<Vec<u8>>>;

/// What the list is called, and one that is being written in its place.
const LIST: &str = "members";
const NEW_LIST: &str = "members.new";

/// The field of the list that says which of its versions it is. Neither a member's field nor a connection's has this form.
const VERSION: &str = "version";

/// Changes a list, if it is of the version that it is to be changed from.
/// KEYS: the list. ARGV: that version, none if there was no list; the version after; then fields with their values. A field
/// without a value goes.
static CHANGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if (redis.call('HGET', KEYS[1], 'version') or '') ~= ARGV[1] then return 0 end
         if #ARGV == 2 then return 1 end
         local gone, set = {}, {'version', ARGV[2]}
         for at = 3, #ARGV, 2 do
           if ARGV[at + 1] == '' then
             gone[#gone + 1] = ARGV[at]
           else
             set[#set + 1] = ARGV[at]
             set[#set + 1] = ARGV[at + 1]
           end
         end
         if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
         redis.call('HSET', KEYS[1], unpack(set))
         return 1",
    )
});

/// What has to be done about the list, beyond making changes to it, and how far that is.
#[derive(Debug)]
struct ListDue {
    due: Notify,
    is_to_be_written: AtomicBool,
    /// How many changes have been seen to.
    listed: AtomicU64,
    /// It has all of these: nothing of it is just being written.
    is_whole: AtomicBool,
    /// The node departs, and the list is as its clients find it from then on.
    is_finished: watch::Sender<bool>,
}

impl Default for ListDue {
    fn default() -> Self {
        Self {
            due: Notify::new(),
            is_to_be_written: AtomicBool::new(false),
            listed: AtomicU64::new(0),
            is_whole: AtomicBool::new(true),
            is_finished: watch::Sender::new(false),
        }
    }
}

impl ListDue {
    /// Has the list written as a whole: it is not what it should be.
    fn write(&self) {
        self.is_to_be_written.store(true, SeqCst);
        self.due.notify_one();
    }

    /// Whether Redis has the list with the first `changes` changes.
    fn has(&self, changes: u64) -> bool {
        // Last of all whether it is whole: that ends before a change or a whole list is begun, and not before it is done.
        !self.is_to_be_written.load(SeqCst)
            && self.listed.load(SeqCst) >= changes
            && self.is_whole.load(SeqCst)
    }
}

/// The versions of the list. Each change makes another, and none is used twice: a change that comes late finds another one.
#[derive(Debug)]
struct Versions {
    last: u64,
    /// The one that Redis has, empty if it has no list; nothing if that is not known.
    in_redis: Option<String>,
}

impl Versions {
    fn next(&mut self) -> String {
        self.last += 1;
        self.last.to_string()
    }
}

/// Gives keys a time to live, those that are there.
static OUTLIVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new("for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[1]) end return 1")
});

/// A member as the list has it: enough to say that it has left, and to bring its client back.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Listed {
    user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<Box<RawValue>>,
    /// It hears of the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) watched: bool,
    /// Its rights did not allow it to join by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) was_put: bool,
}

/// A connection with the channels in which it hears of the others.
#[derive(Debug)]
struct Watcher {
    connection: Snapshot,
    watched: Vec<SmolStr>,
}

/// This node's list of members in Redis, and those of nodes that have ended.
///
/// It owns the changes on their way to the list, and what is due beyond them. [`Cluster`](super::Cluster) has the list renewed
/// with the lease, and nodes reaped that have ended. Those who resume connections take places out of other nodes' lists
/// (`gone.rs` has that part of its `impl`). Notices that follow from all this go out by the [`NoticeRelay`].
#[derive(Debug)]
pub(crate) struct Roster {
    pub(super) bus: Arc<Bus>,
    node: NodeId,
    hub: Arc<Hub>,
    pub(super) apps: Arc<Apps>,
    pub(super) revocations: Arc<Revocations>,
    membership: Arc<Membership>,
    notices: Arc<NoticeRelay>,
    /// Changes of who is in which channel here, on their way to the list.
    register: Register,
    changes: Mutex<Option<mpsc::Receiver<Change>>>,
    list: ListDue,
}

impl Roster {
    pub(super) fn new(
        handles: &Handles<'_>,
        (register, changes): (Register, mpsc::Receiver<Change>),
        membership: &Arc<Membership>,
        notices: &Arc<NoticeRelay>,
    ) -> Self {
        Self {
            bus: handles.bus.clone(),
            node: handles.hub.context().node,
            hub: handles.hub.clone(),
            apps: handles.apps.clone(),
            revocations: handles.revocations.clone(),
            membership: membership.clone(),
            notices: notices.clone(),
            register,
            changes: Mutex::new(Some(changes)),
            list: ListDue::default(),
        }
    }

    /// What it does until the runtime ends, by name.
    pub(super) fn tasks(self: &Arc<Self>) -> [(&'static str, Task); 1] {
        [("list of members", Box::pin(self.clone().run_roster()))]
    }

    /// Has the list looked at: Redis may have lost it. It is written only if so.
    pub(super) fn check(&self) {
        self.list.due.notify_one();
    }

    /// Restores what other nodes know of the members here, after they were taken for gone.
    pub(super) fn restore(self: &Arc<Self>) {
        self.list.write();
        self.announce_members();
    }

    /// Keeps this node's list of members in step with its channels, until the runtime ends.
    pub(super) async fn run_roster(self: Arc<Self>) {
        let Some(mut changes) = self.changes.lock().take() else {
            return;
        };

        let mut batch = Vec::new();
        let mut versions = Versions {
            last: 0,
            in_redis: Some(String::new()),
        };

        loop {
            tokio::select! {
                n = changes.recv_many(&mut batch, MEMBERS_AT_ONCE) => if n == 0 { return },
                () = self.list.due.notified() => {}
            }

            if self.membership.has_left() {
                // Other nodes see to the list from now on.
                batch.clear();
                continue;
            }

            // In this order: see `ListDue::has`.
            self.list.is_whole.store(false, SeqCst);
            let is_stale = self.list.is_to_be_written.swap(false, SeqCst);
            let is_lost = self.register.has_lost();
            let before = versions.in_redis.take();
            let now = versions.next();

            let changed = match before.filter(|_| !is_stale && !is_lost) {
                Some(before) => self.change_list(&batch, before, now).await,
                None => self.write_list(now).await.map(Some),
            };

            self.list.listed.fetch_add(batch.len() as u64, SeqCst);
            batch.clear();
            let is_whole = matches!(changed, Ok(Some(_)));
            self.list.is_whole.store(is_whole, SeqCst);

            match changed {
                Ok(Some(now)) => versions.in_redis = Some(now),
                Ok(None) => {
                    tracing::debug!("Redis has lost this node's list of members");
                    // All nodes may have lost theirs at the same time.
                    tokio::time::sleep(jitter(self.hub.context().limits.node_lease / 5)).await;
                    self.list.write();
                }
                Err(error) => {
                    tracing::debug!(%error, "the list of members in Redis is behind");
                    tokio::time::sleep(AGAIN).await;
                    self.list.write();
                }
            }
        }
    }

    /// Gives the list its whole time anew, and one that is being written.
    pub(super) async fn renew_list(&self) {
        let home = Topic::Node(self.node);
        let lists = self.list_keys(&home).into();
        if let Err(error) = self
            .bus
            .eval(&OUTLIVE, &home, lists, vec![millis(ROSTER_OUTLIVES)])
            .await
        {
            tracing::debug!(%error, "the list of members was not given its time anew");
        }
    }

    /// Makes changes to the list, if Redis has version `before` of it. Returns the version that Redis has then; nothing if it has
    /// lost the list.
    async fn change_list(
        &self,
        batch: &[Change],
        before: String,
        now: String,
    ) -> Result<Option<String>, BusError> {
        let fields = self.changed_fields(batch);
        let now = if fields.is_empty() {
            before.clone()
        } else {
            now
        };

        let mut args: Vec<Bytes> = vec![before.into(), now.clone().into()];
        for (field, value) in fields {
            args.push(field.into());
            args.push(value.unwrap_or_default().into());
        }

        let home = Topic::Node(self.node);
        let keys = vec![self.bus.key(&home, LIST)];
        let changed = self.bus.eval(&CHANGE, &home, keys, args).await?;

        Ok((changed == redis::Value::Int(1)).then_some(now))
    }

    /// What changes make of the list: places in channels, and to whom each connection belongs.
    fn changed_fields(&self, batch: &[Change]) -> Fields {
        let mut fields = Fields::new();
        let mut records: AHashMap<ConnectionId, Option<&Change>> = AHashMap::new();
        for change in batch {
            let Change {
                app,
                channel,
                member,
                listing,
            } = change;

            let field = self.field(*app, channel, member.id());
            match listing {
                Listing::In { watches, previous } => {
                    fields.insert(field, Some(listed(member, channel, *watches)));
                    // The last one of a connection names all of its channels. It may name some that were left since.
                    records.insert(member.id(), Some(change));
                    if let Some(previous) = *previous {
                        fields.insert(self.field(*app, channel, previous), None);
                        records.insert(previous, None);
                    }
                }
                Listing::Out { is_over } => {
                    fields.insert(field, None);
                    if *is_over || member.channels().all(|other| other == channel) {
                        records.insert(member.id(), None);
                    }
                }
            }
        }

        for (id, change) in records {
            let record = |change: &Change| {
                let app = &self.apps.get(change.app).name;
                record(app, &change.member, Some(&change.channel))
            };
            fields.insert(id.to_string(), change.map(record));
        }

        fields
    }

    /// Waits until the list has every change so far, before this node departs: its clients come back to what is listed, and nobody
    /// else tells of the others. Waits for Redis for `limits.redis_timeout` at most.
    pub(crate) async fn finish_list(&self) {
        self.membership.begin_to_depart();
        let noted = self.register.noted();
        let written = async {
            while !self.list.has(noted) {
                tokio::time::sleep(LOOK).await;
            }
            self.list_profiles().await?;
            // It may be new, and nobody comes any more.
            self.renew_list().await;
            Ok::<(), BusError>(())
        };

        match timeout(self.hub.context().limits.redis_timeout, written).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "clients without channels come back without their profiles");
            }
            Err(_) => tracing::warn!(
                "clients of this node may come back to fewer channels than they had: Redis did not take the list of members in time"
            ),
        }

        self.list.is_finished.send_replace(true);
    }

    /// Waits until [`Roster::finish_list`] is done: before that the list may lack what clients had. That takes
    /// `limits.redis_timeout` at most from the moment in which the node begins to depart.
    pub(super) async fn list_finished(&self) {
        let mut is_finished = self.list.is_finished.subscribe();
        // The sender is in `self`.
        let _ = is_finished.wait_for(|is_finished| *is_finished).await;
    }

    /// Lists those who may come back to a profile alone. If the list is written as a whole, they are in it as well.
    async fn list_profiles(&self) -> Result<(), BusError> {
        let mut fields = Vec::new();
        let mut slice = TimeSlice::begin();
        for (lost, _) in self.hub.context().resume_table.all().await {
            slice.rest().await;
            if lost.channels().next().is_none() {
                let record = record(&self.apps.get(lost.app).name, &lost, None);
                fields.push((lost.id().to_string(), record));
            }
            if fields.len() >= MEMBERS_AT_ONCE {
                self.write_fields(LIST, std::mem::take(&mut fields)).await?;
            }
        }

        self.write_fields(LIST, fields).await
    }

    /// The list of the node whose home this is, and the one that it may be writing.
    pub(super) fn list_keys(&self, home: &Topic) -> [Vec<u8>; 2] {
        [LIST, NEW_LIST].map(|list| self.bus.key(home, list))
    }

    /// Adds fields to `list`.
    async fn write_fields(
        &self,
        list: &str,
        fields: Vec<(String, Vec<u8>)>,
    ) -> Result<(), BusError> {
        if fields.is_empty() {
            return Ok(());
        }
        let home = Topic::Node(self.node);
        let mut set = redis::cmd("HSET");
        set.arg(self.bus.key(&home, list));
        for (field, value) in fields {
            set.arg(field).arg(value);
        }
        self.bus.command(&home, set).await.map(drop)
    }

    /// Writes the whole list anew as version `now`, beside the one that is there, and puts it in its place.
    async fn write_list(&self, now: String) -> Result<String, BusError> {
        let home = Topic::Node(self.node);
        let [list, new] = self.list_keys(&home);

        // First of all, so that nothing is gathered while Redis is away.
        self.bus.command(&home, command("UNLINK", &[&new])).await?;
        self.hub.context().metrics.bus.lists_written.inc();
        let mut members = self.all_members().await;

        // Those who may come back, or are about to, are to leave too if the node does not live to see that they do not.
        let lost = self.hub.context().resume_table.all().await.into_iter();
        let lost = lost.filter(|(connection, _)| connection.id().node == self.node);
        members.extend(lost.map(|(connection, watched)| Watcher {
            connection,
            watched,
        }));

        let mut fields = vec![(VERSION.to_owned(), now.clone().into_bytes())];
        let mut slice = TimeSlice::begin();
        for Watcher {
            connection,
            watched,
        } in &members
        {
            slice.rest().await;
            let place = |channel: &SmolStr| {
                let field = self.field(connection.app, channel, connection.id());
                (
                    field,
                    listed(connection, channel, watched.contains(channel)),
                )
            };

            fields.extend(connection.channel_names().map(place));
            let record = record(&self.apps.get(connection.app).name, connection, None);
            fields.push((connection.id().to_string(), record));

            if fields.len() >= MEMBERS_AT_ONCE {
                self.write_fields(NEW_LIST, std::mem::take(&mut fields))
                    .await?;
            }
        }

        self.write_fields(NEW_LIST, fields).await?;
        // Renamed over, it would be freed while everyone waits. Whoever reaps looks at both.
        self.bus.command(&home, command("UNLINK", &[&list])).await?;
        self.bus
            .command(&home, command("RENAME", &[&new, &list]))
            .await?;

        Ok(now)
    }

    /// Tells other nodes' watchers of all members here: they were taken for gone.
    fn announce_members(self: &Arc<Self>) {
        let roster = self.clone();
        tokio::spawn(async move {
            // What is not published is owed.
            drop(roster.announce().await);
        });
    }

    async fn announce(&self) -> Result<(), BusError> {
        let mut notices = NoticeGroups::new(self.hub.context().limits.presence_notices);
        let mut slice = TimeSlice::begin();
        for Watcher {
            connection: member, ..
        } in self.all_members().await
        {
            for channel in member.channels() {
                let user: Vec<String> = member.user().map(ToOwned::to_owned).into_iter().collect();
                let tally = self.hub.presence(member.app).tallies(channel, &user);
                let notice = MemberNotice {
                    kind: MemberKind::Joined,
                    id: member.id().to_string(),
                    user: user.first().cloned(),
                    data: member
                        .profile()
                        .and_then(|profile| to_raw_value(profile).ok()),
                    previous: None,
                    is_inherited: false,
                    tally: tally.first().copied().unwrap_or(1),
                };

                if let Some(full) = notices.add(member.app, channel, notice) {
                    self.tell_all(self.node, full).await?;
                }

                slice.rest().await;
            }
        }

        self.tell_all(self.node, notices.take()).await
    }

    /// Tells the nodes of what has become of members of the node `origin`.
    async fn tell_all(&self, origin: NodeId, channels: Groups) -> Result<(), BusError> {
        let is_own = origin == self.node;
        let mut sent = VecDeque::new();
        let mut slice = TimeSlice::begin();

        for ((app, channel), Group { named, counts }) in channels {
            if sent.len() >= NOTICES_TOGETHER
                && let Some((first, in_flight)) = sent.pop_front()
            {
                Self::told(first, in_flight).await?;
            }

            if !self.notices.shows_members_of(app, &channel) {
                continue;
            }

            let in_flight = is_own.then(|| self.notices.unsent.begin(app, &channel));
            let changes = named.is_none().then_some(counts);
            let share = || self.hub.presence(app).share(&channel);

            let notices = Notices {
                origin: origin.0,
                members: named.unwrap_or_default(),
                changes,
                share: is_own.then(share),
                is_gone: !is_own,
                ..self.notices.notices_of(app, &channel)
            };

            sent.push_back((self.notices.publish_notices(app, &notices), in_flight));
            slice.rest().await;
        }

        for (last, in_flight) in sent {
            Self::told(last, in_flight).await?;
        }
        Ok(())
    }

    /// Waits until notices are published. Those of this node's own members are owed if they are not, and the rest goes on; another
    /// node's are told again from the beginning.
    async fn told(
        sent: impl Future<Output = Result<u64, BusError>>,
        in_flight: Option<InFlightNotice>,
    ) -> Result<(), BusError> {
        match (sent.await, in_flight) {
            (Ok(_), Some(in_flight)) => in_flight.published(),
            (Err(_), Some(unsent)) => drop(unsent),
            (Ok(_), None) => {}
            (Err(error), None) => return Err(error),
        }
        Ok(())
    }

    /// Connections that are in a channel.
    async fn all_members(&self) -> Vec<Watcher> {
        let mut members = Vec::new();
        let mut slice = TimeSlice::begin();
        for shard in self.hub.shards() {
            let mut next = Some(0);
            while let Some(from) = next {
                next = shard.lock(|table| {
                    let (tenants, rest) = table.tenants(from);
                    for at in tenants {
                        if table.state(at) == State::Open
                            && let Some(connection) = table.connection(at)
                            && connection.channels().next().is_some()
                        {
                            let app = connection.app;
                            let is_watched = |name: &&SmolStr| {
                                table.is_watching(app, &channel_key(name), at.slot)
                            };
                            let watched = connection.channel_names().filter(is_watched);
                            members.push(Watcher {
                                watched: watched.cloned().collect(),
                                connection,
                            });
                        }
                    }

                    rest
                });

                slice.rest().await;
            }
        }

        members
    }

    fn field(&self, app: AppId, channel: &str, member: ConnectionId) -> String {
        format!("{} {channel} {member}", self.apps.get(app).name)
    }

    /// Tells the channels of a node that has ended that its members have left, and forgets them. Done by one node for each that
    /// ended, and again by another where it does not get through.
    pub(super) async fn reap(self: Arc<Self>, dead: Gone) {
        match self.reap_now(dead.id).await {
            Ok(members) if dead.is_planned => {
                tracing::debug!(node = %dead.name, members, "members that a node has left behind have left");
            }
            Ok(members) => {
                tracing::warn!(node = %dead.name, members, "a node has gone without a word; its members have left");
            }
            Err(error) => {
                tracing::warn!(node = %dead.name, %error, "members of a node that has gone stay for now, and leave later");
            }
        }
    }

    /// Returns how many memberships there were. They are read and told bit by bit: they may be more than this node has room for,
    /// and others use the same Redis meanwhile.
    async fn reap_now(&self, dead: NodeId) -> Result<u64, BusError> {
        let home = Topic::Node(dead);
        let [list, new] = self.list_keys(&home);
        let mut notices = NoticeGroups::new(self.hub.context().limits.presence_notices);
        let (mut members, mut slice) = (0, TimeSlice::begin());

        for at in [&list, &new] {
            let mut cursor = Some(0);
            while let Some(from) = cursor {
                let (mut page, next) = self.read_page(&home, at, from).await?;
                if at == &new {
                    // The node ended while it wrote the list anew; these were told.
                    page = self.without_listed(&home, &list, page).await?;
                }

                cursor = next;
                for (field, value) in page {
                    slice.rest().await;
                    let Some((app, channel, notice)) = left(&self.apps, &field, &value) else {
                        continue;
                    };
                    members += 1;
                    if let Some(full) = notices.add(app, channel, notice) {
                        // As the one who is gone, so that this node hears it as well.
                        self.tell_all(dead, full).await?;
                    }
                }
            }
        }

        self.tell_all(dead, notices.take()).await?;
        self.bus
            .command(&home, command("UNLINK", &[&list, &new]))
            .await?;
        self.membership.reaped(dead).await?;

        Ok(members)
    }

    /// Reads some of a list, and where the rest begins.
    async fn read_page(
        &self,
        home: &Topic,
        list: &[u8],
        from: u64,
    ) -> Result<(Page, Option<u64>), BusError> {
        let mut scan = redis::cmd("HSCAN");
        scan.arg(list).arg(from).arg("COUNT").arg(MEMBERS_AT_ONCE);
        let answer = self.bus.command(home, scan).await?;
        let (next, page): (u64, Page) =
            redis::from_redis_value(answer).map_err(|error| unreadable(&error))?;
        Ok((page, Some(next).filter(|next| *next > 0)))
    }

    /// The members of `page` that are not in `list`.
    async fn without_listed(
        &self,
        home: &Topic,
        list: &[u8],
        page: Page,
    ) -> Result<Page, BusError> {
        if page.is_empty() {
            return Ok(page);
        }

        let mut get = redis::cmd("HMGET");
        get.arg(list);
        for (field, _) in &page {
            get.arg(field);
        }

        let answer = self.bus.command(home, get).await?;
        let listed: Vec<Option<Vec<u8>>> =
            redis::from_redis_value(answer).map_err(|error| unreadable(&error))?;
        let new = page.into_iter().zip(listed);

        Ok(new
            .filter_map(|(member, listed)| listed.is_none().then_some(member))
            .collect())
    }
}

/// A part of a list: fields and values.
type Page = Vec<(String, Vec<u8>)>;

/// What has become of members of one channel.
#[derive(Debug, Default)]
struct Group {
    /// Nothing where they are more than may be told by name.
    named: Option<Vec<MemberNotice>>,
    counts: Changes,
}

type Groups = AHashMap<(AppId, String), Group>;

/// What has become of many members, by channel: as counts where they are more than may be told by name. It is to be told whenever
/// it has grown to [`TOLD_TOGETHER`].
#[derive(Debug)]
struct NoticeGroups {
    named_at_most: u32,
    groups: Groups,
    bytes: usize,
    /// Members of each channel so far, those that were told included, by a digest of the channel.
    members: AHashMap<u64, u32>,
    hasher: RandomState,
}

impl NoticeGroups {
    /// Nothing yet, for channels that tell `named_at_most` members by name.
    fn new(named_at_most: u32) -> Self {
        Self {
            named_at_most,
            groups: Groups::new(),
            bytes: 0,
            members: AHashMap::new(),
            hasher: RandomState::new(),
        }
    }

    /// Adds one. Returns what is to be told now.
    fn add(&mut self, app: AppId, channel: &str, notice: MemberNotice) -> Option<Groups> {
        if self.members.len() >= TOLD_CHANNELS {
            self.members.clear();
        }

        let digest = self.hasher.hash_one((app, channel));
        let before = self.members.entry(digest).or_default();
        let may_be_named = *before < self.named_at_most;
        *before += 1;

        let key = (app, channel.to_owned());
        let group = self.groups.entry(key).or_insert_with(|| {
            self.bytes += TOLD_BYTES + channel.len();
            Group {
                named: Some(Vec::new()),
                ..Group::default()
            }
        });

        match notice.kind {
            MemberKind::Joined => group.counts.joined += 1,
            MemberKind::Left => group.counts.left += 1,
            MemberKind::Updated => group.counts.updated += 1,
        }

        if let Some(named) = &mut group.named {
            if may_be_named {
                self.bytes += bytes_of(&notice);
                named.push(notice);
            } else {
                self.bytes -= named.iter().map(bytes_of).sum::<usize>();
                group.named = None;
            }
        }

        (self.bytes >= TOLD_TOGETHER).then(|| self.take())
    }

    fn take(&mut self) -> Groups {
        self.bytes = 0;
        std::mem::take(&mut self.groups)
    }
}

/// What a member takes until it is told.
fn bytes_of(notice: &MemberNotice) -> usize {
    let user = notice.user.as_ref().map_or(0, String::len);
    let data = notice.data.as_ref().map_or(0, |data| data.get().len());
    TOLD_BYTES + notice.id.len() + user + data
}

/// That a listed member has left; nothing for an app that is not served here, and for the record of a connection.
fn left<'f>(apps: &Apps, field: &'f str, value: &[u8]) -> Option<(AppId, &'f str, MemberNotice)> {
    let mut parts = field.splitn(3, ' ');
    let (app, channel, id) = (parts.next()?, parts.next()?, parts.next()?);
    let app = apps.id_of(app)?;
    let Listed { user, data, .. } = serde_json::from_slice(value).ok()?;

    let notice = MemberNotice {
        kind: MemberKind::Left,
        id: id.to_owned(),
        user,
        data,
        previous: None,
        is_inherited: false,
        tally: 0,
    };

    Some((app, channel, notice))
}

fn command(name: &str, keys: &[&[u8]]) -> redis::Cmd {
    let mut command = redis::cmd(name);
    command.arg(keys);
    command
}

fn listed(member: &Snapshot, channel: &str, watched: bool) -> Vec<u8> {
    let data = member
        .profile()
        .and_then(|profile| to_raw_value(profile).ok());
    let listed = Listed {
        user: member.user().map(ToOwned::to_owned),
        data,
        watched,
        was_put: !member.rights.may_join(channel),
    };
    // Texts and JSON always serialize.
    serde_json::to_vec(&listed).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: AppId = AppId(0);

    fn notice(n: usize, data: usize) -> MemberNotice {
        MemberNotice {
            kind: MemberKind::Left,
            id: n.to_string(),
            user: None,
            data: RawValue::from_string(format!("\"{}\"", "x".repeat(data))).ok(),
            previous: None,
            is_inherited: false,
            tally: 0,
        }
    }

    #[test]
    fn more_members_than_may_be_named_are_a_number_and_take_no_room() {
        let mut notices = NoticeGroups::new(20);
        for n in 0..20 {
            assert!(notices.add(APP, "few", notice(n, 1)).is_none());
        }
        let bytes = notices.bytes;
        for n in 0..100_000 {
            assert!(notices.add(APP, "many", notice(n, 8000)).is_none());
        }
        assert!(notices.bytes < bytes + 2 * TOLD_BYTES);
        let groups = notices.take();
        let few = &groups[&(APP, "few".to_owned())];
        assert_eq!(few.named.as_ref().map(Vec::len), Some(20));
        let many = &groups[&(APP, "many".to_owned())];
        assert_eq!((many.named.is_none(), many.counts.left), (true, 100_000));
        assert_eq!(notices.bytes, 0);
    }

    #[test]
    fn no_more_are_named_of_a_channel_that_was_told_in_part() {
        let mut notices = NoticeGroups::new(20);
        let named = |groups: &Groups| {
            let of = |group: &Group| group.named.as_ref().map_or(0, Vec::len);
            groups.values().map(of).sum::<usize>()
        };
        let (mut names, mut left) = (0, 0);
        for round in 0..4 {
            for n in 0..15 {
                assert!(notices.add(APP, "c", notice(n, 1)).is_none());
            }
            let groups = notices.take();
            names += named(&groups);
            left += groups.values().map(|group| group.counts.left).sum::<u64>();
            assert_eq!(names, 15, "{round}");
        }
        assert_eq!(left, 60);
    }

    #[test]
    fn what_is_held_before_it_is_told_is_bounded() {
        let mut notices = NoticeGroups::new(20);
        let (mut most, mut members) = (0, 0);
        for n in 0..10_000 {
            let full = notices.add(APP, &n.to_string(), notice(n, 4000));
            most = most.max(notices.bytes);
            members += full.map_or(0, |full| full.len());
        }
        members += notices.take().len();
        assert_eq!(members, 10_000);
        assert!(most < TOLD_TOGETHER, "{most}");
    }
}
