//! Renewals of the lease, one after another: when each is due, what the script returns, and what is taken over of it.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use ahash::AHashMap;
use bytes::Bytes;

use super::{Membership, Peer, PeerChanges, keys, millis};
use crate::{
    bus::{BusError, Script, Topic, jitter},
    id::NodeId,
    limits::{LEASE_AGAIN, ROSTER_OUTLIVES},
    node::cluster::leadership::{Renewed, Statement},
    protocol::envelope::VERSION,
};

static RENEW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../renew.lua")));

impl Membership {
    /// What keeps the lease; there is one at a time.
    pub(in crate::node::cluster) fn renewals(&self) -> Renewals<'_> {
        Renewals {
            membership: self,
            began: None,
            failures: 0,
            is_stated: false,
            known: Known::default(),
        }
    }
}

/// The renewals of a lease, one after another: what each hands to the next.
#[derive(Debug)]
pub(in crate::node::cluster) struct Renewals<'m> {
    membership: &'m Membership,
    /// When the last one began.
    began: Option<Instant>,
    /// How many have failed in sequence.
    failures: u32,
    /// Redis knows which apps this node serves.
    is_stated: bool,
    known: Known,
}

impl Renewals<'_> {
    /// Waits until the lease is to be renewed. False once it was given up.
    pub(in crate::node::cluster) async fn is_due(&mut self) -> bool {
        let membership = self.membership;
        let wait = self.began.map_or(Duration::ZERO, |began| {
            until_renewal(membership.lease, self.failures).saturating_sub(began.elapsed())
        });
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = membership.is_due.notified() => {}
        }
        // From before it is sent, so that a slow answer does not put off the next renewal.
        self.began = Some(Instant::now());
        !membership.has_left()
    }

    /// Renews the lease.
    pub(in crate::node::cluster) async fn renew(&self) -> RenewalAnswer {
        let membership = self.membership;
        let args = vec![
            membership.lease_name(),
            millis(membership.lease),
            millis(ROSTER_OUTLIVES),
            VERSION.to_string().into(),
            if self.is_stated {
                Bytes::new()
            } else {
                membership.apps_stated()
            },
            millis(membership.resume_window),
            self.known.digest.clone().into(),
        ];

        let since = self.known.since_renewed(Instant::now());
        let args = [args, since].concat();
        let bus = &membership.bus;
        let said = bus.eval(&RENEW, &Topic::Nodes, keys(bus), args).await;

        RenewalAnswer {
            said,
            ended: Instant::now(),
        }
    }

    /// Notes how that went. Returns the leases of all nodes, if Redis has them in a form that can be read.
    ///
    /// # Errors
    /// The lease was not renewed.
    pub(in crate::node::cluster) fn note(
        &mut self,
        RenewalAnswer { said, ended }: RenewalAnswer,
    ) -> Result<Option<Leases>, BusError> {
        let membership = self.membership;
        let began = self.began.unwrap_or(ended);
        let renewed = said.inspect_err(|error| {
            self.failures += 1;
            membership.renewal.failed(error, &membership.metrics);
        })?;

        self.failures = 0;
        membership.renewal.succeeded(began);
        let Ok(parts) = redis::from_redis_value(renewed) else {
            tracing::error!(
                "the nodes' leases in Redis cannot be read; does another program use their names?"
            );
            self.is_stated = true;
            return Ok(None);
        };

        Ok(Some(Leases::new(parts, began, ended)))
    }

    /// Takes over what a renewal has returned, and returns how the other nodes differ.
    pub(in crate::node::cluster) async fn take_over(&mut self, leases: Leases) -> PeerChanges {
        let (membership, known) = (self.membership, &mut self.known);
        let peers = &membership.peers;
        known.take_in(leases.digest, leases.held, leases.left, leases.stated);
        let Renewed { now, ended, .. } = leases.renewed;
        known.renewed = Some(LastRenewal {
            at: now,
            grace: leases.grace,
            ended,
        });

        let own = membership.node;
        let held = known.held.iter().map(|lease| read(lease));
        let stated = known.stated.iter().map(|text| Statement::read(text));

        let mut statements: AHashMap<NodeId, Statement> = held
            .zip(stated)
            .filter_map(|(peer, stated)| {
                Some((peer?.id, stated.unwrap_or_else(Statement::nothing)))
            })
            .collect();

        let learned = membership.learn_apps(&mut statements).await;
        if let Err(error) = &learned {
            tracing::debug!(%error, "which apps other nodes serve is not known yet");
        }

        if leases.leader != BY_APP {
            peers.lead.give_up();
        } else if learned.is_ok() && !membership.has_left() {
            membership.take_lead(&statements, leases.renewed);
        }

        for app in membership.apps.iter() {
            app.metrics.leader.set(peers.leads(app.id).into());
        }

        let version = statements.values().map(|stated| stated.version).min();
        membership.note_version(version.unwrap_or(VERSION).min(VERSION));
        statements.remove(&own);
        *peers.statements.lock() = statements;

        let mut others: Vec<Peer> = known.held.iter().filter_map(|lease| read(lease)).collect();
        others.retain(|peer| peer.id != own);
        let changes = membership.note_peers(others, &leases.dead, &known.left);
        self.is_stated = !leases.is_unstated;
        if !self.is_stated {
            // Redis has lost what this node states of itself, and the next renewal states it again.
            membership.renew_now();
        }

        changes
    }
}

/// What Redis has said of a renewal.
#[derive(Debug)]
pub(in crate::node::cluster) struct RenewalAnswer {
    said: Result<redis::Value, BusError>,
    /// When it had.
    ended: Instant,
}

/// What a renewal has returned; `renew.lua` says what each is.
#[derive(Debug)]
pub(in crate::node::cluster) struct Leases {
    leader: String,
    held: Vec<String>,
    dead: Vec<String>,
    /// This node's own lease was over, so that its members may have been reported as left.
    pub(in crate::node::cluster) is_lapsed: bool,
    left: Vec<String>,
    stated: Vec<String>,
    is_unstated: bool,
    digest: String,
    renewed: Renewed,
    /// Until when nobody is taken for dead.
    grace: u64,
}

impl Leases {
    fn new(parts: RenewalReply, began: Instant, ended: Instant) -> Self {
        let (leader, held, dead, is_lapsed, left, stated, now, is_unstated, digest, grace) = parts;
        Self {
            leader,
            held,
            dead,
            is_lapsed,
            left,
            stated,
            is_unstated,
            digest,
            renewed: Renewed { began, ended, now },
            grace,
        }
    }
}

/// What `renew.lua` returns, in its order.
type RenewalReply = (
    String,
    Vec<String>,
    Vec<String>,
    bool,
    Vec<String>,
    Vec<String>,
    u64,
    bool,
    String,
    u64,
);

/// What renewals have returned of the nodes, which the next one leaves out if it is the same.
#[derive(Debug, Default)]
struct Known {
    digest: String,
    held: Vec<String>,
    left: Vec<String>,
    stated: Vec<String>,
    renewed: Option<LastRenewal>,
}

/// The last renewal that has succeeded.
#[derive(Clone, Copy, Debug)]
struct LastRenewal {
    /// What Redis' clock showed, in ms.
    at: u64,
    /// Until when nobody was taken for dead.
    grace: u64,
    /// When it had ended here.
    ended: Instant,
}

impl Known {
    /// What Redis' clock showed at the last renewal, how many ms have passed since by the clock of this node, and until when nobody
    /// was taken for dead then. So the script sees whether the clock of Redis has jumped.
    fn since_renewed(&self, now: Instant) -> Vec<Bytes> {
        let since = |last: LastRenewal| {
            let passed = now.saturating_duration_since(last.ended);
            let [at, grace] = [last.at, last.grace].map(|time| time.to_string().into());
            vec![at, millis(passed), grace]
        };
        self.renewed.map(since).unwrap_or_default()
    }

    fn take_in(
        &mut self,
        digest: String,
        held: Vec<String>,
        left: Vec<String>,
        stated: Vec<String>,
    ) {
        if digest != self.digest {
            *self = Self {
                digest,
                held,
                left,
                stated,
                renewed: self.renewed,
            };
        }
    }
}

/// In place of the leader where no node of version 1 leads.
const BY_APP: &str = "by-app";

/// How long after the last renewal began the next is due: a fifth of the lease, and less after the first few that failed in
/// sequence.
fn until_renewal(lease: Duration, failures: u32) -> Duration {
    let every = lease / 5;
    if failures == 0 {
        return every;
    }
    let again = LEASE_AGAIN.saturating_mul(1 << (failures - 1).min(16));
    let again = again.min(every);
    // All nodes that Redis did not answer ask again.
    again / 2 + jitter(again / 2)
}

fn read(lease: &str) -> Option<Peer> {
    let (id, name) = lease.split_once(' ')?;
    Some(Peer {
        id: id.parse().ok()?,
        name: name.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_that_failed_is_tried_again_soon_and_then_less_often() {
        let lease = Duration::from_secs(5);
        let every = lease / 5;
        assert_eq!(until_renewal(lease, 0), every);
        for failures in 1..100 {
            let most = every.min(LEASE_AGAIN * (1 << (failures - 1).min(8)));
            let wait = until_renewal(lease, failures);
            assert!((most / 2..=most).contains(&wait), "{failures}: {wait:?}");
        }
        assert!(until_renewal(lease, 1) < every);
        assert!(until_renewal(lease, 50) >= every / 2);
    }
}
