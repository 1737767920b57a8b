//! A load balancer of this test's own, with the configuration that deploy/ has.
#![allow(
    unreachable_pub,
    reason = "a test file is a crate, and this is its module"
)]

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    redis::{Folder, free_port},
    support::{eventually, request},
};

/// A running load balancer; ended when dropped.
pub struct Balancer {
    child: Child,
    folder: Folder,
    pub address: SocketAddr,
}

fn deployed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What is replaced must be there, or the test would run something else than what is deployed.
fn replaced(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "the configuration has no {old:?}");
    text.replace(old, new)
}

fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()))
}

/// Runs `name`, which systems keep where not everyone's `PATH` leads.
fn spawn(name: &str, package: &str, set_up: impl Fn(&mut Command)) -> Child {
    let programs = [
        name.to_owned(),
        format!("/usr/sbin/{name}"),
        format!("/usr/local/sbin/{name}"),
    ];
    let child = programs.iter().find_map(|program| {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        set_up(&mut command);
        command.spawn().ok()
    });
    child.unwrap_or_else(|| {
        panic!(
            "the test of load balancers needs {name} (Debian: apt-get install {package}, or make setup-test)"
        )
    })
}

impl Balancer {
    /// `HAProxy` in front of `nodes`, three of them.
    pub fn haproxy(nodes: &[SocketAddr]) -> Self {
        let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        Self::haproxy_with(&deployed("haproxy.cfg"), &nodes)
    }

    /// The same in front of names and ports, which the server of names at `names` knows.
    pub fn haproxy_by_names(nodes: &[String], names: SocketAddr) -> Self {
        let asks = format!("nameserver test {names}");
        Self::haproxy_with(
            &replaced(&deployed("haproxy.cfg"), "parse-resolv-conf", &asks),
            nodes,
        )
    }

    fn haproxy_with(config: &str, nodes: &[String]) -> Self {
        let (folder, address) = (Folder::new("haproxy").unwrap(), free_address());
        // As many as fit without being root.
        let config = replaced(config, "maxconn 100000", "maxconn 2000");
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, config).unwrap();
        let log = File::create(folder.path().join("haproxy.log")).unwrap();
        let child = spawn("haproxy", "haproxy", |command| {
            command
                .stdout(log.try_clone().unwrap())
                .stderr(log.try_clone().unwrap());
            command
                .arg("-db")
                .arg("-f")
                .arg(&file)
                .env("BIND", address.to_string());
            for (n, node) in nodes.iter().enumerate() {
                command.env(format!("NODE_{}", n + 1), node);
            }
        });
        Self {
            child,
            folder,
            address,
        }
        .ready()
    }

    /// nginx in front of `nodes`, three of them.
    pub fn nginx(nodes: &[SocketAddr]) -> Self {
        let (folder, address) = (Folder::new("nginx").unwrap(), free_address());
        let inside = |name: &str| folder.path().join(name).display().to_string();
        let mut config = deployed("nginx.conf");
        for (n, node) in nodes.iter().enumerate() {
            config = replaced(&config, &format!("node-{}:7070", n + 1), &node.to_string());
        }
        config = replaced(&config, "listen 80;", &format!("listen {address};"));
        // As many as fit without being root, and on a machine with many cores.
        config = replaced(&config, "worker_processes auto;", "worker_processes 2;");
        config = replaced(&config, "worker_rlimit_nofile 262144;", "");
        config = replaced(
            &config,
            "worker_connections 65536;",
            "worker_connections 512;",
        );
        config = replaced(&config, "/var/log/nginx/access.log", &inside("access.log"));
        let temporary = ["client_body", "proxy", "fastcgi", "scgi", "uwsgi"];
        let temporary = temporary
            .map(|kind| format!("    {kind}_temp_path {};\n", inside(kind)))
            .concat();
        config = replaced(&config, "http {\n", &format!("http {{\n{temporary}"));
        let file = folder.path().join("nginx.conf");
        fs::write(&file, config).unwrap();
        let globals = format!("daemon off; pid {};", inside("pid"));
        let child = spawn("nginx", "nginx-light", |command| {
            command
                .stdout(Stdio::null())
                .arg("-p")
                .arg(folder.path())
                .arg("-c")
                .arg(&file);
            command.args(["-e", &inside("error.log"), "-g", &globals]);
        });
        Self {
            child,
            folder,
            address,
        }
        .ready()
    }

    fn ready(mut self) -> Self {
        eventually("the load balancer serves", || {
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "it ended at once: {}",
                self.log()
            );
            std::net::TcpStream::connect(self.address).is_ok()
                && request(self.address, "GET", "/healthz", &[], None).status == 200
        });
        self
    }

    /// Every line that it has logged, about requests and errors.
    pub fn log(&self) -> String {
        let files = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|file| file.unwrap().path());
        let logs = files.filter(|file| file.extension().is_some_and(|kind| kind == "log"));
        logs.map(|file| String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned())
            .collect()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // Killed, nginx would leave its workers behind.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}
