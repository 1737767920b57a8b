use super::*;
use crate::parser::parse;

fn refused(source: &str) -> (&'static str, String, String) {
    let error = parse(source)
        .and_then(|expr| check(&expr, &[]))
        .and_then(|checked| require_bool(&checked.root));
    let error = error.unwrap_err();
    (
        error.code(),
        error.span.of(source).to_owned(),
        error.message,
    )
}

#[test]
fn unknown_names_come_with_a_suggestion_also_beside_or() {
    let is =
        |code: &'static str, at: &str, message: &str| (code, at.to_owned(), message.to_owned());
    assert_eq!(
        refused("true || usr == 'a'"),
        is(
            "undeclared_name",
            "usr",
            "unknown variable \"usr\"; did you mean \"user\"?"
        )
    );
    assert_eq!(
        refused("connection.devise == 'a'"),
        is(
            "undeclared_name",
            "connection.devise",
            "connection has no \"devise\"; did you mean \"device\"?"
        )
    );
    assert_eq!(
        refused("true || user.startWith('a')"),
        is(
            "unknown_function",
            "startWith",
            "unknown method startWith(); did you mean \"startsWith\"?"
        )
    );
    assert_eq!(refused("channels.exist(c, true)").0, "unknown_function");
    assert_eq!(refused("x.exists(x, x)").0, "undeclared_name");
}

#[test]
fn a_name_without_auth_or_without_quotes_is_told_so() {
    for (source, at, message) in [
        (
            "tenant == params.t",
            "tenant",
            "unknown variable \"tenant\"; a claim of the token is auth.tenant",
        ),
        (
            "params.t == tenant",
            "tenant",
            "unknown variable \"tenant\"; a claim of the token is auth.tenant",
        ),
        (
            "token.tenant == params.t",
            "token",
            "unknown variable \"token\"; a claim of the token is auth.tenant",
        ),
        (
            "claims['time zone'] == 'x'",
            "claims",
            "unknown variable \"claims\"; claims of the token are in auth",
        ),
        (
            "auth.tenant == acme",
            "acme",
            "unknown variable \"acme\"; a text is in quotes: \"acme\"",
        ),
        (
            "user != ann",
            "ann",
            "unknown variable \"ann\"; a text is in quotes: \"ann\"",
        ),
        (
            "admin in auth.roles",
            "admin",
            "unknown variable \"admin\"; a text is in quotes: \"admin\"",
        ),
        (
            "auth.vip == True",
            "True",
            "unknown variable \"True\"; did you mean \"true\"?",
        ),
        (
            "auth.vip != None",
            "None",
            "unknown variable \"None\"; did you mean \"null\"?",
        ),
    ] {
        let (code, span, said) = refused(source);
        assert_eq!(
            (code, &*span, &*said),
            ("undeclared_name", at, message),
            "{source}"
        );
    }
}

#[test]
fn functions_of_other_languages_are_told_what_they_are_here() {
    for (source, hint) in [
        (
            "auth.roles.includes('admin')",
            "; write \"admin\" in auth.roles",
        ),
        ("len(channels) > 2", "; did you mean \"size\"?"),
        (
            "user.toLowerCase() == 'a'",
            "; did you mean \"lowerAscii\"?",
        ),
        ("channels.some(c, true)", "; did you mean \"exists\"?"),
        ("not(user == 'a')", "; not is \"!\""),
    ] {
        let (_, _, said) = refused(source);
        assert!(said.ends_with(hint), "{source}: {said}");
    }
    let long = format!("auth.{}.includes('a')", "x".repeat(2000));
    assert!(refused(&long).2.ends_with("; write item in list"));
}

#[test]
fn functions_want_their_own_arguments() {
    for source in [
        "size()",
        "size(user, user)",
        "startsWith(user, 'a')",
        "user.startsWith()",
        "user.int()",
    ] {
        assert_eq!(refused(source).0, "wrong_arguments", "{source}");
    }
    for source in [
        "timestamp('x') < 1",
        "uint(1) == 1",
        "type(user) == 1",
        "user.getHours() == 1",
    ] {
        assert_eq!(refused(source).0, "filter_unsupported", "{source}");
    }
}

#[test]
fn params_are_named_one_by_one() {
    for source in [
        "params == 1",
        "params[user]",
        "has(params.x)",
        "params.exists(p, true)",
        "user in params",
    ] {
        assert_eq!(refused(source).0, "bad_params", "{source}");
    }
    let expr = parse("params.a == params['b'] && params.a").unwrap();
    let names: Vec<_> = check(&expr, &[])
        .unwrap()
        .params
        .iter()
        .map(|param| param.name.to_string())
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert!(check(&parse("[1].exists(params, params == 1)").unwrap(), &[]).is_ok());
}

#[test]
fn what_is_never_a_bool_is_no_filter() {
    for source in [
        "1 + 1",
        "'x'",
        "user",
        "auth",
        "[1]",
        "channels.map(c, c)",
        "true ? 1 : 'a'",
        "-auth.x",
    ] {
        assert_eq!(refused(source).0, "not_boolean", "{source}");
    }
    for source in ["auth.x", "true ? auth.x : 1", "params.x", "channels[0]"] {
        let checked = check(&parse(source).unwrap(), &[]).unwrap();
        assert!(require_bool(&checked.root).is_ok(), "{source}");
    }
}

#[test]
fn patterns_are_bounded_and_constant() {
    for source in [
        "user.matches(auth.p)",
        "user.matches('(')",
        "user.matches('(a{1000}){1000}')",
    ] {
        assert_eq!(refused(source).0, "bad_regex", "{source}");
    }
}
