//! A headless Chromium of this test's own, driven over its `DevTools` protocol.
#![allow(
    unreachable_pub,
    reason = "a test file is a crate, and this is its module"
)]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::support::{Client, eventually};

/// Names under which systems install it.
const PROGRAMS: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];

/// One browser at a time: several starve each other on small machines.
static TURN: Mutex<u32> = Mutex::new(0);

/// A browser; killed when dropped, and its profile removed.
pub struct Browser {
    child: Child,
    profile: PathBuf,
    address: SocketAddr,
    path: String,
    _turn: MutexGuard<'static, u32>,
}

impl Browser {
    pub fn start() -> Self {
        let mut turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        *turn += 1;
        let name = format!("chromium-{}-{turn}", std::process::id());
        let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let command = |program: &str| {
            Command::new(program)
                .args([
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-quic",
                    "--no-first-run",
                ])
                .args([
                    "--disable-background-networking",
                    "--disable-component-update",
                    "--disable-sync",
                ])
                .args(["--hide-scrollbars", "--remote-debugging-port=0"])
                .arg(format!("--user-data-dir={}", profile.display()))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .ok()
        };
        let child = PROGRAMS.iter().find_map(|program| command(program)).unwrap_or_else(|| {
            panic!(
                "the test of the page needs a browser: install Chromium (Debian: apt-get install chromium)"
            )
        });
        // Chromium writes the port that it took, and the path of its socket.
        let file = profile.join("DevToolsActivePort");
        let read = || {
            let text = std::fs::read_to_string(&file).ok()?;
            let (port, path) = text.trim_end().split_once('\n')?;
            Some((
                SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?)),
                path.to_owned(),
            ))
        };
        eventually("the browser listens", || read().is_some());
        let (address, path) = read().unwrap();
        Self {
            child,
            profile,
            address,
            path,
            _turn: turn,
        }
    }

    /// Opens `url`.
    pub fn open(&self, url: &str) -> Page {
        let target = self
            .debug(&self.path)
            .call("Target.createTarget", &json!({ "url": "about:blank" }));
        let mut page = self.debug(&format!(
            "/devtools/page/{}",
            target["targetId"].as_str().unwrap()
        ));
        for domain in ["Runtime", "Log", "Page"] {
            page.call(&format!("{domain}.enable"), &json!({}));
        }
        page.call("Page.navigate", &json!({ "url": url }));
        page.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'");
        page
    }

    fn debug(&self, path: &str) -> Page {
        let client = Client::open(self.address, path, &[]).expect("the browser takes a debugger");
        Page {
            client,
            calls: 0,
            complaints: Vec::new(),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its own children write there until they notice.
        let gone = || std::fs::remove_dir_all(&self.profile).is_ok();
        let _ = (0..100).any(|_| {
            gone() || {
                std::thread::sleep(Duration::from_millis(20));
                false
            }
        });
    }
}

/// A tab, or the browser itself.
pub struct Page {
    client: Client,
    calls: u64,
    /// What the page's console said that is an error or a warning.
    pub complaints: Vec<Value>,
}

impl Page {
    /// Calls a method of the `DevTools` protocol.
    pub fn call(&mut self, method: &str, params: &Value) -> Value {
        self.calls += 1;
        self.client
            .send(&json!({ "id": self.calls, "method": method, "params": params }));
        loop {
            let message = self.client.json();
            if message["id"] == self.calls {
                assert!(message["error"].is_null(), "{method} {params}: {message}");
                return message["result"].clone();
            }
            self.note(message);
        }
    }

    fn note(&mut self, message: Value) {
        let params = &message["params"];
        let is_complaint = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => {
                params["type"] == "error" || params["type"] == "warning"
            }
            Some("Log.entryAdded") => {
                params["entry"]["level"] == "error" || params["entry"]["level"] == "warning"
            }
            _ => false,
        };
        if is_complaint {
            self.complaints.push(message);
        }
    }

    /// The value of a JavaScript expression in the page.
    pub fn eval(&mut self, expression: &str) -> Value {
        let params =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", &params);
        assert!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].clone()
    }

    /// Waits until `expression` is true in the page.
    pub fn wait_for(&mut self, expression: &str) {
        eventually(expression, || self.eval(expression) == true);
    }

    /// Writes `value` into a field, as a person would.
    pub fn fill(&mut self, selector: &str, value: &str) {
        let (selector, value) = (json!(selector), json!(value));
        self.eval(&format!(
            "document.querySelector({selector}).focus(); document.execCommand('selectAll')"
        ));
        if value == "" {
            self.eval("document.execCommand('delete')");
        } else {
            self.call("Input.insertText", &json!({ "text": value }));
        }
    }

    pub fn click(&mut self, selector: &str) {
        self.eval(&format!(
            "document.querySelector({}).click()",
            json!(selector)
        ));
    }

    /// The visible text of an element.
    pub fn text(&mut self, selector: &str) -> String {
        let text = self.eval(&format!(
            "document.querySelector({})?.innerText ?? ''",
            json!(selector)
        ));
        text.as_str().unwrap().to_owned()
    }

    /// Shows the page in `scheme` at `width`.
    pub fn look(&mut self, scheme: &str, width: u32) {
        let features = json!([
            { "name": "prefers-color-scheme", "value": scheme },
            { "name": "prefers-reduced-motion", "value": "reduce" },
        ]);
        self.call(
            "Emulation.setEmulatedMedia",
            &json!({ "features": features }),
        );
        let metrics =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// Writes a picture of the whole page to `name` in the tests' folder under `target`.
    pub fn photograph(&mut self, name: &str) {
        let answer = self.call(
            "Page.captureScreenshot",
            &json!({ "captureBeyondViewport": true }),
        );
        let picture = BASE64
            .decode(answer["data"].as_str().unwrap().as_bytes())
            .unwrap();
        std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name), picture).unwrap();
    }
}
