//! What operators do with a data directory that no server has open.

use std::{io::Write, path::Path};

use ahash::AHashMap;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    database::{DataError, Fault, Survives, Tables},
    lives::Lives,
    record::{self, Due, EventKey, Name},
};
use crate::{config::DataSync, history::Epoch};

/// What a directory holds, and what is wrong with it.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Findings {
    /// Topics that have a numbering: channels and users.
    pub(crate) topics: u64,
    pub(crate) events: u64,
    /// Of the events as they are stored.
    pub(crate) bytes: u64,
    /// Revoked tokens and stored answers.
    pub(crate) facts: u64,
    /// In words; empty if all is well.
    pub(crate) problems: Vec<String>,
}

/// Most problems that are reported one by one.
const PROBLEMS_SHOWN: usize = 20;

impl Findings {
    fn problem(&mut self, problem: String) {
        if self.problems.len() < PROBLEMS_SHOWN {
            self.problems.push(problem);
        }
    }
}

fn damaged(path: &Path) -> impl Fn(Fault) -> DataError {
    |fault| DataError::of(path, fault)
}

/// Reads everything in the directory at `path`, and changes nothing.
///
/// # Errors
/// [`DataError`] if it cannot be opened or read.
pub(crate) fn check(path: &Path) -> Result<Findings, DataError> {
    let tables = Tables::open_existing(path)?;
    look_at_all(&tables).map_err(damaged(path))
}

fn look_at_all(tables: &Tables) -> Result<Findings, Fault> {
    let mut findings = Findings::default();
    // All of them, since events name theirs by a number, and come in another order.
    let mut topics = AHashMap::new();
    for guard in tables.topics.iter() {
        let (key, record) = guard.into_inner()?;
        findings.topics += 1;
        // It comes after the number of the app and the kind, as `Name::key` writes it.
        let name = String::from_utf8_lossy(key.get(5..).unwrap_or_default()).into_owned();
        match record::decode_log(&record) {
            Some(log) => drop(topics.insert(log.id, (log, key.get(4) == Some(&1), name))),
            None => findings.problem(format!("the record of \"{name}\" cannot be read")),
        }
    }

    for guard in tables.events.iter() {
        let (key, event) = guard.into_inner()?;
        findings.events += 1;
        findings.bytes += event.len() as u64;
        let Some(EventKey { topic, offset }) = EventKey::read(&key) else {
            findings.problem("an event has a key that cannot be read".to_owned());
            continue;
        };

        let Some((log, is_user, name)) = topics.get(&topic) else {
            findings.problem(format!(
                "an event belongs to topic {topic}, which is not there"
            ));
            continue;
        };

        if record::decode_event(offset, *is_user, &event).is_none() {
            findings.problem(format!("event {offset} of \"{name}\" cannot be read"));
        } else if offset > log.position.offset {
            findings.problem(format!("event {offset} of \"{name}\" is past its newest"));
        }
    }

    for guard in tables.due.iter() {
        if Due::read(&guard.key()?).is_none() {
            findings.problem("an entry of what is due cannot be read".to_owned());
        }
    }

    findings.facts = tables.facts.len()? as u64;
    Ok(findings)
}

/// Rewrites the files without what was removed, which gives its room back immediately.
///
/// # Errors
/// [`DataError`].
pub(crate) fn compact(path: &Path) -> Result<(), DataError> {
    let tables = Tables::open_existing(path)?;
    tables
        .compact()
        .map_err(|error| damaged(path)(error.into()))
}

/// Begins new epochs for all channels: for a copy or a backup, which may lack events that clients have seen.
///
/// # Errors
/// [`DataError`].
pub(crate) fn restore(path: &Path) -> Result<(), DataError> {
    let mut tables = Tables::open_existing(path)?;
    let began = (|| {
        let mut lives = Lives::begin(&mut tables, DataSync::Always)?;
        lives.restore(&mut tables);
        Lives::end(&mut tables);
        Ok(tables.commit(Survives::PowerLoss)?)
    })();
    began.map_err(damaged(path))
}

/// An event of a dump.
#[derive(Serialize)]
struct Dumped<'a> {
    app: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    epoch: String,
    offset: u64,
    id: uuid::Uuid,
    at_ms: u64,
    until_ms: u64,
    /// The event as clients get it, if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a RawValue>,
    /// Its bytes in base64, if it is binary.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
}

/// Writes each event as a line of JSON to `out`.
///
/// # Errors
/// [`DataError`]; one about `out` names the directory all the same.
pub(crate) fn dump(path: &Path, out: &mut impl Write) -> Result<(), DataError> {
    let tables = Tables::open_existing(path)?;
    let apps = tables.apps().map_err(|error| damaged(path)(error.into()))?;
    dump_all(&tables, &apps, out).map_err(damaged(path))
}

fn dump_all(
    tables: &Tables,
    apps: &AHashMap<u32, String>,
    out: &mut impl Write,
) -> Result<(), Fault> {
    for guard in tables.topics.iter() {
        let (key, record) = guard.into_inner()?;
        // A dump has what can be read. `check` says what cannot.
        let Some(log) = record::decode_log(&record) else {
            continue;
        };
        let Some(name) = Name::read(&key) else {
            continue;
        };

        let is_user = name.is_user;
        let app = apps.get(&name.app).map_or("", String::as_str);
        let range = record::event_key(log.id, 0)..=record::event_key(log.id, u64::MAX);
        for guard in tables.events.range(range) {
            let (key, event) = guard.into_inner()?;
            let offset = record::offset_of(&key).unwrap_or_default();
            let Some((entry, until_ms)) = record::decode_event(offset, is_user, &event) else {
                continue;
            };

            let payload = entry.frame.payload();
            let text = str::from_utf8(payload)
                .ok()
                .filter(|_| entry.frame.is_text());
            let line = Dumped {
                app,
                channel: (!is_user).then_some(&*name.text),
                user: is_user.then_some(&*name.text),
                epoch: Epoch::to_string(&log.position.epoch),
                offset,
                id: entry.id,
                at_ms: entry.at_ms,
                until_ms,
                event: text.and_then(|text| serde_json::from_str(text).ok()),

                bytes: text
                    .is_none()
                    .then(|| data_encoding::BASE64.encode(payload)),
            };

            let line = serde_json::to_string(&line).unwrap_or_default();
            writeln!(out, "{line}").map_err(|error| Fault::Io(error.to_string().into()))?;
        }
    }

    Ok(())
}
