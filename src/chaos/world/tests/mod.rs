//! The world by itself, and what other floors' suites need to run in it.

mod disk;
mod network;

use std::future::Future;

pub(crate) use super::journal::DiskJournal;
use super::{
    disk::{Disk, DiskPace},
    network::Network,
    weather::Weather,
};
use crate::chaos::{
    kernel::{Kernel, Pace},
    trace::Tracer,
};

/// A network and a disk, and nothing else.
pub(crate) struct Bare {
    pub(crate) network: Network,
    pub(crate) disk: Disk,
}

/// Runs the future in a simulation, once for each of these seeds, until it is done.
fn with_seeds<Fut: Future<Output = ()>>(seeds: std::ops::Range<u64>, run: impl Fn(Bare, Kernel) -> Fut) {
    for seed in seeds {
        let kernel = Kernel::new(seed, Pace::default());
        let _entered = kernel.enter();
        let tracer = Tracer::new(kernel.clocks());
        let network = Network::new(seed, Weather::default(), tracer.clone());
        let disk = Disk::new(seed, 0, DiskPace::default(), tracer);
        kernel.run(run(Bare { network, disk }, kernel.clone())).unwrap();
        kernel.end();
        assert!(kernel.panics().is_empty(), "{:?}", kernel.panics());
    }
}

/// Runs the future in a simulation, for a suite that other implementations pass as well.
pub(crate) fn in_simulations<Fut: Future<Output = ()>>(run: impl Fn(Bare) -> Fut) {
    with_seeds(0..3, |bare, _| run(bare));
}
