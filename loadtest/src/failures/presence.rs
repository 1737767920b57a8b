//! Whether the nodes list as members those who are there, and nobody else.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    ops::Range,
    sync::atomic::Ordering::Relaxed,
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    plan::{CHANNELS, Scene, WATCHED, channel},
    present::Present,
    socket::get,
};
use crate::clock;

/// How long a list may take.
const ANSWER: Duration = Duration::from_secs(3);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// What is listed wrongly in the end, over all nodes and channels, and for how long something was.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Presence {
    /// Members that are listed and not there.
    pub(super) ghosts: usize,
    /// Members that are there and not listed.
    pub(super) unlisted: usize,
    /// Lists that could not be had.
    pub(super) unanswered: usize,
    /// Members that a subscriber takes for there by the notices that it got, and that are not there, or the other way round; of the
    /// subscriber with the most.
    pub(super) misled: usize,
    /// The longest time for which a member was listed after it had gone, in seconds.
    pub(super) ghost_seconds: f64,
    /// The longest time for which a member that was there was not on some list, in seconds.
    pub(super) unlisted_seconds: f64,
    /// The longest time for which a subscriber took someone for a member who had gone, in seconds.
    pub(super) misled_seconds: f64,
}

/// For how long something was wrong, while it was looked at again and again.
#[derive(Debug, Default)]
pub(super) struct Watched {
    ghost: u64,
    misled: u64,
    /// Since when a member that is there was missing from some list each time.
    unlisted: BTreeMap<String, u64>,
    longest_unlisted: u64,
}

/// One look at all lists: who was there before it and after it, who had gone before it, who was listed, and whom subscribers take
/// for members.
struct Look {
    there: BTreeSet<String>,
    gone: BTreeMap<String, u64>,
    lists: Vec<BTreeSet<String>>,
    views: Vec<BTreeSet<String>>,
    unanswered: usize,
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
        self.ghosts + self.unlisted + self.unanswered + self.misled == 0
    }

    /// Adds for how long something was wrong before.
    pub(super) fn after(self, watched: &Watched) -> Self {
        Self {
            ghost_seconds: watched.ghost as f64 / 1e9,
            unlisted_seconds: watched.longest_unlisted as f64 / 1e9,
            misled_seconds: watched.misled as f64 / 1e9,
            ..self
        }
    }
}

impl Watched {
    fn note(&mut self, now: u64, look: &Look) {
        let longest = |lists: &[BTreeSet<String>]| {
            let gone = lists.iter().flatten().filter_map(|id| look.gone.get(id));
            gone.min().map_or(0, |since| now.saturating_sub(*since))
        };
        self.ghost = self.ghost.max(longest(&look.lists));
        self.misled = self.misled.max(longest(&look.views));
        let is_missing = |id: &&String| look.lists.iter().any(|list| !list.contains(*id));
        let missing: BTreeSet<&String> = look.there.iter().filter(is_missing).collect();
        self.unlisted.retain(|id, _| missing.contains(id));
        for id in missing {
            let since = self.unlisted.entry(id.clone()).or_insert(now);
            self.longest_unlisted = self.longest_unlisted.max(now - *since);
        }
    }
}

/// Looks until every list is right, at most until `until`.
pub(super) fn look(scene: &Scene, present: &Present, until: u64) -> Presence {
    loop {
        let look = look_once(scene, present, 0..CHANNELS, ANSWER);
        let worst = |lists: &[BTreeSet<String>],
                     wrong: fn(&BTreeSet<String>, &BTreeSet<String>) -> usize| {
            let wrong = lists.iter().map(|list| wrong(list, &look.there));
            wrong.max().unwrap_or(0)
        };
        let presence = Presence {
            ghosts: worst(&look.lists, |list, there| list.difference(there).count()),
            unlisted: worst(&look.lists, |list, there| there.difference(list).count()),
            misled: worst(&look.views, |view, there| {
                view.symmetric_difference(there).count()
            }),
            unanswered: look.unanswered,
            ..Presence::default()
        };
        if presence.is_right() || clock::now() > until {
            return presence;
        }
        thread::sleep(PAUSE);
    }
}

/// Looks again and again until the scene is over. A node that does not answer has no list.
pub(super) fn watch(scene: &Scene, present: &Present) -> Watched {
    let mut watched = Watched::default();
    while !scene.is_over.load(Relaxed) {
        // One channel of each kind: all of them would be a load of their own.
        let look = look_once(scene, present, 0..WATCHED, PAUSE);
        watched.note(clock::now(), &look);
        thread::sleep(PAUSE);
    }
    watched
}

fn look_once(scene: &Scene, present: &Present, channels: Range<usize>, patience: Duration) -> Look {
    let before: BTreeSet<String> = present.ids().into_iter().collect();
    let gone = present.gone();
    let (mut lists, mut unanswered) = (Vec::new(), 0);
    for node in scene.living() {
        for number in channels.clone().filter(|&number| scene.is_for_all(number)) {
            match members(node, &channel(number), patience) {
                Ok(listed) => lists.push(listed),
                Err(_) => unanswered += 1,
            }
        }
    }
    let views = present.views();
    // Who came or went meanwhile may be listed or not.
    let there = present
        .ids()
        .into_iter()
        .filter(|id| before.contains(id))
        .collect();
    Look {
        there,
        gone,
        lists,
        views,
        unanswered,
    }
}

fn members(node: SocketAddr, channel: &str, patience: Duration) -> io::Result<BTreeSet<String>> {
    let (status, body) = get(
        node,
        &format!("/v1/channels/{channel}/members?limit=1000"),
        patience,
    )?;
    if status != 200 {
        return Err(io::Error::other(format!("status {status}")));
    }
    let page: Page = serde_json::from_slice(&body)?;
    Ok(page.members.into_iter().map(|member| member.id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(there: &[&str], gone: &[(&str, u64)], lists: &[&[&str]]) -> Look {
        let set = |ids: &[&str]| ids.iter().map(ToString::to_string).collect();
        let gone = gone.iter().map(|&(id, at)| (id.to_owned(), at)).collect();
        Look {
            there: set(there),
            gone,
            lists: lists.iter().map(|list| set(list)).collect(),
            views: Vec::new(),
            unanswered: 0,
        }
    }

    #[test]
    fn a_ghost_counts_from_when_its_client_went() {
        let mut watched = Watched::default();
        watched.note(50, &look(&["a"], &[], &[&["a", "new"]]));
        assert_eq!(watched.ghost, 0, "nobody knows whether who is new has come");
        watched.note(100, &look(&["a"], &[("b", 70)], &[&["a"], &["a", "b"]]));
        watched.note(110, &look(&["a"], &[("b", 70), ("c", 108)], &[&["a", "c"]]));
        assert_eq!(watched.ghost, 30);
    }

    #[test]
    fn who_is_misled_counts_from_when_the_client_went() {
        let mut watched = Watched::default();
        let mut look = look(&["a"], &[("b", 70)], &[&["a"]]);
        look.views = vec![BTreeSet::from(["a".to_owned(), "b".to_owned()])];
        watched.note(95, &look);
        assert_eq!((watched.ghost, watched.misled), (0, 25));
    }

    #[test]
    fn who_is_not_listed_counts_from_one_look_to_the_last_in_a_row() {
        let mut watched = Watched::default();
        for (now, list) in [
            (10, &["a"][..]),
            (20, &[]),
            (30, &[]),
            (40, &["a"]),
            (50, &[]),
            (55, &["a"]),
        ] {
            watched.note(now, &look(&["a"], &[], &[&["a"], list]));
        }
        assert_eq!(watched.longest_unlisted, 10);
    }
}
