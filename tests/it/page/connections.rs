//! The list of all connections, those of other clients included.

use std::process::Stdio;

use super::*;
use crate::running::Running;

fn listed(page: &mut Page) -> String {
    page.text("#connections")
}

#[test]
fn it_says_that_nobody_is_connected_only_if_nobody_is() {
    let server = server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    assert!(page.text("#list-note").contains("No client is connected"));
    assert_eq!(page.text("#connection-count"), "0");

    // A client of another program appears by itself, and goes by itself.
    let url = format!("http://{}", server.address());
    let words = [
        "listen",
        "--url",
        &url,
        "--user",
        "carol",
        "--channel",
        "room-1",
    ];
    let mut listener = Running::start(&words, &[], Stdio::null());
    listener.expect_error("connected as carol");
    page.wait_for("document.querySelectorAll('.other').length === 1");
    assert_eq!(page.text("#list-note"), "");
    assert_eq!(page.text("#connection-count"), "1");
    let carol = listed(&mut page);
    assert!(
        carol.contains("carol")
            && carol.contains("room-1")
            && carol.contains(&listener.connection()),
        "{carol}"
    );

    listener.interrupt();
    assert_eq!(listener.finish().code, 0);
    page.wait_for("document.querySelectorAll('.other').length === 0");
    page.wait_for("document.getElementById('list-note').innerText.includes('No client')");
    assert_eq!(page.complaints, [] as [Value; 0]);
}

#[test]
fn a_second_page_and_changes_of_a_connection_are_shown() {
    let server = server();
    let browser = Browser::start();
    let mut first = open(&browser, &server);
    let mut second = open(&browser, &server);
    connect(&mut second, "bob", BOB);
    // Only the tab in front is shown, and a page that is not shown asks nothing.
    let to_front = |page: &mut Page| page.call("Page.bringToFront", &json!({}));
    to_front(&mut first);
    first.wait_for("document.querySelectorAll('.other').length === 1");
    // What filters see, less what only says something about the token.
    let bob = listed(&mut first);
    assert!(
        bob.contains("bob@example.com") && !bob.contains("exp") && !bob.contains("can"),
        "{bob}"
    );

    // Each page shows its own client once.
    connect(&mut first, "ann", ANN);
    for page in [&mut first, &mut second] {
        to_front(page);
        page.wait_for("document.querySelectorAll('.own').length === 1");
        page.wait_for("document.querySelectorAll('.other').length === 1");
        page.wait_for("document.getElementById('connection-count').textContent === '2'");
    }

    server.call(
        "/v1/join",
        &json!({ "channel": "room-7", "to": { "users": ["bob"] } }),
    );
    second.wait_for("document.querySelector('.own').innerText.includes('room-7')");
    to_front(&mut first);
    first.wait_for("document.querySelector('.other').innerText.includes('room-7')");
}

#[test]
fn many_connections_are_a_bounded_list() {
    let server = server();
    let clients: Vec<_> = (0..60).map(|_| server.connect("")).collect();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    assert_eq!(page.text("#connection-count"), "25 or more");
    assert!(page.text("#list-note").contains("the first 25 are listed"));
    let shown = "document.querySelectorAll('.other:not([hidden])').length";
    assert_eq!(page.eval(shown), 5);
    assert_eq!(page.text("#more"), "Show 20 more");
    page.click("#more");
    assert_eq!(page.eval(shown), 25);
    page.click("#more");
    assert_eq!(page.eval(shown), 5);

    drop(clients);
    page.wait_for("document.getElementById('connection-count').textContent === '0'");
    assert_eq!(
        page.eval("document.getElementById('more-row').hidden"),
        true
    );
}

#[test]
fn a_page_that_nobody_sees_asks_nothing_and_one_that_is_refused_stops() {
    let server = server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    page.eval(
        "clearTimeout(list.timer); globalThis.isHidden = true; \
         Object.defineProperty(document, 'hidden', { get: () => isHidden, configurable: true }); \
         globalThis.asked = 0; globalThis.really = fetch; globalThis.fetch = (path, ...more) => { \
         asked += path.startsWith('/v1/connections'); return really(path, ...more); }; 0",
    );
    page.eval("list.ask()");
    assert_eq!(page.eval("asked"), 0);

    // Back in view, it asks immediately.
    let client = server.connect("");
    page.eval("isHidden = false; document.dispatchEvent(new Event('visibilitychange'))");
    page.wait_for("document.querySelectorAll('.other').length === 1");
    assert_ne!(page.eval("asked"), 0);
    drop(client);

    // The pace halves with each failure up to a bound, and recovers with the first answer.
    drop(server);
    page.wait_for("list.state === 'away'");
    assert!(page.text("#list-note").contains("cannot be reached"));
    let waits = page.eval(
        "(async () => { const waits = []; for (let i = 0; i < 8; i++) { await list.ask(); waits.push(list.wait); } \
         return waits; })()",
    );
    let waits: Vec<f64> = serde_json::from_value(waits).unwrap();
    assert!(waits.is_sorted(), "{waits:?}");
    assert!((waits[7] - 60_000.0).abs() < 1.0, "{waits:?}");
}

#[test]
fn closing_and_removing_is_up_to_the_reader() {
    let server = server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    for user in ["ann", "bob", "cid"] {
        connect(&mut page, user, "{}");
    }
    page.click("[aria-label='Close the connection of bob']");
    page.wait_for("document.querySelectorAll('.status.closed').length === 1");
    page.click("[aria-label='Remove the closed connection of bob']");
    assert_eq!(page.eval("document.querySelectorAll('.own').length"), 2);
    page.wait_for("document.getElementById('connection-count').textContent === '2'");
}
