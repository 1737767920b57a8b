//! Revocations and replaced claims on all nodes.
//!
//! Redis has every revocation of every app in one hash, by app and user, and beside them the number of the last change. A node
//! that revokes stores first, and then tells the others, who close connections at once. Each node also looks at that
//! number with every renewal of its lease, and reads the hash where it has missed something: after its start, after
//! Redis was away, and after a message that was lost. What Redis itself has lost, the node that leads gives back.

use std::sync::{
    Arc, LazyLock,
    atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use ahash::AHashMap;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use smol_str::SmolStr;
use tokio::time::MissedTickBehavior;

use super::{
    super::{Node, NodeError, ReplaceReceipt, RevokeReceipt, publish::to_its_end},
    Cluster,
    order::{Number, Order},
    unreadable,
};
use crate::{
    auth::{Revocation, Revoked, unix_now},
    broker::{BusError, Script, Topic},
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

/// Removes revocations that are over, unless they were made again meanwhile.
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
pub(super) struct Known {
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

impl Node {
    /// Refuses tokens of `users` that were issued before `before`, on every node, and closes the connections that came
    /// with them. Without `before`: all that are issued by now.
    ///
    /// Carried out whatever becomes of the caller.
    ///
    /// # Errors
    /// As [`Node::check_users`], [`NodeError::Later`], [`NodeError::Revocations`], and [`NodeError::Away`]; nothing was
    /// revoked then, unless Redis had taken some before it went away: those nodes learn that later.
    pub(crate) async fn revoke_everywhere(
        self: &Arc<Self>,
        app: AppId,
        users: Vec<String>,
        before: Option<u64>,
    ) -> Result<RevokeReceipt, NodeError> {
        self.check_users(app, &users)?;
        let now = unix_now();
        if before.is_some_and(|before| before > now + TOKEN_LEEWAY.as_secs()) {
            return Err(NodeError::Later);
        }
        // Tokens count whole seconds. One of this second may have been issued before the call, and so is refused.
        let before = before.unwrap_or(now + 1);
        let live = self.live_for_long();
        let limits = &live.config.limits;
        let revocation = Revocation::new(before, limits.revocation_ttl.as_secs());
        let users: Vec<SmolStr> = users.into_iter().map(SmolStr::from).collect();
        self.revocations
            .check_room(app, &users, limits.revocations)?;
        let revoked: Vec<Revoked> = users.into_iter().map(|user| (user, revocation)).collect();

        let node = self.clone();
        to_its_end(async move {
            let changes = match node.cluster_up()? {
                Some(cluster) => node.store_revoked(cluster, app, &revoked).await?,
                None => Changes::default(),
            };
            let disconnected = node.refuse_tokens(app, &revoked).await;
            let gathered = node
                .others_then(app, &revoke_order(&revoked, changes))
                .await;
            let there: u64 = gathered.read::<Number>().map(|number| number.n).sum();
            Ok(RevokeReceipt {
                disconnected: disconnected + there,
                before,
                kept_until: revocation.until,
                nodes: 1 + gathered.said.len() as u32,
                missing_nodes: gathered.missing,
            })
        })
        .await?
    }

    /// Replaces claims and rights of the open connections of `user`, on every node; see [`Node::replaced`].
    ///
    /// Carried out whatever becomes of the caller.
    ///
    /// # Errors
    /// As [`Node::check_users`] and [`Node::replaced`], and [`NodeError::Away`]; nothing was replaced then.
    pub(crate) async fn replace_claims_everywhere(
        self: &Arc<Self>,
        app: AppId,
        user: String,
        claims: Box<RawValue>,
        can: Option<Box<RawValue>>,
    ) -> Result<ReplaceReceipt, NodeError> {
        self.check_users(app, std::slice::from_ref(&user))?;
        let now = unix_now();
        let replaced = self.replaced(app, &user, (&claims, can.as_deref()), now)?;
        self.cluster_up()?;

        let node = self.clone();
        to_its_end(async move {
            let here = node.replace_claims(app, &replaced).await;
            let order = Order::Claims {
                user,
                claims,
                can,
                at: now,
            };
            let gathered = node.others_then(app, &order).await;
            let there: u64 = gathered.read::<Number>().map(|number| number.n).sum();
            Ok(ReplaceReceipt {
                connections: here + there,
                nodes: 1 + gathered.said.len() as u32,
                missing_nodes: gathered.missing,
            })
        })
        .await?
    }

    /// Does what another node has revoked.
    pub(super) async fn revoke_as_told(
        &self,
        app: AppId,
        users: Vec<(String, u64, u64)>,
        changes: Changes,
    ) -> Number {
        let revoked: Vec<Revoked> = users
            .into_iter()
            .map(|(user, before, until)| (user.into(), Revocation { before, until }))
            .collect();
        let n = self.refuse_tokens(app, &revoked).await;
        if let Some(cluster) = &self.cluster {
            cluster.revoked.note(changes);
        }
        Number { n }
    }

    /// Replaces the claims that another node says.
    pub(super) async fn replace_as_told(
        &self,
        app: AppId,
        user: &str,
        (claims, can): (&RawValue, Option<&RawValue>),
        at: u64,
    ) -> Result<Number, NodeError> {
        let replaced = self.replaced(app, user, (claims, can), at)?;
        let n = self.replace_claims(app, &replaced).await;
        Ok(Number { n })
    }

    /// Puts revocations into Redis. Returns what changed by that, or nothing if others changed something in between.
    async fn store_revoked(
        &self,
        cluster: &Cluster,
        app: AppId,
        revoked: &[Revoked],
    ) -> Result<Changes, NodeError> {
        let (mut all, mut is_whole) = (None::<Changes>, true);
        for some in revoked.chunks(REVOCATIONS_STORED) {
            let mut args = vec![text(REVOCATIONS_OUTLIVE.as_secs())];
            for (user, revocation) in some {
                args.push(self.revoked_field(app, user).into());
                args.push(text(revocation.before));
                args.push(text(revocation.until));
            }
            let answer = cluster.bus.eval(&STORE, &HOME, keys(cluster), args).await;
            let changes = answer
                .and_then(|answer| read_changes(&answer))
                .map_err(|error| away(&error))?;
            let before = all.get_or_insert(changes);
            is_whole &= before == &changes || before.change == changes.previous;
            before.change = changes.change;
        }
        let changes = all.filter(|_| is_whole).unwrap_or_default();
        cluster.revoked.note(changes);
        Ok(changes)
    }

    /// Keeps up with the revocations in Redis until the runtime ends, and removes those that are over.
    pub(super) async fn keep_revoked(self: &Arc<Self>, cluster: &Cluster) {
        let mut ticks = tokio::time::interval(self.config.limits.node_lease / 5);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_told = false;
        while !cluster.has_left.load(SeqCst) {
            ticks.tick().await;
            self.expire_revoked(cluster).await;
            match self.read_revoked(cluster).await {
                Ok(()) => is_told = false,
                // That Redis is away, the bus tells.
                Err(error @ BusError::Refused { .. }) if !is_told => {
                    is_told = true;
                    let hint = error.hint();
                    tracing::warn!(%error, hint, "revoked tokens cannot be read from Redis; this node goes by those that it knows");
                }
                Err(error) => tracing::debug!(%error, "revoked tokens cannot be read now"),
            }
        }
    }

    /// Whether this node does not know yet which tokens were revoked before it started.
    pub(super) fn lacks_revoked(cluster: &Cluster) -> bool {
        !cluster.revoked.is_read.load(Relaxed)
    }

    /// Reads the revocations if there are some that are not known here.
    async fn read_revoked(&self, cluster: &Cluster) -> Result<(), BusError> {
        let change = Self::last_change(cluster).await?;
        let is_first = Self::lacks_revoked(cluster);
        if !is_first && cluster.revoked.change.load(SeqCst) == change {
            return Ok(());
        }

        let (mut stored, now) = (self.stored_revoked(cluster).await?, unix_now());
        let mut over = Vec::new();
        // There may be a hundred thousand of them, and other nodes' revocations make this node read them again and again.
        let mut slice = TimeSlice::begin();
        for app in &self.apps {
            let good = stored.remove(&app.id).unwrap_or_default();
            self.give_back_revoked(cluster, app.id, &good, now).await;

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
            let closed = self.refuse_tokens(app.id, &news).await;
            if closed > 0 {
                tracing::info!(
                    app = %app.name,
                    connections = closed,
                    "closed connections whose tokens were revoked while this node did not hear of it"
                );
            }
        }
        self.forget_revoked(cluster, &over).await;

        // What has changed since is another number, and is read the next time.
        cluster.revoked.change.store(change, SeqCst);
        cluster.revoked.is_read.store(true, Relaxed);
        Ok(())
    }

    /// The number of the last change in Redis; 0 where there is nothing.
    async fn last_change(cluster: &Cluster) -> Result<u64, BusError> {
        let mut command = redis::cmd("HGET");
        command.arg(key(cluster)).arg("");
        let answer = cluster.bus.command(&HOME, command).await?;
        let last: Option<String> =
            redis::from_redis_value(answer).map_err(|error| unreadable(&error))?;
        let change = last.as_deref().and_then(|last| last.split(' ').next());
        Ok(change.and_then(|change| change.parse().ok()).unwrap_or(0))
    }

    /// All revocations in Redis of the apps that are served here, by app and user. Read bit by bit: others use the same Redis meanwhile.
    async fn stored_revoked(
        &self,
        cluster: &Cluster,
    ) -> Result<AHashMap<AppId, AHashMap<SmolStr, Revocation>>, BusError> {
        let (mut stored, mut cursor) = (AHashMap::<AppId, AHashMap<_, _>>::new(), 0_u64);
        let mut slice = TimeSlice::begin();
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(key(cluster))
                .arg(cursor)
                .arg("COUNT")
                .arg(MEMBERS_AT_ONCE);
            let answer = cluster.bus.command(&HOME, scan).await?;
            let (next, some): (u64, Vec<(String, String)>) =
                redis::from_redis_value(answer).map_err(|error| unreadable(&error))?;
            for (field, value) in some {
                if let Some((app, (user, revocation))) = read(cluster, &field, &value) {
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
        cluster: &Cluster,
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
        match self.store_revoked(cluster, app, &lost).await {
            Ok(_) => {
                let count = lost.len();
                tracing::warn!(count, "Redis had lost revocations, and has them again");
            }
            Err(error) => {
                tracing::warn!(%error, "Redis has lost revocations; this node tries again to give them back");
            }
        }
    }

    /// Removes revocations that are over, here and, as the node that leads, in Redis.
    async fn expire_revoked(&self, cluster: &Cluster) {
        let now = unix_now();
        loop {
            let over = self.revocations.expire(now);
            if over.is_empty() {
                return;
            }
            self.forget_revoked(cluster, &over).await;
            tokio::task::yield_now().await;
        }
    }

    /// Removes revocations that are over from Redis. Where that fails, a node that starts finds them, and tries again.
    async fn forget_revoked(&self, cluster: &Cluster, over: &[(AppId, Revoked)]) {
        if !cluster.peers.leads() {
            return;
        }
        for some in over.chunks(REVOCATIONS_STORED) {
            let mut args = Vec::with_capacity(2 * some.len());
            for (app, (user, Revocation { before, until })) in some {
                args.push(self.revoked_field(*app, user).into());
                args.push(format!("{before} {until}").into());
            }
            let forgotten = cluster.bus.eval(&FORGET, &HOME, keys(cluster), args).await;
            if let Err(error) = forgotten {
                tracing::debug!(%error, "revocations that are over stay in Redis for now");
                return;
            }
        }
    }

    fn revoked_field(&self, app: AppId, user: &str) -> String {
        format!("{} {user}", self.app(app).name)
    }
}

/// Where the hash is: with the leases, which every node uses.
const HOME: Topic = Topic::Nodes;

fn key(cluster: &Cluster) -> Vec<u8> {
    cluster.bus.key(&HOME, "revoked")
}

fn keys(cluster: &Cluster) -> Vec<Vec<u8>> {
    vec![key(cluster)]
}

fn text(number: u64) -> Bytes {
    number.to_string().into()
}

/// A field of the hash as it was written; nothing for the number of the last change, and for an app that is not served
/// here.
fn read(cluster: &Cluster, field: &str, value: &str) -> Option<(AppId, Revoked)> {
    let (app, user) = field.split_once(' ')?;
    let (before, until) = value.split_once(' ')?;
    let revocation = Revocation {
        before: before.parse().ok()?,
        until: until.parse().ok()?,
    };
    Some((cluster.app_named(app)?, (user.into(), revocation)))
}

fn read_changes(answer: &redis::Value) -> Result<Changes, BusError> {
    let (previous, change) =
        redis::from_redis_value_ref(answer).map_err(|error| unreadable(&error))?;
    Ok(Changes { previous, change })
}

fn revoke_order(revoked: &[Revoked], changes: Changes) -> Order {
    let users = revoked
        .iter()
        .map(|(user, revocation)| (user.to_string(), revocation.before, revocation.until));
    Order::Revoke {
        users: users.collect(),
        changes,
    }
}

fn away(error: &BusError) -> NodeError {
    NodeError::Away {
        reason: format!("{error}{}", error.hint()).into(),
    }
}
