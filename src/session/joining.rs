//! Joining a channel: from when on its events come, what was missed, and who else is there.

use serde_json::value::RawValue;

use super::{client::Client, entering::reader};
use crate::{
    event_loop::EventLoop,
    history::Entry,
    hub::{Coming, Count, Joining, Table, Watching},
    limits::PAGE_DEFAULT,
    node::{MembersQuery, NodeError, shown, write_cursor},
    protocol::native::{self, JoinAck, MembersBuilder, MembersPage, Position, Since},
};

/// How often the first page is gathered again because someone came or went meanwhile.
const GATHERINGS: usize = 8;

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

impl Client {
    /// Joins a channel: the answer, then what was missed, then what is live, without gap or overlap. False if it is
    /// not in; the client has been told why.
    ///
    /// A member that joins again stays one, and gets once more what came after `since`.
    pub(super) async fn join(&self, join: Join, told: Told, coming: Coming) -> bool {
        let key = self.node.kept_key(self.app, &join.channel);
        let _turn = match &key {
            Some(key) => Some(self.node.turns.take(key).await),
            None => None,
        };
        let missed = match self.missed(&join).await {
            Ok(missed) => missed,
            Err(error) => {
                self.refuse_join(&told, error.code(), &error.to_string());
                return false;
            }
        };
        self.join_now(&join, &told, coming, &missed)
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
        let recovery = self.node.history.since(&key, &keep, since.epoch.as_deref(), since.offset).await?;
        let epoch = recovery.position.epoch.to_string().into();
        Ok(Missed {
            position: Some(Position { epoch, offset: recovery.position.offset }),
            recovered: Some(recovery.recovered),
            entries: recovery.entries,
        })
    }

    /// The step in which membership, answer and replay fall together. It is done again where the first page of
    /// members is out of date by the time the lock is had; at last without one, which the client then fetches.
    fn join_now(&self, join: &Join, told: &Told, coming: Coming, missed: &Missed) -> bool {
        let presence = self.node.hub.presence(self.app);
        let watching = self.node.watching(self.app, &join.channel, join.members);
        let with_page = join.members && matches!(told, Told::Ack(Some(_)));
        let Some(own) = self.connection() else { return false };
        let frames: Vec<_> = missed
            .entries
            .iter()
            .filter(|entry| entry.is_for(&reader(&own)))
            .map(|entry| entry.frame.clone())
            .collect();
        let replayed = frames.len() as u64;
        for gathering in 0..=GATHERINGS {
            let seen = presence.changed(&join.channel);
            let last = gathering == GATHERINGS;
            let page = with_page.then(|| if last { no_page() } else { self.first_page(&join.channel) });
            let done = self.event_loop.shard().with(|table| {
                if page.is_some() && !last && presence.changed(&join.channel) != seen {
                    return None;
                }
                Some(self.take_in(table, join, told, (watching, coming), missed, page.as_ref(), &frames))
            });
            match done {
                None => {}
                Some((Joining::Joined | Joining::Already, replays)) => {
                    self.app().metrics.replayed.inc_by(replayed);
                    if replays {
                        EventLoop::block(&self.event_loop, self.seat.at);
                    }
                    return true;
                }
                Some((Joining::Full, _)) => {
                    let most = self.node.config.limits.channels_per_connection;
                    let message = format!("a connection may be in {most} channels");
                    self.refuse_join(told, "too_many_channels", &message);
                    return false;
                }
                Some((Joining::Gone, _)) => return false,
            }
        }
        false
    }

    #[expect(clippy::too_many_arguments, reason = "one step under one lock, with all that goes into it")]
    fn take_in(
        &self,
        table: &mut Table,
        join: &Join,
        told: &Told,
        (watching, coming): (Watching, Coming),
        missed: &Missed,
        page: Option<&MembersPage>,
        frames: &[crate::protocol::frame::Frame],
    ) -> (Joining, bool) {
        let at = self.seat.at;
        let joining = table.join(at, &join.channel, watching, coming);
        if !matches!(joining, Joining::Joined | Joining::Already) {
            return (joining, false);
        }
        match told {
            Told::Ack(None) => {}
            Told::Ack(Some(id)) => {
                let Count { connections, users } = self.node.count(self.app, &join.channel);
                let page = page.map(|page| MembersPage { count: connections, users, ..page.clone() });
                let ack = JoinAck {
                    position: missed.position.as_ref(),
                    recovered: missed.recovered,
                    members: page.as_ref(),
                };
                table.place_own(at, native::ack_join(id, &ack));
            }
            Told::Joined if joining == Joining::Already => {}
            Told::Joined => {
                table.place_own(at, native::joined(&join.channel, missed.position.as_ref()));
            }
        }
        let replays = !frames.is_empty() && table.replay(at, frames.iter().cloned());
        (joining, replays)
    }

    /// The first page, with the client itself in it although it is about to join.
    fn first_page(&self, channel: &str) -> MembersPage {
        let max_bytes = self.node.config.limits.outbox_bytes / 4;
        let mut builder = MembersBuilder::new(max_bytes);
        let own = self.connection();
        // One is left for the client itself.
        let query = MembersQuery { from: (0, 0), limit: PAGE_DEFAULT - 1, max_bytes };
        let id = own.as_ref().map(|own| own.id());
        let next = self.node.gather(self.app, channel, query, id, &mut builder);
        let cursor = match (next, own) {
            (Some(next), _) => Some(next),
            (None, Some(own)) if !builder.push(&shown(&own)) => {
                Some((usize::from(own.id().shard), own.id().slot))
            }
            (None, _) => None,
        };
        MembersPage { members: builder.finish(), count: 0, users: 0, cursor: cursor.map(write_cursor) }
    }

    fn refuse_join(&self, told: &Told, code: &str, message: &str) {
        match told {
            Told::Ack(id) => self.refuse(id.as_deref(), code, message),
            Told::Joined => self.refuse(None, code, message),
        }
    }
}

/// No member, and where the first page begins.
fn no_page() -> MembersPage {
    let members = MembersBuilder::new(0).finish();
    MembersPage { members, count: 0, users: 0, cursor: Some(write_cursor((0, 0))) }
}
