//! Origins of pages (RFC 6454), as the setting `origins` lists them and as browsers send them.

use std::str::FromStr;

/// An entry of `origins`: which pages it lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OriginPattern {
    /// `*`: every page.
    Any,
    /// The pages of one origin, or of the subdomains of its host.
    Of {
        scheme: Box<str>,
        /// The host, or what comes after `*.`; in lower case.
        host: Box<str>,
        /// The port, unless it is the scheme's own.
        port: Option<u16>,
        /// `*.` preceded the host: every host below it, at any depth, and not the host itself.
        is_parent: bool,
    },
}

/// Why a text is not an origin, nor a pattern of some.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadOrigin {
    #[error("write \"*\", or scheme and host, such as \"https://example.com\"")]
    Scheme,
    #[error("leave out what comes after the host, such as in \"https://example.com\"")]
    Path,
    #[error(
        "a host is made of letters, digits, \"-\" and \".\", as browsers send it: other letters are written with \"xn--\""
    )]
    Host,
    #[error("\"{0}\" is not a port")]
    Port(String),
    #[error(
        "\"*\" stands for whole names before a host, such as in \"https://*.example.com\", or alone for every origin"
    )]
    Star,
    #[error(
        "\"*.{0}\" would let in the pages of everyone who has a name below \"{0}\"; name a domain, such as in \
         \"https://*.example.com\""
    )]
    Suffix(String),
    #[error("\"{0}\" is an address, and has no names below it")]
    Address(String),
}

/// An origin in its three parts.
struct OriginParts<'a> {
    scheme: &'a str,
    host: &'a str,
    /// The port, unless it is the scheme's own: `https://a` and `https://a:443` are one origin.
    port: Option<u16>,
}

impl<'a> OriginParts<'a> {
    fn of(origin: &'a str) -> Result<Self, BadOrigin> {
        let (scheme, rest) = origin.split_once("://").ok_or(BadOrigin::Scheme)?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if !is_scheme {
            return Err(BadOrigin::Scheme);
        }
        if rest.contains(['/', '?', '#', '@']) {
            return Err(BadOrigin::Path);
        }

        // The colons of an IPv6 address are in brackets.
        let (host, port) = match rest.rfind(':') {
            Some(at) if !rest.ends_with(']') => (&rest[..at], Some(&rest[at + 1..])),
            _ => (rest, None),
        };

        let number = |port: &str| {
            // `parse` alone would take `+80`.
            let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
            let number = port.parse().ok().filter(|_| is_number);
            number.ok_or_else(|| BadOrigin::Port(port.to_owned()))
        };

        let port = port.map(number).transpose()?;
        Ok(Self {
            scheme,
            host,
            port: port.filter(|port| own_port(scheme) != Some(*port)),
        })
    }
}

/// The port that `scheme` means if none is said.
fn own_port(scheme: &str) -> Option<u16> {
    let is = |name: &str| scheme.eq_ignore_ascii_case(name);
    if is("https") || is("wss") {
        Some(443)
    } else if is("http") || is("ws") {
        Some(80)
    } else {
        None
    }
}

impl FromStr for OriginPattern {
    type Err = BadOrigin;

    fn from_str(text: &str) -> Result<Self, BadOrigin> {
        if text == "*" {
            return Ok(Self::Any);
        }

        let OriginParts { scheme, host, port } = OriginParts::of(text)?;
        let (host, is_parent) = match host.strip_prefix("*.") {
            Some(host) => (host, true),
            None => (host, false),
        };

        if host.contains('*') {
            return Err(BadOrigin::Star);
        }
        if !is_host(host) {
            return Err(BadOrigin::Host);
        }

        if is_parent {
            check_parent(host)?;
        }

        Ok(Self::Of {
            scheme: scheme.to_ascii_lowercase().into(),
            host: host.to_ascii_lowercase().into(),
            port,
            is_parent,
        })
    }
}

fn is_host(host: &str) -> bool {
    let is_address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    is_address || is_name(host)
}

fn is_name(host: &str) -> bool {
    (1..=255).contains(&host.len())
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Whether the names below `host` may be let in together.
fn check_parent(host: &str) -> Result<(), BadOrigin> {
    let labels: Vec<&str> = host.split('.').collect();
    if host.starts_with('[') || labels.iter().all(|label| label.parse::<u8>().is_ok()) {
        return Err(BadOrigin::Address(host.to_owned()));
    }
    if labels.iter().any(|label| label.is_empty()) {
        return Err(BadOrigin::Host);
    }
    // Names below localhost are of this machine alone. That "co.uk" is nobody's own takes a list to know.
    if labels.len() == 1 && !host.eq_ignore_ascii_case("localhost") {
        return Err(BadOrigin::Suffix(host.to_owned()));
    }
    Ok(())
}

impl OriginPattern {
    /// Whether a page of `origin`, as a browser names it, is one of these. Allocates nothing.
    pub(crate) fn matches(&self, origin: &str) -> bool {
        let Self::Of {
            scheme,
            host,
            port,
            is_parent,
        } = self
        else {
            return true;
        };

        let Ok(given) = OriginParts::of(origin) else {
            return false;
        };

        let is_host = if *is_parent {
            is_below(given.host, host)
        } else {
            given.host.eq_ignore_ascii_case(host)
        };

        is_host && given.port == *port && given.scheme.eq_ignore_ascii_case(scheme)
    }
}

/// Whether `name` is a host below `parent`, at any depth.
fn is_below(name: &str, parent: &str) -> bool {
    let Some(at) = name.len().checked_sub(parent.len()) else {
        return false;
    };
    // Only ASCII is a host, and so no index is inside a character.
    if !is_name(name) || !name[at..].eq_ignore_ascii_case(parent) {
        return false;
    }
    let below = name[..at].strip_suffix('.');
    below.is_some_and(|below| below.split('.').all(|label| !label.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, origin: &str) -> bool {
        pattern.parse::<OriginPattern>().unwrap().matches(origin)
    }

    #[test]
    fn an_origin_is_compared_as_browsers_mean_it() {
        for (pattern, origin) in [
            ("*", "null"),
            ("*", "https://anything.example:8443"),
            ("https://a.example", "https://a.example"),
            ("https://a.example", "https://a.example:443"),
            ("https://a.example:443", "https://a.example"),
            ("http://a.example:80", "http://a.example"),
            ("HTTPS://A.Example", "https://a.example"),
            ("https://a.example", "HTTPS://A.EXAMPLE"),
            ("https://a.example:8443", "https://a.example:8443"),
            (
                "https://xn--bcher-kva.example",
                "https://xn--bcher-kva.example",
            ),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("http://[::1]", "http://[::1]:80"),
            ("capacitor://localhost", "capacitor://localhost"),
        ] {
            assert!(matches(pattern, origin), "{pattern} {origin}");
        }
        for (pattern, origin) in [
            ("https://a.example", "http://a.example"),
            ("https://a.example", "https://a.example:80"),
            ("http://a.example", "http://a.example:443"),
            ("https://a.example", "https://a.example:8443"),
            ("https://a.example", "https://b.a.example"),
            ("https://a.example", "https://a.example.evil.example"),
            ("https://a.example", "https://a.example@evil.example"),
            ("https://a.example", "https://a.example/"),
            ("https://a.example", "null"),
            ("https://a.example", ""),
            ("https://a.example", "https://a.example:+443"),
            ("capacitor://localhost", "capacitor://localhost:443"),
        ] {
            assert!(!matches(pattern, origin), "{pattern} {origin}");
        }
    }

    #[test]
    fn a_star_stands_for_names_below_a_host_and_never_for_the_host() {
        for origin in [
            "https://a.example.com",
            "https://a.b.c.example.com",
            "https://A.Example.COM:443",
            "https://xn--bcher-kva.example.com",
        ] {
            assert!(matches("https://*.example.com", origin), "{origin}");
        }
        for origin in [
            "https://example.com",
            "https://.example.com",
            "https://a..example.com",
            "https://evilexample.com",
            "https://a.example.com.evil.example",
            "https://evil.example/.example.com",
            "https://evil.example?.example.com",
            "http://a.example.com",
            "https://a.example.com:8443",
            "https://é.example.com",
            "null",
        ] {
            assert!(!matches("https://*.example.com", origin), "{origin}");
        }
        assert!(matches(
            "http://*.localhost:3000",
            "http://app.localhost:3000"
        ));
        assert!(!matches("http://*.localhost:3000", "http://app.localhost"));
    }

    #[test]
    fn what_lets_in_more_than_it_says_is_refused() {
        let star = BadOrigin::Star;
        for (pattern, error) in [
            ("example.com", BadOrigin::Scheme),
            ("", BadOrigin::Scheme),
            ("https:/example.com", BadOrigin::Scheme),
            ("*://example.com", BadOrigin::Scheme),
            ("https://example.com/", BadOrigin::Path),
            ("https://example.com/app", BadOrigin::Path),
            ("https://user@example.com", BadOrigin::Path),
            ("https://", BadOrigin::Host),
            ("https://*.", BadOrigin::Host),
            ("https://*.a..example", BadOrigin::Host),
            ("https://bücher.example", BadOrigin::Host),
            ("https://[::g]", BadOrigin::Host),
            ("https://a.example, https://b.example", BadOrigin::Path),
            ("https://*", star.clone()),
            ("https://a*.example.com", star.clone()),
            ("https://a.*.example.com", star.clone()),
            ("https://*.*.example.com", star.clone()),
            ("https://*example.com", star),
            ("https://*.com", BadOrigin::Suffix("com".to_owned())),
            (
                "https://*.127.0.0.1",
                BadOrigin::Address("127.0.0.1".to_owned()),
            ),
            ("https://*.[::1]", BadOrigin::Address("[::1]".to_owned())),
            ("https://a.example:", BadOrigin::Port(String::new())),
            ("https://a.example:http", BadOrigin::Port("http".to_owned())),
            (
                "https://a.example:65536",
                BadOrigin::Port("65536".to_owned()),
            ),
            ("https://a.example:*", BadOrigin::Port("*".to_owned())),
        ] {
            assert_eq!(pattern.parse::<OriginPattern>(), Err(error), "{pattern}");
        }
    }
}
