//! A Redis that evicts keys to make room, which nobody should have who stores events in it.

use std::{
    io,
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use super::{figure::Figure, plan::Scene, rig::Happened};
use crate::{
    clock,
    error::{Doing, Result},
    redis::{RedisServer, Resp},
};

/// How long other programs fill it.
const TIME: Duration = Duration::from_secs(4);

/// What there is room for beyond what is there.
const ROOM: u64 = 3 << 20;

/// Bytes of one key of another program, and how many there are.
const VALUE: usize = 10_000;
const KEYS: usize = 2000;

/// Lets another program fill Redis, which has to evict what is there, while every other subscriber is away.
pub(super) fn run(redis: &RedisServer, scene: &Scene) -> Result<Happened> {
    let from = clock::now();
    scene.is_half_away.store(true, Relaxed);
    let evicted = evict(redis);
    scene.is_half_away.store(false, Relaxed);
    let lost = evicted.doing("cannot let Redis evict keys")?;
    Ok(Happened {
        from,
        back: clock::now(),
        figures: vec![Figure::at_least("keys of the nodes evicted", lost, 10)],
        ..Happened::default()
    })
}

/// Fills Redis; answers how many of the nodes' keys were gone at some time.
fn evict(redis: &RedisServer) -> io::Result<usize> {
    let used: u64 = redis.info("used_memory")?.parse().unwrap_or(0);
    redis.set("maxmemory-policy", "allkeys-lru")?;
    redis.set("maxmemory", &(used + ROOM).to_string())?;
    let mut resp = Resp::connect(redis.address())?;
    let value = "x".repeat(VALUE);
    let mut lost = 0;
    let until = Instant::now() + TIME;
    while Instant::now() < until {
        let before = own_keys(&mut resp)?;
        for key in 0..KEYS {
            resp.call(&["SET", &format!("other:{key}"), &value])?;
        }
        let after = own_keys(&mut resp)?;
        lost += before.iter().filter(|key| !after.contains(key)).count();
        thread::sleep(Duration::from_millis(50));
    }
    redis.set("maxmemory", "0")?;
    Ok(lost)
}

fn own_keys(resp: &mut Resp) -> io::Result<Vec<String>> {
    let keys = resp.call(&["KEYS", "fanfare:*"])?;
    Ok(keys.items().iter().map(crate::redis::Reply::text).collect())
}
