//! A cluster of agents: does it grant, renew, expire and hand over, and does it keep its promises when things fail?

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "tests stand outside the seam: they are the world around a cluster"
)]

mod crowd;
mod election;
mod failures;
mod fixture;
mod known_bugs;
mod leases;
mod members;
mod recovery;
mod sharing;
mod starting;
mod upgrading;
