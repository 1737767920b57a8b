//! Policies, client keys and rules for channels, as an app sets them up.

use std::time::Duration;

use super::*;
use crate::{auth::Rights, config::Presence};

const API_KEY: &str = "[[apps.shop.keys]]\nname = \"functions\"\nkey = \"an-api-key-for-tests\"\n";

fn config(text: &str) -> Config {
    toml::from_str(text).unwrap()
}

/// The app `shop` of a configuration.
fn shop(text: &str) -> Result<App, SetupError> {
    let config = config(text);
    let app = config.apps.get("shop").unwrap();
    App::new(AppId(0), "shop", app, &config, &Metrics::new())
}

#[test]
fn a_client_key_differs_from_its_app_where_it_says_so() {
    let app = shop(&format!(
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
        assert!(policy.allows_origin("https://shop.example", false, false));
        assert!(!policy.allows_origin("https://guests.example", true, false));
        assert!(policy.default_rights.may_join("public-1") && !policy.default_rights.may_join("lobby"));
    }
    let guests = app.policy(2);
    assert_eq!(guests.client_auth, ClientAuth::Off);
    assert!(guests.allows_origin("https://guests.example", false, false));
    assert!(!guests.allows_origin("https://shop.example", true, false));
    assert!(guests.default_rights.may_join("lobby") && !guests.default_rights.may_join("public-1"));
}

#[test]
fn without_a_can_there_is_everything_in_development_and_else_nothing() {
    let key = "[[apps.shop.client_keys]]\nname = \"web\"\nkey = \"pk_live_web\"\n";
    for (keys, rights) in [("", Rights::everything()), (API_KEY, Rights::nothing())] {
        let app = shop(&format!("[apps.shop]\n{keys}{key}")).unwrap();
        assert_eq!((&*app.policy(0).default_rights, &*app.policy(1).default_rights), (&rights, &rights));
    }
}

#[test]
fn an_app_has_users_where_any_of_its_clients_may_authenticate() {
    let off = "[apps.shop]\nclient_auth = \"off\"\n";
    let key = "[[apps.shop.client_keys]]\nname = \"web\"\nkey = \"pk_live_web\"\n";
    assert!(!shop(off).unwrap().has_users());
    let app = shop(&format!("{off}{key}")).unwrap();
    assert!(!app.has_users() && app.tokens.is_empty());
    let app = shop(&format!("{off}{key}client_auth = \"required\"\n")).unwrap();
    assert!(app.has_users() && !app.tokens.is_empty(), "and they can have tokens");
}

#[test]
fn rights_that_cannot_be_read_name_their_key() {
    let error = shop(
        "[apps.shop]\n[[apps.shop.client_keys]]\nname = \"web\"\nkey = \"pk_live_web\"\ncan = { dance = [] }\n",
    );
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("app \"shop\", client key \"web\": \"can\": unknown field `dance`"), "{error}");
}

#[test]
fn a_client_key_names_its_app_and_its_policy() {
    let keys = ClientKeys::new(
        &config(
            "[apps.a]\n[[apps.b.client_keys]]\nname = \"one\"\nkey = \"pk_live_one\"\n\
             [[apps.b.client_keys]]\nname = \"two\"\nkey = \"pk_live_two\"\n",
        )
        .apps,
    );
    assert_eq!(keys.find("pk_live_one"), Some((AppId(1), 1)));
    assert_eq!(keys.find("pk_live_two"), Some((AppId(1), 2)));
    for stranger in ["", "pk_live_", "PK_LIVE_ONE", "one"] {
        assert_eq!(keys.find(stranger), None, "{stranger}");
    }
}

#[test]
fn the_first_rule_that_matches_holds() {
    let app = shop(
        "[[apps.shop.channels]]\npattern = \"room-quiet-*\"\npresence = \"off\"\n\
         [[apps.shop.channels]]\npattern = \"room-*\"\nhistory_size = 3\nhistory_ttl = \"1m\"\npresence = \"all\"\n\
         [[apps.shop.channels]]\npattern = \"room-1\"\nhistory_size = 9\n",
    )
    .unwrap();
    let keep = Keep { events: 3, bytes: 1024 * 1024, ttl: Duration::from_mins(1) };
    assert_eq!(*app.rule("room-1"), Rule { keep: Some(keep), presence: Presence::All });
    assert_eq!(*app.rule("room-quiet-1"), Rule { keep: None, presence: Presence::Off });
    assert_eq!(*app.rule("lobby"), Rule { keep: None, presence: Presence::Asked });
}

#[test]
fn events_are_kept_for_users_where_the_app_says_so() {
    assert_eq!(shop("[apps.shop]\n").unwrap().user_events(), None);
    let app = shop("[apps.shop.user_events]\nsize = 7\n").unwrap();
    let kept = Keep { events: 7, bytes: 1024 * 1024, ttl: Duration::from_hours(24) };
    assert_eq!(app.user_events(), Some(kept));
}
