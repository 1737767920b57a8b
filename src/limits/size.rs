//! Sizes in configuration files: bytes as a number, or `"16KiB"`.

use std::fmt;

use serde::{
    Deserializer, Serializer,
    de::{Error, Visitor},
};

/// What a size looks like.
const FORM: &str = "a size is a whole number of bytes, for example 16384, or one with a unit, for example \"16KiB\"";

/// Reads a number of bytes, with `KiB`, `MiB`, `GiB` or nothing after it. `KB` and `K` mean `KiB`, as every default
/// here is a power of two.
///
/// # Errors
/// Says what a size looks like.
pub(crate) fn parse(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let (digits, unit) = text.split_at(
        text.find(|c: char| !c.is_ascii_digit() && c != '_')
            .unwrap_or(text.len()),
    );
    let bytes: usize = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(FORM.to_owned()),
    };

    digits
        .replace('_', "")
        .parse()
        .ok()
        .and_then(|count: usize| count.checked_mul(bytes))
        .ok_or_else(|| FORM.to_owned())
}

/// Reads a number of bytes, or a text such as `"16KiB"`.
///
/// # Errors
/// When it is not a size; the message says what one looks like.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    struct Size;

    impl Visitor<'_> for Size {
        type Value = usize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(FORM)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<usize, E> {
            parse(text).map_err(E::custom)
        }

        fn visit_i64<E: Error>(self, bytes: i64) -> Result<usize, E> {
            usize::try_from(bytes).map_err(|_| E::custom(FORM))
        }

        fn visit_u64<E: Error>(self, bytes: u64) -> Result<usize, E> {
            usize::try_from(bytes).map_err(|_| E::custom(FORM))
        }
    }

    from.deserialize_any(Size)
}

/// Writes the number of bytes.
///
/// # Errors
/// Only those of the serializer.
pub fn serialize<S: Serializer>(bytes: &usize, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(*bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_have_a_binary_unit() {
        for (text, bytes) in [
            ("16384", 16_384),
            ("16_384", 16_384),
            ("16k", 16_384),
            ("16KB", 16_384),
            ("16 KiB", 16_384),
            ("1MiB", 1 << 20),
            ("2g", 2 << 30),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "k",
            "1.5k",
            "-1",
            "16q",
            "99999999999999999999",
            "99999999999G",
        ] {
            assert!(parse(text).unwrap_err().contains("16KiB"), "{text}");
        }
    }
}
