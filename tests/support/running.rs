//! The program under test: run to its end, or kept running and listened to.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file is a crate, and uses its part of this module"
)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, pem::PemObject},
    },
};

use super::support::{PATIENCE, eventually};

const PROGRAM: &str = env!("CARGO_BIN_EXE_fanfare");

/// What a run left behind.
#[derive(Debug)]
pub struct Finished {
    pub code: i32,
    pub out: String,
    pub error: String,
}

impl Finished {
    /// The output of a run that ended with `code` and was silent on stderr.
    pub fn expect(self, code: i32) -> String {
        assert!(self.code == code && self.error.is_empty(), "{self:?}");
        self.out
    }

    /// Expects a server that ended as it was told to.
    pub fn expect_end(self) {
        assert_eq!(self.code, 0, "{self:?}");
    }

    /// The errors of a run that ended with `code` and put out nothing.
    pub fn refused(self, code: i32) -> String {
        assert!(self.code == code && self.out.is_empty(), "{self:?}");
        self.error
    }
}

/// Runs the program to its end, with no variable of the test's own.
pub fn run(words: &[&str]) -> Finished {
    run_with(words, &[], "")
}

/// The same, with `variables`, and with `input` on stdin.
pub fn run_with(words: &[&str], variables: &[(&str, &str)], input: &str) -> Finished {
    let mut running = Running::start(words, variables, Stdio::piped());
    // A program that does not read may have ended already.
    let _ = running
        .child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes());
    running.finish()
}

/// A program that runs; killed when dropped.
pub struct Running {
    child: Child,
    out: Option<mpsc::Receiver<String>>,
    errors: mpsc::Receiver<String>,
    /// What stderr said so far.
    said: String,
}

impl Running {
    pub fn start(words: &[&str], variables: &[(&str, &str)], stdin: Stdio) -> Self {
        let mut command = Command::new(PROGRAM);
        command
            .args(words)
            .env_clear()
            .envs(variables.iter().copied());
        Self::spawn(command, stdin)
    }

    /// Runs a line of shell in which `fanfare` is the program under test.
    pub fn shell(line: &str) -> Self {
        let mut command = Command::new("sh");
        let folder = Path::new(PROGRAM).parent().unwrap().display();
        command
            .arg("-c")
            .arg(format!("PATH={folder}:$PATH; {line}"));
        command
            .env_remove("FANFARE_URL")
            .env_remove("FANFARE_TOKEN");
        Self::spawn(command, Stdio::null())
    }

    fn spawn(mut command: Command, stdin: Stdio) -> Self {
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = Some(lines(child.stdout.take().unwrap()));
        let errors = lines(child.stderr.take().unwrap());
        Self {
            child,
            out,
            errors,
            said: String::new(),
        }
    }

    /// The next line of stdout.
    pub fn line(&mut self) -> String {
        let line = self.out.as_ref().unwrap().recv_timeout(PATIENCE);
        line.unwrap_or_else(|error| panic!("no line: {error}; {}", self.said()))
    }

    /// Reads stderr up to a line that contains `text`.
    pub fn expect_error(&mut self, text: &str) -> String {
        loop {
            match self.errors.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.said += &line;
                    self.said.push('\n');
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => panic!("stderr never said \"{text}\" ({error}): {}", self.said),
            }
        }
    }

    fn said(&mut self) -> &str {
        self.said
            .extend(self.errors.try_iter().map(|line| line + "\n"));
        &self.said
    }

    /// The id of a listener that has said it is connected.
    pub fn connection(&self) -> String {
        let (_, id) = self.said.rsplit_once("(connection ").unwrap();
        id[..id.find(')').unwrap()].to_owned()
    }

    /// Closes the reading end of stdout.
    pub fn close_output(&mut self) {
        self.out = None;
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Finished {
        let since = Instant::now();
        let mut out = String::new();
        let text = |lines: &mpsc::Receiver<String>, into: &mut String| {
            while let Ok(line) = lines.recv_timeout(PATIENCE.saturating_sub(since.elapsed())) {
                *into += &line;
                into.push('\n');
            }
        };
        if let Some(lines) = &self.out {
            text(lines, &mut out);
        }
        text(&self.errors, &mut self.said);
        eventually("the program ends", || self.has_ended());
        let code = self.child.wait().unwrap().code().expect("not killed");
        Finished {
            code,
            out,
            error: std::mem::take(&mut self.said),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a stream, read by a thread that ends with it, or closes it when nobody wants more.
fn lines(stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(0);
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// `fanfare serve` on a free port.
pub struct Served {
    pub running: Running,
    pub address: SocketAddr,
    /// What it printed.
    pub welcome: String,
    url: String,
}

impl Served {
    pub fn start(words: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", words)
    }

    pub fn start_at(address: &str, words: &[&str]) -> Self {
        // Only what is wrong, so that nobody has to read along.
        Self::start_with(&[&["--listen", address, "--log", "warn"], words].concat())
    }

    /// The same with `words` that say all.
    pub fn start_with(words: &[&str]) -> Self {
        let words = [&["serve", "--shards", "2"], words].concat();
        Self::of(Running::start(&words, &[], Stdio::null()))
    }

    /// A server that was just started.
    pub fn of(mut running: Running) -> Self {
        let mut welcome = running.line();
        let address = welcome.split_once("http://").unwrap().1;
        let address: SocketAddr = address.split(' ').next().unwrap().parse().unwrap();
        if welcome.contains("development") {
            while !welcome.contains("curl") {
                welcome.push('\n');
                welcome += &running.line();
            }
        }
        let url = format!("--url=http://{address}");
        Self {
            running,
            address,
            welcome,
            url,
        }
    }

    /// A client command for this server.
    pub fn words<'w>(&'w self, words: &[&'w str]) -> Vec<&'w str> {
        [words, &[&self.url]].concat()
    }

    pub fn run(&self, words: &[&str]) -> Finished {
        run(&self.words(words))
    }

    /// `fanfare listen`, connected.
    pub fn listen(&self, words: &[&str]) -> Running {
        let words = self.words(&[&["listen"], words].concat());
        let mut running = Running::start(&words, &[], Stdio::null());
        running.expect_error("connected");
        running
    }

    pub fn terminate(self) -> Finished {
        self.running.signal(Signal::TERM);
        self.running.finish()
    }
}

/// Ends TLS in front of `server`, as a load balancer does. Gives the port, and whom to trust.
pub fn terminate_tls(server: SocketAddr) -> (u16, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(config));
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut client) = acceptor.accept(socket).await else {
                        return;
                    };
                    let mut server = tokio::net::TcpStream::connect(server).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
    });
    (port, made.cert.pem())
}
