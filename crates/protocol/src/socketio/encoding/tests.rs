use proptest::prelude::*;

use super::*;
use crate::{
    close::Close,
    event::{Data, Event as NativeEvent, Marks, Sender},
    native,
};

fn namespaces() -> Arc<Namespaces> {
    Arc::new(Namespaces::new(["/", "/chat", "admin"]))
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

/// What a client gets, one string for each message: text as it is, bytes as `b:` and their text.
fn messages(form: &SocketIo, frame: &Frame) -> Vec<String> {
    let said = ParsedFrame::read(frame).unwrap();
    let mut out = Out::default();
    form.encode(&said, &mut out);
    let bytes = out.into_bytes();
    let mut rest = &*bytes;
    let mut all = Vec::new();
    while let [first, length, ..] = *rest {
        let (header, length) = match length {
            126 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
            length => (2, usize::from(length)),
        };
        let payload = String::from_utf8_lossy(&rest[header..header + length]).into_owned();
        all.push(match first {
            0x81 => payload,
            0x82 => format!("b:{payload}"),
            0x88 => "close".to_owned(),
            0x89 => format!("ping:{payload}"),
            other => panic!("an opcode {other:x}"),
        });
        rest = &rest[header + length..];
    }
    all
}

fn event(name: &str, data: Data<'_>, channel: Option<&str>, offset: Option<u64>) -> Frame {
    let marks = Marks {
        channel,
        ..Marks::default()
    };
    NativeEvent::new(name.to_owned(), data)
        .unwrap()
        .draft(&marks)
        .finish(offset)
}

#[test]
fn no_string_is_the_last_argument_but_a_place_in_a_history() {
    let form = SocketIo::inside(&namespaces(), 1);
    let text = raw(r#""0@room""#);
    let one = |channel, offset| {
        let event = event("e", Data::Json(&text), channel, offset);
        messages(&form, &event).concat()
    };
    assert_eq!(one(None, None), r#"42["e","0@room",{}]"#);
    assert_eq!(
        one(Some("room"), None),
        r#"42["e","0@room",{"channel":"room"}]"#
    );
    assert_eq!(
        one(Some("room"), Some(7)),
        r#"42["e","0@room",{"channel":"room","offset":7},"7@room"]"#
    );
}

#[test]
fn an_event_has_its_data_first_and_then_where_it_comes_from() {
    let form = SocketIo::inside(&namespaces(), 1);
    let data = raw("[1, 2]");
    let plain = event("a\"b", Data::Json(&data), None, None);
    assert_eq!(messages(&form, &plain), [r#"42["a\"b",[1, 2]]"#]);
    let stored = event("e", Data::Json(&data), Some("room"), Some(12));
    assert_eq!(
        messages(&form, &stored),
        [r#"42["e",[1, 2],{"channel":"room","offset":12},"12@room"]"#]
    );
    let from = Sender {
        connection: "00000000000000000000000004".parse().unwrap(),
        user: None,
    };
    let marks = Marks {
        from: Some(&from),
        ..Marks::default()
    };
    let sent = NativeEvent::new("e", Data::Json(&data)).unwrap();
    let sent = sent.draft(&marks).finish(None);
    assert_eq!(
        messages(&form, &sent),
        [r#"42["e",[1, 2],{"from":{"connection":"00000000000000000000000004","user":null}}]"#]
    );
}

#[test]
fn bytes_are_attachments() {
    let form = SocketIo::inside(&namespaces(), 2);
    let bytes = event("e", Data::Bytes(b"xy"[..].into()), Some("chat:a"), None);
    assert_eq!(
        messages(&form, &bytes),
        [
            r#"451-/chat,["e",{"_placeholder":true,"num":0},{"channel":"a"}]"#,
            "b:xy"
        ]
    );
    let data = raw(r#"{"a":{"$bytes":"eA=="},"b":{"$bytes":"eXo="}}"#);
    assert_eq!(
        messages(&form, &event("e", Data::Json(&data), None, None)),
        [
            r#"452-/chat,["e",{"a":{"_placeholder":true,"num":0},"b":{"_placeholder":true,"num":1}}]"#,
            "b:x",
            "b:yz"
        ]
    );
}

#[test]
fn a_name_that_clients_do_not_take_is_told_beside_the_event() {
    let form = SocketIo::inside(&namespaces(), 1);
    let data = raw("1");
    for name in RESERVED {
        assert_eq!(
            messages(&form, &event(name, Data::Json(&data), None, None)),
            [format!(r#"42["fanfare:event",1,{{"event":"{name}"}}]"#)]
        );
    }
}

#[test]
fn a_namespace_gets_its_channels_and_what_is_for_everyone() {
    let namespaces = namespaces();
    let data = raw("1");
    let to = |channel| event("e", Data::Json(&data), channel, None);
    let (root, chat) = (r#"42["e",1]"#, r#"42/chat,["e",1]"#);
    let both = SocketIo::inside(&namespaces, 0b011);
    assert_eq!(messages(&both, &to(None)), [root, chat]);
    assert_eq!(
        messages(&both, &to(Some("chat:a"))),
        [r#"42/chat,["e",1,{"channel":"a"}]"#]
    );
    assert_eq!(
        messages(&both, &to(Some("admin:a"))),
        [r#"42["e",1,{"channel":"admin:a"}]"#]
    );
    // Somebody has put it into a channel of another namespace. An event is never lost.
    let chat = SocketIo::inside(&namespaces, 0b010);
    assert_eq!(
        messages(&chat, &to(Some("a"))),
        [r#"42/chat,["e",1,{"channel":"a"}]"#]
    );
}

#[test]
fn answers_go_where_the_request_came_from() {
    let form = SocketIo::inside(&namespaces(), 0b011);
    for (id, head) in [("7", "437"), (r#""0:7""#, "437"), (r#""1:7""#, "43/chat,7")] {
        let id = raw(id);
        assert_eq!(
            messages(&form, &native::ack(&id)),
            [format!("{head}[{{}}]")]
        );
        assert_eq!(
            messages(&form, &native::error(Some(&id), "forbidden", "no")),
            [format!(
                r#"{head}[{{"error":{{"code":"forbidden","message":"no"}}}}]"#
            )]
        );
    }
    assert_eq!(
        messages(&form, &native::error(None, "forbidden", "no")),
        [r#"42["fanfare:error",{"code":"forbidden","message":"no"}]"#]
    );
    assert_eq!(request(&raw(&request_id(4, "15"))), Some((4, "15".into())));
}

#[test]
fn a_close_tells_a_client_whether_to_come_back() {
    let namespaces = namespaces();
    let close = |code| Frame::close(&Close::new(code, "why"));
    let waiting = SocketIo::waiting(&namespaces, 1);
    assert_eq!(
        messages(&waiting, &close(close::UNAUTHORIZED)),
        [r#"44/chat,{"message":"why","data":{"code":4001}}"#, "close"]
    );
    let inside = SocketIo::inside(&namespaces, 0b011);
    for code in [close::UNAUTHORIZED, close::DISCONNECTED, close::NORMAL] {
        assert_eq!(messages(&inside, &close(code)), ["41", "41/chat,", "close"]);
    }
    for code in [close::EXPIRED, close::TOO_SLOW, 4200] {
        assert_eq!(messages(&inside, &close(code)), ["close"]);
    }
}

#[test]
fn a_welcome_lets_a_client_into_its_namespace() {
    let welcome = native::welcome(&native::Welcome {
        connection: "00000000000000000000000004".parse().unwrap(),
        user: None,
        heartbeat: 25,
        resumed: None,
        recovery: Some("p"),
        reconnect: native::Reconnect {
            min_ms: 1,
            max_ms: 2,
            resume_ms: 3,
        },
    });
    assert_eq!(
        messages(&SocketIo::inside(&namespaces(), 2), &welcome),
        [r#"40/chat,{"sid":"00000000000000000000000004","pid":"p"}"#]
    );
}

#[test]
fn notices_are_events_of_the_servers_own() {
    let form = SocketIo::inside(&namespaces(), 0b011);
    assert_eq!(
        messages(&form, &native::joined("chat:a", None)),
        [r#"42/chat,["fanfare:joined",{"channel":"a"}]"#]
    );
    assert_eq!(
        messages(&form, &native::left("a")),
        [r#"42["fanfare:left",{"channel":"a"}]"#]
    );
    let id = "00000000000000000000000004".parse().unwrap();
    let member = native::Member {
        id,
        user: Some("u"),
        data: None,
    };
    assert_eq!(
        messages(
            &form,
            &native::member(MemberKind::Joined, "a", &member, 2, None)
        ),
        [concat!(
            r#"42["fanfare:member",{"kind":"joined","channel":"a","#,
            r#""member":{"id":"00000000000000000000000004","user":"u"},"user_connections":2}]"#
        )]
    );
    assert_eq!(
        messages(&form, &native::bye(4200, "draining", 5)),
        [r#"42["fanfare:bye",{"code":4200,"reason":"draining","reconnect_in_ms":5}]"#]
    );
    assert_eq!(messages(&form, &Frame::ping(b"")), ["2"]);
    assert_eq!(messages(&form, &Frame::ping(b"x")), ["ping:x"]);
}

proptest! {
    #[test]
    fn an_event_never_becomes_nothing(
        inside in 1u8..8,
        name in "[a-z:\"]{1,12}",
        channel in prop::option::of("(chat:|admin:)?[a-z]{1,5}"),
        offset in prop::option::of(any::<u64>()),
        bytes in prop::option::of(prop::collection::vec(any::<u8>(), 0..8)),
    ) {
        let data = raw(r#"{"x":1}"#);
        let data = match bytes {
            Some(bytes) => Data::Bytes(bytes.into()),
            None => Data::Json(&data),
        };
        let Ok(event) = NativeEvent::new(name, data) else { return Ok(()) };
        let marks = Marks { channel: channel.as_deref(), ..Marks::default() };
        let form = SocketIo::inside(&namespaces(), inside);
        prop_assert!(!messages(&form, &event.draft(&marks).finish(offset)).is_empty());
    }
}
