//! Which index would turn a scan into a look-up.

use super::{
    compiled::Bound,
    index::{Schema, path_of},
    planner::{Access, Candidate, conjuncts},
    resolved::{Node, NodeKind, Root},
    runtime::Param,
};

impl Bound {
    /// The path that would make this filter a look-up if the app declared it as an index. Nothing if the filter is
    /// answered without a scan, or if no declared path would help.
    pub fn suggested_index(&self) -> Option<String> {
        if self.plan().access != Access::Everyone {
            return None;
        }
        let conjuncts = conjuncts(self.filter().root());
        conjuncts
            .into_iter()
            .find_map(|conjunct| suggestion(conjunct, self.params()))
    }
}

/// The path of `conjunct` with whose index the planner would look it up.
fn suggestion(conjunct: &Node, params: &[Param]) -> Option<String> {
    let NodeKind::Binary(_, left, right) = &conjunct.kind else {
        return None;
    };
    [left, right].into_iter().find_map(|side| {
        let path = declarable(side)?;
        let schema = Schema::new(&[&path]).ok()?;
        // The planner itself decides, so that what is suggested is what would happen.
        let access = Candidate::of(conjunct, &schema)?.access(params)?;
        matches!(access, Access::Lookup { .. }).then_some(path)
    })
}

/// A node as a path that the setting `index` takes.
fn declarable(node: &Node) -> Option<String> {
    let (root, keys) = path_of(node)?;
    let root = match root {
        Root::Auth => "auth",
        Root::Profile => "profile",
        Root::User | Root::Channels => return None,
    };

    let is_name = |key: &str| {
        key.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !key.starts_with(|first: char| first.is_ascii_digit())
    };

    let can_be_declared =
        !keys.is_empty() && keys.iter().all(|key| !key.is_empty() && is_name(key));
    can_be_declared.then(|| {
        let keys: Vec<&str> = keys.iter().map(|key| &**key).collect();
        format!("{root}.{}", keys.join("."))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Filter, Value};

    fn suggested(filter: &str, declared: &[&str]) -> Option<String> {
        let schema = Schema::new(declared).unwrap();
        let mut params = br#"{"p":"x","list":["a","b"],"deep":[["a"]],"map":{"a":1}}"#.to_vec();
        let params = Value::from_json(&mut params, None).unwrap();
        let filter = Arc::new(Filter::compile(filter, &schema).unwrap());
        filter.bind(Some(params)).unwrap().suggested_index()
    }

    #[test]
    fn the_path_that_would_be_looked_up_is_named() {
        for (filter, path) in [
            (r#"auth.plan == "pro""#, "auth.plan"),
            (r#""pro" == auth.plan"#, "auth.plan"),
            ("auth.plan == params.p", "auth.plan"),
            ("auth.plan == null", "auth.plan"),
            (r#"auth.plan in ["a", "b"]"#, "auth.plan"),
            ("auth.plan in params.list", "auth.plan"),
            ("auth.plan in params.map", "auth.plan"),
            (r#""admin" in auth.roles"#, "auth.roles"),
            ("params.p in profile.tags", "profile.tags"),
            (r#"auth["plan"] == "pro""#, "auth.plan"),
            ("auth.a > 1 && auth.b.c == 2 && auth.d == 3", "auth.b.c"),
        ] {
            assert_eq!(suggested(filter, &[]).as_deref(), Some(path), "{filter}");
        }
    }

    #[test]
    fn nothing_is_suggested_that_would_not_help() {
        for filter in [
            "true",
            "auth.age >= 18",
            r#"auth.plan != "pro""#,
            r#"auth.plan == "a" || auth.plan == "b""#,
            "auth.plan == auth.other",
            "auth.plan == params.list",
            "auth.plan in params.deep",
            r#"auth["time zone"] == "x""#,
            r#"connection.ip == "x""#,
            r#"user == "ann""#,
            r#"user == "ann" && auth.plan == "pro""#,
        ] {
            assert_eq!(suggested(filter, &[]), None, "{filter}");
        }
        assert_eq!(suggested(r#"auth.plan == "pro""#, &["auth.plan"]), None);
        let other = suggested(r#"auth.plan == "pro""#, &["auth.other"]);
        assert_eq!(other.as_deref(), Some("auth.plan"));
    }
}
