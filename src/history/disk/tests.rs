use std::{
    fs,
    path::{Path, PathBuf},
    task::{Context, Waker},
    time::Duration,
};

use super::*;
use super::{database::Survives, store::OnDisk};
use crate::config::DataSync;
use crate::history::suite::{self, ANYONE, KEEP, channel, event, fill, offsets, user};
use crate::limits::DATA_BUFFER;

/// A directory of a test, removed at its end.
pub(super) struct Directory(pub(super) PathBuf);

impl Directory {
    pub(super) fn new() -> Self {
        let name = format!("fanfare-data-{}", uuid::Uuid::new_v4());
        Self(std::env::temp_dir().join(name))
    }

    pub(super) fn setup(&self, sync: DataSync, max_bytes: usize) -> Setup {
        let metrics = Arc::new(Metrics::new());
        let apps = ["a", "b"].map(|name| StoredApp {
            name: name.to_owned(),
            metrics: Arc::new(metrics.app(name)),
            quota: None,
        });
        Setup {
            config: DataConfig {
                dir: self.0.clone(),
                sync,
                max_bytes,
                ..DataConfig::default()
            },
            metrics,
            apps: apps.into(),
            is_occupied: Arc::new(Occupied::by(|_, _| false)),
            spare_bytes: 0,
        }
    }

    pub(super) fn open(&self) -> Disk {
        Disk::open(self.setup(DataSync::Never, 1 << 30)).unwrap()
    }

    pub(super) fn store(&self) -> Store {
        Store::open(&self.setup(DataSync::Never, 1 << 30)).unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn a_data_directory_behaves_as_a_store() {
    let directory = Directory::new();
    suite::behaves_as_a_store(&directory.open()).await;
}

#[tokio::test]
async fn a_channel_goes_on_after_a_restart() {
    let directory = Directory::new();
    let (key, store) = (channel("c"), directory.open());
    let before = fill(&store, &key, &KEEP, 5).await;
    drop(store);

    let store = directory.open();
    assert_eq!(store.position(&key, &KEEP).await.unwrap(), before);
    let epoch = before.epoch.to_string();
    let recovery = store.since(&key, &KEEP, Some(&epoch), 3).await.unwrap();
    assert!(recovery.recovered);
    assert_eq!(offsets(&recovery.entries), [4, 5]);
    let after = fill(&store, &key, &KEEP, 1).await;
    assert_eq!((after.epoch, after.offset), (before.epoch, 6));
}

#[tokio::test]
async fn what_waits_for_a_user_and_what_it_confirmed_outlive_a_restart() {
    let directory = Directory::new();
    let (key, store) = (user("u"), directory.open());
    let newest = fill(&store, &key, &KEEP, 4).await.offset;
    store.confirm(&key, newest - 2, &ANYONE);
    drop(store);

    let store = directory.open();
    let waiting = store.waiting(&key).await.unwrap();
    assert_eq!(offsets(&waiting.entries), [newest - 1, newest]);
}

#[tokio::test]
async fn a_directory_serves_one_process_at_a_time() {
    let directory = Directory::new();
    let store = directory.open();
    let error = Disk::open(directory.setup(DataSync::Never, 1 << 30)).unwrap_err();
    assert!(matches!(error, DataError::Locked { .. }), "{error}");
    let own = format!("process {}", std::process::id());
    assert!(error.to_string().contains(&own), "{error}");
    drop(store);
    directory.open();
}

/// What is left of the directory when the process is killed: a copy of what the system has.
pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test]
async fn what_was_answered_survives_the_end_of_the_process() {
    let (directory, killed) = (Directory::new(), Directory::new());
    let (key, store) = (channel("c"), directory.open());
    let before = fill(&store, &key, &KEEP, 50).await;
    copy(&directory.0, &killed.0);

    let store = killed.open();
    assert_eq!(store.position(&key, &KEEP).await.unwrap(), before);
    let page = store.page(&key, 0, 100).await.unwrap().unwrap();
    assert_eq!(page.entries.len(), 50);
}

#[tokio::test]
async fn after_a_power_loss_a_channel_goes_on_in_a_new_epoch() {
    let directory = Directory::new();
    let (key, store) = (channel("c"), directory.open());
    let before = fill(&store, &key, &KEEP, 5).await;
    drop(store);
    // As if the system had ended while the directory was open, in another boot.
    let tables = database::Tables::open(&directory.0).unwrap();
    tables.meta.insert("open", b"\0another boot").unwrap();
    drop(tables);

    let store = directory.open();
    let after = store.position(&key, &KEEP).await.unwrap();
    assert_ne!(after.epoch, before.epoch);
    assert_eq!(after.offset, before.offset);
    let epoch = before.epoch.to_string();
    let seen = store.since(&key, &KEEP, Some(&epoch), 3).await.unwrap();
    assert!(seen.recovered, "it is known to be here");
    assert_eq!(offsets(&seen.entries), [4, 5]);
    let gone = store.since(&key, &KEEP, Some(&epoch), 6).await.unwrap();
    assert!(!gone.recovered, "an event that is not here was seen");
    assert_eq!(offsets(&gone.entries), [1, 2, 3, 4, 5]);
}

#[test]
fn what_is_past_its_time_leaves_the_files_and_so_does_a_quiet_topic() {
    let directory = Directory::new();
    let mut store = directory.store();
    let key = channel("c");
    for _ in 0..3 {
        store.append(&key, &KEEP, &event(1)).unwrap();
    }
    store.commit(Survives::EndOfProcess).unwrap();
    store.pass(Duration::from_mins(7));
    while store.expire().unwrap() {}
    store.commit(Survives::EndOfProcess).unwrap();
    assert_eq!(
        store.counts(),
        OnDisk {
            events: 0,
            topics: 1
        }
    );

    store.pass(Duration::from_hours(2));
    while store.expire().unwrap() {}
    store.commit(Survives::EndOfProcess).unwrap();
    assert_eq!(
        store.counts(),
        OnDisk {
            events: 0,
            topics: 0
        }
    );
}

#[test]
fn what_is_only_in_memory_and_in_the_journal_has_a_bound() {
    use fjall::AbstractTree as _;
    const LENGTH: usize = 100_000;
    let directory = Directory::new();
    let mut store = directory.store();
    let most = DATA_BUFFER + 64 * (LENGTH as u64 + 1_000);
    let mut was_sorted = false;
    for at in 0..10 {
        for n in 0..64 {
            let key = channel(&format!("c{n}"));
            store.append(&key, &KEEP, &event(LENGTH)).unwrap();
        }
        store.commit(Survives::EndOfProcess).unwrap();
        let unsorted = store.tables().events.tree.active_memtable().size();
        assert!(unsorted <= most, "{unsorted} bytes after {at} groups");
        was_sorted |= unsorted == 0;
    }
    assert!(was_sorted);
}

#[test]
fn the_app_that_keeps_most_gives_up_its_oldest() {
    let directory = Directory::new();
    let max_bytes = 100_000;
    let mut store = Store::open(&directory.setup(DataSync::Never, max_bytes)).unwrap();
    let modest = user("modest");
    store.append(&modest, &KEEP, &event(1)).unwrap();
    for at in 0..400 {
        let key = channel(&format!("c{}", at % 10));
        store.append(&key, &KEEP, &event(100)).unwrap();
        store.commit(Survives::EndOfProcess).unwrap();
        while store.shed().unwrap() {
            store.commit(Survives::EndOfProcess).unwrap();
        }
    }
    assert!(!store.is_over_bound());
    let stored = store.stored(&modest, 0).unwrap().unwrap();
    assert!(
        stored.run.after < stored.run.end,
        "it keeps less than its share"
    );
    assert!(store.counts().events > 20);
}

#[tokio::test]
async fn operators_check_dump_compact_and_restore_a_closed_directory() {
    let directory = Directory::new();
    let (key, store) = (channel("room"), directory.open());
    let before = fill(&store, &key, &KEEP, 3).await;
    assert!(matches!(
        tools::check(&directory.0),
        Err(DataError::Locked { .. })
    ));
    drop(store);

    let findings = tools::check(&directory.0).unwrap();
    assert_eq!((findings.topics, findings.events), (1, 3));
    assert_eq!(findings.problems, Vec::<String>::new());
    let mut dump = Vec::new();
    tools::dump(&directory.0, &mut dump).unwrap();
    let lines: Vec<serde_json::Value> = str::from_utf8(&dump)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[2]["channel"], "room");
    assert_eq!(lines[2]["app"], "a");
    assert_eq!(lines[2]["event"]["offset"], 3);
    tools::compact(&directory.0).unwrap();
    tools::restore(&directory.0).unwrap();

    let store = directory.open();
    let epoch = before.epoch.to_string();
    let recovery = store.since(&key, &KEEP, Some(&epoch), 3).await.unwrap();
    assert!(!recovery.recovered, "events after the copy may be missing");
    assert_eq!(offsets(&recovery.entries), [1, 2, 3]);
}

#[test]
fn a_directory_that_is_not_there_is_not_made() {
    let directory = Directory::new();
    let error = tools::check(&directory.0).unwrap_err();
    assert!(matches!(error, DataError::Io { .. }), "{error}");
    assert!(!directory.0.exists());
}

#[tokio::test]
async fn revocations_and_answers_outlive_a_restart() {
    let directory = Directory::new();
    let store = directory.open();
    let revocation = crate::auth::Revocation::new(1_000, u64::from(u32::MAX));
    let revoked = vec![("ann".into(), revocation)];
    store.revoke(AppId(1), revoked.clone()).await.unwrap();
    let stored = StoredAnswer {
        body: "digest".into(),
        answer: "{}".into(),
    };
    let window = Duration::from_hours(1);
    let answer = store.keep_answer(AppId(0), "key", stored.clone(), window);
    answer.await.unwrap();
    drop(store);

    let store = directory.open();
    assert_eq!(store.take_revoked(), [Vec::new(), revoked]);
    assert_eq!(store.answer(AppId(0), "key").await.unwrap(), Some(stored));
    assert_eq!(store.answer(AppId(1), "key").await.unwrap(), None);
}

#[tokio::test]
async fn an_app_over_its_quota_is_refused_and_another_goes_on() {
    let directory = Directory::new();
    let mut setup = directory.setup(DataSync::Never, 1 << 30);
    setup.apps[0].quota = Some(10_000);
    let store = Disk::open(setup).unwrap();
    let key = channel("c");
    let error = loop {
        match store.append(&key, &KEEP, event(1_000)).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let HistoryError::OverQuota { stored, quota } = error else {
        panic!("{error}");
    };
    assert!(stored >= quota && quota == 10_000);
    let other = user("u");
    store.append(&other, &KEEP, event(1_000)).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_what_is_new_and_says_why() {
    let directory = Directory::new();
    let (key, store) = (channel("c"), directory.open());
    fill(&store, &key, &KEEP, 3).await;
    drop(store);

    let mut setup = directory.setup(DataSync::Never, 1 << 30);
    setup.spare_bytes = u64::MAX;
    let store = Disk::open(setup).unwrap();
    let refused = store.append(&key, &KEEP, event(1)).await.unwrap_err();
    assert!(
        refused.to_string().contains("the disk is full"),
        "{refused}"
    );
    assert!(store.trouble().is_some());
    let page = store.page(&key, 0, 10).await.unwrap().unwrap();
    assert_eq!(offsets(&page.entries), [1, 2, 3]);
}

/// A store whose thread does not run yet: a disk that does not answer.
fn at_a_standstill() -> (Disk, std::sync::mpsc::Receiver<Job>) {
    let (jobs, waiting) = sync_channel(DATA_QUEUE);
    let store = Disk {
        jobs,
        shared: Arc::default(),
        thread: Mutex::new(None),
        revoked: Mutex::default(),
    };
    (store, waiting)
}

/// Asks, and makes sure that there is no answer yet.
fn begin<T>(mut answer: HistoryFuture<'_, T>) -> HistoryFuture<'_, T> {
    let mut context = Context::from_waker(Waker::noop());
    assert!(answer.as_mut().poll(&mut context).is_pending());
    answer
}

#[tokio::test]
async fn what_finds_no_room_while_the_disk_is_slow_is_refused_and_the_rest_is_stored() {
    let (store, waiting) = at_a_standstill();
    let key = channel("c");
    let append = || store.append(&key, &KEEP, event(1));
    let calls: Vec<_> = (0..DATA_QUEUE).map(|_| begin(append())).collect();
    assert_eq!(append().await.unwrap_err(), HistoryError::Behind);
    let position = store.position(&key, &KEEP).await;
    assert_eq!(position.unwrap_err(), HistoryError::Behind);

    // The disk answers.
    let directory = Directory::new();
    let setup = directory.setup(DataSync::Never, 1 << 30);
    let worker = Worker::new(
        Store::open(&setup).unwrap(),
        setup,
        waiting,
        store.shared.clone(),
    );
    *store.thread.lock() = Some(thread::spawn(|| worker.run()));
    for (at, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().position.offset, at as u64 + 1);
    }
    append().await.unwrap();
}

#[tokio::test]
async fn large_events_fill_the_queue_by_their_bytes() {
    let (store, _waiting) = at_a_standstill();
    let key = channel("c");
    let append = || store.append(&key, &KEEP, event(1 << 20));
    let room = DATA_QUEUE_BYTES >> 20;
    let calls: Vec<_> = (1..room).map(|_| begin(append())).collect();
    assert_eq!(append().await.unwrap_err(), HistoryError::Behind);
    let other = begin(store.append(&key, &KEEP, event(1)));
    drop((calls, other));
}
