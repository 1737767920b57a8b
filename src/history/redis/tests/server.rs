//! A Redis of a test's own.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(20);

/// `redis-server` on a port of its own, killed on drop.
pub(super) struct Server {
    child: Child,
    pub(super) port: u16,
    directory: PathBuf,
}

impl Server {
    pub(super) fn new() -> Self {
        let directory = std::env::temp_dir().join(format!("fanfare-redis-{}", Uuid::new_v4()));
        fs::create_dir(&directory).unwrap();
        let began = Instant::now();
        loop {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let child = Command::new("redis-server")
                .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
                .arg(&directory)
                .stdout(Stdio::null())
                .spawn()
                .expect("redis-server is installed");
            let mut server = Self { child, port, directory: directory.clone() };
            while server.child.try_wait().unwrap().is_none() {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return server;
                }
                assert!(began.elapsed() < PATIENCE, "redis-server does not listen");
                thread::sleep(Duration::from_millis(10));
            }
            assert!(began.elapsed() < PATIENCE, "redis-server ends at once");
            // Somebody else took the port in between.
            fs::create_dir_all(&directory).unwrap();
        }
    }

    /// Sends a command; its answer as `redis-cli` shows it to programs.
    pub(super) fn command(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string(), "-e"])
            .args(arguments)
            .output()
            .expect("redis-cli is installed");
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        assert!(output.status.success(), "{arguments:?}: {text}");
        text
    }

    /// Ends it at once, as a crash does.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Hears what is published to `channel` from now on.
    pub(super) fn subscribe(&self, channel: &[u8]) -> Subscriber {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut subscriber = Subscriber(BufReader::new(stream));
        let head = format!("*2\r\n$9\r\nSUBSCRIBE\r\n${}\r\n", channel.len());
        subscriber.0.get_mut().write_all(&[head.as_bytes(), channel, b"\r\n"].concat()).unwrap();
        assert_eq!(subscriber.line(), "*3");
        assert_eq!(subscriber.text(), b"subscribe");
        assert_eq!(subscriber.text(), channel);
        assert_eq!(subscriber.line(), ":1");
        subscriber
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A subscriber that knows only Redis.
pub(super) struct Subscriber(BufReader<TcpStream>);

impl Subscriber {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn text(&mut self) -> Vec<u8> {
        let line = self.line();
        let length: usize = line.strip_prefix('$').unwrap_or_else(|| panic!("{line}")).parse().unwrap();
        let mut text = vec![0; length + 2];
        self.0.read_exact(&mut text).unwrap();
        text.truncate(length);
        text
    }

    /// The next publication.
    pub(super) fn next(&mut self) -> Vec<u8> {
        assert_eq!(self.line(), "*3");
        assert_eq!(self.text(), b"message");
        self.text();
        self.text()
    }
}
