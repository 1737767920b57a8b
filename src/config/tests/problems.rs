//! What goes together, and what does not.

use super::*;

#[test]
fn off_loopback_it_wants_keys() {
    let listen = ["--listen", "0.0.0.0:7070"];
    let text = found_problem(&listen);
    assert!(text.contains("set --api-key or FANFARE_API_KEY"), "{text}");
    assert!(
        text.contains("app \"default\": no key is set that verifies client tokens"),
        "{text}"
    );
    let text = found_problem(&["--admin-listen", "[::]:7071"]);
    assert!(
        text.starts_with("admin_listen = \"[::]:7071\" is not loopback"),
        "{text}"
    );
    for client_auth in ["required", "optional"] {
        let text = found_problem(
            &[
                &listen[..],
                &["--api-key", KEY, "--client-auth", client_auth],
            ]
            .concat(),
        );
        assert!(
            text.contains(&format!(
                "client_auth is \"{client_auth}\", but no key is set"
            )),
            "{text}"
        );
    }
    for rest in [["--client-auth", "off"], ["--token-secret", SECRET]] {
        load(&[&listen[..], &["--api-key", KEY], &rest].concat(), &[])
            .unwrap()
            .check()
            .unwrap();
    }
    let text = found_problem(&[&listen[..], &["--token-secret", SECRET]].concat());
    assert_eq!(text.lines().count(), 1, "{text}");
    for loopback in [
        "127.0.0.1:1",
        "127.9.9.9:1",
        "[::1]:1",
        "[::ffff:127.0.0.1]:1",
    ] {
        load(&["--listen", loopback], &[]).unwrap().check().unwrap();
    }
}

/// Flags that make no sense, each with what is said of it.
const SENSELESS: [(&[&str], &str); 19] = [
    (
        &["--limit", "message_bytes=0"],
        "limits.message_bytes = 0 would let nothing through",
    ),
    (
        &["--limit", "heartbeat=0s"],
        "limits.heartbeat = 0 would let nothing through",
    ),
    (
        &["--limit", "body_bytes=2000000"],
        "limits.body_bytes = 2000000 is over limits.outbox_bytes = 1048576",
    ),
    (
        &["--limit", "history_bytes=200000"],
        "limits.body_bytes = 262144 is over limits.history_bytes = 200000",
    ),
    (
        &["--limit", "stored_publication_bytes=200000"],
        "limits.body_bytes = 262144 is over limits.stored_publication_bytes = 200000",
    ),
    (
        &["--limit", "profile_bytes=300000"],
        "limits.profile_bytes = 300000 is over a quarter of",
    ),
    (
        &["--limit", "channels_per_connection=0"],
        "limits.channels_per_connection = 0 would let nothing",
    ),
    (
        &["--limit", "reconnect_min=1m"],
        "reconnect_min = \"1m\" is over limits.reconnect_max = \"30s\"",
    ),
    (
        &["--channel-history", "a b=1"],
        "channels \"a b\": a pattern is 1 to 200 letters, digits",
    ),
    (
        &["--channel-history", "a=10001"],
        "channels \"a\": history_size = 10001 is over 10000",
    ),
    (
        &["--drain-delay", "30s"],
        "drain_delay = \"30s\" must be shorter than drain_timeout = \"30s\"",
    ),
    (&["--shards", "257"], "shards = 257 is over 256"),
    (&["--node-name", "a b"], "node_name = \"a b\" is not"),
    (&["--redact", "email"], "redact: \"email\" is not a path"),
    (
        &["--index", "auth.,auth.a b,user,auth.1"],
        "index \"auth.1\" is not a path",
    ),
    (
        &["--origin", "https://example.com/"],
        "\"https://example.com/\" is not an origin",
    ),
    (
        &["--admin-listen", "127.0.0.1:7070"],
        "admin_listen and listen are both 127.0.0.1:7070",
    ),
    (
        &["--token-secret", "short"],
        "the token secret has 5 bytes, and HS256 needs at least 32",
    ),
    (
        &["--api-key", "an-api-key-for-tests,an-api-key-for-tests"],
        "are the same key",
    ),
];

#[test]
fn what_makes_no_sense_is_refused() {
    for (flags, expected) in SENSELESS {
        let text = found_problem(flags);
        assert!(text.contains(expected), "{text}");
    }
    let mut config = parse("[apps.Shop]\n[apps.a]\ntokens = [\n{ alg = \"EdDSA\", kid = \"1\", public_key = \"\" },\n{ alg = \"EdDSA\", kid = \"1\", public_key = \"\" }]\n").unwrap();
    config.limits.connections = 0;
    let text = config.check().unwrap_err().to_string();
    assert!(
        text.contains("app \"Shop\": a name is 1 to 64 lower-case"),
        "{text}"
    );
    assert!(
        text.contains("app \"a\": two token keys have kid \"1\""),
        "{text}"
    );
}

const REDIS: &str = "[redis]\nurl = \"redis://h\"\n";
const CHANNEL: &str = "[[apps.default.channels]]\npattern = \"x\"\nhistory_size = 5\n";

/// Settings that are each right, and of which one would keep the other from being used as it is set: tables, limits, and
/// what is said of them.
const CONTRADICTIONS: &[(&str, &str, [&str; 2])] = &[
    (
        "",
        "message_bytes = \"2MiB\"",
        ["message_bytes", "outbox_bytes"],
    ),
    (
        "",
        "outbox_bytes = \"300MiB\"",
        ["outbox_bytes", "refused_bytes"],
    ),
    (
        "",
        "admitted_bytes = \"200KiB\"",
        ["body_bytes", "admitted_bytes"],
    ),
    (
        "",
        "admitted_bytes = \"5GiB\"",
        ["admitted_bytes", "4294967295"],
    ),
    (
        "",
        "bulk_deliveries = 5000000000",
        ["bulk_deliveries", "4294967295"],
    ),
    (
        "",
        "bulk_publications = 7000000",
        ["bulk_publications", "6710886"],
    ),
    (
        "",
        "small_publications = 50000000",
        ["small_publications", "42949672"],
    ),
    (
        "",
        "profile_bytes = \"65500\"",
        ["profile_bytes", "message_bytes"],
    ),
    (
        "",
        "message_bytes = \"8500\"\nprofile_bytes = 1000",
        ["claims_bytes", "message_bytes"],
    ),
    (
        "",
        "message_bytes = \"1MiB\"\nclaims_bytes = \"50KiB\"",
        ["claims_bytes", "head"],
    ),
    (
        "",
        "heartbeat = \"10s\"",
        ["heartbeat_wait = \"10s\"", "heartbeat = \"10s\""],
    ),
    (
        "",
        "heartbeat_wait = \"1m\"",
        ["heartbeat_wait = \"1m\"", "heartbeat = \"25s\""],
    ),
    (
        "",
        "heartbeat_wait = \"24950ms\"",
        ["heartbeat_wait", "100ms shorter than limits.heartbeat"],
    ),
    ("", "heartbeat_wait = \"50ms\"", ["heartbeat_wait", "100ms"]),
    ("", "http_idle = \"5s\"", ["http_idle", "handshake"]),
    (
        "",
        "reconnect_max = \"100ms\"",
        ["reconnect_min", "reconnect_max"],
    ),
    (
        "",
        "connections = 5\nconnections_per_address = 6",
        ["connections_per_address", "limits.connections = 5"],
    ),
    (
        "",
        "idempotency_window = \"10us\"",
        ["idempotency_window", "1ms"],
    ),
    (
        REDIS,
        "redis_timeout = \"3s\"",
        ["redis_timeout = \"3s\"", "node_lease = \"5s\""],
    ),
    (
        REDIS,
        "node_lease = \"1s\"",
        ["redis_timeout = \"1s\"", "node_lease = \"1s\""],
    ),
    (
        REDIS,
        "message_bytes = \"20MiB\"\noutbox_bytes = \"20MiB\"\nstored_publication_bytes = \"20MiB\"",
        ["message_bytes = 20971520", "redis.url"],
    ),
    (
        CHANNEL,
        "history_bytes = \"900KiB\"",
        [
            "channels \"x\": history_bytes = 1048576",
            "limits.history_bytes = 921600",
        ],
    ),
    (
        "[apps.default.user_events]\nbytes = \"65MiB\"\n",
        "scans = 4",
        [
            "user_events.bytes = 68157440",
            "limits.history_bytes = 67108864",
        ],
    ),
    (
        "[apps.default]\nclient_auth = \"off\"\n[apps.default.user_events]\n",
        "scans = 4",
        ["user_events", "client_auth"],
    ),
    (
        "[[apps.default.channels]]\npattern = \"x\"\nhistory_size = 5\nhistory_ttl = \"100000000000000s\"\n",
        "scans = 4",
        ["history_ttl", "years"],
    ),
];

#[test]
fn settings_that_contradict_each_other_are_refused_with_both() {
    for (tables, limits, says) in CONTRADICTIONS {
        let text = format!("{tables}[limits]\n{limits}\n");
        let found = parse(&text).unwrap().check().unwrap_err().to_string();
        assert!(
            found.lines().count() == 1 && says.iter().all(|said| found.contains(said)),
            "{text}: {found}"
        );
    }
    for good in [
        format!("{REDIS}[limits]\nnode_lease = \"2s\"\n"),
        "[limits]\nheartbeat = \"200ms\"\nheartbeat_wait = \"100ms\"\n".to_owned(),
        "[limits]\nhttp_idle = \"10s\"\nclaims_bytes = \"47KiB\"\n".to_owned(),
        "[limits]\nadmitted_bytes = 4294967295\n".to_owned(),
        format!("{REDIS}{CHANNEL}[limits]\nhistory_bytes = \"900KiB\"\n"),
    ] {
        parse(&good).unwrap().check().unwrap();
    }
}

#[test]
fn bounds_whose_zero_means_something_may_be_zero() {
    for limit in [
        "connections=0",
        "connections_per_address=0",
        "http_sockets=0",
        "resume_window=0s",
        "presence_notices=0",
    ] {
        load(&["--limit", limit], &[]).unwrap().check().unwrap();
    }
}

/// What is wrong with a file that can be read.
fn wrong(text: &str) -> String {
    let mut config = parse(text).unwrap();
    config.apps.entry("a".to_owned()).or_default();
    config.check().unwrap_err().to_string()
}

#[test]
fn rules_that_would_keep_nothing_or_never_hold_are_refused() {
    let channels = |rest: &str| format!("[[apps.a.channels]]\npattern = {rest}\n");
    let user_events = |rest: &str| format!("[apps.a.user_events]\n{rest}\n");
    let cases = [
        (
            channels("\"\""),
            "app \"a\": channels \"\": a pattern is 1 to 200 letters",
        ),
        (
            channels("\"room/*\""),
            "channels \"room/*\": a pattern is 1 to 200 letters",
        ),
        (
            channels("\"x\"").repeat(2),
            "app \"a\": channels \"x\" is there twice",
        ),
        (
            channels("\"x\"\nhistory_size = 1\nhistory_bytes = 0"),
            "history_bytes = 0 would keep nothing",
        ),
        (
            channels("\"x\"\nhistory_size = 1\nhistory_ttl = \"0s\""),
            "history_ttl = 0 would keep nothing",
        ),
        (
            user_events("size = 0"),
            "app \"a\": user_events: size = 0 would keep nothing",
        ),
        (
            user_events("bytes = 0"),
            "user_events: bytes = 0 would keep nothing",
        ),
        (
            user_events("ttl = \"0s\""),
            "user_events: ttl = 0 would keep nothing",
        ),
        (
            user_events("size = 10001"),
            "user_events: size = 10001 is over 10000",
        ),
    ];
    for (text, expected) in cases {
        let found = wrong(&text);
        assert!(
            found.contains(expected) && found.lines().count() == 1,
            "{found}"
        );
    }
    let good = "\"AZaz09_.:=@,;-*\"\nhistory_size = 10000";
    let off = channels("\"off\"\nhistory_bytes = 0\nhistory_ttl = \"0s\"");
    parse(&format!("{}{off}", channels(good)))
        .unwrap()
        .check()
        .unwrap();
}

#[test]
fn client_keys_are_of_one_app_and_no_secret() {
    let client_key = |app: &str, name: &str, key: &str| {
        format!("[[apps.{app}.client_keys]]\nname = \"{name}\"\nkey = \"{key}\"\n")
    };
    let one = client_key("a", "one", "pk_live_1");
    let cases = [
        (
            one.clone() + &client_key("a", "one", "pk_live_2"),
            "app \"a\": two client keys are named \"one\"",
        ),
        (
            one.clone() + &client_key("b", "two", "pk_live_1"),
            "client keys \"one\" of app \"a\" and \"two\" of app \"b\" are the same key",
        ),
        (
            client_key("a", "one", "short"),
            "client key \"one\" must be 8 to 128 visible ASCII characters",
        ),
        (
            client_key("a", "one", &"k".repeat(129)),
            "client key \"one\" must be 8 to 128",
        ),
        (
            client_key("a", "one", "pk_live&x"),
            "client key \"one\" must be 8 to 128",
        ),
        (
            client_key("a", "one", "pk live x"),
            "client key \"one\" must be 8 to 128",
        ),
        (
            client_key("a", "on e", "pk_live_1"),
            "client key name \"on e\" is not 1 to 64 visible characters",
        ),
        (
            format!(
                "{}[[apps.b.keys]]\nname = \"f\"\nkey = \"{KEY}\"\n",
                client_key("a", "one", KEY)
            ),
            "client key \"one\" is API key \"f\" of app \"b\" too",
        ),
        (
            format!(
                "{}[[apps.b.tokens]]\nalg = \"HS256\"\nsecret = \"{SECRET}\"\n",
                client_key("a", "one", SECRET)
            ),
            "client key \"one\" is the token secret of app \"b\" too",
        ),
        (
            one.clone() + "origins = [\"https://a/\"]\n",
            "client key \"one\": \"https://a/\" is not an origin",
        ),
    ];
    for (text, expected) in cases {
        let found = wrong(&text);
        assert!(
            found.contains(expected) && found.lines().count() == 1,
            "{found}"
        );
        assert!(!found.contains(KEY) && !found.contains(SECRET), "{found}");
    }
    parse(&(one + &client_key("b", "one", "pk_live_2")))
        .unwrap()
        .check()
        .unwrap();
}

#[test]
fn clients_of_a_key_that_may_authenticate_need_a_key_for_tokens() {
    let with = |client_auth: &str, listen: &str| {
        parse(&format!(
            "listen = \"{listen}\"\n[apps.a]\nclient_auth = \"off\"\n\
             [[apps.a.keys]]\nname = \"f\"\nkey = \"{KEY}\"\n\
             [[apps.a.client_keys]]\nname = \"web\"\nkey = \"pk_live_1\"\n{client_auth}\n"
        ))
        .unwrap()
    };
    for client_auth in ["required", "optional"] {
        let set = format!("client_auth = \"{client_auth}\"");
        let text = with(&set, "0.0.0.0:7070").check().unwrap_err().to_string();
        let expected = format!(
            "app \"a\", client key \"web\": client_auth is \"{client_auth}\", but no key is set"
        );
        assert!(
            text.starts_with(&expected) && text.lines().count() == 1,
            "{text}"
        );
        let config = with(&set, "127.0.0.1:7070");
        config.check().unwrap();
        assert!(
            config.has_users(&config.apps["a"]) && config.has_ephemeral_secret(&config.apps["a"])
        );
    }
    for client_auth in ["", "client_auth = \"off\""] {
        let config = with(client_auth, "0.0.0.0:7070");
        config.check().unwrap();
        assert!(!config.has_users(&config.apps["a"]));
    }
}

#[test]
fn good_paths_and_origins_pass() {
    let flags = [
        "--index",
        "auth.email,profile.a_b.c",
        "--redact",
        "connection.ip",
        "--origin",
        "*,https://a.example:8443,app://x",
    ];
    load(&flags, &[]).unwrap().check().unwrap();
}
