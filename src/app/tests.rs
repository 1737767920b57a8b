//! Policies, client keys and rules for channels, as an app sets them up.

use std::time::Duration;

use super::{runtime_config::Access, *};
use crate::{
    auth::Rights,
    config::{ClientAuth, Presence},
};

const API_KEY: &str = "[[apps.shop.keys]]\nname = \"functions\"\nkey = \"an-api-key-for-tests\"\n";

fn config(text: &str) -> Config {
    toml::from_str(text).unwrap()
}

/// The app `shop` of a configuration.
fn shop(text: &str) -> Result<App, SetupError> {
    App::new(
        AppId(0),
        "shop",
        &config(text).apps["shop"],
        1024 * 1024,
        &Metrics::new(),
    )
}

/// A page of `origin`, while the server is not in development.
fn page(origin: &str, has_token: bool) -> ClientPage<'_> {
    ClientPage {
        origin,
        has_token,
        is_development: false,
    }
}

/// Who may come to it.
fn access(text: &str) -> Result<Access, SetupError> {
    Access::new(&shop(text)?, &config(text), None)
}

/// A configuration as a server has it.
fn runtime_config(config: Config, before: Option<&RuntimeConfig>) -> RuntimeConfig {
    let metrics = Metrics::new();
    let apps = config.apps.iter().enumerate();
    let apps: Vec<App> = apps
        .map(|(at, (name, app))| {
            App::new(AppId(at as u16), name, app, 1024 * 1024, &metrics).unwrap()
        })
        .collect();
    RuntimeConfig::new(config, &apps, before).unwrap()
}

#[test]
fn a_client_key_differs_from_its_app_where_it_says_so() {
    let app = access(&format!(
        "[apps.shop]\nclient_auth = \"required\"\norigins = [\"https://shop.example\"]\n\
         default_can = {{ join = [\"public-*\"] }}\n{API_KEY}\
         [[apps.shop.client_keys]]\nname = \"web\"\nkey = \"pk_live_web\"\n\
         [[apps.shop.client_keys]]\nname = \"guests\"\nkey = \"pk_live_guests\"\nclient_auth = \"off\"\n\
         origins = [\"https://guests.example\"]\ncan = {{ join = [\"lobby\"] }}\n"
    ))
    .unwrap();
    for index in [0, 1] {
        let policy = app.policy(index);
        assert_eq!(policy.client_auth, ClientAuth::Required);
        assert!(policy.allows(&page("https://shop.example", false)));
        assert!(!policy.allows(&page("https://guests.example", true)));
        assert!(
            policy.default_rights.may_join("public-1") && !policy.default_rights.may_join("lobby")
        );
    }
    let guests = app.policy(2);
    assert_eq!(guests.client_auth, ClientAuth::Off);
    assert!(guests.allows(&page("https://guests.example", false)));
    assert!(!guests.allows(&page("https://shop.example", true)));
    assert!(guests.default_rights.may_join("lobby") && !guests.default_rights.may_join("public-1"));
}

#[test]
fn without_a_can_there_is_everything_in_development_and_else_nothing() {
    let key = "[[apps.shop.client_keys]]\nname = \"web\"\nkey = \"pk_live_web\"\n";
    for (keys, rights) in [("", Rights::everything()), (API_KEY, Rights::nothing())] {
        let app = access(&format!("[apps.shop]\n{keys}{key}")).unwrap();
        assert_eq!(
            (
                &*app.policy(0).default_rights,
                &*app.policy(1).default_rights
            ),
            (&rights, &rights)
        );
    }
}

#[test]
fn an_app_has_users_where_any_of_its_clients_may_authenticate() {
    let off = "[apps.shop]\nclient_auth = \"off\"\n";
    let key = "[[apps.shop.client_keys]]\nname = \"web\"\nkey = \"pk_live_web\"\n";
    assert!(!access(off).unwrap().has_users());
    let app = access(&format!("{off}{key}")).unwrap();
    assert!(!app.has_users() && app.tokens.is_empty());
    let app = access(&format!("{off}{key}client_auth = \"required\"\n")).unwrap();
    assert!(
        app.has_users() && !app.tokens.is_empty(),
        "and they can have tokens"
    );
}

#[test]
fn rights_that_cannot_be_read_name_their_key() {
    let error = access(
        "[apps.shop]\n[[apps.shop.client_keys]]\nname = \"web\"\nkey = \"pk_live_web\"\ncan = { dance = [] }\n",
    );
    let error = error.unwrap_err().to_string();
    assert!(
        error.starts_with(
            "app \"shop\", client key \"web\": unknown field \"can.dance\"; \"can\" takes join"
        ),
        "{error}"
    );
}

#[test]
fn a_client_key_names_its_app_and_its_policy() {
    let runtime_config = runtime_config(
        config(
            "[apps.a]\n[[apps.b.client_keys]]\nname = \"one\"\nkey = \"pk_live_one\"\n\
             [[apps.b.client_keys]]\nname = \"two\"\nkey = \"pk_live_two\"\n",
        ),
        None,
    );
    let keys = &runtime_config.client_keys;
    assert_eq!(keys.find("pk_live_one"), Some((AppId(1), 1)));
    assert_eq!(keys.find("pk_live_two"), Some((AppId(1), 2)));
    for stranger in ["", "pk_live_", "PK_LIVE_ONE", "one"] {
        assert_eq!(keys.find(stranger), None, "{stranger}");
    }
}

#[test]
fn a_policy_keeps_its_place_when_keys_come_and_go() {
    let key = |name: &str, auth: &str| {
        format!(
            "[[apps.shop.client_keys]]\nname = \"{name}\"\nkey = \"pk_live_{name}\"\nclient_auth = \"{auth}\"\n"
        )
    };
    let app = |keys: &[String]| {
        config(&format!(
            "[apps.shop]\nclient_auth = \"required\"\n{}",
            keys.concat()
        ))
    };
    let first = runtime_config(app(&[key("one", "off"), key("two", "off")]), None);
    let at = |runtime_config: &RuntimeConfig, key: &str| {
        runtime_config
            .client_keys
            .find(key)
            .map(|(_, policy)| policy)
    };
    assert_eq!(
        (at(&first, "pk_live_one"), at(&first, "pk_live_two")),
        (Some(1), Some(2))
    );
    let second = runtime_config(
        app(&[key("three", "off"), key("two", "optional")]),
        Some(&first),
    );
    assert_eq!(
        (at(&second, "pk_live_two"), at(&second, "pk_live_three")),
        (Some(2), Some(3))
    );
    assert_eq!(at(&second, "pk_live_one"), None);
    let auth = |policy| second.access(AppId(0)).policy(policy).client_auth;
    assert_eq!(
        [0, 1, 2, 3].map(auth),
        [
            ClientAuth::Required,
            ClientAuth::Required,
            ClientAuth::Optional,
            ClientAuth::Off
        ]
    );
}

#[test]
fn fetched_keys_outlive_a_reload_that_keeps_their_address() {
    let app = |url: &str, issuer: &str| {
        config(&format!(
            "[apps.shop]\njwks_url = \"{url}\"\nissuer = \"{issuer}\"\n{API_KEY}"
        ))
    };
    let source =
        |runtime_config: &RuntimeConfig| runtime_config.key_sources().next().unwrap().1.clone();
    let first = runtime_config(app("https://id.example/a", "a"), None);
    let second = runtime_config(app("https://id.example/a", "b"), Some(&first));
    assert!(Arc::ptr_eq(&source(&first), &source(&second)));
    let third = runtime_config(app("https://id.example/b", "b"), Some(&second));
    assert!(!Arc::ptr_eq(&source(&second), &source(&third)));
    assert!(
        runtime_config(config("[apps.shop]\n"), Some(&third))
            .key_sources()
            .next()
            .is_none()
    );
}

#[test]
fn the_first_rule_that_matches_holds() {
    let app = shop(
        "[[apps.shop.channels]]\npattern = \"room-quiet-*\"\npresence = \"off\"\n\
         [[apps.shop.channels]]\npattern = \"room-*\"\nhistory_size = 3\nhistory_ttl = \"1m\"\npresence = \"all\"\n\
         [[apps.shop.channels]]\npattern = \"room-1\"\nhistory_size = 9\n",
    )
    .unwrap();
    let retention = Retention {
        events: 3,
        bytes: 1024 * 1024,
        ttl: Duration::from_mins(1),
    };
    assert_eq!(
        *app.rule("room-1"),
        Rule {
            retention: Some(retention),
            presence: Presence::All,
            leave_after: Duration::ZERO,
        }
    );
    assert_eq!(
        *app.rule("room-quiet-1"),
        Rule {
            retention: None,
            presence: Presence::Off,
            leave_after: Duration::ZERO,
        }
    );
    assert_eq!(
        *app.rule("lobby"),
        Rule {
            retention: None,
            presence: Presence::Asked,
            leave_after: Duration::ZERO,
        }
    );
}

#[test]
fn events_are_kept_for_users_where_the_app_says_so() {
    assert_eq!(shop("[apps.shop]\n").unwrap().user_events(), None);
    let app = shop("[apps.shop.user_events]\nsize = 7\n").unwrap();
    let stored = Retention {
        events: 7,
        bytes: 1024 * 1024,
        ttl: Duration::from_hours(24),
    };
    assert_eq!(app.user_events(), Some(stored));
}
