//! The frame decoder against RFC 6455, against every way to cut a stream, and beside fastwebsockets.

use fanfare::{
    limits,
    protocol::decoder::{Decoder, Message, Role, Violation},
};
use proptest::{prelude::*, sample::Index};

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const LIMIT: usize = 4096;

/// The decoder's own record of what is cut short, beside the bytes themselves.
const FIXED: usize = 200;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<Message<'_>> for Owned {
    fn from(message: Message<'_>) -> Self {
        match message {
            Message::Text(text) => Self::Text(text.to_owned()),
            Message::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Message::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Message::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Message::Close(close) => {
                Self::Close(close.map(|(code, reason)| (code, reason.to_owned())))
            }
        }
    }
}

/// A frame with its mask, or without one as a server sends it.
fn frame(fin: bool, opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![u8::from(fin) << 7 | opcode];
    match payload.len() {
        len @ 0..126 => bytes.push(masked | len as u8),
        len @ 126..0x1_0000 => {
            bytes.push(masked | 0x7e);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(masked | 0x7f);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    let mask = mask.inspect(|mask| bytes.extend(mask)).unwrap_or_default();
    bytes.extend(
        payload
            .iter()
            .enumerate()
            .map(|(n, byte)| byte ^ mask[n % 4]),
    );
    bytes
}

fn client(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame(fin, opcode, payload, Some([0xa1, 0x5c, 0x03, 0xfe]))
}

/// Decodes pieces one after another, and checks on the way that memory stays within its bound.
fn decode<'p>(
    decoder: &mut Decoder,
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> (Vec<Owned>, Option<Violation>) {
    let mut messages = Vec::new();
    for piece in pieces {
        let mut buffer = piece.to_vec();
        let mut input = &mut buffer[..];
        loop {
            match decoder.next(&mut input) {
                Ok(Some(message)) => messages.push(message.into()),
                Ok(None) => break,
                Err(violation) => return (messages, Some(violation)),
            }
            assert!(
                decoder.held() <= LIMIT + 125 + 14 + FIXED,
                "{}",
                decoder.held()
            );
        }
        assert!(input.is_empty(), "input must be used up");
        assert!(
            decoder.held() <= LIMIT + 125 + 14 + FIXED,
            "{}",
            decoder.held()
        );
    }
    (messages, None)
}

fn server(stream: &[u8]) -> (Vec<Owned>, Option<Violation>) {
    decode(&mut Decoder::new(Role::Server, LIMIT), [stream])
}

#[track_caller]
fn refused(stream: &[u8], violation: Violation, code: u16) {
    assert_eq!(server(stream).1, Some(violation));
    assert_eq!(violation.code(), code);
}

#[test]
fn defect_fragments_assemble_without_bound() {
    let mut stream = client(false, BINARY, &[1; 4000]);
    stream.extend(client(false, CONTINUATION, &[1; 4000]));
    refused(&stream, Violation::TooBig, 1009);

    let mut stream = client(false, BINARY, &[1; 4000]);
    stream.extend(client(true, CONTINUATION, &[1; 96]));
    assert_eq!(server(&stream), (vec![Owned::Binary(vec![1; 4096])], None));
}

#[test]
fn defect_reading_is_not_cancel_safe() {
    let hello = client(true, TEXT, b"hello");
    let next = client(true, TEXT, b"next");
    let mut decoder = Decoder::new(Role::Server, LIMIT);
    assert_eq!(decode(&mut decoder, [&hello[..3]]), (vec![], None));
    assert!(decoder.is_mid_message());
    let (messages, violation) = decode(&mut decoder, [&hello[3..], &next]);
    assert_eq!(
        messages,
        [
            Owned::Text("hello".to_owned()),
            Owned::Text("next".to_owned())
        ]
    );
    assert_eq!((violation, decoder.is_mid_message()), (None, false));
}

#[test]
fn defect_unmasked_client_frames_are_accepted() {
    refused(
        &frame(true, TEXT, b"unmasked", None),
        Violation::NotMasked,
        1002,
    );
    let mut decoder = Decoder::new(Role::Client, LIMIT);
    assert_eq!(
        decode(&mut decoder, [&client(true, TEXT, b"masked")[..]]).1,
        Some(Violation::Masked)
    );
}

#[test]
fn defect_a_header_reserves_what_it_claims() {
    let mut head = vec![0x82, 0xff];
    head.extend((60_u64 << 20).to_be_bytes());
    head.extend([0; 4]);
    let mut decoder = Decoder::new(Role::Server, 64 << 20);
    let mut input = &mut head[..];
    assert_eq!(decoder.next(&mut input), Ok(None));
    assert!(decoder.held() <= FIXED, "{}", decoder.held());
    let mut came = [0; 1000];
    for _ in 0..3 {
        assert_eq!(decoder.next(&mut &mut came[..]), Ok(None));
    }
    assert!(decoder.held() <= 2 * 3000 + FIXED, "{}", decoder.held());
}

#[test]
fn defect_long_pongs_are_accepted() {
    for opcode in [CLOSE, PING, PONG] {
        refused(
            &client(true, opcode, &[0; 126]),
            Violation::LongControl,
            1002,
        );
        refused(
            &client(true, opcode, &[0; 1000]),
            Violation::LongControl,
            1002,
        );
    }
    assert_eq!(
        server(&client(true, PONG, &[7; 125])),
        (vec![Owned::Pong(vec![7; 125])], None)
    );
}

#[test]
fn defect_fragmented_text_ending_inside_a_character_is_truncated() {
    let mut stream = client(false, TEXT, "é".as_bytes());
    stream.extend(client(true, CONTINUATION, &[0xc3]));
    refused(&stream, Violation::NotUtf8, 1007);
}

#[test]
fn defect_a_new_message_inside_a_fragmented_one_is_accepted() {
    for opcode in [TEXT, BINARY] {
        let mut stream = client(false, TEXT, b"aa");
        stream.extend(client(false, opcode, b"bb"));
        refused(&stream, Violation::Interleaved, 1002);
    }
}

#[test]
fn defect_every_connection_holds_a_buffer() {
    assert!(size_of::<Decoder>() <= 24, "{}", size_of::<Decoder>());
    let mut decoder = Decoder::new(Role::Server, LIMIT);
    let stream = client(true, TEXT, &[b'x'; 1000]);
    let (messages, _) = decode(&mut decoder, [&stream[..10], &stream[10..]]);
    assert_eq!((messages.len(), decoder.held()), (1, 0));
}

#[test]
fn headers_that_mean_nothing_are_refused() {
    for bit in [0x40, 0x20, 0x10] {
        refused(
            &[0x81 | bit, 0x80, 0, 0, 0, 0],
            Violation::ReservedBit,
            1002,
        );
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        refused(&client(true, opcode, b""), Violation::UnknownOpcode, 1002);
    }
    for opcode in [CLOSE, PING, PONG] {
        refused(
            &client(false, opcode, b""),
            Violation::FragmentedControl,
            1002,
        );
    }
    refused(
        &client(true, CONTINUATION, b"x"),
        Violation::StrayContinuation,
        1002,
    );
    refused(&[0x82, 0xfe, 0, 125], Violation::LongLength, 1002);
    refused(
        &[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
        Violation::LongLength,
        1002,
    );
    refused(
        &[0x82, 0xff, 0x80, 0, 0, 0, 0, 1, 0, 0],
        Violation::HugeLength,
        1002,
    );
    refused(
        &[0x82, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255],
        Violation::TooBig,
        1009,
    );
}

#[test]
fn the_limit_is_decided_on_the_header() {
    let stream = client(true, BINARY, &[0; LIMIT + 1]);
    refused(&stream[..4], Violation::TooBig, 1009);
    assert_eq!(
        server(&client(true, BINARY, &[0; LIMIT])).0,
        [Owned::Binary(vec![0; LIMIT])]
    );
    let mut nothing = Decoder::new(Role::Server, 0);
    assert_eq!(
        decode(&mut nothing, [&client(true, TEXT, b"")[..]]),
        (vec![Owned::Text(String::new())], None)
    );
}

#[test]
fn a_flood_of_empty_fragments_ends() {
    let mut stream = client(false, TEXT, b"");
    for _ in 1..limits::MESSAGE_FRAGMENTS {
        stream.extend(client(false, CONTINUATION, b""));
    }
    let whole = [&stream[..], &client(true, PING, b"")].concat();
    assert_eq!(server(&whole), (vec![Owned::Ping(vec![])], None));
    stream.extend(client(true, CONTINUATION, b""));
    refused(&stream, Violation::TooManyFragments, 1009);
}

#[test]
fn close_frames_hold_nothing_or_a_code_and_text() {
    refused(&client(true, CLOSE, &[3]), Violation::ShortClose, 1002);
    for code in [
        0_u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535,
    ] {
        refused(
            &client(true, CLOSE, &code.to_be_bytes()),
            Violation::BadCloseCode,
            1002,
        );
    }
    for code in [
        1000_u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999,
        4000, 4999,
    ] {
        let close = Owned::Close(Some((code, String::new())));
        assert_eq!(
            server(&client(true, CLOSE, &code.to_be_bytes())),
            (vec![close], None)
        );
    }
    refused(
        &client(true, CLOSE, &[3, 232, 0xff]),
        Violation::NotUtf8,
        1007,
    );
    assert_eq!(server(&client(true, CLOSE, b"")).0, [Owned::Close(None)]);
}

#[test]
fn what_follows_a_close_is_discarded() {
    let mut decoder = Decoder::new(Role::Server, LIMIT);
    let stream = [client(true, CLOSE, b""), vec![0xff; 100]].concat();
    assert_eq!(
        decode(&mut decoder, [&stream[..], &stream]),
        (vec![Owned::Close(None)], None)
    );
    assert_eq!(decoder.held(), 0);
}

#[test]
fn after_a_violation_nothing_is_decoded() {
    let mut decoder = Decoder::new(Role::Server, LIMIT);
    assert_eq!(
        decode(&mut decoder, [&client(true, 3, b"")[..]]).1,
        Some(Violation::UnknownOpcode)
    );
    assert_eq!(
        decode(&mut decoder, [&client(true, TEXT, b"x")[..]]),
        (vec![], Some(Violation::UnknownOpcode))
    );
    assert_eq!(decoder.held(), 0);
}

#[test]
fn bad_text_is_refused_before_the_message_ends() {
    // U+D800 as UTF-8 would have it: bad at its second byte.
    let stream = client(false, TEXT, &[b'a', 0xed, 0xa0]);
    refused(&stream, Violation::NotUtf8, 1007);
    let long = client(true, TEXT, &[&[0xff][..], &[b'a'; 1000]].concat());
    refused(&long[..20], Violation::NotUtf8, 1007);
}

#[test]
fn a_decoded_message_borrows_the_input_where_it_lies_whole_in_it() {
    let mut decoder = Decoder::new(Role::Server, LIMIT);
    let mut stream = [client(true, TEXT, b"one"), client(true, BINARY, b"two")].concat();
    let range = stream.as_ptr_range();
    let mut input = &mut stream[..];
    let Ok(Some(Message::Text(text))) = decoder.next(&mut input) else {
        panic!("no text")
    };
    assert!(range.contains(&text.as_ptr()));
    let Ok(Some(Message::Binary(bytes))) = decoder.next(&mut input) else {
        panic!("no bytes")
    };
    assert!(range.contains(&bytes.as_ptr()));
    assert_eq!(decoder.held(), 0);
}

/// Streams whose every cut is tried; the violations among them must be found however they are cut.
fn corpus() -> Vec<Vec<u8>> {
    let text = "aé€😀".as_bytes();
    let mut streams = vec![
        [
            client(true, TEXT, b"hello"),
            client(true, BINARY, &[0, 255]),
            client(true, TEXT, b""),
        ]
        .concat(),
        [
            client(true, PING, b"p"),
            client(true, PONG, b""),
            client(true, CLOSE, b"\x03\xe8bye"),
        ]
        .concat(),
        [
            client(false, TEXT, &text[..2]),
            client(true, PING, b"mid"),
            client(true, CONTINUATION, &text[2..]),
        ]
        .concat(),
        [
            client(false, BINARY, b""),
            client(false, CONTINUATION, b"x"),
            client(true, CONTINUATION, b""),
        ]
        .concat(),
        [
            client(true, BINARY, &[9; 126]),
            client(true, TEXT, b"after"),
        ]
        .concat(),
        [
            client(true, TEXT, b"fine"),
            client(true, TEXT, &[b'a', 0xe2, 0x82]),
        ]
        .concat(),
        [client(false, TEXT, &text[..4]), client(true, TEXT, b"new")].concat(),
        [client(true, TEXT, b"fine"), client(true, CLOSE, &[3, 237])].concat(),
        [
            client(true, TEXT, b"fine"),
            frame(true, TEXT, b"bare", None),
        ]
        .concat(),
    ];
    for end in 0..text.len() {
        streams.push(
            [
                client(false, TEXT, &text[..end]),
                client(true, CONTINUATION, &text[end..]),
            ]
            .concat(),
        );
    }
    streams
}

#[test]
fn every_cut_of_a_stream_gives_the_same_messages() {
    for stream in corpus() {
        let whole = server(&stream);
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let pieces = [&stream[..first], &stream[first..second], &stream[second..]];
                let cut = decode(&mut Decoder::new(Role::Server, LIMIT), pieces);
                assert_eq!(cut, whole, "cut at {first} and {second}: {stream:02x?}");
            }
        }
        let bytes = decode(&mut Decoder::new(Role::Server, LIMIT), stream.chunks(1));
        assert_eq!(bytes, whole, "byte by byte: {stream:02x?}");
    }
}

#[test]
fn the_largest_lengths_survive_byte_by_byte() {
    for len in [125, 126, 65535, 65536] {
        let stream = frame(true, BINARY, &vec![5; len], None);
        let mut decoder = Decoder::new(Role::Client, 65536);
        let mut count = 0;
        for byte in &stream {
            if let Ok(Some(Message::Binary(bytes))) = decoder.next(&mut &mut [*byte][..]) {
                assert_eq!(bytes.len(), len);
                count += 1;
            }
        }
        assert_eq!(count, 1);
    }
}

/// One message and how a client happens to send it.
#[derive(Clone, Debug)]
struct Sent {
    message: Owned,
    mask: [u8; 4],
    cuts: Vec<Index>,
    pings: Vec<(Index, Vec<u8>)>,
}

impl Sent {
    fn write(&self, stream: &mut Vec<u8>, decoded: &mut Vec<Owned>) {
        let (opcode, payload) = match &self.message {
            Owned::Text(text) => (TEXT, text.as_bytes()),
            Owned::Binary(bytes) => (BINARY, &bytes[..]),
            Owned::Ping(bytes) => (PING, &bytes[..]),
            Owned::Pong(bytes) => (PONG, &bytes[..]),
            Owned::Close(_) => return,
        };
        if opcode >= CLOSE {
            stream.extend(frame(true, opcode, payload, Some(self.mask)));
        } else {
            let mut cuts: Vec<usize> = self
                .cuts
                .iter()
                .map(|cut| cut.index(payload.len() + 1))
                .collect();
            cuts.sort_unstable();
            let ends: Vec<usize> = cuts.into_iter().chain([payload.len()]).collect();
            let mut from = 0;
            for (n, end) in ends.iter().enumerate() {
                let opcode = if n == 0 { opcode } else { CONTINUATION };
                stream.extend(frame(
                    n + 1 == ends.len(),
                    opcode,
                    &payload[from..*end],
                    Some(self.mask),
                ));
                from = *end;
                for (_, ping) in self
                    .pings
                    .iter()
                    .filter(|(at, _)| n + 1 < ends.len() && at.index(ends.len() - 1) == n)
                {
                    stream.extend(frame(true, PING, ping, Some(self.mask)));
                    decoded.push(Owned::Ping(ping.clone()));
                }
            }
        }
        decoded.push(self.message.clone());
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    let control = || prop::collection::vec(any::<u8>(), 0..=125);
    let message = prop_oneof![
        ".{0,200}".prop_map(Owned::Text),
        prop::collection::vec(any::<u8>(), 0..400).prop_map(Owned::Binary),
        control().prop_map(Owned::Ping),
        control().prop_map(Owned::Pong),
    ];
    let pings = prop::collection::vec((any::<Index>(), control()), 0..2);
    (
        message,
        any::<[u8; 4]>(),
        prop::collection::vec(any::<Index>(), 0..4),
        pings,
    )
        .prop_map(|(message, mask, cuts, pings)| Sent {
            message,
            mask,
            cuts,
            pings,
        })
}

fn write(all: &[Sent]) -> (Vec<u8>, Vec<Owned>) {
    let (mut stream, mut decoded) = (Vec::new(), Vec::new());
    for sent in all {
        sent.write(&mut stream, &mut decoded);
    }
    (stream, decoded)
}

fn pieces<'s>(stream: &'s [u8], cuts: &[Index]) -> Vec<&'s [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    cuts.extend([0, stream.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|pair| &stream[pair[0]..pair[1]])
        .collect()
}

/// Bytes that look like frames often enough to get past the first check.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let almost = (
        any::<u8>(),
        0_u8..0x90,
        prop::collection::vec(any::<u8>(), 0..140),
        any::<[u8; 4]>(),
    )
        .prop_map(|(flags, bits, payload, mask)| {
            let mut bytes = frame(flags & 1 == 0, (flags >> 1) % 3, &payload, Some(mask));
            if bits & 0x80 != 0 {
                bytes[0] ^= bits & 0x7f;
            }
            bytes
        });
    let random = prop::collection::vec(any::<u8>(), 0..40);
    prop::collection::vec(prop_oneof![9 => almost, 1 => random], 0..40)
        .prop_map(|frames| frames.concat())
}

/// What fastwebsockets makes of a valid stream.
async fn second_opinion(stream: Vec<u8>) -> Vec<Owned> {
    use fastwebsockets::{FragmentCollector, OpCode, WebSocket};
    use tokio::io::AsyncWriteExt as _;

    let (near, mut far) = tokio::io::duplex(stream.len() + 64);
    far.write_all(&stream).await.unwrap();
    far.shutdown().await.unwrap();
    let mut socket = WebSocket::after_handshake(near, fastwebsockets::Role::Server);
    socket.set_auto_pong(false);
    socket.set_auto_close(false);
    let mut socket = FragmentCollector::new(socket);
    let mut messages = Vec::new();
    while let Ok(frame) = socket.read_frame().await {
        let payload = frame.payload.to_vec();
        messages.push(match frame.opcode {
            OpCode::Text => Owned::Text(String::from_utf8(payload).unwrap()),
            OpCode::Binary => Owned::Binary(payload),
            OpCode::Ping => Owned::Ping(payload),
            OpCode::Pong => Owned::Pong(payload),
            other => panic!("{other:?}"),
        });
    }
    messages
}

proptest! {
    #[test]
    fn what_is_sent_is_decoded(all in prop::collection::vec(sent(), 0..8), cuts in prop::collection::vec(any::<Index>(), 0..12)) {
        let (stream, expected) = write(&all);
        let mut decoder = Decoder::new(Role::Server, LIMIT);
        let (messages, violation) = decode(&mut decoder, pieces(&stream, &cuts));
        prop_assert_eq!(messages, expected);
        prop_assert_eq!((violation, decoder.held()), (None, 0));
    }

    #[test]
    fn noise_never_panics_nor_fills_memory(stream in noise(), cuts in prop::collection::vec(any::<Index>(), 0..12)) {
        let whole = server(&stream);
        let cut = decode(&mut Decoder::new(Role::Server, LIMIT), pieces(&stream, &cuts));
        prop_assert_eq!(cut, whole);
        decode(&mut Decoder::new(Role::Client, LIMIT), [&stream[..]]);
    }

    #[test]
    fn fastwebsockets_agrees_on_valid_streams(all in prop::collection::vec(sent(), 0..8)) {
        let (stream, expected) = write(&all);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        prop_assert_eq!(&runtime.block_on(second_opinion(stream.clone())), &expected);
        prop_assert_eq!(server(&stream), (expected, None));
    }
}
