//! What nodes log of each other.

use std::{
    fs::{self, File},
    process::Stdio,
};

use crate::{
    cluster::{Node, Settings},
    redis::{Folder, RedisServer},
    support::eventually,
};

/// Nodes of their own processes, each with a log.
struct Logged {
    redis: RedisServer,
    folder: Folder,
}

impl Logged {
    fn new() -> Self {
        Self {
            redis: RedisServer::start().expect("redis-server starts"),
            folder: Folder::new("logs").unwrap(),
        }
    }

    /// A node whose log is called `log`.
    fn start(&self, log: &str, change: impl FnOnce(Settings) -> Settings) -> Node {
        let settings = Settings::new(&self.redis.url()).with("FANFARE_NODE_NAME", log);
        let file = File::create(self.folder.path().join(log)).unwrap();
        let node = Node::apart_into(&change(settings), Stdio::from(file));
        eventually("the node is ready", || node.is_ready());
        node
    }

    /// The lines of a log that contain `text`.
    fn lines(&self, log: &str, text: &str) -> Vec<String> {
        let all = fs::read_to_string(self.folder.path().join(log)).unwrap();
        let lines = all.lines().filter(|line| line.contains(text));
        lines.map(ToOwned::to_owned).collect()
    }

    /// Waits for a line of a log that contains `text`.
    fn await_line(&self, log: &str, text: &str) -> String {
        eventually(&format!("{log} says: {text}"), || {
            !self.lines(log, text).is_empty()
        });
        self.lines(log, text).remove(0)
    }
}

#[test]
fn a_node_that_leaves_is_told_apart_from_one_that_crashes() {
    let logged = Logged::new();
    let _stays = logged.start("stays", |settings| settings);
    let mut leaves = logged.start("leaves", |settings| settings);
    let mut crashes = logged.start("crashes", |settings| settings);
    for other in ["leaves", "crashes"] {
        let there = format!("another node is there node={other}");
        logged.await_line("stays", &there);
    }

    let mut client = leaves.user("ann");
    client.join("lobby");
    drop(client);
    leaves.leave();
    let left = logged.await_line("stays", "a node has left");
    assert!(
        left.contains("INFO") && left.contains("node=leaves"),
        "{left}"
    );

    // The node that crashes is reaped after the other was.
    crashes.kill();
    let gone = logged.await_line("stays", "a node has gone without a word");
    assert!(
        gone.contains("WARN") && gone.contains("node=crashes"),
        "{gone}"
    );
    let warnings = logged.lines("stays", "WARN");
    let of_left = warnings.iter().find(|line| line.contains("leaves"));
    assert_eq!(of_left, None);
}

#[test]
fn nodes_warn_of_others_with_their_name_and_of_other_rules() {
    let logged = Logged::new();
    let lease = |settings: Settings| settings.with("FANFARE_LIMIT_NODE_LEASE", "2s");
    let _one = logged.start("one", lease);
    let _same = logged.start("same", lease);
    let _namesake = logged.start("namesake", |settings| {
        lease(settings)
            .with("FANFARE_NODE_NAME", "one")
            .with("FANFARE_CHANNEL_HISTORY", "room*=7")
    });
    for log in ["one", "namesake"] {
        let same = logged.await_line(log, "another node has the same name");
        assert!(same.contains("WARN"), "{same}");
    }
    for (log, other) in [("one", "one"), ("same", "one"), ("namesake", "same")] {
        let rules = format!("node=\"{other}\"");
        eventually(&format!("{log} warns of the rules of {other}"), || {
            let lines = logged.lines(log, "the node has other rules");
            let of_other =
                |line: &String| line.contains(&rules) && line.contains("app=\"default\"");
            lines.iter().any(of_other)
        });
    }
    assert!(
        logged
            .lines("same", "another node has the same name")
            .is_empty()
    );
}
