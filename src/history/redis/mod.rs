//! The store that all nodes share, in Redis.
//!
//! A topic is two keys in one partition: its state (a hash) and its events (a stream whose ids are the offsets). Every
//! call is carried out by a Lua script, and appends that wait by one together, so it is atomic for its topic, and an append is
//! published in the step that stores it: the order on the bus is the order of offsets. Times are Redis' own, so nodes need not
//! agree on theirs.
//!
//! # What is bounded
//! A topic, by number, bytes and age, as in memory. An eighth more may be stored of it until somebody reads it, and an event for an
//! eighth of its time longer, as trimming it at every append would cost more than the append. Both keys expire an hour
//! ([`HISTORY_QUIET`]) after the last event of the topic is past its time, or after it was last joined, and up to ten minutes
//! later; where there never was an event, after two minutes ([`HISTORY_UNUSED`]) if no node with members has it remembered.
//!
//! An app, if it has a quota ([`quota`]): by sums that are right within some seconds of what it stores. All apps together are
//! bounded by Redis' `maxmemory` alone, which knows its memory to the byte. With `maxmemory-policy noeviction` an
//! append is refused when memory is full ([`HistoryError::Full`], before anybody was notified). With a policy that evicts
//! (`volatile-ttl` takes those that are quiet for longest), the state and the stream check each other: a client that misses
//! something that was evicted learns that it is not recovered.
//!
//! # What is noticed
//! Redis loses what it has accepted when a replica that lagged is promoted, or an older copy is loaded; then offsets that
//! were given out are given out once more. So the first append under another primary, or under the same in another life
//! ([`Bus::primary_key`]), begins a new epoch that goes on from the one before: which that was, and up to where both are
//! one, is known of the last four. A client that has seen nothing beyond that has missed nothing. The stored events of a user keep
//! their epoch there: their offsets need not be without gaps, and leap.
//!
//! Each node also remembers how far it has seen a topic's numbering. If the same primary has less than that (somebody has restored
//! older keys), or a reader finds it so, a new epoch goes on from what is left, after the larger offset, and a client that comes back to
//! the old one learns that it is not recovered; so does one that comes back to a numbering of which a node has seen more than what is
//! left.
//!
//! # What is not counted
//! Events of users who never come back, and that Redis lets expire with the key, are not drops in any counter.

mod quota;
pub(super) mod record;
mod reply;
mod script;
mod seen;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::{self, Future},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::runtime::Handle;

#[cfg(test)]
use self::record::published;
use self::{
    quota::Quotas,
    reply::{AppendedRun, Ended, Entries, Head, Reply, Withheld},
    script::Call,
    seen::{Mark, Seen},
};
use super::{
    Appended, Epoch, History, HistoryError, HistoryFuture, Key, New, Omit, OwnedReader, Page,
    Position, Reader, Recovery, Retention, Topic, Waiting,
};
use crate::{
    bus::{self, Bus, BusError, Call as BusCall, CallPart},
    id::AppId,
    limits::{HISTORY_QUIET, HISTORY_SEEN_TOPICS, HISTORY_TTL_MS_MAX, HISTORY_UNUSED},
    metrics::{AppMetrics, DropReason, Metrics},
};

/// Stores events in Redis, for all nodes of a namespace. A clone is the same store.
///
/// Answers come within the bus's time for one command. Nothing is asked twice: after [`HistoryError::Unanswered`] an
/// append may have happened, and then it was published too.
#[derive(Clone)]
pub(crate) struct RedisHistory(Arc<Inner>);

struct Inner {
    bus: Arc<Bus>,
    seen: Seen,
    metrics: Arc<Metrics>,
    quotas: Quotas,
    /// By `AppId`.
    apps: Vec<Arc<AppMetrics>>,
}

impl fmt::Debug for RedisHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisHistory")
    }
}

impl From<BusError> for HistoryError {
    fn from(error: BusError) -> Self {
        match error {
            BusError::Away { .. } | BusError::Full => Self::Unavailable,
            BusError::Unanswered => Self::Unanswered,
            BusError::Refused { code, message } if code == "OOM" => Self::Full(message.into()),
            BusError::Refused { code, message } => {
                Self::Refused(format!("{code} {message}").into())
            }
        }
    }
}

impl RedisHistory {
    /// A store over `bus`. `apps` by `AppId`, and so how many bytes each may store, if that is bounded.
    pub(crate) fn new(
        bus: Arc<Bus>,
        metrics: Arc<Metrics>,
        apps: Vec<Arc<AppMetrics>>,
        quotas: &[Option<usize>],
    ) -> Self {
        let quotas = Quotas::new(&bus, quotas);
        Self(Arc::new(Inner {
            bus,
            seen: Seen::new(HISTORY_SEEN_TOPICS),
            metrics,
            quotas,
            apps,
        }))
    }

    async fn recovery(key: &Key, sent: Sent) -> Result<(Recovery, Entries), HistoryError> {
        let Answered {
            position,
            mut reply,
        } = sent.await?;

        let position = position.ok_or_else(reply::malformed)?;
        let entries = reply.entries(is_channel(key))?;
        let (recovered, shared) = (reply.flag()?, reply.number()?);

        Ok((
            Recovery {
                position,
                recovered,
                shared,
                entries: Vec::new(),
            },
            entries,
        ))
    }
}

/// What a script has answered, after it was noted.
struct Answered {
    /// None where no numbering is known.
    position: Option<Position>,
    reply: Reply,
}

/// A script on its way.
type Sent = Pin<Box<dyn Future<Output = Result<Answered, HistoryError>> + Send>>;

impl Inner {
    /// Sends a script; it has its place in the order of all that is sent when this returns.
    fn send(self: &Arc<Self>, call: Call, key: &Key, own: Vec<Bytes>) -> Sent {
        let home = home(key);
        let mark = if call.heeds_what_was_seen() {
            self.seen.mark(key)
        } else {
            None
        };

        // A script learns by its first key under which primary it runs.
        let mut keys = vec![self.bus.primary_key(&home)];
        keys.extend(self.keys(key, &home));
        let mut arguments = common();
        arguments.extend(self.subject(key, mark.as_ref()));
        arguments.extend(own);
        let answer = self.bus.eval(call.script(), &home, keys, arguments);
        let (inner, key) = (self.clone(), key.clone());

        Box::pin(async move {
            let mut reply = Reply::new(answer.await?)?;
            let position = reply.head()?.and_then(|head| inner.note(&key, &head));
            Ok(Answered { position, reply })
        })
    }

    /// Sends an append, which goes to Redis together with others that wait; see [`Self::send`].
    fn append(
        self: &Arc<Self>,
        key: &Key,
        run: Vec<Bytes>,
        event: Vec<Bytes>,
    ) -> impl Future<Output = Result<Position, HistoryError>> + Send + 'static + use<> {
        let home = home(key);
        let mark = self.seen.mark(key);
        let mut shared = common();
        shared.push(self.bus.publish_command().into());

        let call = BusCall {
            shared: CallPart {
                keys: vec![self.bus.primary_key(&home)],
                args: shared,
            },
            run: CallPart {
                keys: self.keys(key, &home),
                args: run,
            },
            hint: self.subject(key, mark.as_ref()).to_vec(),
            args: event,
        };

        let answer = self.bus.call(Call::Append.script(), &home, call);
        let (inner, key) = (self.clone(), key.clone());
        async move {
            let AppendedRun { ended, after } = reply::run(answer.await?)?;
            let newest = match ended {
                Ended::Quick(position) => {
                    inner.seen.note_published(&key, position);
                    position
                }
                Ended::Full(mut head) => {
                    if after > 0 {
                        // The answer is that of the whole run, so the removed events are counted
                        // with its last event only.
                        (head.expired, head.over) = (0, 0);
                    }
                    inner.note(&key, &head).ok_or_else(reply::malformed)?
                }
            };

            Ok(Position {
                // The answer has the newest offset of the run, and `after` events came after this
                // one.
                offset: newest.offset.saturating_sub(after),
                ..newest
            })
        }
    }

    /// The keys of a topic that lives at `home`, and of what its app stores where that is counted.
    fn keys(&self, key: &Key, home: &bus::Topic) -> Vec<Vec<u8>> {
        let mut keys = Vec::with_capacity(3);
        keys.extend(["state", "events"].map(|suffix| self.bus.key(home, suffix)));
        if self.quotas.has(key.app) {
            keys.push(self.bus.app_key(home, key.app, quota::STORED));
        }
        keys
    }

    /// What every script is given of a topic.
    fn subject(&self, key: &Key, mark: Option<&Mark>) -> [Bytes; 2] {
        let (epoch, offset, born) = mark.map_or((Bytes::new(), 0, 0), |mark| {
            let epoch = Bytes::copy_from_slice(&mark.position.epoch.to_bytes());
            (epoch, mark.position.offset, mark.born)
        });
        // Two bits: whether it is a user's, and whether its bytes are counted.
        let counted = if self.quotas.has(key.app) { 2 } else { 0 };
        let mut seen = vec![u8::from(!is_channel(key)) + counted];
        seen.extend(packed([offset, born]));
        [epoch, seen.into()]
    }

    /// Remembers the position of a topic, and counts what it has lost for a user.
    fn note(&self, key: &Key, head: &Head) -> Option<Position> {
        if let (Topic::User(_), Some(app)) = (&key.topic, self.apps.get(usize::from(key.app.0))) {
            app.dropped(DropReason::StoredExpired, head.expired);
            app.dropped(DropReason::StoredOver, head.over);
        }

        let position = Position {
            epoch: head.epoch?,
            offset: head.newest,
        };

        self.seen.note(
            key,
            Mark {
                position,
                born: head.born,
            },
        );

        Some(position)
    }

    fn count_unreadable(&self, entries: &Entries) {
        self.metrics.history_unreadable.inc_by(entries.unreadable);
    }

    /// The second half of a confirmation: what leaves somebody out is forgotten if it was for the reader.
    async fn forget(
        self: Arc<Self>,
        key: Key,
        sent: Sent,
        reader: OwnedReader,
    ) -> Result<(), HistoryError> {
        let Answered {
            position,
            mut reply,
        } = sent.await?;

        let Some(position) = position else {
            return Ok(());
        };

        let reader = reader.borrowed();
        let mut own = vec![Bytes::copy_from_slice(&position.epoch.to_bytes())];
        for Withheld { id, omit } in reply.withheld()? {
            if record::decode_omit(&omit).is_some_and(|omit| !omit.has(&reader)) {
                own.push(id);
            }
        }

        // One of them is the epoch.
        if own.len() > 1 {
            self.send(Call::Forget, &key, own).await?;
        }
        Ok(())
    }
}

fn is_channel(key: &Key) -> bool {
    matches!(key.topic, Topic::Channel(_))
}

/// The bus's name for a topic: its keys live where its events are published.
fn home(key: &Key) -> bus::Topic {
    match &key.topic {
        Topic::Channel(name) => bus::Topic::Channel(key.app, name.clone()),
        Topic::User(name) => bus::Topic::User(key.app, name.clone()),
    }
}

fn number(n: u64) -> Bytes {
    n.to_string().into()
}

fn ttl_ms(time: Duration) -> u64 {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    millis.clamp(1, HISTORY_TTL_MS_MAX)
}

fn millis(time: Duration) -> Bytes {
    number(ttl_ms(time))
}

/// What every script is given first; topic.lua reads it.
fn common() -> Vec<Bytes> {
    // For a numbering that begins here: the random numbers of scripts are the same in each run.
    let fresh = Bytes::copy_from_slice(&Epoch::random().to_bytes());
    vec![fresh, millis(HISTORY_QUIET)]
}

/// Numbers as scripts unpack them.
fn packed<const N: usize>(numbers: [u64; N]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_be_bytes())
        .collect()
}

/// What `since.lua` takes for the epoch that a client named; what is not an epoch equals none.
fn named(epoch: Option<&str>) -> Bytes {
    match epoch.map(str::parse::<Epoch>) {
        None => Bytes::new(),
        Some(Ok(epoch)) => Bytes::copy_from_slice(&epoch.to_bytes()),
        Some(Err(_)) => Bytes::from_static(b"?"),
    }
}

impl History for RedisHistory {
    fn append<'a>(
        &'a self,
        key: &'a Key,
        retention: &'a Retention,
        new: New,
    ) -> HistoryFuture<'a, Appended> {
        let New {
            id,
            draft,
            omit,
            tail,
        } = new;

        // A channel's frame ends in its offset; the script adds the digits.
        let behind = if is_channel(key) {
            ",\"offset\":".len()
        } else {
            0
        };

        let (channel, tail) = match tail {
            Some(tail) => (self.0.bus.channel(&home(key)).into(), tail),
            None => (Bytes::new(), Bytes::new()),
        };

        let bounds = [
            retention.events as u64,
            retention.bytes as u64,
            ttl_ms(retention.ttl),
        ];

        let run = vec![channel, packed(bounds).into()];
        let event = vec![
            number((draft.len() + behind + omit.as_deref().map_or(0, Omit::bytes)) as u64),
            record::encode(id, &draft),
            omit.as_deref().map(record::encode_omit).unwrap_or_default(),
            tail,
        ];

        // Before it is sent. The sums are those of the last look, so the bound is right within some
        // seconds.
        if let Err(error) = self.check_quota(key.app) {
            return Box::pin(future::ready(Err(error)));
        }

        let sent = self.0.append(key, run, event);
        Box::pin(async move {
            let position = sent.await?;
            let frame = draft.finish(is_channel(key).then_some(position.offset));
            Ok(Appended { position, frame })
        })
    }

    fn position<'a>(
        &'a self,
        key: &'a Key,
        _retention: &'a Retention,
    ) -> HistoryFuture<'a, Position> {
        let sent = self
            .0
            .send(Call::Position, key, vec![millis(HISTORY_UNUSED)]);
        Box::pin(async move { sent.await?.position.ok_or_else(reply::malformed) })
    }

    fn since<'a>(
        &'a self,
        key: &'a Key,
        _retention: &'a Retention,
        epoch: Option<&'a str>,
        offset: u64,
    ) -> HistoryFuture<'a, Recovery> {
        let sent = self.0.send(
            Call::Since,
            key,
            vec![named(epoch), number(offset), millis(HISTORY_UNUSED)],
        );

        Box::pin(async move {
            let (mut recovery, mut entries) = Self::recovery(key, sent).await?;
            if recovery.recovered && entries.unreadable > 0 {
                // A client misses the events that are skipped, so it has not recovered, and then it is given
                // all that is stored.
                let own = vec![named(Some("")), number(offset), millis(HISTORY_UNUSED)];
                let again = self.0.send(Call::Since, key, own);
                let shared = recovery.shared;
                (recovery, entries) = Self::recovery(key, again).await?;
                recovery.shared = shared;
            }

            self.0.count_unreadable(&entries);
            Ok(Recovery {
                entries: entries.read,
                ..recovery
            })
        })
    }

    fn page<'a>(
        &'a self,
        key: &'a Key,
        after: u64,
        limit: usize,
    ) -> HistoryFuture<'a, Option<Page>> {
        // One more than asked shows whether there are more.
        let ask = move |after: u64| vec![number(after), number((limit as u64).saturating_add(1))];
        let sent = self.0.send(Call::Read, key, ask(after));
        Box::pin(async move {
            let mut answered = sent.await?;
            loop {
                let Some(position) = answered.position else {
                    return Ok(None);
                };

                let entries = answered.reply.entries_up_to(limit, is_channel(key))?;
                self.0.count_unreadable(&entries);
                let Entries {
                    read,
                    more,
                    last,
                    unreadable,
                } = entries;

                if !more || !read.is_empty() || unreadable == 0 {
                    return Ok(Some(Page {
                        position,
                        entries: read,
                        more,
                    }));
                }

                // A page of none, although more are stored, would look like the end.
                answered = self.0.send(Call::Read, key, ask(last)).await?;
            }
        })
    }

    fn waiting<'a>(&'a self, key: &'a Key) -> HistoryFuture<'a, Waiting> {
        let sent = self.0.send(Call::Read, key, vec![number(0), Bytes::new()]);
        Box::pin(async move {
            let Answered {
                position,
                mut reply,
            } = sent.await?;
            let entries = reply.entries(is_channel(key))?;
            self.0.count_unreadable(&entries);
            Ok(Waiting {
                position,
                entries: entries.read,
            })
        })
    }

    /// Sent when this returns, ahead of whatever is asked later; if that fails, the events stay and are delivered
    /// again. Confirming events that leave somebody out takes one more round trip, for which a runtime has to be there.
    fn confirm(&self, key: &Key, offset: u64, reader: &Reader<'_>) {
        let sent = self.0.send(Call::Confirm, key, vec![number(offset)]);
        // Without a runtime the program is ending, and what leaves somebody out is delivered once
        // more.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(
                self.0
                    .clone()
                    .forget(key.clone(), sent, OwnedReader::of(reader)),
            );
        }
    }

    fn saw(&self, key: &Key, position: Position) {
        self.0.seen.note_published(key, position);
    }

    fn remember<'a>(&'a self, key: &'a Key) -> HistoryFuture<'a, ()> {
        let sent = self
            .0
            .send(Call::Position, key, vec![millis(HISTORY_QUIET)]);
        Box::pin(async move { sent.await.map(|_| ()) })
    }

    fn look_at_quotas(&self) -> HistoryFuture<'_, ()> {
        Box::pin(async move {
            self.0.quotas.look(&self.0.bus).await?;
            for (app, stored) in self.0.quotas.all() {
                if let Some(metrics) = self.0.apps.get(usize::from(app.0)) {
                    metrics.stored_bytes.set(stored as i64);
                }
            }
            Ok(())
        })
    }

    fn stored_beside(&self, app: AppId, bytes: u64) {
        self.0.quotas.note_beside(app, bytes);
    }

    fn check_quota(&self, app: AppId) -> Result<(), HistoryError> {
        let checked = self.0.quotas.check(app);
        if checked.is_err()
            && let Some(app) = self.0.apps.get(usize::from(app.0))
        {
            app.storage_refused.inc();
        }
        checked
    }

    /// Redis forgets by itself.
    fn expire(&self) -> bool {
        false
    }
}
