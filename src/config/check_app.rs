//! Whether the settings of one app make sense by themselves.

use std::collections::BTreeSet;

use super::{
    AppConfig, ChannelRule, UserEvents,
    form::{is_channel_pattern, is_name, is_origin, is_path},
};
use crate::limits::{CHANNEL_NAME_BYTES, HISTORY_EVENTS_MAX};

pub(super) fn check_app(name: &str, app: &AppConfig, rules: &mut Vec<String>) {
    if !is_name(name, 64, |byte| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte)
    }) {
        rules.push(format!(
            "app \"{name}\": a name is 1 to 64 lower-case letters, digits, \"_\" or \"-\""
        ));
    }
    for path in app
        .index
        .iter()
        .filter(|path| !is_path(path, &["auth", "profile"]))
    {
        rules.push(format!(
            "app \"{name}\": index \"{path}\" is no path such as \"auth.email\" or \"profile.status\""
        ));
    }
    check_origins(&format!("app \"{name}\""), app.origins.as_deref(), rules);
    for key in &app.client_keys {
        let place = format!("app \"{name}\", client key \"{}\"", key.name);
        check_origins(&place, key.origins.as_deref(), rules);
    }
    check_channels(name, &app.channels, rules);
    if let Some(kept) = &app.user_events {
        check_user_events(name, kept, rules);
    }
}

/// `place` names whose origins they are.
fn check_origins(place: &str, origins: Option<&[String]>, rules: &mut Vec<String>) {
    for origin in origins
        .into_iter()
        .flatten()
        .filter(|origin| !is_origin(origin))
    {
        rules.push(format!(
            "{place}: \"{origin}\" is no origin; write \"*\", or scheme and host in lower case without a path, such as \
             \"https://example.com\""
        ));
    }
}

fn check_channels(name: &str, channels: &[ChannelRule], rules: &mut Vec<String>) {
    let mut patterns = BTreeSet::new();
    for rule in channels {
        let ChannelRule {
            pattern,
            history_size,
            history_bytes,
            history_ttl,
            presence: _,
        } = rule;
        let place = format!("app \"{name}\": channels \"{pattern}\"");
        if !is_channel_pattern(pattern) {
            rules.push(format!(
                "{place}: a pattern is 1 to {CHANNEL_NAME_BYTES} letters, digits, \"*\" or one of _.:=@,;-"
            ));
        } else if !patterns.insert(pattern) {
            rules.push(format!("{place} comes twice; the second would never hold"));
        }
        if *history_size > HISTORY_EVENTS_MAX {
            rules.push(format!(
                "{place}: history_size = {history_size} is over {HISTORY_EVENTS_MAX}; a replay is handed to a client \
                 at once"
            ));
        }
        let nothing = [
            ("history_bytes", *history_bytes == 0),
            ("history_ttl", history_ttl.is_zero()),
        ];
        for (key, _) in nothing
            .iter()
            .filter(|(_, zero)| *zero && *history_size > 0)
        {
            rules.push(format!(
                "{place}: {key} = 0 would keep nothing; history_size = 0 says so"
            ));
        }
    }
}

fn check_user_events(name: &str, kept: &UserEvents, rules: &mut Vec<String>) {
    let UserEvents { size, bytes, ttl } = kept;
    let place = format!("app \"{name}\": user_events");
    if *size > HISTORY_EVENTS_MAX {
        rules.push(format!(
            "{place}: size = {size} is over {HISTORY_EVENTS_MAX}; what waits is handed to a client at once"
        ));
    }
    for (key, zero) in [
        ("size", *size == 0),
        ("bytes", *bytes == 0),
        ("ttl", ttl.is_zero()),
    ] {
        if zero {
            rules.push(format!(
                "{place}: {key} = 0 would keep nothing; leave the table out"
            ));
        }
    }
}
