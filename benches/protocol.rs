//! Frames: how fast they are decoded and encoded, beside fastwebsockets on the same bytes.
//!
//! Both take a stream of about 64 KiB from memory into a buffer of their own and answer every message; the
//! copy is part of both, since a socket's read is one too. fastwebsockets reads through tokio, as it is used.

use std::{hint::black_box, io::Cursor};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fanfare::protocol::{
    decoder::{Decoder, Message, Role},
    event::{Data, Event},
};
use fastwebsockets::WebSocket;
use serde_json::value::RawValue;

const STREAM: usize = 64 * 1024;

/// A masked frame as clients send it.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..0x1_0000 => {
            bytes.push(0xfe);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0xff);
            bytes.extend((len as u64).to_be_bytes());
        }
    }

    bytes.extend(mask);
    bytes.extend(
        payload
            .iter()
            .enumerate()
            .map(|(n, byte)| byte ^ mask[n % 4]),
    );
    bytes
}

fn ours(buffer: &mut [u8], stream: &[u8], read: usize) -> usize {
    let mut decoder = Decoder::new(Role::Server, STREAM);
    let mut bytes = 0;
    for piece in stream.chunks(read) {
        let mut input = &mut buffer[..piece.len()];
        input.copy_from_slice(piece);
        while let Ok(Some(message)) = decoder.next(&mut input) {
            bytes += match message {
                Message::Text(text) => text.len(),
                Message::Binary(bytes) => bytes.len(),
                _ => 0,
            };
        }
    }
    bytes
}

async fn theirs(mut socket: WebSocket<Cursor<Vec<u8>>>) -> usize {
    let mut bytes = 0;
    while let Ok(frame) = socket.read_frame().await {
        bytes += frame.payload.len();
    }
    bytes
}

fn decode(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let ascii = |len: usize| {
        "The quick brown fox. "
            .bytes()
            .cycle()
            .take(len)
            .collect::<Vec<u8>>()
    };
    let accents = |len: usize| "Grüße, Žofie! ".repeat(len / 17).into_bytes();

    let cases = [
        ("32 B text", 1, ascii(32)),
        ("1 KiB text", 1, ascii(1024)),
        ("1 KiB accents", 1, accents(1024)),
        ("64 KiB text", 1, ascii(STREAM)),
        ("1 KiB binary", 2, ascii(1024)),
        ("64 KiB binary", 2, ascii(STREAM)),
    ];

    for (name, opcode, payload) in cases {
        let frame = frame(opcode, &payload);
        let count = (STREAM / payload.len()).max(1);
        let stream = frame.repeat(count);

        let mut group = c.benchmark_group(format!("decode {name}"));
        group.throughput(Throughput::Elements(count as u64));
        let mut buffer = vec![0; stream.len()];
        for (how, read) in [("whole", stream.len()), ("reads of 4,096", 4096)] {
            assert_eq!(ours(&mut buffer, &stream, read), count * payload.len());
            group.bench_function(format!("fanfare, {how}"), |b| {
                b.iter(|| ours(&mut buffer, black_box(&stream), read));
            });
        }

        group.bench_function("fastwebsockets", |b| {
            b.iter_batched(
                || {
                    WebSocket::after_handshake(
                        Cursor::new(stream.clone()),
                        fastwebsockets::Role::Server,
                    )
                },
                |mut socket| {
                    socket.set_auto_close(false);
                    assert_eq!(runtime.block_on(theirs(socket)), count * payload.len());
                },
                BatchSize::LargeInput,
            );
        });
        group.finish();
    }
}

/// One event to one frame; the cost is shared by everyone who gets it.
fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    for size in [128usize, 1024, 65_536] {
        let data = format!("\"{}\"", "x".repeat(size - 2));
        let raw: &RawValue = serde_json::from_str(&data).expect("a string");
        let event = Event::new("alert", Data::Json(raw)).expect("a name");
        group.throughput(Throughput::Bytes(size as u64));

        group.bench_function(format!("fanfare/{size}"), |b| {
            b.iter(|| black_box(&event).encode());
        });
        group.bench_function(format!("fastwebsockets/{size}"), |b| {
            b.iter(|| {
                let payload = format!("{{\"event\":\"alert\",\"data\":{}}}", black_box(&data));
                let mut frame = fastwebsockets::Frame::text(payload.into_bytes().into());
                let mut bytes = Vec::new();
                black_box(frame.write(&mut bytes).len())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode, encode);
criterion_main!(benches);
