//! `cluster`: events to everyone over three nodes that share a Redis, beside the same on one node.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use super::{Setting, titled};
use crate::{
    cli::{Cluster, Common, Kind},
    error::{Doing, Result, failed},
    inspect,
    process::Process,
    publisher::{Aim, Lane, Pace},
    redis::RedisServer,
    report::Findings,
    server::Server,
};

/// Nodes of the cluster.
const NODES: usize = 3;

/// How long a node may take to be ready.
const PATIENCE: Duration = Duration::from_secs(20);

/// Servers with their clients and callers.
struct Group {
    name: &'static str,
    setting: Setting,
    servers: Vec<Server>,
    lanes: Vec<Lane>,
    /// The Redis that they share.
    redis: Option<RedisServer>,
}

/// What one measurement of a group cost.
struct Cost {
    deliveries_per_second: f64,
    micros_per_delivery: f64,
}

/// Runs `cluster`.
pub(crate) fn cluster(args: &Cluster) -> Result<Findings> {
    let common = &args.common;
    if common.target.kind() != Kind::Fanfare || common.target.url.is_some() {
        return failed(
            "cluster starts its servers itself, and only Fanfare's: leave out --server and --url",
        );
    }
    let settings = vec![
        ("connections", args.connections.to_string()),
        ("bytes", common.bytes.to_string()),
        ("under way", args.depth.to_string()),
    ];
    let mut findings = Findings::new("cluster", common, settings);
    let mut one = Group::start(args, "one node", 1, false)?;
    let mut joined = Group::start(args, "one node with Redis", 1, true)?;
    let mut three = Group::start(args, "three nodes", NODES, true)?;
    for group in [&mut one, &mut joined, &mut three] {
        group.setting.warm_up(&group.lanes)?;
    }
    for _ in 0..common.repeat {
        let alone = one.measure(common, &mut findings)?;
        let joined = joined.measure(common, &mut findings)?;
        let three = three.measure(common, &mut findings)?;
        for (name, cost) in [("one node with Redis", joined), ("three nodes", three)] {
            let rate = cost.deliveries_per_second / alone.deliveries_per_second;
            findings.add(
                format!("deliveries a second, {name} over one node"),
                "times",
                rate,
            );
            let cpu = cost.micros_per_delivery / alone.micros_per_delivery;
            findings.add(
                format!("CPU of all nodes per delivery, {name} over one node"),
                "times",
                cpu,
            );
        }
    }
    Ok(findings)
}

impl Group {
    fn start(args: &Cluster, name: &'static str, nodes: usize, has_redis: bool) -> Result<Self> {
        let redis = if has_redis {
            Some(RedisServer::start().doing("cannot start Redis")?)
        } else {
            None
        };
        let mut common = args.common.clone();
        if let Some(redis) = &redis {
            common = common.with_server_arg(&format!("--redis={}", redis.url()));
        }
        let mut setting = Setting::new(usize::from(common.repeat))?;
        let (mut servers, mut fleets) = (Vec::new(), 0..0);
        for node in 0..nodes {
            let server = Server::open(&common)?;
            await_ready(&server)?;
            let count = args.connections / nodes + usize::from(node < args.connections % nodes);
            let which = setting.connect(&common, &server, count, false)?;
            fleets = Range {
                start: 0,
                end: which.end,
            };
            servers.push(server);
        }
        let lane = |server: &Server| Lane {
            name: "events",
            aim: Aim::Everyone,
            pace: Pace::OnAnswer,
            callers: usize::from(args.depth).div_ceil(nodes),
            bytes: common.bytes,
            api: server.api.clone(),
            fleets: fleets.clone(),
        };
        let lanes = servers.iter().map(lane).collect();
        Ok(Self {
            name,
            setting,
            servers,
            lanes,
            redis,
        })
    }

    fn measure(&mut self, common: &Common, findings: &mut Findings) -> Result<Cost> {
        let nodes: Vec<Process> = self
            .servers
            .iter()
            .filter_map(|server| server.process)
            .collect();
        let redis: Vec<Process> = self
            .redis
            .iter()
            .filter_map(RedisServer::id)
            .map(Process)
            .collect();
        let before = (cpu(&nodes)?, cpu(&redis)?);
        let outcome =
            self.setting
                .measure(self.name, &self.lanes, (None, common.duration), findings)?;
        let used = (
            cpu(&nodes)?.saturating_sub(before.0),
            cpu(&redis)?.saturating_sub(before.1),
        );
        let deliveries = outcome.report.deliveries as f64;
        let events = outcome.lanes.iter().map(|lane| lane.sent).sum::<u64>() as f64;
        let cost = Cost {
            deliveries_per_second: deliveries / outcome.seconds,
            micros_per_delivery: used.0.as_secs_f64() * 1e6 / deliveries.max(1.0),
        };
        let mut add = |figure, unit, value| findings.add(titled(self.name, figure), unit, value);
        add("deliveries a second", "", cost.deliveries_per_second);
        add("events a second", "", events / outcome.seconds);
        add(
            "CPU of all nodes per delivery",
            "µs",
            cost.micros_per_delivery,
        );
        if self.redis.is_some() {
            add(
                "CPU of Redis per event",
                "µs",
                used.1.as_secs_f64() * 1e6 / events.max(1.0),
            );
        }
        for lane in &outcome.lanes {
            findings.add_latencies(&titled(self.name, "request to arrival"), &lane.deliveries);
        }
        Ok(cost)
    }
}

/// Processor time of all these processes.
fn cpu(processes: &[Process]) -> Result<Duration> {
    processes.iter().map(|process| process.cpu()).sum()
}

pub(super) fn await_ready(server: &Server) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while let Err(error) = inspect::ready(&server.api) {
        if Instant::now() > until {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
