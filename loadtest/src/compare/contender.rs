//! Who takes part.

use serde::{Deserialize, Serialize};

/// A server that is measured beside the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Contender {
    Fanfare,
    Floor,
    #[serde(rename = "uwebsockets")]
    UWebSockets,
    Ws,
    #[serde(rename = "socket.io")]
    SocketIo,
    Sockudo,
    Centrifugo,
    /// An earlier Fanfare.
    Baseline,
    /// Fanfare, by clients of Socket.IO.
    #[serde(rename = "fanfare-socketio")]
    FanfareSocketIo,
    /// Fanfare, by clients of Mesa.
    FanfareMesa,
    Mesa,
}

/// Everyone.
pub(super) const ALL: &[Contender] = &[
    Contender::Fanfare,
    Contender::Floor,
    Contender::UWebSockets,
    Contender::Ws,
    Contender::SocketIo,
    Contender::Sockudo,
    Contender::Centrifugo,
    Contender::Baseline,
    Contender::FanfareSocketIo,
    Contender::FanfareMesa,
    Contender::Mesa,
];

/// Those that take part in every general load, by clients of their own.
pub(super) const GENERAL: &[Contender] = &[
    Contender::Fanfare,
    Contender::Floor,
    Contender::UWebSockets,
    Contender::Ws,
    Contender::SocketIo,
    Contender::Sockudo,
    Contender::Centrifugo,
    Contender::Baseline,
];

/// Fanfare by the clients of other systems, those systems' own servers, and Fanfare by its own clients.
pub(super) const PROTOCOLS: &[Contender] = &[
    Contender::Fanfare,
    Contender::FanfareSocketIo,
    Contender::SocketIo,
    Contender::FanfareMesa,
    Contender::Mesa,
];

/// Those that the goals are about.
pub(super) const CORE: &[Contender] = &[
    Contender::Fanfare,
    Contender::Floor,
    Contender::UWebSockets,
    Contender::Baseline,
];

/// Ours, and the one to beat.
pub(super) const PAIR: &[Contender] = &[
    Contender::Fanfare,
    Contender::UWebSockets,
    Contender::Baseline,
];

/// Ours alone.
pub(super) const OURS: &[Contender] = &[Contender::Fanfare, Contender::Baseline];

impl Contender {
    /// As it stands in files.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fanfare => "fanfare",
            Self::Floor => "floor",
            Self::UWebSockets => "uwebsockets",
            Self::Ws => "ws",
            Self::SocketIo => "socket.io",
            Self::Sockudo => "sockudo",
            Self::Centrifugo => "centrifugo",
            Self::Baseline => "baseline",
            Self::FanfareSocketIo => "fanfare-socketio",
            Self::FanfareMesa => "fanfare-mesa",
            Self::Mesa => "mesa",
        }
    }

    /// As people write it.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Fanfare => "Fanfare",
            Self::Floor => "bare loop",
            Self::UWebSockets => "uWebSockets",
            Self::Ws => "ws",
            Self::SocketIo => "Socket.IO",
            Self::Sockudo => "Sockudo",
            Self::Centrifugo => "Centrifugo",
            Self::Baseline => "Fanfare before",
            Self::FanfareSocketIo => "Fanfare by Socket.IO",
            Self::FanfareMesa => "Fanfare by Mesa",
            Self::Mesa => "Mesa",
        }
    }

    /// The one of this name.
    pub(super) fn find(name: &str) -> Option<Self> {
        ALL.iter()
            .copied()
            .find(|contender| contender.name() == name)
    }

    /// Whether it takes part in all rounds.
    pub(super) fn is_core(self) -> bool {
        CORE.contains(&self) || matches!(self, Self::FanfareSocketIo | Self::FanfareMesa)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_in_files() {
        for contender in ALL {
            assert_eq!(serde_json::to_value(contender).unwrap(), contender.name());
            assert_eq!(Contender::find(contender.name()), Some(*contender));
        }
    }
}
