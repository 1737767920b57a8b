//! Which connections a command is for: arguments that several commands share, and the fields of the API for them.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;

use super::json::{self, Json};

/// A filter and its params.
#[derive(Args, Debug, Default)]
pub(super) struct FilterArgs {
    /// Only connections for which this expression is true
    #[arg(long, value_name = "EXPRESSION")]
    pub(super) filter: Option<String>,
    /// Bind params.NAME of the filter; may be repeated
    #[arg(long = "param", value_name = "NAME=JSON", value_parser = json::param, requires = "filter")]
    pub(super) params: Vec<(String, Json)>,
}

/// Whose connections are left out.
#[derive(Args, Debug, Default)]
pub(super) struct ExceptArgs {
    /// Leave out this user's connections; may be repeated
    #[arg(long = "except-user", value_name = "USER")]
    except_users: Vec<String>,
    /// Leave out this device's connections; may be repeated
    #[arg(long = "except-device", value_name = "DEVICE")]
    except_devices: Vec<String>,
}

/// The connections of users and channels, narrowed by a filter.
#[derive(Args, Debug)]
pub(super) struct TargetArgs {
    /// The connections of this user; may be repeated
    #[arg(long = "user", value_name = "USER")]
    users: Vec<String>,
    /// The members of this channel; may be repeated
    #[arg(long = "channel", value_name = "CHANNEL")]
    channels: Vec<String>,
    /// The connection with this id; may be repeated
    #[arg(long = "connection", value_name = "ID")]
    connections: Vec<String>,
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    #[command(flatten)]
    except: ExceptArgs,
}

impl TargetArgs {
    /// Whether nothing narrows the target to less than everyone.
    pub(super) fn is_everyone(&self) -> bool {
        // Exceptions do not count: they leave out a few, and mean everyone else.
        self.filter.filter.is_none() && self.to().is_none()
    }

    fn to(&self) -> Option<To<'_>> {
        let Self {
            users,
            channels,
            connections,
            ..
        } = self;

        let is_named = [users, channels, connections]
            .iter()
            .any(|names| !names.is_empty());
        is_named.then_some(To {
            users,
            channels,
            connections,
        })
    }

    /// The fields of the API.
    pub(super) fn fields(&self) -> Target<'_> {
        Target {
            to: self.to(),
            ..Target::new(&self.filter, &self.except)
        }
    }
}

/// The fields of the API that say which connections are meant. Absent: everyone.
#[derive(Serialize)]
pub(super) struct Target<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<To<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<BTreeMap<&'a str, &'a RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    except: Option<Except<'a>>,
}

impl<'a> Target<'a> {
    /// Everyone who matches, except some.
    pub(super) fn new(filter: &'a FilterArgs, except: &'a ExceptArgs) -> Self {
        Self {
            to: None,
            filter: filter.filter.as_deref(),
            params: json::params(&filter.params),
            except: Except::of(except),
        }
    }
}

#[derive(Serialize)]
struct To<'a> {
    users: &'a [String],
    channels: &'a [String],
    connections: &'a [String],
}

#[derive(Serialize)]
struct Except<'a> {
    users: &'a [String],
    devices: &'a [String],
}

impl<'a> Except<'a> {
    fn of(args: &'a ExceptArgs) -> Option<Self> {
        let (users, devices) = (&args.except_users[..], &args.except_devices[..]);
        let names_some = !users.is_empty() || !devices.is_empty();
        names_some.then_some(Self { users, devices })
    }
}
