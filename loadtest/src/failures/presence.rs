//! Whether the nodes list as members those who are there, and nobody else.

use std::{
    collections::BTreeSet, io, net::SocketAddr, ops::Range, sync::atomic::Ordering::Relaxed, thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    plan::{CHANNELS, NODES, Scene, channel},
    socket::get,
    subscriber::Present,
};
use crate::clock;

/// How long a list may take.
const ANSWER: Duration = Duration::from_secs(3);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// What is listed wrongly, over all nodes and channels; the worst list.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Presence {
    /// Members that are listed and not there.
    pub(super) ghosts: usize,
    /// Members that are there and not listed.
    pub(super) unlisted: usize,
    /// Lists that could not be had.
    pub(super) unanswered: usize,
    /// Seconds from the failure until the last list was right that was wrong; nothing if it never was.
    pub(super) right_after: Option<f64>,
}

#[derive(Deserialize)]
struct Page {
    members: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    id: String,
}

impl Presence {
    fn is_right(&self) -> bool {
        self.ghosts + self.unlisted + self.unanswered == 0
    }

    /// Notes when it had become right, given the moments at which it was wrong; `failed_at` is when the failure began.
    pub(super) fn since(mut self, failed_at: u64, wrong: &[u64]) -> Self {
        let last = wrong.iter().max().copied().unwrap_or(failed_at);
        self.right_after = self.is_right().then(|| last.saturating_sub(failed_at) as f64 / 1e9);
        self
    }
}

/// Looks until every list is right, at most until `until`.
pub(super) fn look(scene: &Scene, present: &Present, until: u64) -> Presence {
    loop {
        let presence = look_once(scene, present, 0..CHANNELS, ANSWER);
        if presence.is_right() || clock::now() > until {
            return presence;
        }
        thread::sleep(PAUSE);
    }
}

/// Looks again and again until the scene is over; answers the moments at which a list was wrong. A node that does not
/// answer has no list.
pub(super) fn watch(scene: &Scene, present: &Present) -> Vec<u64> {
    let mut wrong = Vec::new();
    while !scene.is_over.load(Relaxed) {
        // One channel of each kind: all of them would be a load of their own.
        let presence = look_once(scene, present, 0..2, PAUSE);
        if presence.ghosts + presence.unlisted > 0 {
            wrong.push(clock::now());
        }
        thread::sleep(PAUSE);
    }
    wrong
}

fn look_once(scene: &Scene, present: &Present, channels: Range<usize>, patience: Duration) -> Presence {
    let there: BTreeSet<String> = present.ids().into_iter().collect();
    let mut presence = Presence::default();
    for node in (0..NODES).filter(|&node| !scene.is_dead(node)) {
        for number in channels.clone() {
            let Ok(listed) = members(scene.nodes[node], &channel(number), patience) else {
                presence.unanswered += 1;
                continue;
            };
            presence.ghosts = presence.ghosts.max(listed.difference(&there).count());
            presence.unlisted = presence.unlisted.max(there.difference(&listed).count());
        }
    }
    presence
}

fn members(node: SocketAddr, channel: &str, patience: Duration) -> io::Result<BTreeSet<String>> {
    let (status, body) = get(node, &format!("/v1/channels/{channel}/members?limit=1000"), patience)?;
    if status != 200 {
        return Err(io::Error::other(format!("status {status}")));
    }
    let page: Page = serde_json::from_slice(&body)?;
    Ok(page.members.into_iter().map(|member| member.id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_right_after_the_last_moment_at_which_it_was_wrong() {
        let right = Presence::default();
        assert_eq!(right.since(5, &[]).right_after, Some(0.0));
        assert_eq!(right.since(1_000_000_000, &[2_000_000_000, 4_000_000_000]).right_after, Some(3.0));
        let haunted = Presence { ghosts: 1, ..right };
        assert_eq!(haunted.since(5, &[]).right_after, None);
    }
}
