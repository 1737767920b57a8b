//! A node that gets more messages of others than it has room for: what is dropped, what is asked for again, and when that ends.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use super::{
    failure::Failure,
    figure::Figure,
    node::Node,
    plan::{SECRET, Scene},
    rig::Happened,
    socket::{self, Caller, Heard, WebSocket},
};
use crate::{
    clock,
    error::{Doing, Result, failed},
    redis::{RedisServer, Resp},
    token::Signer,
};

/// Messages of other nodes that may wait on a node.
const ROOM: usize = 100;

/// Events that come to it while it stands still, each a message.
const FLOOD: usize = 3000;

/// Events in one call.
const BATCH: usize = 100;

/// Channels that keep their events and get none: nothing of theirs is dropped.
const QUIET: usize = 30;

/// The number of the client that is in them; beyond those of subscribers.
const CLIENT: usize = 1000;

/// How long a node stands still; shorter than it takes for anyone to notice.
const STILL: Duration = Duration::from_secs(1);

/// How long nothing may have been dropped until it counts as over, and how long that may take.
const REST: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);

/// What the nodes are started with.
pub(super) fn arguments(failure: Failure) -> Vec<String> {
    if failure == Failure::InboxOverflow {
        vec!["--limit".to_owned(), format!("bus_inbox_messages={ROOM}")]
    } else {
        Vec::new()
    }
}

/// Lets the inbox of `node` overflow.
pub(super) fn run(redis: &RedisServer, node: &Node, scene: &Scene) -> Result<Happened> {
    let mut client = quiet_client(node).doing("no client comes into the quiet channels")?;
    let monitor = Resp::connect(redis.address()).doing("cannot watch Redis")?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let is_over = &is_over;
        let watching = scope.spawn(move || scripts_about_quiet_channels(monitor, is_over));
        let from = clock::now();
        let happened = overflow(node, scene);
        // What is asked for after that would be seen too.
        thread::sleep(REST);
        is_over.store(true, Relaxed);
        // Wakes the one who watches.
        let woken = redis.call(&["PING"]).doing("cannot reach Redis");
        let asked = watching
            .join()
            .or_else(|_| failed("a thread of the test panicked"))?;
        woken?;
        let (dropped, gaps, seconds) = happened?;
        let asked = asked.doing("cannot watch Redis")?;
        // It has been read now and then, as clients do.
        while let Heard::Text(_) = client.next() {}
        Ok(Happened {
            from,
            back: clock::now(),
            figures: vec![
                Figure::at_least("dropped", dropped, 1),
                Figure::at_most("asked for in vain", asked, 0),
                Figure::at_most("gaps", gaps, 10),
                Figure::within("ended after", seconds, "s", 5.0),
            ],
            ..Happened::default()
        })
    })
}

/// A client of `node` that is in the quiet channels, and in the one that is flooded.
fn quiet_client(node: &Node) -> io::Result<WebSocket> {
    let token = Signer::new(SECRET).sign(CLIENT);
    let quiet: Vec<String> = (0..QUIET)
        .map(|number| format!("&channel=kept-quiet-{number}"))
        .collect();
    let path = format!(
        "/v1/connect?token={token}&channel=live-flood{}",
        quiet.concat()
    );
    let mut socket = WebSocket::open(node.address, &path, PATIENCE)?;
    let until = Instant::now() + PATIENCE;
    let mut joined = 0;
    while joined <= QUIET {
        match socket.next() {
            Heard::Text(text) => {
                joined += usize::from(text.starts_with(br#"{"op":"joined""#));
            }
            Heard::Nothing if Instant::now() < until => {}
            Heard::Nothing | Heard::Ended => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
    Ok(socket)
}

/// Counts scripts that are about a quiet channel.
fn scripts_about_quiet_channels(mut redis: Resp, is_over: &AtomicBool) -> io::Result<usize> {
    let mut count = 0;
    redis.call(&["MONITOR"])?;
    while !is_over.load(Relaxed) {
        let line = redis.read()?.text().to_ascii_lowercase();
        count += usize::from(line.contains("\"evalsha\"") && line.contains("kept-quiet-"));
    }
    Ok(count)
}

/// Stops the node, floods it, and lets it go on; answers how much it dropped, how many gaps it noted, and how many seconds it was
/// until it dropped nothing more.
fn overflow(node: &Node, scene: &Scene) -> Result<(usize, usize, f64)> {
    let before = Counters::of(node)?;
    node.pause()?;
    let begun = Instant::now();
    let flooded = flood(scene);
    thread::sleep(STILL.saturating_sub(begun.elapsed()));
    node.resume()?;
    flooded.doing("cannot flood a node")?;

    let resumed = Instant::now();
    let (mut last, mut changed) = (Counters::of(node)?, resumed);
    while changed.elapsed() < REST && resumed.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(50));
        let now = Counters::of(node)?;
        if now.dropped != last.dropped {
            changed = Instant::now();
        }
        last = now;
    }
    Ok((
        last.dropped - before.dropped,
        last.gaps - before.gaps,
        (changed - resumed).as_secs_f64(),
    ))
}

fn flood(scene: &Scene) -> io::Result<()> {
    let mut caller = Caller::new(scene.nodes[0], PATIENCE);
    let item = r#"{"call":"send","channel":"live-flood","event":"flood"}"#;
    let body = format!(r#"{{"items":[{}]}}"#, vec![item; BATCH].join(","));
    for _ in 0..FLOOD / BATCH {
        let (status, _) = caller.post("/v1/batch", &body)?;
        if status != 200 {
            return Err(io::Error::other(format!("status {status}")));
        }
    }
    Ok(())
}

/// What a node has counted of what it did not take.
#[derive(Clone, Copy, Debug)]
struct Counters {
    dropped: usize,
    gaps: usize,
}

impl Counters {
    fn of(node: &Node) -> Result<Self> {
        let answer = socket::get(node.address, "/metrics", PATIENCE);
        let (_, body) = answer.doing("cannot read the metrics of a node")?;
        let text = String::from_utf8_lossy(&body);
        let value = |name: &str| -> Result<usize> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let value = line.and_then(|value| value.trim().parse().ok());
            value.map_or_else(|| failed(format!("the metrics have no {name}")), Ok)
        };
        Ok(Self {
            dropped: value("fanfare_bus_dropped_total ")?,
            gaps: value("fanfare_bus_gaps_total ")?,
        })
    }
}
