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

use stateright::{Model, Property};

use self::{
    action::Action,
    world::{State, World},
};

/// The protocol in one world.
#[derive(Debug, Clone)]
struct Protocol {
    world: World,
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
        self.step(state, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        rules::always().chain(rules::sometimes(&self.world.sometimes)).collect()
    }

    fn format_action(&self, action: &Action) -> String {
        format!("{action:?}")
    }
}
