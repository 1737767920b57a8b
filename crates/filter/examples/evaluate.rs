//! Evaluates a filter for one connection: `cargo run --example evaluate -- 'auth.age >= 18' '{"age":20}'`.

use std::{error::Error, net::IpAddr, sync::Arc};

use fanfare_filter::{
    Attributes, ConnectionInfo, Filter, Schema, Value, Verdict,
    id::{ConnectionId, NodeId},
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(text), Some(auth)) = (args.next(), args.next()) else {
        return Err("usage: evaluate FILTER AUTH".into());
    };

    let filter = Filter::compile(&text, &Schema::default())?;
    let bound = Arc::new(filter).bind(None)?;

    let mut attributes = Attributes::new(ConnectionInfo {
        id: ConnectionId {
            node: NodeId(1),
            shard: 0,
            slot: 0,
            nonce: 0,
        },
        device: None,
        ip: IpAddr::from([127, 0, 0, 1]),
        protocol: "example",
        connected_at: 0,
        node: "node".into(),
    });

    attributes.auth = Value::from_json(&mut auth.into_bytes(), None)?;

    match bound.matches(&attributes) {
        Verdict::Match => println!("true"),
        Verdict::NoMatch => println!("false"),
        Verdict::Error => println!("the evaluation ended in an error, which does not match"),
    }

    Ok(())
}
