use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::http::{
    body::{self, EXCEPT, TO},
    channels, identity, inspect, publish,
    verbs::{Verb, VerbFields},
};

thread_local! {
    /// How often the place of an item was spelled out.
    pub(super) static ITEM_PATHS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[test]
fn the_place_of_an_item_is_spelled_out_for_a_message_alone() {
    let mut users = vec!["\"u\""; 1000];
    let fault = |users: &[&str]| {
        ITEM_PATHS.set(0);
        let fault = Kind::Texts.fault("users", &format!("[{}]", users.join(",")), "");
        (
            fault.map(|problem| problem.detail().to_owned()),
            ITEM_PATHS.get(),
        )
    };
    assert_eq!(fault(&users), (None, 0));
    users[999] = "7";
    let message = "\"users[999]\" must be a string, not a number".to_owned();
    assert_eq!(fault(&users), (Some(message), 1));
}

fn detail(result: Result<impl Sized, Problem>) -> String {
    result.err().map_or_else(
        || "accepted".to_owned(),
        |problem| format!("{}: {}", problem.code(), problem.detail()),
    )
}

fn publishing(verb: Verb, body: &str) -> Result<(), Problem> {
    let fields: VerbFields<'_> = body::parse(body.as_bytes(), verb.shape())?;
    fields.into_call(verb).map(drop)
}

/// Wrong bodies, and what is answered.
const REFUSED: &[(Verb, &str, &str)] = &[
    (
        Verb::Emit,
        r#"{"event":"e","filter":null}"#,
        "bad_field: \"filter\" must be a string, not null; a field without a value must be left out",
    ),
    (
        Verb::Emit,
        r#"{"event":null}"#,
        "bad_field: \"event\" must be a string, not null",
    ),
    (
        Verb::Publish,
        r#"{"user":5}"#,
        "bad_field: \"user\" must be a string, not a number",
    ),
    (
        Verb::Publish,
        r#"{"event":"e"}"#,
        "missing_field: \"user\" or \"users\" is required",
    ),
    (
        Verb::Send,
        r#"{"event":"e"}"#,
        "missing_field: \"channel\" or \"channels\" is required",
    ),
    (
        Verb::Dispatch,
        r#"{"event":"e"}"#,
        "missing_field: \"recipients\" is required",
    ),
    (
        Verb::Emit,
        r#"{"event":"e","to":{"users":["a",null]}}"#,
        "bad_field: \"to.users[1]\" must be a string, not null",
    ),
    (
        Verb::Emit,
        r#"{"event":"e","to":{"users":"a"}}"#,
        "bad_field: \"to.users\" must be a list of strings, not a string",
    ),
    (
        Verb::Emit,
        r#"{"event":"e","to":{"user":"a"}}"#,
        "unknown_field: unknown field \"to.user\"; did you mean \"to.users\"?",
    ),
    (
        Verb::Emit,
        r#"{"event":"e","to":{"everyone":true}}"#,
        "unknown_field: unknown field \"to.everyone\"; \"to\" takes users, channels, connections",
    ),
    (
        Verb::Emit,
        r#"{"event":"e","user":"a"}"#,
        "unknown_field: unknown field \"user\"; did you mean \"to.users\"?",
    ),
    (
        Verb::Emit,
        r#"{"event":"e","scope":"nodes"}"#,
        "bad_field: \"scope\" must be \"cluster\" or \"node\", not \"nodes\"",
    ),
    (
        Verb::Emit,
        r#"{"event":"e","scope":{"node":null}}"#,
        "bad_field: \"scope\" must be \"cluster\" or \"node\", not an object",
    ),
    (
        Verb::Emit,
        r#"{"event":"e","store":"yes"}"#,
        "bad_field: \"store\" must be true or false, not a string",
    ),
    (
        Verb::Emit,
        r#"{"event":"e","event":"e"}"#,
        "bad_field: \"event\" is there twice",
    ),
    (
        Verb::Emit,
        r#"{"event":"e","params":[1]}"#,
        "bad_params: \"params\" must be an object, not a list",
    ),
    (
        Verb::Dispatch,
        r#"{"event":"e","recipients":["a"],"except":true}"#,
        "bad_field: \"except\" must be a list of strings, or an object, not true",
    ),
    (
        Verb::Dispatch,
        r#"{"event":"e","recipients":["a"],"except":[1]}"#,
        "bad_field: \"except[0]\" must be a string, not a number",
    ),
    (
        Verb::Emit,
        "{\"event\":\"e\",}",
        "bad_json: the body is not valid JSON: trailing comma (line 1, column 14)",
    ),
    (
        Verb::Emit,
        "event=alert",
        "bad_json: the body is not valid JSON: a value must be here (line 1, column 1)",
    ),
    (
        Verb::Emit,
        "{\"filter\":5,",
        "bad_json: the body is not valid JSON: it ends too early (line 1, column 12)",
    ),
];

#[test]
fn a_refused_body_is_explained_in_the_words_of_the_api() {
    let cut_long = format!(r#"{{"event":"e","{}":1}}"#, "x".repeat(100));
    for (verb, body, expected) in REFUSED {
        assert_eq!(detail(publishing(*verb, body)), *expected, "{body}");
    }
    let long = detail(publishing(Verb::Emit, &cut_long));
    assert!(long.contains(&format!("\"{}\";", "x".repeat(64))), "{long}");
}

#[test]
fn a_whole_number_is_one_in_every_notation() {
    let whole = |text: &str| serde_json::from_str::<Whole>(text).ok();
    for (text, number) in [
        ("0", 0),
        ("-0", 0),
        ("3600", 3600),
        ("3600.0", 3600),
        ("3.6e3", 3600),
        ("18446744073709551615", u64::MAX),
        ("1e30", u64::MAX),
    ] {
        assert_eq!(whole(text), Some(Whole(number)), "{text}");
    }
    for text in ["-1", "1.5", "-1e3", "1e-3", "\"1h\"", "null", "true", "[1]"] {
        assert_eq!(whole(text), None, "{text}");
    }
}

/// Values of every kind of JSON, right and wrong ones.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![
            Just(json!(-1)),
            Just(json!(1000)),
            Just(json!(4000.0)),
            Just(json!(1.5))
        ],
        prop_oneof![Just("cluster"), Just("emit"), Just("send"), Just("x")].prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        let names = prop_oneof![
            Just("users"),
            Just("channels"),
            Just("devices"),
            Just("join"),
            Just("update"),
            Just("x")
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(names.prop_map(str::to_owned), inner, 0..3)
                .prop_map(Value::from_iter),
        ]
    })
}

/// A body for `shape`: some of its fields, and at times others.
fn body_of(shape: &'static Shape) -> impl Strategy<Value = String> {
    let names = shape.fields.iter().map(|field| field.name);
    let names: Vec<&str> = names.chain(["evnt", "call"]).collect();
    let member = (prop::sample::select(names), value());
    prop::collection::vec(member, 0..5).prop_map(|members| {
        let members = members
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value}"));
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    })
}

type Read = fn(&str) -> Result<(), Problem>;

/// How each body is read, by serde alone.
fn bodies() -> Vec<(&'static Shape, Read)> {
    vec![
        (Verb::Emit.shape(), |body| publishing(Verb::Emit, body)),
        (Verb::Publish.shape(), |body| {
            publishing(Verb::Publish, body)
        }),
        (Verb::Send.shape(), |body| publishing(Verb::Send, body)),
        (Verb::Broadcast.shape(), |body| {
            publishing(Verb::Broadcast, body)
        }),
        (Verb::Dispatch.shape(), |body| {
            publishing(Verb::Dispatch, body)
        }),
        (Verb::Emit.item_shape(), |body| {
            VerbFields::item(body.as_bytes()).map(drop)
        }),
        (&publish::BATCH, |body| {
            publish::items(body.as_bytes()).map(drop)
        }),
        (&channels::MEMBERSHIP, |body| {
            channels::membership(body.as_bytes()).map(drop)
        }),
        (&inspect::DISCONNECT, |body| {
            inspect::disconnection(body.as_bytes()).map(drop)
        }),
        (&inspect::EXPLAIN, |body| {
            inspect::question(body.as_bytes()).map(drop)
        }),
        (&inspect::TOKENS, |body| {
            inspect::token_request(body.as_bytes()).map(drop)
        }),
        (&identity::REVOKE, |body| {
            identity::revoking(body.as_bytes()).map(drop)
        }),
        (&identity::AUTH, |body| {
            identity::replacing(body.as_bytes()).map(drop)
        }),
    ]
}

proptest! {
    /// What serde refuses has a fault that the shape finds, so that no caller gets serde's own words.
    #[test]
    fn every_refusal_is_in_the_words_of_the_api(
        (at, body) in (0..bodies().len()).prop_flat_map(|at| (Just(at), body_of(bodies()[at].0)))
    ) {
        let (_, read) = bodies()[at];
        if let Err(problem) = read(&body) {
            let detail = problem.detail();
            for word in ["invalid type", "invalid value", "expected", " at line", "sequence", "map", "variant", "`"] {
                prop_assert!(!detail.contains(word), "{body}: {detail}");
            }
            prop_assert!(problem.code() != "bad_json", "{body}: {detail}");
        }
    }
}

const DESCRIPTION: &str = include_str!("../../../docs/openapi.json");

/// The schemas of docs/openapi.json that say the same as a shape.
fn schemas() -> Vec<(&'static str, &'static Shape)> {
    vec![
        ("To", &TO),
        ("Except", &EXCEPT),
        ("Emit", Verb::Emit.shape()),
        ("EmitItem", Verb::Emit.item_shape()),
        ("Publish", Verb::Publish.shape()),
        ("PublishItem", Verb::Publish.item_shape()),
        ("Send", Verb::Send.shape()),
        ("SendItem", Verb::Send.item_shape()),
        ("Broadcast", Verb::Broadcast.shape()),
        ("BroadcastItem", Verb::Broadcast.item_shape()),
        ("Dispatch", Verb::Dispatch.shape()),
        ("DispatchItem", Verb::Dispatch.item_shape()),
        ("Batch", &publish::BATCH),
        ("Membership", &channels::MEMBERSHIP),
        ("Disconnect", &inspect::DISCONNECT),
        ("Explain", &inspect::EXPLAIN),
        ("TokenRequest", &inspect::TOKENS),
        ("Revoke", &identity::REVOKE),
        ("Auth", &identity::AUTH),
    ]
}

/// What `schema` refers to, or itself.
fn resolved<'a>(api: &'a Value, schema: &'a Value) -> &'a Value {
    let path = schema["$ref"].as_str();
    path.map_or(schema, |path| api.pointer(&path[1..]).unwrap())
}

fn texts_of(list: &Value) -> Vec<&str> {
    let list = list.as_array().map_or(&[][..], |list| &list[..]);
    list.iter().map(|text| text.as_str().unwrap()).collect()
}

/// Whether a field's schema says what its kind says.
fn agree(api: &Value, schema: &Value, kind: Kind) -> bool {
    let schema = resolved(api, schema);
    let is = |name: &str| schema["type"] == name;
    let alternatives = schema["oneOf"].as_array().map_or(&[][..], |list| &list[..]);
    match kind {
        Kind::Any => schema["type"].is_null() && alternatives.is_empty(),
        Kind::Text => is("string") && schema["enum"].is_null() && schema["const"].is_null(),
        Kind::Word(words) => match schema["const"].as_str() {
            Some(word) => words.contains(&word),
            None => texts_of(&schema["enum"]) == words,
        },
        Kind::Flag => is("boolean"),
        Kind::Whole(_) if alternatives.is_empty() => is("integer") && schema["minimum"].is_u64(),
        Kind::Whole(_) => alternatives.iter().all(|one| one["type"] == "integer"),
        Kind::Moment => {
            let is = |at: usize, name: &str| alternatives[at]["type"] == name;
            alternatives.len() == 2 && is(0, "integer") && is(1, "string")
        }
        Kind::Texts => is("array") && agree(api, &schema["items"], Kind::Text),
        Kind::Members => is("object") && schema["additionalProperties"] == true,
        Kind::Objects => is("array") && resolved(api, &schema["items"])["oneOf"].is_array(),
        Kind::Object(shape) => same(api, schema, shape),
        Kind::TextsOr(shape) => matches!(
            alternatives,
            [list, object] if agree(api, list, Kind::Texts) && agree(api, object, Kind::Object(shape))
        ),
    }
}

/// Whether an object's schema has the fields of `shape` in the same order, and requires the same ones.
fn same(api: &Value, schema: &Value, shape: &Shape) -> bool {
    let properties = schema["properties"].as_object().unwrap();
    let mut names: Vec<&str> = properties.keys().map(String::as_str).collect();
    let mut fields: Vec<&str> = shape.fields.iter().map(|field| field.name).collect();
    names.sort_unstable();
    fields.sort_unstable();

    let mut required: Vec<Vec<&str>> = texts_of(&schema["required"])
        .into_iter()
        .map(|name| vec![name])
        .collect();
    let alternatives = schema["oneOf"].as_array().into_iter().flatten();
    let group: Vec<&str> = alternatives
        .flat_map(|one| texts_of(&one["required"]))
        .collect();
    required.extend((!group.is_empty()).then_some(group));
    let mut groups: Vec<Vec<&str>> = shape.required.iter().map(|group| group.to_vec()).collect();
    required.sort();
    groups.sort();

    let fields_agree = |field: &Field| {
        let is_same = agree(api, &properties[field.name], field.kind);
        assert!(
            is_same,
            "{}: {} is not {:?}",
            field.name, properties[field.name], field.kind
        );
        is_same
    };
    names == fields
        && required == groups
        && schema["additionalProperties"] == false
        && shape.fields.iter().all(fields_agree)
}

#[test]
fn the_description_has_the_fields_of_every_shape() {
    let api: Value = serde_json::from_str(DESCRIPTION).unwrap();
    for (name, shape) in schemas() {
        let schema = &api["components"]["schemas"][name];
        assert!(same(&api, schema, shape), "{name}: {schema}\n{shape:?}");
    }

    // Each body of the description is one of these.
    for (path, methods) in api["paths"].as_object().unwrap() {
        let content = &methods["post"]["requestBody"]["content"]["application/json"];
        if let Some(schema) = content["schema"]["$ref"].as_str() {
            let name = schema.rsplit('/').next().unwrap();
            assert!(schemas().iter().any(|(known, _)| *known == name), "{path}");
        }
    }
}
