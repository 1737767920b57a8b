//! What clients ask for: the events of Socket.IO that Altogic and Agnost have, with an object each.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::channel::escape;

/// What a client says of itself when it connects.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Credentials<'a> {
    #[serde(borrow)]
    echo_messages: Option<&'a RawValue>,
    #[serde(borrow)]
    client_key: Option<&'a RawValue>,
    #[serde(borrow)]
    api_key: Option<&'a RawValue>,
    #[serde(borrow)]
    access_token: Option<&'a RawValue>,
    #[serde(borrow)]
    session: Option<&'a RawValue>,
    // Altogic's client writes it with a capital letter.
    #[serde(borrow, rename = "Session")]
    altogic_session: Option<&'a RawValue>,
}

impl<'a> Credentials<'a> {
    /// Reads the object that comes with `CONNECT`; what has another type than it should counts as absent.
    pub fn read(auth: &'a str) -> Self {
        serde_json::from_str(auth).unwrap_or_default()
    }

    /// Whether the client gets its own messages back where they do not say.
    pub fn echo(&self) -> Option<bool> {
        truth(self.echo_messages)
    }

    /// The client key: `clientKey` of Altogic, `apiKey` of Agnost.
    pub fn key(&self) -> Option<Cow<'a, str>> {
        filled(self.client_key).or_else(|| filled(self.api_key))
    }

    /// The token of the user's session.
    pub fn session(&self) -> Option<Cow<'a, str>> {
        filled(self.session).or_else(|| filled(self.altogic_session))
    }

    /// The API key of a server library.
    pub fn access_token(&self) -> Option<Cow<'a, str>> {
        filled(self.access_token)
    }
}

/// What a client asks for. Channels are named as the server names them.
#[derive(Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Become a member of a channel.
    Join {
        /// The channel.
        channel: Cow<'a, str>,
        /// Whether to be notified of it, where the message says.
        echo: Option<bool>,
    },
    /// Be a member no longer.
    Leave {
        /// The channel.
        channel: Cow<'a, str>,
        /// As in [`Operation::Join`].
        echo: Option<bool>,
    },
    /// Replace the profile; `null` removes it.
    Update {
        /// The profile.
        data: Json<'a>,
        /// As in [`Operation::Join`].
        echo: Option<bool>,
    },
    /// Send to a channel's members, or to everyone.
    Send {
        /// The channel; everyone without it.
        channel: Option<Cow<'a, str>>,
        /// The event's name.
        event: Cow<'a, str>,
        /// Its data.
        message: Json<'a>,
        /// Whether the client gets it too, where the message says.
        echo: Option<bool>,
    },
    /// Send an event about a user to that user's connections: a server library does.
    UserEvent {
        /// The user.
        user: String,
        /// The event's name.
        event: Cow<'a, str>,
        /// The session that it is about.
        session: Option<Json<'a>>,
        /// What is known of the user.
        about: Option<Json<'a>>,
    },
    /// List a channel's members: a server library does.
    Members {
        /// The channel.
        channel: Cow<'a, str>,
    },
}

/// JSON as it came. Equal if the texts are.
#[derive(Clone, Copy, Debug)]
pub struct Json<'a>(pub &'a RawValue);

impl PartialEq for Json<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Eq for Json<'_> {}

/// What is wrong with an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Misunderstood(pub String);

/// Everything that the object of any event has.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Payload<'a> {
    #[serde(borrow)]
    channel: Option<&'a RawValue>,
    #[serde(borrow)]
    channel_name: Option<&'a RawValue>,
    #[serde(borrow)]
    event_name: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    echo: Option<&'a RawValue>,
    #[serde(borrow)]
    user_id: Option<&'a RawValue>,
    #[serde(borrow)]
    session: Option<&'a RawValue>,
    #[serde(borrow)]
    user: Option<&'a RawValue>,
}

/// A string as JSON has it, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Operation<'a> {
    /// Reads the event `name` with its `argument`. Those of server libraries are known only if the client `is_server`.
    ///
    /// # Errors
    /// [`Misunderstood`] says what is wrong.
    pub fn read(
        name: &str,
        argument: &'a RawValue,
        is_server: bool,
    ) -> Result<Self, Misunderstood> {
        // serde would read the struct from a list as well.
        let payload: Payload<'a> = serde_json::from_str(argument.get())
            .ok()
            .filter(|_| argument.get().starts_with('{'))
            .ok_or_else(|| Misunderstood(format!("\"{}\" needs one object", cut(name))))?;
        let echo = truth(payload.echo);
        Ok(match name {
            "join" => Self::Join {
                channel: needed_channel(name, "channel", payload.channel)?,
                echo,
            },

            "leave" => Self::Leave {
                channel: needed_channel(name, "channel", payload.channel)?,
                echo,
            },

            "update" => Self::Update {
                data: Json(payload.data.unwrap_or(RawValue::NULL)),
                echo,
            },

            "message" => Self::Send {
                channel: channel("channel", payload.channel)?,
                event: text(name, "eventName", payload.event_name)?,
                message: Json(payload.message.unwrap_or(RawValue::NULL)),
                echo,
            },

            "send_message" if is_server => Self::Send {
                channel: Some(needed_channel(name, "channelName", payload.channel_name)?),
                event: text(name, "eventName", payload.event_name)?,
                message: Json(payload.message.unwrap_or(RawValue::NULL)),
                echo: None,
            },

            "broadcast_message" if is_server => Self::Send {
                channel: None,
                event: text(name, "eventName", payload.event_name)?,
                message: Json(payload.message.unwrap_or(RawValue::NULL)),
                echo: None,
            },

            "user_event" if is_server => Self::UserEvent {
                user: text(name, "userId", payload.user_id)?.into_owned(),
                event: text(name, "eventName", payload.event_name)?,
                session: payload.session.map(Json),
                about: payload.user.map(Json),
            },

            "get_members" if is_server => Self::Members {
                channel: needed_channel(name, "channel", payload.channel)?,
            },

            // Not as unknown events: what is missing is only the key.
            "send_message" | "broadcast_message" | "user_event" | "get_members" => {
                let why = "is for server libraries, which connect with an API key as accessToken";
                return Err(Misunderstood(format!("\"{name}\" {why}")));
            }

            _ => {
                let known = "join, leave, update and message";
                let what = format!("unknown event \"{}\"; clients send {known}", cut(name));
                return Err(Misunderstood(what));
            }
        })
    }
}

/// The data of a user's event, out of which [`super::Altogic`] makes arguments again.
pub fn about_user(session: Option<Json<'_>>, user: Option<Json<'_>>) -> Box<RawValue> {
    let get = |value: Option<Json<'_>>| value.map_or("null", |Json(value)| value.get()).to_owned();
    let text = format!("{{\"session\":{},\"user\":{}}}", get(session), get(user));
    // Two values in an object are one.
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// A channel's name, if there is one: `null` and the empty text stand for everyone.
fn channel<'a>(
    field: &str,
    raw: Option<&'a RawValue>,
) -> Result<Option<Cow<'a, str>>, Misunderstood> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else {
        return Ok(None);
    };
    let Some(Text(name)) = serde_json::from_str(raw.get()).ok() else {
        return Err(Misunderstood(format!("{field} must be a string")));
    };
    Ok(match name {
        name if name.is_empty() => None,
        Cow::Borrowed(name) => Some(escape(name)),
        Cow::Owned(name) => Some(Cow::Owned(escape(&name).into_owned())),
    })
}

fn needed_channel<'a>(
    event: &str,
    field: &str,
    raw: Option<&'a RawValue>,
) -> Result<Cow<'a, str>, Misunderstood> {
    channel(field, raw)?.ok_or_else(|| Misunderstood(format!("\"{event}\" needs {field}")))
}

fn text<'a>(
    event: &str,
    field: &str,
    raw: Option<&'a RawValue>,
) -> Result<Cow<'a, str>, Misunderstood> {
    filled(raw).ok_or_else(|| Misunderstood(format!("\"{event}\" needs {field}, a string")))
}

/// The string that `raw` is, unless it is empty.
fn filled(raw: Option<&RawValue>) -> Option<Cow<'_, str>> {
    let Text(text) = serde_json::from_str(raw?.get()).ok()?;
    (!text.trim().is_empty()).then_some(text)
}

/// What JavaScript makes of a value that should be true or false.
fn truth(raw: Option<&RawValue>) -> Option<bool> {
    match raw?.get() {
        "null" => None,
        "false" | "0" | "\"\"" => Some(false),
        _ => Some(true),
    }
}

/// The beginning of a name that a client made up, to be repeated to it.
fn cut(name: &str) -> String {
    name.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    #[track_caller]
    fn reads(name: &str, argument: &str, operation: &Operation<'_>) {
        let read = Operation::read(name, raw(argument), true);
        assert_eq!(read.as_ref(), Ok(operation), "{name} {argument}");
    }

    fn send<'a>(channel: Option<&'a str>, message: &'a str, echo: Option<bool>) -> Operation<'a> {
        Operation::Send {
            channel: channel.map(Cow::Borrowed),
            event: "e".into(),
            message: Json(raw(message)),
            echo,
        }
    }

    #[test]
    fn credentials_are_read_from_both_clients() {
        let altogic = Credentials::read(
            r#"{"echoMessages":false,"subdomain":"","envId":"env1","clientKey":"pk_1","Session":"t"}"#,
        );
        let read = |auth: &Credentials<'_>| {
            let text = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned);
            (text(auth.key()), text(auth.session()), auth.echo())
        };
        let (key, token) = (Some("pk_1".to_owned()), Some("t".to_owned()));
        assert_eq!(read(&altogic), (key.clone(), token.clone(), Some(false)));
        let agnost = r#"{"echoMessages":true,"envId":"env1","apiKey":"pk_1","session":"t"}"#;
        assert_eq!(read(&Credentials::read(agnost)), (key, token, Some(true)));
        for none in ["", "null", "[]", "{}", r#"{"clientKey":1,"session":""}"#] {
            assert_eq!(read(&Credentials::read(none)), (None, None, None), "{none}");
        }
        let server = Credentials::read(r#"{"accessToken":"k"}"#);
        assert_eq!(server.access_token().as_deref(), Some("k"));
    }

    #[test]
    fn channels_are_joined_and_left() {
        let room = |echo| Operation::Join {
            channel: "Room=20=231".into(),
            echo,
        };
        reads("join", r#"{"channel":"Room #1"}"#, &room(None));
        reads("join", r#"{"channel":"Room #1","echo":null}"#, &room(None));
        for (echo, meant) in [("true", true), ("false", false), ("0", false), ("1", true)] {
            let argument = format!(r#"{{"channel":"Room \u00231","echo":{echo}}}"#);
            reads("join", &argument, &room(Some(meant)));
        }
        let leave = Operation::Leave {
            channel: "c".into(),
            echo: Some(true),
        };
        reads("leave", r#"{"channel":"c","echo":true}"#, &leave);
    }

    #[test]
    fn messages_go_to_a_channel_or_to_everyone() {
        let object = r#"{"a": [1.50]}"#;
        let with = |more: &str| format!(r#"{{{more}"eventName":"e","message":{object}}}"#);
        reads(
            "message",
            &with(r#""channel":"c","#),
            &send(Some("c"), object, None),
        );
        for everyone in ["", r#""channel":null,"#, r#""channel":"","#] {
            reads("message", &with(everyone), &send(None, object, None));
        }
        reads(
            "message",
            &with(r#""echo":false,"#),
            &send(None, object, Some(false)),
        );
        reads("message", r#"{"eventName":"e"}"#, &send(None, "null", None));
    }

    #[test]
    fn profiles_may_be_any_value() {
        for data in ["null", "\"x\"", "[1]", "{}"] {
            let update = Operation::Update {
                data: Json(raw(data)),
                echo: None,
            };
            reads("update", &format!(r#"{{"data":{data}}}"#), &update);
        }
    }

    #[test]
    fn server_libraries_have_events_of_their_own() {
        let sent = |channel: Option<&'static str>| Operation::Send {
            channel: channel.map(Cow::Borrowed),
            event: "e".into(),
            message: Json(raw("1")),
            echo: None,
        };
        let all = [
            (
                "send_message",
                r#"{"channelName":"c","eventName":"e","envId":"x","message":1}"#,
                sent(Some("c")),
            ),
            (
                "broadcast_message",
                r#"{"eventName":"e","envId":"x","message":1}"#,
                sent(None),
            ),
            (
                "get_members",
                r#"{"envId":"x","channel":"c"}"#,
                Operation::Members {
                    channel: "c".into(),
                },
            ),
        ];
        for (name, argument, operation) in all {
            reads(name, argument, &operation);
            let refused = Operation::read(name, raw(argument), false).unwrap_err();
            assert!(refused.0.contains("accessToken"), "{refused}");
        }
        let event = r#"{"userId":"u","eventName":"user:signout","envId":"x","session":{"a":1}}"#;
        let Ok(Operation::UserEvent {
            user,
            event,
            session,
            about,
        }) = Operation::read("user_event", raw(event), true)
        else {
            panic!("a user's event is read");
        };
        assert_eq!((&*user, &*event), ("u", "user:signout"));
        let data = about_user(session, about);
        assert_eq!(data.get(), r#"{"session":{"a":1},"user":null}"#);
    }

    #[test]
    fn what_is_missing_is_named() {
        for (name, argument, what) in [
            ("join", "{}", "needs channel"),
            ("join", "[]", "one object"),
            ("join", "null", "one object"),
            ("join", r#"{"channel":5}"#, "channel must be a string"),
            ("leave", r#"{"channel":""}"#, "needs channel"),
            ("message", r#"{"channel":"c"}"#, "needs eventName"),
            (
                "message",
                r#"{"channel":[],"eventName":"e"}"#,
                "must be a string",
            ),
            ("dance", "{}", "unknown event \"dance\""),
        ] {
            let refused = Operation::read(name, raw(argument), true).unwrap_err();
            assert!(refused.0.contains(what), "{name} {argument}: {refused}");
        }
    }
}
