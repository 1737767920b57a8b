//! Acting on every node straight through Redis, from any Rust program: no node, no HTTP, no key but Redis' own.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::Serialize;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use crate::{
    bus::{Bus, BusError, Client, Health, Inbox, RedisSetupError, Topic},
    config::{BadRedisUrl, DEFAULT_APP, RedisConfig},
    id::{AppId, NodeId},
    limits::Limits,
    metrics::Metrics,
    protocol::event::{Data, Event, EventError},
    supervisor::Supervisor,
};

/// How often a new dispatcher looks whether Redis has answered.
const LOOK: Duration = Duration::from_millis(5);

/// Sends events to users, and sends clients away, through Redis.
///
/// Every node delivers what comes this way to its own connections; a thread and two connections to Redis serve all clones
/// of a dispatcher, until the last is dropped.
///
/// ```no_run
/// # async fn example() -> Result<(), fanfare::DispatchError> {
/// let dispatcher = fanfare::Dispatcher::connect("redis://127.0.0.1:6379").await?;
/// let nodes = dispatcher.dispatch(&["0", "1"], &[], "alert", "Hello").await?;
/// println!("{nodes} nodes have it");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Dispatcher {
    way: Arc<Way>,
}

/// Ends the bus with the last dispatcher.
struct Way {
    bus: Arc<Bus>,
    /// Nothing is subscribed, so nothing comes except what the bus says of itself; dropped, it would end the bus.
    _inbox: Inbox,
}

impl Drop for Way {
    fn drop(&mut self) {
        self.bus.stop();
    }
}

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher").finish_non_exhaustive()
    }
}

/// Why nothing was dispatched; of [`DispatchError::Unanswered`] it is not known.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// The address is not one.
    #[error(transparent)]
    Url(#[from] BadRedisUrl),
    /// The way to Redis cannot be set up as it is configured.
    #[error(transparent)]
    Setup(#[from] RedisSetupError),
    /// Redis cannot be reached.
    #[error("Redis cannot be reached: {0}")]
    Away(String),
    /// Redis had the message, or not, and did not say in time.
    #[error("Redis did not answer in time; the message may have been delivered")]
    Unanswered,
    /// Redis refused, as by its access list.
    #[error("Redis refused: {0}")]
    Refused(String),
    /// The event breaks a rule.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The data cannot be written as JSON.
    #[error("the data cannot be written as JSON: {0}")]
    Data(#[from] serde_json::Error),
}

impl From<BusError> for DispatchError {
    fn from(error: BusError) -> Self {
        match error {
            BusError::Away { reason } => Self::Away(reason.to_string()),
            BusError::Unanswered => Self::Unanswered,
            BusError::Refused { .. } => Self::Refused(error.to_string()),
            BusError::Full => Self::Away("too many messages wait for it".to_owned()),
        }
    }
}

impl Dispatcher {
    /// Connects to the nodes of namespace and app `default`; see [`Dispatcher::connect_to`].
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn connect(url: &str) -> Result<Self, DispatchError> {
        Self::connect_to(url, "default", DEFAULT_APP).await
    }

    /// Connects to the Redis at `url`, as `--redis` takes it, for the nodes of `namespace` and their app `app`. Returns
    /// when Redis has answered. A connection that is lost later is made again without being asked for.
    ///
    /// Dropping the future ends the attempt.
    ///
    /// # Errors
    /// [`DispatchError::Url`], [`DispatchError::Setup`], and [`DispatchError::Away`] when Redis has not answered within a second.
    pub async fn connect_to(url: &str, namespace: &str, app: &str) -> Result<Self, DispatchError> {
        let config = RedisConfig {
            url: url.parse()?,
            ..RedisConfig::default()
        };
        Self::with_config(&config, namespace, app).await
    }

    /// Connects with all that the table `[redis]` of a configuration has, such as certificates; see
    /// [`Dispatcher::connect_to`].
    ///
    /// # Errors
    /// As [`Dispatcher::connect_to`].
    pub async fn with_config(
        config: &RedisConfig,
        namespace: &str,
        app: &str,
    ) -> Result<Self, DispatchError> {
        // The bus needs both, though nobody configures the one or reads the other here.
        let (limits, metrics) = (Limits::default(), Arc::new(Metrics::new()));
        let (bus, inbox) = Bus::start(
            config,
            namespace,
            vec![app.into()],
            Client::Program(NodeId::random()),
            &limits,
            metrics,
            Supervisor::default(),
        )?;

        let way = Way { bus, _inbox: inbox };
        let up = async {
            // This is asked again and again, since the bus notifies nobody, and this happens once.
            while way.bus.health() != Health::Up {
                tokio::time::sleep(LOOK).await;
            }
        };

        // Its health is asked once more: it may have come up in the last moment.
        if tokio::time::timeout(limits.redis_timeout, up)
            .await
            .is_err()
            && let Health::Down { reason, .. } = way.bus.health()
        {
            return Err(DispatchError::Away(reason.to_string()));
        }

        Ok(Self { way: Arc::new(way) })
    }

    /// Sends `event` to the users `recipients`, or to everyone for just `["*"]`, but not to the users `except`.
    /// Returns how many nodes Redis gave it to. On Redis Cluster, that counts those that listen where this dispatcher
    /// publishes: all, except for moments while it changes.
    ///
    /// What one dispatcher sends one after another comes in that order. What is stored takes a way of its own, and
    /// may come after what is not. Events of users are stored, for those who are away, where the app says so.
    ///
    /// It costs one command to Redis. A future that is dropped once it was polled takes nothing back: the message is
    /// sent. Nodes check it again, and nobody answers if they refuse it; see [`Dispatcher::act`].
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn dispatch(
        &self,
        recipients: &[&str],
        except: &[&str],
        event: &str,
        data: impl Serialize,
    ) -> Result<u64, DispatchError> {
        #[derive(Serialize)]
        struct Message<'a> {
            recipients: &'a [&'a str],
            except: &'a [&'a str],
            event: &'a str,
            data: &'a RawValue,
        }

        let data = to_raw_value(&data)?;
        // Only checked: a node that refuses it has no way to say so to this program.
        Event::new(event, Data::Json(&data))?;
        self.act(&Message {
            recipients,
            except,
            event,
            data: &data,
        })
        .await
    }

    /// Closes all connections of `users`, with code 4010. Returns how many nodes Redis gave the message to, as
    /// [`Dispatcher::dispatch`] does, and not how many connections there were.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn disconnect(&self, users: &[&str]) -> Result<u64, DispatchError> {
        self.act(&json!({ "call": "disconnect", "to": { "users": users } }))
            .await
    }

    /// Sends any message that nodes take: an item of a batch, or a disconnect, as the reference describes them. Returns
    /// how many nodes Redis gave it to. Nodes refuse, log and count what they cannot take, and nobody answers.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub async fn act(&self, message: &impl Serialize) -> Result<u64, DispatchError> {
        let message = Bytes::from(serde_json::to_vec(message)?);
        Ok(self
            .way
            .bus
            // The bus was started with one app.
            .publish(&Topic::Dispatch(AppId(0)), message)
            .await?)
    }
}
