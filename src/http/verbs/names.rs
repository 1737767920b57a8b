//! Whom a publishing call names: users or channels, and whom it leaves out.

use ahash::AHashSet;
use serde_json::value::RawValue;

use super::Verb;
use crate::{
    http::{
        body::{self, EXCEPT},
        problem::Problem,
        shape::{Kind, LEAVE_OUT, missing},
    },
    limits::{SEND_CHANNELS, TARGET_NAMES, USER_BYTES},
    node::{Exceptions, To, check_names},
};

/// Whom a call of `verb` leaves out.
pub(super) fn except_of(verb: Verb, except: Option<&RawValue>) -> Result<Exceptions, Problem> {
    match (verb, except) {
        (_, None) => Ok(Exceptions::default()),
        (Verb::Dispatch, Some(raw)) => except_of_dispatch(raw),
        (_, Some(raw)) => body::except(raw),
    }
}

/// A list of user ids, or what `except` is elsewhere.
fn except_of_dispatch(raw: &RawValue) -> Result<Exceptions, Problem> {
    if raw.get().starts_with('{') {
        return body::except(raw);
    }
    let users: Vec<String> = serde_json::from_str(raw.get()).map_err(|_| except_fault(raw))?;
    check_names("except", &users, USER_BYTES)?;
    Ok(Exceptions {
        users,
        ..Exceptions::default()
    })
}

/// What is wrong with an `except` that is not a list of strings.
fn except_fault(raw: &RawValue) -> Problem {
    let fault = Kind::TextsOr(&EXCEPT).fault("except", raw.get(), LEAVE_OUT);
    fault.unwrap_or_else(|| Problem::bad_request("bad_field", "\"except\" cannot be read"))
}

/// The names of the field of one, or of the field of many; `fields` is how these are called.
pub(in crate::http) fn one_or_many(
    fields: [&str; 2],
    one: Option<String>,
    many: Option<Vec<String>>,
) -> Result<Vec<String>, Problem> {
    match (one, many) {
        (Some(_), Some(_)) => Err(Problem::bad_request(
            "bad_field",
            format!("send \"{}\" or \"{}\", not both", fields[0], fields[1]),
        )),
        (Some(one), None) => Ok(vec![one]),
        (None, Some(many)) => Ok(many),
        (None, None) => Err(missing(&fields)),
    }
}

/// Each channel once, in the order in which they came.
pub(super) fn distinct(channels: Vec<String>) -> Result<Vec<String>, Problem> {
    let mut seen = AHashSet::new();
    let channels: Vec<String> = channels
        .into_iter()
        .filter(|name| seen.insert(name.clone()))
        .collect();
    if channels.len() > SEND_CHANNELS {
        let detail = format!(
            "\"channels\" has {} names; at most {SEND_CHANNELS} fit one call",
            channels.len()
        );
        return Err(Problem::bad_request("too_many_names", detail));
    }

    Ok(channels)
}

/// Refuses an `except` that names too many for a call to so many channels: each channel has it as a list of its own.
pub(super) fn check_excepted(except: &Exceptions, channels: usize) -> Result<(), Problem> {
    let names = except.users.len() + except.connections.len() + except.devices.len();
    let most = TARGET_NAMES / channels.max(1);
    if channels > 1 && names > most {
        let detail = format!(
            "\"except\" has {names} names; a call to {channels} channels takes at most {most}"
        );
        return Err(Problem::bad_request("too_many_names", detail));
    }
    Ok(())
}

/// Users, or everyone for just `["*"]`.
pub(super) fn recipients(recipients: Option<Vec<String>>) -> Result<Option<To>, Problem> {
    let users = recipients.ok_or_else(|| missing(&["recipients"]))?;
    check_names("recipients", &users, USER_BYTES)?;
    if users == ["*"] {
        return Ok(None);
    }
    if users.iter().any(|user| user == "*") {
        let detail = "\"*\" means everyone, and so must be alone in \"recipients\"";
        return Err(Problem::bad_request("bad_field", detail));
    }

    Ok(Some(To {
        users,
        ..To::default()
    }))
}
