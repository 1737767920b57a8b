//! Channels: sending to them, looking into them, putting connections into them.

use fanfare::config::ChannelRule;

use super::*;

/// A server whose channels `kept-…` keep their last 100 events.
fn keeping() -> TestServer {
    server_with(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.channels = vec![ChannelRule::new("kept-*", 100)];
    })
}

/// Has `client` ask for something, and gives the ack.
fn ask(client: &mut Client, mut message: Value) -> Value {
    message["id"] = json!(1);
    client.send(&message);
    let ack = client.json();
    assert_eq!(
        (&ack["op"], &ack["id"]),
        (&json!("ack"), &json!(1)),
        "{ack}"
    );
    ack
}

fn join(client: &mut Client, channel: &str) {
    ask(client, json!({"op": "join", "channel": channel}));
}

/// The pages of `path`: what they list under `list`, until there is no `cursor`, which goes into the parameter `by`.
fn pages(server: &TestServer, path: &str, list: &str, by: &str) -> Vec<Vec<Value>> {
    let mut pages = Vec::new();
    let mut next = path.to_owned();
    loop {
        let answer = server.get(&next);
        assert_eq!(answer.status, 200, "{next}: {answer:?}");
        let page = answer.json();
        pages.push(page[list].as_array().unwrap().clone());
        let cursor = match &page["cursor"] {
            Value::Null => return pages,
            Value::String(cursor) => cursor.clone(),
            cursor => cursor.to_string(),
        };
        next = format!("{path}&{by}={cursor}");
    }
}

fn lengths(pages: &[Vec<Value>]) -> Vec<usize> {
    pages.iter().map(Vec::len).collect()
}

// Sending

#[test]
fn send_reaches_the_members_of_its_channels_and_nobody_else() {
    let server = server();
    let (mut ann, mut bob) = (
        server.client("ann", &json!({"n": 1})),
        server.client("bob", &json!({"n": 2})),
    );
    let mut cid = server.client("cid", &json!({}));
    join(&mut ann, "a");
    join(&mut bob, "a");
    join(&mut bob, "b");
    let send = |body: Value| matched(&server, "/v1/send", &body);
    assert_eq!(
        send(json!({"channel": "a", "event": "one", "data": [1.0]})),
        2
    );
    assert_eq!(server.count("fanfare_encodings_total", "default"), 1);
    assert_eq!(ann.text(), r#"{"event":"one","channel":"a","data":[1.0]}"#);
    assert_eq!(
        send(json!({"channels": ["a", "b", "a"], "event": "both"})),
        3
    );
    assert_eq!(
        server.count("fanfare_encodings_total", "default"),
        3,
        "each channel has a frame of its own"
    );
    assert_eq!(send(json!({"channel": "nobodys", "event": "none"})), 0);
    assert_eq!(send(json!({"channels": [], "event": "none"})), 0);
    assert_eq!(
        send(json!({"channel": "a", "event": "less", "except": {"users": ["ann"]}})),
        1
    );
    let filtered = json!({"channel": "a", "event": "some", "filter": "auth.n == params.n", "params": {"n": 1}});
    assert_eq!(send(filtered), 1);
    assert_eq!(events(&mut ann), ["both", "some"]);
    assert_eq!(events(&mut bob), ["one", "both", "both", "less"]);
    assert_eq!(events(&mut cid), [""; 0]);
}

#[test]
fn several_channels_take_one_place_at_the_gate() {
    let server = server_with(|config| {
        config.limits.bulk_publications = 1;
        config.limits.small_publications = 1;
        // Small enough for four frames to need all of the gate, and all else for them.
        let limits = &mut config.limits;
        (
            limits.admitted_bytes,
            limits.body_bytes,
            limits.message_bytes,
        ) = (4000, 4000, 4000);
        (limits.claims_bytes, limits.profile_bytes) = (500, 500);
    });
    let mut clients: Vec<Client> = (0..110).map(|_| server.connect("")).collect();
    for channel in ["a", "b"] {
        server.call("/v1/join", &json!({"channel": channel, "filter": "true"}));
    }
    for channel in ["c", "d"] {
        server.call(
            "/v1/join",
            &json!({"channel": channel, "to": {"connections": [clients[0].id]}}),
        );
    }
    let data = "x".repeat(1000);
    let send = |body: Value| matched(&server, "/v1/send", &body);
    assert_eq!(
        send(json!({"channels": ["a", "b", "c", "d"], "event": "large", "data": data})),
        222
    );
    assert_eq!(
        send(json!({"channels": ["c", "d"], "event": "small", "data": data})),
        2
    );
    assert_eq!(
        events(&mut clients[0])[4..],
        ["large", "large", "large", "large", "small", "small"]
    );
    assert_eq!(events(&mut clients[109])[2..], ["large", "large"]);
    let gates =
        || server.count("fanfare_bulk_in_flight", "") + server.count("fanfare_small_in_flight", "");
    eventually("the gate is empty", || gates() == 0);
}

#[test]
fn bytes_for_a_channel_arrive_behind_a_header_that_names_it() {
    let server = server();
    let mut client = server.connect("");
    join(&mut client, "a");
    server.call(
        "/v1/send",
        &json!({"channels": ["a"], "event": "e", "data_base64": "AP8B"}),
    );
    let header = br#"{"event":"e","channel":"a"}"#;
    let expected = [&[1, 0, header.len() as u8][..], header, &[0, 255, 1]].concat();
    assert_eq!(client.message(), Received::Binary(expected));
}

#[test]
fn a_channel_with_history_says_where_the_event_stands() {
    let server = keeping();
    let mut client = server.connect("");
    join(&mut client, "kept-1");
    let first = server.call("/v1/send", &json!({"channel": "kept-1", "event": "e"}));
    assert_eq!(first["stored"], 1);
    let place = &first["publications"][0];
    assert_eq!(
        (&place["channel"], &place["id"]),
        (&json!("kept-1"), &first["id"])
    );
    assert_eq!(
        (
            place["offset"].as_u64(),
            place["epoch"].as_str().map(str::len)
        ),
        (Some(1), Some(13))
    );
    assert_eq!(
        client.text(),
        r#"{"event":"e","channel":"kept-1","data":null,"offset":1}"#
    );
    let several = json!({"channels": ["kept-1", "plain", "kept-2"], "event": "e"});
    let several = server.call("/v1/send", &several);
    assert_eq!(
        (&several["stored"], &several["matched"]),
        (&json!(2), &json!(1))
    );
    let places = several["publications"].as_array().unwrap();
    let places: Vec<_> = places
        .iter()
        .map(|place| (place["channel"].as_str(), place["offset"].as_u64()))
        .collect();
    assert_eq!(
        places,
        [(Some("kept-1"), Some(2)), (Some("kept-2"), Some(1))]
    );
    let by_emit = server.call(
        "/v1/emit",
        &json!({"to": {"channels": ["kept-1"]}, "event": "e", "store": true}),
    );
    assert_eq!(
        (&by_emit["stored"], &by_emit["publications"][0]["offset"]),
        (&json!(1), &json!(3))
    );
    for (path, body) in [
        ("/v1/send", json!({"channel": "plain", "event": "e"})),
        (
            "/v1/send",
            json!({"channel": "kept-1", "event": "e", "store": false}),
        ),
        (
            "/v1/send",
            json!({"channel": "kept-1", "event": "e", "filter": "true"}),
        ),
        (
            "/v1/emit",
            json!({"to": {"channels": ["kept-1", "kept-2"]}, "event": "e"}),
        ),
        ("/v1/broadcast", json!({"event": "e"})),
    ] {
        let receipt = server.call(path, &body);
        assert_eq!(
            (&receipt["stored"], receipt.get("publications")),
            (&json!(0), None),
            "{path} {body}"
        );
    }
}

#[test]
fn what_is_to_be_kept_and_cannot_be_is_refused_and_reaches_nobody() {
    let server = keeping();
    let mut client = server.client("ann", &json!({}));
    join(&mut client, "kept-1");
    join(&mut client, "plain");
    for (path, body) in [
        ("/v1/emit", json!({})),
        ("/v1/emit", json!({"to": {"connections": [client.id]}})),
        (
            "/v1/emit",
            json!({"to": {"channels": ["kept-1", "kept-2"]}}),
        ),
        (
            "/v1/emit",
            json!({"to": {"channels": ["kept-1"], "users": ["ann"]}}),
        ),
        ("/v1/send", json!({"channel": "plain"})),
        ("/v1/send", json!({"channel": "kept-1", "filter": "true"})),
        ("/v1/send", json!({"channels": ["kept-1", "plain"]})),
        ("/v1/publish", json!({"user": "ann"})),
        ("/v1/dispatch", json!({"recipients": ["*"]})),
    ] {
        let mut body = body.clone();
        body["event"] = json!("e");
        body["store"] = json!(true);
        assert_eq!(
            refusal(&server, path, &body),
            (400, "cannot_store".into()),
            "{path} {body}"
        );
    }
    client.expect_nothing();
    assert_eq!(
        server.get("/v1/channels/kept-1/history").json()["events"],
        json!([])
    );
}

#[test]
fn channels_can_be_named_wherever_connections_are_meant() {
    let server = server();
    let (mut ann, mut bob) = (
        server.client("ann", &json!({})),
        server.client("bob", &json!({})),
    );
    let mut cid = server.connect("");
    join(&mut ann, "a");
    join(&mut ann, "b");
    join(&mut bob, "b");
    let union = json!({"channels": ["a", "b"], "users": ["ann"], "connections": [cid.id]});
    assert_eq!(
        matched(&server, "/v1/emit", &json!({"event": "union", "to": union})),
        3
    );
    let filtered = json!({"event": "filtered", "filter": "\"a\" in channels"});
    assert_eq!(matched(&server, "/v1/emit", &filtered), 1);
    let items = json!([
        {"call": "send", "channel": "b", "event": "batch"},
        {"call": "send", "channel": "b c", "event": "never"},
        {"call": "send", "event": "never"},
        {"call": "send", "channels": ["a", "b"], "event": "last"},
    ]);
    let answer = server.call("/v1/batch", &json!({ "items": items }));
    let codes = answer["results"].as_array().unwrap().iter();
    let codes: Vec<_> = codes
        .map(|result| result["error"]["code"].as_str().unwrap_or("ok"))
        .collect();
    assert_eq!(codes, ["ok", "bad_channel", "missing_field", "ok"]);
    assert_eq!(
        events(&mut ann),
        ["union", "filtered", "batch", "last", "last"]
    );
    assert_eq!(events(&mut bob), ["union", "batch", "last"]);
    assert_eq!(events(&mut cid), ["union"]);
    let closed = server.call(
        "/v1/disconnect",
        &json!({"to": {"channels": ["b"]}, "except": {"users": ["ann"]}}),
    );
    assert_eq!(closed["disconnected"], 1);
    assert_eq!(bob.closed(), 4010);
    ann.expect_nothing();
}

#[test]
fn a_repeated_send_with_a_key_sends_nothing() {
    let server = keeping();
    let body = json!({"channels": ["kept-1", "kept-2"], "event": "e"}).to_string();
    let send = || {
        server
            .request(
                "POST",
                "/v1/send",
                &[("Idempotency-Key", "k")],
                Some(body.as_bytes()),
            )
            .text
    };
    assert_eq!(send(), send());
    assert_eq!(server.get("/v1/channels/kept-2").json()["offset"], 1);
}

// Looking

#[test]
fn channels_are_listed_by_name_page_by_page() {
    let server = server();
    let mut clients: Vec<Client> = (0..3)
        .map(|n| server.client(&format!("u{}", n / 2), &json!({})))
        .collect();
    for n in 0..25 {
        join(&mut clients[0], &format!("room-{n:02}"));
    }
    for channel in ["room-03", "other"] {
        for client in &mut clients[1..] {
            join(client, channel);
        }
    }
    let found = pages(
        &server,
        "/v1/channels?limit=10&prefix=room-",
        "channels",
        "cursor",
    );
    assert_eq!(lengths(&found), [10, 10, 5]);
    let names: Vec<String> = found
        .concat()
        .iter()
        .map(|one| one["channel"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        names,
        (0..25).map(|n| format!("room-{n:02}")).collect::<Vec<_>>()
    );
    assert_eq!(
        found[0][2],
        json!({"channel": "room-02", "connections": 1, "users": 1})
    );
    assert_eq!(
        found[0][3],
        json!({"channel": "room-03", "connections": 3, "users": 2})
    );
    let all = server.get("/v1/channels").json();
    assert_eq!(
        (all["channels"].as_array().unwrap().len(), all.get("cursor")),
        (26, None)
    );
    assert_eq!(all["channels"][0]["channel"], "other");
    assert_eq!(
        server.get("/v1/channels?prefix=none").json(),
        json!({"channels": []})
    );
    assert_eq!(
        lengths(&pages(
            &server,
            "/v1/channels?limit=26",
            "channels",
            "cursor"
        )),
        [26]
    );
    drop(clients);
    eventually("nobody is in any", || {
        server.get("/v1/channels").json() == json!({"channels": []})
    });
}

#[test]
fn a_channel_shows_how_many_are_in_it_and_where_its_history_stands() {
    let server = keeping();
    let one = |channel: &str| server.get(&format!("/v1/channels/{channel}")).json();
    assert_eq!(
        one("kept-1"),
        json!({"channel": "kept-1", "connections": 0, "users": 0})
    );
    let (mut ann, mut again) = (
        server.client("ann", &json!({})),
        server.client("ann", &json!({})),
    );
    let mut anonymous = server.connect("");
    for client in [&mut ann, &mut again, &mut anonymous] {
        join(client, "plain");
    }
    assert_eq!(
        one("plain"),
        json!({"channel": "plain", "connections": 3, "users": 1})
    );
    let sent = server.call("/v1/send", &json!({"channel": "kept-1", "event": "e"}));
    let shown = one("kept-1");
    assert_eq!(
        (&shown["connections"], &shown["offset"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(shown["epoch"], sent["publications"][0]["epoch"]);
    join(&mut ann, "kept-2");
    assert_eq!(
        (&one("kept-2")["connections"], &one("kept-2")["offset"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(one("A_z.0:9=@,;-")["connections"], 0);
    assert_eq!(one("a%3Db%40c")["channel"], "a=b@c", "percent-encoded");
}

#[test]
fn members_are_listed_by_page_each_once() {
    let server = server();
    let mut clients: Vec<Client> = (0..25)
        .map(|n| server.client(&format!("u{}", n % 20), &json!({})))
        .collect();
    let mut anonymous = server.connect("");
    join(&mut anonymous, "room");
    for client in &mut clients {
        join(client, "room");
    }
    ask(
        &mut clients[7],
        json!({"op": "update", "data": {"b": 1, "a": [2.5]}}),
    );
    let found = pages(
        &server,
        "/v1/channels/room/members?limit=10",
        "members",
        "cursor",
    );
    assert_eq!(lengths(&found), [10, 10, 6]);
    let found = found.concat();
    let ids: BTreeSet<&str> = found
        .iter()
        .map(|member| member["id"].as_str().unwrap())
        .collect();
    assert_eq!(
        ids,
        clients
            .iter()
            .chain([&anonymous])
            .map(|client| client.id.as_str())
            .collect()
    );
    let of = |client: &Client| {
        found
            .iter()
            .find(|member| member["id"] == client.id)
            .unwrap()
    };
    assert_eq!(
        *of(&clients[7]),
        json!({"id": clients[7].id, "user": "u7", "data": {"a": [2.5], "b": 1}})
    );
    assert_eq!(*of(&clients[8]), json!({"id": clients[8].id, "user": "u8"}));
    assert_eq!(*of(&anonymous), json!({"id": anonymous.id, "user": null}));
    let page = server.get("/v1/channels/room/members").json();
    assert_eq!(
        (&page["count"], &page["users"], page.get("cursor")),
        (&json!(26), &json!(20), None)
    );
    let empty = server.get("/v1/channels/empty/members").json();
    assert_eq!(empty, json!({"members": [], "count": 0, "users": 0}));
}

#[test]
fn history_is_shown_oldest_first_as_it_was_sent() {
    let server = keeping();
    let history = |query: &str| server.get(&format!("/v1/channels/kept-1/history{query}"));
    assert_eq!(history("").json(), json!({"offset": 0, "events": []}));
    let mut client = server.client("ann", &json!({}));
    join(&mut client, "kept-1");
    for data in ["1e2", r#"{"b":[ 1.0 ],"a":"\u00e9"}"#] {
        let body = format!(r#"{{"channel":"kept-1","event":"e","data":{data}}}"#);
        assert_eq!(
            server
                .request("POST", "/v1/send", &[], Some(body.as_bytes()))
                .status,
            200
        );
    }
    let sent = server.call(
        "/v1/send",
        &json!({"channel": "kept-1", "event": "bytes", "data_base64": "AP8="}),
    );
    client.send(&json!({"op": "send", "channel": "kept-1", "event": "own", "data": null}));
    eventually("the client's is kept", || history("").json()["offset"] == 4);
    let answer = history("");
    assert!(
        answer.text.contains(r#""event":"e","data":1e2}"#),
        "{}",
        answer.text
    );
    assert!(
        answer
            .text
            .contains(r#""data":{"b":[ 1.0 ],"a":"\u00e9"}}"#),
        "{}",
        answer.text
    );
    let shown = answer.json();
    assert_eq!(shown["epoch"], sent["publications"][0]["epoch"]);
    assert_eq!(shown.get("cursor"), None);
    let event = &shown["events"][2];
    assert_eq!((&event["offset"], &event["id"]), (&json!(3), &sent["id"]));
    assert_eq!(
        (&event["data_base64"], event.get("data")),
        (&json!("AP8="), None)
    );
    assert!(event["at"].as_u64().unwrap().abs_diff(unix_now() * 1000) < 60_000);
    let own = &shown["events"][3];
    assert_eq!(own["from"], json!({"connection": client.id, "user": "ann"}));
    assert_eq!((&own["data"], &own["event"]), (&json!(null), &json!("own")));
    assert_eq!(history("?after=3").json()["events"], json!([own]));
    assert_eq!(history("?after=9").json()["events"], json!([]));
}

#[test]
fn history_is_paged_to_its_end() {
    let server = server_with(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.channels = vec![ChannelRule::new("kept", 20)];
    });
    for n in 1..=25 {
        server.call(
            "/v1/send",
            &json!({"channel": "kept", "event": "e", "data": n}),
        );
    }
    let found = pages(
        &server,
        "/v1/channels/kept/history?limit=8",
        "events",
        "after",
    );
    assert_eq!(lengths(&found), [8, 8, 4]);
    let offsets: Vec<u64> = found
        .concat()
        .iter()
        .map(|event| event["offset"].as_u64().unwrap())
        .collect();
    assert_eq!(
        offsets,
        (6..=25).collect::<Vec<_>>(),
        "five were too many to keep"
    );
    assert!(
        found
            .concat()
            .iter()
            .all(|event| event["offset"] == event["data"])
    );
    assert_eq!(
        lengths(&pages(
            &server,
            "/v1/channels/kept/history?limit=20",
            "events",
            "after"
        )),
        [20]
    );
}

#[test]
fn of_profiles_as_of_claims_nothing_hidden_is_shown() {
    let server = server_with(|config| config.redact = vec!["profile.phone".to_owned()]);
    let mut client = server.client("ann", &json!({}));
    ask(
        &mut client,
        json!({"op": "update", "data": {"phone": "555-0100", "name": "Ann"}}),
    );
    join(&mut client, "room");
    let shown = server.get(&format!("/v1/connections/{}", client.id)).json();
    assert_eq!(
        shown["profile"],
        json!({"phone": "[redacted]", "name": "Ann"})
    );
    assert_eq!(shown["channels"], json!(["room"]));
    assert_eq!(
        server.get("/v1/connections").json()["connections"][0],
        shown
    );
    let members = server.get("/v1/channels/room/members").json();
    assert_eq!(members["members"][0]["data"], shown["profile"]);
    let filter =
        json!({"filter": "profile.phone != \"\" && size(profile) > 0", "connection": client.id});
    assert!(!server.post("/v1/explain", &filter).text.contains("555"));
}

// Steering

#[test]
fn join_puts_in_whom_it_describes_and_leave_takes_them_out() {
    let server = keeping();
    let (mut ann, mut bob) = (
        server.client("ann", &json!({"team": "red"})),
        server.client("bob", &json!({"team": "red"})),
    );
    let mut cid = server.client("cid", &json!({"team": "blue"}));
    let put = |body: Value| server.call("/v1/join", &body);
    let answer = put(json!({"channel": "kept-1", "to": {"users": ["ann", "stranger"]}}));
    assert_eq!(answer, json!({"joined": 1, "already": 0, "full": 0}));
    let joined = ann.json();
    assert_eq!(
        (&joined["op"], &joined["channel"]),
        (&json!("joined"), &json!("kept-1"))
    );
    assert_eq!(
        (&joined["offset"], joined["epoch"].is_string()),
        (&json!(0), true)
    );
    let red =
        json!({"channel": "kept-1", "filter": "auth.team == params.t", "params": {"t": "red"}});
    assert_eq!(
        put(red.clone()),
        json!({"joined": 1, "already": 1, "full": 0})
    );
    assert_eq!(bob.json()["op"], "joined");
    assert_eq!(
        put(json!({"channel": "plain", "to": {}})),
        json!({"joined": 0, "already": 0, "full": 0})
    );
    let rest = json!({"channel": "plain", "filter": "true", "except": {"users": ["ann", "bob"]}});
    assert_eq!(put(rest), json!({"joined": 1, "already": 0, "full": 0}));
    assert_eq!(cid.text(), r#"{"op":"joined","channel":"plain"}"#);
    server.call(
        "/v1/send",
        &json!({"channels": ["kept-1", "plain"], "event": "e"}),
    );
    assert_eq!(ann.json()["offset"], 1);
    let out = |body: Value| server.call("/v1/leave", &body)["left"].clone();
    assert_eq!(
        out(
            json!({"channel": "kept-1", "to": {"channels": ["kept-1"]}, "filter": "user == \"bob\""})
        ),
        1
    );
    assert_eq!(bob.json()["event"], "e");
    assert_eq!(bob.text(), r#"{"op":"left","channel":"kept-1"}"#);
    assert_eq!(out(red), 1, "bob is in it no more");
    assert_eq!(ann.json()["op"], "left");
    assert_eq!(
        out(json!({"channel": "plain", "to": {"connections": [ann.id]}})),
        0
    );
    assert_eq!(cid.json()["event"], "e");
    server.call(
        "/v1/send",
        &json!({"channels": ["kept-1", "plain"], "event": "last"}),
    );
    assert_eq!(cid.json()["event"], "last");
    for client in [&mut ann, &mut bob, &mut cid] {
        client.expect_nothing();
    }
}

#[test]
fn who_is_in_as_many_channels_as_may_be_is_told_apart() {
    let server = server_with(|config| config.limits.channels_per_connection = 1);
    let mut ann = server.client("ann", &json!({}));
    let mut bob = server.client("bob", &json!({}));
    join(&mut ann, "a");
    let answer = server.call("/v1/join", &json!({"channel": "b", "filter": "true"}));
    assert_eq!(answer, json!({"joined": 1, "already": 0, "full": 1}));
    let answer = server.call(
        "/v1/join",
        &json!({"channel": "a", "to": {"users": ["ann", "bob"]}}),
    );
    assert_eq!(answer, json!({"joined": 0, "already": 1, "full": 1}));
    assert_eq!(bob.json()["channel"], "b");
    ann.expect_nothing();
    assert_eq!(server.get("/v1/channels/b").json()["connections"], 1);
}

#[test]
fn a_crowd_is_put_into_a_channel_and_out_of_it() {
    let server = server();
    let mut clients: Vec<Client> = (0..150).map(|_| server.connect("")).collect();
    let answer = server.call(
        "/v1/join",
        &json!({"channel": "room", "filter": "user == null"}),
    );
    assert_eq!(answer, json!({"joined": 150, "already": 0, "full": 0}));
    assert_eq!(
        matched(
            &server,
            "/v1/send",
            &json!({"channel": "room", "event": "e"})
        ),
        150
    );
    assert_eq!(
        server.call(
            "/v1/leave",
            &json!({"channel": "room", "filter": "\"room\" in channels"})
        )["left"],
        150
    );
    for client in &mut clients {
        assert_eq!(client.json()["op"], "joined");
        assert_eq!(client.json()["event"], "e");
        assert_eq!(client.json()["op"], "left");
    }
    assert_eq!(server.get("/v1/channels").json(), json!({"channels": []}));
}

// Refusals

#[test]
fn every_wrong_request_about_channels_has_its_code_and_does_nothing() {
    let server = keeping();
    let mut client = server.client("ann", &json!({}));
    let long = "x".repeat(201);
    let many: Vec<String> = (0..101).map(|n| format!("c{n}")).collect();
    for (path, body, code) in [
        ("/v1/send", json!({"event": "e"}), "missing_field"),
        ("/v1/send", json!({"channel": "a"}), "missing_field"),
        (
            "/v1/send",
            json!({"channel": "a", "channels": ["b"], "event": "e"}),
            "bad_field",
        ),
        (
            "/v1/send",
            json!({"channel": ["a"], "event": "e"}),
            "bad_field",
        ),
        (
            "/v1/send",
            json!({"channels": "a", "event": "e"}),
            "bad_field",
        ),
        (
            "/v1/send",
            json!({"channel": "a", "event": "e", "to": {}}),
            "unknown_field",
        ),
        (
            "/v1/send",
            json!({"chanel": "a", "event": "e"}),
            "unknown_field",
        ),
        (
            "/v1/send",
            json!({"channel": "a", "event": "e", "filter": "usr == 1"}),
            "undeclared_name",
        ),
        (
            "/v1/send",
            json!({"channel": "", "event": "e"}),
            "bad_channel",
        ),
        (
            "/v1/send",
            json!({"channels": ["a", "a b"], "event": "e"}),
            "bad_channel",
        ),
        (
            "/v1/send",
            json!({"channel": long, "event": "e"}),
            "bad_channel",
        ),
        (
            "/v1/send",
            json!({"channel": "a", "event": ""}),
            "event_name_length",
        ),
        (
            "/v1/send",
            json!({"channels": many, "event": "e"}),
            "too_many_names",
        ),
        (
            "/v1/emit",
            json!({"to": {"channels": ["*"]}, "event": "e"}),
            "bad_channel",
        ),
        (
            "/v1/emit",
            json!({"to": {"channels": "a"}, "event": "e"}),
            "bad_field",
        ),
        (
            "/v1/emit",
            json!({"except": {"channels": ["a"]}, "event": "e"}),
            "unknown_field",
        ),
        (
            "/v1/join",
            json!({"to": {"users": ["ann"]}}),
            "missing_field",
        ),
        ("/v1/join", json!({"channel": "a"}), "missing_field"),
        (
            "/v1/join",
            json!({"channel": "a", "except": {"users": ["ann"]}}),
            "missing_field",
        ),
        ("/v1/join", json!({"channel": "a", "to": null}), "bad_field"),
        (
            "/v1/join",
            json!({"channel": "a", "filter": null}),
            "bad_field",
        ),
        (
            "/v1/join",
            json!({"channel": 1, "filter": "true"}),
            "bad_field",
        ),
        (
            "/v1/join",
            json!({"channel": "a", "to": {"devices": ["d"]}}),
            "unknown_field",
        ),
        (
            "/v1/join",
            json!({"channels": ["a"], "filter": "true"}),
            "unknown_field",
        ),
        (
            "/v1/join",
            json!({"channel": "a b", "filter": "true"}),
            "bad_channel",
        ),
        (
            "/v1/join",
            json!({"channel": "a", "filter": "user"}),
            "not_boolean",
        ),
        (
            "/v1/join",
            json!({"channel": "a", "filter": "true", "params": []}),
            "bad_params",
        ),
    ] {
        assert_eq!(
            refusal(&server, path, &body),
            (400, code.to_owned()),
            "{path} {body}"
        );
        if path == "/v1/join" {
            assert_eq!(
                refusal(&server, "/v1/leave", &body),
                (400, code.to_owned()),
                "{body}"
            );
        }
    }
    client.expect_nothing();
    assert_eq!(server.get("/v1/channels").json(), json!({"channels": []}));
}

#[test]
fn every_wrong_look_at_channels_has_its_code() {
    let server = keeping();
    let long = format!("/v1/channels/{}", "x".repeat(201));
    for (path, status, code) in [
        ("/v1/channels?limit=0", 400, "bad_query"),
        ("/v1/channels?limit=1001", 400, "bad_query"),
        ("/v1/channels?cursor=a%20b", 400, "bad_query"),
        ("/v1/channels?prefix=%ff", 400, "bad_query"),
        ("/v1/channels?prefx=a", 400, "unknown_field"),
        ("/v1/channels/a%2Fb", 400, "bad_channel"),
        ("/v1/channels/room*", 400, "bad_channel"),
        (&long, 400, "bad_channel"),
        ("/v1/channels/%ff", 400, "bad_path"),
        ("/v1/channels/a%20b/members", 400, "bad_channel"),
        ("/v1/channels/%ff/members", 400, "bad_path"),
        ("/v1/channels/a/members?limit=1001", 400, "bad_query"),
        ("/v1/channels/a/members?cursor=x", 400, "bad_query"),
        ("/v1/channels/a/members?after=1", 400, "unknown_field"),
        ("/v1/channels/a%20b/history", 400, "bad_channel"),
        ("/v1/channels/kept-1/history?after=-1", 400, "bad_query"),
        ("/v1/channels/kept-1/history?after=", 400, "bad_query"),
        ("/v1/channels/kept-1/history?limit=none", 400, "bad_query"),
        ("/v1/channels/kept-1/history?cursor=1", 400, "unknown_field"),
        ("/v1/channels/plain/history", 404, "no_history"),
        ("/v1/channels/", 404, "unknown_path"),
        ("/v1/channels//members", 404, "unknown_path"),
        ("/v1/channels/a/b/members", 404, "unknown_path"),
        ("/v1/channels/a/presence", 404, "unknown_path"),
    ] {
        let answer = server.get(path);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{path}"
        );
    }
    for (method, path, allow) in [
        ("POST", "/v1/channels", "GET"),
        ("DELETE", "/v1/channels/a", "GET"),
        ("POST", "/v1/channels/a/members", "GET"),
        ("POST", "/v1/channels/a/history", "GET"),
        ("GET", "/v1/send", "POST"),
        ("GET", "/v1/join", "POST"),
        ("PUT", "/v1/leave", "POST"),
    ] {
        let answer = server.request(method, path, &[], None);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (405, "method_not_allowed"),
            "{method} {path}"
        );
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
    assert_eq!(server.get("/v1/channels/a/members?limit=1000").status, 200);
}

// Keys and apps

#[test]
fn channels_of_one_name_in_two_apps_are_two() {
    let server = two_apps();
    let token = jwt(
        OTHER_SECRET,
        &json!({"alg": "HS256"}),
        &json!({"sub": "ann"}),
    );
    let mut mine = server.connect(&format!("token={}", signed(&json!({"sub": "ann"}))));
    let mut theirs = server.connect(&format!("app=other&token={token}"));
    let put =
        |key: &str, body: Value| server.post_as(key, "/v1/join", &body).json()["joined"].clone();
    let both = json!({"connections": [mine.id, theirs.id]});
    assert_eq!(put(KEY, json!({"channel": "room", "to": both})), 1);
    assert_eq!(mine.json()["op"], "joined");
    assert_eq!(
        put(OTHER_KEY, json!({"channel": "room", "filter": "true"})),
        1
    );
    assert_eq!(theirs.json()["op"], "joined");
    let sent = server
        .post_as(KEY, "/v1/send", &json!({"channel": "room", "event": "e"}))
        .json();
    assert_eq!(sent["matched"], 1);
    let members = server.get_as(KEY, "/v1/channels/room/members").json();
    assert_eq!(
        (&members["count"], &members["members"][0]["id"]),
        (&json!(1), &json!(mine.id))
    );
    assert_eq!(
        server.get_as(KEY, "/v1/channels").json()["channels"][0]["connections"],
        1
    );
    let left = server
        .post_as(
            OTHER_KEY,
            "/v1/leave",
            &json!({"channel": "room", "to": both}),
        )
        .json();
    assert_eq!(left["left"], 1);
    assert_eq!(theirs.json()["op"], "left");
    assert_eq!(
        server.get_as(KEY, "/v1/channels/room").json()["connections"],
        1
    );
    assert_eq!(mine.json()["event"], "e");
}
