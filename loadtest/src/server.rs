//! The server under test: started here, or running already.

use std::{
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    cli::Common,
    driver::{self, Api, Driver},
    error::{Doing, Result, failed},
    process::Process,
    redis::free_port,
};

/// How long a server may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that can be reached. One that was started here is stopped when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where it listens, and how it is spoken to.
    pub(crate) api: Api,
    /// Its process, if known.
    pub(crate) process: Option<Process>,
    child: Option<Child>,
}

impl Server {
    /// Starts or attaches to what the command line says.
    pub(crate) fn open(common: &Common) -> Result<Self> {
        let target = &common.target;
        let driver = Driver::new(target)?;
        if let Some(address) = target.url {
            return Ok(Self {
                api: Api { address, driver },
                process: target.pid.map(Process),
                child: None,
            });
        }
        let address = free_address()?;
        Self::start(driver::command(target, address)?, Api { address, driver })
    }

    /// Starts the harness's own bare server.
    pub(crate) fn floor() -> Result<Self> {
        let address = free_address()?;
        Self::start(
            driver::floor(address)?,
            Api {
                address,
                driver: Driver::floor(),
            },
        )
    }

    fn start(mut command: Command, api: Api) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let address = api.address;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .doing(format!("cannot start {name}"))?;
        let process = Some(Process(child.id()));
        let mut server = Self {
            api,
            process,
            child: Some(child),
        };
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

fn free_address() -> Result<SocketAddr> {
    let port = free_port().doing("no port is free")?;
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
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
