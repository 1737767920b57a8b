//! "Did you mean": the one of some names that is most like what someone wrote.
//!
//! Strangers choose what they write, and some of the names. So only short ones are compared, and few.

use crate::limits::{SUGGESTED_BYTES, SUGGESTED_OF, SUGGESTION_LOOKS};

/// The first of the `known` names with the fewest mistakes in `wrote`, if these are as few as `allowed` says of that name.
pub fn nearest<'n, T>(
    wrote: &str,
    known: impl IntoIterator<Item = (T, &'n str)>,
    allowed: impl Fn(&str) -> usize,
) -> Option<T> {
    if wrote.len() > SUGGESTED_BYTES {
        return None;
    }

    let length = wrote.chars().count();
    let near = known
        .into_iter()
        .take(SUGGESTION_LOOKS)
        .filter(|(_, name)| name.len() <= SUGGESTED_BYTES)
        // Each character that one has more is a mistake.
        .filter(|(_, name)| name.chars().count().abs_diff(length) <= allowed(name))
        .take(SUGGESTED_OF)
        .filter_map(|(known, name)| {
            let mistakes = strsim::osa_distance(wrote, name);
            (mistakes <= allowed(name)).then_some((mistakes, known))
        });

    let (_, known) = near.min_by_key(|(mistakes, _)| *mistakes)?;
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'n>(wrote: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
        let known = known.into_iter().map(|name| (name, name));
        nearest(wrote, known, |name| name.len() / 2)
    }

    #[test]
    fn the_most_alike_is_found_or_none() {
        assert_eq!(of("chanel", ["channels", "channel"]), Some("channel"));
        assert_eq!(of("usre", ["event", "user"]), Some("user"));
        assert_eq!(of("überr", ["uber", "über"]), Some("über"));
        assert_eq!(of("xyz", ["event", "user"]), None);
        assert_eq!(of("", ["event"]), None);
    }

    #[test]
    fn long_names_and_those_behind_many_others_are_not_looked_at() {
        let long = "a".repeat(SUGGESTED_BYTES + 1);
        assert_eq!(of(&long, [&*long]), None);
        assert_eq!(of("aaaa", [&*long, "aaab"]), Some("aaab"));

        // All of a length that has to be compared: the right one comes too late.
        let among = |others: usize| {
            let others: Vec<String> = (0..others).map(|n| format!("b{n:03}")).collect();
            let names = others.iter().map(String::as_str).chain(["aaaa"]);
            of("aaaa", names).map(str::to_owned)
        };
        assert_eq!(among(SUGGESTED_OF - 1).as_deref(), Some("aaaa"));
        assert_eq!(among(SUGGESTED_OF), None);

        // Names of other lengths cost next to nothing, but there are bounds.
        let short = ["b"; SUGGESTION_LOOKS];
        assert_eq!(of("aaaa", short.into_iter().chain(["aaaa"])), None);
    }
}
