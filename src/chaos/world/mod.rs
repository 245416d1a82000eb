//! The world that simulated agents live in: their disks, the network between them, and what can be done to either.
//!
//! | file | what lives there |
//! | --- | --- |
//! | `disk.rs`, `journal.rs` | what a disk keeps; the storage contract over it |
//! | `weather.rs` | what becomes of messages |
//! | `network.rs`, `link.rs`, `delivery.rs` | the transport's contract over it: who is there, calling, and what is under way |
//! | `site.rs` | both, as one life of an agent finds them |
//! | `fault.rs` | what can be done to the world |
//! | `points.rs` | what comes of passing a fault point |
//! | `fleet.rs` | the agents and their machines: starting them, and doing it |

mod delivery;
mod disk;
mod fault;
mod fleet;
mod journal;
mod link;
mod network;
mod points;
mod site;
#[cfg(test)]
pub(crate) mod tests;
mod weather;

pub use self::{
    disk::{DiskFault, DiskPace},
    fault::Fault,
    points::{PointEffect, PointFaults},
    weather::Weather,
};
pub(crate) use self::{
    fleet::{Fleet, Setup, machine},
    network::lock,
    points::Points,
};
