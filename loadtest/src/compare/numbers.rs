//! Numbers for readers.

use super::statistics::{Interval, Spread};

/// Three digits that count, with commas between thousands.
pub(super) fn short(value: f64) -> String {
    if !value.is_finite() {
        return "—".to_owned();
    }
    let size = value.abs();
    // What rounding makes of 0.9996 is 1.00.
    let decimals = match size {
        v if v < 0.9995 => 3,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    if size < 9999.5 {
        return with_commas(&format!("{value:.decimals$}"));
    }
    let unit = 10_f64.powi(size.log10().floor() as i32 - 2);
    with_commas(&format!("{:.0}", (value / unit).round() * unit))
}

/// A median, with the least and the most where there are several.
pub(super) fn spread(spread: &Spread) -> String {
    match spread.count {
        1 => short(spread.median),
        _ => format!(
            "{} ({}–{})",
            short(spread.median),
            short(spread.least),
            short(spread.most)
        ),
    }
}

/// A median with its interval, if it has one.
pub(super) fn with_interval(spread: &Spread, interval: Option<&Interval>) -> String {
    match interval {
        Some(Interval { low, high, .. }) => {
            format!(
                "{} [{}–{}]",
                short(spread.median),
                short(*low),
                short(*high)
            )
        }
        None => short(spread.median),
    }
}

/// A share as a percentage with one decimal.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A whole number.
pub(super) fn whole(number: usize) -> String {
    with_commas(&number.to_string())
}

fn with_commas(number: &str) -> String {
    let (whole, fraction) = number
        .split_once('.')
        .map_or((number, None), |(whole, rest)| (whole, Some(rest)));
    let (sign, digits) = whole
        .strip_prefix('-')
        .map_or(("", whole), |digits| ("-", digits));
    let mut text = sign.to_owned();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    fraction.map_or_else(|| text.clone(), |fraction| format!("{text}.{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_count() {
        for (value, text) in [
            (0.0, "0.000"),
            (0.31234, "0.312"),
            (0.9996, "1.00"),
            (1.0, "1.00"),
            (9.999, "10.0"),
            (123.4, "123"),
            (1432.6, "1,433"),
            (12_345.0, "12,300"),
            (3_216_000.0, "3,220,000"),
            (99_999.0, "100,000"),
            (-1234.5, "-1,234"),
            (f64::INFINITY, "—"),
        ] {
            assert_eq!(short(value), text);
        }
        assert_eq!(
            (whole(15_000), whole(999)),
            ("15,000".to_owned(), "999".to_owned())
        );
        assert_eq!(percent(0.978_515), "97.9 %");
    }
}
