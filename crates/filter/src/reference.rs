//! Every example of docs/reference/filters.md is tried.

use std::sync::Arc;

use super::{Filter, FilterErrorKind, Schema, Value};

const REFERENCE: &str = include_str!("../../../docs/reference/filters.md");

fn refusal(source: &str) -> Option<&'static str> {
    let filter = match Filter::compile(source, &Schema::default()) {
        Ok(filter) => Arc::new(filter),
        Err(error) => return Some(error.code()),
    };
    let params = Value::from_json(&mut br#"{"t":"t1","muted":[]}"#.to_vec(), None).unwrap();
    filter.bind(Some(params)).err().map(|error| error.code())
}

#[test]
fn every_fenced_line_is_a_filter() {
    let fenced = REFERENCE
        .split("```cel\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    let filters: Vec<&str> = fenced.flat_map(str::lines).collect();
    assert!(filters.len() > 10);
    for filter in filters {
        assert_eq!(refusal(filter), None, "{filter}");
    }
}

#[test]
fn every_code_is_listed_with_an_example_that_has_it() {
    for kind in FilterErrorKind::ALL {
        let row = REFERENCE
            .lines()
            .find(|line| line.starts_with(&format!("| `{}` |", kind.code())));
        let row = row.unwrap_or_else(|| panic!("{} is not in the reference", kind.code()));
        let example = row.split('|').nth(3).unwrap_or("").trim().trim_matches('`');
        if !example.is_empty() {
            assert_eq!(refusal(example), Some(kind.code()), "{example}");
        }
    }
}
