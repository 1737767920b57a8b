//! A server with API keys: the page asks for one, or says where it is.

use fanfare::config::Scopes;

use super::*;

fn use_key(page: &mut Page, key: &str) {
    page.fill("[name=key]", key);
    page.submit("#key", "#key button");
}

#[test]
fn the_page_asks_for_a_key_and_forgets_it_when_reloaded() {
    let server = keyed_server(|_| {});
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    assert_eq!(
        page.eval("document.getElementById('key-card').hidden"),
        false
    );
    assert!(page.text("#list-note").contains("needs an API key"));

    // Without one nothing is asked again by itself, and a click leads to the field.
    assert_eq!(page.eval("list.state"), "refused");
    page.submit("#connect", "#connect button.main");
    assert!(page.text("#connect-answer").contains("Enter the API key"));
    assert_eq!(page.eval("document.activeElement.name"), "key");

    use_key(&mut page, "not-the-key-of-this-server");
    assert!(page.text("#key-answer").contains("does not know this key"));
    use_key(&mut page, "not ascii: \u{e9}");
    assert!(page.text("#key-answer").contains("ASCII"));

    use_key(&mut page, KEY);
    assert_eq!(
        page.eval("document.getElementById('key-card').hidden"),
        true
    );
    page.wait_for("list.state === 'good'");
    connect(&mut page, "ann", ANN);
    emit(&mut page, "1", "user == 'ann'", "");
    assert!(page.text("#answer").contains("Matched\n1"));

    // The token has the rights of the form, so that channels can be tried.
    page.submit("#channel", "#channel [value=join]");
    assert!(
        page.text("#channel-answer")
            .contains("ann is now in room-1.")
    );

    page.click("#change-key");
    assert_eq!(page.eval("document.activeElement.name"), "key");
    page.call("Page.reload", &json!({}));
    page.wait_for("typeof list !== 'undefined' && list.state === 'refused'");
    assert_eq!(own_complaints(&page), [] as [&Value; 0]);
}

#[test]
fn a_key_without_a_scope_is_used_for_what_it_may_do() {
    let key = "key-of-the-tests-that-publishes";
    let server = keyed_server(|config| {
        let app = config.apps.values_mut().next().unwrap();
        let scopes = serde_json::from_value::<Scopes>(json!(["publish"])).unwrap();
        app.keys.push(api_key("publisher", key, scopes));
    });
    let rights = json!({ "join": ["*"], "members": ["*"] });
    let token = signed(&json!({ "sub": "ann", "can": rights }));
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    use_key(&mut page, key);
    page.wait_for("list.state === 'refused'");
    assert!(page.text("#list-note").contains("lacks the scope inspect"));

    // A token of one's own says who the client is.
    page.click("#connect summary");
    page.fill("[name=token]", &token);
    page.click("#connect button.main");
    page.wait_for("document.querySelector('.own .status.open') !== null");
    assert!(text_of(&mut page, "ann").contains("connected"));
    emit(&mut page, "1", "user == 'ann'", "");
    assert!(page.text("#answer").contains("Matched\n1"));

    // Joining works. Only the list of members does not.
    page.submit("#channel", "#channel [value=join]");
    assert!(
        page.text("#channel-answer")
            .contains("ann is now in room-1.")
    );
    assert!(page.text("#view").contains("lacks the scope inspect"));
    submit_event(&mut page, "explain", "1", "user == 'ann'", "");
    assert!(page.text("#answer").contains("lacks the scope inspect"));
}

#[test]
fn the_admin_address_serves_a_page_whose_clients_connect_to_the_other() {
    let server = keyed_server(|config| config.admin_listen = Some(([127, 0, 0, 1], 0).into()));
    let browser = Browser::start();
    let mut page = browser.open(&format!("http://{}/", server.0.admin_address().unwrap()));
    page.wait_for("list.state === 'refused'");
    let main = format!("http://{}", server.address());
    assert_eq!(
        page.eval("document.querySelector('[name=server]').value"),
        main
    );
    use_key(&mut page, KEY);
    connect(&mut page, "ann", ANN);
    emit(&mut page, "1", "user == 'ann'", "");
    assert!(page.text("#answer").contains("Matched\n1"));
    assert!(page.text("#command").contains(&main));
}

#[test]
fn off_loopback_the_answer_says_how_to_reach_the_page() {
    let server = keyed_server(|config| config.listen = "0.0.0.0:0".parse().unwrap());
    let local = std::net::SocketAddr::from(([127, 0, 0, 1], server.address().port()));
    let get = |headers: &[(&str, &str)]| request(local, "GET", "/", headers, None);

    // A browser's navigation gets a text for people.
    let browsers = [("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
    let answer = get(&browsers);
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    assert_eq!(answer.header("vary"), Some("Accept"));
    assert!(
        answer
            .header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    let policy = answer.header("content-security-policy").unwrap();
    assert!(policy.contains("script-src 'none'"), "{policy}");
    assert!(answer.text.contains("--admin-listen 127.0.0.1:7071"));
    assert!(!answer.text.contains("<script"));

    // A program gets the same in a problem document.
    let answer = get(&[]);
    assert_eq!((answer.status, &*answer.code()), (401, "unauthorized"));
    assert!(answer.text.contains("--admin-listen 127.0.0.1:7071"));

    // A key in the header opens it, and a wrong one does not.
    let with = |key: &str| get(&[("Authorization", &format!("Bearer {key}")), browsers[0]]);
    assert_eq!(with(KEY).status, 200);
    assert_eq!(
        (with("wrong").status, &*with("wrong").code()),
        (401, "unauthorized")
    );
    let metrics = request(local, "GET", "/metrics", &browsers, None);
    assert_eq!((metrics.status, &*metrics.code()), (401, "unauthorized"));

    let browser = Browser::start();
    let mut page = browser.open(&format!("http://{local}/"));
    assert!(page.text("h1").contains("its page is not open here"));
    page.look("light", 390);
    assert!(page.fits(390));
}

#[test]
fn the_main_address_says_that_the_page_is_at_the_admin_address() {
    let server = keyed_server(|config| config.admin_listen = Some(([127, 0, 0, 1], 0).into()));
    let accept = [("Accept", "text/html")];
    let answer = server.request("GET", "/", &accept, None);
    assert_eq!(answer.status, 404);
    assert!(answer.text.contains("admin address"));
    // Where that is, is not for those who cannot reach it.
    let port = server.0.admin_address().unwrap().port().to_string();
    assert!(!answer.text.contains(&port));
    assert_eq!(server.get("/").code(), "unknown_path");
}
