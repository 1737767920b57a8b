//! Carrying out the items of a batch without a key, in their order, with as little waiting for Redis as that allows.

use std::collections::VecDeque;

use serde_json::value::RawValue;

use super::{Call, Published, Publishing, refused, written};
use crate::{
    http::{problem::Problem, verbs::VerbFields},
    limits::{LONG_BODY, SENT_AT_ONCE},
    node::{Begun, Prepared},
    time_slice::TimeSlice,
};

/// What a publishing call comes to.
type Outcome = Result<Published, Problem>;

/// The items of one batch, on their way.
///
/// An item is in one of three places, and those before it are in the same one or in one that stands before: `outcomes`, once it
/// is known what to answer; `under_way`, while Redis may have yet to say that it has it; and `to_store`. The last are not begun
/// yet: they go to Redis together.
pub(super) struct Run<'p> {
    publishing: &'p Publishing,
    outcomes: Vec<Outcome>,
    under_way: VecDeque<Result<Begun, Problem>>,
    /// Of those that are under way, the messages that Redis has yet to answer.
    messages: usize,
    to_store: Vec<Prepared>,
}

impl<'p> Run<'p> {
    pub(super) fn new(publishing: &'p Publishing) -> Self {
        Self {
            publishing,
            outcomes: Vec::new(),
            under_way: VecDeque::new(),
            messages: 0,
            to_store: Vec::new(),
        }
    }

    /// Carries out the items. Those that follow each other and are stored over Redis go there together. Any other waits until those
    /// are placed, so that it comes after them everywhere. What is stored nowhere waits for nothing that was sent before it.
    pub(super) async fn carry_out(mut self, items: &[&RawValue]) -> Vec<Outcome> {
        // Each item may bring a filter that has to be compiled, or params that are bound.
        let mut slice = TimeSlice::begin();
        for item in items {
            slice.rest().await;
            if item.get().len() >= LONG_BODY {
                // What stands before it need not wait as well.
                self.store().await;
            }

            self.publishing.queue_long(item).await;
            match self.publishing.prepare_item(item).await {
                Ok(Call::One(prepared)) if prepared.comes_by_bus() => self.to_store.push(*prepared),
                Ok(Call::One(prepared)) => self.send(*prepared).await,
                Ok(call) => {
                    self.finish().await;
                    let answer = self.publishing.carry_out(call).await;
                    self.outcomes.push(answer.map(Published::now));
                }
                Err(problem) => {
                    self.store().await;
                    self.under_way.push_back(Err(problem));
                }
            }
        }

        self.finish().await;
        self.outcomes
    }

    /// Sends an item that is stored nowhere, or where this node alone stores it.
    async fn send(&mut self, prepared: Prepared) {
        self.store().await;
        let node = &self.publishing.node;
        if !node.sends_in_order() {
            self.end_all().await;
        }

        let begun = node.begin(prepared).await.map_err(refused);
        self.messages += begun.as_ref().map_or(0, Begun::messages);
        self.under_way.push_back(begun);
        // If Redis is slow, many batches together would take the room that single calls and other tenants need.
        while self.messages > SENT_AT_ONCE || (self.messages > 0 && node.sends_are_crowded()) {
            self.end_first().await;
        }
    }

    /// Stores what is to be stored, after what is under way.
    async fn store(&mut self) {
        if self.to_store.is_empty() {
            return;
        }

        let node = &self.publishing.node;
        if !node.sends_in_order() {
            self.end_all().await;
        }

        let node = &self.publishing.node;
        let stored = node
            .publish_stored(std::mem::take(&mut self.to_store))
            .await;
        self.end_all().await;
        let answers = stored.into_iter().map(|stored| {
            let receipt = stored.map_err(refused)?;
            Ok(Published::now(written(&receipt)))
        });
        self.outcomes.extend(answers);
    }

    /// Carries out whatever is not, and waits until all has its outcome.
    async fn finish(&mut self) {
        self.store().await;
        self.end_all().await;
    }

    async fn end_all(&mut self) {
        while !self.under_way.is_empty() {
            self.end_first().await;
        }
    }

    /// Waits until the first item that is under way is not any longer.
    async fn end_first(&mut self) {
        let Some(first) = self.under_way.pop_front() else {
            return;
        };

        let outcome = match first {
            Ok(begun) => {
                self.messages -= begun.messages();
                let receipt = self.publishing.node.end(begun).await;
                Ok(Published::now(written(&receipt)))
            }
            Err(problem) => Err(problem),
        };
        self.outcomes.push(outcome);
    }
}

impl Publishing {
    /// Settles what an item means; and what is to be stored over Redis is admitted.
    async fn prepare_item<'a>(&self, item: &'a RawValue) -> Result<Call<'a>, Problem> {
        let (verb, fields) = VerbFields::item(item.get().as_bytes())?;
        match self.prepare(verb, fields).await? {
            Call::One(prepared) if prepared.comes_by_bus() => {
                let admitted = self.node.admit_to_store(*prepared).await;
                let admitted = admitted.map_err(refused)?;
                Ok(Call::One(Box::new(admitted)))
            }
            call => Ok(call),
        }
    }
}
