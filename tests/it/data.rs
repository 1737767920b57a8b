//! A node with a data directory: what it answered is there after a restart, however it ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::{Value, json};

use crate::running::{Running, Served, run};
use crate::support::*;

/// A directory of a test, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let name = format!("fanfare-data-{}", uuid::Uuid::new_v4());
        Self(std::env::temp_dir().join(name))
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// A server of its own process with this directory.
    fn serve(&self, more: &[&str]) -> Served {
        let words = [
            "--data",
            self.text(),
            "--channel-history",
            "room*=10000",
            "--store-user-events",
        ];
        Served::start(&[&words, more].concat())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn send(served: &Served, channel: &str, data: &Value) -> Value {
    send_to(served.address, channel, data)
}

fn send_to(address: SocketAddr, channel: &str, data: &Value) -> Value {
    let body = json!({"channel": channel, "event": "e", "data": data});
    let answer = request(
        address,
        "POST",
        "/v1/send",
        &[],
        Some(body.to_string().as_bytes()),
    );
    assert_eq!(answer.status, 200, "{}", answer.json());
    answer.json()
}

/// Kills the process, and waits until it has ended.
fn kill(served: Served) {
    served.running.signal(Signal::KILL);
    let Served { mut running, .. } = served;
    eventually("the process has ended", || running.has_ended());
}

/// The numbers in the events of a channel, oldest first. Their offsets are checked to be dense.
fn numbers(served: &Served, channel: &str) -> Vec<u64> {
    let mut numbers = Vec::new();
    loop {
        let path = format!("/v1/channels/{channel}/history?after={}", numbers.len());
        let page = request(served.address, "GET", &path, &[], None).json();
        let events = page["events"]
            .as_array()
            .unwrap_or_else(|| panic!("{page}"));
        for event in events {
            let event = event
                .get("event")
                .filter(|event| event.is_object())
                .unwrap_or(event);
            assert_eq!(event["offset"], json!(numbers.len() + 1), "{event}");
            numbers.push(event["data"].as_u64().unwrap());
        }
        if events.is_empty() {
            return numbers;
        }
    }
}

#[test]
fn who_comes_back_after_the_process_was_killed_gets_what_it_missed() {
    let directory = Directory::new();
    let served = directory.serve(&[]);
    let mut client = Client::open(served.address, "/v1/connect", &[]).unwrap();
    assert_eq!(client.json()["op"], "welcome");
    let joined = client.join("room");
    send(&served, "room", &json!(1));
    assert_eq!(client.json()["offset"], 1);
    kill(served);

    let served = directory.serve(&[]);
    send(&served, "room", &json!(2));
    let mut client = Client::open(served.address, "/v1/connect", &[]).unwrap();
    assert_eq!(client.json()["op"], "welcome");
    let since = json!({"epoch": joined["epoch"], "offset": 1});
    let message = json!({"op": "join", "id": 1, "channel": "room", "since": since});
    let (events, joined_again) = client.ask_amid(&message);
    assert_eq!(joined_again["recovered"], true, "{joined_again}");
    assert_eq!(joined_again["epoch"], joined["epoch"]);
    let missed = events.first().cloned().unwrap_or_else(|| client.json());
    assert_eq!((&missed["offset"], &missed["data"]), (&json!(2), &json!(2)));
}

/// How often something is tried: `CRASHES` times, or `few` times without it.
fn rounds(few: usize) -> usize {
    #[expect(
        clippy::disallowed_methods,
        reason = "only to crash more often than there is time for in every run"
    )]
    std::env::var("CRASHES").map_or(few, |rounds| rounds.parse().unwrap())
}

#[test]
fn nothing_that_was_answered_is_lost_when_the_process_is_killed() {
    let rounds = rounds(6);
    let directory = Directory::new();
    for round in 0..rounds {
        let channel = format!("room-{round}");
        let served = directory.serve(&["--data-sync", ["always", "interval"][round % 2]]);
        let stop = Arc::new(AtomicBool::new(false));
        let (address, stopped, to) = (served.address, stop.clone(), channel.clone());
        let sending = thread::spawn(move || {
            let mut answered = Vec::new();
            for n in 0.. {
                let body = json!({"channel": to, "event": "e", "data": n}).to_string();
                // The answer may be cut off.
                let sent = std::panic::catch_unwind(|| {
                    request(address, "POST", "/v1/send", &[], Some(body.as_bytes())).status
                });
                if sent.is_ok_and(|status| status == 200) {
                    answered.push(n);
                } else if stopped.load(SeqCst) {
                    break;
                }
            }
            answered
        });
        thread::sleep(Duration::from_millis(20 + 37 * (round as u64 % 7)));
        stop.store(true, SeqCst);
        kill(served);
        let answered = sending.join().unwrap();

        let served = directory.serve(&[]);
        let kept = numbers(&served, &channel);
        let there: BTreeSet<u64> = kept.iter().copied().collect();
        assert_eq!(there.len(), kept.len(), "an event is there twice");
        let lost: Vec<&u64> = answered.iter().filter(|n| !there.contains(n)).collect();
        assert!(
            lost.is_empty(),
            "{lost:?} of {} were answered",
            answered.len()
        );
        assert!(kept.is_sorted(), "{kept:?}");
        served.terminate().expect_end();
    }
    let checked = run(&["data", "check", directory.text()]);
    assert_eq!(checked.code, 0, "{checked:?}");
}

/// Makes the directory's table of events with so little room in memory that files are sorted and merged all the time.
fn with_small_buffers(directory: &Directory) {
    use fjall::{Database, KeyspaceCreateOptions};
    let database = Database::builder(&directory.0).open().unwrap();
    let options = || KeyspaceCreateOptions::default().max_memtable_size(16_000);
    database.keyspace("events", options).unwrap();
}

/// Waits until no thread of the process runs any more.
fn stand_still(served: &Served) {
    served.running.signal(Signal::STOP);
    let tasks = format!("/proc/{}/task", served.running.pid().as_raw_nonzero());
    eventually("the process stands still", || {
        fs::read_dir(&tasks).unwrap().all(|task| {
            let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            stat.rsplit_once(')')
                .unwrap()
                .1
                .trim_start()
                .starts_with('T')
        })
    });
}

/// Copies a directory, with holes where files have zeros at their end.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
            continue;
        }
        let bytes = fs::read(entry.path()).unwrap();
        let written = bytes.iter().rposition(|byte| *byte != 0);
        fs::write(&to, &bytes[..written.map_or(0, |last| last + 1)]).unwrap();
        let file = fs::File::options().write(true).open(&to).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
    }
}

/// Events by channel and offset.
type Events = BTreeMap<(String, u64), u64>;

/// Sends to a channel of its own until `is_over`, and notes in `answered` where each event is.
fn keep_sending(to: SocketAddr, channel: &str, is_over: &AtomicBool, answered: &Mutex<Events>) {
    for n in 0.. {
        if is_over.load(SeqCst) {
            return;
        }
        let answer = send_to(to, channel, &json!(n));
        let publication = &answer["publications"][0];
        let offset = publication["offset"].as_u64().unwrap();
        let place = (channel.to_owned(), offset);
        assert_eq!(answered.lock().unwrap().insert(place, n), None);
    }
}

/// All events of a directory that no server has open, which has to be whole.
fn dumped(directory: &Directory) -> Events {
    let checked = run(&["data", "check", directory.text()]);
    assert_eq!(checked.code, 0, "{checked:?}");
    let dump = run(&["data", "dump", directory.text()]).expect(0);
    let mut events = Events::new();
    for line in dump.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let offset = event["offset"].as_u64().unwrap();
        assert_eq!(event["event"]["offset"], offset, "{line}");
        let place = (event["channel"].as_str().unwrap().to_owned(), offset);
        let n = event["event"]["data"].as_u64().unwrap();
        assert_eq!(events.insert(place, n), None, "{line}");
    }
    events
}

#[test]
fn a_copy_of_any_moment_under_load_has_all_that_was_answered() {
    let directory = Directory::new();
    with_small_buffers(&directory);
    let served = directory.serve(&["--data-sync", "always"]);
    let answered = Mutex::new(Events::new());
    for round in 0..rounds(6) {
        let is_over = AtomicBool::new(false);
        let before = answered.lock().unwrap().len();
        thread::scope(|scope| {
            for sender in 0..4 {
                let channel = format!("room-{round}-{sender}");
                let (to, is_over, answered) = (served.address, &is_over, &answered);
                scope.spawn(move || keep_sending(to, &channel, is_over, answered));
            }
            let enough = before + 20 + 13 * (round % 11);
            eventually("events are answered", || {
                answered.lock().unwrap().len() >= enough
            });

            stand_still(&served);
            let copied = Directory::new();
            copy(&directory.0, &copied.0);
            let there = answered.lock().unwrap().clone();
            served.running.signal(Signal::CONT);
            is_over.store(true, SeqCst);

            let kept = dumped(&copied);
            for (place, n) in &there {
                assert_eq!(kept.get(place), Some(n), "{place:?} of round {round}");
            }
            // Each channel has the events that were sent to it, once and in their order, without a gap.
            for ((channel, offset), n) in &kept {
                assert_eq!(*n + 1, *offset, "{channel} of round {round}");
            }
        });
    }
    served.terminate().expect_end();
    assert_eq!(dumped(&directory), *answered.lock().unwrap());
}

/// A server with this directory whose writes the test can let fail. `prefix` is a command that runs it.
fn serve_under(prefix: &str, directory: &Directory) -> Served {
    // A write that is too large for the limit fails instead of ending the process.
    Served::of(Running::shell(&format!(
        "trap '' XFSZ; exec {prefix} fanfare serve --listen 127.0.0.1:0 --log off --shards 2 --data {} \
         --channel-history 'room*=1000'",
        directory.text()
    )))
}

fn problem(served: &Served, channel: &str) -> (u16, Value) {
    let body = json!({"channel": channel, "event": "e", "data": 1}).to_string();
    let answer = request(
        served.address,
        "POST",
        "/v1/send",
        &[],
        Some(body.as_bytes()),
    );
    (answer.status, answer.json()["code"].clone())
}

fn readiness(served: &Served) -> (u16, String) {
    let answer = request(served.address, "GET", "/readyz", &[], None);
    (answer.status, answer.text)
}

/// Nothing can be stored, and readiness says that: publications to channels with history are refused, and others go on.
fn expect_refusals(served: &Served, why: &str) {
    eventually("a publication is refused", || {
        problem(served, "room") == (503, json!("history_unavailable"))
    });
    eventually("readiness fails", || readiness(served).0 == 503);
    let said = readiness(served).1;
    assert!(said.contains("the data directory cannot be used"), "{said}");
    assert!(said.contains(why), "{said}");
    send(served, "passing", &json!(1));
}

#[test]
fn writes_that_fail_make_the_node_unready_until_they_succeed_again() {
    fn limit(pid: Pid, bytes: Option<u64>) {
        let maximum = getrlimit(Resource::Fsize).maximum;
        let current = bytes.or(maximum);
        prlimit(Some(pid), Resource::Fsize, Rlimit { current, maximum }).unwrap();
    }
    let directory = Directory::new();
    let served = serve_under("", &directory);
    for n in 0..3 {
        send(&served, "room", &json!(n));
    }
    for round in 1..3 {
        limit(served.running.pid(), Some(100));
        expect_refusals(&served, "File too large");
        limit(served.running.pid(), None);
        eventually("the node is ready again", || readiness(&served).0 == 200);
        send(&served, "room", &json!(2 + round));
    }

    // A group that failed may have been written all the same, but nothing that was answered is missing or there twice.
    let kept = numbers(&served, "room");
    let mut answered = kept.clone();
    answered.retain(|n| *n != 1);
    assert_eq!(answered, [0, 2, 3, 4], "{kept:?}");
    kill(served);
    assert_eq!(numbers(&directory.serve(&[]), "room"), kept);
}

/// Writes a file until its disk has at most `left` bytes.
fn fill(path: &Path, left: u64) {
    let mut file = fs::File::create(path).unwrap();
    let free = || {
        let disk = rustix::fs::statvfs(path).unwrap();
        disk.f_bavail * disk.f_frsize
    };
    while free() > left {
        // The server may take the last room.
        if file.write_all(&[1; 8 * 1024]).is_err() {
            break;
        }
    }
}

#[test]
fn a_full_disk_makes_the_node_unready_until_there_is_room() {
    let directory = Directory::new();
    fs::create_dir_all(&directory.0).unwrap();
    // A small disk that only the server has, and the test through `/proc`.
    let text = directory.text();
    let namespace = "unshare --user --map-root-user --mount sh -c";
    let mount = format!("mount -t tmpfs -o size=200m none {text}");
    let tried = Command::new("sh")
        .args(["-c", &format!("{namespace} '{mount}'")])
        .status();
    if !tried.is_ok_and(|status| status.success()) {
        eprintln!("not tried: this system lets nobody mount a disk of its own");
        return;
    }
    let prefix = format!("{namespace} '{mount}; exec \"$@\"' sh");
    let served = serve_under(&prefix, &directory);
    let disk = PathBuf::from(format!(
        "/proc/{}/root{text}",
        served.running.pid().as_raw_nonzero()
    ));
    send(&served, "room", &json!(0));
    for (round, left) in [100, 1].into_iter().enumerate() {
        // Little room is refused before anything fails; without any, a group may fail first.
        fill(&disk.join("filling"), left * 1024 * 1024);
        expect_refusals(&served, "");
        fs::remove_file(disk.join("filling")).unwrap();
        eventually("the node is ready again", || readiness(&served).0 == 200);
        send(&served, "room", &json!(2 + round));
    }
    let mut kept = numbers(&served, "room");
    kept.retain(|n| *n != 1);
    assert_eq!(kept, [0, 2, 3]);
}

#[test]
fn what_waits_for_a_user_is_delivered_after_a_restart() {
    let directory = Directory::new();
    let served = directory.serve(&[]);
    served.run(&["publish", "ann", "kept", "1"]).expect(0);
    served.terminate().expect_end();

    let served = directory.serve(&[]);
    let mut ann = served.listen(&["--user", "ann", "--json"]);
    assert!(ann.line().contains("\"kept\""));
}

#[test]
fn a_repeated_request_gets_its_first_answer_after_a_restart() {
    let directory = Directory::new();
    let call = |served: &Served, data: u64| {
        let body = json!({"channel": "room", "event": "e", "data": data}).to_string();
        let key = [("Idempotency-Key", "k1")];
        request(
            served.address,
            "POST",
            "/v1/send",
            &key,
            Some(body.as_bytes()),
        )
    };
    let served = directory.serve(&[]);
    let first = call(&served, 1);
    assert_eq!(first.status, 200);
    served.terminate().expect_end();

    let served = directory.serve(&[]);
    let again = call(&served, 1);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.json(), first.json());
    assert_eq!(call(&served, 2).status, 422, "another body");
    assert_eq!(numbers(&served, "room"), [1]);
}

#[test]
fn a_revoked_token_stays_refused_after_a_restart() {
    let directory = Directory::new();
    let start = || {
        keyed_server(|config| {
            config.data = Some(fanfare::DataConfig {
                dir: directory.0.clone(),
                ..Default::default()
            });
        })
    };
    let token = signed(&json!({"sub": "ann", "iat": unix_now() - 10}));
    let server = start();
    server.connect(&format!("token={token}"));
    let revoked = server.post_as(KEY, "/v1/revoke", &json!({"user": "ann"}));
    assert_eq!(revoked.status, 200);
    fanfare::block_on(server.0.shutdown());
    drop(server);

    let server = start();
    let mut refused = server.open(&format!("token={token}"));
    assert_eq!(refused.closed(), 4001);
}

#[test]
fn a_directory_that_another_process_has_is_refused() {
    let directory = Directory::new();
    let _served = directory.serve(&[]);
    let words = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data",
        directory.text(),
    ];
    let second = Running::start(&words, &[], Stdio::null()).finish();
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.error.contains("is in use by process"), "{second:?}");
}

#[test]
fn a_directory_beside_redis_and_one_that_cannot_be_made_are_refused() {
    let both = run(&[
        "check",
        "--data",
        "/tmp/d",
        "--redis",
        "redis://127.0.0.1:1",
    ]);
    assert_eq!(both.code, 2, "{both:?}");
    assert!(
        both.error.contains("data.dir and redis are both set"),
        "{both:?}"
    );

    let file = Directory::new();
    fs::write(&file.0, "").unwrap();
    let words = ["serve", "--listen", "127.0.0.1:0", "--data", file.text()];
    let refused = run(&words);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(
        refused.error.contains("cannot use the data directory"),
        "{refused:?}"
    );
    let _ = fs::remove_file(Path::new(file.text()));
}
