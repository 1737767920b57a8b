//! The command, as people and scripts run it: the real program, on free ports.

use std::{path::PathBuf, process::Stdio};

use crate::running::{self, Finished, Running, Served, run, run_with};
use crate::support::*;
use serde_json::{Value, json};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const KEY: &str = "a-key-for-the-command-line";

fn file(name: &str, content: &str) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn usage_is_explained() {
    assert_eq!(run(&[]).code, 2);
    let version = run(&["--version"]).expect(0);
    assert_eq!(version, format!("fanfare {}\n", env!("BUILD_VERSION")));
    // With what it was built from behind the version, if that is known.
    let numbers = concat!("fanfare ", env!("CARGO_PKG_VERSION"));
    assert!(
        version
            .strip_prefix(numbers)
            .is_some_and(|about| about == "\n" || about.starts_with(" (")),
        "{version}"
    );
    for command in [
        "serve",
        "check",
        "listen",
        "emit",
        "publish",
        "send",
        "broadcast",
        "connections",
        "user",
        "channels",
        "members",
        "history",
        "join",
        "leave",
        "disconnect",
        "explain",
        "token",
        "completions",
        "man",
    ] {
        let help = run(&[command, "--help"]).expect(0);
        assert!(
            help.contains("Examples:") && help.contains(&format!("fanfare {command}")),
            "{help}"
        );
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    for (words, says) in [
        (&["emit"][..], "<EVENT>"),
        (
            &["emit", "alert", "hello"],
            r#""hello" is not JSON. Put a string in quotes: '"hello"', or give it as --text 'hello'"#,
        ),
        (&["emit", "alert", "1", "--text", "hello"], "--text"),
        (
            &["emit", "alert", "--filter", "true", "--param", "age"],
            "NAME=JSON",
        ),
        (
            &["emit", "alert", "--url", "localhost:7070"],
            "write http://localhost:7070",
        ),
        (&["listen", "--token", "t", "--user", "ann"], "--user"),
        (&["listen", "--claims", "{}"], "--user"),
        (&["listen", "--count", "0"], "--count"),
        (&["token", "ann", "--claims", "[]"], "JSON object"),
        (&["token", "ann", "--ttl", "soon"], "a number with a unit"),
        (
            &["serve", "--listen", "events.example.com:7070"],
            "is a name: write an IP address",
        ),
        (&["serve", "--listen", "70000"], "\"70000\" is not a port"),
        (
            &["serve", "--log", "verbose"],
            "the levels are off, error, warn, info, debug, trace; did you mean \"debug\"?",
        ),
        (
            &["serve", "--drain-delay", "5"],
            "a duration needs a unit, for example \"5s\"",
        ),
        (
            &["disconnect"],
            "--user, --channel, --connection or --filter",
        ),
        (&["join", "room-1"], "--filter true means every one"),
        (&["connections", "--limit", "0"], "it must be at least 1"),
        (
            &["token", "ann", "--claims", "plan=pro"],
            r#"such as '{"plan":"pro"}'"#,
        ),
        (
            &["emit", "alert", "--url", "http://127.0.0.1:7070/v1"],
            "leave the path out of --url",
        ),
        (&["serve", "--port", "8080"], "'--listen 7080'"),
        (&["serve", "--host", "0.0.0.0"], "'--listen 0.0.0.0:7080'"),
        (&["--listen", "7072"], "fanfare serve --listen"),
        (
            &["serve", "--client-auth", "none"],
            "without tokens is '--client-auth off'",
        ),
        (
            &["serve", "--protocol", "socket.io"],
            "unknown protocol \"socket.io\"; did you mean \"socketio\"?",
        ),
        (
            &["serve", "--protocol", "nonsense"],
            "choose one of socketio, altogic, agnost, mesa, zexcore",
        ),
        (&["serve", "-p", "8080"], "'--listen 7080'"),
        (
            &["serve", "--config", "/nowhere/fanfare.toml"],
            "--config: cannot read /nowhere/fanfare.toml: no such file",
        ),
        (
            &["serve", "--namespace", "Prod"],
            r#"--namespace: "Prod" must be 1 to 64 characters of a-z, 0-9, "_" and "-""#,
        ),
        (
            &["serve", "--redis", "localhost"],
            "Sentinels with redis+sentinel://, and Redis Cluster with redis+cluster://",
        ),
        (
            &[
                "token",
                "ann",
                "--secret",
                SECRET,
                "--can",
                r#"{"jion":["a"]}"#,
            ],
            r#"unknown field "can.jion"; did you mean "can.join"?"#,
        ),
        (
            &[
                "token",
                "ann",
                "--secret",
                SECRET,
                "--claims",
                r#"{"exp":1785240000000}"#,
            ],
            r#""claims" must not hold "exp""#,
        ),
        (&["man", "srve"], "did you mean \"serve\"?"),
        (&["man", "dance"], "the commands are serve, check"),
        (&["dance"], "dance"),
    ] {
        let error = run(words).refused(2);
        assert!(error.contains(says), "{words:?}: {error}");
    }
}

#[test]
fn what_serve_prints_can_be_run_as_it_is() {
    let served = Served::start(&[]);
    let lines: Vec<&str> = served.welcome.lines().map(str::trim).collect();
    let find = |start: &str| *lines.iter().find(|line| line.starts_with(start)).unwrap();
    assert_eq!(find("http://"), format!("http://{}/", served.address));
    assert_eq!(request(served.address, "GET", "/", &[], None).status, 200);
    let listen = lines
        .iter()
        .find(|line| line.contains(" listen --url "))
        .unwrap();
    let mut listen = Running::shell(&format!("exec {listen}"));
    listen.expect_error("connected as ann");
    let emitted = Running::shell(find("curl")).finish();
    assert!(
        emitted.code == 0 && json(&emitted.out)["matched"] == 1,
        "{emitted:?}"
    );
    let line = listen.line();
    assert!(line.ends_with(r#" alert {"text":"Hello"}"#), "{line}");
    listen.interrupt();
    assert_eq!(listen.finish().code, 0);
}

#[test]
fn an_event_goes_from_emit_to_listen_unchanged() {
    let served = Served::start(&[]);
    let claims = r#"{"email":"ann@example.com"}"#;
    let mut ann = served.listen(&[
        "--user", "ann", "--claims", claims, "--json", "--count", "6",
    ]);
    let id = ann.connection();
    let _bob = served.listen(&["--user", "bob"]);
    let data = "{\"n\": 12345678901234567890,\n \"f\": 1.0, \"t\": \"\u{9b}31m\"}";
    let filter = [
        "--filter",
        "auth.email == params.e",
        "--param",
        r#"e="ann@example.com""#,
    ];
    let receipt = served
        .run(&[&["emit", "alert", data][..], &filter].concat())
        .expect(0);
    assert!(
        receipt.starts_with("matched 1, queued 1, dropped 0"),
        "{receipt}"
    );
    let line = ann.line();
    assert!(
        line.contains("12345678901234567890") && line.contains("1.0"),
        "{line}"
    );
    assert!(!line.contains(char::is_control), "{line:?}");
    assert_eq!(
        json(&line),
        json(&format!(r#"{{"event":"alert","data":{data}}}"#))
    );

    let answer = json(
        &served
            .run(&["emit", "b", "--except-user", "bob", "--json"])
            .expect(0),
    );
    assert_eq!(
        (&answer["matched"], &answer["queued"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(ann.line(), r#"{"event":"b","data":null}"#);
    served.run(&["emit", "c", "-1", "--user", "ann"]).expect(0);
    assert_eq!(ann.line(), r#"{"event":"c","data":-1}"#);
    served.run(&["emit", "d", "--connection", &id]).expect(0);
    assert_eq!(json(&ann.line())["event"], "d");
    let body = json!({ "channel": "room", "to": { "users": ["ann"] } }).to_string();
    assert_eq!(
        request(
            served.address,
            "POST",
            "/v1/join",
            &[],
            Some(body.as_bytes())
        )
        .status,
        200
    );
    let receipt = served
        .run(&["emit", "r", "1", "--channel", "room", "--channel", "empty"])
        .expect(0);
    assert!(receipt.starts_with("matched 1"), "{receipt}");
    assert_eq!(ann.line(), r#"{"event":"r","data":1}"#);
    let refused = served.run(&["emit", "r", "--channel", "a room"]).refused(1);
    assert!(refused.contains("channel"), "{refused}");
    let report = run_with(&served.words(&["emit", "e", "-"]), &[], "[1,\n2]\n").expect(0);
    assert!(report.starts_with("matched 2"), "{report}");
    assert_eq!(ann.line(), r#"{"event":"e","data":[1, 2]}"#);
    assert_eq!(ann.finish().code, 0, "six events were enough");
    assert_eq!(
        run_with(&served.words(&["emit", "e", "-"]), &[], "word").code,
        2
    );
}

#[test]
fn bytes_arrive_as_base64() {
    let served = Served::start(&[]);
    let mut listen = served.listen(&["--json"]);
    let body = json!({ "event": "b", "data_base64": "AP8=" }).to_string();
    assert_eq!(
        request(
            served.address,
            "POST",
            "/v1/emit",
            &[],
            Some(body.as_bytes())
        )
        .status,
        200
    );
    assert_eq!(
        json(&listen.line()),
        json!({ "event": "b", "data_base64": "AP8=" })
    );
}

#[test]
fn a_wrong_filter_is_shown_with_its_caret() {
    let served = Served::start(&[]);
    for command in [&["emit", "alert", "1", "--filter"][..], &["explain"]] {
        let words = [command, &["auth.age >= 18 && atuh.x == 1"]].concat();
        let error = served.run(&words).refused(1);
        let lines: Vec<&str> = error.lines().collect();
        assert!(lines[0].contains("did you mean \"auth\"?"), "{error}");
        assert_eq!(lines[1].find("atuh"), lines[2].find('^'), "{error}");
        let refused = served.run(&[&words[..], &["--json"]].concat());
        assert_eq!(
            (refused.code, &json(&refused.out)["status"]),
            (1, &json!(400)),
            "{refused:?}"
        );
    }
}

#[test]
fn explain_shows_the_plan_who_matches_and_the_values_for_one() {
    let served = Served::start(&["--index", "auth.email"]);
    let listen = served.listen(&[
        "--user",
        "ann",
        "--claims",
        r#"{"email":"ann@example.com","age":17}"#,
    ]);
    let id = listen.connection();
    let words = [
        "explain",
        "auth.email == params.e && auth.age >= 18",
        "--param",
        r#"e="ann@example.com""#,
    ];
    let shown = served.run(&words).expect(0);
    assert!(
        shown.contains("index auth.email (1 key)") && shown.contains("0 of 1 looked at"),
        "{shown}"
    );
    let shown = served
        .run(&[&words[..], &["--connection", &id]].concat())
        .expect(0);
    assert!(
        shown.contains("auth.age >= 18 = false") && shown.contains("auth.age = 17"),
        "{shown}"
    );
    let shown = served
        .run(&["explain", "profile.status == 'away' || user == 'ann'"])
        .expect(0);
    assert!(
        shown.contains("1 of 1 looked at") && shown.contains(&id) && shown.contains("warning"),
        "{shown}"
    );
    let shown = served.run(&["explain", "auth.age == 17"]).expect(0);
    assert!(shown.contains("--index auth.age"), "{shown}");
    let answer = json(
        &served
            .run(&["explain", "user == 'ann'", "--json"])
            .expect(0),
    );
    assert_eq!(
        (&answer["matched"], &answer["sample"][0]),
        (&json!(1), &json!(id))
    );
}

#[test]
fn a_token_is_signed_by_the_server_or_here() {
    let served = Served::start(&["--token-secret", SECRET]);
    let by_server = served
        .run(&["token", "ann", "--claims", r#"{"n":1}"#, "--ttl", "10m"])
        .expect(0);
    let words = [
        "token",
        "ann",
        "--claims",
        r#"{"n":1}"#,
        "--can",
        r#"{"join":["a"]}"#,
    ];
    let here = run_with(&words, &[("FANFARE_TOKEN_SECRET", SECRET)], "").expect(0);
    let by_flag = run(&["token", "ann", "--claims", r#"{"n":1}"#, "--secret", SECRET]).expect(0);
    for token in [by_server, here, by_flag] {
        assert_eq!(token.lines().count(), 1, "{token}");
        let mut listen = served.listen(&["--token", token.trim(), "--count", "1", "--json"]);
        let receipt = served
            .run(&["emit", "e", "1", "--filter", "user == 'ann' && auth.n == 1"])
            .expect(0);
        assert!(receipt.starts_with("matched 1"), "{receipt}");
        assert_eq!(json(&listen.line())["event"], "e");
        assert_eq!(listen.finish().code, 0);
    }
    let long = served.run(&["token", "ann", "--ttl", "30d"]);
    assert_eq!((long.code, long.out.lines().count()), (0, 1));
    assert_eq!(
        long.error,
        "the token is good for 1day, not for 30days: that is the server's bound. To raise it, start the server with --limit \
         token_ttl=30days\n"
    );
    let here = run(&["token", "ann", "--ttl", "30d", "--secret", SECRET]).expect(0);
    assert_eq!(here.lines().count(), 1);
    let short = run(&["token", "ann", "--secret", "short"]).refused(2);
    assert!(short.contains("openssl rand"), "{short}");
    let reserved = run(&[
        "token",
        "ann",
        "--secret",
        SECRET,
        "--claims",
        r#"{"sub":"bob"}"#,
    ])
    .refused(2);
    assert!(reserved.contains("\"sub\""), "{reserved}");
}

#[test]
fn a_server_with_keys_wants_one_from_flag_or_variable() {
    let served = Served::start(&["--api-key", &format!("another-key-entirely,{KEY}")]);
    let error = served.run(&["emit", "alert"]).refused(1);
    assert!(
        error.contains("401") && error.contains("give the API key with --key or FANFARE_API_KEY"),
        "{error}"
    );
    served.run(&["emit", "alert", "--key", KEY]).expect(0);
    let variables = [
        ("FANFARE_API_KEY", KEY),
        ("FANFARE_URL", &format!("http://{}", served.address)),
    ];
    assert!(
        run_with(&["emit", "alert"], &variables, "")
            .expect(0)
            .starts_with("matched 0")
    );
    assert!(
        !served.welcome.contains(KEY) && !served.welcome.contains("curl"),
        "{}",
        served.welcome
    );
    let bad = run_with(&["emit", "alert"], &[("FANFARE_URL", "nowhere")], "").refused(2);
    assert!(bad.contains("FANFARE_URL"), "{bad}");
}

#[test]
fn who_is_refused_for_good_does_not_come_back() {
    let served = Served::start(&[]);
    let refused = served.run(&["listen", "--token", "nonsense"]).refused(1);
    assert!(
        refused.contains("4001") && !refused.contains("reconnecting"),
        "{refused}"
    );
    let refused = served.run(&["listen", "--app", "no such"]).refused(1);
    assert!(
        refused.contains("404") && !refused.contains("reconnecting"),
        "{refused}"
    );
    let mut listen = served.listen(&["--user", "ann"]);
    let body = json!({ "to": { "users": ["ann"] }, "reason": "enough\u{9b}2J" }).to_string();
    assert_eq!(
        request(
            served.address,
            "POST",
            "/v1/disconnect",
            &[],
            Some(body.as_bytes())
        )
        .status,
        200
    );
    listen.expect_error("4010, enough\\u009b2J");
    assert_eq!(listen.finish().code, 1);
}

#[test]
fn where_nothing_listens_every_client_command_says_so() {
    // A port of this range is given to nobody who asks for any, as the servers of other tests do.
    let url = "http://127.0.0.1:1".to_owned();
    for words in [
        &["emit", "alert"][..],
        &["listen"],
        &["token", "ann"],
        &["explain", "true"],
        &["broadcast", "alert"],
        &["connections"],
        &["user", "ann"],
        &["leave", "room-1", "--user", "ann"],
    ] {
        let error = run(&[words, &["--url", &url]].concat()).refused(1);
        assert!(
            error.contains(&url) && error.contains("fanfare serve"),
            "{words:?}: {error}"
        );
    }
}

#[test]
fn a_taken_port_is_named() {
    let served = Served::start(&[]);
    let error = run(&["serve", "--listen", &served.address.to_string()]).refused(1);
    let next = served.address.port().checked_add(1).unwrap_or(7071);
    assert_eq!(
        error,
        format!(
            "error: {} is in use by another process. Choose another port with --listen, for example --listen 127.0.0.1:{next}\n",
            served.address
        )
    );
    let address = served.address.to_string();
    let error = run(&["serve", "--listen", "0", "--admin-listen", &address]).refused(1);
    assert!(error.contains("with --admin-listen"), "{error}");
}

#[test]
fn a_port_of_the_platform_is_listened_on() {
    let serve = |words: &[&str], variables: &[(&str, &str)]| {
        let words = [&["serve", "--shards", "1", "--log", "warn"], words].concat();
        let mut running = Running::start(&words, variables, Stdio::null());
        running.line()
    };
    let line = serve(&[], &[("PORT", "0")]);
    assert!(line.contains("http://127.0.0.1:"), "{line}");
    let keys = ["--api-key", KEY, "--token-secret", SECRET];
    let line = serve(&keys, &[("PORT", "0")]);
    assert!(line.contains("http://0.0.0.0:"), "{line}");
    let line = serve(&["--listen", "localhost:0"], &[("PORT", "http")]);
    assert!(line.contains("http://127.0.0.1:"), "{line}");
    let error = run_with(&["serve"], &[("PORT", "http")], "").refused(2);
    assert_eq!(
        error,
        "error: PORT: \"http\" is not a port: a port is a number from 0 to 65535\n"
    );
}

#[test]
fn a_wrong_scheme_and_an_unknown_host_are_named() {
    let served = Served::start(&[]);
    let error = run(&["emit", "e", "--url", &format!("https://{}", served.address)]).refused(1);
    assert_eq!(
        error,
        format!(
            "error: the server at {0} speaks plain HTTP; use http://{0}\n",
            served.address
        )
    );
    let (port, _) = running::terminate_tls(served.address);
    for words in [&["emit", "e"][..], &["listen"]] {
        let url = format!("http://localhost:{port}");
        let error = run(&[words, &["--url", &url]].concat()).refused(1);
        assert_eq!(
            error,
            format!(
                "error: the server at localhost:{port} speaks TLS; use https://localhost:{port}\n"
            )
        );
    }
    let error = run(&["emit", "e", "--url", "http://nowhere.invalid"]).refused(1);
    assert!(
        error.contains("the host name \"nowhere.invalid\" cannot be resolved"),
        "{error}"
    );
}

#[test]
fn sigterm_ends_well_and_a_listener_is_told_and_comes_back() {
    let served = Served::start(&[]);
    let mut listen = served.listen(&["--user", "ann", "--count", "1"]);
    let address = served.address;
    assert_eq!(served.terminate().code, 0);
    listen.expect_error("connection closed: 4200, draining");
    listen.expect_error("reconnecting in");
    let again = Served::start_at(&address.to_string(), &[]);
    listen.expect_error("connected as ann");
    again
        .run(&["emit", "welcome-back", "--user", "ann"])
        .expect(0);
    assert!(listen.line().ends_with(" welcome-back null"));
    assert_eq!(listen.finish().code, 0);
}

#[test]
fn a_second_signal_ends_at_once_with_1() {
    let long = [
        "--drain-delay",
        "10m",
        "--drain-timeout",
        "20m",
        "--log-format",
        "json",
    ];
    let served = Served::start(&long);
    served.running.signal(rustix::process::Signal::TERM);
    let address = served.address;
    eventually("not ready any more", || {
        request(address, "GET", "/readyz", &[], None).status == 503
    });
    served.running.interrupt();
    let finished = served.running.finish();
    assert_eq!(finished.code, 1);
    let lines: Vec<Value> = finished.error.lines().map(json).collect();
    assert!(
        lines.iter().any(|line| line["level"] == "WARN"),
        "{lines:?}"
    );
}

#[test]
fn a_configuration_that_cannot_be_served_names_what_is_meant() {
    let unknown = file("unknown.toml", "listen = \"127.0.0.1:0\"\nlimts = 3\n");
    let two = file("two.toml", "shards = 999\nlog = \"verbose\"\n");
    let mixed = file(
        "mixed.toml",
        "listen = 127.0.0.1:0\nshards = 999\n[apps.a]\ndefault_can = { dance = [\"*\"] }\n",
    );
    let short = ["--token-secret", "short"];
    let two_apps = file(
        "apps.toml",
        "[apps.a]\ndefault_can = 3\n[apps.b]\ndefault_can = { dance = [\"*\"] }\n",
    );
    for command in ["serve", "check"] {
        let error = run(&[command, "--config", &unknown]).refused(2);
        assert!(
            error.contains("unknown.toml:2") && error.contains("did you mean \"limits\"?"),
            "{error}"
        );
        let error = run_with(&[command], &[("FANFARE_LISTN", "127.0.0.1:0")], "").refused(2);
        assert!(
            error.contains("did you mean \"FANFARE_LISTEN\"?"),
            "{error}"
        );
        let error = run(&[command, "--config", &two]).refused(2);
        assert_eq!(
            error
                .lines()
                .filter(|line| line.starts_with("error: "))
                .count(),
            2,
            "{error}"
        );
        let error = run(&[&[command][..], &short].concat()).refused(2);
        assert!(
            error.contains("app \"default\"") && error.contains("openssl rand"),
            "{error}"
        );
        let error = run(&[command, "--listen", "0.0.0.0:0"]).refused(2);
        assert!(error.contains("FANFARE_API_KEY"), "{error}");
        let error = run(&[command, "--config", &two_apps]).refused(2);
        assert!(
            error.contains("apps.toml:2: app \"a\"") && error.contains("apps.toml:4: app \"b\""),
            "all of it: {error}"
        );
    }
    let error = run(&["check", "--config", &mixed]).refused(2);
    let lines: Vec<&str> = error.lines().collect();
    assert!(
        lines.len() == 3
            && lines[0].contains("mixed.toml:1: listen: put the value in quotes")
            && lines[1].contains("mixed.toml:2: shards = 999 is over 256")
            && lines[2].contains("mixed.toml:4: app \"a\""),
        "{error}"
    );
}

#[test]
fn check_says_what_is_set_up_and_no_secret() {
    let config = file(
        "good.toml",
        &format!(
            "listen = \"127.0.0.1:7999\"\n[apps.shop]\nindex = [\"auth.email\"]\nclient_auth = \"required\"\n\
             [[apps.shop.keys]]\nname = \"functions\"\nkey = \"{KEY}\"\nscopes = [\"publish\", \"tokens\"]\n\
             [[apps.shop.tokens]]\nkid = \"k1\"\nalg = \"HS256\"\nsecret = \"{SECRET}\"\n\
             [[apps.shop.client_keys]]\nname = \"web\"\nkey = \"pk_live_web\"\n\
             [[apps.shop.channels]]\npattern = \"room-*\"\nhistory_size = 100\n"
        ),
    );
    let shown = run(&["check", "--config", &config]).expect(0);
    let checked = format!("ok: {config}, flags and variables were read");
    assert!(shown.starts_with(&checked), "{shown}");
    assert!(
        shown.contains("\nnot tried: the addresses to listen on, Redis"),
        "{shown}"
    );
    let parts = [
        "127.0.0.1:7999",
        "shop",
        "required",
        "functions (publish, tokens)",
        "HS256 (kid k1)",
        "auth.email",
        "web (required)",
        "room-* (history 100, presence asked)",
    ];
    for part in parts {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains(KEY) && !shown.contains(SECRET), "{shown}");
}

#[test]
fn an_app_that_only_a_variable_makes_is_warned_of_by_check_and_in_the_log() {
    let config = file(
        "made.toml",
        &format!(
            "listen = \"127.0.0.1:0\"\n[[apps.shop.keys]]\nname = \"functions\"\nkey = \"{KEY}\"\n"
        ),
    );
    let variables = [("FANFARE_API_KEY", "another-key-for-the-command-line")];
    let warning = "FANFARE_API_KEY made the app \"default\", which the file does not name";
    let checked = run_with(&["check", "--config", &config], &variables, "");
    assert!(
        checked.code == 0 && checked.error.contains(&format!("warning: {warning}")),
        "{checked:?}"
    );
    assert!(run(&["check", "--config", &config]).error.is_empty());

    let words = ["serve", "--config", &config];
    let mut running = Running::start(&words, &variables, Stdio::null());
    let line = running.expect_error(warning);
    assert!(line.contains(" WARN "), "{line}");
    running.interrupt();
    assert_eq!(running.finish().code, 0);
}

#[test]
fn a_closed_pipe_ends_listening_quietly() {
    let served = Served::start(&[]);
    let mut listen = served.listen(&["--json"]);
    served.run(&["emit", "first"]).expect(0);
    assert_eq!(json(&listen.line())["event"], "first");
    listen.close_output();
    // How many fit until the pipe is seen to be closed is the system's affair.
    eventually("listening ends", || {
        served.run(&["emit", "another"]).expect(0);
        listen.has_ended()
    });
    let finished = listen.finish();
    assert_eq!(
        (finished.code, finished.error.contains("error")),
        (0, false),
        "{finished:?}"
    );
}

#[test]
fn colours_are_for_terminals_and_who_asks() {
    let words = ["check"];
    assert_eq!(run(&words).expect(0).find('\u{1b}'), None);
    let forced = Running::start(&words, &[("CLICOLOR_FORCE", "1")], Stdio::null()).finish();
    assert!(forced.out.contains("\u{1b}[1mok"), "{forced:?}");
    let both = [("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")];
    let plain = Running::start(&words, &both, Stdio::null()).finish();
    assert!(
        plain.out.starts_with("ok: ") && !plain.out.contains('\u{1b}'),
        "{plain:?}"
    );
}

#[test]
fn https_and_wss_are_spoken_with_whom_the_system_trusts() {
    let served = Served::start(&[]);
    let (port, authority) = running::terminate_tls(served.address);
    let url = format!("https://localhost:{port}");
    let untrusted = run(&["emit", "alert", "--url", &url]).refused(1);
    assert!(untrusted.contains(&url), "{untrusted}");
    let authority = file("authority.pem", &authority);
    let trust = [("SSL_CERT_FILE", authority.as_str())];
    let words = [
        "listen", "--url", &url, "--user", "ann", "--count", "1", "--json",
    ];
    let mut listen = Running::start(&words, &trust, Stdio::null());
    listen.expect_error("connected as ann");
    let Finished { code, out, error } =
        run_with(&["emit", "alert", "1", "--url", &url], &trust, "");
    assert!(code == 0 && out.starts_with("matched 1"), "{out} {error}");
    assert_eq!(listen.line(), r#"{"event":"alert","data":1}"#);
    assert_eq!(listen.finish().code, 0);
}
