//! Nodes that have names, as containers have: missing at first, and then with another address.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    thread,
};

use super::{balancer::Balancer, node};
use crate::support::{eventually, request};

/// A name server for addresses of IPv4, on a port of its own. It answers until the test ends.
struct Names {
    known: Arc<Mutex<BTreeMap<String, Ipv4Addr>>>,
    address: SocketAddr,
}

impl Names {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let known = Arc::new(Mutex::new(BTreeMap::new()));
        let names = known.clone();
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                let answer = answer(&query[..length], &names.lock().unwrap());
                let _ = socket.send_to(&answer, from);
            }
        });
        Self { known, address }
    }

    fn set(&self, name: &str, address: [u8; 4]) {
        self.known
            .lock()
            .unwrap()
            .insert(name.to_owned(), address.into());
    }
}

/// An answer as RFC 1035 has it: an address, nothing of that kind, or no such name.
fn answer(query: &[u8], known: &BTreeMap<String, Ipv4Addr>) -> Vec<u8> {
    const HEADER: usize = 12;
    const A: [u8; 2] = [0, 1];
    let (mut labels, mut at) = (Vec::new(), HEADER);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).into_owned());
        at = end;
    }
    let question = &query[HEADER..at + 5];
    let found = known.get(&labels.join("."));
    let address = found.filter(|_| query[at + 1..at + 3] == A);
    let flags = if found.is_some() {
        [0x81, 0x80]
    } else {
        [0x81, 0x83]
    };
    let counts = [0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0];
    let mut answer = [&query[..2], &flags, &counts, question].concat();
    if let Some(address) = address {
        // The name of the question, an address, for a second.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}

#[test]
fn haproxy_finds_a_node_at_its_new_address() {
    let names = Names::start();
    let first = node("127.0.0.2:0", "first");
    let port = first.address.port();
    names.set("node-1.test", [127, 0, 0, 2]);
    let nodes = [1, 2, 3].map(|n| format!("node-{n}.test:{port}"));
    let balancer = Balancer::haproxy_by_names(&nodes, names.address);
    let serves = || request(balancer.address, "GET", "/healthz", &[], None).status == 200;
    drop(first);
    eventually("nobody is there", || !serves());
    let _moved = node(&format!("127.0.0.3:{port}"), "moved");
    names.set("node-1.test", [127, 0, 0, 3]);
    eventually("it is found where it is", serves);
    let _late = node(&format!("127.0.0.4:{port}"), "late");
    names.set("node-2.test", [127, 0, 0, 4]);
    eventually("one whose name was missing is used", || {
        serves() && balancer.log().contains(" nodes/node-2 ")
    });
}
