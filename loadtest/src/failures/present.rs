//! Who is connected, who was, and whom each subscriber takes for members by the notices that it gets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::plan::channel;

/// What all subscribers know of each other.
#[derive(Debug, Default)]
pub(super) struct Present(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The ids of those who are connected and in every channel, by subscriber.
    ids: BTreeMap<usize, String>,
    /// When connections ended.
    gone: BTreeMap<String, u64>,
    /// Whom a subscriber takes for members of a channel.
    views: BTreeMap<(usize, usize), BTreeSet<String>>,
    /// Who was said to have left, and when.
    left: Vec<(String, u64)>,
}

/// How much sooner others may learn of an end than the client itself.
const SOONER: u64 = 1_000_000_000;

impl Present {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes whether the subscriber is connected and in every channel, and by which id.
    pub(super) fn set(&self, subscriber: usize, id: Option<String>) {
        let mut state = self.state();
        match id {
            Some(id) => drop(state.ids.insert(subscriber, id)),
            None => drop(state.ids.remove(&subscriber)),
        }
    }

    /// Notes the end of the connection of a subscriber.
    pub(super) fn ended(&self, subscriber: usize, id: String, now: u64) {
        let mut state = self.state();
        state.ids.remove(&subscriber);
        state.gone.insert(id, now);
        state.views.retain(|&(watcher, _), _| watcher != subscriber);
    }

    /// Notes the end of a connection of nobody's that was in some channels for a moment.
    pub(super) fn visited(&self, id: String, now: u64) {
        self.state().gone.insert(id, now);
    }

    /// Notes whom a subscriber takes for members of a channel now.
    pub(super) fn sees(&self, subscriber: usize, channel: usize, members: BTreeSet<String>) {
        self.state().views.insert((subscriber, channel), members);
    }

    /// Notes that a subscriber was told that the member `id` has left.
    pub(super) fn was_told_to_have_left(&self, id: String, now: u64) {
        self.state().left.push((id, now));
    }

    /// How often someone was told that a member has left, and how often of that it was connected.
    pub(super) fn leaves(&self) -> (usize, usize) {
        let state = self.state();
        let was_there = |(id, at): &&(String, u64)| {
            let gone = state.gone.get(id);
            gone.is_none_or(|&gone| gone > at + SOONER)
        };
        (
            state.left.len(),
            state.left.iter().filter(was_there).count(),
        )
    }

    /// The ids of those who are connected and in every channel.
    pub(super) fn ids(&self) -> Vec<String> {
        self.state().ids.values().cloned().collect()
    }

    /// The connections that ended, and when.
    pub(super) fn gone(&self) -> BTreeMap<String, u64> {
        self.state().gone.clone()
    }

    /// Whom each subscriber has wrong, in words; empty if none has.
    pub(super) fn mistakes(&self) -> String {
        let state = self.state();
        let ids: BTreeSet<&String> = state.ids.values().collect();
        let owner = |id: &str| {
            let mut owners = state.ids.iter().filter(|(_, other)| *other == id);
            owners.next().map_or_else(
                || format!("{id}, which has gone"),
                |(owner, _)| format!("{id}, which is subscriber {owner}"),
            )
        };
        let mut text = String::new();
        for ((subscriber, number), view) in &state.views {
            let view: BTreeSet<&String> = view.iter().collect();
            for (verb, wrong) in [
                ("lacks", ids.difference(&view)),
                ("has", view.difference(&ids)),
            ] {
                for id in wrong {
                    // Writing to a String cannot fail.
                    let _ = writeln!(
                        text,
                        "subscriber {subscriber} {verb} in {}: {}",
                        channel(*number),
                        owner(id)
                    );
                }
            }
        }
        text
    }

    /// Whom the subscribers take for members, each of each channel that it watches.
    pub(super) fn views(&self) -> Vec<BTreeSet<String>> {
        self.state().views.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leave_is_false_while_the_member_is_connected() {
        let present = Present::default();
        present.set(0, Some("a".to_owned()));
        present.was_told_to_have_left("a".to_owned(), 1);
        present.ended(0, "a".to_owned(), SOONER + 2);
        present.was_told_to_have_left("a".to_owned(), 2);
        present.was_told_to_have_left("b".to_owned(), SOONER);
        assert_eq!(present.leaves(), (3, 2));
    }

    #[test]
    fn who_is_not_connected_sees_nobody() {
        let present = Present::default();
        let members = BTreeSet::from(["b".to_owned()]);
        present.sees(0, 1, members.clone());
        present.sees(1, 1, members);
        present.ended(0, "a".to_owned(), 5);
        assert_eq!(present.views().len(), 1);
    }
}
