//! What a client may do: the claim `can` of its token, or the app's `default_can`.

use serde::Deserialize;

/// The rights of one client. What a `can` does not mention is not allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "an object of rights")]
pub struct Rights {
    join: Patterns,
    send: Patterns,
    members: Patterns,
    call: Patterns,
    broadcast: bool,
    publish: bool,
    update: bool,
}

/// A `can` that is none; the text says what is wrong with it and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RightsError(String);

impl Rights {
    /// No right at all.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Every right: loopback development.
    pub fn everything() -> Self {
        let all = Patterns(Box::new(["*".into()]));
        Self {
            join: all.clone(),
            send: all.clone(),
            members: all.clone(),
            call: all,
            broadcast: true,
            publish: true,
            update: true,
        }
    }

    /// Reads the JSON text of a `can`: `join`, `send`, `members` and `call` are lists of patterns, `broadcast`, `publish` and
    /// `update` are true or false.
    ///
    /// # Errors
    /// When it is anything else. An unknown right is an error, since leaving it out silently would
    /// hide that it is misspelt.
    pub fn parse(can: &str) -> Result<Self, RightsError> {
        if !can.trim_start().starts_with('{') {
            return Err(RightsError(
                "\"can\" must be an object of rights".to_owned(),
            ));
        }
        serde_json::from_str(can).map_err(|error| RightsError(format!("\"can\": {error}")))
    }

    /// Reads an app's `default_can`; see [`Rights::parse`].
    ///
    /// # Errors
    /// Those of [`Rights::parse`].
    pub fn from_value(can: &serde_json::Value) -> Result<Self, RightsError> {
        if !can.is_object() {
            return Err(RightsError(
                "\"default_can\" must be an object of rights".to_owned(),
            ));
        }
        Self::deserialize(can).map_err(|error| RightsError(format!("\"default_can\": {error}")))
    }

    /// Whether the client may join `channel`.
    pub fn may_join(&self, channel: &str) -> bool {
        self.join.match_any(channel)
    }

    /// Whether the client may send to `channel`; it need not be a member.
    pub fn may_send(&self, channel: &str) -> bool {
        self.send.match_any(channel)
    }

    /// Whether the client may see who is in `channel`.
    pub fn may_see_members(&self, channel: &str) -> bool {
        self.members.match_any(channel)
    }

    /// Whether the client may call the function `name`.
    pub fn may_call(&self, name: &str) -> bool {
        self.call.match_any(name)
    }

    /// Whether the client may send to everyone.
    pub fn may_broadcast(&self) -> bool {
        self.broadcast
    }

    /// Whether the client may send to users by their names.
    pub fn may_publish(&self) -> bool {
        self.publish
    }

    /// Whether the client may set its profile.
    pub fn may_update(&self) -> bool {
        self.update
    }
}

/// Names with `*` for any run of characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
struct Patterns(Box<[Box<str>]>);

impl Patterns {
    fn match_any(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, name))
    }
}

/// Whether all of `name` is as `pattern` says, in which `*` stands for any run of characters.
///
/// Each literal between two `*` is taken where it is first found, which never excludes a match: time grows
/// with the sum of the lengths, however many `*` there are.
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some((prefix, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let (middle, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(name) = name
        .strip_prefix(prefix)
        .and_then(|name| name.strip_suffix(suffix))
    else {
        return false;
    };
    let mut left = name;
    for literal in middle.split('*') {
        match left.find(literal) {
            Some(at) => left = &left[at + literal.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_stands_for_any_run() {
        let yes = [
            ("*", ""),
            ("*", "x"),
            ("room-*", "room-"),
            ("room-*", "room-1"),
            ("*-1", "room-1"),
            ("a*c", "ac"),
            ("a*b*c", "a-b-c"),
            ("a*b*c", "abbbc"),
            ("*a*", "bab"),
            ("**", "x"),
            ("", ""),
            ("é*", "éa"),
            ("a*a", "aa"),
            ("*ab", "aab"),
            ("*ab*ab", "abab"),
        ];
        let no = [
            ("", "x"),
            ("room-*", "room"),
            ("room-1", "room-12"),
            ("a*c", "acb"),
            ("a*a", "a"),
            ("a*b*c", "acb"),
            ("*ab*ab", "ab"),
            ("ab*ba", "aba"),
            ("x*", ""),
            ("room-?", "room-1"),
            ("ROOM*", "room1"),
        ];
        for (pattern, name) in yes {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in no {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn many_stars_take_no_longer_than_few() {
        let started = std::time::Instant::now();
        assert!(!matches(&"a*".repeat(2000), &"a".repeat(1999)));
        assert!(!matches(
            &format!("{}b", "*a".repeat(2000)),
            &"a".repeat(4000)
        ));
        assert!(started.elapsed() < std::time::Duration::from_secs(1));
    }

    #[test]
    fn what_is_not_mentioned_is_not_allowed() {
        let rights = Rights::parse(r#"{"join":["room-*"],"update":true}"#).unwrap();
        assert!(rights.may_join("room-1") && !rights.may_join("lobby") && rights.may_update());
        assert!(
            !rights.may_send("room-1")
                && !rights.may_see_members("room-1")
                && !rights.may_call("f")
        );
        assert!(!rights.may_broadcast() && !rights.may_publish());
        assert_eq!(Rights::parse("{}").unwrap(), Rights::nothing());
        let all = Rights::everything();
        assert!(
            all.may_join("x") && all.may_send("x") && all.may_see_members("x") && all.may_call("x")
        );
        assert!(all.may_broadcast() && all.may_publish() && all.may_update());
    }

    #[test]
    fn what_is_no_can_is_refused() {
        let bad = [
            r#"{"jion":["a"]}"#,
            r#"{"join":"a"}"#,
            r#"{"join":[1]}"#,
            r#"{"broadcast":1}"#,
            r#"{"broadcast":["*"]}"#,
            "[]",
            "null",
            "true",
            "",
            r#"{"join":null}"#,
            r#"{"join":[],"join":[]}"#,
        ];
        for can in bad {
            assert!(Rights::parse(can).is_err(), "{can}");
        }
        let error = Rights::parse(r#"{"jion":["a"]}"#).unwrap_err().to_string();
        assert!(
            error.contains("unknown field `jion`") && error.contains("`join`"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn matching_agrees_with_a_regex(pattern in "[ab*]{0,8}", name in "[ab]{0,10}") {
            let regex = regex::Regex::new(&format!("^{}$", pattern.replace('*', ".*"))).unwrap();
            prop_assert_eq!(matches(&pattern, &name), regex.is_match(&name));
        }
    }
}
