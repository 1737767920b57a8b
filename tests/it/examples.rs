//! The backend and the page of docs/authentication.md run as they stand there, on real Node and in a real browser.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command},
    thread,
};

use serde_json::json;

use crate::{page::browser::Browser, support::*};

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
        // A free port now may be taken a moment later, but not by these tests' own servers, which take any.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);

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
    let script = format!(
        "document.cookie = 'session=ann';
         const events = [];
         let fetched = 0;
         let ended;
         async function fetchToken() {{
           const response = await fetch('http://{}/token', {{ credentials: 'include' }});
           fetched += 1;
           return response.text();
         }}
         connect('ws://{}', fetchToken, (event) => events.push(event)).then((closed) => ended = closed);",
        backend.address,
        server.address()
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
    page.wait_for("events.length === 1");
    assert_eq!(page.eval("events[0].data.text"), "Hello");

    // What a token that ends does, and what an operator does.
    let close = |code: u16| {
        let body = json!({"to": {"users": ["ann"]}, "code": code});
        server.post_as(KEY, "/v1/disconnect", &body)
    };
    assert_eq!(close(4005).json()["disconnected"], 1);
    page.wait_for("fetched === 2");
    eventually("the page comes back", online);
    assert_eq!(close(4010).json()["disconnected"], 1);
    page.wait_for("ended?.code === 4010");
}

#[test]
fn the_guide_shows_the_examples_as_they_are() {
    let guide = std::fs::read_to_string(examples().with_file_name("authentication.md")).unwrap();
    for name in ["backend.mjs", "page.js"] {
        assert!(
            guide.contains(&format!("```js\n{}```\n", example(name))),
            "{name} is not in docs/authentication.md as it is"
        );
    }
}
