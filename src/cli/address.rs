//! Where a server is: its URL, in the form that requests need it.

use std::{fmt, str::FromStr};

use hyper::Uri;

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Whether TLS is spoken.
    pub(super) secure: bool,
    /// Name or address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// As the URL has it, for the `Host` header.
    pub(super) authority: String,
    /// The path before every path of the API, without a slash at its end.
    prefix: String,
}

/// The text is not the address of a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadAddress {
    /// Not a URL with a known scheme.
    #[error("write the server's address as http://127.0.0.1:7070 or https://events.example.com")]
    Form,
    /// A host, and no scheme.
    #[error("the scheme is missing: write http://{0}, or https://{0} if the server speaks TLS")]
    Scheme(String),
    /// Credentials in the URL would be shown by whatever shows URLs.
    #[error(
        "an address must not hold a user or password; give the API key with --key or FANFARE_API_KEY"
    )]
    Credentials,
    /// There would be nothing to do with it.
    #[error("an address must not have a query; leave out what follows the ?")]
    Query,
    /// The path of the API, which every request has anyway.
    #[error("leave the path out of --url and FANFARE_URL: the commands add /v1 themselves")]
    Path,
}

impl Address {
    /// The same server without TLS, or with it.
    pub(super) fn with_tls(&self, secure: bool) -> Self {
        Self {
            secure,
            ..self.clone()
        }
    }

    /// The path of a request for `path` of the API.
    pub(super) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }
}

impl Default for Address {
    fn default() -> Self {
        Self {
            secure: false,
            host: "127.0.0.1".to_owned(),
            port: 7070,
            authority: "127.0.0.1:7070".to_owned(),
            prefix: String::new(),
        }
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let url: Uri = text.parse().map_err(|_| BadAddress::Form)?;
        // "localhost:7070" reads as a host and a port.
        if url.scheme().is_none() && !text.contains(['/', '@', '?']) {
            return Err(BadAddress::Scheme(text.to_owned()));
        }

        let secure = match url.scheme_str() {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => return Err(BadAddress::Form),
        };

        let authority = url.authority().ok_or(BadAddress::Form)?;
        if authority.as_str().contains('@') {
            return Err(BadAddress::Credentials);
        }
        if url.query().is_some() {
            return Err(BadAddress::Query);
        }

        let path = url.path().trim_end_matches('/');
        // A gateway may have a `/v1/` of its own in front; what comes after ours is a call's name.
        let is_call = path
            .rsplit_once("/v1/")
            .is_some_and(|(_, call)| !call.contains('/'));
        if path.ends_with("/v1") || is_call {
            return Err(BadAddress::Path);
        }

        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        // A port that is not a number would otherwise be taken for none.
        let has_port = authority.as_str().len() > authority.host().len();
        if host.is_empty() || (has_port && authority.port_u16().is_none()) {
            return Err(BadAddress::Form);
        }

        Ok(Self {
            secure,
            host: host.to_owned(),
            port: authority
                .port_u16()
                .unwrap_or(if secure { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            prefix: path.to_owned(),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_browsers_read_it() {
        for (text, secure, host, port, path) in [
            (
                "http://127.0.0.1:7070",
                false,
                "127.0.0.1",
                7070,
                "/v1/emit",
            ),
            ("ws://localhost:1/", false, "localhost", 1, "/v1/emit"),
            ("http://localhost", false, "localhost", 80, "/v1/emit"),
            (
                "wss://events.example.com",
                true,
                "events.example.com",
                443,
                "/v1/emit",
            ),
            (
                "https://[::1]:7071/base/",
                true,
                "::1",
                7071,
                "/base/v1/emit",
            ),
        ] {
            let address: Address = text
                .parse()
                .unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(
                (
                    address.secure,
                    &*address.host,
                    address.port,
                    &*address.path("/v1/emit")
                ),
                (secure, host, port, path),
                "{text}"
            );
        }
        assert_eq!("http://127.0.0.1:7070".parse(), Ok(Address::default()));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["localhost", "localhost:7070", "events.example.com"] {
            assert_eq!(
                text.parse::<Address>(),
                Err(BadAddress::Scheme(text.to_owned()))
            );
        }
        for text in [
            "",
            "ftp://localhost",
            "http://",
            "http://a:b",
            "http://a:70000",
            "a b",
        ] {
            assert_eq!(text.parse::<Address>(), Err(BadAddress::Form), "{text}");
        }
        assert_eq!(
            "http://u:p@localhost".parse::<Address>(),
            Err(BadAddress::Credentials)
        );
        for path in ["/v1", "/v1/", "/base/v1", "/v1/emit"] {
            assert_eq!(
                format!("http://localhost{path}").parse::<Address>(),
                Err(BadAddress::Path)
            );
        }
        assert_eq!(
            "http://localhost?key=k".parse::<Address>(),
            Err(BadAddress::Query)
        );
    }
}
