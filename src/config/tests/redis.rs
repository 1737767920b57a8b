//! The table `[redis]` and its flags.

use super::*;

#[test]
fn redis_is_set_in_every_layer() {
    let folder = Folder::new("redis");
    let ca = folder.write("ca.pem", "the file's");
    folder.write("own.pem", "the flag's");
    let own = folder.0.join("own.pem");
    let file = folder.write(
        "fanfare.toml",
        "namespace = \"api\"\n[redis]\nurl = \"rediss://ann:word@file\"\nca = \"ca.pem\"\n",
    );
    let config = load(&["--config", &file], &[]).unwrap();
    config.check().unwrap();
    let redis = config.redis.unwrap();
    assert_eq!(
        (redis.url.to_string(), &*config.namespace),
        ("rediss://file:6379".to_owned(), "api")
    );
    assert_eq!(
        redis.ca,
        Some(PemFile {
            path: ca.into(),
            pem: b"the file's".to_vec()
        })
    );
    let variables = [
        ("FANFARE_CONFIG", &*file),
        ("FANFARE_REDIS", "rediss+sentinel://:word@a,b"),
        ("FANFARE_REDIS_SENTINEL_MASTER", "main"),
        ("FANFARE_REDIS_SENTINEL_PASSWORD", "swordfish"),
        ("FANFARE_NAMESPACE", "other"),
        ("FANFARE_REDIS_CERT", own.to_str().unwrap()),
    ];
    let config = load(
        &[
            "--redis-key",
            own.to_str().unwrap(),
            "--redis-sentinel-user",
            "fan",
        ],
        &variables,
    )
    .unwrap();
    config.check().unwrap();
    let redis = config.redis.unwrap();
    assert_eq!(
        (redis.url.kind, redis.master(), redis.url.servers.len()),
        (RedisKind::Sentinel, Some("main"), 2)
    );
    assert_eq!(redis.sentinel_user.as_deref(), Some("fan"));
    assert_eq!(redis.sentinel_password, Some(Secret::from("swordfish")));
    assert!(!format!("{redis:?}").contains("swordfish"));
    assert!(redis.ca.is_some() && redis.cert.is_some() && redis.key.is_some());
    assert_eq!(config.namespace, "other");
}

#[test]
fn a_bad_address_names_its_flag_and_not_its_password() {
    let bad = "redis://ann:swordfish@host:port";
    let message = load(&["--redis", bad], &[]).unwrap_err().to_string();
    assert_eq!(
        message,
        "--redis: the port of address 1 is not a number from 1 to 65535"
    );
    let message = load(&[], &[("FANFARE_REDIS", bad)])
        .unwrap_err()
        .to_string();
    assert!(message.starts_with("FANFARE_REDIS: the port"), "{message}");
    let message = parse(&format!("[redis]\nurl = \"{bad}\"\n")).unwrap_err();
    assert!(
        message.starts_with("fanfare.toml:2: redis.url: the port")
            && !message.contains("swordfish"),
        "{message}"
    );
    let shown = format!("{:?}", args(&["--redis", "redis://ann:swordfish@host"]));
    assert!(!shown.contains("swordfish"), "{shown}");
    let shown = format!(
        "{:?}",
        load(&["--redis", "redis://ann:swordfish@host"], &[]).unwrap()
    );
    assert!(!shown.contains("swordfish"), "{shown}");
    let message = load(
        &["--redis", "rediss://host", "--redis-ca", "/nowhere/ca.pem"],
        &[],
    )
    .unwrap_err()
    .to_string();
    assert!(
        message.starts_with("redis.ca: cannot read /nowhere/ca.pem: no such file"),
        "{message}"
    );
}

#[test]
fn what_does_not_go_together_is_refused() {
    let folder = Folder::new("redis-rules");
    let pem = folder.write("own.pem", "x");
    let cases: [(&[&str], &str); 10] = [
        (&["--redis-ca", &pem], "[redis] is set without redis.url"),
        (
            &["--redis", "redis://h", "--redis-ca", &pem],
            "redis.ca is for TLS, but redis.url does not use TLS",
        ),
        (
            &["--redis", "rediss://h", "--redis-cert", &pem],
            "redis.cert and redis.key belong together",
        ),
        (
            &["--redis", "redis+sentinel://h"],
            "names Sentinels, but not the primary",
        ),
        (
            &[
                "--redis",
                "redis+sentinel://h/a",
                "--redis-sentinel-master",
                "b",
            ],
            "redis.sentinel_master = \"b\", but redis.url ends with \"a\"",
        ),
        (
            &["--redis", "redis://h", "--redis-sentinel-master", "b"],
            "redis.url does not name Sentinels",
        ),
        (
            &[
                "--redis",
                "redis+sentinel://h/a",
                "--redis-sentinel-user",
                "b",
            ],
            "redis.sentinel_user is set without redis.sentinel_password",
        ),
        (
            &["--redis", "redis://h", "--redis-sentinel-password", "b"],
            "redis.sentinel_password is set, but redis.url does not name Sentinels",
        ),
        (
            &["--namespace", "Api"],
            "--namespace: \"Api\" must be 1 to 64 characters of a-z, 0-9, \"_\" and \"-\"",
        ),
        (
            &["--limit", "bus_queue_bytes=1000"],
            "limits.body_bytes = 262144 is over limits.bus_queue_bytes = 1000",
        ),
    ];
    for (flags, expected) in cases {
        let text = found_problem(flags);
        assert!(text.contains(expected), "{text}");
    }
}
