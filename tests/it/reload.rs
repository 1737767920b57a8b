//! A new configuration for a server that runs: the real program by SIGHUP, and the library.

use std::path::{Path, PathBuf};

use crate::running::Served;
use crate::support::*;
use fanfare::{
    ReloadError,
    config::{ClientAuth, Config, Scopes},
};
use rustix::process::Signal;
use serde_json::json;

const OLD: &str = "the-old-key-of-the-reload-test";
const NEW: &str = "the-new-key-of-the-reload-test";

/// A configuration file of the test's own.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let file = Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
    }

    fn serve(&self) -> Served {
        Served::start_with(&["--config", self.0.to_str().unwrap()])
    }
}

fn key(name: &str, key: &str) -> String {
    format!("[[apps.default.keys]]\nname = \"{name}\"\nkey = \"{key}\"\n")
}

/// The status that a publication with `key` gets.
fn status(server: &Served, key: &str) -> u16 {
    let body = br#"{"event":"e"}"#;
    let authorization = format!("Bearer {key}");
    request(
        server.address,
        "POST",
        "/v1/broadcast",
        &[("Authorization", &authorization)],
        Some(body),
    )
    .status
}

#[test]
fn sighup_takes_new_keys_and_says_what_it_cannot_take() {
    let file = File::new(
        "reload.toml",
        &format!("listen = \"127.0.0.1:0\"\n{}", key("old", OLD)),
    );
    let mut server = file.serve();
    assert_eq!((status(&server, OLD), status(&server, NEW)), (200, 401));

    file.write(&format!(
        "listen = \"127.0.0.1:1\"\nnode_name = \"n\"\n[limits]\nbody_bytes = 64\noutbox_frames = 7\n[apps.default]\n\
         index = [\"auth.email\"]\n[apps.other]\n{}",
        key("new", NEW)
    ));
    server.running.signal(Signal::HUP);
    for said in [
        "reload: limits.body_bytes: 262144 -> 64",
        "reload: apps.default.keys: \"new\" added, \"old\" removed",
        "reload: needs a restart: listen: 127.0.0.1:",
        "reload: needs a restart: node_name: none -> n",
        "reload: needs a restart: limits.outbox_frames: 8192 -> 7",
        "reload: needs a restart: apps.default.index: changed",
        "reload: needs a restart: apps.other: added",
    ] {
        server.running.expect_error(said);
    }
    assert_eq!((status(&server, OLD), status(&server, NEW)), (401, 200));
    let body = json!({"event": "e", "data": "x".repeat(100)}).to_string();
    let authorization = format!("Bearer {NEW}");
    let headers = [("Authorization", &*authorization)];
    let answer = request(
        server.address,
        "POST",
        "/v1/broadcast",
        &headers,
        Some(body.as_bytes()),
    );
    assert_eq!(answer.status, 413, "{answer:?}");
    assert_eq!(server.terminate().code, 0);
}

#[test]
fn a_bad_file_changes_nothing_and_every_problem_is_said() {
    let good = format!("listen = \"127.0.0.1:0\"\n{}", key("old", OLD));
    let file = File::new("reload-bad.toml", &good);
    let mut server = file.serve();
    let other = key("new", NEW);
    for (text, problems) in [
        (
            format!("lisen = 1\n{other}"),
            &["unknown key \"lisen\"; did you mean \"listen\"?"][..],
        ),
        (
            format!("drain_timeout = \"1s\"\nnode_name = \"a b\"\n{other}"),
            &["node_name = \"a b\""],
        ),
        (
            format!("[apps.default]\ndefault_can = {{ dance = true }}\n{other}"),
            &["unknown field \"default_can.dance\"; \"default_can\" takes join"],
        ),
        ("drain_timeout = ".to_owned(), &["reload-bad.toml:1"]),
    ] {
        file.write(&text);
        server.running.signal(Signal::HUP);
        for problem in problems {
            let line = server.running.expect_error(problem);
            assert!(
                line.contains("reload refused, nothing has changed: "),
                "{line}"
            );
        }
        assert_eq!(
            (status(&server, OLD), status(&server, NEW)),
            (200, 401),
            "{text}"
        );
    }
    std::fs::remove_file(&file.0).unwrap();
    server.running.signal(Signal::HUP);
    server.running.expect_error("reload-bad.toml: no such file");
    file.write(&good);
    server.running.signal(Signal::HUP);
    server.running.expect_error("reload: nothing has changed");

    let headers = [("Authorization", &*format!("Bearer {OLD}"))];
    let text = request(server.address, "GET", "/metrics", &headers, None).text;
    let refused = sum(&text, "fanfare_reloads_refused_total", "");
    assert_eq!(refused as u64, 5, "four bad files, and one that was gone");
    assert_eq!(server.terminate().code, 0);
}

#[test]
fn the_level_of_the_log_follows_the_file() {
    let file = File::new(
        "reload-log.toml",
        &format!("listen = \"127.0.0.1:0\"\n{}", key("old", OLD)),
    );
    let mut server = file.serve();
    file.write(&format!(
        "listen = \"127.0.0.1:0\"\nlog = \"debug\"\n{}",
        key("old", OLD)
    ));
    server.running.signal(Signal::HUP);
    server.running.expect_error("reload: log: info -> debug");
    // That is said before it is done; the next one comes after.
    server.running.signal(Signal::HUP);
    server.running.expect_error("reload: nothing has changed");
    drop(Client::open(server.address, "/v1/connect", &[]).unwrap());
    server.running.expect_error("connection ended");
    assert_eq!(server.terminate().code, 0);
}

/// What `server` was started with, so that a test changes one thing.
fn again(server: &TestServer, change: impl FnOnce(&mut Config)) -> Config {
    let mut config = config();
    config.listen = server.address();
    let app = config.apps.values_mut().next().unwrap();
    app.keys.push(api_key("all", KEY, Scopes::ALL));
    app.tokens.push(token_key(SECRET));
    app.client_auth = Some(ClientAuth::Optional);
    config.drain_delay = Some(std::time::Duration::ZERO);
    change(&mut config);
    config
}

fn default_app(config: &mut Config) -> &mut fanfare::config::AppConfig {
    config.apps.get_mut("default").unwrap()
}

#[test]
fn token_keys_origins_and_rights_change_while_connections_keep_theirs() {
    let server = keyed_server(|config| {
        default_app(config).default_can = Some(json!({"join": ["old-*"]}));
    });
    let old = signed(&json!({"sub": "ann"}));
    let mut ann = server.connect(&format!("token={old}"));
    ann.join("old-room");

    let secret = "another-secret-of-the-tests-in-32-bytes";
    let report = server.0.reload(again(&server, |config| {
        let app = default_app(config);
        app.tokens = vec![token_key(secret)];
        app.default_can = Some(json!({"join": ["new-*"]}));
        app.origins = Some(vec!["https://new.example".to_owned()]);
        app.client_auth = Some(ClientAuth::Required);
    }));
    let report = report.unwrap();
    assert_eq!(
        report.applied,
        [
            "apps.default.tokens: 1 key -> 1 key",
            "apps.default.origins: changed",
            "apps.default.client_auth: changed",
            "apps.default.default_can: changed",
            "clients: only with a token (client_auth = \"required\"); pages of https://new.example",
        ]
    );
    assert_eq!(report.needs_restart, [""; 0]);

    // Whoever is there keeps its rights; whoever comes with the old key's token does not come in.
    ann.join("old-room-2");
    assert_eq!(server.open(&format!("token={old}")).closed(), 4001);
    let new = jwt(secret, &json!({"alg": "HS256"}), &json!({"sub": "ann"}));
    let refused = server.try_open(
        &format!("token={new}"),
        &[("Origin", "https://old.example")],
    );
    assert_eq!(refused.err().map(|answer| answer.status), Some(403));
    let mut bob = server.connect(&format!("token={new}"));
    assert_eq!(
        bob.ask(&json!({"op": "join", "channel": "old-room"}))["code"],
        "forbidden"
    );
    bob.join("new-room");

    // A renewal is judged by what holds now, and takes away what is no longer allowed.
    assert_eq!(
        ann.ask(&json!({"op": "auth", "token": old}))["code"],
        "unauthorized"
    );
    let (before, ack) = ann.ask_amid(&json!({"op": "auth", "token": new}));
    assert_eq!(ack["op"], "ack", "{ack}");
    let mut left: Vec<_> = before
        .iter()
        .map(|left| left["channel"].as_str().unwrap())
        .collect();
    left.sort_unstable();
    assert_eq!(left, ["old-room", "old-room-2"]);
}

#[test]
fn what_would_be_unsafe_together_with_what_stays_is_refused() {
    // Served to everyone, so that keys cannot go; the new file by itself would be fine.
    let server = keyed_server(|config| config.listen = "0.0.0.0:0".parse().unwrap());
    let listen = server.address();
    let error = server.0.reload({
        let mut config = config();
        config.listen.set_port(listen.port());
        config
    });
    let Err(ReloadError::Config(error)) = error else {
        panic!("{error:?}")
    };
    let text = error.to_string();
    assert!(
        text.starts_with("without a restart: listen = \"0.0.0.0:"),
        "{text}"
    );
}

#[test]
fn a_reload_without_a_change_reports_nothing() {
    let server = keyed_server(|_| {});
    assert!(server.0.reload(again(&server, |_| {})).unwrap().is_empty());
}
