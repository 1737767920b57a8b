//! What Redis loses, and who is notified.

use super::*;

#[tokio::test]
async fn an_emptied_redis_begins_anew_behind_what_was_seen() {
    let server = Server::start(&[]);
    let (room, ann) = (channel("c"), user("u"));
    let node = Node::new(&server.url()).await;
    let before = fill(&node.store, &room, &KEEP, 5).await;
    let stored = fill(&node.store, &ann, &KEEP, 5).await;
    server.ask(&["flushall"]);
    let epoch = before.epoch.to_string();
    let recovery = node.since(&room, &KEEP, Some(&epoch), 5).await.unwrap();
    assert!(!recovery.recovered && recovery.entries.is_empty());
    assert_ne!(recovery.position.epoch, before.epoch);
    assert!(recovery.position.offset > 5, "no offset is given out twice");
    assert_eq!(since(&node.store, &room, None, 5).await, (false, vec![]));
    assert_eq!(
        since(&node.store, &room, None, recovery.position.offset).await,
        (true, vec![])
    );
    let after = fill(&node.store, &room, &KEEP, 1).await;
    assert_eq!(
        after,
        Position {
            offset: recovery.position.offset + 1,
            ..recovery.position
        }
    );
    let anew = fill(&node.store, &ann, &KEEP, 1).await;
    assert!(anew.epoch != stored.epoch && anew.offset > stored.offset);
    node.confirm(&ann, stored.offset, &ANYONE);
    assert_eq!(
        node.waiting(&ann).await.unwrap().entries.len(),
        1,
        "a late confirmation is for what is gone"
    );
}

#[tokio::test]
async fn a_user_begins_behind_everything_that_any_node_has_seen() {
    let server = Server::start(&[]);
    let ann = user("u");
    let node = Node::new(&server.url()).await;
    let before = fill(&node.store, &ann, &KEEP, 3).await;
    server.ask(&["flushall"]);
    let other = Node::new(&server.url()).await;
    let after = fill(&other.store, &ann, &KEEP, 1).await;
    assert!(after.offset > before.offset, "{after:?} {before:?}");
}

/// Copies both keys of a topic aside, as a backup does, or a replica that lags.
pub(super) fn back_up(server: &Server, node: &Node, key: &Key) {
    for suffix in ["state", "events"] {
        let name = node.key(key, suffix);
        assert_eq!(
            server.ask(&["copy", &name, &format!("{name}-old"), "replace"]),
            Value::Int(1)
        );
    }
}

pub(super) fn restore(server: &Server, node: &Node, key: &Key) {
    for suffix in ["state", "events"] {
        let name = node.key(key, suffix);
        assert_eq!(
            server.ask(&["copy", &format!("{name}-old"), &name, "replace"]),
            Value::Int(1)
        );
    }
}

#[tokio::test]
async fn a_redis_that_went_back_goes_on_after_what_was_seen_with_what_is_left() {
    let server = Server::start(&[]);
    let room = channel("c");
    let mut node = Node::new(&server.url()).await;
    let old = fill(&node.store, &room, &KEEP, 3).await;
    back_up(&server, &node, &room);
    let seen = fill(&node.store, &room, &KEEP, 2).await;
    assert_eq!((seen.epoch, seen.offset), (old.epoch, 5));
    restore(&server, &node, &room);
    let epoch = seen.epoch.to_string();
    node.listen(&room).await;
    let appended = node.append(&room, &KEEP, with_tail("t", 1)).await.unwrap();
    assert_ne!(appended.position.epoch, seen.epoch);
    assert!(appended.position.offset > seen.offset);
    assert_eq!(node.next().await, Some((appended.position, "t".into())));
    let now = appended.position.offset;
    for (epoch, offset) in [
        (Some(epoch.as_str()), 5),
        (Some(&epoch), 3),
        (None, 5),
        (None, 3),
    ] {
        let (recovered, stored) = since(&node.store, &room, epoch, offset).await;
        assert_eq!(
            (recovered, stored),
            (false, vec![1, 2, 3, now]),
            "{epoch:?} {offset}"
        );
    }
    assert_eq!(since(&node.store, &room, None, now).await, (true, vec![]));
}

#[tokio::test]
async fn who_joins_is_told_too_and_who_only_listened_notices() {
    let server = Server::start(&[]);
    let room = channel("c");
    let node = Node::new(&server.url()).await;
    let listener = Node::new(&server.url()).await;
    let begun = listener.position(&room, &KEEP).await.unwrap();
    back_up_after(&server, &node, &room, 1).await;
    let seen = fill(&node.store, &room, &KEEP, 3).await;
    listener.saw(&room, seen);
    drop(node);
    restore(&server, &listener, &room);
    let epoch = begun.epoch.to_string();
    let stranger = Node::new(&server.url()).await;
    let position = stranger.position(&room, &KEEP).await.unwrap();
    assert_eq!(
        (position.epoch, position.offset),
        (begun.epoch, 1),
        "who knows nothing believes Redis"
    );
    let recovery = listener.since(&room, &KEEP, Some(&epoch), 4).await.unwrap();
    assert!(!recovery.recovered && recovery.position.epoch != begun.epoch);
    assert!(recovery.position.offset > seen.offset);
    let position = stranger.position(&room, &KEEP).await.unwrap();
    assert_eq!(
        position, recovery.position,
        "a later numbering is taken from whoever began it"
    );
    assert_eq!(listener.position(&room, &KEEP).await.unwrap(), position);
}

async fn back_up_after(server: &Server, node: &Node, key: &Key, events: usize) {
    fill(&node.store, key, &KEEP, events).await;
    back_up(server, node, key);
}

#[tokio::test]
async fn an_older_numbering_is_not_taken_for_the_present_one() {
    let server = Server::start(&[]);
    let room = channel("c");
    let node = Node::new(&server.url()).await;
    let first = fill(&node.store, &room, &KEEP, 10).await;
    back_up(&server, &node, &room);
    server.ask(&["del", &node.key(&room, "state"), &node.key(&room, "events")]);
    let second = fill(&node.store, &room, &KEEP, 2).await;
    assert_ne!(second.epoch, first.epoch);
    restore(&server, &node, &room);
    let third = node.position(&room, &KEEP).await.unwrap();
    assert!(third.epoch != first.epoch && third.epoch != second.epoch);
    assert!(third.offset > second.offset);
    assert!(
        !since(&node.store, &room, Some(&first.epoch.to_string()), 10)
            .await
            .0
    );
}

#[tokio::test]
async fn what_is_left_of_a_users_events_waits_whatever_was_lost() {
    let server = Server::start(&[]);
    let ann = user("u");
    let node = Node::new(&server.url()).await;
    let old = fill(&node.store, &ann, &KEEP, 3).await;
    back_up(&server, &node, &ann);
    let seen = fill(&node.store, &ann, &KEEP, 2).await;
    restore(&server, &node, &ann);
    node.confirm(&ann, seen.offset, &ANYONE);
    assert_eq!(
        node.waiting(&ann).await.unwrap().entries.len(),
        3,
        "it may name what nobody has seen"
    );
    let anew = fill(&node.store, &ann, &KEEP, 1).await;
    assert!(anew.epoch != old.epoch && anew.offset > seen.offset);
    assert_eq!(node.waiting(&ann).await.unwrap().entries.len(), 4);
    server.ask(&["del", &node.key(&ann, "state")]);
    assert_eq!(
        node.waiting(&ann).await.unwrap().entries.len(),
        4,
        "Redis evicted only the state"
    );
    let last = fill(&node.store, &ann, &Retention { events: 4, ..KEEP }, 1).await;
    assert!(last.epoch != anew.epoch && last.offset > anew.offset);
    assert_eq!(
        node.waiting(&ann).await.unwrap().entries.len(),
        4,
        "counted anew, and one over"
    );
    assert_eq!(node.losses(&ann), (1, 0));
    node.confirm(&ann, last.offset, &ANYONE);
    until(0, async || node.waiting(&ann).await.unwrap().entries.len()).await;
}

#[tokio::test]
async fn what_redis_evicts_is_told() {
    let server = Server::start(&[]);
    let (room, ann) = (channel("c"), user("u"));
    let node = Node::new(&server.url()).await;
    let before = fill(&node.store, &room, &KEEP, 3).await;
    let epoch = before.epoch.to_string();
    server.ask(&["del", &node.key(&room, "events")]);
    assert_eq!(
        since(&node.store, &room, Some(&epoch), 2).await,
        (false, vec![])
    );
    assert_eq!(
        since(&node.store, &room, Some(&epoch), 3).await,
        (true, vec![]),
        "nothing came after it"
    );
    assert_eq!(
        fill(&node.store, &room, &KEEP, 2).await,
        Position {
            offset: 5,
            ..before
        }
    );
    assert_eq!(
        since(&node.store, &room, Some(&epoch), 3).await,
        (true, vec![4, 5])
    );

    server.ask(&["xdel", &node.key(&room, "events"), "4-0"]);
    assert_eq!(
        since(&node.store, &room, Some(&epoch), 3).await,
        (false, vec![]),
        "none is missing in the middle"
    );
    fill(&node.store, &room, &KEEP, 1).await;
    assert_eq!(
        since(&node.store, &room, Some(&epoch), 5).await,
        (true, vec![6])
    );

    server.ask(&["del", &node.key(&room, "state")]);
    let after = node.append(&room, &KEEP, event(1)).await.unwrap().position;
    assert!(after.epoch != before.epoch && after.offset > 6);
    assert_eq!(
        since(&node.store, &room, Some(&epoch), 6).await,
        (false, vec![after.offset])
    );

    fill(&node.store, &ann, &KEEP, 3).await;
    server.ask(&["del", &node.key(&ann, "events")]);
    assert!(node.waiting(&ann).await.unwrap().entries.is_empty());
    assert_eq!(node.losses(&ann), (3, 0), "a user's lost events are drops");
    fill(&node.store, &ann, &KEEP, 1).await;
    assert_eq!(
        (
            node.waiting(&ann).await.unwrap().entries.len(),
            node.losses(&ann)
        ),
        (1, (3, 0))
    );
}

#[tokio::test]
async fn what_is_removed_of_a_user_is_counted_and_what_is_confirmed_is_not() {
    let server = Server::start(&[]);
    let ann = user("u");
    let node = Node::new(&server.url()).await;
    let short = Retention {
        ttl: Duration::from_millis(50),
        events: 5,
        ..KEEP
    };
    let last = fill(&node.store, &ann, &short, 7).await;
    until(0, async || node.waiting(&ann).await.unwrap().entries.len()).await;
    let (over, expired) = node.losses(&ann);
    assert_eq!(over + expired, 7);
    fill(&node.store, &ann, &KEEP, 3).await;
    node.append(&ann, &KEEP, not_for_phones(1)).await.unwrap();
    node.confirm(&ann, last.offset + 4, &PHONE);
    until(1, async || node.waiting(&ann).await.unwrap().entries.len()).await;
    assert_eq!(node.losses(&ann), (over, expired));
}

#[tokio::test]
async fn what_a_later_version_wrote_is_skipped_counted_and_told() {
    let server = Server::start(&[]);
    let room = channel("c");
    let node = Node::new(&server.url()).await;
    let epoch = fill(&node.store, &room, &KEEP, 2).await.epoch.to_string();
    let (events, state) = (node.key(&room, "events"), node.key(&room, "state"));
    for (id, record) in [("3-0", "2 is my version"), ("4-0", "")] {
        server.ask(&[
            "xadd",
            &events,
            id,
            "t",
            "1",
            "x",
            "9000000000000",
            "n",
            "9",
            "r",
            record,
        ]);
        server.ask(&["hincrby", &state, "c", "1"]);
        server.ask(&["hincrby", &state, "n", "1"]);
    }
    fill(&node.store, &room, &KEEP, 1).await;
    assert_eq!(
        since(&node.store, &room, Some(&epoch), 1).await,
        (false, vec![1, 2, 5])
    );
    assert_eq!(
        since(&node.store, &room, Some(&epoch), 4).await,
        (true, vec![5])
    );
    assert_eq!(node.metrics.history_unreadable.get(), 2);
    assert_eq!(
        offsets(&node.waiting(&room).await.unwrap().entries),
        [1, 2, 5]
    );
    let page = node.page(&room, 2, 1).await.unwrap().unwrap();
    assert_eq!(
        (offsets(&page.entries), page.more),
        (vec![5], false),
        "there is no empty page before the end"
    );
}
