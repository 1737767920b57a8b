//! Reads one frame of a client from bytes, and writes the frame of its event: `cargo run --example relay -- room-1 hello '[1]'`.

use std::error::Error;

use fanfare_protocol::{
    decoder::{Decoder, Message, Role},
    event::Marks,
    native::{Misunderstood, Request, parse},
};

/// Longest message of a client, in bytes.
const MESSAGE_BYTES: usize = 64 * 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(channel), Some(event), Some(data)) = (args.next(), args.next(), args.next()) else {
        return Err("usage: relay CHANNEL EVENT DATA".into());
    };
    let text = format!(r#"{{"op":"send","channel":"{channel}","event":"{event}","data":{data}}}"#);

    // What a socket would give, in one piece or in many: a decoder keeps what is cut short.
    let mut bytes = from_client(text.as_bytes())?;
    let mut input = &mut bytes[..];
    let mut decoder = Decoder::new(Role::Server, MESSAGE_BYTES);

    while let Some(message) = decoder.next(&mut input)? {
        let Message::Text(text) = message else {
            continue;
        };
        match parse(text) {
            Ok(call) => relay(&call.request),
            Err(Misunderstood::Refused { code, message, .. }) => println!("{code}: {message}"),
            Err(Misunderstood::Unreadable { message }) => println!("unreadable: {message}"),
        }
    }

    Ok(())
}

/// A client's text frame: its payload is masked (RFC 6455, section 5.3).
fn from_client(payload: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let length = u16::try_from(payload.len())?;

    let mut bytes = vec![0x81];
    match length {
        0..126 => bytes.push(0x80 | length as u8),
        _ => bytes.extend([&[0xfe][..], &length.to_be_bytes()].concat()),
    }

    bytes.extend(mask);
    bytes.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    Ok(bytes)
}

/// Shows the frame that every member of the channel gets.
fn relay(request: &Request<'_>) {
    let Request::Send { channel, message } = request else {
        return;
    };

    let marks = Marks {
        channel: Some(channel),
        ..Marks::default()
    };
    let frame = message.event.draft(&marks).finish(None);
    println!(
        "{} bytes: {}",
        frame.len(),
        String::from_utf8_lossy(frame.payload())
    );
}
