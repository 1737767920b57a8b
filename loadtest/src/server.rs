//! The server under test: started here, or running already.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    cli::Common,
    error::{Doing, Result, failed},
    fanfare::Api,
    process::Process,
};

/// How long a server may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server that can be reached. One that was started here is stopped when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where it listens, and by which key.
    pub(crate) api: Api,
    /// Its process, if known.
    pub(crate) process: Option<Process>,
    child: Option<Child>,
}

impl Server {
    /// Starts or attaches to what the command line says.
    pub(crate) fn open(common: &Common) -> Result<Self> {
        if common.floor {
            return Self::floor();
        }
        if let Some(program) = &common.server_binary {
            let mut command = Command::new(program);
            let secret = ["--token-secret", &common.token_secret];
            let limits = ["--limit", "accepts_per_second=1000000"];
            // By its variable, so that a --server-arg may say otherwise.
            command.env("FANFARE_LOG", "warn");
            command.arg("serve").args(secret).args(limits).args(&common.server_arg);
            if let Some(key) = &common.api_key {
                command.args(["--api-key", key]);
            }
            return Self::start(command, common.api_key.clone());
        }
        let Some(address) = common.url else {
            return failed("name a server: --server-binary PATH, --url ADDRESS:PORT, or --floor");
        };
        let api = Api { address, key: common.api_key.clone() };
        Ok(Self { api, process: common.pid.map(Process), child: None })
    }

    /// Starts the harness's own bare server.
    pub(crate) fn floor() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe().doing("cannot find this program")?);
        command.arg("floor");
        Self::start(command, None)
    }

    fn start(mut command: Command, key: Option<String>) -> Result<Self> {
        let free = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
        let address: SocketAddr = free.doing("no port is free")?;
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .args(["--listen", &address.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .doing(format!("cannot start {name}"))?;
        let process = Some(Process(child.id()));
        let mut server = Self { api: Api { address, key }, process, child: Some(child) };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            if let Some(child) = &mut server.child
                && let Ok(Some(status)) = child.try_wait()
            {
                return failed(format!("{name} ended at once: {status}"));
            }
            if Instant::now() > until {
                return failed(format!("{name} does not listen on {address}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Whether it was started here, so that another can be.
    pub(crate) fn is_ours(&self) -> bool {
        self.child.is_some()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        if let Some(pid) = rustix::process::Pid::from_raw(child.id() as i32) {
            // Fails only if it has ended.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}
