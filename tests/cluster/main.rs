//! A cluster of agents: does it grant, renew, expire and hand over, and does it keep its promises when things fail?

mod failures;
mod fixture;
mod leases;
mod starting;
