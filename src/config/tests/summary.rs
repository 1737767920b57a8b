//! What is said about a configuration when it is checked, and when a server starts.

use super::*;

fn lines(flags: &[&str]) -> Vec<String> {
    load(flags, &[]).unwrap().summary()
}

#[test]
fn in_development_everyone_on_this_machine_may_do_everything() {
    assert_eq!(
        lines(&[]),
        [
            "clients: everyone on this machine, with or without a token (client_auth = \"optional\"); pages on localhost only",
            "callers: everyone on this machine (no API key is set)",
            "protocols: fanfare.v1 at /v1/connect only (--protocol adds others)",
            "kept: nothing (no channel has a history, and no events are stored for users)",
        ]
    );
}

#[test]
fn with_keys_only_clients_with_a_token_connect_and_only_callers_with_a_key_call() {
    let open = ["--listen", "0.0.0.0:1", "--api-key", KEY];
    let more = [
        "--token-secret",
        SECRET,
        "--channel-history",
        "room-*=10",
        "--store-user-events",
    ];
    let found = lines(&[&open[..], &more].concat());
    assert_eq!(
        found,
        [
            "clients: only with a token (client_auth = \"required\"); pages of every origin",
            "callers: only with the API key",
            "protocols: fanfare.v1 at /v1/connect only (--protocol adds others)",
            "tokens: good without exp (set require_exp to refuse them); revocations are in memory only: a restart loses them (set data or redis)",
            "kept: channel histories and events for users, in memory only: a restart loses them (set data or redis)",
        ]
    );
    let joined = [
        "--redis",
        "redis://redis.example",
        "--origin",
        "https://a.example",
        "--require-exp",
    ];
    let found = lines(&[&open[..], &more, &joined].concat());
    assert!(
        found[0].ends_with("; pages of https://a.example"),
        "{found:?}"
    );
    assert_eq!(
        found[3],
        "tokens: refused without exp (require_exp); revocations are kept in Redis"
    );
    assert_eq!(
        found[4],
        "kept: channel histories and events for users, in Redis"
    );
}

#[test]
fn who_connects_without_a_token_is_said() {
    let open = ["--listen", "0.0.0.0:1", "--api-key", KEY];
    let with = |more: &[&str]| lines(&[&open[..], more].concat()).swap_remove(0);
    assert_eq!(
        with(&["--token-secret", SECRET, "--client-auth", "optional"]),
        "clients: everyone, with or without a token (client_auth = \"optional\"); pages only with a token (set origins)"
    );
    assert_eq!(
        with(&["--client-auth", "off"]),
        "clients: everyone, without a name (client_auth = \"off\"); no page (set origins)"
    );
    assert_eq!(
        with(&["--client-auth", "off", "--origin", "*"]),
        "clients: everyone, without a name (client_auth = \"off\"); pages of every origin"
    );
}

#[test]
fn the_protocols_that_are_on_are_named_with_their_paths() {
    let found = |text: &str| {
        let lines = parse(text).unwrap().summary();
        let mut lines = lines
            .into_iter()
            .filter(|line| line.starts_with("protocols"));
        lines.next().unwrap()
    };
    assert_eq!(
        found("[apps.default.protocols.socketio]\nnamespaces = [\"/\", \"/chat\"]"),
        "protocols: fanfare.v1 at /v1/connect; socketio at /socket.io/ (namespaces /, /chat)"
    );
    assert_eq!(
        found(
            "[apps.default.protocols.altogic]\nhosts = [\"a.example\"]\n[apps.default.protocols.mesa]\npath = \"/m\""
        ),
        "protocols: fanfare.v1 at /v1/connect; altogic at /socket.io/ of a.example; mesa at /m"
    );
    let flags = lines(&["--protocol", "zexcore"]);
    assert!(
        flags.contains(&"protocols: fanfare.v1 at /v1/connect; zexcore at /rtm".to_owned()),
        "{flags:?}"
    );
}

#[test]
fn each_app_and_client_key_has_its_own_answer() {
    let text = format!(
        "listen = \"0.0.0.0:1\"\n[apps.a]\ntokens = [{{ alg = \"HS256\", secret = \"{SECRET}\" }}]\n\
         keys = [{{ name = \"one\", key = \"{KEY}\" }}, {{ name = \"two\", key = \"{KEY}-2\" }}]\n\
         client_keys = [{{ name = \"guests\", key = \"pk_live_guests\", client_auth = \"off\", origins = [\"*\"] }}]\n\
         [apps.a.user_events]\n[apps.b]\nclient_auth = \"off\"\n"
    );
    let config = parse(&text).unwrap();
    config.check().unwrap();
    assert_eq!(
        config.summary(),
        [
            "clients of app \"a\": only with a token (client_auth = \"required\"); pages of every origin; with client \
             key \"guests\": everyone, without a name (client_auth = \"off\"); pages of every origin",
            "clients of app \"b\": everyone, without a name (client_auth = \"off\"); no page (set origins)",
            "callers of app \"a\": only with one of 2 API keys",
            "callers of app \"b\": nobody (the app has no API key)",
            "protocols of app \"a\": fanfare.v1 at /v1/connect only (--protocol adds others)",
            "protocols of app \"b\": fanfare.v1 at /v1/connect only (--protocol adds others)",
            "tokens of app \"a\": good without exp (set require_exp to refuse them); revocations are in memory only: a \
             restart loses them (set data or redis)",
            "kept of app \"a\": events for users, in memory only: a restart loses them (set data or redis)",
            "kept of app \"b\": nothing (no channel has a history, and no events are stored for users)",
        ]
    );
}
