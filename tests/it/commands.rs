//! The commands that send, look and steer: the real program against a real server.

use serde_json::{Value, json};

use crate::running::{Served, run, run_with};
use crate::support::*;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The columns of a table's line.
fn cells(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn events_go_to_a_user_a_channel_and_everyone() {
    let served = Served::start(&["--channel-history", "room=10", "--store-user-events"]);
    let mut ann = served.listen(&["--user", "ann", "--channel", "room", "--json"]);
    ann.expect_error("joined");
    let _bob = served.listen(&["--user", "bob"]);

    let sent = [
        (
            &["publish", "ann", "a", "--text", "it's"][..],
            "matched 1, queued 1, dropped 0, stored 1",
        ),
        (
            &["send", "room", "b", "[1]"],
            "matched 1, queued 1, dropped 0, stored 1",
        ),
        (&["broadcast", "c"], "matched 2, queued 2, dropped 0"),
        (&["broadcast", "d", "--except-user", "ann"], "matched 1"),
        (&["send", "room", "e", "--except-user", "ann"], "matched 0"),
        (
            &[
                "publish",
                "ann",
                "f",
                "--filter",
                "user == params.u",
                "--param",
                "u=\"bob\"",
            ],
            "matched 0",
        ),
        (&["publish", "ann", "g", "-"], "matched 1"),
    ];
    for (words, expected) in sent {
        let receipt = run_with(&served.words(words), &[], "{\"n\":1.0}").expect(0);
        assert!(receipt.starts_with(expected), "{words:?}: {receipt}");
    }
    let mut got = Vec::new();
    for _ in 0..4 {
        let event = json(&ann.line());
        got.push((
            event["event"].as_str().unwrap().to_owned(),
            event["data"].to_string(),
        ));
    }
    let expected = [
        ("a", "\"it's\""),
        ("b", "[1]"),
        ("c", "null"),
        ("g", "{\"n\":1.0}"),
    ];
    assert_eq!(
        got,
        expected.map(|(event, data)| (event.to_owned(), data.to_owned()))
    );

    let everyone = served.run(&["emit", "h"]).expect(0);
    assert!(
        everyone.contains("sent to every connection") && everyone.contains("fanfare publish"),
        "{everyone}"
    );
    let some = served.run(&["emit", "h", "--user", "ann"]).expect(0);
    assert!(!some.contains("every connection"), "{some}");
    let answer = json(&served.run(&["send", "room", "i", "--json"]).expect(0));
    assert_eq!(
        (&answer["matched"], &answer["stored"]),
        (&json!(1), &json!(1))
    );
}

#[test]
fn connections_are_shown() {
    let served = Served::start(&[]);
    let ann = served.listen(&[
        "--user",
        "ann",
        "--claims",
        r#"{"tenant":"acme"}"#,
        "--channel",
        "room",
    ]);
    let anonymous = served.listen(&[]);
    let (ann_id, anonymous_id) = (ann.connection(), anonymous.connection());

    let table = served.run(&["connections"]).expect(0);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(
        cells(lines[0]),
        ["ID", "USER", "IP", "CONNECTED", "CHANNELS"]
    );
    let of = |id: &str| cells(lines.iter().find(|line| line.starts_with(id)).unwrap());
    assert_eq!(of(&ann_id)[1..3], ["ann", "127.0.0.1"]);
    assert_eq!(of(&anonymous_id)[1], "-");
    eventually("ann has joined", || {
        let table = served.run(&["connections"]).expect(0);
        table
            .lines()
            .any(|line| line.starts_with(&ann_id) && line.ends_with("room"))
    });

    let filter = [
        "--filter",
        "auth.tenant == params.t",
        "--param",
        "t=\"acme\"",
    ];
    let lines = served
        .run(&[&["connections", "--json"], &filter[..]].concat())
        .expect(0);
    assert_eq!(
        (lines.lines().count(), &json(&lines)["id"]),
        (1, &json!(ann_id))
    );
    let one = served.run(&["connections", &ann_id]).expect(0);
    assert!(
        one.contains("\"tenant\":\"acme\"") && one.contains("channels   room"),
        "{one}"
    );
    assert_eq!(
        json(&served.run(&["connections", &ann_id, "--json"]).expect(0))["user"],
        "ann"
    );
    let gone = served
        .run(&["connections", "yn2f9kr000001bv7hxg15c23y4"])
        .refused(1);
    assert!(gone.contains("404"), "{gone}");
    let none = served
        .run(&["connections", "--filter", "user == 'zoe'"])
        .expect(0);
    assert_eq!(none, "no connections\n");
    let wrong = served
        .run(&["connections", "--filter", "usr == 'zoe'"])
        .refused(1);
    assert!(
        wrong.contains("did you mean \"user\"?") && wrong.contains('^'),
        "{wrong}"
    );
}

#[test]
fn a_user_is_online_or_offline() {
    let served = Served::start(&[]);
    let _ann = served.listen(&["--user", "ann"]);
    assert_eq!(
        served.run(&["user", "ann"]).expect(0),
        "ann is online, with 1 connection\n"
    );
    assert_eq!(
        served.run(&["user", "a/b c"]).expect(0),
        "a/b c is offline\n"
    );
    assert_eq!(
        json(&served.run(&["user", "ann", "--json"]).expect(0))["connections"],
        1
    );
}

#[test]
fn channels_are_shown_joined_and_left() {
    let served = Served::start(&[]);
    let _clients = ["ann", "bob", "zoe"].map(|user| served.listen(&["--user", user]));
    let run = |words: &[&str]| served.run(words).expect(0);
    assert_eq!(
        run(&["join", "room-1", "--user", "ann", "--user", "bob"]),
        "joined 2\n"
    );
    assert_eq!(
        run(&["join", "room-1", "--filter", "true"]),
        "joined 1, 2 were members already\n"
    );
    assert_eq!(
        run(&[
            "join",
            "room-2",
            "--channel",
            "room-1",
            "--except-user",
            "zoe"
        ]),
        "joined 2\n"
    );
    assert_eq!(run(&["leave", "room-2", "--user", "bob"]), "left 1\n");
    assert_eq!(
        json(&run(&["leave", "room-2", "--user", "bob", "--json"])),
        json!({"left": 0})
    );

    let table = run(&["channels", "room-"]);
    let lines: Vec<Vec<&str>> = table.lines().map(cells).collect();
    assert_eq!(
        lines,
        [
            ["CONNECTIONS", "USERS", "CHANNEL"],
            ["3", "3", "room-1"],
            ["1", "1", "room-2"]
        ]
    );
    let few = served.run(&["channels", "--limit", "1", "--json"]);
    assert_eq!(
        (few.code, &json(&few.out)["channel"]),
        (0, &json!("room-1"))
    );
    assert_eq!(
        few.error,
        "there are more channels; show them with a higher --limit\n"
    );

    let members = run(&["members", "room-1"]);
    let mut users: Vec<&str> = members.lines().skip(1).map(|line| cells(line)[1]).collect();
    users.sort_unstable();
    assert_eq!(users, ["ann", "bob", "zoe"]);
    assert_eq!(run(&["members", "room-1", "--json"]).lines().count(), 3);
    let bad = served.run(&["members", "a room"]).refused(1);
    assert!(bad.contains("channel"), "{bad}");
}

#[test]
fn a_list_longer_than_a_page_is_shown_whole() {
    let served = Served::start(&["--channel-history", "room=3000"]);
    let items: Vec<Value> = (0..100)
        .map(|n| json!({"call": "send", "channel": "room", "event": "e", "data": n}))
        .collect();
    let body = json!({ "items": items }).to_string();
    for _ in 0..11 {
        let sent = request(
            served.address,
            "POST",
            "/v1/batch",
            &[],
            Some(body.as_bytes()),
        );
        assert_eq!(sent.status, 200);
    }
    let all = served
        .run(&["history", "room", "--json", "--limit", "5000"])
        .expect(0);
    let offsets = all
        .lines()
        .map(|line| json(line)["offset"].as_u64().unwrap());
    assert!(offsets.eq(1..=1100), "{}", all.lines().count());
    let rest = served
        .run(&["history", "room", "--after", "1098"])
        .expect(0);
    let lines: Vec<Vec<&str>> = rest.lines().map(cells).collect();
    assert_eq!(lines[0], ["OFFSET", "TIME", "EVENT", "FROM", "DATA"]);
    assert_eq!((lines[1][0], lines[1][2], lines[1][4]), ("1099", "e", "98"));
    let first = served.run(&["history", "room"]);
    assert_eq!(first.out.lines().count(), 1001);
    assert!(
        first.error.contains("there are more events"),
        "{}",
        first.error
    );

    let none = served.run(&["history", "lobby"]).refused(1);
    assert!(none.contains("404"), "{none}");
    let refused = served.run(&["history", "lobby", "--json"]);
    assert_eq!(
        (refused.code, &json(&refused.out)["code"]),
        (1, &json!("no_history"))
    );
}

#[test]
fn connections_are_closed_with_code_and_reason() {
    let served = Served::start(&[]);
    let mut ann = served.listen(&["--user", "ann"]);
    let words = [
        "disconnect",
        "--user",
        "ann",
        "--code",
        "4011",
        "--reason",
        "signed out",
    ];
    assert_eq!(served.run(&words).expect(0), "disconnected 1\n");
    ann.expect_error("4011, signed out");
    assert_eq!(ann.finish().code, 1);
    assert_eq!(
        json(
            &served
                .run(&["disconnect", "--filter", "true", "--json"])
                .expect(0)
        ),
        json!({"disconnected": 0})
    );
    let bad = served
        .run(&["disconnect", "--user", "ann", "--code", "1"])
        .refused(1);
    assert!(bad.contains("3000 to 4999"), "{bad}");
}

#[test]
fn shells_and_man_are_told_of_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).expect(0);
        for command in ["serve", "publish", "disconnect", "--except-user"] {
            // fish writes long flags without their dashes.
            assert!(
                script.contains(command.trim_start_matches('-')),
                "{shell} {command}"
            );
        }
    }
    let page = run(&["man"]).expect(0);
    assert!(
        page.contains(".TH fanfare 1") && page.contains("fanfare\\-publish(1)"),
        "{page}"
    );
    let page = run(&["man", "serve"]).expect(0);
    assert!(
        page.contains(".TH fanfare-serve 1") && page.contains("PORT"),
        "{page}"
    );
}

#[test]
fn tokens_are_revoked_and_claims_replaced() {
    let served = Served::start(&[]);
    let ann = served.listen(&["--user", "ann"]);
    ann.connection();
    let replaced = served
        .run(&["auth", "ann", "--claims", r#"{"plan":"pro"}"#])
        .expect(0);
    assert_eq!(replaced, "replaced the claims of 1 connection\n");
    let emit = served
        .run(&["emit", "a", "--filter", "auth.plan == 'pro'"])
        .expect(0);
    assert!(emit.starts_with("matched 1"), "{emit}");
    let words = [
        "auth",
        "ann",
        "--claims",
        "{}",
        "--can",
        r#"{"join":[]}"#,
        "--json",
    ];
    let answer = json(&served.run(&words).expect(0));
    assert_eq!(answer, json!({"connections": 1, "nodes": 1}));

    let none = served
        .run(&["revoke", "ann", "bob", "--before", "2001-09-09T01:46:40Z"])
        .expect(0);
    assert!(
        none.contains("issued before 2001-09-09T01:46:40Z") && none.ends_with("disconnected 0\n"),
        "{none}"
    );
    let seconds = served
        .run(&["revoke", "ann", "--before", "1000000000"])
        .expect(0);
    assert_eq!(seconds, none);
    let answer = json(&served.run(&["revoke", "ann", "--json"]).expect(0));
    assert_eq!(answer["disconnected"], 1);
    for (words, expected) in [
        (
            &["revoke", "ann", "--before", "soon"][..],
            "\"before\" must be whole seconds since 1970",
        ),
        (
            &["auth", "ann", "--claims", r#"{"sub":"bob"}"#],
            "must not hold \"sub\"",
        ),
    ] {
        let refused = served.run(words).refused(1);
        assert!(refused.contains(expected), "{words:?}: {refused}");
    }
}

#[test]
fn the_options_of_a_publication_are_passed_on() {
    let served = Served::start(&["--channel-history", "room=10", "--store-user-events"]);
    let mut ann = served.listen(&["--user", "ann", "--json"]);
    let mut bob = served.listen(&["--user", "bob", "--json"]);
    let sent = |words: &[&str], expected: &str| {
        let receipt = served.run(words).expect(0);
        assert!(receipt.starts_with(expected), "{words:?}: {receipt}");
        receipt
    };

    let receipt = sent(
        &[
            "publish",
            "ann",
            "a",
            "--user",
            "bob",
            "--receipt",
            "cluster",
        ],
        "matched 2, queued 2, dropped 0, stored 2  (on this node; id ",
    );
    assert!(receipt.ends_with(")\n"), "{receipt}");
    sent(
        &["publish", "ann", "b", "--store=false", "--scope", "node"],
        "matched 1, queued 1, dropped 0  (",
    );
    let once = ["publish", "bob", "c", "--idempotency-key", "order-7"];
    assert_eq!(
        sent(&once, "matched 1"),
        sent(&once, "matched 1"),
        "the second is the answer to the first"
    );
    sent(&["emit", "d", "--except-device", "none"], "matched 2");
    sent(
        &[
            "publish",
            "ann",
            "e",
            "--user",
            "bob",
            "--except-user",
            "ann",
        ],
        "matched 1",
    );
    let events = |client: &mut crate::running::Running, count: usize| {
        let mut events = (0..count).map(|_| json(&client.line())["event"].clone());
        events.by_ref().collect::<Vec<_>>()
    };
    assert_eq!(events(&mut ann, 3), ["a", "b", "d"]);
    assert_eq!(events(&mut bob, 4), ["a", "c", "d", "e"]);

    let refused = served.run(&["broadcast", "f", "--store"]).refused(1);
    assert!(refused.contains("this event cannot be stored"), "{refused}");
    assert_eq!(served.run(&["emit", "g", "--receipt", "all"]).code, 2);
}

#[test]
fn a_refusal_says_what_to_add_to_the_command() {
    let served = Served::start(&[]);
    for words in [
        &["emit", "a", "--filter", "user == params.who"][..],
        &["explain", "user == params.who"],
    ] {
        let refused = served.run(words).refused(1);
        assert!(
            refused.contains(r#"the filter uses params.who, but "params" has no "who""#)
                && refused.contains("bind it with --param who=VALUE"),
            "{refused}"
        );
    }
    let refused = served.run(&["publish", "ann", "a", "--store"]).refused(1);
    assert!(
        refused.contains("set user_events or --store-user-events"),
        "{refused}"
    );
    for words in [&["send", "room", "a", "--store"][..], &["history", "room"]] {
        let refused = served.run(words).refused(1);
        assert!(
            refused.contains("--channel-history 'room-*=100'"),
            "{refused}"
        );
    }
    let refused = served.run(&["listen", "--app", "shop"]).refused(1);
    assert!(refused.contains("unknown app \"shop\""), "{refused}");
    let refused = served
        .run(&["revoke", "ann", "--before", "1785240000000"])
        .refused(1);
    assert!(refused.contains("is it in milliseconds?"), "{refused}");
}

#[test]
fn listening_ends_where_the_server_refuses_for_good() {
    let served = Served::start(&[]);
    let refused = served.run(&["listen", "--channel", "room 1"]).refused(1);
    assert!(
        refused.contains("error: the server refused: channel=room 1: a channel's name must be")
            && refused.ends_with("(bad_channel)\n"),
        "{refused}"
    );

    let keys = [
        "--api-key",
        KEY,
        "--token-secret",
        SECRET,
        "--limit",
        "auth=1s",
    ];
    let served = Served::start(&keys);
    let refused = served.run(&["listen", "--token", ""]).refused(1);
    assert!(
        refused.contains("for good: 4001, the token is empty"),
        "{refused}"
    );
    let refused = served.run(&["listen"]).refused(1);
    assert!(
        refused.contains("for good: 4001") && refused.ends_with("; give --token or --user\n"),
        "{refused}"
    );
}

#[test]
fn what_callers_do_to_clients_is_in_the_log() {
    let keys = [
        "--listen",
        "127.0.0.1:0",
        "--api-key",
        KEY,
        "--token-secret",
        SECRET,
    ];
    let mut served = Served::start_with(&keys);
    let token = run_with(
        &[
            "token",
            "ann",
            "--secret",
            SECRET,
            "--can",
            r#"{"join":["*"]}"#,
        ],
        &[],
        "",
    )
    .expect(0);
    let _ann = served.listen(&["--token", token.trim()]);
    for (words, lines) in [
        (
            &["join", "room", "--user", "ann"][..],
            &[
                "audit: join",
                "app=\"default\"",
                "key=\"key-1\"",
                "whom=\"users ann into room\"",
                "count=1",
            ][..],
        ),
        (
            &["leave", "room", "--channel", "room"],
            &[
                "audit: leave",
                "whom=\"channels room out of room\"",
                "count=1",
            ],
        ),
        (
            &["auth", "ann", "--claims", "{}"],
            &["audit: auth", "whom=\"users ann\"", "count=1"],
        ),
        (
            &["disconnect", "--filter", "user == 'bob'"],
            &[
                "audit: disconnect",
                "filter user == 'bob' with 4010",
                "count=0",
            ],
        ),
        (
            &["revoke", "ann", "bob"],
            &["audit: revoke", "whom=\"users ann bob\"", "count=1"],
        ),
    ] {
        let words = [words, &["--key", KEY]].concat();
        served.run(&words).expect(0);
        let line = served.running.expect_error(lines[0]);
        for part in lines {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(line.contains(" INFO "), "{line}");
    }

    let ended = served.terminate();
    assert_eq!(ended.code, 0);
    let told = [
        "draining: readiness now fails",
        "disconnecting clients",
        "all clients have gone",
        "stopped",
    ];
    let places: Vec<usize> = told
        .iter()
        .map(|line| {
            ended
                .error
                .find(line)
                .unwrap_or_else(|| panic!("{line}: {}", ended.error))
        })
        .collect();
    assert!(places.is_sorted(), "{}", ended.error);
    assert!(
        ended.error.trim_end().ends_with("stopped"),
        "{}",
        ended.error
    );
}
