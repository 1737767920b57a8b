//! What a client may do: the claim `can` of its token, or the app's `default_can`.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::claims::Members;
use crate::nearest::nearest;

/// The rights that are lists of patterns, and those that are true or false.
const LISTS: [&str; 4] = ["join", "send", "members", "call"];
const FLAGS: [&str; 3] = ["broadcast", "publish", "update"];

/// How much of a name that is not a right a message repeats.
const SHOWN_CHARS: usize = 64;

/// The message for a client that lacks `right`: for a channel or a call, or, with an empty `name`, at all.
pub(crate) fn lacking(right: &str, name: &str) -> String {
    let of = match (name, right) {
        ("", _) => String::new(),
        (name, "call") => format!(" for {name:?}"),
        (name, _) => format!(" for channel {name:?}"),
    };
    let value = match name {
        "" => "true".to_owned(),
        name => format!("[{name:?}]"),
    };
    format!(
        "this needs the right \"{right}\"{of}; give it in the token's can or in default_can: {{\"{right}\":{value}}}"
    )
}

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

/// A `can` that is not one; the text says what is wrong with it and where.
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

    /// Those of a server that connects like a client: to send where it `may_publish`, to see members where it `may_inspect`.
    pub fn of_server(may_publish: bool, may_inspect: bool) -> Self {
        let all = |allowed| {
            if allowed {
                Patterns(Box::new(["*".into()]))
            } else {
                Patterns::default()
            }
        };

        Self {
            send: all(may_publish),
            broadcast: may_publish,
            publish: may_publish,
            members: all(may_inspect),
            ..Self::default()
        }
    }

    /// Reads the JSON text of a `can`: `join`, `send`, `members` and `call` are lists of patterns, `broadcast`, `publish` and
    /// `update` are true or false.
    ///
    /// # Errors
    /// When it is anything else. An unknown right is an error, since leaving it out silently would
    /// hide that it is misspelt.
    pub fn parse(can: &str) -> Result<Self, RightsError> {
        read("can", can)
    }

    /// Reads an app's `default_can`; see [`Rights::parse`].
    ///
    /// # Errors
    /// Those of [`Rights::parse`].
    pub fn from_value(can: &serde_json::Value) -> Result<Self, RightsError> {
        read("default_can", &can.to_string())
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

fn read(name: &str, can: &str) -> Result<Rights, RightsError> {
    // serde would take a list for the fields in their order.
    if !can.trim_start().starts_with('{') {
        let found = json_kind(can.trim_start());
        return Err(RightsError(format!(
            "\"{name}\" must be an object of rights, not {found}"
        )));
    }

    serde_json::from_str(can).map_err(|error| {
        // It is read again for a message that names the field.
        let fault = Members::parse(can).ok().and_then(|rights| {
            rights
                .iter()
                .find_map(|(right, value)| fault(name, right, value))
        });
        RightsError(fault.unwrap_or_else(|| format!("\"{name}\": {error}")))
    })
}

/// What is wrong with one of the rights in the object `within`, in the words that the API has for its bodies.
fn fault(within: &str, right: &str, value: &RawValue) -> Option<String> {
    let (path, value) = (format!("{within}.{right}"), value.get());
    let refused = |path: &str, expected: &str, value: &str| {
        Some(format!(
            "\"{path}\" must be {expected}, not {}",
            json_kind(value)
        ))
    };

    if FLAGS.contains(&right) {
        return match value {
            "true" | "false" => None,
            _ => refused(&path, "true or false", value),
        };
    }

    if LISTS.contains(&right) {
        let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(value) else {
            return refused(&path, "a list of strings", value);
        };
        let mut items = items.iter().map(|item| item.get()).enumerate();
        let (at, item) = items.find(|(_, item)| !item.starts_with('"'))?;
        return refused(&format!("{path}[{at}]"), "a string", item);
    }

    let all = || LISTS.into_iter().chain(FLAGS);
    let known = all().map(|known| (known, known));
    let hint = match nearest(right, known, |known| known.len() / 2) {
        Some(meant) => format!("did you mean \"{within}.{meant}\"?"),
        None => format!(
            "\"{within}\" takes {}",
            all().collect::<Vec<_>>().join(", ")
        ),
    };

    let right: String = right.chars().take(SHOWN_CHARS).collect();
    Some(format!("unknown field \"{within}.{right}\"; {hint}"))
}

/// What kind of JSON `value` is, as a message says it.
pub(crate) fn json_kind(value: &str) -> &str {
    match value.as_bytes().first() {
        Some(b'n' | b't' | b'f') => value.trim_end(),
        Some(b'"') => "a string",
        Some(b'[') => "a list",
        Some(b'{') => "an object",
        _ => "a number",
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
    // The end is looked for in what the beginning leaves: `ab*ba` does not match `aba`.
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
        // If it took longer by each star, this would not end.
        assert!(started.elapsed() < std::time::Duration::from_mins(1));
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
    }

    #[test]
    fn what_is_wrong_with_a_can_is_said_as_the_api_says_it() {
        for (can, why) in [
            (
                r#"{"jion":["a"]}"#,
                r#"unknown field "can.jion"; did you mean "can.join"?"#,
            ),
            (
                r#"{"x":1}"#,
                "unknown field \"can.x\"; \"can\" takes join, send, members, call, broadcast, publish, update",
            ),
            (
                r#"{"join":"a"}"#,
                r#""can.join" must be a list of strings, not a string"#,
            ),
            (
                r#"{"join":["a",1]}"#,
                r#""can.join[1]" must be a string, not a number"#,
            ),
            (
                r#"{"update":1}"#,
                r#""can.update" must be true or false, not a number"#,
            ),
            ("[]", r#""can" must be an object of rights, not a list"#),
            ("null", r#""can" must be an object of rights, not null"#),
        ] {
            let error = Rights::parse(can).unwrap_err().to_string();
            assert_eq!(error, why, "{can}");
        }
        let default_can = serde_json::json!({"sned": ["*"]});
        assert_eq!(
            Rights::from_value(&default_can).unwrap_err().to_string(),
            r#"unknown field "default_can.sned"; did you mean "default_can.send"?"#
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
