//! The bus: how nodes hear each other, through Redis.
//!
//! A node publishes to a [`Topic`], and gets what others publish to the topics in its [`Interest`]. Commands and scripts go
//! the same way as publications, so that their order holds. All of it runs on one thread of its own; a caller only
//! appends to a queue, and the task that delivers reads the [`Inbox`].
//!
//! It promises this: messages of one Redis server come in the order in which it got them, each at most once. Messages
//! that may have been missed are noted in [`Gaps`]. No command waits longer than `limits.redis_timeout`, and none is
//! repeated.

mod backoff;
mod batch;
mod health;
mod control;
mod gaps;
mod inbox;
mod interest;
mod command_queue;
mod connection;
mod name;
mod needs;
mod primary;
mod publisher;
mod resp;
mod connector;
mod slot;
mod subscriber;
#[cfg(test)]
pub(crate) mod tests;
mod topology;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use redis::{Cmd, Value};
use tokio::sync::Notify;

pub use self::connector::RedisSetupError;
pub(crate) use self::{
    backoff::some as jitter,
    batch::{Call, CallPart},
    command_queue::send_together_from_this_thread,
    gaps::{Gap, Gaps, SubscriptionState},
    health::Health,
    inbox::{Inbox, Incoming},
    interest::Interest,
    name::Topic,
    resp::transcript,
};
use self::{
    command_queue::{CommandQueue, CommandResult, Payload, ScriptAt},
    connector::Connector,
    health::HealthTracker,
    name::Names,
};
use crate::{
    config::{RedisConfig, RedisKind},
    id::{AppId, NodeId},
    limits::Limits,
    metrics::Metrics,
    supervisor::Supervisor,
};

/// A Lua script; Redis knows it by its digest.
pub(crate) use redis::Script;

/// Redis does not answer, or not in time, or refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BusError {
    /// No connection, or one to a server that is not responsible: nothing was sent, or nothing of it was done.
    #[error("Redis is away: {reason}")]
    Away { reason: Arc<str> },
    /// Sent, and no answer in time: it may have happened.
    #[error("Redis did not answer in time; whether it has done what was asked is not known")]
    Unanswered,
    /// Redis answered with an error.
    #[error("Redis refuses: {code} {message}")]
    Refused { code: String, message: String },
    /// Too much waits to be sent; nothing was sent.
    #[error("too much waits for Redis (limits.bus_queue_commands, limits.bus_queue_bytes)")]
    Full,
}

impl BusError {
    fn away(reason: &str) -> Self {
        Self::Away {
            reason: reason.into(),
        }
    }

    /// What usually is the matter, and what to do, where Redis refuses: more of the sentence, or nothing.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Refused { code, message } => connection::hint(code, message),
            _ => "",
        }
    }
}

/// The user of a bus.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Client {
    /// A node, which needs scripts.
    Node(NodeId),
    /// A program, which only publishes: its server may lack what nodes need, and its user their rights.
    Program(NodeId),
}

impl From<NodeId> for Client {
    fn from(node: NodeId) -> Self {
        Self::Node(node)
    }
}

/// What the tasks of the bus share.
struct Context {
    names: Arc<Names>,
    connector: Connector,
    limits: Limits,
    metrics: Arc<Metrics>,
    supervisor: Supervisor,
    node: NodeId,
    has_scripts: bool,
    interest: Arc<Interest>,
    gaps: Arc<Gaps>,
    inbox: inbox::Sender,
    health: HealthTracker,
    /// The line of each partition; `None` until its primary is known.
    routes: RwLock<Vec<Option<Arc<CommandQueue>>>>,
    /// Something may have moved.
    trouble: Notify,
    stopped: Notify,
    generations: AtomicU64,
}

impl Context {
    /// Numbers subscriber connections, from 1.
    fn next_generation(&self) -> u64 {
        self.generations.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn publish_command(&self) -> &'static str {
        if self.names.is_tagged() {
            "SPUBLISH"
        } else {
            "PUBLISH"
        }
    }

    /// The command that publishes to `topic`: programs publish to theirs without knowing of slots.
    fn publish_command_of(&self, topic: &Topic) -> &'static str {
        if self.names.is_sharded(topic) {
            "SPUBLISH"
        } else {
            "PUBLISH"
        }
    }
}

/// However the thread ends: nobody waits for it any longer.
struct Ending(Arc<Context>);

impl Drop for Ending {
    fn drop(&mut self) {
        let has_failed = self.0.supervisor.failure().is_some() || std::thread::panicking();
        let reason = if has_failed {
            "the connections to Redis have failed; start this node again"
        } else {
            "this node is ending"
        };

        if has_failed {
            self.0.health.fault(health::Component::Topology, reason);
        }

        for queue in self.0.routes.read().iter().flatten() {
            queue.shut(reason);
        }

        self.0.inbox.close();
    }
}

/// The bus of a node; shared by all its threads.
pub(crate) struct Bus {
    cx: Arc<Context>,
    /// Closed once the thread has ended.
    ended: Mutex<mpsc::Receiver<()>>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").finish_non_exhaustive()
    }
}

impl Bus {
    /// Starts the thread `fanfare-bus`, which connects and stays connected. Returns immediately, whether Redis is there or not;
    /// [`Self::health`] says how it goes. `apps` are the apps' names, in the order of their ids.
    ///
    /// # Errors
    /// When certificates or keys cannot be used, or there is no thread to be had.
    pub(crate) fn start(
        config: &RedisConfig,
        namespace: &str,
        apps: Vec<Arc<str>>,
        client: impl Into<Client>,
        limits: &Limits,
        metrics: Arc<Metrics>,
        supervisor: Supervisor,
    ) -> Result<(Arc<Self>, Inbox), RedisSetupError> {
        let (node, has_scripts) = match client.into() {
            Client::Node(node) => (node, true),
            Client::Program(id) => (id, false),
        };

        let connector = Connector::new(config, namespace, node)?;
        let names = Arc::new(Names::new(
            namespace,
            apps,
            connector.kind == RedisKind::Cluster,
        ));

        let gaps = Arc::new(Gaps::new(names.clone(), metrics.clone()));
        let (sender, inbox) = inbox::new(limits, gaps.clone(), metrics.clone());
        let cx = Arc::new(Context {
            interest: Arc::new(Interest::new(names.clone())),
            gaps,
            routes: RwLock::new(vec![None; usize::from(names.partitions())]),
            health: HealthTracker::new(metrics.clone()),
            names,
            connector,
            limits: limits.clone(),
            metrics,
            supervisor,
            node,
            has_scripts,
            inbox: sender,
            trouble: Notify::new(),
            stopped: Notify::new(),

            generations: AtomicU64::new(0),
        });

        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (end, ended) = mpsc::sync_channel(1);
        let run = cx.supervisor.run_to_end("bus", control::run(cx.clone()));
        let ending = Ending(cx.clone());

        std::thread::Builder::new()
            .name("fanfare-bus".to_owned())
            .spawn(move || {
                // It is dropped last, and also if the runtime panics: everyone who waits gets an
                // answer then.
                let _ending = ending;
                runtime.block_on(run);
                // Commands that are under way are answered by that.
                drop(runtime);
                drop(end);
            })?;

        Ok((
            Arc::new(Self {
                cx,
                ended: Mutex::new(ended),
            }),
            inbox,
        ))
    }

    /// Publishes. Resolves with the number of subscribers of this Redis server when it has answered, within
    /// `limits.redis_timeout` of the call. It is never repeated.
    ///
    /// What one node publishes, runs and commands reaches a Redis server in the order of the calls, whether and whenever the
    /// futures are polled; one that is dropped takes nothing back.
    ///
    /// # Errors
    /// [`BusError`].
    #[expect(
        clippy::needless_pass_by_value,
        reason = "how the bytes get to Redis is the bus's affair"
    )]
    pub(crate) fn publish(
        &self,
        topic: &Topic,
        payload: Bytes,
    ) -> impl Future<Output = Result<u64, BusError>> + Send + 'static + use<> {
        let channel = self.channel(topic);
        let bytes = channel.len() + payload.len() + 64;
        let mut command = Cmd::with_capacity(3, bytes);

        command
            .arg(self.cx.publish_command_of(topic))
            .arg(&channel[..])
            .arg(&payload[..]);
        let answer = self.send(topic, Payload::Command(command), bytes, None);
        async move {
            match answer.await? {
                Value::Int(receivers) => Ok(u64::try_from(receivers).unwrap_or(0)),
                _ => Ok(0),
            }
        }
    }

    /// Runs a script by its digest, and loads it where Redis does not know it. `home` says in which partition; all `keys` are
    /// made by [`Self::key`] of the same. Time and order are as with [`Self::publish`], with one exception: where Redis has
    /// forgotten a script that this connection had loaded (SCRIPT FLUSH), it runs after what was sent in the meantime.
    ///
    /// # Errors
    /// [`BusError`].
    #[expect(
        clippy::needless_pass_by_value,
        reason = "how the bytes get to Redis is the bus's affair"
    )]
    pub(crate) fn eval(
        &self,
        script: &'static Script,
        home: &Topic,
        keys: Vec<Vec<u8>>,
        args: Vec<Bytes>,
    ) -> impl Future<Output = CommandResult> + Send + 'static + use<> {
        let bytes = keys.iter().map(|key| key.len() + 16).sum::<usize>()
            + args.iter().map(|arg| arg.len() + 16).sum::<usize>()
            + 80;
        let mut command = Cmd::with_capacity(3 + keys.len() + args.len(), bytes);
        command
            .arg("EVALSHA")
            .arg(script.get_hash())
            .arg(keys.len());
        for key in &keys {
            command.arg(&key[..]);
        }

        for arg in &args {
            command.arg(&arg[..]);
        }
        self.send(home, Payload::Command(command), bytes, Some(script))
    }

    /// Calls a script that takes several calls together ([`batch`]): those that wait one after another go to Redis as one. All
    /// keys are made by [`Self::key`] of `home`. Time and order are as with [`Self::eval`]. The answer is that of the call's run, and
    /// how many calls of the run came after it.
    ///
    /// # Errors
    /// [`BusError`].
    pub(crate) fn call(
        &self,
        script: &'static Script,
        home: &Topic,
        call: Call,
    ) -> impl Future<Output = CommandResult> + Send + 'static + use<> {
        let bytes = call.bytes();
        self.send(home, Payload::Call(Box::new(call)), bytes, Some(script))
    }

    /// Runs one command in the partition of `home`: none that blocks, and none that subscribes. Time and order are as with
    /// [`Self::publish`].
    ///
    /// # Errors
    /// [`BusError`].
    pub(crate) fn command(
        &self,
        home: &Topic,
        command: Cmd,
    ) -> impl Future<Output = CommandResult> + Send + 'static + use<> {
        let bytes = command
            .args_iter()
            .map(|arg| match arg {
                redis::Arg::Simple(arg) => arg.len() + 16,
                _ => 16,
            })
            .sum();
        self.send(home, Payload::Command(command), bytes, None)
    }

    fn send(
        &self,
        home: &Topic,
        payload: Payload,
        bytes: usize,
        script: Option<&'static Script>,
    ) -> impl Future<Output = CommandResult> + Send + 'static + use<> {
        let partition = usize::from(self.cx.names.partition(home));
        let queued = match &self.cx.routes.read()[partition] {
            Some(queue) => {
                let script = script.map(|script| ScriptAt {
                    script,
                    partition: partition as u16,
                });
                queue.send(payload, bytes, script)
            }
            None => Err(match self.health_of(home) {
                Health::Down { reason, .. } => BusError::Away { reason },
                Health::Up => BusError::away("the Redis server for this has just been found"),
            }),
        };

        // A sender that was dropped has lost what was sent.
        async move { queued?.await.unwrap_or(Err(BusError::Unanswered)) }
    }

    /// The Redis channel of a topic.
    pub(crate) fn channel(&self, topic: &Topic) -> Vec<u8> {
        self.cx.names.channel(topic)
    }

    /// The name of a key that lives where `home` does, so that one script may use both. `suffix` distinguishes the keys of one
    /// home.
    pub(crate) fn key(&self, home: &Topic, suffix: &str) -> Vec<u8> {
        self.cx.names.key(home, suffix)
    }

    /// The name of a key of an app that lives where `home` does, a topic of the app: one of as many as there are partitions over
    /// Redis Cluster, and otherwise the only one.
    pub(crate) fn app_key(&self, home: &Topic, app: AppId, suffix: &str) -> Vec<u8> {
        self.cx.names.app_key(home, app, suffix).into_bytes()
    }

    /// A topic of the app for each of the keys that [`Self::app_key`] makes.
    pub(crate) fn app_homes(&self, app: AppId) -> Vec<Topic> {
        self.cx.names.app_homes(app)
    }

    /// The name of a key that lives where `home` does, and holds another value whenever what is stored there may have
    /// gone back or taken another way: another primary keeps it, or the same one has started again. It is so before the
    /// first script runs there.
    pub(crate) fn primary_key(&self, home: &Topic) -> Vec<u8> {
        self.cx
            .names
            .primary_key(self.cx.names.partition(home))
            .into_bytes()
    }

    /// What a script has to call to publish to any topic but [`Topic::Dispatch`]: `PUBLISH`, or `SPUBLISH` on Redis Cluster.
    pub(crate) fn publish_command(&self) -> &'static str {
        self.cx.publish_command()
    }

    /// Whether one server has all topics. Those of a Redis Cluster keep no order between them.
    pub(crate) fn has_one_server(&self) -> bool {
        !self.cx.names.is_tagged()
    }

    /// Whether more than half of the room is taken for what waits to be sent to the server of `home`. What can wait should then leave
    /// the rest to others.
    pub(crate) fn is_crowded(&self, home: &Topic) -> bool {
        let partition = usize::from(self.cx.names.partition(home));
        let queue = &self.cx.routes.read()[partition];
        queue.as_ref().is_some_and(|queue| queue.is_crowded())
    }

    /// The register of what this node needs.
    pub(crate) fn interest(&self) -> &Arc<Interest> {
        &self.cx.interest
    }

    /// What may have been missed.
    pub(crate) fn gaps(&self) -> &Gaps {
        &self.cx.gaps
    }

    /// What this node hears of `topic` now.
    pub(crate) fn subscription_state(&self, topic: &Topic) -> SubscriptionState {
        // First the gap: one that is noted after that belongs to what comes.
        let gap = self.cx.gaps.last_of(topic);
        SubscriptionState::new(gap, self.cx.interest.subscription(topic))
    }

    /// Whether commands are answered, every subscriber connection has all of the register, and its canary comes back.
    pub(crate) fn health(&self) -> Health {
        self.cx.health.health()
    }

    /// The same for what serves `topic` alone: over Redis Cluster other primaries may be away, and this one is not.
    pub(crate) fn health_of(&self, topic: &Topic) -> Health {
        let partition = usize::from(self.cx.names.partition(topic));
        match &self.cx.routes.read()[partition] {
            Some(queue) => self.cx.health.health_of(&queue.address),
            None => match self.health() {
                Health::Up => Health::Down {
                    since: std::time::Instant::now(),
                    reason: "the Redis server for this is not known yet".into(),
                },
                down @ Health::Down { .. } => down,
            },
        }
    }

    /// Lets what is queued go out, for half a second at most, and ends the thread; waits for a second at most. The inbox
    /// ends with what it holds.
    pub(crate) fn stop(&self) {
        self.cx.stopped.notify_one();
        // The sender is dropped at the end; nothing is sent.
        let _ = self.ended.lock().recv_timeout(Duration::from_secs(1));
    }

    /// The same without waiting for it.
    pub(crate) fn give_up(&self) {
        self.cx.stopped.notify_one();
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.cx.stopped.notify_one();
    }
}
