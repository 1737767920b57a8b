//! Whether the nodes list as members those who are there, and nobody else.

use std::{collections::BTreeSet, io, net::SocketAddr, thread, time::Duration};

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
    /// Seconds from the failure until every list was right; nothing if none was by the end.
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

/// Looks until every list is right, at most until `until`; `failed_at` is when the failure began.
pub(super) fn look(scene: &Scene, present: &Present, failed_at: u64, until: u64) -> Presence {
    loop {
        let there: BTreeSet<String> = present.ids().into_iter().collect();
        let mut presence = Presence::default();
        for node in (0..NODES).filter(|&node| !scene.is_dead(node)) {
            for number in 0..CHANNELS {
                let Ok(listed) = members(scene.nodes[node], &channel(number)) else {
                    presence.unanswered += 1;
                    continue;
                };
                presence.ghosts = presence.ghosts.max(listed.difference(&there).count());
                presence.unlisted = presence.unlisted.max(there.difference(&listed).count());
            }
        }
        let now = clock::now();
        if presence.ghosts + presence.unlisted + presence.unanswered == 0 {
            presence.right_after = Some(now.saturating_sub(failed_at) as f64 / 1e9);
        }
        if presence.right_after.is_some() || now > until {
            return presence;
        }
        thread::sleep(PAUSE);
    }
}

fn members(node: SocketAddr, channel: &str) -> io::Result<BTreeSet<String>> {
    let (status, body) = get(node, &format!("/v1/channels/{channel}/members?limit=1000"), ANSWER)?;
    if status != 200 {
        return Err(io::Error::other(format!("status {status}")));
    }
    let page: Page = serde_json::from_slice(&body)?;
    Ok(page.members.into_iter().map(|member| member.id).collect())
}
