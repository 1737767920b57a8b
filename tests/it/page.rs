//! The page at `/`, in a real browser.

mod accessibility;
pub(crate) mod browser;
mod channels;
mod commands;
mod connections;
mod hostile;
mod keyboard;
mod keys;

use browser::{Browser, Page};
use fanfare::config::ChannelRule;
use serde_json::{Value, json};

use crate::support::*;

const ANN: &str = r#"{"email":"ann@example.com","roles":["admin"]}"#;
const BOB: &str = r#"{"email":"bob@example.com","age":17}"#;

/// A server whose channels `room-*` keep events.
fn keeping_server() -> TestServer {
    server_with(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.channels.push(ChannelRule::new("room-*", 100));
    })
}

fn open(browser: &Browser, server: &TestServer) -> Page {
    let mut page = browser.open(&format!("http://{}/", server.address()));
    page.wait_for("list.state !== 'asking'");
    // The page asks a slow server less often, which on a busy machine is more seldom than a test has patience.
    page.eval("setInterval(() => list.state === 'refused' || list.ask(), LIST_EVERY)");
    page
}

/// Connects a client of the page, and waits for its welcome.
fn connect(page: &mut Page, user: &str, claims: &str) {
    let open = "document.querySelectorAll('.own .status.open').length";
    let before = page.eval(open).as_u64().unwrap();
    page.fill("#connect [name=user]", user);
    page.fill("#connect [name=claims]", claims);
    page.click("#connect button.main");
    page.wait_for(&format!("{open} === {}", before + 1));
}

/// Fills in the form of an event, and presses the button with the value `action`.
fn submit_event(page: &mut Page, action: &str, data: &str, filter: &str, params: &str) {
    page.fill("#emit [name=data]", data);
    page.fill("#emit [name=filter]", filter);
    page.fill("#emit [name=params]", params);
    page.submit("#emit", &format!("#emit [value={action}]"));
}

fn emit(page: &mut Page, data: &str, filter: &str, params: &str) {
    submit_event(page, "emit", data, filter, params);
}

/// The part of the page that belongs to its client `user`.
fn own(user: &str) -> String {
    format!(
        "[...document.querySelectorAll('.own')].find((item) => \
         item.querySelector('.pill').textContent === {})",
        json!(user)
    )
}

/// The text that the page shows of its client `user`.
fn text_of(page: &mut Page, user: &str) -> String {
    let text = page.eval(&format!("{}.innerText", own(user)));
    text.as_str().unwrap().to_owned()
}

/// What the page complained of, without refused requests, which the browser itself reports.
fn own_complaints(page: &Page) -> Vec<&Value> {
    let complaints = page.complaints.iter();
    complaints
        .filter(|entry| entry["params"]["entry"]["source"] != "network")
        .collect()
}

#[test]
fn the_page_connects_emits_and_shows_what_happens() {
    let server = server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    connect(&mut page, "ann", ANN);
    connect(&mut page, "bob", BOB);

    // A number that no double holds, and text that would be a script if it were taken for HTML.
    let data = r#"{"n":12345678901234567890,"t":"<img src=x onerror=console.error(1)>"}"#;
    let params = r#"{"email":"ann@example.com"}"#;
    emit(&mut page, data, "auth.email == params.email", params);
    let answer = page.text("#answer");
    assert!(
        answer.contains("Matched\n1") && answer.contains("Queued\n1"),
        "{answer}"
    );

    // It is in the list of events, beside the client that received it, and told to screen readers.
    page.wait_for("document.querySelectorAll('#events .event:not(.protocol)').length === 1");
    let event = page.text("#events .event:not(.protocol)");
    assert!(
        event.contains("ann") && event.contains("alert") && event.contains(data),
        "{event}"
    );
    let ann = text_of(&mut page, "ann");
    assert!(
        ann.contains(&format!("alert {data}")) && ann.contains("1 event"),
        "{ann}"
    );
    let bob = text_of(&mut page, "bob");
    assert!(bob.contains("No event yet."), "{bob}");
    page.wait_for("document.getElementById('said').textContent.includes('ann received alert')");

    let name = "getComputedStyle(document.querySelector('#events b')).fontFamily";
    assert!(page.eval(name).as_str().unwrap().contains("monospace"));

    emit(&mut page, "1", "auth.email == 'nobody@example.com'", "");
    let answer = page.text("#answer");
    assert!(
        answer.contains("Matched\n0") && answer.contains("No connection matches."),
        "{answer}"
    );
    assert_eq!(page.complaints, [] as [Value; 0]);
}

#[test]
fn a_flood_of_events_is_bounded_and_can_be_paused() {
    let server = server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    connect(&mut page, "ann", ANN);
    page.eval(
        "globalThis.spoken = 0; globalThis.began = performance.now(); \
         new MutationObserver(() => spoken++).observe(byId('said'), { childList: true })",
    );

    let item = json!({ "call": "broadcast", "event": "tick", "data": "x".repeat(100) });
    let batch = json!({ "items": vec![item; 100] });
    for _ in 0..10 {
        server.call("/v1/batch", &batch);
    }
    page.wait_for("document.getElementById('event-count').textContent === '1000'");
    assert_eq!(
        page.eval("document.getElementById('events').children.length"),
        200
    );
    let rate = "spoken <= 1 + (performance.now() - began) / 1000";
    assert_eq!(page.eval(rate), true, "a screen reader is told too often");

    page.click("#pause");
    let newest = "document.querySelector('#events .data').textContent";
    let before = page.eval(newest);
    server.call("/v1/broadcast", &json!({ "event": "tick", "data": "late" }));
    page.wait_for("document.getElementById('event-count').textContent === '1001'");
    assert_eq!(page.eval(newest), before);
    page.click("#pause");
    assert_eq!(page.eval(newest), "\"late\"");

    page.click("#clear-events");
    assert_eq!(page.eval("document.getElementById('events').hidden"), true);
    assert_eq!(page.complaints, [] as [Value; 0]);
}

#[test]
fn a_wrong_filter_is_shown_with_its_caret() {
    let server = server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    emit(&mut page, "1", "auth.age >= 18 && atuh.x == 1", "");
    let excerpt = page.eval("document.querySelector('#answer pre').textContent");
    let mut lines = excerpt.as_str().unwrap().lines();
    let (text, caret) = (lines.next().unwrap(), lines.next().unwrap());
    assert_eq!(text.find("atuh"), caret.find('^'), "{excerpt}");
    assert_eq!(
        page.eval("document.querySelector('#emit [name=filter]').getAttribute('aria-invalid')"),
        "true"
    );

    emit(&mut page, "hello", "", "");
    let answer = page.text("#answer");
    assert!(
        answer.contains("Data must be valid JSON") && answer.contains("double quotes"),
        "{answer}"
    );
    let focused = page.eval("document.activeElement.name");
    assert_eq!(focused, "data", "the field that is wrong has the focus");
    assert_eq!(own_complaints(&page), [] as [&Value; 0]);
}

#[test]
fn a_filter_is_explained_with_those_for_which_it_fails() {
    let server = server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    connect(&mut page, "ann", ANN);
    connect(&mut page, "bob", BOB);
    let eve = server.client("eve", &json!({ "age": "old" }));
    page.wait_for("document.querySelectorAll('.other').length === 1");

    submit_event(&mut page, "explain", "1", "auth.age >= 16", "");
    let answer = page.text("#answer");
    for shown in [
        "Looked at\n3",
        "Matched\n1",
        "Ended in an error\n2",
        "Plan: scan every connection",
        "These match:",
        &format!("eve ({}): auth.age >= 16: ", eve.id),
    ] {
        assert!(answer.contains(shown), "{shown}: {answer}");
    }
    let failed = answer.split("ends in an error:").nth(1).unwrap();
    assert!(failed.contains("ann ("), "{answer}");
    assert!(!failed.contains("bob ("), "{answer}");

    submit_event(&mut page, "explain", "1", "", "");
    assert!(page.text("#answer").contains("nothing to explain"));
    assert_eq!(page.complaints, [] as [Value; 0]);
}

#[test]
fn what_the_server_ends_shows_its_code_and_reason() {
    let server = server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    connect(&mut page, "ann", "{}");
    server.call(
        "/v1/disconnect",
        &json!({ "to": { "users": ["ann"] }, "code": 4321, "reason": "enough <b>of</b> this" }),
    );
    page.wait_for("document.querySelector('.status.closed') !== null");
    assert_eq!(
        page.text(".own .status"),
        "closed: 4321, enough <b>of</b> this"
    );
    page.click("#clear");
    page.wait_for("document.querySelectorAll('.own').length === 0");
    assert_eq!(page.complaints, [] as [Value; 0]);
}

#[test]
fn a_refused_handshake_says_where_its_reason_is() {
    let server = server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    page.click("#connect summary");
    page.fill("#connect [name=user]", "");
    page.fill("#connect [name=app]", "no-such-app");
    page.click("#connect button.main");
    page.wait_for("document.querySelector('.status.closed') !== null");
    let status = page.text(".own .status");
    assert!(
        status.contains("the server\u{2019}s log says it"),
        "{status}"
    );
}

#[test]
fn nothing_but_the_pages_own_script_and_style_runs() {
    let server = server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    let written = "(() => { try { document.createElement('p').innerHTML = '<b>x</b>'; return 'written'; } \
                   catch (error) { return error.name; } })()";
    assert_eq!(page.eval(written), "TypeError");
    // An attribute and an element that the policy does not name have no effect.
    let styled = "(() => { document.body.setAttribute('style', 'opacity: .5'); \
                  return getComputedStyle(document.body).opacity; })()";
    assert_eq!(page.eval(styled), "1");
    let loaded = page
        .eval("performance.getEntriesByType('resource').map(({ name }) => new URL(name).origin)");
    let origin = format!("http://{}", server.address());
    let all_own = loaded
        .as_array()
        .unwrap()
        .iter()
        .all(|loaded| *loaded == *origin);
    assert!(all_own, "{loaded}");
}
