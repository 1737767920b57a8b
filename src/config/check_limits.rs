//! Whether bounds go together: what is let in must fit where it goes next, and no wait may be over before it can end.
//!
//! A bound is used as it is set, or refused here with the other one and what to do. Nothing is altered on the way.

use std::time::Duration;

use super::{Config, problems::Problems};
use crate::limits::{
    ADMITTED_UNIT, BUS_FRAME_BYTES, HISTORY_TTL_MS_MAX, Limits, REQUEST_HEAD_BYTES,
    SMALL_DELIVERIES, TICK,
};

/// Bounds whose 0 has a meaning.
const MAY_BE_ZERO: [&str; 5] = [
    "connections",
    "connections_per_address",
    "http_sockets",
    "resume_window",
    "presence_notices",
];

/// Bytes of a common token around its claims, in base64, and of a message around it.
const AROUND_CLAIMS: usize = 512;

/// Bytes of a message around a profile.
const AROUND_PROFILE: usize = 256;

impl Config {
    pub(super) fn check_limits(&self, problems: &mut Problems) {
        let limits = &self.limits;
        check_zeros(limits, problems);
        check_sizes(limits, problems);
        check_tokens(limits, problems);
        check_counts(limits, problems);
        check_heartbeats(limits, problems);
        check_waits(limits, problems);

        if self.redis.is_some() {
            check_with_redis(limits, problems);
        } else {
            self.check_history(problems);
        }

        self.check_ages(problems);
    }

    /// Without Redis all histories share one bound, which none of them may exceed.
    fn check_history(&self, problems: &mut Problems) {
        let all = self.limits.history_bytes;
        for (name, app) in &self.apps {
            for (n, rule) in app.channels.iter().enumerate() {
                let own = rule.history_bytes;
                if rule.history_size > 0 && own > all {
                    problems.pair(
                        format!("apps.{name}.channels[{n}].history_bytes"),
                        format!(
                            "app \"{name}\": channels \"{}\": history_bytes = {own} is over limits.history_bytes = \
                             {all}, which bounds all histories together; lower the first or raise the second",
                            rule.pattern
                        ),
                    );
                }
            }

            let own = app.user_events.as_ref().map_or(0, |events| events.bytes);
            if own > all {
                problems.pair(
                    format!("apps.{name}.user_events.bytes"),
                    format!(
                        "app \"{name}\": user_events.bytes = {own} is over limits.history_bytes = {all}, which bounds \
                         all histories together; lower the first or raise the second"
                    ),
                );
            }
        }
    }

    /// Redis gets ages in whole milliseconds.
    fn check_ages(&self, problems: &mut Problems) {
        let mut check = |setting: String, place: &str, age: Duration| {
            let is_too_long = age.as_millis() > u128::from(HISTORY_TTL_MS_MAX);
            if is_too_long || (!age.is_zero() && age.as_millis() == 0) {
                problems.value(
                    setting,
                    format!(
                        "{place} = \"{}\" is not between 1ms and {} years",
                        shown(age),
                        HISTORY_TTL_MS_MAX / (365 * 24 * 3600 * 1000)
                    ),
                );
            }
        };

        for (name, app) in &self.apps {
            for (n, rule) in app.channels.iter().enumerate() {
                check(
                    format!("apps.{name}.channels[{n}].history_ttl"),
                    &format!("app \"{name}\": channels \"{}\": history_ttl", rule.pattern),
                    rule.history_ttl,
                );
            }

            if let Some(events) = &app.user_events {
                check(
                    format!("apps.{name}.user_events.ttl"),
                    &format!("app \"{name}\": user_events: ttl"),
                    events.ttl,
                );
            }
        }

        for (name, age) in [
            ("idempotency_window", self.limits.idempotency_window),
            ("node_lease", self.limits.node_lease),
        ] {
            let name = format!("limits.{name}");
            check(name.clone(), &name, age);
        }
    }
}

fn check_zeros(limits: &Limits, problems: &mut Problems) {
    // In the form that the file has, so that a new bound is looked at without being named here.
    let table = toml::Table::try_from(limits).unwrap_or_default();
    for (name, value) in &table {
        let zero = value.as_integer() == Some(0) || value.as_str() == Some("0s");
        if zero && !MAY_BE_ZERO.contains(&name.as_str()) {
            problems.value(
                format!("limits.{name}"),
                format!("limits.{name} = 0 would let nothing through; it must be at least 1"),
            );
        }
    }
}

/// The largest of each thing must fit where it goes next.
fn check_sizes(limits: &Limits, problems: &mut Problems) {
    let Limits {
        body_bytes,
        message_bytes,
        outbox_bytes,
        admitted_bytes,
        refused_bytes,
        history_bytes,
        stored_publication_bytes,
        bus_queue_bytes,
        bus_inbox_bytes,
        ..
    } = *limits;

    let body = ("body_bytes", body_bytes);
    let message = ("message_bytes", message_bytes);
    let outbox = ("outbox_bytes", outbox_bytes);

    let ordered = [
        (body, outbox),
        (message, outbox),
        (body, ("admitted_bytes", admitted_bytes)),
        (message, ("admitted_bytes", admitted_bytes)),
        (outbox, ("refused_bytes", refused_bytes)),
        (body, ("history_bytes", history_bytes)),
        (message, ("history_bytes", history_bytes)),
        (body, ("stored_publication_bytes", stored_publication_bytes)),
        (
            message,
            ("stored_publication_bytes", stored_publication_bytes),
        ),
        (body, ("bus_queue_bytes", bus_queue_bytes)),
        (message, ("bus_queue_bytes", bus_queue_bytes)),
        (body, ("bus_inbox_bytes", bus_inbox_bytes)),
        (message, ("bus_inbox_bytes", bus_inbox_bytes)),
    ];

    for ((small, small_value), (large, large_value)) in ordered {
        if small_value > large_value {
            problems.pair(
                format!("limits.{small}"),
                format!(
                    "limits.{small} = {small_value} is over limits.{large} = {large_value}; the \
                     largest would never fit, so lower the first or raise the second"
                ),
            );
        }
    }

    check_profiles(limits, problems);
}

/// A profile must fit a page of members, and the message that brings it.
fn check_profiles(limits: &Limits, problems: &mut Problems) {
    let Limits {
        message_bytes,
        profile_bytes,
        outbox_bytes,
        ..
    } = *limits;

    // A page of members fills a quarter of an outbox at most, and has at least one.
    if profile_bytes > outbox_bytes / 4 {
        problems.pair(
            "limits.profile_bytes",
            format!(
                "limits.profile_bytes = {profile_bytes} is over a quarter of limits.outbox_bytes = {outbox_bytes}; a page of \
                 members would not fit, so lower the first or raise the second"
            ),
        );
    }

    // A zero has been reported already.
    if profile_bytes.saturating_add(AROUND_PROFILE) > message_bytes && message_bytes > 0 {
        problems.pair(
            "limits.profile_bytes",
            format!(
                "limits.profile_bytes = {profile_bytes} with {AROUND_PROFILE} bytes around it is over limits.message_bytes = \
                 {message_bytes}; a client could not send such a profile, so lower the first or raise the second"
            ),
        );
    }
}

/// A client brings its token in an address, and renews it by a message.
fn check_tokens(limits: &Limits, problems: &mut Problems) {
    let Limits {
        claims_bytes,
        message_bytes,
        token_ttl,
        revocation_ttl,
        ..
    } = *limits;

    // Base64 makes four bytes of three.
    let token = claims_bytes.saturating_mul(4) / 3 + AROUND_CLAIMS;
    if token > REQUEST_HEAD_BYTES {
        problems.value(
            "limits.claims_bytes",
            format!(
                "limits.claims_bytes = {claims_bytes} makes tokens of {token} bytes, which do not fit the {REQUEST_HEAD_BYTES} bytes \
                 of a request's head; lower it"
            ),
        );
    }

    if token > message_bytes && message_bytes > 0 {
        problems.pair(
            "limits.claims_bytes",
            format!(
                "limits.claims_bytes = {claims_bytes} makes tokens of {token} bytes, over limits.message_bytes = {message_bytes}; \
                 a client could not renew one, so lower the first or raise the second"
            ),
        );
    }

    if revocation_ttl < token_ttl {
        problems.pair(
            "limits.revocation_ttl",
            format!(
                "limits.revocation_ttl = \"{}\" is shorter than limits.token_ttl = \"{}\"; a token would be good again \
                 after its revocation was forgotten, so raise the first or lower the second",
                shown(revocation_ttl),
                shown(token_ttl)
            ),
        );
    }
}

/// Admission counts in 32 bits.
fn check_counts(limits: &Limits, problems: &mut Problems) {
    let most = u32::MAX as usize;
    for (name, value, most) in [
        ("admitted_bytes", limits.admitted_bytes, most),
        ("bulk_deliveries", limits.bulk_deliveries, most),
        (
            "bulk_publications",
            limits.bulk_publications,
            // Admission counts each of these as many units.
            most / ADMITTED_UNIT,
        ),
        (
            "small_publications",
            limits.small_publications,
            most / SMALL_DELIVERIES,
        ),
    ] {
        if value > most {
            problems.value(
                format!("limits.{name}"),
                format!("limits.{name} = {value} is over {most}, the most that can be counted"),
            );
        }
    }

    let (each, all) = (limits.connections_per_address, limits.connections);
    if all > 0 && each > all {
        problems.pair(
            "limits.connections_per_address",
            format!(
                "limits.connections_per_address = {each} is over limits.connections = {all}, and would bound nothing; lower \
                 the first, or set it to 0 for no bound"
            ),
        );
    }
}

fn check_waits(limits: &Limits, problems: &mut Problems) {
    let Limits {
        handshake,
        http_idle,
        reconnect_min,
        reconnect_max,
        ..
    } = *limits;

    if handshake > http_idle && !http_idle.is_zero() {
        problems.pair(
            "limits.http_idle",
            format!(
                "limits.http_idle = \"{}\" is under limits.handshake = \"{}\"; a connection that rests between requests would \
                 be closed before one that never sent any, so raise the first or lower the second",
                shown(http_idle),
                shown(handshake)
            ),
        );
    }

    if reconnect_min > reconnect_max && !reconnect_max.is_zero() {
        problems.pair(
            "limits.reconnect_min",
            format!(
                "limits.reconnect_min = \"{}\" is over limits.reconnect_max = \"{}\"; lower the first or raise the second",
                shown(reconnect_min),
                shown(reconnect_max)
            ),
        );
    }
}

fn check_heartbeats(limits: &Limits, problems: &mut Problems) {
    let Limits {
        heartbeat,
        heartbeat_wait,
        ..
    } = *limits;

    // Heartbeats are looked after once per tick. Zeros are refused elsewhere.
    for (name, wait, least) in [
        ("heartbeat", heartbeat, 2 * TICK),
        ("heartbeat_wait", heartbeat_wait, TICK),
    ] {
        if !wait.is_zero() && wait < least {
            problems.value(
                format!("limits.{name}"),
                format!(
                    "limits.{name} = \"{}\" is under {}, the shortest that is kept",
                    shown(wait),
                    shown(least)
                ),
            );
        }
    }

    if heartbeat.is_zero() {
        return;
    }

    if heartbeat_wait >= heartbeat {
        problems.pair(
            "limits.heartbeat_wait",
            format!(
                "limits.heartbeat_wait = \"{}\" is not under limits.heartbeat = \"{}\"; a ping must be answered before the \
                 next one, so lower the first or raise the second",
                shown(heartbeat_wait),
                shown(heartbeat)
            ),
        );
    } else if heartbeat_wait + TICK > heartbeat {
        problems.pair(
            "limits.heartbeat_wait",
            format!(
                "limits.heartbeat_wait = \"{}\" must be at least {} shorter than limits.heartbeat = \"{}\"; lower the first or \
                 raise the second",
                shown(heartbeat_wait),
                shown(TICK),
                shown(heartbeat)
            ),
        );
    }
}

/// What only holds with other nodes.
fn check_with_redis(limits: &Limits, problems: &mut Problems) {
    let Limits {
        body_bytes,
        message_bytes,
        redis_timeout,
        node_lease,
        ..
    } = *limits;

    // Binary data travels as base64, and is stored with the names that it is not for.
    let most = BUS_FRAME_BYTES / 4;
    for (name, value) in [("body_bytes", body_bytes), ("message_bytes", message_bytes)] {
        if value > most {
            problems.pair(
                format!("limits.{name}"),
                format!(
                    "limits.{name} = {value} is over {most}, the largest that nodes pass on by redis.url; lower it, or run one \
                     node without [redis]"
                ),
            );
        }
    }

    if redis_timeout > node_lease / 2 && !node_lease.is_zero() {
        problems.pair(
            "limits.redis_timeout",
            format!(
                "limits.redis_timeout = \"{}\" is over half of limits.node_lease = \"{}\"; one slow renewal would cost the lease, \
                 so lower the first or raise the second",
                shown(redis_timeout),
                shown(node_lease)
            ),
        );
    }
}

fn shown(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(time)
}
