//! The page at `/`, in a real browser.

pub(crate) mod browser;

use crate::support::*;
use browser::{Browser, Page};
use serde_json::json;

const ANN: &str = ".connection:nth-child(1)";
const BOB: &str = ".connection:nth-child(2)";

fn connect(page: &mut Page, at: usize, user: &str, claims: &str) {
    page.fill("[name=user]", user);
    page.fill("[name=claims]", claims);
    page.click("#connect button.main");
    page.wait_for(&format!(
        "document.querySelectorAll('.status.open').length === {at}"
    ));
}

fn emit(page: &mut Page, data: &str, filter: &str, params: &str) {
    page.fill("[name=data]", data);
    page.fill("[name=filter]", filter);
    page.fill("[name=params]", params);
    page.eval("document.getElementById('answer').replaceChildren()");
    page.click("#emit button.main");
    page.wait_for("document.getElementById('answer').hasChildNodes() && document.getElementById('emit').ariaBusy === 'false'");
}

#[test]
fn the_page_connects_emits_and_shows_what_happens() {
    let server = server();
    let browser = Browser::start();
    let mut page = browser.open(&format!("http://{}/", server.address()));
    connect(
        &mut page,
        1,
        "ann",
        r#"{"email":"ann@example.com","roles":["admin"]}"#,
    );
    connect(&mut page, 2, "bob", r#"{"email":"bob@example.com"}"#);

    // A number that no double holds, and text that would be a script if it were taken for HTML.
    let data = r#"{"n":12345678901234567890,"t":"<img src=x onerror=console.error(1)>"}"#;
    emit(
        &mut page,
        data,
        "auth.email == params.email",
        r#"{"email":"ann@example.com"}"#,
    );
    let answer = page.text("#answer");
    assert!(
        answer.contains("matched\n1") && answer.contains("queued\n1"),
        "{answer}"
    );
    assert!(answer.contains("Plan: scan every connection"), "{answer}");
    page.wait_for(&format!(
        "document.querySelector('{ANN} .events li') !== null"
    ));
    let events = page.text(&format!("{ANN} .events"));
    assert!(
        events.contains("alert") && events.contains(data),
        "{events}"
    );
    assert_eq!(page.text(&format!("{BOB} .events")), "");
    let said = page.eval("document.getElementById('log').textContent");
    assert!(
        said.as_str()
            .is_some_and(|said| said.contains("ann: alert")),
        "{said}"
    );

    page.look("light", 1280);
    page.photograph("page-light.png");
    page.look("dark", 1280);
    page.photograph("page-dark.png");
    page.look("light", 390);
    let overflow = page.eval("document.documentElement.scrollWidth - innerWidth");
    assert!(
        overflow.as_i64().is_some_and(|by| by <= 0),
        "wider than a phone by {overflow} pixels"
    );
    page.photograph("page-narrow.png");
    page.look("light", 1280);

    emit(&mut page, "1", "auth.email == 'nobody@example.com'", "");
    let answer = page.text("#answer");
    assert!(
        answer.contains("matched\n0") && answer.contains("Nobody"),
        "{answer}"
    );
    assert_eq!(page.complaints, [] as [serde_json::Value; 0]);
}

#[test]
fn a_wrong_filter_is_shown_with_its_caret() {
    let server = server();
    let browser = Browser::start();
    let mut page = browser.open(&format!("http://{}/", server.address()));
    emit(&mut page, "1", "auth.age >= 18 && atuh.x == 1", "");
    let excerpt = page.eval("document.querySelector('#answer pre').textContent");
    let mut lines = excerpt.as_str().unwrap().lines();
    let (text, caret) = (lines.next().unwrap(), lines.next().unwrap());
    assert_eq!(text.find("atuh"), caret.find('^'), "{excerpt}");
    assert_eq!(
        page.eval("document.querySelector('[name=filter]').getAttribute('aria-invalid')"),
        "true"
    );
    page.look("light", 1280);
    page.photograph("page-problem.png");

    emit(&mut page, "{", "", "");
    assert!(
        page.text("#answer").contains("Data is not JSON"),
        "{}",
        page.text("#answer")
    );
    // The browser itself reports the refused request; the page's own script complains of nothing.
    let own: Vec<_> = page
        .complaints
        .iter()
        .filter(|entry| entry["params"]["entry"]["source"] != "network")
        .collect();
    assert!(own.is_empty(), "{own:?}");
}

#[test]
fn what_the_server_ends_shows_its_code_and_reason() {
    let server = server();
    let browser = Browser::start();
    let mut page = browser.open(&format!("http://{}/", server.address()));
    connect(&mut page, 1, "ann", "{}");
    server.call(
        "/v1/disconnect",
        &json!({ "to": { "users": ["ann"] }, "code": 4321, "reason": "enough <b>of</b> this" }),
    );
    page.wait_for("document.querySelector('.status.closed') !== null");
    assert_eq!(
        page.text(&format!("{ANN} .status")),
        "closed: 4321, enough <b>of</b> this"
    );
    page.click("#clear");
    page.wait_for("document.querySelectorAll('.connection').length === 0");
    assert_eq!(page.complaints, [] as [serde_json::Value; 0]);
}

#[test]
fn a_server_with_keys_asks_for_one() {
    let key = "a-key-for-the-page-test";
    let server = server_with(|config| {
        let args = fanfare::config::ServeArgs {
            api_keys: vec![key.into()],
            ..Default::default()
        };
        let with_key =
            fanfare::config::Config::load(&args, std::iter::empty::<(String, String)>()).unwrap();
        config.apps = with_key.apps;
    });
    let browser = Browser::start();
    let mut page = browser.open(&format!("http://{}/", server.address()));
    page.click("#connect button.main");
    page.wait_for("document.getElementById('connect-problem').innerText.includes('401')");
    assert_eq!(
        page.eval("document.querySelector('[name=key]').closest('details').open"),
        true
    );
    page.fill("[name=key]", key);
    connect(&mut page, 1, "ann", r#"{"email":"ann@example.com"}"#);
    emit(&mut page, "1", "user == 'ann'", "");
    assert!(
        page.text("#answer").contains("matched\n1"),
        "{}",
        page.text("#answer")
    );
}
