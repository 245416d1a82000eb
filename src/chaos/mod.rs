//! Whole clusters in one process, over a simulated clock, network and disk; each run follows from one seed, and replays
//! bit for bit.
//!
//! ```
//! use leasehold::chaos::{Fault, Sim};
//! use std::time::Duration;
//!
//! let run = |seed| {
//!     Sim::builder().seed(seed).agents(3).at(Duration::from_secs(5), Fault::PowerLoss(1)).run(|sim| async move {
//!         let lease = sim.up(0).await.acquire("orders.db").await.unwrap();
//!         sim.sleep(Duration::from_secs(30)).await; // takes no time
//!         lease.check().is_ok()
//!     })
//! };
//! let report = run(7).unwrap();
//! assert!(report.value);
//! assert_eq!(report.trace.hash, run(7).unwrap().trace.hash);
//! ```
//!
//! The agents are the real ones, from their builder down to the storage and the transport contract: founding, consensus,
//! the lease table, deadlines, routing and renewal run as they do anywhere. What is simulated begins below these two
//! contracts, and at the seam for time, tasks and randomness. sled and TCP, which have threads and sockets of their own,
//! stay outside; `tests/power_loss/` and the transport's own tests are about them.
//!
//! | place | what lives there |
//! | --- | --- |
//! | `kernel/` | executor, clocks, random streams. It knows of no agents |
//! | `world/` | disks, the network, and the agents' machines with all that can be done to them |
//! | `builder.rs`, `sim.rs` | a run: its settings, its script, its report |
//! | `swarm.rs`, `draw.rs`, `director.rs` | which faults come by themselves; carrying them out |
//! | `turnover.rs` | who may leave or lose its disk |
//! | `workload.rs`, `ending.rs` | clients that try everything; what must be when everything is mended |
//! | `history.rs`, `recorder.rs`, `check/` | what a run was like; writing that down; whether each rule held |
//! | `trial.rs`, `shrink.rs` | a run with its checks; many seeds of it; the few faults that a failing one takes |
//! | `proxy.rs`, `logbook.rs` | what all this is not: faults for real agents over real TCP; what they apply, for `check/` |
//! | `picture.rs` | a run as an HTML file, for people |
//! | `trace.rs` | what happened, and its digest |
//!
//! What replays: two runs of one program with the same seed, settings and script have the same [`Trace::hash`], in any
//! process, with or without a subscriber for events, inside of a tokio runtime and outside. Another build of the program
//! may have other runs.

mod builder;
pub mod check;
mod director;
mod draw;
mod ending;
pub mod history;
pub(crate) mod kernel;
mod logbook;
mod picture;
mod proxy;
mod recorder;
mod shrink;
mod sim;
mod swarm;
mod trace;
mod trial;
mod turnover;
pub mod workload;
pub(crate) mod world;

pub use self::{
    builder::SimBuilder,
    check::Violation,
    history::History,
    logbook::Logbook,
    picture::picture,
    proxy::{FaultProxy, Line},
    shrink::shrink,
    sim::{Job, JobEnded, Report, Sim, SimError, SimErrorKind},
    swarm::{Episode, Faults, SPARES, Trouble, Whom},
    trace::{EVENTS_KEPT_MAX, Event, Leg, Loss, Trace},
    trial::{Failure, Seeds, Tally, Trial, seeds},
    world::{DiskFault, DiskPace, Fault, PointEffect, PointFaults, Weather},
};
pub use crate::{fault_point::Point, flaw::Flaw};
