//! Every bound of the language, each with the reason for its value.

/// How deep `data` may nest. Receivers parse it with whatever they have; common parsers give up near 1,000.
pub const DATA_DEPTH: usize = 128;

/// Sets of keys that one profile, or one token, shares with those of others. Sharing takes a lock of the whole app, and what
/// is worth sharing has few shapes.
pub const LAYOUTS_PER_VALUE: usize = 16;

/// Longest filter text, in bytes. Long lists of values belong in `params`.
pub const FILTER_BYTES: usize = 4 * 1024;

/// Most nodes of a filter's syntax tree; items of a literal list are counted apart.
pub const FILTER_NODES: usize = 256;

/// What a node of a filter holds in memory, about: itself, its path, and a closure.
pub const FILTER_NODE_BYTES: usize = 256;

/// Longest name that is compared with others to say what someone may have meant, in bytes.
pub const SUGGESTED_BYTES: usize = 64;

/// Names that are compared for it: a few hundred microseconds' work where all are as long as may be.
pub const SUGGESTED_OF: usize = 64;

/// Names that are looked at for it: most are of another length.
pub const SUGGESTION_LOOKS: usize = 1024;

/// Most items of one literal list in a filter.
pub const FILTER_LIST_ITEMS: usize = 1024;

/// Deepest nesting of a filter. Parser and compiler recurse this far and no further.
pub const FILTER_DEPTH: usize = 64;

/// Steps one evaluation of a filter may take for one connection; nested macros over long lists end here.
pub const FILTER_STEPS: u32 = 20_000;

/// Bytes one evaluation may compare, search or build for one connection.
pub const FILTER_WORK_BYTES: u32 = 256 * 1024;

/// What one step counts for when the work of evaluations is added up, in which one byte counts for one. A step takes 10 to
/// 15 ns and a byte about one, so that a unit of work is about a nanosecond.
pub const FILTER_STEP_WORK: u32 = 16;

/// Longest text that `int()` and `double()` convert, in bytes. No number is longer, except for zeros that mean nothing.
pub const NUMBER_BYTES: usize = 64;

/// Regular expressions of one filter.
pub const FILTER_PATTERNS: usize = 8;

/// Longest regular expression, in bytes of text.
pub const REGEX_TEXT_BYTES: usize = 1024;

/// Compiled size of all regular expressions of one filter, in bytes; refuses patterns such as `(a{1000}){1000}`.
pub const REGEX_BYTES: usize = 128 * 1024;

/// What building the classes of one filter's regular expressions may take: ranges of characters, or where case is ignored
/// characters. Each takes about 10 ns, so that compiling ends within a few milliseconds.
pub const REGEX_POINTS: u32 = 500_000;

/// What a search is charged for each byte of text and each character of the pattern, in units of work: the worst patterns
/// keep track of all their places at the same time, at 4 to 8 ns each.
pub const REGEX_POSITION_WORK: usize = 8;

/// What every search is charged at least.
pub const REGEX_SEARCH_WORK: usize = 64;

/// Bytes of the table of states that a thread builds while it searches for a regular expression, in each direction. Patterns
/// that need more take longer, and are charged for it.
pub const REGEX_SCRATCH_BYTES: usize = 64 * 1024;

/// Regular expressions of which a thread keeps such tables: those of one filter.
pub const REGEX_SCRATCHES: usize = FILTER_PATTERNS;

/// Compiled filters that an app is expected to have: a filter is a constant text with `params`. The bound is in bytes,
/// [`FILTER_CACHE_BYTES`].
pub const FILTER_CACHE_ENTRIES: usize = 1024;

/// What an entry of that cache takes beside its text and the filter.
pub const CACHED_BYTES: usize = 256;

/// Names in one list of a target (`to.users`, `except.devices`, …): what fits a body of the default size anyway.
pub const TARGET_NAMES: usize = 10_000;

/// What a cache of compiled filters takes by default, in bytes. A common filter takes a few KiB.
pub const FILTER_CACHE_BYTES: usize = 32 * 1024 * 1024;
