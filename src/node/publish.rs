//! Publishing: select, encode once, admit, keep where that is wanted, place.

mod durable;

use std::{future::poll_fn, sync::Arc, task::Poll, time::Instant};

use ahash::AHashSet;
use smol_str::SmolStr;
use uuid::Uuid;

use super::{
    ClusterScope, Node, NodeError, Placement, Receipt, Target,
    cluster::{Message, Sent},
};
use crate::{
    filter::Bound,
    history::{EchoOmission, Key, New, Omit, Retention},
    hub::{Closure, Permit, Reach, Recipients, RemainingScan, ScanPermit, Selection},
    id::AppId,
    limits::{HISTORY_EVENT_BYTES, HISTORY_NAME_BYTES, SMALL_DELIVERIES},
    log_limit::Line,
    protocol::{
        event::{Draft, Event, Marks, Sender},
        frame::Frame,
    },
    time_slice::TimeSlice,
};

/// An event on its way in, with all that its caller says about it.
#[derive(Debug)]
pub(crate) struct Publication<'a> {
    pub(crate) event: Event<'a>,
    pub(crate) target: Target,
    /// Whether to keep it for who is away; `None` keeps it where that is possible.
    pub(crate) store: Option<bool>,
    /// The client that sent it, if one did.
    pub(crate) author: Option<Author>,
    /// Whose connections are meant.
    pub(crate) scope: ClusterScope,
    /// Whose counts the receipt has.
    pub(crate) receipt: ClusterScope,
}

impl<'a> Publication<'a> {
    /// An event of nobody in particular for all whom `target` means, on every node.
    pub(crate) fn new(event: Event<'a>, target: Target) -> Self {
        let (scope, receipt) = (ClusterScope::Cluster, ClusterScope::Node);
        Self {
            event,
            target,
            store: None,
            author: None,
            scope,
            receipt,
        }
    }
}

/// The client that sent an event.
#[derive(Clone, Debug)]
pub(crate) struct Author {
    pub(crate) sender: Sender,
    pub(crate) device: Option<SmolStr>,
    /// Whether it gets its own event.
    pub(crate) echo: bool,
}

/// For whom an event is kept.
#[derive(Debug)]
enum Durability {
    Transient,
    Channel(SmolStr, Key, Retention),
    Users(Vec<SmolStr>, Retention),
}

/// A publication whose meaning is settled, and which nothing has been done for yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    id: Uuid,
    selection: Selection,
    draft: Draft,
    durability: Durability,
    omit: Option<Arc<Omit>>,
    /// What the other nodes get.
    message: Option<Message>,
}

impl Prepared {
    /// How often it is stored, and what each copy counts for.
    fn to_store(&self) -> (usize, usize) {
        let copies = match &self.durability {
            Durability::Transient => 0,
            Durability::Channel(..) => 1,
            Durability::Users(users, _) => users.len(),
        };
        let omit = self.omit.as_deref();
        let names = omit.map_or(0, |omit| omit.bytes() + omit.names() * HISTORY_NAME_BYTES);
        (copies, self.draft.len() + HISTORY_EVENT_BYTES + names)
    }

    /// Whether this node, too, places it when it comes back over the bus.
    fn comes_by_bus(&self) -> bool {
        matches!(self.message, Some(Message::Durable(_)))
    }
}

/// A publication past admission: it is carried out, whatever becomes of its caller.
#[derive(Debug)]
struct Admitted {
    prepared: Prepared,
    reach: Reach,
    permit: Permit,
    scan_permit: Option<ScanPermit>,
}

/// A small publication that is placed in part.
#[derive(Debug)]
struct Unfinished {
    receipt: Receipt,
    selection: Selection,
    frame: Frame,
    permit: Permit,
    scan_permit: Option<ScanPermit>,
    began: Instant,
    rest: Box<RemainingScan>,
}

impl Node {
    /// Delivers an event to the connections of `app` that its target means, and keeps it where that is wanted.
    ///
    /// The event is encoded once. When this returns, every connection that matched has it in its outbox, so what the
    /// same caller publishes next comes after it. Past admission it is carried out whatever becomes of the caller.
    ///
    /// # Errors
    /// [`NodeError`]; nothing was delivered then.
    pub(crate) async fn publish(
        self: &Arc<Self>,
        app: AppId,
        publication: Publication<'_>,
    ) -> Result<Receipt, NodeError> {
        let bound = self.compile_aside(app, &publication.target).await?;
        let prepared = self.prepare_with(app, publication, bound)?;
        self.deliver(prepared).await
    }

    /// Whether the event is kept for anyone.
    ///
    /// # Errors
    /// [`NodeError::CannotStore`].
    pub(crate) fn is_durable(
        &self,
        app: AppId,
        publication: &Publication<'_>,
    ) -> Result<bool, NodeError> {
        let Publication {
            target,
            store,
            scope,
            ..
        } = publication;
        Ok(!matches!(
            self.durability(app, target, (*store, *scope))?,
            Durability::Transient
        ))
    }

    /// Settles what a publication means, and encodes it: after this its caller's buffers may go.
    ///
    /// # Errors
    /// As [`Node::select`], [`NodeError::CannotStore`] and [`NodeError::TooMuchToStore`].
    pub(crate) fn prepare(
        &self,
        app: AppId,
        publication: Publication<'_>,
    ) -> Result<Prepared, NodeError> {
        self.prepare_with(app, publication, None)
    }

    /// The same with the filter of its target, where that is `bound` already.
    fn prepare_with(
        &self,
        app: AppId,
        publication: Publication<'_>,
        bound: Option<Arc<Bound>>,
    ) -> Result<Prepared, NodeError> {
        let Publication {
            event,
            target,
            store,
            author,
            scope,
            receipt,
        } = publication;

        target.check()?;
        let id = Uuid::now_v7();
        let durability = self.durability(app, &target, (store, scope))?;

        let marks = Marks {
            channel: target.one_channel(),
            from: author.as_ref().map(|author| &author.sender),
            id: matches!(durability, Durability::Users(..)).then_some(id),
        };

        let draft = event.draft(&marks);
        let omit = omitted(&durability, &target, author.as_ref());
        let own = author
            .filter(|author| !author.echo)
            .map(|author| author.sender.connection);
        let is_durable = !matches!(durability, Durability::Transient);

        let message = match &self.cluster {
            Some(cluster) if scope == ClusterScope::Cluster => {
                let draft = (id, &draft, is_durable);
                Some(cluster.sender.message(app, &target, draft, own, receipt)?)
            }
            _ => None,
        };

        let mut selection = self.select(app, target, bound)?;
        selection.except.connections.extend(own);
        let prepared = Prepared {
            id,
            selection,
            draft,
            durability,
            omit,
            message,
        };

        self.check_store([&prepared])?;
        Ok(prepared)
    }

    /// Refuses what would take more room in the store than one call may, before anything of it is stored.
    fn check_store<'p>(
        &self,
        publications: impl IntoIterator<Item = &'p Prepared>,
    ) -> Result<(), NodeError> {
        let (mut bytes, mut event, mut copies) = (0_usize, 0, 0);
        for (number, size) in publications.into_iter().map(Prepared::to_store) {
            bytes = bytes.saturating_add(number.saturating_mul(size));
            copies += number;
            event = if number > 0 { event.max(size) } else { event };
        }

        // A store in memory that has less room than that would only push out its own.
        let limits = &self.config.limits;
        let most = match self.cluster {
            Some(_) => limits.stored_publication_bytes,
            None => limits.stored_publication_bytes.min(limits.history_bytes),
        };

        if bytes > most && copies > 1 {
            return Err(NodeError::TooMuchToStore {
                bytes,
                event,
                copies,
                most,
            });
        }

        Ok(())
    }

    /// Delivers what was prepared; see [`Node::publish`].
    ///
    /// # Errors
    /// [`NodeError::Busy`] and [`NodeError::History`]; nothing was delivered then.
    pub(crate) async fn deliver(
        self: &Arc<Self>,
        prepared: Prepared,
    ) -> Result<Receipt, NodeError> {
        let mut admitted = self.admit(prepared).await?;
        if let (Durability::Transient, Reach::Small(_)) =
            (&admitted.prepared.durability, &admitted.reach)
        {
            let app = admitted.prepared.selection.app;
            let sent = admitted
                .prepared
                .message
                .take()
                .and_then(|message| self.send(message));

            let mut receipt = match self.place_at_once(admitted) {
                Ok(receipt) => receipt,
                Err(rest) => run_detached(self.clone().finish(rest)).await?,
            };

            if sent.is_some() {
                self.sent(app, sent, &mut receipt).await;
            }

            return Ok(receipt);
        }

        run_detached(self.clone().carry_out(admitted)).await?
    }

    /// Delivers several publications of one call, one after another, or none: all are admitted before the first is placed. All
    /// have the same filter and params, which are bound once.
    ///
    /// # Errors
    /// As [`Node::publish`].
    pub(crate) async fn publish_all(
        self: &Arc<Self>,
        app: AppId,
        publications: Vec<Publication<'_>>,
    ) -> Result<Receipt, NodeError> {
        let mut prepared = Vec::with_capacity(publications.len());
        let mut slice = TimeSlice::begin();
        let mut bound = None;

        for one in publications {
            if prepared.is_empty() {
                bound = self.compile_aside(app, &one.target).await?;
            }
            let one = self.prepare_with(app, one, bound.clone())?;
            bound.clone_from(&one.selection.filter);
            prepared.push(one);
            slice.rest().await;
        }

        self.check_store(&prepared)?;
        let (by_bus, here): (Vec<_>, Vec<_>) =
            prepared.into_iter().partition(Prepared::comes_by_bus);
        let admitted = self.admit_all(app, here).await?;
        self.app(app).metrics.accepted.inc_by(by_bus.len() as u64);

        run_detached(self.clone().carry_out_all(app, by_bus, admitted)).await?
    }

    /// Carries out one after another; those that come back over the bus first, which take their places at admission then:
    /// meanwhile the others hold none, or admission could be full of what waits for it.
    async fn carry_out_all(
        self: Arc<Self>,
        app: AppId,
        by_bus: Vec<Prepared>,
        admitted: Vec<Admitted>,
    ) -> Result<Receipt, NodeError> {
        let mut receipt: Option<Receipt> = None;
        if by_bus.is_empty() {
            for one in admitted {
                if !self.sum_up(app, &mut receipt, self.clone().carry_out(one).await)? {
                    break;
                }
            }
            return Ok(receipt.unwrap_or_else(|| Receipt::new(Uuid::now_v7())));
        }

        let here: Vec<Prepared> = admitted.into_iter().map(|one| one.prepared).collect();
        for prepared in by_bus {
            if !self.sum_up(
                app,
                &mut receipt,
                self.publish_durable(prepared, None).await,
            )? {
                return Ok(receipt.unwrap_or_else(|| Receipt::new(Uuid::now_v7())));
            }
        }

        for prepared in here {
            let scan_permit = self.hub.permit(&prepared.selection).await.ok().flatten();
            let (reach, permit) = self
                .hub
                .admit_in_time(&prepared.selection, prepared.draft.len())
                .await;
            let one = Admitted {
                prepared,
                reach,
                permit,
                scan_permit,
            };

            if !self.sum_up(app, &mut receipt, self.clone().carry_out(one).await)? {
                break;
            }
        }

        Ok(receipt.unwrap_or_else(|| Receipt::new(Uuid::now_v7())))
    }

    /// Adds what became of one of several publications; false if the rest is not to be tried.
    fn sum_up(
        &self,
        app: AppId,
        all: &mut Option<Receipt>,
        one: Result<Receipt, NodeError>,
    ) -> Result<bool, NodeError> {
        match (one, all) {
            (Ok(one), Some(all)) => all.join(one),
            (Ok(one), all) => *all = Some(one),
            (Err(error), None) => return Err(error),
            // Those before it were delivered; an error would say that nothing was.
            (Err(error), Some(all)) => {
                if let Some(others) = self.lines().note(Line::CarriedOutInPart) {
                    tracing::warn!(others, %error, "a publication was carried out in part");
                }
                all.missing_nodes = self.serving_names(app);
                return Ok(false);
            }
        }

        Ok(true)
    }

    async fn admit(&self, prepared: Prepared) -> Result<Admitted, NodeError> {
        let reach = self.hub.reach(&prepared.selection);
        let scan_permit = self
            .hub
            .permit_to_reach(&prepared.selection, &reach)
            .await?;
        let app = prepared.selection.app;
        let permit = self.hub.admit(app, &reach, prepared.draft.len()).await?;
        self.app(app).metrics.accepted.inc();

        Ok(Admitted {
            prepared,
            reach,
            permit,
            scan_permit,
        })
    }

    /// Admits all as one: by places of their own, each would wait for what the others hold.
    async fn admit_all(
        &self,
        app: AppId,
        prepared: Vec<Prepared>,
    ) -> Result<Vec<Admitted>, NodeError> {
        let reaches: Vec<Reach> = prepared
            .iter()
            .map(|one| self.hub.reach(&one.selection))
            .collect();
        let bound = reaches.iter().map(Reach::bound).sum();
        let bytes = prepared.iter().map(|one| one.draft.len()).sum();

        // One for all of them: they run one after another.
        let heavy = prepared
            .iter()
            .any(|one| one.selection.is_scan() || one.selection.is_heavy());
        let scan_permit = if heavy {
            Some(self.hub.permit_to_scan(app).await?)
        } else {
            None
        };

        let permit = self.hub.admit(app, &Reach::Large(bound), bytes).await?;
        permit.serve(prepared.len());
        self.app(app).metrics.accepted.inc_by(prepared.len() as u64);

        let mut admitted: Vec<Admitted> = prepared
            .into_iter()
            .zip(reaches)
            .map(|(prepared, reach)| Admitted {
                prepared,
                reach,
                permit: permit.clone(),
                scan_permit: None,
            })
            .collect();

        // They are carried out in order, so the last one's permit is the last to end.
        if let Some(last) = admitted.last_mut() {
            last.scan_permit = scan_permit;
        }

        Ok(admitted)
    }

    /// For whom an event with this target is kept.
    ///
    /// Among several nodes nothing is kept of what is for one node's connections only: its members would have another
    /// history than the rest.
    fn durability(
        &self,
        app: AppId,
        target: &Target,
        (store, scope): (Option<bool>, ClusterScope),
    ) -> Result<Durability, NodeError> {
        let settings = self.app(app);
        let is_apart = self.cluster.is_some() && scope == ClusterScope::Node;
        let durability = if target.filter.is_some() || store == Some(false) || is_apart {
            Durability::Transient
        } else if let Some(channel) = target.one_channel() {
            let retention = settings.rule(channel).retention;
            let name: SmolStr = channel.into();
            retention.map_or(Durability::Transient, |retention| {
                Durability::Channel(name.clone(), Key::channel(app, name), retention)
            })
        } else if let (Some(users), Some(retention)) = (target.only_users(), settings.user_events())
        {
            let except: AHashSet<&str> = target.except.users.iter().map(String::as_str).collect();
            let excepted = |user: &&String| !except.contains(user.as_str());
            let mut users: Vec<SmolStr> = users
                .iter()
                .filter(excepted)
                .map(|user| user.as_str().into())
                .collect();
            users.sort_unstable();
            users.dedup();
            Durability::Users(users, retention)
        } else {
            Durability::Transient
        };

        match (store, &durability) {
            (Some(true), Durability::Transient) => Err(NodeError::CannotStore {
                hint: if is_apart {
                    ""
                } else {
                    store_hint(target, settings.user_events().is_some())
                },
            }),
            _ => Ok(durability),
        }
    }

    /// Places a small publication.
    ///
    /// # Errors
    /// What is left of it, for [`Node::finish`], if its filter took too much work for one turn of the thread.
    fn place_at_once(&self, admitted: Admitted) -> Result<Receipt, Box<Unfinished>> {
        let Admitted {
            prepared:
                Prepared {
                    id,
                    selection,
                    draft,
                    ..
                },
            reach,
            permit,
            scan_permit,
        } = admitted;

        let mut receipt = Receipt::new(id);
        let frame = self.encode(selection.app, &draft);
        if let Reach::Small(few) = reach {
            let began = Instant::now();
            match self.hub.place_small(&selection, few, &frame, &permit) {
                Ok(counts) => receipt.add(counts),
                Err(rest) => {
                    return Err(Box::new(Unfinished {
                        receipt,
                        selection,
                        frame,
                        permit,
                        scan_permit,
                        began,
                        rest,
                    }));
                }
            }

            self.note_placed(&selection, began, &receipt);
        }

        Ok(receipt)
    }

    /// Places the rest of a small publication.
    async fn finish(self: Arc<Self>, unfinished: Box<Unfinished>) -> Receipt {
        let Unfinished {
            mut receipt,
            selection,
            frame,
            permit,
            scan_permit,
            began,
            rest,
        } = *unfinished;

        let counts = self.hub.place_rest(&selection, rest, &frame, &permit).await;
        drop((scan_permit, permit));
        receipt.add(counts);
        self.note_placed(&selection, began, &receipt);

        receipt
    }

    async fn carry_out(self: Arc<Self>, admitted: Admitted) -> Result<Receipt, NodeError> {
        let Admitted {
            prepared,
            reach,
            permit,
            scan_permit,
        } = admitted;

        if prepared.comes_by_bus() {
            drop((scan_permit, permit));
            return self.publish_durable(prepared, None).await;
        }

        let Prepared {
            id,
            mut selection,
            draft,
            durability,
            omit,
            message,
        } = prepared;

        let mut receipt = Receipt::new(id);
        let sent = message.and_then(|message| self.send(message));
        let began = Instant::now();

        match durability {
            Durability::Transient => {
                let frame = self.encode(selection.app, &draft);
                receipt.add(
                    self.hub
                        .place_reach(&selection, reach, &frame, &permit)
                        .await,
                );
            }
            Durability::Channel(channel, key, retention) => {
                let new = New {
                    id,
                    draft,
                    omit,
                    tail: None,
                };
                self.place_in_history(
                    &selection,
                    (channel, key, retention),
                    new,
                    &permit,
                    &mut receipt,
                )
                .await?;
            }
            Durability::Users(users, retention) => {
                let new = New {
                    id,
                    draft,
                    omit,
                    tail: None,
                };
                self.place_for_users(
                    &mut selection,
                    (users, retention),
                    new,
                    &permit,
                    &mut receipt,
                )
                .await?;
            }
        }

        drop((scan_permit, permit));
        self.note_placed(&selection, began, &receipt);
        self.sent(selection.app, sent, &mut receipt).await;

        Ok(receipt)
    }

    /// Appends an event to the history of its channel, and places it before the channel's next one.
    async fn place_in_history(
        &self,
        selection: &Selection,
        (channel, key, retention): (SmolStr, Key, Retention),
        new: New,
        permit: &Permit,
        receipt: &mut Receipt,
    ) -> Result<(), NodeError> {
        let id = new.id;
        let _topic_lock = self.topic_locks.lock(&key).await;
        let appended = self.history.append(&key, &retention, new).await?;
        self.app(selection.app).metrics.encodings.inc();

        // Whoever joined meanwhile was told an offset before this one, and must have it.
        let reach = self.hub.reach(selection);
        let forms = &self.hub.context().forms;
        let frame = forms.to_place(selection.app, &appended.frame);
        receipt.add(self.hub.place_reach(selection, reach, &frame, permit).await);

        receipt.stored = 1;
        receipt.publications = vec![Placement {
            channel,
            id,
            epoch: appended.position.epoch.to_string(),
            offset: appended.position.offset,
        }];

        Ok(())
    }

    /// Stores an event for each user in turn, and places it for the connections of each.
    async fn place_for_users(
        &self,
        selection: &mut Selection,
        (users, retention): (Vec<SmolStr>, Retention),
        new: New,
        permit: &Permit,
        receipt: &mut Receipt,
    ) -> Result<(), NodeError> {
        let frame = self.encode(selection.app, &new.draft);
        let mut slice = TimeSlice::begin();

        for user in users {
            selection.recipients = Some(Recipients::user(&user));
            let key = Key::user(selection.app, user.clone());
            let _topic_lock = self.topic_locks.lock(&key).await;
            let appended = self.history.append(&key, &retention, new.clone()).await?;
            receipt.stored += 1;

            let placed = self
                .hub
                .place_stored(
                    (selection, &user),
                    &frame,
                    appended.position,
                    permit,
                    &mut slice,
                )
                .await;

            receipt.add(placed.counts);
            slice.rest().await;
        }

        self.hub.settle_permit(permit, receipt.queued);
        Ok(())
    }

    /// Puts a message for other nodes on its way; see [`EnvelopeSender::send`](super::cluster::EnvelopeSender::send).
    fn send(&self, message: Message) -> Option<Sent> {
        self.cluster.as_ref()?.sender.send(message)
    }

    /// Waits until it has reached them, and adds what became of it there to the receipt.
    async fn sent(&self, app: AppId, sent: Option<Sent>, receipt: &mut Receipt) {
        if let (Some(cluster), Some(sent)) = (&self.cluster, sent) {
            cluster.sender.sent(app, sent, receipt).await;
        }
    }

    fn encode(&self, app: AppId, draft: &Draft) -> Frame {
        self.app(app).metrics.encodings.inc();
        draft.finish(None)
    }

    fn note_placed(&self, selection: &Selection, began: Instant, receipt: &Receipt) {
        if selection.filter.is_some() {
            self.metrics
                .filter_evaluate
                .observe(began.elapsed().as_secs_f64());
        }
        self.app(selection.app)
            .metrics
            .filter_errors
            .inc_by(receipt.filter_errors);
    }

    /// Delivers `event` to the connections for which a Rust closure is true; see [`crate::hub::Hub::place_where`].
    ///
    /// # Errors
    /// [`NodeError::Busy`]; nothing was delivered then.
    pub(crate) async fn publish_where(
        self: &Arc<Self>,
        app: AppId,
        event: &Event<'_>,
        closure: Closure,
    ) -> Result<Receipt, NodeError> {
        let frame = self.encode(app, &event.draft(&Marks::default()));
        let scan_permit = self.hub.permit_to_scan(app).await?;
        let bound = self.hub.members(app).max(SMALL_DELIVERIES + 1);

        let permit = self
            .hub
            .admit(app, &Reach::Large(bound), frame.len())
            .await?;
        self.app(app).metrics.accepted.inc();
        let node = self.clone();

        run_detached(async move {
            let selection = Selection::everyone(app);
            let mut receipt = Receipt::new(Uuid::now_v7());
            receipt.add(
                node.hub
                    .place_where(&selection, &closure, &frame, &permit)
                    .await,
            );

            drop(scan_permit);
            node.app(app)
                .metrics
                .filter_errors
                .inc_by(receipt.filter_errors);
            receipt
        })
        .await
    }
}

/// Who is left out when a kept event is replayed: those whom the caller excepted, and a sender without echo.
fn omitted(durability: &Durability, target: &Target, author: Option<&Author>) -> Option<Arc<Omit>> {
    if matches!(durability, Durability::Transient) {
        return None;
    }

    let names = |list: &[String]| list.iter().map(|name| name.as_str().into()).collect();
    let omit = Omit {
        users: names(&target.except.users),
        devices: names(&target.except.devices),
        connections: target
            .except
            .connections
            .iter()
            .filter_map(|id| id.parse().ok())
            .collect(),

        sender: author
            .filter(|author| !author.echo)
            .map(|author| EchoOmission {
                user: author.sender.user.clone(),
                device: author.device.clone(),
                connection: author.sender.connection,
            }),
    };

    (omit != Omit::default()).then(|| Arc::new(omit))
}

/// Runs `task` to its end whatever becomes of the caller: here where it has nothing to wait for, else as a task of its
/// own.
pub(super) async fn run_detached<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> Result<T, NodeError> {
    let mut task = Box::pin(task);
    match poll_fn(|cx| Poll::Ready(task.as_mut().poll(cx))).await {
        Poll::Ready(done) => Ok(done),
        Poll::Pending => tokio::spawn(task).await.map_err(|_| NodeError::Failed),
    }
}

/// What to set so that an event for `target` can be stored; empty if that would not help.
fn store_hint(target: &Target, has_user_events: bool) -> &'static str {
    if target.filter.is_some() {
        ""
    } else if target.only_users().is_some() && !has_user_events {
        "; set user_events or --store-user-events"
    } else if target.one_channel().is_some() {
        "; give the channel a history, for example by --channel-history 'room-*=100'"
    } else {
        ""
    }
}
