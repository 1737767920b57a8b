//! Whether the settings of one app make sense by themselves.

use std::collections::BTreeSet;

use super::{
    AppConfig, ChannelRule, OriginPattern, UserEvents,
    form::{is_channel_pattern, is_name, is_path},
    problems::Problems,
};
use crate::limits::{CHANNEL_NAME_BYTES, HISTORY_EVENTS_MAX, LEAVE_AFTER_MAX};

pub(super) fn check_app(name: &str, app: &AppConfig, problems: &mut Problems) {
    if !is_name(name, 64, |byte| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte)
    }) {
        problems.value(
            format!("apps.{name}"),
            format!("app \"{name}\": a name is 1 to 64 lower-case letters, digits, \"_\" or \"-\""),
        );
    }

    for path in app
        .index
        .iter()
        .filter(|path| !is_path(path, &["auth", "profile"]))
    {
        problems.value(
            format!("apps.{name}.index"),
            format!(
                "app \"{name}\": index \"{path}\" is not a path such as \"auth.email\" or \
             \"profile.status\""
            ),
        );
    }

    let place = format!("app \"{name}\"");
    let setting = format!("apps.{name}.origins");
    check_origins(&place, &setting, app.origins.as_deref(), problems);

    for (n, key) in app.client_keys.iter().enumerate() {
        let place = format!("app \"{name}\", client key \"{}\"", key.name);
        let setting = format!("apps.{name}.client_keys[{n}].origins");
        check_origins(&place, &setting, key.origins.as_deref(), problems);
    }

    check_channels(name, &app.channels, problems);
    if let Some(events) = &app.user_events {
        check_user_events(name, events, problems);
    }

    if app.max_stored_bytes == Some(0) {
        problems.value(
            format!("apps.{name}.max_stored_bytes"),
            format!(
                "app \"{name}\": max_stored_bytes = 0 would refuse every event that is to be stored; leave it out for no bound"
            ),
        );
    }
}

/// `place` says whose origins they are, and `setting` is their key.
fn check_origins(place: &str, setting: &str, origins: Option<&[String]>, problems: &mut Problems) {
    for origin in origins.into_iter().flatten() {
        if let Err(error) = origin.parse::<OriginPattern>() {
            problems.value(
                setting,
                format!("{place}: \"{origin}\" is not an origin: {error}"),
            );
        }
    }
}

fn check_channels(name: &str, channels: &[ChannelRule], problems: &mut Problems) {
    let mut patterns = BTreeSet::new();
    for (n, rule) in channels.iter().enumerate() {
        // Every field is named, so that a new one cannot be forgotten here.
        let ChannelRule {
            pattern,
            history_size,
            history_bytes,
            history_ttl,
            presence: _,
            leave_after,
        } = rule;

        let place = format!("app \"{name}\": channels \"{pattern}\"");
        let setting = |key: &str| format!("apps.{name}.channels[{n}].{key}");
        if !is_channel_pattern(pattern) {
            problems.value(setting("pattern"), format!(
                "{place}: a pattern is 1 to {CHANNEL_NAME_BYTES} letters, digits, \"*\" or one of \
                 _.:=@,;-"
            ));
        } else if !patterns.insert(pattern) {
            problems.pair(
                setting("pattern"),
                format!("{place} is there twice; the second rule would never apply"),
            );
        }

        if *history_size > HISTORY_EVENTS_MAX {
            problems.value(
                setting("history_size"),
                format!(
                    "{place}: history_size = {history_size} is over {HISTORY_EVENTS_MAX}, the most that one replay \
                     may have"
                ),
            );
        }

        if *leave_after > LEAVE_AFTER_MAX {
            problems.value(
                setting("leave_after"),
                format!(
                    "{place}: leave_after = {} is over {}; a page that is loaded again is back sooner",
                    humantime::format_duration(*leave_after),
                    humantime::format_duration(LEAVE_AFTER_MAX)
                ),
            );
        }

        let nothing = [
            ("history_bytes", *history_bytes == 0),
            ("history_ttl", history_ttl.is_zero()),
        ];
        for (key, _) in nothing
            .iter()
            .filter(|(_, zero)| *zero && *history_size > 0)
        {
            problems.value(
                setting(key),
                format!(
                    "{place}: {key} = 0 would keep nothing; if that is meant, set history_size = 0"
                ),
            );
        }
    }
}

fn check_user_events(name: &str, events: &UserEvents, problems: &mut Problems) {
    let UserEvents { size, bytes, ttl } = events;
    let place = format!("app \"{name}\": user_events");
    let setting = |key: &str| format!("apps.{name}.user_events.{key}");

    if *size > HISTORY_EVENTS_MAX {
        problems.value(
            setting("size"),
            format!("{place}: size = {size} is over {HISTORY_EVENTS_MAX}, the most that one replay may have"),
        );
    }

    for (key, zero) in [
        ("size", *size == 0),
        ("bytes", *bytes == 0),
        ("ttl", ttl.is_zero()),
    ] {
        if zero {
            problems.value(
                setting(key),
                format!(
                    "{place}: {key} = 0 would keep nothing; if that is meant, leave the table out"
                ),
            );
        }
    }
}
