//! `drops`: new connections at a fixed rate, while thousands of others drop at once.
//!
//! Each new connection is dialed when it is due, whatever became of those before it, and counts from then; so a server
//! that accepts nothing for a while pays for every one that was due in it.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use super::{Setting, WARM_UP, cluster::await_ready, titled};
use crate::{
    cli::{DropBy, Drops, Kind},
    client::{Arrival, histogram},
    clock,
    error::{Doing, Result, failed},
    fleets::Limits,
    inspect,
    priority::First,
    redis::RedisServer,
    report::Findings,
    server::Server,
};

/// What is looked at by itself, from a moment at which much happens.
const WINDOW: Duration = Duration::from_secs(1);

/// How long the server may take to forget connections.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often the server is asked whether it has.
const LOOK: Duration = Duration::from_millis(20);

const BEFORE: &str = "before";
const DROP: &str = "in the second of the drop";
const GIVEN_UP: &str = "in the second in which they are given up";

/// Runs `drops`.
pub(crate) fn drops(args: &Drops) -> Result<Findings> {
    if args.connections == 0 {
        return failed("--connections must be at least 1");
    }
    if args.redis && args.common.target.kind() != Kind::Fanfare {
        return failed("--redis makes a node of Fanfare alone: leave out --server and --floor");
    }
    let first = !args.ordinary_priority && First::ask().is_some();
    let mut findings = Findings::new("drops", &args.common, settings(args, first));
    let redis = if args.redis {
        Some(RedisServer::start().doing("cannot start Redis")?)
    } else {
        None
    };
    let window = humantime::format_duration(args.resume_window);
    let mut common = args
        .common
        .with_server_arg(&format!("--limit=resume_window={window}"));
    if let Some(redis) = &redis {
        common = common.with_server_arg(&format!("--redis={}", redis.url()));
    }
    let server = Server::open(&common)?;
    if redis.is_some() {
        await_ready(&server)?;
    }
    let setting = Setting::new(common.repeat.into())?;
    let mut dropping = Dropping {
        args,
        setting,
        server,
        first,
    };
    for _ in 0..common.repeat {
        dropping.once(&mut findings)?;
    }
    Ok(findings)
}

fn settings(args: &Drops, first: bool) -> Vec<(&'static str, String)> {
    vec![
        ("connections", args.connections.to_string()),
        ("channels", args.channels.to_string()),
        ("new connections a second", args.rate.to_string()),
        ("dropped by", format!("{:?}", args.by).to_lowercase()),
        (
            "resume window",
            humantime::format_duration(args.resume_window).to_string(),
        ),
        ("redis", args.redis.to_string()),
        ("new connections' clients go first", first.to_string()),
    ]
}

struct Dropping<'a> {
    args: &'a Drops,
    setting: Setting,
    server: Server,
    /// Whether the new connections' clients go before all other processes.
    first: bool,
}

/// What the server counted before anything was measured.
#[derive(Clone, Copy)]
struct Counts {
    connections: u64,
    endings: inspect::Endings,
}

impl Counts {
    fn of(server: &Server) -> Result<Self> {
        let connections = inspect::connections(&server.api)?;
        Ok(Self {
            connections,
            endings: inspect::endings(&server.api)?,
        })
    }
}

/// When connections dropped, by [`clock::now`].
struct Dropped {
    /// The first.
    at: u64,
    /// How long their clients took for all of them.
    within: Duration,
}

impl Dropping<'_> {
    /// Lets connections come in, others drop, and finds out what that meant to those that came.
    fn once(&mut self, findings: &mut Findings) -> Result<()> {
        let Self {
            args,
            setting,
            server,
            first,
        } = self;
        let (common, fleets) = (&args.common, &mut setting.fleets);
        let counts = common.target.kind().is_fanfare();
        let before = if counts {
            Some(Counts::of(server)?)
        } else {
            None
        };
        let held = fleets.start(args.connections, false)?;
        fleets.set_aside(&held);
        // The floor has no channels.
        let members = if counts {
            server.api.in_channels(args.channels.into())
        } else {
            server.api.clone()
        };
        fleets.connect(
            held.clone(),
            (&members, common.connect_rate),
            Limits::default(),
            &setting.progress,
        )?;
        let lasting = WARM_UP + common.duration + args.resume_window + WINDOW * 2;
        let coming = (f64::from(args.rate) * lasting.as_secs_f64()) as usize;
        let newcomers = fleets.start(coming.max(1), *first)?;
        setting.progress.begin_measurement(lasting);
        fleets.arrive(&newcomers, (&server.api, args.rate))?;
        std::thread::sleep(WARM_UP + common.duration);
        let dropped = self.drop_all(&held)?;
        findings.add("dropped within", "ms", dropped.within.as_secs_f64() * 1e3);
        if let Some(before) = before {
            let forgotten = self.forgotten(before, dropped.at)?;
            findings.add(
                "forgotten by the server after",
                "ms",
                forgotten.as_secs_f64() * 1e3,
            );
        }
        let arrivals = self
            .setting
            .fleets
            .arrivals(&newcomers, lasting + PATIENCE)?;
        note(findings, self.args, &arrivals, dropped.at)?;
        let all = self.setting.exercise(&self.server, &newcomers)?;
        findings.blame(&all);
        self.setting.fleets.disconnect(&newcomers)?;
        self.setting.fleets.set_aside(&newcomers);
        if let Some(before) = before {
            let left = self.left_over(before)?;
            findings.faults.connections_left = findings.faults.connections_left.max(left);
        }
        Ok(())
    }

    fn drop_all(&mut self, held: &Range<usize>) -> Result<Dropped> {
        let at = clock::now();
        match self.args.by {
            DropBy::Reset => self.setting.fleets.reset(held)?,
            DropBy::Kill => self.setting.fleets.kill(held)?,
        }
        Ok(Dropped {
            at,
            within: Duration::from_nanos(clock::now() - at),
        })
    }

    /// How long after the drop the server had forgotten all that dropped.
    fn forgotten(&self, before: Counts, dropped: u64) -> Result<Duration> {
        let wanted = before.endings.ended + self.args.connections as u64;
        let until = Instant::now() + PATIENCE;
        loop {
            let endings = inspect::endings(&self.server.api)?;
            if endings.ended >= wanted && endings.memberships <= before.endings.memberships {
                return Ok(Duration::from_nanos(clock::now() - dropped));
            }
            if Instant::now() > until {
                let left = wanted.saturating_sub(endings.ended);
                let members = endings
                    .memberships
                    .saturating_sub(before.endings.memberships);
                return failed(format!(
                    "{left} connections and {members} members are not forgotten"
                ));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// How many connections the server counts that were not there before, once nothing changes any more.
    fn left_over(&self, before: Counts) -> Result<u64> {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = inspect::connections(&self.server.api)?.abs_diff(before.connections);
            if left == 0 || Instant::now() > until {
                return Ok(left);
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// What some of the new connections found.
struct Seen {
    accepted_per_second: f64,
    p50: f64,
    p99: f64,
    max: f64,
}

fn note(findings: &mut Findings, args: &Drops, arrivals: &[Arrival], dropped: u64) -> Result<()> {
    let length = clock::nanos(args.common.duration);
    let given_up = dropped + clock::nanos(args.resume_window);
    let before = see(findings, BEFORE, arrivals, dropped - length..dropped)?;
    for (name, from) in [(DROP, dropped), (GIVEN_UP, given_up)] {
        let then = see(findings, name, arrivals, from..from + clock::nanos(WINDOW))?;
        for (figure, ratio) in [
            (
                "accepted a second",
                then.accepted_per_second / before.accepted_per_second,
            ),
            ("p50", then.p50 / before.p50),
            ("p99", then.p99 / before.p99),
            ("max", then.max / before.max),
        ] {
            findings.add(format!("{figure} {name}, over before"), "times", ratio);
        }
    }
    Ok(())
}

/// Adds what those found that were due, or were accepted, at a time.
fn see(
    findings: &mut Findings,
    name: &str,
    arrivals: &[Arrival],
    when: Range<u64>,
) -> Result<Seen> {
    let (mut welcomes, mut late) = (histogram()?, histogram()?);
    for arrival in arrivals
        .iter()
        .filter(|arrival| when.contains(&arrival.due))
    {
        welcomes.saturating_record(arrival.open.saturating_sub(arrival.due).max(1));
        late.saturating_record(arrival.dialed.saturating_sub(arrival.due).max(1));
    }
    let accepted = arrivals
        .iter()
        .filter(|arrival| when.contains(&arrival.open))
        .count();
    let accepted_per_second = accepted as f64 / ((when.end - when.start) as f64 / 1e9);
    findings.add(titled(name, "accepted a second"), "", accepted_per_second);
    findings.add_latencies(&titled(name, "due to welcome"), &welcomes);
    findings.add(
        titled(name, "dialed late by p99"),
        "ms",
        late.value_at_quantile(0.99) as f64 / 1e6,
    );
    let [p50, p99] = [0.5, 0.99].map(|quantile| welcomes.value_at_quantile(quantile) as f64);
    Ok(Seen {
        accepted_per_second,
        p50,
        p99,
        max: welcomes.max() as f64,
    })
}
