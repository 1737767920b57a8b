use super::*;
use crate::{
    Access,
    attributes::{Attributes, tests::facts},
    error::EvalErrorKind,
    explain::Explained,
    index::IndexRef,
};

fn json(text: &str) -> Value {
    Value::from_json(&mut text.as_bytes().to_vec(), None).unwrap()
}

fn someone() -> Attributes {
    let auth = json(
        r#"{"tenant":"t1","age":40,"roles":["a","b"],"text":"x","many":[0,1,2,3,4,5,6,7,8,9]}"#,
    );
    let profile = json(r#"{"status":"away"}"#);
    let channels = json(r#"["room-1","lobby"]"#);
    Attributes {
        auth,
        user: "u1".into(),
        profile,
        channels,
        connection: facts(),
    }
}

fn bound(source: &str, params: &str) -> Bound {
    let schema = Schema::new(&["auth.tenant", "auth.roles"]).unwrap();
    Arc::new(Filter::compile(source, &schema).unwrap())
        .bind(Some(json(params)))
        .unwrap()
}

fn verdict(source: &str) -> Verdict {
    bound(
        source,
        r#"{"t":"t1","users":["u0","u1","u2","u3","u4","u5","u6","u7","u8"],"none":null}"#,
    )
    .matches(&someone())
}

#[test]
fn filters_decide() {
    let matching = [
        "auth.tenant == params.t && profile.status == 'away'",
        "auth.missing == null && auth.banned != true && auth.a.b.c == null",
        "!has(auth.missing) && has(auth.age) && has(connection.device)",
        "user in params.users && user in ['u0', 'u1'] && 'a' in auth.roles",
        "user in ['0','1','2','3','4','5','6','7','8','9','u1']",
        "channels.exists(c, c.startsWith('room-')) && !channels.all(c, c.startsWith('room-'))",
        "auth.age >= 18 && 18 <= auth.age && auth.age < 40.5 && auth.age in [40.0]",
        "connection.protocol == 'fanfare.v1' && connection.ip.startsWith('192.0.2.')",
        "auth.missing >= 18 || true",
        "params.none == auth.missing",
        "matches(auth.text, '^x$') && size(user) == 2 && user.upperAscii() == 'U1'",
        "[1, 2].exists(x, [3, 4].exists(y, x + y == 6 && x == 2))",
        "auth.tenant == auth['ten' + 'ant']",
    ];
    let failing = [
        "auth.missing >= 18",
        "auth.text.x == 1",
        "1 / 0 == 1",
        "'a' in auth.missing",
        "auth.tenant",
    ];
    let other = [
        "false && 1 / 0 == 1",
        "1 / 0 == 1 && false",
        "auth.roles == 'a'",
        "false",
        "user == 1",
    ];

    let wanted: [(&[&str], Verdict); 3] = [
        (&matching, Verdict::Match),
        (&failing, Verdict::Error),
        (&other, Verdict::NoMatch),
    ];
    for (sources, wanted) in wanted {
        for source in sources {
            assert_eq!(verdict(source), wanted, "{source}");
        }
    }
}

#[test]
fn work_is_bounded_whatever_absorbs_the_error() {
    let ten = "auth.many.all(a, auth.many.all(b, auth.many.all(c, auth.many.all(d, auth.many.all(e, true)))))";
    assert_eq!(verdict(ten), Verdict::Error);
    assert_eq!(verdict(&format!("{ten} || true")), Verdict::Error);
    let twice = (0..20).fold("['0123456789']".to_owned(), |list, _| {
        format!("{list}.map(x, x + x)")
    });
    assert_eq!(verdict(&format!("{twice} != []")), Verdict::Error);
    let shared = (0..30).fold("[0]".to_owned(), |list, _| format!("{list}.map(x, [x, x])"));
    let smaller = (0..15).fold("[0]".to_owned(), |list, _| format!("{list}.map(x, [x, x])"));
    assert_eq!(verdict(&format!("{smaller} == {smaller}")), Verdict::Error);
    let built = Filter::compile_expression(&shared, &Schema::default()).unwrap();
    let error = Arc::new(built)
        .bind(None)
        .unwrap()
        .evaluate(&someone())
        .unwrap_err();
    assert_eq!(error.kind, EvalErrorKind::Bytes);
}

#[test]
fn plans_say_what_an_index_answers() {
    let plan = |source: &str| {
        bound(
            source,
            r#"{"t":"t1","l":["a","b","a"],"m":{"k":1},"none":[]}"#,
        )
        .plan()
        .to_string()
    };
    assert_eq!(plan("true"), "everyone");
    assert_eq!(plan("auth.age > 1"), "scan every connection");
    assert_eq!(plan("auth.tenant == params.t"), "index auth.tenant (1 key)");
    assert_eq!(
        plan("'t' == auth.tenant && auth.age > 1"),
        "index auth.tenant (1 key), then evaluate the rest"
    );
    assert_eq!(
        plan("auth.tenant == 't' && user in params.l"),
        "index auth.tenant (1 key), then evaluate the rest"
    );
    assert_eq!(
        plan("auth.tenant == 't' && user == 'u'"),
        "index user (1 key), then evaluate the rest"
    );
    assert_eq!(plan("user in params.l"), "index user (2 keys)");
    assert_eq!(plan("auth.tenant in params.m"), "index auth.tenant (1 key)");
    assert_eq!(plan("'a' in auth.roles"), "index auth.roles (1 key)");
    assert_eq!(plan("auth.tenant == params.l"), "scan every connection");
    assert_eq!(plan("user == 'a' || user == 'b'"), "scan every connection");
    assert_eq!(plan("!(user in params.l)"), "scan every connection");
    for nobody in [
        "user in []",
        "user in params.none",
        "connection.id == 'x'",
        "auth.x && false",
    ] {
        assert_eq!(plan(nobody), "nobody can match", "{nobody}");
    }
    let id = facts().id;
    let by_id = bound(&format!("connection.id == '{id}'"), "{}");
    assert!(
        matches!(&by_id.plan().access, Access::Lookup { index: IndexRef::ConnectionId, keys } if keys.len() == 1)
    );
    assert_eq!(
        (by_id.matches(&someone()), by_id.residual(&someone())),
        (Verdict::Match, Verdict::Match)
    );
}

#[test]
fn params_are_bound_or_refused() {
    let bind = |source: &str, params: &str| {
        let filter = Arc::new(Filter::compile(source, &Schema::default()).unwrap());
        filter
            .bind(Some(json(params)))
            .map(|_| ())
            .map_err(|e| (e.code(), e.message))
    };
    assert_eq!(
        bind("user == params.tenant", r#"{"tenat":1}"#),
        Err((
            "unbound_param",
            "the filter uses params.tenant, but \"params\" has no \"tenant\"; did you mean \"tenat\"?".into()
        ))
    );
    assert_eq!(bind("user == params.a", "[]").unwrap_err().0, "bad_params");
    assert_eq!(
        bind("user.matches(params.p)", r#"{"p":"("}"#)
            .unwrap_err()
            .0,
        "bad_regex"
    );
    assert_eq!(
        bind("user.matches(params.p)", r#"{"p":1}"#).unwrap_err().0,
        "bad_regex"
    );
    assert_eq!(
        bind("user.matches(params.p)", r#"{"p":"a+","unused":1}"#),
        Ok(())
    );
    assert_eq!(bind("user == 'a'", "null"), Ok(()));
}

#[test]
fn explain_shows_every_part_and_warns() {
    let bound = bound(
        "auth.age > 50 || profile.status == params.s",
        r#"{"s":"away"}"#,
    );
    let parts: Vec<(String, String)> = bound
        .explain(&someone())
        .map(|part| {
            (
                part.text,
                part.value
                    .map_or_else(|e| e.to_string(), |v| serde_json::to_string(&v).unwrap()),
            )
        })
        .collect();
    let parts: Vec<(&str, &str)> = parts
        .iter()
        .map(|(text, value)| (&**text, &**value))
        .collect();
    assert_eq!(
        parts[1..4],
        [
            ("auth.age > 50", "false"),
            ("auth.age", "40"),
            ("auth", parts[3].1)
        ]
    );
    assert!(parts.contains(&("profile.status == params.s", "true")));
    assert_eq!(
        bound.warnings().iter().map(|w| w.code).collect::<Vec<_>>(),
        ["client_controlled"]
    );
    let codes = |source: &str, params: &str| {
        self::bound(source, params)
            .warnings()
            .into_iter()
            .map(|w| w.code)
            .collect::<Vec<_>>()
    };
    assert_eq!(codes("auth.a == auth.b", "{}"), ["null_equals_null"]);
    assert_eq!(
        codes("auth.a == params.x", r#"{"x":null}"#),
        ["null_equals_null"]
    );
    assert_eq!(
        codes("auth.a in params.x", r#"{"x":[null]}"#),
        ["null_equals_null"]
    );
    assert!(codes("auth.a == params.x && auth.b == null", r#"{"x":1}"#).is_empty());
    for source in [
        "auth.roles in 'admin'",
        "auth.roles in 5",
        "user.id == 'ann'",
        "has(user.id)",
        "channels.lobby",
    ] {
        assert_eq!(codes(source, "{}"), ["wrong_type"], "{source}");
    }
    for source in [
        "'a' in ['a']",
        "'a' in {'a': 1}",
        "'a' in channels",
        "'a' in auth",
    ] {
        assert!(codes(source, "{}").is_empty(), "{source}");
    }
}

#[test]
fn explain_names_the_kinds_of_an_operation_without_meaning() {
    for (source, says) in [
        ("auth.missing >= 18", "null >= int has no meaning"),
        ("1 + auth.text == 2", "int + string has no meaning"),
        ("auth.missing.size() == 1", "size(null) has no meaning"),
        ("-auth.text == 1", "-string has no meaning"),
        ("user in auth.age", "string in int has no meaning"),
    ] {
        let (bound, someone) = (bound(source, "{}"), someone());
        let parts: Vec<Explained> = bound.explain(&someone).collect();
        assert!(
            parts
                .iter()
                .any(|part| part.detail.as_deref() == Some(says)),
            "{source}: {parts:?}"
        );
    }
    let (bound, someone) = (bound("auth.missing == 18 || 1 / 0 == 1", "{}"), someone());
    assert!(bound.explain(&someone).all(|part| part.detail.is_none()));
}

#[test]
fn filters_cross_threads() {
    fn sync<T: Send + Sync + Clone>() {}
    sync::<Bound>();
    sync::<Arc<Filter>>();
}
