//! How many bytes an app may store, over all nodes.

use super::*;
use crate::id::AppId;

/// What one of these events counts for, at least.
const WEIGHT: usize = 700;

async fn stored(node: &Node, app: u16) -> u64 {
    node.look_at_quotas().await.unwrap();
    let mut all = node.0.quotas.all();
    all.find(|(of, _)| *of == AppId(app)).unwrap().1
}

/// Appends until the app may store no more. Returns how many events that took.
async fn fill_up(node: &Node, key: impl Fn(usize) -> Key, retention: &Retention) -> usize {
    for n in 0..1000 {
        node.look_at_quotas().await.unwrap();
        match node.append(&key(n), retention, event(100)).await {
            Ok(_) => {}
            Err(HistoryError::OverQuota { stored, quota }) => {
                assert!(stored >= quota, "{stored} of {quota}");
                return n;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("nothing is refused")
}

async fn an_app_that_is_over_its_quota_is_refused(url: &str) {
    let quotas = [Some(5 * WEIGHT), None];
    let node = Node::with_quotas(url, &quotas).await;
    let other = Node::with_quotas(url, &quotas).await;
    let brief = Retention {
        ttl: Duration::from_secs(8),
        ..KEEP
    };
    let rooms = |n: usize| channel(&format!("room {n}"));
    let count = fill_up(&node, rooms, &brief).await;
    assert!(count >= 3, "{count}");
    let refused = &node.0.apps[0].storage_refused;
    assert_eq!(refused.get(), 1);

    // On every node, for each of its topics, and for no other app.
    other.look_at_quotas().await.unwrap();
    for key in [channel("room 0"), channel("new")] {
        let error = other.append(&key, &brief, event(1)).await.unwrap_err();
        assert!(matches!(error, HistoryError::OverQuota { .. }), "{error}");
    }
    fill(&other.store, &user("u"), &KEEP, 50).await;

    // Nobody reads what is past its time, and it counts no longer.
    until(true, async || {
        other.look_at_quotas().await.unwrap();
        other
            .append(&channel("new"), &brief, event(1))
            .await
            .is_ok()
    })
    .await;
}

#[tokio::test]
async fn an_app_over_its_quota_is_refused_until_its_events_have_expired() {
    let server = Server::start(&[]);
    an_app_that_is_over_its_quota_is_refused(&server.url()).await;
    let cluster = Cluster::start();
    an_app_that_is_over_its_quota_is_refused(&cluster.url()).await;
}

#[tokio::test]
async fn what_is_removed_counts_no_longer() {
    let server = Server::start(&[]);
    let quotas = [Some(100 * WEIGHT), Some(100 * WEIGHT)];
    let node = Node::with_quotas(&server.url(), &quotas).await;

    // A channel that gives up its oldest events stays below, however many come.
    let few = Retention { events: 10, ..KEEP };
    for _ in 0..300 {
        node.append(&channel("c"), &few, event(1)).await.unwrap();
    }
    let weight = stored(&node, 0).await;
    assert!((10 * 640..12 * 800).contains(&weight), "{weight}");

    // So does a user who confirms, with what is withheld from some.
    let ann = user("u");
    for _ in 0..5 {
        node.append(&ann, &KEEP, event(1)).await.unwrap();
        let newest = node.append(&ann, &KEEP, not_for_phones(1)).await.unwrap();
        assert!(stored(&node, 1).await > 640);
        node.confirm(&ann, newest.position.offset, &ANYONE);
        until(0, async || stored(&node, 1).await).await;
    }
}
