//! The filter language: parsing, compiling, the cache, and one evaluation, beside the same test written by hand in
//! Rust over the same attributes and beside the `cel` crate.
//!
//! Corpus: 1,024 connections with seven claims, a profile, a user and three channels each. `hit` runs over those for
//! which the filter is true, `miss` over those for which it is false; one iteration is one evaluation.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{collections::HashSet, hint::black_box, net::IpAddr, sync::Arc};

use criterion::{
    BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use fanfare::{
    filter::{Attributes, ConnectionInfo, Filter, FilterCache, Layouts, Schema, Value, Verdict},
    id::{ConnectionId, NodeId},
};

type Hand = Box<dyn Fn(&Attributes) -> bool>;

fn connection(number: u32, layouts: &Layouts) -> Attributes {
    let hit = number.is_multiple_of(2);
    let auth = serde_json::json!({
        "sub": format!("u{number}"),
        "email": format!("u{number}@example.com"),
        "tenant": if hit { "t1" } else { "t2" },
        "roles": if hit { ["reader", "writer", "admin"] } else { ["reader", "writer", "guest"] },
        "age": if hit { 40 } else { 12 },
        "verified": true,
        "plan": "free",
    });
    let profile = serde_json::json!({"status": if hit { "away" } else { "here" }, "name": format!("n{number}")});
    let room = if hit { "room-7" } else { "hall-7" };

    Attributes {
        auth: Value::from_serde(&auth, layouts).unwrap(),
        user: Value::from(&*format!(
            "u{}",
            if hit { number % 100 } else { number + 1000 }
        )),
        profile: Value::from_serde(&profile, layouts).unwrap(),
        channels: vec![Value::from("lobby"), Value::from("news"), Value::from(room)].into(),
        connection: ConnectionInfo {
            id: ConnectionId {
                node: NodeId(1),
                shard: 0,
                slot: number,
                nonce: 1,
            },
            device: None,
            ip: IpAddr::from([192, 0, 2, 1]),
            protocol: "fanfare.v1",
            connected_at: 1_700_000_000,
            node: "n1".into(),
        },
    }
}

fn names() -> Vec<String> {
    (0..100).map(|name| format!("u{name}")).collect()
}

/// Filters with what one would write by hand: look-ups by key in the same maps.
fn subjects() -> Vec<(&'static str, &'static str, Hand)> {
    let listed: HashSet<String, ahash::RandomState> = names().into_iter().collect();
    let text = |value: &Value, wanted: &str| value.as_str() == Some(wanted);

    vec![
        (
            "equals",
            r#"auth.tenant == "t1""#,
            Box::new(move |a| text(a.auth.get("tenant"), "t1")),
        ),
        (
            "not_equals",
            r#"auth.tenant != "t2""#,
            Box::new(move |a| !text(a.auth.get("tenant"), "t2")),
        ),
        (
            "two_terms",
            r#"auth.tenant == params.t && profile.status == "away""#,
            Box::new(move |a| {
                text(a.auth.get("tenant"), "t1") && text(a.profile.get("status"), "away")
            }),
        ),
        (
            "at_least",
            "auth.age >= 18",
            Box::new(|a| matches!(a.auth.get("age"), Value::Int(age) if *age >= 18)),
        ),
        (
            "in_roles",
            r#""admin" in auth.roles"#,
            Box::new(move |a| {
                a.auth
                    .get("roles")
                    .as_list()
                    .is_some_and(|l| l.iter().any(|v| text(v, "admin")))
            }),
        ),
        (
            "in_100_names",
            "user in params.names",
            Box::new(move |a| a.user.as_str().is_some_and(|user| listed.contains(user))),
        ),
        (
            "starts_with",
            r#"profile.status.startsWith("aw")"#,
            Box::new(|a| {
                a.profile
                    .get("status")
                    .as_str()
                    .is_some_and(|status| status.starts_with("aw"))
            }),
        ),
        (
            "exists",
            r#"channels.exists(c, c.startsWith("room-"))"#,
            Box::new(|a| {
                let starts = |c: &Value| c.as_str().is_some_and(|c| c.starts_with("room-"));
                a.channels
                    .as_list()
                    .is_some_and(|channels| channels.iter().any(starts))
            }),
        ),
    ]
}

fn params() -> serde_json::Value {
    serde_json::json!({"t": "t1", "names": names()})
}

fn to_cel(value: &serde_json::Value) -> cel::Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => cel::Value::Null,
        Json::Bool(value) => cel::Value::Bool(*value),
        Json::Number(number) => number
            .as_i64()
            .map_or_else(|| number.as_f64().unwrap().into(), Into::into),
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => items.iter().map(to_cel).collect::<Vec<_>>().into(),
        Json::Object(members) => members
            .iter()
            .map(|(k, v)| (k.clone(), to_cel(v)))
            .collect::<std::collections::HashMap<_, _>>()
            .into(),
    }
}

fn cel_context(attributes: &Attributes) -> cel::Context<'static, 'static> {
    let mut context = cel::Context::default();
    for (name, value) in [
        ("auth", &attributes.auth),
        ("user", &attributes.user),
        ("profile", &attributes.profile),
        ("channels", &attributes.channels),
    ] {
        context.add_variable_from_value(name, to_cel(&serde_json::to_value(value).unwrap()));
    }

    context.add_variable_from_value("params", to_cel(&params()));
    context
}

fn over<T>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    corpus: &[T],
    evaluate: impl Fn(&T) -> bool,
) {
    group.bench_function(name, |b| {
        let mut at = 0;
        b.iter(|| {
            at = (at + 1) % corpus.len();
            black_box(evaluate(black_box(&corpus[at])))
        });
    });
}

fn evaluation(c: &mut Criterion) {
    let layouts = Layouts::new();
    let (hits, misses): (Vec<_>, Vec<_>) = (0..1024)
        .map(|number| connection(number, &layouts))
        .partition(|a| a.connection.id.slot % 2 == 0);

    for (name, source, hand) in subjects() {
        let filter = Arc::new(Filter::compile(source, &Schema::default()).unwrap());
        let bound = filter
            .bind(Some(Value::from_serde(&params(), None).unwrap()))
            .unwrap();
        let program = cel::Program::compile(source).unwrap();

        for (case, corpus) in [("hit", &hits), ("miss", &misses)] {
            let wanted = case == "hit";
            // Only what gives the same answers is compared.
            assert!(
                corpus
                    .iter()
                    .all(|a| hand(a) == wanted && (bound.matches(a) == Verdict::Match) == wanted)
            );

            let mut group = c.benchmark_group(format!("{name}/{case}"));
            over(&mut group, "filter", corpus, |a| {
                bound.matches(a) == Verdict::Match
            });
            over(&mut group, "by_hand", corpus, &hand);

            // Each context has a copy of all values, so a few of them must do.
            let contexts: Vec<_> = corpus.iter().take(64).map(cel_context).collect();
            over(&mut group, "cel", &contexts, |context| {
                program.execute(context) == Ok(wanted.into())
            });
        }
    }
}

fn preparation(c: &mut Criterion) {
    let source =
        r#"auth.tenant == params.t && profile.status == "away" && !(user in params.names)"#;
    let schema = Schema::new(&["auth.tenant"]).unwrap();
    let cache = FilterCache::new();
    let filter = cache.get_or_compile(source, &schema).unwrap().filter;
    let params = Value::from_serde(&params(), None).unwrap();

    let mut group = c.benchmark_group("prepare");
    group.bench_function("compile", |b| {
        b.iter(|| Filter::compile(black_box(source), &schema));
    });
    group.bench_function("cel_parse", |b| {
        b.iter(|| cel::Program::compile(black_box(source)));
    });
    group.bench_function("cache_hit", |b| {
        b.iter(|| cache.get_or_compile(black_box(source), &schema));
    });
    group.bench_function("bind", |b| b.iter(|| filter.bind(Some(params.clone()))));

    let claims = serde_json::to_vec(&connection(1, &Layouts::new()).auth).unwrap();
    let layouts = Layouts::new();
    // A layout lives while something has it. On a server, another connection nearly always does.
    let _kept = Value::from_json(&mut claims.clone(), &layouts);
    group.bench_function("claims_from_json", |b| {
        b.iter(|| Value::from_json(&mut claims.clone(), &layouts));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(600))
        .sample_size(20);
    targets = preparation, evaluation
}
criterion_main!(benches);
