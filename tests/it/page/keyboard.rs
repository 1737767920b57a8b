//! All of the page is used by the keyboard alone.

use super::*;

/// What can have the focus and is shown, in the order of the document.
const STOPS: &str = "[...document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex=\"0\"]')]\
                     .filter((one) => one.checkVisibility())";

/// Presses Tab until `selector` has the focus.
fn tab_to(page: &mut Page, selector: &str) {
    for _ in 0..100 {
        page.press("Tab");
        if page.eval(&format!(
            "document.activeElement.matches({})",
            json!(selector)
        )) == true
        {
            return;
        }
    }
    panic!("Tab never reaches {selector}");
}

/// Replaces the text of the field that has the focus.
fn rewrite(page: &mut Page, text: &str) {
    page.eval("document.activeElement.select()");
    page.write(text);
}

fn has_focus(page: &mut Page, selector: &str) -> bool {
    let matches = format!("document.activeElement.matches({})", json!(selector));
    page.eval(&matches) == true
}

#[test]
fn every_control_is_reached_in_order_and_shows_its_focus() {
    let server = server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    connect(&mut page, "ann", ANN);
    page.eval("document.activeElement.blur(); getSelection().removeAllRanges()");
    page.call("Page.bringToFront", &json!({}));

    let stops = page.eval(&format!("{STOPS}.length")).as_u64().unwrap();
    assert!(stops > 25, "{stops}");
    // From the top: the focus starts where the document does.
    page.eval("document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex')");
    for at in 0..stops {
        page.press("Tab");
        let found = page.eval(&format!(
            "(() => {{ const one = document.activeElement; const {{ outlineStyle, outlineWidth }} = getComputedStyle(one); \
             return {{ at: {STOPS}.indexOf(one), name: one.outerHTML.slice(0, 100), outlineStyle, outlineWidth }}; }})()"
        ));
        assert_eq!(found["at"], at, "{found}");
        assert_eq!(found["outlineStyle"], "solid", "{found}");
        assert_eq!(found["outlineWidth"], "2px", "{found}");
    }
}

#[test]
fn connect_emit_join_send_and_close_need_no_mouse() {
    let server = server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    page.call("Page.bringToFront", &json!({}));

    // Enter in a field sends the form.
    tab_to(&mut page, "#connect [name=user]");
    rewrite(&mut page, "dora");
    page.press("Enter");
    page.wait_for("document.querySelectorAll('.own .status.open').length === 1");
    assert!(has_focus(&mut page, "[name=user]"), "the focus stays");

    // In a larger field, Ctrl and Enter do.
    tab_to(&mut page, "#emit [name=filter]");
    rewrite(&mut page, "user == 'dora'");
    page.press_with_ctrl("Enter");
    page.wait_for("document.getElementById('answer').innerText.includes('Matched\\n1')");
    tab_to(&mut page, "#emit [value=explain]");
    page.press(" ");
    page.wait_for("document.getElementById('answer').innerText.includes('Plan: ')");

    tab_to(&mut page, "#channel [value=join]");
    page.press("Enter");
    page.wait_for("document.getElementById('channel-answer').innerText.includes('dora is now in')");
    // Enter in the fields of an event sends it, and does not join again.
    tab_to(&mut page, "#send [name=data]");
    rewrite(&mut page, "\"by keyboard\"");
    page.press("Enter");
    page.wait_for("document.getElementById('channel-answer').innerText.includes('Sent to')");
    tab_to(&mut page, "[form=channel][value=members]");
    page.press(" ");
    page.wait_for("document.getElementById('view').innerText.includes('1 connection, 1 user')");

    // Closing keeps the focus, and removing gives it to what comes next.
    tab_to(&mut page, ".own .head button, .own > button");
    page.press(" ");
    page.wait_for("document.querySelectorAll('.status.closed').length === 1");
    assert!(has_focus(&mut page, "[aria-label^=Remove]"));
    page.press("Enter");
    page.wait_for("document.querySelectorAll('.own').length === 0");
    assert!(has_focus(&mut page, "#connections-title"));
    assert_eq!(page.complaints, [] as [Value; 0]);
}

#[test]
fn escape_closes_what_was_opened() {
    let server = server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    page.call("Page.bringToFront", &json!({}));
    tab_to(&mut page, "#connect summary");
    page.press("Enter");
    let is_open = "document.querySelector('#connect details').open";
    assert_eq!(page.eval(is_open), true);
    tab_to(&mut page, "[name=token]");
    page.press("Escape");
    assert_eq!(page.eval(is_open), false);
    assert!(has_focus(&mut page, "#connect summary"));
}

#[test]
fn what_happens_is_told_politely() {
    let server = server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    let live = page.eval(
        "[...document.querySelectorAll('[aria-live], [role=status], [role=alert], [role=log]')] \
         .map((one) => one.getAttribute('aria-live') ?? one.getAttribute('role'))",
    );
    let live: Vec<String> = serde_json::from_value(live).unwrap();
    assert!(
        live.iter().all(|how| how == "polite" || how == "status"),
        "{live:?}"
    );

    connect(&mut page, "ann", ANN);
    let said =
        |what: &str| format!("document.getElementById('said').textContent.includes('{what}')");
    page.wait_for(&said("ann is connected"));
    server.call("/v1/broadcast", &json!({ "event": "news", "data": 1 }));
    page.wait_for(&said("ann received news: 1"));
    page.click("[aria-label^='Close the connection']");
    page.wait_for(&said("ann: closed: 1000"));
}
