//! The script that decides who is alive and who leads, on a real Redis with a simulated clock.

use std::collections::BTreeMap;

use proptest::{
    prelude::*,
    test_runner::{Config as Runs, TestRunner},
};

use crate::redis::{RedisServer, Reply, Resp};

/// How long a lease is, in ms of the simulated clock.
const LENGTH: u64 = 5000;
/// Time between two looks at what is due.
const STEP: u64 = 100;
/// For how many ms after a node left its members are awaited elsewhere.
const RESUME_WINDOW: &str = "1000";
/// Where the simulated clock stands.
const CLOCK: &str = "clock";
const KEYS: [&str; 9] = [
    "leases", "leader", "nodes", "reaping", "renewals", "reaped", "left", "stated", "serves",
];
/// Apps that every node serves.
const APPS: usize = 4;

/// The script as nodes run it, but for its clock.
fn script(script: &str) -> String {
    let clock = "redis.call('TIME')";
    assert_eq!(script.matches(clock).count(), 1);
    script.replace(clock, &format!("redis.call('LRANGE', '{CLOCK}', 0, 1)"))
}

/// What happens to the cluster.
#[derive(Clone, Copy, Debug)]
enum Happening {
    /// Time passes, in steps.
    Wait(u64),
    /// A node comes.
    Start,
    /// A node of version 1 comes.
    StartOld,
    /// A node ends without a word.
    Crash(usize),
    /// A node gives its lease up and ends.
    Leave(usize),
    /// A node does nothing for so many steps.
    Pause(usize, u64),
    /// Redis answers nobody for so many steps.
    Outage(u64),
    /// The clock of Redis jumps, by ms.
    Jump(i64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (1u64..60).prop_map(Happening::Wait),
        2 => Just(Happening::Start),
        1 => Just(Happening::StartOld),
        2 => (0usize..8).prop_map(Happening::Crash),
        1 => (0usize..8).prop_map(Happening::Leave),
        2 => (0usize..8, 1u64..120).prop_map(|(node, steps)| Happening::Pause(node, steps)),
        2 => (1u64..150).prop_map(Happening::Outage),
        1 => (-20_000i64..20_000).prop_map(Happening::Jump),
    ]
}

#[derive(Debug)]
struct SimulatedNode {
    name: String,
    /// Time between two renewals; a slow one's is over half a lease.
    period: u64,
    came: u64,
    due: u64,
    crashed: Option<u64>,
    paused_until: u64,
    /// When it last could not act though Redis was there.
    idle: Option<u64>,
    /// It has never held a lease, or others know that it is dead.
    is_unknown: bool,
    was_reaped: bool,
    /// What its last renewal returned of who leads, and when that was.
    view: Option<View>,
    known: Known,
    is_of_version_1: bool,
}

impl SimulatedNode {
    fn is_slow(&self) -> bool {
        self.period > LENGTH / 2
    }
}

/// What a node keeps of its renewals, as `node::cluster::leases` does.
#[derive(Debug, Default)]
struct Known {
    digest: String,
    held: Vec<String>,
    left: Vec<String>,
    stated: Vec<String>,
    /// The last renewal left it out.
    was_left_out: bool,
    /// What the clock of Redis showed at the last renewal, when that was, and until when nobody was taken for dead then.
    renewed: Option<(u64, u64, String)>,
}

/// What a node goes by to know which apps it leads, as `node::cluster::lead` does.
#[derive(Debug)]
struct View {
    began: u64,
    leads: Leads,
}

#[derive(Debug)]
enum Leads {
    /// All apps: it is of version 1.
    All,
    /// By app, with how long each of these nodes waits until it leads.
    ByApp(Vec<(usize, u64)>),
    Nothing,
}

impl View {
    /// Whether `own` leads `app` at `now`.
    fn has(&self, own: usize, app: usize, now: u64) -> bool {
        let rank = |node: usize| ((node * 7 + 3) * (app + 5) % 11, node);
        let may_lead = |wait: u64| now >= self.began + wait;
        now < self.began + LENGTH
            && match &self.leads {
                Leads::All => true,
                Leads::Nothing => false,
                Leads::ByApp(waits) => {
                    let ready = waits.iter().filter(|(_, wait)| may_lead(*wait));
                    let first = ready.map(|(node, _)| *node).max_by_key(|node| rank(*node));
                    first == Some(own)
                }
            }
    }
}

struct World {
    redis: Resp,
    script: String,
    /// The same as nodes of version 1 run it.
    script_1: String,
    /// Since the beginning, by a clock that never jumps.
    now: u64,
    /// How far the clock of Redis is from that.
    skew: i64,
    down_until: u64,
    /// Since when nothing but crashes has happened.
    calm_since: u64,
    /// When the clock of Redis has jumped.
    jumped: u64,
    /// By how much since the last renewal, in all.
    jumped_by: i64,
    /// Until when the clock of Redis may be ahead or behind without anyone's notice.
    unnoticed_until: u64,
    /// When any node last renewed, also by the clock of Redis.
    renewed: (u64, u64),
    /// Until when nodes may be taken for dead that were kept from renewing, as the clock of Redis went back by as much as Redis was
    /// away: nobody notices that either.
    may_lapse_until: u64,
    /// Until when the lease of a slow node may end before it renews, as Redis was away for less than anyone notices, or its clock
    /// jumped by less.
    slow_may_lapse_until: u64,
    nodes: Vec<SimulatedNode>,
}

impl World {
    fn new(redis: Resp) -> Self {
        let mut world = Self {
            redis,
            script: script(include_str!("../../src/node/cluster/renew.lua")),
            script_1: script(include_str!("../data/wire/v1/renew.lua")),
            now: 0,
            skew: 1_700_000_000_000,
            down_until: 0,
            calm_since: 0,
            jumped: 0,
            jumped_by: 0,
            unnoticed_until: 0,
            renewed: (0, 0),
            may_lapse_until: 0,
            slow_may_lapse_until: 0,
            nodes: Vec::new(),
        };
        world.redis.call(&["FLUSHALL"]).unwrap();
        (0..3).for_each(|_| world.start(false));
        world
    }

    fn start(&mut self, is_of_version_1: bool) {
        let id = self.nodes.len();
        self.nodes.push(SimulatedNode {
            name: format!("node{id} name{id}"),
            // Every fourth one is slow, and well within its lease.
            period: if id % 4 == 3 {
                LENGTH * 62 / 100
            } else {
                LENGTH / 5
            },
            came: self.now,
            due: self.now,
            crashed: None,
            paused_until: 0,
            idle: None,
            is_unknown: true,
            was_reaped: false,
            view: None,
            known: Known::default(),
            is_of_version_1,
        });
    }

    fn happen(&mut self, happening: Happening) -> Result<(), TestCaseError> {
        let count = self.nodes.len();
        match happening {
            Happening::Wait(steps) => {
                for _ in 0..steps {
                    self.step()?;
                }
            }
            Happening::Start if count < 8 => self.start(false),
            Happening::StartOld if count < 8 => {
                self.start(true);
                if self.now < self.jumped + 2 * LENGTH {
                    // It may be the first to see that the clock has jumped, and hides it from the others.
                    self.unnoticed_until = self.now + 2 * LENGTH;
                }
            }
            Happening::Start | Happening::StartOld => {}
            Happening::Crash(node) => {
                let now = self.now;
                self.nodes[node % count].crashed.get_or_insert(now);
            }
            Happening::Leave(node) => self.leave(node % count),
            Happening::Pause(node, steps) => {
                self.nodes[node % count].paused_until = self.now + steps * STEP;
            }
            Happening::Outage(steps) => self.down_until = self.now + steps * STEP,
            Happening::Jump(by) => {
                self.skew += by;
                self.jumped_by += by;
                let by = self.jumped_by;
                (self.calm_since, self.jumped) = (self.now, self.now);
                if (0..=LENGTH as i64 / 2).contains(&by) {
                    self.slow_may_lapse_until = self.now + LENGTH;
                }
                let is_old = |node: &SimulatedNode| node.is_of_version_1 && node.crashed.is_none();
                if by.unsigned_abs() < LENGTH / 2 || self.nodes.iter().any(is_old) {
                    // So short a jump is taken for time that has passed, and nodes of version 1 hide it from the others.
                    self.unnoticed_until = self.now + 2 * LENGTH;
                }
            }
        }
        Ok(())
    }

    /// A node gives its lease up. One that does not reach Redis, and one of version 1, ends without a word instead.
    fn leave(&mut self, at: usize) {
        let is_down = self.now < self.down_until;
        let (now, clock) = (self.now, self.clock().to_string());
        let node = &mut self.nodes[at];
        let ends_now = node.crashed.replace(node.crashed.unwrap_or(now)).is_none();
        let has_held = !node.is_unknown && now >= node.paused_until;
        if ends_now && has_held && !is_down && !node.is_of_version_1 {
            let (lease, id) = (node.name.clone(), format!("node{at}"));
            self.redis.call(&["HSET", "left", &id, &clock]).unwrap();
            self.redis.call(&["ZREM", "leases", &lease]).unwrap();
        }
    }

    /// What the clock of Redis shows.
    fn clock(&self) -> u64 {
        self.now.strict_add_signed(self.skew)
    }

    fn step(&mut self) -> Result<(), TestCaseError> {
        self.now += STEP;
        let is_down = self.now < self.down_until;
        if is_down {
            self.calm_since = self.now;
        }
        // Those that were late come in any order: here the youngest first, as after an outage.
        for at in (0..self.nodes.len()).rev() {
            let (now, node) = (self.now, &mut self.nodes[at]);
            if node.crashed.is_some() {
                continue;
            }
            if now < node.paused_until {
                node.idle = Some(now);
                continue;
            }
            if now < node.due {
                continue;
            }
            if is_down {
                if node.is_slow() {
                    self.slow_may_lapse_until = now + LENGTH;
                }
                continue;
            }
            self.renew(at)?;
            self.expect_one_leader()?;
        }
        self.expect_one_leader()?;
        self.expect_dead_are_reaped()
    }

    /// No two nodes lead an app, and one does if all is well.
    fn expect_one_leader(&self) -> Result<(), TestCaseError> {
        if self.now < self.unnoticed_until {
            return Ok(());
        }
        let acts = |node: &&(usize, &SimulatedNode)| {
            node.1.crashed.is_none() && self.now >= node.1.paused_until
        };
        let nodes: Vec<_> = self.nodes.iter().enumerate().collect();
        let nodes: Vec<_> = nodes.iter().filter(acts).collect();
        for app in 0..APPS {
            let leads = |(at, node): &&&(usize, &SimulatedNode)| {
                let view = node.view.as_ref();
                view.is_some_and(|view| view.has(*at, app, self.now))
            };
            let leaders: Vec<usize> = nodes.iter().filter(leads).map(|(at, _)| *at).collect();
            prop_assert!(
                leaders.len() <= 1,
                "{leaders:?} lead app {app} at {}: {:?}",
                self.now,
                self.nodes
            );
            let is_calm = self.nodes.iter().all(|node| {
                let since = |at: u64| self.now.saturating_sub(at) > 4 * LENGTH;
                node.crashed.is_none_or(since) && node.idle.is_none_or(since)
            });
            // A single slow node takes itself for an outage, and the dead for living.
            let keeps = |node: &SimulatedNode| !node.is_slow() && self.now - node.came > 4 * LENGTH;
            let is_kept = nodes.iter().any(|(_, node)| keeps(node));
            if is_calm && is_kept && self.now - self.calm_since > 4 * LENGTH {
                prop_assert!(
                    !leaders.is_empty(),
                    "nobody leads app {app} at {}",
                    self.now
                );
            }
        }
        Ok(())
    }

    fn renew(&mut self, at: usize) -> Result<(), TestCaseError> {
        let clock = self.clock();
        let (renewed, by_clock) = self.renewed;
        if self.now - renewed > LENGTH / 2 {
            if (by_clock..=by_clock + LENGTH / 2).contains(&clock) {
                self.may_lapse_until = self.now + 2 * LENGTH;
                self.unnoticed_until = self.may_lapse_until;
            } else {
                // That is noticed.
                self.slow_may_lapse_until = 0;
            }
        }
        self.renewed = (self.now, clock);
        self.jumped_by = 0;
        let node = &mut self.nodes[at];
        node.due = self.now + node.period;
        node.is_unknown = false;
        let (seconds, micros) = (
            (clock / 1000).to_string(),
            (clock % 1000 * 1000).to_string(),
        );
        self.redis.call(&["DEL", CLOCK]).unwrap();
        self.redis
            .call(&["RPUSH", CLOCK, &seconds, &micros])
            .unwrap();
        let (lease, length, outlives) = (node.name.clone(), LENGTH.to_string(), "600000");
        let is_of_version_1 = node.is_of_version_1;
        let script = if is_of_version_1 {
            &self.script_1
        } else {
            &self.script
        };
        let keys = if is_of_version_1 { &KEYS[..7] } else { &KEYS };
        let number = keys.len().to_string();
        let mut words = vec!["EVAL", script, &number];
        words.extend(keys);
        words.extend([lease.as_str(), &length, outlives]);
        let since = node.known.renewed.as_ref().map(|(clock, at, grace)| {
            let [clock, passed] = [*clock, self.now - at].map(|time| time.to_string());
            [clock, passed, grace.clone()]
        });
        if !is_of_version_1 {
            words.extend(["2", "a b", RESUME_WINDOW, &node.known.digest]);
            words.extend(since.iter().flatten().map(String::as_str));
        }
        let answer = self.redis.call(&words).unwrap();
        if !is_of_version_1 {
            self.learn(at, &answer)?;
        }
        let node = &mut self.nodes[at];
        node.view = Some(View {
            began: self.now,
            leads: Self::leads(&answer, &lease, &node.known),
        });
        let dead = texts(&answer.items()[2]);
        for id in dead {
            let dead: usize = id.strip_prefix("node").unwrap().parse().unwrap();
            self.reap(dead)?;
        }
        Ok(())
    }

    /// Has a node take in what its renewal has returned. Then it knows what is in Redis, also of what was left out.
    fn learn(&mut self, at: usize, answer: &Reply) -> Result<(), TestCaseError> {
        let [held, left, stated] = [1, 4, 5].map(|item| texts(&answer.items()[item]));
        let digest = answer.items()[8].text();
        let grace = answer.items()[9].number().unwrap().to_string();
        let renewed = Some((self.clock(), self.now, grace));
        let known = &mut self.nodes[at].known;
        known.renewed = renewed;
        let is_same = digest == known.digest;
        if is_same {
            prop_assert!(held.is_empty() && left.is_empty() && stated.is_empty());
        } else {
            *known = Known {
                digest,
                held,
                left,
                stated,
                was_left_out: false,
                renewed: known.renewed.take(),
            };
        }
        known.was_left_out = is_same;

        let mut read = |words: &[&str]| texts(&self.redis.call(words).unwrap());
        let mut leases = read(&["ZRANGE", "leases", "0", "-1"]);
        let stated = pairs(&read(&["HGETALL", "stated"]));
        let left = pairs(&read(&["HGETALL", "left"]));
        let known = &self.nodes[at].known;
        let ids = known.held.iter().map(|lease| id_of(lease).to_owned());
        let known_stated = ids.zip(known.stated.iter().cloned());
        let known_stated: BTreeMap<String, String> = known_stated
            .filter(|(_, stated)| !stated.is_empty())
            .collect();
        let mut held = known.held.clone();
        held.sort();
        leases.sort();
        prop_assert_eq!(held, leases);
        prop_assert_eq!(known_stated, stated);
        prop_assert_eq!(pairs(&known.left), left);
        Ok(())
    }

    /// What a renewal says of who leads, for a node that knows this.
    fn leads(answer: &Reply, lease: &str, known: &Known) -> Leads {
        let leader = answer.items()[0].text();
        if leader != "by-app" {
            return if leader == lease {
                Leads::All
            } else {
                Leads::Nothing
            };
        }
        let Some(now) = answer.items().get(6) else {
            return Leads::Nothing;
        };
        let now: u64 = now.number().unwrap().try_into().unwrap();
        let wait = |(lease, stated): (&String, &String)| {
            let id = id_of(lease).strip_prefix("node")?.parse().ok()?;
            let from: u64 = stated.split_once(' ')?.1.parse().ok()?;
            Some((id, from.saturating_sub(now)))
        };
        let stated = known.held.iter().zip(&known.stated);
        Leads::ByApp(stated.filter_map(wait).collect())
    }

    /// No node is taken for dead that could have renewed whenever Redis was there.
    fn reap(&mut self, dead: usize) -> Result<(), TestCaseError> {
        let now = self.now;
        let node = &mut self.nodes[dead];
        let was_away = node.idle.is_some_and(|idle| now - idle < 2 * LENGTH);
        let may_lapse =
            now < self.may_lapse_until || node.is_slow() && now < self.slow_may_lapse_until;
        prop_assert!(
            node.crashed.is_some() || was_away || may_lapse,
            "{node:?} was taken for dead at {now}"
        );
        node.is_unknown = true;
        node.was_reaped = true;
        let id = format!("node{dead}");
        self.redis.call(&["SREM", "nodes", &id]).unwrap();
        self.redis.call(&["HDEL", "reaping", &id]).unwrap();
        Ok(())
    }

    /// A node that has crashed is taken for dead in time, whoever else is slow.
    fn expect_dead_are_reaped(&self) -> Result<(), TestCaseError> {
        let is_kept = self.nodes.iter().any(|node| {
            let since = self.now - node.came.max(node.idle.unwrap_or(0));
            node.crashed.is_none() && since > 4 * LENGTH && !node.is_slow()
        });
        if !is_kept || self.now - self.calm_since < 4 * LENGTH {
            return Ok(());
        }
        for node in &self.nodes {
            let since = node.crashed.map_or(0, |crashed| self.now - crashed);
            prop_assert!(
                since < 4 * LENGTH || node.is_unknown,
                "{node:?} crashed {since} ms ago and is not taken for dead"
            );
        }
        Ok(())
    }

    /// Commands that Redis has carried out, those of scripts too.
    fn commands(&mut self) -> u64 {
        let stats = self.redis.call(&["INFO", "commandstats"]).unwrap().text();
        let calls = stats.lines().filter_map(|line| {
            let (_, calls) = line.split_once(":calls=")?;
            calls.split(',').next()?.parse::<u64>().ok()
        });
        calls.sum()
    }
}

fn id_of(lease: &str) -> &str {
    lease.split(' ').next().unwrap()
}

fn texts(reply: &Reply) -> Vec<String> {
    reply.items().iter().map(Reply::text).collect()
}

/// Fields with their values.
fn pairs(texts: &[String]) -> BTreeMap<String, String> {
    let pairs = texts.chunks_exact(2);
    pairs
        .map(|pair| (pair[0].clone(), pair[1].clone()))
        .collect()
}

#[test]
fn the_living_are_never_taken_for_dead_the_dead_always_are_and_one_node_leads() {
    let redis = RedisServer::start().unwrap();
    let runs = Runs {
        cases: 128,
        failure_persistence: None,
        ..Runs::default()
    };
    let story = prop::collection::vec(happening(), 1..40);
    TestRunner::new(runs)
        .run(&story, |story| {
            let mut world = World::new(Resp::connect(redis.address()).unwrap());
            world.happen(Happening::Wait(30))?;
            for happening in story {
                world.happen(happening)?;
            }
            world.happen(Happening::Wait(8 * LENGTH / STEP))
        })
        .unwrap();
}

/// The story of two nodes that were away with Redis, and of a third that comes first when Redis is back.
#[test]
fn a_new_node_that_comes_first_after_an_outage_takes_nobody_for_dead() {
    let redis = RedisServer::start().unwrap();
    let mut world = World::new(Resp::connect(redis.address()).unwrap());
    for happening in [
        Happening::Wait(30),
        Happening::Outage(100),
        Happening::Wait(99),
        Happening::Start,
        Happening::Wait(100),
    ] {
        world.happen(happening).unwrap();
    }
    assert!(world.nodes.iter().all(|node| !node.was_reaped));
}

/// How many apps are led by a node once Redis has been back for a moment. `so_many` steps it was away, and its clock jumps meanwhile.
fn led_after(redis: &RedisServer, so_many: u64, jump: i64) -> usize {
    let mut world = World::new(Resp::connect(redis.address()).unwrap());
    for happening in [
        Happening::Wait(60),
        Happening::Outage(so_many),
        Happening::Jump(jump),
        Happening::Wait(so_many + 5),
    ] {
        world.happen(happening).unwrap();
    }
    let leads = |app: &usize| {
        let mut nodes = world.nodes.iter().enumerate();
        nodes.any(|(at, node)| node.view.as_ref().unwrap().has(at, *app, world.now))
    };
    (0..APPS).filter(leads).count()
}

#[test]
fn apps_are_led_again_as_soon_as_nobody_can_lead_them_by_an_old_view() {
    let redis = RedisServer::start().unwrap();
    assert_eq!(led_after(&redis, 2 * LENGTH / STEP, 0), APPS);
    // A clock that jumps does not tell when that is.
    for jump in [20_000, -20_000] {
        assert_eq!(led_after(&redis, 2 * LENGTH / STEP, jump), 0, "{jump}");
    }
}

/// How many commands a renewal takes with so many nodes, once nothing changes any more. It returns nothing of them then.
fn commands_of_a_renewal(redis: &RedisServer, nodes: usize) -> u64 {
    let mut world = World::new(Resp::connect(redis.address()).unwrap());
    while world.nodes.len() < nodes {
        world.start(false);
    }
    world.happen(Happening::Wait(4 * LENGTH / STEP)).unwrap();
    let was_left_out = |node: &SimulatedNode| node.known.was_left_out;
    assert!(world.nodes.iter().all(was_left_out), "{:?}", world.nodes);
    let before = world.commands();
    world.renew(0).unwrap();
    let took = world.commands() - before;
    assert!(world.nodes[0].known.was_left_out);
    took
}

#[test]
fn a_renewal_among_many_nodes_costs_redis_no_more_than_among_few() {
    let redis = RedisServer::start().unwrap();
    let few = commands_of_a_renewal(&redis, 3);
    assert_eq!(commands_of_a_renewal(&redis, 60), few);
}

#[test]
fn nodes_learn_who_has_left_and_that_it_is_forgotten_after_an_hour() {
    let redis = RedisServer::start().unwrap();
    let mut world = World::new(Resp::connect(redis.address()).unwrap());
    for happening in [
        Happening::Wait(30),
        Happening::Leave(2),
        Happening::Wait(30),
    ] {
        world.happen(happening).unwrap();
    }
    assert!(world.nodes[2].was_reaped);
    let left = |node: &SimulatedNode| pairs(&node.known.left).into_keys().collect::<Vec<_>>();
    let of_others = |world: &World| world.nodes[..2].iter().map(left).collect::<Vec<_>>();
    assert_eq!(of_others(&world), [["node2"], ["node2"]]);
    for happening in [Happening::Jump(3_600_000), Happening::Wait(30)] {
        world.happen(happening).unwrap();
    }
    assert!(of_others(&world).iter().all(Vec::is_empty));
}

/// A node of version 1 leads all apps, the clock of Redis goes back, and the node crashes: what it has written of its lead would
/// last for as long as the clock went back.
#[test]
fn a_lead_of_version_1_does_not_outlast_its_node_because_the_clock_went_back() {
    let redis = RedisServer::start().unwrap();
    let mut world = World::new(Resp::connect(redis.address()).unwrap());
    for happening in [
        Happening::Wait(30),
        Happening::StartOld,
        Happening::Outage(60),
        Happening::Wait(70),
    ] {
        world.happen(happening).unwrap();
    }
    let leads =
        |node: &SimulatedNode| matches!(&node.view, Some(view) if matches!(view.leads, Leads::All));
    assert!(leads(&world.nodes[3]), "{:?}", world.nodes);
    for happening in [
        Happening::Jump(-19_000),
        Happening::Wait(1),
        Happening::Crash(3),
        Happening::Wait(8 * LENGTH / STEP),
    ] {
        world.happen(happening).unwrap();
    }
}
