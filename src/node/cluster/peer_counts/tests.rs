//! What is said of users and connections on several nodes, in which order, and what comes late.

use smol_str::SmolStr;

use super::{
    Channel, State,
    watched::{Unknown, Watched},
};
use crate::{
    hub::Count,
    id::{AppId, NodeId},
    limits::GONE_NODES,
    protocol::envelope::{Share, UserShare},
};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

fn share(at: u64, tallies: Option<&[(&str, u32, u32)]>, is_whole: bool) -> Share {
    let tally = |(user, open, lost): &(&str, u32, u32)| UserShare((*user).into(), *open, *lost);
    Share {
        at,
        connections: at,
        users: at,
        tallies: tallies.map(|tallies| tallies.iter().map(tally).collect()),
        is_whole,
    }
}

fn count(connections: u64, users: u64) -> Count {
    Count { connections, users }
}

#[test]
fn a_user_counts_once_wherever_it_is_and_its_connections_add_up() {
    let mut watched = Watched::default();
    watched.apply(
        A,
        &share(3, Some(&[("ann", 1, 1), ("bob", 1, 0)]), true),
        10,
    );
    watched.apply(B, &share(1, Some(&[("ann", 1, 0)]), false), 10);
    assert_eq!(watched.tally("ann", None), 3);
    assert_eq!(watched.tally("ann", Some(A)), 1);
    let names = ["bob".to_owned(), "eve".to_owned()];
    assert_eq!(watched.total(count(2, 2), Some(&names)), count(6, 3));

    // Lost, and not yet known to have left: it is no user who is there.
    watched.apply(A, &share(4, Some(&[("bob", 0, 1)]), false), 10);
    assert_eq!((watched.online, watched.tally("bob", None)), (1, 1));
    watched.apply(A, &share(5, Some(&[("bob", 0, 0)]), false), 10);
    assert_eq!((watched.entries, watched.users.len()), (2, 1));

    watched.remove(A);
    assert_eq!((watched.tally("ann", None), watched.entries), (1, 1));
    assert_eq!(watched.total(count(0, 0), None), count(1, 1));
}

#[test]
fn a_connection_that_goes_on_elsewhere_counts_once() {
    let mut watched = Watched::default();
    let before = [("ann", 1, 1), ("bob", 1, 0)];
    watched.apply(A, &share(2, Some(&before), true), 10);
    watched.apply(B, &share(1, Some(&[("ann", 1, 0)]), true), 10);
    let state = |watched: &Watched| {
        let count = watched.total(count(0, 0), None);
        (watched.tally("ann", None), count.connections, count.users)
    };
    assert_eq!(state(&watched), (3, 3, 2));
    watched.release(A, Some("ann"));
    assert_eq!(state(&watched), (2, 3, 2), "the lost one");
    watched.release(A, Some("ann"));
    assert_eq!(state(&watched), (1, 2, 2), "it is still on the other node");
    watched.release(A, Some("bob"));
    assert_eq!(state(&watched), (1, 1, 1));
    for user in [Some("bob"), None, Some("nobody")] {
        watched.release(A, user);
    }
    assert_eq!(state(&watched), (1, 1, 1), "no more than there were");
    watched.remove(A);
    assert_eq!(state(&watched), (1, 1, 1));
}

#[test]
fn what_comes_late_changes_nothing() {
    let mut watched = Watched::default();
    watched.unknown.insert(A, Unknown::default());
    watched.apply(
        A,
        &share(7, Some(&[("ann", 0, 0), ("bob", 2, 0)]), false),
        10,
    );
    // The answer was given before that.
    watched.apply(
        A,
        &share(
            5,
            Some(&[("ann", 1, 0), ("bob", 1, 0), ("eve", 1, 0)]),
            true,
        ),
        10,
    );
    let tally = |watched: &Watched, user| watched.tally(user, None);
    let tallies = ["ann", "bob", "eve"].map(|user| tally(&watched, user));
    assert_eq!((tallies, watched.online), ([0, 2, 1], 2));
    assert_eq!(watched.peers[&A].count.connections, 7);

    watched.is_sent_without = true;
    assert!(watched.known(A), "the counts are sent again");
    assert!(!watched.known(A) && !watched.users.contains_key("ann"));
    assert_eq!(watched.entries, 2);
}

#[test]
fn users_that_are_not_named_count_on_each_node() {
    let mut watched = Watched::default();
    watched.apply(A, &share(2, Some(&[("ann", 2, 0)]), true), 10);
    watched.apply(B, &share(9, None, true), 10);
    assert!(!watched.peers[&B].is_named);
    assert_eq!(watched.total(count(0, 0), None), count(11, 10));
    // Changes alone do not say who is there.
    watched.apply(B, &share(10, Some(&[("bob", 1, 0)]), false), 10);
    assert_eq!((watched.tally("bob", None), watched.entries), (0, 1));
    watched.apply(B, &share(11, Some(&[("bob", 1, 0)]), true), 10);
    assert_eq!(
        (watched.tally("bob", None), watched.peers[&B].is_named),
        (1, true)
    );
}

/// Whether the counts of the watched channel are sent again when `node` is known.
fn is_sent_again(state: &mut State, channel: &Channel, node: NodeId) -> bool {
    state.change(channel, |watched| watched.known(node)) == Some(true)
}

#[test]
fn a_page_without_the_members_of_a_node_is_corrected_when_that_answers() {
    let channel = (AppId(0), SmolStr::from("c"));
    let mut state = State::default();
    state.channels.insert(channel.clone(), Watched::default());
    state.lack(&channel, &[A]);
    assert_eq!(state.due.front(), Some(&channel), "it is asked");
    assert!(is_sent_again(&mut state, &channel, A));
    assert!(!is_sent_again(&mut state, &channel, A));
}

#[test]
fn a_node_that_has_gone_is_not_waited_for_and_does_not_count() {
    let channel = (AppId(0), SmolStr::from("c"));
    let mut state = State::default();
    state.channels.insert(channel.clone(), Watched::default());
    state.apply(&channel, A, &share(2, None, true));
    state.forget(A);

    // A page was gathered before that, and lacks a late node too.
    state.lack(&channel, &[A, B]);
    assert!(is_sent_again(&mut state, &channel, B));

    // What it said last comes after that.
    state.apply(&channel, A, &share(3, None, true));
    let total = |state: &State| state.channels[&channel].total(Count::default(), None);
    assert_eq!(total(&state), Count::default());
    state.meet(A, |_| true);
    state.apply(&channel, A, &share(3, None, true));
    assert_eq!(total(&state), count(3, 3));
}

#[test]
fn a_node_that_comes_back_is_news_and_a_new_one_is_not() {
    let channel = (AppId(0), SmolStr::from("c"));
    let mut state = State::default();
    state.channels.insert(channel.clone(), Watched::default());
    state.meet(A, |_| true);
    assert!(!is_sent_again(&mut state, &channel, A));
    assert!(state.forget(A).is_empty());
    state.meet(B, |_| true);
    assert!(!is_sent_again(&mut state, &channel, B));
    state.meet(A, |_| true);
    assert!(is_sent_again(&mut state, &channel, A));
    let c = NodeId(3);
    state.apply(&channel, c, &share(1, None, false));
    state.meet(c, |_| true);
    assert!(is_sent_again(&mut state, &channel, c));

    for node in 0..1000 {
        state.forget(NodeId(node));
    }
    assert_eq!(state.gone.len(), GONE_NODES);
}

#[test]
fn names_are_bounded() {
    let mut watched = Watched::default();
    let names = [("ann", 1, 0), ("bob", 1, 0), ("eve", 1, 0)];
    watched.apply(A, &share(3, Some(&names), true), 2);
    assert!(!watched.peers[&A].is_named && watched.users.is_empty());
    assert_eq!(watched.total(count(0, 0), None), count(3, 3));
}
