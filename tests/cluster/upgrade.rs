//! Nodes of different versions share a bus: what one does not know it counts and skips.

use serde_json::json;

use crate::{
    UNKNOWN_VERSION,
    cluster::{Cluster, event, nothing_more},
    redis::Resp,
    support::eventually,
};

const MARK: &str = "seen-on-the-bus";

/// An envelope as it stands on the bus, and where; it carries [`MARK`] to everyone.
fn capture(cluster: &Cluster) -> (Vec<u8>, Vec<u8>) {
    let mut tap = Resp::connect(cluster.redis.address()).unwrap();
    tap.call(&["PSUBSCRIBE", "*"]).unwrap();
    cluster[0].call("/v1/broadcast", &json!({"event": "e", "data": MARK}));
    loop {
        let message = tap.read().unwrap();
        let bytes = |at: usize| match message.items().get(at) {
            Some(crate::redis::Reply::Bytes(bytes)) => bytes.clone(),
            other => panic!("no message: {other:?}"),
        };
        let (channel, envelope) = (bytes(2), bytes(3));
        if envelope
            .windows(MARK.len())
            .any(|window| window == MARK.as_bytes())
        {
            return (channel, envelope);
        }
    }
}

/// The same envelope, of a version that nobody knows: the version is its first byte.
fn of_unknown_version(envelope: &[u8]) -> Vec<u8> {
    let mut envelope = envelope.to_vec();
    envelope[0] = 0xff;
    envelope
}

#[test]
fn an_envelope_of_an_unknown_version_is_counted_and_skipped() {
    let cluster = Cluster::start();
    let mut clients = cluster.users();
    let (channel, envelope) = capture(&cluster);
    for client in &mut clients {
        assert_eq!(event(client)["data"], MARK);
    }
    let before: Vec<u64> = cluster
        .nodes
        .iter()
        .map(|node| node.count(UNKNOWN_VERSION, ""))
        .collect();
    let mut redis = Resp::connect(cluster.redis.address()).unwrap();
    for _ in 0..3 {
        redis
            .call_bytes(&[b"PUBLISH", &channel, &of_unknown_version(&envelope)])
            .unwrap();
    }
    for (node, before) in cluster.nodes.iter().zip(before) {
        eventually("it is counted", || {
            node.count(UNKNOWN_VERSION, "") == before + 3
        });
    }
    nothing_more(&cluster[1], &mut clients);
    cluster.await_ready();
}

#[test]
fn what_is_no_envelope_is_harmless() {
    let cluster = Cluster::start();
    let mut clients = cluster.users();
    let (channel, envelope) = capture(&cluster);
    for client in &mut clients {
        assert_eq!(event(client)["data"], MARK);
    }
    let mut redis = Resp::connect(cluster.redis.address()).unwrap();
    let mut publish =
        |message: &[u8]| drop(redis.call_bytes(&[b"PUBLISH", &channel, message]).unwrap());
    // Cut before its mark, so that no cut is a whole envelope of a shorter event.
    let mark = envelope
        .windows(MARK.len())
        .position(|window| window == MARK.as_bytes())
        .unwrap();
    (0..=mark).for_each(|end| publish(&envelope[..end]));
    publish(&[0; 100]);
    publish(&[0xff; 100]);
    for at in 0..mark.min(64) {
        let mut longest = envelope[..mark].to_vec();
        longest[at] = 0xff;
        publish(&longest);
    }
    nothing_more(&cluster[1], &mut clients);
    cluster.await_ready();
}
