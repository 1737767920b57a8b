//! What Mesa's programs have stored counts towards what an app may store.
//!
//! Dispatchers write and Fanfare takes away, each without the other's knowledge, so nobody could keep a sum. Redis is asked how much
//! memory the hashes need, which it estimates from some of their fields.

use super::{ClusterHandles, Mesa, MesaApp};
use crate::{bus::BusError, limits::MESA_SAMPLES};

impl Mesa {
    /// Looks how much is stored for those who are away, of each app that may store only so many bytes. What cannot be read now is
    /// taken to be what it was.
    pub(in crate::node) async fn look_at_stored(&self) {
        let Some(cluster) = &self.cluster else { return };
        for mesa in self.all().filter(|mesa| mesa.has_sync() && mesa.has_quota) {
            match stored_bytes(cluster, mesa).await {
                Ok(bytes) => self.history.stored_beside(mesa.app, bytes),
                Err(error) => {
                    tracing::debug!(%error, "what is stored of Mesa's messages cannot be read for now");
                }
            }
        }
    }
}

/// The memory that Redis needs for what is stored of an app, and for what its clients have yet to confirm.
async fn stored_bytes(cluster: &ClusterHandles, mesa: &MesaApp) -> Result<u64, BusError> {
    let keys = cluster.keys(mesa.app);
    let mut sum = 0;
    for key in [mesa.undelivered.clone(), keys.aside()] {
        let mut usage = redis::cmd("MEMORY");
        usage.arg("USAGE").arg(key).arg("SAMPLES").arg(MESA_SAMPLES);
        let bytes = cluster.bus.command(&keys.home, usage).await?;
        // Nothing if there is no such key.
        sum += redis::from_redis_value::<Option<u64>>(bytes)
            .ok()
            .flatten()
            .unwrap_or(0);
    }

    Ok(sum)
}
