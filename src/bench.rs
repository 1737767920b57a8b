//! A hub without sockets, for the benches: everything of an emit but the system calls.

#![allow(clippy::unwrap_used, reason = "a bench may end at once")]

use std::{net::Ipv4Addr, sync::Arc};

use crate::{
    config::SlowConsumer,
    hub::{AppContext, Batch, Connection, Context, Hub, Load, Named, Outcome, Reach, Selection, user_key},
    id::{AppId, NodeId},
    limits::{Limits, SLICE_STRIDE},
    metrics::Metrics,
    predicate::{Attributes, Facts, FilterCache, Layouts, Schema, Value},
    protocol::frame::Frame,
};

const APP: AppId = AppId(0);

/// Connections, indexes, outboxes and the gate of one app, on one shard.
#[derive(Debug)]
pub struct SocketlessHub {
    hub: Hub,
    schema: Arc<Schema>,
    filters: FilterCache,
    layouts: Layouts,
    batch: Batch,
    outcome: Outcome,
    runtime: tokio::runtime::Runtime,
}

impl SocketlessHub {
    /// An empty hub whose app declares `index`.
    ///
    /// # Panics
    /// When a path is none, or no runtime can be had.
    pub fn new(index: &[&str]) -> Self {
        let metrics = Arc::new(Metrics::new());
        let (schema, runtime) = (
            Arc::new(Schema::new(index).unwrap()),
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        );
        let app = AppContext {
            name: "default".into(),
            metrics: Arc::new(metrics.app("default")),
            schema: schema.clone(),
            slow_consumer: SlowConsumer::Disconnect,
        };
        let context = Context {
            node: NodeId(1),
            limits: Limits::default(),
            metrics,
            apps: vec![app],
            refused: Arc::default(),
        };
        Self {
            hub: Hub::new(1, Arc::new(context)),
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
    pub fn connect(&self, user: &str, claims: &str) {
        let auth = Value::from_json(&mut claims.as_bytes().to_vec(), &self.layouts).unwrap();
        self.hub.shard(0).own(|table| {
            let build = |id| {
                let facts = Facts {
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
                Connection { app: APP, attributes, expires_at: None }
            };
            let (at, connection) = table.insert(build).unwrap();
            let open = Connection { app: APP, attributes: connection.attributes.clone(), expires_at: None };
            table.open(at, open);
        });
    }

    /// Places `frame` for the connections that `filter` matches, or for everyone; answers how many.
    ///
    /// # Panics
    /// When the filter is wrong, or the gate is full: call [`SocketlessHub::flush`] in between.
    pub fn emit(&self, frame: &Frame, filter: Option<&str>) -> u64 {
        let bind = |text| {
            Arc::new(self.filters.get_or_compile(text, &self.schema).unwrap().filter.bind(None).unwrap())
        };
        self.place(frame, &Selection { filter: filter.map(bind), ..Selection::everyone(APP) })
    }

    /// Places `frame` for the connections of `user`; answers how many.
    ///
    /// # Panics
    /// When the gate is full.
    pub fn publish(&self, frame: &Frame, user: &str) -> u64 {
        let named = Named { users: vec![user_key(user)], connections: Vec::new() };
        self.place(frame, &Selection { named: Some(named), ..Selection::everyone(APP) })
    }

    fn place(&self, frame: &Frame, selection: &Selection) -> u64 {
        let reach = self.hub.reach(selection);
        self.runtime.block_on(async {
            let ticket = self.hub.admit(&reach, frame.len()).await.unwrap();
            match reach {
                Reach::Small(lists) => self.hub.place_small(selection, lists, frame, &ticket).queued,
                Reach::Large(_) => self.hub.place_large(selection, frame, &ticket).await.queued,
            }
        })
    }

    /// Takes everything that was placed, as if every socket took it; answers the frames.
    pub fn flush(&mut self) -> usize {
        let shard = self.hub.shard(0).clone();
        let mut frames = 0;
        for small in [true, false] {
            while shard.own(|table| table.take(small, SLICE_STRIDE, &mut self.batch)) {
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
                shard.own(|table| table.settle(&mut self.outcome));
            }
        }
        self.batch.window.release();
        frames
    }
}
