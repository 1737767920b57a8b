//! Batches: what their items wait for, and what they do not.

use std::{thread, time::Duration};

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, event, nothing_more},
    support::Client,
    waiting::{patient, patient_with},
};

/// Items that are on their way to Redis at the same time.
const AT_ONCE: usize = 64;

fn items(channel: &str, count: usize) -> Value {
    let item = |n| json!({"call": "send", "channel": channel, "event": "e", "data": n});
    json!({"items": (0..count).map(item).collect::<Vec<_>>()})
}

fn results(node: &Node, items: &Value) -> Vec<Value> {
    let answer = node.call("/v1/batch", items);
    let results = answer["results"].as_array().unwrap().iter();
    let results = results.map(|result| {
        assert_eq!(result["status"], 200, "{result}");
        assert_eq!(result["result"]["missing_nodes"], json!([]), "{result}");
        result["result"].clone()
    });
    results.collect()
}

/// Both nodes' members of `channel`.
fn members(cluster: &Cluster, channel: &str) -> [Client; 2] {
    [0, 1].map(|at| {
        let mut client = cluster[at].connect("");
        client.join(channel);
        client
    })
}

#[test]
fn items_that_are_not_stored_do_not_wait_for_redis_one_after_another() {
    const ITEMS: usize = 100;
    let (proxy, cluster) = patient(Duration::from_secs(30));
    let [mut far, mut near] = members(&cluster, "lobby");

    // From here on Redis answers nothing.
    proxy.freeze_scripts();
    thread::scope(|scope| {
        let batch = scope.spawn(|| results(&cluster[1], &items("lobby", ITEMS)));
        (0..AT_ONCE).for_each(|n| assert_eq!(event(&mut near)["data"], n));
        far.expect_nothing();
        assert!(!batch.is_finished());

        proxy.thaw();
        (AT_ONCE..ITEMS).for_each(|n| assert_eq!(event(&mut near)["data"], n));
        (0..ITEMS).for_each(|n| assert_eq!(event(&mut far)["data"], n));
        assert_eq!(batch.join().unwrap().len(), ITEMS);
    });
    nothing_more(&cluster[0], &mut [far, near]);
}

#[test]
fn batches_leave_room_in_the_queue_while_redis_is_slow() {
    // As many as there are pipelines under way, after which commands wait in the queue.
    const SINGLE: usize = 8;
    const BATCHES: usize = 4;
    const ITEMS: usize = 25;
    let (proxy, cluster) = patient_with(Duration::from_secs(30), |settings| {
        settings.with("FANFARE_LIMIT_BUS_QUEUE_BYTES", "300KiB")
    });
    let [mut far, mut near] = members(&cluster, "lobby");

    let item = json!({"call": "send", "channel": "lobby", "event": "e", "data": "x".repeat(4096)});
    let batch = json!({"items": vec![item; ITEMS]});
    proxy.freeze_scripts();
    thread::scope(|scope| {
        for n in 0..SINGLE {
            let node = &cluster[1];
            scope.spawn(move || results(node, &items("lobby", 1)));
            assert_eq!(event(&mut near)["event"], "e", "{n}");
            thread::sleep(Duration::from_millis(20));
        }

        // All of them together would take more than there is.
        let batches = [(); BATCHES].map(|()| scope.spawn(|| results(&cluster[1], &batch)));
        thread::sleep(Duration::from_millis(500));
        let early = near.pending().len();
        assert!((30..BATCHES * ITEMS).contains(&early), "{early}");

        proxy.thaw();
        for batch in batches {
            assert_eq!(batch.join().unwrap().len(), ITEMS);
        }
        (early..BATCHES * ITEMS).for_each(|_| assert_eq!(event(&mut near)["event"], "e"));
    });
    for _ in 0..SINGLE + BATCHES * ITEMS {
        assert_eq!(event(&mut far)["event"], "e");
    }
    nothing_more(&cluster[0], &mut [far, near]);
}

#[test]
fn each_stored_item_is_waited_for_as_long_as_if_it_were_alone() {
    let (proxy, cluster) = patient(Duration::from_secs(3));
    let [mut far, mut near] = members(&cluster, "room");

    // Redis answers, and what it sends to the second node waits.
    proxy.freeze_messages();
    thread::scope(|scope| {
        let batch = scope.spawn(|| results(&cluster[1], &items("room", AT_ONCE + 1)));
        // The last one is sent when the first was waited for in vain.
        (0..=AT_ONCE).for_each(|n| assert_eq!(event(&mut far)["data"], n));
        proxy.thaw();

        let matched: Vec<Value> = batch
            .join()
            .unwrap()
            .iter()
            .map(|receipt| receipt["matched"].clone())
            .collect();
        assert_eq!(matched[0], 0);
        assert_eq!(matched[AT_ONCE], 1, "{matched:?}");
    });
    (0..=AT_ONCE).for_each(|n| assert_eq!(event(&mut near)["data"], n));
    nothing_more(&cluster[0], &mut [far, near]);
}
