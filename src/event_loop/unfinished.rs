//! Messages of clients that have begun and not ended: how long they may take, and how much memory all of them.
//! Bytes that came after a message that has yet to be done are counted in the same way.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    task::Waker,
    time::Instant,
};

use crate::limits::MESSAGE_TIME;

/// Why a message is not waited for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GivenUp {
    /// It took too long.
    Late,
    /// All unfinished messages together were too large, and it was the oldest.
    Crowded,
}

/// The unfinished messages of one shard's thread, the oldest first. Its length is bounded by the number of connections.
#[derive(Debug)]
pub(crate) struct Unfinished(Rc<Messages>);

#[derive(Debug)]
struct Messages {
    max_bytes: usize,
    bytes: Cell<usize>,
    next: Cell<u64>,
    by_age: RefCell<BTreeMap<u64, Rc<Message>>>,
}

#[derive(Debug)]
struct Message {
    began: Instant,
    bytes: Cell<usize>,
    given_up: Cell<Option<GivenUp>>,
    /// Wakes the session that it belongs to.
    waker: Waker,
}

/// One message that is still coming. Dropping it says that it is whole, or that its connection has gone.
#[derive(Debug)]
pub(crate) struct UnfinishedMessage(Box<Entry>);

#[derive(Debug)]
struct Entry {
    age: u64,
    message: Rc<Message>,
    all: Rc<Messages>,
}

impl Unfinished {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self(Rc::new(Messages {
            max_bytes,
            bytes: Cell::new(0),
            next: Cell::new(0),
            by_age: RefCell::default(),
        }))
    }

    /// Takes note of a message that has begun. Its session is woken by `waker` if it is given up.
    pub(crate) fn begin(&self, waker: &Waker) -> UnfinishedMessage {
        let all = self.0.clone();
        let age = all.next.get();
        all.next.set(age + 1);
        let message = Rc::new(Message {
            began: Instant::now(),
            bytes: Cell::new(0),
            given_up: Cell::new(None),
            waker: waker.clone(),
        });
        all.by_age.borrow_mut().insert(age, message.clone());
        UnfinishedMessage(Box::new(Entry { age, message, all }))
    }

    /// Whether so much is held that what can be finished should be.
    pub(crate) fn is_tight(&self) -> bool {
        self.0.bytes.get() > self.0.max_bytes / 2
    }

    /// Gives up what has taken too long at `now`.
    pub(super) fn expire(&self, now: Instant) {
        let is_late = |oldest: &Message| now.duration_since(oldest.began) >= MESSAGE_TIME;
        while self.0.give_up_oldest(GivenUp::Late, is_late) {}
    }
}

impl Messages {
    /// Gives up the oldest message, if there is one and `if_so`.
    fn give_up_oldest(&self, why: GivenUp, if_so: impl Fn(&Message) -> bool) -> bool {
        let mut by_age = self.by_age.borrow_mut();
        let Some(oldest) = by_age.first_entry().filter(|oldest| if_so(oldest.get())) else {
            return false;
        };
        let message = oldest.remove();
        drop(by_age);
        self.bytes.set(self.bytes.get() - message.bytes.take());
        message.given_up.set(Some(why));
        message.waker.wake_by_ref();
        true
    }
}

impl UnfinishedMessage {
    /// Notes how much memory the message takes now. Where all together take too much, the oldest is given up.
    pub(crate) fn holds(&self, bytes: usize) {
        let Entry { message, all, .. } = &*self.0;
        // Its bytes left the sum when it was given up.
        if message.given_up.get().is_some() {
            return;
        }
        let before = message.bytes.replace(bytes);
        all.bytes.set(all.bytes.get() - before + bytes);
        // The oldest may be this one.
        while all.bytes.get() > all.max_bytes && all.give_up_oldest(GivenUp::Crowded, |_| true) {}
    }

    /// Why it was given up, if it was.
    pub(crate) fn given_up(&self) -> Option<GivenUp> {
        self.0.message.given_up.get()
    }
}

impl Drop for UnfinishedMessage {
    fn drop(&mut self) {
        let Entry { age, message, all } = &*self.0;
        // Neither does anything for a message that was given up.
        all.bytes.set(all.bytes.get() - message.bytes.take());
        all.by_age.borrow_mut().remove(age);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_given_up_where_all_are_too_large() {
        let all = Unfinished::new(1000);
        let begin = |bytes| {
            let message = all.begin(Waker::noop());
            message.holds(bytes);
            message
        };
        let [slow, second] = [begin(300), begin(300)];
        drop(begin(400));
        assert_eq!(slow.given_up(), None, "what is whole takes nothing");
        let third = begin(400);
        third.holds(500);
        let given_up = [&slow, &second, &third].map(UnfinishedMessage::given_up);
        assert_eq!(given_up, [Some(GivenUp::Crowded), None, None]);

        slow.holds(5000);
        assert_eq!(second.given_up(), None, "what was given up does not count");
        drop((slow, second, third));
        assert_eq!(all.0.bytes.get(), 0);
        assert!(all.0.by_age.borrow().is_empty());
    }

    #[test]
    fn what_takes_too_long_is_given_up() {
        let all = Unfinished::new(1000);
        let message = all.begin(Waker::noop());
        message.holds(10);
        all.expire(Instant::now());
        assert_eq!(message.given_up(), None);
        all.expire(Instant::now() + MESSAGE_TIME);
        assert_eq!(message.given_up(), Some(GivenUp::Late));
        assert_eq!(all.0.bytes.get(), 0);
    }
}
