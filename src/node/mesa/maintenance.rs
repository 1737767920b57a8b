//! What has to be looked after: users whose node has gone, what Redis has lost, and what a dispatcher stores for someone who has
//! just come.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use ahash::AHashMap;
use bytes::Bytes;
use smol_str::SmolStr;
use tokio::time::MissedTickBehavior;

use super::{
    super::{Phase, Target, look::user_connections},
    ClusterHandles, Mesa, MesaApp, arg,
    arriving::put_back,
    delivering::UserAtNodes,
    giving_back::{GivenBack, GoesTo},
    run_all,
    script::{ANNOUNCE, CHECK, LOOK, LOOKED, REAP},
};
use crate::{
    bus::{BusError, Topic},
    id::{AppId, ConnectionId, NodeId},
    limits::{
        LONG_BODY, MESA_GIVEN_BACK_TOGETHER, MESA_LOOKS, MESA_SENT_PAGE, MESA_SETTLED_TOGETHER,
        MESA_TICK,
    },
    protocol::{
        event::{Data, Event},
        mesa,
    },
    time_slice::TimeSlice,
};

/// Users for whom a dispatcher may store something although they are connected.
///
/// A dispatcher that found a user away goes on to read and write its list, whatever happens in the meantime. It takes a moment.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// By how often one looks: in each, oldest first.
    due: [VecDeque<(Instant, SmolStr)>; MESA_LOOKS.len()],
    /// The lists that users were given when they came, until nobody looks any longer.
    taken: AHashMap<SmolStr, Vec<u8>>,
    /// Those of the last look, if its answer did not come: something may be set aside for them, wherever they are now. No other
    /// look is made before.
    unanswered: Vec<Due>,
    /// Users for whom the last look has found something, of which Redis does not know yet what became of it: a list that is stored
    /// again, or nothing if all was delivered.
    scan: VecDeque<(SmolStr, Bytes)>,
}

/// A user who is due to be looked after, with what the user was given.
type Due = (SmolStr, Option<Vec<u8>>);

impl Looks {
    /// Notes that `user` has come now.
    pub(super) fn after(&mut self, user: &SmolStr) {
        let now = Instant::now();
        for (due, later) in self.due.iter_mut().zip(MESA_LOOKS) {
            due.push_back((now + later, user.clone()));
        }
    }

    /// Notes that something has just been stored for `user`, who is here: one look is enough.
    pub(super) fn once(&mut self, user: &str) {
        let [first, ..] = MESA_LOOKS;
        self.due[0].push_back((Instant::now() + first, user.into()));
    }

    /// Notes what `user` was given, if it is short enough to be compared with what comes later. There is a last look after that,
    /// however late it was given.
    pub(super) fn note_taken(&mut self, user: &SmolStr, list: Vec<u8>) {
        let [.., last] = MESA_LOOKS;
        if list.len() <= LONG_BODY {
            self.taken.insert(user.clone(), list);
            let [.., due] = &mut self.due;
            due.push_back((Instant::now() + last, user.clone()));
        }
    }

    /// Some users who are due to be looked after, each once, or those of the look that was not answered.
    fn take_due(&mut self, is_here: impl Fn(&SmolStr) -> bool) -> Vec<Due> {
        if !self.unanswered.is_empty() {
            return std::mem::take(&mut self.unanswered);
        }

        let now = Instant::now();
        let mut users: AHashMap<SmolStr, Option<Vec<u8>>> = AHashMap::new();
        let last = self.due.len() - 1;

        for (nth, due) in self.due.iter_mut().enumerate() {
            while users.len() < MESA_SETTLED_TOGETHER
                && let Some((_, user)) = due.pop_front_if(|(at, _)| *at <= now)
            {
                let taken = if nth == last {
                    self.taken.remove(&user)
                } else {
                    self.taken.get(&user).cloned()
                };
                // The node where else the user is looks by itself.
                if is_here(&user) {
                    let known = users.entry(user).or_default();
                    *known = known.take().or(taken);
                }
            }
        }

        users.into_iter().collect()
    }
}

/// A message that has gone to nodes: its id in the stream, and its fields.
type SentEntry = (String, Vec<(String, Vec<u8>)>);

/// Appends the list `more` to the list `all`, both as texts.
fn join(all: &mut Vec<u8>, more: &[u8]) {
    if all.pop().is_some() {
        all.push(b',');
        all.extend_from_slice(more.get(1..).unwrap_or_default());
    } else {
        all.extend_from_slice(more);
    }
}

/// What the task of an app knows between its rounds.
#[derive(Debug)]
struct Round {
    /// Redis may have lost who is here, or this node which portals are there.
    has_missed: bool,
    /// Nodes that had users and no lease at the last look.
    suspects: Vec<NodeId>,
    /// Rounds in which Redis had another number of users here than there are.
    differs: u32,
    /// Users whom the last node had left to dispatchers may not be back yet.
    may_be_parked: bool,
}

impl Round {
    fn first() -> Self {
        Self {
            // Nothing is known of portals yet.
            has_missed: true,
            suspects: Vec::new(),
            differs: 0,
            may_be_parked: false,
        }
    }
}

impl Mesa {
    /// Looks after the users of this node in Redis, and after those of nodes that have gone, until the runtime ends. No app waits for
    /// another: what Redis refuses of one may hold that one up for minutes. Runs on a `LocalSet`.
    pub(super) async fn run_maintenance(self: Arc<Self>) {
        let apps = self.all().map(|mesa| self.clone().maintain(mesa.app));
        run_all(apps).await;
    }

    async fn maintain(self: Arc<Self>, app: AppId) {
        let Some((mesa, cluster)) = self.in_redis(app) else {
            return;
        };

        let mut ticks = tokio::time::interval(MESA_TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let every = self.limits().node_lease / 5;
        let (mut checked, mut round) = (None::<Instant>, Round::first());
        let mut missed = cluster.missed.clone();

        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Ok(()) = missed.changed() => round.has_missed = true,
            }

            let is_due = checked.is_none_or(|checked| checked.elapsed() >= every);
            let maintained = self.maintain_app(mesa, cluster, &mut round, is_due);
            match maintained.await {
                Ok(()) => round.has_missed = false,
                Err(error) => {
                    tracing::debug!(%error, "the users of Mesa's programs in Redis are not up to date");
                }
            }

            if is_due {
                checked = Some(Instant::now());
            }
        }
    }

    async fn maintain_app(
        &self,
        mesa: &MesaApp,
        cluster: &ClusterHandles,
        round: &mut Round,
        is_due: bool,
    ) -> Result<(), BusError> {
        if mesa.has_sync() {
            self.look_again(mesa, cluster).await?;
        }

        // Taken before the work, so that a debt that is noted in between is not forgotten.
        if std::mem::take(&mut mesa.users.lock().owes) {
            let put_back = self.put_back_unknown(mesa, cluster).await;
            mesa.users.lock().owes |= put_back.is_err();
            put_back?;
        }

        round.may_be_parked |= round.has_missed && mesa.is_full();
        // A node that leaves may have just left them to dispatchers itself.
        if round.may_be_parked && self.phase.get() != Phase::Draining {
            round.may_be_parked = !self.restore(mesa, cluster).await?;
        }

        if round.has_missed {
            self.read_portals(mesa, cluster).await?;
            self.announce_users(mesa, cluster).await?;
        }
        if is_due {
            self.check_users(mesa, cluster, round).await?;
        }
        Ok(())
    }

    /// Takes what was stored for users who had come already, and delivers it.
    async fn look_again(&self, mesa: &MesaApp, cluster: &ClusterHandles) -> Result<(), BusError> {
        let mut slice = TimeSlice::begin();
        loop {
            // First, so that what the last look has found is not found again.
            self.send_looked(mesa, cluster).await?;
            let due = {
                let users = &mut *mesa.users.lock();
                let here = &users.here;
                users.looks.take_due(|user| here.contains_key(user))
            };

            if due.is_empty() {
                return Ok(());
            }

            let keys = cluster.keys(mesa.app);
            let names = vec![keys.aside(), mesa.undelivered.clone()];
            let users = due.iter().map(|(user, _)| arg(user));
            let args = users.chain([self.look_field("")]).collect();

            let found = match cluster.bus.eval(&LOOK, &keys.home, names, args).await {
                Ok(found) => found,
                Err(error) => {
                    // Redis may have carried it out.
                    mesa.users.lock().looks.unanswered = due;
                    return Err(error);
                }
            };

            let lists: Vec<Vec<u8>> = redis::from_redis_value(found).unwrap_or_default();
            for ((user, taken), list) in due.into_iter().zip(lists) {
                slice.rest().await;
                if !list.is_empty() {
                    let again = self
                        .deliver_late(mesa, &user, &list, taken.as_deref())
                        .await;
                    mesa.users.lock().looks.scan.push_back((user, again));
                }
            }
        }
    }

    /// Names what a look of this node has set aside for a user, as if it were for a connection: the node that reaps this one stores
    /// it again.
    fn look_field(&self, user: &str) -> Bytes {
        let nobody = ConnectionId {
            node: self.id(),
            shard: u8::MAX,
            slot: 0,
            nonce: 0,
        };
        self.field(nobody, user)
    }

    /// Has Redis know what became of what the last look has found.
    async fn send_looked(&self, mesa: &MesaApp, cluster: &ClusterHandles) -> Result<(), BusError> {
        let keys = cluster.keys(mesa.app);
        let send = |(user, again): &(SmolStr, Bytes)| {
            let names = vec![mesa.undelivered.clone(), keys.aside(), keys.nodes()];
            let args = vec![
                arg(user),
                self.look_field(user),
                keys.prefix(),
                cluster.bus.channel(&mesa.settled).into(),
                again.clone(),
            ];
            cluster.bus.eval(&LOOKED, &keys.home, names, args)
        };

        let sending: Vec<_> = {
            let users = mesa.users.lock();
            users.looks.scan.iter().map(send).collect()
        };

        for sent in sending {
            sent.await?;
            mesa.users.lock().looks.scan.pop_front();
        }

        Ok(())
    }

    /// Delivers what a dispatcher has stored for a user who had come already. Returns what is to be stored again, since the user has
    /// gone in the meantime, or nothing.
    async fn deliver_late(
        &self,
        mesa: &MesaApp,
        user: &SmolStr,
        list: &[u8],
        taken: Option<&[u8]>,
    ) -> Bytes {
        let text = String::from_utf8_lossy(list);
        // It read the list before that was taken, and wrote it back with more.
        let taken = taken.and_then(|taken| str::from_utf8(taken).ok());
        let rest = taken.and_then(|taken| mesa::without_taken(&text, taken));
        let text = rest.as_deref().unwrap_or(&text);
        let Some(messages) = mesa::stored(text) else {
            self.app(mesa.app).metrics.dispatch_malformed.inc();
            return Bytes::new();
        };

        let before = mesa.users.lock().change(user);
        for message in &messages {
            let data = message.d.unwrap_or(serde_json::value::RawValue::NULL);
            let Ok(event) = Event::new(message.name(), Data::Json(data)) else {
                self.app(mesa.app).metrics.dispatch_malformed.inc();
                continue;
            };
            let target = Target::users(vec![user.to_string()]);
            let frame = self.encode(mesa.app, &event);
            if self.place(mesa.app, &frame, target).await.is_err() {
                self.app(mesa.app).metrics.dispatch_lost.inc();
            }
        }

        let is_open = user_connections(&self.hub, mesa.app, user) > 0;
        if !is_open || mesa.users.lock().change(user) != before {
            return text.to_owned().into();
        }
        Bytes::new()
    }

    /// Sees whether Redis knows the users here, and takes away those of nodes that have gone.
    async fn check_users(
        &self,
        mesa: &MesaApp,
        cluster: &ClusterHandles,
        round: &mut Round,
    ) -> Result<(), BusError> {
        let keys = cluster.keys(mesa.app);
        let names = vec![
            keys.nodes(),
            keys.users(self.id()),
            cluster.bus.key(&Topic::Nodes, "leases"),
            keys.seen(),
            keys.known(),
        ];

        let args = vec![self.node_name()];
        let answer = cluster.bus.eval(&CHECK, &keys.home, names, args).await?;
        let Ok((is_known, listed, dead, has_known)) =
            redis::from_redis_value::<(bool, usize, Vec<String>, bool)>(answer)
        else {
            return Ok(());
        };

        let here = mesa.users.lock().here.len();
        // Some may be on their way to Redis, or from it.
        round.differs = if listed == here { 0 } else { round.differs + 1 };
        if (here > 0 && !is_known) || round.differs > 1 {
            round.differs = 0;
            self.announce_users(mesa, cluster).await?;
        }

        if has_known && !mesa.is_full() && cluster.membership.leads(mesa.app) {
            self.clean(mesa, cluster).await?;
        }

        // A node that has just begun has users before it has a lease.
        let dead: Vec<NodeId> = dead.iter().filter_map(|id| id.parse().ok()).collect();
        let suspects = std::mem::replace(&mut round.suspects, dead);
        if cluster.membership.leads(mesa.app) {
            for node in suspects {
                if round.suspects.contains(&node) && node != self.id() {
                    self.reap_users(mesa, cluster, node).await?;
                }
            }
        }

        Ok(())
    }

    /// Takes away the users of a node that has gone, and stores what has not reached them: what went to the node since it was there
    /// last, and what their clients have not confirmed.
    async fn reap_users(
        &self,
        mesa: &MesaApp,
        cluster: &ClusterHandles,
        node: NodeId,
    ) -> Result<(), BusError> {
        let keys = cluster.keys(mesa.app);
        let mut seen = redis::cmd("HGET");
        seen.arg(keys.seen()).arg(node.to_string());
        let seen = cluster.bus.command(&keys.home, seen).await?;
        let seen: Option<String> = redis::from_redis_value(seen).unwrap_or_default();

        // In steps, so that Redis is not held for long by one script.
        loop {
            let names = vec![mesa.connected.clone(), keys.nodes(), keys.users(node)];
            let args = vec![
                node.to_string().into(),
                keys.prefix(),
                mesa.exact(),
                MESA_SETTLED_TOGETHER.to_string().into(),
            ];
            let reaped = cluster.bus.eval(&REAP, &keys.home, names, args).await?;
            if redis::from_redis_value::<usize>(reaped).unwrap_or(0) == 0 {
                break;
            }
        }

        // From the newest to the oldest: each comes before what is stored.
        if mesa.has_sync() {
            self.store_sent(mesa, cluster, node, seen.as_deref().unwrap_or("-"))
                .await?;
        }

        self.put_back_all(mesa, cluster, node, |_| true).await?;
        // Only now: until then the next round begins again.
        let mut forget = redis::cmd("SREM");
        forget.arg(keys.nodes()).arg(node.to_string());
        cluster.bus.command(&keys.home, forget).await?;

        // After it, or a round that begins again would store everything that the node has ever been sent.
        let mut forget = redis::cmd("HDEL");
        forget.arg(keys.seen()).arg(node.to_string());
        cluster.bus.command(&keys.home, forget).await?;
        tracing::info!(%node, app = %self.app(mesa.app).name, "the users of a node that has gone are no longer connected");

        Ok(())
    }

    /// Stores messages that went to `dead`, and to no node that is alive, from the time `since` on.
    async fn store_sent(
        &self,
        mesa: &MesaApp,
        cluster: &ClusterHandles,
        dead: NodeId,
        since: &str,
    ) -> Result<(), BusError> {
        let (lists, from) = self.read_sent(mesa, cluster, dead, since).await?;
        self.give_back_lists(mesa, lists).await;

        if from != since {
            // If what follows fails, only the rest is stored the next time.
            let keys = cluster.keys(mesa.app);
            let mut seen = redis::cmd("HSET");
            seen.arg(keys.seen()).arg(dead.to_string()).arg(from);
            cluster.bus.command(&keys.home, seen).await?;
        }

        Ok(())
    }

    /// Reads the messages of [`Mesa::store_sent`], as a list for each user; returns them, and from where on a later reading
    /// finds others.
    async fn read_sent(
        &self,
        mesa: &MesaApp,
        cluster: &ClusterHandles,
        dead: NodeId,
        since: &str,
    ) -> Result<(AHashMap<String, Vec<u8>>, String), BusError> {
        let keys = cluster.keys(mesa.app);
        let mut alive: Vec<String> = cluster
            .membership
            .alive()
            .map(|node| node.to_string())
            .collect();
        alive.push(self.id().to_string());
        let dead = dead.to_string();
        let node_of = |place: &String| place.split(':').next().unwrap_or_default().to_owned();
        let mut lists: AHashMap<String, Vec<u8>> = AHashMap::new();
        let (mut from, mut slice) = (since.to_owned(), TimeSlice::begin());

        loop {
            let mut range = redis::cmd("XRANGE");
            range
                .arg(keys.sent())
                .arg(&from)
                .arg("+")
                .arg("COUNT")
                .arg(MESA_SENT_PAGE);

            let page = cluster.bus.command(&keys.home, range).await?;
            let page: Vec<SentEntry> = redis::from_redis_value(page).unwrap_or_default();
            let Some((last, _)) = page.last() else { break };
            from = format!("({last}");

            for (_, fields) in &page {
                slice.rest().await;
                let [(_, held), (_, list)] = &fields[..] else {
                    continue;
                };

                let held: Vec<UserAtNodes> = serde_json::from_slice(held).unwrap_or_default();
                for (user, nodes) in held {
                    let nodes: Vec<String> = nodes.iter().map(node_of).collect();
                    let is_remote = |node: &String| *node != dead && alive.contains(node);
                    let is_lost = nodes.contains(&dead) && !nodes.iter().any(is_remote);
                    if is_lost {
                        join(lists.entry(user).or_default(), list);
                    }
                }
            }
        }

        Ok((lists, from))
    }

    /// Stores a list for each user, and waits until all are stored.
    async fn give_back_lists(&self, mesa: &MesaApp, lists: AHashMap<String, Vec<u8>>) {
        let mut bytes = 0;
        for (user, list) in lists {
            bytes += list.len();
            if bytes > MESA_GIVEN_BACK_TOGETHER {
                // There may be more than is to wait at the same time.
                self.given_back(mesa).await;
                bytes = list.len();
            }

            let one = GivenBack {
                user: user.into(),
                list: list.into(),
                goes_to: GoesTo::Front,
            };
            self.give_back(mesa, one);
        }

        self.given_back(mesa).await;
    }

    /// Stores again what was set aside for connections of `node` for which `is_lost` is true.
    async fn put_back_all(
        &self,
        mesa: &MesaApp,
        cluster: &ClusterHandles,
        node: NodeId,
        is_lost: impl Fn(ConnectionId) -> bool,
    ) -> Result<(), BusError> {
        let keys = cluster.keys(mesa.app);
        let mut cursor = Some(0_u64);
        while let Some(from) = cursor {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(keys.aside())
                .arg(from)
                .arg("MATCH")
                .arg(format!("{node} *"))
                .arg("COUNT")
                .arg(MESA_SETTLED_TOGETHER);

            let answer = cluster.bus.command(&keys.home, scan).await?;
            let Ok((next, page)) = redis::from_redis_value::<(u64, Vec<(String, Vec<u8>)>)>(answer)
            else {
                return Ok(());
            };

            cursor = Some(next).filter(|next| *next > 0);
            for (field, _) in page {
                let mut parts = field.splitn(3, ' ').skip(1);
                let (Some(id), Some(user)) = (parts.next(), parts.next()) else {
                    continue;
                };
                if id.parse().is_ok_and(&is_lost) {
                    put_back(mesa, cluster, user, arg(&field)).await?;
                }
            }
        }

        Ok(())
    }

    /// Has Redis know who is here, and nobody else: it may have lost that, or have missed who went.
    async fn announce_users(
        &self,
        mesa: &MesaApp,
        cluster: &ClusterHandles,
    ) -> Result<(), BusError> {
        let keys = cluster.keys(mesa.app);
        let all: Vec<SmolStr> = mesa.users.lock().here.keys().cloned().collect();
        let mut slice = TimeSlice::begin();

        for some in all.chunks(MESA_SETTLED_TOGETHER) {
            let announced = {
                // As long as it is held, nobody goes.
                let mut users = mesa.users.lock();
                let mut args = vec![
                    self.node_name(),
                    users.changes.to_string().into(),
                    mesa.exact(),
                ];

                let here = some.iter().filter(|user| users.here.contains_key(*user));
                args.extend(here.map(|user| arg(user)));
                if mesa.has_sync() {
                    for user in some {
                        users.looks.after(user);
                    }
                }

                let names = vec![
                    mesa.connected.clone(),
                    keys.nodes(),
                    keys.users(self.id()),
                    keys.known(),
                ];

                cluster.bus.eval(&ANNOUNCE, &keys.home, names, args)
            };

            announced.await?;
            slice.rest().await;
        }

        let mut cursor = Some(0_u64);
        while let Some(from) = cursor {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(keys.users(self.id()))
                .arg(from)
                .arg("COUNT")
                .arg(MESA_SETTLED_TOGETHER);
            let answer = cluster.bus.command(&keys.home, scan).await?;

            let Ok((next, page)) = redis::from_redis_value::<(u64, Vec<(String, String)>)>(answer)
            else {
                return Ok(());
            };

            cursor = Some(next).filter(|next| *next > 0);
            let users = mesa.users.lock();
            for (user, _) in page {
                if !users.here.contains_key(user.as_str()) {
                    self.gone(mesa.app, &user);
                }
            }
        }

        self.put_back_unknown(mesa, cluster).await
    }

    /// Stores again what was set aside for connections of this node that do not have it, or are gone.
    async fn put_back_unknown(
        &self,
        mesa: &MesaApp,
        cluster: &ClusterHandles,
    ) -> Result<(), BusError> {
        self.put_back_all(mesa, cluster, self.id(), |id| {
            !mesa.users.lock().has_stored(id)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_joined_as_texts() {
        let mut all = Vec::new();
        for list in ["[1.0]", "[{},2]", "[3]"] {
            join(&mut all, list.as_bytes());
        }
        assert_eq!(all, b"[1.0,{},2,3]");
    }

    #[test]
    fn a_user_is_looked_after_as_often_as_that_is_set_and_forgotten_then() {
        let mut looks = Looks::default();
        let user = SmolStr::from("ann");
        looks.after(&user);
        looks.note_taken(&user, b"[1]".to_vec());
        assert!(looks.take_due(|_| true).is_empty(), "not yet");
        let past = Instant::now();
        looks.due[0].iter_mut().for_each(|(at, _)| *at = past);
        let expected = vec![(user.clone(), Some(b"[1]".to_vec()))];
        assert_eq!(looks.take_due(|_| true), expected);
        looks.due[1].iter_mut().for_each(|(at, _)| *at = past);
        assert_eq!(looks.take_due(|_| true), expected);
        assert!(looks.take_due(|_| true).is_empty() && looks.taken.is_empty());

        // Redis answered after the last look.
        looks.note_taken(&user, b"[1]".to_vec());
        looks.due[1].iter_mut().for_each(|(at, _)| *at = past);
        assert_eq!(looks.take_due(|_| true), expected);
        assert!(looks.taken.is_empty());
    }

    #[test]
    fn a_look_that_was_not_answered_is_made_again_before_any_other() {
        let mut looks = Looks::default();
        looks.once("ann");
        looks.due[0]
            .iter_mut()
            .for_each(|(at, _)| *at = Instant::now());
        let lost: Vec<Due> = vec![("bob".into(), Some(b"[1]".to_vec()))];
        looks.unanswered = lost.clone();
        assert_eq!(looks.take_due(|_| false), lost, "wherever he is now");
        let others: Vec<Due> = vec![("ann".into(), None)];
        assert_eq!(looks.take_due(|_| true), others);
    }
}
