//! Which node leads an app: it does for all nodes what only one may do.
//!
//! Of the living nodes that serve the app, it is the one that comes first by a hash of the app's name and its own id. Each node
//! computes that by itself, from what the renewal of its lease has returned. Still no two nodes lead an app at the same time:
//!
//! - What a renewal has returned counts for as long as the lease lasts from the moment at which the renewal was begun.
//! - A node whose lease is new leads from the moment at which all leases that were there before would have ended (`leads_from`).
//!   By then every other node knows of it, and stops at the same moment.
//! - A node whose lease is over has stopped by then, since its own last renewal counts no longer than that.
//!
//! - After an outage of Redis, or once its clock has jumped, nobody leads until all views from before count no longer. A node that
//!   renews says how much time has passed for it, so the script sees whether the clock has jumped (`renew.lua`).
//!
//! All moments are those of Redis' clock. A node takes them as later for itself and as earlier for others by the time that the
//! renewal took.
//!
//! Nodes of version 1 know only one leader for all apps, whose lease is the key `leader`. While one of them has it, no other node
//! leads. Nodes of later versions keep that key together once it is free.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::id::{AppId, NodeId};

/// What a node states of itself beside its lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Statement {
    /// The newest version of messages and records that it reads.
    pub(super) version: u8,
    /// When it leads at the earliest, by Redis' clock in ms.
    leads_from: u64,
    /// The apps that it serves, by their ids here; absent if that is not known.
    pub(super) apps: Option<Arc<[bool]>>,
}

impl Statement {
    /// Of a node that states nothing: one of version 1, which did not know of this.
    pub(super) fn nothing() -> Self {
        Self {
            version: 1,
            ..Self::default()
        }
    }

    /// Reads `<version> <leads from>`; nothing for anything else.
    pub(super) fn read(text: &str) -> Option<Self> {
        let (version, leads_from) = text.split_once(' ')?;
        Some(Self {
            version: version.parse().ok()?,
            leads_from: leads_from.parse().ok()?,
            apps: None,
        })
    }

    /// Whether it may serve `app`.
    pub(super) fn may_serve(&self, app: AppId) -> bool {
        let apps = self.apps.as_ref();
        apps.is_none_or(|apps| apps.get(usize::from(app.0)) == Some(&true))
    }

    fn wait(&self, now: u64) -> Duration {
        Duration::from_millis(self.leads_from.saturating_sub(now))
    }
}

/// When a renewal took place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Renewed {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    /// A moment of Redis' clock, in milliseconds.
    pub(super) now: u64,
}

/// When this node leads an app, as long as its view counts.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: Instant,
    to: Option<Instant>,
}

/// What this node knows of who leads.
#[derive(Debug, Default)]
struct View {
    until: Option<Instant>,
    /// By app; absent if another node leads it.
    spans: Vec<Option<Span>>,
}

/// The apps that this node leads.
#[derive(Debug, Default)]
pub(super) struct Leadership(Mutex<View>);

impl Leadership {
    /// Whether this node leads `app` now.
    pub(super) fn has(&self, app: AppId) -> bool {
        self.has_at(app, Instant::now())
    }

    fn has_at(&self, app: AppId, now: Instant) -> bool {
        let view = self.0.lock();
        let span = view.spans.get(usize::from(app.0)).copied().flatten();
        view.until.is_some_and(|until| now < until)
            && span.is_some_and(|span| span.from <= now && span.to.is_none_or(|to| now < to))
    }

    /// This node leads nothing from now on.
    pub(super) fn give_up(&self) {
        *self.0.lock() = View::default();
    }

    /// Takes over what a renewal has returned: the node itself as `own`, and all `others` with living leases of which it is known
    /// which apps they serve. `apps` are those of this node, in the order of their ids.
    pub(super) fn take<'a>(
        &self,
        apps: impl Iterator<Item = &'a str>,
        own: (NodeId, &Statement),
        others: &[(NodeId, &Statement)],
        renewed: Renewed,
        lease: Duration,
    ) {
        let Renewed { began, ended, now } = renewed;
        let from = ended + own.1.wait(now);
        let span = |(at, name): (usize, &str)| {
            let mut span = Span { from, to: None };
            let (app, own) = (AppId(at as u16), rank(name, own.0));
            for (node, statement) in others {
                if statement.may_serve(app) && rank(name, *node) > own {
                    // From `began`, where its own span counts from `ended`: none may overlap.
                    let to = began + statement.wait(now);
                    span.to = Some(span.to.map_or(to, |before| before.min(to)));
                }
            }
            span.to.is_none_or(|to| to > from).then_some(span)
        };

        let spans = apps.enumerate().map(span).collect();
        *self.0.lock() = View {
            // The time counts from the beginning: Redis may have renewed the lease at that moment,
            // and then it ends that early.
            until: Some(began + lease),
            spans,
        };
    }
}

/// By which of several nodes is to lead an app: the greatest is. The same on every node and in every version.
fn rank(app: &str, node: NodeId) -> (u64, NodeId) {
    // FNV-1a, and the last step of SplitMix64, without which nodes with similar ids would have similar ranks.
    let id = node.0.to_be_bytes();
    let bytes = app.bytes().chain([0]).chain(id);
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (hash ^ (hash >> 31), node)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(5);
    const NOW: u64 = 1_000_000;

    fn serving(apps: &[bool], leads_from: u64) -> Statement {
        Statement {
            version: 2,
            leads_from,
            apps: Some(apps.into()),
        }
    }

    /// Who of `nodes` leads each of `apps` at `at`, if all have renewed at `began`.
    fn leaders(
        apps: &[&str],
        nodes: &[(NodeId, Statement)],
        (began, at): (Instant, Instant),
    ) -> Vec<Vec<NodeId>> {
        let leads = |own: &(NodeId, Statement)| {
            let lead = Leadership::default();
            let others = nodes.iter().filter(|other| other.0 != own.0);
            let others: Vec<_> = others.map(|(id, statement)| (*id, statement)).collect();
            let renewed = Renewed {
                began,
                ended: began,
                now: NOW,
            };
            let own = (own.0, &own.1);
            lead.take(apps.iter().copied(), own, &others, renewed, LEASE);
            lead
        };
        let views: Vec<Leadership> = nodes.iter().map(leads).collect();
        let of = |app: usize| {
            let app = AppId(app as u16);
            let pairs = nodes.iter().zip(&views);
            pairs
                .filter(|((_, statement), lead)| statement.may_serve(app) && lead.has_at(app, at))
                .map(|((id, _), _)| *id)
                .collect()
        };
        (0..apps.len()).map(of).collect()
    }

    #[test]
    fn apps_are_spread_over_the_nodes_that_serve_them() {
        let names: Vec<String> = (0..300).map(|n| format!("app-{n}")).collect();
        let apps: Vec<&str> = names.iter().map(String::as_str).collect();
        // The third node serves only half of them.
        let half: Vec<bool> = (0..300).map(|n| n < 150).collect();
        let node = |id, apps: &[bool]| (NodeId(id), serving(apps, 0));
        let nodes = [node(1, &[true; 300]), node(2, &[true; 300]), node(3, &half)];
        let now = Instant::now();
        let leaders = leaders(&apps, &nodes, (now, now));
        assert!(leaders.iter().all(|leaders| leaders.len() == 1));
        let of = |node: u32| leaders.iter().filter(|of| of[0] == NodeId(node)).count();
        assert!(of(1) > 90 && of(2) > 90 && (30..75).contains(&of(3)));
        assert!(leaders[150..].iter().all(|leaders| leaders[0] != NodeId(3)));
    }

    #[test]
    fn a_new_node_takes_over_at_the_moment_at_which_the_others_stop() {
        let apps = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let all = [true; 8];
        let mut nodes = vec![
            (NodeId(1), serving(&all, 0)),
            (NodeId(2), serving(&all, NOW - 5)),
        ];
        let began = Instant::now();
        let before = leaders(&apps, &nodes, (began, began));
        nodes.push((NodeId(3), serving(&all, NOW + 3000)));
        let soon = began + Duration::from_millis(2999);
        assert_eq!(leaders(&apps, &nodes, (began, soon)), before);
        let then = leaders(&apps, &nodes, (began, began + Duration::from_secs(3)));
        assert!(then.iter().all(|leaders| leaders.len() == 1));
        assert!(then.iter().any(|leaders| leaders[0] == NodeId(3)));
        for (then, before) in then.iter().zip(&before) {
            assert!(then == before || then[0] == NodeId(3), "nothing else moves");
        }
        let over = leaders(&apps, &nodes, (began, began + LEASE));
        assert!(
            over.iter().all(Vec::is_empty),
            "an old view counts no longer"
        );
    }

    #[test]
    fn ranks_are_the_same_in_every_version() {
        let rank = |app: &str, node| rank(app, NodeId(node)).0;
        assert_eq!(rank("default", 1), RANK_OF_DEFAULT_ON_1);
        assert_ne!(rank("default", 1), rank("default", 2));
        assert_ne!(rank("default", 1), rank("other", 1));
    }

    /// Written down once: nodes that compute it differently would both lead.
    const RANK_OF_DEFAULT_ON_1: u64 = 17_577_869_007_147_232_488;

    #[test]
    fn statements_are_read() {
        let statement = Statement::read("2 1700000000123").unwrap();
        assert_eq!(
            (statement.version, statement.leads_from),
            (2, 1_700_000_000_123)
        );
        assert!(
            statement.may_serve(AppId(7)),
            "which apps it serves is not known"
        );
        for wrong in ["", "2", "2 ", "x 1", "300 1", "2 -1"] {
            assert_eq!(Statement::read(wrong), None, "{wrong}");
        }
    }
}
