//! Redis servers of a test's own, on free ports, gone when it ends.

use std::{
    collections::HashSet,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// How long anything that has to happen may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `is_so`.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "still not: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A port that nobody has, and that no other test of this process was given. A cluster's node takes the one 10,000 above
/// it too.
pub(crate) fn free_port() -> u16 {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let port = 10_000 + (uuid::Uuid::new_v4().as_u128() % 12_000) as u16;
        if is_free(port)
            && is_free(port + 10_000)
            && GIVEN
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(port)
        {
            return port;
        }
    }
}

/// A folder of a server's own, removed at its end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("fanfare-redis-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.0.join(name), text).unwrap();
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) struct Server {
    child: Option<Child>,
    pub(crate) port: u16,
    options: Vec<String>,
    pub(crate) folder: Folder,
}

impl Server {
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::start_on(free_port(), options)
    }

    pub(crate) fn start_on(port: u16, options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut server = Self {
            child: None,
            port,
            options,
            folder: Folder::new(),
        };
        server.start_again();
        server
    }

    /// A Sentinel that watches `master`.
    pub(crate) fn sentinel(master: u16) -> Self {
        Self::sentinel_with(master, 2, "")
    }

    /// One of which `quorum` decide, with further lines in its file.
    pub(crate) fn sentinel_with(master: u16, quorum: u32, more: &str) -> Self {
        let (port, folder) = (free_port(), Folder::new());
        let config = folder.write(
            "sentinel.conf",
            &format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {master} {quorum}\n\
                 sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 4000\n{more}"
            ),
        );
        let child = Some(spawn(&folder.0, &[config, "--sentinel".to_owned()]));
        let server = Self {
            child,
            port,
            options: Vec::new(),
            folder,
        };
        server.is_ready();
        server
    }

    pub(crate) fn start_again(&mut self) {
        let own = [
            "--port".to_owned(),
            self.port.to_string(),
            "--bind".to_owned(),
            "127.0.0.1".to_owned(),
            "--save".to_owned(),
            String::new(),
            "--appendonly".to_owned(),
            "no".to_owned(),
        ];
        // What comes later wins: a server with TLS only has no port.
        let options = own
            .into_iter()
            .chain(self.options.iter().cloned())
            .collect::<Vec<_>>();
        self.child = Some(spawn(&self.folder.0, &options));
        self.is_ready();
    }

    fn is_ready(&self) {
        let port = self.port;
        eventually("a Redis server listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops the process, as a frozen machine would; no thread of it runs when this returns.
    pub(crate) fn freeze(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(self.pid()), stopped).unwrap();
    }

    pub(crate) fn thaw(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    /// Runs one command, as an operator would.
    pub(crate) fn ask(&self, words: &[&str]) -> redis::Value {
        self.try_ask(words)
            .unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    pub(crate) fn try_ask(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let mut connection =
            redis::Client::open(self.url())?.get_connection_with_timeout(PATIENCE)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command.query(&mut connection)
    }

    /// A field of INFO.
    pub(crate) fn info(&self, field: &str) -> String {
        let Ok(value) = self.try_ask(&["INFO"]) else {
            return String::new();
        };
        let text: String = redis::from_redis_value(value).unwrap_or_default();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts redis-server, or the program of the same protocol that `REDIS_SERVER` names.
fn spawn(folder: &Path, options: &[String]) -> Child {
    let log = fs::File::create(folder.join("log")).unwrap();
    let named = std::env::var_os("REDIS_SERVER").filter(|named| !named.is_empty());
    let program = named.unwrap_or_else(|| "redis-server".into());
    Command::new(&program)
        .args(options)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{} cannot be started: {error}", program.display()))
}

/// A Redis Cluster of three primaries with a replica each.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let options = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "1500",
            "--cluster-config-file",
            "nodes.conf",
        ];
        let nodes = (0..6).map(|_| Server::start(&options)).collect::<Vec<_>>();
        let addresses = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port));
        let made = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(addresses)
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stdout)
        );
        let cluster = Self { nodes };
        eventually("every replica follows its primary", || {
            cluster.nodes.iter().all(|node| {
                node.info("role") == "master" && node.info("connected_slaves") == "1"
                    || node.info("master_link_status") == "up"
            })
        });
        cluster
    }

    pub(crate) fn url(&self) -> String {
        let ports = self
            .nodes
            .iter()
            .take(2)
            .map(|node| format!("127.0.0.1:{}", node.port));
        format!("redis+cluster://{}", ports.collect::<Vec<_>>().join(","))
    }

    /// The index of a node that is primary and has a replica.
    pub(crate) fn primary(&self) -> usize {
        self.nodes
            .iter()
            .position(|node| node.info("role") == "master")
            .unwrap()
    }
}
