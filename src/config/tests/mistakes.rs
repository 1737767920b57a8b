//! Mistakes in a file: each is reported, with its line, in the words of the people who write it.

use super::*;

/// The problems of a file with `text`, one a line, without the name of the file.
fn mistakes(text: &str) -> Vec<String> {
    let lines = parse(text).expect_err(text);
    lines
        .lines()
        .map(|line| line.replacen("fanfare.toml:", "", 1))
        .collect()
}

/// Expects one mistake of each text, with what it must contain.
fn expect(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        let found = mistakes(text);
        assert!(
            found.len() == 1 && found[0].contains(expected),
            "{text}\n{found:#?}\n{expected}"
        );
    }
}

#[test]
fn a_value_that_cannot_be_used_is_refused_with_its_line_and_key() {
    expect(&[
        (
            "\nlisten = \"here\"",
            "2: listen = \"here\": \"here\" is a name: write an IP address, such as 127.0.0.1:7070",
        ),
        (
            "admin_listen = \"127.0.0.1:70911\"",
            "1: admin_listen = \"127.0.0.1:70911\": \"70911\" is not a port",
        ),
        (
            "admin_listen = 70911",
            "1: admin_listen = 70911: \"70911\" is not a port",
        ),
        (
            "listen = true",
            "1: listen = true: an address in quotes, such as",
        ),
        (
            "[limits]\nheartbeat = 20",
            "2: limits.heartbeat = 20: a duration needs a unit, for example \"20s\"",
        ),
        (
            "[limits]\nheartbeat = \"often\"",
            "2: limits.heartbeat = \"often\": a duration is a number with a unit, for example \"20s\"",
        ),
        (
            "drain_delay = 5",
            "1: drain_delay = 5: a duration needs a unit, for example \"5s\"",
        ),
        (
            "drain_delay = []",
            "1: drain_delay = []: a duration in quotes, for example \"20s\" is expected",
        ),
        (
            "[limits]\nmessage_bytes = \"16q\"",
            "2: limits.message_bytes = \"16q\": a size is a whole number of bytes, for example 16384, or one with a unit, \
             for example \"16KiB\"",
        ),
        (
            "[limits]\nmessage_bytes = -1",
            "2: limits.message_bytes = -1: a size is a whole number",
        ),
        (
            "shards = \"4\"",
            "1: shards = \"4\": write the number without quotes: shards = 4",
        ),
        (
            "shards = -1",
            "1: shards = -1: a whole number is expected, 0 or more",
        ),
        (
            "shards = 1.5",
            "1: shards = 1.5: a whole number is expected, 0 or more",
        ),
        (
            "node_name = 7",
            "1: node_name = 7: put the value in quotes: node_name = \"7\"",
        ),
    ]);
}

#[test]
fn a_name_or_a_list_that_cannot_be_used_is_refused_with_its_line_and_key() {
    expect(&[
        (
            "log = \"verbose\"",
            "1: log = \"verbose\": \"verbose\" is not a log level",
        ),
        (
            "log_format = 1",
            "1: log_format = 1: put the value in quotes",
        ),
        (
            "[apps.default]\nclient_auth = \"requird\"",
            "2: apps.default.client_auth = \"requird\": it must be \"off\", \"optional\" or \"required\"; did you mean \
             \"required\"?",
        ),
        (
            "[apps.default]\norigins = \"https://example.com\"",
            "2: apps.default.origins = \"https://example.com\": a list is expected: origins = [\"https://example.com\"]",
        ),
        (
            "trusted_proxies = [\"10.0.0.0/8\", \"10.0.0\"]",
            "1: trusted_proxies = \"10.0.0\": a network is an address and the length of its prefix, such as 10.0.0.0/8",
        ),
        ("limits = 3", "1: limits = 3: a table is expected"),
        (
            "redis = \"redis://127.0.0.1\"",
            "1: redis: write the table [redis], with url and the like under it",
        ),
        (
            "apps = []",
            "1: apps: settings of an app are under [apps.<name>], such as [apps.default]",
        ),
        (
            "[[apps]]\nname = \"a\"",
            "1: apps: settings of an app are under [apps.<name>], such as [apps.default]",
        ),
        (
            "[[apps.default]]\norigins = []",
            "1: apps.default: write [apps.default] with one bracket",
        ),
        (
            "[[limits]]\nscans = 3",
            "1: limits: write [limits] with one bracket",
        ),
        (
            "[apps]\norigins = []",
            "2: apps.origins: settings of an app are under [apps.<name>], such as [apps.default]",
        ),
        (
            "[apps.default]\nprotocols = [\"mesa\"]",
            "2: apps.default.protocols: write the table [apps.default.protocols.mesa]",
        ),
        (
            "[apps.default.protocols]\nzexcore = true",
            "2: apps.default.protocols.zexcore: write the table [apps.default.protocols.zexcore]",
        ),
        (
            "[apps.default.client_keys]\nname = \"web\"",
            "1: apps.default.client_keys: write [[apps.default.client_keys]] with two brackets, since there may be several",
        ),
        (
            "[apps.a]\nchannels = { pattern = \"x\" }",
            "2: apps.a.channels: write [[apps.a.channels]] with two brackets, since there may be several",
        ),
    ]);
}

#[test]
fn a_table_that_cannot_be_used_is_refused_with_its_line() {
    expect(&[
        (
            "[[apps.a.keys]]\nname = \"x\"\nkey = \"short\"",
            "1: [[apps.a.keys]]: API key \"x\" has 5 bytes, and needs at least 16",
        ),
        (
            "[[apps.a.keys]]\nname = \"x\"",
            "1: [[apps.a.keys]]: API key \"x\" needs exactly one of `key`, `key_file` and `hash`",
        ),
        (
            "[[apps.a.keys]]\nname = \"x\"\nhash = \"md5:00\"",
            "1: [[apps.a.keys]]: API key \"x\": a hash is \"sha256:\" and 64 hexadecimal digits",
        ),
        (
            "[[apps.a.keys]]\nname = \"x\"\nscopes = []\nkey = \"an-api-key-for-tests\"",
            "API key \"x\" has no scopes",
        ),
        (
            "[[apps.a.keys]]\nname = \"x\"\nkey = \"an-api-key-for-tests\"\nscopes = [\"publsh\"]",
            "4: apps.a.keys.scopes = \"publsh\": it must be \"publish\", \"inspect\", \"control\" or \"tokens\"; did you \
             mean \"publish\"?",
        ),
        (
            "[[apps.a.channels]]\nhistory_size = 3",
            "1: [[apps.a.channels]] needs the key \"pattern\"",
        ),
        (
            "[[apps.a.channels]]\npattern = \"x\"\npresence = \"some\"",
            "3: apps.a.channels.presence = \"some\": it must be \"asked\", \"all\", \"count\" or \"off\"",
        ),
        (
            "[apps.a]\nchannels = [{ history_size = 3 }]",
            "2: apps.a.channels needs the key \"pattern\"",
        ),
        (
            "[apps.a.user_events]\nttl = \"long\"",
            "2: apps.a.user_events.ttl = \"long\": a duration is",
        ),
        (
            "[[apps.a.client_keys]]\nname = \"x\"",
            "1: [[apps.a.client_keys]] needs the key \"key\"",
        ),
        (
            "[[apps.a.tokens]]\nalg = \"none\"\nsecret = \"x\"",
            "2: apps.a.tokens.alg = \"none\": it must be \"HS256\", \"RS256\", \"ES256\" or \"EdDSA\"",
        ),
        (
            "[[apps.a.tokens]]\nalg = \"HS256\"",
            "a token key needs exactly one of `secret`, `secret_file`, `public_key` and",
        ),
        (
            "[[apps.a.tokens]]\nalg = \"HS256\"\npublic_key = \"x\"",
            "a token key for HS256 needs `secret`",
        ),
        (
            "[[apps.a.tokens]]\nalg = \"RS256\"\nsecret = \"x\"",
            "a token key for RS256 needs `public_key` or",
        ),
    ]);
}

#[test]
fn a_line_that_is_not_toml_is_refused_with_what_to_write() {
    let cases = [
        (
            "listen = 127.0.0.1:7079",
            "1: listen: put the value in quotes: listen = \"127.0.0.1:7079\"",
        ),
        (
            "log = info # loud",
            "1: log: put the value in quotes: log = \"info\"",
        ),
        ("shards = ", "1: shards: the value is missing"),
        ("shards = # four", "1: shards: the value is missing"),
        ("log = \"info", "1: log: the closing quote is missing"),
        (
            "log: \"info\"",
            "1: log: a setting is written key = value, with = and not with :",
        ),
        ("log \"info\"", "1: "),
        (
            "log",
            "1: log: write key = value; the = and the value are missing",
        ),
        (
            "[limits]\nmax_things",
            "2: max_things: write key = value; the = and the value are missing",
        ),
        (
            "log info",
            "1: a setting is written key = value; the = is missing",
        ),
        (
            "[limits\nheartbeat = \"20s\"",
            "1: [limits: a table is written [name]",
        ),
        (
            "log = \"info\"\nlog = \"warn\"",
            "2: \"log\" is set twice in its table; keep one",
        ),
        (
            "[limits]\nscans = 1\n[limits]\nscans = 2",
            "3: [limits] is there twice; join the two tables",
        ),
        (
            "[apps.a]\nindex = [\"auth.a\", auth.b]",
            "2: index: this is not TOML",
        ),
        ("[apps.a]\nindex = [\"auth.a\"\n", "2: index: "),
    ];
    for (text, expected) in cases {
        let found = mistakes(text);
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "{text}\n{found:#?}\n{expected}"
        );
    }
}

#[test]
fn all_mistakes_of_a_file_are_reported_at_once() {
    let folder = Folder::new("mistakes");
    let text = "\
listen = 127.0.0.1:7079
shards = 999
logg = \"info\"
heartbeat = \"20s\"
api_key = \"swordfish-swordfish\"

[limits]
heartbeat = 20
message_bytes = \"16q\"
scans = 0
listen = \"127.0.0.1:1\"

[apps.default]
client_auth = \"requird\"
index = [\"email\", \"auth.tenant\"]

[[apps.default.keys]]
name = \"one\"
key = \"short\"

[[apps.default.keys]]
name = \"two\"
key = \"also-short\"

[[apps.default.channels]]
pattern = room-*
history_size = 3

[[apps.default.channels]]
pattern = \"a\"
history_size = 100000

[[apps.default.tokens]]
alg = \"HS256\"
secert = \"swordfish\"
";
    let file = folder.write("fanfare.toml", text);
    let found = load(&["--config", &file], &[]).unwrap_err().to_string();
    let found: Vec<&str> = found
        .lines()
        .map(|line| line.strip_prefix(&format!("{file}:")).unwrap_or(line))
        .collect();
    let expected = [
        "1: listen: put the value in quotes: listen = \"127.0.0.1:7079\"",
        "2: shards = 999 is over 256; 0 means one per core, less one",
        "3: unknown key \"logg\"; did you mean \"log\"?",
        "4: unknown key \"heartbeat\"; it belongs under [limits]",
        "5: unknown key \"api_key\"; write [[apps.default.keys]] with name and key under it",
        "8: limits.heartbeat = 20: a duration needs a unit, for example \"20s\"",
        "9: limits.message_bytes = \"16q\": a size is a whole number of bytes, for example 16384, or one with a unit, for \
         example \"16KiB\"",
        "10: limits.scans = 0 would let nothing through; it must be at least 1",
        "11: unknown key \"listen\"; it belongs above the first [table]",
        "14: apps.default.client_auth = \"requird\": it must be \"off\", \"optional\" or \"required\"; did you mean \
         \"required\"?",
        "15: app \"default\": index \"email\" is not a path such as \"auth.email\" or \"profile.status\"",
        "17: [[apps.default.keys]]: API key \"one\" has 5 bytes, and needs at least 16 (make one with: openssl rand -hex 24)",
        "21: [[apps.default.keys]]: API key \"two\" has 10 bytes, and needs at least 16 (make one with: openssl rand -hex 24)",
        "26: pattern: put the value in quotes: pattern = \"room-*\"",
        "31: app \"default\": channels \"a\": history_size = 100000 is over 10000, the most that one replay may have",
        "35: unknown key \"secert\"; did you mean \"secret\"?",
    ];
    assert_eq!(found, expected, "{found:#?}");
}

#[test]
fn what_is_wrong_with_keys_is_reported_together_with_the_rest() {
    let folder = Folder::new("one-pass");
    folder.write("same", KEY);
    let text = format!(
        "\
listen = \"0.0.0.0:7079\"
shards = 999

[limits]
heartbeat = 20

[apps.blog]
client_auth = \"required\"

[[apps.blog.keys]]
name = \"one\"
key = \"{KEY}\"

[[apps.blog.keys]]
name = \"two\"
key_file = \"none\"

[[apps.blog.keys]]
name = \"three\"
key_file = \"same\"

[[apps.shop.tokens]]
alg = \"HS256\"
secret = \"short\"

[[apps.shop.client_keys]]
name = \"web\"
key = \"pk\"

[[apps.shop.client_keys]]
name = \"web\"
key = \"{KEY}\"
"
    );
    let file = folder.write("fanfare.toml", &text);
    let found = load(&["--config", &file], &[]).unwrap_err().to_string();
    let found: Vec<&str> = found
        .lines()
        .map(|line| line.strip_prefix(&format!("{file}:")).unwrap_or(line))
        .collect();
    let expected = [
        "2: shards = 999 is over 256",
        "5: limits.heartbeat = 20: a duration needs a unit",
        "8: app \"blog\": client_auth is \"required\", but no key is set that verifies tokens",
        "16: apps.blog.keys[1].key_file: cannot read the file: no such file",
        "18: API keys \"one\" of app \"blog\" and \"three\" of app \"blog\" are the same key",
        "24: app \"shop\": the token secret has 5 bytes",
        "28: app \"shop\": client key \"web\" must be 8 to 128",
        "31: app \"shop\": two client keys are named \"web\"",
        "32: app \"shop\": client key \"web\" is API key \"one\" of app \"blog\" too",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn what_a_higher_layer_replaced_is_not_blamed_on_the_file() {
    let folder = Folder::new("blame");
    let file = folder.write("fanfare.toml", "\nshards = 4\nnode_name = \"a b\"\n");
    let found = load(&["--config", &file, "--shards", "999"], &[])
        .unwrap_err()
        .to_string();
    let lines: Vec<&str> = found.lines().collect();
    assert!(
        lines[0].starts_with(&format!("{file}:3: node_name = \"a b\" is not")),
        "{found}"
    );
    assert!(lines[1].starts_with("shards = 999 is over 256"), "{found}");
    assert_eq!(lines.len(), 2, "{found}");
    load(&["--config", &file, "--node-name", "a"], &[]).unwrap();
}

#[test]
fn what_was_left_out_is_not_missed() {
    for (text, count) in [
        // The key of the table and the addresses depend on what is wrong.
        (
            "listen = \"0.0.0.0:7070\"\n[[apps.default.keys]]\nname = \"k\"\nkey = 5\n[apps.default]\nclient_auth = \"off\"\n",
            1,
        ),
        // That there is no key for tokens does not.
        (
            "listen = \"0.0.0.0:7070\"\n[[apps.default.keys]]\nname = \"k\"\nkey = 5\n",
            2,
        ),
        ("[[apps.default.channels]]\npattern = 5\n", 1),
        (
            "[[apps.default.channels]\nhistory_size = 5\nnonsense = 1\n[limits]\nheartbeat = 1\n",
            2,
        ),
        (
            "[[apps.default.tokens]]\nalg = HS256\nsecret = \"short\"\n",
            1,
        ),
        ("log = \"\"\"never closed\nshards = 999\n", 1),
    ] {
        let folder = Folder::new("left-out");
        let file = folder.write("fanfare.toml", text);
        let found = load(&["--config", &file], &[]).unwrap_err().to_string();
        assert_eq!(found.lines().count(), count, "{text}\n{found}");
    }
}

#[test]
fn no_message_shows_a_secret() {
    for text in [
        "[[apps.a.keys]]\nname = \"k\"\nkey = 5309531\n",
        "[[apps.a.keys]]\nname = \"k\"\nkey = sword5309531\n",
        "[[apps.a.keys]]\nname = \"k\"\nkey = \"sword5309531\n",
        "[[apps.a.tokens]]\nalg = \"HS256\"\nsecret = 5309531\n",
        "[[apps.a.tokens]]\nalg = \"HS256\"\nsecret = [\"5309531\"]\n",
        "[apps.a]\ntokens = [{ alg = \"HS256\", secret = 5309531 }]\n",
        "[apps.a]\ntokens = [{ alg = \"HS256\", secret = \"5309531\" }\n",
        "[redis]\nurl = redis://ann:5309531@host\n",
        "[redis]\nurl = \"redis://ann:5309531@host:port\"\n",
        "[redis]\nsentinel_password = 5309531\n",
        "api_key = \"sword5309531\"\n",
        "token_secret = sword5309531\n",
    ] {
        let found = parse(text).expect_err(text);
        assert!(!found.contains("5309531"), "{text}\n{found}");
    }
}

#[test]
fn sizes_may_have_a_unit_in_every_layer() {
    let folder = Folder::new("sizes");
    let file = folder.write(
        "fanfare.toml",
        "[limits]\nmessage_bytes = \"16KiB\"\n[[apps.default.channels]]\npattern = \"*\"\nhistory_bytes = \"1MiB\"\n",
    );
    let variables = [("FANFARE_LIMIT_CLAIMS_BYTES", "4k")];
    let config = load(
        &["--config", &file, "--limit", "profile_bytes=2k"],
        &variables,
    )
    .unwrap();
    let limits = &config.limits;
    assert_eq!(
        (
            limits.message_bytes,
            limits.claims_bytes,
            limits.profile_bytes
        ),
        (16_384, 4096, 2048)
    );
    assert_eq!(config.apps["default"].channels[0].history_bytes, 1 << 20);
    let variables = [("FANFARE_LIMIT_HEARTBEAT", "25")];
    let found = load(&[], &variables).unwrap_err().to_string();
    assert!(
        found.starts_with("FANFARE_LIMIT_HEARTBEAT: \"25\": a duration needs a unit"),
        "{found}"
    );
    let found = load(&[], &[("FANFARE_PORT", "9")]).unwrap_err().to_string();
    assert_eq!(
        found,
        "environment: unknown variable \"FANFARE_PORT\"; set FANFARE_LISTEN, or PORT"
    );
    for (limit, says) in [
        (
            "message_bytes=16q",
            "--limit message_bytes: \"16q\": a size is a whole number of bytes",
        ),
        (
            "heartbeat=20",
            "--limit heartbeat: \"20\": a duration needs a unit, for example \"20s\"",
        ),
        ("heartbeat", "write NAME=VALUE"),
    ] {
        let command = ServeArgs::augment_args(Command::new("fanfare").no_binary_name(true));
        let found = match command.try_get_matches_from(["--limit", limit]) {
            Ok(_) => found_problem(&["--limit", limit]),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(says), "{limit}: {found}");
    }
}

#[test]
fn a_port_of_the_platform_counts_where_nothing_else_says_where_to_listen() {
    let folder = Folder::new("port");
    let file = folder.write("fanfare.toml", "listen = 7079\n");
    let keys = ["--api-key", KEY, "--token-secret", SECRET];
    let at = |flags: &[&str], variables: &[(&str, &str)]| {
        let variables = [&[("PORT", "8080")][..], variables].concat();
        load(flags, &variables).unwrap().listen.to_string()
    };
    assert_eq!(at(&[], &[]), "127.0.0.1:8080");
    assert_eq!(at(&keys, &[]), "0.0.0.0:8080");
    assert_eq!(at(&["--listen", "localhost:1"], &[]), "127.0.0.1:1");
    assert_eq!(at(&[], &[("FANFARE_LISTEN", "7072")]), "127.0.0.1:7072");
    assert_eq!(at(&["--config", &file], &[]), "127.0.0.1:7079");
    assert_eq!(at(&[], &[("PORT", "")]), "127.0.0.1:7070");
    let error = load(&[], &[("PORT", "http")]).unwrap_err().to_string();
    assert_eq!(
        error,
        "PORT: \"http\" is not a port: a port is a number from 0 to 65535"
    );
    let error = load(&["--config", &file], &[("PORT", "http")]);
    assert!(error.is_ok(), "PORT does not count here");
}
