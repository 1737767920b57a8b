//! Members of channels as clients are shown them: one, a page of them, and what became of them.

use std::fmt::Display;

use fanfare_filter::{Value, id::ConnectionId};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

/// One member of a channel: a connection.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Member<'a> {
    /// The connection.
    #[serde(serialize_with = "as_text")]
    pub id: ConnectionId,
    /// Its user; `null` if anonymous.
    pub user: Option<&'a str>,
    /// Its profile; left out if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a Value>,
}

/// What became of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberKind {
    /// It is one now.
    Joined,
    /// It is no longer one.
    Left,
    /// Its profile, its user or its connection is another.
    Updated,
}

/// How often what became of a channel's members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Members that came.
    pub joined: u64,
    /// Members that went.
    pub left: u64,
    /// Members that are others now.
    pub updated: u64,
}

impl Changes {
    /// Adds `n` of one kind.
    pub fn count(&mut self, kind: MemberKind, n: u64) {
        match kind {
            MemberKind::Joined => self.joined += n,
            MemberKind::Left => self.left += n,
            MemberKind::Updated => self.updated += n,
        }
    }

    /// Adds those of `other`.
    pub fn add(&mut self, other: &Self) {
        self.joined += other.joined;
        self.left += other.left;
        self.updated += other.updated;
    }
}

/// Some of a channel's members, and how many there are.
#[derive(Clone, Debug)]
pub struct MembersPage {
    /// A list of [`Member`]s.
    pub members: Box<RawValue>,
    /// All members of the channel.
    pub count: u64,
    /// All users among them.
    pub users: u64,
    /// Where the next page begins, if there is one.
    pub cursor: Option<String>,
}

/// Builds the list of a page within a bound of bytes.
#[derive(Debug)]
pub struct MembersBuilder {
    /// The list without its last bracket.
    json: Vec<u8>,
    max_bytes: usize,
    members: usize,
}

impl MembersBuilder {
    /// An empty list, which is to have at most `max_bytes` of JSON.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            json: vec![b'['],
            max_bytes,
            members: 0,
        }
    }

    /// Adds `member`; false where it does not fit, and is not added.
    ///
    /// The first one always fits, so that every page makes progress.
    pub fn push(&mut self, member: &Member<'_>) -> bool {
        let before = self.json.len();
        let is_first = before == 1;
        if !is_first {
            self.json.push(b',');
        }

        // Writing to a Vec cannot fail, and a member always serializes.
        let _ = serde_json::to_writer(&mut self.json, member);
        // Only now is its length known. Less than the bound, as the last bracket is still to come.
        let fits = is_first || self.json.len() < self.max_bytes;
        if fits {
            self.members += 1;
        } else {
            self.json.truncate(before);
        }

        fits
    }

    /// How many are in it.
    pub fn members(&self) -> usize {
        self.members
    }

    /// The list.
    pub fn finish(mut self) -> Box<RawValue> {
        self.json.push(b']');
        // It has whole members only, so it is JSON.
        let json = String::from_utf8(self.json)
            .ok()
            .and_then(|json| RawValue::from_string(json).ok());
        json.unwrap_or_else(|| RawValue::NULL.to_owned())
    }
}

/// Serializes as what `Display` writes.
pub(super) fn as_text<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "00000000000000000000000004";

    fn member<'a>(user: Option<&'a str>, data: Option<&'a Value>) -> Member<'a> {
        Member {
            id: ID.parse().unwrap(),
            user,
            data,
        }
    }

    #[test]
    fn a_member_without_a_profile_has_no_data() {
        let profile = Value::from_json(&mut br#"{"a":[1,2.5]}"#.to_vec(), None).unwrap();
        let text = |member| serde_json::to_string(&member).unwrap();
        assert_eq!(
            text(member(None, None)),
            format!(r#"{{"id":"{ID}","user":null}}"#)
        );
        assert_eq!(
            text(member(Some("u"), Some(&profile))),
            format!(r#"{{"id":"{ID}","user":"u","data":{{"a":[1,2.5]}}}}"#)
        );
    }

    #[test]
    fn a_page_holds_what_fits_and_at_least_one() {
        let one = serde_json::to_string(&member(Some("u"), None)).unwrap();
        for (max_bytes, count) in [
            (0, 1),
            (one.len() + 2, 1),
            (2 * one.len() + 2, 1),
            (2 * one.len() + 3, 2),
            (3 * one.len() + 4, 3),
        ] {
            let mut builder = MembersBuilder::new(max_bytes);
            let pushed = (0..9)
                .take_while(|_| builder.push(&member(Some("u"), None)))
                .count();
            assert_eq!(pushed, count, "{max_bytes}");
            assert_eq!(
                builder.finish().get(),
                format!("[{}]", vec![&*one; count].join(","))
            );
        }
        assert_eq!(MembersBuilder::new(100).finish().get(), "[]");
    }
}
