//! What an attack is, and all of them.

use super::{arms::Arms, attacks};
use crate::error::Result;

/// A mebibyte.
pub(super) const MIB: u64 = 1024 * 1024;

/// Bytes that an attack may add to the server's memory, and why so many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    pub(super) bytes: u64,
    pub(super) why: &'static str,
}

/// One way to harm a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attack {
    /// Its name on the command line.
    pub(super) name: &'static str,
    /// What it does.
    pub(super) does: &'static str,
    /// What it tries to step over.
    pub(super) against: &'static str,
    /// Limits of the server that differ from the defaults, as the configuration file has them.
    pub(super) limits: &'static [(&'static str, &'static str)],
    /// How many files the server may open, where that is less than usual.
    pub(super) descriptors: Option<u32>,
    /// Whether nobody reads what the server logs.
    pub(super) is_log_unread: bool,
    /// Whether it makes the server leave. Then clients are sent away, and all must be over in time.
    pub(super) drains: bool,
    /// Why new clients may be turned away meanwhile, where a bound says so.
    pub(super) keeps_out: Option<&'static str>,
    /// What it may add at most.
    pub(super) peak: Allowance,
    /// What may be left of that when it is over and its connections are gone.
    pub(super) after: Allowance,
    /// Its body, which runs in a process of its own.
    pub(super) body: fn(&Arms) -> Result<()>,
}

impl Attack {
    /// What most attacks have.
    pub(super) const PLAIN: Self = Self {
        name: "",
        does: "",
        against: "",
        limits: &[],
        descriptors: None,
        is_log_unread: false,
        drains: false,
        keeps_out: None,
        peak: Allowance {
            bytes: 48 * MIB,
            why: "requests and answers under way, and pages that the allocator has not given back yet",
        },
        after: Allowance {
            bytes: 24 * MIB,
            why: "nothing is kept, but pages that the allocator shares with what is in use",
        },
        body: |_| Ok(()),
    };
}

/// Every attack, in the order of the page.
pub(super) fn all() -> Vec<Attack> {
    [
        attacks::FILTERS,
        attacks::BODIES,
        attacks::KEPT,
        attacks::SESSIONS,
        attacks::SOCKETS,
        attacks::PROTOCOLS,
        attacks::POLLING,
        attacks::ENDINGS,
        attacks::OPERATORS,
    ]
    .concat()
}

/// The attack of this name.
pub(super) fn named(name: &str) -> Option<Attack> {
    all().into_iter().find(|attack| attack.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_attack_has_a_name_of_its_own_and_says_what_it_is() {
        let all = all();
        let names: BTreeSet<_> = all.iter().map(|attack| attack.name).collect();
        assert_eq!(names.len(), all.len(), "a name is there twice");
        assert!(names.len() >= 40);
        for attack in all {
            let name = attack.name;
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
                "{name}"
            );
            assert!(
                attack.does.len() > 20 && attack.against.len() > 10,
                "{name}"
            );
            assert!(
                !attack.does.ends_with('.') && !attack.against.ends_with('.'),
                "{name}"
            );
            assert!(
                attack.after.bytes <= attack.peak.bytes,
                "{name} leaves more than it takes"
            );
        }
    }
}
