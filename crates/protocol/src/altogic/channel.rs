//! Names of channels: any text for these clients, few characters on the server.
//!
//! What a channel's name may not hold is written as `=` and two hexadecimal digits for each byte: `Room #1` is
//! `Room=20=231`. A `=` that would be read as the beginning of such digits is written as `=3D`. So each text has one name,
//! and each name that is UTF-8 without its digits stands for one text.

use std::borrow::Cow;

use crate::event::may_be_in_channel;

/// The server's name of the channel that these clients call `text`.
pub fn escape(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let stays = |at: usize| may_be_in_channel(bytes[at]) && !is_escape(&bytes[at..]);
    if (0..bytes.len()).all(stays) {
        return Cow::Borrowed(text);
    }

    let mut name = String::with_capacity(bytes.len() + 16);
    for (at, byte) in bytes.iter().enumerate() {
        if stays(at) {
            name.push(char::from(*byte));
        } else {
            name.push('=');
            name.push(digit(byte >> 4));
            name.push(digit(byte & 0xf));
        }
    }

    Cow::Owned(name)
}

/// What these clients call the channel `name`.
pub fn unescape(name: &str) -> Cow<'_, str> {
    let bytes = name.as_bytes();
    if !(0..bytes.len()).any(|at| is_escape(&bytes[at..])) {
        return Cow::Borrowed(name);
    }

    let (mut text, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        if let Some(byte) = hex(&bytes[at + 1..]).filter(|_| is_escape(&bytes[at..])) {
            // Of `=3D20` only the `=` comes of digits: the text itself had the `20`.
            text.push(byte);
            at += 3;
        } else {
            text.push(bytes[at]);
            at += 1;
        }
    }

    // A native client may have made up digits that are not UTF-8.
    String::from_utf8(text).map_or(Cow::Borrowed(name), Cow::Owned)
}

/// Whether `rest` begins with digits that stand for something: `=`, any number of `3D`, then a byte that no name may hold.
fn is_escape(rest: &[u8]) -> bool {
    let Some(mut digits) = rest.strip_prefix(b"=") else {
        return false;
    };
    while let Some(rest) = digits.strip_prefix(b"3D") {
        digits = rest;
    }
    hex(digits).is_some_and(|byte| !may_be_in_channel(byte))
}

/// The byte that two upper-case hexadecimal digits at the beginning stand for.
fn hex(digits: &[u8]) -> Option<u8> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    };
    match digits {
        [high, low, ..] => Some(value(*high)? << 4 | value(*low)?),
        _ => None,
    }
}

fn digit(value: u8) -> char {
    char::from(b"0123456789ABCDEF"[usize::from(value)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::channel_name;

    #[test]
    fn what_a_name_may_not_hold_becomes_digits() {
        for (text, name) in [
            ("technology-chat", "technology-chat"),
            ("room:1,a;b@c_d.e", "room:1,a;b@c_d.e"),
            ("Room #1", "Room=20=231"),
            ("a/b", "a=2Fb"),
            ("a=b", "a=b"),
            ("a=3D", "a=3D"),
            ("a=20b", "a=3D20b"),
            ("a=3D20b", "a=3D3D20b"),
            ("a=2fb", "a=2fb"),
            ("==", "=="),
            ("= ", "==20"),
            ("=3D ", "=3D=20"),
            ("é", "=C3=A9"),
        ] {
            assert_eq!(escape(text), name, "{text}");
            assert_eq!(unescape(name), text, "{name}");
        }
    }

    #[test]
    fn digits_that_stand_for_no_text_are_the_name() {
        assert_eq!(unescape("a=FF"), "a=FF");
    }

    proptest! {
        #[test]
        fn every_text_comes_back(text in "(=|3D|2|0|F|[A-Z ]|é|/){0,12}|\\PC{0,15}") {
            let name = escape(&text);
            prop_assert!(text.is_empty() || channel_name(&name).is_ok());
            prop_assert_eq!(unescape(&name), &*text);
        }

        // Only digits of ASCII, so that what they stand for is UTF-8.
        #[test]
        fn every_name_comes_back(name in "(=|3D|2[0-9A-F]|[G-Z]){0,12}") {
            let text = unescape(&name);
            prop_assert_eq!(escape(&text), &*name);
        }
    }
}
