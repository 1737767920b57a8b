//! One app as the node runs it: the unit of isolation.

use std::sync::Arc;

use crate::{
    auth::{Rights, RightsError, TokenKeyError, Tokens},
    config::{AppConfig, ClientAuth, Config, SlowConsumer},
    hub::AppContext,
    id::AppId,
    metrics::{AppMetrics, Metrics},
    predicate::{Bound, Cached, FilterCache, FilterError, Layouts, Schema, Value},
};

/// What belongs to one app: its keys for tokens, its filters, its numbers.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) id: AppId,
    pub(crate) name: Arc<str>,
    pub(crate) client_auth: ClientAuth,
    pub(crate) tokens: Tokens,
    pub(crate) metrics: Arc<AppMetrics>,
    /// Shared by the claims of all connections with the same keys.
    pub(crate) layouts: Layouts,
    origins: Option<Vec<String>>,
    schema: Arc<Schema>,
    filters: FilterCache,
    slow_consumer: SlowConsumer,
}

/// Why an app cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
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
}

impl App {
    pub(crate) fn new(
        id: AppId,
        name: &str,
        app: &AppConfig,
        config: &Config,
        metrics: &Metrics,
    ) -> Result<Self, SetupError> {
        let named = || name.to_owned();
        let tokens = if config.has_ephemeral_secret(app) { Tokens::ephemeral } else { Tokens::new };
        let tokens =
            tokens(app, &config.limits).map_err(|error| SetupError::TokenKey { app: named(), error })?;
        let schema = Schema::new(&app.index).map_err(|error| SetupError::Index { app: named(), error })?;
        if let Some(can) = &app.default_can {
            Rights::from_value(can).map_err(|error| SetupError::Rights { app: named(), error })?;
        }
        Ok(Self {
            id,
            name: name.into(),
            client_auth: config.client_auth(app),
            tokens,
            metrics: Arc::new(metrics.app(name)),
            layouts: Layouts::new(),
            origins: app.origins.clone(),
            schema: Arc::new(schema),
            filters: FilterCache::new(),
            slow_consumer: app.slow_consumer,
        })
    }

    /// What the hub needs to know.
    pub(crate) fn context(&self) -> AppContext {
        AppContext {
            name: self.name.clone(),
            metrics: self.metrics.clone(),
            schema: self.schema.clone(),
            slow_consumer: self.slow_consumer,
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
        let Cached { filter, compiled } = self.filters.get_or_compile(filter, &self.schema)?;
        if let Some(took) = compiled {
            metrics.filter_compile.observe(took.as_secs_f64());
            metrics.cached_filters.set(self.filters.len() as i64);
        }
        filter.bind(params).map(Arc::new)
    }

    /// Whether a page of `origin` may connect. Where the configuration says nothing, any page may with a token, since
    /// the token is the proof, and none without one, except in development, which pages of other hosts cannot reach.
    pub(crate) fn allows_origin(&self, origin: &str, with_token: bool, development: bool) -> bool {
        match &self.origins {
            Some(origins) => {
                origins.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
            }
            None => development || (with_token && self.client_auth != ClientAuth::Off),
        }
    }
}
