//! axe-core finds nothing to complain of, whatever the page shows, and phones see what has just happened.

use std::path::Path;

use super::*;

/// The source of axe-core, which runs in the page.
fn axe() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/page-tools/node_modules/axe-core/axe.min.js");
    std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error} (make setup-test installs it)", path.display()))
}

/// Runs all rules in light and dark, on a laptop and on a phone, and keeps a picture of each.
fn check(page: &mut Page, axe: &str, state: &str) {
    page.eval(&format!("{axe}; 0"));
    for scheme in ["light", "dark"] {
        for width in [1280, 820, 390] {
            page.look(scheme, width);
            assert!(page.fits(width), "{state} is wider than {width} pixels");
            page.photograph(&format!("page-{state}-{width}-{scheme}.png"));
            let found = page.eval(
                "axe.run(document, { rules: { 'target-size': { enabled: true } } }).then(({ passes, violations }) => \
                 ({ passed: passes.length, violations: violations.map(({ id, help, nodes }) => \
                 ({ id, help, nodes: nodes.map(({ html, failureSummary }) => [html, failureSummary]) })) }))",
            );
            assert_eq!(
                found["violations"],
                json!([]),
                "{state}, {width}, {scheme}: {found:#}"
            );
            assert!(found["passed"].as_u64().unwrap() > 10, "{found}");
        }
    }
    page.look("light", 1280);
}

#[test]
fn axe_finds_no_violation_in_any_state() {
    let server = keeping_server();
    let axe = axe();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    check(&mut page, &axe, "start");

    let mut carol = server.client("carol", &json!({ "plan": "pro" }));
    carol.join("room-1");
    connect(&mut page, "ann", ANN);
    connect(&mut page, "bob", BOB);
    emit(&mut page, r#"{"headline":"Rain over the harbour"}"#, "", "");
    emit(
        &mut page,
        "\"Hello\"",
        "auth.email == params.email",
        r#"{"email":"ann@example.com"}"#,
    );
    page.wait_for("document.querySelectorAll('#events .event:not(.protocol)').length === 3");
    page.wait_for("document.querySelectorAll('.other').length === 1");
    check(&mut page, &axe, "events");

    page.submit("#channel", "#channel [value=join]");
    page.submit("#profile", "#profile button");
    page.submit("#send", "#send button");
    page.submit("#channel", "[form=channel][value=members]");
    check(&mut page, &axe, "members");
    page.submit("#channel", "[form=channel][value=history]");
    check(&mut page, &axe, "history");

    submit_event(&mut page, "explain", "1", "auth.age >= 16", "");
    page.submit("#channel", "[form=channel][value=channels]");
    check(&mut page, &axe, "explain");
    submit_event(
        &mut page,
        "explain",
        "1",
        "auth.age >= 18 && atuh.plan == \"pro\"",
        "",
    );
    page.click("#connect summary");
    server.call(
        "/v1/disconnect",
        &json!({ "to": { "users": ["bob"] }, "reason": "signed out" }),
    );
    page.wait_for("document.querySelector('.status.closed') !== null");
    check(&mut page, &axe, "problem");
}

#[test]
fn axe_finds_no_violation_where_a_key_is_needed() {
    let server = keyed_server(|config| config.listen = "0.0.0.0:0".parse().unwrap());
    let local = format!("http://127.0.0.1:{}/", server.address().port());
    let keyed = keyed_server(|_| {});
    let axe = axe();
    let browser = Browser::start();

    let mut page = open(&browser, &keyed);
    page.fill("[name=key]", "not-the-key-of-this-server");
    page.submit("#key", "#key button");
    check(&mut page, &axe, "key");
    let mut page = browser.open(&local);
    check(&mut page, &axe, "not-here");
}

/// Whether all of an element can be seen without scrolling.
fn in_view(page: &mut Page, element: &str) -> bool {
    let expression = format!(
        "(() => {{ const {{ top, bottom }} = ({element}).getBoundingClientRect(); \
         return top >= 0 && bottom <= innerHeight; }})()"
    );
    page.eval(&expression) == true
}

#[test]
fn on_a_phone_what_happens_is_in_view() {
    let server = server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    page.look("light", 390);

    // After Connect: the client, and what it receives then.
    page.eval("document.querySelector('#connect button.main').scrollIntoView({ block: 'end' })");
    connect(&mut page, "ann", ANN);
    assert!(in_view(&mut page, &own("ann")));
    server.call(
        "/v1/emit",
        &json!({ "event": "alert", "data": "Hello", "filter": "user == 'ann'" }),
    );
    page.wait_for(&format!(
        "{}.innerText.includes('alert \"Hello\"')",
        own("ann")
    ));
    assert!(in_view(&mut page, &own("ann")));

    // After Emit: its answer, with the way to the command.
    page.eval("document.querySelector('#emit button.main').scrollIntoView({ block: 'end' })");
    emit(&mut page, "1", "", "");
    assert!(in_view(&mut page, "document.getElementById('answer')"));
    page.click("#answer .to-command");
    assert!(in_view(
        &mut page,
        "document.getElementById('command-title')"
    ));

    // After Join and after History: the answer, and the view.
    page.submit("#channel", "#channel [value=join]");
    assert!(in_view(
        &mut page,
        "document.getElementById('channel-answer')"
    ));
    page.submit("#channel", "[form=channel][value=members]");
    assert!(in_view(&mut page, "document.getElementById('view-title')"));

    // Someone who wants no motion gets none.
    let moving = page.eval("document.getAnimations().length");
    assert_eq!(moving, 0);
}
