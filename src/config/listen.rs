//! Addresses to listen on, in the forms that people write.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

/// The port of `listen` where none is given.
pub(super) const PORT: u16 = 7070;

/// The port of `admin_listen` where none is given.
pub(super) const ADMIN_PORT: u16 = 7071;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// IPv4 only: `[::]` serves both families, but fails where the system has IPv6 turned off.
const ALL_INTERFACES: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// An address to listen on, as people write it.
///
/// | text | means |
/// | --- | --- |
/// | `127.0.0.1:7070`, `[::1]:7070` | this address and port |
/// | `127.0.0.1`, `::1` | this address, with the default port |
/// | `localhost:7070`, `localhost` | `127.0.0.1` |
/// | `7070` | this port of `127.0.0.1` |
/// | `:7070` | this port of all IPv4 interfaces, `0.0.0.0` |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    ip: IpAddr,
    port: Option<u16>,
}

/// The text is not an address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadListenAddress {
    /// A URL.
    #[error("an address to listen on has no scheme and no path: write {0}")]
    Url(String),
    /// The name of a host.
    #[error(
        "\"{0}\" is a name: write an IP address, such as 127.0.0.1:7070 for this machine or \
         0.0.0.0:7070 for all interfaces"
    )]
    Name(String),
    /// A number that is not a port.
    #[error("\"{0}\" is not a port: a port is a number from 0 to 65535")]
    Port(String),
    /// Anything else.
    #[error("write ADDRESS:PORT, such as 127.0.0.1:7070, or a port alone for this machine")]
    Form,
}

impl ListenAddress {
    /// The address, with `default` as its port where none was given.
    pub fn or_port(self, default: u16) -> SocketAddr {
        SocketAddr::new(self.ip, self.port.unwrap_or(default))
    }

    /// A port from the variable `PORT`: of all interfaces if `public`, otherwise of this machine.
    pub(super) fn of_port(text: &str, public: bool) -> Result<SocketAddr, BadListenAddress> {
        let ip = if public { ALL_INTERFACES } else { LOOPBACK };
        Ok(SocketAddr::new(ip, port(text)?))
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self {
            ip: address.ip(),
            port: Some(address.port()),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = BadListenAddress;

    fn from_str(text: &str) -> Result<Self, BadListenAddress> {
        let text = text.trim();
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(address.into());
        }

        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(ip) = bare.parse() {
            return Ok(Self { ip, port: None });
        }
        if let Some((_, rest)) = text.split_once("://") {
            let authority = rest.split('/').next().unwrap_or_default();
            return Err(BadListenAddress::Url(authority.to_owned()));
        }

        // IPv6 addresses with a port have been read above, so what follows the last colon is a port.
        let (host, number) = match text.rsplit_once(':') {
            Some((host, number)) => (host, Some(number)),
            None if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                ("localhost", Some(text))
            }
            None => (text, None),
        };

        let ip = match host {
            "" if number.is_some() => ALL_INTERFACES,
            _ if host.eq_ignore_ascii_case("localhost") => LOOPBACK,
            // With a good port the whole would have been read above.
            _ if is_ip(host) => {
                port(number.unwrap_or_default())?;
                return Err(BadListenAddress::Form);
            }
            _ => return Err(not_an_ip(host)),
        };

        Ok(Self {
            ip,
            port: number.map(port).transpose()?,
        })
    }
}

fn port(text: &str) -> Result<u16, BadListenAddress> {
    text.parse()
        .map_err(|_| BadListenAddress::Port(text.to_owned()))
}

fn is_ip(host: &str) -> bool {
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    host.parse::<Ipv4Addr>().is_ok()
        || bracketed.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok())
}

/// What is wrong with a host that is not an address.
fn not_an_ip(host: &str) -> BadListenAddress {
    let is_name = host.starts_with(|first: char| first.is_ascii_alphabetic())
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    if is_name {
        BadListenAddress::Name(host.to_owned())
    } else {
        BadListenAddress::Form
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Address;

        impl Visitor<'_> for Address {
            type Value = ListenAddress;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address in quotes, such as \"127.0.0.1:7070\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ListenAddress, E> {
                text.parse().map_err(E::custom)
            }

            // A port alone needs no quotes.
            fn visit_i64<E: Error>(self, port: i64) -> Result<ListenAddress, E> {
                port.to_string().parse().map_err(E::custom)
            }
        }

        from.deserialize_any(Address)
    }
}

/// Reads the key `listen`.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    ListenAddress::deserialize(from).map(|address| address.or_port(PORT))
}

/// Reads the key `admin_listen`.
pub(super) fn deserialize_admin<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<SocketAddr>, D::Error> {
    ListenAddress::deserialize(from).map(|address| Some(address.or_port(ADMIN_PORT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_form_is_read() {
        for (text, expected) in [
            ("127.0.0.1:7079", "127.0.0.1:7079"),
            ("[::1]:7079", "[::1]:7079"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            ("localhost:7079", "127.0.0.1:7079"),
            ("LocalHost", "127.0.0.1:7070"),
            ("7079", "127.0.0.1:7079"),
            (":7079", "0.0.0.0:7079"),
            ("127.0.0.1", "127.0.0.1:7070"),
            ("::1", "[::1]:7070"),
            ("[::]", "[::]:7070"),
            (" 7079 ", "127.0.0.1:7079"),
        ] {
            let address: ListenAddress = text
                .parse()
                .unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(address.or_port(PORT).to_string(), expected, "{text}");
        }
        let admin: ListenAddress = "127.0.0.1".parse().unwrap();
        assert_eq!(admin.or_port(ADMIN_PORT).port(), 7071);
    }

    #[test]
    fn other_forms_are_refused_with_what_to_write() {
        for (text, says) in [
            (
                "events.example.com:7070",
                "\"events.example.com\" is a name",
            ),
            ("here", "\"here\" is a name"),
            ("http://127.0.0.1:7070/", "write 127.0.0.1:7070"),
            ("localhost:", "\"\" is not a port"),
            ("localhost:http", "\"http\" is not a port"),
            ("70000", "\"70000\" is not a port"),
            ("127.0.0.1:70911", "\"70911\" is not a port"),
            ("[::1]:70911", "\"70911\" is not a port"),
            (":", "is not a port"),
            ("", "write ADDRESS:PORT"),
            ("*:7070", "write ADDRESS:PORT"),
            ("127.0.0.1:7070:1", "write ADDRESS:PORT"),
            ("127.0.0.256:7070", "write ADDRESS:PORT"),
        ] {
            let error = text.parse::<ListenAddress>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_port_of_the_platform_is_public_only_with_keys() {
        let of = |text, public| ListenAddress::of_port(text, public).map(|at| at.to_string());
        assert_eq!(of("8080", true), Ok("0.0.0.0:8080".to_owned()));
        assert_eq!(of("8080", false), Ok("127.0.0.1:8080".to_owned()));
        assert!(of("http", true).is_err() && of("", false).is_err());
    }
}
