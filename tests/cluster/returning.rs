//! Clients come back to another node after theirs was drained, or has crashed.

use std::{fs, thread, time::Duration};

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, Settings, next_notice},
    kept::cut,
    redis::{Folder, Proxy, RedisServer, Reply},
    support::{Client, eventually, signed},
};

/// How the node of a client ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Drained,
    Crashed,
}

/// Three processes. What a client had may be taken up for so long after its node was drained.
fn cluster(resume_window: &str) -> Cluster {
    Cluster::apart_set(|settings| {
        settings
            .with("FANFARE_LIMIT_RESUME_WINDOW", resume_window)
            .with("FANFARE_LIMIT_NODE_LEASE", "2s")
            .with("FANFARE_DRAIN_TIMEOUT", "10s")
    })
}

/// Ends the first node, whose clients these are.
fn end(cluster: &mut Cluster, end: End, clients: &mut [&mut Client]) {
    match end {
        End::Drained => {
            cluster.nodes[0].ask_to_leave();
            for client in clients {
                expect_bye(client);
            }
            cluster.nodes[0].await_end();
        }
        End::Crashed => cluster.nodes[0].kill(),
    }
}

/// The client is sent away, and told to come back.
fn expect_bye(client: &mut Client) {
    let bye = client.json();
    assert_eq!(
        (&bye["op"], &bye["code"]),
        (&json!("bye"), &json!(4200)),
        "{bye}"
    );
    assert!(bye["reconnect_in_ms"].as_u64() < Some(3000), "{bye}");
    assert_eq!(client.closed(), 4200);
    // Else the node waits for its answer.
    cut(client);
}

/// A connection on `node` with these claims that takes up `old`, and its welcome.
fn come_back(node: &Node, claims: &Value, device: &str, old: &str) -> (Client, Value) {
    let token = signed(claims);
    let mut client = node.open(&format!("token={token}&device={device}&resume={old}"));
    let welcome = client.json();
    assert_eq!(welcome["op"], "welcome", "{welcome}");
    client.id = welcome["connection"].as_str().unwrap().into();
    (client, welcome)
}

/// Waits until the list of the first node has so many fields beside its version.
fn await_listed(cluster: &Cluster, fields: u64) {
    let list = || {
        let keys = cluster.redis.call(&["KEYS", "*node.members:*"]).unwrap();
        let lengths = keys
            .items()
            .iter()
            .map(|key| cluster.redis.call(&["HLEN", &key.text()]).unwrap());
        lengths
            .map(|length| length.text().parse::<u64>().unwrap())
            .collect::<Vec<_>>()
    };
    eventually("the members are listed", || list().contains(&(fields + 1)));
}

/// The next notice, which is of `kind` and about `user`. Counts may come before it, when a node is known or has gone.
fn expect_notice(watcher: &mut Client, kind: &str, user: &str) -> Value {
    let notice = next_notice(watcher);
    assert_eq!(
        (&notice["op"], &notice["kind"], &notice["member"]["user"]),
        (&json!("member"), &json!(kind), &json!(user)),
        "{notice}"
    );
    notice
}

/// Nothing more comes to these clients but counts.
fn nothing_more(node: &Node, clients: [Client; 2]) {
    node.call("/v1/broadcast", &json!({"event": "the end"}));
    for mut client in clients {
        assert_eq!(next_notice(&mut client)["event"], "the end");
    }
}

/// A client comes back to a channel that it joined and to one that it was put into, and the others see one `updated`.
fn comes_back_unnoticed(how: End) {
    let mut cluster = cluster("3s");
    let mut watcher = cluster[2].user("watcher");
    watcher.watch("room");
    let claims =
        json!({"sub": "ann", "can": {"join": ["room"], "members": ["room"], "update": true}});
    let mut ann = cluster[0].user_with("ann", &claims, "device=d1");
    let joined = ann.watch("room");
    ann.acked(&json!({"op": "update", "data": {"status": "here"}}));
    cluster[1].call(
        "/v1/join",
        &json!({"channel": "put", "to": {"users": ["ann"]}}),
    );
    assert_eq!(ann.json()["channel"], "put");
    let mut bob = cluster[0].user_with("bob", &json!({}), "device=d2");
    bob.join("room");
    for (kind, user) in [("joined", "ann"), ("updated", "ann"), ("joined", "bob")] {
        expect_notice(&mut watcher, kind, user);
    }
    expect_notice(&mut ann, "joined", "bob");
    await_listed(&cluster, 5);

    end(&mut cluster, how, &mut [&mut ann, &mut bob]);
    cluster[1].call("/v1/send", &json!({"channel": "room", "event": "missed"}));
    assert_eq!(next_notice(&mut watcher)["event"], "missed");
    let (mut new, welcome) = come_back(&cluster[1], &claims, "d1", &ann.id);
    assert_eq!(welcome["resumed"], true, "{welcome}");

    let mut channels = [next_notice(&mut new), next_notice(&mut new)];
    channels.sort_by_key(|told| told["channel"].to_string());
    assert!(
        channels.iter().all(|told| told["op"] == "joined"),
        "{channels:?}"
    );
    assert_eq!(
        (&channels[0]["channel"], &channels[1]["channel"]),
        (&json!("put"), &json!("room"))
    );
    let since = json!({"epoch": joined["epoch"], "offset": joined["offset"]});
    let (before, ack) = new.ask_amid(&json!({"op": "join", "channel": "room", "since": since}));
    assert_eq!(ack["recovered"], true, "{ack}");
    // Counts come again once the third node has said what it has, as for `next_notice`.
    assert!(before.iter().all(|it| it["op"] == "members"), "{before:?}");
    assert_eq!(next_notice(&mut new)["event"], "missed");
    let updated = expect_notice(&mut watcher, "updated", "ann");
    assert_eq!(updated["previous"], ann.id, "{updated}");
    let member = json!({"id": new.id, "user": "ann", "data": {"status": "here"}});
    assert_eq!(updated["member"], member);
    assert_eq!(updated["user_connections"], 1, "{updated}");

    // Bob does not come back. Ann hears of it, since she did of the others.
    for watcher in [&mut watcher, &mut new] {
        let left = expect_notice(watcher, "left", "bob");
        assert_eq!(
            (&left["member"]["id"], &left["user_connections"]),
            (&json!(bob.id), &json!(0))
        );
    }
    cluster[2].call("/v1/send", &json!({"channel": "put", "event": "put"}));
    assert_eq!(next_notice(&mut new)["event"], "put");
    assert_eq!(cluster[2].look("/v1/channels/room")["connections"], 2);
    nothing_more(&cluster[1], [new, watcher]);
}

#[test]
fn a_client_of_a_drained_node_comes_back_unnoticed() {
    comes_back_unnoticed(End::Drained);
}

#[test]
fn a_client_of_a_crashed_node_comes_back_unnoticed() {
    comes_back_unnoticed(End::Crashed);
}

#[test]
fn a_client_comes_back_while_its_node_is_still_draining() {
    let mut cluster = cluster("5s");
    let mut watcher = cluster[2].user("watcher");
    watcher.watch("lobby");
    let mut ann = cluster[0].user_with("ann", &json!({}), "device=d1");
    ann.join("lobby");
    ann.acked(&json!({"op": "update", "data": {"n": 7}}));
    // It does not answer the close frame, so the node waits for it.
    let _silent = cluster[0].user("silent");
    expect_notice(&mut watcher, "joined", "ann");
    expect_notice(&mut watcher, "updated", "ann");

    cluster[0].ask_to_leave();
    expect_bye(&mut ann);
    let (mut new, welcome) = come_back(&cluster[1], &json!({"sub": "ann"}), "d1", &ann.id);
    assert_eq!(welcome["resumed"], true, "{welcome}");
    assert_eq!(new.json(), json!({"op": "joined", "channel": "lobby"}));
    let updated = expect_notice(&mut watcher, "updated", "ann");
    let member = json!({"id": new.id, "user": "ann", "data": {"n": 7}});
    assert_eq!(
        (
            &updated["previous"],
            &updated["member"],
            &updated["user_connections"]
        ),
        (&json!(ann.id), &member, &json!(1)),
        "{updated}"
    );
    cluster.nodes[0].await_end();
    nothing_more(&cluster[1], [new, watcher]);
}

/// Redis loses the lists of members. A node finds that with its next change, and writes its list again after a while.
fn delete_lists(cluster: &Cluster) {
    let keys = cluster.redis.call(&["KEYS", "*node.members:*"]).unwrap();
    for key in keys.items() {
        cluster.redis.call(&["DEL", &key.text()]).unwrap();
    }
}

#[test]
fn a_client_comes_back_while_the_list_of_its_node_is_still_being_written() {
    let mut cluster = Cluster::apart_set(|settings| {
        settings
            .with("FANFARE_LIMIT_RESUME_WINDOW", "10s")
            .with("FANFARE_LIMIT_NODE_LEASE", "20s")
            .with("FANFARE_LIMIT_REDIS_TIMEOUT", "10s")
            .with("FANFARE_LIMIT_NODE_CALL_TIMEOUT", "10s")
            .with("FANFARE_DRAIN_TIMEOUT", "10s")
    });
    let mut ann = cluster[0].user_with("ann", &json!({}), "device=d1");
    ann.join("lobby");
    let mut bob = cluster[0].user_with("bob", &json!({}), "device=d2");
    bob.join("lobby");
    await_listed(&cluster, 4);

    cluster[0].ask_to_leave();
    expect_bye(&mut ann);
    delete_lists(&cluster);
    let leave = json!({"channel": "lobby", "to": {"users": ["bob"]}});
    cluster[1].call("/v1/leave", &leave);
    // That it has left may be told before.
    while bob.json()["op"] != "bye" {}
    cut(&bob);
    // Until the node departs. If it does not yet, the client comes back in another way.
    thread::sleep(Duration::from_millis(200));

    let (mut new, welcome) = come_back(&cluster[1], &json!({"sub": "ann"}), "d1", &ann.id);
    assert_eq!(welcome["resumed"], true, "{welcome}");
    assert_eq!(new.json(), json!({"op": "joined", "channel": "lobby"}));
    cluster.nodes[0].await_end();
}

#[test]
fn any_number_of_clients_may_wait_for_the_list_of_their_node() {
    // More than a node answers requests of others at the same time.
    const CLIENTS: usize = 400;
    let redis = RedisServer::start().unwrap();
    let proxy = Proxy::start(redis.address()).unwrap();
    let settings = Settings::new(&redis.url())
        .with("FANFARE_LIMIT_RESUME_WINDOW", "60s")
        .with("FANFARE_LIMIT_NODE_LEASE", "60s")
        .with("FANFARE_LIMIT_REDIS_TIMEOUT", "30s")
        .with("FANFARE_LIMIT_BUS_CANARY_TIMEOUT", "60s")
        // A node that ends in the middle leaves some calls without an answer, and a client must not wait longer for those than
        // this test does.
        .with("FANFARE_LIMIT_NODE_CALL_TIMEOUT", "12s")
        .with("FANFARE_DRAIN_TIMEOUT", "10s");
    let leaving = settings.clone().with("FANFARE_REDIS", &proxy.url());
    let mut cluster = Cluster {
        nodes: vec![Node::apart(&leaving), Node::here(&settings)],
        settings,
        redis,
    };
    cluster.await_ready();
    cluster.await_receipts();

    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|n| cluster[0].user_with(&format!("user{n}"), &json!({}), "device=d"))
        .collect();
    for client in &mut clients {
        client.join("lobby");
    }
    await_listed(&cluster, 2 * CLIENTS as u64);

    // Redis does not say that the list lives on, so the node is not done with it.
    proxy.freeze_scripts();
    cluster[0].ask_to_leave();
    for client in &mut clients {
        expect_bye(client);
    }
    let heard = || cluster[0].count("fanfare_bus_received_total", "");
    let before = heard();
    let back: Vec<Client> = clients
        .iter()
        .enumerate()
        .map(|(n, old)| {
            let token = signed(&json!({ "sub": format!("user{n}") }));
            cluster[1].open(&format!("token={token}&device=d&resume={}", old.id))
        })
        .collect();
    eventually("it is asked for all", || heard() >= before + CLIENTS as u64);

    proxy.thaw();
    for mut client in back {
        let welcome = client.json();
        assert_eq!(welcome["resumed"], true, "{welcome}");
        assert_eq!(client.json(), json!({"op": "joined", "channel": "lobby"}));
    }
    cluster.nodes[0].await_end();
}

#[test]
fn a_profile_without_channels_comes_back_after_a_drain() {
    let mut cluster = cluster("5s");
    let mut ann = cluster[0].user_with("ann", &json!({}), "device=d1");
    ann.acked(&json!({"op": "update", "data": {"status": "here"}}));
    end(&mut cluster, End::Drained, &mut [&mut ann]);
    let (new, welcome) = come_back(&cluster[1], &json!({"sub": "ann"}), "d1", &ann.id);
    assert_eq!(welcome["resumed"], true, "{welcome}");
    let shown = cluster[2].look(&format!("/v1/connections/{}", new.id));
    assert_eq!(shown["profile"], json!({"status": "here"}), "{shown}");
}

/// A client closes its connection, which is still counted in two channels for different times, and no longer in a third. `then`
/// comes before its node crashes. The client comes back to both channels.
fn comes_back_where_it_waited_for_different_times(then: impl FnOnce(&Cluster)) {
    let folder = Folder::new("leave-after").unwrap();
    let file = folder.path().join("fanfare.toml");
    let rule = |name: &str, after: &str| {
        format!("[[apps.default.channels]]\npattern = \"{name}\"\nleave_after = \"{after}\"\n")
    };
    let rules = [
        rule("long", "60s"),
        rule("longer", "59s"),
        rule("short", "100ms"),
    ];
    fs::write(&file, rules.concat()).unwrap();
    let mut cluster = Cluster::apart_set(|settings| {
        settings
            .with("FANFARE_CONFIG", file.to_str().unwrap())
            .with("FANFARE_LIMIT_NODE_LEASE", "2s")
    });

    let mut ann = cluster[0].user_with("ann", &json!({}), "device=d1");
    for channel in ["lobby", "long", "longer", "short"] {
        ann.join(channel);
    }
    await_listed(&cluster, 5);
    ann.frame(0x88, &1001_u16.to_be_bytes());
    ann.closed();
    await_listed(&cluster, 3);
    then(&cluster);

    cluster.nodes[0].kill();
    let (mut new, welcome) = come_back(&cluster[1], &json!({"sub": "ann"}), "d1", &ann.id);
    assert_eq!(welcome["resumed"], true, "{welcome}");
    let mut joined = [new.json(), new.json()];
    joined.sort_by_key(Value::to_string);
    let expected = ["long", "longer"].map(|channel| json!({"op": "joined", "channel": channel}));
    assert_eq!(joined, expected);
}

#[test]
fn a_closed_connection_is_listed_until_it_may_come_back_nowhere() {
    comes_back_where_it_waited_for_different_times(|_| {});
}

#[test]
fn a_list_that_is_written_again_names_all_channels_of_a_closed_connection() {
    comes_back_where_it_waited_for_different_times(|cluster| {
        delete_lists(cluster);
        // This change finds that the list is lost.
        let mut bob = cluster[0].user("bob");
        bob.join("room");
        await_listed(cluster, 5);
    });
}

#[test]
fn only_the_client_itself_takes_its_places_and_only_once() {
    let mut cluster = cluster("10s");
    let mut ann = cluster[0].user_with("ann", &json!({}), "device=d1");
    ann.join("lobby");
    await_listed(&cluster, 2);
    end(&mut cluster, End::Drained, &mut [&mut ann]);

    for (claims, device) in [(json!({"sub": "ann"}), "d2"), (json!({"sub": "bob"}), "d1")] {
        let (mut other, welcome) = come_back(&cluster[1], &claims, device, &ann.id);
        assert_eq!(welcome["resumed"], false, "{claims} {device}");
        other.expect_nothing();
    }
    let claims = json!({"sub": "ann"});
    let (mut new, welcome) = come_back(&cluster[1], &claims, "d1", &ann.id);
    assert_eq!(welcome["resumed"], true, "{welcome}");
    assert_eq!(new.json()["channel"], "lobby");
    let (mut again, welcome) = come_back(&cluster[2], &claims, "d1", &ann.id);
    assert_eq!(welcome["resumed"], false, "{welcome}");
    again.expect_nothing();
}

/// A client that was taken out of a channel while it was connected nowhere comes back to its other channels alone.
fn does_not_come_back_where_it_was_taken_out(how: End) {
    let mut cluster = cluster("30s");
    let claims = |user: &str| json!({"sub": user, "can": {"join": ["*"]}});
    let mut ann = cluster[0].user_with("ann", &claims("ann"), "device=d1");
    let mut bob = cluster[0].user_with("bob", &claims("bob"), "device=d2");
    ann.join("lobby");
    ann.join("room");
    bob.join("lobby");
    await_listed(&cluster, 5);
    end(&mut cluster, how, &mut [&mut ann, &mut bob]);

    let leave = json!({"channel": "lobby", "to": {"users": ["ann"]}});
    cluster[1].call("/v1/leave", &leave);
    let (mut back, welcome) = come_back(&cluster[2], &claims("ann"), "d1", &ann.id);
    assert_eq!(welcome["resumed"], true, "{welcome}");
    let told = [back.json(), back.json()].map(|told| (told["op"].clone(), told["channel"].clone()));
    assert_eq!(
        told,
        [
            (json!("left"), json!("lobby")),
            (json!("joined"), json!("room"))
        ]
    );
    // The others do.
    let (mut other, _) = come_back(&cluster[2], &claims("bob"), "d2", &bob.id);
    assert_eq!(other.json()["channel"], "lobby");

    // What it joins from then on, it has.
    back.join("lobby");
    cluster[1].call(
        "/v1/leave",
        &json!({"channel": "lobby", "to": {"users": ["bob"]}}),
    );
    assert_eq!(other.json()["op"], "left");
    other.join("lobby");
    let listed = || {
        let keys = cluster.redis.call(&["KEYS", "*node.members:*"]).unwrap();
        let mut lists = keys.items().iter().map(|key| {
            let fields = cluster.redis.call(&["HKEYS", &key.text()]).unwrap();
            let fields = fields.items().iter().map(Reply::text);
            fields
                .filter(|field| field.starts_with("default lobby"))
                .count()
        });
        lists.any(|places| places == 2)
    };
    eventually("both are listed", listed);
    cluster.nodes[2].ask_to_leave();
    expect_bye(&mut back);
    expect_bye(&mut other);
    cluster.nodes[2].await_end();
    for (user, device, old) in [("ann", "d1", &back.id), ("bob", "d2", &other.id)] {
        let (mut back, welcome) = come_back(&cluster[1], &claims(user), device, old);
        assert_eq!(welcome["resumed"], true, "{welcome}");
        let mut channels = vec![back.json()["channel"].clone()];
        if user == "ann" {
            channels.push(back.json()["channel"].clone());
        }
        assert!(channels.contains(&json!("lobby")), "{user}: {channels:?}");
    }
}

#[test]
fn a_client_of_a_drained_node_does_not_come_back_where_it_was_taken_out() {
    does_not_come_back_where_it_was_taken_out(End::Drained);
}

#[test]
fn a_client_of_a_crashed_node_does_not_come_back_where_it_was_taken_out() {
    does_not_come_back_where_it_was_taken_out(End::Crashed);
}

#[test]
fn clients_that_come_back_while_they_are_taken_out_of_a_channel_are_not_in_it() {
    let mut cluster = cluster("60s");
    let claims = |user: &str| json!({"sub": user, "can": {"join": ["*"], "update": true}});
    let users: Vec<String> = (0..40).map(|n| format!("u{n}")).collect();
    let mut old: Vec<Client> = users
        .iter()
        .map(|user| cluster[0].user_with(user, &claims(user), "device=d"))
        .collect();
    for client in &mut old {
        client.join("lobby");
    }
    await_listed(&cluster, 80);
    let mut all: Vec<&mut Client> = old.iter_mut().collect();
    end(&mut cluster, End::Drained, &mut all);

    let mut new = Vec::new();
    for (round, (user, old)) in users.iter().zip(&old).enumerate() {
        let leave = json!({"channel": "lobby", "to": {"users": [user]}});
        let asked = &cluster[1 + round % 2];
        // At another moment of the way back each time.
        thread::scope(|scope| {
            let back = scope.spawn(|| come_back(&cluster[2], &claims(user), "d", &old.id).0);
            thread::sleep(Duration::from_micros(round as u64 / 2 * 200));
            asked.call("/v1/leave", &leave);
            new.push(back.join().unwrap());
        });
        // What it sends is read once it is in all of its channels.
        new[round].ask_amid(&json!({"op": "update", "data": null}));
        let lobby = cluster[1].look("/v1/channels/lobby");
        assert_eq!(lobby["connections"], 0, "round {round}: {lobby}");
    }
}

#[test]
fn what_the_new_token_does_not_allow_does_not_come_back() {
    let mut cluster = cluster("3s");
    let mut watcher = cluster[2].user("watcher");
    watcher.watch("first");
    let claims = json!({"sub": "ann", "can": {"join": ["*"]}});
    let mut ann = cluster[0].user_with("ann", &claims, "device=d1");
    ann.join("first");
    ann.join("second");
    expect_notice(&mut watcher, "joined", "ann");
    await_listed(&cluster, 3);
    end(&mut cluster, End::Drained, &mut [&mut ann]);
    let claims = json!({"sub": "ann", "can": {"join": ["second"]}});
    let (mut new, welcome) = come_back(&cluster[1], &claims, "d1", &ann.id);
    assert_eq!(welcome["resumed"], true, "{welcome}");
    assert_eq!(new.json(), json!({"op": "left", "channel": "first"}));
    assert_eq!(new.json(), json!({"op": "joined", "channel": "second"}));
    let left = expect_notice(&mut watcher, "left", "ann");
    assert_eq!(left["member"]["id"], ann.id, "{left}");
    nothing_more(&cluster[1], [new, watcher]);
}

#[test]
fn what_a_revoked_token_had_does_not_come_back() {
    let mut cluster = cluster("10s");
    let mut ann = cluster[0].user_with("ann", &json!({}), "device=d1");
    ann.join("lobby");
    await_listed(&cluster, 2);
    cluster.nodes[0].kill();
    cluster[1].call("/v1/revoke", &json!({"users": ["ann"]}));
    let later = json!({"sub": "ann", "iat": crate::support::unix_now() + 2});
    let (mut new, welcome) = come_back(&cluster[1], &later, "d1", &ann.id);
    assert_eq!(welcome["resumed"], false, "{welcome}");
    new.expect_nothing();
}

#[test]
fn a_client_starts_afresh_if_nobody_knows_what_it_had() {
    let mut cluster = cluster("10s");
    let mut ann = cluster[0].user_with("ann", &json!({}), "device=d1");
    ann.join("lobby");
    await_listed(&cluster, 2);
    end(&mut cluster, End::Drained, &mut [&mut ann]);
    cluster.redis.pause().unwrap();
    let (_new, welcome) = come_back(&cluster[1], &json!({"sub": "ann"}), "d1", &ann.id);
    cluster.redis.resume().unwrap();
    assert_eq!(welcome["resumed"], false, "{welcome}");
}

#[test]
fn an_anonymous_client_that_does_not_come_back_leaves_a_channel_that_it_was_alone_in() {
    let cluster = cluster("1s");
    let mut watcher = cluster[2].user("watcher");
    watcher.watch("room");
    let mut stranger = cluster[0].connect("device=d1");
    stranger.join("room");
    let joined = next_notice(&mut watcher);
    assert_eq!(joined["kind"], "joined", "{joined}");

    cut(&stranger);
    let left = next_notice(&mut watcher);
    assert_eq!(
        (&left["kind"], &left["member"]["id"]),
        (&json!("left"), &joined["member"]["id"]),
        "{left}"
    );
}

#[test]
fn of_two_connections_that_come_back_for_one_the_one_that_got_its_places_has_them() {
    let mut cluster = cluster("3s");
    let clients = 20;
    let claims = |n: usize| json!({"sub": format!("u{n}"), "can": {"join": ["room"]}});
    let mut old: Vec<Client> = (0..clients)
        .map(|n| cluster[0].user_with(&format!("u{n}"), &claims(n), "device=d1"))
        .collect();
    for client in &mut old {
        client.join("room");
    }
    await_listed(&cluster, 2 * clients as u64);
    end(&mut cluster, End::Crashed, &mut []);

    // Each comes back by two connections at the same time, of which one is late.
    let node = &cluster[1];
    let mut both = Vec::new();
    for (n, old) in old.iter().enumerate() {
        let token = signed(&claims(n));
        let query = format!("token={token}&device=d1&resume={}", old.id);
        both.extend([node.open(&query), node.open(&query)]);
    }
    for client in &mut both {
        assert_eq!(client.json()["op"], "welcome");
    }
    eventually("each is in the channel again", || {
        node.look("/v1/channels/room/members")["count"] == clients
    });
}
