//! Embeds a server in a program with tokio's default runtime and all of its features, and sends an event to a client.

use std::error::Error;

use fanfare::{Config, Server};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::start(Config {
        listen: ([127, 0, 0, 1], 0).into(),
        ..Config::default()
    })?;
    let mut client = TcpStream::connect(server.address()).await?;
    let handshake = format!(
        "GET /v1/connect HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        server.address()
    );
    client.write_all(handshake.as_bytes()).await?;
    let mut seen = String::new();
    read_until(&mut client, &mut seen, "\"welcome\"").await?;

    // From a worker of the runtime, and from a thread of the server's.
    let elsewhere = server.clone();
    let receipt = tokio::spawn(async move { elsewhere.broadcast("alert", json!("Hello")).await });
    assert_eq!(receipt.await??.queued, 1);
    read_until(
        &mut client,
        &mut seen,
        r#"{"event":"alert","data":"Hello"}"#,
    )
    .await?;
    server.shutdown().await;
    println!("embedded");
    Ok(())
}

/// Reads on until `what` has come.
async fn read_until(
    client: &mut TcpStream,
    seen: &mut String,
    what: &str,
) -> Result<(), Box<dyn Error>> {
    let mut buffer = [0; 1024];
    while !seen.contains(what) {
        let read = client.read(&mut buffer).await?;
        if read == 0 {
            return Err(format!("the server hung up before {what}: {seen}").into());
        }
        seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    Ok(())
}
