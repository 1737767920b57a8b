//! Topics, and the names that they have in Redis.
//!
//! A channel is `fanfare:<namespace>:<app>:<kind>` and, for users and channels, `:<name>`; on Redis Cluster with the
//! tag of its partition after `fanfare:`. A topic that belongs to no app has an empty one. The name comes last, since
//! it may hold anything.

use std::{collections::HashMap, fmt::Write as _, sync::Arc};

use smol_str::SmolStr;

use super::slot;
use crate::id::{AppId, NodeId, base32};

/// What a node can be interested in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// Every node of the namespace.
    Nodes,
    /// One node: requests to it, answers for it, what names its connections.
    Node(NodeId),
    /// Every node that has a connection of the app: what everyone may get.
    App(AppId),
    /// Every node that has a connection of the user.
    User(AppId, SmolStr),
    /// Every node that has a member of the channel.
    Channel(AppId, SmolStr),
    /// Every node where someone hears of who is in the channel. It is in one partition with the channel.
    Watch(AppId, SmolStr),
    /// Messages of programs that act straight through Redis. Its name is part of what is documented, and the same on Redis
    /// Cluster: `fanfare:<namespace>:<app>:dispatch`. Programs use plain PUBLISH, on any node of a cluster.
    Dispatch(AppId),
    /// Messages of Mesa's dispatchers, once it is decided who gets them where.
    Mesa(AppId),
    /// A channel with a name that another system has given it. Not on Redis Cluster.
    Raw(SmolStr),
}

/// The names of one namespace.
#[derive(Debug)]
pub(super) struct Names {
    namespace: String,
    apps: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, AppId, ahash::RandomState>,
    /// Whether names carry tags.
    tagged: bool,
}

impl Names {
    pub(super) fn new(namespace: &str, apps: Vec<Arc<str>>, tagged: bool) -> Self {
        let ids = apps
            .iter()
            .enumerate()
            .map(|(n, app)| (app.clone(), AppId(n as u16)))
            .collect();
        Self {
            namespace: namespace.to_owned(),
            apps,
            ids,
            tagged,
        }
    }

    /// Whether this is a Redis Cluster, with its sharded channels.
    pub(super) fn is_tagged(&self) -> bool {
        self.tagged
    }

    /// Whether the channel of `topic` is a sharded one.
    pub(super) fn is_sharded(&self, topic: &Topic) -> bool {
        self.tagged && !matches!(topic, Topic::Dispatch(_) | Topic::Raw(_))
    }

    /// How many partitions there are: those with tags, and one per app for [`Topic::Dispatch`].
    pub(super) fn partitions(&self) -> u16 {
        slot::PARTITIONS + self.apps.len() as u16
    }

    /// The partition of `topic`. The same on every node, whatever apps it has.
    pub(super) fn partition(&self, topic: &Topic) -> u16 {
        let hash = match topic {
            // It is a partition of its own: programs publish to its channel by a name without a
            // tag, so on Redis Cluster the app's name decides about the slot.
            Topic::Dispatch(app) => return slot::PARTITIONS + app.0,
            Topic::Nodes => hash(&[b"n"]),
            Topic::Node(node) => hash(&[b"i", &node.0.to_be_bytes()]),
            Topic::App(app) | Topic::Mesa(app) => hash(&[b"a", self.app(*app).as_bytes()]),
            Topic::Raw(name) => hash(&[b"r", name.as_bytes()]),
            Topic::User(app, name) => {
                hash(&[b"u", self.app(*app).as_bytes(), b":", name.as_bytes()])
            }
            Topic::Channel(app, name) | Topic::Watch(app, name) => {
                hash(&[b"c", self.app(*app).as_bytes(), b":", name.as_bytes()])
            }
        };

        (hash % u64::from(slot::PARTITIONS)) as u16
    }

    /// The slot of a partition; meaningful on Redis Cluster only.
    pub(super) fn slot(&self, partition: u16) -> u16 {
        slot::of(self.own(partition, "slot").as_bytes())
    }

    /// The Redis channel of `topic`.
    pub(super) fn channel(&self, topic: &Topic) -> Vec<u8> {
        self.name(topic, None).into_bytes()
    }

    /// The name of a key in the partition of `home`.
    pub(super) fn key(&self, home: &Topic, suffix: &str) -> Vec<u8> {
        self.name(home, Some(suffix)).into_bytes()
    }

    /// The name of a key of an app in the partition of `home`, one of its topics. Without tags there is one for the app.
    pub(super) fn app_key(&self, home: &Topic, app: AppId, suffix: &str) -> String {
        let mut text = self.prefix(self.partition(home));
        let _ = write!(text, "{}:{}:{suffix}", self.namespace, self.app(app));
        text
    }

    /// Topics of an app, one for each of the keys that [`Self::app_key`] makes.
    pub(super) fn app_homes(&self, app: AppId) -> Vec<Topic> {
        let partitions = if self.tagged { slot::PARTITIONS } else { 1 };
        let of = |partition| {
            // Names are tried until one falls into the partition.
            let mut names = (0u32..).map(|n| Topic::User(app, n.to_string().into()));
            names.find(|name| !self.tagged || self.partition(name) == partition)
        };
        (0..partitions).filter_map(of).collect()
    }

    /// A name that belongs to no app, in a partition.
    pub(super) fn own(&self, partition: u16, name: &str) -> String {
        let mut text = self.prefix(partition);
        // Writing to a String cannot fail, here and below.
        let _ = write!(text, "{}::{name}", self.namespace);
        text
    }

    /// The key that says which primary keeps a partition.
    pub(super) fn primary_key(&self, partition: u16) -> String {
        self.own(partition, "primary")
    }

    fn app(&self, app: AppId) -> &str {
        &self.apps[usize::from(app.0)]
    }

    fn prefix(&self, partition: u16) -> String {
        let mut text = String::with_capacity(96);
        text.push_str("fanfare:");
        if self.tagged {
            let app = partition.checked_sub(slot::PARTITIONS);
            let _ = match app {
                None => write!(text, "{{{}}}:", slot::tag(partition)),
                // The channel that programs publish to is the tag, so that its keys are in the slot
                // of the channel.
                Some(app) => {
                    write!(
                        text,
                        "{{fanfare:{}:{}:dispatch}}:",
                        self.namespace,
                        self.app(AppId(app))
                    )
                }
            };
        }

        text
    }

    fn name(&self, topic: &Topic, suffix: Option<&str>) -> String {
        if let (Topic::Raw(name), None) = (topic, suffix) {
            return name.to_string();
        }

        let mut text = match (topic, suffix) {
            // Programs publish to it by this name, without a tag.
            (Topic::Dispatch(_), None) => "fanfare:".to_owned(),
            _ => self.prefix(self.partition(topic)),
        };

        let (app, kind) = match topic {
            Topic::Nodes => ("", "nodes"),
            Topic::Node(_) => ("", "node"),
            Topic::App(app) => (self.app(*app), "all"),
            Topic::User(app, _) => (self.app(*app), "user"),
            Topic::Channel(app, _) => (self.app(*app), "channel"),
            Topic::Watch(app, _) => (self.app(*app), "watch"),
            Topic::Dispatch(app) => (self.app(*app), "dispatch"),
            Topic::Mesa(app) => (self.app(*app), "mesa"),
            Topic::Raw(_) => ("", "raw"),
        };

        let _ = write!(text, "{}:{app}:{kind}", self.namespace);
        if let Some(suffix) = suffix {
            let _ = write!(text, ".{suffix}");
        }

        match topic {
            Topic::Node(node) => {
                let _ = write!(text, ":{node}");
            }
            Topic::User(_, name) | Topic::Channel(_, name) | Topic::Watch(_, name) => {
                let _ = write!(text, ":{name}");
            }
            Topic::Nodes | Topic::App(_) | Topic::Dispatch(_) | Topic::Mesa(_) | Topic::Raw(_) => {}
        }

        text
    }

    /// The topic of a channel that [`Self::channel`] made. One without Fanfare's prefix is another system's: nothing but what was
    /// asked for comes in.
    pub(super) fn topic(&self, channel: &[u8]) -> Option<Topic> {
        let text = str::from_utf8(channel).ok()?;
        let Some(mut text) = text.strip_prefix("fanfare:") else {
            return (!text.is_empty()).then(|| Topic::Raw(text.into()));
        };

        if self.tagged && text.starts_with('{') {
            text = text.split_once("}:")?.1;
        }

        let text = text
            .strip_prefix(self.namespace.as_str())?
            .strip_prefix(':')?;
        let (app, rest) = text.split_once(':')?;
        let (kind, name) = rest
            .split_once(':')
            .map_or((rest, None), |(kind, name)| (kind, Some(name)));

        if app.is_empty() {
            return match (kind, name) {
                ("nodes", None) => Some(Topic::Nodes),
                ("node", Some(id)) => node_id(id).map(Topic::Node),
                _ => None,
            };
        }

        let app = *self.ids.get(app)?;
        match (kind, name) {
            ("all", None) => Some(Topic::App(app)),
            ("user", Some(name)) => Some(Topic::User(app, name.into())),
            ("channel", Some(name)) => Some(Topic::Channel(app, name.into())),
            ("watch", Some(name)) => Some(Topic::Watch(app, name.into())),
            ("dispatch", None) => Some(Topic::Dispatch(app)),
            ("mesa", None) => Some(Topic::Mesa(app)),
            _ => None,
        }
    }
}

fn node_id(text: &str) -> Option<NodeId> {
    let bytes = base32().decode(text.as_bytes()).ok()?;
    bytes
        .try_into()
        .ok()
        .map(|bytes| NodeId(u32::from_be_bytes(bytes)))
}

/// FNV-1a, its halves folded: small, and fixed forever, which a partition's number has to be.
fn hash(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^ hash >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(tagged: bool) -> Names {
        Names::new("ns", vec!["default".into(), "node".into()], tagged)
    }

    fn topics() -> Vec<Topic> {
        let app = AppId(1);
        vec![
            Topic::Nodes,
            Topic::Node(NodeId(7)),
            Topic::App(AppId(0)),
            Topic::User(app, "ann:{x}:y".into()),
            Topic::User(app, "".into()),
            Topic::Channel(app, "room:1".into()),
            Topic::Watch(app, "room:1".into()),
            Topic::Dispatch(app),
            Topic::Mesa(app),
        ]
    }

    #[test]
    fn a_topic_survives_its_name() {
        for tagged in [false, true] {
            let names = names(tagged);
            let mut seen = std::collections::HashSet::new();
            for topic in topics() {
                let channel = names.channel(&topic);
                assert_eq!(names.topic(&channel), Some(topic.clone()));
                assert!(seen.insert(channel));
                assert!(seen.insert(names.key(&topic, "log")));
            }
        }
    }

    #[test]
    fn what_is_not_ours_is_no_topic() {
        let names = names(true);
        for other in [
            "",
            "fanfare:",
            "fanfare:ns",
            "fanfare:ns:default",
            "fanfare:ns:default:user",
            "fanfare:ns:nobody:all",
            "fanfare:other:default:all",
            "fanfare:ns::node:x",
            "fanfare:{p00",
        ] {
            assert_eq!(names.topic(other.as_bytes()), None, "{other}");
        }
        assert_eq!(names.topic(b"fanfare:ns:default:user:\xff"), None);
    }

    #[test]
    fn a_channel_of_another_system_keeps_its_name() {
        let names = names(false);
        let ws = Topic::Raw("ws_api".into());
        assert_eq!(names.channel(&ws), b"ws_api");
        assert_eq!(names.topic(b"ws_api"), Some(ws));
    }

    #[test]
    fn keys_and_channels_of_a_topic_have_one_slot() {
        let names = names(true);
        for topic in topics() {
            let partition = names.partition(&topic);
            assert_eq!(
                slot::of(&names.channel(&topic)),
                names.slot(partition),
                "{topic:?}"
            );
            assert_eq!(
                slot::of(&names.key(&topic, "log")),
                names.slot(partition),
                "{topic:?}"
            );
            assert_eq!(
                slot::of(names.own(partition, "canary").as_bytes()),
                names.slot(partition),
                "{topic:?}"
            );
            assert_eq!(
                slot::of(names.primary_key(partition).as_bytes()),
                names.slot(partition),
                "{topic:?}"
            );
        }
    }

    #[test]
    fn names_are_as_documented() {
        let names = names(false);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        assert_eq!(
            text(names.channel(&Topic::Dispatch(AppId(0)))),
            "fanfare:ns:default:dispatch"
        );
        assert_eq!(
            text(names.channel(&Topic::User(AppId(0), "ann".into()))),
            "fanfare:ns:default:user:ann"
        );
        assert_eq!(
            text(names.key(&Topic::App(AppId(1)), "members")),
            "fanfare:ns:node:all.members"
        );
        assert_eq!(
            names.primary_key(0),
            names.primary_key(64),
            "one for all of a server"
        );
        let tagged = super::tests::names(true);
        assert_eq!(
            text(tagged.channel(&Topic::Dispatch(AppId(0)))),
            "fanfare:ns:default:dispatch"
        );
    }

    #[test]
    fn partitions_never_change() {
        let names = names(true);
        let of = |topic: Topic| names.partition(&topic);
        assert_eq!(of(Topic::User(AppId(0), "ann".into())), 50);
        assert_eq!(of(Topic::Channel(AppId(0), "room-1".into())), 31);
        let mut counts = [0_u32; 64];
        for n in 0..64_000 {
            counts[usize::from(of(Topic::User(AppId(0), format!("user-{n}").into())))] += 1;
        }
        assert!(
            counts.iter().all(|count| (800..1200).contains(count)),
            "{counts:?}"
        );
    }
}
