//! How long a hold of a shard's lock, and a turn of its thread, go on with filters of all weights.

use std::{cell::Cell, sync::Arc};

use super::*;
use crate::{
    close::Close,
    config::SlowConsumer,
    filter::{Filter, Schema, Value},
    hub::{
        Connection, JoinKind, Joining, Recipients, Watching,
        admission::Admission,
        cursor::Search,
        selection::{channel_key, user_key},
        tests::{APP, connect, context},
    },
    limits::{Limits, NAMED_AS_ONE, NAMES_LOOK, SLICE},
};

const CONNECTIONS: usize = 40;

/// What `future` gives, which never has to wait.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(future)
}

/// A hub of one shard, whose connections are each of another user.
fn hub() -> Hub {
    let hub = Hub::new(1, context(Limits::default(), &[], SlowConsumer::Disconnect));
    hub.shard(0).lock(|table| {
        for n in 0..CONNECTIONS {
            connect(table, &format!("u{n}"), Value::Null);
        }
    });
    hub
}

fn everyone_by(filter: &str) -> Selection {
    let filter = Arc::new(Filter::compile(filter, &Schema::default()).unwrap());
    let numbers: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    let mut params = format!("{{\"l\":[{}]}}", numbers.join(",")).into_bytes();
    let params = Value::from_json(&mut params, None).unwrap();
    Selection {
        filter: Some(Arc::new(filter.bind(Some(params)).unwrap())),
        ..Selection::everyone(APP)
    }
}

/// True for everyone, and two fifths of [`SCAN_WORK`].
fn heavy() -> Selection {
    everyone_by("params.l.all(a, params.l.all(b, a + b >= 0))")
}

fn named(mut selection: Selection) -> Selection {
    selection.recipients = Some(Recipients {
        users: (0..CONNECTIONS)
            .map(|n| user_key(&format!("u{n}")))
            .collect(),
        ..Recipients::default()
    });
    selection
}

/// How many connections each hold looked at, and who was visited.
fn holds(hub: &Hub, selection: &Selection) -> (Vec<u64>, Vec<u32>) {
    let mut visited = Vec::new();
    let (holds, matched) = holds_of(hub, selection, |_, slot| visited.push(slot));
    assert_eq!(matched, visited.len() as u64);
    (holds, visited)
}

/// How many connections each hold of a scan that does `visit` looked at, and how many were visited in all.
fn holds_of(
    hub: &Hub,
    selection: &Selection,
    mut visit: impl FnMut(&mut Table, u32),
) -> (Vec<u64>, u64) {
    let (mut scan, mut holds) = (ScanStats::default(), Vec::new());
    let shard = hub.shard(0);
    let mut cursor = block_on(Cursor::open(shard, selection));
    loop {
        let before = scan.evaluated;
        let stride =
            shard.lock(|table| scan_chunk(table, selection, &mut cursor, &mut scan, &mut visit));
        holds.push(scan.evaluated - before);
        if stride.is_through {
            return (holds, scan.matched);
        }
    }
}

/// Claims of which two declared indexes have 250 entries each.
fn many_entries(of: &str) -> Value {
    let names: Vec<String> = (0..250).map(|n| format!("\"{of}{n}\"")).collect();
    let names = names.join(",");
    let mut claims = format!("{{\"groups\":[{names}],\"teams\":[{names}]}}").into_bytes();
    Value::from_json(&mut claims, None).unwrap()
}

#[test]
fn a_hold_ends_with_the_work_of_its_filter() {
    let hub = hub();
    for selection in [heavy(), named(heavy())] {
        let (holds, mut visited) = holds(&hub, &selection);
        assert!(holds.iter().all(|scan| *scan <= 2), "{holds:?}");
        visited.sort_unstable();
        let all: Vec<u32> = (0..CONNECTIONS as u32).collect();
        assert_eq!(visited, all, "each once");
    }
}

#[test]
fn a_look_up_ends_a_hold_by_the_connections_that_its_names_stand_for() {
    const MEMBERS: usize = NAMED_AS_ONE * NAMES_LOOK / 8;
    let hub = Hub::new(1, context(Limits::default(), &[], SlowConsumer::Disconnect));
    let channels: Vec<String> = (0..24).map(|n| format!("c{n}")).collect();
    let large = |keys: &[String]| Selection {
        recipients: Some(Recipients {
            channels: keys.iter().map(|name| channel_key(name)).collect(),
            ..Recipients::default()
        }),
        ..Selection::everyone(APP)
    };
    hub.shard(0).lock(|table| {
        for n in 0..MEMBERS {
            let at = connect(table, &n.to_string(), Value::Null);
            for channel in &channels {
                table.join(at, channel, Watching::No, JoinKind::New);
            }
        }
        let holds = |selection: &Selection, wants: bool| {
            let (mut search, mut holds) = (Search::new(selection), 1);
            while search.go_on(table, |_| wants) {
                holds += 1;
            }
            holds
        };
        // Eight of them are as much work as a hold may do, and the last hold finds the end.
        assert_eq!(holds(&large(&channels), true), 4);
        assert_eq!(holds(&large(&channels), false), 1, "counting costs nothing");
        assert_eq!(holds(&large(&channels[..1]), true), 1);
    });
    let found = block_on(Cursor::open(hub.shard(0), &large(&channels)));
    assert_eq!(found.bound(), MEMBERS);
}

#[test]
fn common_filters_take_one_hold() {
    let hub = hub();
    let common = everyone_by("auth.tenant != 't' && user.startsWith('u')");
    let (all, _) = holds(&hub, &common);
    assert_eq!(all[0], CONNECTIONS as u64);
    let (all, _) = holds(&hub, &named(common));
    assert_eq!(all, [CONNECTIONS as u64], "the end of a list is known");
}

#[test]
fn a_hold_ends_with_the_work_that_is_done_to_those_who_match() {
    let indexes = ["auth.groups", "auth.teams"];
    let hub = Hub::new(
        1,
        context(Limits::default(), &indexes, SlowConsumer::Disconnect),
    );
    hub.shard(0).lock(|table| {
        for n in 0..CONNECTIONS {
            let at = connect(table, &format!("u{n}"), many_entries("a"));
            for channel in 0..table.context.limits.channels_per_connection {
                let joined = table.join(at, &format!("c{channel}"), Watching::No, JoinKind::New);
                assert!(matches!(joined, Joining::Joined(_)));
            }
        }
    });
    let everyone = Selection::everyone(APP);

    let claims = many_entries("b");
    let (holds, visited) = holds_of(&hub, &everyone, |table, slot| {
        let at = table.reference(slot).unwrap();
        let mut connection = Connection::clone(table.open_connection(slot).unwrap());
        connection.attributes.auth = claims.clone();
        assert!(table.open(at, connection));
    });
    assert!(holds.iter().all(|scan| *scan <= 2), "replaced: {holds:?}");
    assert_eq!(visited, CONNECTIONS as u64);

    let frame = Frame::event_text(&[b"x"]);
    let permit = Admission::for_tests().try_admit(CONNECTIONS, 1).unwrap();
    let (holds, _) = holds_of(&hub, &everyone, |table, slot| {
        assert!(table.place(slot, &frame, &permit));
    });
    assert_eq!(holds[0], CONNECTIONS as u64, "placing does not end a hold");

    let close = Close::new(4010, "");
    let (holds, visited) = holds_of(&hub, &everyone, |table, slot| {
        let at = table.reference(slot).unwrap();
        assert!(table.close(at, None, &close));
    });
    assert!(holds.iter().all(|scan| *scan <= 2), "closed: {holds:?}");
    assert_eq!(visited, CONNECTIONS as u64);
}

#[tokio::test]
async fn a_small_publication_with_a_heavy_filter_takes_several_turns_and_reaches_everyone_once() {
    let hub = hub();
    let frame = Frame::event_text(&[b"x"]);
    let permit = Admission::for_tests().try_admit(CONNECTIONS, 1).unwrap();

    let selection = named(heavy());
    let Reach::Small(few) = hub.reach(&selection) else {
        panic!("they are few")
    };
    let rest = hub
        .place_small(&selection, few, &frame, &permit)
        .unwrap_err();
    let before = rest.counts.scan.evaluated;
    assert!((1..=4).contains(&before), "{before}");

    // Connections that have left between two turns are left out.
    let gone = hub.shard(0).lock(|table| {
        let at = table.reference(CONNECTIONS as u32 - 1).unwrap();
        table.remove(at).is_some()
    });
    assert!(gone);
    let counts = hub.place_rest(&selection, rest, &frame, &permit).await;
    assert_eq!(counts.queued, CONNECTIONS as u64 - 1);
    assert_eq!(counts.scan.matched, counts.queued);
}

#[tokio::test]
async fn a_closure_that_takes_long_and_picks_nobody_leaves_the_thread_to_others() {
    let hub = hub();
    let frame = Frame::event_text(&[b"x"]);
    let permit = Admission::for_tests().try_admit(CONNECTIONS, 1).unwrap();
    let closure: Closure = Arc::new(|_| {
        std::thread::sleep(2 * SLICE);
        false
    });

    let turns = Cell::new(0);
    let others = async {
        loop {
            turns.set(turns.get() + 1);
            tokio::task::yield_now().await;
        }
    };

    let everyone = Selection::everyone(APP);
    let counts = tokio::select! {
        biased;
        counts = hub.place_where(&everyone, &closure, &frame, &permit) => counts,
        () = others => unreachable!(),
    };
    assert_eq!(counts.scan.evaluated, CONNECTIONS as u64);
    assert!(turns.get() >= CONNECTIONS, "{turns:?}");
}

#[tokio::test]
async fn a_page_of_a_heavy_filter_is_whole() {
    let hub = hub();
    let (page, next) = hub.page(&heavy(), PageCursor::default(), 100).await;
    assert_eq!((page.len(), next), (CONNECTIONS, None));
}
