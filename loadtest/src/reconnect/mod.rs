//! `reconnect`: the clients of one of three nodes come back to the other two when it ends, while events go on.
//!
//! Each is in a channel with history that it joined, and in one that a function put it into. It is *back* when it has its welcome,
//! and *current* when it has every event that it missed.

mod args;
mod client;
mod fleet;
mod rig;

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

pub(crate) use self::args::Reconnect;
use self::{
    client::Client,
    fleet::Fleet,
    rig::{SECRET, Sender, Watcher},
};
use crate::{
    clock,
    error::{Doing, Result},
    node::Node,
    process::Process,
    redis::{Folder, RedisServer},
    report::{Machine, command_line},
    scale::Usage,
};

/// How long all may take to be where they are to be.
const PATIENCE: Duration = Duration::from_mins(1);

/// How long events go on before the node ends.
const CALM: u64 = 2_000_000_000;

/// How long the last events may take to arrive.
const AFTERMATH: u64 = 2_000_000_000;

/// The channel that all are put into.
const PUT: &str = "put";

/// What came of it once.
#[derive(Debug, Serialize)]
struct Outcome {
    clients: usize,
    /// Seconds from the node's end until half of the clients, nearly all and all of them are back.
    back: Option<[f64; 3]>,
    /// The same until they are current.
    current: Option<[f64; 3]>,
    /// How many resumed their connections.
    resumed: usize,
    /// How many are in the channel that they were put into.
    put: usize,
    /// Events that a client never got.
    lost: u64,
    /// Events that the node which they were sent to refused.
    refused: u64,
    /// Handshakes and connections beyond those to the node that ended which failed.
    failed: u64,
    /// How many joined, left and were updated, as one member of a channel heard, and how many clients are in it.
    noticed: [u64; 3],
    in_channel: usize,
    /// Commands of Redis, CPU seconds of Redis and of the other nodes, from the node's end until the end of the watch.
    commands: f64,
    redis_cpu: f64,
    nodes_cpu: f64,
}

/// What was found, for programs.
#[derive(Serialize)]
struct Findings<'f> {
    command: Vec<String>,
    machine: Machine,
    outcomes: &'f [Outcome],
}

/// Ends nodes; true if everyone was back and current, and nothing was lost.
pub(crate) fn reconnect(args: &Reconnect) -> Result<bool> {
    let outcomes: Vec<Outcome> = (0..args.repeat)
        .map(|_| once(args))
        .collect::<Result<_>>()?;
    if args.json {
        let findings = Findings {
            command: command_line(),
            machine: Machine::here(),
            outcomes: &outcomes,
        };
        let json = serde_json::to_string_pretty(&findings).map_err(std::io::Error::from);
        println!("{}", json.doing("cannot write JSON")?);
    } else {
        outcomes.iter().for_each(print);
    }
    Ok(outcomes.iter().all(Outcome::is_well))
}

fn once(args: &Reconnect) -> Result<Outcome> {
    let redis = RedisServer::start().doing("cannot start Redis")?;
    let folder = Folder::new("reconnect").doing("cannot make a folder")?;
    let configuration = rig::write_configuration(folder.path())?;
    let start = |_| Node::start(&args.server_binary, &configuration, &redis.url());
    let mut nodes: Vec<Node> = (0..3).map(start).collect::<Result<_>>()?;
    nodes.iter().try_for_each(Node::await_ready)?;

    let channels: Vec<String> = (0..args.channels).map(|n| format!("room-{n}")).collect();
    let client = |n: usize| Client::new(n, channels[n % channels.len()].clone());
    let clients = (0..args.connections).map(client).collect();
    let mut fleet = Fleet::new(clients, vec![nodes[0].address], SECRET)?;
    fleet.until("they are connected", PATIENCE, all_are_in)?;
    rig::call(
        &nodes[1],
        "/v1/join",
        &json!({"channel": PUT, "filter": "true"}),
    )?;
    let are_put = |clients: &[Client]| clients.iter().all(|it| it.way.put.is_some());
    fleet.until("they are put into a channel", PATIENCE, are_put)?;
    let watcher = Watcher::start(nodes[2].address, args.connections, &channels[0])?;
    let sender = Sender::start(nodes[1].address, args.rate, channels.clone());
    fleet.work(clock::now() + CALM)?;

    watcher.take();
    fleet.begin();
    let others: Vec<Process> = nodes[1..].iter().map(Node::process).collect();
    let before = Usage::now(&[&redis], &others)?;
    fleet.nodes = nodes[1..].iter().map(|node| node.address).collect();
    let ended: u64 = fleet.clients.iter().map(|client| client.ends).sum();
    let began = clock::now();
    rig::end(&mut nodes[0], args.by)?;
    fleet.work(began + clock::nanos(args.watch))?;
    let used = Usage::now(&[&redis], &others)? - before;

    let refused = sender.stop();
    fleet.work(clock::now() + AFTERMATH)?;
    let clients = &fleet.clients;
    let ways = || clients.iter().map(|client| &client.way);
    let ends: u64 = clients.iter().map(|client| client.ends).sum();
    Ok(Outcome {
        clients: clients.len(),
        back: spread(ways().map(|way| way.back), began),
        current: spread(ways().map(|way| way.current), began),
        resumed: ways().filter(|way| way.is_resumed).count(),
        put: ways().filter(|way| way.put.is_some()).count(),
        lost: lost(clients),
        refused,
        failed: (ends - ended).saturating_sub(clients.len() as u64),
        noticed: watcher.take(),
        in_channel: clients.len().div_ceil(channels.len()),
        commands: used.commands,
        redis_cpu: used.redis.as_secs_f64(),
        nodes_cpu: used.nodes.as_secs_f64(),
    })
}

fn all_are_in(clients: &[Client]) -> bool {
    clients.iter().all(Client::is_in)
}

/// Seconds until half of them, 99 of 100, and all; nothing if one never was.
fn spread(moments: impl Iterator<Item = Option<u64>>, began: u64) -> Option<[f64; 3]> {
    let mut moments: Vec<u64> = moments.collect::<Option<_>>()?;
    moments.sort_unstable();
    let last = moments.len().checked_sub(1)?;
    let at = |part: usize| (moments[last * part / 100].saturating_sub(began)) as f64 / 1e9;
    Some([at(50), at(99), at(100)])
}

/// Events that some client of a channel got, and others of it did not.
fn lost(clients: &[Client]) -> u64 {
    let mut newest = std::collections::HashMap::new();
    for client in clients {
        let newest = newest.entry(&client.channel).or_insert(0);
        *newest = client.last.max(*newest);
    }
    let lost = |client: &Client| client.lost + newest[&client.channel] - client.last;
    clients.iter().map(lost).sum()
}

impl Outcome {
    fn is_well(&self) -> bool {
        self.back.is_some() && self.current.is_some() && self.lost == 0
    }
}

fn print(outcome: &Outcome) {
    let seconds = |times: &Option<[f64; 3]>| match times {
        Some([half, nearly, all]) => format!("{half:.2} s, {nearly:.2} s, {all:.2} s"),
        None => "never".to_owned(),
    };
    let [joined, left, updated] = outcome.noticed;
    println!("{} clients", outcome.clients);
    println!("  back (half, 99 %, all)       {}", seconds(&outcome.back));
    println!(
        "  current (half, 99 %, all)    {}",
        seconds(&outcome.current)
    );
    println!("  resumed                      {}", outcome.resumed);
    println!("  in the channel they were put {}", outcome.put);
    println!(
        "  events lost, refused         {}, {}",
        outcome.lost, outcome.refused
    );
    println!("  connections that failed      {}", outcome.failed);
    println!(
        "  one member of {} heard of    {joined} joined, {left} left, {updated} updated",
        outcome.in_channel
    );
    println!("  commands of Redis            {:.0}", outcome.commands);
    println!(
        "  CPU of Redis, of the nodes   {:.2} s, {:.2} s",
        outcome.redis_cpu, outcome.nodes_cpu
    );
}
