//! Chaos.

pub(crate) mod kernel;
mod sim;
mod trace;
pub(crate) mod world;

pub use self::{
    sim::{Job, JobEnded, Report, Sim, SimBuilder, SimError, SimErrorKind},
    trace::{EVENTS_KEPT_MAX, Event, Leg, Loss, Trace},
    world::{DiskFault, DiskPace, Fault, Weather},
};
