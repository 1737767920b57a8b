//! What is on disk of each app: the sums, and the bounds on them.

use std::sync::Arc;

use ahash::AHashMap;

use super::{
    super::{Setup, database::Fault},
    Store,
};
use crate::{history::HistoryError, id::AppId, metrics::AppMetrics};

/// What is on disk of one app.
pub(super) struct Share {
    /// Its number there.
    pub(super) number: u32,
    pub(super) bytes: u64,
    pub(super) events: u64,
    /// The sums differ from those on disk.
    pub(super) is_changed: bool,
    /// Absent for an app that the configuration no longer names.
    pub(super) served: Option<(AppId, Arc<AppMetrics>)>,
    pub(super) quota: Option<u64>,
}

impl Store {
    /// Reads the numbers and sums of all apps on disk, and gives numbers to those that are new.
    pub(super) fn find_apps(&mut self, setup: &Setup) -> Result<(), Fault> {
        let mut served = AHashMap::new();
        for (at, app) in setup.apps.iter().enumerate() {
            served.insert(app.name.clone(), (AppId(at as u16), app.metrics.clone()));
        }

        let quota = |app: AppId| setup.apps[usize::from(app.0)].quota;
        self.served = vec![0; served.len()];
        for (number, name) in self.tables.apps()? {
            let sum = |what: &str| self.tables.number(format!("{what}:{number}"));
            let served = served.remove(&name);
            let share = Share {
                number,
                bytes: sum("bytes")?.unwrap_or_default(),
                events: sum("events")?.unwrap_or_default(),
                is_changed: false,
                quota: served.as_ref().and_then(|(app, _)| quota(*app)),
                served,
            };

            if let Some((app, _)) = share.served {
                self.served[usize::from(app.0)] = self.shares.len();
            }

            self.shares.push(share);
        }

        // Numbers are never used again, since records of an app that is no longer served have its
        // number.
        let numbers = self.shares.iter().map(|share| share.number + 1);
        let first = numbers.max().unwrap_or(0);
        for (number, (name, (app, metrics))) in (first..).zip(served) {
            self.tables
                .set_number(format!("app:{name}"), u64::from(number));
            self.served[usize::from(app.0)] = self.shares.len();
            self.shares.push(Share {
                number,
                bytes: 0,
                events: 0,
                is_changed: false,
                served: Some((app, metrics)),
                quota: quota(app),
            });
        }

        Ok(())
    }

    /// The number of an app on disk.
    pub(in crate::history::disk) fn number_of(&self, app: AppId) -> u32 {
        self.shares[self.served[usize::from(app.0)]].number
    }

    pub(super) fn share(&mut self, app: u32) -> Option<&mut Share> {
        self.shares.iter_mut().find(|share| share.number == app)
    }

    /// Adds to the sums of an app.
    pub(in crate::history::disk) fn add(&mut self, app: u32, bytes: i64, events: i64) {
        if let Some(share) = self.share(app) {
            share.bytes = share.bytes.saturating_add_signed(bytes);
            share.events = share.events.saturating_add_signed(events);
            share.is_changed = true;
        }
    }

    /// Makes sure that the app may store one more event.
    ///
    /// # Errors
    /// [`HistoryError::OverQuota`].
    pub(in crate::history::disk) fn check_quota(&self, app: AppId) -> Result<(), HistoryError> {
        let share = &self.shares[self.served[usize::from(app.0)]];
        let Some(quota) = share.quota.filter(|quota| share.bytes >= *quota) else {
            return Ok(());
        };
        if let Some((_, metrics)) = &share.served {
            metrics.storage_refused.inc();
        }
        Err(HistoryError::OverQuota {
            stored: share.bytes,
            quota,
        })
    }

    /// Whether more is stored than may be.
    pub(in crate::history::disk) fn is_over_bound(&self) -> bool {
        self.bytes() > self.max_bytes
    }

    pub(super) fn bytes(&self) -> u64 {
        self.shares.iter().map(|share| share.bytes).sum()
    }

    pub(super) fn show(&self) {
        let events: u64 = self.shares.iter().map(|share| share.events).sum();
        self.metrics.history_events.set(events as i64);
        self.metrics.history_bytes.set(self.bytes() as i64);
        for share in &self.shares {
            if let Some((_, metrics)) = &share.served {
                metrics.stored_bytes.set(share.bytes as i64);
            }
        }
    }
}
