//! The examples in docs/examples act through Redis as docs/guides/dispatching.md says, each word for word as it stands there.

use std::{path::PathBuf, process::Command};

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, NAMESPACE, Node, event, nothing_more},
    support::{Client, Received, eventually},
};

/// Every node has these users; `1` is away.
struct Audience {
    cluster: Cluster,
    /// A node of another namespace on the same Redis, with a client whom all would reach that they reach here.
    elsewhere: (Node, Client),
    banned: Client,
    /// On a free plan, and a member of the room.
    reached: [Client; 2],
}

impl Audience {
    fn gather() -> Self {
        let cluster = Cluster::start();
        let other = Node::here(&cluster.settings.clone().with("FANFARE_NAMESPACE", "other"));
        eventually("the other namespace's node is ready", || other.is_ready());
        let mut stranger = other.user_with("0", &json!({"plan": "free"}), "");
        stranger.join("room-1");
        let free = cluster[0].user_with("0", &json!({"plan": "free"}), "");
        let banned = cluster[1].user_with("2", &json!({"plan": "pro"}), "");
        let mut member = cluster[2].user_with("3", &json!({"plan": "pro"}), "");
        member.join("room-1");
        Self {
            cluster,
            elsewhere: (other, stranger),
            banned,
            reached: [free, member],
        }
    }

    /// Runs an example by `program`; answers what it printed.
    fn run(&self, program: &str, file: &str) -> String {
        let path = examples().join(file);
        let output = Command::new(program)
            .arg(&path)
            .env("REDIS_URL", self.cluster.redis.url())
            .env("NAMESPACE", NAMESPACE)
            .env("PYTHONPATH", examples().join("python_modules"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap_or_else(|error| {
                panic!("{program} does not run ({error}): make setup-test installs it")
            });
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{program} {file} (make setup-test installs what it needs): {said}"
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Expects that each was reached who was meant, and nobody else.
    fn was_reached(&mut self) {
        let Self {
            cluster,
            elsewhere: (other, stranger),
            banned,
            reached,
        } = self;
        let [free, member] = reached;
        // What is kept comes by way of one node, and so at its own time.
        let [alert, news, offer] = named(free, ["alert", "news", "offer"]);
        assert_eq!(
            (&alert["data"], &news["data"], &offer["data"]),
            (&json!("Hello"), &json!({"n": 1}), &Value::Null)
        );
        let [_, chat] = named(member, ["news", "chat-message"]);
        assert_eq!(
            (&chat["channel"], &chat["data"]),
            (&json!("room-1"), &json!({"message": "Hi"}))
        );
        assert_eq!(chat["offset"], 1, "stored once");
        let sent_away = Received::Close(4010, "See you".into());
        assert_eq!(banned.message(), sent_away, "the news were for all others");
        nothing_more(&cluster[0], reached);
        nothing_more(other, std::slice::from_mut(stranger));
        let mut kept = Vec::new();
        eventually("what was stored for the user who was away comes", || {
            kept.extend(cluster[1].user("1").pending());
            !kept.is_empty()
        });
        let kept: Vec<_> = kept
            .iter()
            .map(|event| (&event["event"], &event["data"]))
            .collect();
        assert_eq!(kept, [(&json!("alert"), &json!("Hello"))]);
    }
}

/// The next events of `client`, which have these names in some order.
fn named<const N: usize>(client: &mut Client, names: [&str; N]) -> [Value; N] {
    let got: Vec<Value> = names.iter().map(|_| event(client)).collect();
    names.map(|name| {
        let one = got.iter().find(|event| event["event"] == name);
        one.unwrap_or_else(|| panic!("no {name} in {got:?}"))
            .clone()
    })
}

fn examples() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "docs", "examples"]
        .iter()
        .collect()
}

#[test]
fn a_shell_acts_by_redis_cli() {
    let mut audience = Audience::gather();
    let heard = audience.run("sh", "dispatch.sh");
    assert_eq!(
        heard.split_whitespace().collect::<Vec<_>>(),
        ["3"; 5],
        "three nodes hear each of five"
    );
    audience.was_reached();
}

#[test]
fn python_acts_by_redis_py() {
    let mut audience = Audience::gather();
    audience.run("python3", "dispatch.py");
    audience.was_reached();
}

#[test]
fn node_acts_by_node_redis() {
    let mut audience = Audience::gather();
    audience.run("node", "dispatch.mjs");
    audience.was_reached();
}

#[test]
fn the_documentation_shows_the_examples_as_they_are() {
    let manual =
        std::fs::read_to_string(examples().with_file_name("guides/dispatching.md")).unwrap();
    for (file, language) in [
        ("dispatch.sh", "sh"),
        ("dispatch.py", "python"),
        ("dispatch.mjs", "js"),
    ] {
        let example = std::fs::read_to_string(examples().join(file)).unwrap();
        assert!(
            manual.contains(&format!("```{language}\n{example}```\n")),
            "{file} is not in docs/guides/dispatching.md as it is"
        );
        assert!(
            manual.contains(&format!("(../examples/{file})")),
            "docs/guides/dispatching.md has no link to {file}"
        );
    }
}
