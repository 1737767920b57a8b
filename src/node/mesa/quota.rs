//! What Mesa's programs have stored counts towards what an app may store.
//!
//! Dispatchers write and Fanfare takes away, each without the other's knowledge, so nobody could keep a sum. Redis is asked how much
//! memory the hashes need, which it estimates from some of their fields.

use super::{Cluster, MesaApp, Node};
use crate::{bus::BusError, limits::MESA_SAMPLES};

impl Node {
    /// Looks how much is stored for those who are away, of each app that may store only so many bytes. What cannot be read now is
    /// taken to be what it was.
    pub(in crate::node) async fn mesa_look_at_stored(&self) {
        let Some(cluster) = &self.cluster else { return };
        for mesa in self.mesa.all().filter(|mesa| mesa.has_sync()) {
            let name = &self.app(mesa.app).name;
            let config = self.config.apps.get(&**name);
            if config.is_none_or(|app| app.max_stored_bytes.is_none()) {
                continue;
            }
            match mesa_stored(cluster, mesa).await {
                Ok(bytes) => self.history.stored_beside(mesa.app, bytes),
                Err(error) => {
                    tracing::debug!(%error, "what is stored of Mesa's messages cannot be read for now");
                }
            }
        }
    }
}

/// The memory that Redis needs for what is stored of an app, and for what its clients have yet to confirm.
async fn mesa_stored(cluster: &Cluster, mesa: &MesaApp) -> Result<u64, BusError> {
    let keys = cluster.mesa_keys(mesa.app);
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
