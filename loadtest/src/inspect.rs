//! Questions to a server beside the load: how it answers a filter, and what it counts.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde::Deserialize;

use crate::{
    driver::Api,
    error::{Doing, Result, failed},
    http,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a server answers a filter.
#[derive(Debug, Deserialize)]
pub(crate) struct Explained {
    pub(crate) plan: Plan,
    /// Connections that match.
    pub(crate) matched: usize,
}

/// Where the server looks.
#[derive(Debug, Deserialize)]
pub(crate) struct Plan {
    /// `index`, `scan` or `nobody`.
    pub(crate) access: String,
    /// The plan in words.
    pub(crate) description: String,
}

/// Asks how `filter` is answered, and whom it matches.
pub(crate) fn explain(api: &Api, filter: &str) -> Result<Explained> {
    let body = serde_json::json!({ "filter": filter }).to_string();
    let answer = ask(api, "POST", "/v1/explain", &body)?;
    serde_json::from_str(&answer)
        .map_err(std::io::Error::from)
        .doing("/v1/explain answers otherwise")
}

/// Fails unless the server says that it is fit for traffic.
pub(crate) fn ready(api: &Api) -> Result<()> {
    ask(api, "GET", "/readyz", "").map(|_| ())
}

/// How many connections the server counts.
pub(crate) fn connections(api: &Api) -> Result<u64> {
    let metrics = ask(api, "GET", "/metrics", "")?;
    match sum(&metrics, "fanfare_connections", "") {
        Some(count) => Ok(count),
        None => failed("/metrics has no fanfare_connections"),
    }
}

/// Connections that have ended since the server began, and memberships of channels now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endings {
    /// By whichever side, and for whatever reason.
    pub(crate) ended: u64,
    /// Of open connections; one that may yet come back is none.
    pub(crate) memberships: u64,
}

/// Asks how many connections have ended, and how many are in channels.
pub(crate) fn endings(api: &Api) -> Result<Endings> {
    let metrics = ask(api, "GET", "/metrics", "")?;
    let count = |name| sum(&metrics, name, "").unwrap_or(0);
    Ok(Endings {
        ended: count("fanfare_closes_total"),
        memberships: count("fanfare_memberships"),
    })
}

/// What the server has done to those that read too slowly, since it began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slowness {
    /// Connections that it closed for it.
    pub(crate) closed: u64,
    /// Events that they lost by it.
    pub(crate) dropped: u64,
}

/// Asks what the server has done to those that read too slowly.
pub(crate) fn slowness(api: &Api) -> Result<Slowness> {
    let metrics = ask(api, "GET", "/metrics", "")?;
    // A series is there once it has counted something.
    let count = |name, label| sum(&metrics, name, label).unwrap_or(0);
    Ok(Slowness {
        closed: count("fanfare_closes_total", r#"code="4101""#),
        dropped: count("fanfare_drops_total", r#"reason="slow_consumer""#)
            + count("fanfare_drops_total", r#"reason="oldest""#),
    })
}

/// The sum of a metric over all series whose labels contain `label`; `None` where there is none.
pub(crate) fn sum(metrics: &str, name: &str, label: &str) -> Option<u64> {
    let values = metrics.lines().filter_map(|line| {
        let rest = line
            .strip_prefix(name)
            .filter(|rest| rest.starts_with(['{', ' ']))?;
        let (labels, value) = rest.rsplit_once(' ')?;
        labels
            .contains(label)
            .then(|| value.parse::<f64>().ok())
            .flatten()
    });
    values
        .reduce(|sum, value| sum + value)
        .map(|sum| sum as u64)
}

/// The body of the answer to one request on a connection of its own.
fn ask(api: &Api, method: &str, path: &str, body: &str) -> Result<String> {
    let key = api.authorization();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{key}Content-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        api.address,
        body.len()
    );
    let exchange = || {
        let mut socket = TcpStream::connect(api.address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).map(|_| answer)
    };
    let answer = exchange().doing(format!("{} does not answer {method} {path}", api.address))?;
    match http::parse(&answer) {
        Some(message) if message.status() == 200 => {
            Ok(String::from_utf8_lossy(message.body).into_owned())
        }
        Some(message) => {
            let why = String::from_utf8_lossy(message.body);
            failed(format!(
                "the server refused {method} {path}: {} {why}",
                message.first_line
            ))
        }
        None => failed(format!("the server cut its answer to {method} {path} off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_of_its_series() {
        let metrics =
            "# TYPE a gauge\na{app=\"x\",code=\"1\"} 2\na{app=\"y\",code=\"2\"} 3\nab{} 9\n# EOF\n";
        assert_eq!(sum(metrics, "a", ""), Some(5));
        assert_eq!(sum(metrics, "a", "code=\"2\""), Some(3));
        assert_eq!(sum(metrics, "c", ""), None);
    }
}
