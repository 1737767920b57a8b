//! How many bytes of events each app stores, over all topics.
//!
//! Every script adds what it stores to a hash of the app, and takes off what it removes. The fields of the hash are moments: what
//! is past its time by then counts no longer, whether or not Redis was asked to remove it. So what a key takes along that
//! expires, or that Redis evicts, is counted until its time is over, and no longer.
//!
//! What is stored beside the history counts as well: the messages of Mesa's programs, by the memory that Redis needs for them.
//!
//! Each node reads these sums now and then ([`QUOTA_LOOK`](crate::limits::QUOTA_LOOK)), and refuses by what it has read. What it refuses costs Redis nothing.

use std::{
    str,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use redis::Value;

use super::reply;
use crate::{
    bus::{self, Bus, Script},
    history::HistoryError,
    id::AppId,
};

/// What the hash of an app is called.
pub(super) const STORED: &str = "kept";

/// Sums the bytes that are not past their time, and removes the others.
static SUM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME')
         local now, sum, last = time[1] * 1000 + math.floor(time[2] / 1000), 0, 0
         local fields = redis.call('HGETALL', KEYS[1])
         for at = 1, #fields, 2 do
           local moment = tonumber(fields[at])
           if moment <= now then
             redis.call('HDEL', KEYS[1], fields[at])
           else
             -- Fewer than none, where events were removed that no node has counted.
             sum, last = sum + math.max(tonumber(fields[at + 1]), 0), math.max(last, moment)
           end
         end
         if last > 0 then
           redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', last))
         end
         return string.format('%.0f', sum)",
    )
});

/// The quotas of all apps, by `AppId`.
#[derive(Debug)]
pub(super) struct Quotas(Vec<Option<Quota>>);

#[derive(Debug)]
struct Quota {
    most: u64,
    /// What the app had stored when this node looked last.
    stored: AtomicU64,
    /// What of that is stored beside the history.
    beside: AtomicU64,
    /// Where its sums are, each with what was read last.
    parts: Mutex<Vec<(bus::Topic, u64)>>,
}

impl Quotas {
    pub(super) fn new(bus: &Arc<Bus>, quotas: &[Option<usize>]) -> Self {
        let of = |(at, most): (usize, &Option<usize>)| {
            let homes = || bus.app_homes(AppId(at as u16)).into_iter();
            most.map(|most| Quota {
                most: most as u64,
                stored: AtomicU64::new(0),
                beside: AtomicU64::new(0),
                parts: Mutex::new(homes().map(|home| (home, 0)).collect()),
            })
        };
        Self(quotas.iter().enumerate().map(of).collect())
    }

    fn of(&self, app: AppId) -> Option<&Quota> {
        self.0.get(usize::from(app.0))?.as_ref()
    }

    /// Whether the bytes of an app are counted.
    pub(super) fn has(&self, app: AppId) -> bool {
        self.of(app).is_some()
    }

    /// Whether an app may store more.
    pub(super) fn check(&self, app: AppId) -> Result<(), HistoryError> {
        let Some(quota) = self.of(app) else {
            return Ok(());
        };
        // As of the last look: an app may go over by what it stores until the next one.
        let stored = quota.stored.load(Relaxed);
        if stored < quota.most {
            return Ok(());
        }
        Err(HistoryError::OverQuota {
            stored,
            quota: quota.most,
        })
    }

    /// Notes what is stored for an app beside the history. It counts from the next look on.
    pub(super) fn note_beside(&self, app: AppId, bytes: u64) {
        if let Some(quota) = self.of(app) {
            quota.beside.store(bytes, Relaxed);
        }
    }

    /// What each app that has a quota stores.
    pub(super) fn all(&self) -> impl Iterator<Item = (AppId, u64)> {
        let quotas = self.0.iter().enumerate();
        quotas.filter_map(|(at, quota)| {
            let stored = quota.as_ref()?.stored.load(Relaxed);
            Some((AppId(at as u16), stored))
        })
    }

    /// Reads all sums. One that cannot be read now is taken to be what it was.
    pub(super) async fn look(&self, bus: &Bus) -> Result<(), HistoryError> {
        let mut failed = Ok(());
        for (at, quota) in self.0.iter().enumerate() {
            let Some(quota) = quota else { continue };
            // It is a copy, since the lock must not be held over an await.
            let homes: Vec<_> = quota
                .parts
                .lock()
                .iter()
                .map(|part| part.0.clone())
                .collect();

            // All are sent before the first answer is waited for.
            let sums: Vec<_> = homes
                .iter()
                .map(|home| {
                    let key = bus.app_key(home, AppId(at as u16), STORED);
                    bus.eval(&SUM, home, vec![key], Vec::new())
                })
                .collect();

            for (part, sum) in sums.into_iter().enumerate() {
                match sum.await.map_err(HistoryError::from).and_then(read) {
                    Ok(sum) => quota.parts.lock()[part].1 = sum,
                    Err(error) => failed = Err(error),
                }
            }

            let sum: u64 = quota.parts.lock().iter().map(|part| part.1).sum();
            let beside = quota.beside.load(Relaxed);
            quota.stored.store(sum.saturating_add(beside), Relaxed);
        }

        failed
    }
}

fn read(sum: Value) -> Result<u64, HistoryError> {
    match sum {
        Value::BulkString(digits) => str::from_utf8(&digits)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(reply::malformed),
        _ => Err(reply::malformed()),
    }
}

#[cfg(test)]
mod tests {
    use crate::limits::HISTORY_EVENT_BYTES;

    #[test]
    fn scripts_count_an_event_as_nodes_do() {
        let line = format!("local ALLOWANCE = {HISTORY_EVENT_BYTES}\n");
        assert!(include_str!("base.lua").contains(&line));
    }
}
