//! Callers that post on one socket, and clients that end without a word.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may end at once")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{Client, PATIENCE};

/// A caller that keeps its connection.
pub struct Caller {
    socket: BufReader<TcpStream>,
    host: SocketAddr,
}

impl Caller {
    pub fn new(host: SocketAddr) -> Self {
        let socket = TcpStream::connect(host).expect("connects");
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Self {
            socket: BufReader::new(socket),
            host,
        }
    }

    /// Posts and expects 200.
    pub fn call(&mut self, path: &str, body: &Value) -> Value {
        let (host, body) = (self.host, body.to_string());
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n");
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        self.socket.get_mut().write_all(request.as_bytes()).unwrap();
        let mut answer = vec![0; self.head()];
        self.socket.read_exact(&mut answer).unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    /// Reads a head that says 200; how long the body behind it is.
    fn head(&mut self) -> usize {
        let mut length = None;
        for at in 0.. {
            let mut line = String::new();
            self.socket.read_line(&mut line).unwrap();
            match line.trim_end().to_ascii_lowercase().split_once(": ") {
                _ if at == 0 => assert_eq!(line.split(' ').nth(1), Some("200"), "{line}"),
                Some(("content-length", value)) => length = value.parse().ok(),
                Some(_) => {}
                None => break,
            }
        }
        length.expect("a length")
    }

    /// Posts `calls`, a hundred at a time; each must succeed.
    pub fn batches(&mut self, calls: &[Value]) {
        for items in calls.chunks(100) {
            let answer = self.call("/v1/batch", &json!({ "items": items }));
            let results = answer["results"].as_array().unwrap();
            assert_eq!(results.len(), items.len());
            for result in results {
                assert_eq!(result["status"], 200, "{result}");
            }
        }
    }
}

/// Ends the connection at once: what is unread is thrown away, and the server gets a reset.
pub fn reset(client: Client) {
    socket2::SockRef::from(&client.socket)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
}

/// Ends the connection in both directions, without a close frame.
pub fn cut(client: &Client) {
    client.socket.shutdown(Shutdown::Both).unwrap();
}

/// A small receive buffer, so that the server's socket refuses soon where the client does not read.
pub fn shrink(client: &Client) {
    receive_buffer(client, 16 * 1024);
}

/// A large receive buffer, for who has been slow long enough.
pub fn widen(client: &Client) {
    receive_buffer(client, 1024 * 1024);
}

fn receive_buffer(client: &Client, bytes: usize) {
    socket2::SockRef::from(&client.socket)
        .set_recv_buffer_size(bytes)
        .unwrap();
}
