//! What scripts answer, as types.

use std::{str, sync::Arc, vec};

use bytes::Bytes;
use redis::Value;

use super::record;
use crate::history::{Entry, Epoch, HistoryError, Position};

/// What every script says of its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Absent where no numbering is known, although something is stored.
    pub(super) epoch: Option<Epoch>,
    /// When the numbering began; greater for a later one.
    pub(super) born: u64,
    pub(super) newest: u64,
    /// Events that were removed as past their time.
    pub(super) expired: u64,
    /// Events that were removed for bounds, or lost otherwise.
    pub(super) over: u64,
}

/// Where a run of appends ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// In the numbering that the node had seen; nothing was removed.
    Quick(Position),
    Full(Head),
}

/// Events as they were read.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// Oldest first.
    pub(super) read: Vec<Entry>,
    /// How many were skipped, for not being understood.
    pub(super) unreadable: u64,
    /// Offset of the last one looked at.
    pub(super) last: u64,
    /// Whether there were more than asked for.
    pub(super) more: bool,
}

/// An event that leaves somebody out.
#[derive(Debug)]
pub(super) struct Withheld {
    /// Its id in the stream.
    pub(super) id: Bytes,
    pub(super) omit: Vec<u8>,
}

/// The parts of an answer, taken in their order.
#[derive(Debug)]
pub(super) struct Reply(vec::IntoIter<Value>);

/// What an append is answered.
#[derive(Debug)]
pub(super) struct AppendedRun {
    /// Where its run ended.
    pub(super) ended: Ended,
    /// How many events of the run came after it.
    pub(super) after: u64,
}

/// Reads what an append is answered.
pub(super) fn run(answer: Value) -> Result<AppendedRun, HistoryError> {
    let Value::Array(mut parts) = answer else {
        return Err(malformed());
    };

    let after = number(parts.pop())?;
    // The short answer of `quick.lua` has only these.
    if parts.len() == 2 {
        let newest = number(parts.pop())?;
        let epoch = bytes(parts.pop())?.try_into().map_err(|_| malformed())?;
        let epoch = Epoch::from_bytes(epoch);
        let ended = Ended::Quick(Position {
            epoch,
            offset: newest,
        });
        return Ok(AppendedRun { ended, after });
    }

    // The long one is a head as other scripts give it, but not in a list of its own.
    let mut reply = Reply::new(Value::Array(vec![Value::Array(parts)]))?;
    let ended = Ended::Full(reply.head()?.ok_or_else(malformed)?);
    Ok(AppendedRun { ended, after })
}

/// The answer is not one that a script of this version gives.
pub(super) fn malformed() -> HistoryError {
    HistoryError::Refused("its answer is not understood".into())
}

fn array(value: Option<Value>) -> Result<vec::IntoIter<Value>, HistoryError> {
    match value {
        Some(Value::Array(parts)) => Ok(parts.into_iter()),
        _ => Err(malformed()),
    }
}

fn number(value: Option<Value>) -> Result<u64, HistoryError> {
    let number = match value {
        Some(Value::Int(number)) => u64::try_from(number).ok(),
        // Scripts return what they have computed as a number, and what a hash has as a text.
        Some(Value::BulkString(digits)) => str::from_utf8(&digits)
            .ok()
            .and_then(|text| text.parse().ok()),
        _ => None,
    };
    number.ok_or_else(malformed)
}

fn bytes(value: Option<Value>) -> Result<Vec<u8>, HistoryError> {
    match value {
        Some(Value::BulkString(bytes)) => Ok(bytes),
        _ => Err(malformed()),
    }
}

impl Reply {
    pub(super) fn new(value: Value) -> Result<Self, HistoryError> {
        array(Some(value)).map(Self)
    }

    /// None where nothing is known of the topic.
    pub(super) fn head(&mut self) -> Result<Option<Head>, HistoryError> {
        let Some(head) = self.0.next() else {
            return Ok(None);
        };

        let mut parts = array(Some(head))?;
        let epoch = match parts.next() {
            // Lua's `false` is nil in RESP2, and a boolean in RESP3.
            Some(Value::Nil | Value::Boolean(false)) => None,
            epoch => Some(Epoch::from_bytes(
                bytes(epoch)?.try_into().map_err(|_| malformed())?,
            )),
        };

        let mut next = || number(parts.next());
        Ok(Some(Head {
            epoch,
            born: next()?,
            newest: next()?,
            expired: next()?,
            over: next()?,
        }))
    }

    /// All events; none where nothing is known of the topic.
    pub(super) fn entries(&mut self, is_channel: bool) -> Result<Entries, HistoryError> {
        self.entries_up_to(usize::MAX, is_channel)
    }

    /// The first `limit` events.
    pub(super) fn entries_up_to(
        &mut self,
        limit: usize,
        is_channel: bool,
    ) -> Result<Entries, HistoryError> {
        let mut entries = Entries::default();
        let Some(all) = self.0.next() else {
            return Ok(entries);
        };

        let all = array(Some(all))?;
        entries.more = all.len() > limit;
        for one in all.take(limit) {
            let mut parts = array(Some(one))?;
            entries.last = offset(&bytes(parts.next())?)?;
            match entry(entries.last, array(parts.next())?, is_channel) {
                Some(entry) => entries.read.push(entry),
                None => entries.unreadable += 1,
            }
        }

        Ok(entries)
    }

    /// A yes or no.
    pub(super) fn flag(&mut self) -> Result<bool, HistoryError> {
        number(self.0.next()).map(|flag| flag == 1)
    }

    pub(super) fn number(&mut self) -> Result<u64, HistoryError> {
        number(self.0.next())
    }

    pub(super) fn withheld(&mut self) -> Result<Vec<Withheld>, HistoryError> {
        array(self.0.next())?.map(Withheld::new).collect()
    }
}

impl Withheld {
    fn new(value: Value) -> Result<Self, HistoryError> {
        let mut parts = array(Some(value))?;
        let id = bytes(parts.next())?.into();
        Ok(Self {
            id,
            omit: bytes(parts.next())?,
        })
    }
}

/// The offset in an id of a stream.
fn offset(id: &[u8]) -> Result<u64, HistoryError> {
    // An id of a stream is two numbers with a hyphen. The scripts use only the first.
    let digits = id.split(|byte| *byte == b'-').next().unwrap_or_default();
    str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(malformed)
}

/// An event by its fields, which topic.lua lists; `None` if it cannot be read.
fn entry(offset: u64, mut fields: vec::IntoIter<Value>, is_channel: bool) -> Option<Entry> {
    // `nth` also takes what precedes, so each place counts from the one before.
    let mut field = |at: usize| fields.nth(at);
    let at_ms = number(field(1)).ok()?;
    let (id, draft) = record::decode(&bytes(field(5)).ok()?)?;

    let omit = match field(1) {
        None => None,
        // An event is skipped whose exceptions cannot be read: it could reach someone whom it
        // leaves out.
        Some(omit) => Some(Arc::new(record::decode_omit(&bytes(Some(omit)).ok()?)?)),
    };

    let frame = draft.finish(is_channel.then_some(offset));
    Some(Entry {
        offset,
        id,
        frame,
        omit,
        at_ms,
    })
}
