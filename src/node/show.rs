//! Connections as the API shows them.

use serde_json::{Value as Json, json};

use crate::hub::Connection;

/// What a hidden attribute shows.
pub(crate) const REDACTED: &str = "[redacted]";

/// A connection with its attributes, except for what is hidden.
pub(crate) fn connection(connection: &Connection, redact: &[String]) -> Json {
    let attributes = &connection.attributes;
    let facts = &attributes.connection;
    let mut shown = json!({
        "id": facts.id.to_string(),
        "user": attributes.user,
        "device": facts.device.as_deref(),
        "ip": facts.ip,
        "protocol": facts.protocol,
        "connected_at": facts.connected_at,
        "node": &*facts.node,
        "auth": attributes.auth,
        "profile": attributes.profile,
        "channels": attributes.channels,
    });

    for path in redact {
        hide(&mut shown, path.trim_start_matches("connection."));
    }
    shown
}

/// Hides what is at `path` of a shown connection, if anything does. A list on the way, and a list of lists, is gone
/// through: `auth.accounts.iban` hides the `iban` of every account.
pub(crate) fn hide(shown: &mut Json, path: &str) {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };

    match shown {
        Json::Array(items) => items.iter_mut().for_each(|item| hide(item, path)),
        Json::Object(members) => match (members.get_mut(name), rest) {
            (None | Some(Json::Null), _) => {}
            (Some(value), None) => *value = Json::from(REDACTED),
            (Some(value), Some(rest)) => hide(value, rest),
        },
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_hidden_through_lists() {
        let hidden = |path: &str, mut shown: Json| {
            hide(&mut shown, path);
            shown
        };
        let accounts =
            json!({"accounts": [{"iban": "x", "bank": "b"}, [{"iban": "y"}], 7, null, {}]});
        assert_eq!(
            hidden("accounts.iban", accounts.clone()),
            json!({"accounts": [{"iban": REDACTED, "bank": "b"}, [{"iban": REDACTED}], 7, null, {}]})
        );
        assert_eq!(
            hidden("accounts", accounts.clone()),
            json!({"accounts": REDACTED})
        );
        assert_eq!(
            hidden(
                "a.b.c",
                json!({"a": [{"b": [{"c": 1}, {"c": [2]}]}, {"b": {"c": {"d": 3}}}]})
            ),
            json!({"a": [{"b": [{"c": REDACTED}, {"c": REDACTED}]}, {"b": {"c": REDACTED}}]})
        );

        // What is absent or null shows as before, and so does what only looks alike.
        for path in ["iban", "accounts.iba", "accounts.iban.x", "accounts.0.iban"] {
            assert_eq!(hidden(path, accounts.clone()), accounts, "{path}");
        }
        assert_eq!(
            hidden("a.b", json!({"a": {"b": null}})),
            json!({"a": {"b": null}})
        );
    }
}
