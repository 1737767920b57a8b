//! Which primary keeps a partition: noted there before anything else that a script does reaches it.
//!
//! A replica that lagged becomes the primary, or a server starts again with an older copy of its data: what is stored
//! then goes on from an earlier moment, and no key shows it. The id of a server's replication history does: Redis makes
//! a new one whenever a process starts, and whenever a replica becomes a primary. So each connection for commands has a
//! script compare it with the one that is noted in the partition, and note it again. Scripts that number something read
//! it there.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicBool, Ordering},
};

use redis::{Pipeline, RedisError, Script, Value, aio::MultiplexedConnection};
use tokio::time::timeout;

use super::{Context, command_queue::QueuedCommand, connection::Address};
use crate::limits;

/// Notes the id under its key, as much of it as cannot be the same by chance. It needs memory once, and has it even where
/// Redis has none left: what could not be noted would be taken for the same primary.
static NOTE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "#!lua flags=allow-oom
local id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if not id then
  return redis.error_reply('ERR INFO has no master_replid')
end
id = string.sub(id, 1, 16)
if redis.call('GET', KEYS[1]) ~= id then
  redis.call('SET', KEYS[1], id)
end
return 1
",
    )
});

/// The partitions of one line of which the primary is noted.
#[derive(Debug)]
pub(super) struct Primaries {
    /// By partition: on the connection that is open.
    noted: Vec<bool>,
    /// By partition: on any connection so far, so that the next one begins with it.
    wanted: Vec<bool>,
    /// The server has said that it is not a primary, or not of everything that it was asked for.
    pub(super) recheck: Arc<AtomicBool>,
}

impl Primaries {
    pub(super) fn new(cx: &Context) -> Self {
        let none = vec![false; usize::from(cx.names.partitions())];
        Self {
            noted: none.clone(),
            wanted: none,
            recheck: Arc::default(),
        }
    }

    /// Notes the primary of every partition that was in use on the connection before this one.
    ///
    /// # Errors
    /// Why the connection is of no use.
    pub(super) async fn begin(
        &mut self,
        cx: &Context,
        address: &Address,
        connection: MultiplexedConnection,
    ) -> Result<(), String> {
        self.noted.fill(false);
        self.recheck.store(false, Ordering::Relaxed);
        let wanted = (0..self.wanted.len())
            .filter(|&place| self.wanted[place])
            .collect();
        self.note(cx, address, connection, wanted).await
    }

    /// Notes the primary of every partition that `items` are the first on this connection to be for.
    ///
    /// # Errors
    /// Why the connection is of no use.
    pub(super) async fn enter(
        &mut self,
        cx: &Context,
        address: &Address,
        connection: &MultiplexedConnection,
        items: &[QueuedCommand],
    ) -> Result<(), String> {
        // Slots may have moved away and back in the meantime, so that another primary has written
        // to their keys. Every partition is noted again before its next script.
        if self.recheck.swap(false, Ordering::Relaxed) {
            self.noted.fill(false);
        }

        let mut new = Vec::new();
        for script in items.iter().filter_map(|item| item.script) {
            // Without tags one key is for all.
            let place = if cx.names.is_tagged() {
                usize::from(script.partition)
            } else {
                0
            };
            if !self.noted[place] && !new.contains(&place) {
                self.wanted[place] = true;
                new.push(place);
            }
        }

        if new.is_empty() {
            Ok(())
        } else {
            self.note(cx, address, connection.clone(), new).await
        }
    }

    async fn note(
        &mut self,
        cx: &Context,
        address: &Address,
        mut connection: MultiplexedConnection,
        places: Vec<usize>,
    ) -> Result<(), String> {
        if places.is_empty() {
            return Ok(());
        }

        let mut pipe = Pipeline::with_capacity(places.len() + 1);
        pipe.load_script(&NOTE);
        for &place in &places {
            pipe.cmd("EVALSHA")
                .arg(NOTE.get_hash())
                .arg(1)
                .arg(cx.names.primary_key(place as u16));
        }

        pipe.ignore_errors();
        let replies = timeout(
            limits::BUS_CONNECT,
            pipe.query_async::<Vec<Value>>(&mut connection),
        )
        .await;

        let replies = replies.map_err(|_| format!("Redis at {address} has stopped answering"))?;
        let broken =
            |error: RedisError| format!("the connection to Redis at {address} broke: {error}");
        // The first reply is the one to SCRIPT LOAD.
        for (place, reply) in places
            .into_iter()
            .zip(replies.map_err(broken)?.into_iter().skip(1))
        {
            match reply {
                // Commands for such a partition are refused in the same way, and the mark is written
                // first once they no longer are.
                Value::ServerError(error)
                    if matches!(error.code(), "MOVED" | "ASK" | "TRYAGAIN") => {}
                Value::ServerError(error) => {
                    let (code, text) = (error.code(), error.details().unwrap_or_default());
                    return Err(format!(
                        "Redis at {address} does not let a script see which server it is, by INFO (does the user's ACL \
                         have +info?): {code} {text}"
                    ));
                }
                _ => self.noted[place] = true,
            }
        }

        Ok(())
    }
}
