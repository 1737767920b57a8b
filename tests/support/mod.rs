//! A server of this process on a free port, and plain clients for it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may end at once")]

use std::{
    collections::VecDeque,
    fmt::Write as _,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use fanfare::{
    Server,
    config::{
        ApiKeyConfig, ClientAuth, Config, KeyMaterial, Scopes, TokenAlgorithm, TokenKeyConfig,
    },
    protocol::decoder::{Decoder, Message, Role},
};
use serde_json::{Value, json};

/// How long anything may take that should happen at once.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A server without keys on a free loopback port.
pub fn server() -> TestServer {
    server_with(|_| {})
}

/// The same, configured by `change`.
pub fn server_with(change: impl FnOnce(&mut Config)) -> TestServer {
    let mut config = config();
    change(&mut config);
    TestServer(Server::start(config).expect("the server starts"))
}

/// What [`server`] starts with.
pub fn config() -> Config {
    let none = std::iter::empty::<(String, String)>();
    let mut config =
        Config::load(&fanfare::config::ServeArgs::default(), none).expect("defaults load");
    config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.shards = 2;
    config
}

/// The API key of [`keyed_server`]; it has every scope.
pub const KEY: &str = "key-of-the-tests-with-all-scopes";

/// The secret that client tokens of [`keyed_server`] are signed with.
pub const SECRET: &str = "secret-of-the-tests-in-over-32-bytes";

/// A server whose first app has [`KEY`] and [`SECRET`], and takes clients without a token, configured further by
/// `change`.
pub fn keyed_server(change: impl FnOnce(&mut Config)) -> TestServer {
    server_with(|config| {
        let app = config.apps.values_mut().next().unwrap();
        app.keys.push(api_key("all", KEY, Scopes::ALL));
        app.tokens.push(token_key(SECRET));
        app.client_auth = Some(ClientAuth::Optional);
        config.drain_delay = Some(Duration::ZERO);
        change(config);
    })
}

pub fn api_key(name: &str, key: &str, scopes: Scopes) -> ApiKeyConfig {
    ApiKeyConfig::from_plain(name, &key.into(), scopes).unwrap()
}

/// A shared secret for client tokens.
pub fn token_key(secret: &str) -> TokenKeyConfig {
    TokenKeyConfig {
        kid: None,
        alg: TokenAlgorithm::HS256,
        key: KeyMaterial::Secret(secret.into()),
    }
}

/// A JSON Web Token over `claims`, signed by HS256 whatever `header` says.
pub fn jwt(secret: &str, header: &Value, claims: &Value) -> String {
    let encode = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let message = format!(
        "{}.{}",
        encode(header.to_string().as_bytes()),
        encode(claims.to_string().as_bytes())
    );
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let signature = encode(ring::hmac::sign(&key, message.as_bytes()).as_ref());
    format!("{message}.{signature}")
}

/// A token of [`keyed_server`] with `claims`.
pub fn signed(claims: &Value) -> String {
    jwt(SECRET, &json!({"alg": "HS256"}), claims)
}

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// A running server; shut down when dropped.
pub struct TestServer(pub Server);

impl Drop for TestServer {
    fn drop(&mut self) {
        let server = self.0.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let stopped = std::thread::spawn(move || runtime.block_on(server.shutdown())).join();
        assert!(
            stopped.is_ok() || std::thread::panicking(),
            "shutdown panicked"
        );
    }
}

/// An HTTP answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
    }

    /// The `code` of a problem document.
    pub fn code(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl TestServer {
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// One request with the headers that a development server asks for, and `more`.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        more: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Answer {
        request(self.address(), method, path, more, body)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], None)
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.request("POST", path, &[], Some(body.to_string().as_bytes()))
    }

    /// Posts with an API key.
    pub fn post_as(&self, key: &str, path: &str, body: &Value) -> Answer {
        let authorization = format!("Bearer {key}");
        self.request(
            "POST",
            path,
            &[("Authorization", &authorization)],
            Some(body.to_string().as_bytes()),
        )
    }

    /// Gets with an API key.
    pub fn get_as(&self, key: &str, path: &str) -> Answer {
        self.request(
            "GET",
            path,
            &[("Authorization", &format!("Bearer {key}"))],
            None,
        )
    }

    /// Posts and expects 200.
    pub fn call(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body);
        assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
        answer.json()
    }

    /// A token for `user` with `claims`.
    pub fn token(&self, user: &str, claims: &Value) -> String {
        let answer = self.call("/v1/tokens", &json!({"user": user, "claims": claims}));
        answer["token"].as_str().unwrap().to_owned()
    }

    /// A client that has had its welcome.
    pub fn client(&self, user: &str, claims: &Value) -> Client {
        let token = self.token(user, claims);
        self.connect(&format!("token={token}"))
    }

    /// A client with `query` that has had its welcome.
    pub fn connect(&self, query: &str) -> Client {
        let mut client = self.open(query);
        let welcome = client.json();
        assert_eq!(welcome["op"], "welcome", "{welcome}");
        client.id = welcome["connection"].as_str().unwrap().into();
        client
    }

    /// A client that has had nothing yet.
    pub fn open(&self, query: &str) -> Client {
        Client::open(self.address(), &format!("/v1/connect?{query}"), &[])
            .expect("the handshake succeeds")
    }

    /// A client with `headers` that has had nothing yet, or the refusal.
    pub fn try_open(&self, query: &str, headers: &[(&str, &str)]) -> Result<Client, Answer> {
        Client::open(self.address(), &format!("/v1/connect?{query}"), headers)
    }

    /// [`TestServer::metric`] of what counts whole things.
    pub fn count(&self, name: &str, labels: &str) -> u64 {
        self.metric(name, labels) as u64
    }

    /// The sum of a metric's lines whose labels contain `labels`.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        sum(&self.get("/metrics").text, name, labels)
    }
}

/// The sum of a metric's lines in `text` whose labels contain `labels`.
pub fn sum(text: &str, name: &str, labels: &str) -> f64 {
    let lines = text.lines().filter(|line| {
        let Some(rest) = line.strip_prefix(name) else {
            return false;
        };
        rest.starts_with(['{', ' ']) && rest.contains(labels)
    });
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// Waits until `what` is true.
pub fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One HTTP request on a connection of its own.
pub fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    more: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Answer {
    let mut socket = TcpStream::connect(to).expect("connects");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let has = |name: &str| more.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !has("host") {
        write!(head, "Host: {to}\r\n").unwrap();
    }
    if let Some(body) = body {
        if !has("content-type") {
            head += "Content-Type: application/json\r\n";
        }
        if !has("content-length") && !has("transfer-encoding") {
            write!(head, "Content-Length: {}\r\n", body.len()).unwrap();
        }
    }
    for (name, value) in more {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    head += "\r\n";
    socket.write_all(head.as_bytes()).expect("writes");
    // A server that refuses early may have closed already; its answer counts.
    let _ = socket.write_all(body.unwrap_or_default());
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    parse_answer(&answer)
}

/// Splits a raw HTTP/1.1 answer.
pub fn parse_answer(raw: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(raw);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|s| s.parse().ok());
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(n, v)| (n.to_owned(), v.to_owned()));
    Answer {
        status: status.expect("a status line"),
        headers: headers.collect(),
        text: body.to_owned(),
    }
}

/// What a client received.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16, String),
    /// The stream ended, cleanly or not.
    End,
}

/// A plain WebSocket client over a blocking socket. Answers pings.
pub struct Client {
    pub socket: TcpStream,
    pub id: String,
    decoder: Decoder,
    received: VecDeque<Received>,
    pub answers_pings: bool,
}

impl Client {
    /// Upgrades a connection; the answer is the error where it is not 101.
    pub fn open(to: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, Answer> {
        Self::upgrade(TcpStream::connect(to).expect("connects"), path, headers)
    }

    /// The same over a socket that is connected already.
    pub fn upgrade(
        mut socket: TcpStream,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Answer> {
        let to = socket.peer_addr().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        let mut head = format!("GET {path} HTTP/1.1\r\n");
        if !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            write!(head, "Host: {to}\r\n").unwrap();
        }
        head += "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        socket
            .write_all((head + "\r\n").as_bytes())
            .expect("writes");
        let mut raw = Vec::new();
        let mut byte = [0];
        while !raw.ends_with(b"\r\n\r\n") {
            match socket.read(&mut byte) {
                Ok(1) => raw.push(byte[0]),
                other => panic!(
                    "the handshake ended: {other:?} after {:?}",
                    String::from_utf8_lossy(&raw)
                ),
            }
        }
        let status = parse_answer(&raw).status;
        if status != 101 {
            let length = parse_answer(&raw)
                .header("content-length")
                .and_then(|length| length.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            socket.read_exact(&mut body).expect("the refusal's body");
            return Err(parse_answer(&[raw, body].concat()));
        }
        Ok(Self {
            socket,
            id: String::new(),
            decoder: Decoder::new(Role::Client, 1 << 24),
            received: VecDeque::new(),
            answers_pings: true,
        })
    }

    /// The next message, whatever it is.
    pub fn next(&mut self) -> Received {
        while self.received.is_empty() {
            let mut buffer = vec![0; 1 << 16];
            match self.socket.read(&mut buffer) {
                Ok(n) if n > 0 => self.take(&mut buffer[..n]),
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    panic!("nothing came within {PATIENCE:?}")
                }
                _ => return Received::End,
            }
        }
        self.received.pop_front().unwrap()
    }

    fn take(&mut self, mut bytes: &mut [u8]) {
        loop {
            let received = match self.decoder.next(&mut bytes) {
                Ok(None) => return,
                Ok(Some(Message::Text(text))) => Received::Text(text.to_owned()),
                Ok(Some(Message::Binary(bytes))) => Received::Binary(bytes.to_vec()),
                Ok(Some(Message::Ping(payload))) => Received::Ping(payload.to_vec()),
                Ok(Some(Message::Pong(payload))) => Received::Pong(payload.to_vec()),
                Ok(Some(Message::Close(None))) => Received::Close(1005, String::new()),
                Ok(Some(Message::Close(Some((code, reason))))) => {
                    Received::Close(code, reason.to_owned())
                }
                Err(violation) => panic!("the server broke RFC 6455: {violation}"),
            };
            self.received.push_back(received);
        }
    }

    /// The next message that is no ping; pings are answered and passed over.
    pub fn message(&mut self) -> Received {
        loop {
            match self.next() {
                Received::Ping(payload) if self.answers_pings => self.frame(0x8a, &payload),
                Received::Ping(_) => {}
                other => return other,
            }
        }
    }

    /// The next text message; pings are answered and passed over.
    pub fn text(&mut self) -> String {
        match self.message() {
            Received::Text(text) => text,
            other => panic!("expected text, got {other:?}"),
        }
    }

    /// The next text message as JSON.
    pub fn json(&mut self) -> Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// The close code, after whatever came before it; 1006 if the stream just ended.
    pub fn closed(&mut self) -> u16 {
        loop {
            match self.next() {
                Received::Close(code, _) => return code,
                Received::End => return 1006,
                _ => {}
            }
        }
    }

    /// Expects that nothing comes: whatever was sent before a round trip has arrived after it.
    pub fn expect_nothing(&mut self) {
        self.frame(0x89, b"round trip");
        match self.message() {
            Received::Pong(payload) if payload == b"round trip" => {}
            other => panic!("expected nothing, got {other:?}"),
        }
    }

    pub fn send(&mut self, message: &Value) {
        self.frame(0x81, message.to_string().as_bytes());
    }

    /// Sends `message` with an id, and answers the ack or error to it, before which nothing may come but counts without changes:
    /// who watches gets those whenever a node is known, or has gone.
    pub fn ask(&mut self, message: &Value) -> Value {
        let (mut before, answer) = self.ask_amid(message);
        let is_count = |told: &Value| ["joined", "left", "updated"].map(|kind| told[kind] == 0);
        before.retain(|told| told["op"] != "members" || is_count(told) != [true; 3]);
        assert!(before.is_empty(), "before {answer} came {before:?}");
        answer
    }

    /// Sends `message` with an id, and answers what came before the ack or error to it, and that.
    pub fn ask_amid(&mut self, message: &Value) -> (Vec<Value>, Value) {
        let mut message = message.clone();
        message["id"] = json!("asked");
        self.send(&message);
        let mut before = Vec::new();
        loop {
            let next = self.json();
            if next["id"] == "asked" && next["op"].is_string() {
                return (before, next);
            }
            before.push(next);
        }
    }

    /// [`Client::ask`] of what is to succeed.
    pub fn acked(&mut self, message: &Value) -> Value {
        let answer = self.ask(message);
        assert_eq!(answer["op"], "ack", "{message}: {answer}");
        answer
    }

    /// Joins `channel`; answers the ack.
    pub fn join(&mut self, channel: &str) -> Value {
        self.acked(&json!({"op": "join", "channel": channel}))
    }

    /// Joins `channel` and asks for its members; answers the ack.
    pub fn watch(&mut self, channel: &str) -> Value {
        self.acked(&json!({"op": "join", "channel": channel, "members": true}))
    }

    /// The text messages that have come, up to a round trip.
    pub fn pending(&mut self) -> Vec<Value> {
        self.frame(0x89, b"pending");
        let mut messages = Vec::new();
        loop {
            match self.message() {
                Received::Text(text) => messages.push(serde_json::from_str(&text).unwrap()),
                Received::Pong(payload) if payload == b"pending" => return messages,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Sends one masked frame with `first` as its first byte. A server that has closed already is no error here.
    pub fn frame(&mut self, first: u8, payload: &[u8]) {
        let _ = self.socket.write_all(&masked(first, payload));
    }
}

/// A masked frame.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![first];
    match payload.len() {
        n @ 0..=125 => frame.push(0x80 | n as u8),
        n @ 126..=0xffff => {
            frame.push(0xfe);
            frame.extend((n as u16).to_be_bytes());
        }
        n => {
            frame.push(0xff);
            frame.extend((n as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(
        payload
            .iter()
            .enumerate()
            .map(|(i, byte)| byte ^ mask[i % 4]),
    );
    frame
}
