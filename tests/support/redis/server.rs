//! One redis-server process.

use std::{
    env,
    ffi::OsString,
    fs, io,
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Folder, Reply, Resp, free_port, pause_process, wait_until};

/// The server that is started where [`PROGRAM`] names no other.
const USUAL: &str = "redis-server";

/// The variable that names another server of Redis's protocol, as a program: `valkey-server`, or a path.
const PROGRAM: &str = "REDIS_SERVER";

/// The server to start.
fn program() -> OsString {
    let named = env::var_os(PROGRAM).filter(|named| !named.is_empty());
    named.unwrap_or_else(|| USUAL.into())
}

/// How often another port is tried where something else took the first meanwhile.
const TRIES: usize = 5;

/// A server process; killed when dropped.
#[derive(Debug)]
pub struct RedisServer {
    child: Option<Child>,
    port: u16,
    /// What it is started with, but for its port.
    arguments: Vec<String>,
    /// For a sentinel: what its file says.
    sentinel: Option<String>,
    folder: Folder,
}

impl RedisServer {
    /// Starts one that keeps nothing on disk.
    pub fn start() -> io::Result<Self> {
        Self::start_with(&[])
    }

    /// Starts one that has every write on disk before it answers it, and so keeps all over a crash.
    pub fn start_durable() -> io::Result<Self> {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// Starts one with further arguments, such as `--maxmemory`, `1mb`.
    pub fn start_with(arguments: &[&str]) -> io::Result<Self> {
        Self::launch(arguments, None)
    }

    /// Starts a sentinel with these lines in its file.
    pub(super) fn start_sentinel(lines: &str) -> io::Result<Self> {
        Self::launch(&[], Some(lines))
    }

    fn launch(arguments: &[&str], sentinel: Option<&str>) -> io::Result<Self> {
        let mut failure = None;
        for _ in 0..TRIES {
            let mut server = Self {
                child: None,
                port: free_port()?,
                arguments: arguments
                    .iter()
                    .map(|&argument| argument.to_owned())
                    .collect(),
                sentinel: sentinel.map(str::to_owned),
                folder: Folder::new("redis")?,
            };
            match server.restart() {
                Ok(()) => return Ok(server),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// `redis://` and its address.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// Its process, while there is one.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// One command on a connection of its own; an error that Redis answers is an error.
    pub fn call(&self, words: &[&str]) -> io::Result<Reply> {
        Resp::connect(self.address())?.call(words)
    }

    /// Starts it again on the same port, with what is on its disk.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill()?;
        let mut command = self.command()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| {
                let program = program();
                io::Error::new(error.kind(), format!("{}: {error}", program.display()))
            })?;
        // Another server may have taken the port, and would answer in its place.
        let own = format!("process_id:{}\r\n", child.id());
        self.child = Some(child);
        wait_until("redis-server answers", || {
            let Some(child) = &mut self.child else {
                return Ok(true);
            };
            if child.try_wait()?.is_some() {
                self.child = None;
                return Ok(true);
            }
            let address = SocketAddr::from(([127, 0, 0, 1], self.port));
            let info = Resp::connect(address)?.call(&["INFO"])?.text();
            Ok(info.contains(&own) && !info.contains("loading:1"))
        })?;
        if self.child.is_some() {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{} ended at once; it has logged:\n{}",
            program().display(),
            self.log()
        )))
    }

    fn command(&self) -> io::Result<Command> {
        let mut command = Command::new(program());
        let (port, folder) = (self.port, self.folder.path());
        if let Some(lines) = &self.sentinel {
            let file = folder.join("sentinel.conf");
            let place = format!(
                "port {port}\nbind 127.0.0.1\nprotected-mode no\ndir {}\n",
                folder.display()
            );
            fs::write(&file, format!("{place}logfile server.log\n{lines}"))?;
            command.arg(file).arg("--sentinel");
            return Ok(command);
        }
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--protected-mode",
            "no",
        ]);
        command
            .args(["--save", "", "--logfile", "server.log", "--dir"])
            .arg(folder);
        command.args(&self.arguments);
        Ok(command)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
    }

    /// Ends it at once, as a crash does. Nothing happens if it has ended.
    pub fn kill(&mut self) -> io::Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        // Fails only if it has ended.
        let _ = child.kill();
        child.wait().map(|_| ())
    }

    /// Lets it end by itself.
    pub fn stop(&mut self) -> io::Result<()> {
        self.signal(Signal::TERM)?;
        self.child
            .take()
            .map_or(Ok(()), |mut child| child.wait().map(|_| ()))
    }

    /// Stops its execution: its connections stay open, and nothing is answered.
    pub fn pause(&self) -> io::Result<()> {
        pause_process(self.pid()?)
    }

    /// Goes on after [`RedisServer::pause`].
    pub fn resume(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        kill_process(self.pid()?, signal).map_err(io::Error::from)
    }

    fn pid(&self) -> io::Result<Pid> {
        let id = self.id().and_then(|id| Pid::from_raw(id as i32));
        id.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it does not run"))
    }

    /// Ends the connections of all clients of a kind: `normal` or `pubsub`; answers how many.
    pub fn kill_clients(&self, kind: &str) -> io::Result<i64> {
        let killed = self.call(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"])?;
        Ok(killed.number().unwrap_or(0))
    }

    /// `CONFIG SET`.
    pub fn set(&self, name: &str, value: &str) -> io::Result<()> {
        self.call(&["CONFIG", "SET", name, value]).map(|_| ())
    }

    /// Makes it a replica of `primary`, and waits until it has its data and follows it.
    pub fn follow(&self, primary: SocketAddr) -> io::Result<()> {
        self.call(&[
            "REPLICAOF",
            &primary.ip().to_string(),
            &primary.port().to_string(),
        ])?;
        wait_until("the replica follows", || self.follows())
    }

    /// Makes it a primary, with the data that it has.
    pub fn detach(&self) -> io::Result<()> {
        self.call(&["REPLICAOF", "NO", "ONE"]).map(|_| ())
    }

    /// Whether it is a primary.
    pub fn is_primary(&self) -> io::Result<bool> {
        let role = self.call(&["ROLE"])?;
        Ok(role
            .items()
            .first()
            .is_some_and(|role| role.text() == "master"))
    }

    /// Whether it is a replica that is up to its primary.
    pub fn follows(&self) -> io::Result<bool> {
        let role = self.call(&["ROLE"])?;
        let texts: Vec<String> = role.items().iter().map(Reply::text).collect();
        Ok(texts.first().is_some_and(|role| role == "slave")
            && texts.get(3).is_some_and(|s| s == "connected"))
    }

    /// What `INFO` says of `field`.
    pub fn info(&self, field: &str) -> io::Result<String> {
        let info = self.call(&["INFO"])?.text();
        let value = info
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value
            .map(str::to_owned)
            .ok_or_else(|| io::Error::other(format!("INFO has no {field}")))
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.kill();
    }
}
