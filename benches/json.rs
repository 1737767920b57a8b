//! Taking in an event: what keeps `serde_json`'s raw values on the hot path, and `simd-json` where values are built.

#![allow(clippy::unwrap_used, reason = "a bench may end at once")]

use std::{borrow::Cow, hint::black_box};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fanfare::{
    filter::{Layouts, Value},
    protocol::event::{Data, Event},
};
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct Owned<V> {
    event: String,
    data: V,
}

fn body(items: usize) -> String {
    let items: Vec<String> = (0..items)
        .map(|n| format!(r#"{{"id":{n},"name":"item {n}","price":{n}.25,"tags":["a","b"]}}"#))
        .collect();
    format!(
        r#"{{"event":"order","data":{{"items":[{}],"note":"\u00e9 \n"}}}}"#,
        items.join(",")
    )
}

/// From a request's body to the frame that is shared.
fn ingest(c: &mut Criterion) {
    let mut group = c.benchmark_group("ingest");
    for items in [3, 60] {
        let body = body(items);

        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::new("serde_json_raw", body.len()), |b| {
            b.iter(|| {
                let raw: Raw<'_> = serde_json::from_str(black_box(&body)).unwrap();
                Event::new(raw.event, Data::Json(raw.data))
                    .unwrap()
                    .encode()
            });
        });

        group.bench_function(BenchmarkId::new("serde_json_value", body.len()), |b| {
            b.iter(|| {
                let value: Owned<serde_json::Value> =
                    serde_json::from_str(black_box(&body)).unwrap();
                let data = serde_json::value::to_raw_value(&value.data).unwrap();
                Event::new(value.event, Data::Json(&data)).unwrap().encode()
            });
        });

        group.bench_function(BenchmarkId::new("simd_json_value", body.len()), |b| {
            b.iter(|| {
                // It unescapes in place, so that each reading needs a copy.
                let mut bytes = black_box(&body).clone().into_bytes();
                let value: Owned<simd_json::OwnedValue> =
                    simd_json::serde::from_slice(&mut bytes).unwrap();
                let data = simd_json::serde::to_string(&value.data).unwrap();
                let data: &RawValue = serde_json::from_str(&data).unwrap();
                Event::new(value.event, Data::Json(data)).unwrap().encode()
            });
        });
    }
    group.finish();
}

/// From a token's payload to the values that filters see.
fn claims(c: &mut Criterion) {
    let text = r#"{"sub":"user-1","exp":1999999999,"tenant":"t1","plan":"pro","roles":["admin","editor"]}"#;
    let layouts = Layouts::new();

    let mut group = c.benchmark_group("claims");
    group.bench_function("simd_json", |b| {
        b.iter(|| Value::from_json(&mut black_box(text).as_bytes().to_vec(), &layouts).unwrap());
    });

    group.bench_function("serde_json", |b| {
        b.iter(|| {
            let value: serde_json::Value = serde_json::from_str(black_box(text)).unwrap();
            Value::from_serde(&value, &layouts).unwrap()
        });
    });
    group.finish();
}

criterion_group!(benches, ingest, claims);
criterion_main!(benches);
