//! Secrets in files, and secrets that nothing shows.

use super::*;

/// What must not be seen anywhere.
const MARKER: &str = "S3cretMarker-0123456789";

/// A file's text with a line break at its end, as editors and `echo` write it.
fn file(folder: &Folder, name: &str, secret: &str, end: &str) -> String {
    folder.write(name, &format!("{secret}{end}"))
}

fn password(secret: Option<&Secret>) -> Option<&str> {
    secret.map(Secret::expose)
}

#[test]
fn every_secret_can_be_in_a_file() {
    let folder = Folder::new("secrets");
    for end in ["", "\n", "\r\n"] {
        file(&folder, "api", KEY, end);
        file(&folder, "token", SECRET, end);
        file(&folder, "url", "redis+sentinel://:pw@h/m", end);
        file(&folder, "sentinel", "two words", end);
        let text = "[[apps.default.keys]]\nname = \"a\"\nkey_file = \"api\"\nscopes = [\"publish\"]\n\
             [[apps.default.tokens]]\nalg = \"HS256\"\nkid = \"1\"\nsecret_file = \"token\"\n\
             [redis]\nurl_file = \"url\"\nsentinel_password_file = \"sentinel\"\n";
        let in_file = load(&["--config", &folder.write("fanfare.toml", text)], &[]).unwrap();
        let path = |name: &str| folder.0.join(name).to_str().unwrap().to_owned();
        let (api, token, url, sentinel) =
            (path("api"), path("token"), path("url"), path("sentinel"));
        let flags = [
            "--api-key-file",
            &*api,
            "--token-secret-file",
            &*token,
            "--redis-file",
            &*url,
            "--redis-sentinel-password-file",
            &*sentinel,
        ];
        let by_flags = load(&flags, &[]).unwrap();
        let by_variables = load(
            &[],
            &[
                ("FANFARE_API_KEY_FILE", &api),
                ("FANFARE_TOKEN_SECRET_FILE", &token),
                ("FANFARE_REDIS_FILE", &url),
                ("FANFARE_REDIS_SENTINEL_PASSWORD_FILE", &sentinel),
            ],
        )
        .unwrap();
        for config in [&in_file, &by_flags, &by_variables] {
            config.check().unwrap();
            let app = &config.apps["default"];
            assert_eq!(app.keys.len(), 1);
            assert_eq!(app.keys[0].hash, KeyHash::of(KEY));
            assert_eq!(app.tokens[0].key, KeyMaterial::Secret(SECRET.into()));
            let redis = config.redis.as_ref().unwrap();
            assert_eq!(password(redis.url.password.as_ref()), Some("pw"));
            let sentinel = redis.sentinel_password.as_ref();
            assert_eq!(password(sentinel), Some("two words"));
        }
        assert_eq!(in_file.apps["default"].keys[0].name, "a");
        assert_eq!(in_file.apps["default"].keys[0].scopes.iter().count(), 1);
        assert_eq!(by_flags, by_variables);
    }

    // Read again at each reload, which loads the configuration anew.
    let config = || {
        load(
            &["--config", folder.0.join("fanfare.toml").to_str().unwrap()],
            &[],
        )
    };
    file(&folder, "api", "another-key-of-16-bytes", "\n");
    assert_eq!(
        config().unwrap().apps["default"].keys[0].hash,
        KeyHash::of("another-key-of-16-bytes")
    );
}

/// Flags, variables, and what the refusal says.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);

#[test]
fn a_secret_is_given_in_one_form() {
    let folder = Folder::new("both");
    let api = file(&folder, "api", KEY, "\n");
    let url = file(&folder, "url", "redis://h", "\n");
    let cases: &[Case<'_>] = &[
        (
            &["--api-key", KEY, "--api-key-file", &api],
            &[],
            "--api-key and --api-key-file are both set",
        ),
        (
            &["--redis", "redis://h", "--redis-file", &url],
            &[],
            "--redis and --redis-file are both set",
        ),
        (
            &[],
            &[
                ("FANFARE_TOKEN_SECRET", SECRET),
                ("FANFARE_TOKEN_SECRET_FILE", &api),
            ],
            "FANFARE_TOKEN_SECRET and FANFARE_TOKEN_SECRET_FILE are both set",
        ),
    ];
    for (flags, variables, expected) in cases {
        let error = load(flags, variables).unwrap_err().to_string();
        assert!(
            error.starts_with(expected) && error.lines().count() == 1,
            "{error}"
        );
    }
    for (text, expected) in [
        (
            "[redis]\nurl = \"redis://h\"\nurl_file = \"url\"\n",
            "redis.url and redis.url_file are both set",
        ),
        (
            "[redis]\nurl = \"redis+sentinel://h/m\"\nsentinel_password = \"x\"\nsentinel_password_file = \"api\"\n",
            "redis.sentinel_password and redis.sentinel_password_file are both set",
        ),
        (
            "[[apps.default.keys]]\nname = \"a\"\nkey = \"a-key-of-16-bytes-or-more\"\nkey_file = \"api\"\n",
            "API key \"a\" needs exactly one of `key`, `key_file` and `hash`",
        ),
        (
            "[[apps.default.tokens]]\nalg = \"HS256\"\nsecret = \"x\"\nsecret_file = \"api\"\n",
            "a token key needs exactly one of `secret`, `secret_file`",
        ),
        (
            "[[apps.default.tokens]]\nalg = \"ES256\"\nsecret_file = \"api\"\n",
            "a token key for ES256 needs `public_key`",
        ),
    ] {
        let path = folder.write("fanfare.toml", text);
        let error = load(&["--config", &path], &[]).unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.lines().count() == 1,
            "{error}"
        );
    }

    // A higher layer replaces what a lower one says, in whichever form.
    let path = folder.write("fanfare.toml", "[redis]\nurl_file = \"none\"\n");
    let flags = ["--config", &*path];
    let config = load(&flags, &[("FANFARE_REDIS", "redis://other")]).unwrap();
    assert_eq!(config.redis.unwrap().url.servers[0].0, "other");
    let path = folder.write("fanfare.toml", "[redis]\nurl = \"redis://other\"\n");
    let config = load(&["--config", &path, "--redis-file", &url], &[]).unwrap();
    assert_eq!(config.redis.unwrap().url.servers[0].0, "h");
}

#[test]
fn a_file_of_a_secret_that_cannot_be_used_is_named_by_its_setting() {
    let folder = Folder::new("unusable");
    let empty = file(&folder, "empty", "", "\n");
    let short = file(&folder, "short", "S3cret", "\n");
    let bad = file(&folder, "bad", "redis://:S3cret@", "\n");
    for (flags, expected) in [
        (
            ["--api-key-file", &*empty],
            "--api-key-file: the file is empty",
        ),
        (
            ["--api-key-file", &*short],
            "--api-key: API key \"key-1\" has 6 bytes",
        ),
        (["--redis-file", &*bad], "--redis: address 1 has no host"),
        (
            ["--token-secret-file", "S3cret"],
            "--token-secret-file: cannot read the file: no such file; name a file",
        ),
    ] {
        let error = load(&flags, &[]).unwrap_err().to_string();
        assert!(
            error.starts_with(expected) && !error.contains("S3cret"),
            "{error}"
        );
    }
    let text =
        "[[apps.default.keys]]\nname = \"a\"\nkey_file = \"short\"\n[redis]\nurl_file = \"bad\"\n";
    let error = load(&["--config", &folder.write("fanfare.toml", text)], &[]);
    let error = error.unwrap_err().to_string();
    for expected in [
        "apps.default.keys[0].key_file: API key \"a\" has 6 bytes",
        "redis.url_file: the file's content: address 1 has no host",
    ] {
        assert!(
            error.contains(expected) && !error.contains("S3cret"),
            "{error}"
        );
    }
}

/// The places where a secret belongs, and where someone may write it by mistake.
const PLACES: [&str; 24] = [
    "[[apps.default.keys]]\nname = \"a\"\nkey = {}\n",
    "[[apps.default.keys]]\nname = \"a\"\nkey_file = {}\n",
    "[[apps.default.keys]]\nname = \"a\"\nhash = {}\n",
    "[[apps.default.keys]]\nname = \"a\"\nkey = \"a-key-of-16-bytes-or-more\"\nhash = {}\n",
    "[[apps.default.tokens]]\nalg = \"HS256\"\nsecret = {}\n",
    "[[apps.default.tokens]]\nalg = \"HS256\"\nsecret_file = {}\n",
    "[[apps.default.tokens]]\nalg = \"ES256\"\nsecret = {}\n",
    "[[apps.default.tokens]]\nalg = \"HS256\"\npublic_key = {}\n",
    "[apps.default]\nkeys = {}\n",
    "[apps.default]\ntokens = {}\n",
    "[apps.default]\nclient_keys = {}\n",
    "[apps.default]\njwks_url = {}\n",
    "apps.default.keys = {}\n",
    "[apps]\ndefault = {}\n",
    "apps = {}\n",
    "redis = {}\n",
    "[redis]\nurl = {}\n",
    "[redis]\nurl_file = {}\n",
    "[redis]\nurl = \"redis+sentinel://h/m\"\nsentinel_password = {}\n",
    "[redis]\nurl = \"redis+sentinel://h/m\"\nsentinel_password_file = {}\n",
    "[redis]\nurl = \"redis+sentinel://h/m\"\nsentinel_master = \"n\"\nsentinel_password = {}\n",
    "[redis]\nsentinel_master = \"n\"\nurl = {}\n",
    "api_key = {}\n",
    "token_secret = {}\n",
];

/// How it may be written there: of the right type and of every wrong one, and half of it.
const FORMS: [&str; 41] = [
    "\"{}\"",
    "'{}'",
    "\"\"\"{}\"\"\"",
    "[\"{}\"]",
    "[[\"{}\"]]",
    "[\"{}\", 3]",
    "[3, \"{}\"]",
    "{ x = \"{}\" }",
    "{ name = \"{}\" }",
    "{ key = \"{}\" }",
    "[{ name = \"a\", key = \"{}\" }, { name = \"b\", key = [\"{}\"] }]",
    "[{ name = \"a\", key = {} }]",
    "[{ alg = \"HS256\", secret = [\"{}\"] }]",
    "[{ alg = \"HS256\", secret = {} }]",
    "[{ alg = \"HS256\", secret = \"{}\", kid = 3 }]",
    "{}",
    "{} x",
    "\"{}",
    "{}\"",
    "\"{}\" \"{}\"",
    "\"x\" \"{}\"",
    "[\"{}\"",
    "[\n  \"{}\",\n",
    "[\n  [\"{}\"\n]",
    "\"{}\" # {}",
    "\"\\{}\"",
    "\"redis://:{}@\"",
    "\"redis://:{}@h:port\"",
    "\"redis://u:{}@h/x\"",
    "\"redis://u:a/{}@h\"",
    "\"redis+sentinel://u:1/{}@h\"",
    "\"redis://{}@h\"",
    "\"redis://h?password={}\"",
    "\"rediss://:{}@a,http://:{}@b\"",
    "\"{}://h\"",
    "redis://:{}@h",
    "\"http://u:{}@h/\"",
    "\"https://u:{}@@h/\"",
    "\"https://u:{}@h:x/\"",
    "\"http://h/?key={}\"",
    "\"https://h/?key={}\"",
];

#[test]
fn no_message_about_a_file_shows_a_secret() {
    let folder = Folder::new("marker");
    let (mut refused, mut taken) = (0, 0);
    for place in PLACES {
        for form in FORMS {
            let text = place.replace("{}", &form.replace("{}", MARKER));
            let path = folder.write("fanfare.toml", &text);
            let loaded = load(&["--config", &path], &[]);
            match &loaded {
                Ok(_) => taken += 1,
                Err(_) => refused += 1,
            }
            let said = match loaded {
                Ok(config) => format!("{config:?} {:?}", config.summary()),
                Err(error) => format!("{error} {error:?}"),
            };
            // Names are shown, whatever someone calls a key, and so is the path of Redis' key for TLS.
            let is_path =
                text.starts_with("redis = { key = ") || text.starts_with("[redis]\nkey = ");
            if !form.contains("name = \"{}\"") && !is_path {
                assert!(!said.contains(MARKER), "{text}\n{said}");
            }
        }
    }
    assert!(refused > 700 && taken > 30, "{refused} {taken}");
}

#[test]
fn no_message_about_a_variable_or_a_flag_shows_a_secret() {
    let settings = [
        "api-key",
        "api-key-file",
        "token-secret",
        "token-secret-file",
        "redis",
        "redis-file",
        "redis-sentinel-password",
        "redis-sentinel-password-file",
    ];
    for setting in settings {
        for form in FORMS {
            let value = form.replace("{}", MARKER);
            let variable = args::named("FANFARE_", setting);
            let flag = format!("--{setting}={value}");
            for loaded in [load(&[], &[(&variable, &value)]), load(&[&flag], &[])] {
                let said = match loaded {
                    Ok(config) => format!("{config:?} {:?}", config.summary()),
                    Err(error) => format!("{error} {error:?}"),
                };
                assert!(!said.contains(MARKER), "{setting} {value}\n{said}");
            }
        }
    }
}
