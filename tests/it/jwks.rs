//! Public keys that are fetched: from a server of the test's own, which says what each test needs.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use crate::running::Running;
use crate::support::*;
use data_encoding::BASE64URL_NOPAD;
use fanfare::config::{Config, JwksUrl};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value, json};

/// Someone who signs tokens.
struct Signer {
    kid: &'static str,
    pair: Ed25519KeyPair,
}

impl Signer {
    fn new(kid: &'static str) -> Self {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self {
            kid,
            pair: Ed25519KeyPair::from_pkcs8(made.as_ref()).unwrap(),
        }
    }

    fn key(&self) -> Value {
        let x = BASE64URL_NOPAD.encode(self.pair.public_key().as_ref());
        json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.kid, "x": x})
    }

    fn token(&self, user: &str) -> String {
        let encode = |json: &Value| BASE64URL_NOPAD.encode(json.to_string().as_bytes());
        let header = json!({"alg": "EdDSA", "kid": self.kid});
        let claims = json!({"sub": user, "iss": "https://id.example"});
        let message = format!("{}.{}", encode(&header), encode(&claims));
        let signature = BASE64URL_NOPAD.encode(self.pair.sign(message.as_bytes()).as_ref());
        format!("{message}.{signature}")
    }
}

/// A server that gives one answer at a time to whoever asks, whole.
struct Provider {
    address: SocketAddr,
    answer: Arc<Mutex<Vec<u8>>>,
    asked: Arc<AtomicUsize>,
}

fn http(status: &str, more: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{more}\r\n{body}",
        body.len()
    )
    .into_bytes()
}

impl Provider {
    fn new(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let provider = Self {
            address: listener.local_addr().unwrap(),
            answer: Arc::default(),
            asked: Arc::default(),
        };
        provider.publish(keys);
        let (answer, asked) = (provider.answer.clone(), provider.asked.clone());
        thread::spawn(move || {
            for socket in listener.incoming() {
                let (Ok(mut socket), answer) = (socket, answer.clone()) else {
                    return;
                };
                let asked = asked.clone();
                thread::spawn(move || {
                    read_head(&mut socket);
                    asked.fetch_add(1, SeqCst);
                    let answer = answer.lock().unwrap().clone();
                    // Whoever has read enough hangs up.
                    let _ = socket.write_all(&answer);
                    if answer.is_empty() {
                        // Never answers: until the other side has had enough.
                        let _ = socket.read(&mut [0]);
                    }
                });
            }
        });
        provider
    }

    fn publish(&self, keys: &[Value]) {
        self.say(http("200 OK", "", &json!({"keys": keys}).to_string()));
    }

    fn say(&self, answer: Vec<u8>) {
        *self.answer.lock().unwrap() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }

    fn url(&self) -> JwksUrl {
        JwksUrl::try_from(format!("http://{}/keys?a=b", self.address)).unwrap()
    }

    /// A server that takes its keys from here.
    fn server(&self, change: impl FnOnce(&mut Config)) -> TestServer {
        server_with(|config| {
            let app = config.apps.get_mut("default").unwrap();
            app.jwks_url = Some(self.url());
            app.issuer = Some("https://id.example".to_owned());
            change(config);
        })
    }
}

fn read_head(socket: &mut TcpStream) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && socket.read(&mut byte).is_ok_and(|n| n == 1) {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    assert!(
        head.starts_with("get /keys?a=b http/1.1\r\n") && head.contains("\r\nhost: "),
        "{head}"
    );
}

/// The user that a token makes its client; the close code where it is refused.
fn come(server: &TestServer, token: &str) -> Result<String, u16> {
    come_to(server.address(), token)
}

fn come_to(server: SocketAddr, token: &str) -> Result<String, u16> {
    let mut client = Client::open(server, &format!("/v1/connect?token={token}"), &[]).unwrap();
    match client.message() {
        Received::Text(text) => {
            let first: Value = serde_json::from_str(&text).unwrap();
            if first["op"] == "bye" {
                assert!(first["reconnect_in_ms"].as_u64() > Some(0), "{first}");
                return Err(client.closed());
            }
            Ok(first["user"].as_str().unwrap().to_owned())
        }
        Received::Close(code, _) => {
            assert_ne!(code, 4100, "a bye says when to come back");
            Err(code)
        }
        other => panic!("{other:?}"),
    }
}

fn fetches(server: &TestServer, result: &str) -> u64 {
    server.count(
        "fanfare_jwks_fetches_total",
        &format!("result=\"{result}\""),
    )
}

#[test]
fn a_client_waits_for_keys_that_are_on_their_way() {
    let (one, two, stranger) = (Signer::new("one"), Signer::new("two"), Signer::new("one"));
    let provider = Provider::new(&[one.key()]);
    let server = provider.server(|_| {});
    // The first fetch may not have ended yet.
    assert_eq!(come(&server, &one.token("ann")), Ok("ann".to_owned()));
    assert_eq!(
        come(&server, &stranger.token("eve")),
        Err(4001),
        "another key of the same name"
    );
    assert_eq!(
        (provider.asked(), server.count("fanfare_jwks_keys", "")),
        (1, 1)
    );

    provider.publish(&[one.key(), two.key()]);
    assert_eq!(
        come(&server, &two.token("bob")),
        Ok("bob".to_owned()),
        "fetched when it was needed"
    );
    assert_eq!(provider.asked(), 2);

    // Anyone can make up such tokens; they do not make the server ask again and again.
    for _ in 0..20 {
        assert_eq!(come(&server, &Signer::new("three").token("eve")), Err(4001));
    }
    assert_eq!((provider.asked(), fetches(&server, "ok")), (2, 2));
}

#[test]
fn keys_are_fetched_again_before_they_are_old_and_a_withdrawn_one_is_gone() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let provider = Provider::new(&[one.key()]);
    let server = provider.server(|config| config.limits.jwks_refresh = Duration::from_millis(100));
    assert_eq!(come(&server, &one.token("ann")), Ok("ann".to_owned()));
    provider.publish(&[two.key()]);
    let asked = provider.asked();
    eventually("it is fetched twice", || provider.asked() >= asked + 2);
    assert_eq!(come(&server, &two.token("ann")), Ok("ann".to_owned()));
    assert_eq!(come(&server, &one.token("ann")), Err(4001));
}

#[test]
fn the_last_good_keys_stay_whatever_goes_wrong() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let provider = Provider::new(&[one.key()]);
    let server = provider.server(|config| config.limits.jwks_refresh = Duration::from_millis(50));
    assert_eq!(come(&server, &one.token("ann")), Ok("ann".to_owned()));
    let elsewhere = Provider::new(&[two.key()]);
    let redirect = http(
        "302 Found",
        &format!("Location: {}\r\n", elsewhere.url()),
        "",
    );
    let keys = json!({"keys": [two.key()]}).to_string();
    for bad in [
        redirect,
        http("500 Internal Server Error", "", &keys),
        http("200 OK", "", "<html>"),
        http("200 OK", "", &format!("{}{keys}", " ".repeat(256 * 1024))),
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{".to_vec(),
        b"nonsense\r\n\r\n".to_vec(),
    ] {
        let failed = fetches(&server, "failed");
        provider.say(bad);
        eventually("a fetch has failed", || fetches(&server, "failed") > failed);
        assert_eq!(come(&server, &one.token("ann")), Ok("ann".to_owned()));
        // What cannot be judged now may come back: 4100, not 4001.
        assert_eq!(come(&server, &two.token("bob")), Err(4100));
        provider.publish(&[one.key()]);
        let good = fetches(&server, "ok");
        eventually("a good one follows", || fetches(&server, "ok") > good);
    }
    assert_eq!(elsewhere.asked(), 0, "no redirect is followed");
}

#[test]
fn a_client_may_come_later_where_keys_were_never_fetched() {
    let one = Signer::new("one");
    let provider = Provider::new(&[]);
    provider.say(http("503 Service Unavailable", "", ""));
    let server = provider.server(|_| {});
    eventually("the first fetch has failed", || {
        fetches(&server, "failed") > 0
    });
    assert_eq!(come(&server, &one.token("ann")), Err(4100));
    provider.publish(&[one.key()]);
    eventually("it is tried again", || fetches(&server, "ok") > 0);
    assert_eq!(come(&server, &one.token("ann")), Ok("ann".to_owned()));
}

#[test]
fn a_provider_that_never_answers_is_given_up() {
    let provider = Provider::new(&[]);
    provider.say(Vec::new());
    let server = provider.server(|_| {});
    assert_eq!(come(&server, &Signer::new("one").token("ann")), Err(4100));
    eventually("it was given up", || fetches(&server, "failed") > 0);
}

#[test]
fn shared_secrets_in_a_set_verify_nothing() {
    let secret = [7_u8; 32];
    let oct =
        json!({"kty": "oct", "kid": "s", "alg": "HS256", "k": BASE64URL_NOPAD.encode(&secret)});
    let one = Signer::new("one");
    let provider = Provider::new(&[oct, one.key()]);
    let server = provider.server(|_| {});
    assert_eq!(come(&server, &one.token("ann")), Ok("ann".to_owned()));
    let secret = str::from_utf8(&secret).unwrap();
    for header in [
        json!({"alg": "HS256", "kid": "s"}),
        json!({"alg": "HS256", "kid": "one"}),
        json!({"alg": "HS256"}),
    ] {
        let forged = jwt(
            secret,
            &header,
            &json!({"sub": "eve", "iss": "https://id.example"}),
        );
        assert_eq!(come(&server, &forged), Err(4001), "{header}");
    }
}

#[test]
fn a_renewal_waits_for_a_new_key_and_a_reload_may_bring_another_address() {
    let (one, two, three) = (Signer::new("one"), Signer::new("two"), Signer::new("three"));
    let provider = Provider::new(&[one.key()]);
    let server = provider.server(|_| {});
    let mut ann = server.connect(&format!("token={}", one.token("ann")));
    provider.publish(&[two.key()]);
    ann.acked(&json!({"op": "auth", "token": two.token("ann")}));
    assert_eq!(
        ann.ask(&json!({"op": "auth", "token": three.token("ann")}))["code"],
        "unauthorized"
    );

    let other = Provider::new(&[three.key()]);
    let mut config = config();
    config.listen = server.address();
    let app = config.apps.get_mut("default").unwrap();
    app.jwks_url = Some(other.url());
    app.issuer = Some("https://id.example".to_owned());
    let report = server.0.reload(config).unwrap();
    assert_eq!(
        report.applied,
        [format!(
            "apps.default.jwks_url: {} -> {}",
            provider.url(),
            other.url()
        )]
    );
    ann.acked(&json!({"op": "auth", "token": three.token("ann")}));
    assert_eq!(come(&server, &two.token("ann")), Err(4001));
}

#[test]
fn over_tls_keys_come_only_from_whom_the_system_trusts() {
    let one = Signer::new("one");
    let provider = Provider::new(&[one.key()]);
    let (port, certificate) = crate::running::terminate_tls(provider.address);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (trusted, config) = (folder.join("jwks.pem"), folder.join("jwks.toml"));
    std::fs::write(&trusted, certificate).unwrap();
    let app = format!(
        "jwks_url = \"https://localhost:{port}/keys?a=b\"\nissuer = \"https://id.example\""
    );
    std::fs::write(
        &config,
        format!("listen = \"127.0.0.1:0\"\n[apps.default]\n{app}\n"),
    )
    .unwrap();
    let words = [
        "serve",
        "--shards",
        "1",
        "--log",
        "error",
        "--config",
        config.to_str().unwrap(),
    ];
    for (variables, comes) in [
        (
            &[("SSL_CERT_FILE", trusted.to_str().unwrap())][..],
            Ok("ann".to_owned()),
        ),
        (&[], Err(4100)),
    ] {
        let mut server = Running::start(&words, variables, Stdio::null());
        let line = server.line();
        let (_, address) = line.split_once("http://").unwrap();
        let address = address.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(come_to(address, &one.token("ann")), comes);
    }
}
