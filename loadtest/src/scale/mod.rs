//! `scale`: what each operation costs a cluster of few and of many nodes, in commands, bytes and CPU time of Redis.
//!
//! Everything runs once with few nodes and again with more. What grows faster than the number of nodes is a fault.

mod args;
mod operation;
mod rig;
mod table;
mod usage;

use std::fs;

use serde::Serialize;

pub(crate) use self::{args::Scale, usage::Usage};
use self::{
    operation::{Cost, Operation},
    rig::Rig,
    table::{Growth, markdown, steep},
    usage::Held,
};
use crate::{
    error::{Doing, Result},
    report::{Machine, command_line},
};

/// What every operation costs with so many nodes.
#[derive(Debug, Serialize)]
struct Size {
    nodes: usize,
    held: Held,
    costs: Vec<Cost>,
}

/// What was found, for programs.
#[derive(Serialize)]
struct Findings<'f> {
    command: Vec<String>,
    machine: Machine,
    sizes: &'f [Size],
    growth: &'f [Growth],
}

/// Measures all operations with each number of nodes; true if none grows faster than the number of nodes.
pub(crate) fn scale(args: &Scale) -> Result<bool> {
    let mut sizes = Vec::new();
    for &nodes in &args.nodes {
        eprintln!("{nodes} nodes: starting");
        let mut rig = Rig::start(args, nodes)?;
        let mut costs = Vec::new();
        for operation in Operation::ALL {
            let cost = rig.measure(operation, args)?;
            eprintln!("{nodes} nodes: {}: {cost}", operation.name());
            costs.push(cost);
        }
        let held = rig.held()?;
        sizes.push(Size { nodes, held, costs });
    }

    let growth = Growth::of(&sizes);
    let table = markdown(&sizes, &growth);
    if args.json {
        let findings = Findings {
            command: command_line(),
            machine: Machine::here(),
            sizes: &sizes,
            growth: &growth,
        };
        let json = serde_json::to_string_pretty(&findings).map_err(std::io::Error::from);
        println!("{}", json.doing("cannot write JSON")?);
    } else {
        print!("{table}");
    }
    if let Some(path) = &args.markdown {
        fs::write(path, table).doing(format!("cannot write {}", path.display()))?;
    }
    let steep = steep(&growth);
    for line in &steep {
        eprintln!("{line}");
    }
    Ok(steep.is_empty())
}
