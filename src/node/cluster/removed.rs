//! Who was taken out of a channel while being connected nowhere, because its node has ended.
//!
//! A call that takes connections out of a channel asks all nodes. A client whose node has been drained, or has crashed, is on none
//! of them: what it had is in that node's list of members in Redis ([`super::resume_from_list`]). The call leaves a record for it, which the
//! node reads that the client comes to. The record says whom the call means, and which nodes have seen to their own connections.
//! It concerns the connections of all other nodes.
//!
//! - A record is written only if a node has ended a short time ago ([`ENDED_REMEMBERED`]), or one that was asked departs or does not
//!   answer. Then it is written before the nodes are asked, or asked again.
//! - A node that a client comes to expects its places ([`ResumeTable::expect`](crate::hub::ResumeTable::expect)) before it reads the records.
//!   So it finds the record, or the call that has written the record finds the place.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use ahash::AHashSet;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::{
    super::Node,
    Handles,
    leases::{Membership, millis},
    unreadable,
};
use crate::{
    bus::{Bus, BusError, Script, Topic},
    filter::Verdict,
    hub::{Snapshot, with_channels},
    id::{AppId, NodeId},
    limits::{ENDED_REMEMBERED, REMOVAL_BYTES, REMOVALS_MAX},
    protocol::envelope::WireTarget,
};

/// The version of records that this node writes. One that it does not know concerns everyone.
const VERSION: u8 = 1;

/// What the records of a channel are called.
const REMOVED: &str = "removed";

/// Adds a record. KEYS: the records of the channel. ARGV: the record, one that concerns everyone, how many there may be, and for
/// how many milliseconds they are remembered. If there are too many, the one that concerns everyone takes their place.
static NOTE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "redis.call('XADD', KEYS[1], '*', 'r', ARGV[1])
         if redis.call('XLEN', KEYS[1]) > tonumber(ARGV[3]) then
           redis.call('DEL', KEYS[1])
           redis.call('XADD', KEYS[1], '*', 'r', ARGV[2])
         end
         return redis.call('PEXPIRE', KEYS[1], ARGV[4])",
    )
});

/// An entry of the stream of records: its id, and its one field.
type Entry = (String, (String, Vec<u8>));

/// When a node was last seen to have ended, or may have before this one came.
#[derive(Debug)]
pub(super) struct Ended(Mutex<LastEnded>);

#[derive(Debug)]
struct LastEnded {
    at: Instant,
    /// Nodes that have given their leases up in the last hour, by their ids.
    left: AHashSet<String>,
}

impl Default for Ended {
    fn default() -> Self {
        Self(Mutex::new(LastEnded {
            at: Instant::now(),
            left: AHashSet::new(),
        }))
    }
}

impl Ended {
    /// Notes whether a node is `missed` that was there at the last renewal, and which have `left`: one may have come and left since.
    pub(super) fn note<'a>(&self, is_missed: bool, left: impl Iterator<Item = &'a str>) {
        let mut last = self.0.lock();
        let left: AHashSet<String> = left.map(ToOwned::to_owned).collect();
        if is_missed || left.difference(&last.left).next().is_some() {
            last.at = Instant::now();
        }
        last.left = left;
    }

    /// Whether one may have ended within this time.
    fn is_within(&self, time: Duration) -> bool {
        self.0.lock().at.elapsed() <= time
    }
}

/// That connections were taken out of a channel.
#[derive(Debug, Serialize, Deserialize)]
struct Removal {
    v: u8,
    /// Whom it means; everyone if that is too long to be remembered.
    #[serde(rename = "aim")]
    wire_target: WireTarget,
    /// The nodes that have seen to their own connections.
    done: Vec<u32>,
}

impl Removal {
    fn write(&self) -> Bytes {
        // Texts and JSON always serialize.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// One that concerns everyone who was on a node that has ended.
    fn of_all() -> Self {
        Self {
            v: VERSION,
            wire_target: WireTarget::default(),
            done: Vec::new(),
        }
    }
}

/// The records in Redis of who was taken out of a channel.
///
/// It owns nothing but its way to Redis, and knows for how long records are remembered. [`Leaving`](super::leaving::Leaving) leaves
/// records, and [`Handover`](super::resume::Handover) reads them for a client that comes back.
#[derive(Debug)]
pub(super) struct RemovalRecords {
    bus: Arc<Bus>,
    membership: Arc<Membership>,
    /// How long clients may come back.
    resume_window: Duration,
    /// Longer than what a node had that has ended waits for its clients: until its lease is over, and another node has found the
    /// time to take it away.
    remembered: Duration,
}

impl RemovalRecords {
    pub(super) fn new(handles: &Handles<'_>, membership: &Arc<Membership>) -> Self {
        let limits = &handles.config.limits;
        Self {
            bus: handles.bus.clone(),
            membership: membership.clone(),
            resume_window: limits.resume_window,
            remembered: limits.resume_window + ENDED_REMEMBERED * limits.node_lease,
        }
    }

    /// Whether clients may be connected nowhere, because a node has ended a short time ago.
    pub(super) fn may_await(&self) -> bool {
        !self.resume_window.is_zero() && self.membership.ended().is_within(self.remembered)
    }

    /// Leaves a record that those whom `aim` means were taken out of `channel`, on all nodes except for those that have
    /// `done` that themselves.
    pub(super) async fn note_removal(
        &self,
        (app, channel): (AppId, &str),
        wire_target: &WireTarget,
        done: impl Iterator<Item = NodeId>,
    ) -> Result<(), BusError> {
        let done: Vec<u32> = done.map(|node| node.0).collect();
        let is_short = serde_json::to_vec(wire_target)
            .is_ok_and(|wire_target| wire_target.len() <= REMOVAL_BYTES);
        let removal = Removal {
            v: VERSION,
            // Everyone, if it is too long: a client that is taken out by mistake may join again.
            wire_target: if is_short {
                wire_target.clone()
            } else {
                WireTarget::default()
            },
            done,
        };

        let home = Topic::Channel(app, channel.into());
        let keys = vec![self.bus.key(&home, REMOVED)];
        let args = vec![
            removal.write(),
            Removal::of_all().write(),
            REMOVALS_MAX.to_string().into(),
            millis(self.remembered),
        ];

        self.bus.eval(&NOTE, &home, keys, args).await.map(drop)
    }

    /// Which of `channels` the connection `lost` of a node that has ended was taken out of since. If that is not known, it counts
    /// as taken out: its client may join again by itself, if it has the right to. Whom a record means is found by `node`, as for a
    /// publication.
    pub(super) async fn removed_from(
        &self,
        node: &Node,
        lost: &Snapshot,
        channels: &[SmolStr],
    ) -> Vec<SmolStr> {
        let app = lost.app;
        // The client has not joined here yet, and a record may mean members of a channel.
        let lost = with_channels(lost, channels);
        let read = |channel: &SmolStr| {
            let home = Topic::Channel(app, channel.clone());
            let mut range = redis::cmd("XRANGE");
            range.arg(self.bus.key(&home, REMOVED)).arg("-").arg("+");
            self.bus.command(&home, range)
        };

        // They are asked all at the same time.
        let reads: Vec<_> = channels.iter().map(read).collect();
        let mut removed = Vec::new();
        for (channel, records) in channels.iter().zip(reads) {
            let records = records.await.and_then(|records| {
                redis::from_redis_value::<Vec<Entry>>(records).map_err(|error| unreadable(&error))
            });

            let is_removed = match records {
                Ok(records) => is_removed(node, &lost, &records).await,
                Err(error) => {
                    tracing::debug!(%error, connection = %lost.id(), "whether it was taken out of a channel is not known");
                    true
                }
            };

            if is_removed {
                removed.push(channel.clone());
            }
        }

        removed
    }
}

/// Whether one of the records means the connection `lost`.
async fn is_removed(node: &Node, lost: &Snapshot, records: &[Entry]) -> bool {
    for (_, (_, record)) in records {
        let removal = match serde_json::from_slice::<Removal>(record) {
            Ok(removal) if removal.v == VERSION => removal,
            // A later version has written it, or it is broken: whom it means is not known.
            _ => return true,
        };

        if removal.done.contains(&lost.id().node.0) {
            continue;
        }
        let Ok(selection) = node.selection_of(lost.app, removal.wire_target).await else {
            // It cannot be said whom it means, and one who is meant by mistake may join again.
            return true;
        };
        if selection.means(lost).verdict == Verdict::Match {
            return true;
        }
    }

    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::tests::{bus_at, server::Server};

    #[tokio::test]
    async fn too_many_records_become_one_that_means_everyone() {
        let server = Server::start(&[]);
        let (bus, _inbox) = bus_at(&server.url()).await;
        let home = Topic::Channel(AppId(0), "room".into());
        let key = bus.key(&home, REMOVED);
        let removal = |done| Removal {
            v: VERSION,
            wire_target: WireTarget {
                filter: Some("user == 'ann'".to_owned()),
                ..WireTarget::default()
            },
            done: vec![done],
        };
        let note = async |done| {
            let args = vec![
                removal(done).write(),
                Removal::of_all().write(),
                "3".into(),
                "60000".into(),
            ];
            let noted = bus.eval(&NOTE, &home, vec![key.clone()], args);
            noted.await.unwrap();
            let mut range = redis::cmd("XRANGE");
            range.arg(&key).arg("-").arg("+");
            let records = bus.command(&home, range).await.unwrap();
            let records: Vec<Entry> = redis::from_redis_value(records).unwrap();
            let read =
                |(_, (_, record)): &Entry| -> Removal { serde_json::from_slice(record).unwrap() };
            records.iter().map(read).collect::<Vec<_>>()
        };

        for n in 1..=3 {
            let records = note(n).await;
            assert_eq!(records.len(), n as usize);
            assert!(
                records
                    .iter()
                    .all(|record| record.wire_target.filter.is_some())
            );
        }
        let records = note(4).await;
        assert_eq!(records.len(), 1);
        assert!(records[0].wire_target.filter.is_none() && records[0].done.is_empty());
        bus.stop();
    }

    #[test]
    fn a_node_may_have_ended_that_was_never_seen() {
        let long_ago = Ended::default();
        long_ago.0.lock().at -= Duration::from_mins(1);
        let ended = |is_missed, left: &[&'static str]| {
            long_ago.note(is_missed, left.iter().copied());
            long_ago.is_within(Duration::from_secs(30))
        };
        assert!(!ended(false, &[]));
        assert!(
            ended(false, &["a"]),
            "it came and left between two renewals"
        );
        long_ago.0.lock().at -= Duration::from_mins(1);
        assert!(!ended(false, &["a"]));
        assert!(ended(true, &["a"]));
    }

    /// As each version has written it: a node reads all of them.
    const RECORDED: [&str; 1] = [r#"{"v":1,"aim":{"to":{"users":["ann"]}},"done":[7,8]}"#];

    #[test]
    fn recorded_versions_are_read() {
        for text in RECORDED {
            let removal: Removal = serde_json::from_str(text).unwrap();
            assert_eq!((removal.v, &*removal.done), (VERSION, &[7, 8][..]));
            assert_eq!(removal.wire_target.to.as_ref().unwrap().users, ["ann"]);
            assert_eq!(removal.write(), text);
        }
    }
}
