//! The log never holds the server up: whoever reads it may be slow, or stuck for good.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{self, BufRead, BufReader, ErrorKind, PipeReader, PipeWriter, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{Pid, Signal, kill_process},
};
use serde_json::json;

use crate::{port::free_port, support::*};

const CONFIG: &str = "[limits]\nscans = 4\n";

/// `fanfare serve` whose stdout and stderr are given.
struct Server {
    child: Child,
    address: SocketAddr,
    config: PathBuf,
}

impl Server {
    fn start(name: &str, words: &[&str], out: impl Into<Stdio>, error: impl Into<Stdio>) -> Self {
        // Nobody can read which port it took.
        let address = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
        let config = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("logging-{name}-{}.toml", std::process::id()));
        fs::write(&config, CONFIG).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_fanfare"))
            .args(["serve", "--shards", "2", "--drain-delay", "0s", "--listen"])
            .arg(address.to_string())
            .args(["--api-key", KEY, "--token-secret", SECRET, "--config"])
            .arg(&config)
            .args(words)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(error)
            .spawn()
            .unwrap();
        eventually("the server listens", || TcpStream::connect(address).is_ok());
        Self {
            child,
            address,
            config,
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it, which must go well; says how.
    fn terminate(&mut self) {
        self.signal(Signal::TERM);
        eventually("the server ends", || {
            self.child.try_wait().unwrap().is_some()
        });
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }

    fn dropped(&self) -> u64 {
        let key = format!("Bearer {KEY}");
        let headers = [("Authorization", &*key)];
        let text = request(self.address, "GET", "/metrics", &headers, None).text;
        sum(&text, "fanfare_log_lines_dropped_total", "") as u64
    }

    /// Has lines logged until some are dropped: reports about a bad file.
    fn log_too_much(&self) {
        let bad = (0..2000).fold(String::new(), |mut bad, n| {
            // Writing to a String cannot fail.
            let _ = writeln!(bad, "a_setting_that_does_not_exist_{n} = 1");
            bad
        });
        fs::write(&self.config, bad).unwrap();
        eventually("lines are dropped", || {
            self.signal(Signal::HUP);
            self.dropped() > 0
        });
        fs::write(&self.config, CONFIG).unwrap();
    }

    /// Clients, callers and probes are served, whatever becomes of the log.
    fn serves(&self) {
        let token = signed(&json!({"sub": "ann", "can": {"join": ["*"]}}));
        let path = |token: &str| format!("/v1/connect?token={token}");
        let mut client = Client::open(self.address, &path(&token), &[]).unwrap();
        assert_eq!(client.json()["op"], "welcome");
        for _ in 0..2000 {
            let refused = Client::open(self.address, &path("x.y.z"), &[]);
            assert_eq!(refused.unwrap().closed(), 4001);
        }
        let key = format!("Bearer {KEY}");
        let headers = [("Authorization", &*key)];
        let body = br#"{"event":"still","data":1}"#;
        let path = "/v1/broadcast";
        let answer = request(self.address, "POST", path, &headers, Some(body));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(client.json()["event"], "still");
        for path in ["/readyz", "/livez"] {
            let answer = request(self.address, "GET", path, &[], None);
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.config);
    }
}

/// A pipe into which nothing more fits; a write to it waits for the reader.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    let full = loop {
        if let Err(error) = writer.write(b"\n") {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

/// Reads a log to its end on a thread of its own, and gives what it has read so far.
fn follow(reader: PipeReader) -> (std::thread::JoinHandle<()>, Arc<Mutex<String>>) {
    let log = Arc::new(Mutex::new(String::new()));
    let lines = log.clone();
    let reading = std::thread::spawn(move || {
        for line in BufReader::new(reader).lines().map_while(Result::ok) {
            *lines.lock().unwrap() += &(line + "\n");
        }
    });
    (reading, log)
}

/// How many lines a log in `format` says it has lost.
fn told(log: &str, format: &str) -> u64 {
    let lines = log
        .lines()
        .filter(|line| line.contains("log lines were dropped"));
    lines
        .map(|line| {
            if format == "json" {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                return line["fields"]["lines"].as_u64().unwrap();
            }
            let (_, count) = line.rsplit_once("lines=").unwrap();
            count.parse().unwrap()
        })
        .sum()
}

/// Reads a log to its end on a thread of its own.
fn read(mut reader: PipeReader) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    })
}

#[test]
fn a_server_whose_output_nobody_reads_serves_and_ends_well() {
    for format in ["text", "json"] {
        // What it prints when it starts, the log, and reports of reloads: all of it goes into the same full pipe.
        let (_reader, writer) = full_pipe();
        let words = ["--log", "debug", "--log-format", format];
        let out = writer.try_clone().unwrap();
        let mut server = Server::start(&format!("stuck-{format}"), &words, out, writer);
        server.serves();
        server.log_too_much();
        server.serves();
        server.terminate();
    }
}

#[test]
fn a_reader_that_comes_back_is_told_how_many_lines_it_has_missed() {
    for format in ["text", "json"] {
        let (reader, writer) = full_pipe();
        let words = ["--log-format", format];
        let name = format!("back-{format}");
        let mut server = Server::start(&name, &words, Stdio::null(), writer);
        server.log_too_much();
        let (reading, log) = follow(reader);
        eventually("it is told of each line that was dropped", || {
            let told = told(&log.lock().unwrap(), format);
            told > 0 && told == server.dropped()
        });
        server.terminate();
        reading.join().unwrap();
        assert!(
            log.lock().unwrap().contains("all clients have gone"),
            "the last line is there"
        );
    }
}

#[test]
fn what_is_printed_comes_before_the_log_which_is_whole_in_a_file_too() {
    let path =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("logging-{}.txt", std::process::id()));
    let file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .unwrap();
    let mut server = Server::start("file", &[], file.try_clone().unwrap(), file);
    server.terminate();
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(text.starts_with("Fanfare "), "{text}");
    assert!(
        text.contains("serving") && text.contains("all clients have gone"),
        "{text}"
    );
}

#[test]
fn strangers_cannot_write_lines_of_their_own() {
    let (reader, writer) = io::pipe().unwrap();
    let mut server = Server::start("lines", &[], Stdio::null(), writer);
    let reading = read(reader);
    // `can` is repeated when it is refused, and what signs it may be anyone's.
    let can = json!({"join": "x\n2026-01-01T00:00:00Z ERROR forged"});
    let token = signed(&json!({"sub": "ann", "can": can}));
    let path = format!("/v1/connect?token={token}");
    let refused = Client::open(server.address, &path, &[]);
    assert_eq!(refused.unwrap().closed(), 4001);
    let origin = [("Origin", "https://a.example\u{85}forged")];
    assert!(Client::open(server.address, "/v1/connect", &origin).is_err());
    server.terminate();
    let log = reading.join().unwrap();
    assert!(log.contains("refused"), "{log}");
    for line in log.lines() {
        assert!(line.contains(" INFO ") || line.contains(" WARN "), "{line}");
    }
}

#[test]
fn no_log_line_shows_a_secret() {
    const MARKER: &str = "S3cretMarker-0123456789";
    let (reader, writer) = io::pipe().unwrap();
    let mut server = Server::start("secret", &["--log", "debug"], Stdio::null(), writer);
    let (reading, log) = follow(reader);
    let secret = MARKER;
    let bad = [
        format!("[apps.default]\nkeys = [\"{secret}\"]\n"),
        format!("[[apps.default.tokens]]\nalg = \"HS256\"\nsecret = [\"{secret}\"]\n"),
        format!("redis = \"redis://:{secret}@h\"\n"),
        format!("[redis]\nurl = \"redis://:{secret}@h:port\"\n"),
        format!("[apps.default]\njwks_url = \"http://u:{secret}@h/\"\n"),
        format!("[[apps.default.keys]]\nname = \"a\"\nkey = {secret}\n"),
        format!("[[apps.default.keys]]\nname = \"a\"\nkey_file = \"{secret}\"\n"),
    ];
    for (n, text) in bad.iter().enumerate() {
        let text = format!("[limits]\nscans = 4\nbad_{n} = 1\n{text}");
        // Above every table.
        let text = match text.split_once("redis = ") {
            Some((before, rest)) => format!("redis = {rest}{before}"),
            None => text,
        };
        fs::write(&server.config, text).unwrap();
        server.signal(Signal::HUP);
        eventually("it is refused", || {
            log.lock().unwrap().contains(&format!("bad_{n}"))
        });
    }
    // A token, a key and an address with them, from outside.
    let headers = [("Authorization", &*format!("Bearer {MARKER}"))];
    let refused = request(server.address, "GET", "/v1/connections", &headers, None);
    assert_eq!(refused.status, 401);
    let path = format!("/v1/connect?token={MARKER}&key={MARKER}");
    assert_eq!(
        Client::open(server.address, &path, &[]).unwrap().closed(),
        4001
    );
    server.terminate();
    reading.join().unwrap();
    let log = log.lock().unwrap();
    assert!(!log.contains(MARKER), "{log}");
    assert!(log.matches("reload refused").count() > bad.len(), "{log}");
}
