//! A Fanfare process with two apps, which can be attacked, watched and ended.

use std::{
    fmt::Write as _,
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    error::{Doing, Result, failed},
    inspect,
    process::Process,
    redis::free_port,
    socket,
};

/// The app that is attacked, by clients and functions of its own. It is the first by name, which clients get who name none.
pub(crate) const ATTACKED: &str = "attacked";

/// The app that has nothing to do with it.
pub(crate) const OTHER: &str = "other";

/// The secret of both apps' tokens.
pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// How long leaving may take, as the configuration says.
pub(crate) const DRAIN: Duration = Duration::from_secs(6);

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long an answer about the server itself may take.
const ANSWER: Duration = Duration::from_secs(5);

/// The API key of an app.
pub(crate) fn key(app: &str) -> String {
    format!("an-api-key-of-{app}")
}

/// How a server is to be started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup<'s> {
    pub(crate) program: &'s Path,
    pub(crate) limits: &'s [(&'static str, &'static str)],
    pub(crate) descriptors: Option<u32>,
    pub(crate) is_log_unread: bool,
    /// Where what it logs is kept, if anywhere.
    pub(crate) log: Option<&'s Path>,
}

/// A running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct Victim {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    folder: PathBuf,
    /// Its log, where nobody reads it.
    _unread: Option<ChildStderr>,
}

impl Victim {
    /// Starts it, and waits until it listens.
    pub(crate) fn start(setup: Setup<'_>) -> Result<Self> {
        let port = || free_port().doing("no port is free");
        let address = SocketAddr::from(([127, 0, 0, 1], port()?));
        let admin = SocketAddr::from(([127, 0, 0, 1], port()?));
        let folder = folder()?;
        let path = folder.join("fanfare.toml");
        let text = configuration(address, admin, setup.limits);
        fs::write(&path, text).doing(format!("cannot write {}", path.display()))?;

        let mut command = command(&setup, &path);
        match setup.log {
            _ if setup.is_log_unread => command.stderr(Stdio::piped()),
            Some(path) => {
                let log = File::options().create(true).append(true).open(path);
                command.stderr(log.doing(format!("cannot write {}", path.display()))?)
            }
            None => command.stderr(Stdio::null()),
        };
        let name = setup.program.display();
        let mut child = command.spawn().doing(format!("cannot start {name}"))?;
        let unread = child.stderr.take();
        let mut victim = Self {
            child,
            address,
            admin,
            folder,
            _unread: unread,
        };
        victim.await_listening()?;
        Ok(victim)
    }

    fn await_listening(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).is_err() || TcpStream::connect(self.admin).is_err() {
            if let Some(status) = self.ended() {
                return failed(format!(
                    "the server ended at once: {status}; --logs DIR keeps what it said"
                ));
            }
            if Instant::now() > until {
                return failed(format!("the server does not listen on {}", self.address));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Its process.
    pub(crate) fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// How it has ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// How it has ended, once it has, within `patience`.
    pub(crate) fn ends_within(&mut self, patience: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + patience;
        loop {
            let ended = self.ended();
            if ended.is_some() || Instant::now() > until {
                return ended;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks it to leave.
    pub(crate) fn terminate(&self) {
        // Fails only if it has ended.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
    }

    /// What it counts.
    pub(crate) fn metrics(&self) -> Result<Metrics> {
        match socket::get(self.admin, "/metrics", ANSWER) {
            Ok((200, body)) => Ok(Metrics(String::from_utf8_lossy(&body).into_owned())),
            Ok((status, _)) => failed(format!("/metrics is answered by {status}")),
            Err(error) => failed(format!("/metrics is not answered: {error}")),
        }
    }

    /// Whether it says that it is fit for traffic; else what it says.
    pub(crate) fn readiness(&self) -> std::result::Result<(), String> {
        match socket::get(self.admin, "/readyz", ANSWER) {
            Ok((200, _)) => Ok(()),
            Ok((status, body)) => Err(format!(
                "/readyz says {status} {}",
                String::from_utf8_lossy(&body)
            )),
            Err(error) => Err(format!("/readyz is not answered: {error}")),
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What a server counts, in the text format of `/metrics`.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(String);

impl Metrics {
    /// The sum of a metric over all its series; nothing counted yet is 0.
    pub(crate) fn sum(&self, name: &str) -> u64 {
        self.sum_of(name, "")
    }

    /// The same over series whose labels contain `label`.
    pub(crate) fn sum_of(&self, name: &str, label: &str) -> u64 {
        inspect::sum(&self.0, name, label).unwrap_or(0)
    }
}

/// A new folder for one server's configuration.
fn folder() -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Relaxed);
    let name = format!("fanfare-abuse-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    fs::create_dir_all(&folder).doing(format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// The command that starts the server. A shell lowers its limit of files for good, where that is wanted.
fn command(setup: &Setup<'_>, config: &Path) -> Command {
    let mut command = match setup.descriptors {
        None => Command::new(setup.program),
        Some(files) => {
            let mut shell = Command::new("sh");
            shell
                .arg("-c")
                .arg(format!("ulimit -n {files}; exec \"$0\" \"$@\""))
                .arg(setup.program);
            shell
        }
    };
    command.arg("serve").arg("--config").arg(config);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// The configuration: two apps that are alike, with everything on that can be attacked.
fn configuration(
    address: SocketAddr,
    admin: SocketAddr,
    limits: &[(&'static str, &'static str)],
) -> String {
    let mut text = format!(
        "listen = \"{address}\"\nadmin_listen = \"{admin}\"\nlog = \"info\"\n\
         drain_delay = \"0s\"\ndrain_timeout = \"{}s\"\n\n[limits]\n",
        DRAIN.as_secs()
    );
    for (name, value) in limits {
        let _ = writeln!(text, "{name} = {value}");
    }
    for app in [ATTACKED, OTHER] {
        let key = key(app);
        let _ = write!(
            text,
            r#"
[apps.{app}]
client_auth = "optional"
index = ["auth.tenant", "profile.tags"]
default_can = {{ join = ["*"], send = ["*"], members = ["*"], broadcast = true, publish = true, update = true }}

[[apps.{app}.keys]]
name = "all"
key = "{key}"

[[apps.{app}.tokens]]
alg = "HS256"
secret = "{SECRET}"

[[apps.{app}.channels]]
pattern = "kept-*"
history_size = 1000

[[apps.{app}.channels]]
pattern = "brief-*"
history_size = 10
history_ttl = "1s"

[[apps.{app}.channels]]
pattern = "watched-*"
presence = "all"

[apps.{app}.user_events]
size = 100
"#
        );
    }
    // Clients of a path are those of one app.
    for protocol in ["socketio", "mesa", "zexcore"] {
        let _ = writeln!(text, "\n[apps.{ATTACKED}.protocols.{protocol}]");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_table_of_the_configuration_is_there_twice() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let text = configuration(address, address, &[]);
        let mut tables: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with('[') && !line.starts_with("[["))
            .collect();
        let all = tables.len();
        tables.sort_unstable();
        tables.dedup();
        assert_eq!(tables.len(), all, "{text}");
    }

    #[test]
    fn a_metric_that_has_counted_nothing_is_zero() {
        let metrics = Metrics("a{app=\"x\"} 2\na{app=\"y\"} 3\n".to_owned());
        assert_eq!((metrics.sum("a"), metrics.sum("b")), (5, 0));
        assert_eq!(metrics.sum_of("a", "app=\"y\""), 3);
    }
}
