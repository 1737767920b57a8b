//! What a request's address contains: a segment of its path, and its query.

use percent_encoding::percent_decode_str;

use super::{
    problem::Problem,
    shape::{nearest, shown},
};
use crate::limits::PAGE_MAX;

/// Decodes one segment of a path.
///
/// # Errors
/// 400 where it is not UTF-8.
pub(crate) fn segment(raw: &str) -> Result<String, Problem> {
    let decoded = percent_decode_str(raw).decode_utf8();
    decoded
        .map(Into::into)
        .map_err(|_| Problem::bad_request("bad_path", "the path is not UTF-8"))
}

/// The problem of a query's parameter.
pub(crate) fn bad(detail: impl Into<String>) -> Problem {
    Problem::bad_request("bad_query", detail)
}

/// The problem of a parameter that a call does not take.
fn unknown(name: &str, known: &[&str]) -> Problem {
    let takes = || match known {
        [] => "this call takes none".to_owned(),
        known => format!("this call takes {}", known.join(", ")),
    };
    let hint = nearest(name, known).unwrap_or_else(takes);
    let detail = format!("unknown query parameter \"{}\"; {hint}", shown(name));
    Problem::bad_request("unknown_field", detail)
}

/// The parameters of a query, decoded.
#[derive(Debug)]
pub(crate) struct Query(Vec<(&'static str, String)>);

impl Query {
    /// Reads `query`, which takes the parameters `known`. Of one that comes more than once the last counts.
    ///
    /// # Errors
    /// 400 for an unknown parameter, and one that is not UTF-8.
    pub(crate) fn parse(query: &str, known: &[&'static str]) -> Result<Self, Problem> {
        let mut parameters = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(&known) = known.iter().find(|known| **known == name) else {
                return Err(unknown(name, known));
            };
            // `URLSearchParams` writes spaces so.
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value)
                .decode_utf8()
                .map_err(|_| bad(format!("\"{name}\" is not UTF-8")))?;
            parameters.push((known, value.into_owned()));
        }

        Ok(Self(parameters))
    }

    /// The value of `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| &**value)
    }

    /// `limit`: the most entries of a page, or `default`.
    ///
    /// # Errors
    /// 400 if it is not a number from 1 to [`PAGE_MAX`].
    pub(crate) fn limit(&self, default: usize) -> Result<usize, Problem> {
        let Some(text) = self.get("limit") else {
            return Ok(default);
        };
        let limit = text
            .parse()
            .ok()
            .filter(|limit| (1..=PAGE_MAX).contains(limit));
        limit.ok_or_else(|| {
            bad(format!(
                "\"limit\" must be a whole number from 1 to {PAGE_MAX}"
            ))
        })
    }

    /// `cursor`, as `read` understands it.
    ///
    /// # Errors
    /// 400 where `read` does not.
    pub(crate) fn cursor<T>(
        &self,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.get("cursor") else {
            return Ok(None);
        };
        read(text)
            .map(Some)
            .ok_or_else(|| bad("\"cursor\" must be the cursor of the page before"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["filter", "limit", "cursor"];

    #[test]
    fn values_are_decoded_and_the_last_of_a_name_counts() {
        let query = Query::parse("filter=a+%3C%20b&&limit=1&limit=7", KNOWN).unwrap();
        assert_eq!(query.get("filter"), Some("a < b"));
        assert_eq!((query.limit(100).unwrap(), query.get("cursor")), (7, None));
        assert_eq!(Query::parse("", KNOWN).unwrap().limit(100).unwrap(), 100);
    }

    #[test]
    fn what_is_wrong_has_a_code() {
        let code = |text: &str| {
            let query = Query::parse(text, KNOWN)?;
            query.limit(1)?;
            query.cursor(|text| text.parse::<u32>().ok())
        };
        assert_eq!(code("cursor=3").unwrap(), Some(3));
        for (text, expected) in [
            ("filters=1", "unknown_field"),
            ("filter=%ff", "bad_query"),
            ("limit=0", "bad_query"),
            ("limit=1001", "bad_query"),
            ("limit=", "bad_query"),
            ("cursor=x", "bad_query"),
        ] {
            assert_eq!(code(text).unwrap_err().code(), expected, "{text}");
        }
    }
}
