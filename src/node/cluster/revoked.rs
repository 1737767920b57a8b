//! Revocations and replaced claims on all nodes.
//!
//! Redis has every revocation of every app in one hash, by app and user, and beside them the number of the last change.
//! A node that revokes stores first, and then notifies the others, who close connections immediately. Each node also
//! looks at that number with every renewal of its lease, and reads the hash where it has missed something: after its
//! start, after Redis was away, and after a message that was lost. What Redis itself has lost, the node that leads
//! gives back.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use ahash::AHashMap;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use smol_str::SmolStr;
use tokio::time::MissedTickBehavior;

use super::{
    super::{
        Node, NodeError, ReplaceReceipt, RevokeReceipt, identity::refuse_tokens,
        publish::run_detached,
    },
    Handles,
    gather::Everywhere,
    leases::Membership,
    rpc_request::{Number, Request, RevokedUser},
    unreadable,
};
use crate::{
    app::Apps,
    auth::{Revocation, Revocations, Revoked, unix_now},
    bus::{Bus, BusError, Script, Topic},
    hub::Hub,
    id::AppId,
    limits::{MEMBERS_AT_ONCE, REVOCATIONS_OUTLIVE, REVOCATIONS_STORED, TOKEN_LEEWAY},
    time_slice::TimeSlice,
};

/// Stores revocations, the stricter of two for the longer time, and answers the numbers of the change before and of this one.
///
/// The field without a name has the number of the last change and the end of the last revocation. The numbers follow Redis'
/// clock, so that one that Redis has lost is not given again.
static STORE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local key, outlive = KEYS[1], tonumber(ARGV[1])
         local before_this, last = string.match(redis.call('HGET', key, '') or '0 0', '^(%d+) (%d+)$')
         local time = redis.call('TIME')
         local change = math.max(tonumber(before_this) + 1, time[1] * 1000 + math.floor(time[2] / 1000))
         last = tonumber(last)
         for at = 2, #ARGV, 3 do
           local before, ends = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
           local was = redis.call('HGET', key, ARGV[at])
           if was then
             local was_before, was_ends = string.match(was, '^(%d+) (%d+)$')
             before = math.max(before, tonumber(was_before))
             ends = math.max(ends, tonumber(was_ends))
           end
           redis.call('HSET', key, ARGV[at], string.format('%.0f %.0f', before, ends))
           last = math.max(last, ends)
         end
         redis.call('HSET', key, '', string.format('%.0f %.0f', change, last))
         redis.call('PEXPIREAT', key, string.format('%.0f', (last + outlive) * 1000))
         return {before_this, string.format('%.0f', change)}",
    )
});

/// Removes revocations that are over, unless they were made again in the meantime.
static FORGET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "for at = 1, #ARGV, 2 do
           if redis.call('HGET', KEYS[1], ARGV[at]) == ARGV[at + 1] then
             redis.call('HDEL', KEYS[1], ARGV[at])
           end
         end
         return 0",
    )
});

/// The numbers of the last change before some, and of the last of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Changes {
    previous: u64,
    change: u64,
}

/// What this node knows of the hash in Redis.
#[derive(Debug, Default)]
struct Known {
    /// It was read since this node started.
    is_read: AtomicBool,
    /// The number of the last change that is known here with all before it.
    change: AtomicU64,
}

impl Known {
    /// Notes that what came after the change `previous`, up to `change`, is known here. Where one before is not, the hash is
    /// read in time.
    fn note(&self, Changes { previous, change }: Changes) {
        let _ = self
            .change
            .compare_exchange(previous, change, SeqCst, SeqCst);
    }
}

/// Revocations in Redis, and what this node knows of them.
///
/// It owns the number of the last change that is known here. [`Node`] stores by it what it revokes, and gives it what other
/// nodes say. It refuses tokens, and closes their connections, by itself.
#[derive(Debug)]
pub(in crate::node) struct RevocationSync {
    bus: Arc<Bus>,
    hub: Arc<Hub>,
    apps: Arc<Apps>,
    revocations: Arc<Revocations>,
    membership: Arc<Membership>,
    /// How often Redis is looked at.
    every: Duration,
    known: Known,
}

impl RevocationSync {
    pub(super) fn new(handles: &Handles<'_>, membership: &Arc<Membership>) -> Self {
        Self {
            bus: handles.bus.clone(),
            hub: handles.hub.clone(),
            apps: handles.apps.clone(),
            revocations: handles.revocations.clone(),
            membership: membership.clone(),
            every: handles.config.limits.node_lease / 5,
            known: Known::default(),
        }
    }

    /// Refuses tokens on this node, and closes the connections that came with them. Returns how many there were.
    async fn refuse(&self, app: AppId, revoked: &[Revoked]) -> u64 {
        refuse_tokens(&self.hub, &self.revocations, app, revoked).await
    }

    /// Does what another node has revoked.
    pub(super) async fn revoke_for_peer(
        &self,
        app: AppId,
        users: Vec<RevokedUser>,
        changes: Changes,
    ) -> Number {
        let revoked: Vec<Revoked> = users
            .into_iter()
            .map(|one| {
                let RevokedUser {
                    user,
                    before,
                    until,
                } = one;
                (user.into(), Revocation { before, until })
            })
            .collect();
        // First it takes effect, and only then counts as known: what fails in between is read
        // again.
        let n = self.refuse(app, &revoked).await;
        self.known.note(changes);
        Number { n }
    }

    /// Puts revocations into Redis. Returns what changed by that, or nothing if others changed something in between.
    async fn store(&self, app: AppId, revoked: &[Revoked]) -> Result<Changes, NodeError> {
        let (mut all, mut is_whole) = (None::<Changes>, true);
        for some in revoked.chunks(REVOCATIONS_STORED) {
            let mut args = vec![text(REVOCATIONS_OUTLIVE.as_secs())];
            for (user, revocation) in some {
                args.push(self.revoked_field(app, user).into());
                args.push(text(revocation.before));
                args.push(text(revocation.until));
            }

            let answer = self.bus.eval(&STORE, &HOME, keys(&self.bus), args).await;
            let changes = answer
                .and_then(|answer| read_changes(&answer))
                .map_err(|error| away(&error))?;
            let before = all.get_or_insert(changes);
            // The calls are not one step, so another node's change may come between two of them.
            is_whole &= before == &changes || before.change == changes.previous;
            before.change = changes.change;
        }

        // If others have changed something in between, the number here stays behind, and so the hash is read.
        let changes = all.filter(|_| is_whole).unwrap_or_default();
        self.known.note(changes);
        Ok(changes)
    }

    /// Keeps up with the revocations in Redis until the runtime ends, and removes those that are over.
    pub(super) async fn run_revocations(&self) {
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_logged = false;

        while !self.membership.has_left() {
            ticks.tick().await;
            self.expire_revoked().await;
            match self.read_revoked().await {
                Ok(()) => is_logged = false,
                // That Redis is away, the bus logs.
                Err(error @ BusError::Refused { .. }) if !is_logged => {
                    is_logged = true;
                    let hint = error.hint();
                    tracing::warn!(%error, hint, "revoked tokens cannot be read from Redis; this node goes by those that it knows");
                }
                Err(error) => tracing::debug!(%error, "revoked tokens cannot be read now"),
            }
        }
    }

    /// Whether this node does not know yet which tokens were revoked before it started.
    pub(super) fn lacks_revoked(&self) -> bool {
        !self.known.is_read.load(Relaxed)
    }

    /// Reads the revocations if there are some that are not known here.
    async fn read_revoked(&self) -> Result<(), BusError> {
        let change = self.last_change().await?;
        let is_first = self.lacks_revoked();
        if !is_first && self.known.change.load(SeqCst) == change {
            return Ok(());
        }

        let (mut stored, now) = (self.stored_revoked().await?, unix_now());
        let mut over = Vec::new();

        // There may be a hundred thousand of them, and other nodes' revocations make this node read them again and again.
        let mut slice = TimeSlice::begin();
        for app in self.apps.iter() {
            let good = stored.remove(&app.id).unwrap_or_default();
            self.give_back_revoked(app.id, &good, now).await;

            let mut news = Vec::new();
            for (user, revocation) in good {
                slice.rest().await;
                if revocation.until <= now {
                    over.push((app.id, (user, revocation)));
                    continue;
                }

                // Only what is news: for each of the others connections were looked for before.
                let known = self.revocations.of(app.id, &user);
                if known.is_none_or(|known| {
                    known.before < revocation.before || known.until < revocation.until
                }) {
                    news.push((user, revocation));
                }
            }

            let closed = self.refuse(app.id, &news).await;
            if closed > 0 {
                tracing::info!(
                    app = %app.name,
                    connections = closed,
                    "closed connections whose tokens were revoked while this node did not hear of it"
                );
            }
        }
        self.forget_revoked(&over).await;

        // What has changed since is another number, and is read the next time.
        self.known.change.store(change, SeqCst);
        self.known.is_read.store(true, Relaxed);
        Ok(())
    }

    /// The number of the last change in Redis; 0 where there is nothing.
    async fn last_change(&self) -> Result<u64, BusError> {
        let mut command = redis::cmd("HGET");
        command.arg(key(&self.bus)).arg("");
        let answer = self.bus.command(&HOME, command).await?;
        let last: Option<String> =
            redis::from_redis_value(answer).map_err(|error| unreadable(&error))?;
        let change = last.as_deref().and_then(|last| last.split(' ').next());
        Ok(change.and_then(|change| change.parse().ok()).unwrap_or(0))
    }

    /// All revocations in Redis of the apps that are served here, by app and user. Read bit by bit: others use the same
    /// Redis in the meantime.
    async fn stored_revoked(
        &self,
    ) -> Result<AHashMap<AppId, AHashMap<SmolStr, Revocation>>, BusError> {
        let (mut stored, mut cursor) = (AHashMap::<AppId, AHashMap<_, _>>::new(), 0_u64);
        let mut slice = TimeSlice::begin();
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(key(&self.bus))
                .arg(cursor)
                .arg("COUNT")
                .arg(MEMBERS_AT_ONCE);
            let answer = self.bus.command(&HOME, scan).await?;
            let (next, some): (u64, Vec<(String, String)>) =
                redis::from_redis_value(answer).map_err(|error| unreadable(&error))?;

            for (field, value) in some {
                if let Some((app, (user, revocation))) = read(&self.apps, &field, &value) {
                    stored.entry(app).or_default().insert(user, revocation);
                }
                slice.rest().await;
            }

            cursor = next;
            if cursor == 0 {
                return Ok(stored);
            }
        }
    }

    /// Puts back what this node knows and Redis has lost, as after a failover. That several nodes do so does no harm.
    async fn give_back_revoked(
        &self,
        app: AppId,
        stored: &AHashMap<SmolStr, Revocation>,
        now: u64,
    ) {
        let mut lost = Vec::new();
        let mut slice = TimeSlice::begin();
        let (mut page, mut next) = self.revocations.page(app, None);

        loop {
            page.retain(|(user, revocation)| {
                let is_there = stored.get(user).is_some_and(|stored| {
                    stored.before >= revocation.before && stored.until >= revocation.until
                });
                revocation.until > now && !is_there
            });
            lost.append(&mut page);
            let Some(from) = next else { break };
            slice.rest().await;
            (page, next) = self.revocations.page(app, Some(&from));
        }

        if lost.is_empty() {
            return;
        }

        match self.store(app, &lost).await {
            Ok(_) => {
                let count = lost.len();
                tracing::warn!(count, "Redis had lost revocations, and has them again");
            }
            Err(error) => {
                tracing::warn!(%error, "Redis has lost revocations; this node tries again to give them back");
            }
        }
    }

    /// Removes revocations that are over, here and, of the apps that this node leads, in Redis.
    async fn expire_revoked(&self) {
        let now = unix_now();
        loop {
            let over = self.revocations.expire(now);
            if over.is_empty() {
                return;
            }
            self.forget_revoked(&over).await;
            tokio::task::yield_now().await;
        }
    }

    /// Removes revocations that are over from Redis. Where that fails, a node that starts finds them, and tries again.
    async fn forget_revoked(&self, over: &[(AppId, Revoked)]) {
        let mut led = over.to_vec();
        led.retain(|(app, _)| self.membership.peers().leads(*app));
        for some in led.chunks(REVOCATIONS_STORED) {
            let mut args = Vec::with_capacity(2 * some.len());
            for (app, (user, Revocation { before, until })) in some {
                args.push(self.revoked_field(*app, user).into());
                args.push(format!("{before} {until}").into());
            }
            let forgotten = self.bus.eval(&FORGET, &HOME, keys(&self.bus), args).await;
            if let Err(error) = forgotten {
                tracing::debug!(%error, "revocations that are over stay in Redis for now");
                return;
            }
        }
    }

    fn revoked_field(&self, app: AppId, user: &str) -> String {
        format!("{} {user}", self.apps.get(app).name)
    }
}

/// What a call that revokes tokens has done on its own node.
struct RevokedHere {
    /// What has changed of the revocations in Redis.
    changes: Changes,
    disconnected: u64,
}

impl Node {
    /// Refuses tokens of `users` that were issued before `before`, on every node, and closes the connections that came
    /// with them. Without `before`: all that are issued by now.
    ///
    /// Carried out whatever becomes of the caller.
    ///
    /// # Errors
    /// As [`Node::check_users`], [`NodeError::Later`], [`NodeError::Revocations`], and [`NodeError::Away`]; nothing was
    /// revoked then, unless Redis had taken some before it went away: those nodes learn that later.
    pub(crate) async fn cluster_revoke(
        self: &Arc<Self>,
        app: AppId,
        users: Vec<String>,
        before: Option<u64>,
    ) -> Result<RevokeReceipt, NodeError> {
        self.check_users(app, &users)?;
        let now = unix_now();
        // Later, it would refuse tokens that are issued after this call as well.
        if before.is_some_and(|before| before > now + TOKEN_LEEWAY.as_secs()) {
            return Err(NodeError::Later);
        }

        // Tokens count whole seconds. One of this second may have been issued before the call, and so is refused.
        let before = before.unwrap_or(now + 1);
        let config = self.runtime_config_owned();
        let limits = &config.config.limits;
        let revocation = Revocation::new(before, limits.revocation_ttl.as_secs());
        let users: Vec<SmolStr> = users.into_iter().map(SmolStr::from).collect();
        self.revocations
            .check_room(app, &users, limits.revocations)?;
        let revoked: Vec<Revoked> = users.into_iter().map(|user| (user, revocation)).collect();

        let node = self.clone();
        run_detached(async move {
            let here = node.revoke_here(app, &revoked);
            let request = |here: &RevokedHere| revoke_request(&revoked, here.changes);
            let Everywhere { here, others } = node.act_everywhere(app, here, request).await?;

            Ok(RevokeReceipt {
                disconnected: here.disconnected + others.sum(),
                before,
                kept_until: revocation.until,
                nodes: 1 + others.received.len() as u32,
                missing_nodes: others.missing,
            })
        })
        .await?
    }

    /// Records revocations where all nodes find them, or in the data directory of one that is alone, and then closes the connections
    /// here.
    async fn revoke_here(&self, app: AppId, revoked: &[Revoked]) -> Result<RevokedHere, NodeError> {
        let changes = if let Some(cluster) = self.cluster_up()? {
            cluster.revoked.store(app, revoked).await?
        } else {
            self.keep_revoked_on_disk(app, revoked).await?;
            Changes::default()
        };

        let disconnected = refuse_tokens(&self.hub, &self.revocations, app, revoked).await;
        Ok(RevokedHere {
            changes,
            disconnected,
        })
    }

    /// Replaces claims and rights of the open connections of `user`, on every node; see [`Node::replaced`].
    ///
    /// Carried out whatever becomes of the caller.
    ///
    /// # Errors
    /// As [`Node::check_users`] and [`Node::replaced`], and [`NodeError::Away`]; nothing was replaced then.
    pub(crate) async fn cluster_replace_claims(
        self: &Arc<Self>,
        app: AppId,
        user: String,
        claims: Box<RawValue>,
        can: Option<Box<RawValue>>,
    ) -> Result<ReplaceReceipt, NodeError> {
        self.check_users(app, std::slice::from_ref(&user))?;
        let now = unix_now();
        let replaced = self.replaced(app, &user, (&claims, can.as_deref()), now)?;

        let request = Request::Claims {
            user,
            claims,
            can,
            at: now,
        };

        let node = self.clone();
        run_detached(async move {
            let here = async { Ok(node.replace_claims(app, &replaced).await) };
            let Everywhere { here, others } = node.act_everywhere(app, here, |_| request).await?;
            Ok(ReplaceReceipt {
                connections: here + others.sum(),
                nodes: 1 + others.received.len() as u32,
                missing_nodes: others.missing,
            })
        })
        .await?
    }
}

/// Replaces the claims that another node says.
pub(super) async fn replace_for_peer(
    node: &Node,
    app: AppId,
    user: &str,
    (claims, can): (&RawValue, Option<&RawValue>),
    at: u64,
) -> Result<Number, NodeError> {
    let replaced = node.replaced(app, user, (claims, can), at)?;
    let n = node.replace_claims(app, &replaced).await;
    Ok(Number { n })
}

/// Where the hash is: with the leases, which every node uses.
const HOME: Topic = Topic::Nodes;

fn key(bus: &Bus) -> Vec<u8> {
    bus.key(&HOME, "revoked")
}

fn keys(bus: &Bus) -> Vec<Vec<u8>> {
    vec![key(bus)]
}

fn text(number: u64) -> Bytes {
    number.to_string().into()
}

/// A field of the hash as it was written; nothing for the number of the last change, and for an app that is not served
/// here.
fn read(apps: &Apps, field: &str, value: &str) -> Option<(AppId, Revoked)> {
    let (app, user) = field.split_once(' ')?;
    let (before, until) = value.split_once(' ')?;
    let revocation = Revocation {
        before: before.parse().ok()?,
        until: until.parse().ok()?,
    };
    Some((apps.id_of(app)?, (user.into(), revocation)))
}

fn read_changes(answer: &redis::Value) -> Result<Changes, BusError> {
    let (previous, change) =
        redis::from_redis_value_ref(answer).map_err(|error| unreadable(&error))?;
    Ok(Changes { previous, change })
}

fn revoke_request(revoked: &[Revoked], changes: Changes) -> Request {
    let users = revoked.iter().map(|(user, revocation)| RevokedUser {
        user: user.to_string(),
        before: revocation.before,
        until: revocation.until,
    });
    Request::Revoke {
        users: users.collect(),
        changes,
    }
}

fn away(error: &BusError) -> NodeError {
    NodeError::Away {
        reason: format!("{error}{}", error.hint()).into(),
    }
}
