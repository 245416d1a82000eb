//! What other floors' suites need to run in a simulation.

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

/// Runs the future in a simulation, once for each of some seeds, until it is done.
pub(crate) fn in_simulations<Fut: Future<Output = ()>>(run: impl Fn(Bare) -> Fut) {
    for seed in 0..5 {
        let kernel = Kernel::new(seed, Pace::default());
        let _entered = kernel.enter();
        let tracer = Tracer::new(kernel.clocks());
        let network = Network::new(seed, Weather::default(), tracer.clone());
        let disk = Disk::new(seed, 0, DiskPace::default(), tracer);
        kernel.run(run(Bare { network, disk })).unwrap();
        kernel.end();
        assert!(kernel.panics().is_empty(), "{:?}", kernel.panics());
    }
}
