//! The programs of docs/guides/authentication.md, docs/reference/http.md and docs/reference/protocol.md, and the page of
//! README.md, run as they stand there: on real Node and Python, and in a real browser.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

use serde_json::json;

use crate::{page::browser::Browser, port::free_port, support::*};

fn examples() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "docs", "examples"]
        .iter()
        .collect()
}

fn example(name: &str) -> String {
    std::fs::read_to_string(examples().join(name)).unwrap()
}

/// The example backend on Node; killed when dropped.
struct Backend {
    child: Child,
    address: SocketAddr,
}

impl Backend {
    fn start(fanfare: &TestServer, page: &str) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
        let child = Command::new("node")
            .arg(examples().join("backend.mjs"))
            .env("FANFARE_URL", format!("http://{}", fanfare.address()))
            .env("FANFARE_API_KEY", KEY)
            .env("FANFARE_TOKEN_SECRET", SECRET)
            .env("PAGE_ORIGIN", page)
            .env("PORT", address.port().to_string())
            .spawn()
            .expect("node runs: make setup-test installs it");
        let backend = Self { child, address };
        eventually("the backend listens", || {
            TcpStream::connect(address).is_ok()
        });
        backend
    }

    fn ask(&self, method: &str, path: &str, cookie: &str) -> Answer {
        request(self.address, method, path, &[("Cookie", cookie)], None)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves `page` to every request, until the process ends.
fn serve(listener: TcpListener, page: String) {
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let mut lines = BufReader::new(&socket).lines();
            while lines
                .next()
                .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
            {}
            let mut answer = String::from("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n");
            let _ = write!(
                answer,
                "Content-Length: {}\r\nConnection: close\r\n\r\n{page}",
                page.len()
            );
            // The browser may have gone.
            let _ = (&socket).write_all(answer.as_bytes());
        }
    });
}

#[test]
fn the_backend_gives_tokens_to_those_who_are_signed_in_and_reaches_them() {
    let server = keyed_server(|_| {});
    let backend = Backend::start(&server, "http://localhost:8090");
    assert_eq!(backend.ask("GET", "/token", "").status, 401);

    let token = backend.ask("GET", "/token", "session=ann");
    assert_eq!(token.status, 200, "{token:?}");
    let mut ann = server.connect(&format!("token={}", token.text));
    let user = server.get_as(KEY, "/v1/users/ann").json();
    assert_eq!(user["connections"], 1, "{user}");

    let notified = backend.ask("POST", "/notify", "session=bob");
    assert_eq!((notified.status, &*notified.text), (200, "1\n"));
    assert_eq!(
        ann.json(),
        json!({"event": "alert", "data": {"text": "Hello"}})
    );
}

#[test]
fn the_page_gets_events_comes_back_with_a_new_token_and_stops_where_it_should() {
    let server = keyed_server(|_| {});
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let backend = Backend::start(&server, &origin);
    let start = example("start.js")
        .replace("localhost:8091", &backend.address.to_string())
        .replace("localhost:7070", &server.address().to_string());
    let script = format!(
        "document.cookie = 'session=ann';
         const printed = [];
         console.log = (...line) => printed.push(line);
         let fetched = 0;
         const really = fetch;
         window.fetch = (...args) => {{ fetched += 1; return really(...args); }};
         {start}"
    );
    serve(
        listener,
        format!(
            "<!doctype html><script>{}{script}</script>",
            example("page.js")
        ),
    );

    let browser = Browser::start();
    let mut page = browser.open(&origin);
    let online = || {
        let user = server.get_as(KEY, "/v1/users/ann").json();
        user["connections"] == 1
    };
    eventually("the page is connected", online);
    assert_eq!(backend.ask("POST", "/notify", "session=bob").text, "1\n");
    page.wait_for("printed.length === 1");
    assert_eq!(page.eval("printed[0][1].text"), "Hello");

    // What a token that ends does, and what an operator does.
    let close = |code: u16| {
        let body = json!({"to": {"users": ["ann"]}, "code": code});
        server.post_as(KEY, "/v1/disconnect", &body)
    };
    assert_eq!(close(4005).json()["disconnected"], 1);
    page.wait_for("fetched === 2");
    eventually("the page comes back", online);
    assert_eq!(close(4010).json()["disconnected"], 1);
    page.wait_for("printed.some(([word, code]) => word === 'closed' && code === 4010)");
}

#[test]
fn the_guide_shows_the_examples_as_they_are() {
    let guide =
        std::fs::read_to_string(examples().with_file_name("guides/authentication.md")).unwrap();
    for name in ["backend.mjs", "page.js", "start.js"] {
        assert!(
            guide.contains(&format!("```js\n{}```\n", example(name))),
            "{name} is not in docs/guides/authentication.md as it is"
        );
    }
}

/// The first block of `language` in a page.
fn shown(page: &str, language: &str) -> String {
    let path = [env!("CARGO_MANIFEST_DIR"), page]
        .iter()
        .collect::<PathBuf>();
    let text = std::fs::read_to_string(path).unwrap();
    let (_, block) = text.split_once(&format!("```{language}\n")).unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

#[test]
fn the_short_pages_print_what_happens_in_their_channel() {
    let browser = Browser::start();
    for page in ["README.md", "docs/reference/protocol.md"] {
        let server = server();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let script = shown(page, "js").replace("127.0.0.1:7070", &server.address().to_string());
        let print = "const printed = []; console.log = (...line) => printed.push(line.join(' '));";
        serve(
            listener,
            format!("<!doctype html><script>{print}{script}</script>"),
        );
        let mut tab = browser.open(&origin);
        eventually("the page is in its channel", || {
            server.get("/v1/channels/room-1").json()["connections"] == 1
        });
        let event = json!({"channel": "room-1", "event": "news", "data": "Hello"});
        assert_eq!(server.call("/v1/send", &event)["matched"], 1);
        tab.wait_for("printed.some((line) => line.endsWith('news Hello'))");
    }
}

#[test]
fn the_module_for_an_edge_runtime_sends_its_event() {
    let server = keyed_server(|_| {});
    let token = signed(&json!({"sub": "ann", "tenant": "acme", "roles": ["admin"]}));
    let mut ann = server.connect(&format!("token={token}"));
    let driver = "const { default: worker } = await import(process.argv[1]);
        const request = new Request('http://localhost/?tenant=acme', { method: 'POST', body: '{\"id\":7}' });
        const response = await worker.fetch(request, process.env);
        console.log(response.status, (await response.json()).matched);";
    let done = Command::new("node")
        .args(["--input-type=module", "--eval", driver])
        .arg(examples().join("function.mjs"))
        .env("FANFARE_URL", format!("http://{}", server.address()))
        .env("FANFARE_API_KEY", KEY)
        .output()
        .expect("node runs: make setup-test installs it");
    assert_eq!(String::from_utf8_lossy(&done.stdout), "200 1\n", "{done:?}");
    assert_eq!(ann.json()["data"], json!({"id": 7}));
}

#[test]
fn the_function_in_python_sends_its_event_and_says_why_it_was_refused() {
    let server = keyed_server(|_| {});
    let token = signed(&json!({"sub": "ann", "tenant": "acme", "roles": ["admin"]}));
    let mut ann = server.connect(&format!("token={token}"));
    let driver = "import runpy, sys
invoice_paid = runpy.run_path(sys.argv[1])['invoice_paid']
print(invoice_paid('acme', {'id': 7})['matched'])";
    let run = |key: &str| {
        Command::new("python3")
            .args(["-c", driver])
            .arg(examples().join("function.py"))
            .env("FANFARE_URL", format!("http://{}", server.address()))
            .env("FANFARE_API_KEY", key)
            .output()
            .expect("python3 runs: make setup-test installs it")
    };

    let done = run(KEY);
    assert_eq!(String::from_utf8_lossy(&done.stdout), "1\n", "{done:?}");
    assert_eq!(ann.json()["data"], json!({"id": 7}));

    let refused = run("a key that the server does not know");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("RuntimeError: unauthorized: "), "{said}");
}

#[test]
fn the_client_in_python_prints_what_it_gets() {
    let server = server();
    let mut child = Command::new("python3")
        .arg(examples().join("client.py"))
        .env("PYTHONPATH", examples().join("python_modules"))
        .env("FANFARE_URL", format!("http://{}", server.address()))
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs: make setup-test installs it");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().expect("it prints a line").unwrap();
    assert_eq!(next(), "hello hi");
    let event = json!({"channel": "room-1", "event": "news", "data": "Hello"});
    assert_eq!(server.call("/v1/send", &event)["matched"], 1);
    assert_eq!(next(), "news Hello");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_reference_shows_the_examples_as_they_are() {
    let folder = examples().with_file_name("reference");
    for (page, name, language) in [
        ("http.md", "function.mjs", "js"),
        ("http.md", "function.py", "python"),
        ("protocol.md", "client.py", "python"),
    ] {
        let page = std::fs::read_to_string(folder.join(page)).unwrap();
        assert!(
            page.contains(&format!("```{language}\n{}```\n", example(name))),
            "{name} is not in its page as it is"
        );
    }
}
