//! Clocks at another rate. The product reads its clock without libc, so that no preloaded library can change it; it is
//! handed one of our own, by agents and workers that are this test binary. The true time is the machine's.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use leasehold::{Agent, Clock, Moment, SystemClock, chaos::Logbook};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// In the environment of an agent that is this test binary: its name, its data directory, its logbook, its clock's rate, its
/// address, and the founders, each after a space.
pub(crate) const AGENT: &str = "LEASEHOLD_TEST_AGENT";
/// What is declared of clocks, unless told: each within 1 % of true time. In millionths.
const BOUND_PPM: i64 = 10_000;

/// The machine's clock at another rate, in millionths off.
pub(crate) struct Skewed(pub(crate) i64);

impl Clock for Skewed {
    fn now(&self) -> Moment {
        let true_time = i128::from(SystemClock.now().as_nanos());
        let shown = true_time + true_time * i128::from(self.0) / 1_000_000;
        Moment::from_nanos(u64::try_from(shown).unwrap())
    }
}

/// The rates of the agents' clocks and of the workers', by the seed. One of each is at either end of what is declared;
/// `LEASEHOLD_SOAK_PPM` says how far off the ends are, and with that what is declared is broken.
pub(crate) fn rates(hosts: usize, seed: u64) -> (Vec<i64>, Vec<i64>) {
    let asked = std::env::var("LEASEHOLD_SOAK_PPM").ok().map(|text| text.parse().unwrap());
    let end: i64 = asked.unwrap_or(BOUND_PPM);
    let mut chance = StdRng::seed_from_u64(seed ^ 0xC10C);
    let mut draw = |end: i64| {
        let mut rates: Vec<i64> = (0..hosts).map(|_| chance.random_range(-end..=end)).collect();
        let first = chance.random_range(0..hosts);
        rates[first] = end;
        rates[(first + 1) % hosts] = -end;
        rates
    };
    (draw(end), draw(end))
}

/// Where an agent that is this test binary writes what it applies.
pub(crate) fn logbook(dir: &Path, host: usize) -> PathBuf {
    dir.join(format!("agent-{host}.logbook"))
}

/// An agent until it has stepped down, or is killed. It ends with the codes that `leasehold agent` has.
pub(crate) fn serve(asked: &str) -> ! {
    let mut words = asked.split(' ');
    let mut word = || words.next().unwrap();
    let (name, data, logbook, rate, address) = (word(), word(), word(), word(), word());
    let clock = Arc::new(Skewed(rate.parse().unwrap()));
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let code = runtime.block_on(async {
        let agent =
            Agent::builder(name).listen(address).founders(words).data_dir(Path::new(data)).clock(clock);
        let agent = Logbook::append_to(logbook).unwrap().keep(agent);
        match agent.ttl(Duration::from_secs(2)).danger_plaintext().start().await {
            Ok(agent) => {
                while agent.status().stopped.is_none() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                tracing::error!("{:?}", agent.status().stopped);
                74
            }
            Err(error) => {
                tracing::error!("{error}");
                1
            }
        }
    });
    std::process::exit(code)
}
