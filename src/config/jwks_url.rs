//! The address of a set of public keys.

use std::{fmt, net::IpAddr};

use hyper::Uri;
use serde::Deserialize;

/// Where the public keys of the signer of client tokens are fetched from: `https`, or `http` on this machine.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct JwksUrl(Uri);

impl fmt::Debug for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwksUrl({self})")
    }
}

/// An address that keys are not fetched from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadJwksUrl {
    /// Not a URL with a host. So the text does not show it: what it holds instead may be a secret.
    #[error("it is not an address of keys such as https://id.example.com/.well-known/jwks.json")]
    Form,
    /// Anyone on the way could replace a key.
    #[error(
        "\"{0}\" is not https; keys are fetched without TLS from this machine only (localhost, 127.0.0.1, [::1])"
    )]
    Insecure(String),
    /// Credentials in the URL would be shown by whatever shows URLs. So the text does not show it.
    #[error("an address of keys must not hold a user or password")]
    Credentials,
}

impl JwksUrl {
    /// Whether TLS is spoken.
    pub fn is_secure(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// Name or address, without brackets.
    pub fn host(&self) -> &str {
        bare(self.0.host().unwrap_or_default())
    }

    /// The port: as given, or that of the scheme.
    pub fn port(&self) -> u16 {
        self.0
            .port_u16()
            .unwrap_or(if self.is_secure() { 443 } else { 80 })
    }

    /// Host and port as the URL has them, for the `Host` header.
    pub fn authority(&self) -> &str {
        self.0
            .authority()
            .map_or("", |authority| authority.as_str())
    }

    /// Path and query.
    pub fn path(&self) -> &str {
        self.0.path_and_query().map_or("/", |path| path.as_str())
    }
}

impl TryFrom<String> for JwksUrl {
    type Error = BadJwksUrl;

    fn try_from(text: String) -> Result<Self, BadJwksUrl> {
        let Ok(url) = text.parse::<Uri>() else {
            return Err(BadJwksUrl::Form);
        };
        let Some(authority) = url.authority() else {
            return Err(BadJwksUrl::Form);
        };
        if authority.as_str().contains('@') {
            return Err(BadJwksUrl::Credentials);
        }

        // A port that is too large reads as none, which would stand for the usual one.
        let has_port = authority.as_str().len() > authority.host().len();
        if authority.host().is_empty() || (has_port && authority.port_u16().is_none()) {
            return Err(BadJwksUrl::Form);
        }

        match url.scheme_str() {
            Some("https") => Ok(Self(url)),
            Some("http") if is_this_machine(authority.host()) => Ok(Self(url)),
            Some("http") => Err(BadJwksUrl::Insecure(Self(url).to_string())),
            _ => Err(BadJwksUrl::Form),
        }
    }
}

/// The address as a log may show it: without its query, where some services want a key.
impl fmt::Display for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.scheme_str().unwrap_or_default();
        write!(f, "{scheme}://{}{}", self.authority(), self.0.path())?;
        f.write_str(if self.0.query().is_some() { "?…" } else { "" })
    }
}

fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || bare(host)
            .parse::<IpAddr>()
            // `::ffff:127.0.0.1` is this machine as well.
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<JwksUrl, BadJwksUrl> {
        JwksUrl::try_from(text.to_owned())
    }

    #[test]
    fn keys_come_by_https_or_from_this_machine() {
        for (text, secure, host, port, path) in [
            (
                "https://id.example.com/keys?p=a",
                true,
                "id.example.com",
                443,
                "/keys?p=a",
            ),
            (
                "https://id.example.com:8443",
                true,
                "id.example.com",
                8443,
                "/",
            ),
            (
                "http://127.0.0.1:9000/jwks.json",
                false,
                "127.0.0.1",
                9000,
                "/jwks.json",
            ),
            ("http://localhost/k", false, "localhost", 80, "/k"),
            ("http://[::1]:1/k", false, "::1", 1, "/k"),
        ] {
            let url = read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(
                (url.is_secure(), url.host(), url.port(), url.path()),
                (secure, host, port, path),
                "{text}"
            );
        }
        for text in [
            "http://id.example.com/keys",
            "http://10.0.0.1/keys",
            "http://localhost.example.com/",
        ] {
            assert_eq!(read(text), Err(BadJwksUrl::Insecure(text.to_owned())));
        }
        for text in [
            "",
            "/keys",
            "id.example.com",
            "ftp://id.example.com",
            "file:///etc/keys",
            "https://a:b/",
        ] {
            assert_eq!(read(text), Err(BadJwksUrl::Form), "{text}");
        }
        assert_eq!(
            read("https://user:pass@id.example.com/"),
            Err(BadJwksUrl::Credentials)
        );
    }
}
