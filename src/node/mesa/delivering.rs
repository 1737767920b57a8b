//! Messages of dispatchers on their way to clients.

use std::cell::LazyCell;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    super::{
        NodeError, Target,
        look::{close_all, user_connections},
    },
    Captured, ClusterHandles, Mesa, MesaApp, arg,
    arriving::Capture,
    giving_back::{GivenBack, GoesTo},
    script::{PASS_ON, SETTLE, TAKE_LEAD},
};
use crate::{
    bus::BusError,
    close::{self, Close},
    config::MesaSync,
    history::HistoryError,
    id::{AppId, NodeId},
    limits::{MESA_SETTLED_TOGETHER, MESA_STORED_BYTES, TARGET_NAMES},
    protocol::{
        event::{Data, Event, Exceptions},
        frame::Frame,
        mesa::{Dispatched, INTERNAL, Recipients, Text},
    },
};

/// The event of the server that closes connections.
const DISCONNECT: &str = "DISCONNECT_CLIENT";

/// What a publication of a decided message begins with, on a line of its own.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Head {
    /// Which node has decided.
    #[serde(default)]
    by: String,
    /// There is no message: something is stored for users who are connected.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    look: bool,
    /// Names the message, with the last publication of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    done: Option<String>,
    /// Names the message, with any publication of it but the last, and says about how many of its users it is decided by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    part: Option<(String, usize)>,
    /// There is no message: the node has taken the lead, and says how often it has by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lead: Option<u64>,
    /// It is for all whom the message names, wherever they are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    all: bool,
}

/// Where a user was when it was decided about a message: the nodes, each with a `:` and which stay there it was.
pub(super) type UserAtNodes = (String, Vec<String>);

/// A decided message, read.
pub(crate) struct Settled<'a> {
    head: Head,
    places: Vec<UserAtNodes>,
    message: &'a [u8],
}

/// What a user was before a message was delivered.
#[derive(Clone, Copy, Debug)]
struct Before {
    /// The message waits for a connection of the user, or is stored.
    is_held: bool,
    /// See [`Users::change`](super::Users::change).
    change: Option<u64>,
}

/// A message as it is decided about for some of its users.
struct Part {
    message: Bytes,
    /// As it is stored; nothing if it is not to be.
    list: Bytes,
    /// Bytes that may be stored for one user.
    most: usize,
}

/// What became of decided messages.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    /// Users for whom there was no room.
    pub(crate) full: u64,
    /// Why, if the app stores as many bytes as it may.
    pub(crate) over_quota: Option<HistoryError>,
}

impl<'a> Settled<'a> {
    /// Reads what [`SETTLE`] has published; `None` for anything else.
    pub(crate) fn read(payload: &'a [u8]) -> Option<Self> {
        let mut lines = payload.splitn(3, |byte| *byte == b'\n');
        let head = serde_json::from_slice(lines.next()?).ok()?;
        // Lua writes an empty list as an empty object.
        let places = match lines.next()? {
            b"{}" => Vec::new(),
            places => serde_json::from_slice(places).ok()?,
        };
        Some(Self {
            head,
            places,
            message: lines.next()?,
        })
    }

    /// How far another node than `node` has decided about a message, if that is what it says.
    pub(crate) fn progress(&self, node: NodeId) -> Option<Progress<'_>> {
        if self.is_by(node) {
            return None;
        }
        match &self.head {
            Head {
                done: Some(digest), ..
            } => Some(Progress::Done(digest)),
            Head {
                part: Some((digest, users)),
                ..
            } => Some(Progress::Part(digest, *users)),
            _ => None,
        }
    }

    /// How often `node` has taken the lead by now, if this says that it has.
    pub(crate) fn takes_lead(&self, node: NodeId) -> Option<u64> {
        self.head.lead.filter(|_| self.is_by(node))
    }

    fn is_by(&self, node: NodeId) -> bool {
        self.head.by == node.to_string()
    }
}

/// How far it was decided about the message with a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress<'a> {
    /// About so many of its users, the first of them.
    Part(&'a str, usize),
    /// About all of it.
    Done(&'a str),
}

/// Why it was not decided about a message, or not about all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotSettled {
    /// Another node decides now. About so many of the message's users it was decided before that.
    #[error("another node decides about messages")]
    Superseded(usize),
    /// Parts of it, or all of it, may have been decided.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl Head {
    fn of(by: NodeId) -> Self {
        Self {
            by: by.to_string(),
            ..Self::default()
        }
    }

    fn bytes(&self) -> Bytes {
        // Strings and numbers always serialize.
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

/// What a publication begins with that decides about nothing, and only goes on to where the users are.
pub(super) fn head(by: NodeId) -> Bytes {
    Head::of(by).bytes()
}

/// For how many there was no room, as [`SETTLE`] says. Nothing if another node decides.
fn full(answer: redis::Value) -> Option<u64> {
    u64::try_from(redis::from_redis_value::<i64>(answer).unwrap_or(0)).ok()
}

impl MesaApp {
    /// The list of one that is stored of a message for users who are away; nothing if it is not to be stored.
    fn list(&self, dispatched: &Dispatched<'_>) -> Bytes {
        if self.has_sync() && dispatched.message.is_synced() {
            format!("[{}]", dispatched.text).into()
        } else {
            Bytes::new()
        }
    }
}

impl Mesa {
    /// Takes the lead in deciding about messages. Once this node hears that, with `count` ([`Settled::takes_lead`]), it has heard of
    /// all that was decided before.
    ///
    /// # Errors
    /// [`BusError`]: it may have taken the lead.
    pub(crate) async fn take_lead(&self, app: AppId, count: u64) -> Result<(), BusError> {
        let Some((mesa, cluster)) = self.in_redis(app) else {
            return Ok(());
        };

        let keys = cluster.keys(app);
        let head = Head {
            lead: Some(count),
            // For nodes that do not know of this: there is nothing to look for.
            look: true,
            ..Head::of(self.id())
        };
        let publication = [&*head.bytes(), b"\n[]\n"].concat();
        let args = vec![
            self.node_name(),
            cluster.bus.channel(&mesa.settled).into(),
            publication.into(),
        ];
        let taking = cluster
            .bus
            .eval(&TAKE_LEAD, &keys.home, vec![keys.lead()], args);
        taking.await.map(|_| ())
    }

    /// Decides about a message for all nodes; see [`SETTLE`]. About the first `before` of its users it was decided already.
    ///
    /// # Errors
    /// [`NotSettled`].
    pub(crate) async fn settle(
        &self,
        app: AppId,
        payload: &[u8],
        digest: &str,
        before: usize,
    ) -> Result<Decided, NotSettled> {
        let (Some((mesa, cluster)), Ok(dispatched)) =
            (self.in_redis(app), Dispatched::read(payload))
        else {
            return Ok(Decided::default());
        };

        // Everyone is wherever they are, and nothing is stored for all: nobody has to look them up.
        let users = match &dispatched.to {
            Recipients::Users(users) if dispatched.message.op != INTERNAL => users,
            _ => return self.pass_on(mesa, cluster, payload, digest).await,
        };

        let list = mesa.list(&dispatched);
        let mut decided = Decided::default();
        if !list.is_empty() {
            decided.over_quota = self.history.check_quota(app).err();
        }

        // The users for whom it is are separate from it: there may be thousands, and each part has only its own.
        let text = dispatched.text;
        let part = Part {
            message: format!("{{\"message\":{text},\"recipients\":[]}}").into(),
            list,
            most: match decided.over_quota {
                None => MESA_STORED_BYTES,
                Some(_) => 0,
            },
        };

        let mut at = before.min(users.len());
        loop {
            let rest = &users[at..];
            let some = &rest[..rest.len().min(MESA_SETTLED_TOGETHER)];
            let next = at + some.len();
            let is_last = next == users.len();
            let digest = digest.to_owned();
            let head = Head {
                done: is_last.then(|| digest.clone()),
                part: (!is_last).then_some((digest, next)),
                ..Head::of(self.id())
            };

            // One after another: the last one says that the message is done.
            let answer = self.settle_part(mesa, cluster, &part, &head, some).await?;
            decided.full += full(answer).ok_or(NotSettled::Superseded(at))?;
            if is_last {
                return Ok(decided);
            }
            at = next;
        }
    }

    /// Decides about a message for some of its users.
    fn settle_part(
        &self,
        mesa: &MesaApp,
        cluster: &ClusterHandles,
        part: &Part,
        head: &Head,
        users: &[String],
    ) -> impl Future<Output = Result<redis::Value, BusError>> + use<> {
        let keys = cluster.keys(mesa.app);
        let is_exact = mesa.config.sync == MesaSync::Dispatcher;
        let mut args = vec![
            self.node_name(),
            keys.prefix(),
            keys.gone(),
            cluster.bus.channel(&mesa.settled).into(),
            head.bytes(),
            part.message.clone(),
            part.list.clone(),
            arg(if is_exact { "1" } else { "0" }),
            part.most.to_string().into(),
            // Until it is certain whether a node that it has gone to was alive.
            (4 * self.limits().node_lease.as_millis())
                .to_string()
                .into(),
        ];

        args.extend(users.iter().map(|user| arg(user)));
        let names = vec![
            mesa.connected.clone(),
            mesa.undelivered.clone(),
            keys.nodes(),
            keys.sent(),
            keys.lead(),
        ];
        cluster.bus.eval(&SETTLE, &keys.home, names, args)
    }

    /// Has all nodes carry a message out.
    async fn pass_on(
        &self,
        mesa: &MesaApp,
        cluster: &ClusterHandles,
        payload: &[u8],
        digest: &str,
    ) -> Result<Decided, NotSettled> {
        let keys = cluster.keys(mesa.app);
        let head = Head {
            all: true,
            done: Some(digest.to_owned()),
            ..Head::of(self.id())
        };
        let args = vec![
            self.node_name(),
            cluster.bus.channel(&mesa.settled).into(),
            [&*head.bytes(), b"\n[]\n", payload].concat().into(),
        ];
        let passing = cluster
            .bus
            .eval(&PASS_ON, &keys.home, vec![keys.lead()], args);
        let answer = full(passing.await?);
        answer
            .ok_or(NotSettled::Superseded(0))
            .map(|_| Decided::default())
    }

    /// Delivers a decided message to the connections here that it is for.
    ///
    /// # Errors
    /// What is wrong with the message, or why it is refused.
    pub(crate) async fn settled(&self, app: AppId, settled: Settled<'_>) -> Result<(), MesaError> {
        let Settled {
            head,
            mut places,
            message,
        } = settled;

        let own = format!("{}:", self.id());
        // Other nodes get the same publication.
        places.retain(|(_, stays)| stays.iter().any(|stay| stay.starts_with(&own)));
        if head.look {
            if let Some(mesa) = self.get(app) {
                let mut users = mesa.users.lock();
                for (user, _) in &places {
                    users.looks.once(user);
                }
            }
            return Ok(());
        }

        let dispatched = Dispatched::read(message).map_err(MesaError::Unreadable)?;
        if head.all {
            return self.carry_out(app, &dispatched).await;
        }
        if places.is_empty() {
            return Ok(());
        }

        self.deliver(app, &dispatched, message, places).await
    }

    /// Does what a dispatcher says, for the connections here, where nobody has decided about it.
    ///
    /// # Errors
    /// As [`Mesa::settled`].
    pub(crate) async fn carry_out(
        &self,
        app: AppId,
        dispatched: &Dispatched<'_>,
    ) -> Result<(), MesaError> {
        let message = &dispatched.message;
        if message.op == INTERNAL {
            if !matches!(&message.t, Some(Text(name)) if name == DISCONNECT) {
                return Ok(());
            }
            let close = Close::new(close::DISCONNECTED, "disconnected by a dispatcher");
            for target in targets(&dispatched.to) {
                target.check()?;
                close_all(&self.hub, target.selection(app, None), close.clone()).await?;
            }
            return Ok(());
        }

        let frame = self.encode(app, &event(dispatched)?);
        for target in targets(&dispatched.to) {
            self.place(app, &frame, target).await?;
        }
        Ok(())
    }

    /// Delivers a message to users who were here when it was decided. For those who have gone since, it is stored, or goes where
    /// they are now.
    async fn deliver(
        &self,
        app: AppId,
        dispatched: &Dispatched<'_>,
        payload: &[u8],
        places: Vec<UserAtNodes>,
    ) -> Result<(), MesaError> {
        let Some((mesa, _)) = self.in_redis(app) else {
            return Ok(());
        };

        let captured = Captured {
            frame: self.encode(app, &event(dispatched)?),
            list: mesa.list(dispatched),
        };

        let (mut held, mut without_room) = (Vec::new(), Vec::new());
        let before: Vec<Before> = {
            let mut users = mesa.users.lock();
            let capture = |(user, _): &UserAtNodes| {
                let capture = users.capture(user, &captured, &mut held);
                if capture == Capture::NoRoom && !captured.list.is_empty() {
                    without_room.push(user.clone());
                }
                Before {
                    is_held: capture != Capture::Nobody,
                    change: users.change(user),
                }
            };

            places.iter().map(capture).collect()
        };

        for user in without_room {
            // It is found where one looks for what a dispatcher has stored late.
            self.store(mesa, &user, captured.list.clone());
        }

        for some in places.chunks(TARGET_NAMES) {
            let users = some.iter().map(|(user, _)| user.clone()).collect();
            let mut target = Target::users(users);
            target.except = Exceptions {
                connections: held.iter().map(ToString::to_string).collect(),
                ..Exceptions::default()
            };
            self.place(app, &captured.frame, target).await?;
        }

        if captured.list.is_empty() {
            // Nothing would be stored, so a user who has gone loses nothing.
            return Ok(());
        }

        let message = LazyCell::new(|| Bytes::copy_from_slice(payload));
        for (place, before) in places.into_iter().zip(before) {
            if !before.is_held {
                self.missed(mesa, place, before, (&message, &captured.list));
            }
        }

        Ok(())
    }

    /// If a user has just gone, sees to it that a message is not lost that had come here for the user. If the user
    /// has come or gone in the meantime, the message may come twice.
    fn missed(
        &self,
        mesa: &MesaApp,
        (user, places): UserAtNodes,
        before: Before,
        (message, list): (&LazyCell<Bytes, impl FnOnce() -> Bytes>, &Bytes),
    ) {
        // The shards' locks come before the users'.
        let is_open = user_connections(&self.hub, mesa.app, &user) > 0;
        let has_changed = mesa.users.lock().change(&user) != before.change;
        if is_open && !has_changed {
            return;
        }

        let goes_to = if has_changed {
            GoesTo::Back
        } else {
            GoesTo::User {
                message: Bytes::clone(message),
                places,
            }
        };

        let one = GivenBack {
            user: user.into(),
            list: list.clone(),
            goes_to,
        };
        self.give_back(mesa, one);
    }

    /// Encodes an event of a program of Mesa.
    pub(super) fn encode(&self, app: AppId, event: &Event<'_>) -> Frame {
        self.app(app).metrics.encodings.inc();
        event.encode()
    }

    /// Places an event of a program of Mesa for connections of this node. As with events of other nodes, it was accepted already. So
    /// it waits for admission as long as it takes.
    ///
    /// # Errors
    /// Those of a target that names too much.
    pub(super) async fn place(
        &self,
        app: AppId,
        frame: &Frame,
        target: Target,
    ) -> Result<(), NodeError> {
        target.check()?;
        let selection = target.selection(app, None);
        let (reach, permit) = self.hub.admit_in_time(&selection, frame.len()).await;
        self.app(app).metrics.accepted.inc();
        self.hub
            .place_reach(&selection, reach, frame, &permit)
            .await;
        Ok(())
    }
}

/// Why a message was not delivered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MesaError {
    /// It is not a message of a dispatcher.
    #[error("{0}")]
    Unreadable(String),
    /// It was refused.
    #[error(transparent)]
    Refused(#[from] NodeError),
}

impl MesaError {
    /// The stable code, for the log.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "bad_message",
            Self::Refused(error) => error.code(),
        }
    }
}

fn event<'a>(dispatched: &'a Dispatched<'_>) -> Result<Event<'a>, NodeError> {
    let message = &dispatched.message;
    let data = Data::Json(message.d.unwrap_or(RawValue::NULL));
    Ok(Event::new(message.name(), data)?)
}

/// Whom a message is for, in parts that one call may name.
fn targets(to: &Recipients) -> Vec<Target> {
    match to {
        Recipients::Everyone => vec![Target::default()],
        Recipients::Users(users) => users
            .chunks(TARGET_NAMES)
            .map(|users| Target::users(users.to_vec()))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_decided_is_read_back() {
        let node = NodeId(7);
        let of = |head: Head, places: &str| {
            [&head.bytes()[..], b"\n", places.as_bytes(), b"\n{\n}"].concat()
        };
        let done = |places: &str| {
            let done = Some("d".to_owned());
            of(
                Head {
                    done,
                    ..Head::of(node)
                },
                places,
            )
        };
        let payload = done(r#"[["ann",["a","b"]]]"#);
        let settled = Settled::read(&payload).unwrap();
        let nodes = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(settled.places, [("ann".to_owned(), nodes)]);
        assert_eq!(settled.message, b"{\n}");
        assert_eq!(settled.progress(node), None, "it knows");
        assert_eq!(settled.progress(NodeId(8)), Some(Progress::Done("d")));
        assert_eq!(settled.takes_lead(node), None);
        assert!(Settled::read(&done("{}")).unwrap().places.is_empty());
        for wrong in [&b""[..], b"{}", b"{}\n[]", b"x\n[]\n"] {
            assert!(Settled::read(wrong).is_none());
        }

        let part = Some(("d".to_owned(), 500));
        let payload = of(
            Head {
                part,
                ..Head::of(node)
            },
            "[]",
        );
        let settled = Settled::read(&payload).unwrap();
        assert_eq!(settled.progress(NodeId(8)), Some(Progress::Part("d", 500)));

        let lead = Some(3);
        let payload = of(
            Head {
                lead,
                ..Head::of(node)
            },
            "[]",
        );
        let settled = Settled::read(&payload).unwrap();
        assert_eq!(settled.takes_lead(node), Some(3));
        assert_eq!(settled.takes_lead(NodeId(8)), None, "another one leads");
    }
}
