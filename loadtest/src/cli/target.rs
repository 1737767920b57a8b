//! The part of the command line that says which server is measured.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};

/// A server that the harness can drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Fanfare
    Fanfare,
    /// Fanfare, by clients of Socket.IO
    #[value(name = "fanfare-socketio")]
    FanfareSocketIo,
    /// Fanfare, by clients of Mesa
    FanfareMesa,
    /// The harness's own bare server: what the kernel and the harness cost by themselves
    Floor,
    /// A Node server of the harness's own on the npm package ws
    Ws,
    /// A Node server of the harness's own on the npm package socket.io, by WebSocket alone
    #[value(name = "socket.io")]
    SocketIo,
    /// A Node server of the harness's own on the npm package @cryb/mesa
    Mesa,
    /// Sockudo, which speaks Pusher's protocol
    Sockudo,
    /// Centrifugo, in memory, with anonymous clients
    Centrifugo,
    /// Any server without a protocol of its own: the --plain options say how it is spoken to
    Plain,
}

impl Kind {
    /// Whether it is Fanfare, whatever its clients speak.
    pub(crate) fn is_fanfare(self) -> bool {
        matches!(
            self,
            Self::Fanfare | Self::FanfareSocketIo | Self::FanfareMesa
        )
    }

    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// What a server could be started from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'t> {
    /// The program that was named; for servers on Node, Node itself.
    pub(crate) program: Option<&'t Path>,
    /// Where the harness's own servers for Node are.
    pub(crate) peers: &'t Path,
}

impl Default for Place<'_> {
    /// What can be found without being named.
    fn default() -> Self {
        Self {
            program: None,
            peers: Path::new(PEERS),
        }
    }
}

impl Place<'_> {
    /// The program that was named, or else `default`, which is looked for on the PATH.
    pub(crate) fn program_or<'p>(&'p self, default: &'p str) -> &'p Path {
        self.program.unwrap_or(Path::new(default))
    }
}

/// Where clients of a plain server connect, unless another path is named.
pub(crate) const PLAIN_CONNECT: &str = "/ws?user={user}";
/// Where it takes an event for everyone.
pub(crate) const PLAIN_EMIT: &str = "/emit";
/// Where it takes an event for one user.
pub(crate) const PLAIN_USER: &str = "/emit?user={user}";

const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");

/// Which server is measured.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Server")]
pub(crate) struct Target {
    /// What kind of server it is
    #[arg(long, value_enum, default_value_t = Kind::Fanfare, value_name = "KIND")]
    server: Kind,
    /// Short for --server floor
    #[arg(long, conflicts_with_all = ["server", "server_binary", "url"])]
    floor: bool,
    /// Start this program on a free port, and stop it at the end; by default what has the kind's name on the PATH, or
    /// Node for the harness's own servers on it
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) server_binary: Option<PathBuf>,
    /// Where the harness's own servers for Node are, by default where it was built
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// Pass this to the server that is started; may be repeated. With --server plain, {port} stands for its port
    #[arg(
        long,
        value_name = "ARG",
        allow_hyphen_values = true,
        conflicts_with = "url"
    )]
    pub(crate) server_arg: Vec<String>,
    /// Use the server that runs here
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "server_binary")]
    pub(crate) url: Option<SocketAddr>,
    /// The process of that server, for its CPU and memory
    #[arg(long, requires = "url")]
    pub(crate) pid: Option<u32>,
    /// The secret that Fanfare's client tokens are signed with (HS256)
    #[arg(
        long,
        default_value = "load-test-secret-0123456789abcdef",
        value_name = "SECRET"
    )]
    pub(crate) token_secret: String,
    /// The server's API key, if it wants one; for Sockudo an app's ID:KEY:SECRET
    #[arg(long, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    /// Where clients of a plain server connect
    #[arg(long, value_name = "PATH", default_value = PLAIN_CONNECT)]
    pub(crate) plain_connect: String,
    /// Where a plain server takes an event for everyone, by POST
    #[arg(long, value_name = "PATH", default_value = PLAIN_EMIT)]
    pub(crate) plain_emit: String,
    /// Where a plain server takes an event for one user, by POST
    #[arg(long, value_name = "PATH", default_value = PLAIN_USER)]
    pub(crate) plain_user: String,
}

impl Target {
    /// What kind of server it is.
    pub(crate) fn kind(&self) -> Kind {
        if self.floor { Kind::Floor } else { self.server }
    }

    /// What a server could be started from.
    pub(crate) fn place(&self) -> Place<'_> {
        Place {
            program: self.server_binary.as_deref(),
            peers: self.peers.as_deref().unwrap_or(Path::new(PEERS)),
        }
    }
}
