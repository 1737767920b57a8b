//! Whom a call means: from names and a filter to what shards can look up.

use std::sync::Arc;

use serde_json::value::{RawValue, to_raw_value};

use super::{Node, NodeError};
use crate::{
    filter::{Bound, Value},
    hub::{Except, Recipients, Selection, channel_key, user_key},
    id::{AppId, ConnectionId},
    limits::{CONNECTION_ID_BYTES, DEVICE_BYTES, TARGET_NAMES, USER_BYTES},
    protocol::{
        envelope::{Names, WireTarget},
        event::{Exceptions, channel_name},
    },
};

/// Which connections an event is for, as a caller says it.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// The union of what is named; `None` is everyone.
    pub to: Option<To>,
    /// A filter that narrows it, at most [`FILTER_BYTES`](crate::filter::limits::FILTER_BYTES) long.
    pub filter: Option<String>,
    /// An object whose members the filter sees as `params.*`.
    pub params: Option<Value>,
    /// Connections that are left out, whatever the rest says.
    pub except: Exceptions,
}

/// Connections named one by one, by their users or by their channels.
#[derive(Clone, Debug, Default)]
pub struct To {
    /// All connections of these users.
    pub users: Vec<String>,
    /// The members of these channels.
    pub channels: Vec<String>,
    /// These connections.
    pub connections: Vec<String>,
}

impl Target {
    /// The members of `channel`.
    pub fn channel(channel: &str) -> Self {
        let to = To {
            channels: vec![channel.to_owned()],
            ..To::default()
        };
        Self {
            to: Some(to),
            ..Self::default()
        }
    }

    /// All connections of `users`.
    pub fn users(users: Vec<String>) -> Self {
        Self {
            to: Some(To {
                users,
                ..To::default()
            }),
            ..Self::default()
        }
    }

    /// The same for another node, without what is `own` to leave out of it.
    pub(super) fn wire_target(&self, own: Option<ConnectionId>) -> WireTarget {
        let to = self.to.as_ref().map(|to| Names {
            users: to.users.clone(),
            channels: to.channels.clone(),
            connections: to.connections.clone(),
        });

        let mut except = self.except.clone();
        except.connections.extend(own.map(|id| id.to_string()));
        WireTarget {
            to,
            filter: self.filter.clone(),
            // A value came from JSON, and goes back to it.
            params: self
                .params
                .as_ref()
                .and_then(|params| to_raw_value(params).ok()),
            except,
        }
    }

    /// Reads what another node says of whom it means.
    pub(super) fn from_wire(wire_target: WireTarget) -> Result<Self, NodeError> {
        let params = |params: Box<RawValue>| {
            // It was written from a value.
            Value::from_json(&mut params.get().as_bytes().to_vec(), None)
                .map_err(|_| NodeError::Failed)
        };

        Ok(Self {
            to: wire_target.to.map(|to| To {
                users: to.users,
                channels: to.channels,
                connections: to.connections,
            }),
            filter: wire_target.filter,
            params: wire_target.params.map(params).transpose()?,
            except: wire_target.except,
        })
    }

    /// Refuses lists that are too long, names that are too long to be anyone's, and what can be no channel.
    pub(super) fn check(&self) -> Result<(), NodeError> {
        let Self { to, except, .. } = self;
        if let Some(to) = to {
            check_names("to.users", &to.users, USER_BYTES)?;
            check_names("to.connections", &to.connections, CONNECTION_ID_BYTES)?;
            check_count("to.channels", &to.channels)?;
            to.channels
                .iter()
                .try_for_each(|channel| channel_name(channel))?;
        }

        check_names("except.users", &except.users, USER_BYTES)?;
        check_names(
            "except.connections",
            &except.connections,
            CONNECTION_ID_BYTES,
        )?;

        check_names("except.devices", &except.devices, DEVICE_BYTES)
    }

    /// What shards look up for a target that was checked, with its filter as `bound`.
    pub(super) fn selection(self, app: AppId, bound: Option<Arc<Bound>>) -> Selection {
        let ids = |names: &[String]| names.iter().filter_map(|id| id.parse().ok()).collect();
        let Self { to, except, .. } = self;

        Selection {
            app,
            recipients: to.map(|to| Recipients {
                users: to.users.iter().map(String::as_str).map(user_key).collect(),
                channels: to
                    .channels
                    .iter()
                    .map(String::as_str)
                    .map(channel_key)
                    .collect(),
                connections: ids(&to.connections),
            }),

            filter: bound,
            except: Except {
                users: except.users.into_iter().map(Into::into).collect(),
                connections: ids(&except.connections),
                devices: except.devices.into_iter().map(Into::into).collect(),
            },
        }
    }

    /// The one channel that this is for, however narrowed.
    pub(super) fn one_channel(&self) -> Option<&str> {
        match &self.to {
            Some(To {
                users,
                channels,
                connections,
            }) if users.is_empty() && connections.is_empty() => {
                if let [channel] = &channels[..] {
                    Some(channel)
                } else {
                    None
                }
            }
            _ => None,
        }
    }

    /// The users that this is for, if it is for nobody else.
    pub(super) fn only_users(&self) -> Option<&[String]> {
        match &self.to {
            Some(To {
                users,
                channels,
                connections,
            }) if !users.is_empty() && channels.is_empty() && connections.is_empty() => Some(users),
            _ => None,
        }
    }
}

impl Node {
    /// Whom another node, or a record in Redis, means here.
    pub(super) async fn selection_of(
        &self,
        app: AppId,
        wire_target: WireTarget,
    ) -> Result<Selection, NodeError> {
        let target = Target::from_wire(wire_target)?;
        let bound = self.compile_aside_of_bus(app, &target).await?;
        self.select(app, target, bound)
    }

    /// Resolves a target: compiles the filter through the app's cache and binds its params, unless it is `bound` already, and reads
    /// the ids.
    ///
    /// A malformed id of a connection names nobody, as does the id of one that has gone.
    ///
    /// # Errors
    /// [`NodeError::Filter`], [`NodeError::TooManyNames`], [`NodeError::NameTooLong`], and [`NodeError::Event`] for what can
    /// be no channel.
    pub(in crate::node) fn select(
        &self,
        app: AppId,
        mut target: Target,
        bound: Option<Arc<Bound>>,
    ) -> Result<Selection, NodeError> {
        target.check()?;
        let filter = (target.filter.take(), target.params.take());
        let bound = match (bound, filter) {
            (Some(bound), _) => Some(bound),
            (None, (Some(text), params)) => Some(self.compile(app, text, params)?),
            (None, (None, _)) => None,
        };
        Ok(target.selection(app, bound))
    }

    pub(super) fn compile(
        &self,
        app: AppId,
        text: String,
        params: Option<Value>,
    ) -> Result<Arc<Bound>, NodeError> {
        match self.app(app).compile(&text, params, &self.metrics) {
            Ok(bound) => Ok(bound),
            Err(error) => Err(NodeError::Filter {
                error,
                source_text: text,
            }),
        }
    }
}

/// Refuses a list that is too long, or that has a name of over `most` bytes. `list` is what its caller calls it.
///
/// What is stored keeps the names of its target, so their lengths are bounded wherever they come from.
pub(crate) fn check_names(
    list: &'static str,
    names: &[String],
    most: usize,
) -> Result<(), NodeError> {
    check_count(list, names)?;
    names
        .iter()
        .try_for_each(|name| check_name(list, name, most))
}

/// Refuses a name of over `most` bytes in the field `list`.
pub(crate) fn check_name(list: &'static str, name: &str, most: usize) -> Result<(), NodeError> {
    if name.len() > most {
        return Err(NodeError::NameTooLong {
            list,
            length: name.len(),
            most,
        });
    }
    Ok(())
}

fn check_count(list: &'static str, names: &[String]) -> Result<(), NodeError> {
    if names.len() > TARGET_NAMES {
        return Err(NodeError::TooManyNames {
            list,
            count: names.len(),
        });
    }
    Ok(())
}
