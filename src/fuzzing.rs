//! What reads bytes of strangers, as functions that panic where an input shows a defect.
//!
//! `fuzz/` feeds them with what a fuzzer makes up, and `tests/it/fuzzing.rs` with the corpus that is kept there. Each holds
//! a promise that is true for every input, and not what a certain input comes to.

#![allow(
    clippy::missing_panics_doc,
    reason = "to panic is what these are for: the message says which promise was broken"
)]

use std::{net::Ipv4Addr, sync::Arc};

use serde_json::value::RawValue;

use crate::{
    bus,
    filter::{
        Access, Attributes, ConnectionInfo, Filter, FilterError, IndexRef, LookupKey, Schema,
        Value, Verdict, index_entries,
    },
    http::{
        body,
        verbs::{Verb, VerbFields},
    },
    limits,
    protocol::{
        decoder::{Decoder, Message, Role},
        envelope::{self, Envelope},
        native::{self, Misunderstood},
    },
};

/// Takes bytes as they come from a stranger; panics on a finding.
pub type Target = fn(&[u8]);

/// Every target: its name, which is that of its folder in `fuzz/corpus`, and its function.
pub const TARGETS: [(&str, Target); 6] = [
    ("decoder", decoder),
    ("resp", resp),
    ("filter", filter),
    ("envelope", envelope),
    ("client_message", client_message),
    ("http_body", http_body),
];

/// Largest message that [`decoder`] lets through: small, so that inputs get over it.
const MESSAGE_LIMIT: usize = 1024;

/// What a decoder may hold beside the message: its own record, and a control frame.
const DECODER_FIXED: usize = 325;

/// Most pieces that a stream is cut into. RESP is parsed again from the start with each of them.
const PIECES: usize = 24;

/// All that evaluating a filter once may be charged.
const FILTER_WORK: u32 = crate::filter::limits::FILTER_STEPS
    * crate::filter::limits::FILTER_STEP_WORK
    + crate::filter::limits::FILTER_WORK_BYTES;

/// Longest text that a refusal may have: it must not repeat all that a stranger sends.
const REFUSAL_BYTES: usize = 2048;

/// Cuts `stream` into pieces whose lengths are those of `cuts`, again and again; the last piece is the rest.
fn pieces<'s>(cuts: &[u8], mut stream: &'s [u8]) -> Vec<&'s [u8]> {
    let mut pieces = Vec::new();
    for &cut in cuts.iter().cycle().take(PIECES) {
        let (piece, rest) = stream.split_at(stream.len().min(usize::from(cut)));
        pieces.push(piece);
        stream = rest;
    }
    pieces.push(stream);
    pieces
}

/// Splits off the first `len` bytes, which say how the rest is used.
fn split(data: &[u8], len: usize) -> Option<(&[u8], &[u8])> {
    data.split_at_checked(len)
}

/// The decoder of WebSocket frames: a stream comes to the same messages and the same end, however it is cut, and the
/// decoder holds no more than its limit.
pub fn decoder(data: &[u8]) {
    let Some((&[role, ref cuts @ ..], stream)) = split(data, 5) else {
        return;
    };

    let role = if role & 1 == 0 {
        Role::Server
    } else {
        Role::Client
    };

    let whole = messages(role, &[stream]);
    let cut = messages(role, &pieces(cuts, stream));
    assert_eq!(
        whole, cut,
        "a stream means something else in other pieces: {cuts:?}"
    );
}

/// The messages of a stream that comes in `pieces`, as texts, and the violation that ends it.
fn messages(role: Role, pieces: &[&[u8]]) -> Vec<String> {
    let mut decoder = Decoder::new(role, MESSAGE_LIMIT);
    let mut found = Vec::new();
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            match decoder.next(&mut input) {
                Ok(Some(message)) => {
                    if let Message::Ping(bytes) | Message::Pong(bytes) = message {
                        assert!(bytes.len() <= 125, "a control frame of {}", bytes.len());
                    }
                    found.push(format!("{message:?}"));
                }
                Ok(None) => break,
                Err(violation) => {
                    found.push(format!("{violation:?}"));
                    return found;
                }
            }
        }

        assert!(input.is_empty(), "{} bytes were left", input.len());
        let held = decoder.held();
        assert!(
            held <= MESSAGE_LIMIT + DECODER_FIXED,
            "the decoder holds {held} bytes"
        );
    }

    found
}

/// The parser of Redis's protocol: a stream comes to the same frames and the same end, however it is cut.
pub fn resp(data: &[u8]) {
    let Some((cuts, stream)) = split(data, 4) else {
        return;
    };
    let whole = bus::transcript(&[stream]);
    let cut = bus::transcript(&pieces(cuts, stream));
    assert_eq!(
        whole, cut,
        "a stream means something else in other pieces: {cuts:?}"
    );
}

/// The filter language: any text with any params compiles and evaluates within its charge, or is refused with a place inside
/// the text; an index finds whom a scan finds; `evaluate` decides as an emit does.
///
/// The input is the text, a zero byte, and the params as JSON.
pub fn filter(data: &[u8]) {
    let (source, params) = match data.iter().position(|&byte| byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &b"{}"[..]),
    };

    let Ok(source) = str::from_utf8(source) else {
        return;
    };
    let Ok(schema) = Schema::new(&["auth.tenant", "auth.roles", "profile.status"]) else {
        unreachable!("the paths are good");
    };

    let params = Value::from_json(&mut params.to_vec(), None).ok();

    let bound = Filter::compile(source, &schema)
        .and_then(|filter| Arc::new(filter).bind(params))
        .map_err(|error| check_error(source, &error));
    let Ok(bound) = bound else {
        return;
    };

    for attributes in &population() {
        let judged = bound.judge(attributes);
        assert!(judged.work <= FILTER_WORK, "{} units of work", judged.work);
        let verdict = judged.verdict;

        let evaluated = match bound.evaluate(attributes) {
            Ok(Value::Bool(true)) => Verdict::Match,
            Ok(Value::Bool(false)) => Verdict::NoMatch,
            Ok(_) | Err(_) => Verdict::Error,
        };

        assert_eq!(verdict, evaluated, "evaluate decides otherwise");
        if verdict == Verdict::Match {
            assert!(
                is_found(&bound.plan().access, &schema, attributes),
                "the plan misses one that matches: {}",
                bound.plan()
            );
            assert_eq!(bound.residual(attributes), verdict, "{}", bound.plan());
        }
    }

    if let Some(attributes) = population().first() {
        assert!(bound.explain(attributes).count() <= crate::filter::limits::FILTER_NODES);
    }

    bound.warnings();
}

/// Holds the place of a refusal to be inside the text, and its words to be few.
fn check_error(source: &str, error: &FilterError) {
    let end = error.span.offset as usize + error.span.length as usize;
    let is_inside = source.is_char_boundary(error.span.offset as usize)
        && source.is_char_boundary(end)
        && end <= source.len();
    assert!(is_inside, "{error:?} is not inside the text");
    assert!(
        error.message.len() <= REFUSAL_BYTES + crate::filter::limits::FILTER_BYTES,
        "a refusal of {} bytes",
        error.message.len()
    );
}

/// Whether a plan's access comes to a connection with these attributes.
fn is_found(access: &Access, schema: &Schema, attributes: &Attributes) -> bool {
    let Access::Lookup { index, keys } = access else {
        return *access != Access::Nobody;
    };

    let mut is_found = false;
    let entry = |key: LookupKey| is_found |= keys.contains(&key);
    match index {
        IndexRef::User => index_entries(&attributes.user, entry),
        IndexRef::Channels => index_entries(&attributes.channels, entry),
        IndexRef::Declared(declared) => schema.entries(*declared, attributes, entry),
        // The table of connections is this index, and has every id.
        IndexRef::ConnectionId => return true,
    }

    is_found
}

/// A few connections with the names that the corpus uses.
fn population() -> Vec<Attributes> {
    let json = |text: &str| Value::from_json(&mut text.as_bytes().to_vec(), None);
    let people = [
        ("null", "null", "[]"),
        (
            r#"{"tenant":"t1","roles":["a","b"],"age":40,"text":"abc","m":{"k":[1,2.5,null]}}"#,
            r#"{"status":"away","n":-1}"#,
            r#"["room-1","room-2"]"#,
        ),
        (
            r#"{"tenant":1,"roles":"a","age":1.5e300,"text":"\u0000ü"}"#,
            r#"{"status":["away",true]}"#,
            r#"["x"]"#,
        ),
    ];

    let mut all = Vec::new();
    for (slot, (auth, profile, channels)) in people.into_iter().enumerate() {
        let Ok(id) = "00000000000000000000000004".parse() else {
            continue;
        };

        let mut attributes = Attributes::new(ConnectionInfo {
            id,
            device: (slot == 1).then(|| "d".into()),
            ip: Ipv4Addr::LOCALHOST.into(),
            protocol: "fanfare.v1",
            connected_at: slot as u32,
            node: "n".into(),
        });

        if slot > 0 {
            attributes.user = Value::String(format!("u{slot}").into());
        }

        attributes.auth = json(auth).unwrap_or_default();
        attributes.profile = json(profile).unwrap_or_default();
        attributes.channels = json(channels).unwrap_or_default();
        all.push(attributes);
    }

    assert_eq!(all.len(), 3, "the id is good");
    all
}

/// Messages between nodes: what is read and written again reads the same.
pub fn envelope(data: &[u8]) {
    let Ok(read) = Envelope::read(data) else {
        return;
    };

    let written = match &read {
        Envelope::Event { header, frame } => envelope::event(header, frame),
        Envelope::Request(request) => envelope::request(request),
        Envelope::Answer(answer) => envelope::answer(answer),
        Envelope::Notices(notices) => envelope::notices(notices, data[0]),
        // The store writes what is before its tail.
        Envelope::Durable { header, draft, .. } => {
            let tail = envelope::Tails::new(header, draft).tail(None);
            [&data[..18], &tail[..]].concat().into()
        }
    };

    match Envelope::read(&written) {
        Ok(again) => assert_eq!(format!("{read:?}"), format!("{again:?}")),
        Err(error) => panic!("what was written is not read: {error}"),
    }
}

/// Messages of clients, as text (a first byte that is even) and as bytes: a refusal carries the id that the message has,
/// and repeats little of it.
pub fn client_message(data: &[u8]) {
    let Some((&[kind], message)) = split(data, 1) else {
        return;
    };

    let (call, id) = if kind & 1 == 0 {
        let Ok(text) = str::from_utf8(message) else {
            return;
        };
        (native::parse(text), native::id(text))
    } else {
        (native::parse_binary(message), native::binary_id(message))
    };

    match call {
        Ok(call) => {
            let (read, found) = (call.id.map(RawValue::get), id.map(RawValue::get));
            assert_eq!(read, found, "the id is read in two ways");
        }
        Err(Misunderstood::Unreadable { message }) => assert!(message.len() <= REFUSAL_BYTES),
        Err(Misunderstood::Refused { id, message, .. }) => {
            if let Some(id) = id {
                native::error(Some(id), "bad_message", &message);
            }
            assert!(
                message.len() <= REFUSAL_BYTES,
                "a refusal of {} bytes",
                message.len()
            );
        }
    }
}

/// Bodies of the publishing calls, alone and as items of a batch: a refusal repeats little of the body, and what is taken
/// has a target of a kind that the call can have.
pub fn http_body(data: &[u8]) {
    let Some((&[which], text)) = split(data, 1) else {
        return;
    };

    let verbs = [
        Verb::Emit,
        Verb::Publish,
        Verb::Send,
        Verb::Broadcast,
        Verb::Dispatch,
    ];

    let verb = verbs.get(usize::from(which)).copied();
    let fields = match verb {
        Some(verb) => body::parse(text, verb.shape()).map(|fields: VerbFields<'_>| (verb, fields)),
        None => VerbFields::item(text),
    };

    let publications = fields.and_then(|(verb, fields)| {
        let order = fields.into_call(verb)?;
        Ok((verb, order.publications().len()))
    });

    match publications {
        Ok((verb, count)) => assert!(
            count == 1 || (verb == Verb::Send && count <= limits::SEND_CHANNELS),
            "{verb:?} comes to {count} publications"
        ),
        Err(problem) => {
            assert!(
                (400..500).contains(&problem.status()),
                "{}",
                problem.status()
            );
            assert!(
                problem.detail().len() <= REFUSAL_BYTES,
                "a refusal of {} bytes",
                problem.detail().len()
            );
        }
    }
}
