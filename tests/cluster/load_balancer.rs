//! Three nodes behind one address, with the load balancers' configurations as they are deployed.

mod balancer;
mod names;
mod outage;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::running::Served;
use crate::support::*;
use balancer::Balancer;
use fanfare::limits::{Limits, REQUEST_HEAD_BYTES};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

const CLIENTS: u8 = 60;

/// One node as it is deployed: with keys, and with the balancer as the only proxy to believe.
fn node(listen: &str, name: &str) -> Served {
    node_with(listen, name, &[])
}

/// The same with further flags.
fn node_with(listen: &str, name: &str, more: &[&str]) -> Served {
    let words = [
        "--listen",
        listen,
        "--log",
        "warn",
        "--node-name",
        name,
        "--api-key",
        KEY,
        "--token-secret",
        SECRET,
        "--trusted-proxy",
        "127.0.0.1/32",
    ];
    Served::start_with(&[&words, more].concat())
}

/// Where each of the node's own connections comes from.
fn sources(node: SocketAddr) -> Vec<IpAddr> {
    let authorization = format!("Bearer {KEY}");
    let headers = [("Authorization", &*authorization)];
    let page = request(node, "GET", "/v1/connections?limit=1000", &headers, None).json();
    let ip = |connection: &Value| connection["ip"].as_str().unwrap().parse().unwrap();
    page["connections"]
        .as_array()
        .unwrap()
        .iter()
        .map(ip)
        .collect()
}

/// A client of its own address that claims to have another; or why it did not get in.
fn connect(balancer: SocketAddr, from: IpAddr) -> Result<Client, String> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket
        .connect(&balancer.into())
        .map_err(|error| format!("refused: {error}"))?;
    let socket = TcpStream::from(socket);
    let path = format!(
        "/v1/connect?token={}",
        signed(&json!({"sub": from.to_string()}))
    );
    let forged = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("Forwarded", "for=203.0.113.9"),
    ];
    let mut client =
        Client::upgrade(socket, &path, &forged).map_err(|answer| format!("{answer:?}"))?;
    match client.message() {
        Received::Text(text) if text.contains("\"welcome\"") => Ok(client),
        other => Err(format!("no welcome: {other:?}")),
    }
}

fn client_address(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 1, n + 1))
}

/// What went on while nodes came and went.
#[derive(Default)]
struct Seen {
    /// Clients go when the next event comes; only then publishers may stop.
    clients_go: AtomicBool,
    over: AtomicBool,
    /// Clients that were sent away and have come back.
    returned: AtomicUsize,
    events: AtomicUsize,
    wrong: Mutex<Vec<String>>,
}

impl Seen {
    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }
}

/// A client that does what the protocol says: after a goodbye it comes back, by the balancer, once.
fn stay(balancer: SocketAddr, n: u8, mut client: Client, seen: &Seen) {
    let mut back_in = None;
    while !seen.clients_go.load(SeqCst) {
        match client.message() {
            Received::Text(text) => {
                let message: Value = serde_json::from_str(&text).unwrap();
                seen.events
                    .fetch_add(usize::from(message["event"] == "tick"), SeqCst);
                if message["op"] == "bye" {
                    back_in = message["reconnect_in_ms"]
                        .as_u64()
                        .map(Duration::from_millis);
                }
            }
            Received::Close(4200, _) => {
                let Some(wait) = back_in.take() else {
                    return seen.wrong(format!("client {n} got no goodbye"));
                };
                drop(client);
                thread::sleep(wait);
                client = match connect(balancer, client_address(n)) {
                    Ok(client) => client,
                    Err(why) => {
                        return seen.wrong(format!("client {n} could not come back: {why}"));
                    }
                };
                seen.returned.fetch_add(1, SeqCst);
            }
            other => return seen.wrong(format!("client {n}: {other:?}")),
        }
    }
}

/// What goes on at an address.
type Work = fn(SocketAddr, &Seen);

/// Publishes all the time, by the balancer or to a node that stays, so that clients are never without something to read:
/// the nodes know nothing of each other here, and the balancer may send functions to the one with the fewest connections.
fn publish(to: SocketAddr, seen: &Seen) {
    let authorization = format!("Bearer {KEY}");
    let mut n = 0;
    while !seen.over.load(SeqCst) {
        let body = json!({"event": "tick", "data": n}).to_string();
        let headers = [("Authorization", &*authorization)];
        let answer = request(to, "POST", "/v1/broadcast", &headers, Some(body.as_bytes()));
        if answer.status != 200 {
            seen.wrong(format!("publication {n}: {answer:?}"));
        }
        n += 1;
        thread::sleep(Duration::from_millis(5));
    }
}

/// Newcomers, one after another, all the time.
fn come_and_go(balancer: SocketAddr, seen: &Seen) {
    while !seen.over.load(SeqCst) {
        if let Err(why) = connect(balancer, came_and_went()) {
            seen.wrong(format!("a newcomer: {why}"));
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn spread_drain_and_replace(start: impl FnOnce(&[SocketAddr]) -> Balancer) {
    let mut nodes: Vec<Served> = ["node-1", "node-2", "node-3"]
        .map(|name| node("127.0.0.1:0", name))
        .into_iter()
        .collect();
    let addresses: Vec<SocketAddr> = nodes.iter().map(|node| node.address).collect();
    let balancer = start(&addresses);
    let to = balancer.address;

    let clients: Vec<Client> = (0..CLIENTS)
        .map(|n| connect(to, client_address(n)).unwrap())
        .collect();
    let held: Vec<usize> = addresses.iter().map(|node| sources(*node).len()).collect();
    assert!(
        held.iter().all(|held| *held >= usize::from(CLIENTS / 6)),
        "spread: {held:?}"
    );
    let seen_from: BTreeSet<IpAddr> = addresses.iter().flat_map(|node| sources(*node)).collect();
    assert_eq!(
        seen_from,
        (0..CLIENTS).map(client_address).collect(),
        "each by its own address"
    );

    let seen = Arc::new(Seen::default());
    let stay = |(n, client)| {
        let seen = seen.clone();
        thread::spawn(move || stay(to, n, client, &seen))
    };
    let stays: Vec<JoinHandle<()>> = (0..CLIENTS).zip(clients).map(stay).collect();
    let work: [(Work, SocketAddr); 4] = [
        (publish, to),
        (publish, addresses[1]),
        (publish, addresses[2]),
        (come_and_go, to),
    ];
    let work = work.map(|(work, to)| {
        let seen = seen.clone();
        thread::spawn(move || work(to, &seen))
    });

    let leaving = nodes.remove(0).terminate();
    assert_eq!(leaving.code, 0, "{leaving:?}");
    eventually("whoever was there is elsewhere", || {
        seen.returned.load(SeqCst) == held[0]
    });
    let stayed = |node: &SocketAddr| {
        sources(*node)
            .iter()
            .filter(|ip| **ip != came_and_went())
            .count()
    };
    assert_eq!(
        addresses[1..].iter().map(stayed).sum::<usize>(),
        usize::from(CLIENTS)
    );

    nodes.push(node(&addresses[0].to_string(), "node-1"));
    let mut more = Vec::new();
    eventually("the new node is used", || {
        more.push(connect(to, client_address(100)).unwrap());
        thread::sleep(Duration::from_millis(50));
        stayed(&addresses[0]) >= 5
    });

    seen.clients_go.store(true, SeqCst);
    for stay in stays {
        stay.join().unwrap();
    }
    seen.over.store(true, SeqCst);
    for work in work {
        work.join().unwrap();
    }
    let wrong = seen.wrong.lock().unwrap();
    assert!(
        wrong.is_empty(),
        "{} went wrong: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(5)]
    );
    assert!(seen.events.load(SeqCst) > usize::from(CLIENTS));
    assert!(!balancer.log().contains("token="), "a token was logged");
}

/// Nodes that have no room for clients serve functions.
fn fill_up(start: impl FnOnce(&[SocketAddr]) -> Balancer) {
    let full = ["--limit", "connections=1"];
    let nodes = ["node-1", "node-2", "node-3"].map(|name| node_with("127.0.0.1:0", name, &full));
    let balancer = start(&nodes.each_ref().map(|node| node.address));
    let _clients = [0, 1, 2].map(|n| connect(balancer.address, client_address(n)).unwrap());
    let authorization = format!("Bearer {KEY}");
    let headers = [("Authorization", &*authorization)];
    for _ in 0..12 {
        assert!(
            connect(balancer.address, came_and_went()).is_err(),
            "there is no room"
        );
        let answer = request(
            balancer.address,
            "POST",
            "/v1/broadcast",
            &headers,
            Some(br#"{"event":"tick"}"#),
        );
        assert_eq!(answer.status, 200, "{answer:?}; {}", balancer.log());
    }
}

fn came_and_went() -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 2, 1))
}

#[test]
fn haproxy_spreads_drains_and_takes_a_new_node() {
    spread_drain_and_replace(Balancer::haproxy);
}

#[test]
fn nginx_spreads_drains_and_takes_a_new_node() {
    spread_drain_and_replace(Balancer::nginx);
}

#[test]
fn haproxy_serves_functions_where_no_node_has_room_for_clients() {
    fill_up(Balancer::haproxy);
}

#[test]
fn nginx_serves_functions_where_no_node_has_room_for_clients() {
    fill_up(Balancer::nginx);
}

/// The largest of everything that the server's defaults allow, sent through a balancer.
fn pass_the_largest(start: fn(&[SocketAddr]) -> Balancer) {
    let limits = Limits::default();
    let node = node("127.0.0.1:0", "largest");
    // One node thrice: a client and a function must meet at it.
    let balancer = start(&[node.address; 3]);
    let authorization = format!("Bearer {KEY}");
    let filler = "x".repeat(10_000);
    let fill = |size: usize| -> Vec<(String, &str)> {
        (0..size / 10_000)
            .map(|n| (format!("X-Filler-{n}"), &*filler))
            .collect()
    };

    // A token with as many claims as fit, in the address, in a head of nearly 64 KiB.
    let claims =
        json!({"sub": "ann", "can": {"join": ["*"]}, "pad": "x".repeat(limits.claims_bytes - 100)});
    let path = format!("/v1/connect?token={}", signed(&claims));
    assert!(path.len() > limits.claims_bytes, "{}", path.len());
    let more = fill(REQUEST_HEAD_BYTES - 2048 - path.len());
    let more: Vec<(&str, &str)> = more.iter().map(|(name, value)| (&**name, *value)).collect();
    let mut client = Client::open(balancer.address, &path, &more)
        .unwrap_or_else(|answer| panic!("{answer:?}; {}", balancer.log()));
    assert_eq!(client.json()["user"], "ann");

    // A body, and the event that it becomes.
    let around = r#"{"event":"large","data":""}"#.len();
    let data = "x".repeat(limits.body_bytes - around);
    let body = json!({"event": "large", "data": data}).to_string();
    assert_eq!(body.len(), limits.body_bytes);
    let more = fill(REQUEST_HEAD_BYTES - 2048);
    let mut headers: Vec<(&str, &str)> =
        more.iter().map(|(name, value)| (&**name, *value)).collect();
    headers.push(("Authorization", &authorization));
    let (to, body) = (balancer.address, Some(body.as_bytes()));
    let answer = request(to, "POST", "/v1/broadcast", &headers, body);
    assert_eq!(answer.status, 200, "{answer:?}; {}", balancer.log());
    let event = client.json();
    assert_eq!(
        (&event["event"], event["data"].as_str()),
        (&json!("large"), Some(&*data))
    );

    // A client's message.
    let ping = r#"{"op":"ping"}"#;
    let padded = format!("{ping}{}", " ".repeat(limits.message_bytes - ping.len()));
    client.frame(0x81, padded.as_bytes());
    assert_eq!(client.json()["op"], "pong");

    // What is too large is the server's to say.
    let data = "x".repeat(limits.body_bytes);
    let body = json!({"event": "large", "data": data}).to_string();
    let answer = request(to, "POST", "/v1/broadcast", &headers, Some(body.as_bytes()));
    assert_eq!(
        (answer.status, &*answer.code()),
        (413, "body_too_large"),
        "{answer:?}"
    );
}

#[test]
fn haproxy_passes_the_largest_of_everything() {
    pass_the_largest(Balancer::haproxy);
}

#[test]
fn nginx_passes_the_largest_of_everything() {
    pass_the_largest(Balancer::nginx);
}
