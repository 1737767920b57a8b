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

/// A pattern that some channel's name can match: the characters of one, and `*`.
pub(super) fn is_channel_pattern(pattern: &str) -> bool {
    is_name(pattern, limits::CHANNEL_NAME_BYTES, |byte| {
        byte.is_ascii_alphanumeric() || b"_.:=@,;-*".contains(&byte)
    })
}
