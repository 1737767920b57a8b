use super::*;

fn printed(source: &str) -> String {
    parse(source)
        .unwrap_or_else(|e| panic!("{source}: {e}\n{}", e.excerpt(source)))
        .to_string()
}

fn refused(source: &str) -> (&'static str, String, String) {
    let error = parse(source).map(|e| e.to_string()).unwrap_err();
    (
        error.code(),
        error.span.of(source).to_owned(),
        error.message,
    )
}

#[test]
fn operators_bind_as_in_cel() {
    assert_eq!(
        printed("a || b && c == d + e * -f"),
        "(a || (b && (c == (d + (e * (-f))))))"
    );
    assert_eq!(printed("a ? b : c ? d : e"), "(a ? b : (c ? d : e))");
    assert_eq!(printed("a - b - c"), "((a - b) - c)");
    assert_eq!(
        printed("!a.b[0].c(1, x) in [1, 2,]"),
        "((!a.b[0].c(1, x)) in [1, 2])"
    );
    assert_eq!(
        printed("a.map(x, x > 1, {'k': -1})"),
        r#"a.map(x, (x > 1), {"k": (-1)})"#
    );
    assert_eq!(printed("-9223372036854775808"), "(-9223372036854775808)");
    assert_eq!(printed("--1"), "(-((-1)))");
    assert_eq!(printed("has(a.as)"), "has(a.as)");
}

#[test]
fn mistakes_are_named_and_placed() {
    let syntax = |at: &str, message: &str| ("filter_syntax", at.to_owned(), message.to_owned());
    assert_eq!(
        refused("a =="),
        syntax("", "expected a value, found the end")
    );
    assert_eq!(
        refused("a and b"),
        syntax(
            "and",
            "expected the end or an operator, found \"and\"; and is \"&&\""
        )
    );
    assert_eq!(
        refused("[1 2]"),
        syntax("2", "expected \",\" or \"]\", found a number")
    );
    assert_eq!(
        refused("a.in"),
        syntax("in", "\"in\" is a keyword; write [\"in\"]")
    );
    assert_eq!(
        refused("while"),
        syntax("while", "\"while\" is a reserved word")
    );
    assert_eq!(refused("a.all(b.c, true)").1, "b.c");
    assert_eq!(refused("a.all(b)").0, "wrong_arguments");
    assert_eq!(refused("has(a)").0, "wrong_arguments");
    assert_eq!(refused("Foo{a: 1}").0, "filter_unsupported");
    assert_eq!(refused("9223372036854775808").0, "filter_syntax");
    assert_eq!(refused(")").0, "filter_syntax");
    let empty = "the filter is empty; leave \"filter\" out to reach everyone";
    for source in ["", " \n", "// nothing"] {
        assert_eq!(refused(source), syntax("", empty));
    }
}

#[test]
fn what_other_languages_write_is_told_what_it_is_here() {
    for (source, at, hint) in [
        ("not user", "not", "not is \"!\""),
        ("NOT (user == 'a')", "NOT", "not is \"!\""),
        ("a == b && not has(c)", "not", "not is \"!\""),
        ("a not in b", "not", "write !(item in list)"),
        ("a OR b", "OR", "or is \"||\""),
        ("a is 'b'", "is", "did you mean \"==\"?"),
        ("a IN b", "IN", "did you mean \"in\"?"),
        (
            "a contains 'b'",
            "contains",
            "write item in list, or text.contains(part)",
        ),
        ("a LIKE 'b%'", "LIKE", "write text.startsWith(prefix)"),
        ("a <> b", "<>", "did you mean \"!=\"?"),
        ("a === b", "===", "did you mean \"==\"?"),
        ("a !== b", "!==", "did you mean \"!=\"?"),
        ("a =~ 'b'", "=~", "did you mean text.matches(pattern)?"),
        ("a = b", "=", "did you mean \"==\"?"),
        (
            "auth?.tenant == 'b'",
            "?.",
            "a member that is missing is null",
        ),
        ("(a ?? b) == c", "??", "a member that is missing is null"),
        ("a == $t", "$", "a param is written params.name"),
    ] {
        let (code, span, message) = refused(source);
        assert_eq!((code, &*span), ("filter_syntax", at), "{source}: {message}");
        assert!(message.contains(hint), "{source}: {message}");
    }
    // These are good CEL.
    for source in ["a ?.5 : b", "not in b", "not == 1", "a<b", "!a", "a!=b"] {
        assert!(parse(source).is_ok(), "{source}");
    }
}

#[test]
fn every_bound_refuses() {
    let repeat = |part: &str, n: usize| part.repeat(n);
    assert_eq!(refused(&repeat("a ", 3000)).0, "filter_too_long");
    for deep in [
        format!("{}a{}", repeat("(", 65), repeat(")", 65)),
        format!("{}a{}", repeat("[", 65), repeat("]", 65)),
        format!("{}a", repeat("!", 64)),
        format!("{}a", repeat("-", 200)),
        format!("a{}", repeat(".b", 64)),
        format!("a{}", repeat("+a", 64)),
        format!("{}a", repeat("a ? a : ", 65)),
        format!("{}a{}", repeat("a[", 65), repeat("]", 65)),
    ] {
        assert_eq!(refused(&deep).0, "filter_too_deep", "{deep}");
    }
    assert!(parse(&format!("{}a", repeat("!", 63))).is_ok());
    assert!(parse(&format!("{}a", repeat("a || ", 200))).is_ok());
    assert_eq!(
        refused(&format!("{}a", repeat("a||", 256))).0,
        "filter_too_large"
    );
    assert!(parse(&format!("a in [{}]", repeat("1,", 1024))).is_ok());
    assert_eq!(
        refused(&format!("a in [{}]", repeat("1,", 1025))).0,
        "filter_list_too_long"
    );
    assert!(parse(&format!("a in [{}]", repeat("-1,", 1000))).is_ok());
}

#[test]
fn what_is_printed_reads_as_the_same() {
    for source in [
        "a || b && (c || d) && e",
        "-(-1.5e300) - -2",
        "'\\u0001\\'\"'.size()",
        "(a && b) && c",
        "- - a",
    ] {
        let once = printed(source);
        assert_eq!(printed(&once), once);
    }
}
