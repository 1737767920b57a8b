//! Whatever clients call themselves, and whatever they send, is text.

use super::*;

const SCRIPT: &str =
    "<img src=x onerror=\"globalThis.broken=1\"><script>globalThis.broken=1</script>";

fn nothing_has_run(page: &mut Page) {
    let injected = "document.scripts.length !== 1 || document.images.length > 0 || 'broken' in globalThis \
                    || document.querySelector('main svg, main style, iframe, object, base') !== null \
                    || [...document.links].some((link) => link.protocol === 'javascript:')";
    assert_eq!(page.eval(injected), false);
}

#[test]
fn names_data_profiles_and_reasons_are_never_markup() {
    let server = keeping_server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    let claims = json!({ SCRIPT: SCRIPT });

    // Of another client: its user, claims, profile and what it sends.
    let mut mallory = server.client(SCRIPT, &claims);
    mallory.join("room-1");
    mallory.acked(&json!({ "op": "update", "id": 1, "data": { SCRIPT: SCRIPT } }));
    page.wait_for("document.querySelectorAll('.other').length === 1");
    page.wait_for("document.querySelector('.other').innerText.includes('profile')");
    let shown = page.text(".other");
    assert!(shown.contains(SCRIPT), "{shown}");

    // Of the page's own client, as if someone had pasted it.
    connect(&mut page, SCRIPT, &claims.to_string());
    page.submit("#channel", "#channel [value=join]");
    let event = &SCRIPT[..SCRIPT.len().min(128)];
    mallory.acked(&json!({
        "op": "send", "id": 2, "channel": "room-1", "event": event, "data": { SCRIPT: [SCRIPT] },
        "echo": false,
    }));
    page.wait_for("document.querySelectorAll('#events .event:not(.protocol)').length === 1");
    let shown = page.text("#events .event:not(.protocol)");
    assert!(
        shown.contains(event) && shown.contains("from <img"),
        "{shown}"
    );

    for kind in ["members", "history", "channels"] {
        page.submit("#channel", &format!("[form=channel][value={kind}]"));
        nothing_has_run(&mut page);
    }
    submit_event(
        &mut page,
        "explain",
        "1",
        "auth.nothing >= 1 || profile.x > 2",
        "",
    );
    let answer = page.text("#answer");
    assert!(answer.contains(SCRIPT), "{answer}");

    let reason = "<img src=x onerror=globalThis.broken=1>";
    server.call(
        "/v1/disconnect",
        &json!({ "filter": "true", "code": 4000, "reason": reason }),
    );
    page.wait_for("document.querySelector('.status.closed') !== null");
    assert!(page.text(".own .status").contains(reason));
    nothing_has_run(&mut page);
    assert_eq!(page.complaints, [] as [Value; 0]);
}

#[test]
fn names_that_mean_something_to_javascript_are_names() {
    let server = server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    for name in ["__proto__", "constructor", "toString"] {
        connect(&mut page, name, r#"{"__proto__":{"polluted":1}}"#);
    }
    emit(&mut page, r#"{"__proto__":{"polluted":1}}"#, "", "");
    page.wait_for("document.querySelectorAll('#events .event:not(.protocol)').length === 3");
    let shown = page.text("#events .event:not(.protocol)");
    assert!(shown.contains(r#"{"__proto__":{"polluted":1}}"#), "{shown}");
    assert_eq!(page.eval("({}).polluted === undefined"), true);
    assert_eq!(page.complaints, [] as [Value; 0]);
}

#[test]
fn long_names_and_large_data_do_not_break_the_layout() {
    let server = server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    let long = "W".repeat(200);
    // This one turns the direction of what follows it, if it is not kept apart.
    let turned = format!("\u{202e}{long}");
    let mut other = server.client(&turned, &json!({ "a": long }));
    other.join(&long);
    connect(&mut page, &long, &json!({ "a": long }).to_string());
    page.fill("#channel [name=channel]", &long);
    page.submit("#channel", "#channel [value=join]");
    server.call(
        "/v1/broadcast",
        &json!({ "event": "W".repeat(128), "data": "x".repeat(200_000) }),
    );
    page.wait_for("document.querySelectorAll('#events .event:not(.protocol)').length === 1");
    let shown =
        page.eval("document.querySelector('#events .event:not(.protocol)').textContent.length");
    assert!(shown.as_u64().unwrap() < 5000, "{shown}");
    for width in [1280, 820, 390, 320] {
        page.look("light", width);
        assert!(page.fits(width), "at {width} pixels");
    }
}
