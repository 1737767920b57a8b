//! Directories of all formats there were, as they were written then: each is read exactly.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    database::{FORMAT, Survives, Tables},
    tests::{Directory, copy},
    *,
};
use crate::{
    auth::Revocation,
    config::DataSync,
    history::suite::{ANYONE, KEEP, channel, event, not_for_phones, offsets, user},
};

/// Nothing of what is recorded is ever past its time.
const FOREVER: Duration = Duration::from_hours(1_000_000);

const RETENTION: Retention = Retention {
    ttl: FOREVER,
    ..KEEP
};

fn recorded(format: u32) -> PathBuf {
    let path = format!("tests/data/directories/{format}");
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn answer() -> StoredAnswer {
    StoredAnswer {
        body: "digest".into(),
        answer: "{\"id\":1}".into(),
    }
}

fn revoked() -> Vec<Revoked> {
    let revocation = Revocation::new(1_000, u64::from(u32::MAX));
    vec![("ann".into(), revocation)]
}

fn dump(directory: &Path) -> String {
    let mut dump = Vec::new();
    tools::dump(directory, &mut dump).unwrap();
    String::from_utf8(dump).unwrap()
}

#[test]
#[ignore = "writes what is read from then on, once for each format"]
fn record_a_directory() {
    let directory = Directory::new();
    let mut store = directory.store();
    let (room, ann) = (channel("room"), user("ann"));

    let fill = |store: &mut Store, count| {
        for n in 0..count {
            store.append(&room, &RETENTION, &event(n)).unwrap();
            store.append(&ann, &RETENTION, &not_for_phones(n)).unwrap();
        }
        store.commit(Survives::PowerLoss).unwrap();
    };

    fill(&mut store, 4);
    store.confirm(&ann, 2, &ANYONE).unwrap();
    let few = Retention {
        events: 1,
        ..RETENTION
    };
    for _ in 0..3 {
        store.append(&channel("news"), &few, &event(1)).unwrap();
    }

    store.revoke(AppId(1), &revoked()).unwrap();
    store.commit(Survives::PowerLoss).unwrap();
    store.tables().compact().unwrap();

    // Some of it is in sorted files now, and the rest is in the journal.
    fill(&mut store, 2);
    let window_ms = FOREVER.as_millis() as u64;
    let stored = store.keep_answer(AppId(0), "request", &answer(), window_ms);
    stored.unwrap();
    store.close().unwrap();
    drop(store);

    let path = recorded(FORMAT);
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("dump.jsonl"), dump(&directory.0)).unwrap();
    copy(&directory.0, &path.join("files"));
    let journal = path.join("files/0.jnl");
    let bytes = fs::read(&journal).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    fs::write(journal, &bytes[..=last]).unwrap();
}

/// What `record_a_directory` wrote with a version of that format is here, and everything goes on from there.
async fn is_read(format: u32) {
    let directory = Directory::new();
    copy(&recorded(format).join("files"), &directory.0);
    let expected = fs::read_to_string(recorded(format).join("dump.jsonl")).unwrap();
    assert_eq!(tools::check(&directory.0).unwrap().problems, [""; 0]);
    assert_eq!(dump(&directory.0), expected);

    let store = Disk::open(directory.setup(DataSync::Never, 1 << 30)).unwrap();
    assert_eq!(store.take_revoked(), [Vec::new(), revoked()]);
    let stored = store.answer(AppId(0), "request").await.unwrap();
    assert_eq!(stored, Some(answer()));
    let room = channel("room");
    let before = store.position(&room, &RETENTION).await.unwrap();
    assert_eq!(before.offset, 6);
    assert!(expected.contains(&before.epoch.to_string()));
    let epoch = before.epoch.to_string();
    let missed = store
        .since(&room, &RETENTION, Some(&epoch), 4)
        .await
        .unwrap();
    assert!(missed.recovered);
    assert_eq!(offsets(&missed.entries), [5, 6]);
    let news = store.page(&channel("news"), 0, 10).await.unwrap().unwrap();
    assert_eq!(offsets(&news.entries), [3]);
    let waiting = store.waiting(&user("ann")).await.unwrap();
    assert_eq!(offsets(&waiting.entries), [3, 4, 5, 6]);
    assert!(waiting.entries.iter().all(|entry| entry.omit.is_some()));

    let next = store
        .append(&room, &RETENTION, event(1))
        .await
        .unwrap()
        .position;
    assert_eq!((next.epoch, next.offset), (before.epoch, 7));
    drop(store);
    assert_eq!(tools::check(&directory.0).unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn a_directory_of_format_1_is_read_exactly() {
    is_read(1).await;
}

#[test]
fn the_format_that_is_written_is_among_those_that_are_read() {
    assert!(recorded(FORMAT).join("dump.jsonl").exists());
    assert!(!recorded(FORMAT + 1).exists());
}

#[test]
fn a_directory_of_a_later_format_is_refused_and_left_alone() {
    let directory = Directory::new();
    let mut tables = Tables::open(&directory.0).unwrap();
    tables.set_number("format", u64::from(FORMAT) + 1);
    tables.commit(Survives::PowerLoss).unwrap();
    drop(tables);

    let setup = directory.setup(DataSync::Never, 1 << 30);
    let refused = Disk::open(setup).unwrap_err().to_string();
    let said =
        "has format 2, and this version reads formats up to 1; install the version that wrote it";
    assert!(refused.contains(said), "{refused}");
    let refused = tools::check(&directory.0).unwrap_err().to_string();
    assert!(refused.contains(said), "{refused}");
}
