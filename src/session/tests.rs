//! A session with a real socket, on a thread of its own clients.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Instant,
};

use bytes::Bytes;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::LocalSet,
};

use super::*;
use crate::{
    config::{Config, ServeArgs},
    event_loop::EventLoop,
    id::AppId,
    limits::READ_BUFFER,
    node::Node,
};

/// A pong with an empty mask: nothing has to be done about it.
const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];

#[tokio::test]
async fn a_client_that_has_sent_much_lets_others_run_before_all_is_read() {
    const READS: usize = 8;

    let all = async {
        let none = std::iter::empty::<(String, String)>();
        let mut config = Config::load(&ServeArgs::default(), none).unwrap();
        config.limits.messages_per_second = u32::MAX;
        config.limits.message_burst = u32::MAX;
        config.limits.connections = 10;
        let node = Node::new(config, 1).unwrap().0;
        let event_loop = EventLoop::new(node.hub.clone(), 0);
        event_loop.start(&node.supervisor);

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (mut client, socket) = (client.unwrap(), listener.accept().await.unwrap().0);
        client
            .write_all(&PONG.repeat(READS * READ_BUFFER / PONG.len()))
            .await
            .unwrap();
        client.shutdown().await.unwrap();

        let arrival = Arrival {
            app: AppId(0),
            policy: 0,
            refusal: None,
            socket,
            granted: Vec::new(),
            leftover: Bytes::new(),
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            device: None,
            token: None,
            echo: false,
            store: false,
            options: ConnectOptions::default(),
            since: Instant::now(),
            occupancy: Occupancy::take(&node).unwrap(),
            foreign: None,
        };
        let session = Session::begin(node, event_loop.clone(), arrival).unwrap();

        let (first, (done, ended)) = (event_loop.clients_turn() + 1, oneshot::channel());
        event_loop.clone().run_client(async move {
            session.run().await;
            let _ = done.send(event_loop.clients_turn());
        });
        ended.await.unwrap() - first
    };

    let pauses = LocalSet::new().run_until(all).await as usize;
    assert!(pauses >= READS / 2 - 1, "{pauses}");
}
