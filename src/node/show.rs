//! Connections as the API shows them.

use serde_json::{Value as Json, json};

use crate::hub::Connection;

/// What a hidden attribute shows.
pub(crate) const REDACTED: &str = "[redacted]";

/// A connection with its attributes, but for what is hidden.
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

/// Hides what stands at `path` of a shown connection, if anything does.
pub(crate) fn hide(shown: &mut Json, path: &str) {
    if let Some(value) = shown.pointer_mut(&format!("/{}", path.replace('.', "/")))
        && !value.is_null()
    {
        *value = Json::from(REDACTED);
    }
}
