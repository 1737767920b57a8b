//! The commands that the page offers do what was clicked.

use std::process::Command;

use super::*;

/// The commands that are shown, with their titles.
fn commands(page: &mut Page) -> Vec<(String, String)> {
    let shown = page.eval(
        "[...document.querySelectorAll('#command .command')].map((one) => \
         [one.querySelector('p').textContent, one.querySelector('pre').textContent])",
    );
    serde_json::from_value(shown).unwrap()
}

/// Copies the command whose title contains `title`, and returns the clipboard's text.
fn copied(page: &mut Page, title: &str) -> String {
    let grant = json!({ "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"] });
    page.call("Browser.grantPermissions", &grant);
    page.call("Page.bringToFront", &json!({}));
    let button = format!("#command [aria-label*={}]", json!(title));
    page.click(&button);
    page.wait_for(&format!(
        "document.querySelector({}).textContent === 'Copied'",
        json!(button)
    ));
    let text = page.eval("navigator.clipboard.readText()");
    text.as_str().unwrap().to_owned()
}

/// Runs a command in a shell that has `key` in its environment, and returns the JSON that it prints.
fn run(command: &str, key: &str) -> Value {
    let output = Command::new("sh")
        .args(["-c", command])
        .env("FANFARE_API_KEY", key)
        .env("NO_PROXY", "*")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command}: {output:?}");
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}: {command}"))
}

/// Everything that a shell or JSON might take for its own.
const TRICKY: &str = r#"{"it's":"a \"b\" \\ $HOME `id` !! %s\n","é":["*","~",";&|<>(){}#"]}"#;

#[test]
fn the_command_is_there_before_anything_is_clicked_and_follows_the_form() {
    let server = server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    page.fill("#emit [name=data]", TRICKY);
    page.fill("#emit [name=filter]", "user == 'ann'");
    page.fill("#emit [name=params]", "");

    let mut ann = server.client("ann", &json!({}));
    let command = copied(&mut page, "Emit");
    assert_eq!(run(&command, "")["matched"], 1, "{command}");
    let received = ann.text();
    assert!(received.contains(TRICKY), "{received}");
}

#[test]
fn what_was_clicked_can_be_repeated_in_a_shell() {
    let server = keeping_server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);

    connect(&mut page, "o'hara", r#"{"motto":"it's \"fine\""}"#);
    let token = run(&copied(&mut page, "token"), "")["token"].clone();
    let mut twin = server.connect(&format!("token={}", token.as_str().unwrap()));
    let snippet = &commands(&mut page)[1].1;
    assert!(
        snippet.contains(&format!("ws://{}/v1/connect", server.address())),
        "{snippet}"
    );
    assert!(!snippet.contains(token.as_str().unwrap()), "{snippet}");

    emit(
        &mut page,
        TRICKY,
        "auth.motto == params.m",
        r#"{"m":"it's \"fine\""}"#,
    );
    twin.text();
    assert_eq!(run(&copied(&mut page, "Emit"), "")["matched"], 2);
    assert!(twin.text().contains(TRICKY));

    submit_event(
        &mut page,
        "explain",
        "1",
        r#"auth.motto == "it's \"fine\"""#,
        "",
    );
    assert_eq!(run(&copied(&mut page, "Explain"), "")["matched"], 2);

    page.submit("#channel", "#channel [value=join]");
    let command = copied(&mut page, "In the backend");
    assert_eq!(run(&command, "")["already"], 1, "{command}");
    page.fill("#send [name=data]", TRICKY);
    page.submit("#send", "#send button");
    assert_eq!(run(&copied(&mut page, "In the backend"), "")["matched"], 1);
    let message = &commands(&mut page)[0].1;
    assert!(
        message.starts_with("socket.send(JSON.stringify({\"op\":\"send\""),
        "{message}"
    );

    page.submit("#channel", "[form=channel][value=members]");
    assert_eq!(run(&copied(&mut page, "Members"), "")["count"], 1);
    page.submit("#channel", "[form=channel][value=history]");
    let history = run(&copied(&mut page, "History"), "");
    assert_eq!(history["events"].as_array().unwrap().len(), 2, "{history}");
    page.submit("#channel", "[form=channel][value=channels]");
    let channels = run(&copied(&mut page, "Channels"), "");
    assert_eq!(channels["channels"][0]["channel"], "room-1");

    page.submit("#channel", "#channel [value=leave]");
    page.submit("#channel", "#channel [value=join]");
    page.submit("#channel", "#channel [value=leave]");
    assert_eq!(run(&copied(&mut page, "In the backend"), "")["left"], 0);

    page.click("#list-command");
    let connections = run(&copied(&mut page, "List"), "");
    assert_eq!(connections["connections"].as_array().unwrap().len(), 2);
    assert_eq!(page.complaints, [] as [Value; 0]);
}

#[test]
fn a_key_is_named_in_commands_and_never_written() {
    let server = keyed_server(|_| {});
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    page.fill("[name=key]", KEY);
    page.submit("#key", "#key button");
    connect(&mut page, "ann", ANN);
    emit(&mut page, "1", "user == 'ann'", "");
    let command = copied(&mut page, "Emit");
    assert!(
        command.contains(r#""Authorization: Bearer $FANFARE_API_KEY""#),
        "{command}"
    );
    assert_eq!(run(&command, KEY)["matched"], 1);

    // Neither a form nor a text of the page holds it.
    let holds = format!(
        "document.documentElement.outerHTML.includes({key}) || \
         [...document.querySelectorAll('input, textarea')].some((field) => field.value.includes({key})) || \
         location.href.includes({key}) || JSON.stringify([{{ ...localStorage }}, {{ ...sessionStorage }}]).includes({key})",
        key = json!(KEY)
    );
    assert_eq!(page.eval(&holds), false);
}

/// Keeps the shell's quoting apart from the browser: a word with anything in it reaches a program as it was.
#[test]
fn a_word_for_the_shell_stays_one_word() {
    let server = server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    for word in [
        "plain", "", "'", "''", "it's", "a b", "$HOME", "`id`", "\\", "!!", "a\nb", "-n", "*",
        "\"", "é'é",
    ] {
        let quoted = page.eval(&format!("shellWord({})", json!(word)));
        let script = format!("printf %s -- {}", quoted.as_str().unwrap());
        let script = script.replace("printf %s --", "printf '%s'");
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), word, "{script}");
    }
}
