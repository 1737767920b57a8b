//! One app as the node runs it: the unit of isolation.

mod attributes;
mod runtime_config;
mod policy;
mod rules;

use std::{ops::Deref, sync::Arc};

use ahash::AHashMap;

pub(crate) use self::{
    attributes::Unfit,
    policy::{ClientKeys, ClientPage, ClientPolicy},
    rules::{ChannelRules, Rule},
    runtime_config::RuntimeConfig,
};
use crate::{
    auth::{self, RightsError, TokenKeyError},
    bus::RedisSetupError,
    config::{AppConfig, Config, Presence as PresenceRule, Secret, SlowConsumer},
    filter::{Bound, Cached, FilterCache, FilterError, Layouts, Schema, Value},
    history::{DataError, Retention},
    hub::{AppContext, AppCounts, NoticeQueue, Presence, Register, Watching},
    id::AppId,
    limits::Limits,
    metrics::{AppMetrics, Metrics},
};

/// What belongs to one app for as long as the server runs: its rules for channels, its filters, its numbers. Who may come
/// is in [`RuntimeConfig`].
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) id: AppId,
    pub(crate) name: Arc<str>,
    pub(crate) metrics: Arc<AppMetrics>,
    /// Shared by the claims of all connections with the same keys.
    pub(crate) layouts: Layouts,
    /// Signs tokens where the configuration has no key for them.
    ephemeral: Secret,
    channels: ChannelRules,
    user_events: Option<Retention>,
    schema: Arc<Schema>,
    filters: Arc<FilterCache>,
    slow_consumer: SlowConsumer,
}

/// The apps of a node, by their ids and by their names. They are the same for as long as the node runs.
#[derive(Debug)]
pub(crate) struct Apps {
    /// In the order of their ids.
    all: Box<[App]>,
    ids: AHashMap<Arc<str>, AppId>,
}

impl Apps {
    /// `all` in the order of their ids.
    pub(crate) fn new(all: Vec<App>) -> Self {
        let ids = all.iter().map(|app| (app.name.clone(), app.id)).collect();
        Self {
            all: all.into(),
            ids,
        }
    }

    pub(crate) fn get(&self, app: AppId) -> &App {
        // Ids are numbered by the order of `all`, and others come from `id_of`, so each has an app.
        &self.all[usize::from(app.0)]
    }

    /// The app named `name`, if this node serves it.
    pub(crate) fn id_of(&self, name: &str) -> Option<AppId> {
        self.ids.get(name).copied()
    }
}

impl Deref for Apps {
    type Target = [App];

    fn deref(&self) -> &[App] {
        &self.all
    }
}

/// Why an app, or the way to other nodes, cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The way to other nodes cannot be set up as it is configured.
    #[error(transparent)]
    Redis(#[from] RedisSetupError),
    /// The data directory cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A token key cannot be used.
    #[error("app \"{app}\": {error}")]
    TokenKey {
        /// The app.
        app: String,
        /// What is wrong with the key.
        error: TokenKeyError,
    },
    /// An index cannot be declared.
    #[error("app \"{app}\": {error}")]
    Index {
        /// The app.
        app: String,
        /// What is wrong with the path.
        error: FilterError,
    },
    /// The rights of clients without a `can` cannot be read.
    #[error("app \"{app}\": {error}")]
    Rights {
        /// The app.
        app: String,
        /// What is wrong with them.
        error: RightsError,
    },
    /// The rights that come with a client key cannot be read.
    #[error("app \"{app}\", client key \"{key}\": {error}")]
    ClientKey {
        /// The app.
        app: String,
        /// The key's name.
        key: String,
        /// What is wrong with them.
        error: RightsError,
    },
}

/// What each app may keep of compiled filters.
pub(crate) fn filter_share(config: &Config) -> usize {
    config.limits.filter_cache_bytes / config.apps.len().max(1)
}

impl App {
    /// The app `name`, which may keep `filter_bytes` of compiled filters.
    pub(crate) fn new(
        id: AppId,
        name: &str,
        app: &AppConfig,
        filter_bytes: usize,
        metrics: &Metrics,
    ) -> Result<Self, SetupError> {
        let named = || name.to_owned();
        // It is made once for the life of the node: a reload must not end the tokens that it has
        // signed.
        let ephemeral = auth::random_secret().map_err(|error| SetupError::TokenKey {
            app: named(),
            error,
        })?;

        let schema = Schema::new(&app.index).map_err(|error| SetupError::Index {
            app: named(),
            error,
        })?;

        Ok(Self {
            id,
            name: name.into(),
            metrics: Arc::new(metrics.app(name)),
            layouts: Layouts::new(),
            ephemeral,
            channels: ChannelRules::new(&app.channels),
            user_events: app.user_events.as_ref().map(rules::retention_of),
            schema: Arc::new(schema),
            filters: Arc::new(FilterCache::with_bytes(filter_bytes)),
            slow_consumer: app.slow_consumer,
        })
    }

    /// What the hub needs to know.
    pub(crate) fn context(
        &self,
        limits: &Limits,
        notices: Arc<NoticeQueue>,
        register: Option<Register>,
    ) -> AppContext {
        AppContext {
            name: self.name.clone(),
            metrics: self.metrics.clone(),
            schema: self.schema.clone(),
            slow_consumer: self.slow_consumer,
            presence: Presence::new(self.id, limits, notices, self.metrics.clone(), register),
            counts: AppCounts::default(),
        }
    }

    /// Compiles `filter`, or finds it compiled, and binds `params`.
    ///
    /// # Errors
    /// [`FilterError`] points at the text.
    pub(crate) fn compile(
        &self,
        filter: &str,
        params: Option<Value>,
        metrics: &Metrics,
    ) -> Result<Arc<Bound>, FilterError> {
        compile(&self.filters, &self.schema, (filter, params), metrics).map(Arc::new)
    }

    /// Whether [`App::compile`] would find all regular expressions of a filter compiled, if it has any.
    pub(crate) fn is_compiled(&self, filter: &str, params: Option<&Value>) -> bool {
        self.filters.has_patterns(filter, &self.schema, params)
    }

    /// The work of compiling a filter into the app's cache, for another thread.
    pub(crate) fn compiling(
        &self,
        filter: String,
        params: Option<Value>,
        metrics: Arc<Metrics>,
    ) -> impl FnOnce() -> Result<Arc<Bound>, FilterError> + Send + use<> {
        let (filters, schema) = (self.filters.clone(), self.schema.clone());
        move || compile(&filters, &schema, (&filter, params), &metrics).map(Arc::new)
    }

    /// What holds for `channel`.
    pub(crate) fn rule(&self, channel: &str) -> &Rule {
        self.channels.of(channel)
    }

    /// How the members of `channel` hear of each other, where one `asked` for it.
    pub(crate) fn watching(&self, channel: &str, asked: bool) -> Watching {
        match (self.rule(channel).presence, asked) {
            (PresenceRule::All, _) | (PresenceRule::Asked, true) => Watching::Notices,
            (PresenceRule::Count, true) => Watching::Counts,
            (PresenceRule::Off, _) | (_, false) => Watching::No,
        }
    }

    /// What is stored for each user, if anything.
    pub(crate) fn user_events(&self) -> Option<Retention> {
        self.user_events
    }
}

fn compile(
    filters: &FilterCache,
    schema: &Schema,
    (filter, params): (&str, Option<Value>),
    metrics: &Metrics,
) -> Result<Bound, FilterError> {
    let Cached { filter, compiled } = filters.get_or_compile(filter, schema)?;
    if let Some(took) = compiled {
        metrics.filter_compile.observe(took.as_secs_f64());
        metrics.cached_filters.set(filters.len() as i64);
    }
    filters.bind(&filter, params)
}

/// Everything in `config` for which no server would start with it, although it is well-formed.
pub(crate) fn problems(config: &Config) -> Vec<SetupError> {
    // Nothing reads them: an app cannot be made without.
    let metrics = Metrics::new();
    let mut errors = Vec::new();
    let filter_bytes = filter_share(config);
    for (at, (name, app)) in config.apps.iter().enumerate() {
        let app_itself = App::new(AppId(at as u16), name, app, filter_bytes, &metrics);
        errors.extend(app_itself.err());
        errors.extend(runtime_config::problems(name, app, &config.limits));
    }
    errors
}

#[cfg(test)]
mod tests;
