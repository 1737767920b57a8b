//! What clients ask for: one object in a text message, or at the head of a binary one.

use std::borrow::Cow;

use fanfare_filter::nearest::nearest;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::fields::{Fields, cut, text};
use crate::{
    event::{Data, Event, EventError, Exceptions, channel_name},
    limits::USER_BYTES,
};

/// What a client asks for.
#[derive(Debug)]
pub enum Request<'a> {
    /// Authenticate, or renew what was authenticated.
    Auth {
        /// The token.
        token: Cow<'a, str>,
    },
    /// A sign of life for clients that cannot send WebSocket pings.
    Ping,
    /// Become a member of a channel.
    Join {
        /// The channel.
        channel: Cow<'a, str>,
        /// Whether the ack is to carry the first page of members.
        members: bool,
        /// From where to replay what was missed.
        since: Option<Since>,
    },
    /// Become a member of a channel and hear of the others, where that is allowed. The ack carries no members. Clients of
    /// other protocols do.
    Attend {
        /// The channel.
        channel: Cow<'a, str>,
    },
    /// Be a member no longer.
    Leave {
        /// The channel.
        channel: Cow<'a, str>,
    },
    /// Replace the profile.
    Update {
        /// An object, or `null` to remove it.
        data: &'a RawValue,
    },
    /// A page of a channel's members.
    Members {
        /// The channel.
        channel: Cow<'a, str>,
        /// Where the page before ended.
        cursor: Option<Cow<'a, str>>,
        /// Most members of the page.
        limit: Option<usize>,
    },
    /// All members of a channel, if they are not too many for one answer. Clients of other protocols ask for them.
    Roster {
        /// The channel.
        channel: Cow<'a, str>,
    },
    /// Send to a channel's members.
    Send {
        /// The channel.
        channel: Cow<'a, str>,
        /// What is sent.
        message: ClientEvent<'a>,
    },
    /// Send to everyone.
    Broadcast {
        /// What is sent.
        message: ClientEvent<'a>,
    },
    /// Send to users.
    Publish {
        /// The users.
        users: Vec<String>,
        /// What is sent.
        message: ClientEvent<'a>,
    },
    /// Call a function of the embedding program.
    Call {
        /// The function's name.
        name: Cow<'a, str>,
        /// What it gets; `null` if absent.
        data: Data<'a>,
    },
}

/// An event that a client sends.
#[derive(Debug)]
pub struct ClientEvent<'a> {
    /// Its name and data.
    pub event: Event<'a>,
    /// Whether the connection that sent it gets it too, where the message says so.
    pub echo: Option<bool>,
    /// Who is left out.
    pub except: Exceptions,
}

/// Up to where a client has a channel's events: `{"epoch":"…","offset":12}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Since {
    /// The epoch that the offset counts in.
    #[serde(default)]
    pub epoch: Option<String>,
    /// The last event it has.
    pub offset: u64,
}

/// A client's message: what it asks for, and the name it wants the answer to carry.
#[derive(Debug)]
pub struct Call<'a> {
    /// A number or a short string, echoed in the answer; without it there is no ack.
    pub id: Option<&'a RawValue>,
    /// What is asked for.
    pub request: Request<'a>,
}

/// Why a message is not understood.
#[derive(Debug)]
pub enum Misunderstood<'a> {
    /// It is not a message at all: not JSON, or bytes without a header. The client gets an `error`, and is closed with 4009
    /// if it goes on.
    Unreadable {
        /// What is wrong with it.
        message: &'static str,
    },
    /// It asks for nothing known: the client gets an `error` and stays.
    Refused {
        /// The `id` of the message, if it has one.
        id: Option<&'a RawValue>,
        /// The stable code.
        code: &'static str,
        /// What is wrong with it.
        message: String,
    },
}

/// What is wrong with a message, before it is known whose answer says so.
#[derive(Debug)]
struct Refusal {
    code: &'static str,
    message: String,
}

impl Refusal {
    fn under(self, id: Option<&RawValue>) -> Misunderstood<'_> {
        Misunderstood::Refused {
            id,
            code: self.code,
            message: self.message,
        }
    }
}

impl From<EventError> for Refusal {
    fn from(error: EventError) -> Self {
        Self {
            code: error.code(),
            message: error.to_string(),
        }
    }
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal {
        code: "bad_message",
        message: message.into(),
    }
}

/// Everything that a client can ask for.
const OPS: [&str; 10] = [
    "auth",
    "ping",
    "join",
    "leave",
    "update",
    "members",
    "send",
    "broadcast",
    "publish",
    "call",
];

/// What other servers call the ops.
const OTHER_NAMES: [(&str, &str); 3] = [
    ("subscribe", "join"),
    ("unsubscribe", "leave"),
    ("emit", "broadcast"),
];

/// The fields that `op` takes, beside `op` and `id`.
fn fields_of(op: &str) -> &'static [&'static str] {
    match op {
        "auth" => &["token"],
        "join" => &["channel", "members", "since"],
        "leave" => &["channel"],
        "update" => &["data"],
        "members" => &["channel", "cursor", "limit"],
        "send" => &["channel", "event", "data", "echo", "except"],
        "broadcast" => &["event", "data", "echo", "except"],
        "publish" => &["users", "event", "data", "echo", "except"],
        "call" => &["name", "data"],
        _ => &[],
    }
}

fn nearest_of(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let known = known.iter().map(|known| (*known, *known));
    nearest(name, known, |known| known.len() / 2)
}

fn unknown_op(op: &str) -> Refusal {
    let other = OTHER_NAMES.iter().find(|(name, _)| *name == op);
    let meant = other.map(|(_, op)| *op).or_else(|| nearest_of(op, &OPS));
    let hint = match meant {
        Some(meant) => format!("did you mean \"{meant}\"?"),
        None => format!("the ops are {}", OPS.join(", ")),
    };
    Refusal {
        code: "unknown_op",
        message: format!("unknown op \"{}\"; {hint}", cut(op)),
    }
}

/// Longest `id`, in bytes of JSON.
const ID_BYTES: usize = 64;

/// Longest text of serde's that is sent to a client.
const MESSAGE_CHARS: usize = 200;

/// Reads one text message.
///
/// # Errors
/// [`Misunderstood`] says whether it was a message at all.
pub fn parse(text: &str) -> Result<Call<'_>, Misunderstood<'_>> {
    understand(text, None)
}

/// Reads one binary message: a version byte (1), the length of the header as 16 bits big-endian, the header as the
/// JSON of a text message without `data`, then the bytes.
///
/// # Errors
/// As [`parse`].
pub fn parse_binary(bytes: &[u8]) -> Result<Call<'_>, Misunderstood<'_>> {
    let (header, bytes) = split(bytes).map_err(|message| Misunderstood::Unreadable { message })?;
    understand(header, Some(bytes))
}

/// Reads what a client of another protocol asks for: `op` with the fields of a native message in the object `fields`, and
/// `bytes` in place of its `data`.
///
/// # Errors
/// As [`parse`].
pub fn parse_as<'a>(
    op: &str,
    id: Option<&'a RawValue>,
    fields: &'a str,
    bytes: Option<&'a [u8]>,
) -> Result<Call<'a>, Misunderstood<'a>> {
    let mut fields: Fields<'a> = match serde_json::from_str(fields) {
        Ok(fields) => fields,
        Err(_) if !is_object(fields) => {
            return Err(bad(format!("{op} takes an object with its fields")).under(id));
        }
        Err(error) => return Err(bad(without_place(&error)).under(id)),
    };

    // The bytes are the data. The object only has their placeholder.
    if bytes.is_some() {
        fields.take("data");
    }

    match request_of(op, fields, bytes) {
        Ok(request) => Ok(Call { id, request }),
        Err(refusal) => Err(refusal.under(id)),
    }
}

/// The `id` of a text message, whatever else it says.
pub fn id(text: &str) -> Option<&RawValue> {
    #[derive(Deserialize)]
    struct Id<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
    }
    // serde would read the struct from a list too, and take its first element for the id.
    if !is_object(text) {
        return None;
    }
    serde_json::from_str::<Id<'_>>(text)
        .ok()?
        .id
        .filter(|id| is_id(id))
}

/// The `id` of a binary message, whatever else it says.
pub fn binary_id(bytes: &[u8]) -> Option<&RawValue> {
    id(split(bytes).ok()?.0)
}

/// The header of a binary message and what follows it.
fn split(bytes: &[u8]) -> Result<(&str, &[u8]), &'static str> {
    let [version, high, low, rest @ ..] = bytes else {
        return Err("the binary message is cut short");
    };
    if *version != 1 {
        return Err("a binary message begins with the version byte 1");
    }

    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let (header, bytes) = rest
        .split_at_checked(length)
        .ok_or("the binary message is shorter than its header says")?;
    let header =
        str::from_utf8(header).map_err(|_| "the header of the binary message is not UTF-8")?;

    Ok((header, bytes))
}

fn understand<'a>(text: &'a str, bytes: Option<&'a [u8]>) -> Result<Call<'a>, Misunderstood<'a>> {
    let mut fields: Fields<'a> = match serde_json::from_str(text) {
        Ok(fields) => fields,
        // A fault of the data may be found before the text proves not to be JSON.
        Err(error) if !error.is_data() || serde_json::from_str::<IgnoredAny>(text).is_err() => {
            let message = if bytes.is_some() {
                "the header of the binary message is not JSON"
            } else {
                "the message is not JSON"
            };
            return Err(Misunderstood::Unreadable { message });
        }
        Err(_) if !is_object(text) => return Err(bad("the message is not an object").under(None)),
        Err(error) => return Err(bad(without_place(&error)).under(id(text))),
    };

    let id = fields.take("id").filter(|id| !is_null(id));
    if id.is_some_and(|id| !is_id(id)) {
        let message = format!("id must be a number or a string of up to {ID_BYTES} bytes");
        return Err(bad(message).under(None));
    }

    match request(fields, bytes) {
        Ok(request) => Ok(Call { id, request }),
        Err(refusal) => Err(refusal.under(id)),
    }
}

fn request<'a>(mut fields: Fields<'a>, bytes: Option<&'a [u8]>) -> Result<Request<'a>, Refusal> {
    let Some(op) = fields.take("op") else {
        return Err(bad("\"op\" is required, for example \"send\""));
    };
    let op = text(op).ok_or_else(|| bad("op must be a string"))?;
    request_of(&op, fields, bytes)
}

fn request_of<'a>(
    op: &str,
    fields: Fields<'a>,
    bytes: Option<&'a [u8]>,
) -> Result<Request<'a>, Refusal> {
    let mut reader = Reader { op, fields, bytes };
    let request = reader.request()?;
    // After the request has taken its fields out: those that are left are unknown.
    if let Some(refusal) = reader.unknown_field() {
        return Err(refusal);
    }
    // Operations with data have taken them.
    if reader.bytes.is_some() {
        return Err(bad(format!("{op} takes no bytes; send it as text")));
    }
    Ok(request)
}

fn is_object(text: &str) -> bool {
    // Enough, because a parser has read the text or is about to.
    text.trim_start().starts_with('{')
}

fn is_null(raw: &RawValue) -> bool {
    raw.get() == "null"
}

fn is_id(id: &RawValue) -> bool {
    id.get().len() <= ID_BYTES
        && id
            .get()
            .starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit())
}

/// What serde says, without the place and cut short: it repeats what the client made up.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text
        .rsplit_once(" at line ")
        .map_or(&*text, |(what, _)| what);
    what.chars().take(MESSAGE_CHARS).collect()
}

/// Takes out of a message what its `op` takes.
///
/// `null` means that an optional field is absent. Not so for `except`: what narrows a target must not disappear for
/// want of a value.
struct Reader<'o, 'a> {
    op: &'o str,
    fields: Fields<'a>,
    /// What a binary message carries, until an event takes it.
    bytes: Option<&'a [u8]>,
}

impl<'a> Reader<'_, 'a> {
    fn request(&mut self) -> Result<Request<'a>, Refusal> {
        Ok(match self.op {
            "auth" => Request::Auth {
                token: self.text("token")?,
            },

            "ping" => Request::Ping,
            "join" => Request::Join {
                channel: self.channel()?,
                members: self.flag("members")?.unwrap_or(false),
                since: self.since()?,
            },

            "leave" => Request::Leave {
                channel: self.channel()?,
            },

            "update" => Request::Update {
                data: self.profile()?,
            },

            "members" => Request::Members {
                channel: self.channel()?,
                cursor: self
                    .optional("cursor")
                    .map(|raw| string("cursor", raw))
                    .transpose()?,
                limit: self.limit()?,
            },

            "send" => Request::Send {
                channel: self.channel()?,
                message: self.echoed_event()?,
            },

            "broadcast" => Request::Broadcast {
                message: self.echoed_event()?,
            },

            "publish" => Request::Publish {
                users: self.users()?,
                message: self.echoed_event()?,
            },

            "call" => Request::Call {
                name: self.text("name")?,
                data: self.json_or_bytes()?,
            },

            // `Attend` and `Roster` have no op. Only the dialects of other protocols make them.
            op => return Err(unknown_op(op)),
        })
    }

    fn needed(&mut self, name: &'static str) -> Result<&'a RawValue, Refusal> {
        let needed = self.fields.take(name);
        needed.ok_or_else(|| self.missing(&format!("{} needs {name}", self.op)))
    }

    /// Something is missing. Where there is a field that the op does not take, that is it, misspelt.
    fn missing(&self, what: &str) -> Refusal {
        self.unknown_field().unwrap_or_else(|| bad(what))
    }

    /// The first field that the op does not take.
    fn unknown_field(&self) -> Option<Refusal> {
        let known = fields_of(self.op);
        let name = self.fields.first_other_than(known)?;
        let hint = match nearest_of(name, known) {
            Some(meant) => format!("did you mean \"{meant}\"?"),
            None if known.is_empty() => format!("{} takes none", self.op),
            None => format!("{} takes {}", self.op, known.join(", ")),
        };
        Some(bad(format!("unknown field \"{}\"; {hint}", cut(name))))
    }

    fn optional(&mut self, name: &str) -> Option<&'a RawValue> {
        self.fields.take(name).filter(|raw| !is_null(raw))
    }

    fn text(&mut self, name: &'static str) -> Result<Cow<'a, str>, Refusal> {
        string(name, self.needed(name)?)
    }

    fn channel(&mut self) -> Result<Cow<'a, str>, Refusal> {
        let channel = self.text("channel")?;
        channel_name(&channel)?;
        Ok(channel)
    }

    fn flag(&mut self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.optional(name).map(RawValue::get) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(bad(format!("{name} must be true or false"))),
        }
    }

    fn limit(&mut self) -> Result<Option<usize>, Refusal> {
        let Some(raw) = self.optional("limit") else {
            return Ok(None);
        };
        serde_json::from_str(raw.get())
            .map(Some)
            .map_err(|_| bad("limit must be a whole number"))
    }

    fn since(&mut self) -> Result<Option<Since>, Refusal> {
        let Some(raw) = self.optional("since") else {
            return Ok(None);
        };
        let since = object("since", raw);
        since
            .map(Some)
            .map_err(|refusal| since_fault(raw).map_or(refusal, bad))
    }

    fn users(&mut self) -> Result<Vec<String>, Refusal> {
        let raw = self.needed("users")?;
        let users: Vec<String> =
            serde_json::from_str(raw.get()).map_err(|_| bad("users must be a list of strings"))?;
        // No token has such a user, so this is a mistake, and not somebody who is away.
        match users.iter().find(|user| user.len() > USER_BYTES) {
            Some(user) => Err(Refusal {
                code: "name_too_long",
                message: format!(
                    "users has a name of {} bytes; at most {USER_BYTES} fit",
                    user.len()
                ),
            }),
            None => Ok(users),
        }
    }

    fn data(&mut self) -> &'a RawValue {
        self.fields.take("data").unwrap_or(RawValue::NULL)
    }

    fn profile(&mut self) -> Result<&'a RawValue, Refusal> {
        // Not as an optional field, since `null` removes the profile.
        let data = self
            .fields
            .take("data")
            .filter(|raw| is_null(raw) || is_object(raw.get()));
        data.ok_or_else(|| self.missing("update needs data, an object or null"))
    }

    fn echoed_event(&mut self) -> Result<ClientEvent<'a>, Refusal> {
        let echo = self.flag("echo")?;
        Ok(ClientEvent {
            echo,
            ..self.event()?
        })
    }

    /// What a message carries: its `data`, or what follows the header of a binary one.
    fn json_or_bytes(&mut self) -> Result<Data<'a>, Refusal> {
        match self.bytes.take() {
            None => Ok(Data::Json(self.data())),
            Some(_) if self.fields.take("data").is_some() => Err(bad(
                "a binary message has its data after the header, not in it",
            )),
            Some(bytes) => Ok(Data::Bytes(Cow::Borrowed(bytes))),
        }
    }

    fn event(&mut self) -> Result<ClientEvent<'a>, Refusal> {
        let name = self.text("event")?;
        let data = self.json_or_bytes()?;
        let except = self
            .fields
            .take("except")
            .map(|raw| object("except", raw))
            .transpose()?;
        Ok(ClientEvent {
            event: Event::new(name, data)?,
            echo: None,
            except: except.unwrap_or_default(),
        })
    }
}

/// What is wrong with a member of `since`, by its name.
fn since_fault(raw: &RawValue) -> Option<&'static str> {
    #[derive(Deserialize)]
    struct Members<'a> {
        #[serde(borrow)]
        epoch: Option<&'a RawValue>,
        #[serde(borrow)]
        offset: Option<&'a RawValue>,
    }

    // serde says which type is wrong, but not in which member.
    let Members { epoch, offset } = serde_json::from_str(raw.get()).ok()?;
    let is_bad_offset = |offset: &RawValue| serde_json::from_str::<u64>(offset.get()).is_err();
    if offset.is_some_and(is_bad_offset) {
        Some("\"since.offset\" must be a whole number")
    } else if epoch.is_some_and(|epoch| text(epoch).is_none()) {
        Some("\"since.epoch\" must be a string")
    } else {
        None
    }
}

fn string<'a>(name: &str, raw: &'a RawValue) -> Result<Cow<'a, str>, Refusal> {
    text(raw).ok_or_else(|| bad(format!("{name} must be a string")))
}

/// Reads the member `name`, which serde would read from an array too.
fn object<'a, T: Deserialize<'a>>(name: &str, raw: &'a RawValue) -> Result<T, Refusal> {
    if !is_object(raw.get()) {
        return Err(bad(format!("{name} must be an object")));
    }
    serde_json::from_str(raw.get())
        .map_err(|error| bad(format!("{name}: {}", without_place(&error))))
}

#[cfg(test)]
mod tests;
