//! Joining a channel: from when on its events come, what was missed, and who else is there.

use serde_json::value::RawValue;

use super::{
    client::Client,
    gathered::{Gathered, no_page},
};
use crate::{
    event_loop::EventLoop,
    history::Entry,
    hub::{Coming, Count, Joining, Replay, Snapshot, Table, Watching},
    limits::{PAGE_DEFAULT, REPLAY_LOOK},
    node::{MembersQuery, NodeError, PageStart, Recalled, write_cursor},
    protocol::{
        frame::Frame,
        native::{self, JoinAck, MembersBuilder, MembersPage, Position, Since},
    },
};

/// How often a page is gathered again because someone came or went meanwhile.
pub(super) const GATHERINGS: usize = 8;

/// A channel to join.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) channel: String,
    /// Whether to say who is there, and who comes and goes.
    pub(super) members: bool,
    /// The last event that the client has.
    pub(super) since: Option<Since>,
}

/// How a client learns that it is in.
#[derive(Debug)]
pub(super) enum Told {
    /// By the answer to its message, if that has an `id`.
    Ack(Option<Box<RawValue>>),
    /// By `joined`: it did not ask in a message.
    Joined,
}

/// Where a channel stands, and what the client missed of it.
#[derive(Debug, Default)]
struct Missed {
    position: Option<Position>,
    recovered: Option<bool>,
    entries: Vec<Entry>,
}

/// All that goes into the one step of joining.
struct Step<'a> {
    join: &'a Join,
    told: &'a Told,
    watching: Watching,
    coming: Coming,
    missed: &'a Missed,
    /// How many of its events are for this client.
    replayed: u64,
}

impl Client {
    /// Joins a channel: the answer, then what was missed, then what is live, without gap or overlap. Where it is not in
    /// then, the client has been told why.
    ///
    /// A member that joins again stays one, and gets once more what came after `since`. A replay waits for the one
    /// before it.
    pub(super) async fn join(&self, join: Join, told: Told, coming: Coming) -> Joining {
        while join.since.is_some()
            && self
                .event_loop
                .shard()
                .own(|table| table.is_replaying(self.seat.at))
        {
            tokio::time::sleep(REPLAY_LOOK).await;
        }
        let _attending = self.node.attend_channel(self.app, &join.channel).await;
        // Before the turn: other nodes' answers come the way that kept events take, which wait for the turn.
        let elsewhere = self.page_elsewhere(&join, &told).await;
        let key = self.node.kept_key(self.app, &join.channel);
        let _turn = match &key {
            Some(key) => Some(self.node.turns.take(key).await),
            None => None,
        };
        let missed = match self.missed(&join).await {
            Ok(missed) => missed,
            Err(error) => {
                self.refuse_join(&told, error.code(), &error.to_string());
                return Joining::Gone;
            }
        };
        let mut place = self.place_to_take(&join.channel);
        let coming = match &place {
            Some(place) if coming == Coming::New => Coming::Resumed(place.lost.id()),
            _ => coming,
        };
        let joining = self.join_now(&join, &told, coming, (&missed, elsewhere));
        if let (Some(place), Joining::Joined(_)) = (&mut place, joining) {
            place.taken();
        }
        joining
    }

    /// A closed connection of the same client that is still counted in `channel`, unless this one is a member already.
    fn place_to_take(&self, channel: &str) -> Option<Recalled> {
        if self.app().rule(channel).leave_after.is_zero() {
            return None;
        }
        let own = self.connection().filter(|own| !own.is_in(channel))?;
        self.node.take_place(&own, channel)
    }

    /// The first page over all nodes, where there are others and it is asked for.
    async fn page_elsewhere(&self, join: &Join, told: &Told) -> Option<Gathered> {
        if self.node.cluster.is_none() || !join.members || !matches!(told, Told::Ack(Some(_))) {
            return None;
        }
        let own = self.connection()?;
        let capture = self.node.capture(self.app, &join.channel, own.id());
        let bounds = (PAGE_DEFAULT, self.node.config.limits.outbox_bytes / 4);
        let page = self
            .node
            .members_page_everywhere(self.app, &join.channel, None, bounds, Some(&own))
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
        Some(Gathered {
            page,
            from: PageStart::first(),
            capture,
        })
    }

    async fn missed(&self, join: &Join) -> Result<Missed, NodeError> {
        let keep = self.app().rule(&join.channel).keep;
        let key = self.node.kept_key(self.app, &join.channel);
        let (Some(key), Some(keep), Some(since)) = (key, keep, &join.since) else {
            let position = self.node.position(self.app, &join.channel).await?;
            return Ok(Missed {
                position,
                recovered: join.since.as_ref().map(|_| false),
                entries: Vec::new(),
            });
        };
        let recovery = self
            .node
            .history
            .since(&key, &keep, since.epoch.as_deref(), since.offset)
            .await?;
        self.node.advance(&key, recovery.position).await?;
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
    fn join_now(
        &self,
        join: &Join,
        told: &Told,
        coming: Coming,
        (missed, mut elsewhere): (&Missed, Option<Gathered>),
    ) -> Joining {
        let presence = self.node.hub.presence(self.app);
        let with_page = elsewhere.is_none() && join.members && matches!(told, Told::Ack(Some(_)));
        let Some(own) = self.connection() else {
            return Joining::Gone;
        };
        let frames: Vec<Frame> = missed
            .entries
            .iter()
            .filter(|entry| entry.is_for(&own.reader()))
            .map(|entry| entry.frame.clone())
            .collect();
        let step = Step {
            join,
            told,
            watching: self.node.watching(self.app, &join.channel, join.members),
            coming,
            missed,
            replayed: frames.len() as u64,
        };
        let mut replay = Some(Replay::new(self.node.hub.context().refused.clone(), frames));
        for gathering in 0..=GATHERINGS {
            let seen = presence.changed(&join.channel);
            let page = with_page.then(|| self.first_page(&join.channel, &own));
            let done = self.event_loop.with_owner(|table, owner| {
                let stale = page.is_some() && presence.changed(&join.channel) != seen;
                if stale && gathering < GATHERINGS {
                    return None;
                }
                let joining = self.take(table, &step, (page, seen), elsewhere.take());
                let is_in = matches!(joining, Joining::Joined(_) | Joining::Already(_));
                let missed = replay.take().filter(|_| is_in);
                let replays =
                    missed.is_some_and(|missed| table.replay(owner, self.seat.at, missed));
                Some((joining, replays))
            });
            if let Some((joining, replays)) = done {
                return self.taken(&step, joining, replays);
            }
        }
        Joining::Gone
    }

    fn take(
        &self,
        table: &mut Table,
        step: &Step<'_>,
        (page, seen): (Option<MembersPage>, u64),
        elsewhere: Option<Gathered>,
    ) -> Joining {
        let (at, channel) = (self.seat.at, &step.join.channel);
        let joining = table.join(at, channel, step.watching, step.coming);
        let (Joining::Joined(changed) | Joining::Already(changed)) = joining else {
            return joining;
        };
        match step.told {
            Told::Ack(None) => {}
            Told::Ack(Some(id)) => {
                let Count { connections, users } = self.node.count(self.app, channel);
                // A page that is older than the moment from which on notices come could hold who has left since: the
                // client fetches one instead.
                let page = page.map(|page| {
                    if changed == seen {
                        page
                    } else {
                        no_page(write_cursor((0, 0)))
                    }
                });
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
            Told::Joined if matches!(joining, Joining::Already(_)) => {}
            Told::Joined => {
                table.place_own(at, native::joined(channel, step.missed.position.as_ref()));
            }
        }
        joining
    }

    fn taken(&self, step: &Step<'_>, joining: Joining, replays: bool) -> Joining {
        match joining {
            Joining::Joined(_) | Joining::Already(_) => {
                self.app().metrics.replayed.inc_by(step.replayed);
            }
            Joining::Full => {
                let most = self.node.config.limits.channels_per_connection;
                let message = format!("a connection may be in {most} channels");
                self.refuse_join(step.told, "too_many_channels", &message);
            }
            Joining::Gone => {}
        }
        if replays {
            EventLoop::block(&self.event_loop, self.seat.at);
        }
        joining
    }

    /// The first page, with the client itself in its place although it is about to join.
    fn first_page(&self, channel: &str, own: &Snapshot) -> MembersPage {
        let max_bytes = self.node.config.limits.outbox_bytes / 4;
        let mut builder = MembersBuilder::new(max_bytes);
        let query = MembersQuery {
            from: (0, 0),
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

    fn refuse_join(&self, told: &Told, code: &str, message: &str) {
        match told {
            Told::Ack(id) => self.refuse(id.as_deref(), code, message),
            Told::Joined => self.refuse(None, code, message),
        }
    }
}
