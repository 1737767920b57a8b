//! Notices of members over all nodes: what is sent here goes to those who watch elsewhere, and theirs to those who
//! watch here. [`NoticeRelay`] has all of it.

use std::{sync::Arc, time::Duration};

use ahash::AHashMap;
use parking_lot::Mutex;
use serde_json::value::to_raw_value;
use smol_str::SmolStr;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use super::{
    super::presence::LocalWatchers, Handles, Task, leases::Membership,
    notice_buffer::NoticeBuffers, peer_counts::PeerCounts, rpc::Rpc, unsent_notices::UnsentNotices,
};
use crate::{
    app::Apps,
    bus::{Bus, BusError, Topic},
    config::Presence as PresenceRule,
    filter::Value,
    hub::{About, Count, Hub, Notice, NoticeBatch, Watching},
    id::{AppId, ConnectionId, NodeId},
    limits::{NOTICES_TOGETHER, NOTICES_WAITING, USERS_NAMED},
    protocol::{
        envelope::{self, MemberNotice, Notices},
        native::{self, Changes, Member},
    },
    time_slice::TimeSlice,
};

/// How often counts of a channel are sent at most, and other nodes asked again since something may have been missed.
const COUNTS_EVERY: Duration = Duration::from_secs(1);

/// What other nodes say of their members, on its way to those who watch here.
#[derive(Debug)]
pub(super) struct RemoteNotices {
    sender: mpsc::Sender<Notices>,
    end: Mutex<Option<mpsc::Receiver<Notices>>>,
    /// Some of any channel were not sent: a client that has a list has to fetch it again.
    lost: Notify,
    /// Changes that are yet to be sent as counts. Those of a channel may be none: its counts are sent all the same.
    counts: Mutex<AHashMap<(AppId, SmolStr), Changes>>,
    is_counted: Notify,
}

impl RemoteNotices {
    fn new() -> Self {
        let (sender, end) = mpsc::channel(NOTICES_WAITING);
        Self {
            sender,
            end: Mutex::new(Some(end)),
            lost: Notify::new(),
            counts: Mutex::default(),
            is_counted: Notify::new(),
        }
    }

    /// Takes notices in; false if too many wait.
    fn push(&self, notices: Notices) -> bool {
        self.sender.try_send(notices).is_ok()
    }

    /// Has changes sent as counts, with those that wait.
    fn count(&self, app: AppId, channel: &str, changes: &Changes) {
        let mut counts = self.counts.lock();
        counts
            .entry((app, channel.into()))
            .or_default()
            .add(changes);
        self.is_counted.notify_one();
    }

    /// Has the counts of `channels` sent.
    pub(super) fn notify_counts(&self, channels: impl IntoIterator<Item = (AppId, SmolStr)>) {
        for (app, channel) in channels {
            self.count(app, &channel, &Changes::default());
        }
    }
}

/// What was said of one channel, together.
#[derive(Debug, Default)]
struct ChannelNotices {
    members: Vec<MemberNotice>,
    changes: Option<Changes>,
}

impl ChannelNotices {
    fn add(&mut self, notices: Notices) {
        self.members.extend(notices.members);
        if let Some(changes) = &notices.changes {
            self.changes.get_or_insert_default().add(changes);
        }
    }

    /// Sends no names any longer.
    fn fold(&mut self) {
        for notice in self.members.drain(..) {
            self.changes.get_or_insert_default().count(notice.kind, 1);
        }
    }
}

/// Notices of members between nodes.
///
/// It owns what other nodes have said and is on its way to watchers here ([`RemoteNotices`]), what they have in watched
/// channels ([`PeerCounts`]), what this node has yet to send them ([`UnsentNotices`]), and who waits for notices after
/// a page ([`NoticeBuffers`]).
///
/// [`Node`](super::super::Node) gives it what happens here, the task that hears the bus what is said there, and the roster
/// what has become of members of nodes that have ended. Parts of its `impl` are in `unsent_notices.rs`,
/// `notice_buffer.rs` and `peer_counts`.
#[derive(Debug)]
pub(crate) struct NoticeRelay {
    pub(super) bus: Arc<Bus>,
    pub(super) hub: Arc<Hub>,
    pub(super) apps: Arc<Apps>,
    pub(super) membership: Arc<Membership>,
    pub(super) rpc: Arc<Rpc>,
    pub(super) remote_notices: RemoteNotices,
    pub(super) peer_counts: Arc<PeerCounts>,
    pub(super) unsent: Arc<UnsentNotices>,
    pub(in crate::node) notice_buffers: NoticeBuffers,
}

impl NoticeRelay {
    pub(super) fn new(handles: &Handles<'_>, membership: &Arc<Membership>, rpc: &Arc<Rpc>) -> Self {
        Self {
            bus: handles.bus.clone(),
            hub: handles.hub.clone(),
            apps: handles.apps.clone(),
            membership: membership.clone(),
            rpc: rpc.clone(),
            remote_notices: RemoteNotices::new(),
            peer_counts: Arc::new(PeerCounts::new(handles.bus.interest().clone())),
            unsent: Arc::default(),
            notice_buffers: NoticeBuffers::default(),
        }
    }

    /// Takes in what another node says of its members; false if it is lost, since too much waits.
    pub(super) fn take_in_notices(&self, mut notices: Notices) -> bool {
        let Some(app) = self.apps.id_of(&notices.app) else {
            return true;
        };

        let origin = NodeId(notices.origin);
        let is_peer = || {
            self.membership
                .peers()
                .all()
                .iter()
                .any(|peer| peer.id == origin)
        };

        // It is looked up only where it matters: nodes of the version before send no share.
        let is_peer = notices.share.is_none() && is_peer();
        let Some(is_settled) = self.peer_counts.take_in(app, &mut notices, is_peer) else {
            return true;
        };

        if is_settled {
            self.remote_notices
                .count(app, &notices.channel, &Changes::default());
        }

        let is_news = !notices.members.is_empty() || notices.changes.is_some();
        let topic = Topic::Watch(app, notices.channel.as_str().into());
        let is_taken = !is_news || self.remote_notices.push(notices);
        if !is_taken {
            // As if it had been lost on its way: what was missed is found out later.
            self.bus.gaps().note_dropped(&topic);
        }

        is_taken
    }

    /// What it does until the runtime ends, by name.
    pub(super) fn tasks(self: &Arc<Self>) -> [(&'static str, Task); 3] {
        [
            (
                "notices that are owed",
                Box::pin(self.clone().run_unsent_notices()),
            ),
            (
                "counts of other nodes",
                Box::pin(self.clone().run_peer_counts()),
            ),
            (
                "notices of other nodes",
                Box::pin(self.clone().run_remote_notices()),
            ),
        ]
    }

    /// Notes that notices of any channel may not have come: all are to be looked at again.
    pub(super) fn lose(&self) {
        self.remote_notices.lost.notify_one();
    }

    /// Notes that a node has come.
    pub(super) fn met(&self, node: NodeId) {
        let peers = self.membership.peers();
        self.peer_counts.met(node, |app| peers.serves(node, app));
    }

    /// Forgets a node that has gone.
    pub(super) fn gone(&self, node: NodeId) {
        self.remote_notices
            .notify_counts(self.peer_counts.gone(node));
    }

    /// Has other nodes asked what they have in the watched channels that `is_meant` names: notices of them may have been missed.
    pub(super) fn suspected_gap(&self, is_meant: impl Fn(AppId, &SmolStr) -> bool) {
        let serving = |app| self.membership.peers().serving_ids(app);
        let alone = self.peer_counts.suspected_gap(serving, is_meant);
        self.remote_notices.notify_counts(alone);
    }

    /// Whether a channel of this name shows its members to anyone.
    pub(in crate::node) fn shows_members_of(&self, app: AppId, channel: &str) -> bool {
        self.apps.get(app).rule(channel).presence != PresenceRule::Off
    }

    /// Notifies the nodes where someone may watch of what has become of members here, and what is
    /// here now.
    pub(in crate::node) fn notify_remote(&self, app: AppId, batch: &NoticeBatch) {
        let notice = |notice: &Notice| MemberNotice {
            kind: notice.kind,
            id: notice.member.id().to_string(),
            user: notice.member.user().map(ToOwned::to_owned),
            data: notice
                .member
                .profile()
                .and_then(|profile| to_raw_value(profile).ok()),
            previous: notice.previous.map(|id| id.to_string()),
            is_inherited: notice.is_inherited,
            tally: notice.user_connections,
        };

        let notices = Notices {
            members: batch.notices.iter().map(notice).collect(),
            changes: batch.counted.as_ref().map(|(changes, _)| *changes),
            share: batch.share.clone(),
            ..self.notices_of(app, &batch.channel)
        };

        self.publish_or_queue(app, &notices);
    }

    /// Notices of this node that say nothing of `channel` yet.
    pub(super) fn notices_of(&self, app: AppId, channel: &str) -> Notices {
        Notices {
            origin: self.hub.context().node.0,
            app: self.apps.get(app).name.to_string(),
            channel: channel.to_owned(),
            members: Vec::new(),
            changes: None,
            share: None,
            is_gone: false,
            is_copy: false,
        }
    }

    /// Puts notices on their way immediately: to those who watch, and to nodes of version 1, if there are
    /// any.
    pub(super) fn publish_notices(
        &self,
        app: AppId,
        notices: &Notices,
    ) -> impl Future<Output = Result<u64, BusError>> + Send + 'static + use<> {
        let channel = SmolStr::from(&notices.channel);
        let is_news = !notices.members.is_empty() || notices.changes.is_some();
        let version = self.membership.peers().version();
        let is_copied = is_news && version < envelope::NOTICES_WITH_SHARES;

        let copied = is_copied.then(|| {
            let copy = Notices {
                share: None,
                is_copy: true,
                ..notices.clone()
            };
            // Nodes of version 1 hear of members on the topic of the channel itself.
            let topic = Topic::Channel(app, channel.clone());
            self.bus.publish(&topic, envelope::notices(&copy, version))
        });

        let topic = Topic::Watch(app, channel);
        let notice = self
            .bus
            .publish(&topic, envelope::notices(notices, version));
        async move {
            let notice = notice.await;
            if let Some(copied) = copied {
                copied.await?;
            }
            notice
        }
    }

    /// Whether anyone here is to hear of the members of `channel`.
    pub(in crate::node) fn is_heard(&self, app: AppId, channel: &str) -> bool {
        self.peer_counts.is_watched(app, channel)
    }

    /// Adds what the other nodes have to what is about to be sent here of a channel.
    pub(in crate::node) fn count_remote(&self, app: AppId, batch: &mut NoticeBatch) {
        let (counts, channel) = (&self.peer_counts, &batch.channel);
        for notice in &batch.notices {
            if let Some(previous) = notice.previous.filter(|_| notice.is_inherited) {
                counts.release(app, channel, previous.node, notice.member.user());
            }
        }

        if !counts.is_named(app, channel) {
            // Nobody knows how often each user is there.
            let mut changes = Changes::default();
            for notice in batch.notices.drain(..) {
                changes.count(notice.kind, 1);
            }
            if changes != Changes::default() {
                self.remote_notices.count(app, channel, &changes);
            }
        }

        for notice in &mut batch.notices {
            if let Some(user) = notice.member.user() {
                notice.user_connections += counts.tally(app, channel, user);
            }
        }

        if let Some((_, count)) = &mut batch.counted {
            *count = self.count_of_all(app, channel);
        }

        self.note_sent(app, channel);
    }

    /// Those who are notified of members here.
    fn watchers(&self) -> LocalWatchers<'_> {
        LocalWatchers {
            hub: &self.hub,
            notice_buffers: Some(&self.notice_buffers),
        }
    }

    /// Notes that something of `channel` is sent to someone here: again, if nodes are not known yet, when they are.
    fn note_sent(&self, app: AppId, channel: &str) {
        let is_watched = self.hub.presence(app).is_watched(channel);
        if is_watched || self.notice_buffers.is_waiting(app, channel) {
            self.peer_counts.note_sent(app, channel);
        }
    }

    /// How many are in a channel that is watched here, on all nodes.
    pub(super) fn count_of_all(&self, app: AppId, channel: &str) -> Count {
        let here = self.hub.presence(app).count(channel);
        let names = self.hub.presence(app).users(channel, USERS_NAMED);
        let counts = &self.peer_counts;
        counts.total(app, channel, here, names.as_deref())
    }

    /// Sends this node's watchers what other nodes say of their members, in the order in which each says it, until the
    /// runtime ends. What has gathered in the meantime is sent together.
    pub(super) async fn run_remote_notices(self: Arc<Self>) {
        let Some(mut remote_notices) = self.remote_notices.end.lock().take() else {
            return;
        };

        let (mut batch, mut is_counted, mut is_lost) = (Vec::new(), false, false);
        let mut next = Instant::now();
        loop {
            tokio::select! {
                // In any order: counts say what is so when they are sent, whatever was sent before.
                n = remote_notices.recv_many(&mut batch, NOTICES_TOGETHER) => if n == 0 { return },
                () = self.remote_notices.lost.notified() => is_lost = true,
                () = self.remote_notices.is_counted.notified() => is_counted = true,
                () = tokio::time::sleep_until(next), if is_counted || is_lost => {
                    is_counted = false;
                    next = Instant::now() + COUNTS_EVERY;
                    // Once a second at most, since every node is asked again about every watched
                    // channel.
                    if std::mem::take(&mut is_lost) {
                        self.suspected_gap(|_, _| true);
                    }
                    self.notify_gathered().await;
                }
            }

            let mut channels: AHashMap<(AppId, String), ChannelNotices> = AHashMap::new();
            for mut notices in batch.drain(..) {
                if let Some(app) = self.apps.id_of(&notices.app) {
                    let channel = std::mem::take(&mut notices.channel);
                    channels.entry((app, channel)).or_default().add(notices);
                }
            }

            for ((app, channel), said) in channels {
                self.pass_on(app, &channel, said).await;
            }
        }
    }

    /// Notifies those who are to hear of `channel`; counts later.
    async fn pass_on(&self, app: AppId, channel: &str, mut said: ChannelNotices) {
        // A client that may see only counts, or would see too many, gets no names.
        let only_counts = self.apps.get(app).watching(channel, true) == Watching::Counts
            || !self.peer_counts.is_named(app, channel);
        if only_counts || said.members.len() > self.hub.context().limits.presence_notices as usize {
            said.fold();
        }

        let users = said.members.iter().filter_map(|notice| notice.user.clone());
        let users: Vec<String> = users.collect();
        let here = self.hub.presence(app).tallies(channel, &users);
        let mut here = here.into_iter();

        // The others' are in it already.
        let frame = |notice: &MemberNotice| {
            let more = notice.user.as_ref().and_then(|_| here.next());
            frame_of(channel, notice, notice.tally + more.unwrap_or(0))
        };

        let frames: Vec<About> = said.members.iter().filter_map(frame).collect();
        if let Some(changes) = said.changes {
            self.remote_notices.count(app, channel, &changes);
        }

        self.note_sent(app, channel);
        self.watchers()
            .notify(app, channel, &frames, &mut TimeSlice::begin())
            .await;
    }

    /// Sends the counts that are due.
    async fn notify_gathered(&self) {
        let counts = std::mem::take(&mut *self.remote_notices.counts.lock());
        let mut slice = TimeSlice::begin();
        for ((app, channel), changes) in counts {
            if !self.is_heard(app, &channel) {
                continue;
            }
            let Count { connections, users } = self.count_of_all(app, &channel);
            let frame = native::members_changed(&channel, &changes, connections, users);
            self.note_sent(app, &channel);
            self.watchers()
                .notify(app, &channel, &[(None, frame)], &mut slice)
                .await;
        }
    }
}

/// A notice of another node's member, as this node's clients get it.
fn frame_of(channel: &str, notice: &MemberNotice, user_connections: u64) -> Option<About> {
    let id: ConnectionId = notice.id.parse().ok()?;
    let data = notice
        .data
        .as_ref()
        .and_then(|data| Value::from_json(&mut data.get().as_bytes().to_vec(), None).ok());
    let member = Member {
        id,
        user: notice.user.as_deref(),
        data: data.as_ref(),
    };

    let previous = notice.previous.as_ref().and_then(|id| id.parse().ok());
    Some((
        Some(id),
        native::member(notice.kind, channel, &member, user_connections, previous),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::native::MemberKind;

    fn notices(kinds: &[MemberKind], changes: Option<Changes>) -> Notices {
        let notice = |(n, &kind): (usize, &MemberKind)| MemberNotice {
            kind,
            id: n.to_string(),
            user: None,
            data: None,
            previous: None,
            is_inherited: false,
            tally: 0,
        };
        Notices {
            origin: 1,
            app: String::new(),
            channel: String::new(),
            members: kinds.iter().enumerate().map(notice).collect(),
            changes,
            share: None,
            is_gone: false,
            is_copy: false,
        }
    }

    fn changes(joined: u64, left: u64, updated: u64) -> Changes {
        Changes {
            joined,
            left,
            updated,
        }
    }

    #[test]
    fn what_several_nodes_say_stays_in_order_and_adds_up() {
        use MemberKind::{Joined, Left, Updated};
        let mut said = ChannelNotices::default();
        said.add(notices(&[Joined, Left], None));
        said.add(notices(&[Updated], Some(changes(2, 0, 1))));
        said.add(notices(&[Joined], Some(changes(0, 3, 0))));
        let kinds: Vec<_> = said.members.iter().map(|notice| notice.kind).collect();
        assert_eq!(kinds, [Joined, Left, Updated, Joined]);
        said.fold();
        assert!(said.members.is_empty());
        assert_eq!(said.changes, Some(changes(4, 4, 2)));
    }
}
