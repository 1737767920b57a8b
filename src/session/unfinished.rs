//! The memory of messages that have begun and not ended, and of what waits for an operation.

use std::task::Waker;

use super::{Ending, Session};
use crate::{
    close,
    event_loop::{GivenUp, UnfinishedMessage},
    limits::MESSAGE_TIME,
    protocol::decoder::{Decoder, Role},
};

impl Session {
    /// Notes what waits for an operation.
    pub(super) fn note_held(&mut self, waker: &Waker) {
        if let Some(pending) = &mut self.pending
            && pending.operation.is_some()
            && pending.rest.capacity() > 0
        {
            let held = self.client.event_loop.held();
            let held = pending.held.get_or_insert_with(|| held.begin(waker));
            held.holds(pending.rest.capacity());
        }
    }

    /// Notes whether a message has begun and not ended, what it takes, and what waits for an operation.
    pub(super) fn note_unfinished(&mut self, waker: &Waker) {
        self.note_held(waker);
        let held = self.held_by_dialect();
        let is_mid_message = self.decoder.is_mid_message() || held > 0;
        if !is_mid_message || self.ending != Ending::No {
            self.unfinished = None;
            return;
        }
        let unfinished = self
            .unfinished
            .get_or_insert_with(|| self.client.event_loop.unfinished().begin(waker));
        unfinished.holds(self.decoder.held() + held);
    }

    /// Closes a client whose message is not waited for any longer.
    pub(super) fn look_at_unfinished(&mut self) {
        let held = self
            .pending
            .as_ref()
            .and_then(|pending| pending.held.as_ref());
        let given_up = self
            .unfinished
            .iter()
            .chain(held)
            .find_map(UnfinishedMessage::given_up);

        let Some(why) = given_up else { return };
        self.unfinished = None;

        // With it goes what waited after it.
        self.pending = None;
        // The part of the message that came is freed now. Its rest would be taken for frames: only the end of the
        // socket counts.
        self.decoder = Decoder::new(Role::Server, 0);
        if let Some(foreign) = &mut self.foreign {
            foreign.dialect.lose_part();
        }

        self.ending = Ending::Unheard;
        let (reason, message) = match why {
            GivenUp::Late => (
                "unfinished_late",
                format!("a message did not end within {} s", MESSAGE_TIME.as_secs()),
            ),
            GivenUp::Crowded => (
                "unfinished_crowded",
                "too many messages begin and do not end, or wait for what came before them"
                    .to_owned(),
            ),
        };

        self.client.app().metrics.client_refused(reason);
        self.client.close_for_now(close::OVER_LIMIT, &message);
        self.wait_for_reset();
    }
}
