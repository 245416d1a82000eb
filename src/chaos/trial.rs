//! A run with its checks, and many seeds of it.
//!
//! ```
//! use leasehold::chaos::{Faults, Sim, seeds, workload};
//!
//! seeds(0..3, |seed| {
//!     Sim::builder().seed(seed).agents(5).faults(Faults::swarm()).workload(workload::leases).run()
//! })
//! .unwrap();
//! ```

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use super::{
    builder::SimBuilder,
    check::{self, Violation},
    history::History,
    sim::{Report, Sim},
    swarm::Episode,
    trace::Trace,
};
use crate::{
    fault_point::Point,
    runtime::{self, Either},
};

/// How long a workload may go on when everything is mended.
const PATIENCE: Duration = Duration::from_secs(300);
/// Which seeds [`seeds`] runs, in the place of those that it is given.
pub(crate) const SEEDS_VARIABLE: &str = "LEASEHOLD_SEEDS";

type Check<T> = Box<dyn Fn(&Report<T>) -> Result<(), String>>;

/// A run with its checks; made by [`SimBuilder::workload`].
///
/// The [checkers](check) of all ten rules are always among them.
#[must_use = "nothing runs until run() is called"]
pub struct Trial<F, T> {
    builder: SimBuilder,
    script: F,
    checks: Vec<Check<T>>,
}

/// A run in which something went wrong. `{}` and `{:?}` are the same text, so that `unwrap()` in a test says all of it, and
/// the line that replays it.
#[non_exhaustive]
pub struct Failure {
    /// The run's seed.
    pub seed: u64,
    /// What went wrong, the first first. At least one.
    pub violations: Vec<Violation>,
    /// What the run was like.
    pub history: Box<History>,
    /// What happened.
    pub trace: Trace,
    /// What went wrong around it, by schedule.
    pub schedule: Vec<(usize, Episode)>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        writeln!(f, "seed {} fails:", self.seed)?;
        for violation in self.violations.iter().take(SHOWN) {
            writeln!(f, "  {violation}")?;
        }
        if self.violations.len() > SHOWN {
            writeln!(f, "  and {} more", self.violations.len() - SHOWN)?;
        }
        write!(f, "replay it alone: {SEEDS_VARIABLE}={} cargo test --features chaos <this test>", self.seed)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Failure {}

impl<F, T> fmt::Debug for Trial<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trial").field("builder", &self.builder).finish_non_exhaustive()
    }
}

impl<F, Fut, T> Trial<F, T>
where
    F: FnOnce(Sim) -> Fut,
    Fut: Future<Output = T>,
{
    pub(super) fn new(builder: SimBuilder, script: F) -> Self {
        Self { builder, script, checks: Vec::new() }
    }

    /// What else must hold of the run: of what the script returned, and of its history.
    pub fn check(mut self, check: impl Fn(&Report<T>) -> Result<(), String> + 'static) -> Self {
        self.checks.push(Box::new(check));
        self
    }

    /// Runs the workload among the faults, and checks what came of it.
    ///
    /// # Errors
    /// [`Failure`] where a rule or a check of its own was broken, agents or the workload panicked, or it came to no end
    /// although everything was mended.
    pub fn run(self) -> Result<Report<T>, Box<Failure>> {
        let Self { builder, script, checks } = self;
        let seed = builder.seed_set();
        let (faults, agents, span) = builder.faults_set();
        let schedule = faults.as_ref().map(|faults| faults.schedule(seed, agents, span)).unwrap_or_default();
        let fail = |violations, history, trace| {
            Box::new(Failure { seed, violations, history, trace, schedule: schedule.clone() })
        };
        let guarded = |sim: Sim| async move {
            let late = async {
                sim.mended().await;
                runtime::sleep(PATIENCE).await;
            };
            match runtime::select2(script(sim.clone()), late).await {
                Either::First(value) => Some(value),
                Either::Second(()) => None,
            }
        };
        let ran = catch_unwind(AssertUnwindSafe(|| builder.run(guarded)));
        let own = |at, text: String| vec![Violation::new("run", at, text)];
        let report = match ran {
            Ok(Ok(report)) => report,
            Ok(Err(error)) => {
                let at = error.trace.events.last().map_or(Duration::ZERO, |(at, _)| *at);
                let mut violations = check::all(&error.history);
                violations.extend(own(at, error.kind.to_string()));
                return Err(fail(violations, error.history, error.trace));
            }
            Err(payload) => {
                let text = payload.downcast_ref::<String>().map(String::as_str);
                let text =
                    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without a text");
                let violations = own(Duration::ZERO, format!("the workload panicked: {text}"));
                return Err(fail(violations, Box::default(), Trace::default()));
            }
        };
        let mut violations = check::all(&report.history);
        let Report { seed, value, trace, history, simulated, polls } = report;
        let Some(value) = value else {
            let text = format!("the workload came to no end within {PATIENCE:?} of everything being mended");
            violations.extend(own(simulated, text));
            return Err(fail(violations, history, trace));
        };
        let report = Report { seed, value, trace, history, simulated, polls };
        for check in checks {
            if let Err(text) = check(&report) {
                violations.push(Violation::new("check", simulated, text));
            }
        }
        if violations.is_empty() { Ok(report) } else { Err(fail(violations, report.history, report.trace)) }
    }
}

/// What many seeds came to.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Tally {
    /// How many seeds were run.
    pub seeds: u64,
    /// How much time was simulated.
    pub simulated: Duration,
    /// How many operations clients asked for.
    pub calls: u64,
    /// How often which situation was reached, in so many seeds each.
    pub situations: BTreeMap<&'static str, u64>,
    /// How often which kind of trouble came.
    pub troubles: BTreeMap<&'static str, u64>,
    /// How often which fault point was passed.
    pub points_passed: BTreeMap<Point, u64>,
    /// How often something happened there.
    pub points_hit: BTreeMap<Point, u64>,
}

/// Which seeds to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeds(pub Range<u64>);

impl From<Range<u64>> for Seeds {
    fn from(range: Range<u64>) -> Self {
        Self(range)
    }
}

/// `7`, or `0..1000` (without the last).
impl std::str::FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither a seed, as 7, nor a range of seeds, as 0..1000");
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong());
        match text.split_once("..") {
            Some((first, end)) => Ok(Self(number(first)?..number(end)?)),
            None => {
                let seed = number(text)?;
                Ok(Self(seed..seed.saturating_add(1)))
            }
        }
    }
}

/// Runs a trial for each seed, and ends with the first that fails: for a `#[test]`. With `LEASEHOLD_SEEDS=17` in the
/// environment, or `LEASEHOLD_SEEDS=0..10000`, it runs these in their place.
///
/// # Errors
/// The first [`Failure`].
pub fn seeds<T>(
    seeds: impl Into<Seeds>,
    mut trial: impl FnMut(u64) -> Result<Report<T>, Box<Failure>>,
) -> Result<Tally, Box<Failure>> {
    let asked = std::env::var(SEEDS_VARIABLE).ok().and_then(|text| text.parse().ok());
    let Seeds(range) = asked.unwrap_or_else(|| seeds.into());
    let mut tally = Tally::default();
    for seed in range {
        let report = trial(seed)?;
        tally.add(&report.history, report.simulated);
    }
    Ok(tally)
}

impl Tally {
    /// Counts a run.
    pub fn add(&mut self, history: &History, simulated: Duration) {
        self.seeds += 1;
        self.simulated += simulated;
        self.calls += history.calls.len() as u64;
        for situation in check::situations(history) {
            *self.situations.entry(situation).or_default() += 1;
        }
        for disturbance in &history.disturbances {
            *self.troubles.entry(disturbance.label).or_default() += 1;
        }
        for (point, count) in &history.points_passed {
            *self.points_passed.entry(*point).or_default() += count;
        }
        for hit in &history.at_points {
            *self.points_hit.entry(hit.point).or_default() += 1;
        }
    }

    /// Joins another to this one.
    pub fn join(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.simulated += other.simulated;
        self.calls += other.calls;
        for (to, from) in [(&mut self.situations, &other.situations), (&mut self.troubles, &other.troubles)] {
            from.iter().for_each(|(what, count)| *to.entry(what).or_default() += count);
        }
        for (to, from) in
            [(&mut self.points_passed, &other.points_passed), (&mut self.points_hit, &other.points_hit)]
        {
            from.iter().for_each(|(point, count)| *to.entry(*point).or_default() += count);
        }
    }

    /// The situations of the [catalogue](check::SITUATIONS) that no seed reached.
    #[must_use]
    pub fn never_reached(&self) -> Vec<&'static str> {
        check::SITUATIONS
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| !self.situations.contains_key(name))
            .collect()
    }
}
