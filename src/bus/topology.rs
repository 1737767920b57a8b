//! Which servers there are, and what each is for.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Context,
    connection::{Address, Fault, Greeting, Kind, RedisConnection, SENTINEL},
    connector::Connector,
    name::Names,
    resp::Reply,
};
use crate::{config::RedisKind, limits};

/// The partitions of each primary.
pub(super) type Topology = BTreeMap<Address, Vec<u16>>;

/// How many nodes of a cluster are asked at the same time.
const ASKED: usize = 8;

/// How long the others are waited for once one has answered.
const OTHERS: Duration = Duration::from_millis(200);

/// Refuses a server that is not what the address says, or cannot join nodes.
pub(super) fn is_fit(
    connector: &Connector,
    address: &Address,
    greeting: Greeting,
) -> Result<(), Fault> {
    let wrong = |is, write| Err(Fault::Kind(address.clone(), is, write));
    let tls = connector.tls.is_some();
    match (connector.kind, greeting.kind) {
        (_, Kind::Sentinel) => wrong(
            "a Sentinel",
            if tls {
                "rediss+sentinel://…/name"
            } else {
                "redis+sentinel://…/name"
            },
        ),
        (RedisKind::Standalone | RedisKind::Sentinel, Kind::Cluster) => wrong(
            "a node of a Redis Cluster",
            if tls {
                "rediss+cluster://…"
            } else {
                "redis+cluster://…"
            },
        ),
        (RedisKind::Cluster, Kind::Standalone) => wrong(
            "not part of a Redis Cluster",
            if tls {
                "one rediss://…"
            } else {
                "one redis://…"
            },
        ),
        _ if greeting.is_primary => Ok(()),
        _ => Err(Fault::Replica(address.clone())),
    }
}

/// Finds the primaries. `known` is what was found the last time: one who knows is asked first, and the others only where
/// that one says something else, or nothing.
pub(super) async fn discover(cx: &Arc<Context>, known: &Topology) -> Result<Topology, Fault> {
    let all = || (0..cx.names.partitions()).collect();
    match cx.connector.kind {
        RedisKind::Standalone => Ok(cx
            .connector
            .seeds
            .first()
            .map(|seed| (seed.clone(), all()))
            .into_iter()
            .collect()),
        RedisKind::Sentinel => {
            if let Some(sentinel) = one_of(cx.connector.seeds.iter())
                && !known.is_empty()
                && let Ok(elected) = ask_sentinel(&cx.connector, sentinel).await
                && known.contains_key(&elected.primary)
            {
                return Ok(known.clone());
            }
            Ok(BTreeMap::from([(primary_by_sentinels(cx).await?, all())]))
        }
        RedisKind::Cluster => {
            let first = one_of(known.keys().filter(|node| cx.health.is_well(node)));
            let view = match first {
                Some(node) => ask_node(cx, node).await.ok(),
                None => None,
            };
            match view {
                Some(view) if view.topology == *known => Ok(view.topology),
                view => of_cluster(cx, known, first, view).await,
            }
        }
    }
}

/// Returns one of them by chance.
fn one_of<'a>(all: impl Iterator<Item = &'a Address>) -> Option<&'a Address> {
    let all = all.collect::<Vec<_>>();
    let at = uuid::Uuid::new_v4().as_u128() as usize % all.len().max(1);
    all.get(at).copied()
}

/// Asks all Sentinels. Of what they say the newest holds, if it is true.
async fn primary_by_sentinels(cx: &Arc<Context>) -> Result<Address, Fault> {
    let mut answers = JoinSet::new();
    for seed in &cx.connector.seeds {
        let (cx, seed) = (cx.clone(), seed.clone());
        answers.spawn(async move { ask_sentinel(&cx.connector, &seed).await });
    }

    let mut found = Vec::new();
    let mut fault = None;
    while let Some(answer) = next(&mut answers, !found.is_empty()).await {
        match answer {
            Ok(one) => found.push(one),
            Err(error) => fault = Some(error),
        }
    }

    found.sort();
    found.dedup_by(|one, other| one.primary == other.primary);
    // From the newest election: a Sentinel that was cut off may still name an older primary.
    for elected in found.into_iter().rev() {
        let address = elected.primary;
        match RedisConnection::connect(&cx.connector, &address, "look").await {
            Ok((_, greeting)) => match is_fit(&cx.connector, &address, greeting) {
                Ok(()) => return Ok(address),
                Err(error) => fault = Some(error),
            },
            Err(error) => fault = Some(error),
        }
    }

    Err(fault.unwrap_or_else(|| Fault::Topology("no Sentinel answers".to_owned())))
}

/// The primary as one Sentinel knows it. The one of the newest election is the greatest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Elected {
    /// The number of its election.
    epoch: u64,
    primary: Address,
}

/// The servers of a cluster as one node of it knows them.
#[derive(Debug)]
struct View {
    epoch: u64,
    topology: Topology,
}

/// Asks one Sentinel for the primary.
async fn ask_sentinel(connector: &Connector, sentinel: &Address) -> Result<Elected, Fault> {
    let asked = timeout(limits::BUS_CONNECT, async {
        let (mut connection, greeting) =
            RedisConnection::connect(connector, sentinel, SENTINEL).await?;
        if greeting.kind != Kind::Sentinel {
            return Err(Fault::Kind(
                sentinel.clone(),
                "not a Sentinel",
                "redis:// or redis+cluster://",
            ));
        }

        connection
            .ask(&[b"SENTINEL", b"MASTER", connector.master.as_bytes()])
            .await
    });

    let reply = match asked.await {
        Ok(Err(Fault::Refused(_, text))) if text.contains("No such master") => {
            return Err(Fault::Topology(format!(
                "the Sentinel at {sentinel} knows no primary called \"{}\"; the name is at the end of the address",
                connector.master
            )));
        }
        Ok(Err(Fault::Refused(sentinel, text))) => return Err(Fault::Sentinel(sentinel, text)),
        Ok(reply) => reply?,
        Err(_) => return Err(Fault::Silent(sentinel.clone(), limits::BUS_CONNECT)),
    };

    let number = |key: &str| {
        reply
            .get(key)
            .and_then(Reply::text)
            .and_then(|text| text.parse().ok())
    };

    let host = reply.get("ip").and_then(Reply::text);
    match (
        host,
        number("port").and_then(|port| u16::try_from(port).ok()),
    ) {
        (Some(host), Some(port)) => Ok(Elected {
            epoch: number("config-epoch").unwrap_or(0),
            primary: Address::new(host, port),
        }),
        _ => Err(Fault::Strange(sentinel.clone())),
    }
}

/// Asks several nodes. The newest view of one that finds the cluster well holds. `asked` was asked, and has this view.
async fn of_cluster(
    cx: &Arc<Context>,
    known: &Topology,
    asked: Option<&Address>,
    view: Option<View>,
) -> Result<Topology, Fault> {
    let mut answers = JoinSet::new();
    let ask = known.keys().chain(
        cx.connector
            .seeds
            .iter()
            .filter(|seed| !known.contains_key(*seed)),
    );

    for node in ask.filter(|node| asked != Some(*node)).take(ASKED) {
        let (cx, node) = (cx.clone(), node.clone());
        answers.spawn(async move { ask_node(&cx, &node).await });
    }

    let mut best = view;
    let mut fault = None;
    while let Some(answer) = next(&mut answers, best.is_some()).await {
        match answer {
            Ok(view) if best.as_ref().is_some_and(|best| best.epoch >= view.epoch) => {}
            Ok(view) => best = Some(view),
            Err(error) => fault = Some(error),
        }
    }

    match (best, fault) {
        (Some(view), _) => Ok(view.topology),
        (None, Some(fault)) => Err(fault),
        (None, None) => Err(Fault::Topology(
            "no node of the Redis Cluster answers".to_owned(),
        )),
    }
}

/// The next answer; once there is one, the others are not waited for long.
async fn next<T: 'static>(
    answers: &mut JoinSet<Result<T, Fault>>,
    has_one: bool,
) -> Option<Result<T, Fault>> {
    let patience = if has_one {
        OTHERS
    } else {
        // This is longer than a question takes at most, so that it ends with an error of its own,
        // which says more.
        limits::BUS_CONNECT * 2
    };

    let joined = timeout_at(Instant::now() + patience, answers.join_next())
        .await
        .ok()??;
    Some(joined.unwrap_or_else(|error| {
        Err(Fault::Topology(format!(
            "looking for the servers failed: {error}"
        )))
    }))
}

async fn ask_node(cx: &Context, node: &Address) -> Result<View, Fault> {
    let asked = timeout(limits::BUS_CONNECT, async {
        let (mut connection, greeting) =
            RedisConnection::connect(&cx.connector, node, "look").await?;
        // A replica knows the cluster too.
        is_fit(
            &cx.connector,
            node,
            Greeting {
                is_primary: true,
                ..greeting
            },
        )?;

        let info = connection.ask(&[b"CLUSTER", b"INFO"]).await?;
        let slots = connection.ask(&[b"CLUSTER", b"SLOTS"]).await?;
        Ok((info, slots))
    });

    let (info, slots) = asked
        .await
        .unwrap_or_else(|_| Err(Fault::Silent(node.clone(), limits::BUS_CONNECT)))?;
    let info = info.text().unwrap_or_default();
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };

    if field("cluster_state") != Some("ok") {
        return Err(Fault::Topology(format!(
            "the Redis Cluster is down, says {node}: some of its slots have no primary, or most primaries are gone"
        )));
    }

    let epoch = field("cluster_current_epoch")
        .and_then(|epoch| epoch.parse().ok())
        .unwrap_or(0);
    let topology = read_slots(&cx.names, node, &slots)?;
    Ok(View { epoch, topology })
}

/// The partitions of each primary, from an answer to CLUSTER SLOTS by `asked`.
fn read_slots(names: &Names, asked: &Address, slots: &Reply) -> Result<Topology, Fault> {
    let range = |entry: &Reply| {
        let [Reply::Int(first), Reply::Int(last), node, ..] = entry.array() else {
            return None;
        };
        let [host, Reply::Int(port), ..] = node.array() else {
            return None;
        };

        let host = match host.text() {
            // Then it is the one that was asked.
            None | Some("") => &*asked.host,
            // Redis writes this for a node without a host name if it is to give names.
            Some("?") => return None,
            Some(host) => host,
        };

        Some((
            *first..=*last,
            Address::new(host, u16::try_from(*port).ok()?),
        ))
    };

    let ranges = slots.array().iter().filter_map(range).collect::<Vec<_>>();
    let mut topology = Topology::new();
    for partition in 0..names.partitions() {
        let slot = i64::from(names.slot(partition));
        let Some((_, owner)) = ranges.iter().find(|(range, _)| range.contains(&slot)) else {
            return Err(Fault::Topology(format!(
                "slot {slot} of the Redis Cluster has no primary"
            )));
        };
        topology.entry(owner.clone()).or_default().push(partition);
    }

    Ok(topology)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: Reply, port: i64) -> Reply {
        Reply::Array(vec![host, Reply::Int(port), Reply::Text(b"id".to_vec())])
    }

    fn range(first: i64, last: i64, node: Reply) -> Reply {
        Reply::Array(vec![Reply::Int(first), Reply::Int(last), node])
    }

    #[test]
    fn partitions_go_to_the_primaries_of_their_slots() {
        let names = Names::new("ns", vec!["default".into()], true);
        let asked = Address::new("asked", 1);
        let text = |host: &str| Reply::Text(host.as_bytes().to_vec());
        let halves = Reply::Array(vec![
            range(0, 8191, node(text("a"), 7000)),
            range(8192, 16383, node(Reply::Null, 7001)),
        ]);
        let topology = read_slots(&names, &asked, &halves).unwrap();
        assert_eq!(
            topology.keys().cloned().collect::<Vec<_>>(),
            [Address::new("a", 7000), Address::new("asked", 7001)]
        );
        assert_eq!(topology.values().map(Vec::len).sum::<usize>(), 65);
        assert!(topology[&Address::new("a", 7000)].starts_with(&[0, 1, 2]));
        for holes in [
            Reply::Array(vec![range(0, 8191, node(text("a"), 7000))]),
            Reply::Array(vec![range(0, 16383, node(text("?"), 7000))]),
            Reply::Null,
        ] {
            assert!(read_slots(&names, &asked, &holes).is_err());
        }
    }
}
