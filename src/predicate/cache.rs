//! Compiled filters by their text.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use quick_cache::{UnitWeighter, sync::Cache, sync::DefaultLifecycle};

use super::{error::FilterError, filter::Filter, index::Schema};
use crate::limits;

/// A bounded cache of compiled filters, for one app. A hit costs one hash of the text and no lock that a writer
/// holds for long; what is refused is not kept.
#[derive(Debug)]
pub struct FilterCache {
    filters: Cache<Arc<str>, Arc<Filter>, UnitWeighter, ahash::RandomState>,
}

/// A filter from the cache.
#[derive(Clone, Debug)]
pub struct Cached {
    /// The filter.
    pub filter: Arc<Filter>,
    /// How long compiling took; `None` if it was there.
    pub compiled: Option<Duration>,
}

impl Default for FilterCache {
    fn default() -> Self {
        Self::new()
    }
}

impl FilterCache {
    /// A cache of at most [`limits::FILTER_CACHE_ENTRIES`].
    pub fn new() -> Self {
        Self::with_capacity(limits::FILTER_CACHE_ENTRIES)
    }

    /// A cache of at most `entries`.
    pub fn with_capacity(entries: usize) -> Self {
        let hasher = ahash::RandomState::new();
        let filters = Cache::with(
            entries,
            entries as u64,
            UnitWeighter,
            hasher,
            DefaultLifecycle::default(),
        );
        Self { filters }
    }

    /// The filter of a text, compiled if it is not there or was compiled with another schema. Threads that miss at
    /// the same time each compile; the last one's filter stays.
    ///
    /// # Errors
    /// Those of [`Filter::compile`].
    pub fn get_or_compile(&self, source: &str, schema: &Schema) -> Result<Cached, FilterError> {
        if let Some(filter) = self
            .filters
            .get(source)
            .filter(|filter| filter.schema().is(schema))
        {
            return Ok(Cached {
                filter,
                compiled: None,
            });
        }
        let began = Instant::now();
        let filter = Arc::new(Filter::compile(source, schema)?);
        self.filters.insert(filter.source().clone(), filter.clone());
        Ok(Cached {
            filter,
            compiled: Some(began.elapsed()),
        })
    }

    /// Filters held.
    pub fn len(&self) -> usize {
        self.filters.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_compiled_once_per_schema_and_failures_are_not_kept() {
        let (cache, schema) = (FilterCache::new(), Schema::default());
        let first = cache.get_or_compile("user == 'a'", &schema).unwrap();
        let again = cache.get_or_compile("user == 'a'", &schema).unwrap();
        assert!(first.compiled.is_some() && again.compiled.is_none());
        assert!(Arc::ptr_eq(&first.filter, &again.filter));
        let other = Schema::new(&["auth.x"]).unwrap();
        assert!(
            cache
                .get_or_compile("user == 'a'", &other)
                .unwrap()
                .compiled
                .is_some()
        );
        assert!(cache.get_or_compile("user ==", &schema).is_err());
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn it_is_bounded() {
        let (cache, schema) = (FilterCache::with_capacity(16), Schema::default());
        for i in 0..200 {
            cache
                .get_or_compile(&format!("user == '{i}'"), &schema)
                .unwrap();
        }
        assert!(cache.len() <= 16, "{}", cache.len());
    }
}
