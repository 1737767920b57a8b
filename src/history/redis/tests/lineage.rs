//! What another primary goes on with, and what it knows of the numberings before.

use super::*;

/// Lets another primary keep everything, or the same one in another life.
fn change_primary(server: &Server, node: &Node, id: &str) {
    let key = String::from_utf8(node.bus.primary_key(&home(&channel("any")))).unwrap();
    assert_eq!(
        server.ask(&["exists", &key]),
        Value::Int(1),
        "the node has noted the primary"
    );
    server.ask(&["set", &key, id]);
}

async fn proven(node: &Node, key: &Key, epoch: Epoch, offset: u64) -> (bool, Vec<u64>) {
    since(&node.store, key, Some(&epoch.to_string()), offset).await
}

async fn append(node: &Node, key: &Key) -> Position {
    node.append(key, &KEEP, event(1)).await.unwrap().position
}

#[tokio::test]
async fn a_history_goes_on_in_a_new_epoch_at_another_primary() {
    let server = Server::start(&[]);
    let room = channel("c");
    let node = Node::new(&server.url()).await;
    let before = fill(&node.store, &room, &KEEP, 3).await;
    assert_eq!(
        append(&node, &room).await,
        Position {
            offset: 4,
            ..before
        },
        "the same primary, the same epoch"
    );
    change_primary(&server, &node, "other");
    assert_eq!(
        node.position(&room, &KEEP).await.unwrap(),
        Position {
            offset: 4,
            ..before
        }
    );
    assert_eq!(
        proven(&node, &room, before.epoch, 4).await,
        (true, vec![]),
        "nothing came since"
    );
    let after = append(&node, &room).await;
    assert_eq!((after.epoch == before.epoch, after.offset), (false, 5));
    assert_eq!(append(&node, &room).await, Position { offset: 6, ..after });
    assert_eq!(
        proven(&node, &room, before.epoch, 2).await,
        (true, vec![3, 4, 5, 6])
    );
    assert_eq!(
        proven(&node, &room, before.epoch, 4).await,
        (true, vec![5, 6])
    );
    assert_eq!(
        proven(&node, &room, before.epoch, 5).await,
        (false, vec![1, 2, 3, 4, 5, 6])
    );
    assert_eq!(proven(&node, &room, after.epoch, 5).await, (true, vec![6]));
    assert!(
        !proven(&node, &room, Epoch::random(), 0).await.0,
        "nobody goes on from there"
    );
}

#[tokio::test]
async fn offsets_that_are_given_out_once_more_are_of_another_epoch() {
    let server = Server::start(&[]);
    let room = channel("c");
    let publisher = Node::new(&server.url()).await;
    fill(&publisher.store, &room, &KEEP, 3).await;
    losses::back_up(&server, &publisher, &room);
    let lost = fill(&publisher.store, &room, &KEEP, 2).await;
    losses::restore(&server, &publisher, &room);
    let stranger = Node::new(&server.url()).await;
    change_primary(&server, &publisher, "other");
    let anew = fill(&stranger.store, &room, &KEEP, 4).await;
    assert_eq!((anew.epoch == lost.epoch, anew.offset), (false, 7));
    assert_eq!(
        proven(&stranger, &room, lost.epoch, 3).await,
        (true, vec![4, 5, 6, 7])
    );
    for offset in [4, 5, 6, 7] {
        assert!(
            !proven(&stranger, &room, lost.epoch, offset).await.0,
            "{offset} was another event then"
        );
    }
    let missed = publisher
        .since(&room, &KEEP, Some(&lost.epoch.to_string()), 5)
        .await
        .unwrap();
    assert_eq!(
        (missed.recovered, missed.shared, missed.position),
        (false, 3, anew)
    );
    for node in [&publisher, &stranger] {
        let (recovered, stored) = proven(node, &room, lost.epoch, 3).await;
        assert!(!recovered, "4 and 5 were seen, and are gone");
        assert_eq!(stored, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(proven(node, &room, anew.epoch, 5).await, (true, vec![6, 7]));
    }
}

#[tokio::test]
async fn a_node_that_saw_what_is_lost_goes_on_from_what_survived() {
    let server = Server::start(&[]);
    let room = channel("c");
    let node = Node::new(&server.url()).await;
    fill(&node.store, &room, &KEEP, 3).await;
    losses::back_up(&server, &node, &room);
    let lost = fill(&node.store, &room, &KEEP, 2).await;
    losses::restore(&server, &node, &room);
    change_primary(&server, &node, "other");
    let after = append(&node, &room).await;
    assert_eq!(
        (after.epoch == lost.epoch, after.offset),
        (false, 4),
        "as where another node appends"
    );
    let epoch = lost.epoch.to_string();
    for (offset, shared) in [(2, 2), (3, 3), (4, 3), (5, 3)] {
        let recovery = node.since(&room, &KEEP, Some(&epoch), offset).await;
        let recovery = recovery.unwrap();
        assert_eq!((recovery.recovered, recovery.shared), (false, shared));
        assert_eq!(offsets(&recovery.entries), [1, 2, 3, 4]);
    }
    assert_eq!(proven(&node, &room, after.epoch, 4).await, (true, vec![]));
}

#[tokio::test]
async fn the_last_four_numberings_are_gone_on_from() {
    let server = Server::start(&[]);
    let room = channel("c");
    let node = Node::new(&server.url()).await;
    let mut positions = vec![append(&node, &room).await];
    for n in 0..5 {
        change_primary(&server, &node, &format!("primary {n}"));
        positions.push(append(&node, &room).await);
    }
    for (at, Position { epoch, offset }) in positions.into_iter().enumerate() {
        let later = if at == 0 { 1..=6 } else { offset + 1..=6 };
        assert_eq!(
            proven(&node, &room, epoch, offset).await,
            (at > 0, later.collect()),
            "{at}"
        );
    }
}

#[tokio::test]
async fn a_primary_that_nobody_has_noted_is_another_one() {
    let server = Server::start(&[]);
    let room = channel("c");
    let node = Node::new(&server.url()).await;
    let before = append(&node, &room).await;
    change_primary(&server, &node, "");
    let after = append(&node, &room).await;
    assert!(after.epoch != before.epoch && proven(&node, &room, before.epoch, 1).await.0);
    assert_eq!(append(&node, &room).await.epoch, after.epoch);
}

#[tokio::test]
async fn a_server_that_starts_again_is_another_primary() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let (room, ann) = (channel("c"), user("u"));
    let node = Node::new(&server.url()).await;
    let before = append(&node, &room).await;
    let stored = append(&node, &ann).await;
    server.kill();
    server.start_again();
    until(Ok(before), async || node.position(&room, &KEEP).await).await;
    let after = append(&node, &room).await;
    assert_eq!((after.epoch == before.epoch, after.offset), (false, 2));
    assert_eq!(proven(&node, &room, before.epoch, 1).await, (true, vec![2]));
    let later = append(&node, &ann).await;
    assert!(
        later.epoch == stored.epoch && later.offset > stored.offset + 1,
        "{later:?} {stored:?}"
    );
    node.confirm(&ann, stored.offset + 1, &ANYONE);
    until(1, async || node.waiting(&ann).await.unwrap().entries.len()).await;
    assert_eq!(
        offsets(&node.waiting(&ann).await.unwrap().entries),
        [later.offset],
        "what was not seen is not confirmed"
    );
}
