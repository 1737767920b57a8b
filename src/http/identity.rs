//! Who connected users are: revoking their tokens, and replacing their claims.

use std::{fmt, sync::Arc, time::SystemTime};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};
use serde_json::value::RawValue;

use super::{
    access::Caller,
    audit, body,
    inspect::CAN,
    problem::Problem,
    shape::{Kind, LEAVE_OUT, Shape, Whole, field},
    verbs::{USER_OR_USERS, one_or_many},
};
use crate::{
    auth::SignError,
    limits::TOKEN_TIME_END,
    node::{Node, NodeError, ReplaceReceipt, RevokeReceipt},
};

/// The shape of the body of `revoke`.
pub(super) static REVOKE: Shape = Shape {
    fields: &[
        field("user", Kind::Text),
        field("users", Kind::Texts),
        field("before", Kind::Moment),
    ],
    required: &[&USER_OR_USERS],
};

/// Whose tokens are revoked, and of which time.
#[derive(Debug)]
pub(super) struct Revoking {
    users: Vec<String>,
    before: Option<u64>,
}

/// Reads the body of `revoke`.
///
/// # Errors
/// 400 for a wrong body.
pub(super) fn revoking(body: &[u8]) -> Result<Revoking, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct RevokeBody {
        #[serde(default, deserialize_with = "body::present")]
        user: Option<String>,
        #[serde(default, deserialize_with = "body::present")]
        users: Option<Vec<String>>,
        #[serde(default, deserialize_with = "body::present")]
        before: Option<Moment>,
    }

    let RevokeBody {
        user,
        users,
        before,
    } = body::parse(body, &REVOKE)?;

    let before = before.map(|Moment(seconds)| seconds);
    // Every token that is ever issued would be before that, so the user could never connect again.
    if let Some(before) = before.filter(|before| *before as f64 >= TOKEN_TIME_END) {
        let detail = format!(
            "\"before\" is {before}, which is far ahead; is it in milliseconds? It must be in seconds"
        );
        return Err(Problem::bad_request("bad_field", detail));
    }

    Ok(Revoking {
        users: one_or_many(USER_OR_USERS, user, users)?,
        before,
    })
}

/// `POST /v1/revoke`: refuses users' tokens that were issued before a time, and closes the connections that came with them.
///
/// # Errors
/// 400 for a wrong body, 409 where there are no users, 503 while the other nodes are out of reach, or there is no room.
pub(crate) async fn revoke(
    node: &Arc<Node>,
    caller: &Caller,
    body: &[u8],
) -> Result<RevokeReceipt, Problem> {
    let Revoking { users, before } = revoking(body)?;
    let whom = format!("users {}", audit::listed(&users));
    let receipt = node.cluster_revoke(caller.app, users, before).await?;
    audit::note(node, caller, "revoke", &whom, receipt.disconnected);
    Ok(receipt)
}

/// The shape of the body of `auth`.
pub(super) static AUTH: Shape = Shape {
    fields: &[
        field("user", Kind::Text),
        field("claims", Kind::Members),
        field("can", Kind::Object(&CAN)),
    ],
    required: &[&["user"], &["claims"]],
};

/// The body of `auth`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Replacing<'a> {
    user: String,
    #[serde(borrow)]
    claims: &'a RawValue,
    #[serde(borrow, default, deserialize_with = "body::present")]
    can: Option<&'a RawValue>,
}

/// Reads the body of `auth`.
///
/// # Errors
/// 400 for a wrong body; what is in `claims` and `can` is not looked at.
pub(super) fn replacing(body: &[u8]) -> Result<Replacing<'_>, Problem> {
    body::parse(body, &AUTH)
}

/// `POST /v1/auth`: replaces claims and rights of a user's open connections.
///
/// # Errors
/// 400 for a wrong body, 409 where there are no users, 503 while the other nodes are out of reach.
pub(crate) async fn auth(
    node: &Arc<Node>,
    caller: &Caller,
    body: &[u8],
) -> Result<ReplaceReceipt, Problem> {
    let Replacing { user, claims, can } = replacing(body)?;
    let owned = can.map(ToOwned::to_owned);
    let whom = format!("users {}", audit::listed(std::slice::from_ref(&user)));
    let receipt = node
        .cluster_replace_claims(caller.app, user, claims.to_owned(), owned)
        .await;
    if let Ok(receipt) = &receipt {
        audit::note(node, caller, "auth", &whom, receipt.connections);
    }

    receipt.map_err(|error| match &error {
        NodeError::Claims(wrong) => unusable(wrong, Some(claims), can).map_or_else(
            || error.into(),
            |fault| Problem::bad_request("bad_claims", fault),
        ),
        _ => error.into(),
    })
}

/// What is wrong with claims and rights that cannot be used, where the API has words of its own for it.
pub(super) fn unusable(
    error: &SignError,
    claims: Option<&RawValue>,
    can: Option<&RawValue>,
) -> Option<String> {
    let fault = match error {
        SignError::Claims => {
            claims.and_then(|claims| Kind::Members.fault("claims", claims.get(), LEAVE_OUT))
        }
        SignError::Rights(_) => {
            can.and_then(|can| Kind::Object(&CAN).fault("can", can.get(), LEAVE_OUT))
        }
        _ => None,
    };
    fault.map(|fault| fault.detail().to_owned())
}

/// A time in Unix seconds: given as such, or as text by RFC 3339. A part of a second counts as a whole one, so that no token
/// of that second is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    /// Reads a time such as `2026-07-28T12:00:00Z`, with any offset.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        // The offset, such as +02:00, which is for us to take away.
        let (local, offset) = match text.as_bytes() {
            [.., b'Z' | b'z'] => (&text[..text.len() - 1], 0),
            [.., sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
                let two = |a: &u8, b: &u8| match (a, b) {
                    (b'0'..=b'9', b'0'..=b'9') => Some(i64::from((a - b'0') * 10 + (b - b'0'))),
                    _ => None,
                };
                let hours = two(h1, h2).filter(|hours| *hours < 24)?;
                let minutes = two(m1, m2).filter(|minutes| *minutes < 60)?;
                let seconds = (hours * 60 + minutes) * 60;
                let east = if *sign == b'+' { seconds } else { -seconds };
                (&text[..text.len() - 6], east)
            }
            _ => return None,
        };

        let time = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
        let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let seconds = since.as_secs() + u64::from(since.subsec_nanos() > 0);

        u64::try_from(i64::try_from(seconds).ok()? - offset)
            .ok()
            .map(Self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = Moment;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time")
            }

            fn visit_u64<E: Error>(self, seconds: u64) -> Result<Moment, E> {
                Ok(Moment(seconds))
            }

            fn visit_f64<E: Error>(self, seconds: f64) -> Result<Moment, E> {
                let whole = Whole::of(seconds).ok_or_else(|| E::custom("not whole seconds"))?;
                Ok(Moment(whole.0))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Moment, E> {
                Moment::parse(text).ok_or_else(|| E::custom("not a time"))
            }
        }

        from.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_in_milliseconds_is_asked_about() {
        let read = |before: u64| {
            let body = format!(r#"{{"user":"ann","before":{before}}}"#);
            revoking(body.as_bytes()).map(|revoking| revoking.before)
        };
        let problem = read(1_785_240_000_000).unwrap_err();
        assert!(
            problem.detail().contains("is it in milliseconds?"),
            "{}",
            problem.detail()
        );
        assert_eq!(read(1_785_240_000).unwrap(), Some(1_785_240_000));
    }

    #[test]
    fn a_time_is_seconds_or_a_text() {
        let read = |json: &str| serde_json::from_str::<Moment>(json).ok();
        for (json, seconds) in [
            ("1785240000", 1_785_240_000),
            ("1785240000.0", 1_785_240_000),
            ("1.78524e9", 1_785_240_000),
            ("0", 0),
            (r#""2026-07-28T12:00:00Z""#, 1_785_240_000),
            (r#""2026-07-28T14:00:00+02:00""#, 1_785_240_000),
            (r#""2026-07-28T06:30:00-05:30""#, 1_785_240_000),
            // A part of a second counts as a whole one.
            (r#""2026-07-28T11:59:59.001Z""#, 1_785_240_000),
            (r#""1970-01-01T00:00:00Z""#, 0),
        ] {
            assert_eq!(read(json), Some(Moment(seconds)), "{json}");
        }
        for json in [
            "-1",
            "1.5",
            "null",
            "true",
            "[]",
            r#""""#,
            r#""now""#,
            r#""1785240000""#,
            r#""2026-07-28""#,
            r#""2026-07-28T12:00:00""#,
            r#""2026-13-28T12:00:00Z""#,
            r#""2026-07-28T12:00:00+2:00""#,
            r#""2026-07-28T12:00:00+24:00""#,
            r#""1970-01-01T00:00:00+00:01""#,
            r#""1969-12-31T23:59:59Z""#,
            r#""é+02:00""#,
        ] {
            assert_eq!(read(json), None, "{json}");
        }
    }
}
