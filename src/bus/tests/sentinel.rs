//! A primary that Sentinels replace.

use super::{server::Server, *};
use crate::config::Secret;

#[tokio::test]
async fn a_failover_is_followed() {
    let mut primary = Server::start(&[]);
    let replica = Server::start(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]);
    eventually("the replica follows", || {
        replica.info("master_link_status") == "up"
    });
    let sentinels = (0..3)
        .map(|_| Server::sentinel(primary.port))
        .collect::<Vec<_>>();
    eventually("the Sentinels know each other and the replica", || {
        sentinels.iter().all(|sentinel| {
            let status = sentinel.info("master0");
            status.contains("slaves=1") && status.contains("sentinels=3")
        })
    });
    let ports = sentinels
        .iter()
        .map(|sentinel| format!("127.0.0.1:{}", sentinel.port))
        .collect::<Vec<_>>();
    let url = format!("redis+sentinel://{}/mymaster", ports.join(","));
    works(&url).await;
    let (mut one, two) = (Node::up(&url), Node::up(&url));
    one.joins(user("ann")).await;
    primary.kill();
    one.is_down("");
    one.is_up();
    two.is_up();
    assert_eq!(replica.info("role"), "master");
    two.reaches(&mut one, &user("ann")).await;
    assert!(one.gaps() > 0);
    // The old primary comes back as one, and is made a replica; nobody follows it.
    primary.start_again();
    eventually("the old primary is a replica", || {
        primary.info("role") == "slave"
    });
    two.is_up();
    two.reaches(&mut one, &user("ann")).await;
    Node::start(&format!("redis+sentinel://{}/other", ports[0]))
        .is_down("knows no primary called \"other\"");
}

#[tokio::test]
async fn sentinels_have_passwords_of_their_own() {
    let primary = Server::start(&["--requirepass", "swordfish"]);
    let lines = "requirepass trout\nuser fan on >salmon +hello +sentinel|master\n\
                 sentinel auth-pass mymaster swordfish\n";
    let sentinel = Server::sentinel_with(primary.port, 1, lines);
    let config = |user: Option<&str>, password: Option<&str>| RedisConfig {
        url: format!(
            "redis+sentinel://:swordfish@127.0.0.1:{}/mymaster",
            sentinel.port
        )
        .parse()
        .unwrap(),
        sentinel_user: user.map(str::to_owned),
        sentinel_password: password.map(Secret::from),
        ..RedisConfig::default()
    };
    for (user, password) in [(None, "trout"), (Some("fan"), "salmon")] {
        Node::with(&config(user, Some(password)), &patient()).is_up();
    }
    for (user, password) in [
        (None, None),
        (None, Some("swordfish")),
        (Some("fan"), Some("trout")),
    ] {
        let node = Node::with(&config(user, password), &patient());
        node.is_down("WRONGPASS");
        let Health::Down { reason, .. } = node.bus.health() else {
            panic!()
        };
        assert!(
            reason.contains("the Sentinel at") && reason.contains("redis.sentinel_password"),
            "{reason}"
        );
        assert!(
            !reason.contains("trout") && !reason.contains("swordfish"),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn sentinels_may_have_the_password_of_redis_or_none() {
    let primary = Server::start(&["--requirepass", "swordfish"]);
    for lines in ["requirepass swordfish\n", ""] {
        let lines = format!("{lines}sentinel auth-pass mymaster swordfish\n");
        let sentinel = Server::sentinel_with(primary.port, 1, &lines);
        Node::up(&format!(
            "redis+sentinel://:swordfish@127.0.0.1:{}/mymaster",
            sentinel.port
        ));
    }
}
