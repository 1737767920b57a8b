//! What names, paths, origins and patterns look like.

use crate::limits;

/// 1 to `longest` bytes that are all `allowed`.
pub(super) fn is_name(name: &str, longest: usize, allowed: impl Fn(u8) -> bool) -> bool {
    (1..=longest).contains(&name.len()) && name.bytes().all(allowed)
}

/// `root.name.name`, each name as the filter language has it.
pub(super) fn is_path(path: &str, roots: &[&str]) -> bool {
    let mut names = path.split('.');
    let root = names.next().is_some_and(|root| roots.contains(&root));
    let mut rest = names.peekable();
    root && rest.peek().is_some()
        && rest.all(|name| {
            is_name(name, 128, |byte| {
                byte.is_ascii_alphanumeric() || byte == b'_'
            }) && !name.starts_with(|first: char| first.is_ascii_digit())
        })
}

/// What a browser may send as `Origin` (RFC 6454, section 6.2), or the wildcard.
pub(super) fn is_origin(origin: &str) -> bool {
    let Some((scheme, host)) = origin.split_once("://") else {
        return origin == "*";
    };
    let is_lower = |byte: u8| {
        byte.is_ascii_graphic() && !byte.is_ascii_uppercase() && !b"/?#@*,".contains(&byte)
    };
    is_name(scheme, 32, |byte| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte)
    }) && is_name(host, 255, is_lower)
}

/// A pattern that some channel's name can match: the characters of one, and `*`.
pub(super) fn is_channel_pattern(pattern: &str) -> bool {
    is_name(pattern, limits::CHANNEL_NAME_BYTES, |byte| {
        byte.is_ascii_alphanumeric() || b"_.:=@,;-*".contains(&byte)
    })
}
