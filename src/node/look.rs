//! Looking at what is connected, and sending it away.

use std::sync::Arc;

use super::{Node, NodeError, Target};
use crate::{
    close::Close,
    filter::{Bound, Value},
    hub::{Hub, PageCursor, Recipients, ScanPermit, ScanStats, Selection, Snapshot, Table},
    id::{AppId, ConnectionId},
    limits,
};

/// How a filter would be answered.
#[derive(Debug)]
pub(crate) struct Explanation {
    /// The compiled filter with its plan.
    pub(crate) bound: Arc<Bound>,
    /// What the scan saw.
    pub(crate) scan: ScanStats,
    /// Some of the connections that match.
    pub(crate) sample: Vec<ConnectionId>,
    /// Allows the caller to evaluate the filter's parts as well.
    pub(crate) permit: ScanPermit,
}

impl Node {
    /// How `filter` would be answered, and by whom. Looks at connections as an emit would, and sends nothing.
    ///
    /// # Errors
    /// [`NodeError::Filter`] and [`NodeError::Busy`].
    pub(crate) async fn explain(
        &self,
        app: AppId,
        filter: String,
        params: Option<Value>,
    ) -> Result<Explanation, NodeError> {
        let target = Target {
            filter: Some(filter),
            params,
            ..Target::default()
        };

        let bound = match self.compile_aside(app, &target).await? {
            Some(bound) => bound,
            None => self.compile(app, target.filter.unwrap_or_default(), target.params)?,
        };

        let selection = Selection {
            filter: Some(bound.clone()),
            ..Selection::everyone(app)
        };

        let permit = self.hub.permit_to_scan(app).await?;
        let mut sample = Vec::new();
        let scan = self
            .hub
            .scan(&selection, |table, slot| {
                if sample.len() < limits::EXPLAIN_SAMPLE
                    && let Some(connection) = table.open_connection(slot)
                {
                    sample.push(connection.id());
                }
            })
            .await;

        Ok(Explanation {
            bound,
            scan,
            sample,
            permit,
        })
    }

    /// Closes the connections that `target` means; answers how many.
    ///
    /// What was placed for them before is still written. It is carried out in a task of its own, which a caller that
    /// goes away does not stop.
    ///
    /// # Errors
    /// As [`Node::select`], and [`NodeError::Busy`].
    pub(crate) async fn disconnect(
        &self,
        app: AppId,
        target: Target,
        close: Close,
    ) -> Result<u64, NodeError> {
        let bound = self.compile_aside(app, &target).await?;
        let selection = self.select(app, target, bound)?;
        close_all(&self.hub, selection, close).await
    }

    /// A page of the connections that `filter` matches, and where the next one begins.
    ///
    /// # Errors
    /// [`NodeError::Filter`] and [`NodeError::Busy`].
    pub(crate) async fn connections(
        &self,
        app: AppId,
        target: Target,
        from: PageCursor,
        limit: usize,
    ) -> Result<(Vec<Snapshot>, Option<PageCursor>), NodeError> {
        let bound = self.compile_aside(app, &target).await?;
        let selection = self.select(app, target, bound)?;
        let permit = self.hub.permit(&selection).await?;
        let page = self.hub.page(&selection, from, limit).await;
        drop(permit);
        Ok(page)
    }

    /// The open connections of `user` on this node.
    pub(crate) fn user_connections(&self, app: AppId, user: &str) -> usize {
        user_connections(&self.hub, app, user)
    }
}

/// Closes the connections of `selection`; returns how many. It is carried out in a task of its own, which a caller that goes
/// away does not stop.
///
/// # Errors
/// [`NodeError::Busy`].
pub(super) async fn close_all(
    hub: &Arc<Hub>,
    selection: Selection,
    close: Close,
) -> Result<u64, NodeError> {
    let permit = hub.permit(&selection).await?;
    let hub = hub.clone();

    let closing = tokio::spawn(async move {
        let mut closed = 0;
        let close_one = |table: &mut Table, slot| {
            if let Some(at) = table.reference(slot) {
                closed += u64::from(table.close(at, None, &close));
            }
        };
        hub.scan(&selection, close_one).await;
        drop(permit);
        closed
    });

    closing.await.map_err(|_| NodeError::Failed)
}

/// The open connections of `user` in `hub`.
pub(super) fn user_connections(hub: &Hub, app: AppId, user: &str) -> usize {
    let selection = Selection {
        recipients: Some(Recipients::user(user)),
        ..Selection::everyone(app)
    };
    hub.reach(&selection).bound()
}
