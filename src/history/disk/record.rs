//! Topics and events as bytes on disk. Each begins with its version.

use std::sync::Arc;

use bytes::{Buf, BufMut};
use smol_str::SmolStr;

use super::log::{Log, Stub};
use crate::history::{Entry, Epoch, New, redis::record};

/// The first byte of a topic's record.
const TOPIC: u8 = 1;

/// The first byte of an event's record.
const EVENT: u8 = 1;

/// Names a topic on disk. Apps have numbers there, which outlive their places in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name {
    pub(super) app: u32,
    pub(super) is_user: bool,
    pub(super) text: SmolStr,
}

impl Name {
    /// Reads what [`Name::key`] wrote.
    pub(super) fn read(mut key: &[u8]) -> Option<Self> {
        Some(Self {
            app: key.try_get_u32().ok()?,
            is_user: key.try_get_u8().ok()? == 1,
            text: str::from_utf8(key).ok()?.into(),
        })
    }

    /// Its key among the topics.
    pub(super) fn key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(5 + self.text.len());
        key.put_u32(self.app);
        key.put_u8(self.is_user.into());
        key.put_slice(self.text.as_bytes());
        key
    }

    /// Its key among what is due in `minute`.
    pub(super) fn due_key(&self, minute: u32) -> Vec<u8> {
        due_key(self.app, minute, self.is_user.into(), self.text.as_bytes())
    }
}

/// A key of the table of what is due: kinds 0 and 1 are the topics of channels and users, the others facts.
pub(super) fn due_key(app: u32, minute: u32, kind: u8, name: &[u8]) -> Vec<u8> {
    // Numbers whose greatest byte comes first sort as their bytes: what is due is in order of
    // minutes.
    let mut key = Vec::with_capacity(9 + name.len());
    key.put_u32(app);
    key.put_u32(minute);
    key.put_u8(kind);
    key.put_slice(name);
    key
}

/// What is due, by a key of that table.
pub(super) struct Due<'a> {
    pub(super) app: u32,
    pub(super) minute: u32,
    pub(super) kind: u8,
    pub(super) name: &'a [u8],
}

impl<'a> Due<'a> {
    /// Reads what [`due_key`] wrote.
    pub(super) fn read(mut key: &'a [u8]) -> Option<Self> {
        Some(Self {
            app: key.try_get_u32().ok()?,
            minute: key.try_get_u32().ok()?,
            kind: key.try_get_u8().ok()?,
            name: key,
        })
    }

    /// The topic that is due; absent if it is a fact.
    pub(super) fn topic(&self) -> Option<Name> {
        Some(Name {
            app: self.app,
            is_user: match self.kind {
                0 => false,
                1 => true,
                _ => return None,
            },
            text: str::from_utf8(self.name).ok()?.into(),
        })
    }
}

/// The key of an event.
pub(super) fn event_key(topic: u64, offset: u64) -> [u8; 16] {
    // The events of a topic follow each other in the table, by their offsets.
    let mut key = [0; 16];
    key[..8].copy_from_slice(&topic.to_be_bytes());
    key[8..].copy_from_slice(&offset.to_be_bytes());
    key
}

/// What the key of an event says.
pub(super) struct EventKey {
    /// The [`Log::id`] of its topic.
    pub(super) topic: u64,
    pub(super) offset: u64,
}

impl EventKey {
    /// Reads what [`event_key`] wrote.
    pub(super) fn read(key: &[u8]) -> Option<Self> {
        let (topic, offset) = key.split_first_chunk::<8>()?;
        let offset = offset.try_into().ok()?;
        Some(Self {
            topic: u64::from_be_bytes(*topic),
            offset: u64::from_be_bytes(offset),
        })
    }
}

/// The offset in the key of an event.
pub(super) fn offset_of(key: &[u8]) -> Option<u64> {
    let (_, offset) = key.split_first_chunk::<8>()?;
    Some(u64::from_be_bytes(offset.try_into().ok()?))
}

/// A topic without its events.
pub(super) fn encode_log(log: &Log) -> Vec<u8> {
    let mut record = Vec::with_capacity(61);
    record.put_u8(TOPIC);
    record.put_u64(log.id);
    record.put_u64(log.position.epoch.number());
    record.put_u64(log.position.offset);
    record.put_u64(log.lost_to);
    record.put_u64(log.used_ms);
    record.put_u32(log.generation);

    // Last, as only the length of the record says whether it is there.
    if let Some(parent) = log.parent {
        record.put_u64(parent.epoch.number());
        record.put_u64(parent.offset);
    }

    record
}

/// Reads what [`encode_log`] wrote; `None` for anything else.
pub(super) fn decode_log(mut record: &[u8]) -> Option<Log> {
    if record.try_get_u8().ok()? != TOPIC {
        return None;
    }

    let id = record.try_get_u64().ok()?;
    let mut log = Log::new(id, Epoch::of(record.try_get_u64().ok()?), 0);
    log.position.offset = record.try_get_u64().ok()?;
    log.lost_to = record.try_get_u64().ok()?;
    log.used_ms = record.try_get_u64().ok()?;
    log.generation = record.try_get_u32().ok()?;

    if !record.is_empty() {
        log.parent = Some(crate::history::Position {
            epoch: Epoch::of(record.try_get_u64().ok()?),
            offset: record.try_get_u64().ok()?,
        });
    }

    Some(log)
}

/// An event: when it came and when it is past its time, whom it leaves out, its id and its frame without the offset.
pub(super) fn encode_event(new: &New, at_ms: u64, until_ms: u64) -> Vec<u8> {
    let omit = new.omit.as_deref().map(record::encode_omit);
    let omit = omit.unwrap_or_default();
    let frame = record::encode(new.id, &new.draft);
    let mut event = Vec::with_capacity(21 + omit.len() + frame.len());
    event.put_u8(EVENT);
    event.put_u64(at_ms);
    event.put_u64(until_ms);
    event.put_u32(omit.len() as u32);
    event.put_slice(&omit);
    event.put_slice(&frame);
    event
}

/// Reads what [`encode_event`] wrote, and says until when it is stored; `None` for anything else.
pub(super) fn decode_event(offset: u64, is_user: bool, event: &[u8]) -> Option<(Entry, u64)> {
    let mut rest = event;
    if rest.try_get_u8().ok()? != EVENT {
        return None;
    }

    let at_ms = rest.try_get_u64().ok()?;
    let until_ms = rest.try_get_u64().ok()?;
    let omit_len = rest.try_get_u32().ok()? as usize;
    let (omit, frame) = rest.split_at_checked(omit_len)?;

    let omit = match omit {
        [] => None,
        omit => Some(Arc::new(record::decode_omit(omit)?)),
    };

    let (id, draft) = record::decode(frame)?;
    let entry = Entry {
        offset,
        id,
        // Only in channels do clients see offsets.
        frame: draft.finish((!is_user).then_some(offset)),
        omit,
        at_ms,
    };

    Some((entry, until_ms))
}

/// What the store remembers of an event in memory; `None` if it cannot be read.
pub(super) fn decode_stub(offset: u64, is_user: bool, event: &[u8]) -> Option<Stub> {
    let (entry, until_ms) = decode_event(offset, is_user, event)?;
    Some(Stub::new(&entry, until_ms))
}
