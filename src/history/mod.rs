//! What is stored for those who are away: the history of channels, and the stored events of users.
//!
//! A topic numbers its events from 1, without gaps, for as long as its numbering lives; an [`Epoch`] names that life.
//! What is stored is the newest run of it, less what was confirmed: whatever else removes an event has removed all before
//! it. So one number says what is missing, and a client that comes back gets "recovered" only if that is certain.

mod ages;
pub(crate) mod disk;
mod memory;
pub(crate) mod redis;
#[cfg(test)]
mod suite;

use std::{fmt, future::Future, pin::Pin, str::FromStr, sync::Arc, time::Duration};

use ahash::AHashSet;
use bytes::Bytes;
use smol_str::SmolStr;
use uuid::Uuid;

pub use self::disk::DataError;
pub(crate) use self::disk::tools as data_tools;
use self::memory::Run;
pub(crate) use self::{
    disk::{Disk, Setup, StoredAnswer, StoredApp},
    memory::{Memory, Occupied},
    redis::RedisHistory,
};
use crate::{
    id::{AppId, ConnectionId, base32},
    protocol::{event::Draft, frame::Frame},
};

/// Whose events are stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    Channel(SmolStr),
    User(SmolStr),
}

/// Names a topic of one app; there is no way from one app to another's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) app: AppId,
    pub(crate) topic: Topic,
}

impl Key {
    /// The history of `channel`.
    pub(crate) fn channel(app: AppId, channel: SmolStr) -> Self {
        Self {
            app,
            topic: Topic::Channel(channel),
        }
    }

    /// The stored events of `user`.
    pub(crate) fn user(app: AppId, user: SmolStr) -> Self {
        Self {
            app,
            topic: Topic::User(user),
        }
    }
}

/// How much of a topic is stored, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Retention {
    pub(crate) events: usize,
    /// Bytes of frames, and of the names that they leave out.
    pub(crate) bytes: usize,
    pub(crate) ttl: Duration,
}

/// Names one life of a topic's numbering; random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Epoch(u64);

impl Epoch {
    /// The epoch that a message of another node names.
    pub(crate) fn of(number: u64) -> Self {
        Self(number)
    }

    /// A new random epoch.
    pub(crate) fn random() -> Self {
        Self(Uuid::new_v4().as_u64_pair().0)
    }

    /// Its number, for [`Epoch::of`].
    pub(crate) fn number(self) -> u64 {
        self.0
    }

    /// The form in which it crosses Redis.
    pub(crate) fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// The epoch of [`Epoch::to_bytes`].
    pub(crate) fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32().encode(&self.to_bytes()))
    }
}

/// The text is not an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an epoch")]
pub(crate) struct BadEpoch;

impl FromStr for Epoch {
    type Err = BadEpoch;

    fn from_str(text: &str) -> Result<Self, BadEpoch> {
        let bytes = base32().decode(text.as_bytes()).map_err(|_| BadEpoch)?;
        bytes.try_into().map(Self::from_bytes).map_err(|_| BadEpoch)
    }
}

/// The position of a topic in its numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) epoch: Epoch,
    /// The newest offset; of a channel, 0 before its first event.
    pub(crate) offset: u64,
}

/// Who is left out when the event is replayed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Omit {
    pub(crate) users: AHashSet<Box<str>>,
    pub(crate) devices: AHashSet<Box<str>>,
    pub(crate) connections: AHashSet<ConnectionId>,
    pub(crate) sender: Option<EchoOmission>,
}

/// A reader of stored events.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Reader<'a> {
    pub(crate) user: Option<&'a str>,
    pub(crate) device: Option<&'a str>,
    pub(crate) connection: ConnectionId,
}

/// A [`Reader`] that outlives its caller.
#[derive(Debug)]
struct OwnedReader {
    user: Option<Box<str>>,
    device: Option<Box<str>>,
    connection: ConnectionId,
}

impl OwnedReader {
    fn of(reader: &Reader<'_>) -> Self {
        Self {
            user: reader.user.map(Into::into),
            device: reader.device.map(Into::into),
            connection: reader.connection,
        }
    }

    fn borrowed(&self) -> Reader<'_> {
        Reader {
            user: self.user.as_deref(),
            device: self.device.as_deref(),
            connection: self.connection,
        }
    }
}

/// A sender that did not want its own message back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EchoOmission {
    pub(crate) user: Option<SmolStr>,
    pub(crate) device: Option<SmolStr>,
    pub(crate) connection: ConnectionId,
}

impl EchoOmission {
    /// Whether it is the same connection, or the same user on the same device where the sender named one.
    fn is(&self, reader: &Reader<'_>) -> bool {
        // A client chooses its device's name, which says nothing without the user.
        let same_device = self.device.is_some() && self.device.as_deref() == reader.device;
        self.connection == reader.connection || (same_device && self.user.as_deref() == reader.user)
    }
}

impl Omit {
    /// Whether this reader is left out.
    pub(crate) fn has(&self, reader: &Reader<'_>) -> bool {
        reader.user.is_some_and(|user| self.users.contains(user))
            || reader
                .device
                .is_some_and(|device| self.devices.contains(device))
            || self.connections.contains(&reader.connection)
            || self.sender.as_ref().is_some_and(|sender| sender.is(reader))
    }

    /// Users, devices and connections named.
    pub(crate) fn names(&self) -> usize {
        self.users.len() + self.devices.len() + self.connections.len()
    }

    /// What it counts for among the bytes of its topic: about what it is as JSON, since that is how Redis stores it.
    pub(crate) fn bytes(&self) -> usize {
        let sender = self.sender.as_ref().map_or(0, |sender| {
            let texts = [&sender.user, &sender.device].into_iter().flatten();
            OMITTED_CONNECTION_BYTES + texts.map(|text| json_bytes(text)).sum::<usize>()
        });
        let names = self.users.iter().chain(&self.devices);
        names.map(|name| json_bytes(name)).sum::<usize>()
            + self.connections.len() * OMITTED_CONNECTION_BYTES
            + sender
    }
}

/// A connection's id as an item of a list in JSON: 26 letters, two quotes and a comma.
const OMITTED_CONNECTION_BYTES: usize = 29;

/// Bytes of `text` as an item of a list in JSON, at most.
fn json_bytes(text: &str) -> usize {
    let escaped = text
        .bytes()
        .filter(|byte| byte.is_ascii_control() || matches!(byte, b'"' | b'\\'))
        .count();
    // As `\u0000` a control character takes five bytes more. The 3 are two quotes and a comma.
    text.len() + 5 * escaped + 3
}

/// An event that is to be stored.
#[derive(Clone, Debug)]
pub(crate) struct New {
    pub(crate) id: Uuid,
    pub(crate) draft: Draft,
    pub(crate) omit: Option<Arc<Omit>>,
    /// What is published for other nodes in the step that stores it, after its epoch and offset. A store that is not
    /// shared publishes nothing.
    pub(crate) tail: Option<Bytes>,
}

/// A stored event.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) id: Uuid,
    pub(crate) frame: Frame,
    pub(crate) omit: Option<Arc<Omit>>,
    /// When it was appended, in Unix milliseconds.
    pub(crate) at_ms: u64,
}

impl Entry {
    /// What it counts for among the bytes of its topic.
    pub(crate) fn bytes(&self) -> usize {
        self.frame.len() + self.omit.as_deref().map_or(0, Omit::bytes)
    }

    /// Whether the event is for this reader: one that was excepted when it was sent still is.
    pub(crate) fn is_for(&self, reader: &Reader<'_>) -> bool {
        !self.omit.as_ref().is_some_and(|omit| omit.has(reader))
    }
}

/// The position that an event got, and what its receivers share.
#[derive(Clone, Debug)]
pub(crate) struct Appended {
    pub(crate) position: Position,
    pub(crate) frame: Frame,
}

/// What someone who comes back has missed.
#[derive(Clone, Debug)]
pub(crate) struct Recovery {
    pub(crate) position: Position,
    /// Whether `entries` are all that came after what it saw, for certain.
    pub(crate) recovered: bool,
    /// Up to which offset what it saw is part of what is stored now, whatever came after it; 0 where that is not
    /// known.
    pub(crate) shared: u64,
    /// Oldest first. If not recovered, all that is stored.
    pub(crate) entries: Vec<Entry>,
}

/// A part of what is stored.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) position: Position,
    /// Oldest first.
    pub(crate) entries: Vec<Entry>,
    /// Whether newer ones are stored than the page has.
    pub(crate) more: bool,
}

/// What waits for a user.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiting {
    /// None where no numbering is known.
    pub(crate) position: Option<Position>,
    /// Oldest first.
    pub(crate) entries: Vec<Entry>,
}

/// Why a store gives no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// The store is elsewhere and out of reach; nothing was done.
    #[error("the store of events does not answer; try again")]
    Unavailable,
    /// The store was asked and has not answered in time; it may have done what it was asked, or may do it yet.
    #[error("the store of events did not answer in time; what was asked may have been done")]
    Unanswered,
    /// There is no memory for one more event; nothing was stored, and nobody was notified.
    #[error("the store of events is full; raise `maxmemory` of Redis or keep less. It says: {0}")]
    Full(Arc<str>),
    /// The files of the data directory cannot be read or written. The request may have been carried
    /// out.
    #[error("the data directory cannot be used: {0}; what was asked may have been done")]
    Disk(Arc<str>),
    /// The disk does not keep up with what is to be stored; nothing was done.
    #[error("the disk does not keep up with what is to be stored; try again")]
    Behind,
    /// The app stores as many bytes as it may; nothing was stored, and nobody was notified.
    #[error(
        "this app stores {stored} bytes, and may store {quota} (max_stored_bytes); wait until events have expired, or raise it"
    )]
    OverQuota {
        /// What the app stores.
        stored: u64,
        /// What it may.
        quota: u64,
    },
    /// The store refused, in its own words.
    #[error("the store of events refused: {0}")]
    Refused(Arc<str>),
}

/// What a store says, once it is awaited. Dropped before that, an append may have happened or not.
pub(crate) type HistoryFuture<'a, T> =
    Pin<Box<dyn Future<Output = Result<T, HistoryError>> + Send + 'a>>;

/// A store of events. Each call is atomic for its topic.
///
/// An event past its time is never given out, and of what is stored nothing is missing in the middle.
pub(crate) trait History: Send + Sync + fmt::Debug {
    /// Appends as the newest. A channel's frame carries the offset, a user's does not.
    ///
    /// What is then over a bound is removed, oldest first; that may be the event itself, which has its offset and its
    /// frame all the same.
    fn append<'a>(
        &'a self,
        key: &'a Key,
        retention: &'a Retention,
        new: New,
    ) -> HistoryFuture<'a, Appended>;

    /// The position of the topic, beginning its numbering if it has none: a client that joins now can come back with
    /// this.
    fn position<'a>(
        &'a self,
        key: &'a Key,
        retention: &'a Retention,
    ) -> HistoryFuture<'a, Position>;

    /// What came after `offset`, beginning the topic's numbering if it has none.
    ///
    /// Recovered only if the epoch is the topic's and `offset` is not past its newest, or the epoch is one that the topic's
    /// goes on from after `offset`, and nothing after `offset` was removed other than by [`History::confirm`]. Without an
    /// epoch the topic's present one is taken for it.
    fn since<'a>(
        &'a self,
        key: &'a Key,
        retention: &'a Retention,
        epoch: Option<&'a str>,
        offset: u64,
    ) -> HistoryFuture<'a, Recovery>;

    /// Up to `limit` stored events after `after`. Begins no numbering: none where nothing is known of the topic.
    fn page<'a>(
        &'a self,
        key: &'a Key,
        after: u64,
        limit: usize,
    ) -> HistoryFuture<'a, Option<Page>>;

    /// Everything stored for a topic: the stored events of a user. Begins no numbering.
    fn waiting<'a>(&'a self, key: &'a Key) -> HistoryFuture<'a, Waiting>;

    /// Forgets everything up to and with `offset` that is for `reader`; what was withheld from them waits for the
    /// user's others. Returns immediately; a store elsewhere queues it.
    ///
    /// It may come late: an offset of a user's former numbering removes nothing of a later one.
    fn confirm(&self, key: &Key, offset: u64, reader: &Reader<'_>);

    /// Notes the position of a topic that another node published. So a store that nodes share notices when it has
    /// gone back.
    fn saw(&self, _key: &Key, _position: Position) {}

    /// Keeps the topic's numbering known as if an event had just come. A store that knows who is in a channel does so anyway.
    fn remember<'a>(&'a self, _key: &'a Key) -> HistoryFuture<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    /// Looks how many bytes each app stores that may store only so many, where other nodes store some too.
    fn look_at_quotas(&self) -> HistoryFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// Notes how many bytes are stored for an app beside the history, which count towards what it may store.
    fn stored_beside(&self, _app: AppId, _bytes: u64) {}

    /// Checks that an app may store more, for what is stored beside the history. A refusal is counted.
    ///
    /// # Errors
    /// [`HistoryError::OverQuota`].
    fn check_quota(&self, _app: AppId) -> Result<(), HistoryError> {
        Ok(())
    }

    /// Forgets some of what is over its time; true if there may be more. Called about once a second, until it is false.
    fn expire(&self) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;

    fn connection(nonce: u64) -> ConnectionId {
        ConnectionId {
            node: NodeId(1),
            shard: 0,
            slot: 0,
            nonce,
        }
    }

    #[test]
    fn an_epoch_survives_its_text() {
        let epoch = Epoch::random();
        assert_ne!(epoch, Epoch::random());
        assert_eq!(epoch.to_string().len(), 13);
        assert_eq!(epoch.to_string().parse(), Ok(epoch));
        for bad in ["", "0", "zzzzzzzzzzzzz", "00000000000000", "000000000000U"] {
            assert_eq!(bad.parse::<Epoch>(), Err(BadEpoch), "{bad}");
        }
    }

    fn reader<'a>(user: Option<&'a str>, device: Option<&'a str>, number: u64) -> Reader<'a> {
        Reader {
            user,
            device,
            connection: connection(number),
        }
    }

    #[test]
    fn replay_leaves_out_whom_the_event_left_out() {
        let omit = Omit {
            users: ["u1".into()].into_iter().collect(),
            devices: ["d1".into()].into_iter().collect(),
            connections: [connection(9)].into_iter().collect(),
            sender: None,
        };
        assert!(omit.has(&reader(None, None, 9)));
        assert!(omit.has(&reader(Some("u1"), None, 1)) && omit.has(&reader(None, Some("d1"), 1)));
        assert!(!omit.has(&reader(Some("d1"), Some("u1"), 1)) && !omit.has(&reader(None, None, 1)));
    }

    #[test]
    fn a_sender_without_echo_is_the_same_connection_or_user_and_device() {
        let sent = |user: Option<&str>, device: Option<&str>| Omit {
            sender: Some(EchoOmission {
                user: user.map(Into::into),
                device: device.map(Into::into),
                connection: connection(1),
            }),
            ..Omit::default()
        };
        let omit = sent(Some("u"), Some("d"));
        assert!(omit.has(&reader(Some("other"), None, 1)));
        assert!(omit.has(&reader(Some("u"), Some("d"), 2)));
        for (user, device) in [
            (Some("u"), Some("e")),
            (Some("v"), Some("d")),
            (Some("u"), None),
            (None, Some("d")),
        ] {
            assert!(!omit.has(&reader(user, device, 2)), "{user:?} {device:?}");
        }
        assert!(
            !sent(Some("u"), None).has(&reader(Some("u"), None, 2)),
            "it named no device"
        );
        assert!(sent(None, Some("d")).has(&reader(None, Some("d"), 2)));
    }
}
