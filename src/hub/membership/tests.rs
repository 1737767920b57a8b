//! Channels, profiles and presence in a hub without sockets.

use std::{sync::Arc, time::Duration};

use smol_str::SmolStr;

use super::super::{
    Batch, Count, DueNotices, Hub, JoinKind, Joining, Outcome, Owner, Reach, Recipients, Selection,
    SlotRef, Watching,
    admission::Admission,
    resume_table::ClientKey,
    selection::channel_key,
    tests::{APP, connect, context},
};
use crate::{
    close::Close,
    config::SlowConsumer,
    filter::{FilterCache, Layouts, Schema, Value},
    limits::{Limits, NOTICES_UNSENT},
    protocol::{
        frame::Frame,
        native::MemberKind::{Joined, Left, Updated},
    },
};

fn filter(text: &str, schema: &Schema) -> Arc<crate::filter::Bound> {
    Arc::new(
        FilterCache::new()
            .get_or_compile(text, schema)
            .unwrap()
            .filter
            .bind(None)
            .unwrap(),
    )
}

#[test]
fn join_and_leave_churn_leaves_nothing_behind() {
    let limits = Limits {
        resume_window: Duration::ZERO,
        ..Limits::default()
    };
    let hub = Hub::new(
        2,
        context(limits, &["profile.status"], SlowConsumer::Disconnect),
    );
    let layouts = Layouts::new();
    let mut present = Vec::new();
    for n in 0..1000usize {
        let shard = hub.shard(n % 2);
        let at = shard.lock(|table| connect(table, &format!("u{}", n % 100), Value::Null));
        shard.lock(|table| {
            for channel in 0..n % 7 {
                let watching = if n.is_multiple_of(3) {
                    Watching::Notices
                } else {
                    Watching::No
                };
                let joined = table.join(at, &format!("c{channel}"), watching, JoinKind::New);
                assert!(matches!(joined, Joining::Joined(_)));
                let again = table.join(at, &format!("c{channel}"), watching, JoinKind::New);
                assert!(matches!(again, Joining::Already(_)));
            }
            let profile = format!(r#"{{"status":"s{}"}}"#, n % 5);
            let profile = Value::from_json(&mut profile.into_bytes(), &layouts).unwrap();
            assert!(table.set_profile(at, profile).is_some());
            if n.is_multiple_of(2) {
                assert_eq!(table.leave(at, "c0"), n % 7 > 0);
                assert!(!table.leave(at, "c0"));
            }
        });
        present.push((n % 2, at));
    }
    let presence = hub.presence(APP);
    let expected = (0..1000usize).filter(|n| n % 7 > 1).count() as u64;
    assert_eq!(
        presence.count("c1"),
        Count {
            connections: expected,
            users: 100
        }
    );
    let found = Selection {
        recipients: Some(Recipients::channel("c1")),
        ..Selection::everyone(APP)
    };
    assert_eq!(hub.reach(&found).bound() as u64, expected);
    for (n, (shard, at)) in present.into_iter().enumerate() {
        hub.shard(shard).lock(|table| {
            let closes = n % 3 > 0;
            assert_eq!(
                closes && table.close(at, None, &Close::new(4010, "")),
                closes
            );
            assert!(table.remove(at).is_some());
        });
    }
    assert!(presence.is_empty());
    assert!(
        hub.shards()
            .iter()
            .all(|shard| shard.lock(|table| table.is_empty()))
    );
    let metrics = &hub.context().app(APP).metrics;
    assert_eq!((metrics.channels.get(), metrics.memberships.get()), (0, 0));
}

#[test]
fn a_hold_that_notifies_slow_consumers_ends_by_what_closing_them_takes() {
    const WATCHERS: usize = 8;
    let limits = Limits {
        outbox_frames: 1,
        ..Limits::default()
    };
    let hub = Hub::new(1, context(limits, &[], SlowConsumer::Disconnect));
    let shard = hub.shard(0);
    let frame = Frame::event_text(&[b"x"]);
    shard.lock(|table| {
        let mut outcome = Outcome::default();
        for n in 0..WATCHERS {
            let at = connect(table, &n.to_string(), Value::Null);
            for channel in 0..100 {
                let channel = channel.to_string();
                table.join(at, &channel, Watching::Notices, JoinKind::New);
            }
            outcome.refuse(at, vec![frame.clone()], 0);
        }
        table.settle(&mut Owner::for_tests(), &mut outcome);
    });

    let key = channel_key("7");
    let (mut next, mut closed) = (Some(0), 0);
    while let Some(from) = next {
        let about = (None, frame.clone());
        next = shard.lock(|table| table.notify_watchers(APP, &key, from, &[about]));
        let now = shard.lock(|table| table.closing.len());
        assert!(now - closed <= 2, "{now}");
        closed = now;
    }
    assert_eq!(closed, WATCHERS);
}

#[test]
fn several_channels_are_left_in_one_step() {
    let hub = Hub::new(1, context(Limits::default(), &[], SlowConsumer::Disconnect));
    let presence = hub.presence(APP);
    hub.shard(0).lock(|table| {
        let at = connect(table, "u", Value::Null);
        for channel in ["a1", "b1", "a2", "b2", "a3"] {
            table.join(at, channel, Watching::Notices, JoinKind::New);
        }
        let seen = table.connection(at).unwrap();
        let before = table.changes;
        let left = table.leave_those(at, |channel| channel.starts_with('a'));
        assert_eq!(left.as_slice(), ["a1", "a2", "a3"]);
        assert_eq!(table.changes - before, 1, "one step, however many they are");
        assert!(table.leave_those(at, |channel| channel == "a1").is_empty());

        let now = table.connection(at).unwrap();
        assert_eq!(now.channels().collect::<Vec<_>>(), ["b1", "b2"]);
        assert_eq!(
            seen.channels().count(),
            5,
            "what others hold stays as it was"
        );
        for (channel, members) in [("a1", 0), ("a2", 0), ("a3", 0), ("b1", 1), ("b2", 1)] {
            let key = channel_key(channel);
            assert_eq!(presence.count(channel).connections, members);
            assert_eq!(table.members_of(APP, &key, 0, 9).len() as u64, members);
            assert_eq!(presence.is_watched(channel), members > 0);
        }
    });
}

#[test]
fn channels_are_found_by_their_index_and_profiles_at_once() {
    let context = context(
        Limits::default(),
        &["profile.status"],
        SlowConsumer::Disconnect,
    );
    let schema = context.app(APP).schema.clone();
    let hub = Hub::new(1, context);
    let layouts = Layouts::new();
    let at: Vec<SlotRef> = (0..200)
        .map(|n| {
            hub.shard(0)
                .lock(|table| connect(table, &n.to_string(), Value::Null))
        })
        .collect();
    hub.shard(0).lock(|table| {
        for at in &at[..30] {
            table.join(*at, "room", Watching::No, JoinKind::New);
        }
        let away = Value::from_json(&mut br#"{"status":"away"}"#.to_vec(), &layouts).unwrap();
        table.set_profile(at[3], away.clone());
        table.set_profile(at[40], away);
    });
    let reach = |text: &str| {
        let selection = Selection {
            filter: Some(filter(text, &schema)),
            ..Selection::everyone(APP)
        };
        assert!(!selection.is_scan(), "{text}");
        let Reach::Small(few) = hub.reach(&selection) else {
            panic!("{text}")
        };
        let permit = Admission::for_tests().try_admit(1, 1).unwrap();
        let placed = hub.place_small(&selection, few, &Frame::event_text(&[b"x"]), &permit);
        placed.unwrap().scan
    };
    assert_eq!(reach(r#""room" in channels"#).matched, 30);
    let both = reach(r#""room" in channels && profile.status == "away""#);
    assert_eq!(both.matched, 1);
    assert_eq!(reach(r#"profile.status == "away""#).matched, 2);
    hub.shard(0)
        .lock(|table| table.set_profile(at[3], Value::Null));
    assert_eq!(reach(r#"profile.status == "away""#).matched, 1);
    assert_eq!(reach(r#""nowhere" in channels"#).matched, 0);
}

#[test]
fn who_left_between_the_look_up_and_the_placing_gets_nothing() {
    let hub = Hub::new(1, context(Limits::default(), &[], SlowConsumer::Disconnect));
    let (stays, leaves) = hub.shard(0).lock(|table| {
        let two = (
            connect(table, "a", Value::Null),
            connect(table, "b", Value::Null),
        );
        table.join(two.0, "c", Watching::No, JoinKind::New);
        table.join(two.1, "c", Watching::No, JoinKind::New);
        two
    });
    let selection = Selection {
        recipients: Some(Recipients::channel("c")),
        ..Selection::everyone(APP)
    };
    let Reach::Small(few) = hub.reach(&selection) else {
        panic!("two are few")
    };
    hub.shard(0).lock(|table| assert!(table.leave(leaves, "c")));
    let permit = Admission::for_tests().try_admit(1, 1).unwrap();
    let placed = hub.place_small(&selection, few, &Frame::event_text(&[b"x"]), &permit);
    let counts = placed.unwrap();
    assert_eq!((counts.scan.matched, counts.queued), (1, 1));
    hub.shard(0).lock(|table| {
        let mut batch = Batch::default();
        assert!(table.take(&mut Owner::for_tests(), true, 10, &mut batch));
        assert_eq!(
            batch.works.iter().map(|work| work.at).collect::<Vec<_>>(),
            [stays]
        );
    });
}

#[test]
#[expect(clippy::too_many_lines, reason = "a scenario in the order of time")]
fn a_user_is_gone_from_a_channel_when_its_last_connection_is_and_the_lost_ones_have_lapsed() {
    let window = Duration::from_millis(1);
    let limits = Limits {
        resume_window: window,
        ..Limits::default()
    };
    let hub = Hub::new(1, context(limits, &[], SlowConsumer::Disconnect));
    let notices = hub.context().notices.clone();
    let presence = hub.presence(APP);
    let at: Vec<SlotRef> = hub.shard(0).lock(|table| {
        ["watcher", "u", "u", "u"]
            .map(|user| {
                let at = connect(table, user, Value::Null);
                let watching = if user == "watcher" {
                    Watching::Notices
                } else {
                    Watching::No
                };
                table.join(at, "c", watching, JoinKind::New);
                at
            })
            .into()
    });
    let sent = || {
        let mut sent = Vec::new();
        for (_, channel) in notices.take_due() {
            let batch = presence
                .take_notices(&channel, DueNotices::Notices)
                .unwrap();
            sent.extend(
                batch
                    .notices
                    .into_iter()
                    .map(|n| (n.kind, n.user_connections, n.previous)),
            );
        }
        sent
    };
    assert_eq!(
        sent(),
        [(Joined, 1, None), (Joined, 2, None), (Joined, 3, None)],
        "nobody is sent who came before"
    );
    let lost = hub.shard(0).lock(|table| {
        assert!(table.close(at[1], None, &Close::new(1000, "")));
        table.remove(at[2]).unwrap();
        let lost = table.remove(at[3]).unwrap().connection;
        let back = connect(table, "u", Value::Null);
        let client = ClientKey {
            app: APP,
            user: Some("u"),
            device: None,
        };
        let taken = table
            .context
            .resume_table
            .take(&lost.id(), |lost| lost.is_of_client(client))
            .unwrap();
        assert_eq!(taken.watched, Vec::<SmolStr>::new());
        assert!(
            table
                .context
                .resume_table
                .take(&lost.id(), |_| true)
                .is_none(),
            "only once"
        );
        table.join(back, "c", Watching::No, JoinKind::Resumed(lost.id()));
        table.close(back, None, &Close::new(1000, ""));
        lost.id()
    });
    assert_eq!(
        sent(),
        [(Left, 2, None), (Updated, 2, Some(lost)), (Left, 1, None)]
    );
    assert_eq!(
        presence.count("c"),
        Count {
            connections: 1,
            users: 1
        }
    );
    std::thread::sleep(window * 2);
    for lapsed in hub.context().resume_table.take_lapsed() {
        presence.lapsed("c", &lapsed.connection);
    }
    assert_eq!(sent(), [(Left, 0, None)]);
}

#[test]
fn notices_past_the_bound_are_told_as_counts() {
    let limits = Limits {
        presence_notices: 3,
        ..Limits::default()
    };
    let hub = Hub::new(1, context(limits, &[], SlowConsumer::Disconnect));
    hub.shard(0).lock(|table| {
        let watcher = connect(table, "w", Value::Null);
        table.join(watcher, "c", Watching::Notices, JoinKind::New);
        for n in 0..10 {
            let at = connect(table, &n.to_string(), Value::Null);
            table.join(at, "c", Watching::No, JoinKind::New);
        }
    });
    let (presence, notices) = (hub.presence(APP), &hub.context().notices);
    let (_, channel) = notices.take_due().pop_front().unwrap();
    let batch = presence
        .take_notices(&channel, DueNotices::Notices)
        .unwrap();
    assert_eq!((batch.notices.len(), batch.counted.is_some()), (3, false));
    assert_eq!(notices.take_counted().len(), 1);
    let (changes, count) = presence
        .take_notices(&channel, DueNotices::WithCounts)
        .unwrap()
        .counted
        .unwrap();
    assert_eq!(
        (changes.joined, changes.left, count.connections),
        (7, 0, 11)
    );
    assert!(
        presence
            .take_notices(&channel, DueNotices::WithCounts)
            .unwrap()
            .counted
            .is_none(),
        "sent once"
    );
}

#[test]
fn notices_that_nobody_tells_are_bounded_and_the_rest_is_counted() {
    let limits = Limits {
        presence_notices: u32::MAX,
        resume_window: Duration::ZERO,
        ..Limits::default()
    };
    let hub = Hub::new(1, context(limits, &[], SlowConsumer::Disconnect));
    let presence = hub.presence(APP);
    let took = || {
        presence
            .take_notices(&"c".into(), DueNotices::WithCounts)
            .unwrap()
    };
    let watcher = hub.shard(0).lock(|table| {
        let watcher = connect(table, "w", Value::Null);
        let at = connect(table, "u", Value::Null);
        table.join(watcher, "c", Watching::Notices, JoinKind::New);
        for _ in 0..NOTICES_UNSENT {
            table.join(at, "c", Watching::No, JoinKind::New);
            table.leave(at, "c");
        }
        watcher
    });
    let sent = took();
    let counted = sent.counted.unwrap().0;
    assert_eq!(sent.notices.len(), NOTICES_UNSENT);
    assert_eq!(counted.joined + counted.left, NOTICES_UNSENT as u64);

    // What is sent makes room, and so does a channel that goes with what nobody would hear.
    let churn = |user: &str, channel: &str| {
        hub.shard(0).lock(|table| {
            let at = connect(table, user, Value::Null);
            table.join(at, channel, Watching::No, JoinKind::New);
            table.leave(at, channel);
        });
    };
    for round in 0..3 {
        for _ in 0..NOTICES_UNSENT / 2 {
            churn("v", "c");
        }
        if round == 0 {
            assert_eq!(took().notices.len(), NOTICES_UNSENT);
        } else if round == 1 {
            hub.shard(0).lock(|table| {
                assert!(table.leave(watcher, "c"));
                table.join(watcher, "c", Watching::Notices, JoinKind::New);
            });
            assert!(
                presence
                    .take_notices(&"c".into(), DueNotices::WithCounts)
                    .is_none()
            );
        } else {
            assert!(took().counted.is_none());
        }
    }
}

#[test]
fn who_was_put_in_before_coming_back_leaves_no_trace_of_the_lost_one() {
    let limits = Limits {
        resume_window: Duration::from_hours(1),
        ..Limits::default()
    };
    let hub = Hub::new(1, context(limits, &[], SlowConsumer::Disconnect));
    let presence = hub.presence(APP);
    hub.shard(0).lock(|table| {
        let old = connect(table, "u", Value::Null);
        table.join(old, "c", Watching::No, JoinKind::New);
        let lost = table.remove(old).unwrap().connection;
        let back = connect(table, "u", Value::Null);
        table.join(back, "c", Watching::No, JoinKind::New);
        let again = table.join(back, "c", Watching::No, JoinKind::Resumed(lost.id()));
        assert!(matches!(again, Joining::Already(_)));
        presence.lapsed("c", &lost);
        assert!(table.close(back, None, &Close::new(1000, "")));
    });
    assert!(presence.is_empty());
}

#[tokio::test]
async fn a_lost_connection_can_be_taken_out_of_a_channel() {
    let limits = Limits {
        resume_window: Duration::from_hours(1),
        ..Limits::default()
    };
    let hub = Hub::new(1, context(limits, &[], SlowConsumer::Disconnect));
    let resume_table = &hub.context().resume_table;
    let lost = hub.shard(0).lock(|table| {
        let at = connect(table, "u", Value::Null);
        table.join(at, "c", Watching::No, JoinKind::New);
        table.join(at, "d", Watching::No, JoinKind::New);
        table.remove(at).unwrap().connection
    });
    let others = Selection {
        recipients: Some(Recipients::user("v")),
        ..Selection::everyone(APP)
    };
    let leave = async |meant: &Selection| {
        resume_table
            .leave("c", |one| meant.means(one), |_| {})
            .await
    };
    assert_eq!(leave(&others).await, 0);
    let own = Selection {
        recipients: Some(Recipients::user("u")),
        ..Selection::everyone(APP)
    };
    assert_eq!(leave(&own).await, 1);
    let back = resume_table.take(&lost.id(), |_| true).unwrap();
    assert_eq!(back.connection.channels().collect::<Vec<_>>(), ["d"]);
}

#[tokio::test]
async fn a_returning_connection_can_be_taken_out_of_a_channel_until_it_is_in() {
    let limits = Limits {
        resume_window: Duration::from_millis(1),
        ..Limits::default()
    };
    let hub = Hub::new(1, context(limits, &[], SlowConsumer::Disconnect));
    let resume_table = &hub.context().resume_table;
    let lost = hub.shard(0).lock(|table| {
        let at = connect(table, "u", Value::Null);
        for channel in ["a", "b", "c"] {
            table.join(at, channel, Watching::No, JoinKind::New);
        }
        table.remove(at).unwrap().connection.id()
    });
    resume_table.take(&lost, |_| true).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    assert!(
        resume_table.take_lapsed().is_empty(),
        "it has come back in time"
    );
    assert!(
        resume_table.all().await.is_empty(),
        "it counts as who it is now"
    );

    assert_eq!(resume_table.claim(&lost, (APP, "a")), Some(true));
    assert_eq!(
        resume_table.claim(&lost, (APP, "a")),
        Some(false),
        "only once"
    );
    let meant = Selection::everyone(APP);
    let left = resume_table
        .leave("b", |one| meant.means(one), |_| {})
        .await;
    assert_eq!(left, 1);
    assert_eq!(resume_table.claim(&lost, (APP, "b")), Some(false));

    let held_off = resume_table.hold_off(APP, "c");
    assert_eq!(resume_table.claim(&lost, (APP, "c")), None);
    drop(held_off);
    assert_eq!(resume_table.claim(&lost, (APP, "c")), Some(true));
}

#[test]
fn a_profile_says_in_how_many_channels_others_hear_of_it() {
    let hub = Hub::new(1, context(Limits::default(), &[], SlowConsumer::Disconnect));
    hub.shard(0).lock(|table| {
        let (at, other) = (
            connect(table, "a", Value::Null),
            connect(table, "b", Value::Null),
        );
        assert_eq!(table.set_profile(at, Value::Null), Some(0));
        table.join(at, "quiet", Watching::No, JoinKind::New);
        table.join(at, "own", Watching::Notices, JoinKind::New);
        table.join(at, "both", Watching::Notices, JoinKind::New);
        table.join(other, "both", Watching::Notices, JoinKind::New);
        table.join(at, "theirs", Watching::No, JoinKind::New);
        table.join(other, "theirs", Watching::Counts, JoinKind::New);
        assert_eq!(table.set_profile(at, Value::Null), Some(2));
        table.close(at, None, &Close::new(1000, ""));
        assert_eq!(table.set_profile(at, Value::Null), None);
    });
}
