//! Joining a channel: from when on its events come, what was missed, and who else is there.

use serde_json::value::RawValue;

use super::{
    client::Client,
    cost::Cost,
    page_with_notices::{PageWithNotices, no_page},
};
use crate::{
    event_loop::EventLoop,
    history::Entry,
    hub::{Count, JoinKind, Joining, LongStep, PageCursor, Replay, Snapshot, Table, Watching},
    limits::{PAGE_DEFAULT, REPLAY_LOOK},
    node::{LocalResume, MembersQuery, NodeError, PageBounds, PageStart, write_cursor},
    protocol::{
        frame::Frame,
        native::{self, JoinAck, MembersBuilder, MembersPage, Position, Since},
    },
    time_slice::TimeSlice,
};

/// How often a page is gathered because someone came or went in the meantime.
pub(super) const PAGES_TRIED: usize = 8;

/// The same in one go with joining, which must not be torn apart. A client that gets no page then fetches one.
const PAGES_TRIED_AT_ONCE: usize = 2;

/// A channel to join.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) channel: String,
    /// Whether to say who is there, and who comes and goes.
    pub(super) members: bool,
    /// Whether the answer has no page of members in any case.
    pub(super) is_plain: bool,
    /// The last event that the client has.
    pub(super) since: Option<Since>,
}

impl Join {
    /// Whether the answer has the first page of members.
    fn has_page(&self, reply: &JoinReply) -> bool {
        self.members && !self.is_plain && matches!(reply, JoinReply::Ack(Some(_)))
    }
}

/// How a client learns that it is in.
#[derive(Debug)]
pub(super) enum JoinReply {
    /// By the answer to its message, if that has an `id`.
    Ack(Option<Box<RawValue>>),
    /// By nothing but a refusal, which has this `id`: others follow that belong to the same message.
    Part(Option<Box<RawValue>>),
    /// By `joined`: it did not ask in a message.
    Joined,
}

/// The position of a channel, and what the client missed of it.
#[derive(Debug, Default)]
struct Missed {
    position: Option<Position>,
    recovered: Option<bool>,
    entries: Vec<Entry>,
}

/// What became of claiming a lost connection's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// The client comes in by itself.
    Unneeded,
    /// It has the place, which nobody else settles any longer.
    Made,
    /// The lost connection was taken out of the channel.
    Lost,
}

/// All that goes into the one step of joining.
struct Step<'a> {
    join: &'a Join,
    reply: &'a JoinReply,
    watching: Watching,
    join_kind: JoinKind,
    missed: &'a Missed,
}

/// The first page of members of this node, if it is asked for.
struct FirstPage {
    /// What the channel's presence had counted before.
    seen: u64,
    page: Option<MembersPage>,
}

/// What became of a join.
pub(super) struct Joined {
    pub(super) joining: Joining,
    pub(super) cost: Cost,
    /// What became of the place of a lost connection that it takes.
    pub(super) claim: Claim,
}

impl Joined {
    /// It is not in, and the client knows why.
    const GONE: Self = Self {
        joining: Joining::Gone,
        cost: Cost::NONE,
        claim: Claim::Unneeded,
    };
}

impl Client {
    /// Joins a channel: the answer, then what was missed, then what is live, without gap or overlap. If it is not in
    /// then, the client has been refused.
    ///
    /// A member that joins again stays one, and gets once more what came after `since`. A replay waits for the one
    /// before it, and a page of members for a client that reads.
    pub(super) async fn join(&self, join: Join, reply: JoinReply, join_kind: JoinKind) -> Joined {
        loop {
            if let Some(joined) = self.try_to_join(&join, &reply, join_kind).await {
                return joined;
            }
            // A call takes lost connections out of this channel, and this one comes back as one of them.
            tokio::time::sleep(REPLAY_LOOK).await;
        }
    }

    /// Joins `channels` one after another, up to the first that cannot be joined, and answers once.
    pub(super) async fn join_all(&self, id: Option<Box<RawValue>>, channels: Vec<String>) -> Cost {
        // The message has paid for one.
        let cost = Cost(channels.len().saturating_sub(1) as u32);
        let mut slice = TimeSlice::begin();
        let last = channels.len().saturating_sub(1);

        for (n, channel) in channels.into_iter().enumerate() {
            let join = Join {
                channel,
                members: false,
                is_plain: false,
                since: None,
            };

            let reply = if n == last {
                JoinReply::Ack(id.clone())
            } else {
                JoinReply::Part(id.clone())
            };

            let joined = self.join(join, reply, JoinKind::New).await;
            // The client was refused, and one refusal for the message is enough.
            if matches!(joined.joining, Joining::Full | Joining::Gone) {
                break;
            }

            slice.rest().await;
        }

        cost
    }

    /// One attempt; `None` if it has to be made again.
    async fn try_to_join(
        &self,
        join: &Join,
        reply: &JoinReply,
        join_kind: JoinKind,
    ) -> Option<Joined> {
        let has_page = join.has_page(reply);
        self.wait_to_join(join, has_page).await;

        let watching = self.node.watching(self.app, &join.channel, join.members);
        // Before the history is asked, so that what is published after its answer is heard. Once
        // this is dropped, the membership holds the subscription.
        let _subscriptions = self
            .node
            .subscribe_channel(self.app, &join.channel, watching)
            .await;

        // This comes before the topic lock: other nodes' answers come the way that stored events
        // take, which wait for that lock.
        let elsewhere = if has_page && self.node.cluster.is_some() {
            // Large, and thousands may wait that ask for no page.
            Box::pin(self.remote_page(join)).await
        } else {
            None
        };

        let key = self.node.history_key(self.app, &join.channel);
        // From here until the client is in, no event of the channel is placed: what the history has
        // is replayed, and everything later is live.
        let _topic_lock = match &key {
            Some(key) => Some(self.node.lock_to_join(key).await),
            None => None,
        };

        let missed = match self.missed(join).await {
            Ok(missed) => missed,
            Err(error) => {
                self.refuse_join(reply, error.code(), &error.to_string());
                return Some(Joined::GONE);
            }
        };

        // A connection that is resumed takes the place of the one that it names.
        let mut place = match join_kind {
            JoinKind::New => self.place_to_take(&join.channel),
            JoinKind::Resumed(_) | JoinKind::Inherited(_) => None,
        };

        let taking = place
            .as_ref()
            .map_or(join_kind, |place| JoinKind::Resumed(place.lost.id()));
        let step = Step {
            join,
            reply,
            watching,
            join_kind: taking,
            missed: &missed,
        };
        let joined = self.join_now(&step, elsewhere)?;
        settle_place(place.as_mut(), joined)
    }

    /// Waits until what was sent to the client before is out of the way, and a long step may begin if the join takes one.
    async fn wait_to_join(&self, join: &Join, has_page: bool) {
        // Two replays at the same time would mix.
        if join.since.is_some() {
            self.wait_while(|table| table.is_replaying(self.socket.at))
                .await;
        }

        if has_page {
            self.drained().await;
        }

        // Gathering a page and copying a history take long, so they wait in line with those of
        // other clients.
        if has_page || join.since.is_some() {
            self.node.queue_long_step(self.app, LongStep::Client).await;
        }
    }

    /// A closed connection of the same client that is still counted in `channel`, unless this one is a member already.
    fn place_to_take(&self, channel: &str) -> Option<LocalResume> {
        if self.app().rule(channel).leave_after.is_zero() {
            return None;
        }
        let own = self.connection().filter(|own| !own.is_in(channel))?;
        self.node.take_place(&own, channel)
    }

    /// The first page over all nodes.
    async fn remote_page(&self, join: &Join) -> Option<PageWithNotices> {
        let own = self.connection()?;
        let buffer = self
            .node
            .buffer_notices(self.app, &join.channel, own.id())
            .await;
        let bounds = PageBounds {
            items: PAGE_DEFAULT,
            bytes: self.node.config.limits.outbox_bytes / 4,
        };

        let page = self
            .node
            .cluster_members_page(self.app, &join.channel, None, bounds, Some(&own))
            .await;
        let page = page.map_or_else(
            |error| {
                tracing::debug!(%error, "a first page of members has to be fetched later");
                let Count { connections, users } = self.node.count(self.app, &join.channel);
                MembersPage {
                    count: connections,
                    users,
                    ..no_page(PageStart::first().write())
                }
            },
            |page| page.value,
        );

        Some(PageWithNotices {
            page,
            from: PageStart::first(),
            buffer,
        })
    }

    async fn missed(&self, join: &Join) -> Result<Missed, NodeError> {
        let retention = self.app().rule(&join.channel).retention;
        let key = self.node.history_key(self.app, &join.channel);
        let (Some(key), Some(retention), Some(since)) = (key, retention, &join.since) else {
            let position = self.node.position(self.app, &join.channel).await?;
            return Ok(Missed {
                position,
                recovered: join.since.as_ref().map(|_| false),
                entries: Vec::new(),
            });
        };

        let recovery = self.node.missed_since(&key, &retention, since).await?;
        let epoch = recovery.position.epoch.to_string().into();
        Ok(Missed {
            position: Some(Position {
                epoch,
                offset: recovery.position.offset,
            }),
            recovered: Some(recovery.recovered),
            entries: recovery.entries,
        })
    }

    /// The step in which membership, answer and replay fall together. It is done again where the first page of
    /// members is out of date by the time the lock is had.
    fn join_now(&self, step: &Step<'_>, mut elsewhere: Option<PageWithNotices>) -> Option<Joined> {
        let Step {
            join,
            reply,
            missed,
            ..
        } = *step;
        let presence = self.node.hub.presence(self.app);
        let with_page = elsewhere.is_none() && join.has_page(reply);
        let Some(own) = self.connection() else {
            return Some(Joined::GONE);
        };

        // Filtered before the lock is taken, which is held for as little as possible.
        let frames: Vec<Frame> = missed
            .entries
            .iter()
            .filter(|entry| entry.is_for(&own.reader()))
            .map(|entry| entry.frame.clone())
            .collect();

        let events = frames.len() as u64;
        let context = self.node.hub.context();
        let wire = context.wire(self.socket.form.get());
        let mut replay = Some(Replay::new(context.refused.clone(), wire, frames));

        for gathering in 0..=PAGES_TRIED_AT_ONCE {
            let seen = presence.changed(&join.channel);
            let first = FirstPage {
                seen,
                page: with_page.then(|| self.first_page(&join.channel, &own)),
            };
            let done = self.event_loop.with_owner(|table, owner| {
                let stale = first.page.is_some() && presence.changed(&join.channel) != seen;
                // The last attempt goes ahead all the same: its page is left out below, and the
                // client fetches one.
                if stale && gathering < PAGES_TRIED_AT_ONCE {
                    return None;
                }
                let Some(joined) = self.take(table, step, first, elsewhere.take()) else {
                    return Some(None);
                };

                let is_in = matches!(joined.joining, Joining::Joined(_) | Joining::Already(_));
                // A client that was refused gets nothing of the channel.
                let missed = replay.take().filter(|_| is_in);
                let replays =
                    missed.is_some_and(|missed| table.replay(owner, self.socket.at, missed));

                Some(Some((joined, replays)))
            });

            if let Some(done) = done {
                return done.map(|(joined, replays)| {
                    self.taken(step, &joined, events);
                    if replays {
                        EventLoop::block(&self.event_loop, self.socket.at);
                    }
                    joined
                });
            }
        }

        Some(Joined::GONE)
    }

    /// Claims the place of a lost connection, of this node or of another one, if that is what the client comes in to.
    /// This happens under the lock in which the client takes it, so that a call that takes lost connections out of
    /// the channel finds one of the two. `None` if such a call is under way.
    fn claim(&self, step: &Step<'_>) -> Option<Claim> {
        let Some(previous) = step.join_kind.previous() else {
            return Some(Claim::Unneeded);
        };
        let resume_table = &self.node.hub.context().resume_table;
        let claimed = resume_table.claim(&previous, (self.app, &step.join.channel))?;
        Some(if claimed { Claim::Made } else { Claim::Lost })
    }

    fn take(
        &self,
        table: &mut Table,
        step: &Step<'_>,
        FirstPage { seen, page }: FirstPage,
        elsewhere: Option<PageWithNotices>,
    ) -> Option<Joined> {
        let claim = self.claim(step)?;
        let mut joined = Joined {
            claim,
            ..Joined::GONE
        };

        if claim == Claim::Lost {
            return Some(joined);
        }

        let (at, channel) = (self.socket.at, &step.join.channel);
        joined.joining = table.join(at, channel, step.watching, step.join_kind);
        let (Joining::Joined(changed) | Joining::Already(changed)) = joined.joining else {
            return Some(joined);
        };

        match step.reply {
            JoinReply::Ack(None) | JoinReply::Part(_) => {}
            JoinReply::Ack(Some(id)) => {
                let Count { connections, users } = self.node.count(self.app, channel);
                // A page that is older than the moment from which on notices come could hold members who have left
                // since: the client fetches one instead.
                let page = page.map(|page| {
                    if changed == seen {
                        page
                    } else {
                        no_page(write_cursor(PageCursor::default()))
                    }
                });
                // The numbers are those of this moment, as the notices after them assume.
                let page = page.map(|page| MembersPage {
                    count: connections,
                    users,
                    ..page
                });
                let (page, notices) = match elsewhere {
                    Some(gathered) => {
                        let (page, notices) = gathered.take();
                        (Some(page), notices)
                    }
                    None => (page, Vec::new()),
                };
                if let Some(page) = &page {
                    joined.cost = Cost::of_page(page.members.get().len());
                }
                let ack = JoinAck {
                    position: step.missed.position.as_ref(),
                    recovered: step.missed.recovered,
                    members: page.as_ref(),
                };
                table.place_own(at, native::ack_join(id, &ack));
                for notice in notices {
                    table.place_own(at, notice);
                }
            }
            JoinReply::Joined if matches!(joined.joining, Joining::Already(_)) => {}
            JoinReply::Joined => {
                table.place_own(at, native::joined(channel, step.missed.position.as_ref()));
            }
        }

        Some(joined)
    }

    /// Counts the `events` that were handed to a client which is in now, or says why it is not.
    fn taken(&self, step: &Step<'_>, joined: &Joined, events: u64) {
        match joined.joining {
            Joining::Joined(_) | Joining::Already(_) => {
                self.app().metrics.replayed.inc_by(events);
            }
            Joining::Full => {
                let most = self.node.config.limits.channels_per_connection;
                let message = format!("a connection may be in {most} channels");
                self.refuse_join(step.reply, "too_many_channels", &message);
            }
            Joining::Gone => {}
        }
    }

    /// The first page, with the client itself in its place although it is about to join.
    fn first_page(&self, channel: &str, own: &Snapshot) -> MembersPage {
        let max_bytes = self.node.config.limits.outbox_bytes / 4;
        let mut builder = MembersBuilder::new(max_bytes);
        let query = MembersQuery {
            from: PageCursor::default(),
            limit: PAGE_DEFAULT,
            max_bytes,
        };

        let cursor = self
            .node
            .gather(self.app, channel, query, Some(own), &mut builder);
        MembersPage {
            members: builder.finish(),
            count: 0,
            users: 0,
            cursor: cursor.map(write_cursor),
        }
    }

    fn refuse_join(&self, reply: &JoinReply, code: &'static str, message: &str) {
        match reply {
            JoinReply::Ack(id) | JoinReply::Part(id) => self.refuse(id.as_deref(), code, message),
            JoinReply::Joined => self.refuse(None, code, message),
        }
    }
}

/// Says what became of the `place` that a client was to take; returns what became of the join, or `None` if it has to be
/// made again.
fn settle_place(place: Option<&mut LocalResume>, joined: Joined) -> Option<Joined> {
    match place {
        Some(place) if matches!(joined.joining, Joining::Joined(_)) => place.taken(),
        Some(place) if joined.claim == Claim::Made => place.lapse(),
        // It was taken out of the channel while it came back; what it asks for now is to join by itself.
        Some(_) if joined.claim == Claim::Lost => return None,
        _ => {}
    }

    Some(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of what `join` returns.
    fn size_of_waiting<'a, F>(_join: impl Fn(&'a Client, Join, JoinReply, JoinKind) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_client_that_waits_to_join_takes_little_memory() {
        // Thousands wait at the same time, until Redis has confirmed that the node hears of their channel.
        let size = size_of_waiting(Client::join);
        assert!(size < 2048, "{size} bytes");
    }
}
