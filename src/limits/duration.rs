//! Durations in configuration files: `"10s"`, `"500ms"`.

use std::{fmt, time::Duration};

use serde::{
    Deserializer, Serializer,
    de::{Error, Visitor},
};

/// Reads a number with a unit, as in `10s`, `500ms` or `1m 30s`.
///
/// # Errors
/// Says what a duration looks like.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| {
        if text.trim().parse::<u64>().is_ok() {
            needs_unit(text.trim())
        } else {
            "a duration is a number with a unit, for example \"20s\" or \"500ms\"".to_owned()
        }
    })
}

/// A duration as log lines have it: milliseconds or seconds, with three digits unless they are many.
pub(crate) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        _ if duration.as_millis() < 1000 => format!("{} ms", duration.as_millis()),
        ..9.995 => format!("{seconds:.2} s"),
        ..99.95 => format!("{seconds:.1} s"),
        _ => format!("{seconds:.0} s"),
    }
}

fn needs_unit(number: impl fmt::Display) -> String {
    format!("a duration needs a unit, for example \"{number}s\"")
}

/// Reads `"10s"` and the like.
///
/// # Errors
/// When the text is not a duration; the message says what one looks like.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    struct Text;

    impl Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration in quotes, for example \"20s\"")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
            parse(text).map_err(E::custom)
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<Duration, E> {
            Err(E::custom(needs_unit(number.unsigned_abs())))
        }

        fn visit_f64<E: Error>(self, _: f64) -> Result<Duration, E> {
            Err(E::custom(needs_unit(20)))
        }
    }

    from.deserialize_any(Text)
}

/// Writes what [`deserialize`] reads.
///
/// # Errors
/// Only those of the serializer.
pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&humantime::format_duration(*duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_have_few_digits() {
        for (micros, text) in [
            (0, "0 ms"),
            (7_900, "7 ms"),
            (999_900, "999 ms"),
            (1_000_000, "1.00 s"),
            (9_999_000, "10.0 s"),
            (12_345_678, "12.3 s"),
            (99_990_000, "100 s"),
            (3_600_000_000, "3600 s"),
        ] {
            assert_eq!(short(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse("1m 30s"), Ok(Duration::from_secs(90)));
        for (text, says) in [
            ("20", "a duration needs a unit, for example \"20s\""),
            ("often", "a number with a unit"),
            ("", "a number with a unit"),
        ] {
            assert!(parse(text).unwrap_err().contains(says), "{text}");
        }
    }
}
