//! Which users' tokens are no longer good, and until when that has to be remembered.
//!
//! A token is stateless, so what makes it bad before its `exp` has to be remembered as long as such a token could be
//! presented.
//! All times are whole seconds since 1970.

use std::{
    collections::BTreeSet,
    ops::Bound,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use ahash::AHashMap;
use parking_lot::RwLock;
use smol_str::SmolStr;

use crate::{
    id::AppId,
    limits::{REVOCATIONS_AT_ONCE, TOKEN_LEEWAY},
};

/// The last time until which a revocation is stored: 35,000 years, in seconds that Redis' scripts count
/// exactly.
const LAST: u64 = 1 << 40;

/// What is said of one user's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Revocation {
    /// Tokens that were issued before this are refused, and those that do not say when.
    pub(crate) before: u64,
    /// When it is forgotten: tokens of its time have ended by then.
    pub(crate) until: u64,
}

impl Revocation {
    /// Revokes what was issued before `before`, where no token lives longer than `longest` seconds.
    pub(crate) fn new(before: u64, longest: u64) -> Self {
        let until = before
            .saturating_add(longest)
            .saturating_add(TOKEN_LEEWAY.as_secs());
        Self {
            before,
            until: until.min(LAST),
        }
    }

    /// Both together: what either refuses is refused, for as long as either says.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            before: self.before.max(other.before),
            until: self.until.max(other.until),
        }
    }
}

/// When a revocation ends, and whose it is.
pub(crate) type End = (u64, SmolStr);

/// A user, and what is said of its tokens.
pub(crate) type Revoked = (SmolStr, Revocation);

/// The revocations of all apps.
#[derive(Debug)]
pub(crate) struct Revocations {
    apps: Box<[RwLock<OfApp>]>,
    /// How many there are in all: while there is none, nothing is looked up.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct OfApp {
    users: AHashMap<SmolStr, Revocation>,
    /// The same by the end of each.
    ends: BTreeSet<End>,
}

/// An app has as many revocations as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the app has as many revocations as it may ({0}), and nothing was revoked; wait until some are over, or raise \
     limits.revocations"
)]
pub struct TooManyRevocations(usize);

impl Revocations {
    /// Returns the revocations of `apps` apps, without any yet.
    pub(crate) fn new(apps: usize) -> Self {
        Self {
            apps: (0..apps).map(|_| RwLock::default()).collect(),
            count: AtomicUsize::new(0),
        }
    }

    fn app(&self, app: AppId) -> &RwLock<OfApp> {
        &self.apps[usize::from(app.0)]
    }

    /// Whether a token of `user` that was issued at `issued_at` is refused at `now`.
    ///
    /// Costs one atomic load while nothing is revoked, else a look-up. May be called under a shard's lock.
    pub(crate) fn refuses(&self, app: AppId, user: &str, issued_at: Option<u64>, now: u64) -> bool {
        // A revocation is noted before connections are looked at under their shards' locks. A caller that holds such a
        // lock after that sees it through the lock itself, so the load needs no order of its own.
        if self.count.load(Relaxed) == 0 {
            return false;
        }
        let app = self.app(app).read();
        let revoked = app.users.get(user).filter(|revoked| now < revoked.until);
        revoked.is_some_and(|revoked| issued_at.is_none_or(|issued_at| issued_at < revoked.before))
    }

    /// The earliest time of issue at which a token of `user` is good.
    pub(crate) fn good_from(&self, app: AppId, user: &str) -> u64 {
        let app = self.app(app).read();
        app.users.get(user).map_or(0, |revoked| revoked.before)
    }

    /// What is said of `user`, if anything.
    pub(crate) fn of(&self, app: AppId, user: &str) -> Option<Revocation> {
        self.app(app).read().users.get(user).copied()
    }

    /// Whether there is room to revoke the tokens of `users`, where an app may have `most` revocations.
    ///
    /// # Errors
    /// [`TooManyRevocations`].
    pub(crate) fn check_room(
        &self,
        app: AppId,
        users: &[SmolStr],
        most: usize,
    ) -> Result<(), TooManyRevocations> {
        let app = self.app(app).read();
        let new = users.iter().filter(|user| !app.users.contains_key(*user));
        if app.users.len() + new.count() > most {
            return Err(TooManyRevocations(most));
        }
        Ok(())
    }

    /// Notes revocations, those of another node too, whether there is room or not: none that was accepted may be lost.
    pub(crate) fn note(&self, app: AppId, revoked: &[Revoked]) {
        // Many users may be revoked together. Between two chunks, connections get to look up
        // theirs.
        for some in revoked.chunks(REVOCATIONS_AT_ONCE) {
            let mut app = self.app(app).write();
            for (user, revocation) in some {
                let was = app.users.get(user).copied();
                let revocation = was.map_or(*revocation, |was| was.and(*revocation));
                if was == Some(revocation) {
                    continue;
                }
                match was {
                    Some(was) => drop(app.ends.remove(&(was.until, user.clone()))),
                    None => drop(self.count.fetch_add(1, Relaxed)),
                }
                app.ends.insert((revocation.until, user.clone()));
                app.users.insert(user.clone(), revocation);
            }
        }
    }

    /// Removes revocations that are over at `now`, at most [`REVOCATIONS_AT_ONCE`] of each app. Returns them.
    pub(crate) fn expire(&self, now: u64) -> Vec<(AppId, Revoked)> {
        let mut over = Vec::new();
        if self.count.load(Relaxed) == 0 {
            return over;
        }

        for (at, app) in self.apps.iter().enumerate() {
            let mut app = app.write();
            for _ in 0..REVOCATIONS_AT_ONCE {
                let Some(end) = app.ends.pop_first() else {
                    break;
                };
                if end.0 > now {
                    app.ends.insert(end);
                    break;
                }
                if let Some(revocation) = app.users.remove(&end.1) {
                    self.count.fetch_sub(1, Relaxed);
                    over.push((AppId(at as u16), (end.1, revocation)));
                }
            }
        }

        over
    }

    /// Up to [`REVOCATIONS_AT_ONCE`] revocations of `app` that end after `from`, in the order of their ends, and where the next
    /// ones begin. One that is prolonged in the meantime may come twice, and none is left out.
    pub(crate) fn page(&self, app: AppId, from: Option<&End>) -> (Vec<Revoked>, Option<End>) {
        let app = self.app(app).read();
        let from = from.map_or(Bound::Unbounded, Bound::Excluded);
        let ends = app.ends.range((from, Bound::Unbounded));
        let mut next = None;
        let mut page = Vec::new();
        for end in ends.take(REVOCATIONS_AT_ONCE) {
            let revocation = app.users.get(&end.1);
            page.extend(revocation.map(|revocation| (end.1.clone(), *revocation)));
            next = Some(end);
        }
        let next = next.filter(|_| page.len() == REVOCATIONS_AT_ONCE).cloned();
        (page, next)
    }

    /// All revocations of `app`.
    #[cfg(test)]
    pub(crate) fn all(&self, app: AppId) -> Vec<Revoked> {
        let (mut all, mut next) = self.page(app, None);
        while let Some(from) = next {
            let (page, rest) = self.page(app, Some(&from));
            all.extend(page);
            next = rest;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: AppId = AppId(1);
    const NOW: u64 = 1_800_000_000;

    fn revocations() -> Revocations {
        Revocations::new(2)
    }

    fn one(user: &str, before: u64, longest: u64) -> Revoked {
        (user.into(), Revocation::new(before, longest))
    }

    #[test]
    fn what_was_issued_before_is_refused_and_what_does_not_say_when() {
        let revoked = revocations();
        assert!(!revoked.refuses(APP, "ann", None, NOW));
        revoked.note(APP, &[one("ann", NOW, 100)]);
        for (issued_at, refused) in [
            (Some(NOW - 1), true),
            (Some(0), true),
            (None, true),
            (Some(NOW), false),
            (Some(NOW + 1), false),
        ] {
            let refuses = |app, user| revoked.refuses(app, user, issued_at, NOW);
            assert_eq!(refuses(APP, "ann"), refused, "{issued_at:?}");
            assert!(!refuses(APP, "bob") && !refuses(AppId(0), "ann"));
        }
        assert_eq!(revoked.good_from(APP, "ann"), NOW);
        assert_eq!(revoked.good_from(APP, "bob"), 0);
        assert_eq!(Revocation::new(NOW, u64::MAX).until, LAST);
    }

    #[test]
    fn the_stricter_of_two_holds_for_the_longer_time() {
        let revoked = revocations();
        revoked.note(APP, &[one("ann", NOW, 100)]);
        revoked.note(APP, &[one("ann", NOW - 50, 1000)]);
        let both = Revocation {
            before: NOW,
            until: NOW + 955,
        };
        assert_eq!(revoked.of(APP, "ann"), Some(both));

        // Noting it again changes nothing, and it counts once.
        revoked.note(APP, &[one("ann", NOW, 1)]);
        assert_eq!(revoked.all(APP), [("ann".into(), both)]);
        assert_eq!(revoked.expire(NOW + 955).len(), 1);
        assert!(!revoked.refuses(APP, "ann", None, NOW));
        assert_eq!(revoked.count.load(Relaxed), 0);
    }

    #[test]
    fn it_is_forgotten_when_it_is_over_and_refuses_nothing_from_then_on() {
        let revoked = revocations();
        revoked.note(APP, &[one("ann", NOW, 100), one("bob", NOW, 200)]);
        assert_eq!(revoked.expire(NOW + 104), []);
        assert!(revoked.refuses(APP, "ann", None, NOW + 104));
        assert!(
            !revoked.refuses(APP, "ann", None, NOW + 105),
            "not yet removed"
        );
        assert_eq!(revoked.expire(NOW + 105), [(APP, one("ann", NOW, 100))]);
        assert!(revoked.refuses(APP, "bob", None, NOW + 105));
        assert_eq!(revoked.expire(u64::MAX).len(), 1);
        assert!(revoked.all(APP).is_empty() && revoked.app(APP).read().ends.is_empty());
    }

    #[test]
    fn many_that_are_over_are_removed_bit_by_bit() {
        let revoked = revocations();
        let all: Vec<Revoked> = (0..3 * REVOCATIONS_AT_ONCE)
            .map(|n| one(&n.to_string(), NOW, n as u64))
            .collect();
        revoked.note(APP, &all);
        let removed = |_| revoked.expire(u64::MAX - 1).len();
        let removed: Vec<usize> = (0..4).map(removed).collect();
        assert_eq!(
            removed,
            [
                REVOCATIONS_AT_ONCE,
                REVOCATIONS_AT_ONCE,
                REVOCATIONS_AT_ONCE,
                0
            ]
        );
    }

    #[test]
    fn all_are_read_bit_by_bit_and_none_is_left_out() {
        let revoked = revocations();
        assert_eq!(revoked.page(APP, None), (Vec::new(), None));
        let count = 2 * REVOCATIONS_AT_ONCE;
        let all: Vec<Revoked> = (0..count)
            .map(|n| one(&n.to_string(), NOW, (n % 7) as u64))
            .collect();
        revoked.note(APP, &all);

        let (first, next) = revoked.page(APP, None);
        assert_eq!(first.len(), REVOCATIONS_AT_ONCE);
        // One that was read, and one that was not, are made for longer.
        let longer = [first[0].0.clone(), next.clone().unwrap().1];
        revoked.note(APP, &longer.map(|user| (user, Revocation::new(NOW, 100))));
        let mut seen: BTreeSet<SmolStr> = first.into_iter().map(|(user, _)| user).collect();
        let mut next = next;
        while let Some(from) = next {
            let (page, rest) = revoked.page(APP, Some(&from));
            assert!(page.len() <= REVOCATIONS_AT_ONCE);
            seen.extend(page.into_iter().map(|(user, _)| user));
            next = rest;
        }
        assert_eq!(seen.len(), count);
        assert_eq!(revoked.all(APP).len(), count);
    }

    #[test]
    fn an_app_that_is_full_refuses_new_users_and_no_known_one() {
        let revoked = revocations();
        let room = |app, users: &[&str]| {
            let users: Vec<SmolStr> = users.iter().map(|&user| user.into()).collect();
            revoked.check_room(app, &users, 2).is_ok()
        };
        revoked.note(APP, &[one("ann", NOW, 100)]);
        assert!(room(APP, &["bob"]) && room(APP, &["ann", "bob"]));
        assert!(!room(APP, &["bob", "eve"]));
        revoked.note(APP, &[one("bob", NOW, 200)]);
        assert!(room(APP, &["ann", "bob"]) && !room(APP, &["eve"]));
        assert!(
            room(AppId(0), &["eve", "dan"]),
            "another app has room of its own"
        );

        // What another node accepted is noted all the same.
        revoked.note(APP, &[one("eve", NOW, 300)]);
        assert!(revoked.refuses(APP, "eve", None, NOW));
    }
}
