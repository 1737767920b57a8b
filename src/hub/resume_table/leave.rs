//! Lost connections on their way out of a channel.

use super::Left;
use crate::{
    filter::{Judged, Verdict},
    hub::{
        connection::{Connection, Snapshot},
        scan::Spent,
    },
};

/// Lost connections on their way out of a channel.
pub(super) struct Leave<'l, M, L> {
    pub(super) channel: &'l str,
    pub(super) is_meant: M,
    pub(super) left: L,
    /// How many were taken out.
    pub(super) count: u64,
}

impl<M: Fn(&Connection) -> Judged, L: FnMut(&Snapshot)> Leave<'_, M, L> {
    /// Takes out those of `some` who are meant, and lets others work then.
    pub(super) async fn take_out(
        &mut self,
        some: Vec<Snapshot>,
        take_out: impl Fn(&Snapshot) -> Left,
    ) {
        let mut spent = Spent::default();
        for mut lost in some {
            while lost.is_in(self.channel) {
                let Judged { verdict, work } = (self.is_meant)(&lost);
                if spent.add(work) {
                    // The rest waits until others of the thread have worked.
                    tokio::task::yield_now().await;
                    spent = Spent::default();
                }

                if verdict != Verdict::Match {
                    break;
                }

                match take_out(&lost) {
                    Left::Done => {
                        (self.left)(&lost);
                        self.count += 1;
                        break;
                    }
                    Left::Changed(now) => lost = now,
                    Left::Gone => break,
                }
            }
        }

        tokio::task::yield_now().await;
    }
}
