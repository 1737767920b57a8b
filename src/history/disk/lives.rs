//! Which lives of the files there were, and what the end of each may have lost.
//!
//! ```text
//!            open                    close
//!  closed ----------> open (boot) ----------> closed       nothing is lost
//!                        |
//!                        | process killed, same boot        nothing is lost: the system has all that was answered
//!                        | power lost, sync = "always"      nothing is lost
//!                        v power lost, otherwise            a new life: offsets that were given out may be missing
//!                      open
//! ```
//!
//! A topic goes on from what is there at its first use in a new life. It does so in a new epoch, so that no offset of an
//! epoch is given to two events.

use std::fs;

use super::database::{Fault, Tables};
use crate::config::DataSync;

/// Says that the files were closed properly.
const CLOSED: &[u8] = b"closed";

/// The lives of the files.
#[derive(Debug)]
pub(super) struct Lives {
    /// The number of the present one.
    now: u32,
    /// The newest that a restored copy began: what was known before it says nothing of what is there.
    restored: u32,
}

impl Lives {
    /// Begins a life, or goes on with the last one if its end has lost nothing. Part of a group.
    pub(super) fn begin(tables: &mut Tables, sync: DataSync) -> Result<Self, Fault> {
        let number = |name: &str| tables.number(name);
        let mut lives = Self {
            now: number("life")?.unwrap_or_default() as u32,
            restored: number("restored")?.unwrap_or_default() as u32,
        };

        let boot = boot();
        let was = tables.meta.get("open")?;
        if let Some(was) = was
            && may_have_lost(&was, &boot)
        {
            lives.now += 1;
            tracing::warn!(
                "the data directory was not closed before the system's last end; what was stored in the last second or so \
                 before it may be missing, and channels go on in new epochs"
            );
            tables.set_number("life", u64::from(lives.now));
        }

        // How this life syncs decides what its end may lose, however the next one is configured.
        let mut open = vec![u8::from(sync == DataSync::Always)];
        open.extend(boot.as_bytes());
        let meta = tables.meta.clone();
        tables.insert(&meta, b"open", &open);

        Ok(lives)
    }

    /// Notes that the files are closed properly. Part of a group.
    pub(super) fn end(tables: &mut Tables) {
        let meta = tables.meta.clone();
        tables.insert(&meta, b"open", CLOSED);
    }

    /// Begins a life of a copy or a backup. Part of a group.
    pub(super) fn restore(&mut self, tables: &mut Tables) {
        self.now += 1;
        self.restored = self.now;
        tables.set_number("life", u64::from(self.now));
        tables.set_number("restored", u64::from(self.now));
    }

    /// The number of the present life.
    pub(super) fn generation(&self) -> u32 {
        self.now
    }

    /// Whether what was known in the life `generation` still says something; absent if that is the present life.
    pub(super) fn since(&self, generation: u32) -> Option<bool> {
        (generation < self.now).then_some(self.restored <= generation)
    }
}

/// Whether what was answered last may be missing: another boot followed without a proper end. `was` is what was noted
/// when the files were opened. Without a name, which a container may hide, one boot cannot be known from another.
fn may_have_lost(was: &[u8], boot: &str) -> bool {
    match was {
        CLOSED => false,
        [is_synced, was @ ..] => *is_synced == 0 && (was.is_empty() || was != boot.as_bytes()),
        [] => true,
    }
}

/// Names this run of the system; empty if that cannot be read.
fn boot() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    boot.unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_power_loss_without_syncing_loses_what_was_answered() {
        let open = |is_synced: u8, boot: &str| [&[is_synced], boot.as_bytes()].concat();
        assert!(!may_have_lost(CLOSED, "b"));
        assert!(!may_have_lost(&open(0, "b"), "b"), "the process was killed");
        assert!(!may_have_lost(&open(1, "a"), "b"));
        assert!(may_have_lost(&open(0, "a"), "b"));
        assert!(may_have_lost(&open(0, ""), ""), "nobody knows");
        assert!(!may_have_lost(&open(1, ""), ""));
        assert!(may_have_lost(&[], "b"));
    }
}
