//! No construct of the language does more than it charges: each is tried with the worst input that fits a body, and what
//! was really done is held against what was charged.

use std::sync::Arc;

use super::{
    attributes::{Attributes, tests::facts},
    compiled::Filter,
    index::Schema,
    runtime::Param,
    tally,
    value::Value,
};
use crate::limits;

/// An expression outside macros that compares no more than a few bytes is bounded by the filter's size, and costs none:
/// so much for each of its nodes.
const FREE: usize = 256 * 300;

/// The longest body of a call by default.
const BODY_BYTES: usize = 1024 * 1024;

/// How far what was done may be beyond what was charged: both are in nanoseconds, more or less.
const TOLERANCE: usize = 4;

/// An expression with the params that make it as slow as it gets.
struct Row {
    expression: &'static str,
    params: String,
}

fn row(expression: &'static str, params: &[(&str, String)]) -> Row {
    let members: Vec<String> = params
        .iter()
        .map(|(name, json)| format!("\"{name}\":{json}"))
        .collect();
    let params = format!("{{{}}}", members.join(","));
    assert!(params.len() < BODY_BYTES, "{expression}");
    Row { expression, params }
}

fn text(of: &str, length: usize) -> String {
    format!("\"{}\"", of.repeat(length / of.len()))
}

fn list(first: &str, item: &str, length: usize) -> String {
    format!("[{first}{}]", format!(",{item}").repeat(length))
}

/// A map of `count` members, whose long names differ only at their ends.
fn map(count: usize, name: usize) -> String {
    let member = |n: usize| format!("\"{}{n:06}\":1", "k".repeat(name));
    let members: Vec<String> = (0..count).map(member).collect();
    format!("{{{}}}", members.join(","))
}

/// Tests that are false or an error, so that nothing ends a chain of them early.
#[expect(clippy::too_many_lines, reason = "a table")]
fn rows() -> Vec<Row> {
    const HALF: usize = 120_000;
    let zeros = || text("0", 2 * HALF);
    let halves = || [("a", text("x", HALF)), ("b", text("x", HALF))];
    let key = |length: usize, end: &str| format!("\"{}{end}\"", "k".repeat(length));

    let mut rows = vec![
        row("int(params.z) == 1", &[("z", zeros())]),
        row("double(params.z) == 1.5", &[("z", zeros())]),
        row("string(params.z) == 'x'", &[("z", zeros())]),
        row("string(1e308 * 10.0 / 3.0) == 'x'", &[]),
        row("size(params.z) == 1", &[("z", zeros())]),
        row("params.z.lowerAscii() == 'x'", &[("z", zeros())]),
        row("params.z.upperAscii() == 'x'", &[("z", zeros())]),
        row(
            "params.z.matches(params.p)",
            &[
                ("p", "\"a[ab]{300}[cd]\"".to_owned()),
                ("z", text("ab", 2 * HALF)),
            ],
        ),
        row("params.z.matches('^(a+)+$')", &[("z", text("a", 2 * HALF))]),
        row(
            "params.l in params.a",
            &[("l", list("0", "0", HALF)), ("a", "{}".to_owned())],
        ),
        row("user in params.l", &[("l", list("[]", "0", HALF - 2))]),
        row(
            "params.e in params.l",
            &[("e", "[1]".to_owned()), ("l", list("[]", "0", HALF - 20))],
        ),
        row(
            "params.e in params.l",
            &[("e", "[1]".to_owned()), ("l", list("[]", "[]", HALF / 2))],
        ),
        row(
            "params.z in ['1','2','3','4','5','6','7','8','9']",
            &[("z", zeros())],
        ),
        row("'x' in params.l", &[("l", list("0", "\"y\"", HALF / 3))]),
        row(
            "params.l == params.m",
            &[
                ("l", list("0", "0", HALF / 2)),
                ("m", list("1", "0", HALF / 2 - 1)),
            ],
        ),
        row(
            "params.l + params.l == params.l",
            &[("l", list("0", "0", HALF))],
        ),
        row("params.l[0] == 1", &[("l", list("0", "0", HALF))]),
        row(
            "params.m[params.k] == 2",
            &[("m", map(2, HALF / 2 - 20)), ("k", key(HALF / 2, "x"))],
        ),
        row(
            "params.m[params.k] == 2",
            &[("m", map(1000, 200)), ("k", key(200, "x"))],
        ),
        row(
            "params.k in params.m",
            &[("m", map(2, HALF / 2 - 20)), ("k", key(HALF / 2, "x"))],
        ),
        row(
            "params.m == params.n",
            &[
                ("m", map(400, 200)),
                ("n", map(400, 200).replace(":1}", ":2}")),
            ],
        ),
        row(
            "params.m == params.n",
            &[
                ("m", map(1, HALF - 50)),
                ("n", map(1, HALF - 50).replace(":1}", ":2}")),
            ],
        ),
        row("{params.a: 1, params.b: 2} == {}", &halves()),
        row("{params.a: 1, 'b': 2} == {}", &[("a", text("x", HALF))]),
        row("[params.a, params.b] == [params.b, 1]", &halves()),
        row("params.a == params.b && false", &halves()),
        row("params.a != params.b", &halves()),
        row("params.a > params.b", &halves()),
        row("params.a.startsWith(params.b) && false", &halves()),
        row("params.a.endsWith(params.b) && false", &halves()),
        row("params.a.contains(params.b) && false", &halves()),
        row(
            "params.a.contains(params.b)",
            &[("a", text("xy", HALF)), ("b", text("y", 1000))],
        ),
        row("params.a + params.b == 'x'", &halves()),
        row("has(params.m.k) && false", &[("m", map(1000, 200))]),
        row(
            "params.m.kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk == 2",
            &[("m", map(1000, 200))],
        ),
        row("connection == {}", &[]),
        row("connection.id == 'x'", &[]),
        row("connection.ip == 'x'", &[]),
        row("connection.node < 'a'", &[]),
        row("[connection, connection].size() == 1", &[]),
        row("(1 + 2) * 3 / 4 % 5 - 6 == -1000", &[]),
        row("!(user == user)", &[]),
        row("user == 'x' ? false : user > 'z'", &[]),
    ];

    let walked = || [("l", list("0", "0", HALF))];
    rows.extend([
        row("!params.l.all(i, i == 0)", &walked()),
        row("params.l.exists(i, i > 0)", &walked()),
        row("params.l.exists_one(i, i > 0)", &walked()),
        row("params.l.map(i, [i]) == []", &walked()),
        row("params.l.map(i, i == 0, string(i)) == []", &walked()),
        row("params.l.filter(i, i == 0) == []", &walked()),
        row("params.m.exists(k, k == 'x')", &[("m", map(1000, 200))]),
        row(
            "params.l.exists(a, params.l.exists(b, a + b > 0))",
            &walked(),
        ),
        row(
            "params.l.exists(a, [1].exists(b, [1].exists(c, [1].exists(d, [1].exists(e, a > 0)))))",
            &walked(),
        ),
    ]);

    rows
}

/// Evaluates `filter`; returns what was done and what was charged.
fn cost(filter: &str, params: &str) -> Option<(usize, usize)> {
    let filter = Filter::compile(filter, &Schema::default()).ok()?;
    let params = Value::from_json(&mut params.as_bytes().to_vec(), None).unwrap();
    let bound = Arc::new(filter).bind(Some(params)).unwrap();
    let mut attributes = Attributes::new(facts());
    attributes.user = "u".into();

    tally::take();
    let judged = bound.judge(&attributes);
    Some((tally::take(), judged.work as usize))
}

#[test]
fn nothing_does_more_than_it_charges() {
    for Row { expression, params } in rows() {
        let chain = vec![format!("({expression})"); 60];
        let chains = [1, 2, 8, 20, 60].map(|times| chain[..times].join(" || "));
        let members = params.strip_prefix('{').unwrap();
        let walking = format!("{{\"w\":{},{members}", list("0", "0", 5000)).replace(",}", "}");

        let mut tried = 0;
        let alone = chains.iter().map(|chain| (chain.clone(), &params));
        let walked = [format!("params.w.exists(w, {expression})")];

        for (filter, params) in alone.chain(walked.map(|walked| (walked, &walking))) {
            let Some((done, charged)) = cost(&filter, params) else {
                continue;
            };
            tried += 1;
            assert!(
                done <= TOLERANCE * charged + FREE,
                "{expression}: {done} done, {charged} charged, in {} bytes",
                filter.len()
            );
            let most = limits::FILTER_STEPS * limits::FILTER_STEP_WORK + limits::FILTER_WORK_BYTES;
            assert!(charged <= most as usize, "{expression}: {charged}");
        }

        assert!(tried >= 4, "{expression}: {tried}");
    }
}

#[test]
fn the_table_has_every_function_operator_and_macro() {
    let rows = rows();
    let names = super::functions::names().chain([
        "==",
        "!=",
        "<",
        ">",
        " in ",
        "&&",
        "||",
        "?",
        "+",
        "-",
        "*",
        "/",
        "%",
        "!",
        "[",
        "{",
        "has(",
        "connection.id",
        "connection ",
    ]);

    for name in names {
        let is_there = name == "||" || rows.iter().any(|row| row.expression.contains(name));
        assert!(is_there, "{name}");
    }
}

#[test]
fn only_what_may_take_long_is_heavy() {
    let bound = |filter: &str, params: &str| {
        let filter = Filter::compile(filter, &Schema::new(&["auth.tenant"]).unwrap()).unwrap();
        let params = Value::from_json(&mut params.as_bytes().to_vec(), None).unwrap();
        Arc::new(filter).bind(Some(params)).unwrap()
    };

    let names = list("\"a\"", "\"b\"", 100);
    let common = format!("{{\"t\":\"t1\",\"l\":{names}}}");
    for light in [
        "auth.tenant == params.t && profile.status == 'away'",
        "user in params.l && 'admin' in auth.roles && !(user in ['a', 'b'])",
        "auth.age >= 18 && user.startsWith('u') && size(channels) < 5",
        "has(auth.team) && auth.team.lead == user && connection.device != null",
    ] {
        assert!(!bound(light, &common).is_heavy(), "{light}");
    }

    let large = format!(
        "{{\"t\":{},\"l\":{}}}",
        text("x", 100_000),
        list("[]", "0", 1000)
    );

    for (heavy, params) in [
        ("channels.exists(c, c == 'a')", &common),
        ("user.matches('^a')", &common),
        ("int(auth.age) == 3", &common),
        ("auth.name + 'x' == user", &common),
        ("auth.name.contains('x')", &common),
        ("connection == params.t", &common),
        ("user == params.t", &large),
        ("user in params.l", &large),
    ] {
        assert!(bound(heavy, params).is_heavy(), "{heavy}");
    }

    // What an index answers is not evaluated.
    assert!(!bound("auth.tenant == params.t", &large).is_residual_heavy());
    assert!(bound("auth.tenant == params.t && user in params.l", &large).is_residual_heavy());
}

#[test]
fn a_list_with_lists_among_its_scalars_is_searched_as_one_without() {
    let items = |others: &str| list(others, "\"x\",1,2.5,null,true", 20);
    for (test, wanted) in [
        (
            "'x' in params.l && 1.0 in params.l && null in params.l && !(false in params.l)",
            true,
        ),
        ("[] in params.l || {} in params.l", false),
        ("[2] in params.l", true),
    ] {
        let filter = Arc::new(Filter::compile(test, &Schema::default()).unwrap());
        let mut params = format!("{{\"l\":{}}}", items("[2]")).into_bytes();
        let bound = filter
            .bind(Some(Value::from_json(&mut params, None).unwrap()))
            .unwrap();
        let verdict = bound.matches(&Attributes::new(facts()));
        assert_eq!(verdict == super::Verdict::Match, wanted, "{test}");
    }

    let none = Param {
        value: Value::Null,
        set: None,
        pattern: None,
    };

    assert!(!none.has_null());
}

#[test]
fn one_conjunct_is_planned_however_many_name_a_long_list() {
    let schema = Schema::new(&["auth.a", "auth.b"]).unwrap();
    let long = list("0", "0", 100_000);
    let plan = |filter: &str| {
        let filter = Arc::new(Filter::compile(filter, &schema).unwrap());
        let mut params = format!("{{\"l\":{long},\"s\":[1,2]}}").into_bytes();
        let params = Value::from_json(&mut params, None).unwrap();
        filter.bind(Some(params)).unwrap().plan().to_string()
    };

    let many = ["auth.a in params.l"; 45].join(" && ");
    assert_eq!(
        plan(&many),
        "scan every connection",
        "beyond what a target may name"
    );

    assert_eq!(
        plan(&format!("{many} && auth.b in params.s")),
        "index auth.b (2 keys), then evaluate the rest"
    );
}
