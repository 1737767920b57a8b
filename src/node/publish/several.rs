//! Several publications of one call: admitted together, and carried out one after another.

use std::sync::Arc;

use uuid::Uuid;

use super::{Admitted, Prepared, Publication, run_detached};
use crate::{
    hub::Reach,
    id::AppId,
    log_limit::Line,
    node::{Node, NodeError, Receipt},
    time_slice::TimeSlice,
};

impl Node {
    /// Delivers several publications of one call, one after another, or none: all are admitted before the first is placed. All
    /// have the same filter and params, which are bound once.
    ///
    /// # Errors
    /// As [`Node::publish`].
    pub(crate) async fn publish_all(
        self: &Arc<Self>,
        app: AppId,
        publications: Vec<Publication<'_>>,
    ) -> Result<Receipt, NodeError> {
        let mut prepared = Vec::with_capacity(publications.len());
        let mut slice = TimeSlice::begin();
        let mut bound = None;

        for one in publications {
            if prepared.is_empty() {
                bound = self.compile_aside(app, &one.target).await?;
            }
            let one = self.prepare_with(app, one, bound.clone())?;
            // The next ones take the bound filter, which is compiled once.
            bound.clone_from(&one.selection.filter);
            prepared.push(one);
            slice.rest().await;
        }

        self.check_store(&prepared)?;
        let (by_bus, here): (Vec<_>, Vec<_>) =
            prepared.into_iter().partition(Prepared::comes_by_bus);
        let admitted = self.admit_all(app, here).await?;
        self.app(app).metrics.accepted.inc_by(by_bus.len() as u64);

        run_detached(self.clone().carry_out_all(app, by_bus, admitted)).await?
    }

    /// Carries out one after another; those that come back over the bus first, which take their places at admission
    /// then: in the meantime the others hold none, or admission could be full of what waits for it.
    async fn carry_out_all(
        self: Arc<Self>,
        app: AppId,
        by_bus: Vec<Prepared>,
        admitted: Vec<Admitted>,
    ) -> Result<Receipt, NodeError> {
        let mut receipt: Option<Receipt> = None;
        if by_bus.is_empty() {
            for one in admitted {
                if !self.sum_up(app, &mut receipt, self.carry_out_whole(one).await)? {
                    break;
                }
            }
            return Ok(receipt.unwrap_or_else(|| Receipt::new(Uuid::now_v7())));
        }

        // Their places are given back: the events that come over the bus need some.
        let here: Vec<Prepared> = admitted.into_iter().map(|one| one.prepared).collect();
        for prepared in by_bus {
            if !self.sum_up(
                app,
                &mut receipt,
                self.publish_durable(prepared, None).await,
            )? {
                return Ok(receipt.unwrap_or_else(|| Receipt::new(Uuid::now_v7())));
            }
        }

        for prepared in here {
            // Others before it may be delivered, so it is no longer refused: without a permit it
            // scans as well.
            let scan_permit = self.hub.permit(&prepared.selection).await.ok().flatten();
            let (reach, permit) = self
                .hub
                .admit_in_time(&prepared.selection, prepared.draft.len())
                .await;
            let one = Admitted {
                prepared,
                reach,
                permit,
                scan_permit,
            };

            if !self.sum_up(app, &mut receipt, self.carry_out_whole(one).await)? {
                break;
            }
        }

        Ok(receipt.unwrap_or_else(|| Receipt::new(Uuid::now_v7())))
    }

    /// Carries one out, and waits until it has reached the other nodes.
    async fn carry_out_whole(self: &Arc<Self>, one: Admitted) -> Result<Receipt, NodeError> {
        let begun = self.clone().carry_out(one).await?;
        Ok(self.end(begun).await)
    }

    /// Adds what became of one of several publications; false if the rest is not to be tried.
    fn sum_up(
        &self,
        app: AppId,
        all: &mut Option<Receipt>,
        one: Result<Receipt, NodeError>,
    ) -> Result<bool, NodeError> {
        match (one, all) {
            (Ok(one), Some(all)) => all.join(one),
            (Ok(one), all) => *all = Some(one),
            (Err(error), None) => return Err(error),
            // Those before it were delivered; an error would say that nothing was.
            (Err(error), Some(all)) => {
                if let Some(others) = self.lines().note(Line::CarriedOutInPart) {
                    tracing::warn!(others, %error, "a publication was carried out in part");
                }
                all.missing_nodes = self.serving_names(app);
                return Ok(false);
            }
        }

        Ok(true)
    }

    /// Admits all as one: by places of their own, each would wait for what the others hold.
    async fn admit_all(
        &self,
        app: AppId,
        prepared: Vec<Prepared>,
    ) -> Result<Vec<Admitted>, NodeError> {
        let reaches: Vec<Reach> = prepared
            .iter()
            .map(|one| self.hub.reach(&one.selection))
            .collect();
        let bound = reaches.iter().map(Reach::bound).sum();
        let bytes = prepared.iter().map(|one| one.draft.len()).sum();

        // One permit is for all of them, since they run one after another.
        let heavy = prepared
            .iter()
            .any(|one| one.selection.is_scan() || one.selection.is_heavy());
        let scan_permit = if heavy {
            Some(self.hub.permit_to_scan(app).await?)
        } else {
            None
        };

        let permit = self.hub.admit(app, &Reach::Large(bound), bytes).await?;
        permit.serve(prepared.len());
        self.app(app).metrics.accepted.inc_by(prepared.len() as u64);

        let mut admitted: Vec<Admitted> = prepared
            .into_iter()
            .zip(reaches)
            .map(|(prepared, reach)| Admitted {
                prepared,
                reach,
                permit: permit.clone(),
                scan_permit: None,
            })
            .collect();

        // They are carried out in order, so the last one's permit is the last to end.
        if let Some(last) = admitted.last_mut() {
            last.scan_permit = scan_permit;
        }

        Ok(admitted)
    }
}
