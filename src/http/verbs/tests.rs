use super::*;
use crate::limits::TARGET_NAMES;

fn call_of(verb: Verb, body: &str) -> Result<Vec<Target>, &'static str> {
    let fields: VerbFields<'_> =
        body::parse(body.as_bytes(), verb.shape()).map_err(|problem| problem.code())?;
    fields
        .into_call(verb)
        .map(|order| order.targets)
        .map_err(|problem| problem.code())
}

fn to(verb: Verb, body: &str) -> Option<To> {
    let mut targets = call_of(verb, body).unwrap();
    assert_eq!(targets.len(), 1, "{body}");
    targets.remove(0).to
}

#[test]
fn bad_base64_is_told_what_to_change() {
    for (text, why) in [
        ("AP8", "the padding \"=\" at its end is missing"),
        (
            "-_8=",
            "it is base64url; write + in place of -, and / in place of _",
        ),
        ("*", "invalid length at 0"),
    ] {
        let problem = data(None, Some(text)).unwrap_err();
        let detail = format!("\"data_base64\" must be padded base64: {why}");
        assert_eq!(problem.detail(), detail, "{text}");
    }
    assert!(data(None, Some("AP8=")).is_ok());
}

#[test]
fn the_verbs_fill_in_their_part_of_the_target() {
    assert_eq!(
        to(Verb::Publish, r#"{"user":"u","event":"e"}"#)
            .unwrap()
            .users,
        ["u"]
    );
    assert!(to(Verb::Broadcast, r#"{"event":"e"}"#).is_none());
    assert!(
        to(
            Verb::Dispatch,
            r#"{"recipients":["*"],"event":"e","except":["u"]}"#
        )
        .is_none()
    );
    assert_eq!(
        to(Verb::Emit, r#"{"to":{},"event":"e"}"#).unwrap().users,
        [""; 0]
    );
    assert_eq!(
        to(Verb::Emit, r#"{"to":{"channels":["a","b"]},"event":"e"}"#)
            .unwrap()
            .channels,
        ["a", "b"]
    );
    assert!(to(Verb::Dispatch, r#"{"recipients":[],"event":"e"}"#).is_some());
    assert_eq!(
        to(Verb::Send, r#"{"channel":"a","event":"e"}"#)
            .unwrap()
            .channels,
        ["a"]
    );
}

#[test]
fn several_channels_are_one_publication_each() {
    let targets = call_of(
        Verb::Send,
        r#"{"channels":["b","a","b"],"event":"e","except":{"users":["u"]}}"#,
    )
    .unwrap();
    let named: Vec<Vec<String>> = targets
        .iter()
        .map(|target| target.to.clone().unwrap().channels)
        .collect();
    assert_eq!(named, [["b"], ["a"]]);
    assert!(targets.iter().all(|target| target.except.users == ["u"]));
    assert!(
        call_of(Verb::Send, r#"{"channels":[],"event":"e"}"#)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn who_is_left_out_counts_for_each_channel() {
    let send = |channels: usize, names: usize| {
        let list = |of: &str, count: usize| -> Vec<String> {
            (0..count).map(|n| format!("{of}{n}")).collect()
        };
        let body = serde_json::json!({
            "channels": list("c", channels), "event": "e", "except": { "users": list("u", names) },
        });
        call_of(Verb::Send, &body.to_string()).map(|targets| targets.len())
    };
    assert_eq!(send(1, 5000).unwrap(), 1);
    assert_eq!(send(100, TARGET_NAMES / 100).unwrap(), 100);
    let error = send(100, TARGET_NAMES / 100 + 1).unwrap_err();
    assert_eq!(error, "too_many_names");
}

#[test]
fn dispatch_excepts_users_or_whatever_the_others_do() {
    let except = |except: &str| {
        let body = format!(r#"{{"recipients":["*"],"event":"e","except":{except}}}"#);
        call_of(Verb::Dispatch, &body).map(|mut targets| targets.remove(0).except)
    };
    assert_eq!(except(r#"["u"]"#).unwrap().users, ["u"]);
    assert_eq!(except(r#"{"devices":["d"]}"#).unwrap().devices, ["d"]);
    assert_eq!(except(r#"{"device":["d"]}"#).unwrap_err(), "unknown_field");
    for wrong in ["null", "1", "\"u\"", "[1]"] {
        assert_eq!(except(wrong).unwrap_err(), "bad_field", "{wrong}");
    }
}

#[test]
fn every_wrong_body_has_a_code() {
    for (verb, body, code) in [
        (Verb::Emit, "", "bad_json"),
        (Verb::Emit, "{", "bad_json"),
        (Verb::Emit, "[]", "bad_json"),
        (Verb::Emit, r#"{"event":"e"} x"#, "bad_json"),
        (Verb::Emit, "{}", "missing_field"),
        (Verb::Emit, r#"{"event":1}"#, "bad_field"),
        (Verb::Emit, r#"{"event":"e","filtre":"x"}"#, "unknown_field"),
        (Verb::Emit, r#"{"event":"e","user":"u"}"#, "unknown_field"),
        (
            Verb::Emit,
            r#"{"event":"e","channel":"c"}"#,
            "unknown_field",
        ),
        (Verb::Emit, r#"{"event":"e","to":[]}"#, "bad_field"),
        (
            Verb::Emit,
            r#"{"event":"e","to":{"user":[]}}"#,
            "unknown_field",
        ),
        (
            Verb::Emit,
            r#"{"event":"e","data":null,"data_base64":""}"#,
            "bad_field",
        ),
        (
            Verb::Emit,
            r#"{"event":"e","data_base64":"AP8"}"#,
            "bad_base64",
        ),
        (
            Verb::Emit,
            r#"{"event":"e","data_base64":"*"}"#,
            "bad_base64",
        ),
        (Verb::Emit, r#"{"event":"e","params":[]}"#, "bad_params"),
        (Verb::Emit, r#"{"event":"e","store":1}"#, "bad_field"),
        (Verb::Emit, r#"{"event":""}"#, "event_name_length"),
        (Verb::Broadcast, r#"{"event":"e","to":{}}"#, "unknown_field"),
        (Verb::Publish, r#"{"event":"e"}"#, "missing_field"),
        (
            Verb::Publish,
            r#"{"event":"e","user":"a","users":[]}"#,
            "bad_field",
        ),
        (
            Verb::Publish,
            r#"{"event":"e","user":"a","channels":[]}"#,
            "unknown_field",
        ),
        (Verb::Send, r#"{"event":"e"}"#, "missing_field"),
        (Verb::Send, r#"{"channel":"a"}"#, "missing_field"),
        (
            Verb::Send,
            r#"{"event":"e","channel":"a","channels":[]}"#,
            "bad_field",
        ),
        (
            Verb::Send,
            r#"{"event":"e","channel":"a","to":{}}"#,
            "unknown_field",
        ),
        (
            Verb::Dispatch,
            r#"{"event":"e","recipients":["*","u"]}"#,
            "bad_field",
        ),
    ] {
        assert_eq!(call_of(verb, body).unwrap_err(), code, "{body}");
    }
}

#[test]
fn an_item_is_refused_in_the_words_of_its_call() {
    for (item, detail) in [
        ("{}", "\"call\" is required"),
        (r#"{"evnt":"e"}"#, "\"call\" is required"),
        (
            r#"{"call":null}"#,
            "\"call\" must be \"emit\", \"publish\", \"send\", \"broadcast\" or \"dispatch\", not null",
        ),
        (
            r#"{"call":"shout"}"#,
            "unknown call \"shout\" for a batch; use emit, publish, send, broadcast or dispatch",
        ),
        (
            r#"{"call":"send","chanel":"c","event":"e"}"#,
            "unknown field \"chanel\"; did you mean \"channel\"?",
        ),
        (
            r#"{"call":"dispatch","except":["u"],"recipient":["u"]}"#,
            "unknown field \"recipient\"; did you mean \"recipients\"?",
        ),
        (
            r#"{"call":"publish","user":5}"#,
            "\"user\" must be a string, not a number",
        ),
    ] {
        let problem = VerbFields::item(item.as_bytes()).unwrap_err();
        assert_eq!(problem.detail(), detail, "{item}");
    }
}
