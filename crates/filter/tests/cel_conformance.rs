//! The cases of CEL's own conformance suite that make sense over JSON values, where they are at hand.

use std::{collections::BTreeMap, net::IpAddr, path::Path, sync::Arc};

use fanfare_filter::{
    Attributes, ConnectionInfo, Filter, Map, MapKey, Schema, Value,
    id::{ConnectionId, NodeId},
};

const MISSING_KEY: &str = "a missing key gives null, not an error";
const REFUSED: &str = "undeclared names and unknown functions are refused when the filter is compiled, also beside ||";
const DOTTED: &str = "the language has no dotted variable names";

/// Cases that differ on purpose. One that no longer differs fails the test.
fn deviations() -> BTreeMap<&'static str, &'static str> {
    let names = [
        "as",
        "const",
        "continue",
        "function",
        "if",
        "let",
        "package",
        "namespace",
        "var",
        "void",
        "while",
    ];
    let receivers = names.map(|name| {
        (
            format!("parse/receiver_function_names/{name}").leak() as &str,
            REFUSED,
        )
    });
    let mut listed: BTreeMap<_, _> = receivers.into_iter().collect();
    listed.extend([
        ("basic/variables/unbound_is_runtime_error", REFUSED),
        ("basic/functions/unbound_is_runtime_error", REFUSED),
        (
            "fields/map_fields/map_field_select_no_such_key",
            MISSING_KEY,
        ),
        (
            "fields/qualified_identifier_resolution/qualified_ident",
            DOTTED,
        ),
        (
            "fields/qualified_identifier_resolution/map_field_select",
            DOTTED,
        ),
        (
            "fields/qualified_identifier_resolution/qualified_identifier_resolution_unchecked",
            DOTTED,
        ),
        ("namespace/qualified/self_eval_qualified_lookup", DOTTED),
    ]);
    listed
}

/// What a tagged value of the suite stands for.
fn untagged(tagged: &Value) -> Value {
    let (tag, inner) = tagged
        .as_map()
        .and_then(|tagged| tagged.iter().next())
        .expect("a tagged value");
    let list = || inner.as_list().expect("a list").iter();
    let MapKey::String(tag) = tag else {
        panic!("no tag: {tag:?}")
    };
    match (&**tag, inner) {
        ("double", Value::String(text)) => Value::Double(text.parse().expect("a double")),
        ("double", Value::Int(int)) => Value::Double(*int as f64),
        ("list", _) => list().map(untagged).collect::<Vec<_>>().into(),
        ("map", _) => {
            let entries = list().map(|entry| {
                let entry = entry.as_list().expect("a key and a value");
                let key = match untagged(&entry[0]) {
                    Value::String(key) => MapKey::String(key),
                    Value::Int(key) => MapKey::Int(key),
                    Value::Bool(key) => MapKey::Bool(key),
                    other => panic!("no key: {other:?}"),
                };
                (key, untagged(&entry[1]))
            });
            Value::Map(Map::new(entries.collect(), None))
        }
        _ => inner.clone(),
    }
}

/// Equal in kind too, and with the sign of zero: stricter than `==`.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Double(a), Value::Double(b)) => {
            a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
        }
        (Value::List(a), Value::List(b)) => {
            a.len() == b.len() && a.iter().zip(&**b).all(|(a, b)| same(a, b))
        }
        (Value::Map(a), Value::Map(b)) => {
            a.len() == b.len()
                && a.iter()
                    .zip(b.iter())
                    .all(|((k, a), (l, b))| k == l && same(a, b))
        }
        _ => a.kind() == b.kind() && a == b,
    }
}

fn evaluate(case: &Map) -> Result<Value, String> {
    let bindings = case
        .get("bindings")
        .as_map()
        .into_iter()
        .flat_map(Map::iter);
    let bindings: Vec<(Value, Value)> = bindings
        .map(|(name, bound)| (name.to_value(), untagged(bound)))
        .collect();
    let names: Vec<&str> = bindings
        .iter()
        .filter_map(|(name, _)| name.as_str())
        .collect();
    let values: Vec<Value> = bindings.iter().map(|(_, bound)| bound.clone()).collect();
    let source = case.get("expr").as_str().expect("an expression");
    let filter = Filter::compile_expression(source, &Schema::with_variables(&names))
        .map_err(|e| e.to_string())?;
    let bound = Arc::new(filter).bind(None).map_err(|e| e.to_string())?;
    let attributes = Attributes::new(ConnectionInfo {
        id: ConnectionId {
            node: NodeId(1),
            shard: 0,
            slot: 0,
            nonce: 0,
        },
        device: None,
        ip: IpAddr::from([127, 0, 0, 1]),
        protocol: "fanfare.v1",
        connected_at: 0,
        node: "n".into(),
    });
    bound
        .evaluate_with(&attributes, &values)
        .map_err(|e| e.to_string())
}

#[test]
fn every_case_of_cel_holds_or_is_a_listed_deviation() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/cel/cases.json");
    let Ok(mut text) = std::fs::read(&path) else {
        println!("no conformance cases here; nothing is checked");
        return;
    };
    let suite = Value::from_json(&mut text, None).expect("the cases are JSON");
    let mut deviations = deviations();
    let mut wrong = Vec::new();
    let cases = suite.get("cases").as_list().expect("a list of cases");
    for case in cases.iter().filter_map(Value::as_map) {
        let id = case.get("id").as_str().expect("an id");
        let got = evaluate(case);
        let holds = match (case.find("value"), &got) {
            (Some(wanted), Ok(got)) => same(&untagged(wanted), got),
            (None, Err(_)) => true,
            _ => false,
        };
        match (holds, deviations.remove(id)) {
            (true, None) | (false, Some(_)) => {}
            (true, Some(reason)) => wrong.push(format!("{id}: listed ({reason}), and holds")),
            (false, None) => {
                wrong.push(format!(
                    "{id}: {} gives {got:?}",
                    case.get("expr").as_str().unwrap_or("")
                ));
            }
        }
    }
    wrong.extend(
        deviations
            .keys()
            .map(|id| format!("{id}: listed, and not there")),
    );
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}
