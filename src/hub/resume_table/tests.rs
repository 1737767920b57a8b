use super::*;

const WINDOW: Duration = Duration::from_mins(1);

fn lost(device: &str, slot: u32, channels: &[&str]) -> Detached {
    let connection = crate::hub::tests::unconnected(device, slot);
    let channels = channels.iter().map(|name| LostChannel {
        name: (*name).into(),
        watched: false,
    });
    let mut connection = Arc::new(connection);
    let names: Vec<Value> = channels
        .clone()
        .map(|channel| Value::String(channel.name))
        .collect();
    Arc::make_mut(&mut connection).attributes.channels = Value::List(names.into());
    Detached::in_some(&connection, channels.collect())
}

#[test]
fn an_app_has_its_share_whatever_others_lose() {
    let mut of_apps = [0, 0, 0];
    while has_room(&of_apps, AppId(0)) {
        of_apps[0] += 1;
    }
    let share = LOST_MAX / 2 / 3;
    assert_eq!(
        of_apps[0],
        LOST_MAX - 2 * share,
        "its share, and the common half"
    );
    for app in [1, 2] {
        while has_room(&of_apps, AppId(app)) {
            of_apps[usize::from(app)] += 1;
        }
        assert_eq!(of_apps[usize::from(app)], share);
    }
    assert_eq!(of_apps.iter().sum::<usize>(), LOST_MAX);

    let mut alone = [LOST_MAX - 1];
    assert!(has_room(&alone, AppId(0)));
    alone[0] += 1;
    assert!(!has_room(&alone, AppId(0)));
}

#[test]
fn a_client_comes_back_to_its_oldest_place_in_a_channel() {
    let resume_table = ResumeTable::new(1, Duration::ZERO, [WINDOW]);
    for slot in 0..100 {
        let channels: &[&str] = if slot % 2 == 0 { &["a", "b"] } else { &["c"] };
        resume_table.insert(QueueAt(1), lost("x", slot, channels));
    }
    let of = |device| ClientKey {
        app: AppId(0),
        user: None,
        device: Some(device),
    };
    let (client, stranger) = (of("x"), of("y"));
    assert!(resume_table.take_place(stranger, "a").is_none());
    assert!(resume_table.take_place(client, "d").is_none());

    let take = |channel| {
        Some(
            resume_table
                .take_place(client, channel)?
                .connection
                .id()
                .slot,
        )
    };
    assert_eq!(
        (take("a"), take("a"), take("b")),
        (Some(0), Some(2), Some(0))
    );
    assert_eq!(take("c"), Some(1));
    let odd: Vec<u32> = std::iter::from_fn(|| take("c")).collect();
    assert_eq!(odd, (3..100).step_by(2).collect::<Vec<_>>());
    for channel in ["a", "b"] {
        while take(channel).is_some() {}
    }
    let detached = resume_table.queues[1].lost.lock();
    assert!(detached.by_id.is_empty() && detached.places.is_empty() && detached.of_apps[0] == 0);
}

#[tokio::test]
async fn a_client_that_comes_back_is_lost_or_returning_until_its_places_are_claimed() {
    let resume_table = ResumeTable::new(1, WINDOW, []);
    let one = lost("x", 1, &["a", "b"]);
    let id = one.connection.id();
    resume_table.insert(QueueAt(0), one);
    let channels = async || {
        let lost = resume_table.all().await.into_iter().map(|(one, _)| one);
        let all: Vec<Snapshot> = lost.chain(resume_table.returning()).collect();
        let names = all.iter().flat_map(|one| one.channel_names().cloned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(channels().await, ["a", "b"]);

    assert!(resume_table.take(&id, |_| true).is_some());
    assert_eq!(channels().await, ["a", "b"]);
    resume_table.claim(&id, (AppId(0), "a"));
    assert_eq!(channels().await, ["b"]);
    resume_table.give_up(&id, "b");
    assert!(channels().await.is_empty());
}

#[test]
fn the_last_that_has_taken_a_place_is_known_for_the_window_and_no_more_than_may_be_lost() {
    let id = |slot| crate::hub::tests::unconnected("x", slot).id();
    let mut successors = Successors::default();
    for slot in 0..3 {
        successors.note(id(slot), id(slot + 1), WINDOW);
    }
    assert_eq!(successors.last(&id(0)), Some(id(3)));
    assert_eq!(successors.last(&id(3)), None);
    for slot in 0..3 {
        assert_eq!(successors.by_id[&id(slot)], id(3), "the way is short now");
    }

    successors.in_order[0].0 -= WINDOW * 2;
    successors.note(id(3), id(4), WINDOW);
    assert_eq!(successors.last(&id(0)), None);
    assert_eq!(successors.last(&id(1)), Some(id(4)));
    for slot in 0..LOST_MAX as u32 {
        successors.note(id(10 + slot), id(slot + 11), WINDOW);
    }
    assert_eq!(
        (successors.by_id.len(), successors.in_order.len()),
        (LOST_MAX, LOST_MAX)
    );
}

#[test]
fn places_go_with_those_who_lapse_and_a_hold_gives_up_a_few() {
    let resume_table = ResumeTable::new(1, Duration::ZERO, [WINDOW]);
    let names: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for slot in 0..10 {
        resume_table.insert(QueueAt(1), lost("x", slot, &names));
    }
    assert!(resume_table.take_lapsed().is_empty());
    for (since, _) in &mut resume_table.queues[1].lost.lock().in_order {
        *since -= WINDOW;
    }
    let mut left = 10;
    while left > 0 {
        let lapsed = resume_table.take_lapsed().len();
        assert!((1..=3).contains(&lapsed), "{lapsed}");
        left -= lapsed;
        let places = resume_table.queues[1].lost.lock().places.len();
        assert_eq!(places, left * names.len());
    }
}
