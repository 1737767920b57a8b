//! The events of one moment, which are copied while others are written.

use super::{
    super::{
        database::Fault,
        record::{self, event_key},
    },
    Store, TopicOnDisk,
};
use crate::history::{Entry, Run};

/// The events of one moment.
pub(in crate::history::disk) struct Snapshot {
    events: fjall::Keyspace,
    snapshot: fjall::Snapshot,
}

impl Snapshot {
    /// Adds up to `most` events of `run` of a topic, which then begins after them; true if there may be more.
    pub(in crate::history::disk) fn copy(
        &self,
        TopicOnDisk { id, is_user }: TopicOnDisk,
        run: &mut Run,
        most: usize,
        to: &mut Vec<Entry>,
    ) -> Result<bool, Fault> {
        use fjall::Readable as _;
        if run.after >= run.end {
            return Ok(false);
        }

        let range = event_key(id, run.after + 1)..=event_key(id, run.end);
        let mut count = 0;
        for guard in self.snapshot.range(&self.events, range).take(most) {
            let (key, event) = guard.into_inner()?;
            let offset = record::offset_of(&key).unwrap_or_default();
            let Some((entry, _)) = record::decode_event(offset, is_user, &event) else {
                return Err(Fault::Damage("an event's record cannot be read".into()));
            };
            run.after = offset;
            to.push(entry);
            count += 1;
        }

        Ok(count == most)
    }
}

impl Store {
    /// What was committed by now, for reading.
    pub(in crate::history::disk) fn snapshot(&self) -> Snapshot {
        Snapshot {
            events: self.tables.events.clone(),
            snapshot: self.tables.snapshot(),
        }
    }
}
