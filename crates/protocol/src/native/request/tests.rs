use super::*;

fn refused(call: Result<Call<'_>, Misunderstood<'_>>) -> (Option<String>, &'static str, String) {
    match call {
        Err(Misunderstood::Refused { id, code, message }) => {
            (id.map(|id| id.get().to_owned()), code, message)
        }
        Err(Misunderstood::Unreadable { message }) => (None, "unreadable", message.to_owned()),
        Ok(call) => panic!("{call:?} was understood"),
    }
}

fn request(text: &str) -> Request<'_> {
    parse(text)
        .unwrap_or_else(|error| panic!("{text}: {error:?}"))
        .request
}

fn binary(header: &str, bytes: &[u8]) -> Vec<u8> {
    [
        &[1],
        &(header.len() as u16).to_be_bytes()[..],
        header.as_bytes(),
        bytes,
    ]
    .concat()
}

fn json<'a>(event: &Event<'a>) -> &'a str {
    let Data::Json(raw) = event.data else {
        panic!("{event:?} is of bytes")
    };
    raw.get()
}

#[test]
fn requests_are_told_apart_by_op() {
    assert!(matches!(
        parse(r#"{"op":"ping"}"#),
        Ok(Call {
            id: None,
            request: Request::Ping
        })
    ));
    assert!(matches!(
        parse(r#"{"op":"ping","id":null}"#),
        Ok(Call { id: None, .. })
    ));
    let call = parse(r#" {"op":"auth","id":7,"token":"t"}"#).unwrap();
    assert_eq!(call.id.map(RawValue::get), Some("7"));
    assert!(matches!(
        call.request,
        Request::Auth {
            token: Cow::Borrowed("t")
        }
    ));
    assert!(
        matches!(request(r#"{"op":"leave","channel":"c"}"#), Request::Leave { channel } if channel == "c")
    );
    for data in ["{}", r#"{"a": 1}"#, "null"] {
        let text = format!(r#"{{"op":"update","data":{data}}}"#);
        assert!(matches!(request(&text), Request::Update { data: raw } if raw.get() == data));
    }
    assert!(matches!(
        request(r#"{"op":"call","name":"f","data":[1.0]}"#),
        Request::Call { name, data: Data::Json(data) } if name == "f" && data.get() == "[1.0]"
    ));
    assert!(
        matches!(request(r#"{"op":"call","name":"f"}"#), Request::Call { data: Data::Json(data), .. } if data.get() == "null")
    );
}

#[test]
fn what_may_be_absent_may_be_null() {
    for text in [
        r#"{"op":"join","channel":"c"}"#,
        r#"{"op":"join","channel":"c","members":null,"since":null}"#,
        r#"{"op":"join","channel":"c","members":false}"#,
    ] {
        assert!(
            matches!(
                request(text),
                Request::Join {
                    members: false,
                    since: None,
                    ..
                }
            ),
            "{text}"
        );
    }
    let text =
        r#"{"op":"join","channel":"\u0063","members":true,"since":{"epoch":"e","offset":12}}"#;
    let Request::Join {
        channel,
        members: true,
        since: Some(since),
    } = request(text)
    else {
        panic!("{text}");
    };
    assert_eq!(
        (&*channel, since),
        (
            "c",
            Since {
                epoch: Some("e".to_owned()),
                offset: 12
            }
        )
    );
    let text = r#"{"op":"join","channel":"c","since":{"offset":0}}"#;
    assert!(matches!(
        request(text),
        Request::Join {
            since: Some(Since {
                epoch: None,
                offset: 0
            }),
            ..
        }
    ));
    let text = r#"{"op":"members","channel":"c","cursor":null,"limit":null}"#;
    assert!(matches!(
        request(text),
        Request::Members {
            cursor: None,
            limit: None,
            ..
        }
    ));
    let text = r#"{"op":"members","channel":"c","cursor":"x","limit":5}"#;
    assert!(
        matches!(request(text), Request::Members { cursor: Some(x), limit: Some(5), .. } if x == "x")
    );
}

#[test]
fn events_of_clients_pass_byte_for_byte() {
    let text = concat!(
        r#"{"op":"send","channel":"c","event":"e","data":{ "b":1.0,"a":"\u00e9" },"#,
        r#""echo":false,"except":{"users":["u"],"devices":["d"]}}"#
    );
    let Request::Send {
        channel,
        message: ClientEvent {
            event,
            echo,
            except,
        },
    } = request(text)
    else {
        panic!("{text}");
    };
    assert_eq!((&*channel, &*event.name, echo), ("c", "e", Some(false)));
    assert_eq!(json(&event), r#"{ "b":1.0,"a":"\u00e9" }"#);
    assert_eq!(
        (except.users, except.connections, except.devices),
        (vec!["u".to_owned()], vec![], vec!["d".to_owned()])
    );
    let Request::Broadcast { message } = request(r#"{"op":"broadcast","event":"e"}"#) else {
        panic!()
    };
    assert_eq!((json(&message.event), message.echo), ("null", None));
    let text = r#"{"op":"publish","users":["u","v"],"event":"e","data":1}"#;
    let Request::Publish { users, message } = request(text) else {
        panic!("{text}")
    };
    assert_eq!(
        (users, json(&message.event)),
        (vec!["u".to_owned(), "v".to_owned()], "1")
    );
}

#[test]
fn what_is_no_json_is_told_apart_from_what_means_nothing() {
    for text in [
        "",
        "{",
        "nope",
        "[1,2",
        r#"{"op":"ping"} x"#,
        r#"{"op":1,"op":2"#,
        "{\"a\":\"\u{1}\"}",
    ] {
        assert_eq!(refused(parse(text)).1, "unreadable", "{text}");
    }
    for text in ["[]", "1", "null", r#"["ping"]"#] {
        assert_eq!(
            refused(parse(text)),
            (
                None,
                "bad_message",
                "the message is not an object".to_owned()
            )
        );
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn what_is_not_understood_says_why() {
    for (text, why) in [
        ("{}", "\"op\" is required, for example \"send\""),
        (r#"{"op":5}"#, "op must be a string"),
        (r#"{"op":null}"#, "op must be a string"),
        (r#"{"op":"ping","op":"ping"}"#, "op is there twice"),
        (
            r#"{"op":"ping","id":{}}"#,
            "id must be a number or a string of up to 64 bytes",
        ),
        (
            r#"{"op":"ping","id":true}"#,
            "id must be a number or a string of up to 64 bytes",
        ),
        (r#"{"op":"auth"}"#, "auth needs token"),
        (r#"{"op":"auth","token":null}"#, "token must be a string"),
        (
            r#"{"op":"ping","token":"t"}"#,
            "unknown field \"token\"; ping takes none",
        ),
        (
            r#"{"op":"ping","extra":1}"#,
            "unknown field \"extra\"; ping takes none",
        ),
        (
            r#"{"op":"ping","data":null}"#,
            "unknown field \"data\"; ping takes none",
        ),
        (r#"{"op":"join"}"#, "join needs channel"),
        (r#"{"op":"join","channel":7}"#, "channel must be a string"),
        (
            r#"{"op":"join","channel":"c","members":1}"#,
            "members must be true or false",
        ),
        (
            r#"{"op":"join","channel":"c","event":"e"}"#,
            "unknown field \"event\"; join takes channel, members, since",
        ),
        (
            r#"{"op":"join","channel":"c","since":12}"#,
            "since must be an object",
        ),
        (
            r#"{"op":"join","channel":"c","since":["e",12]}"#,
            "since must be an object",
        ),
        (
            r#"{"op":"join","channel":"c","since":{}}"#,
            "since: missing field `offset`",
        ),
        (
            r#"{"op":"join","channel":"c","since":{"offset":"3"}}"#,
            "\"since.offset\" must be a whole number",
        ),
        (
            r#"{"op":"join","channel":"c","since":{"offset":-3}}"#,
            "\"since.offset\" must be a whole number",
        ),
        (
            r#"{"op":"join","channel":"c","since":{"epoch":3,"offset":3}}"#,
            "\"since.epoch\" must be a string",
        ),
        (
            r#"{"op":"join","chanel":"c"}"#,
            "unknown field \"chanel\"; did you mean \"channel\"?",
        ),
        (
            r#"{"op":"publish","user":"ann","event":"e"}"#,
            "unknown field \"user\"; did you mean \"users\"?",
        ),
        (
            r#"{"op":"send","channel":"c","message":"hello"}"#,
            "unknown field \"message\"; send takes channel, event, data, echo, except",
        ),
        (
            r#"{"op":"update","profile":{}}"#,
            "unknown field \"profile\"; update takes data",
        ),
        (
            r#"{"op":"leave","channel":"c","since":{}}"#,
            "unknown field \"since\"; leave takes channel",
        ),
        (r#"{"op":"update"}"#, "update needs data, an object or null"),
        (
            r#"{"op":"update","data":[]}"#,
            "update needs data, an object or null",
        ),
        (
            r#"{"op":"members","channel":"c","limit":-1}"#,
            "limit must be a whole number",
        ),
        (
            r#"{"op":"members","channel":"c","cursor":1}"#,
            "cursor must be a string",
        ),
        (r#"{"op":"send","event":"e"}"#, "send needs channel"),
        (r#"{"op":"send","channel":"c"}"#, "send needs event"),
        (
            r#"{"op":"send","channel":"c","event":"e","echo":"no"}"#,
            "echo must be true or false",
        ),
        (
            r#"{"op":"broadcast","channel":"c","event":"e"}"#,
            "unknown field \"channel\"; broadcast takes event, data, echo, except",
        ),
        (
            r#"{"op":"broadcast","event":"e","except":null}"#,
            "except must be an object",
        ),
        (
            r#"{"op":"broadcast","event":"e","except":[["u"]]}"#,
            "except must be an object",
        ),
        (r#"{"op":"publish","event":"e"}"#, "publish needs users"),
        (
            r#"{"op":"publish","users":"u","event":"e"}"#,
            "users must be a list of strings",
        ),
        (r#"{"op":"call"}"#, "call needs name"),
    ] {
        assert_eq!(
            refused(parse(text)),
            (None, "bad_message", why.to_owned()),
            "{text}"
        );
    }
    let message = refused(parse(
        r#"{"op":"broadcast","event":"e","except":{"user":[]}}"#,
    ))
    .2;
    assert!(
        message.starts_with("except: unknown field `user`") && !message.contains(" line "),
        "{message}"
    );
    let message = refused(parse(
        r#"{"op":"join","channel":"c","since":{"offset":1,"x":2}}"#,
    ))
    .2;
    assert!(message.starts_with("since: unknown field `x`"), "{message}");
    let long = format!(
        r#"{{"op":"broadcast","event":"e","except":{{"{}":1}}}}"#,
        "é".repeat(20_000)
    );
    assert!(refused(parse(&long)).2.len() < 500);
    let many = (0..20)
        .map(|n| format!(r#""f{n}":1"#))
        .collect::<Vec<_>>()
        .join(",");
    assert_eq!(
        refused(parse(&format!("{{{many}}}"))).2,
        "the message has over 16 fields"
    );
}

#[test]
fn a_refusal_has_the_code_of_its_rule_and_the_id_of_its_message() {
    let long = "x".repeat(300);
    for (text, code) in [
        (r#"{"op":"dance","id":1}"#.to_owned(), "unknown_op"),
        (format!(r#"{{"id":1,"op":"{long}"}}"#), "unknown_op"),
        (
            r#"{"op":"join","channel":"a b","id":1}"#.to_owned(),
            "bad_channel",
        ),
        (
            format!(r#"{{"op":"leave","channel":"{long}","id":1}}"#),
            "bad_channel",
        ),
        (
            r#"{"op":"broadcast","event":"","id":1}"#.to_owned(),
            "event_name_length",
        ),
        (
            r#"{"op":"broadcast","event":"fanfare:x","id":1}"#.to_owned(),
            "event_name_reserved",
        ),
        (
            format!(
                r#"{{"op":"broadcast","event":"e","id":1,"data":{}{}}}"#,
                "[".repeat(129),
                "]".repeat(129)
            ),
            "data_too_deep",
        ),
        (r#"{"id":1,"op":"ping","x":1}"#.to_owned(), "bad_message"),
    ] {
        let (id, got, message) = refused(parse(&text));
        assert_eq!((id.as_deref(), got), (Some("1"), code), "{text}");
        assert!(message.len() < 160, "{message}");
    }
}

#[test]
fn an_unknown_op_is_told_which_may_be_meant() {
    let all =
        "the ops are auth, ping, join, leave, update, members, send, broadcast, publish, call";
    for (op, hint) in [
        ("jion", "did you mean \"join\"?"),
        ("Send", "did you mean \"send\"?"),
        ("subscribe", "did you mean \"join\"?"),
        ("unsubscribe", "did you mean \"leave\"?"),
        ("emit", "did you mean \"broadcast\"?"),
        ("dance", all),
        ("", all),
    ] {
        let text = format!(r#"{{"op":"{op}"}}"#);
        let message = format!("unknown op \"{op}\"; {hint}");
        assert_eq!(refused(parse(&text)), (None, "unknown_op", message));
    }
}

#[test]
fn the_fields_of_each_op_are_those_that_it_takes() {
    // A field that is taken and not listed would be called unknown where another one is missing.
    for op in OPS {
        let mut message = serde_json::json!({"op": op});
        for field in fields_of(op) {
            message[field] = match *field {
                "members" | "echo" => true.into(),
                "limit" => 1.into(),
                "since" => serde_json::json!({"offset": 1}),
                "users" => serde_json::json!(["ann"]),
                "data" | "except" => serde_json::json!({}),
                _ => "x".into(),
            };
        }
        assert!(parse(&message.to_string()).is_ok(), "{message}");
        message["zzzzzzzz"] = 1.into();
        assert!(
            refused(parse(&message.to_string()))
                .2
                .starts_with("unknown field")
        );
    }
}

#[test]
fn bytes_come_behind_their_header() {
    let message = binary(
        r#"{"op":"send","id":"a","channel":"c","event":"e","echo":true}"#,
        &[0, 255],
    );
    let call = parse_binary(&message).unwrap();
    assert_eq!(call.id.map(RawValue::get), Some(r#""a""#));
    let Request::Send { message, .. } = call.request else {
        panic!()
    };
    assert!(matches!(
        message.event.data,
        Data::Bytes(Cow::Borrowed(&[0, 255]))
    ));
    assert_eq!(message.echo, Some(true));
    for header in [
        r#"{"op":"broadcast","event":"e"}"#,
        r#"{"op":"publish","users":[],"event":"e"}"#,
    ] {
        assert!(parse_binary(&binary(header, b"")).is_ok(), "{header}");
    }
}

#[test]
fn a_binary_message_without_a_header_is_unreadable_and_one_with_a_wrong_header_is_refused() {
    let whole = binary(r#"{"op":"broadcast","event":"e"}"#, b"");
    for end in 0..whole.len() {
        assert_eq!(
            refused(parse_binary(&whole[..end])).1,
            "unreadable",
            "{end}"
        );
    }
    let other_version = [&[2], &whole[1..]].concat();
    assert_eq!(
        refused(parse_binary(&other_version)).2,
        "a binary message begins with the version byte 1"
    );
    assert_eq!(
        refused(parse_binary(&[1, 0, 1, 255])).2,
        "the header of the binary message is not UTF-8"
    );
    for header in ["", "{"] {
        let expected = "the header of the binary message is not JSON".to_owned();
        assert_eq!(
            refused(parse_binary(&binary(header, b"x"))),
            (None, "unreadable", expected),
            "{header}"
        );
    }
    for (header, why) in [
        ("[]", "the message is not an object"),
        (r#"{"op":"ping"}"#, "ping takes no bytes; send it as text"),
        (
            r#"{"op":"call","name":"f","data":1}"#,
            "a binary message has its data after the header, not in it",
        ),
        (
            r#"{"op":"broadcast","event":"e","data":null}"#,
            "a binary message has its data after the header, not in it",
        ),
    ] {
        let message = binary(header, b"x");
        assert_eq!(
            refused(parse_binary(&message)),
            (None, "bad_message", why.to_owned()),
            "{header}"
        );
    }
}

#[test]
fn the_id_is_found_whatever_else_a_message_says() {
    for (text, expected) in [
        (r#"{"x":[],"id":7}"#, Some("7")),
        (r#"{"id":"a"}"#, Some(r#""a""#)),
        (r#"{"id":-1.5}"#, Some("-1.5")),
        (r#"{"id":[]}"#, None),
        (r#"{"id":null}"#, None),
        ("[7]", None),
        ("{", None),
    ] {
        assert_eq!(id(text).map(RawValue::get), expected, "{text}");
        assert_eq!(
            binary_id(&binary(text, b"x")).map(RawValue::get),
            expected,
            "{text}"
        );
    }
    assert!(id(&format!(r#"{{"id":"{}"}}"#, "x".repeat(63))).is_none());
    for broken in [
        &b""[..],
        &[1],
        &[2, 0, 2, b'{', b'}'],
        &[1, 0, 9, b'{', b'}'],
    ] {
        assert!(binary_id(broken).is_none());
    }
}
