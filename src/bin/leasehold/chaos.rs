//! `chaos`: simulated clusters under faults, seed by seed; replaying one, and shrinking what it takes to fail.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use leasehold::{
    Clock as _, SystemClock,
    chaos::{Failure, Faults, Report, Seeds, Tally, picture, shrink, workload},
};

use crate::{
    exit::Failed,
    output::{self, Table},
};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What stands for no faults at all, where some are named.
const NO_FAULTS: &str = "none";

#[derive(Args)]
pub(crate) struct ChaosArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Run many seeds, and end with the first that breaks a rule
    Run(RunArgs),
    /// Run one seed again, the same to the bit, and tell what went wrong around it
    Replay(ReplayArgs),
    /// Run one seed again, and write a picture of it: one HTML file
    Report(ReportArgs),
    /// Find the few faults that a failing seed takes
    Shrink(OfSeedArgs),
}

#[derive(Args)]
struct SettingArgs {
    /// How many agents each cluster has
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=9), value_name = "N")]
    agents: u8,
    /// What goes wrong
    #[arg(long, value_enum, default_value_t = Kind::Swarm)]
    faults: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Everything within what the rules assume
    Swarm,
    /// Clocks that break what leases assume of them as well: then only fencing must hold
    BeyondDrift,
    /// Nothing
    None,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    setting: SettingArgs,
    /// Which seeds: one, or a range without its last
    #[arg(long, default_value = "0..100", value_parser = seeds, value_name = "SEEDS")]
    seeds: Seeds,
    /// For how many minutes, from the first of the seeds on, whatever the last is
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<u64>,
}

#[derive(Args)]
struct OfSeedArgs {
    #[command(flatten)]
    setting: SettingArgs,
    /// The seed
    seed: u64,
}

#[derive(Args)]
struct ReportArgs {
    #[command(flatten)]
    of: OfSeedArgs,
    /// Only these faults of its schedule, by their numbers, separated by commas; or "none"
    #[arg(long, value_name = "NUMBER,…")]
    only: Option<Only>,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Args)]
struct ReplayArgs {
    #[command(flatten)]
    of: OfSeedArgs,
    /// Only these faults of its schedule, by their numbers, separated by commas; or "none"
    #[arg(long, value_name = "NUMBER,…")]
    only: Option<Only>,
    /// Print everything that happened
    #[arg(long)]
    trace: bool,
}

/// Some faults of a schedule, by their numbers.
#[derive(Clone)]
struct Only(Vec<usize>);

impl FromStr for Only {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == NO_FAULTS {
            return Ok(Self(Vec::new()));
        }
        let number = |number: &str| {
            let wrong =
                |_| format!("{number:?} is no number of a fault; give some, as 3,17, or {NO_FAULTS:?}");
            number.trim().parse().map_err(wrong)
        };
        text.split(',').map(number).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Only {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(if numbers.is_empty() { NO_FAULTS } else { "" })?;
        f.write_str(&numbers.join(","))
    }
}

/// The line that runs a seed again.
fn replay_line(setting: &SettingArgs, seed: u64, only: Option<&Only>) -> String {
    let only = only.map(|only| format!(" --only {only}")).unwrap_or_default();
    format!("leasehold chaos replay {seed} {}{only}", setting.flags())
}

fn seeds(text: &str) -> Result<Seeds, String> {
    text.parse()
}

impl SettingArgs {
    fn faults(&self, only: Option<&Only>) -> Faults {
        let faults = match self.faults {
            Kind::Swarm => Faults::swarm(),
            Kind::BeyondDrift => Faults::beyond_the_drift_bound(),
            Kind::None => Faults::none(),
        };
        match only {
            Some(Only(numbers)) => faults.only(numbers.iter().copied()),
            None => faults,
        }
    }

    fn run(&self, seed: u64, faults: Faults) -> Result<Report<()>, Box<Failure>> {
        workload::cluster(seed, self.agents.into(), faults).workload(workload::leases).run()
    }

    /// The flags that make it again.
    fn flags(&self) -> String {
        let faults = match self.faults {
            Kind::Swarm => "",
            Kind::BeyondDrift => " --faults beyond-drift",
            Kind::None => " --faults none",
        };
        format!("--agents {}{faults}", self.agents)
    }

    fn failed(&self, failure: &Failure, only: Option<&Only>) -> Failed {
        let broken: Vec<String> = failure.violations.iter().take(5).map(ToString::to_string).collect();
        let (seed, line) = (failure.seed, replay_line(self, failure.seed, only));
        Failed::new(format!("seed {seed} fails:\n  {}\nreplay it: {line}", broken.join("\n  ")))
    }
}

/// Blocks: a simulation takes one core, and waits for nothing.
pub(crate) fn chaos(args: &ChaosArgs) -> Result<(), Failed> {
    match &args.what {
        What::Run(args) => run(args),
        What::Replay(args) => replay(args),
        What::Report(args) => report(args),
        What::Shrink(args) => shrunk(args),
    }
}

fn run(args: &RunArgs) -> Result<(), Failed> {
    let Seeds(range) = args.seeds.clone();
    let (began, mut told) = (SystemClock.now(), SystemClock.now());
    let most = args.minutes.map(|minutes| Duration::from_secs(minutes.saturating_mul(60)));
    let end = if most.is_some() { u64::MAX } else { range.end };
    let mut tally = Tally::default();
    for seed in range.start..end {
        let ran = args.setting.run(seed, args.setting.faults(None));
        let report = ran.map_err(|failure| args.setting.failed(&failure, None))?;
        tally.add(&report.history, report.simulated);
        let now = SystemClock.now();
        if most.is_some_and(|most| now.since(began) >= most) {
            break;
        }
        if now.since(told) >= TELL_EVERY {
            told = now;
            crate::exit::tell(&format!("{} seeds, up to {seed}, no rule broken", tally.seeds));
        }
    }
    let took = SystemClock.now().since(began);
    let speed = tally.simulated.as_secs_f64() / took.as_secs_f64().max(0.001);
    output::line(&format!(
        "{} seeds, {:.0} simulated seconds ({speed:.0} in one), {} operations of clients: no rule broken",
        tally.seeds,
        tally.simulated.as_secs_f64(),
        tally.calls
    ))?;
    let mut table = Table::new(&["FAULT", "TIMES"]);
    tally.troubles.iter().for_each(|(what, count)| table.row([(*what).to_owned(), count.to_string()]));
    table.print()?;
    let mut table = Table::new(&["FAULT POINT", "PASSED", "HIT"]);
    for (point, passed) in &tally.points_passed {
        let hit = tally.points_hit.get(point).copied().unwrap_or_default();
        table.row([point.to_string(), passed.to_string(), hit.to_string()]);
    }
    table.print()?;
    let mut table = Table::new(&["SITUATION", "SEEDS"]);
    tally.situations.iter().for_each(|(what, count)| table.row([(*what).to_owned(), count.to_string()]));
    table.print()?;
    for never in tally.never_reached() {
        output::line(&format!("never reached: {never}"))?;
    }
    Ok(())
}

fn replay(args: &ReplayArgs) -> Result<(), Failed> {
    let OfSeedArgs { setting, seed } = &args.of;
    let ran = setting.run(*seed, setting.faults(args.only.as_ref()));
    let (history, trace) = match &ran {
        Ok(report) => (&report.history, &report.trace),
        Err(failure) => (&failure.history, &failure.trace),
    };
    if args.trace {
        output::line(&trace.to_string())?;
    }
    for disturbance in &history.disturbances {
        output::line(&disturbance.to_string())?;
    }
    for hit in &history.at_points {
        output::line(&hit.to_string())?;
    }
    output::line(&format!("{} events, digest {:016x}", trace.count, trace.hash))?;
    ran.map_err(|failure| setting.failed(&failure, args.only.as_ref()))?;
    output::line("no rule broken")
}

fn report(args: &ReportArgs) -> Result<(), Failed> {
    let OfSeedArgs { setting, seed } = &args.of;
    let line = replay_line(setting, *seed, args.only.as_ref());
    let page = match setting.run(*seed, setting.faults(args.only.as_ref())) {
        Ok(report) => picture(&report.history, &[], &line),
        Err(failure) => picture(&failure.history, &failure.violations, &line),
    };
    std::fs::write(&args.out, page)
        .map_err(|error| Failed::new(format!("{} can't be written: {error}", args.out.display())))?;
    output::line(&format!("wrote {}", args.out.display()))?;
    Ok(())
}

fn shrunk(args: &OfSeedArgs) -> Result<(), Failed> {
    let OfSeedArgs { setting, seed } = args;
    let Err(failure) = setting.run(*seed, setting.faults(None)) else {
        output::line(&format!("seed {seed} breaks no rule: there is nothing to shrink"))?;
        return Ok(());
    };
    let mut runs = 0;
    let episodes = shrink(&failure, |only| {
        runs += 1;
        setting.run(*seed, setting.faults(Some(&Only(only.to_vec())))).map(drop)
    });
    output::line(&format!(
        "of {} faults it takes {} ({runs} runs):",
        failure.schedule.len(),
        episodes.len()
    ))?;
    for (number, episode) in failure.schedule.iter().filter(|(number, _)| episodes.contains(number)) {
        output::line(&format!("#{number:<3} {episode}"))?;
    }
    output::line(&format!("replay it: {}", replay_line(setting, *seed, Some(&Only(episodes)))))?;
    Ok(())
}
