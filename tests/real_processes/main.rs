//! Real agents, real clients and real trouble, on one clock: each host is a network namespace with a `leasehold agent` on a
//! small file system and a worker process. A network in user space cuts ways one by one, delays, loses, doubles and reorders;
//! processes are stopped and killed; disks run full. Then the checkers of the simulation look at what the workers saw.
//!
//! All agents but one, and the workers, have clocks that are wrong by up to what is declared (1 %), by the seed, some of them
//! at the ends; the times that are written down are the machine's. With `LEASEHOLD_SOAK_PPM=300000`, so 30 % off, what is
//! declared is broken, and has to be found: a slow worker believes beside the next holder.
//!
//! A minute of it in each run of the tests; for longer ones, with a build as fast as it gets:
//! `LEASEHOLD_SOAK_MINUTES=30 cargo test --release --all-features --test real_processes -- --nocapture`.
#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test: it looks from outside, at real time, and panics are how it fails"
)]

mod hosts;
#[path = "../common/namespaces.rs"]
mod namespaces;
mod skewed;
mod switch;
mod worker;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::Path,
    time::{Duration, Instant},
};

use leasehold::{
    Agent, ChangeKind, InProcessNetwork, Mode, Name, Token,
    chaos::{
        Logbook,
        check::{fence, l1, l2, l3, l4, l5, l6, l7, l8, l9, l10},
        history::{Answered, Belief, Call, History, Watcher, Write},
    },
};
use rand::{Rng, RngExt as _, SeedableRng as _, rngs::StdRng};
use rustix::process::Signal;

use crate::{
    hosts::Hosts,
    switch::Way,
    worker::{Line, NAMES, WORKER},
};

const HOSTS: usize = 3;
/// How long there is trouble, and then none, before it is looked what came of it.
const TROUBLE: Duration = Duration::from_secs(35);
/// After everything is mended each name is granted anew within this time: an election, three ttls, and a slow machine.
const GRANTED_WITHIN: Duration = Duration::from_secs(30);

/// Not a test: what the workers are.
#[test]
fn worker() {
    if let Ok(asked) = std::env::var(WORKER) {
        worker::work(&asked);
    }
}

/// Not a test: what the agents are whose clocks are wrong.
#[test]
fn agent() {
    if let Ok(asked) = std::env::var(skewed::AGENT) {
        skewed::serve(&asked);
    }
}

#[test]
fn at_most_one_believes_whatever_happens_to_processes_and_network() {
    let minutes = std::env::var("LEASEHOLD_SOAK_MINUTES").ok().map(|text| text.parse::<f64>().unwrap());
    let seed = std::env::var("LEASEHOLD_SOAK_SEED").ok().map_or(1, |text| text.parse().unwrap());
    let span = Duration::from_secs_f64(minutes.unwrap_or(0.0) * 60.0);
    let mut hosts = match Hosts::start(HOSTS, seed) {
        Ok(hosts) => hosts,
        Err(why) => {
            // Past the test harness, which shows what a test prints only when it fails.
            let text = format!(
                "\n*** SKIPPED: real processes under real faults were NOT tested: {why}; it needs root, ip of iproute2, and /dev/net/tun ***\n"
            );
            let _ = io::stderr().write_all(text.as_bytes());
            return;
        }
    };
    let mut chance = StdRng::seed_from_u64(seed);
    hosts.wait_settled();
    for host in 0..HOSTS {
        hosts.start_worker(host, chance.random());
    }
    println!("agents' and workers' clocks, in millionths off: {:?}", hosts.rates());
    let began = Instant::now();
    let mut troubles = Troubles::default();
    loop {
        troubles.trouble(&mut hosts, &mut chance);
        troubles.mend(&mut hosts, &mut chance);
        let mended = worker::now();
        wait_granted(&hosts, mended);
        let history = gather(hosts.dir.path());
        let found = broken(&history);
        let (passed, lost) = hosts.switch.counted();
        println!(
            "{:4.0} s, seed {seed}: {} grants, {} beliefs, {} writes let in, {} entries; {passed} packets passed, {lost} vanished; {:?}",
            began.elapsed().as_secs_f64(),
            history.calls.len(),
            history.beliefs.len(),
            history.writes.len(),
            history.log.len(),
            troubles.counts,
        );
        assert!(found.is_empty(), "LEASEHOLD_SOAK_SEED={seed}: {found:#?}");
        assert!(history.calls.len() > 20 && !history.writes.is_empty(), "too little happened");
        assert!(
            history.log.len() > 20 && history.watchers.iter().any(|watcher| watcher.told.len() > 20),
            "too little was told"
        );
        if began.elapsed() >= span {
            break;
        }
    }
}

/// Something that goes on for a while, and how it is undone.
enum Undo {
    Ways,
    Resume(usize, bool),
    Start(usize, bool),
    Empty(usize),
}

#[derive(Default)]
struct Troubles {
    counts: BTreeMap<&'static str, u64>,
}

impl Troubles {
    /// One thing after another, and some at once.
    fn trouble(&mut self, hosts: &mut Hosts, chance: &mut StdRng) {
        let end = Instant::now() + TROUBLE;
        let mut undo: Vec<(Instant, Undo)> = Vec::new();
        let mut next = Instant::now();
        while Instant::now() < end {
            let now = Instant::now();
            let (due, later) = undo.into_iter().partition(|(at, _)| *at <= now);
            undo = later;
            for (_, what) in due {
                carry_out(hosts, what, chance);
            }
            self.restart_what_stepped_down(hosts);
            if now >= next {
                let lasts = Duration::from_millis(chance.random_range(50..6_000));
                let (label, what) = begin(hosts, chance);
                *self.counts.entry(label).or_default() += 1;
                undo.push((now + lasts, what));
                next = now + Duration::from_millis(chance.random_range(200..2_500));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        for (_, what) in undo {
            carry_out(hosts, what, chance);
        }
    }

    /// An agent whose storage failed has stepped down: it is started again, as a service manager would.
    fn restart_what_stepped_down(&mut self, hosts: &mut Hosts) {
        for host in 0..hosts.count() {
            match hosts.agent_ended(host) {
                None => {}
                // Its disk was full when it was started, or while it ran.
                Some(Some(1 | 74)) => {
                    *self.counts.entry("stepped down").or_default() += 1;
                    hosts.start_agent(host);
                    std::thread::sleep(Duration::from_millis(100));
                }
                Some(code) => panic!("agent {host} ended with {code:?}:\n{}", hosts.last_words()),
            }
        }
    }

    fn mend(&mut self, hosts: &mut Hosts, chance: &mut StdRng) {
        hosts.switch.set(Way::default(), |_, _| true);
        for host in 0..hosts.count() {
            hosts.fill_disk(host, false);
            for is_agent in [true, false] {
                carry_out(hosts, Undo::Resume(host, is_agent), chance);
                carry_out(hosts, Undo::Start(host, is_agent), chance);
            }
        }
        // Those that stepped down a moment ago.
        std::thread::sleep(Duration::from_millis(500));
        self.restart_what_stepped_down(hosts);
    }
}

fn begin(hosts: &mut Hosts, chance: &mut StdRng) -> (&'static str, Undo) {
    let host = chance.random_range(0..hosts.count());
    let other = (host + chance.random_range(1..hosts.count())) % hosts.count();
    let cut = Way { is_cut: true, ..Way::default() };
    match chance.random_range(0..12) {
        0 => {
            hosts.switch.set(cut, |from, to| from == host || to == host);
            ("isolated", Undo::Ways)
        }
        1 => {
            hosts.switch.set(cut, |from, _| from == host);
            ("heard by nobody", Undo::Ways)
        }
        2 => {
            hosts.switch.set(cut, |_, to| to == host);
            ("hears nobody", Undo::Ways)
        }
        3 => {
            hosts.switch.set(cut, |from, to| (from, to) == (host, other));
            ("one way cut", Undo::Ways)
        }
        4 | 5 => {
            let way = Way {
                loss: chance.random_range(0.0..0.3),
                duplication: chance.random_range(0.0..0.2),
                delay_max: Duration::from_millis(chance.random_range(0..60)),
                is_cut: false,
            };
            hosts.switch.set(way, |_, _| true);
            ("bad network", Undo::Ways)
        }
        6 => {
            hosts.signal(host, true, Signal::STOP);
            ("agent stopped", Undo::Resume(host, true))
        }
        7 | 8 => {
            hosts.signal(host, false, Signal::STOP);
            ("worker stopped", Undo::Resume(host, false))
        }
        9 => {
            hosts.kill(host, true);
            ("agent killed", Undo::Start(host, true))
        }
        10 => {
            hosts.kill(host, false);
            ("worker killed", Undo::Start(host, false))
        }
        _ => {
            hosts.fill_disk(host, true);
            // What its store has set aside would last for long: it has to open it anew.
            if chance.random_bool(0.7) {
                hosts.kill(host, true);
                hosts.start_agent(host);
            }
            ("full disk", Undo::Empty(host))
        }
    }
}

fn carry_out(hosts: &mut Hosts, undo: Undo, chance: &mut impl Rng) {
    match undo {
        Undo::Ways => hosts.switch.set(Way::default(), |_, _| true),
        Undo::Resume(host, is_agent) => hosts.signal(host, is_agent, Signal::CONT),
        Undo::Start(host, is_agent) => {
            if hosts.has(host, is_agent) {
                return;
            }
            if is_agent {
                hosts.start_agent(host);
            } else {
                hosts.start_worker(host, chance.random());
            }
        }
        Undo::Empty(host) => hosts.fill_disk(host, false),
    }
}

/// What the workers wrote, by worker.
fn lines(dir: &Path) -> Vec<(usize, Vec<Line>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(host) = name.strip_prefix("worker-").filter(|rest| rest.ends_with(".log")) else { continue };
        let host = host.split('-').next().unwrap().parse().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        // The last line may be half a line.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let parsed = whole.lines().map(|line| Line::parse(line).unwrap_or_else(|| panic!("{line:?}")));
        all.push((host, parsed.collect()));
    }
    all
}

/// What the workers saw, and the agents applied, as the checkers want it.
fn gather(dir: &Path) -> History {
    // What the workers saw was applied before.
    let seen = lines(dir);
    let logbooks = (0..HOSTS - 1).map(|host| skewed::logbook(dir, host));
    let mut history = put_together(History::of_logbooks(logbooks).unwrap(), seen);
    for text in NAMES {
        let name = Name::new(text).unwrap();
        let let_in = fs::read_to_string(worker::resource(dir, text)).unwrap_or_default();
        for (at, line) in let_in.lines().enumerate() {
            let token = Token::new(line.parse().unwrap());
            history.writes.push(Write::new(Duration::from_nanos(at as u64), 0, name.clone(), token, true));
        }
    }
    history
}

/// One agent writes no logbook, and may have been the first to apply an entry: so that this is known by the others, by watchers
/// and by those who were granted something together, and may be earlier all the same.
fn put_together(mut history: History, seen: Vec<(usize, Vec<Line>)>) -> History {
    let changes = history.log.values_mut().flat_map(|entry| &mut entry.changes);
    changes.for_each(|changed| worker::without_ttl(&mut changed.change));
    let grants = grants(&history);
    let mut held: BTreeMap<(String, u64), (usize, u64, u64)> = BTreeMap::new();
    let nanos = Duration::from_nanos;
    for (host, lines) in seen {
        let mut watcher = Watcher::default();
        for line in lines {
            match line {
                Line::Granted(began, ended, name, token) => {
                    let (name, token, span) =
                        (Name::new(&*name).unwrap(), Token::new(token), (nanos(began), nanos(ended)));
                    if let Some(index) = grants.get(&token) {
                        history.happened_by(*index, span.1);
                    }
                    history.calls.push(Call::granted(host, name, token, span));
                }
                // It believed at some moment of each look: from the end of the first one at the latest, until the beginning
                // of the last at least.
                Line::Held(before, after, name, token) => {
                    let belief = held.entry((name, token)).or_insert((host, after, before));
                    *belief = (host, belief.1.min(after), belief.2.max(before));
                }
                Line::Told(at, change) => {
                    history.happened_by(change.index, nanos(at));
                    watcher.told.push((nanos(at), host, change));
                }
            }
        }
        history.watchers.push(watcher);
    }
    for ((name, token), (host, from, seen)) in held {
        let (name, span) = (Name::new(&*name).unwrap(), (nanos(from), nanos(seen.max(from))));
        history.beliefs.push(Belief::seen(host, name, Token::new(token), Mode::Exclusive, span));
    }
    history.beliefs.sort_by_key(|belief| belief.from);
    history
}

/// The tokens that the log grants, and the entry of each.
fn grants(history: &History) -> BTreeMap<Token, u64> {
    let grants = history.changes().filter_map(|(index, _, changed)| match &changed.change.kind {
        ChangeKind::Granted { token, .. } => Some((*token, index)),
        _ => None,
    });
    grants.collect()
}

/// What the checkers find.
fn broken(history: &History) -> Vec<String> {
    let of_seen = [l1, l2, fence].iter().flat_map(|check| check(history));
    let mut found: Vec<String> = of_seen.map(|found| found.to_string()).collect();
    let mut applied = history.clone();
    if let Some(index) = history.missing() {
        let text =
            format!("\n*** no logbook has entry {index}: from it on the log's rules are NOT checked ***\n");
        let _ = io::stderr().write_all(text.as_bytes());
        applied.log.split_off(&index);
    }
    // What was applied last by the agent that writes no logbook, the others may not have applied yet.
    let last = applied.log.last_key_value().map_or(0, |(index, _)| *index);
    let token = grants(&applied).last_key_value().map(|(token, _)| *token);
    applied.calls.retain(|call| !matches!(call.answer, Answered::Granted(_, of) if Some(of) > token));
    applied.beliefs.retain(|belief| Some(belief.token) <= token);
    applied.watchers.iter_mut().for_each(|watcher| watcher.told.retain(|(_, _, told)| told.index <= last));
    let of_log = [l3, l4, l5, l6, l7, l8, l9, l10].iter().flat_map(|check| check(&applied));
    found.extend(of_log.map(|found| found.to_string()));
    found
}

/// Each name is granted to somebody after this moment.
fn wait_granted(hosts: &Hosts, mended: u64) {
    let began = Instant::now();
    loop {
        let all = lines(hosts.dir.path());
        let granted = |name: &&str| {
            all.iter()
                .flat_map(|(_, lines)| lines)
                .any(|line| matches!(line, Line::Granted(_, at, of, _) if *at > mended && of == name))
        };
        let missing: Vec<&str> = NAMES.into_iter().filter(|name| !granted(name)).collect();
        if missing.is_empty() {
            return;
        }
        assert!(
            began.elapsed() < GRANTED_WITHIN,
            "{missing:?} not granted within {GRANTED_WITHIN:?} of everything being mended:\n{}",
            hosts.last_words()
        );
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// What the checkers say of what an agent applied, and a worker saw and was told; and what of it when it is spoiled.
#[tokio::test]
async fn what_is_seen_and_told_is_checked_against_what_is_applied() {
    let folder = tempfile::tempdir().unwrap();
    let path = skewed::logbook(folder.path(), 0);
    let builder = Agent::builder("one").listen("one:7101").founders(["one:7101"]);
    let builder = builder.network(&InProcessNetwork::new(1));
    let agent = Logbook::append_to(&path).unwrap().keep(builder).start().await.unwrap();
    let mut watch = agent.watch_prefix("").unwrap().since(0);
    let asked = worker::now();
    let lease = agent.acquire("orders").await.unwrap();
    let granted = worker::now();
    let (name, token) = (lease.name().to_string(), lease.token().get());
    let [mut one, mut other] = [0, 1].map(|_| Box::pin(agent.lease("orders").queue_behind_own().acquire()));
    for (turn, place) in [(&mut one, 1), (&mut other, 2)] {
        assert!(futures_util::poll!(turn).is_pending());
        while agent.inspect("orders").await.unwrap().waiters_in_all < place {}
    }
    let (before, after) = (worker::now(), worker::now());
    lease.release().await.unwrap();
    one.await.unwrap().release().await.unwrap();
    drop(other.await.unwrap());
    let mut told = Vec::new();
    // Granted; two queued; twice ended and granted to the next.
    while told.len() < 7 {
        let mut change = watch.next().await.unwrap();
        worker::without_ttl(&mut change);
        told.push(Line::Told(worker::now(), change));
    }
    agent.shutdown().await;

    let seen = |until: u64, told_to_the_other: &[Line]| {
        let held = [
            Line::Held(granted, granted, name.clone(), token),
            Line::Held(until, until, name.clone(), token),
        ];
        let granted = Line::Granted(asked, granted, name.clone(), token);
        let one = told.iter().cloned().chain(held).chain([granted]);
        put_together(
            History::of_logbooks([&path]).unwrap(),
            vec![(0, one.collect()), (1, told_to_the_other.to_vec())],
        )
    };
    let rules = |history: &History| {
        let mut rules: Vec<String> =
            broken(history).iter().map(|text| text.split(' ').next().unwrap().to_owned()).collect();
        rules.dedup();
        rules
    };
    assert_eq!(rules(&seen(before, &told)), [] as [&str; 0]);
    assert_eq!(rules(&seen(before, &told[1..])), ["L10"], "a gap at the beginning");
    let mut gap = told.clone();
    gap.remove(4);
    assert_eq!(rules(&seen(before, &gap)), ["L10"], "a gap within an entry");
    assert_eq!(rules(&seen(after + 60_000_000_000, &told)), ["L4", "L5"], "it believes in what has ended");
    let mut nobodys = seen(before, &told);
    let call = (Duration::from_nanos(asked), Duration::from_nanos(granted));
    nobodys.calls.push(Call::granted(1, Name::new("orders").unwrap(), Token::new(token - 1), call));
    assert_eq!(rules(&nobodys), ["L3", "L9"], "no entry granted it");

    // The second that waits had come first.
    let text = fs::read_to_string(&path).unwrap();
    let lease = |line: &str| line.split("\"lease\":").nth(1).unwrap().split(',').next().unwrap().to_owned();
    let queued: Vec<&str> = text.lines().filter(|line| line.contains("Queued")).collect();
    let swapped = [0, 1].map(|at| queued[at].replace(&lease(queued[at]), &lease(queued[1 - at])));
    let text = text.replace(queued[0], &swapped[0]).replace(queued[1], &swapped[1]);
    fs::write(&path, text).unwrap();
    assert_eq!(rules(&seen(before, &told)), ["L6"], "who comes first");
}
