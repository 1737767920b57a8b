//! Notices that come while a page of members is gathered over all nodes, for the client that waits for it: sent after
//! the page, they make it whole.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use ahash::AHashMap;
use parking_lot::Mutex;
use smol_str::SmolStr;

use super::{notices::NoticeRelay, peer_counts::WatchGuard};
use crate::{
    hub::About,
    id::{AppId, ConnectionId},
    limits::NOTICES_CAPTURED,
    protocol::frame::Frame,
};

/// The captures of a node.
#[derive(Debug, Default)]
pub(crate) struct NoticeBuffers {
    waiting: Mutex<AHashMap<Channel, InChannel>>,
    /// How many, to be read without the lock.
    count: AtomicUsize,
}

type Channel = (AppId, SmolStr);

/// Those who wait for notices of one channel.
type InChannel = BTreeMap<Seat, Arc<Waiting>>;

/// Who waits: by the shard, and by numbers that differ within a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seat {
    shard: usize,
    number: usize,
}

impl Seat {
    /// All of a shard.
    fn all_of(shard: usize) -> RangeInclusive<Self> {
        let seat = |number| Self { shard, number };
        seat(0)..=seat(usize::MAX)
    }
}

#[derive(Debug)]
struct Waiting {
    /// The client that waits.
    connection: ConnectionId,
    /// `None` once there were too many.
    notices: Mutex<Option<Vec<Frame>>>,
}

/// Takes every notice of a channel for one connection, from its beginning until it is dropped.
#[derive(Debug)]
pub(crate) struct NoticeBuffer {
    relay: Arc<NoticeRelay>,
    channel: Channel,
    /// Its own among those of the channel.
    seat: Seat,
    waiting: Arc<Waiting>,
    /// Notices come here in the meantime.
    _watch: WatchGuard,
}

impl NoticeBuffers {
    /// Whether someone waits for notices of `channel`.
    pub(super) fn is_waiting(&self, app: AppId, channel: &str) -> bool {
        // Nearly always nobody waits, and every notice asks.
        self.count.load(SeqCst) > 0 && self.waiting.lock().contains_key(&(app, channel.into()))
    }

    /// Adds one for `connection`. Returns its seat among those of the channel.
    fn add(&self, channel: Channel, connection: ConnectionId) -> (Seat, Arc<Waiting>) {
        let notices = Mutex::new(Some(Vec::new()));
        let waiting = Arc::new(Waiting {
            connection,
            notices,
        });

        let mut all = self.waiting.lock();
        let in_channel = all.entry(channel).or_default();
        let shard = usize::from(connection.shard);

        // Numbers need to differ within a shard only, and the last one is the highest that is in use.
        let before = in_channel.range(Seat::all_of(shard));
        let number = before.last().map_or(0, |(last, _)| last.number + 1);
        let seat = Seat { shard, number };
        in_channel.insert(seat, waiting.clone());
        self.count.fetch_add(1, SeqCst);

        (seat, waiting)
    }

    fn remove(&self, channel: &Channel, seat: Seat) {
        let mut all = self.waiting.lock();
        if let Some(in_channel) = all.get_mut(channel) {
            in_channel.remove(&seat);
            if in_channel.is_empty() {
                all.remove(channel);
            }
        }
        self.count.fetch_sub(1, SeqCst);
    }

    /// Takes notices for those on the shard `shard` who wait for them. Called under that shard's lock, under which they
    /// stop waiting too: so each notice is either here, or sent to a member that watches.
    pub(in crate::node) fn note(&self, shard: usize, app: AppId, channel: &str, frames: &[About]) {
        if self.count.load(SeqCst) == 0 {
            return;
        }

        let waiting = self.waiting.lock();
        let Some(in_channel) = waiting.get(&(app, channel.into())) else {
            return;
        };

        for (_, one) in in_channel.range(Seat::all_of(shard)) {
            let mut buffered = one.notices.lock();
            if let Some(list) = &mut *buffered {
                let others = frames
                    .iter()
                    .filter(|(about, _)| *about != Some(one.connection));
                list.extend(others.map(|(_, frame)| frame.clone()));
                if list.len() > NOTICES_CAPTURED {
                    *buffered = None;
                }
            }
        }
    }
}

impl NoticeRelay {
    /// Begins to take notices of `channel` for `connection`, once they come here.
    pub(in crate::node) async fn buffer_notices(
        self: &Arc<Self>,
        app: AppId,
        channel: &str,
        connection: ConnectionId,
    ) -> NoticeBuffer {
        // First of all: a change that no notice brings from here on is in the page.
        let watch = self.subscribe_watch(app, channel).await;
        // What is sent before that may lack what other nodes have.
        let patience = self.hub.context().limits.node_call_timeout;
        if self.rpc.check_reach().is_ok() {
            self.peer_counts.settled(app, channel, patience).await;
        }

        let channel = (app, SmolStr::from(channel));
        let (seat, waiting) = self.notice_buffers.add(channel.clone(), connection);
        NoticeBuffer {
            relay: self.clone(),
            channel,
            seat,
            waiting,
            _watch: watch,
        }
    }
}

impl NoticeBuffer {
    /// The notices so far, in order; `None` if they were too many, and what they say has to be fetched again. Call this
    /// under the lock of the connection's shard.
    pub(crate) fn take(&self) -> Option<Vec<Frame>> {
        self.waiting.notices.lock().as_mut().map(std::mem::take)
    }
}

impl Drop for NoticeBuffer {
    fn drop(&mut self) {
        self.relay.notice_buffers.remove(&self.channel, self.seat);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;

    fn connection(shard: u8, slot: u32) -> ConnectionId {
        ConnectionId {
            node: NodeId(1),
            shard,
            slot,
            nonce: 0,
        }
    }

    #[test]
    fn notices_go_to_those_who_wait_for_the_channel_on_the_shard() {
        let notice_buffers = NoticeBuffers::default();
        let (a, b) = ((AppId(0), "a".into()), (AppId(0), "b".into()));
        let (first, one) = notice_buffers.add(a.clone(), connection(0, 1));
        let (second, two) = notice_buffers.add(a.clone(), connection(0, 2));
        let (third, other_shard) = notice_buffers.add(a.clone(), connection(1, 1));
        let (fourth, other_channel) = notice_buffers.add(b.clone(), connection(0, 1));
        assert!(first < second && first != third, "{first:?} {second:?}");

        let held = |one: &Waiting| one.notices.lock().as_ref().map(Vec::len);
        let about = (Some(connection(0, 2)), Frame::event_text(&[b"x"]));
        notice_buffers.note(0, AppId(0), "a", &[about]);
        notice_buffers.note(0, AppId(1), "a", &[(None, Frame::event_text(&[b"x"]))]);
        assert_eq!(
            [&one, &two, &other_shard, &other_channel].map(|one| held(one)),
            [Some(1), Some(0), Some(0), Some(0)],
            "nobody hears of itself"
        );
        let many = vec![(None, Frame::event_text(&[b"x"])); NOTICES_CAPTURED];
        notice_buffers.note(0, AppId(0), "a", &many);
        assert_eq!((held(&one), held(&two)), (None, Some(NOTICES_CAPTURED)));

        // A seat is free again, and the others stay.
        notice_buffers.remove(&a, second);
        let (again, _) = notice_buffers.add(a.clone(), connection(0, 3));
        assert_eq!(again, second);
        for seat in [first, again, third] {
            assert!(notice_buffers.is_waiting(AppId(0), "a"));
            notice_buffers.remove(&a, seat);
        }
        assert!(
            !notice_buffers.is_waiting(AppId(0), "a") && notice_buffers.is_waiting(AppId(0), "b")
        );
        notice_buffers.remove(&b, fourth);
        assert!(notice_buffers.waiting.lock().is_empty() && notice_buffers.count.load(SeqCst) == 0);
    }
}
