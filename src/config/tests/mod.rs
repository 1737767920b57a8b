//! Layers and mistakes.

mod mistakes;
mod redis;
mod reference;
mod reloading;
mod renamed;
mod problems;
mod secrets;
mod summary;

use std::path::PathBuf;

use clap::{Args as _, Command, FromArgMatches as _};

use super::*;

const KEY: &str = "an-api-key-for-tests";
const SECRET: &str = "a-token-secret-of-thirty-two-bytes-or-more";

fn args(flags: &[&str]) -> ServeArgs {
    let command = ServeArgs::augment_args(Command::new("fanfare").no_binary_name(true));
    ServeArgs::from_arg_matches(&command.try_get_matches_from(flags).unwrap()).unwrap()
}

fn load(flags: &[&str], variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(&args(flags), variables)
}

fn parse(text: &str) -> Result<Config, String> {
    let document = document::read(Path::new("fanfare.toml"), text);
    let problems = document.problems.into_iter().map(|(_, problem)| problem);
    ConfigError::unless_empty(problems.collect())
        .map(|()| document.config)
        .map_err(|error| error.to_string())
}

/// The problems of a configuration that can be read.
fn found_problem(flags: &[&str]) -> String {
    load(flags, &[]).unwrap_err().to_string()
}

/// A folder of the test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("fanfare-config-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.0.join(name), text).unwrap();
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn without_anything_it_is_development_on_loopback() {
    let config = load(&[], &[]).unwrap();
    config.check().unwrap();
    assert!(config.is_development() && config.is_loopback());
    assert_eq!(config.drain_delay(), Duration::ZERO);
    assert_eq!(config.apps.keys().collect::<Vec<_>>(), ["default"]);
    let app = &config.apps["default"];
    assert_eq!(
        (config.client_auth(app), config.has_ephemeral_secret(app)),
        (ClientAuth::Optional, true)
    );
    assert_eq!(config, Config::default());
}

#[test]
fn a_server_has_at_least_one_app() {
    Config::default().check().unwrap();
    let none = Config {
        apps: BTreeMap::new(),
        ..Config::default()
    };
    let error = none.check().unwrap_err().to_string();
    assert!(error.starts_with("apps is empty"), "{error}");
    let folder = Folder::new("no-app");
    let file = folder.write("fanfare.toml", "apps = {}\n");
    let config = load(&["--config", &file], &[]).unwrap();
    assert_eq!(config.apps.keys().collect::<Vec<_>>(), [DEFAULT_APP]);
    let only = folder.write("shop.toml", "[apps.shop]\n");
    let config = load(&["--config", &only], &[]).unwrap();
    assert_eq!(config.apps.keys().collect::<Vec<_>>(), ["shop"]);
}

#[test]
fn clients_need_a_token_once_a_key_for_tokens_is_configured() {
    use ClientAuth::{Off, Optional, Required};
    let auth = |text: &str| {
        let config = parse(text).unwrap();
        let app = &config.apps["a"];
        let keys = app
            .client_keys
            .iter()
            .map(|key| config.client_key_auth(app, key));
        [config.client_auth(app)]
            .into_iter()
            .chain(keys)
            .collect::<Vec<_>>()
    };
    let secret = format!("tokens = [{{ alg = \"HS256\", secret = \"{SECRET}\" }}]\n");
    let public = "tokens = [{ alg = \"EdDSA\", public_key = \"\" }]\n";
    let fetched = "jwks_url = \"https://id.example/keys\"\n";
    for keys in [&*secret, public, fetched] {
        assert_eq!(auth(&format!("[apps.a]\n{keys}")), [Required], "{keys}");
        for (name, set) in [("optional", Optional), ("off", Off)] {
            let text = format!("[apps.a]\n{keys}client_auth = \"{name}\"\n");
            assert_eq!(auth(&text), [set], "{text}");
        }
    }
    let api_key = format!("[[apps.a.keys]]\nname = \"k\"\nkey = \"{KEY}\"\n");
    for without in ["[apps.a]\n", &*api_key] {
        assert_eq!(auth(without), [Optional], "{without}");
    }
    let client_keys = "[[apps.a.client_keys]]\nname = \"web\"\nkey = \"pk_live_web\"\n\
                       [[apps.a.client_keys]]\nname = \"guests\"\nkey = \"pk_live_guests\"\nclient_auth = \"optional\"\n";
    assert_eq!(
        auth(&format!("[apps.a]\n{secret}{client_keys}")),
        [Required, Required, Optional]
    );
}

#[test]
fn flags_win_over_variables_over_the_file_over_defaults() {
    let folder = Folder::new("layers");
    let text = "shards = 1\nlog = \"warn\"\nnode_name = \"file\"\n[limits]\nscans = 1\nmessage_burst = 1\nclaims_bytes = 1000\n";
    let file = folder.write("fanfare.toml", text);
    let variables = [
        ("FANFARE_CONFIG", &*file),
        ("FANFARE_SHARDS", "2"),
        ("FANFARE_NODE_NAME", "variable"),
        ("FANFARE_LIMIT_SCANS", "2"),
        ("FANFARE_LIMIT_MESSAGE_BURST", "2"),
    ];
    let config = load(&["--shards", "3", "--limit", "scans=3"], &variables).unwrap();
    assert_eq!(
        (config.shards, config.node_name.as_deref(), &*config.log),
        (3, Some("variable"), "warn")
    );
    let limits = &config.limits;
    assert_eq!(
        (limits.scans, limits.message_burst, limits.claims_bytes),
        (3, 2, 1000)
    );
    assert_eq!(limits.message_bytes, Limits::default().message_bytes);
}

#[test]
fn a_list_replaces_the_list_below() {
    let variables = [
        (
            "FANFARE_API_KEY",
            "first-key-for-tests,second-key-for-tests",
        ),
        ("FANFARE_ORIGIN", "https://a"),
    ];
    let config = load(
        &["--origin", "https://b", "--origin", "https://c"],
        &variables,
    )
    .unwrap();
    let app = &config.apps["default"];
    assert_eq!(app.origins.as_deref().unwrap(), ["https://b", "https://c"]);
    assert_eq!(
        app.keys.iter().map(|key| &*key.name).collect::<Vec<_>>(),
        ["key-1", "key-2"]
    );
    assert!(
        app.keys
            .iter()
            .any(|key| key.hash == KeyHash::of("second-key-for-tests") && key.scopes == Scopes::ALL)
    );
    let config = load(&["--api-key", KEY], &variables).unwrap();
    assert_eq!(config.apps["default"].keys.len(), 1);
}

#[test]
fn every_flag_is_a_variable() {
    let variables = [
        ("FANFARE_LISTEN", "0.0.0.0:1"),
        ("FANFARE_ADMIN_LISTEN", "127.0.0.1:2"),
        ("FANFARE_LOG", "debug"),
        ("FANFARE_LOG_FORMAT", "json"),
        ("FANFARE_TRUSTED_PROXY", "10.0.0.0/8,fd00::/8"),
        ("FANFARE_REDACT", "auth.email,connection.ip"),
        ("FANFARE_DRAIN_DELAY", "1s"),
        ("FANFARE_DRAIN_TIMEOUT", "1m"),
        ("FANFARE_TOKEN_SECRET", SECRET),
        ("FANFARE_API_KEY", KEY),
        ("FANFARE_CLIENT_AUTH", "required"),
        ("FANFARE_INDEX", "auth.email,auth.tenant"),
        ("FANFARE_CHANNEL_HISTORY", "room-*=100,a=b=5"),
        ("FANFARE_STORE_USER_EVENTS", "true"),
        ("FANFARE_LIMIT_HEARTBEAT", "20s"),
        ("FANFARE_SHARDS", ""),
    ];
    let config = load(&[], &variables).unwrap();
    config.check().unwrap();
    assert_eq!((config.trusted_proxies.len(), config.redact.len()), (2, 2));
    assert_eq!(
        (config.drain_delay(), config.drain_timeout),
        (Duration::from_secs(1), Duration::from_mins(1))
    );
    assert_eq!(
        (config.log_format, config.limits.heartbeat),
        (LogFormat::Json, Duration::from_secs(20))
    );
    let app = &config.apps["default"];
    assert_eq!(
        (app.client_auth, app.index.len(), app.tokens.len()),
        (Some(ClientAuth::Required), 2, 1)
    );
    assert!(!config.has_ephemeral_secret(app) && !config.is_development());
    assert_eq!(
        app.channels,
        [ChannelRule::new("room-*", 100), ChannelRule::new("a=b", 5)]
    );
    assert_eq!(app.user_events, Some(UserEvents::default()));
}

#[test]
fn flags_set_histories_by_pattern_and_turn_stored_events_on_and_off() {
    let folder = Folder::new("histories");
    let text = "[apps.default.user_events]\nsize = 3\n\
                [[apps.default.channels]]\npattern = \"room-*\"\nhistory_size = 1\npresence = \"all\"\n";
    let file = folder.write("fanfare.toml", text);
    let default = |flags: &[&str], variables: &[(&str, &str)]| {
        let flags = [&["--config", &*file], flags].concat();
        load(&flags, variables)
            .unwrap()
            .apps
            .remove("default")
            .unwrap()
    };
    let variables = [("FANFARE_CHANNEL_HISTORY", "room-*=2,*=3")];
    let app = default(&["--channel-history", "*=4"], &variables);
    let room = ChannelRule {
        presence: Presence::All,
        ..ChannelRule::new("room-*", 2)
    };
    assert_eq!(app.channels, [room, ChannelRule::new("*", 4)]);
    let stored = UserEvents {
        size: 3,
        ..UserEvents::default()
    };
    for (flags, expected) in [
        (&[][..], Some(stored)),
        (&["--store-user-events"], Some(stored)),
        (&["--store-user-events=false"], None),
    ] {
        assert_eq!(default(flags, &[]).user_events, expected, "{flags:?}");
    }
    assert_eq!(load(&[], &[]).unwrap().apps["default"].user_events, None);
    let app = load(&["--store-user-events"], &[])
        .unwrap()
        .apps
        .remove("default")
        .unwrap();
    assert_eq!(app.user_events, Some(UserEvents::default()));
    let variables = [
        ("FANFARE_CHANNEL_HISTORY", "room-*"),
        ("FANFARE_STORE_USER_EVENTS", "perhaps"),
    ];
    let text = load(&[], &variables).unwrap_err().to_string();
    assert!(
        text.contains("FANFARE_CHANNEL_HISTORY: write PATTERN=SIZE, such as room-*=100"),
        "{text}"
    );
    assert!(
        text.contains("FANFARE_STORE_USER_EVENTS: it must be one of true, false"),
        "{text}"
    );
    let text = load(&[], &[("FANFARE_CHANNEL_HISTORY", "room-*=all")])
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("the size of a history is a whole number"),
        "{text}"
    );
}

#[test]
fn variables_of_others_are_left_alone() {
    let variables = [
        ("FANFARE_URL", "http://127.0.0.1:7070"),
        ("FANFARE_TOKEN", "x"),
        ("FANFARE_PORT", "tcp://10.0.0.1:7070"),
        ("FANFARE_SERVICE_HOST", "10.0.0.1"),
        ("FANFARE_SERVICE_PORT", "7070"),
        ("FANFARE_SERVICE_PORT_HTTP", "7070"),
        ("FANFARE_PORT_7070_TCP", "tcp://10.0.0.1:7070"),
        ("FANFARE_PORT_7070_TCP_PROTO", "tcp"),
        ("FANFARE_PORT_7070_TCP_PORT", "7070"),
        ("FANFARE_PORT_7070_TCP_ADDR", "10.0.0.1"),
        ("FANFARE_ADMIN_PORT", "tcp://10.0.0.1:7071"),
        ("FANFARE_ADMIN_SERVICE_HOST", "10.0.0.1"),
        ("PATH", "/bin"),
    ];
    assert!(load(&[], &variables).is_ok());
    assert!(load(&[], &[("FANFARE_PORT", "7070")]).is_err());
}

#[test]
fn an_unknown_name_is_refused_and_the_nearest_named() {
    let variables = [
        ("FANFARE_LISTN", "x"),
        ("FANFARE_LIMIT_SCANZ", "1"),
        ("FANFARE_LOG_FORMAT", "xml"),
        ("FANFARE_SHARDS", "-1"),
    ];
    let text = load(
        &["--limit", "mesage_bytes=1", "--limit", "scans=many"],
        &variables,
    )
    .unwrap_err()
    .to_string();
    for line in [
        "environment: unknown variable \"FANFARE_LISTN\"; did you mean \"FANFARE_LISTEN\"?",
        "FANFARE_LIMIT: unknown limit \"scanz\"; did you mean \"scans\"?",
        "FANFARE_LOG_FORMAT: it must be one of text, json",
        "FANFARE_SHARDS: a whole number is expected, 0 or more",
        "--limit: unknown limit \"mesage_bytes\"; did you mean \"message_bytes\"?",
        "--limit scans: \"many\": a whole number is expected, 0 or more",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "no {line:?} in:\n{text}"
        );
    }
}

#[test]
fn an_unknown_key_is_refused_in_every_table() {
    let cases = [
        (
            "log = \"info\"\nlistn = 1",
            "fanfare.toml:2: unknown key \"listn\"; did you mean \"listen\"?",
        ),
        (
            "[limits]\nmesage_bytes = 1",
            "fanfare.toml:2: unknown key \"mesage_bytes\"; did you mean \"message_bytes\"?",
        ),
        (
            "[apps.default]\norigin = []",
            "fanfare.toml:2: unknown key \"origin\"; did you mean \"origins\"?",
        ),
        (
            "[[apps.a.keys]]\nname = \"x\"\nscope = []",
            "unknown key \"scope\"; did you mean \"scopes\"?",
        ),
        (
            "[[apps.a.tokens]]\nalg = \"HS256\"\nsecert = \"x\"",
            "unknown key \"secert\"; did you mean \"secret\"?",
        ),
        (
            "[[apps.a.channels]]\npattern = \"x\"\nhistory = 3",
            "unknown key \"history\"; did you mean \"history_size\"?",
        ),
        (
            "[apps.a.user_events]\nsise = 3",
            "fanfare.toml:2: unknown key \"sise\"; did you mean \"size\"?",
        ),
        (
            "[[apps.a.client_keys]]\nname = \"x\"\nkey = \"pk_live_x\"\norigin = []",
            "unknown key \"origin\"; did you mean \"origins\"?",
        ),
        (
            "[apps.a.protocols.socketio]\nnamespace = \"/chat\"",
            "fanfare.toml:2: unknown key \"namespace\"; did you mean \"namespaces\"?",
        ),
        (
            "port = 7070",
            "unknown key \"port\"; write listen = \"127.0.0.1:7070\" above the first [table]",
        ),
        (
            "[apps.a.protocols.\"socket.io\"]",
            "unknown key \"socket.io\"; did you mean \"socketio\"?",
        ),
        (
            "qqqqqqqqqq = 1",
            "fanfare.toml:1: unknown key \"qqqqqqqqqq\"",
        ),
    ];
    for (text, expected) in cases {
        let error = parse(text).unwrap_err();
        assert!(error.ends_with(expected), "{error}");
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let text = load(&["--config", "/nonexistent/fanfare.toml"], &[])
        .unwrap_err()
        .to_string();
    assert_eq!(
        text,
        "--config: cannot read /nonexistent/fanfare.toml: no such file"
    );
    let variables = [("FANFARE_CONFIG", "/nonexistent/fanfare.toml")];
    let text = load(&[], &variables).unwrap_err().to_string();
    assert!(text.starts_with("FANFARE_CONFIG: cannot read"), "{text}");

    let folder = Folder::new("keys");
    folder.write("key.pem", "a key");
    let text = "[[apps.default.tokens]]\nalg = \"ES256\"\npublic_key_file = \"key.pem\"\n";
    let config = load(&["--config", &folder.write("good.toml", text)], &[]).unwrap();
    assert_eq!(
        config.apps["default"].tokens[0].key,
        KeyMaterial::Public("a key".to_owned())
    );
    let text = text.replace("key.pem", "none.pem");
    let error = load(&["--config", &folder.write("bad.toml", &text)], &[])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("bad.toml:3: apps.default.tokens[0].public_key_file: cannot read")
            && error.ends_with("none.pem: no such file"),
        "{error}"
    );
}

#[test]
fn an_app_that_only_a_variable_made_is_told_of() {
    let folder = Folder::new("made");
    let file = folder.write(
        "fanfare.toml",
        &format!(
            "listen = \"0.0.0.0:7070\"\n[apps.blog]\nclient_auth = \"off\"\n[[apps.blog.keys]]\nname = \"a\"\nkey = \"{KEY}\"\n\
             [apps.shop]\nclient_auth = \"off\"\n"
        ),
    );
    let read = |variables: &[(&str, &str)]| {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::read(&args(&["--config", &file]), variables)
    };
    let key = ("FANFARE_API_KEY", "another-api-key-for-tests");
    let loaded = read(&[key, ("FANFARE_TOKEN_SECRET", SECRET)]);
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    let [warning] = &loaded.warnings[..] else {
        panic!("{:?}", loaded.warnings);
    };
    assert!(
        warning.starts_with(
            "FANFARE_API_KEY and FANFARE_TOKEN_SECRET made the app \"default\", which the file does not name: it is \
             served besides \"blog\", \"shop\"."
        ),
        "{warning}"
    );

    let problems: Vec<String> = read(&[key])
        .problems
        .iter()
        .map(ToString::to_string)
        .collect();
    let [problem] = &problems[..] else {
        panic!("{problems:?}");
    };
    assert!(
        problem.starts_with("app \"default\": no key is set that verifies client tokens;")
            && problem.ends_with(
                "(FANFARE_API_KEY made the app \"default\", which the file does not name)"
            ),
        "{problem}"
    );
    assert!(read(&[]).warnings.is_empty());
    let alone = load(&[], &[key]).unwrap();
    assert_eq!(
        alone.apps.len(),
        1,
        "without a file there is nothing to tell"
    );
}

#[test]
fn secrets_are_not_shown() {
    let flags = ["--api-key", KEY, "--token-secret", SECRET];
    let shown = format!("{:?} {:?}", args(&flags), load(&flags, &[]).unwrap());
    assert!(!shown.contains(KEY) && !shown.contains(SECRET), "{shown}");
    let error = load(&["--api-key", "hunter2"], &[])
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "--api-key: API key \"key-1\" has 7 bytes, and needs at least 16 (make one with: openssl rand -hex 24)"
    );
}
