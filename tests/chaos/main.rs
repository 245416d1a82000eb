//! Whole clusters in a simulation.
//!
//! | file | what it asks |
//! | --- | --- |
//! | `replay.rs` | is a run the same each time? |
//! | `cluster.rs` | does a simulated cluster do what a real one does? |
//! | `patience.rs` | what takes minutes elsewhere |
//! | `storm.rs` | does it bear much at once? The run that is replayed |
//! | `flaws.rs` | would it find the bugs that are easily made? |
//! | `founding.rs` | is there one cluster, whatever happens while it is founded? |
//! | `many.rs` | do two hundred agents work? |
//! | `members.rs` | do members come, go and come back as they should? |
//! | `points.rs` | is every fault point reached, and borne? |
//! | `linearizable.rs` | is what clients were answered that of one lease table, by a checker that we did not write? |
//! | `shrink.rs` | is what a failing seed takes found out? |
//! | `swarm.rs` | do the rules hold, whatever goes wrong? |

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as loudly as tests")]

mod cluster;
mod flaws;
mod founding;
mod linearizable;
mod many;
mod members;
mod patience;
mod points;
mod replay;
mod shrink;
mod storm;
mod swarm;
