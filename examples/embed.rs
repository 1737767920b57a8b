//! A program with a realtime server inside: it signs a token, sends events, answers calls, and leaves well at Ctrl-C.
//!
//!     cargo run --example embed
//!
//! Connect to the address that it prints with any WebSocket client, and watch the events come.

use std::{error::Error, time::Duration};

use fanfare::{Call, CallError, Connection, Server, Value};
use serde_json::json;

// `#[tokio::main]` alone does as well: the server has threads of its own.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1);
    let server = Server::builder()
        .listen(address.as_deref().unwrap_or("127.0.0.1:7070"))
        .index("auth.team")
        .on_call("greet", greet)
        .start()?;

    // Whoever holds this token is ann. A page gets its token from your code, which has authenticated the person.
    let ann = server
        .sign_token("ann", json!({"team": "red", "level": 7}))
        .sign()?;
    println!("ws://{}/v1/connect?token={}", server.address(), ann.token);

    let ticking = tokio::spawn(tick(server.clone()));
    tokio::signal::ctrl_c().await?;
    ticking.abort();
    // Clients are told to come back, and when.
    server.shutdown().await;
    println!("all clients have gone");
    Ok(())
}

/// What a client gets that sends `{"op":"call","id":1,"name":"greet","data":"Hello"}`.
async fn greet(call: Call) -> Result<String, CallError> {
    let greeting: String = call.parse()?;
    let user = call.user();
    let user = user.ok_or_else(|| CallError::new("stranger", "connect with a token"))?;
    Ok(format!("{greeting}, {user}!"))
}

/// Sends two events a second.
async fn tick(server: Server) -> Result<(), fanfare::EmitError> {
    for n in 0.. {
        // Whom a filter describes. It is compiled once, and answered from the index.
        server
            .emit("tick", json!({"n": n}), r#"auth.team == "red""#)
            .await?;

        // Whom a closure picks among this node's connections.
        let is_high = |client: &Connection| matches!(client.claim("level"), Value::Int(6..));
        let receipt = server.emit_where("level-up", json!(n), is_high).await?;
        println!("tick {n} has reached {} connections", receipt.queued);

        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}
