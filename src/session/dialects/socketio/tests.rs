use proptest::prelude::*;

use super::*;

const CONNECTION: &str = "00000000000000000000000004";

fn client() -> SocketIo {
    let setup = Setup {
        namespaces: Arc::new(Namespaces::new(["/", "/chat"])),
        forms: vec![Form::NATIVE; 5].into(),
        limit: 1000,
    };
    let mut client = SocketIo::new(setup, b"0{}".to_vec());
    let greeting = client.greeting(CONNECTION.parse().unwrap());
    assert_eq!(&greeting[0].bytes()[2..], b"0{}");
    client
}

/// What the reading of `text` comes to, for people.
fn read(client: &mut SocketIo, text: &str) -> String {
    client.forget();
    said(client.read(&Message::Text(text)))
}

fn shown(data: &Data<'_>) -> String {
    match data {
        Data::Json(data) => data.get().to_owned(),
        Data::Bytes(bytes) => format!("{bytes:?}"),
    }
}

fn said(reading: Result<Meaning<'_>, Unintelligible>) -> String {
    match reading {
        Ok(Meaning::Call(Call { id, request })) => {
            let id = id.map_or("", RawValue::get);
            match request {
                Request::Send { channel, message } => {
                    let data = shown(&message.event.data);
                    format!("{id} send {channel} {} {data}", message.event.name)
                }
                Request::Join { channel, .. } => format!("{id} join {channel}"),
                Request::Call { name, data } => format!("{id} call {name} {}", shown(&data)),
                other => format!("{id} {other:?}"),
            }
        }
        Ok(Meaning::Answer(frame) | Meaning::TurnedAway { answer: frame, .. }) => {
            String::from_utf8_lossy(&frame.bytes()[2..]).into_owned()
        }
        Ok(Meaning::Reform { answer, leave, .. }) => {
            let answer = answer.map(|frame| said(Ok(Meaning::Answer(frame))));
            format!(
                "reform {} {}",
                answer.unwrap_or_default(),
                leave.unwrap_or_default()
            )
        }
        Ok(Meaning::Refused { id, code, .. }) => {
            format!(
                "{} refused {code}",
                id.map(|id| id.to_string()).unwrap_or_default()
            )
        }
        Ok(Meaning::Enter(credentials)) => format!(
            "enter {:?} {:?}",
            credentials.token.as_deref(),
            credentials.options.channels
        ),
        Ok(Meaning::Nothing) => "nothing".to_owned(),
        Ok(Meaning::Leave) => "leave".to_owned(),
        Ok(Meaning::Break) => "break".to_owned(),
        Ok(other) => format!("{other:?}"),
        Err(error) => format!("unintelligible {}", error.is_fatal),
    }
}

#[test]
fn a_client_connects_to_namespaces_and_leaves_them() {
    let mut client = client();
    assert_eq!(read(&mut client, r#"42["a"]"#), "nothing");
    assert_eq!(
        read(&mut client, "40/nope,"),
        r#"44/nope,{"message":"Invalid namespace","data":{"message":"add \"/nope\" to namespaces of the app's protocols.socketio"}}"#
    );
    assert_eq!(
        read(
            &mut client,
            r#"40/chat,{"token":"t","channels":["a"],"mine":1}"#
        ),
        r#"enter Some("t") ["chat:a"]"#
    );
    assert_eq!(
        read(&mut client, "40"),
        format!(r#"reform 40{{"sid":"{CONNECTION}"}} "#)
    );
    assert_eq!(read(&mut client, "40"), "nothing");
    assert_eq!(read(&mut client, "41/chat,"), "reform  chat:");
    assert_eq!(read(&mut client, r#"42/chat,["join","a"]"#), "nothing");
    assert!(client.outlives_close());
    assert_eq!(read(&mut client, "1"), "break");
    assert_eq!(read(&mut client, "41"), "leave");
    assert!(!client.outlives_close());
    assert_eq!(read(&mut client, "1"), "leave");
}

#[test]
fn auth_of_the_wrong_kind_is_a_connect_error() {
    let mut client = client();
    for (auth, wrong) in [
        (r#"{"token":5}"#, "auth.token must be a string"),
        (r#"{"token":null,"pid":[]}"#, "auth.pid must be a string"),
        (r#"{"channels":"a"}"#, "auth.channels must be a list"),
        (r#"{"channels":[1]}"#, "auth.channels must be a list"),
        (r#"{"echo":"no"}"#, "auth.echo must be true or false"),
        (
            r#"{"token":"a","token":"b"}"#,
            "auth has one of its fields twice",
        ),
    ] {
        let said = read(&mut client, &format!("40{auth}"));
        let start = format!("44{{\"message\":\"{wrong}");
        assert!(said.starts_with(&start), "{auth}: {said}");
    }
    assert_eq!(read(&mut client, "40"), "enter None []");
}

#[test]
fn events_are_operations_or_calls() {
    let mut client = client();
    read(&mut client, "40/chat,");
    read(&mut client, "40");
    for (text, meant) in [
        (r#"421["join","a"]"#, r#""0:1" join a"#),
        (
            r#"42/chat,1["join",{"channel":"a"}]"#,
            r#""1:1" join chat:a"#,
        ),
        (
            r#"42["send",{"channel":"a","event":"e","data":[1]}]"#,
            " send a e [1]",
        ),
        (r#"42["order"]"#, " call order null"),
        (r#"427["order",{"x":1}]"#, r#""0:7" call order {"x":1}"#),
        (r#"42["order",1,"two"]"#, r#" call order [1,"two"]"#),
        (
            r#"427["send",{"channel":"a"}]"#,
            r#""0:7" refused bad_message"#,
        ),
        (r#"427["send",5]"#, r#""0:7" refused bad_message"#),
        (r#"427["join","a b"]"#, r#""0:7" refused bad_channel"#),
        (
            r#"427["join",{"channel":"a","op":"leave"}]"#,
            r#""0:7" refused bad_message"#,
        ),
        ("43[]", "nothing"),
        ("3", "nothing"),
    ] {
        assert_eq!(read(&mut client, text), meant, "{text}");
    }
    let long = format!(r#"42/chat,7["join","{}"]"#, "a".repeat(200));
    assert_eq!(read(&mut client, &long), r#""1:7" refused bad_channel"#);
}

#[test]
fn bytes_alone_are_bytes_and_among_others_json() {
    let mut client = client();
    read(&mut client, "40/chat,");
    let head = r#"451-/chat,3["send",{"channel":"a","event":"e","data":"#;
    let placeholder = r#"{"_placeholder":true,"num":0}"#;
    assert_eq!(
        read(&mut client, &format!("{head}{placeholder}}}]")),
        "nothing"
    );
    assert_eq!(
        said(client.read(&Message::Binary(&[1, 2]))),
        r#""1:3" send chat:a e [1, 2]"#
    );
    assert_eq!(
        read(&mut client, &format!(r#"{head}{{"b":{placeholder}}}}}]"#)),
        "nothing"
    );
    assert_eq!(
        said(client.read(&Message::Binary(&[1, 2]))),
        r#""1:3" send chat:a e {"b":{"$bytes":"AQI="}}"#
    );
    assert_eq!(
        read(
            &mut client,
            &format!(r#"451-/chat,["order",{placeholder}]"#)
        ),
        "nothing"
    );
    assert_eq!(
        said(client.read(&Message::Binary(b"x"))),
        " call order [120]"
    );
    assert_eq!(
        read(
            &mut client,
            &format!(r#"451-/chat,["order",1,{placeholder}]"#)
        ),
        "nothing"
    );
    assert_eq!(
        said(client.read(&Message::Binary(b"x"))),
        r#" call order [1,{"$bytes":"eA=="}]"#
    );
}

#[test]
fn what_no_client_writes_ends_the_connection() {
    let placeholder = r#"{"_placeholder":true,"num":0}"#;
    for texts in [
        &["4"][..],
        &["49"],
        &["0{}"],
        &[""],
        &["42[1]"],
        &["42{}"],
        &["44{}"],
        &["bytes"],
        &[r#"451-["a",1]"#, "bytes"],
        &[&format!(r#"451-["a",{placeholder}]"#), "42[\"a\"]"],
        &[
            &format!(r#"451-["a",{placeholder},{placeholder}]"#),
            "bytes",
        ],
        &[&format!(r#"451-["a",{placeholder}]"#), "many bytes"],
    ] {
        let mut client = client();
        read(&mut client, "40");
        let mut last = String::new();
        for text in texts {
            last = match *text {
                "bytes" => said(client.read(&Message::Binary(b"x"))),
                "many bytes" => said(client.read(&Message::Binary(&[0; 1000]))),
                text => read(&mut client, text),
            };
        }
        assert_eq!(last, "unintelligible true", "{texts:?}");
    }
}

proptest! {
    #[test]
    fn whatever_comes_is_read_or_refused(
        messages in prop::collection::vec(
            prop_oneof![
                any::<String>().prop_map(Ok),
                r#"4[0-6]([0-9]{1,2}-)?(/chat,)?[0-9]{0,2}\[?("(send|join|a)",?)?(\{("(channel|event|data)":("a"|\{"_placeholder":true,"num":[0-2]\}),?){0,3}\})?\]?"#.prop_map(Ok),
                prop::collection::vec(any::<u8>(), 0..400).prop_map(Err),
            ],
            1..12,
        ),
    ) {
        let mut client = client();
        read(&mut client, "40");
        read(&mut client, "40/chat,");
        for message in &messages {
            let _ = match message {
                Ok(text) => client.read(&Message::Text(text)).is_ok(),
                Err(bytes) => client.read(&Message::Binary(bytes)).is_ok(),
            };
        }
    }
}

#[test]
fn what_waits_for_its_attachments_is_told_and_can_be_lost() {
    let mut client = client();
    read(&mut client, "40");
    let text = r#"452-["x",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
    let bytes = Message::Binary(&[0; 100]);
    assert_eq!(client.held(), 0);
    read(&mut client, text);
    let begun = client.held();
    assert!(begun > 0);
    assert_eq!(said(client.read(&bytes)), "nothing");
    assert_eq!(client.held(), begun + 100);

    // The rest of what was refused for the client's rate is no fault of the client.
    client.lose_part();
    assert_eq!(client.held(), 0);
    assert_eq!(said(client.read(&bytes)), "nothing");
    read(&mut client, r#"42["join","room"]"#);
    assert_eq!(said(client.read(&bytes)), "unintelligible true");
}
