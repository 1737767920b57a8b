//! The command lines of `compare` and `summarize`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;

use super::{contender::Contender, paths::shown};

/// Connections of a quick comparison are fewer by this.
const QUICK: usize = 50;

/// `compare`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Compare {
    /// The `fanfare` to measure
    #[arg(long, value_name = "PROGRAM", help_heading = "Servers")]
    server_binary: Option<PathBuf>,
    /// An earlier `fanfare`, to measure beside it in every phase
    #[arg(long, value_name = "PROGRAM", help_heading = "Servers")]
    baseline: Option<PathBuf>,
    /// The program that peers/uwebsockets/server.cpp was built to
    #[arg(long, value_name = "PROGRAM", help_heading = "Servers")]
    uwebsockets: Option<PathBuf>,
    /// Sockudo, where it is not on the PATH
    #[arg(long, value_name = "PROGRAM", help_heading = "Servers")]
    sockudo: Option<PathBuf>,
    /// Centrifugo, where it is not on the PATH
    #[arg(long, value_name = "PROGRAM", help_heading = "Servers")]
    centrifugo: Option<PathBuf>,
    /// The version of a server that cannot say it itself; may be repeated
    #[arg(long, value_name = "SERVER=VERSION", value_parser = peer_version, help_heading = "Servers")]
    peer_version: Vec<(Contender, String)>,
    /// How often each phase is measured with fanfare, floor and uwebsockets; goals are judged from 10 on
    #[arg(long, default_value_t = 10, value_name = "ROUNDS", value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// In how many rounds the other servers take part
    #[arg(long, default_value_t = 3, value_name = "ROUNDS", value_parser = clap::value_parser!(u16).range(..=100))]
    other_rounds: u16,
    /// How long each measurement sends
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Only these phases, by their names (flood/5000) or those of their families (flood)
    #[arg(long, value_name = "PHASE", value_delimiter = ',')]
    pub(super) only: Vec<String>,
    /// Where the comparison's folder is made
    #[arg(long, default_value = "loadtest/runs", value_name = "DIR")]
    pub(super) into: PathBuf,
    /// What the machine is called in that folder's name, instead of a name made of its processor's
    #[arg(long, value_name = "MACHINE", value_parser = folder_name)]
    pub(super) name: Option<String>,
    /// One round of 300 ms with few connections: to see that it works, not to learn from
    #[arg(long, conflicts_with_all = ["rounds", "duration"])]
    pub(super) quick: bool,
}

/// `summarize`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Summarize {
    /// The comparison's folder
    #[arg(value_name = "DIR")]
    pub(super) folder: PathBuf,
    /// Write nothing, and print the short table that a README can carry
    #[arg(long)]
    pub(super) headline: bool,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) rounds: usize,
    pub(super) other_rounds: usize,
    pub(super) duration: Duration,
    /// What the phases' numbers of connections are divided by.
    pub(super) divisor: usize,
}

impl Compare {
    /// How much to measure.
    pub(super) fn extent(&self) -> Extent {
        if self.quick {
            let duration = Duration::from_millis(300);
            return Extent {
                rounds: 1,
                other_rounds: self.other_rounds.into(),
                duration,
                divisor: QUICK,
            };
        }
        Extent {
            rounds: self.rounds.into(),
            other_rounds: self.other_rounds.into(),
            duration: self.duration,
            divisor: 1,
        }
    }

    /// The program that was named for a server.
    pub(super) fn program(&self, server: Contender) -> Option<&Path> {
        match server {
            Contender::Fanfare | Contender::FanfareSocketIo | Contender::FanfareMesa => {
                self.server_binary.as_deref()
            }
            Contender::Baseline => self.baseline.as_deref(),
            Contender::UWebSockets => self.uwebsockets.as_deref(),
            Contender::Sockudo => self.sockudo.as_deref(),
            Contender::Centrifugo => self.centrifugo.as_deref(),
            Contender::Floor | Contender::Ws | Contender::SocketIo | Contender::Mesa => None,
        }
    }

    /// The version that was named for a server.
    pub(super) fn named_version(&self, server: Contender) -> Option<&str> {
        self.peer_version
            .iter()
            .find(|(other, _)| *other == server)
            .map(|(_, version)| version.as_str())
    }

    /// The command line that does the same again, as others can read it.
    pub(super) fn words(&self) -> String {
        let mut words = vec!["fanfare-loadtest compare".to_owned()];
        for (flag, program) in [
            ("--server-binary", &self.server_binary),
            ("--baseline", &self.baseline),
            ("--uwebsockets", &self.uwebsockets),
            ("--sockudo", &self.sockudo),
            ("--centrifugo", &self.centrifugo),
        ] {
            words.extend(
                program
                    .as_deref()
                    .map(|program| format!("{flag} {}", shown(program))),
            );
        }
        let versions = self.peer_version.iter();
        words.extend(
            versions.map(|(server, version)| format!("--peer-version {}={version}", server.name())),
        );
        if self.quick {
            words.push("--quick".to_owned());
        } else {
            let duration = humantime::format_duration(self.duration);
            words.push(format!("--rounds {} --duration {duration}", self.rounds));
        }
        words.push(format!("--other-rounds {}", self.other_rounds));
        if !self.only.is_empty() {
            words.push(format!("--only {}", self.only.join(",")));
        }
        words.join(" ")
    }
}

fn peer_version(text: &str) -> Result<(Contender, String), String> {
    let (name, version) = text
        .split_once('=')
        .ok_or("it is such as uwebsockets=20.79.0")?;
    let server = Contender::find(name).ok_or_else(|| format!("there is no server {name}"))?;
    Ok((server, version.to_owned()))
}

fn folder_name(text: &str) -> Result<String, String> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    if text.starts_with(|first: char| first.is_ascii_alphanumeric()) && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err("it has letters, digits, - _ and . only, and begins with a letter or digit".to_owned())
}
