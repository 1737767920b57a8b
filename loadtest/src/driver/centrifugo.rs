//! Centrifugo's JSON protocol over WebSocket: several replies, a line each, may stand in one frame.

use std::{net::SocketAddr, process::Command};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Answer, Dialect, Recipients, Step};
use crate::{cli::Target, http, token};

/// Its program, unless another is named.
pub(super) const PROGRAM: &str = "centrifugo";

/// What a Centrifugo server wants of its callers. Clients are anonymous.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Centrifugo {
    key: String,
}

impl Centrifugo {
    pub(super) fn new(target: &Target) -> Self {
        Self {
            key: target
                .api_key
                .clone()
                .unwrap_or_else(|| "load-test-key".into()),
        }
    }
}

/// What starts it on `address`: in memory, and everything as it is by default but who may come.
pub(super) fn command(target: &Target, address: SocketAddr) -> Command {
    let mut command = Command::new(target.place().program_or(PROGRAM));
    let mut set = |name: &str, value: &str| {
        command.env(format!("CENTRIFUGO_{name}"), value);
    };
    set("HTTP_SERVER_ADDRESS", &address.ip().to_string());
    set("HTTP_SERVER_PORT", &address.port().to_string());
    set("HTTP_API_KEY", &Centrifugo::new(target).key);
    set("CLIENT_ALLOW_ANONYMOUS_CONNECT_WITHOUT_TOKEN", "true");
    set(
        "CHANNEL_WITHOUT_NAMESPACE_ALLOW_SUBSCRIBE_FOR_CLIENT",
        "true",
    );
    set(
        "CHANNEL_WITHOUT_NAMESPACE_ALLOW_SUBSCRIBE_FOR_ANONYMOUS",
        "true",
    );
    set("ENGINE_TYPE", "memory");
    set("LOG_LEVEL", "error");
    set("USAGE_STATS_DISABLED", "true");
    // Clients are gone when it is stopped; what lingers is not waited for.
    set("SHUTDOWN_TIMEOUT", "1s");
    command.args(&target.server_arg);
    command
}

const PING: &[u8] = b"{}";
const PONG: &str = "{}";

/// How many replies a client waits for: it connects, and subscribes twice.
const REPLIES: u8 = 3;

const EVERYONE: &str = "everyone";

fn channel(user: usize) -> String {
    format!("user-{}", token::name(user))
}

impl Dialect for Centrifugo {
    fn handshake(&self, to: SocketAddr, _: usize) -> String {
        http::upgrade(to, "/connection/websocket", "")
    }

    fn open(&self, user: usize, heard: &mut u8, frame: Option<&[u8]>) -> Step {
        let Some(frame) = frame else {
            return Step::Say(vec![format!(
                "{{\"id\":1,\"connect\":{{}}}}\n{{\"id\":2,\"subscribe\":{{\"channel\":\"{EVERYONE}\"}}}}\n\
                 {{\"id\":3,\"subscribe\":{{\"channel\":\"{}\"}}}}",
                channel(user)
            )]);
        };
        for line in frame.split(|&byte| byte == b'\n') {
            let Ok(reply) = serde_json::from_slice::<Value>(line) else {
                continue;
            };
            if let Some(error) = reply
                .get("error")
                .or_else(|| reply.pointer("/push/disconnect"))
            {
                return Step::Refused(error.to_string());
            }
            *heard += u8::from(reply.get("id").is_some());
        }
        match self.ping(frame) {
            _ if *heard == REPLIES => Step::Open,
            Some(answer) => Step::Say(vec![answer.into()]),
            None => Step::Wait,
        }
    }

    fn ping(&self, frame: &[u8]) -> Option<&'static str> {
        let within =
            || memchr::memchr_iter(b'\n', frame).any(|at| frame[at + 1..].starts_with(PING));
        (frame.starts_with(PING) || within()).then_some(PONG)
    }

    fn emit(&self, to: SocketAddr, recipients: Recipients, data: &str) -> Vec<u8> {
        let channel = match recipients {
            Recipients::User(user) => channel(user),
            Recipients::Everyone | Recipients::Matching(_) => EVERYONE.into(),
        };
        let key = format!("X-API-Key: {}\r\n", self.key);
        http::post(
            to,
            "/api/publish",
            &key,
            &format!(r#"{{"channel":"{channel}","data":{data}}}"#),
        )
    }

    /// An error comes with 200 too.
    fn answer(&self, answer: &http::Message<'_>) -> Answer {
        let is_taken = answer.status() == 200 && !answer.body.starts_with(br#"{"error""#);
        if is_taken {
            Answer::Taken
        } else {
            Answer::Refused
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn centrifugo() -> Centrifugo {
        Centrifugo { key: "k".into() }
    }

    #[test]
    fn a_client_is_open_when_all_three_replies_are_there_in_one_frame_or_several() {
        let (connected, first, second) = (
            r#"{"id":1,"connect":{"ping":25}}"#,
            r#"{"id":2,"subscribe":{}}"#,
            r#"{"id":3,"subscribe":{}}"#,
        );
        let Step::Say(said) = centrifugo().open(5, &mut 0, None) else {
            panic!("nothing is said")
        };
        let commands = &said[0];
        assert_eq!(commands.lines().count(), 3);
        assert!(
            commands
                .lines()
                .all(|line| serde_json::from_str::<Value>(line).is_ok())
        );
        assert!(commands.contains("user-u5"), "{commands}");
        let all = [connected, first, second].join("\n");
        assert_eq!(
            centrifugo().open(5, &mut 0, Some(all.as_bytes())),
            Step::Open
        );
        let mut heard = 0;
        let two = [connected, first].join("\n");
        assert_eq!(
            centrifugo().open(5, &mut heard, Some(two.as_bytes())),
            Step::Wait
        );
        assert_eq!(
            centrifugo().open(5, &mut heard, Some(b"{}")),
            Step::Say(vec!["{}".into()])
        );
        assert_eq!(
            centrifugo().open(5, &mut heard, Some(second.as_bytes())),
            Step::Open
        );
    }

    #[test]
    fn a_refusal_is_in_the_servers_words() {
        let reply = br#"{"id":2,"error":{"code":103,"message":"permission denied"}}"#;
        let Step::Refused(why) = centrifugo().open(5, &mut 1, Some(reply)) else {
            panic!("it is no error")
        };
        assert!(why.contains("permission denied"), "{why}");
    }

    #[test]
    fn a_ping_is_found_alone_and_among_events() {
        let push = r#"{"push":{"channel":"everyone","pub":{"data":"~1"}}}"#;
        for (frame, has_ping) in [
            ("{}".to_owned(), true),
            (format!("{push}\n{{}}"), true),
            (format!("{push}\n{{}}\n{push}"), true),
            (format!("{{}}\n{push}"), true),
            (format!("{push}\n{push}"), false),
        ] {
            assert_eq!(
                centrifugo().ping(frame.as_bytes()),
                has_ping.then_some("{}"),
                "{frame}"
            );
        }
    }

    #[test]
    fn an_error_is_seen_behind_a_200() {
        let answer = |first_line, body| {
            centrifugo().answer(&http::Message {
                first_line,
                body,
                bytes: 0,
                is_last: false,
            })
        };
        assert_eq!(answer("HTTP/1.1 200 OK", b"{\"result\":{}}"), Answer::Taken);
        assert_eq!(
            answer("HTTP/1.1 200 OK", b"{\"error\":{\"code\":107}}"),
            Answer::Refused
        );
        assert_eq!(answer("HTTP/1.1 401 Unauthorized", b""), Answer::Refused);
    }

    #[test]
    fn an_emit_goes_to_one_channel() {
        let to = SocketAddr::from(([127, 0, 0, 1], 9));
        for (recipients, channel) in [
            (Recipients::Everyone, "everyone"),
            (Recipients::User(2), "user-u2"),
        ] {
            let request = String::from_utf8(centrifugo().emit(to, recipients, "\"~\"")).unwrap();
            let (head, body) = request.split_once("\r\n\r\n").unwrap();
            assert!(
                head.starts_with("POST /api/publish HTTP/1.1\r\n")
                    && head.contains("X-API-Key: k\r\n")
            );
            let body: Value = serde_json::from_str(body).unwrap();
            assert_eq!(
                (body["channel"].as_str(), body["data"].as_str()),
                (Some(channel), Some("~"))
            );
        }
    }
}
