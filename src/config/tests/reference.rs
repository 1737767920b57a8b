//! The reference in docs/reference/configuration.md, compared with the code.

use std::collections::BTreeSet;

use super::*;

/// The keys of the table at `path`, as serde knows them.
fn keys_of(table: &str) -> BTreeSet<String> {
    known_keys(table).into_iter().collect()
}

fn reference() -> String {
    std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/docs/reference/configuration.md"
    ))
    .unwrap()
}

#[test]
fn the_reference_has_every_key_with_its_default() {
    let reference = reference();
    let config = Config::default();
    let text = |format| {
        if format == LogFormat::Text {
            "`text`"
        } else {
            "`json`"
        }
    };
    let server = BTreeMap::from([
        ("listen", format!("`{}`", config.listen)),
        ("admin_listen", "none".to_owned()),
        ("shards", format!("`{}`", config.shards)),
        ("node_name", "none".to_owned()),
        ("log", format!("`{}`", config.log)),
        ("log_format", text(config.log_format).to_owned()),
        ("trusted_proxies", "`[]`".to_owned()),
        ("redact", "`[]`".to_owned()),
        ("drain_delay", "`5s`".to_owned()),
        (
            "drain_timeout",
            format!("`{}`", humantime::format_duration(config.drain_timeout)),
        ),
        ("redis", "none".to_owned()),
        ("data", "none".to_owned()),
        ("namespace", format!("`{}`", config.namespace)),
        ("limits", "see below".to_owned()),
        ("apps", "one, `default`".to_owned()),
    ]);
    assert_eq!(
        server
            .keys()
            .map(|key| (*key).to_owned())
            .collect::<BTreeSet<_>>(),
        keys_of("")
    );
    for (key, default) in server {
        assert!(
            reference.contains(&format!("| `{key}` | {default} |")),
            "{key} {default}"
        );
    }
    for (key, default) in &toml::Table::try_from(Limits::default()).unwrap() {
        assert!(
            reference.contains(&format!("| `{key}` | `{default}` |")),
            "{key} {default}"
        );
    }
    let tables = [
        "[apps.a]",
        "[[apps.a.keys]]",
        "[[apps.a.tokens]]",
        "[[apps.a.client_keys]]",
        "[[apps.a.channels]]",
        "[apps.a.user_events]",
        "[redis]",
        "[data]",
    ];
    for table in tables {
        for key in keys_of(table) {
            assert!(reference.contains(&format!("| `{key}` |")), "{table} {key}");
        }
    }
}

#[test]
fn the_reference_has_the_defaults_of_what_is_kept() {
    let reference = reference();
    let rule = ChannelRule::new("*", 0);
    let events = UserEvents::default();
    let defaults = [
        ("history_size", rule.history_size.to_string()),
        ("history_bytes", rule.history_bytes.to_string()),
        (
            "history_ttl",
            humantime::format_duration(rule.history_ttl).to_string(),
        ),
        ("presence", rule.presence.name().to_owned()),
        ("leave_after", "0s".to_owned()),
        ("size", events.size.to_string()),
        ("bytes", events.bytes.to_string()),
    ];
    for (key, default) in defaults {
        assert!(
            reference.contains(&format!("| `{key}` | `{default}` |")),
            "{key} {default}"
        );
    }
    assert!(reference.contains("| `ttl` | `24h` |") && events.ttl == Duration::from_hours(24));
}

#[test]
fn the_reference_has_every_flag_and_variable() {
    let reference = reference();
    for argument in ServeArgs::augment_args(Command::new("fanfare")).get_arguments() {
        let flag = argument.get_long().unwrap();
        let variable = args::named("FANFARE_", flag);
        let variable = if flag == "limit" {
            "FANFARE_LIMIT_<NAME>".to_owned()
        } else {
            variable
        };
        assert!(
            reference.contains(&format!("`--{flag}`, `{variable}`")),
            "{flag}"
        );
    }
}

#[test]
fn the_example_of_the_reference_is_a_good_file() {
    let reference = reference();
    let example = reference
        .split("```toml")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .unwrap();
    let config = parse(example).unwrap();
    config.check().unwrap();
    assert_eq!(config.drain_delay(), Duration::from_secs(5));
}
