//! Who is in the set of connected users without being connected.
//!
//! With full sync a user who has once come stays in that set, so that dispatchers publish what Fanfare then stores.
//! That holds as long as a node is there to do so. The last node that leaves takes those out whom this cluster has
//! put there, so that dispatchers store by themselves in the meantime, and the next one puts them back.

use redis::Value;

use super::{
    ClusterHandles, Mesa, MesaApp, arg,
    script::{CLEAN, PARK, RESTORE},
};
use crate::{
    bus::BusError,
    limits::{MESA_PARTING, MESA_SETTLED_TOGETHER, MESA_TICK},
};

/// What [`PARK`] says where another node is there.
const TAKEN: &str = "taken";
/// What [`RESTORE`] says before this node has a lease.
const TOO_SOON: &str = "too soon";
/// Where a scan ends.
const END: &str = "0";

impl Mesa {
    /// Leaves users who are away to dispatchers, if this node is the last. Returns whether nothing is left to do: it is the last, or
    /// no app stores everything.
    pub(in crate::node) async fn leave_to_dispatchers(&self) -> bool {
        let Some(cluster) = &self.cluster else {
            return true;
        };

        let mut was_last = true;
        for mesa in self.all().filter(|mesa| mesa.is_full()) {
            let parked = tokio::time::timeout(MESA_PARTING, self.park(mesa, cluster));
            match parked.await {
                // Dispatchers that found users connected before are about to publish, and this node
                // is the last that could store what they say.
                Ok(Ok(true)) => tokio::time::sleep(MESA_TICK).await,
                Ok(Ok(false)) => was_last = false,
                Ok(Err(error)) => self.not_parked(mesa, &error.to_string()),
                Err(_) => self.not_parked(mesa, "that took too long"),
            }
        }

        was_last
    }

    fn not_parked(&self, mesa: &MesaApp, reason: &str) {
        let app = &self.app(mesa.app).name;
        tracing::warn!(%app, reason, "what Mesa's dispatchers send to users who are away is lost until a node is there again: they stay in connected_clients");
    }

    /// Returns whether this node was the last.
    async fn park(&self, mesa: &MesaApp, cluster: &ClusterHandles) -> Result<bool, BusError> {
        // In pages, as one script for all would hold Redis too long. A node that comes in between
        // is seen by the next page, and puts back by itself what was taken out.
        let mut cursor = END.to_owned();
        loop {
            let args = vec![self.node_name(), arg(&cursor), most()];
            let keys = cluster.keys(mesa.app);
            let names = keys.of_known(mesa);
            cursor = said(cluster.bus.eval(&PARK, &keys.home, names, args).await?);
            match &*cursor {
                TAKEN => return Ok(false),
                END => return Ok(true),
                _ => {}
            }
        }
    }

    /// Puts users back whom the last node has left to dispatchers. Returns false if it is too soon for that: this node has to be
    /// seen by others that leave.
    pub(super) async fn restore(
        &self,
        mesa: &MesaApp,
        cluster: &ClusterHandles,
    ) -> Result<bool, BusError> {
        let mut cursor = END.to_owned();
        loop {
            let args = vec![self.node_name(), arg(&cursor), most()];
            let keys = cluster.keys(mesa.app);
            let names = keys.of_known(mesa);
            cursor = said(cluster.bus.eval(&RESTORE, &keys.home, names, args).await?);
            match &*cursor {
                TOO_SOON => return Ok(false),
                END => return Ok(true),
                _ => {}
            }
        }
    }

    /// Takes users out of the set who are not connected: they were put there when the app had full sync.
    pub(super) async fn clean(
        &self,
        mesa: &MesaApp,
        cluster: &ClusterHandles,
    ) -> Result<(), BusError> {
        let mut cursor = END.to_owned();
        loop {
            let keys = cluster.keys(mesa.app);
            let args = vec![keys.prefix(), arg(&cursor), most()];
            let mut names = keys.of_known(mesa);
            names.push(keys.nodes());
            cursor = said(cluster.bus.eval(&CLEAN, &keys.home, names, args).await?);
            if cursor == END {
                return Ok(());
            }
        }
    }
}

/// How many users one step is for.
fn most() -> bytes::Bytes {
    MESA_SETTLED_TOGETHER.to_string().into()
}

/// Where a scan goes on; its end for what is not understood.
fn said(answer: Value) -> String {
    redis::from_redis_value(answer).unwrap_or_else(|_| END.to_owned())
}
