//! Channels: joining, leaving, sending, members, history and profiles.

use super::*;

/// Chooses the client of the page that acts.
fn act_as(page: &mut Page, user: &str) {
    page.eval(&format!(
        "(() => {{ const select = document.querySelector('#channel [name=client]'); \
         select.value = [...select.options].find((option) => option.text === {}).value; }})()",
        json!(user)
    ));
}

fn view(page: &mut Page) -> String {
    page.text("#view")
}

#[test]
fn a_client_joins_sends_and_leaves_and_the_view_follows() {
    let server = keeping_server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    connect(&mut page, "ann", ANN);
    connect(&mut page, "bob", BOB);

    act_as(&mut page, "ann");
    page.submit("#channel", "#channel [value=join]");
    assert!(
        page.text("#channel-answer")
            .contains("ann is now in room-1.")
    );
    let members = view(&mut page);
    assert!(
        members.starts_with("Members of room-1") && members.contains("1 connection, 1 user"),
        "{members}"
    );
    assert!(text_of(&mut page, "ann").contains("room-1"));

    // Who joins later, here or elsewhere, appears by itself.
    act_as(&mut page, "bob");
    page.submit("#channel", "#channel [value=join]");
    let mut carol = server.client("carol", &json!({}));
    carol.join("room-1");
    page.wait_for("document.getElementById('view').innerText.includes('3 connections, 3 users')");
    let members = view(&mut page);
    assert!(members.contains(&*carol.id), "{members}");

    // All members receive what one sends, and so does the history.
    page.fill("#send [name=data]", r#"{"n":12345678901234567890}"#);
    page.submit("#send", "#send button");
    let answer = page.text("#channel-answer");
    assert!(
        answer.contains("Sent to the members of room-1."),
        "{answer}"
    );
    assert!(answer.contains("at offset 1"), "{answer}");
    let received = carol.json();
    assert_eq!(received["event"], "chat");
    assert_eq!(received["from"]["user"], "bob");
    page.wait_for("document.querySelectorAll('#events .event:not(.protocol)').length === 2");
    let event = page.text("#events .event:not(.protocol)");
    assert!(event.contains("in room-1, from bob"), "{event}");

    page.submit("#channel", "[form=channel][value=history]");
    let history = view(&mut page);
    for shown in [
        "History of room-1",
        "offset 1",
        "chat",
        "from bob",
        r#"{"n":12345678901234567890}"#,
    ] {
        assert!(history.contains(shown), "{shown}: {history}");
    }

    // A view of the history follows what is sent.
    carol.acked(&json!({ "op": "send", "id": 7, "channel": "room-1", "event": "late", "data": 1, "echo": false }));
    page.wait_for("document.getElementById('view').innerText.includes('offset 2')");

    page.submit("#channel", "#channel [value=leave]");
    assert!(
        page.text("#channel-answer")
            .contains("bob is no longer in room-1.")
    );
    page.wait_for("document.getElementById('view').innerText.includes('2 connections')");
    assert!(!text_of(&mut page, "bob").contains("room-1"));
    assert_eq!(page.complaints, [] as [Value; 0]);
}

#[test]
fn a_profile_is_shown_to_members() {
    let server = server();
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    connect(&mut page, "ann", ANN);
    page.submit("#channel", "#channel [value=join]");
    page.fill("#profile [name=profile]", r#"{"status":"away"}"#);
    page.submit("#profile", "#profile button");
    page.wait_for(
        "document.getElementById('view').innerText.includes('profile {\"status\":\"away\"}')",
    );

    page.fill("#profile [name=profile]", "");
    page.submit("#profile", "#profile button");
    assert!(
        page.text("#channel-answer")
            .contains("ann has no profile now.")
    );
    page.wait_for("!document.getElementById('view').innerText.includes('profile')");
    assert_eq!(page.complaints, [] as [Value; 0]);
}

#[test]
fn channels_of_others_are_listed_and_lead_to_their_members() {
    let server = server();
    let mut carol = server.client("carol", &json!({}));
    carol.join("lobby");
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    page.wait_for("document.getElementById('view').innerText.includes('lobby')");
    assert!(view(&mut page).contains("1 channel has members."));

    // A client of the page need not be in it: the list of connections shows the change.
    carol.join("hall");
    page.wait_for("document.getElementById('view').innerText.includes('hall')");
    carol.acked(&json!({ "op": "leave", "id": 2, "channel": "hall" }));
    page.wait_for("!document.getElementById('view').innerText.includes('hall')");

    page.click("#view button.channel");
    page.wait_for("document.getElementById('view-title').textContent === 'Members of lobby'");
    assert!(view(&mut page).contains(&*carol.id));
    assert_eq!(
        page.eval("document.querySelector('#channel [name=channel]').value"),
        "lobby"
    );

    page.fill("#channel [name=channel]", "empty");
    page.submit("#channel", "[form=channel][value=members]");
    assert!(view(&mut page).contains("Nobody is in this channel."));
}

#[test]
fn what_cannot_be_done_says_what_to_do() {
    let server = server_with(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.default_can = Some(json!({ "join": ["lobby"] }));
    });
    let browser = Browser::start();
    let mut page = open(&browser, &server);
    let answer = |page: &mut Page| page.text("#channel-answer");

    page.submit("#channel", "#channel [value=join]");
    assert!(answer(&mut page).contains("Connect a client first"));

    // The channel keeps no history.
    page.submit("#channel", "[form=channel][value=history]");
    assert!(answer(&mut page).contains("--channel-history 'room-1=100'"));

    // A client without rights of its own has those of the app.
    page.click("#connect summary");
    page.fill("#connect [name=can]", "");
    connect(&mut page, "ann", "{}");
    page.submit("#channel", "#channel [value=join]");
    let refused = answer(&mut page);
    assert!(refused.contains("Refused: forbidden"), "{refused}");
    assert!(refused.contains("room-1"), "{refused}");

    page.fill("#channel [name=channel]", "");
    page.submit("#channel", "#channel [value=join]");
    assert!(answer(&mut page).contains("Channel is empty"));
    page.fill("#channel [name=channel]", "not a name");
    page.submit("#channel", "[form=channel][value=members]");
    assert!(answer(&mut page).contains("Bad Request (400)"));
    assert_eq!(own_complaints(&page), [] as [&Value; 0]);
}
