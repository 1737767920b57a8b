//! A hub without sockets, for the benches: everything of an emit but the system calls.

#![allow(clippy::unwrap_used, reason = "a bench may panic")]

pub mod redis;

use std::{cell::RefCell, net::Ipv4Addr, sync::Arc, time::Duration};

use uuid::Uuid;

use crate::{
    close::{self, Close},
    config::SlowConsumer,
    filter::{Attributes, ConnectionInfo, FilterCache, Layouts, Schema, Value},
    history::{History, Key, Memory, New, Occupied, Retention},
    hub::{
        Batch, Connection, Context, Hub, JoinKind, Joining, Load, Outcome, Owner, Progress,
        Recipients, Replay, Selection, SlotRef, Table, Watching, channel_key, user_key,
    },
    id::AppId,
    limits::{Limits, WRITE_STRIDE, WRITE_VECTORS},
    protocol::{
        event::{Event, Marks},
        frame::Frame,
    },
};

const APP: AppId = AppId(0);

/// The longest time for which a shard's lock was held since the last call.
#[cfg(feature = "holds")]
pub fn take_longest_hold() -> Duration {
    crate::hub::take_longest()
}

/// Names one connection of a [`SocketlessHub`].
#[derive(Clone, Copy, Debug)]
pub struct Handle(SlotRef);

/// Connections, indexes, outboxes and admission of one app, on one shard.
#[derive(Debug)]
pub struct SocketlessHub {
    hub: Hub,
    schema: Arc<Schema>,
    filters: FilterCache,
    layouts: Layouts,
    batch: Batch,
    outcome: Outcome,
    owner: RefCell<Owner>,
    history: Memory,
    runtime: tokio::runtime::Runtime,
}

impl SocketlessHub {
    /// An empty hub whose app declares `index`.
    ///
    /// # Panics
    /// When a path cannot be read, or no runtime can be started.
    pub fn new(index: &[&str]) -> Self {
        let schema = Arc::new(Schema::new(index).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let context =
            Context::of_one_app(Limits::default(), schema.clone(), SlowConsumer::Disconnect);
        let app_metrics = context.apps.iter().map(|app| app.metrics.clone()).collect();
        let nobody = Occupied::by(|_, _| false);
        let history = Memory::new(usize::MAX, context.metrics.clone(), app_metrics, nobody);
        let hub = Hub::new(1, Arc::new(context));

        Self {
            history,
            owner: RefCell::new(hub.shard(0).owner()),
            hub,
            schema,
            filters: FilterCache::new(),
            layouts: Layouts::new(),
            batch: Batch::default(),
            outcome: Outcome::default(),
            runtime,
        }
    }

    /// Connects `user` with `claims`, a JSON object.
    ///
    /// # Panics
    /// When the claims are no JSON, or the table is full.
    pub fn connect(&self, user: &str, claims: &str) -> Handle {
        let auth = Value::from_json(&mut claims.as_bytes().to_vec(), &self.layouts).unwrap();
        let at = self.hub.shard(0).lock(|table| {
            let build = |id| {
                let facts = ConnectionInfo {
                    id,
                    device: None,
                    ip: Ipv4Addr::LOCALHOST.into(),
                    protocol: "bench",
                    connected_at: 0,
                    node: "n".into(),
                };

                let mut attributes = Attributes::new(facts);
                attributes.user = Value::String(user.into());
                attributes.auth = auth;

                Connection::new(APP, attributes, Arc::default())
            };

            let (at, connection) = table.insert(build).unwrap();
            table.open(at, Connection::clone(&connection));
            at
        });

        Handle(at)
    }

    /// Takes a connection out; false if it is gone.
    pub fn disconnect(&self, at: Handle) -> bool {
        self.hub.shard(0).lock(|table| table.remove(at.0).is_some())
    }

    /// Places `frame` for the connections that `filter` matches, or for everyone; answers how many.
    ///
    /// # Panics
    /// When the filter is wrong, or admission is full: call [`SocketlessHub::flush`] in between.
    pub fn emit(&self, frame: &Frame, filter: Option<&str>) -> u64 {
        let bind = |text| {
            Arc::new(
                self.filters
                    .get_or_compile(text, &self.schema)
                    .unwrap()
                    .filter
                    .bind(None)
                    .unwrap(),
            )
        };

        self.place(
            frame,
            &Selection {
                filter: filter.map(bind),
                ..Selection::everyone(APP)
            },
        )
    }

    /// Places `frame` for the connections of `user`; answers how many.
    ///
    /// # Panics
    /// When admission is full.
    pub fn publish(&self, frame: &Frame, user: &str) -> u64 {
        self.place(
            frame,
            &Selection {
                recipients: Some(Recipients::user(user)),
                ..Selection::everyone(APP)
            },
        )
    }

    /// Places `frame` for the members of `channel`; answers how many.
    ///
    /// # Panics
    /// When admission is full.
    pub fn send(&self, frame: &Frame, channel: &str) -> u64 {
        self.place(
            frame,
            &Selection {
                recipients: Some(Recipients::channel(channel)),
                ..Selection::everyone(APP)
            },
        )
    }

    /// Puts a connection into `channel`; false if it was in it.
    pub fn join(&self, at: Handle, channel: &str) -> bool {
        let join = |table: &mut Table| table.join(at.0, channel, Watching::No, JoinKind::New);
        matches!(self.hub.shard(0).lock(join), Joining::Joined(_))
    }

    /// Puts a connection into `channel`, in which it hears of the others; false if it was in it.
    pub fn watch(&self, at: Handle, channel: &str) -> bool {
        let join = |table: &mut Table| table.join(at.0, channel, Watching::Notices, JoinKind::New);
        matches!(self.hub.shard(0).lock(join), Joining::Joined(_))
    }

    /// Places `frame` for the connections of `users`; returns how many.
    ///
    /// # Panics
    /// When admission is full.
    pub fn publish_to(&self, frame: &Frame, users: &[String]) -> u64 {
        let named = Recipients {
            users: users.iter().map(|user| user_key(user)).collect(),
            ..Recipients::default()
        };
        self.place(
            frame,
            &Selection {
                recipients: Some(named),
                ..Selection::everyone(APP)
            },
        )
    }

    /// Gives `frames` to those who watch `channel`.
    pub fn notify(&self, channel: &str, frames: &[Frame]) {
        let frames: Vec<_> = frames.iter().map(|frame| (None, frame.clone())).collect();
        let key = channel_key(channel);
        let mut next = Some(0);
        while let Some(from) = next {
            next = self
                .hub
                .shard(0)
                .lock_and_wake(|table| table.notify_watchers(APP, &key, from, &frames));
        }
    }

    /// Puts stored events in doubt for every connection.
    pub fn suspect_stored(&self) {
        let mut next = Some(0);
        while let Some(from) = next {
            next = self
                .hub
                .shard(0)
                .lock(|table| table.suspect_stored(1, from, |_, _| true));
        }
    }

    /// How many connections would be sent away if the node drained.
    pub fn tenants(&self) -> usize {
        let (mut next, mut count) = (Some(0), 0);
        while let Some(from) = next {
            let (some, rest) = self.hub.shard(0).lock(|table| table.tenants(from));
            count += some.len();
            next = rest;
        }
        count
    }

    /// Lets the sockets of these connections refuse `frame`.
    pub fn block(&self, at: &[Handle], frame: &Frame) {
        let mut owner = self.owner.borrow_mut();
        for some in at.chunks(WRITE_STRIDE) {
            let mut outcome = Outcome::default();
            for at in some {
                let own = Frame::event_text(&[frame.payload()]);
                outcome.refuse(at.0, vec![own], 0);
            }
            self.hub
                .shard(0)
                .lock(|table| table.settle(&mut owner, &mut outcome));
        }
    }

    /// Closes connections that hold refused bytes, `times` times.
    pub fn shed(&self, times: usize) {
        for _ in 0..times.min(100) {
            self.hub.shed();
        }
    }

    /// Hands a connection `count` frames that it missed.
    pub fn replay_many(&self, at: Handle, frame: &Frame, count: usize) {
        let mut owner = self.owner.borrow_mut();
        let missed = Replay::new(
            self.hub.context().refused.clone(),
            None,
            (0..count).map(|_| frame.clone()),
        );
        self.hub
            .shard(0)
            .lock_and_wake(|table| table.replay(&mut owner, at.0, missed));
    }

    /// Takes all members out of `channel`; returns how many they were.
    pub fn leave_all(&self, channel: &str) -> u64 {
        self.scan_channel(channel, |table, slot| {
            if let Some(at) = table.reference(slot) {
                table.leave(at, channel);
            }
        })
    }

    /// Replaces the claims of all members of `channel`; returns how many they were.
    ///
    /// # Panics
    /// When the claims are no JSON.
    pub fn replace_claims(&self, channel: &str, claims: &str) -> u64 {
        let claims = Value::from_json(&mut claims.as_bytes().to_vec(), &self.layouts).unwrap();
        self.scan_channel(channel, |table, slot| {
            let (at, was) = (table.reference(slot), table.open_connection(slot));
            if let (Some(at), Some(was)) = (at, was) {
                let mut connection = Connection::clone(was);
                connection.attributes.auth = claims.clone();
                table.open(at, connection);
            }
        })
    }

    /// Closes all members of `channel`; returns how many they were.
    pub fn close_all(&self, channel: &str) -> u64 {
        let close = Close::new(close::DISCONNECTED, "");
        self.scan_channel(channel, |table, slot| {
            if let Some(at) = table.reference(slot) {
                table.close(at, None, &close);
            }
        })
    }

    fn scan_channel(&self, channel: &str, visit: impl FnMut(&mut Table, u32)) -> u64 {
        let selection = Selection {
            recipients: Some(Recipients::channel(channel)),
            ..Selection::everyone(APP)
        };
        self.runtime
            .block_on(self.hub.scan(&selection, visit))
            .matched
    }

    /// Takes a connection out of `channel`; false if it was not in it.
    pub fn leave(&self, at: Handle, channel: &str) -> bool {
        self.hub.shard(0).lock(|table| table.leave(at.0, channel))
    }

    /// Replaces a connection's profile, a JSON object.
    ///
    /// # Panics
    /// When the profile is not JSON.
    pub fn update(&self, at: Handle, profile: &str) {
        let profile = Value::from_json(&mut profile.as_bytes().to_vec(), &self.layouts).unwrap();
        self.hub
            .shard(0)
            .lock(|table| table.set_profile(at.0, profile));
    }

    fn place(&self, frame: &Frame, selection: &Selection) -> u64 {
        let reach = self.hub.reach(selection);
        self.runtime.block_on(async {
            let permit = self.hub.admit(APP, &reach, frame.len()).await.unwrap();
            let placed = self.hub.place_reach(selection, reach, frame, &permit);
            placed.await.queued
        })
    }

    /// Keeps `event` for `user`, `count` times.
    ///
    /// # Panics
    /// Never, with a store in memory.
    pub fn store(&self, user: &str, event: &Event<'_>, count: usize) {
        let key = Key::user(APP, user.into());
        let retention = Retention {
            events: count,
            bytes: usize::MAX,
            ttl: Duration::from_hours(1),
        };

        for _ in 0..count {
            let draft = event.draft(&Marks::default());
            let new = New {
                id: Uuid::now_v7(),
                draft,
                omit: None,
                tail: None,
            };
            self.runtime
                .block_on(self.history.append(&key, &retention, new))
                .unwrap();
        }
    }

    /// Hands a connection what is stored for `user`, as if its socket took it all, and returns how many
    /// events.
    ///
    /// # Panics
    /// When nothing is stored.
    pub fn replay(&self, at: Handle, user: &str) -> usize {
        let key = Key::user(APP, user.into());
        let waiting = self
            .runtime
            .block_on(self.history.waiting(&key))
            .unwrap()
            .entries;

        let shard = self.hub.shard(0);
        let mut owner = self.owner.borrow_mut();
        let missed = Replay::new(
            self.hub.context().refused.clone(),
            None,
            waiting.iter().map(|entry| entry.frame.clone()),
        );

        assert!(shard.lock(|table| table.replay(&mut owner, at.0, missed)));
        let mut frames = Vec::new();
        loop {
            shard
                .lock(|table| table.lend(&mut owner, at.0, WRITE_VECTORS, &mut frames))
                .unwrap();
            let taken = frames.iter().map(Frame::len).sum();
            let advance = |table: &mut Table| table.advance(&mut owner, at.0, taken);
            if shard.lock(advance) != Progress::Blocked {
                return waiting.len();
            }
        }
    }

    /// Takes everything that was placed, as if every socket took it; answers the frames.
    pub fn flush(&mut self) -> usize {
        let shard = self.hub.shard(0).clone();
        let owner = self.owner.get_mut();
        let mut frames = 0;

        for small in [true, false] {
            while shard.lock(|table| table.take(owner, small, WRITE_STRIDE, &mut self.batch)) {
                for work in self.batch.works.drain(..) {
                    frames += match work.load {
                        Load::Run { first, end } => {
                            self.outcome.finish(first);
                            self.batch.window.run(first, end).len()
                        }
                        Load::One(_) => 1,
                        Load::Queue(queue) => queue.len(),
                    };
                }
                shard.lock(|table| table.settle(owner, &mut self.outcome));
            }
        }

        self.batch.window.release();
        frames
    }
}
