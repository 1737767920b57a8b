//! What must hold of every filter: agreement with the `cel` crate, plans that match what a scan matches, and no
//! panic on any text.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use fanfare_filter::{
    Access, Attributes, ConnectionInfo, Filter, IndexRef, Layouts, LookupKey, Schema, Value,
    Verdict,
    id::{ConnectionId, NodeId},
    index_entries,
};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

fn facts() -> ConnectionInfo {
    ConnectionInfo {
        id: ConnectionId {
            node: NodeId(1),
            shard: 0,
            slot: 0,
            nonce: 7,
        },
        device: None,
        ip: IpAddr::from([127, 0, 0, 1]),
        protocol: "fanfare.v1",
        connected_at: 0,
        node: "n".into(),
    }
}

// Agreement with `cel`.
//
// Left out of the generated expressions, because the language deviates there by contract: keys that are missing
// (null here, an error in CEL), selecting from null, and unknown names.
//
// Where both differ, the specification decides. The classes in which `cel` 0.15 departs from it are listed in
// `cel_departs`, and excused only in the direction in which it departs.

fn bindings() -> Json {
    json!({
        "auth": {"i": 3, "n": -7, "d": 2.5, "w": 3.0, "s": "abc", "u": "äß", "b": true, "z": null,
                 "l": [1, "x", 2.5, null], "e": [], "m": {"k": 1, "s": "v"}},
    })
}

fn leaf() -> impl Strategy<Value = String> {
    let members =
        ["i", "n", "d", "w", "s", "u", "b", "z", "l", "e", "m"].map(|key| format!("auth.{key}"));
    let literals = [
        "0",
        "1",
        "3",
        "-7",
        "2.5",
        "3.0",
        "0.0",
        "9223372036854775807",
        "9007199254740993",
        "9007199254740992.0",
        "1e300",
        "''",
        "'abc'",
        "'x'",
        "\"ä\"",
        "true",
        "false",
        "null",
        "[]",
        "[1, 2, 3]",
        "['x', 1]",
        "{'k': 1}",
    ];
    prop_oneof![
        proptest::sample::select(members.to_vec()),
        proptest::sample::select(literals.map(str::to_owned).to_vec()),
    ]
}

fn expression() -> impl Strategy<Value = String> {
    leaf().prop_recursive(4, 24, 3, |inner| {
        let two = (inner.clone(), inner.clone());
        let operators =
            ["==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "in", "&&", "||"].map(str::to_owned).to_vec();
        let methods = ["startsWith", "endsWith", "contains"].map(str::to_owned).to_vec();
        let functions = ["size", "!", "-"].map(str::to_owned).to_vec();
        let macros = ["all", "exists", "exists_one", "map", "filter"].map(str::to_owned).to_vec();
        prop_oneof![
            4 => (two.clone(), proptest::sample::select(operators)).prop_map(|((a, b), o)| format!("({a} {o} {b})")),
            1 => (two.clone(), proptest::sample::select(methods)).prop_map(|((a, b), m)| format!("({a}).{m}({b})")),
            1 => (inner.clone(), proptest::sample::select(functions)).prop_map(|(a, f)| format!("{f}({a})")),
            1 => (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            1 => (two, proptest::sample::select(macros)).prop_map(|((a, b), m)| {
                format!("[1, 2, 3].{m}(x, {})", b.replace("auth.i", "x").replace("null", &a))
            }),
        ]
    })
}

fn ours(source: &str) -> Option<Json> {
    let filter = Filter::compile_expression(source, &Schema::default()).ok()?;
    let mut attributes = Attributes::new(facts());
    attributes.auth = Value::from_serde(&bindings()["auth"], None).ok()?;
    let value = Arc::new(filter)
        .bind(None)
        .ok()?
        .evaluate(&attributes)
        .ok()?;
    Some(tagged(&value))
}

/// Kinds kept apart, so that 1 and 1.0 differ, and doubles by their bits.
fn tagged(value: &Value) -> Json {
    match value {
        Value::Double(double) => json!({"double": double.to_bits()}),
        Value::List(items) => items.iter().map(tagged).collect(),
        Value::Map(map) => map
            .iter()
            .map(|(key, value)| (format!("{:?}", key.to_value()), tagged(value)))
            .collect(),
        other => serde_json::to_value(other).expect("a scalar"),
    }
}

fn theirs(source: &str) -> Option<Json> {
    let program = cel::Program::compile(source).ok()?;
    let mut context = cel::Context::default();
    context.add_variable_from_value("auth", to_cel(&bindings()["auth"]));
    program.execute(&context).ok().map(|value| from_cel(&value))
}

fn to_cel(value: &Json) -> cel::Value {
    match value {
        Json::Null => cel::Value::Null,
        Json::Bool(value) => cel::Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(int) => cel::Value::Int(int),
            None => cel::Value::Float(number.as_f64().expect("a double")),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => items.iter().map(to_cel).collect::<Vec<_>>().into(),
        Json::Object(members) => {
            let members = members
                .iter()
                .map(|(key, value)| (key.clone(), to_cel(value)));
            members.collect::<std::collections::HashMap<_, _>>().into()
        }
    }
}

fn from_cel(value: &cel::Value) -> Json {
    match value {
        cel::Value::Int(value) => json!(value),
        cel::Value::Float(value) => json!({"double": value.to_bits()}),
        cel::Value::Bool(value) => json!(value),
        cel::Value::String(value) => json!(**value),
        cel::Value::List(items) => items.iter().map(from_cel).collect(),
        cel::Value::Map(map) => {
            let key = |key: &cel::objects::Key| match key {
                cel::objects::Key::String(key) => format!("{:?}", Value::from(key.as_str())),
                cel::objects::Key::Int(key) => format!("{:?}", Value::Int(*key)),
                cel::objects::Key::Bool(key) => format!("{:?}", Value::Bool(*key)),
                cel::objects::Key::Uint(key) => format!("uint {key}"),
            };
            map.map.iter().map(|(k, v)| (key(k), from_cel(v))).collect()
        }
        _ => Json::Null,
    }
}

/// Why `cel` differs from the specification, or from what it leaves open, on an expression.
fn cel_departs(source: &str, ours: Option<&Json>, theirs: Option<&Json>) -> Option<&'static str> {
    if source.contains("9007199254740993") && source.contains("9007199254740992.0") {
        return Some(
            "`cel` rounds an int to a double before it compares; by the specification they compare by value",
        );
    }
    let holds_map = source.contains("auth.m") || source.contains("{'k': 1}");
    if holds_map && source.contains(" + ") && ours.is_none() && theirs.is_some() {
        return Some("`cel` adds a map's keys to a list; the specification has no such overload");
    }
    if holds_map && source.contains(" in ") && ours.is_some() && theirs.is_none() {
        return Some(
            "`cel` fails where null, a list or a map is looked for among a map's keys; here, as in cel-go, it is not \
             among them",
        );
    }
    None
}

// Plans.

fn scalar() -> impl Strategy<Value = Json> {
    prop_oneof![
        Just(json!(null)),
        Just(json!(true)),
        (0..3_i64).prop_map(|i| json!(i)),
        (0..3_i32).prop_map(|i| json!(f64::from(i) / 2.0)),
        proptest::sample::select(vec!["a", "b", "c", ""]).prop_map(|text| json!(text)),
    ]
}

fn datum() -> impl Strategy<Value = Json> {
    prop_oneof![
        4 => scalar(),
        1 => prop::collection::vec(scalar(), 0..4).prop_map(Json::Array),
        1 => Just(json!([[1], "a", {"a": 1}])),
        1 => prop::collection::btree_map("[abc]", scalar(), 0..3).prop_map(|m| json!(m)),
    ]
}

/// Claims, profile, user, nonce of the id, channels.
type Connected = (Json, Json, Option<String>, u64, BTreeSet<String>);

fn population() -> impl Strategy<Value = Vec<Attributes>> {
    let object = || {
        let full = prop::collection::btree_map("[xyz]", datum(), 0..4).prop_map(|m| json!(m));
        prop_oneof![6 => full, 1 => Just(json!(null)), 1 => Just(json!("text"))]
    };
    let channels = prop::collection::btree_set("[abc]", 0..3);
    let one = (
        object(),
        object(),
        prop::option::of("[abc]"),
        0..3_u64,
        channels,
    );
    prop::collection::vec(one, 1..12).prop_map(|all| {
        let layouts = Layouts::new();
        let build = |(auth, profile, user, nonce, channels): Connected| Attributes {
            auth: Value::from_serde(&auth, &layouts).expect("shallow"),
            profile: Value::from_serde(&profile, &layouts).expect("shallow"),
            user: user.as_deref().map(Value::from).into(),
            channels: Value::List(
                channels
                    .iter()
                    .map(|name| Value::from(name.as_str()))
                    .collect(),
            ),
            connection: ConnectionInfo {
                id: ConnectionId {
                    nonce,
                    ..facts().id
                },
                ..facts()
            },
        };
        all.into_iter().map(build).collect()
    })
}

fn literal(value: &Json) -> String {
    // JSON writes doubles, strings, lists and maps as CEL does.
    value.to_string()
}

fn conjunct() -> impl Strategy<Value = String> {
    let path = proptest::sample::select(vec![
        "auth.x",
        "auth.y.a",
        "auth[\"z\"]",
        "profile.x",
        "user",
        "channels",
        "connection.id",
        "auth.q",
        "profile",
    ]);
    let id = |nonce: u64| {
        json!(
            ConnectionId {
                nonce,
                ..facts().id
            }
            .to_string()
        )
    };
    let fixed = prop_oneof![
        3 => datum().prop_map(|value| literal(&value)),
        1 => (0..4_u64).prop_map(move |nonce| literal(&id(nonce))),
        2 => proptest::sample::select(vec!["params.s", "params.l", "params.m", "params.n", "params.d"]).prop_map(str::to_owned),
    ];
    (path, fixed, 0..7).prop_map(|(path, fixed, form)| match form {
        0 | 1 => format!("{path} == {fixed}"),
        2 => format!("{fixed} == {path}"),
        3 => format!("{path} in {fixed}"),
        4 => format!("{path} in [{fixed}, \"a\", 1]"),
        5 => format!("{fixed} in {path}"),
        _ => format!("({path} != {fixed} || {fixed} == {path})"),
    })
}

/// The connections that an access finds, by the entries that each puts into each index.
fn found(access: &Access, schema: &Schema, everyone: &[Attributes]) -> Vec<bool> {
    let holds = |attributes: &Attributes, index: IndexRef, keys: &[LookupKey]| {
        let mut hit = false;
        let mut entry = |entry: LookupKey| hit |= keys.contains(&entry);
        match index {
            IndexRef::User => index_entries(&attributes.user, &mut entry),
            IndexRef::Channels => index_entries(&attributes.channels, &mut entry),
            IndexRef::Declared(declared) => schema.entries(declared, attributes, &mut entry),
            IndexRef::ConnectionId => {
                let id = fanfare_filter::IndexKey::Connection(attributes.connection.id);
                hit = keys.iter().any(|key| key.key == id);
            }
        }
        hit
    };
    let by = |attributes: &Attributes| match access {
        Access::Everyone => true,
        Access::Nobody => false,
        Access::Lookup { index, keys } => holds(attributes, *index, keys),
    };
    everyone.iter().map(by).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cel_agrees_or_departs_in_a_listed_way(source in expression()) {
        let (ours, theirs) = (ours(&source), theirs(&source));
        if ours != theirs {
            prop_assert!(
                cel_departs(&source, ours.as_ref(), theirs.as_ref()).is_some(),
                "{source}: here {ours:?}, cel {theirs:?}"
            );
        }
    }

    #[test]
    fn an_index_matches_what_a_scan_matches(
        conjuncts in prop::collection::vec(conjunct(), 1..4),
        everyone in population(),
    ) {
        let source = conjuncts.join(" && ");
        let params = json!({"s": "a", "l": ["a", null, 1, 0.5], "m": {"a": 1}, "n": null, "d": 1.0});
        let params = Value::from_serde(&params, None).expect("shallow");
        let indexed = Schema::new(&["auth.x", "auth.y.a", "auth.z", "profile.x"]).expect("paths");
        let bound = Arc::new(Filter::compile(&source, &indexed).expect("a filter")).bind(Some(params)).expect("bound");
        // Any candidate may be chosen; all must agree.
        let plans = [bound.clone(), bound.planned_by(|_, keys| 1000 - keys), bound.planned_by(|index, _| match index {
            IndexRef::Declared(at) => 10 - at,
            _ => 100,
        })];
        for planned in plans {
            let found = found(&planned.plan().access, &indexed, &everyone);
            for (attributes, found) in everyone.iter().zip(found) {
                let whole = planned.matches(attributes) == Verdict::Match;
                let split = found && planned.residual(attributes) == Verdict::Match;
                prop_assert_eq!(whole, split, "{} by {} for {:?}", source, planned.plan(), attributes);
            }
        }
    }

    #[test]
    fn no_text_panics_and_errors_are_inside_it(source in "\\PC{0,60}") {
        check_text(&source)?;
    }

    #[test]
    fn no_soup_of_tokens_panics(
        tokens in prop::collection::vec(
            proptest::sample::select(vec![
                "auth", ".", "x", "(", ")", "[", "]", "{", "}", ",", ":", "?", "!", "-", "+", "==", "in", "&&", "||",
                "1", "2.5", "'a'", "\"ü\n", "r'\\", "null", "has(", "params", ".all(c,", ".map(", "size(", "0x", "1u",
                "user", "connection", "//", "\n", "'''", "\\", "%", "9223372036854775808", ".matches('(')", "<", "💥",
            ]),
            0..40,
        ),
        spaced in any::<bool>(),
    ) {
        check_text(&tokens.join(if spaced { " " } else { "" }))?;
    }
}

fn check_text(source: &str) -> Result<(), TestCaseError> {
    match Filter::compile_expression(source, &Schema::default()) {
        Ok(filter) => {
            let mut attributes = Attributes::new(facts());
            attributes.auth = Value::from_serde(&bindings()["auth"], None).expect("shallow");
            if let Ok(bound) = Arc::new(filter).bind(None) {
                let _ = bound.evaluate(&attributes);
                let _ = (
                    bound.matches(&attributes),
                    bound.explain(&attributes).count(),
                    bound.warnings(),
                );
            }
        }
        Err(error) => {
            let (from, to) = (error.offset(), error.offset() + error.length());
            prop_assert!(
                source.is_char_boundary(from) && source.is_char_boundary(to),
                "{source:?}: {error:?}"
            );
            let excerpt = error.excerpt(source);
            prop_assert!(
                excerpt
                    .lines()
                    .last()
                    .is_some_and(|line| line.contains('^')),
                "{source:?}: {excerpt}"
            );
        }
    }
    Ok(())
}
