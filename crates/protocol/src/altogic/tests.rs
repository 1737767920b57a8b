use super::*;
use crate::{
    close::Close,
    event::{Data, Event, Marks, Sender},
    frame::Frame,
    native::{self, Changes, Member, confirm_ping},
};

const CONNECTION: &str = "00000000000000000000000004";
const OTHER: &str = "00000000000000000000000008";

fn id() -> ConnectionId {
    CONNECTION.parse().unwrap()
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

/// The WebSocket messages in place of `frame`: text as it is, bytes in hexadecimal digits behind their length.
fn messages(frame: &Frame, system: System, stage: Stage) -> Vec<String> {
    let mut out = Out::default();
    let said = ParsedFrame::read(frame).expect("a native frame");
    Altogic { system, stage }.encode(&said, &mut out);
    let (bytes, mut all) = (out.into_bytes(), Vec::new());
    let mut rest = &*bytes;
    while let [first, length, behind @ ..] = rest {
        let (length, behind) = match length {
            126 => (
                usize::from(u16::from_be_bytes([behind[0], behind[1]])),
                &behind[2..],
            ),
            length => (usize::from(*length), behind),
        };
        let (payload, behind) = behind.split_at(length);
        all.push(match first {
            0x81 => String::from_utf8(payload.to_vec()).unwrap(),
            0x82 => format!(
                "{length} bytes: {}",
                data_encoding::HEXLOWER.encode(payload)
            ),
            first => format!("{first:x}: {}", data_encoding::HEXLOWER.encode(payload)),
        });
        rest = behind;
    }
    all
}

#[track_caller]
fn says(frame: &Frame, expected: &[&str]) {
    assert_eq!(messages(frame, System::Altogic, Stage::Connected), expected);
}

fn event(name: &str, data: Data<'_>, marks: &Marks<'_>) -> Frame {
    Event::new(name, data).unwrap().draft(marks).finish(None)
}

#[test]
fn events_say_their_channel_or_null() {
    let data = raw(r#"{"a": 1.50}"#);
    let chat = |channel| {
        let marks = Marks {
            channel,
            ..Marks::default()
        };
        event("chat", Data::Json(&data), &marks)
    };
    says(
        &chat(Some("Room=20=231")),
        &[r#"42["chat",{"channel":"Room #1","message":{"a": 1.50}}]"#],
    );
    says(
        &chat(None),
        &[r#"42["chat",{"channel":null,"message":{"a": 1.50}}]"#],
    );
}

#[test]
fn bytes_are_attachments() {
    let marks = Marks {
        channel: Some("c"),
        ..Marks::default()
    };
    says(
        &event("e", Data::Bytes(b"\x01\xff"[..].into()), &marks),
        &[
            r#"451-["e",{"channel":"c","message":{"_placeholder":true,"num":0}}]"#,
            "2 bytes: 01ff",
        ],
    );
    let nested = raw(r#"{"name":"x","file":{"$bytes":"Af8="}}"#);
    says(
        &event("e", Data::Json(&nested), &Marks::default()),
        &[
            r#"451-["e",{"channel":null,"message":{"name":"x","file":{"_placeholder":true,"num":0}}}]"#,
            "2 bytes: 01ff",
        ],
    );
}

#[test]
fn names_of_the_transport_are_others_for_these_clients() {
    let data = raw("1");
    for name in RESERVED {
        let expected = format!(r#"42["event:{name}",{{"channel":null,"message":1}}]"#);
        says(
            &event(name, Data::Json(&data), &Marks::default()),
            &[&expected],
        );
    }
}

#[test]
fn events_about_users_have_arguments_if_the_server_says_them() {
    let data = raw(r#"{"session":{"token":"t"},"user":{"id":"u"}}"#);
    let about = |data: &RawValue, from| {
        let marks = Marks {
            from,
            ..Marks::default()
        };
        event("user:signin", Data::Json(data), &marks)
    };
    says(
        &about(&data, None),
        &[r#"42["user:signin","user:signin",{"token":"t"},{"id":"u"}]"#],
    );
    says(
        &about(&raw(r#"{"session":null}"#), None),
        &[r#"42["user:signin","user:signin",null,null]"#],
    );
    says(
        &about(&raw(r#"{"token":"t"}"#), None),
        &[r#"42["user:signin","user:signin",{"token":"t"},null]"#],
    );
    let from = Sender {
        connection: id(),
        user: None,
    };
    says(
        &about(&data, Some(&from)),
        &[
            r#"42["user:signin",{"channel":null,"message":{"session":{"token":"t"},"user":{"id":"u"}}}]"#,
        ],
    );
}

#[test]
fn members_are_notices_with_data_if_they_have_any() {
    let profile = fanfare_filter::Value::from_json(&mut br#"{"name":"Ann"}"#.to_vec(), None);
    let profile = profile.unwrap();
    let notice = |kind, data, previous| {
        let member = Member {
            id: id(),
            user: Some("u"),
            data,
        };
        native::member(kind, "a=2Fb", &member, 2, previous)
    };
    for (kind, name) in [
        (MemberKind::Joined, JOIN),
        (MemberKind::Left, LEAVE),
        (MemberKind::Updated, UPDATE),
    ] {
        let expected =
            format!(r#"42["{name}",{{"channel":"a/b","message":{{"id":"{CONNECTION}"}}}}]"#);
        says(&notice(kind, None, None), &[&expected]);
    }
    let joined = format!(
        r#"42["channel:join",{{"channel":"a/b","message":{{"id":"{CONNECTION}","data":{{"name":"Ann"}}}}}}]"#
    );
    says(
        &notice(MemberKind::Joined, Some(&profile), None),
        &[&joined],
    );
    let left = format!(r#"42["channel:leave",{{"channel":"a/b","message":{{"id":"{OTHER}"}}}}]"#);
    let previous = OTHER.parse().ok();
    says(
        &notice(MemberKind::Updated, Some(&profile), previous),
        &[&left, &joined],
    );
    says(
        &native::members_changed("c", &Changes::default(), 7, 5),
        &[r#"42["channel:members",{"channel":"c","message":{"count":7,"users":5}}]"#],
    );
}

#[test]
fn an_echo_comes_back_with_the_ack_once_for_each_channel() {
    let ack = |profile, channels: &[&str]| {
        native::ack(&echo(UPDATE, (id(), profile), channels.iter().copied()))
    };
    let expected = |channel| {
        format!(
            r#"42["channel:update",{{"channel":"{channel}","message":{{"id":"{CONNECTION}","data":[1, 2]}}}}]"#
        )
    };
    says(
        &ack(Some("[1, 2]"), &["a", "b=20c"]),
        &[&expected("a"), &expected("b c")],
    );
    says(&ack(None, &[]), &[]);
    let alone =
        format!(r#"42["channel:update",{{"channel":"a","message":{{"id":"{CONNECTION}"}}}}]"#);
    says(&ack(None, &["a"]), &[&alone]);
}

#[test]
fn lists_of_members_answer_their_call() {
    let page = native::MembersPage {
        members: raw(r#"[{"id":"1","user":"u","data":{"a":1}},{"id":"2","user":null}]"#),
        count: 2,
        users: 1,
        cursor: None,
    };
    says(
        &native::ack_members(&raw("17"), &page),
        &[r#"4317[[{"id":"1","data":{"a":1}},{"id":"2"}]]"#],
    );
}

#[test]
fn refusals_are_events_and_no_answers() {
    says(
        &native::error(Some(&raw("17")), "forbidden", "no \"join\""),
        &[r#"42["error",{"origin":"client_error","code":"forbidden","message":"no \"join\""}]"#],
    );
    let error = native::error(None, "bad_message", "x");
    assert!(messages(&error, System::Agnost, Stage::Connecting).is_empty());
}

#[test]
fn whoever_is_not_let_in_learns_the_reason_as_connect_error() {
    let refused = |system, code, reason| {
        let close = Frame::close(&Close::new(code, reason));
        let said = messages(&close, system, Stage::Connecting);
        assert!(said.last().unwrap().starts_with("88: "), "{said:?}");
        said[..said.len() - 1].join("")
    };
    for (system, reason, code) in [
        (System::Altogic, close::KEY_MISSING, "missing_client_key"),
        (System::Agnost, close::KEY_MISSING, "missing_api_key"),
        (System::Altogic, close::KEY_UNKNOWN, "invalid_client_key"),
        (System::Agnost, close::KEY_UNKNOWN, "invalid_api_key"),
        (
            System::Agnost,
            close::API_KEY_UNKNOWN,
            "invalid_access_token",
        ),
        (
            System::Altogic,
            close::TOKEN_MISSING,
            "missing_session_token",
        ),
        (
            System::Altogic,
            "the Origin 'https://a.example' is not in origins of client key 'web'",
            "domain_not_authorized",
        ),
        (
            System::Agnost,
            "a page without a token may not connect: send a session token",
            "domain_not_authorized",
        ),
        (
            System::Altogic,
            "the token has expired",
            "invalid_session_token",
        ),
    ] {
        assert_eq!(
            refused(system, close::UNAUTHORIZED, reason),
            format!(
                r#"44{{"message":"Realtime Connection Error - {reason}","data":{{"origin":"client_error","code":"{code}","message":"{reason}"}}}}"#
            )
        );
    }
    assert_eq!(
        refused(System::Altogic, close::OVER_LIMIT, "later"),
        "",
        "who may come back is not sent away for good"
    );
}

#[test]
fn whoever_is_to_stay_away_is_disconnected_and_others_lose_the_connection() {
    let closed = |code| {
        let close = Frame::close(&Close::new(code, ""));
        let said = messages(&close, System::Altogic, Stage::Connected);
        said[..said.len() - 1].join("")
    };
    for code in [close::UNAUTHORIZED, close::EXPIRED, close::DISCONNECTED] {
        assert_eq!(closed(code), "41", "{code}");
    }
    for code in [close::DRAINING, close::TOO_SLOW, close::NORMAL] {
        assert_eq!(closed(code), "", "{code}");
    }
}

#[test]
fn signs_of_life_are_those_of_engine_io() {
    says(&Frame::ping(b""), &["2"]);
    let [asked, ping] = &messages(&confirm_ping(7), System::Altogic, Stage::Connected)[..] else {
        panic!("a question and a sign of life");
    };
    assert!(asked.starts_with("89: ") && ping == "2", "{asked} {ping}");
    says(&Frame::pong(b"x"), &["8a: 78"]);
    says(&native::pong(), &[]);
    says(&native::bye(4200, "draining", 5), &[]);
    says(&native::joined("c", None), &[]);
    says(&native::left("c"), &[]);
}
