//! The publishing calls: what the fields of each mean.

mod fields;
mod names;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use data_encoding::BASE64_NOPAD;
use serde::Deserialize;
use serde_json::value::RawValue;

pub(crate) use self::fields::Verb;
pub(super) use self::{fields::USER_OR_USERS, names::one_or_many};
use self::{
    fields::{CALL, CHANNEL_OR_CHANNELS},
    names::{check_excepted, distinct, except_of, recipients},
};
use super::{
    body::{self, present},
    problem::Problem,
    shape::{missing, shown},
};
use crate::{
    filter::Value,
    limits::{LONG_BODY, USER_BYTES},
    node::{ClusterScope, Publication, Target, To, check_names},
    protocol::event::{Data, Event},
};

/// The fields of every publishing call together; each call takes some of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerbFields<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    pub(crate) call: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    event: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "present")]
    data_base64: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "present")]
    filter: Option<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    /// What was made of `params` already.
    #[serde(skip)]
    pub(super) built: Option<Value>,
    #[serde(borrow, default, deserialize_with = "present")]
    to: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    except: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "body::extent")]
    scope: Option<ClusterScope>,
    #[serde(default, deserialize_with = "body::extent")]
    receipt: Option<ClusterScope>,
    #[serde(default, deserialize_with = "present")]
    store: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    user: Option<String>,
    #[serde(default, deserialize_with = "present")]
    users: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    channel: Option<String>,
    #[serde(default, deserialize_with = "present")]
    channels: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    recipients: Option<Vec<String>>,
}

/// A publishing call, understood: the event, and whom it is for.
#[derive(Debug)]
pub(crate) struct PublishCall<'a> {
    event: Event<'a>,
    /// One publication each. Only a call to several channels has more than one.
    targets: Vec<Target>,
    store: Option<bool>,
    scope: ClusterScope,
    receipt: ClusterScope,
}

impl PublishCall<'_> {
    /// What is to be delivered, all of it or nothing. The data are shared, not copied.
    pub(crate) fn publications(&self) -> Vec<Publication<'_>> {
        let event = || Event {
            name: Cow::Borrowed(&*self.event.name),
            data: match &self.event.data {
                Data::Json(json) => Data::Json(json),
                Data::Bytes(bytes) => Data::Bytes(Cow::Borrowed(bytes)),
            },
        };

        let one = |target: &Target| Publication {
            event: event(),
            target: target.clone(),
            store: self.store,
            author: None,
            scope: self.scope,
            receipt: self.receipt,
        };

        self.targets.iter().map(one).collect()
    }
}

impl<'a> VerbFields<'a> {
    /// Reads an item of a batch: which call it is, and its fields.
    ///
    /// # Errors
    /// 400 for a wrong body, and for a `call` that is missing or unknown.
    pub(crate) fn item(item: &'a [u8]) -> Result<(Verb, Self), Problem> {
        let text = body::text(item)?;
        let (call, fields) = match serde_json::from_str::<Self>(text) {
            Ok(mut fields) => (fields.call.take(), Ok(fields)),
            // Which fields there are depends on the call.
            Err(error) => (called(text), Err(error)),
        };

        let verb = match call {
            Some(call) => Verb::named(&call).ok_or_else(|| unknown_call(&call))?,
            None => return Err(call_fault(text)),
        };

        fields
            .map(|fields| (verb, fields))
            .map_err(|error| verb.item_shape().explain("", text, &error))
    }

    /// The text of `params`, where building them takes long.
    pub(crate) fn long_params(&self) -> Option<&'a str> {
        self.params
            .map(RawValue::get)
            .filter(|json| json.len() >= LONG_BODY)
    }

    /// What the call of `verb` with these fields means.
    ///
    /// # Errors
    /// 400 names the field that is unknown, missing or wrong.
    pub(crate) fn into_call(self, verb: Verb) -> Result<PublishCall<'a>, Problem> {
        // All calls are read into one type, which takes fields that this call does not have.
        self.check_fields(verb)?;
        let except = except_of(verb, self.except)?;
        let params = match self.built {
            Some(built) => Some(built),
            None => self.params.map(|raw| body::params(raw.get())).transpose()?,
        };

        let target = Target {
            to: None,
            filter: self.filter,
            params,
            except,
        };

        let to = |to: To| Target {
            to: Some(to),
            ..target.clone()
        };

        let targets = match verb {
            Verb::Emit => vec![
                self.to
                    .map(body::to)
                    .transpose()?
                    .map_or_else(|| target.clone(), to),
            ],
            Verb::Broadcast => vec![target],
            Verb::Publish => {
                let list = if self.user.is_some() { "user" } else { "users" };
                let users = one_or_many(USER_OR_USERS, self.user, self.users)?;
                check_names(list, &users, USER_BYTES)?;
                vec![to(To {
                    users,
                    ..To::default()
                })]
            }
            Verb::Send => {
                let channels = distinct(one_or_many(
                    CHANNEL_OR_CHANNELS,
                    self.channel,
                    self.channels,
                )?)?;
                check_excepted(&target.except, channels.len())?;
                let channel = |name| {
                    to(To {
                        channels: vec![name],
                        ..To::default()
                    })
                };
                channels.into_iter().map(channel).collect()
            }
            Verb::Dispatch => vec![recipients(self.recipients)?.map_or_else(|| target.clone(), to)],
        };

        let name = self.event.ok_or_else(|| missing(&["event"]))?;
        let event = Event::new(name, data(self.data, self.data_base64.as_deref())?)?;
        // To count on every node takes a round trip, so a call has to ask for it.
        let scope = self.scope.unwrap_or(ClusterScope::Cluster);
        let receipt = self.receipt.unwrap_or(ClusterScope::Node);

        Ok(PublishCall {
            event,
            targets,
            store: self.store,
            scope,
            receipt,
        })
    }

    /// Refuses what other calls take and this one does not.
    fn check_fields(&self, verb: Verb) -> Result<(), Problem> {
        let shape = verb.shape();
        let given = [
            ("to", self.to.is_some()),
            ("user", self.user.is_some()),
            ("users", self.users.is_some()),
            ("channel", self.channel.is_some()),
            ("channels", self.channels.is_some()),
            ("recipients", self.recipients.is_some()),
            ("call", self.call.is_some()),
        ];

        match given
            .iter()
            .find(|(name, given)| *given && !shape.has(name))
        {
            Some((name, _)) => Err(shape.unknown("", name)),
            None => Ok(()),
        }
    }
}

/// The call that an item names, whatever else is wrong with it.
fn called(item: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Called<'a> {
        #[serde(borrow)]
        call: Cow<'a, str>,
    }
    serde_json::from_str::<Called<'_>>(item)
        .ok()
        .map(|called| called.call)
}

/// What is wrong with an item that names no call.
fn call_fault(item: &str) -> Problem {
    #[derive(Deserialize)]
    struct Called<'a> {
        #[serde(borrow)]
        call: &'a RawValue,
    }
    serde_json::from_str::<Called<'_>>(item)
        .ok()
        .and_then(|called| CALL.fault("call", called.call.get(), ""))
        .unwrap_or_else(|| missing(&["call"]))
}

fn unknown_call(call: &str) -> Problem {
    let detail = format!(
        "unknown call \"{}\" for a batch; use emit, publish, send, broadcast or dispatch",
        shown(call)
    );
    Problem::bad_request("unknown_call", detail)
}

fn data<'a>(json: Option<&'a RawValue>, base64: Option<&str>) -> Result<Data<'a>, Problem> {
    match (json, base64) {
        (Some(_), Some(_)) => Err(Problem::bad_request(
            "bad_field",
            "send \"data\" or \"data_base64\", not both",
        )),
        (Some(json), None) => Ok(Data::Json(json)),
        (None, None) => Ok(Data::Json(RawValue::NULL)),
        (None, Some(text)) => match data_encoding::BASE64.decode(text.as_bytes()) {
            Ok(bytes) => Ok(Data::Bytes(Cow::Owned(bytes))),
            Err(error) => Err(Problem::bad_request(
                "bad_base64",
                format!(
                    "\"data_base64\" must be padded base64: {}",
                    why_not_base64(text, error)
                ),
            )),
        },
    }
}

/// Why `text` is not base64, in the words of those who encoded it.
fn why_not_base64(text: &str, error: data_encoding::DecodeError) -> String {
    // The error names only a place. These two faults are common, and have a remedy.
    if BASE64_NOPAD.decode(text.as_bytes()).is_ok() {
        return "the padding \"=\" at its end is missing".to_owned();
    }
    if text.contains(['-', '_']) && !text.contains(['+', '/']) {
        return "it is base64url; write + in place of -, and / in place of _".to_owned();
    }
    error.to_string()
}
