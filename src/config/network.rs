//! Networks whose `X-Forwarded-For` is believed.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

/// Reads a network, or an address, which is a network of one.
///
/// # Errors
/// Says what a network looks like.
pub(super) fn parse(text: &str) -> Result<IpNet, String> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| {
            "a network is an address and the length of its prefix, such as 10.0.0.0/8".to_owned()
        })
}

/// Reads the key `trusted_proxies`.
pub(super) fn deserialize_list<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    struct Network(IpNet);

    impl<'de> Deserialize<'de> for Network {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            let expected = "a network in quotes, such as \"10.0.0.0/8\"";
            super::text::deserialize(from, expected, parse).map(Self)
        }
    }

    let networks = Vec::<Network>::deserialize(from)?;
    Ok(networks.into_iter().map(|network| network.0).collect())
}
