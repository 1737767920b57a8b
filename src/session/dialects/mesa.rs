//! Clients of Mesa.

use serde_json::value::RawValue;

use crate::{
    config::MesaConfig,
    id::ConnectionId,
    limits::Limits,
    protocol::{
        decoder::Message,
        event::Data,
        frame::Frame,
        mesa::{
            self, AUTHENTICATE, Authentication, ClientFrame, ClientVersion, DISPATCH, HEARTBEAT,
            HEARTBEAT_ACK, Hello, OTHER_VERSION, Text, UNNAMED,
        },
        native::{Call, Request},
        wire::Out,
    },
    session::dialect::{Credentials, Dialect, Meaning, Unintelligible},
};

/// The parameter by which a client says its version.
const CLIENT_VERSION: &str = "CLIENT_VERSION";

/// One client's side.
#[derive(Debug)]
pub(crate) struct Mesa {
    hello: Frame,
    /// The version that the client must have.
    version: Option<Box<str>>,
}

impl Mesa {
    pub(crate) fn new(config: &MesaConfig, limits: &Limits) -> Self {
        let rules = [
            ("enforce_equal_versions", config.enforce_version.is_some()),
            ("store_messages", config.store_messages),
            ("sends_user_object", config.send_user_object),
        ];

        let rules: Vec<&str> = rules
            .iter()
            .filter_map(|(rule, holds)| holds.then_some(*rule))
            .collect();
        let mut out = Out::default();
        mesa::hello(
            &mut out,
            &Hello {
                heartbeat_ms: config
                    .heartbeat
                    .then_some(limits.heartbeat.as_millis() as u64),
                reconnect_ms: config.reconnect.map(|after| after.as_millis() as u64),
                authentication_ms: limits.auth.as_millis() as u64,
                rules: &rules,
            },
        );

        Self {
            hello: out.into_frame(),
            version: config.enforce_version.as_deref().map(Into::into),
        }
    }

    /// A message of the application: a call of a function of that name.
    fn message<'m>(&self, name: Option<Text<'m>>, data: Option<&'m RawValue>) -> Meaning<'m> {
        let data = data.unwrap_or(RawValue::NULL);
        let name = name.map_or(UNNAMED.into(), |Text(name)| name);
        if let (Some(version), CLIENT_VERSION) = (&self.version, &*name) {
            let said = serde_json::from_str::<ClientVersion<'_>>(data.get());
            return match said {
                Ok(ClientVersion { v: Text(said) }) if *said == **version => Meaning::Nothing,
                _ => Meaning::Close {
                    code: OTHER_VERSION,
                    reason: format!("this server takes clients of Mesa {version} only"),
                },
            };
        }

        Meaning::Call(Call {
            id: None,
            request: Request::Call {
                name,
                data: Data::Json(data),
            },
        })
    }
}

/// The frame of a message, if it is one of Mesa's.
fn frame<'m>(message: &'m Message<'m>) -> Option<ClientFrame<'m>> {
    match message {
        Message::Text(text) => serde_json::from_str(text).ok(),
        // Mesa's server reads both alike.
        Message::Binary(bytes) => serde_json::from_slice(bytes).ok(),
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) => None,
    }
}

impl Dialect for Mesa {
    fn greeting(&mut self, _connection: ConnectionId) -> Vec<Frame> {
        vec![self.hello.clone()]
    }

    fn is_let_in_first(&self) -> bool {
        true
    }

    fn answers_ping(&self, message: &Message<'_>) -> bool {
        // The answer to a heartbeat is short, and all messages come through here.
        let bytes = match message {
            Message::Text(text) => text.len(),
            _ => return false,
        };
        bytes < 64 && frame(message).is_some_and(|frame| frame.op == HEARTBEAT_ACK)
    }

    fn read<'m>(&'m mut self, message: &'m Message<'m>) -> Result<Meaning<'m>, Unintelligible> {
        let unreadable = Unintelligible {
            message: "the message is not a JSON object with a number \"op\"",
            is_fatal: false,
        };

        let ClientFrame { op, d, t } = frame(message).ok_or(unreadable)?;
        match op {
            DISPATCH => Ok(self.message(t, d)),
            AUTHENTICATE => {
                let said = d.map(|data| serde_json::from_str::<Authentication<'_>>(data.get()));
                let Authentication { token, should_sync } =
                    said.transpose().unwrap_or_default().unwrap_or_default();
                Ok(Meaning::Enter(Credentials {
                    // It is answered, by a frame that needs no id.
                    id: Some(RawValue::NULL),
                    // A message without a token is refused as one with a bad token.
                    token: Some(token.map_or_else(|| "-".into(), |Text(token)| token)),
                    store: Some(should_sync.unwrap_or(true)),
                    ..Credentials::default()
                }))
            }
            HEARTBEAT => {
                let mut out = Out::default();
                mesa::heartbeat_ack(&mut out);
                Ok(Meaning::Answer(out.into_frame()))
            }
            HEARTBEAT_ACK => Ok(Meaning::Nothing),
            op => Ok(Meaning::Refused {
                id: None,
                code: "unknown_op",
                message: format!("op {op} is not one of those that clients send: 0, 1, 2 and 11"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn dialect(config: &MesaConfig) -> Mesa {
        Mesa::new(config, &Limits::default())
    }

    #[test]
    fn the_first_word_is_a_hello_with_what_is_set() {
        let data = |config: &MesaConfig| {
            let hello = dialect(config)
                .greeting("00000000000000000000000004".parse().unwrap())
                .remove(0);
            serde_json::from_slice::<Value>(hello.payload()).unwrap()["d"].clone()
        };
        assert_eq!(
            data(&MesaConfig::default())["rules"],
            json!(["sends_user_object"])
        );
        let config = MesaConfig {
            heartbeat: false,
            reconnect: Some(std::time::Duration::from_secs(2)),
            send_user_object: false,
            store_messages: true,
            enforce_version: Some("1.5.8".to_owned()),
            ..MesaConfig::default()
        };
        let data = data(&config);
        assert_eq!(
            (&data["rules"], &data["c_reconnect_interval"]),
            (
                &json!(["enforce_equal_versions", "store_messages"]),
                &json!(2000)
            )
        );
        assert_eq!(data.get("c_heartbeat_interval"), None);
    }

    fn read(config: &MesaConfig, text: &str) -> String {
        let message = Message::Text(text);
        format!("{:?}", dialect(config).read(&message))
    }

    #[test]
    fn messages_are_calls_and_the_rest_is_mesas_own() {
        let config = MesaConfig::default();
        for (text, expected) in [
            (r#"{"op":0,"d":{"a":1},"t":"T"}"#, r#"Call { name: "T""#),
            (r#"{"op":0}"#, r#"Call { name: "message""#),
            (r#"{"op":0,"d":{"v":"1"},"t":"CLIENT_VERSION"}"#, "Call {"),
            (r#"{"op":2,"d":{"token":"abc"}}"#, r#"token: Some("abc")"#),
            (r#"{"op":2,"d":{"token":"abc"}}"#, "store: Some(true)"),
            (
                r#"{"op":2,"d":{"token":"abc","shouldSync":false}}"#,
                "store: Some(false)",
            ),
            (r#"{"op":2,"d":{"key":5}}"#, r#"token: Some("-")"#),
            (r#"{"op":2}"#, r#"token: Some("-")"#),
            (r#"{"op":1,"d":{}}"#, "Answer("),
            (r#"{"op":11,"d":{}}"#, "Nothing"),
            (r#"{"op":5,"t":"DISCONNECT_CLIENT"}"#, "unknown_op"),
            (r#"{"op":22}"#, "unknown_op"),
            ("{}", "Unintelligible"),
            ("[]", "Unintelligible"),
            ("x", "Unintelligible"),
        ] {
            let read = read(&config, text);
            assert!(read.contains(expected), "{text}: {read}");
        }
    }

    #[test]
    fn another_version_is_closed_where_one_is_set() {
        let config = MesaConfig {
            enforce_version: Some("1.5.8".to_owned()),
            ..MesaConfig::default()
        };
        let says = |version: &str| format!(r#"{{"op":0,"d":{version},"t":"CLIENT_VERSION"}}"#);
        assert!(read(&config, &says(r#"{"v":"1.5.8"}"#)).contains("Nothing"));
        for other in [r#"{"v":"1.5.7"}"#, "{}", "null"] {
            assert!(
                read(&config, &says(other)).contains("code: 1002"),
                "{other}"
            );
        }
    }

    #[test]
    fn the_answer_to_a_heartbeat_is_known() {
        let mesa = dialect(&MesaConfig::default());
        assert!(mesa.answers_ping(&Message::Text(r#"{"op":11,"d":{}}"#)));
        assert!(!mesa.answers_ping(&Message::Text(r#"{"op":1,"d":{}}"#)));
        assert!(!mesa.answers_ping(&Message::Text("11")));
    }
}
