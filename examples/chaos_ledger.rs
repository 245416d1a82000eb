//! How to test an application of one's own: a ledger that one teller at a time may write to, under faults of all kinds.
//!
//! The ledger comes in two kinds. One trusts its tellers, who look at their lease before each line, as they should; the
//! other asks a fence as well. Both pass any ordinary test. Under a swarm of faults a teller stands still between its look
//! and its line, or its line is under way for a while, and the trusting ledger has two lines of one number.
//!
//! `cargo run --example chaos_ledger --features chaos`; the same as a test: `cargo test --example chaos_ledger --features
//! chaos`. A failure says which seed it was; `LEASEHOLD_SEEDS=<seed>` runs that one alone, the same run to the bit.

#![expect(clippy::print_stdout, reason = "an example tells people what it does")]

use std::{cell::RefCell, rc::Rc, time::Duration};

use leasehold::{
    Agent, Fence, Token,
    chaos::{Failure, Faults, Report, Sim, Tally, seeds},
};

/// What is protected. It lies outside of all agents, and outlives them.
struct Ledger {
    /// None: it trusts its tellers.
    fence: Option<Fence>,
    lines: RefCell<Vec<u32>>,
}

impl Ledger {
    fn last(&self) -> u32 {
        self.lines.borrow().last().copied().unwrap_or(0)
    }

    fn append(&self, token: Token, number: u32) {
        if self.fence.as_ref().is_none_or(|fence| fence.admit(token).is_ok()) {
            self.lines.borrow_mut().push(number);
        }
    }
}

/// The application: acquires the ledger, and appends lines for as long as it holds it.
async fn teller(sim: Sim, ledger: Rc<Ledger>, agent: Agent) {
    let Ok(lease) = agent.lease("ledger").ttl(Duration::from_secs(2)).acquire().await else { return };
    // What the last teller sent off may still come in. (Time alone is no proof that it has; the fence is.)
    sim.sleep(Duration::from_millis(100)).await;
    while lease.check().is_ok() {
        let number = ledger.last() + 1;
        // On its way to the ledger.
        sim.sleep(sim.random_span(Duration::from_millis(1), Duration::from_millis(50))).await;
        ledger.append(lease.token(), number);
    }
}

/// One run: tellers beside all agents, faults for 30 s, and what the ledger has in the end.
fn trial(seed: u64, fenced: bool) -> Result<Report<Vec<u32>>, Box<Failure>> {
    Sim::builder()
        .seed(seed)
        .agents(5)
        .faults(Faults::swarm())
        .span(Duration::from_secs(30))
        .workload(|sim| async move {
            let ledger = Rc::new(Ledger { fence: fenced.then(Fence::in_memory), lines: RefCell::default() });
            for agent in 0..sim.agents() {
                let (ours, ledger) = (sim.clone(), ledger.clone());
                sim.in_each_life(agent, move |agent| teller(ours.clone(), ledger.clone(), agent));
            }
            sim.mended().await;
            ledger.lines.borrow().clone()
        })
        .check(|report| match report.value.windows(2).find(|pair| pair[1] <= pair[0]) {
            Some(pair) => Err(format!("line {} comes after line {}", pair[1], pair[0])),
            None => Ok(()),
        })
        .run()
}

fn all(fenced: bool) -> Result<Tally, Box<Failure>> {
    seeds(0..40, |seed| trial(seed, fenced))
}

fn main() {
    match all(false) {
        Ok(_) => println!("the trusting ledger was lucky"),
        Err(failure) => println!("the trusting ledger: {failure}\n"),
    }
    match all(true) {
        Ok(tally) => println!("the fenced ledger: {} seeds, all in order", tally.seeds),
        Err(failure) => println!("the fenced ledger: {failure}"),
    }
}

#[test]
fn a_ledger_with_a_fence_stays_in_order() {
    all(true).unwrap();
}

#[test]
fn a_ledger_that_trusts_its_tellers_does_not() {
    assert!(all(false).is_err());
}
