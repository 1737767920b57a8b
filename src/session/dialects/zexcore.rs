//! Clients of Zexcore RTM.

use serde_json::value::RawValue;

use crate::{
    protocol::{
        decoder::Message,
        event::{Data, channel_name},
        native::{Call, Request},
        zexcore::{ClientFrame, Text},
    },
    session::dialect::{Credentials, Dialect, Meaning, Unintelligible},
};

/// The message for a client that gives no token.
const NO_TOKEN: &str = "authenticationData must be a token, or an object with a \"token\"";

/// One client's side.
#[derive(Debug, Default)]
pub(crate) struct Zexcore {
    /// The id of the `auth` that is being read.
    auth_id: Option<Box<RawValue>>,
}

impl Dialect for Zexcore {
    // A client without authentication data says nothing when it has connected.
    fn is_let_in_first(&self) -> bool {
        true
    }

    fn read<'m>(&'m mut self, message: &'m Message<'m>) -> Result<Meaning<'m>, Unintelligible> {
        let unreadable = Unintelligible {
            message: "the message is not a JSON object with a \"type\" and an \"id\" of up to 64 bytes",
            is_fatal: false,
        };

        let Message::Text(text) = message else {
            return Err(unreadable);
        };

        let frame = ClientFrame::read(text).ok_or(unreadable)?;
        Ok(match &*frame.kind {
            "auth" => self.auth(&frame),
            "invoke" => invoke(frame),
            "subscribe" => subscribe(frame),
            _ => refused(
                frame.id().map(ToOwned::to_owned),
                "unknown_op",
                "the types are auth, invoke and subscribe",
            ),
        })
    }
}

impl Zexcore {
    fn auth<'m>(&'m mut self, frame: &ClientFrame<'m>) -> Meaning<'m> {
        self.auth_id = frame.auth_id();
        let Some(token) = frame.token() else {
            return refused(self.auth_id.take(), "unauthorized", NO_TOKEN);
        };
        Meaning::Enter(Credentials {
            id: self.auth_id.as_deref(),
            token: Some(token),
            ..Credentials::default()
        })
    }
}

/// A call of a function, whose data is the list of arguments.
fn invoke(frame: ClientFrame<'_>) -> Meaning<'_> {
    let id = frame.id();
    let Some(Text(name)) = frame.function else {
        let id = id.map(ToOwned::to_owned);
        return refused(id, "bad_message", "invoke needs function");
    };
    Meaning::Call(Call {
        id,
        request: Request::Call {
            name,
            data: Data::Json(frame.data.unwrap_or(RawValue::NULL)),
        },
    })
}

/// Joining a channel for each tag. Events without a tag reach the client without that.
fn subscribe(frame: ClientFrame<'_>) -> Meaning<'_> {
    let id = frame.id();
    let bad = frame
        .tags
        .iter()
        .find_map(|Text(tag)| channel_name(tag).err());
    if let Some(error) = bad {
        return refused(id.map(ToOwned::to_owned), error.code(), &error.to_string());
    }
    if frame.tags.is_empty() {
        // With nothing to join, the client still gets its answer, as for a ping.
        let request = Request::Ping;
        return Meaning::Call(Call { id, request });
    }

    Meaning::JoinAll {
        id,
        channels: frame.tags.into_iter().map(|Text(tag)| tag).collect(),
    }
}

fn refused<'m>(id: Option<Box<RawValue>>, code: &'static str, message: &str) -> Meaning<'m> {
    Meaning::Refused {
        id,
        code,
        message: message.to_owned(),
    }
}
