//! The other protocols that the apps of a node serve: where their clients connect, and in which forms they get frames.

use std::sync::Arc;

use super::recoveries::Recoveries;
use crate::{
    app::App,
    config::{Config, ProtocolKind, ProtocolsConfig},
    hub::Forms,
    id::AppId,
    protocol::{
        altogic, mesa,
        socketio::{Namespaces, SocketIo},
        wire::{Encoding, Form},
        zexcore,
    },
};

/// A protocol that an app serves.
#[derive(Clone, Debug)]
pub(crate) struct ServedProtocol {
    pub(crate) app: AppId,
    pub(crate) kind: ProtocolKind,
    /// Where its clients connect, without a slash at the end.
    path: Box<str>,
    /// For which names of the server the path is this app's; without any, for all that no other app has.
    hosts: Box<[Box<str>]>,
    /// In the order of [`encodings`].
    pub(crate) forms: Arc<[Form]>,
    /// Those of Socket.IO.
    pub(crate) namespaces: Arc<Namespaces>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Protocols {
    served: Vec<ServedProtocol>,
    /// The connections for which names stand that clients keep over several connections.
    pub(super) recoveries: Recoveries,
}

impl Protocols {
    /// Those that `config` turns on for `apps`, whose forms are added to `forms`.
    pub(super) fn new(config: &Config, apps: &[App], forms: &mut Forms) -> Self {
        let mut served: Vec<ServedProtocol> = Vec::new();
        for (app, settings) in apps.iter().zip(config.apps.values()) {
            for (kind, path) in settings.protocols.paths() {
                let names = settings.protocols.socketio.as_ref();
                let names = names.map_or(&[][..], |socketio| &socketio.namespaces);
                let namespaces = Arc::new(Namespaces::new(names.iter().map(String::as_str)));
                let known = served.last();
                let known = known.filter(|known| (known.app, known.kind) == (app.id, kind));

                // A kind with several paths has the same forms at each. The configuration bounds how many there are.
                let mut new = || {
                    let encodings = encodings(kind, &settings.protocols, &namespaces).into_iter();
                    encodings
                        .filter_map(|encoding| forms.add(app.id, encoding, app.metrics.clone()))
                        .collect()
                };

                let forms = known.map_or_else(&mut new, |known| known.forms.clone());
                served.push(ServedProtocol {
                    app: app.id,
                    kind,
                    namespaces,
                    path: path.trim_end_matches('/').into(),
                    hosts: settings
                        .protocols
                        .hosts(kind)
                        .iter()
                        .map(|host| host.to_ascii_lowercase().into())
                        .collect(),
                    forms,
                });
            }
        }

        Self {
            served,
            recoveries: Recoveries::new(apps.len()),
        }
    }

    /// The apps that serve clients of `kind`.
    pub(crate) fn apps(&self, kind: ProtocolKind) -> impl Iterator<Item = AppId> {
        let mut last = None;
        let of_kind = self.served.iter().filter(move |served| served.kind == kind);
        // One that has several paths has them one after another.
        of_kind
            .map(|served| served.app)
            .filter(move |app| last.replace(*app) != Some(*app))
    }

    /// Where clients of `kind` connect, of the first app that serves them.
    pub(crate) fn path_of(&self, kind: ProtocolKind) -> Option<&str> {
        let served = self.served.iter().find(|served| served.kind == kind);
        served.map(|served| &*served.path)
    }

    /// The protocol whose clients connect at `path` of `host`, with or without a slash at its end.
    pub(crate) fn at(&self, path: &str, host: &str) -> Option<&ServedProtocol> {
        let is_named = |served: &ServedProtocol| {
            let mut hosts = served.hosts.iter();
            hosts.any(|one| one.eq_ignore_ascii_case(host))
        };
        let named = self.with(path).find(|served| is_named(served));
        named.or_else(|| self.with(path).find(|served| served.hosts.is_empty()))
    }

    /// Whether clients of a protocol connect at `path`, of one host or another.
    pub(crate) fn is_path(&self, path: &str) -> bool {
        self.with(path).next().is_some()
    }

    fn with(&self, path: &str) -> impl Iterator<Item = &ServedProtocol> {
        let path = path.strip_suffix('/').unwrap_or(path);
        self.served
            .iter()
            .filter(move |served| *served.path == *path)
    }
}

/// What writes frames for clients of `kind`: one for each form that they may have.
fn encodings(
    kind: ProtocolKind,
    config: &ProtocolsConfig,
    namespaces: &Arc<Namespaces>,
) -> Vec<Box<dyn Encoding>> {
    match kind {
        ProtocolKind::Zexcore => vec![Box::new(zexcore::Zexcore)],
        ProtocolKind::Altogic => altogic::encodings(altogic::System::Altogic),
        ProtocolKind::Agnost => altogic::encodings(altogic::System::Agnost),
        ProtocolKind::Mesa => {
            let has_heartbeat = config.mesa.as_ref().is_some_and(|mesa| mesa.heartbeat);
            vec![Box::new(mesa::Mesa { has_heartbeat })]
        }
        ProtocolKind::SocketIo => {
            let waiting = (0..namespaces.len()).map(|at| SocketIo::waiting(namespaces, at));
            // Each number is a set of namespaces that a client can be inside of, as bits. It is
            // never empty.
            let sets = 1..1u8 << namespaces.len();
            let inside = sets.map(|inside| SocketIo::inside(namespaces, inside));
            let boxed = |form| Box::new(form) as Box<dyn Encoding>;
            waiting.chain(inside).map(boxed).collect()
        }
    }
}
