//! Leaving well: every client is sent away at a moment of its own, while HTTP goes on.

use std::time::{Duration, Instant};

use crate::{
    close::{self, Close},
    hub::SlotRef,
    limits::{DRAIN_RECONNECT, DRAIN_SPACING, duration::short},
    node::{Node, Phase},
    protocol::native,
    time_slice::TimeSlice,
};

const STEP: Duration = Duration::from_millis(10);

/// Readiness fails, `drain_delay` passes, then clients get their `bye` and are closed with 4200, spread over a window.
/// Returns when the last has gone, or when `drain_timeout` is over.
pub(crate) async fn drain(node: &Node) {
    let runtime_config = node.runtime_config_owned();
    let config = &runtime_config.config;
    let deadline = Instant::now() + config.drain_timeout;
    // A balancer needs the delay to see it. Until then it sends clients here, which are served as
    // ever.
    node.enter(Phase::Leaving);
    tracing::info!(delay = %short(config.drain_delay()), "draining: readiness now fails");
    tokio::time::sleep(config.drain_delay()).await;
    node.enter(Phase::Draining);
    let clients = tenants(node).await;
    let left = deadline.saturating_duration_since(Instant::now());
    let window = window(left, clients.len());
    tracing::info!(clients = clients.len(), window = %short(window), "disconnecting clients");
    send_away(node, &clients, window).await;

    while node.occupied() > 0 && Instant::now() < deadline {
        // Those that came while the others were sent away.
        send_away(node, &tenants(node).await, Duration::ZERO).await;
        tokio::time::sleep(STEP).await;
    }

    match node.occupied() {
        0 => tracing::info!("all clients have gone"),
        left => tracing::warn!(left, "clients did not go in time and are cut off"),
    }
}

/// The clients that were not sent away yet.
async fn tenants(node: &Node) -> Vec<(usize, SlotRef)> {
    let mut found = Vec::new();
    let mut slice = TimeSlice::begin();
    for (at, shard) in node.hub.shards().iter().enumerate() {
        let mut next = Some(0);
        while let Some(from) = next {
            let (some, rest) = shard.lock(|table| table.tenants(from));
            found.extend(some.into_iter().map(|slot| (at, slot)));
            next = rest;
            slice.rest().await;
        }
    }
    found
}

async fn send_away(node: &Node, clients: &[(usize, SlotRef)], window: Duration) {
    let began = Instant::now();
    let close = Close::new(close::DRAINING, "draining");
    let spread = reconnect_spread(node.config.limits.resume_window).as_millis() as u64;
    let mut slice = TimeSlice::begin();

    // Each at a moment of its own, so that the nodes that take them over are not asked for all of
    // them together.
    for (n, &(shard, at)) in clients.iter().enumerate() {
        while began.elapsed() < moment(n, clients.len(), window) {
            tokio::time::sleep(STEP).await;
        }
        // Each also comes back after a time of its own.
        let jitter = uuid::Uuid::new_v4().as_u128() as u64 % spread;
        let bye = native::bye(close.code, &close.reason, jitter);
        node.hub
            .shard(shard)
            .lock_and_wake(|table| table.send_away(at, bye, &close));
        slice.rest().await;
    }
}

/// Over how long the clients' return is spread: they are to be back while they can still resume.
fn reconnect_spread(resume_window: Duration) -> Duration {
    if resume_window.is_zero() {
        return DRAIN_RECONNECT;
    }
    DRAIN_RECONNECT
        .min(resume_window / 2)
        .max(Duration::from_millis(1))
}

/// Over how long `clients` are sent away, of the time that is `left`: half of it at most, since the other half is for
/// those that are slow to answer.
fn window(left: Duration, clients: usize) -> Duration {
    (left / 2).min(DRAIN_SPACING.saturating_mul(u32::try_from(clients).unwrap_or(u32::MAX)))
}

/// When the `n`th of `clients` is sent away.
fn moment(n: usize, clients: usize, window: Duration) -> Duration {
    window.mul_f64(n as f64 / clients as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_back_while_they_can_resume() {
        assert_eq!(reconnect_spread(Duration::ZERO), DRAIN_RECONNECT);
        assert_eq!(reconnect_spread(Duration::from_mins(1)), DRAIN_RECONNECT);
        let short = Duration::from_secs(1);
        assert_eq!(reconnect_spread(short), short / 2);
    }

    #[test]
    fn goodbyes_are_spread_evenly_over_a_window_that_leaves_time_to_answer() {
        assert_eq!(
            window(Duration::from_secs(20), 1000),
            Duration::from_secs(1)
        );
        let window = window(Duration::from_secs(20), 1_000_000);
        assert_eq!(window, Duration::from_secs(10));
        let moments: Vec<Duration> = (0..4).map(|n| moment(n, 4, window)).collect();
        assert_eq!(moments, [0.0, 2.5, 5.0, 7.5].map(Duration::from_secs_f64));
    }
}
