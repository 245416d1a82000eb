//! Chaos.

pub(crate) mod kernel;
