//! The protocol, model-checked.
#![allow(dead_code)]
mod action;
mod client;
mod leader;
mod mutants;
mod rules;
mod time;
mod view;
mod world;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use stateright::{Model, Property};

use self::{
    action::Action,
    rules::Seen,
    world::{State, World},
};

/// A world, and what has been seen of it.
#[derive(Debug, Clone)]
pub(crate) struct Protocol {
    world: World,
    seen: Arc<Seen>,
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        self.world.clocks.iter().map(|clocks| State::initial(&self.world, *clocks)).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let next = self.step(state, action)?;
        if next.notes != 0 {
            self.seen.add(next.notes);
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        rules::always()
    }
}
