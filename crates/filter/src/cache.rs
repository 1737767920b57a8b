//! Compiled filters by their text.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use quick_cache::{
    OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};

use super::{
    compiled::{Bound, Filter},
    error::FilterError,
    index::Schema,
    pattern::Pattern,
    value::Value,
};
use crate::limits;

/// Compiled filters of one app, and patterns that came as params: bounded in bytes. A hit costs one hash of the text
/// and no lock that a writer holds for long. A filter that is refused is not cached, nor one that would push out
/// most of the others.
#[derive(Debug)]
pub struct FilterCache {
    filters: ByText<Filter>,
    patterns: ByText<Pattern>,
}

type ByText<T> = Cache<Arc<str>, Arc<T>, Bytes, ahash::RandomState>;

/// Weighs what is cached by the memory that it takes.
#[derive(Clone, Copy, Debug)]
struct Bytes;

impl Weighter<Arc<str>, Arc<Filter>> for Bytes {
    fn weight(&self, text: &Arc<str>, filter: &Arc<Filter>) -> u64 {
        (limits::CACHED_BYTES + text.len() + filter.bytes()) as u64
    }
}

impl Weighter<Arc<str>, Arc<Pattern>> for Bytes {
    fn weight(&self, text: &Arc<str>, pattern: &Arc<Pattern>) -> u64 {
        (limits::CACHED_BYTES + text.len() + pattern.bytes()) as u64
    }
}

/// A cache of so many bytes, in parts that threads write to at the same time.
fn by_text<T>(bytes: usize) -> ByText<T>
where
    Bytes: Weighter<Arc<str>, Arc<T>>,
{
    // In a part of 1 MiB the heaviest filter leaves room for others.
    let parts = (bytes / (1024 * 1024)).clamp(1, 16);
    let options = OptionsBuilder::new()
        .shards(parts.next_power_of_two())
        .estimated_items_capacity(limits::FILTER_CACHE_ENTRIES)
        .weight_capacity(bytes as u64)
        .build();

    Cache::with_options(
        options.expect("both capacities are given"),
        Bytes,
        ahash::RandomState::new(),
        DefaultLifecycle::default(),
    )
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
    /// A cache that has the default of [`limits::FILTER_CACHE_BYTES`] for itself.
    pub fn new() -> Self {
        Self::with_bytes(limits::FILTER_CACHE_BYTES)
    }

    /// A cache of at most so many bytes.
    pub fn with_bytes(bytes: usize) -> Self {
        Self {
            filters: by_text(bytes - bytes / 4),
            patterns: by_text(bytes / 4),
        }
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

    /// Gives a filter its params, as [`Filter::bind`] does; patterns among them are compiled once.
    ///
    /// # Errors
    /// Those of [`Filter::bind`].
    pub fn bind(&self, filter: &Arc<Filter>, params: Option<Value>) -> Result<Bound, FilterError> {
        filter.bind_with(params, |allowance, text, span| {
            // A pattern from the cache counts as well: whether a filter is refused must not depend
            // on what others have sent.
            if let Some(pattern) = self.patterns.get(text) {
                allowance.take(&pattern, span)?;
                return Ok(pattern);
            }
            let pattern = allowance.compile(text, span)?;
            self.patterns.insert(text.into(), pattern.clone());
            Ok(pattern)
        })
    }

    /// Whether the cache has every regular expression that a filter with these params needs; true where it needs none.
    pub fn has_patterns(&self, source: &str, schema: &Schema, params: Option<&Value>) -> bool {
        // Nothing else in the language takes a pattern.
        if !source.contains("matches") {
            return true;
        }

        let filter = self.filters.get(source);
        let Some(filter) = filter.filter(|filter| filter.schema().is(schema)) else {
            return false;
        };

        let given = params.and_then(Value::as_map);
        let has = |name: &str| match given.and_then(|given| given.find(name)) {
            Some(Value::String(text)) => self.patterns.get(&**text).is_some(),
            // It is refused without a look at it.
            _ => true,
        };

        filter.pattern_params().all(has)
    }

    /// The bytes that filters and patterns take, as they are weighed.
    pub fn bytes(&self) -> usize {
        (self.filters.weight() + self.patterns.weight()) as usize
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
    fn it_is_bounded_in_bytes() {
        let bytes = 256 * 1024;
        let (cache, schema) = (FilterCache::with_bytes(bytes), Schema::default());
        let names: Vec<String> = (0..300).map(|n| format!("'{n}'")).collect();
        for n in 0..500 {
            let list = names[n % 100..].join(",");
            cache
                .get_or_compile(&format!("user == '{n}' || user in [{list}]"), &schema)
                .unwrap();
            assert!(cache.bytes() <= bytes, "{}", cache.bytes());
        }
        assert!((2..200).contains(&cache.len()), "{}", cache.len());
        assert!(cache.bytes() > bytes / 2);
    }

    #[test]
    fn what_takes_most_of_a_share_is_not_kept() {
        let (cache, schema) = (FilterCache::with_bytes(64 * 1024), Schema::default());
        cache.get_or_compile("user == 'a'", &schema).unwrap();
        let patterns = "user.matches('[ab]{800}') || ".repeat(3);
        cache
            .get_or_compile(&format!("{patterns} false"), &schema)
            .unwrap();
        let again = cache.get_or_compile("user == 'a'", &schema).unwrap();
        assert!(again.compiled.is_none(), "what is small stays");
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn patterns_of_params_are_compiled_once_and_count_for_each_filter() {
        let (cache, schema) = (FilterCache::new(), Schema::default());
        let filter = cache
            .get_or_compile("user.matches(params.p) || user.matches('^a')", &schema)
            .unwrap()
            .filter;
        let bind = |pattern: &str| {
            let mut params = format!("{{\"p\":\"{pattern}\"}}").into_bytes();
            cache.bind(&filter, Some(Value::from_json(&mut params, None).unwrap()))
        };
        let with_b = Value::from_json(&mut br#"{"p":"^b+$"}"#.to_vec(), None).unwrap();
        let source = filter.source();
        assert!(!cache.has_patterns(source, &schema, Some(&with_b)));
        bind("^b+$").unwrap();
        assert!(cache.has_patterns(source, &schema, Some(&with_b)));
        assert!(!cache.has_patterns("user.matches('^c')", &schema, None));
        assert!(cache.has_patterns("user == 'c'", &schema, None), "none");
        let bytes = cache.bytes();
        bind("^b+$").unwrap();
        assert_eq!(cache.bytes(), bytes);
        bind("^c+$").unwrap();
        assert!(cache.bytes() > bytes);

        let many: Vec<String> = (0..9)
            .map(|n| format!("user.matches(params.p{n})"))
            .collect();
        let filter = cache
            .get_or_compile(&many.join("||"), &schema)
            .unwrap()
            .filter;
        let params: Vec<String> = (0..9).map(|n| format!("\"p{n}\":\"^b+$\"")).collect();
        let mut params = format!("{{{}}}", params.join(",")).into_bytes();
        let params = Value::from_json(&mut params, None).unwrap();
        assert_eq!(
            cache.bind(&filter, Some(params)).unwrap_err().code(),
            "bad_regex"
        );
    }
}
