//! Asks a node again and again whether it is ready.

use std::{sync::atomic::Ordering::Relaxed, thread, time::Duration};

use super::{
    plan::Scene,
    socket::get,
    truth::{PIECE, Said, Sayings},
};
use crate::clock;

/// How long an answer may take; a load balancer does not wait for ever either.
const PATIENCE: Duration = Duration::from_millis(500);

/// Samples until the scene is over.
pub(super) fn sample(scene: &Scene, node: usize) -> Sayings {
    let mut sayings = Sayings::new();
    while !scene.is_over.load(Relaxed) {
        let asked = clock::now();
        let said = match get(scene.nodes[node], "/readyz", PATIENCE) {
            Ok((200, body)) if names_a_warning(&body) => Said::Partly,
            Ok((200, _)) => Said::Ready,
            Ok(_) => Said::NotReady,
            Err(_) => Said::Nothing,
        };
        sayings.push((asked, said));
        let next = asked + PIECE;
        thread::sleep(Duration::from_nanos(next.saturating_sub(clock::now())));
    }
    sayings
}

fn names_a_warning(body: &[u8]) -> bool {
    let body: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    body.is_some_and(|body| body.get("warnings").is_some())
}
