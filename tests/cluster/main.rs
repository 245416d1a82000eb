//! A cluster of agents: does it grant, renew, expire and hand over, and does it keep its promises when things fail?

// Tests stand outside the seam: they are the world around a cluster.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, unreachable_pub)]

mod failures;
mod fixture;
mod leases;
mod starting;
