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

use crate::support::{Client, PATIENCE, eventually};

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
        // A long script, such as axe-core's, takes a while on a busy machine.
        client.socket.set_read_timeout(Some(5 * PATIENCE)).unwrap();
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
        let called = self.try_call(method, params);
        called.unwrap_or_else(|error| panic!("{method} {params}: {error}"))
    }

    fn try_call(&mut self, method: &str, params: &Value) -> Result<Value, Value> {
        self.calls += 1;
        self.client
            .send(&json!({ "id": self.calls, "method": method, "params": params }));
        loop {
            let mut message = self.client.json();
            if message["id"] == self.calls {
                let error = message["error"].take();
                return if error.is_null() {
                    Ok(message["result"].take())
                } else {
                    Err(error)
                };
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
        let evaluated = self.try_eval(expression);
        evaluated.unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    fn try_eval(&mut self, expression: &str) -> Result<Value, Value> {
        let params =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.try_call("Runtime.evaluate", &params)?;
        assert!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer}"
        );
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until `expression` is true in the page, which may take the place of another one meanwhile.
    pub fn wait_for(&mut self, expression: &str) {
        eventually(expression, || {
            self.try_eval(expression).is_ok_and(|value| value == true)
        });
    }

    /// Writes `value` into a field, as a person would.
    pub fn fill(&mut self, selector: &str, value: &str) {
        let (selector, value) = (json!(selector), json!(value));
        let focused = self.eval(&format!(
            "(() => {{ const field = document.querySelector({selector}); field.focus(); \
             document.execCommand('selectAll'); return document.activeElement === field; }})()"
        ));
        assert_eq!(
            focused, true,
            "{selector} cannot have the focus: is it shown?"
        );
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

    /// Presses a button of a form of the page, and waits for what it does.
    pub fn submit(&mut self, form: &str, button: &str) {
        self.click(button);
        self.wait_for(&format!(
            "document.querySelector({}).ariaBusy !== 'true'",
            json!(form)
        ));
    }

    /// Presses and releases a key, such as `Tab`, `Enter`, `Escape` or a space, on what has the focus.
    pub fn press(&mut self, key: &str) {
        self.press_with(key, 0);
    }

    /// The same with Ctrl held.
    pub fn press_with_ctrl(&mut self, key: &str) {
        self.press_with(key, 2);
    }

    fn press_with(&mut self, key: &str, modifiers: u8) {
        let (code, number, text) = match key {
            "Tab" => ("Tab", 9, ""),
            "Enter" => ("Enter", 13, "\r"),
            "Escape" => ("Escape", 27, ""),
            " " => ("Space", 32, " "),
            other => panic!("{other} is not a key of these tests"),
        };
        let mut event = json!({
            "type": "keyDown", "key": key, "code": code, "windowsVirtualKeyCode": number,
            "modifiers": modifiers,
        });
        if !text.is_empty() && modifiers == 0 {
            event["text"] = json!(text);
        }
        self.call("Input.dispatchKeyEvent", &event);

        event["type"] = json!("keyUp");
        event.as_object_mut().unwrap().remove("text");
        self.call("Input.dispatchKeyEvent", &event);
    }

    /// Writes `text` into what has the focus, as a keyboard would.
    pub fn write(&mut self, text: &str) {
        self.call("Input.insertText", &json!({ "text": text }));
    }

    /// The visible text of an element.
    pub fn text(&mut self, selector: &str) -> String {
        let text = self.eval(&format!(
            "document.querySelector({})?.innerText ?? ''",
            json!(selector)
        ));
        text.as_str().unwrap().to_owned()
    }

    /// Shows the page in `scheme` at `width`, as high as a phone or a laptop.
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
            json!({ "width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.call("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// Whether the page fits a screen of `width` pixels, of which [`Page::look`] was told.
    ///
    /// A phone would zoom out to show what is wider, so the window's own width says nothing.
    pub fn fits(&mut self, width: u32) -> bool {
        let shown = self.eval("document.documentElement.scrollWidth");
        shown.as_u64().unwrap() <= u64::from(width)
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
