//! Filters that cost more than they seem to.

use std::fmt::Write as _;

use super::super::{
    arms::Arms,
    attack::{Allowance, Attack, MIB},
};
use crate::error::Result;

pub(super) const ALL: &[Attack] = &[
    Attack {
        name: "int-of-long-text",
        does: "filters that convert a text of 220,000 digits for each of 10,000 items",
        against: "what one evaluation of a filter may cost",
        body: |arms| {
            let l = list("0", 10_000);
            let z = "0".repeat(220_000);
            let params = format!(r#"{{"l":{l},"z":"{z}"}}"#);
            evaluate(arms, "params.l.exists(i, int(params.z))", &params)
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "regex-states",
        does: "filters with a pattern of 800 states over a text of 240,000 letters",
        against: "what one evaluation of a filter may cost",
        body: |arms| {
            let text: String = letters(240_000);
            let params = format!(r#"{{"p":"a[ab]{{800}}[cd]","s":"{text}"}}"#);
            evaluate(arms, "params.s.matches(params.p)", &params)
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "list-comparisons",
        does: "filters that compare two lists of 60,000 items forty times",
        against: "what one evaluation of a filter may cost",
        body: |arms| {
            let l = list("0", 60_000);
            let filter = vec!["params.a != params.b"; 40].join(" || ");
            evaluate(arms, &filter, &format!(r#"{{"a":{l},"b":{l}}}"#))
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "list-membership",
        does: "filters that look for a user in a list of 110,000 items forty times",
        against: "what one evaluation of a filter may cost",
        body: |arms| {
            let l = list("0", 110_000).replacen("[0", "[[]", 1);
            let filter = vec!["user in params.l"; 40].join(" || ");
            evaluate(arms, &filter, &format!(r#"{{"l":{l}}}"#))
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "connection-as-a-value",
        does: "filters that take the whole connection as a value for each of 10,000 items",
        against: "what one evaluation of a filter may cost",
        body: |arms| {
            let params = format!(r#"{{"l":{}}}"#, list("0", 10_000));
            evaluate(arms, "params.l.exists(i, connection)", &params)
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "heavy-scans",
        does: "batches of filters of 10,000 steps over 500 connections, from six callers",
        against: "the scans of another app, and how long a shard is held",
        body: |arms| {
            let crowd = arms.crowd(arms.size(500, 40), |n| {
                let tenant = format!(r#","tenant":"t{n}""#);
                format!("&token={}", arms.token(&format!("u{n}"), &tenant, 3600))
            })?;
            arms.ready()?;
            let filter = "params.l.exists(a, params.l.exists(b, a + b < 0))";
            let item = item(filter, &format!(r#"{{"l":{}}}"#, list("1", 100)));
            let body = batch(&vec![item; 20]);
            arms.post_in_turn(6, "/v1/batch", &[body]);
            drop(crowd);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "regex-cache",
        does: "1,200 different filters of 85 patterns each, in batches, again and again",
        against: "the memory that compiled filters take",
        peak: Allowance {
            bytes: 160 * MIB,
            why: "compiled filters of all apps, 64 MiB, twice while some are replaced, and one batch that compiles",
        },
        after: Allowance {
            bytes: 96 * MIB,
            why: "compiled filters of all apps, 64 MiB, and what evaluating them keeps for a while",
        },
        body: |arms| {
            let crowd = arms.crowd(4, |_| String::new())?;
            let patterns = vec!["user.matches('[ab]{800}')"; 85].join(" || ");
            arms.ready()?;
            let distinct: Vec<_> = (0..arms.size(12, 1))
                .map(|part| {
                    let items: Vec<_> = (0..100)
                        .map(|n| item(&format!("{patterns} // {part}-{n}"), "{}"))
                        .collect();
                    batch(&items)
                })
                .collect();
            arms.post_in_turn(2, "/v1/batch", &distinct);
            drop(crowd);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "patterns-in-params",
        does: "filters with 50 patterns that come as params, and are different each time",
        against: "what compiling a filter may cost before it is admitted",
        body: |arms| {
            let crowd = arms.crowd(4, |_| String::new())?;
            arms.ready()?;
            let filter = (0..50).fold(String::new(), |filter, n| {
                let or = if n == 0 { "" } else { " || " };
                format!("{filter}{or}user.matches(params.p{n})")
            });
            let bodies: Vec<_> = (0..50)
                .map(|round| {
                    let params = (0..50).fold(String::new(), |mut all, n| {
                        let comma = if n == 0 { "" } else { "," };
                        let _ = write!(all, r#"{comma}"p{n}":"[ab]{{{}}}{round}""#, 500 + n);
                        all
                    });
                    item(&filter, &format!("{{{params}}}"))
                })
                .collect();
            arms.post_in_turn(2, "/v1/emit", &bodies);
            drop(crowd);
            Ok(())
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "did-you-mean",
        does: "a param of 4,000 letters that is missing, beside one with a name of 240,000",
        against: "what a refusal may cost",
        body: |arms| {
            let filter = format!("params.{}", "a".repeat(4000));
            let params = format!(r#"{{"{}":0}}"#, "b".repeat(240_000));
            evaluate(arms, &filter, &params)
        },
        ..Attack::PLAIN
    },
    Attack {
        name: "explain-in-a-loop",
        does: "explains 60 nested parts of a costly filter for one connection, in a loop",
        against: "what one call may cost that only looks",
        body: |arms| {
            let client = arms
                .crowd(1, |_| String::new())?
                .pop()
                .ok_or_else(|| crate::error::Error::Failed("no client".to_owned()))?;
            let costly = "params.l.exists(a, params.l.exists(b, a + b < 0))";
            let filter = (0..20).fold(costly.to_owned(), |filter, _| format!("!!({filter})"));
            let params = format!(r#"{{"l":{}}}"#, list("1", 100));
            let id = &client.id;
            let body = format!(r#"{{"filter":"{filter}","params":{params},"connection":"{id}"}}"#);
            arms.ready()?;
            arms.post_in_turn(3, "/v1/explain", &[body]);
            Ok(())
        },
        ..Attack::PLAIN
    },
];

/// Sends an event through a filter, in a loop, to sixty connections: few enough to be served without waiting.
fn evaluate(arms: &Arms, filter: &str, params: &str) -> Result<()> {
    let crowd = arms.crowd(arms.size(60, 4), |n| {
        format!("&token={}", arms.token(&format!("u{n}"), "", 3600))
    })?;
    arms.ready()?;
    arms.post_in_turn(2, "/v1/emit", &[item(filter, params)]);
    drop(crowd);
    Ok(())
}

/// The body of an emit, which is an item of a batch too but for its `call`.
fn item(filter: &str, params: &str) -> String {
    format!(r#"{{"event":"x","filter":"{filter}","params":{params}}}"#)
}

fn batch(items: &[String]) -> String {
    let items: Vec<_> = items
        .iter()
        .map(|item| item.replacen('{', r#"{"call":"emit","#, 1))
        .collect();
    format!(r#"{{"items":[{}]}}"#, items.join(","))
}

/// A list of so many items.
pub(super) fn list(item: &str, count: usize) -> String {
    format!("[{}]", vec![item; count].join(","))
}

/// Letters of which no two stretches are alike.
fn letters(count: usize) -> String {
    let mut state = 1u32;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if state >> 31 == 0 { 'a' } else { 'b' }
        })
        .collect()
}
