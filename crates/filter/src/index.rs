//! What an index is asked, and what a connection puts into it.

use std::{fmt, sync::Arc};

use smol_str::SmolStr;

use super::{
    attributes::Attributes,
    check::check,
    error::{FilterError, FilterErrorKind, Span},
    layout::{MapKey, Step},
    parser::parse,
    resolved::{Node, NodeKind, Root},
    value::{NULL, Value, double_as_int},
};
use crate::id::ConnectionId;

/// A scalar in the one form that all its equals share: two keys are equal exactly if `==` says so of their values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum IndexKey {
    /// `null`, and what is absent.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An int, or a double that equals one.
    Int(i64),
    /// The bits of a double that equals no int; never `NaN`, which equals nothing.
    Double(u64),
    /// A string.
    String(SmolStr),
    /// A connection, in look-ups of [`IndexRef::ConnectionId`] and nowhere else.
    Connection(ConnectionId),
}

impl IndexKey {
    /// The key of a scalar. `None` for lists and maps, and for `NaN`.
    #[inline]
    pub fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(Self::Null),
            Value::Bool(value) => Some(Self::Bool(*value)),
            Value::Int(value) => Some(Self::Int(*value)),
            Value::Double(value) if value.is_nan() => None,
            // Of equal doubles only the two zeros differ in their bits, and both are the int 0.
            Value::Double(value) => {
                Some(double_as_int(*value).map_or(Self::Double(value.to_bits()), Self::Int))
            }
            Value::String(value) => Some(Self::String(value.clone())),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    fn of_key(key: &MapKey) -> Self {
        match key {
            MapKey::Bool(key) => Self::Bool(*key),
            MapKey::Int(key) => Self::Int(*key),
            MapKey::String(key) => Self::String(key.clone()),
        }
    }
}

/// Which part of a value a key names. The three never meet: `auth.roles == "x"` finds no list that holds "x".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// The value itself.
    Value,
    /// An element of a list.
    Element,
    /// A key of a map.
    MapKey,
}

/// One entry of an index.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LookupKey {
    /// What the key stands for.
    pub kind: KeyKind,
    /// The scalar.
    pub key: IndexKey,
}

impl LookupKey {
    pub(super) fn value(key: IndexKey) -> Self {
        Self {
            kind: KeyKind::Value,
            key,
        }
    }
}

/// Names one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IndexRef {
    /// Connections by id; its keys are [`IndexKey::Connection`], and it needs no entries.
    ConnectionId,
    /// Connections by user; its entries are those of [`Attributes::user`].
    User,
    /// Connections by channel; its entries are those of [`Attributes::channels`].
    Channels,
    /// A declared path, by its place in [`Schema::paths`].
    Declared(usize),
}

/// Gives `entry` every key under which an attribute's value is found, each once: a scalar by itself (null where it is
/// absent), a list by its scalar elements, a map by its keys.
///
/// Costs one hash per element of a list.
pub fn index_entries(value: &Value, mut entry: impl FnMut(LookupKey)) {
    match value {
        Value::List(items) => {
            let mut seen = ahash::AHashSet::with_capacity(items.len());
            for key in items.iter().filter_map(IndexKey::of) {
                if seen.insert(key.clone()) {
                    entry(LookupKey {
                        kind: KeyKind::Element,
                        key,
                    });
                }
            }
        }
        Value::Map(map) => {
            for key in map.keys() {
                entry(LookupKey {
                    kind: KeyKind::MapKey,
                    key: IndexKey::of_key(key),
                });
            }
        }
        scalar => {
            if let Some(key) = IndexKey::of(scalar) {
                entry(LookupKey::value(key));
            }
        }
    }
}

/// The declared index paths of an app; `user`, `channels` and `connection.id` are indexed without saying. A clone is the same
/// schema.
#[derive(Clone, Debug, Default)]
pub struct Schema(Arc<Declared>);

#[derive(Debug, Default)]
struct Declared {
    paths: Vec<Path>,
    variables: Vec<SmolStr>,
}

#[derive(Debug)]
struct Path {
    text: SmolStr,
    root: Root,
    keys: Vec<SmolStr>,
    steps: Vec<Step>,
}

impl Path {
    /// The value at the path; `None` where it selects from something that has no members.
    fn follow<'a>(&self, root: &'a Value) -> Option<&'a Value> {
        // As a filter selects: every member of null is null, and a scalar or a list has no members.
        self.steps.iter().try_fold(root, |value, step| match value {
            Value::Map(map) => Some(step.get(map)),
            Value::Null => Some(&NULL),
            _ => None,
        })
    }
}

impl Schema {
    /// Reads declared paths such as `auth.email` or `profile["time zone"]`.
    ///
    /// # Errors
    /// `bad_index_path` for what is not a path from `auth` or `profile`, or is there twice, and the errors of
    /// parsing. The message names the path.
    pub fn new<P: AsRef<str>>(paths: &[P]) -> Result<Self, FilterError> {
        let mut declared = Declared::default();
        for text in paths {
            let path = declare(text.as_ref())?;
            if declared.find(path.root, &path.keys).is_some() {
                return Err(bad_path(&path.text, "is declared twice"));
            }
            declared.paths.push(path);
        }
        Ok(Self(Arc::new(declared)))
    }

    /// Declares further variables, for evaluating expressions outside the server, as conformance tests do.
    #[doc(hidden)]
    #[must_use]
    #[inline]
    pub fn with_variables(names: &[&str]) -> Self {
        let variables = names.iter().map(|name| SmolStr::from(*name)).collect();
        Self(Arc::new(Declared {
            paths: Vec::new(),
            variables,
        }))
    }

    /// The declared paths as written; their places are those of [`IndexRef::Declared`].
    #[inline]
    pub fn paths(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.paths.iter().map(|path| &*path.text)
    }

    /// The value at a declared path: null where it is absent, `None` where the path selects from something that has
    /// no members. Such a connection has no entries in that index, as a filter on the path is an error for it.
    #[inline]
    pub fn get<'a>(&self, declared: usize, attributes: &'a Attributes) -> Option<&'a Value> {
        let path = self.0.paths.get(declared)?;
        let root = if path.root == Root::Auth {
            &attributes.auth
        } else {
            &attributes.profile
        };
        path.follow(root)
    }

    /// The first declared path under which a profile (`of_profile`), or else claims, would have over `most` entries, and how
    /// many those are at most.
    #[inline]
    pub fn over(&self, most: usize, of_profile: bool, root: &Value) -> Option<(&str, usize)> {
        let of_root = |path: &&Path| (path.root == Root::Profile) == of_profile;
        self.0.paths.iter().filter(of_root).find_map(|path| {
            let entries = match path.follow(root)? {
                Value::List(items) => items.len(),
                Value::Map(map) => map.len(),
                _ => 1,
            };
            (entries > most).then_some((&*path.text, entries))
        })
    }

    /// Whether a declared path leads into the profile, which its client may change.
    #[inline]
    pub fn is_of_profile(&self, declared: usize) -> bool {
        self.0
            .paths
            .get(declared)
            .is_some_and(|path| path.root == Root::Profile)
    }

    /// Gives `entry` every key of a connection in a declared index; see [`index_entries`].
    #[inline]
    pub fn entries(&self, declared: usize, attributes: &Attributes, entry: impl FnMut(LookupKey)) {
        if let Some(value) = self.get(declared, attributes) {
            index_entries(value, entry);
        }
    }

    pub(super) fn variables(&self) -> &[SmolStr] {
        &self.0.variables
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        // Compiled filters name declared paths by their places, which only clones share for
        // certain.
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The declared index of a path.
    pub(super) fn find(&self, root: Root, keys: &[SmolStr]) -> Option<usize> {
        self.0.find(root, keys)
    }

    /// An index as a filter would write it.
    #[inline]
    pub fn name(&self, index: IndexRef) -> &str {
        match index {
            IndexRef::ConnectionId => "connection.id",
            IndexRef::User => "user",
            IndexRef::Channels => "channels",
            IndexRef::Declared(declared) => {
                self.0.paths.get(declared).map_or("", |path| &path.text)
            }
        }
    }
}

impl Declared {
    fn find(&self, root: Root, keys: &[SmolStr]) -> Option<usize> {
        self.paths
            .iter()
            .position(|path| path.root == root && path.keys == keys)
    }
}

/// The variable and the members that a node names, if it is a path of a connection's attributes.
pub(super) fn path_of(node: &Node) -> Option<(Root, Vec<SmolStr>)> {
    match &node.kind {
        NodeKind::Root(root) => Some((*root, Vec::new())),
        NodeKind::Select(from, key) => {
            let (root, mut keys) = path_of(from)?;
            keys.push(key.clone());
            Some((root, keys))
        }
        _ => None,
    }
}

fn declare(text: &str) -> Result<Path, FilterError> {
    // Read as a filter is, so that a path means the same in both.
    let checked = parse(text)
        .and_then(|expr| check(&expr, &[]))
        .map_err(|e| bad_path(text, &e.message))?;
    let path = path_of(&checked.root)
        .filter(|(root, keys)| matches!(root, Root::Auth | Root::Profile) && !keys.is_empty());
    let Some((root, keys)) = path else {
        return Err(bad_path(
            text,
            "is not a path such as auth.email or profile.status",
        ));
    };

    let steps = keys.iter().cloned().map(Step::new).collect();
    Ok(Path {
        text: text.into(),
        root,
        keys,
        steps,
    })
}

fn bad_path(text: &str, why: &str) -> FilterError {
    let message = format!("index path \"{text}\": {why}");
    FilterError::new(
        FilterErrorKind::BadIndexPath,
        Span::new(0, text.len()),
        message,
    )
}

impl fmt::Display for IndexKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Double(bits) => f64::from_bits(*bits).fmt(f),
            Self::String(text) => write!(f, "{text:?}"),
            Self::Connection(id) => write!(f, "\"{id}\""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::attributes::tests::facts, *};

    fn json(text: &str) -> Value {
        Value::from_json(&mut text.as_bytes().to_vec(), None).unwrap()
    }

    fn entries(text: &str) -> Vec<(KeyKind, String)> {
        let mut entries = Vec::new();
        index_entries(&json(text), |entry| {
            entries.push((entry.kind, entry.key.to_string()));
        });
        entries
    }

    #[test]
    fn equal_scalars_have_one_key() {
        let key = |text: &str| IndexKey::of(&json(text));
        assert_eq!(key("1"), key("1.0"));
        assert_eq!(key("0"), key("-0.0"));
        assert_ne!(key("9007199254740993"), key("9007199254740992.0"));
        assert_ne!(key("1"), key("true"));
        assert_ne!(key("1"), key("\"1\""));
        assert_eq!(IndexKey::of(&Value::Double(f64::NAN)), None);
        assert_eq!(key("[1]"), None);
    }

    #[test]
    fn values_elements_and_map_keys_are_kept_apart() {
        assert_eq!(entries("null"), [(KeyKind::Value, "null".into())]);
        assert_eq!(entries("\"x\""), [(KeyKind::Value, "\"x\"".into())]);
        assert_eq!(
            entries("[1, 1.0, \"x\", [2], {}]"),
            [
                (KeyKind::Element, "1".into()),
                (KeyKind::Element, "\"x\"".into())
            ]
        );
        assert_eq!(entries("{\"x\": 1}"), [(KeyKind::MapKey, "\"x\"".into())]);
        assert_eq!(entries("[]"), []);
    }

    #[test]
    fn only_paths_of_auth_and_profile_are_declared() {
        let schema = Schema::new(&["auth.email", "profile[\"time zone\"]"]).unwrap();
        assert_eq!(
            schema.paths().collect::<Vec<_>>(),
            ["auth.email", "profile[\"time zone\"]"]
        );
        for bad in [
            "",
            "auth",
            "user",
            "connection.ip",
            "params.x",
            "auth.x == 1",
            "auth[0]",
            "channels",
            "auth.",
        ] {
            assert_eq!(
                Schema::new(&[bad]).unwrap_err().code(),
                "bad_index_path",
                "{bad}"
            );
        }
        assert!(
            Schema::new(&["auth.a", "auth['a']"])
                .unwrap_err()
                .message
                .contains("twice")
        );
    }

    #[test]
    fn what_has_too_many_entries_is_named() {
        let schema = Schema::new(&["auth.roles", "profile.tags", "profile.a.b"]).unwrap();
        let over = |of_profile, text: &str| {
            let found = json(text);
            schema
                .over(2, of_profile, &found)
                .map(|(path, entries)| (path.to_owned(), entries))
        };
        assert_eq!(over(true, r#"{"tags":[1,2],"roles":[1,2,3]}"#), None);
        let tags = Some(("profile.tags".to_owned(), 3));
        assert_eq!(over(true, r#"{"tags":[1,2,3]}"#), tags);
        let map = Some(("profile.a.b".to_owned(), 3));
        assert_eq!(over(true, r#"{"a":{"b":{"x":1,"y":2,"z":3}}}"#), map);
        assert_eq!(over(true, r#"{"a":7,"tags":"x"}"#), None);
        let roles = Some(("auth.roles".to_owned(), 3));
        assert_eq!(over(false, r#"{"tags":[1,2,3],"roles":[1,2,3]}"#), roles);
    }

    #[test]
    fn a_path_through_a_scalar_has_no_entries() {
        let schema = Schema::new(&["auth.a.b"]).unwrap();
        let mut attributes = Attributes::new(facts());
        for (auth, value) in [
            ("null", Some("null")),
            ("{}", Some("null")),
            ("{\"a\":{\"b\":1}}", Some("1")),
            ("{\"a\":1}", None),
        ] {
            attributes.auth = json(auth);
            assert_eq!(
                schema.get(0, &attributes).cloned(),
                value.map(json),
                "{auth}"
            );
        }
    }
}
