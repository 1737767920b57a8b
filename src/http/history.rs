//! The stored events of a channel, as callers see them: each with its data as they were sent.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    access::Caller,
    body,
    problem::Problem,
    query::{self, Query},
};
use crate::{
    history::Entry,
    limits::{PAGE_BYTES, PAGE_DEFAULT},
    node::Node,
    protocol::{event::channel_name, frame::Frame},
};

/// A page of stored events, as answered.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Page {
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    /// The offset of the newest event.
    offset: u64,
    events: Vec<StoredEvent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<u64>,
}

/// A stored event, as answered.
#[derive(Debug, Serialize)]
struct StoredEvent {
    offset: u64,
    id: Uuid,
    at: u64,
    event: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Box<RawValue>>,
}

/// `GET /v1/channels/{channel}/history`: the stored events of a channel, oldest first, a page at a time.
///
/// # Errors
/// 400 for a bad query or channel name, 404 if the channel has no history, 503 if it is out of reach.
pub(crate) async fn page(
    node: &Node,
    caller: &Caller,
    channel: &str,
    query: &str,
) -> Result<Page, Problem> {
    channel_name(channel)?;
    let query = Query::parse(query, &["after", "limit"])?;
    let after = query.get("after").map_or(Ok(0), offset)?;
    let limit = query.limit(PAGE_DEFAULT)?;

    if node.history_key(caller.app, channel).is_none() {
        let detail = "this channel keeps no history; set `history_size` by a rule for channels of the app, or start the \
                      server with --channel-history 'room-*=100'";
        return Err(Problem::not_found("no_history", detail));
    }

    let Some(page) = node.history_page(caller.app, channel, after, limit).await? else {
        return Ok(Page::default());
    };

    let fitting = fitting(&page.entries);
    let cursor = fitting
        .last()
        .filter(|_| page.more || fitting.len() < page.entries.len());
    Ok(Page {
        epoch: Some(page.position.epoch.to_string()),
        offset: page.position.offset,
        cursor: cursor.map(|last| last.offset),
        events: fitting.iter().filter_map(stored).collect(),
    })
}

/// The offset that `text` says. Nothing comes after one that is too large for an offset.
fn offset(text: &str) -> Result<u64, Problem> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        return Err(query::bad(
            "\"after\" must be an offset: a whole number from 0",
        ));
    }
    Ok(text.parse().unwrap_or(u64::MAX))
}

/// As many of the first entries as an answer may have bytes. One always fits, so that every page makes progress.
fn fitting(entries: &[Entry]) -> &[Entry] {
    let mut bytes = 0;
    let fits = |entry: &&Entry| {
        let is_first = bytes == 0;
        bytes += entry.frame.len();
        is_first || bytes <= PAGE_BYTES
    };
    &entries[..entries.iter().take_while(fits).count()]
}

/// What an entry's frame says. Every event was encoded by this server, so there is none that cannot be read.
fn stored(entry: &Entry) -> Option<StoredEvent> {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        event: &'a RawValue,
        #[serde(borrow, default, deserialize_with = "body::present")]
        data: Option<&'a RawValue>,
        #[serde(borrow, default)]
        from: Option<&'a RawValue>,
    }

    let (head, bytes) = split(&entry.frame)?;
    let Head { event, data, from } = serde_json::from_slice(head).ok()?;
    Some(StoredEvent {
        offset: entry.offset,
        id: entry.id,
        at: entry.at_ms,
        event: event.to_owned(),
        data: data.map(ToOwned::to_owned),
        data_base64: bytes.map(|bytes| data_encoding::BASE64.encode(bytes)),
        from: from.map(ToOwned::to_owned),
    })
}

/// The JSON object of an event's frame, and its bytes if it has such.
fn split(frame: &Frame) -> Option<(&[u8], Option<&[u8]>)> {
    if frame.is_text() {
        return Some((frame.payload(), None));
    }
    // A binary event has its version, the length of the JSON in two bytes, the JSON, and then the
    // bytes.
    let [_version, high, low, rest @ ..] = frame.payload() else {
        return None;
    };
    let (head, bytes) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
    Some((head, Some(bytes)))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::protocol::event::{Data, Event, Marks, Sender};

    fn entry(data: Data<'_>, marks: &Marks<'_>) -> Entry {
        let frame = Event::new("e\"", data)
            .unwrap()
            .draft(marks)
            .finish(Some(7));
        Entry {
            offset: 7,
            id: Uuid::from_u128(1),
            frame,
            omit: None,
            at_ms: 1_767_225_600_123,
        }
    }

    fn text(entry: &Entry) -> String {
        serde_json::to_string(&stored(entry).unwrap()).unwrap()
    }

    #[test]
    fn data_are_shown_byte_for_byte() {
        for data in [
            "null",
            "1e2",
            "12345678901234567890",
            "{\"b\":[ 1.0 ],\n\"a\":\"\\u00e9\"}",
        ] {
            let raw: &RawValue = serde_json::from_str(data).unwrap();
            let shown = text(&entry(
                Data::Json(raw),
                &Marks {
                    channel: Some("c"),
                    ..Marks::default()
                },
            ));
            let id = "00000000-0000-0000-0000-000000000001";
            let head =
                format!(r#"{{"offset":7,"id":"{id}","at":1767225600123,"event":"e\"","data":"#);
            assert_eq!(shown, format!("{head}{data}}}"));
        }
    }

    #[test]
    fn bytes_are_shown_as_base64_and_a_sender_as_it_was() {
        let from = Sender {
            connection: "00000000000000000000000004".parse().unwrap(),
            user: None,
        };
        let marks = Marks {
            channel: Some("c"),
            from: Some(&from),
            id: None,
        };
        let shown = text(&entry(Data::Bytes(Cow::Borrowed(&[0, 255])), &marks));
        assert!(shown.ends_with(
            r#""data_base64":"AP8=","from":{"connection":"00000000000000000000000004","user":null}}"#
        ));
        assert!(!shown.contains("\"data\""), "{shown}");
    }

    #[test]
    fn a_page_has_one_event_at_least_and_no_more_than_fit() {
        let big = vec![0; PAGE_BYTES];
        let entry = |bytes: &[u8]| entry(Data::Bytes(Cow::Borrowed(bytes)), &Marks::default());
        let (small, big) = (entry(&[1]), entry(&big));
        assert_eq!(fitting(&[]).len(), 0);
        assert_eq!(fitting(&[big.clone(), small.clone()]).len(), 1);
        assert_eq!(
            fitting(&[small.clone(), small.clone(), big, small]).len(),
            2
        );
    }
}
