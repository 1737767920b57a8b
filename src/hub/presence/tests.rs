//! Who leaves a channel last, and the list of channels.

use std::{collections::VecDeque, ops::Bound, sync::Arc};

use super::{
    DueNotices, JoinKind, LeaveKind, Listing, Presence, Register, Watching,
    channel_list::StripeChannels,
};
use crate::{
    config::SlowConsumer,
    filter::{Attributes, ConnectionInfo, Value},
    hub::{
        Connection,
        connection::Snapshot,
        tests::{APP, context},
    },
    id::{ConnectionId, NodeId},
    limits::{CHANNELS_LOOK, Limits},
    protocol::native::MemberKind,
};

fn member() -> Snapshot {
    let id = ConnectionId {
        node: NodeId(1),
        shard: 0,
        slot: 0,
        nonce: 0,
    };
    let facts = ConnectionInfo {
        id,
        device: None,
        ip: [127, 0, 0, 1].into(),
        protocol: "test",
        connected_at: 0,
        node: "n".into(),
    };
    let mut attributes = Attributes::new(facts);
    attributes.user = Value::String("u".into());
    Arc::new(Connection::new(APP, attributes, Arc::default()))
}

#[test]
fn the_last_in_a_channel_leaves_it_when_it_does_not_come_back_whoever_it_is() {
    for user in [Value::String("u".into()), Value::Null] {
        let mut member = member();
        Arc::make_mut(&mut member).attributes.user = user.clone();
        let (register, mut changes) = Register::new(8);
        let limits = Limits::default();
        let context = context(limits.clone(), &[], SlowConsumer::Disconnect);
        let metrics = context.app(APP).metrics.clone();
        let presence = Presence::new(APP, &limits, Arc::default(), metrics, Some(register));

        presence.joined("c", &member, Watching::No, JoinKind::New);
        presence.left("c", &member, false, LeaveKind::Lost);
        let batch = presence
            .take_notices(&"c".into(), DueNotices::WithCounts)
            .unwrap();
        assert_eq!(batch.notices.len(), 1, "{user:?} has joined");

        presence.lapsed("c", &member);
        let batch = presence
            .take_notices(&"c".into(), DueNotices::WithCounts)
            .unwrap();
        assert_eq!(batch.notices[0].kind, MemberKind::Left, "{user:?}");
        assert!(presence.is_empty(), "{user:?}");
        let last = std::iter::from_fn(|| changes.try_recv().ok()).last();
        assert_eq!(last.unwrap().listing, Listing::Out { is_over: true });
    }
}

#[tokio::test]
async fn channels_are_listed_in_order_a_few_of_each_stripe_at_a_time() {
    let context = context(Limits::default(), &[], SlowConsumer::Disconnect);
    let presence = &context.app(APP).presence;
    let member = member();
    let mut all: Vec<String> = (0..8000).map(|n| format!("c{n}")).collect();
    for name in all.iter().map(String::as_str).chain(["b", "d"]) {
        presence.joined(name, &member, Watching::No, JoinKind::New);
    }
    all.sort_unstable();

    let names = async |after: Option<&str>, limit| -> Vec<String> {
        let found = presence.list("c", after, limit).await;
        found.iter().map(|(name, _)| name.to_string()).collect()
    };
    assert_eq!(names(None, 9000).await, all);
    assert_eq!(names(None, 1000).await, all[..1000]);
    assert_eq!(names(Some(&all[999]), 7).await, all[1000..1007]);
    assert_eq!(names(Some("c"), 1).await, all[..1]);
    assert!(names(Some("d"), 1).await.is_empty());

    // Nobody is in them but a user who may come back.
    for name in &all[..7999] {
        presence.left(name, &member, false, LeaveKind::Lost);
    }
    assert_eq!(names(None, 9000).await, all[7999..]);
    for stripe in &presence.stripes {
        let mut stretch = StripeChannels {
            rooms: stripe,
            from: Bound::Unbounded,
            found: VecDeque::new(),
            is_last: false,
        };
        let rooms = stripe.lock().len();
        let mut looks = 0;
        while !stretch.is_last {
            stretch.look("", 10);
            looks += 1;
        }
        assert!(rooms > CHANNELS_LOOK && looks > rooms / CHANNELS_LOOK);
    }
}
