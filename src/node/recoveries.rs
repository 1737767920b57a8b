//! The names by which clients come back that know no ids of connections, as those of Socket.IO.
//!
//! A client goes by the name that it got with its first connection, `<id>.<device>`, for as long as each of its connections goes on
//! for the one before. So the name stands for the first connection until another one goes on for that, and then for the newest.
//! The node of that connection keeps this in memory. If there are other nodes, it is in Redis as well: the client may come back to
//! any of them.
//!
//! In Redis a name has one key, `fanfare:<namespace>:<app>:user.recovery:<id of the first connection>`. Its value is JSON, [`Record`].
//! It is there while the connection lives, for [`RECOVERY_STORED`] at most if its node does not end it, and afterwards as long as the
//! client may come back.

use std::{
    collections::VecDeque,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use ahash::AHashMap;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::{Cluster, Node};
use crate::{
    bus::{Health, Script, Topic},
    hub::has_room,
    id::{AppId, ConnectionId},
    limits::{RECOVERY_GRACE, RECOVERY_STORED, SCAN_CHUNK},
};

/// The character between the id and the device of the first connection in a name.
const BETWEEN: char = '.';

/// The version of records that this node writes. It reads no other: the name then stands for what this node knows of it.
const VERSION: u8 = 1;

/// Keeps a name for a while whose connection has ended, unless it stands for another one by then.
static END: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local now = redis.call('GET', KEYS[1])
         if now and now ~= ARGV[1] then return 0 end
         redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
         return 1",
    )
});

/// The connection that a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    /// Its id.
    pub(crate) id: SmolStr,
    /// Its device.
    pub(crate) device: SmolStr,
    /// How many connections of the client went before. Of two that a name is said to stand for, the one with more is newer.
    before: u64,
}

impl Named {
    /// The first connection of the client that goes by `name`. Nothing if no client was ever given such a name.
    fn first(name: &str) -> Option<(ConnectionId, Self)> {
        let (id, device) = name.split_once(BETWEEN)?;
        let first = Self {
            id: id.into(),
            device: device.into(),
            before: 0,
        };
        Some((id.parse().ok()?, first))
    }

    /// The connection with this `id` and `device`, which goes on for this one.
    pub(crate) fn next(&self, id: ConnectionId, device: &str) -> Self {
        Self {
            id: id.to_string().into(),
            device: device.into(),
            before: self.before + 1,
        }
    }
}

/// The name of a client whose first connection is the one with this `id` and `device`.
pub(crate) fn first_name(id: ConnectionId, device: &str) -> String {
    format!("{id}{BETWEEN}{device}")
}

/// What Redis has of a name.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    v: u8,
    /// The whole name, which proves that a client is the one that was given it.
    name: String,
    #[serde(flatten)]
    named: Named,
}

/// The names for which this node has had the last connection.
#[derive(Debug)]
pub(crate) struct Recoveries(Mutex<Names>);

#[derive(Debug)]
struct Names {
    by_name: AHashMap<(AppId, Box<str>), Known>,
    /// Names whose connections have ended, in that order: until when they are held.
    ended: VecDeque<(Instant, AppId, Box<str>)>,
    /// By `AppId`, how many of `ended` are an app's.
    of_apps: Box<[usize]>,
}

#[derive(Debug)]
struct Known {
    named: Named,
    /// Nothing while the connection lives.
    until: Option<Instant>,
}

impl Recoveries {
    pub(super) fn new(apps: usize) -> Self {
        Self(Mutex::new(Names {
            by_name: AHashMap::new(),
            ended: VecDeque::new(),
            of_apps: vec![0; apps].into(),
        }))
    }

    fn find(&self, app: AppId, name: &str) -> Option<Named> {
        let names = self.0.lock();
        let known = names.by_name.get(&(app, name.into()))?;
        Some(known.named.clone())
    }

    /// Lets `name` stand for a connection that lives.
    fn note(&self, app: AppId, name: &str, named: Named) {
        let known = Known { named, until: None };
        self.0.lock().by_name.insert((app, name.into()), known);
    }

    /// The connection `named` has ended: its name is held until `until`, if there is room for what the app has lost.
    fn end(&self, app: AppId, name: &str, named: &Named, until: Instant) {
        let names = &mut *self.0.lock();
        let key = (app, name.into());
        let Some(known) = names.by_name.get_mut(&key) else {
            return;
        };
        // The client has come back: the name means another connection now.
        if known.named != *named {
            return;
        }
        if !has_room(&names.of_apps, app) {
            names.by_name.remove(&key);
            return;
        }

        known.until = Some(until);
        names.of_apps[usize::from(app.0)] += 1;
        names.ended.push_back((until, app, key.1));
    }

    /// Forgets some names whose clients have not come back in time; false if there are no more of them.
    pub(super) fn forget_some(&self, now: Instant) -> bool {
        let names = &mut *self.0.lock();
        for _ in 0..SCAN_CHUNK {
            let over = names.ended.pop_front_if(|(until, ..)| *until <= now);
            let Some((until, app, name)) = over else {
                return false;
            };
            names.of_apps[usize::from(app.0)] -= 1;
            let key = (app, name);
            // Its client may have come back, and gone again.
            let known = names.by_name.get(&key);
            if known.is_some_and(|known| known.until == Some(until)) {
                names.by_name.remove(&key);
            }
        }

        true
    }
}

/// A name stands for a connection of this node as long as this is held, and afterwards as long as its client may come back.
#[derive(Debug)]
pub(crate) struct Standing {
    node: Arc<Node>,
    app: AppId,
    name: Box<str>,
    named: Named,
}

impl Drop for Standing {
    fn drop(&mut self) {
        let after = self.node.config.limits.resume_window + RECOVERY_GRACE;
        let recoveries = &self.node.protocols.recoveries;
        recoveries.end(self.app, &self.name, &self.named, Instant::now() + after);
        if let Some((cluster, home, value)) = self.in_redis() {
            let keys = vec![key(cluster, &home)];
            // It is sent by the call itself, and nobody waits for the answer.
            drop(
                cluster
                    .bus
                    .eval(&END, &home, keys, vec![value, millis(after)]),
            );
        }
    }
}

impl Standing {
    /// Where the name is in Redis, and what it stands for there.
    fn in_redis(&self) -> Option<(&Cluster, Topic, Bytes)> {
        let cluster = self.node.cluster.as_ref()?;
        let (first, _) = Named::first(&self.name)?;
        let record = Record {
            v: VERSION,
            name: self.name.to_string(),
            named: self.named.clone(),
        };
        // Texts and numbers always serialize.
        let value = serde_json::to_vec(&record).unwrap_or_default();
        Some((cluster, home_of(self.app, first), value.into()))
    }
}

impl Node {
    /// Lets `name` stand for the connection `named` of this node.
    pub(crate) fn stands_for(self: &Arc<Self>, app: AppId, name: &str, named: Named) -> Standing {
        self.protocols.recoveries.note(app, name, named.clone());
        let standing = Standing {
            node: self.clone(),
            app,
            name: name.into(),
            named,
        };

        if let Some((cluster, home, value)) = standing.in_redis() {
            let mut set = redis::cmd("SET");
            set.arg(key(cluster, &home)).arg(&*value);
            set.arg("PX").arg(&*millis(RECOVERY_STORED));
            // If it fails, the client may find nothing on another node, and begins afresh there.
            drop(cluster.bus.command(&home, set));
        }

        standing
    }

    /// The connection that `name` stands for. Nothing if no client was ever given such a name.
    pub(crate) async fn named(&self, app: AppId, name: &str) -> Option<Named> {
        let (id, first) = Named::first(name)?;
        let elsewhere = self.named_in_redis(app, name, id).await;
        // What this node knows may be older: the client can have been at another one since.
        let known = [
            Some(first),
            self.protocols.recoveries.find(app, name),
            elsewhere,
        ];
        known.into_iter().flatten().max_by_key(|named| named.before)
    }

    async fn named_in_redis(&self, app: AppId, name: &str, first: ConnectionId) -> Option<Named> {
        let cluster = self.cluster.as_ref()?;
        // A client must not wait for a Redis that is away.
        if !matches!(cluster.bus.health(), Health::Up) {
            return None;
        }
        let home = home_of(app, first);
        let mut get = redis::cmd("GET");
        get.arg(key(cluster, &home));
        let found = cluster.bus.command(&home, get).await.ok()?;
        let found = redis::from_redis_value::<Option<Vec<u8>>>(found).ok()??;
        let record: Record = serde_json::from_slice(&found).ok()?;
        (record.v == VERSION && record.name == name).then_some(record.named)
    }
}

/// Any topic's home would do; this spreads the names over a cluster.
fn home_of(app: AppId, first: ConnectionId) -> Topic {
    Topic::User(app, first.to_string().into())
}

fn key(cluster: &Cluster, home: &Topic) -> Vec<u8> {
    cluster.bus.key(home, "recovery")
}

fn millis(time: Duration) -> Bytes {
    time.as_millis().to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LOST_MAX;

    const APPS: [AppId; 2] = [AppId(0), AppId(1)];

    fn named(before: u64) -> Named {
        Named {
            id: "id".into(),
            device: "device".into(),
            before,
        }
    }

    fn held(recoveries: &Recoveries) -> usize {
        recoveries.0.lock().by_name.len()
    }

    #[test]
    fn a_name_is_kept_while_its_connection_lives_and_for_a_while_after_that() {
        let recoveries = Recoveries::new(2);
        let now = Instant::now();
        let later = now + Duration::from_mins(1);
        recoveries.note(APPS[0], "ann", named(1));
        assert!(!recoveries.forget_some(later));
        assert_eq!(recoveries.find(APPS[0], "ann"), Some(named(1)));
        assert_eq!(recoveries.find(APPS[1], "ann"), None, "of another app");

        recoveries.end(APPS[0], "ann", &named(1), later);
        recoveries.forget_some(now);
        assert_eq!(recoveries.find(APPS[0], "ann"), Some(named(1)));
        recoveries.forget_some(later);
        assert_eq!(held(&recoveries), 0);
        assert_eq!(*recoveries.0.lock().of_apps, [0, 0]);
    }

    #[test]
    fn a_client_that_comes_back_keeps_its_name_whenever_its_older_connection_ends() {
        let recoveries = Recoveries::new(1);
        let now = Instant::now();
        let app = APPS[0];
        recoveries.note(app, "ann", named(1));
        recoveries.end(app, "ann", &named(1), now);
        recoveries.note(app, "ann", named(2));
        recoveries.note(app, "bob", named(1));
        recoveries.note(app, "bob", named(2));
        recoveries.end(app, "bob", &named(1), now);
        recoveries.forget_some(now);
        for name in ["ann", "bob"] {
            assert_eq!(recoveries.find(app, name), Some(named(2)));
        }
    }

    #[test]
    fn clients_of_one_app_push_out_no_names_of_another() {
        let recoveries = Recoveries::new(2);
        let now = Instant::now();
        let come_and_go = |app, name: &str| {
            recoveries.note(app, name, named(1));
            recoveries.end(app, name, &named(1), now);
        };
        recoveries.note(APPS[0], "alive", named(1));
        for n in 0..2 * LOST_MAX {
            come_and_go(APPS[0], &n.to_string());
        }
        come_and_go(APPS[1], "ann");
        assert!(recoveries.find(APPS[1], "ann").is_some());
        assert!(recoveries.find(APPS[0], "alive").is_some());
        assert!(held(&recoveries) <= LOST_MAX + 2);

        while recoveries.forget_some(now) {}
        assert_eq!(held(&recoveries), 1);
    }

    /// As each version has written it: a node reads all of them.
    const RECORDED: [&str; 1] = [
        r#"{"v":1,"name":"00000000000000000000000004.d0","id":"00000000000000000000000005","device":"d1","before":2}"#,
    ];

    #[test]
    fn recorded_versions_are_read() {
        for text in RECORDED {
            let record: Record = serde_json::from_str(text).unwrap();
            let (id, first) = Named::first(&record.name).unwrap();
            assert_eq!(first_name(id, &first.device), record.name);
            assert_eq!((&*record.named.device, record.named.before), ("d1", 2));
        }
        assert!(Named::first("nonsense.d").is_none());
    }
}
