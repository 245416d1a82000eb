//! The protocol, model-checked: what two clients and two leaders can come to, step by step, in every order.
//!
//! # The problem
//!
//! Tests show runs, and simulations show many. What breaks a lease is a rare order of few steps: a renewal that sits in a
//! socket, a leader that is deposed and doesn't know, two clocks at the ends of what the drift bound allows. A model
//! checker takes every order there is, within bounds, and each state that comes of it is held to the rules.
//!
//! # What is checked
//!
//! The product itself, where it decides: each holder is a [`Session`](crate::session::Session), each leader has its
//! [`Deadlines`](crate::deadlines::Deadlines), the committed log is applied to a [`Table`](crate::table::Table). No rule is
//! written a second time here. What is the model's own is what happens around them:
//!
//! - `action.rs`: what can happen; `client.rs`, `leader.rs` and `time.rs`: how it drives the machines, as the tasks in
//!   `lease/` and `agent/` do;
//! - `world.rs`: what a state is made of, and the bounds. The network delays, loses, repeats and reorders; nodes stand
//!   still; a leader that was deposed goes on for as long as it likes; clients are slow, or never heard of again. Clocks run
//!   at the ends of what is allowed, one unit in five. True time goes in ticks, and whatever takes no time happens between
//!   two of them, in any order;
//! - `rules.rs`: what must *always* hold (L1, L2, L4, L5, L7 and the table's invariants), and what has to happen
//!   *sometimes*, or a run shows nothing;
//! - `view.rs`: which states are one. A test looks whether such states have the same futures, since that is what makes a
//!   small number of states stand for all times and names;
//! - `mutants.rs`: known mistakes, each of which has to be found.
//!
//! # What is not
//!
//! Consensus is taken for granted, as `leader.rs` tells: there is one committed log. Disks, snapshots and L8 and L9 have
//! tests of their own, and so has what needs more than one name. No run says that something happens *in time* (L6).

mod action;
mod client;
mod leader;
mod mutants;
mod rules;
mod tests;
mod time;
mod view;
mod world;

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
}
