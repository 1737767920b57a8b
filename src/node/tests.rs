//! The node against a naive model: whatever happens, they agree on who received what, in which order.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::value::to_raw_value;

use super::*;
use crate::{
    config::ServeArgs,
    filter::Value,
    hub::{Batch, JoinKind, Load, Outcome, Owner, SlotRef, Watching, tests::connect},
    protocol::event::{Data, Event},
};

const APP: AppId = AppId(0);
const USERS: usize = 4;
const CHANNELS: usize = 4;
const STATUSES: [&str; 3] = ["here", "away", "busy"];

#[derive(Clone, Debug)]
enum Whom {
    Everyone,
    InChannel(usize),
    WithStatus(usize),
    Users(Vec<usize>),
    Channels(Vec<usize>),
    /// Users, channels and connections together.
    Union(usize, usize, usize),
    /// Members of a channel whose user a filter names.
    Narrowed(usize, usize),
}

#[derive(Clone, Debug)]
enum Step {
    Connect {
        user: usize,
        shard: usize,
    },
    Join {
        who: usize,
        channel: usize,
    },
    Leave {
        who: usize,
        channel: usize,
    },
    Update {
        who: usize,
        status: Option<usize>,
    },
    Emit {
        whom: Whom,
        except_user: Option<usize>,
        except: Option<usize>,
    },
    Disconnect {
        who: usize,
    },
    Flush,
}

fn whom() -> impl Strategy<Value = Whom> {
    prop_oneof![
        Just(Whom::Everyone),
        (0..CHANNELS).prop_map(Whom::InChannel),
        (0..STATUSES.len()).prop_map(Whom::WithStatus),
        prop::collection::vec(0..USERS, 0..3).prop_map(Whom::Users),
        prop::collection::vec(0..CHANNELS, 0..3).prop_map(Whom::Channels),
        (0..USERS, 0..CHANNELS, 0..20usize)
            .prop_map(|(user, channel, who)| Whom::Union(user, channel, who)),
        (0..CHANNELS, 0..USERS).prop_map(|(channel, user)| Whom::Narrowed(channel, user)),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0..20usize;
    let emit = (
        whom(),
        prop::option::weighted(0.2, 0..USERS),
        prop::option::weighted(0.2, who.clone()),
    );
    let step = prop_oneof![
        3 => (0..USERS, 0..2usize).prop_map(|(user, shard)| Step::Connect { user, shard }),
        4 => (who.clone(), 0..CHANNELS).prop_map(|(who, channel)| Step::Join { who, channel }),
        2 => (who.clone(), 0..CHANNELS).prop_map(|(who, channel)| Step::Leave { who, channel }),
        2 => (who.clone(), prop::option::of(0..STATUSES.len())).prop_map(|(who, status)| Step::Update { who, status }),
        6 => emit.prop_map(|(whom, except_user, except)| Step::Emit { whom, except_user, except }),
        1 => who.prop_map(|who| Step::Disconnect { who }),
        1 => Just(Step::Flush),
    ];
    prop::collection::vec(step, 1..120)
}

/// One connection as the model has it.
struct Model {
    shard: usize,
    at: SlotRef,
    id: String,
    user: usize,
    channels: BTreeSet<usize>,
    status: Option<usize>,
    open: bool,
    expected: Vec<u64>,
    received: Vec<u64>,
}

struct World {
    node: Arc<Node>,
    people: Vec<Model>,
    next: u64,
}

impl World {
    fn new(history: bool) -> Self {
        let mut config = Config::load(
            &ServeArgs::default(),
            std::iter::empty::<(String, String)>(),
        )
        .unwrap();
        config.limits.resume_window = std::time::Duration::ZERO;
        if history {
            let rule = crate::config::ChannelRule::new("c*", 5);
            config.apps.values_mut().next().unwrap().channels.push(rule);
        }
        Self {
            node: Node::new(config, 2).unwrap().0,
            people: Vec::new(),
            next: 0,
        }
    }

    fn connect(&mut self, user: usize, shard: usize) {
        let (at, id) = self.node.hub.shard(shard).lock(|table| {
            let at = connect(table, &format!("u{user}"), Value::Null);
            (at, table.connection(at).unwrap().id().to_string())
        });
        self.people.push(Model {
            shard,
            at,
            id,
            user,
            channels: BTreeSet::new(),
            status: None,
            open: true,
            expected: Vec::new(),
            received: Vec::new(),
        });
    }

    /// The open connection that a number stands for.
    fn who(&self, who: usize) -> Option<usize> {
        (!self.people.is_empty())
            .then(|| who % self.people.len())
            .filter(|&who| self.people[who].open)
    }

    async fn step(&mut self, step: Step) {
        let node = self.node.clone();
        match step {
            Step::Connect { user, shard } => self.connect(user, shard),
            Step::Flush => self.flush(),
            Step::Emit {
                whom,
                except_user,
                except,
            } => self.emit(&whom, except_user, except).await,
            Step::Join { who, channel } => {
                let Some(one) = self.who(who).map(|who| &mut self.people[who]) else {
                    return;
                };
                let name = format!("c{channel}");
                node.hub
                    .shard(one.shard)
                    .lock(|t| t.join(one.at, &name, Watching::No, JoinKind::New));
                one.channels.insert(channel);
            }
            Step::Leave { who, channel } => {
                let Some(one) = self.who(who).map(|who| &mut self.people[who]) else {
                    return;
                };
                let left = node
                    .hub
                    .shard(one.shard)
                    .lock(|t| t.leave(one.at, &format!("c{channel}")));
                assert_eq!(left, one.channels.remove(&channel));
            }
            Step::Update { who, status } => {
                let Some(one) = self.who(who).map(|who| &mut self.people[who]) else {
                    return;
                };
                let profile = status.map_or(Value::Null, |status| {
                    let mut text = format!(r#"{{"status":"{}"}}"#, STATUSES[status]).into_bytes();
                    Value::from_json(&mut text, &node.app(APP).layouts).unwrap()
                });
                assert!(
                    node.hub
                        .shard(one.shard)
                        .lock(|t| t.set_profile(one.at, profile))
                        .is_some()
                );
                one.status = status;
            }
            Step::Disconnect { who } => {
                let Some(who) = self.who(who) else { return };
                self.flush();
                let one = &mut self.people[who];
                assert!(
                    node.hub
                        .shard(one.shard)
                        .lock(|t| t.remove(one.at))
                        .is_some()
                );
                one.open = false;
            }
        }
    }

    #[expect(clippy::too_many_lines, reason = "a model beside what it models")]
    async fn emit(&mut self, whom: &Whom, except_user: Option<usize>, except: Option<usize>) {
        let number = self.next;
        self.next += 1;
        let (users, channels) = (|n: &usize| format!("u{n}"), |n: &usize| format!("c{n}"));
        let mut target = Target::default();
        match whom {
            Whom::Everyone => {}
            Whom::InChannel(channel) => target.filter = Some(format!("\"c{channel}\" in channels")),
            Whom::WithStatus(status) => {
                target.filter = Some(format!("profile.status == \"{}\"", STATUSES[*status]));
            }
            Whom::Users(list) => target = Target::users(list.iter().map(users).collect()),
            Whom::Channels(list) => {
                target.to = Some(To {
                    channels: list.iter().map(channels).collect(),
                    ..To::default()
                });
            }
            Whom::Union(user, channel, who) => {
                let connections = self.who(*who).map(|who| self.people[who].id.clone());
                target.to = Some(To {
                    users: vec![users(user)],
                    channels: vec![channels(channel)],
                    connections: connections.into_iter().collect(),
                });
            }
            Whom::Narrowed(channel, user) => {
                target = Target::channel(&channels(channel));
                target.filter = Some(format!("user == \"u{user}\""));
            }
        }
        let left_out = except.and_then(|who| self.who(who));
        target.except.users.extend(except_user.as_ref().map(users));
        target
            .except
            .connections
            .extend(left_out.map(|who| self.people[who].id.clone()));
        let data = to_raw_value(&number).unwrap();
        let event = Event::new("e", Data::Json(&data)).unwrap();
        let publication = Publication::new(event, target);
        let receipt = self.node.publish(APP, publication).await.unwrap();
        let named = match whom {
            Whom::Union(_, _, who) => self.who(*who),
            _ => None,
        };
        let mut matched = 0;
        for (n, one) in self.people.iter_mut().enumerate() {
            let meant = match whom {
                Whom::Everyone => true,
                Whom::InChannel(channel) => one.channels.contains(channel),
                Whom::WithStatus(status) => one.status == Some(*status),
                Whom::Users(list) => list.contains(&one.user),
                Whom::Channels(list) => list.iter().any(|channel| one.channels.contains(channel)),
                Whom::Union(user, channel, _) => {
                    one.user == *user || one.channels.contains(channel) || named == Some(n)
                }
                Whom::Narrowed(channel, user) => {
                    one.channels.contains(channel) && one.user == *user
                }
            };
            if one.open && meant && except_user != Some(one.user) && left_out != Some(n) {
                one.expected.push(number);
                matched += 1;
            }
        }
        assert_eq!(
            (receipt.matched, receipt.queued),
            (matched, matched),
            "{whom:?}"
        );
    }

    /// Takes everything out of the outboxes, as if every socket took it.
    fn flush(&mut self) {
        for shard in 0..2 {
            let (mut batch, mut outcome) = (Batch::default(), Outcome::default());
            let mut owner = Owner::for_tests();
            for small in [true, false] {
                while self
                    .node
                    .hub
                    .shard(shard)
                    .lock(|table| table.take(&mut owner, small, 16, &mut batch))
                {
                    for work in batch.works.drain(..) {
                        let frames = match &work.load {
                            Load::Run { first, end } => {
                                outcome.finish(*first);
                                batch.window.run(*first, *end).to_vec()
                            }
                            Load::One(queued) => vec![queued.frame.clone()],
                            Load::Queue(queue) => {
                                queue.iter().map(|queued| queued.frame.clone()).collect()
                            }
                        };
                        let one = self
                            .people
                            .iter_mut()
                            .find(|one| (one.shard, one.at) == (shard, work.at));
                        one.unwrap().received.extend(frames.iter().map(|frame| {
                            let event: serde_json::Value =
                                serde_json::from_slice(frame.payload()).unwrap();
                            event["data"].as_u64().unwrap()
                        }));
                    }
                    self.node
                        .hub
                        .shard(shard)
                        .lock(|table| table.settle(&mut owner, &mut outcome));
                }
            }
        }
    }
}

#[tokio::test]
async fn a_member_keeps_the_numbering_of_its_channel_whatever_others_join() {
    let mut world = World::new(true);
    let node = world.node.clone();
    world.connect(0, 1);
    let one = &world.people[0];
    let join =
        |table: &mut crate::hub::Table| table.join(one.at, "c-own", Watching::No, JoinKind::New);
    node.hub.shard(one.shard).lock(join);
    let before = node.position(APP, "c-own").await.unwrap().unwrap();

    // More than are known without members, as who joins one channel after another makes them.
    for n in 0..=crate::limits::HISTORY_QUIET_TOPICS {
        node.position(APP, &format!("c-{n}")).await.unwrap();
    }
    let after = node.position(APP, "c-own").await.unwrap().unwrap();
    assert_eq!((after.epoch, after.offset), (before.epoch, before.offset));

    // The others do not live for ever.
    let first = node.history_page(APP, "c-0", 0, 1).await.unwrap();
    assert!(first.is_none());
}

#[tokio::test]
async fn who_is_about_to_come_back_is_taken_out_of_a_channel_too() {
    let none = std::iter::empty::<(String, String)>();
    let config = Config::load(&ServeArgs::default(), none).unwrap();
    let node = Node::new(config, 1).unwrap().0;
    let lost = node.hub.shard(0).lock(|table| {
        let at = connect(table, "ann", Value::Null);
        for channel in ["room", "other"] {
            table.join(at, channel, Watching::No, JoinKind::New);
        }
        table.remove(at).unwrap().connection
    });
    let local_resume = node
        .begin_resume(APP, &lost.id(), lost.user(), lost.device())
        .unwrap();

    // The client has shown who it is, and waits for its turn to join.
    let ann = Target::users(vec!["ann".to_owned()]);
    let left = node.leave_all(APP, "room".to_owned(), ann).await.unwrap();
    assert_eq!(left, 1);
    let resume_table = &node.hub.context().resume_table;
    assert_eq!(resume_table.claim(&lost.id(), (APP, "room")), Some(false));
    assert_eq!(resume_table.claim(&lost.id(), (APP, "other")), Some(true));

    let tally = |channel: &str| node.hub.presence(APP).tallies(channel, &["ann".to_owned()]);
    drop(local_resume);
    assert_eq!(tally("room"), [0]);
    assert_eq!(tally("other"), [1], "who claims it settles it");
}

#[tokio::test]
async fn a_node_that_has_given_up_its_lease_has_not_failed_while_it_ends() {
    let none = std::iter::empty::<(String, String)>();
    let mut config = Config::load(&ServeArgs::default(), none).unwrap();
    config.redis = Some(crate::config::RedisConfig {
        // Nobody is there, which makes no difference.
        url: "redis://127.0.0.1:1".parse().unwrap(),
        ..crate::config::RedisConfig::default()
    });
    let node = Node::new(config, 1).unwrap().0;
    let cluster = node.cluster.clone().unwrap();
    cluster.membership.give_up_lease().await;

    // The server takes a task for failed that ends. All that this one waits for is due before the timeout, and looked at first.
    let membership = cluster.run_membership(Vec::new());
    let ended = tokio::time::timeout(std::time::Duration::from_millis(10), membership);
    assert!(ended.await.is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn everyone_receives_what_a_naive_model_says(steps in steps(), history in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut world = World::new(history);
        runtime.block_on(async {
            for step in steps {
                world.step(step).await;
            }
        });
        world.flush();
        for one in &world.people {
            prop_assert_eq!(&one.received, &one.expected);
        }
        let open = world.people.iter().filter(|one| one.open).count();
        prop_assert_eq!(world.node.hub.members(APP), open);
        for channel in 0..CHANNELS {
            let members = || world.people.iter().filter(|one| one.open && one.channels.contains(&channel));
            let users: BTreeSet<usize> = members().map(|one| one.user).collect();
            let count = world.node.count(APP, &format!("c{channel}"));
            prop_assert_eq!((count.connections, count.users), (members().count() as u64, users.len() as u64));
        }
        for one in world.people.iter().filter(|one| one.open) {
            world.node.hub.shard(one.shard).lock(|table| table.remove(one.at));
        }
        prop_assert!(world.node.hub.shards().iter().all(|shard| shard.lock(|table| table.is_empty())));
        let metrics = &world.node.metrics;
        prop_assert_eq!((metrics.bulk_in_flight.get(), metrics.small_in_flight.get()), (0, 0));
    }
}
