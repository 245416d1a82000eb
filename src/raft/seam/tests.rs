//! openraft's own suite for runtimes, on ours: outside of a simulation and inside.

use openraft_rt::testing::Suite;

use super::Runtime;
use crate::chaos::kernel::{Kernel, Pace};

#[test]
fn openrafts_runtime_suite_on_tokio() {
    Suite::<Runtime>::test_all();
}

#[test]
fn openrafts_runtime_suite_in_a_simulation() {
    for seed in 0..20 {
        let kernel = Kernel::new(seed, Pace::default());
        let _entered = kernel.enter();
        Suite::<Runtime>::test_all();
        assert!(kernel.panics().is_empty(), "{:?}", kernel.panics());
        kernel.end();
    }
}
