//! What `fanfare listen` prints: events to stdout, all else that is worth knowing to stderr.

use std::{
    borrow::Cow,
    io,
    ops::ControlFlow,
    time::{Duration, SystemTime},
};

use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    super::{
        Failure,
        output::{self, FAINT, STRONG, harmless, one_line},
    },
    socket::Socket,
};

/// Errors about `--channel` that trying again does not change.
const FINAL: [&str; 3] = ["bad_channel", "forbidden", "too_many_channels"];

/// The version of binary messages that is understood.
const BINARY_VERSION: u8 = 1;

/// Prints messages, and counts events.
#[derive(Debug)]
pub(super) struct Printer {
    json: bool,
    /// Events still wanted; `None` is without end.
    left: Option<u64>,
}

/// Every field that a message of the server may have and that is looked at here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ServerMessage<'a> {
    #[serde(borrow)]
    op: Option<Cow<'a, str>>,
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    connection: Option<Cow<'a, str>>,
    #[serde(borrow)]
    user: Option<Cow<'a, str>>,
    heartbeat: Option<u64>,
    #[serde(borrow)]
    code: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
    reconnect_in_ms: Option<u64>,
}

impl Printer {
    pub(super) fn new(json: bool, count: Option<u64>) -> Self {
        Self { json, left: count }
    }

    /// Prints a text message. Breaks when enough events were seen.
    ///
    /// # Errors
    /// When stdout is closed, or when the server refuses a channel: that stays so.
    pub(super) fn text(
        &mut self,
        text: &str,
        socket: &mut Socket,
    ) -> Result<ControlFlow<()>, Failure> {
        let Ok(fields) = serde_json::from_str::<ServerMessage<'_>>(text) else {
            output::note(&format!("cannot read this message: {}", harmless(text)));
            return Ok(ControlFlow::Continue(()));
        };
        // Events are the only messages without an `op`.
        if fields.event.is_some() && fields.op.is_none() {
            let data = fields.data.map_or("null", RawValue::get);
            return Ok(self.event(&fields, &one_line(data), &one_line(text))?);
        }

        match fields.op.as_deref() {
            Some("welcome") => {
                if let Some(seconds) = fields.heartbeat {
                    socket.expect_heartbeat(Duration::from_secs(seconds));
                }
                let user = fields
                    .user
                    .as_deref()
                    .map_or("anonymously".to_owned(), |user| {
                        format!("as {}", harmless(user))
                    });
                let id = fields.connection.as_deref().unwrap_or_default();
                output::note(&format!("connected {user} (connection {})", harmless(id)));
            }
            Some("bye") => socket.note_bye(fields.reconnect_in_ms),
            Some("error") => {
                // A code is a word in errors and a number elsewhere, and is shown as it came.
                let code = fields.code.map_or("", RawValue::get).trim_matches('"');
                let (code, message) = (one_line(code), fields.message.unwrap_or_default());
                let message = harmless(&message);
                if FINAL.contains(&&*code) {
                    return Err(Failure::Refused {
                        code: code.into_owned(),
                        message: message.into_owned(),
                    });
                }
                output::note(&format!("error {code}: {message}"));
            }
            // Later servers may say more than this program knows.
            _ => output::note(&one_line(text)),
        }

        Ok(ControlFlow::Continue(()))
    }

    /// Prints a binary message: a version byte, the length of its header, the header as JSON, then the bytes.
    ///
    /// # Errors
    /// When stdout is closed.
    pub(super) fn binary(&mut self, message: &[u8]) -> io::Result<ControlFlow<()>> {
        let Some((header, bytes)) = parts(message) else {
            output::note(&format!(
                "cannot read a binary message of {} bytes",
                message.len()
            ));
            return Ok(ControlFlow::Continue(()));
        };

        let Ok(fields) = serde_json::from_str::<ServerMessage<'_>>(header) else {
            output::note(&format!("cannot read this message: {}", harmless(header)));
            return Ok(ControlFlow::Continue(()));
        };

        let base64 = BASE64.encode(bytes);
        // The header is a JSON object, so the bytes can be added to its text.
        let head = header.trim_end().strip_suffix('}').unwrap_or(header);
        let line = format!("{head},\"data_base64\":\"{base64}\"}}");

        self.event(
            &fields,
            &format!("{} bytes {base64}", bytes.len()),
            &one_line(&line),
        )
    }

    fn event(
        &mut self,
        fields: &ServerMessage<'_>,
        data: &str,
        line: &str,
    ) -> io::Result<ControlFlow<()>> {
        if self.json {
            output::print_raw(line)?;
        } else {
            let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
            let time = time.split_once('T').map_or(time.as_str(), |(_, time)| time);
            let event = harmless(fields.event.as_deref().unwrap_or_default());
            let channel = fields
                .channel
                .as_deref()
                .map_or_else(String::new, |name| format!(" ({})", harmless(name)));
            output::print(&format!(
                "{FAINT}{time}{FAINT:#} {STRONG}{event}{STRONG:#}{channel} {data}\n"
            ))?;
        }

        self.left = self.left.map(|left| left - 1);
        Ok(if self.left == Some(0) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    }
}

/// Header and bytes of a binary message.
fn parts(message: &[u8]) -> Option<(&str, &[u8])> {
    let (&[version, high, low], rest) = message.split_first_chunk()?;
    let (header, bytes) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
    (version == BINARY_VERSION).then_some((std::str::from_utf8(header).ok()?, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_message_is_taken_apart() {
        let header = br#"{"event":"e"}"#;
        let message = [&[1, 0, header.len() as u8][..], header, &[0, 255]].concat();
        assert_eq!(parts(&message), Some((r#"{"event":"e"}"#, &[0, 255][..])));
        for bad in [&message[..2], &message[..8], &[2, 0, 0], &[1, 0, 1, 0xff]] {
            assert_eq!(parts(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn enough_is_enough() {
        let mut printer = Printer::new(true, Some(2));
        let fields = ServerMessage::default();
        assert!(
            printer
                .event(&fields, "", "{}")
                .is_ok_and(|flow| flow.is_continue())
        );
        assert!(
            printer
                .event(&fields, "", "{}")
                .is_ok_and(|flow| flow.is_break())
        );
    }
}
