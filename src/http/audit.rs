//! What callers do to clients, in the log: who did it, to whom, and how many it reached.
//!
//! Unlike lines about what strangers do, each of these is written: callers have a key, and the line is what is looked
//! for when something was done by mistake.

use super::access::Caller;
use crate::node::{Node, Target, To};

/// So many names of a target are shown.
const SHOWN_NAMES: usize = 5;
/// So much of a name, and of a filter.
const SHOWN_CHARS: usize = 64;

/// Logs a call that was carried out. `whom` says for which connections or users, and `count` how many it reached.
pub(super) fn note(node: &Node, caller: &Caller, call: &str, whom: &str, count: u64) {
    let (app, key) = (&*node.app(caller.app).name, &*caller.key);
    tracing::info!(app, key, whom, count, "audit: {call}");
}

/// Which connections `target` means, in short.
pub(super) fn whom(target: &Target) -> String {
    let mut parts = Vec::new();
    if let Some(To {
        users,
        channels,
        connections,
    }) = &target.to
    {
        for (kind, names) in [
            ("users", users),
            ("channels", channels),
            ("connections", connections),
        ] {
            if !names.is_empty() {
                parts.push(format!("{kind} {}", listed(names)));
            }
        }
    }

    parts.extend(
        target
            .filter
            .as_deref()
            .map(|filter| format!("filter {}", cut(filter))),
    );

    if !target.except.is_empty() {
        parts.push("with exceptions".to_owned());
    }
    parts.join(", ")
}

/// The first of `names`, and how many others there are.
pub(super) fn listed(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN_NAMES).map(|name| cut(name));
    let shown = shown.collect::<Vec<_>>().join(" ");
    match names.len().checked_sub(SHOWN_NAMES) {
        None | Some(0) => shown,
        Some(others) => format!("{shown} and {others} more"),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::event::Exceptions;

    #[test]
    fn a_line_shows_some_names_and_counts_the_others() {
        let names = |count: usize| (0..count).map(|n| format!("u{n}")).collect::<Vec<_>>();
        assert_eq!(listed(&names(1)), "u0");
        assert_eq!(listed(&names(5)), "u0 u1 u2 u3 u4");
        assert_eq!(listed(&names(7)), "u0 u1 u2 u3 u4 and 2 more");
        let target = Target {
            filter: Some("x".repeat(100)),
            except: Exceptions {
                users: names(1),
                ..Exceptions::default()
            },
            ..Target::users(names(2))
        };
        assert_eq!(
            whom(&target),
            format!("users u0 u1, filter {}…, with exceptions", "x".repeat(64))
        );
    }
}
