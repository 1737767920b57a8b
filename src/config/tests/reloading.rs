//! What a reload takes, and what it leaves.

use super::*;

fn app(config: &mut Config) -> &mut AppConfig {
    config.apps.get_mut(DEFAULT_APP).unwrap()
}

/// What `change` makes of a server with the defaults.
fn merged(change: impl FnOnce(&mut Config)) -> (Config, ReloadReport) {
    let running = load(&[], &[]).unwrap();
    let mut new = running.clone();
    change(&mut new);
    merge(&running, new)
}

#[test]
fn what_only_a_restart_can_change_stays() {
    let (config, report) = merged(|config| {
        config.listen = "127.0.0.1:9".parse().unwrap();
        config.admin_listen = Some("127.0.0.1:10".parse().unwrap());
        config.shards = 3;
        config.node_name = Some("n".to_owned());
        config.limits.heartbeat = Duration::from_secs(7);
        app(config).index = vec!["auth.email".to_owned()];
        app(config).slow_consumer = SlowConsumer::DropOldest;
        app(config).channels = vec![ChannelRule::new("*", 1)];
        app(config).user_events = Some(UserEvents::default());
        config.apps.insert("more".to_owned(), AppConfig::default());
    });
    assert_eq!(config, load(&[], &[]).unwrap());
    assert_eq!(report.applied, [""; 0]);
    assert_eq!(
        report.needs_restart,
        [
            "listen: 127.0.0.1:7070 -> 127.0.0.1:9",
            "admin_listen: none -> 127.0.0.1:10",
            "shards: 0 -> 3",
            "node_name: none -> n",
            "limits.heartbeat: \"25s\" -> \"7s\"",
            "apps.default.index: changed",
            "apps.default.slow_consumer: changed",
            "apps.default.channels: changed",
            "apps.default.user_events: changed",
            "apps.more: added",
        ]
    );
    let (config, report) = merged(|config| {
        config.apps = BTreeMap::from([("more".to_owned(), AppConfig::default())]);
    });
    assert_eq!(config, load(&[], &[]).unwrap());
    assert_eq!(
        report.needs_restart,
        [
            "apps.default: removed; until then its keys stay good",
            "apps.more: added"
        ]
    );
}

#[test]
fn what_can_change_is_taken_and_no_secret_is_shown() {
    let change = |config: &mut Config| {
        config.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        config.redact = vec!["auth.email".to_owned()];
        config.drain_delay = Some(Duration::from_secs(1));
        config.drain_timeout = Duration::from_secs(9);
        config.limits.connections = 5;
        let app = app(config);
        app.keys = vec![ApiKeyConfig::from_plain("k", &KEY.into(), Scopes::ALL).unwrap()];
        app.tokens = vec![TokenKeyConfig {
            kid: None,
            alg: TokenAlgorithm::HS256,
            key: KeyMaterial::Secret(SECRET.into()),
        }];
        app.issuer = Some("i".to_owned());
        app.jwks_url = Some(JwksUrl::try_from("https://id.example/k".to_owned()).unwrap());
        app.client_keys = vec![ClientKeyConfig {
            name: "web".to_owned(),
            key: "pk_live_web".to_owned(),
            client_auth: None,
            origins: None,
            can: None,
        }];
    };
    let (config, report) = merged(change);
    let mut expected = load(&[], &[]).unwrap();
    change(&mut expected);
    assert_eq!(config, expected);
    assert_eq!(
        report.applied,
        [
            "trusted_proxies: [] -> [10.0.0.0/8]",
            "redact: [] -> [auth.email]",
            "drain_delay: the default -> 1s",
            "drain_timeout: 30s -> 9s",
            "limits.connections: 0 -> 5",
            "apps.default.keys: \"k\" added",
            "apps.default.client_keys: \"web\" added",
            "apps.default.tokens: 0 keys -> 1 key",
            "apps.default.issuer: changed",
            "apps.default.jwks_url: none -> https://id.example/k",
            "clients: only with a token (client_auth = \"required\"); pages of every origin",
            "callers: only with the API key",
            "tokens: good without exp (set require_exp to refuse them); revocations are in memory only: a restart loses them (set data or redis)",
        ]
    );
    assert_eq!(report.needs_restart, [""; 0]);
    let same = merge(&config, config.clone());
    assert!(same.0 == config && same.1.is_empty());
}

#[test]
fn a_port_that_was_chosen_by_the_system_is_no_difference() {
    let running = load(&["--listen", "127.0.0.1:4711"], &[]).unwrap();
    assert!(
        merge(&running, load(&["--listen", "127.0.0.1:0"], &[]).unwrap())
            .1
            .is_empty()
    );
    let elsewhere = Config {
        listen: "0.0.0.0:0".parse().unwrap(),
        ..running.clone()
    };
    assert!(!merge(&running, elsewhere).1.is_empty());
}

#[test]
fn the_reference_lists_the_bounds_that_change_at_once() {
    let reference = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/docs/reference/configuration.md"
    ))
    .unwrap();
    let names: Vec<String> = reload::LIVE_LIMITS
        .iter()
        .map(|name| format!("`{name}`"))
        .collect();
    assert!(reference.contains(&format!("| of `limits`: {} |", names.join(", "))));
    let table = toml::Table::try_from(Limits::default()).unwrap();
    assert!(
        reload::LIVE_LIMITS
            .iter()
            .all(|name| table.contains_key(*name))
    );
}

#[test]
fn fetched_keys_need_to_know_whose_tokens_are_meant() {
    let with = |more: &str| {
        let text = format!("[apps.default]\njwks_url = \"https://id.example/keys\"\n{more}");
        parse(&text)
            .unwrap()
            .check()
            .map_err(|error| error.to_string())
    };
    assert!(
        with("")
            .unwrap_err()
            .contains("jwks_url without issuer or audience")
    );
    assert!(with("issuer = \"i\"").is_ok() && with("audience = \"a\"").is_ok());
    // They are keys for tokens as others are.
    let open = "listen = \"0.0.0.0:1\"\n[apps.default]\nissuer = \"i\"\njwks_url = \"https://id.example/keys\"\n\
                [[apps.default.keys]]\nname = \"k\"\nkey = \"an-api-key-for-tests\"\n";
    let config = parse(open).unwrap();
    config.check().unwrap();
    assert!(!config.has_ephemeral_secret(&config.apps[DEFAULT_APP]));
    let error = parse("[apps.default]\njwks_url = \"http://id.example/keys\"\n").unwrap_err();
    assert!(
        error.starts_with("fanfare.toml:2:") && error.contains("is not https"),
        "{error}"
    );
}
